"""Runs the Python snippets of Markdown files, each in a process of its own; what a comment says is
printed must be printed.

    python tests/readme.py README.md docs/guides/optimizers.md

A line `print(...)  # 1.25` must print 1.25; only comments on print lines are compared. On a page
that says so in a comment every snippet goes on from the first. A page that says it needs a package
is left out where that package is not installed.
"""

import importlib.util
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_ONWARD = "<!-- every snippet goes on from the first -->"
_NEEDS = re.compile(r"<!-- needs (\w+) -->")
_PRINTED = re.compile(r"^\s*print\(.*\)\s+# (.+)$", re.MULTILINE)


def snippets_of(path: Path) -> list[str]:
    """The programs of a page; none where a package that it needs is not installed."""
    text = path.read_text()
    for package in _NEEDS.findall(text):
        if importlib.util.find_spec(package) is None:
            print(f"{path} left out: it needs {package}")
            return []
    snippets = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    if not snippets:
        raise SystemExit(f"{path} has no Python snippet")
    if _ONWARD in text:
        snippets[1:] = [snippets[0] + snippet for snippet in snippets[1:]]
    return snippets


def passed(name: str, code: str) -> bool:
    """Runs one program; reports whether it ended well and printed what its comments say."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    expected, printed = _PRINTED.findall(code), done.stdout.splitlines()
    ok = done.returncode == 0 and (not expected or printed == expected)
    report = [f"{name}: {'passed' if ok else 'FAILED'}"]
    if not ok:
        report += [done.stderr, f"expected {expected}", f"printed  {printed}"]
    print("\n".join(report), flush=True)
    return ok


def main(paths: list[Path]) -> int:
    """Runs every snippet, as many at once as there are cores; returns how many failed."""
    programs = [
        (f"{path} snippet {number}", code)
        for path in paths
        for number, code in enumerate(snippets_of(path), 1)
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return sum(not ok for ok in pool.map(lambda program: passed(*program), programs))


if __name__ == "__main__":
    sys.exit(main([Path(name) for name in sys.argv[1:]]) > 0)
