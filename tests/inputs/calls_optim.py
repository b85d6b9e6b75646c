"""Sound calls of the optimizers: made, initialized, updated twice."""

import cmath
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from inputs.judge import Call, arguments
from inputs.kinds import (
    INF,
    NAN,
    Case,
    array,
    both,
    choice,
    count,
    counts,
    flag,
    function,
    gradients,
    key,
    number,
    numbers,
    other,
    parameters,
    state,
)

from nestax import optim

_RNG = np.random.default_rng(0)


def _normal(*shape: int) -> jax.Array:
    return jnp.asarray(_RNG.normal(size=shape), jnp.float32)


PARAMS = {"w": jnp.abs(_normal(3, 2)) + 0.5, "b": jnp.abs(_normal(3)) + 0.5}
GRADIENTS = {"w": _normal(3, 2), "b": _normal(3)}
_RATE = number(schedule=True, mirror=True)
_DECAY = number(0, 1)
_AVERAGE = number(0, 1, below=True)
_COEFFICIENTS = both(
    choice(),
    other(
        Case("two numbers", (1.5, -0.5)),
        Case("numbers", (1.5, -0.5, 0.0), "runs"),
        Case("a NaN", (1.5, NAN, 0.0)),
        Case("a string in it", (1.5, "a", 0.0)),
    ),
)
_BETA = both(
    other(
        Case("real", 0.9, "same", 0.9 + 0j),
        Case("pair", (0.9, 0.0), "same", 0.9 + 0j),
        Case("numpy pair", (np.float32(0.9), np.float64(0.0)), "same", 0.9 + 0j),
        Case("numpy complex", np.complex64(0.9), "same", 0.9 + 0j),
        Case("jax complex", jnp.complex64(0.9), "same", 0.9 + 0j),
        Case("longer than 1", 1.1),
        Case("longer than 1, numpy", np.complex64(1.1)),
        Case("longer than 1, jax", jnp.float32(1.1)),
        Case("longer than 1, pair", (1.1, 0.2)),
        Case("negative modulus", (-0.5, 0.2)),
        Case("three numbers", (0.5, 0.2, 0.1)),
        Case("NaN", NAN),
        Case("NaN in a pair", (0.5, NAN)),
        Case("infinite", INF),
        Case("string", "0.9"),
        Case("list", [0.9, 0.1]),
        Case("None", None),
        Case("object", object()),
        Case("array", jnp.ones(2)),
    )
)
_PERIODS = other(
    Case("empty", {}),
    Case("a number", 2),
    Case("a list", [2, 1]),
    Case("None", None),
    Case("period 0", {"w": 0, "": 1}),
    Case("period not whole", {"w": 2.5, "": 1}),
    Case("period NaN", {"w": NAN, "": 1}),
    Case("period a string", {"w": "2", "": 1}),
    Case("period True", {"w": True, "": 1}),
    Case("numpy", {"w": np.int64(2), "": 1}, "same", {"w": 2, "": 1}),
    Case("matching nothing", {"zzz": 2, "": 1}, "runs"),
    Case("matching not all", {"w": 2}),
    Case("no regular expression", {"(": 2, "": 1}),
)
_LABELS = other(
    Case("a tree", {"w": "w", "b": ""}, "same", None),
    Case("a function", lambda path, leaf: "w" if "w" in path else "", "same", None),
    Case("unknown label", {"w": "w", "b": "zzz"}),
    Case("a leaf missing", {"w": "w"}),
    Case("a number", 5),
    Case("object", object()),
)
_OPTIMIZER = other(
    Case("a rate", 0.1, "same", optax.sgd(0.1)),
    Case("a numpy rate", np.float64(0.1), "same", optax.sgd(0.1)),
    Case("one for each", {"w": optax.sgd(0.1), "": 0.1}, "same", optax.sgd(0.1)),
    Case("a label missing", {"w": optax.sgd(0.1)}),
    Case("a NaN rate", NAN),
    Case("a string", "sgd"),
    Case("None", None),
    Case("object", object()),
)
_MIRROR = both(
    choice(optional=True),
    other(
        Case("a pair", (jnp.log, jnp.exp), "runs"),
        Case("three functions", (jnp.log, jnp.exp, jnp.exp)),
        Case("a pair of numbers", (1, 2)),
    ),
)
_KINDS = {
    "learning_rate": _RATE,
    "objective": choice(functions=True),
    "features": function(optional=True),
    "preconditioner": function(optional=True),
    "readout": function(optional=True),
    "output": function(optional=True),
    "decay": _DECAY,
    "inner_learning_rate": number(0),
    "normalize": choice(),
    "block": count(1, optional=True),
    "layout": choice(),
    "memory": choice(),
    "memory_input": choice(),
    "retention": _DECAY,
    "hidden": counts(),
    "shared": flag,
    "skip": flag,
    "literal": flag,
    "nesterov": flag,
    "explicit": flag,
    "per_leaf": flag,
    "average_decay": _AVERAGE,
    "key": key(seed=True),
    "beta": _BETA,
    "beta1": _BETA,
    "beta2": _AVERAGE,
    "eps": number(0),
    "eps_root": number(0),
    "phase": number(),
    "rate": number(0),
    "reduction": choice(),
    "method": choice(),
    "batch_size": count(1),
    "fast": _AVERAGE,
    "slow": _AVERAGE,
    "second": _AVERAGE,
    "slow_weight": number(0),
    "period": count(1),
    "steps": count(0),
    "coefficients": _COEFFICIENTS,
    "periods": _PERIODS,
    "labels": _LABELS,
    "optimizer": _OPTIMIZER,
    "accumulate": choice(),
    "weight_decay": number(0),
    "statistics_decay": _AVERAGE,
    "largest": count(1),
    "mirror": _MIRROR,
    "scale": number(0, above=True),
    "adam_learning_rate": number(schedule=True, optional=True),
    "mask": other(
        Case("a tree", {"w": True, "b": False}, "runs"),
        Case("a function", lambda p: jax.tree.map(lambda a: a.ndim > 1, p), "runs"),
        Case("a leaf missing", {"w": True}),
        Case("strings", {"w": "yes", "b": "no"}),
        Case("number", 5),
        Case("string", "w"),
        Case("object", object()),
    ),
    "axes": other(
        Case("number", 5),
        Case("string", "out"),
        Case("object", object()),
    ),
}
_WORDS = {
    "gradients": "gradients?|updates?",
    "params": "params|parameters?",
    "optimizer": "optimizers?|rate",
    "x": "x|inputs",
    "labels": "labels?",
    "periods": "periods?",
    "inputs": "inputs|errors",
}


