"""Sound calls of the rules, scans and layers."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from inputs.judge import Call, arguments
from inputs.kinds import (
    INF,
    NAN,
    Case,
    Kind,
    array,
    bools,
    both,
    choice,
    count,
    counts,
    flag,
    function,
    key,
    number,
    other,
    per_token,
    pieces,
    segments,
    state,
    tokens,
    weights,
)

from nestax import memory

TIME, KEY, VALUE, WIDTH, VOCABULARY = 4, 3, 2, 8, 7
_RNG = np.random.default_rng(0)


def _normal(*shape: int) -> jax.Array:
    return jnp.asarray(_RNG.normal(size=shape), jnp.float32)


_RATE = number(0)
_SHARE = number(0, 1)
_RATES = number(0, tokens=TIME)
_SHARES = number(0, 1, tokens=TIME)
_OPTIONAL = {"rates": number(0, tokens=TIME, optional=True)}
_OPTIONAL["shares"] = number(0, 1, tokens=TIME, optional=True)
_SIZE = count(1)
_KINDS: dict[str, Kind] = {
    "q": array(),
    "k": array(),
    "u": array((0,)),
    "v": array((0,)),
    "memory": array(),
    "key": array(),
    "value": array(),
    "rate": _RATE,
    "retain": _SHARE,
    "momentum": _SHARE,
    "beta": _RATES,
    "alpha": _OPTIONAL["shares"],
    "threshold": number(0, above=True, endless=True),
    "objective": choice(functions=True),
    "rule": choice(),
    "read": choice(),
    "implementation": choice(optional=True),
    "implicit": flag,
    "skip": flag,
    "chunk": count(1, optional=True),
    "clip": number(0, above=True, optional=True, endless=True),
    "activation": function(),
    "valid": bools(TIME),
    "weights": weights(),
    "p": number(1),
    "window": _SIZE,
    "width": _SIZE,
    "heads": _SIZE,
    "hidden": count(1, optional=True),
    "scale": number(),
    "gated": flag,
    "negative": flag,
    "conv": count(0, optional=True),
    "trained_start": flag,
    "decay": flag,
    "key_size": count(1, optional=True),
    "max_rate": number(0, above=True),
    "limit": number(0, above=True, endless=True),
    "adaptive": other(
        Case("a string", "k"),
        Case("unknown", ("k", "seven")),
        Case("list", ["k", "v", "rate", "retain"], "same", ("k", "v", "rate", "retain")),
        Case("empty", (), "runs"),
        Case("None", None),
        Case("a number", 5),
    ),
    "chunk_others": count(1, optional=True),
    "variant": choice(),
    "accumulate": choice(),
    "periods": counts(),
    "trained_rate": flag,
    "dropout": number(0, 1, below=True),
    "vocabulary": _SIZE,
    "depth": _SIZE,
    "temperature": number(0),
    "steps": _SIZE,
    "reset": bools(TIME),
    "segments": segments(TIME),
    "initial": state(),
    "towards": weights(optional=True),
    "max_documents": count(1, optional=True),
    "stop": other(
        Case("a token", 6, "same", None),
        Case("several", (5, 6), "runs"),
        Case("numpy", np.array([5, 6]), "runs"),
        Case("beyond the vocabulary", VOCABULARY),
        Case("negative", -1),
        Case("not whole", 2.5),
        Case("string", "."),
        Case("object", object()),
        Case("NaN", NAN),
    ),
    "pad": other(
        Case("not whole", 0.5), Case("None", None), Case("string", "."), Case("object", object()),
        Case("list", [0]), Case("NaN", NAN),
    ),
    "top_k": count(1, optional=True),
    "top_p": number(0, 1, above=True, optional=True),
    "min_p": number(0, 1, optional=True),
    "repetition_penalty": number(0, above=True, optional=True),
    "scores": function(optional=True),
}  # fmt: skip


_WORDS = {
    "q": "q|k|queries|tokens",
    "k": "q|k|keys|tokens",
    "u": "u|values|tokens",
    "v": "v|values|tokens|state",
    "x": "x|sequence|tokens",
    "weights": "weights|matrices",
    "state": "state|surprise",
    "prompt": "prompt|tokens",
    "segments": "segments|valid",
    "periods": "periods?",
}
_LAYERS = (
    "CausalAttention|ContinuumMemory|DeltaMemory|FeedForward|LinearAttention|SelfModifyingMemory|"
    "SwiGLU|TitansMemory"
)
_OWNERS = {
    "generate": f"generate|HopeLM|{_LAYERS}",
    "stream_tokens": f"stream_tokens|HopeLM|{_LAYERS}",
    "learn_in_context": f"learn_in_context|HopeLM|{_LAYERS}",
    "FeedForward": "FeedForward|SwiGLU",
    "Block": f"Block|{_LAYERS}",
    "make_block": f"make_block|{_LAYERS}",
    "HopeLM": f"HopeLM|make_block|{_LAYERS}",
    "stack_levels": "stack_levels|ContinuumMemory",
}


def _made(
    name: str,
    _kinds: dict[str, Kind] | None = None,
    _run: Callable | None = None,
    **sound: Any,
) -> Call:
    called = getattr(memory, name)
    return _call(name, _run or called, {**arguments(called), **sound}, _kinds or {})


def _called(name: str, module: Any, _kinds: dict[str, Kind] | None = None, **sound: Any) -> Call:
    values = {**arguments(type(module).__call__), **sound}
    return _call(f"{name}.__call__", module, values, _kinds or {})


def _call(name: str, run: Callable, values: dict[str, Any], own: dict[str, Kind]) -> Call:
    if "reset" in values and "initial" in values:
        values["reset"] = jnp.array([False, False, False, True])
    if "initial" in values:
        values["initial"] = values["state"]
    if "towards" in values:
        values["towards"] = values.get("weights", values.get("now"))
    kinds = {argument: own.get(argument) or _KINDS[argument] for argument in values}
    each = [n for n, a in values.items() if getattr(a, "shape", ())[:1] == (TIME,)]
    if {"q", "x", "tokens"} & set(each):
        kinds[", ".join([*each, ""])] = pieces(*each)
    return Call("memory", name, run, kinds, values, _WORDS, _OWNERS.get(name.split(".")[0]))


def _rules() -> list[Call]:
    m, k, v = _normal(VALUE, KEY), _normal(KEY), _normal(VALUE)
    one = {"memory": m, "key": k, "value": v, "rate": 0.3, "retain": 0.9}
    pair = {"key": k, "value": v, "rate": 0.3, "retain": 0.9, "state": (m, 0.1 * m)}
    held = {"state": state(optional=False)}
    omega = memory.omega_state(m, 2)
    shapes = {"prediction": array(), "value": array()}

    def rule(state: Any, key: Any, value: Any, rate: Any, retain: Any) -> Any:
        return memory.write(state, key, value, rate, retain)

    def error(make: Callable, **given: Any) -> Any:
        return make(**given)(v, 2 * v)

    q, keys, values = _normal(TIME, KEY), _normal(TIME, KEY), _normal(TIME, VALUE)
    scan = _made(
        "scan_rule", {"rule": function(), "state": state(optional=False), "v": array()},
        rule=rule, q=q, k=keys, v=values, state=m,
    )  # fmt: skip
    scan.kinds |= {"rate": _RATES, "retain": _SHARES}
    scan.sound |= {"rate": 0.3, "retain": 0.9}
    two = {"prediction": v, "value": 2 * v}
    window = number(0)
    return [
        *(_made(name, **one) for name in (
            "write", "hebbian", "delta", "gated_delta", "delta_gradient_descent", "oja",
        )),
        _made("memora", **{**one, "memory": jnp.abs(m)}),
        _made("yaad", threshold=0.5, **one),
        _made("moneta", {"state": state(optional=False, read=False), "q": number(2)}, **pair),
        _made("titans_rule", held, momentum=0.8, **pair),
        _made("omega", {**held, "rate": window}, **{**pair, "state": omega}),
        _made("omega_state", {"memory": array(())}, memory=m, window=2),
        _made(
            "implicit_rate", {"key": array((), rank=False, vanishing=(INF, -INF))}, rate=0.3, key=k,
        ),
        _made("lp", _run=functools.partial(error, memory.lp), p=3.0),
        _made("huber", _run=functools.partial(error, memory.huber), threshold=0.5),
        _made("dot", {**shapes, "prediction": array(vanishing=(NAN, INF, -INF))}, **two),
        _made("l2", shapes, **two),
        scan,
    ]  # fmt: skip


def _scans() -> list[Call]:
    q, k, v = _normal(TIME, KEY), 0.5 * _normal(TIME, KEY), _normal(TIME, VALUE)
    m, valid = _normal(VALUE, KEY), jnp.array([True, True, False, True])
    linear = {"rate": _OPTIONAL["rates"], "state": state()}
    rates = {
        "erase": _OPTIONAL["rates"], "retain": _OPTIONAL["shares"],
        "momentum": _OPTIONAL["shares"], "carried": _OPTIONAL["rates"], "state": state(),
    }  # fmt: skip
    titans = {"rate": _RATES, "momentum": _SHARES, "retain": _OPTIONAL["shares"], "state": state()}
    sequence = {
        "q": q,
        "k": k,
        "v": v,
        "valid": valid,
        "chunk": 2,
        "implementation": "recurrent",
    }
    general = {
        "q": q, "k": k, "u": v, "erase": 0.2, "retain": 0.9, "momentum": 0.8, "carried": 0.1,
        "state": (m, 0.1 * m), "valid": valid,
    }  # fmt: skip
    mlp = (_normal(VALUE, KEY), _normal(VALUE, VALUE))
    stream = memory.network_state(mlp, momentum=True)
    network = {
        "v": array(), "rate": _RATES, "retain": _OPTIONAL["shares"],
        "momentum": _OPTIONAL["shares"], "state": state(), "chunk": count(1),
        "implementation": choice(optional=True), "now": weights(),
        "surprise": weights(optional=True),
        "anchor": weights(),
    }  # fmt: skip
    rated = {"rate": 0.2, "retain": 0.9, "momentum": 0.5}
    tall = dict.fromkeys(rated, per_token(0, 1, TIME, optional=True))
    tall["rate"] = per_token(0, INF, TIME)
    return [
        _made("memory_scan", rates, chunk=2, implementation="recurrent", **general),
        _made("memory_chunk", rates, **general),
        _made("linear_attention", linear, rate=0.5, alpha=0.9, state=m, **sequence),
        _made("delta_rule", {"state": state()}, beta=0.5, alpha=0.9, state=m, **sequence),
        _made(
            "titans", titans, rate=0.3, momentum=0.8, retain=0.9, state=(m, 0.1 * m), **sequence
        ),
        _made("network_scan", network, q=q, k=k, v=v, weights=mlp, chunk=TIME, clip=5.0, **rated),
        _made(
            "network_chunk", {**network, **tall},
            now=mlp, surprise=mlp, anchor=mlp, q=q, k=k, v=v, valid=valid, clip=5.0,
            **{name: jnp.full(TIME, rate) for name, rate in rated.items()},
        ),
        _made(
            "network_state", {"momentum": flag, "weights": weights(taken=False, given=False)},
            weights=mlp,
        ),
        _made(
            "read_memory", {"x": array((1,), rank=False), "weights": weights(given=False)},
            weights=mlp, x=q,
        ),
        _made(
            "errors", {"key": array((0, 1), rank=False), "value": array((0, 1), rank=False)},
            weights=mlp, key=q, value=v, clip=5.0,
        ),
        _made(
            "segment_starts", {"segments": segments(TIME, optional=False)},
            segments=jnp.arange(TIME) // 2,
        ),
        # the state, as it is only looked at without weights
        Call(
            "memory", "network_scan",
            functools.partial(memory.network_scan, q, k, v, None, chunk=TIME, clip=5.0, **rated),
            {"state": state(optional=False)}, {"state": stream}, _WORDS,
        ),
    ]  # fmt: skip


_MAKE: dict[str, dict[str, Any]] = {
    "LinearAttention": {"decay": True},
    "DeltaMemory": {},
    "TitansMemory": {},
    "SelfModifyingMemory": {"momentum": True},
    "CausalAttention": {"window": 4},
    "ContinuumMemory": {"periods": (2, 4)},
    "FeedForward": {},
    "SwiGLU": {"hidden": 3},
}
_OWN: dict[str, dict[str, Kind]] = {
    "TitansMemory": {"memory": choice(), "momentum": flag, "objective": choice(functions=True)},
    "SelfModifyingMemory": {
        "memory": choice(), "momentum": flag, "objective": choice(), "chunk": count(1),
    },
    "ContinuumMemory": {
        "objective": choice(optional=True),
        "rate": both(
            number(0),
            other(
                Case("one for each", (0.1, 0.1), "same", 0.1),
                Case("one too many", (0.1, 0.1, 0.1)),
                Case("one NaN", (0.1, NAN)),
                Case("one negative", (0.1, -0.1)),
            ),
        ),
        "levels": other(
            Case("functions", [jnp.tanh, jnp.tanh]), Case("a number", 5), Case("empty", []),
            Case("numbers", [1, 2]),
        ),
        "norms": other(Case("a number", 5), Case("string", "rms")),
    },
}  # fmt: skip


# Of as few operations as there can be: each is compiled for each shape and dtype.
_CALLED: dict[str, dict[str, Any]] = {
    "LinearAttention": {"conv": 2},
    "DeltaMemory": {"conv": 2},
    "TitansMemory": {"conv": 2},
    "SelfModifyingMemory": {"conv": 2, "adaptive": (), "momentum": False, "chunk": 2},
    "ContinuumMemory": {"periods": (2,)},
    "CausalAttention": {"window": 6},  # so that the first token of the state is still read
}


def _layer(name: str) -> Any:
    heads = {} if name in ("ContinuumMemory", "FeedForward", "SwiGLU") else {"heads": 2}
    made = getattr(memory, name)
    options = {**_MAKE[name], **_CALLED.get(name, {})}
    return made(WIDTH, **heads, **options, key=jax.random.key(0))


def _model(block: str = "hope", **options: Any) -> Any:
    return memory.HopeLM(
        VOCABULARY, WIDTH, 1, 2, block=block, hidden=3, key=jax.random.key(0), **options
    )


def _layers() -> list[Call]:
    found = []
    x = _normal(TIME, WIDTH)
    for name in _MAKE:
        own = {"key": key(), **_OWN.get(name, {})}
        heads = {"heads": 2} if "heads" in arguments(getattr(memory, name)) else {}
        made = {"width": WIDTH, "key": jax.random.key(0), **heads, **_MAKE[name]}
        found.append(_made(name, own, **made))
    for name in _MAKE:
        module = _layer(name)
        if name == "SwiGLU":
            found.append(_called(name, module, {"x": array((0,))}, x=x[0]))
            continue
        own = {"x": array((1,)), "state": state()}
        if name == "FeedForward":
            own["state"] = other()
        found.append(_called(name, module, own, x=x, state=module(x)[1]))
    return found


def _models() -> list[Call]:
    x, seed = _normal(TIME, WIDTH), jax.random.key(0)
    block = memory.make_block("linear_attention", WIDTH, 2, hidden=3, conv=2, key=seed)
    model = _model("linear_attention", conv=2)
    learner = _model("hope_attention", window=4, continuum={"periods": (2,), "objective": None})
    prompt = jnp.array([1, 2, 3, 4])
    text = jnp.array([1, 2, 3, 4, 5])
    of_model = other(Case("None", None), Case("a number", 5), Case("a string", "hope"))
    shared = {
        "key": key(),
        "continuum": both(
            other(
                Case("a number", 5),
                Case("a string", "periods"),
                Case("unknown option", {"seven": 7}),
            )
        ),
    }
    blocks = both(
        choice(),
        other(
            Case("a list", ["hope_attention"], "same", "hope_attention"),
            Case("with options", [("hope_attention", {})], "same", "hope_attention"),
            Case("one too many", ["hope_attention"] * 2),
            Case("a wrong option", [("hope_attention", {"seven": 7})]),
            Case("a pair of strings", [("hope_attention", "window")]),
        ),
    )
    hope = {
        "vocabulary": VOCABULARY, "width": WIDTH, "depth": 1, "heads": 2, "hidden": 3,
        "block": "hope_attention", "key": seed,
    }  # fmt: skip

    def stream(**given: Any) -> Any:
        drawn = memory.stream_tokens(**given)
        return jnp.array(list(drawn)), drawn.state

    stack = both(counts(length=1), other(Case("one NaN", (NAN,)), Case("one infinite", (INF,))))
    return [
        _made(
            "make_block", {"kind": choice(), **shared}, kind="hope_attention", width=WIDTH,
            heads=2, hidden=3, key=seed,
        ),
        _made("HopeLM", {"block": blocks, **shared}, _run=memory.HopeLM, **hope),
        _called(
            "Block", block,
            {"x": array((1,)), "state": state(), "key": key(optional=True)},
            x=x, state=block(x)[1], dropout=0.5, key=seed,
        ),
        _called(
            "HopeLM", model,
            {"tokens": tokens(VOCABULARY), "state": state(), "key": key(optional=True)},
            tokens=prompt, state=model(prompt)[1], key=seed,
        ),
        _made(
            "generate",
            {"model": of_model, "prompt": tokens(VOCABULARY), "key": key(),
             "state": state(read=False)},
            model=model, prompt=prompt, steps=2, key=seed, state=model(prompt)[1],
        ),
        _made(
            "stream_tokens",
            {"model": of_model, "prompt": tokens(VOCABULARY), "key": key(),
             "steps": count(1, optional=True), "state": state(read=False)},
            stream, model=model, prompt=prompt, steps=2, key=seed, state=model(prompt)[1],
        ),
        _made(
            "learn_in_context",
            {"model": of_model, "tokens": tokens(VOCABULARY), "state": state(read=False)},
            model=learner, tokens=text, state=learner(prompt)[1],
        ),
        _made(
            "stack_levels", {"model": of_model, "periods": stack},
            model=model, periods=(2,),
        ),
    ]  # fmt: skip


def calls() -> list[Call]:
    """At least one for every public function, and the calls of modules."""
    return [*_rules(), *_scans(), *_layers(), *_models()]
