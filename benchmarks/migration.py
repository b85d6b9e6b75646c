"""The programs of docs/interop/migration.md: what each library prints, what ours do, what is true.

    python benchmarks/peers.py --checkout learn2learn=PATH torchopt higher learn2learn betty jaxopt
    python benchmarks/migration.py

Programs are taken from the page. Theirs run in the environments of `peers.py`, ours in this
interpreter, and numpy computes every number once more without any of them
(`migration_reference.py`). Some rows of the page's tables are tried too, as changes of a line in
both programs. Two numbers agree if they differ by one unit of the last decimal printed or less. The
exit status is 1 if one of ours is off, or theirs where the page does not say so.
"""

import argparse
import dataclasses
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import peers
import race
from migration_reference import references
from peers import Environments

PAGE = Path(__file__).parents[1] / "docs" / "interop" / "migration.md"
_PRINTED = re.compile(r"^print\(.*\)  # (.+)$", re.MULTILINE)
_OURS_ONLY = re.compile(r"^import (optax|nestax as nx)\n", re.MULTILINE)
_LEARN2LEARN = "import learn2learn_alone\n"


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two programs that solve one problem, and what the page says that they print.

    Attributes:
        name: heading of its section, after that of the library if it is another one.
        peer: whose program `theirs` is, as the page spells it.
        theirs: the library's program, without the lines that all programs begin with.
        ours: the program with nestax, without those lines.
        known_wrong: whether the page says that the library's number is wrong.
        variant: whether a line of it was changed, so that comments say nothing of it.
    """

    name: str
    peer: str
    theirs: str
    ours: str
    known_wrong: bool = False
    variant: bool = False

    @property
    def stated(self) -> list[str]:
        """What comments say that theirs and then ours prints."""
        programs = () if self.variant else (self.theirs, self.ours)
        return [numbers for code in programs for numbers in _PRINTED.findall(code)]


def read(text: str) -> tuple[dict[str, str], list[Pair]]:
    """The page's first lines of programs, by language ("py" is theirs), and its pairs."""
    beginnings, pairs, library = {}, [], ""
    for section in re.split(r"^(?=##+ )", text, flags=re.MULTILINE):
        level, title = re.match(r"(#+) (.*)", section).groups()  # type: ignore[union-attr]
        library = title if level == "##" else library
        blocks = re.findall(r"^```(py|python)\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
        if not blocks:
            continue
        if [language for language, _ in blocks] != ["py", "python"]:
            raise ValueError(f"{title!r}: one program of theirs and then one of ours was expected")
        if not beginnings:
            beginnings = dict(blocks)
            continue
        name = library if level == "##" else f"{library}: {title}"
        pairs.append(Pair(name, library, blocks[0][1], blocks[1][1]))
    return beginnings, pairs


# (pair, what is tried, change of theirs, change of ours, whether the page says theirs is wrong)
_NEUMANN = 'type="neumann", neumann_iterations=9, neumann_alpha=0.5'
_ROOT = "jax.grad(objective)(w, decay)"
_FIXED = f"custom_fixed_point(lambda w, decay: w - 0.5 * {_ROOT})"
VARIANTS = [
    (
        "TorchOpt: Implicit",
        "Neumann series",
        ("solve_cg(maxiter=5)", "solve_inv(ns=True, maxiter=9, alpha=0.5)"),
        ("nx.CG(5)", "nx.Neumann(10, rate=0.5)"),
        False,
    ),
    ("TorchOpt: Zero-order", 'method="forward"', ('"antithetic"', '"forward"'), ("", ""), True),
    (
        "learn2learn",
        "first order",
        ("lr=0.5", "lr=0.5, first_order=True"),
        ("nx.Unroll()", "nx.Unroll(first_order=True)"),
        False,
    ),
    (
        "Betty",
        'type="cg"',
        (_NEUMANN, 'type="cg", cg_iterations=2'),
        ("nx.Neumann(10, rate=0.5)", "nx.CG(2)"),
        True,
    ),
    (
        "Betty",
        'type="darts"',
        (_NEUMANN, 'type="darts"'),
        ("nx.Neumann(10, rate=0.5)", "nx.Identity(1.0)"),
        False,
    ),
    (
        "JAXopt: A solver of your own",
        "fixed point",
        (
            "custom_root(jax.grad(objective))",
            _FIXED,
        ),
        (f"{_ROOT}, nx.CG()", f"-0.5 * {_ROOT}, nx.GMRES()"),
        False,
    ),
]


def variants(pairs: list[Pair]) -> Iterator[Pair]:
    """The pairs, each followed by those that rows of the page's tables make of it."""

    def changed(code: str, old: str, new: str) -> str:
        if old and code.count(old) != 1:
            raise ValueError(f"{old!r} was expected once in\n{code}")
        return code.replace(old, new) if old else code

    for pair in pairs:
        yield pair
        for name, what, theirs, ours, wrong in VARIANTS:
            if name == pair.name:
                both = changed(pair.theirs, *theirs), changed(pair.ours, *ours)
                yield Pair(f"{name}, {what}", pair.peer, *both, wrong, variant=True)


def run(code: str, peer: str, environments: Environments) -> list[str]:
    """The numbers on the last line that a program prints; RuntimeError with its last words."""
    if peer and (reason := environments.missing(peer)):
        raise RuntimeError(reason)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "program.py"
        file.write_text(code)
        (python, _), environment = environments.command(peer, "")
        own = [environment.get("PYTHONPATH", ""), *([str(peers.WORKERS)] if peer else [])]
        environment["PYTHONPATH"] = ":".join(path for path in own if path)
        command = [python, str(file)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
    lines = (done.stderr if done.returncode else done.stdout).splitlines() or ["no message"]
    if done.returncode:
        raise RuntimeError(lines[-1][:200])
    return lines[-1].split()


def unit(number: str) -> float:
    """One unit of the last decimal, and a little for its rounding."""
    return 1.001 * 10.0 ** -len(number.partition(".")[2])


def agree(one: list[str], other: list[str]) -> bool:
    pairs = zip(one, other, strict=True)
    return all(abs(float(a) - float(b)) <= unit(a) for a, b in pairs)


def verdict(
    pair: Pair, page: str, theirs: list[str], ours: list[str], true: list[str]
) -> tuple[str, bool]:
    """In words, and whether it is as the page has it."""
    if not agree(ours, true):
        return "**ours is off**", False
    if not agree(theirs, true):
        quoted = all(number.replace("-", "\N{MINUS SIGN}") in page for number in theirs)
        known = pair.known_wrong and quoted
        return "theirs is off" + ("" if known else ", **which the page does not say**"), known
    if any(not agree(numbers.split(), true) for numbers in pair.stated):
        return f"agree, **but the page has {pair.stated}**", False
    return "agree", True


def main() -> int:
    parser = argparse.ArgumentParser(description="the programs of the migration page")
    peers.option(parser)
    environments = Environments(parser.parse_args().peers)
    page = PAGE.read_text()
    beginnings, pairs = read(page)
    truth, failed = references(), 0
    race.heading()
    print("| program | theirs | nestax | numpy | verdict |\n" + "| --- " * 5 + "|")
    for pair in variants(pairs):
        begin = beginnings["py"]
        if pair.peer == "JAXopt":
            begin = _OURS_ONLY.sub("", beginnings["python"])
        elif pair.peer == "learn2learn":
            begin = _LEARN2LEARN + begin
        ours = run(beginnings["python"] + pair.ours, "", environments)
        numbers = truth[pair.name]
        true = [f"{n:.{len(o.partition('.')[2])}f}" for n, o in zip(numbers, ours, strict=True)]
        try:
            theirs = run(begin + pair.theirs, pair.peer.lower(), environments)
            said, right = verdict(pair, page, theirs, ours, true)
        except RuntimeError as error:
            theirs, said, right = ["not run"], str(error), False
        failed += not right
        cells = (" ".join(numbers) for numbers in (theirs, ours, true))
        print(f"| {pair.name} | {' | '.join(cells)} | {said} |", flush=True)
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
