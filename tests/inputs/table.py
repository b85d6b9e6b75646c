"""The documentation's table of inputs, computed: `python tests/inputs/table.py` remakes it."""

import functools
import importlib
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "inputs.md"
PACKAGES = ("information", "optim", "memory")
HEAD = """# Inputs

What public functions make of inputs that are not sound. Every argument of every public function of
`nestax.information`, `nestax.optim` and `nestax.memory` is replaced by the inputs of its kind
(`tests/inputs/kinds.py`), one at a time, as a user calls them: without type checks, outside `jit`.
There are three outcomes and no fourth:

* **right**: the result is that of the same values otherwise held (a list, a numpy scalar,
  bfloat16), or a number that is not finite reaches the result;
* **refused**: `ValueError` or `TypeError` that begins with the function and names the argument;
* a fault (a raw error, a result for what has no meaning) fails the test.

The tables are computed; `python tests/inputs/table.py` remakes this page.
"""


@functools.cache
def calls(package):
    """The sound calls of a package's functions."""
    return importlib.import_module(f"inputs.calls_{package}").calls()


def of(outcomes):
    """Rows of a table: for each argument how many inputs were refused, and which were right."""
    groups = {}
    for one in outcomes:
        groups.setdefault((one.call, one.argument.strip(", ")), []).append(one)
    rows = ["| function | argument | refused | right |", "| --- | --- | --- | --- |"]
    for (call, argument), group in groups.items():
        right = [one.case for one in group if one.verdict == "right"]
        refused = sum(one.verdict == "refused" for one in group)
        faults = len(group) - refused - len(right)
        shown = "; ".join(right) + (f"; faults: {faults}" if faults else "")
        rows.append(f"| `{call}` | `{argument}` | {refused} | {shown} |".replace("|  |", "| |"))
    return rows


def recorded(package):
    """The rows that the documentation has."""
    text = PAGE.read_text().split(f"\n## `nestax.{package}`\n")[1].split("\n## ")[0]
    return [line for line in text.splitlines() if line.startswith("|")]


def remake(packages):
    """Computes the tables of some packages anew, and keeps the others."""
    from inputs.judge import judge_all

    page = HEAD
    for package in PACKAGES:
        if package in packages:
            outcomes = judge_all(calls(package))
            rows = of(outcomes)
            faults = sum(one.verdict == "fault" for one in outcomes)
            print(f"{package}: {len(outcomes)} inputs, {faults} faults")
        else:
            rows = recorded(package)
        page += f"\n## `nestax.{package}`\n\n" + "\n".join(rows) + "\n"
    PAGE.write_text(page)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    remake(sys.argv[1:] or PACKAGES)