def _shapes(tree: Any) -> Any:
    return jax.tree.map(jnp.shape, tree)


def _optimizer(name: str, _also: dict | None = None, _bounded: bool = False, **sound: Any) -> Call:
    make = getattr(optim, name)
    own = arguments(make)

    def run(params: Any, gradients: Any, **given: Any) -> Any:
        tx = make(**given)
        held = tx.init(params)
        if gradients is GRADIENTS and _shapes(params) != _shapes(PARAMS):
            gradients = jax.tree.map(jnp.ones_like, params)
        for _ in range(2 if name == "multi_timescale" else 1):
            updates, held = tx.update(gradients, held, params)
        return updates

    kinds = {argument: _KINDS[argument] for argument in own} | (_also or {})
    kinds |= {"params": parameters, "gradients": gradients(bounded=_bounded)}
    values = {**own, "params": PARAMS, "gradients": GRADIENTS, "learning_rate": 0.1, **sound}
    if "mask" in own:
        values["weight_decay"] = 0.1
    return Call("optim", name, run, kinds, {k: values[k] for k in kinds}, _WORDS)


def _plain(name: str, _also: dict | None = None, _run: Any = None, **sound: Any) -> Call:
    called: Callable = getattr(optim, name)
    values = {**arguments(called), **sound}
    kinds = {argument: (_also or {}).get(argument) or _KINDS[argument] for argument in values}
    return Call("optim", name, _run or called, kinds, values, _WORDS)


def _held(weight: Any) -> Any:
    """As something that can be differentiated by."""
    return jnp.asarray(weight, jnp.promote_types(jnp.asarray(weight).dtype, jnp.bfloat16))


def _applied(memory: Any, x: Any) -> Any:
    return memory @ x


