"""Every public function, with every argument wrong in every way: right, or an error that names it.

`docs/inputs.md` has the table of what was tried; remake it by `python tests/inputs/table.py`.
"""

import importlib

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from inputs import judge, table
from inputs.kinds import Case, number

PACKAGES = ("information", "optim", "memory")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_function_is_called(package):
    """A new function, or a new argument of one, is refused here until it has a sound call."""
    public = importlib.import_module(f"nestax.{package}")
    wanted = {
        name: value
        for name, value in vars(public).items()
        if not name.startswith("_") and judge.is_function(value)
    }
    calls = table.calls(package)
    named = {call.name.split(".")[0] for call in calls}
    assert named == set(wanted)
    for name, function in wanted.items():
        varied = {a for call in calls if call.name.split(".")[0] == name for a in call.kinds}
        if name != "Block":  # made by `make_block`
            assert set(judge.arguments(function)) <= varied
        if isinstance(function, type) and issubclass(function, eqx.Module):
            assert set(judge.arguments(function.__call__)) <= varied


@pytest.mark.parametrize("part", ["information", "optim", "memory, functions", "memory, models"])
def test_inputs_give_the_right_result_or_an_error_that_names_the_argument(part):
    package = part.split(",")[0]
    calls = table.calls(package)
    names = {f"`{package}.{call.name}`" for call in calls}
    if part != package:  # in two parts, for two workers
        models = ("make_block", "generate", "learn_in_context", "stack_levels")
        model = [call.name[0].isupper() or call.name in models for call in calls]
        calls = [c for c, m in zip(calls, model, strict=True) if m == part.endswith("models")]
    outcomes = judge.judge_all(calls)
    faults = [one for one in outcomes if one.verdict == "fault"]
    assert not faults, "\n".join(
        f"{one.call}({one.argument} = {one.case}): {one.said:.200}" for one in faults
    )
    rows = {row for row in table.recorded(package) if row.split()[1].startswith("`")}
    mine = {f"`{package}.{call.name}`" for call in calls}
    found = set(table.of(outcomes)[2:])
    known = {row for row in rows if row.split()[1] in mine or row.split()[1] not in names}
    assert known == found, (
        "docs/inputs.md is out of date; remake it by `python tests/inputs/table.py`"
    )


def test_the_judge_finds_faults():
    """Of a function that checks nothing, or blames another argument, each kind of fault."""

    def blames(value):
        if not isinstance(value, float) or not 0 <= value <= 1:
            raise ValueError("blames: another must be from 0 to 1")
        return jnp.ones(2) * value

    def verdicts(run, *cases):
        call = judge.Call("optim", run.__name__, run, {"value": number(0, 1)}, {"value": 0.5})
        return [judge.judge(call, "value", case).verdict for case in cases]

    def careless(value):
        return jnp.asarray(value, float) * jnp.ones(2)

    def constant(value):
        return jnp.zeros(2)

    def worded(value):
        if not isinstance(value, float):
            raise TypeError(f"worded: value must be a float, got {value!r}")
        return jnp.sqrt(value)

    refuse, string = Case("below", -1.0), Case("string", "a")
    spread, same = Case("NaN", np.nan, "spread"), Case("numpy", np.float32(0.5), "same", 0.5)
    half = Case("another", 0.25, "same", 0.5)
    assert verdicts(careless, refuse, string, spread, same, half) == [
        "fault", "fault", "right", "right", "fault",
    ]  # fmt: skip
    assert verdicts(blames, refuse, string) == ["fault", "fault"]
    assert verdicts(constant, spread, Case("runs", 2.0, "runs")) == ["fault", "right"]
    assert verdicts(worded, string, Case("runs", -1.0, "runs")) == ["refused", "fault"]


def test_functions_are_judged_as_users_call_them():
    """Whom no beartype helps: what it would refuse in a test must be refused without it."""

    def seen(value):
        config = jaxtyping.config.jaxtyping_disable, jax.config.jax_numpy_rank_promotion
        return jnp.asarray(value if config == (True, "allow") else np.nan)

    call = judge.Call("optim", "seen", seen, {"value": lambda _: [Case("a", 1.0, "runs")]}, {})
    assert [one.verdict for one in judge.judge_all([call])] == ["right"]
    assert not np.isfinite(call.result("value", 1.0)[0])
