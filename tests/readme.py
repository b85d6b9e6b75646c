"""Runs the Python snippets of Markdown files, each in a process of its own; what a comment says is
printed must be printed.

    python tests/readme.py [--figures FOLDER] README.md docs/guides/optimizers.md

A line `print(...)  # 1.25` must print 1.25; only comments on print lines are compared. After `# ≈`
numbers may be 5 % off: what many steps of training end with differs a little among processors.
Where there is one comment and many lines are printed, it has them all, separated by commas. On a
page that says so in a comment every snippet goes on from the first, or all are one program. A page
that says it needs a package is left out where that package is not installed. Programs run in a
folder of their own; figures they save there must be those that the documentation shows, and
--figures copies them to a folder.
"""

import argparse
import ast
import importlib.util
import io
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tokenize
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_ONWARD = "<!-- every snippet goes on from the first -->"
_ONE = "<!-- the snippets of this page are one program -->"
_NEEDS = re.compile(r"<!-- needs (\w+) -->")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")
_FIGURES = Path(__file__).parents[1] / "docs" / "figures"
_PRINTED = re.compile(r"^\s*print\(.*\)\s+# (.+)$", re.MULTILINE)


def snippets_of(path: Path) -> list[str]:
    """The programs of a page; none where a package that it needs is not installed."""
    text = path.read_text()
    for package in _NEEDS.findall(text):
        if importlib.util.find_spec(package) is None:
            print(f"{path} left out: it needs {package}")
            return []
    for fence in re.findall(r"^.*(?:```|~~~) *python.*$", text, re.MULTILINE):
        if fence != "```python":
            raise SystemExit(f"{path}: {fence!r} would not be run; write ```python alone on a line")
    snippets = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    if not snippets:
        raise SystemExit(f"{path} has no Python snippet")
    if _ONE in text:
        return ["\n".join(snippets)]
    if _ONWARD in text:
        snippets[1:] = [snippets[0] + snippet for snippet in snippets[1:]]
    return snippets


def close(said: str, found: str) -> bool:
    """Whether a line is what a comment says, to 5 % where the comment begins with ≈."""
    if not said.startswith("≈"):
        return said == found
    said = said.removeprefix("≈").strip()
    return _NUMBER.sub("#", said) == _NUMBER.sub("#", found) and all(
        math.isclose(float(a), float(b), rel_tol=0.05)
        for a, b in zip(_NUMBER.findall(said), _NUMBER.findall(found), strict=True)
    )


def agrees(expected: list[str], printed: list[str]) -> bool:
    """Whether a program printed what its comments say."""
    if len(expected) == 1:
        return close(expected[0], ", ".join(printed))
    return not expected or (len(expected) == len(printed) and all(map(close, expected, printed)))


def unread(code: str) -> list[str]:
    """Lines that end a print and say something, but not as `print(...)  # 1.25` alone on a line."""
    lines = code.splitlines()
    said = {
        token.start[0]
        for token in tokenize.generate_tokens(io.StringIO(code).readline)
        if token.type == tokenize.COMMENT
    }
    ends = {
        node.end_lineno
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    }
    return [lines[end - 1] for end in sorted(said & ends) if not _PRINTED.match(lines[end - 1])]


def passed(name: str, code: str, figures: Path | None) -> bool:
    """Runs one program; reports whether it ended well, printed and drew what the page says."""
    if lines := unread(code):
        print(f"{name}: FAILED\nnot compared: {lines}; write print(...)  # 1.25 on one line")
        return False
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            cwd=folder,
            env={**os.environ, "MPLBACKEND": "agg"},
        )
        drawn = sorted(Path(folder).glob("*.png"))
        for figure in drawn if figures else ():
            shutil.copy(figure, figures)
    expected, printed = _PRINTED.findall(code), done.stdout.splitlines()
    unknown = [figure.name for figure in drawn if not (_FIGURES / figure.name).exists()]
    ok = done.returncode == 0 and agrees(expected, printed) and not unknown
    report = [f"{name}: {'passed' if ok else 'FAILED'}"]
    if not ok:
        report += [done.stderr, f"expected {expected}", f"printed  {printed}"]
        report += [f"draws {figure}, which docs/figures does not have" for figure in unknown]
    print("\n".join(report), flush=True)
    return ok


def main(paths: list[Path], figures: Path | None) -> int:
    """Runs every snippet, as many at once as there are cores; returns how many failed."""
    programs = [
        (f"{path} snippet {number}", code)
        for path in paths
        for number, code in enumerate(snippets_of(path), 1)
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return sum(not ok for ok in pool.map(lambda program: passed(*program, figures), programs))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--figures", type=Path)
    parser.add_argument("pages", nargs="+", type=Path)
    options = parser.parse_args()
    sys.exit(main(options.pages, options.figures) > 0)
