"""A reader who looks for a rule by its number finds the lines that implement it."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
RULES = {
    int(number): title
    for number, title in re.findall(
        r"^## R(\d+) (\S.*)$", (ROOT / "docs/guides/levels.md").read_text(), re.M
    )
}


def cited(folder):
    """Rule by number: where files of a folder cite it."""
    places = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        for at, line in enumerate(path.read_text().splitlines(), 1):
            for number in re.findall(r"R(\d+)", line):
                places.setdefault(int(number), []).append(f"{path.relative_to(ROOT)}:{at}: {line}")
    return places


def test_the_rules_are_stated_in_order():
    assert list(RULES) == list(range(1, 13))


def test_every_number_that_is_cited_is_that_of_a_rule():
    for folder in ("src", "tests"):
        unknown = {n: places for n, places in cited(folder).items() if n not in RULES}
        assert not unknown, unknown


def test_every_rule_is_cited_by_code_that_implements_it():
    assert cited("src/nestax/levels").keys() == RULES.keys()
