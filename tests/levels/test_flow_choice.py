"""The documentation's tables for choosing a flow: their errors are computed anew."""

import importlib.util
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "benchmarks" / "flows.py"
spec = importlib.util.spec_from_file_location("flows_benchmark", PATH)
assert spec is not None and spec.loader is not None
benchmark = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = benchmark
spec.loader.exec_module(benchmark)


@pytest.mark.parametrize("name", benchmark.PROBLEMS)
def test_the_errors_are_those_of_the_page(threefry, name):
    recorded, measured = benchmark.recorded(name), benchmark.measured(name)
    assert [row.flow for row in measured] == [flow for flow, _, _ in recorded]
    for row, (flow, error, spread) in zip(measured, recorded, strict=True):
        assert row.error == pytest.approx(error, rel=0.05, abs=benchmark.RIGHT), flow
        assert (row.spread is None) == (spread is None), flow
        if spread is not None:
            assert row.spread == pytest.approx(spread, rel=0.05), flow
