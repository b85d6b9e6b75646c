"""The skeletons of docs/guides/extending.md, as they stand there, through the contract tests of
optimizers, flows and memories."""

import inspect
import re
import types
from pathlib import Path

import jax
import pytest
from levels import test_soundness as flows
from memory import test_layers as layers
from optim import test_contract as optimizers

PAGE = (Path(__file__).parents[1] / "docs" / "guides" / "extending.md").read_text()
PROGRAMS = dict(re.findall(r"^## (.+?)\n.*?^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))


def skeleton(title):
    """What a program of the page defines."""
    defined = {}
    exec(PROGRAMS[title], defined)
    return types.SimpleNamespace(**defined)


def contract(module, argument):
    """The tests of a module that are parametrized by something, by name."""
    return {
        name: test
        for name, test in inspect.getmembers(module, inspect.isfunction)
        if name.startswith("test_") and argument in inspect.signature(test).parameters
    }


@pytest.fixture(scope="module")
def optimizer():
    made = skeleton("An optimizer")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(optimizers.OPTIMIZERS, "grokfast", made.grokfast)
        yield optimizers.Optimizer("grokfast")


@pytest.mark.parametrize("name", contract(optimizers, "optimizer"))
def test_the_optimizer_keeps_the_contract(name, optimizer, tmp_path):
    test = getattr(optimizers, name)
    more = {"tmp_path": tmp_path} if "tmp_path" in inspect.signature(test).parameters else {}
    test(optimizer, **more)


def test_the_flow_keeps_the_contract():
    flow = skeleton("A flow").Differences()
    for copies in (None, 2):
        flows.test_gradients_are_those_of_the_executed_program(flow, copies)


@pytest.fixture(scope="module")
def memory():
    made = skeleton("A memory")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(layers.LAYERS, "nlms", (made.NLMS, {}))
        patch.setitem(layers.NAIVE, made.NLMS, made.naive_nlms)
        yield "nlms"


@pytest.mark.parametrize(
    "name", [n for n in contract(layers, "name") if n != "test_devices_can_be_given_heads"]
)
def test_the_memory_keeps_the_contract(name, memory):
    test = getattr(layers, name)
    wide = "x64" in inspect.signature(test).parameters
    with jax.enable_x64(wide):
        test(**{"name": memory} | ({"x64": None} if wide else {}))
