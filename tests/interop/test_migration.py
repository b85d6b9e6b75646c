"""The migration page: a program of theirs and one of ours for each section, with one number."""

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "interop" / "migration.md").read_text()
LIBRARIES = ("TorchOpt", "higher", "learn2learn", "Betty", "JAXopt")


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# The benchmark imports its neighbours by their bare names.
for neighbour in ("peers", "race", "migration_reference"):
    load(neighbour)
BENCHMARK = load("migration")
BEGINNINGS, PAIRS = BENCHMARK.read(TEXT)


def test_every_library_has_pairs_and_a_list_of_differences():
    sections = re.split(r"^## ", TEXT, flags=re.MULTILINE)[2:]
    assert [section.splitlines()[0] for section in sections] == list(LIBRARIES)
    for name, section in zip(LIBRARIES, sections, strict=True):
        assert f"### Differences from {name}\n" in section
        assert re.search(rf"^\| {name} [\d.]+ \| nestax \|$", section, re.MULTILINE)
    count = [sum(pair.peer == name for pair in PAIRS) for name in LIBRARIES]
    assert count == [3, 1, 1, 1, 3]


def test_both_programs_of_a_pair_state_one_number():
    for pair in PAIRS:
        theirs, ours = pair.stated
        assert theirs == ours, pair.name
        assert len([line for line in pair.ours.splitlines() if line.strip()]) <= 15, pair.name


def test_the_stated_numbers_are_those_of_numpy():
    exact = BENCHMARK.references()
    for pair in PAIRS:
        stated = pair.stated[0].split()
        decimals = [len(number.partition(".")[2]) for number in stated]
        rounded = [round(n, d) for n, d in zip(exact[pair.name], decimals, strict=True)]
        np.testing.assert_allclose(rounded, [float(n) for n in stated], rtol=0, atol=1e-8)


def test_every_variant_is_a_change_of_both_programs_with_a_reference():
    names = [pair.name for pair in BENCHMARK.variants(PAIRS)]
    assert len(names) == len(PAIRS) + len(BENCHMARK.VARIANTS)
    assert set(names) == set(BENCHMARK.references())
