"""Runs the Python snippets of Markdown files, each in a process of its own; what a comment says is
printed must be printed.

    python tests/readme.py README.md docs/optimizers.md

A line `print(...)  # 1.25` must print 1.25; only comments on print lines are compared. On a page
that says so in a comment every snippet goes on from the first.
"""

import re
import subprocess
import sys
from pathlib import Path

_ONWARD = "<!-- every snippet goes on from the first -->"
_PRINTED = re.compile(r"^\s*print\(.*\)\s+# (.+)$", re.MULTILINE)


def main(path: Path) -> int:
    """Runs every snippet; returns how many failed."""
    text = path.read_text()
    snippets = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    if not snippets:
        print(f"{path} has no Python snippet")
        return 1
    if _ONWARD in text:
        snippets[1:] = [snippets[0] + snippet for snippet in snippets[1:]]
    failed = 0
    for number, code in enumerate(snippets, 1):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        expected, printed = _PRINTED.findall(code), done.stdout.splitlines()
        ok = done.returncode == 0 and (not expected or printed == expected)
        failed += not ok
        print(f"{path} snippet {number}: {'passed' if ok else 'FAILED'}")
        if not ok:
            print(done.stderr, f"expected {expected}", f"printed  {printed}", sep="\n")
    return failed


if __name__ == "__main__":
    sys.exit(sum(main(Path(name)) for name in sys.argv[1:]) > 0)
