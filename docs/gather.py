"""Lays out the site's pages in build/docs, from where mkdocs.yml has them built.

    python docs/gather.py

Copies docs/ and the pages that are kept elsewhere, so that every link works both in the repository
and on the site: links between pages become links of the site, links to other files of the
repository become addresses. Draws the gallery.
"""

import os
import re
import shutil
from pathlib import Path

import gallery

ROOT = Path(__file__).parents[1]
SITE = ROOT / "build" / "docs"
REPOSITORY = "https://github.com/nestax/nestax/blob/main/"
ELSEWHERE = {
    "README.md": "index.md",
    "benchmarks/RESULTS.md": "results.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
_LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")


def target(link: str, page: Path, place: Path) -> str:
    """Where a relative link leads on the site.

    Args:
        link: as the page has it, without anchor.
        page: the page's file in the repository.
        place: the page's place within the site.

    Raises:
        FileNotFoundError: the link leads nowhere.
    """
    path = (page.parent / link).resolve()
    if path == ROOT / "docs" / "gallery.md":
        return Path(os.path.relpath("gallery.md", place.parent)).as_posix()
    if not path.exists():
        raise FileNotFoundError(f"{page.relative_to(ROOT)} links to {link}, which does not exist")
    kept = path.relative_to(ROOT).as_posix()
    if kept in ELSEWHERE:
        found = ELSEWHERE[kept]
    elif kept.startswith("docs/"):
        found = kept.removeprefix("docs/")
    else:
        return REPOSITORY + kept
    return Path(os.path.relpath(found, place.parent)).as_posix()


def gather() -> None:
    """Writes every page and figure of the site anew."""
    shutil.rmtree(SITE, ignore_errors=True)
    shutil.copytree(ROOT / "docs", SITE, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    gallery.write(SITE)
    places = {path: path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")}
    places |= {ROOT / kept: Path(place) for kept, place in ELSEWHERE.items()}
    for page, place in places.items():
        text = _LINK.sub(
            lambda link, page=page, place=place: (
                f"]({target(link[1], page, place)}{link[2] or ''})"
            ),
            page.read_text(),
        )
        (SITE / place).write_text(text)


if __name__ == "__main__":
    gather()
