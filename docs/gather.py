"""Copies the pages that are kept outside docs/ into it, for the site; git ignores the copies.

    python docs/gather.py

Links are rewritten from where a page is kept to where the site has it. A link to a file that the
site does not have points to the repository.
"""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
REPOSITORY = "https://github.com/nestax/nestax/blob/main/"
PAGES = {
    "benchmarks/RESULTS.md": "docs/results.md",
    "CHANGELOG.md": "docs/changelog.md",
    "CONTRIBUTING.md": "docs/contributing.md",
}
_LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")


def target(link: str, page: Path) -> str:
    """Where a relative link of a page leads, seen from the top of the site.

    Raises:
        FileNotFoundError: the link leads nowhere.
    """
    path = (page.parent / link).resolve()
    if not path.exists():
        raise FileNotFoundError(f"{page.relative_to(ROOT)} links to {link}, which does not exist")
    kept = path.relative_to(ROOT).as_posix()
    if kept in PAGES:
        return PAGES[kept].removeprefix("docs/")
    return kept.removeprefix("docs/") if kept.startswith("docs/") else REPOSITORY + kept


def gather() -> None:
    """Writes every copy that has changed."""
    for kept, copy in PAGES.items():
        page = ROOT / kept
        text = _LINK.sub(
            lambda link, page=page: f"]({target(link[1], page)}{link[2] or ''})", page.read_text()
        )
        if not (ROOT / copy).exists() or (ROOT / copy).read_text() != text:
            (ROOT / copy).write_text(text)


if __name__ == "__main__":
    gather()