def calls() -> list[Call]:
    """At least one for every public function."""
    weight, x, stream = _normal(3, 2), _normal(4, 2), {"w": _normal(3, 2), "b": _normal(3, 3)}
    unlimited = number(0)
    averaged = {"decay": _AVERAGE}
    delta = {"decay": unlimited, "weight": array((1,)), "x": array((1,), rank=False)}
    linear = eqx.nn.Linear(2, 3, key=jax.random.key(0))

    def delta_layers(model: Any, **given: Any) -> Any:
        changed = optim.delta_layers(model, **given)
        if not hasattr(changed, "weight"):
            return changed

        def loss(weight: Any) -> Any:
            return jnp.sum(eqx.tree_at(lambda m: m.weight, changed, weight)(jnp.ones(2)))

        return jax.grad(loss)(changed.weight)

    def delta_linear(weight: Any, **given: Any) -> Any:
        value = optim.delta_linear(weight, **given)
        return value, jax.grad(lambda w: jnp.sum(optim.delta_linear(w, **given)))(_held(weight))

    def memory_linear(weight: Any, **given: Any) -> Any:
        value = optim.memory_linear(weight, **given)
        return value, jax.grad(lambda w: jnp.sum(optim.memory_linear(w, **given)))(_held(weight))

    model = other(
        Case("a number", 5, "runs"),
        Case("a string", "model", "runs"),
        Case("without such layers", {"w": jnp.ones(2)}, "runs"),
    )
    where = other(
        Case("the model itself", lambda m: m, "same", None),
        Case("no layer", lambda m: m.bias),
        Case("no function", 5),
        Case("string", "weight"),
    )
    stream_kind = both(
        other(
            Case("empty", {}),
            Case("None", None),
            Case("string", "g"),
            Case("numpy", jax.tree.map(np.asarray, stream), "same", stream),
            Case("different lengths", {**stream, "b": stream["b"][:2]}),
            Case("no steps", jax.tree.map(lambda g: g[:0], stream)),
            Case("one step", jax.tree.map(lambda g: g[:1], stream), "runs"),
            Case("integers", jax.tree.map(lambda g: g.astype(int), stream)),
            Case("complex", jax.tree.map(lambda g: g + 1j, stream)),
            Case("a leaf that is a number", {**stream, "b": 0.5}),
            Case("strings", {**stream, "b": "seven"}),
            Case("masked", {**stream, "b": np.ma.masked_array(np.ones((3, 3)), np.eye(3))}),
            Case("one NaN", {**stream, "w": stream["w"].at[0, 0].set(NAN)}, "spread"),
        )
    )
    params_kind = other(
        Case("numpy", jax.tree.map(lambda g: np.asarray(g[0]), stream), "same", None),
        Case("a leaf missing", {"w": stream["w"][0]}),
        Case("other shapes", jax.tree.map(lambda g: g[0, :1], stream)),
        Case("string", "p"),
        Case("number", 5.5),
    )
    tx_kind = other(Case("None", None), Case("a rate", 0.1), Case("string", "sgd"))
    return [
        _optimizer("associative_momentum", {"objective": choice(functions=True)}),
        _optimizer("complex_adam", beta1=0.8 * cmath.exp(0.4j)),
        _optimizer("complex_momentum", beta=0.8 * cmath.exp(0.4j), phase=0.1),
        _optimizer("deep_momentum", {"readout": number(0)}, readout=0.1),
        _optimizer("delta_gradient_descent"),
        _optimizer("delta_momentum", {"block": count(1, optional=True)}),
        _optimizer("ema_sign", averaged, True),
        _optimizer(
            "generalized_gradient_descent", {"retention": numbers()}, retention=(1.0, 0.5)
        ),
        _optimizer("gradient_descent"),
        _optimizer("m3"),
        _optimizer("momentum", averaged),
        _optimizer("multi_timescale", optimizer=optax.sgd(0.1), periods={"w": 2, "": 1}),
        _optimizer("muon", averaged),
        _optimizer("normalized_descent"),
        _optimizer(
            "preconditioned_momentum",
            {"eps": number(0, optional=True), "preconditioner": choice(functions=True)},
        ),
        _optimizer("sign_descent", None, True),
        _plain(
            "delta_gradient",
            {**delta, "inputs": array((0, 1), rank=False), "errors": array((0, 1))},
            weight=weight, inputs=x, errors=_normal(4, 3), rate=0.1,
        ),
        _plain(
            "delta_layers",
            {"model": model, "decay": unlimited, "where": where},
            _run=delta_layers, model=linear, rate=0.1,
        ),
        _plain("delta_linear", delta, _run=delta_linear, weight=weight, x=x, rate=0.1),
        _plain(
            "memory_linear",
            {
                "weight": array((1,)), "x": array((1,), rank=False),
                "memory": state(optional=False), "apply": function(),
            },
            _run=memory_linear,
            weight=weight, memory=_normal(3, 2), apply=_applied, x=x,
        ),
        _plain("newton_schulz", {"matrix": array((), complex_=True)}, matrix=weight),
        _plain(
            "influence",
            {"tx": tx_kind, "gradients": stream_kind, "params": params_kind},
            tx=optax.sgd(0.1, momentum=0.9), gradients=stream,
        ),
    ]  # fmt: skip
