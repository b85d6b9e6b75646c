"""Rates that cannot be, and arguments of another kind, are refused by name."""

import math
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from nestax import memory as nm

TIME, KEY, VALUE = 3, 2, 4
K, V = np.ones((TIME, KEY), np.float32), np.ones((TIME, VALUE), np.float32)
M = jnp.ones((VALUE, KEY))
TOKENS = {"q": K, "k": K, "v": V}
WRITTEN = {"memory": M, "key": K[0], "value": V[0], "rate": 0.1}
PAIR = {"state": (M, M), "key": K[0], "value": V[0], "rate": 0.1}
# What each is called with, and its rates: their largest, and whether None is refused.
STEP, RATE, KEPT = (math.inf, True), (math.inf, False), (1.0, False)
FUNCTIONS = {
    "memory_scan": (
        nm.memory_scan,
        {"q": K, "k": K, "u": V},
        {"erase": RATE, "retain": KEPT, "momentum": KEPT, "carried": RATE},
    ),
    "memory_chunk": (nm.memory_chunk, {"state": M, "q": K, "k": K, "u": V}, {"retain": KEPT}),
    "linear_attention": (nm.linear_attention, TOKENS, {"rate": RATE, "alpha": KEPT}),
    "delta_rule": (nm.delta_rule, {**TOKENS, "beta": 2.0}, {"beta": STEP, "alpha": KEPT}),
    "titans": (
        nm.titans,
        {**TOKENS, "rate": 0.1, "momentum": 0.5},
        {"rate": STEP, "momentum": (1.0, True), "retain": KEPT},
    ),
    "network_scan": (
        nm.network_scan,
        {**TOKENS, "weights": (M,), "rate": 0.1},
        {"rate": STEP, "retain": KEPT, "momentum": KEPT},
    ),
    "network_chunk": (
        nm.network_chunk,
        {**TOKENS, "now": (M,), "surprise": None, "anchor": (M,), "rate": 0.1},
        {"rate": STEP, "retain": KEPT},
    ),
    "scan_rule": (
        nm.scan_rule,
        {**TOKENS, "rule": nm.delta, "state": M, "rate": 0.1},
        {"rate": STEP, "retain": (1.0, True)},
    ),
    "omega": (
        nm.omega,
        {**PAIR, "state": nm.omega_state(M, 2)},
        {"rate": STEP, "retain": (1.0, True)},
    ),
    "titans_rule": (
        nm.titans_rule,
        {**PAIR, "momentum": 0.5},
        {"rate": STEP, "momentum": (1.0, True), "retain": (1.0, True)},
    ),
    "moneta": (nm.moneta, PAIR, {"rate": STEP, "retain": (1.0, True)}),
    "yaad": (partial(nm.yaad, threshold=1.0), WRITTEN, {"rate": STEP, "retain": (1.0, True)}),
    "implicit_rate": (nm.implicit_rate, {"rate": 1.0, "key": K}, {"rate": STEP}),
} | {
    name: (getattr(nm, name), WRITTEN, {"rate": STEP, "retain": (1.0, True)})
    for name in (
        "write", "hebbian", "delta", "gated_delta", "delta_gradient_descent", "oja", "memora",
    )
}  # fmt: skip
WRONG = {
    "negative": -0.5,
    "NaN": math.nan,
    "infinite": math.inf,
    "numpy": np.float32(-1),
    "one of an array": np.array([0.5, -0.5, 0.5], np.float32),
    "of jax": jnp.asarray(jnp.nan),
    "complex": 0.5j,
    "text": "0.5",
    "list": [0.5, 0.5, 0.5],
}


@pytest.fixture
def untyped(monkeypatch):
    """As users have it, who do not check types at every call."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_rates_that_cannot_be_are_refused(untyped, name):
    function, arguments, rates = FUNCTIONS[name]
    for what, (high, needed) in rates.items():
        wrong = [*WRONG.values(), *([1.001] if high == 1 else []), *([None] if needed else [])]
        for value in wrong:
            with pytest.raises(ValueError, match=f"^{name}: {what} must be"):
                function(**{**arguments, what: value})


def test_errors_say_where_and_what(untyped):
    scan = partial(nm.delta_rule, **TOKENS)
    for value, said in (
        (WRONG["one of an array"], "beta must be finite and 0 or more, got -0.5 at index 1"),
        ("0.5", "beta must be a number or an array, got str '0.5'"),
        (None, "beta must be a number or an array, got NoneType"),
        (0.5j, "beta must be real, got complex64"),
        (np.ones(2), r"beta must be a number or hold one per token, shape \(3,\), got \(2,\)"),
    ):
        with pytest.raises(ValueError, match=f"delta_rule: {said}"):
            scan(beta=value)
    with pytest.raises(ValueError, match=r"delta_rule: alpha must be in \[0, 1\], got 1.5"):
        scan(beta=2.0, alpha=1.5)


def test_rates_that_can_be_are_taken(untyped):
    """Numbers of numpy, erasure beyond one, and traced numbers, of which nothing is known."""
    given = (2.0, 1.0), (np.float64(2), np.ones(3)), (np.full(3, 2), jnp.ones(())), (2, 1)

    @jax.jit
    def run():  # all of them are known
        return [nm.delta_rule(**TOKENS, beta=beta, alpha=alpha)[0] for beta, alpha in given]

    wanted, *others = run()
    for found in others:
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
    found, _ = jax.jit(lambda beta: nm.delta_rule(**TOKENS, beta=beta))(-1.0)
    assert jnp.isfinite(found).all()


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "implicit_rate"])
def test_what_is_no_array_is_refused(untyped, name):
    function, arguments, _ = FUNCTIONS[name]
    for what, a in arguments.items():
        if isinstance(a, (np.ndarray, jax.Array)) and what != "memory":
            called = "values" if what in "uv" and name != "network_chunk" else what
            called = what if name == "network_scan" else called
            with pytest.raises(ValueError, match=f"^{name}: {called} must be"):
                function(**{**arguments, what: np.asarray(a).tolist()})


def test_states_of_other_sizes_are_refused(untyped):
    wide = jnp.ones((VALUE, KEY + 1))
    scan = partial(nm.network_scan, **TOKENS, weights=(M,), rate=0.1)
    for call, said in (
        (lambda: nm.delta_rule(**TOKENS, beta=1.0, state=wide), r"delta_rule: state must be \(v"),
        (lambda: nm.titans(**TOKENS, rate=1.0, momentum=0.5, state=(M, wide)), "titans: state mus"),
        (lambda: nm.linear_attention(**TOKENS, initial=wide), "linear_attention: initial must be"),
        (lambda: scan(state=nm.network_state((wide,))), r"network_scan: state.now must be a tuple"),
        (lambda: scan(state=(M,)), "network_scan: state must be a NetworkState, got tuple"),
        (lambda: scan(towards=M), "network_scan: towards must be a tuple of matrices"),
        (lambda: nm.scan_rule(nm.delta, **TOKENS, state=wide, rate=1.0), "scan_rule: state must"),
        (lambda: nm.omega(M, K[0], V[0], 0.1), "omega: state must be an OmegaState"),
        (lambda: nm.moneta(M, K[0], V[0], 0.1), r"moneta: state must be the pair \(M, A\)"),
        (lambda: nm.write(M, K, V, 0.1), "write: a memory .* by one key and one value"),
        (lambda: nm.delta(wide, K[0], V[0], 0.1), "delta: a memory .* by one key and one value"),
    ):
        with pytest.raises(ValueError, match=said):
            call()


@pytest.mark.parametrize(
    "kind", [nm.LinearAttention, nm.DeltaMemory, nm.TitansMemory, nm.SelfModifyingMemory]
)
def test_layers_refuse_states_and_masks_that_are_not_theirs(untyped, kind):
    def zeros(width):
        build = lambda key: kind(width, 2, key=key)  # noqa: E731
        shapes = eqx.filter_eval_shape(build, jax.random.key(0))
        return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)

    layer, x = zeros(4), jnp.ones((3, 4))
    name = kind.__name__
    for options, said in (
        ({"state": zeros(8).init_state()}, "state.* must be of shape"),
        ({"state": jnp.zeros(3)}, "state must be a "),
        ({"valid": np.ones(3)}, "valid must be one array of booleans"),
        ({"reset": np.ones(2, bool)}, "reset must be one array of booleans"),
        ({"reset": np.ones(3, bool), "max_documents": 2}, "3 documents begin"),
    ):
        with pytest.raises(ValueError, match=f"^{name}: {said}"):
            layer(x, **options)
    with pytest.raises(ValueError, match=f"^{name}: one sequence of shape"):
        layer([[1.0] * 4])
    with pytest.raises(ValueError, match=f"^{name}: key must be"):
        kind(4, 2, key=0)


def test_other_numbers_that_cannot_be(untyped):
    made = partial(nm.SelfModifyingMemory, 4, 2, key=jax.random.key(0))
    for call, said in (
        (lambda: made(max_rate="2"), "SelfModifyingMemory: max_rate must be a number, got str"),
        (lambda: made(max_rate=math.nan), "SelfModifyingMemory: max_rate must be above 0"),
        (lambda: made(limit=np.float32(-1)), "SelfModifyingMemory: limit must be above 0"),
        (lambda: nm.huber(np.float32(-1)), "huber: threshold must be above 0"),
        (lambda: nm.huber(math.nan), "huber: threshold must be above 0"),
        (lambda: nm.huber(None), "huber: threshold must be a number"),
        (lambda: nm.lp(math.nan), "lp: p must be at least 1"),
        (lambda: nm.write(M, K[0], V[0], 0.1, 1.0, nm.lp), "write: objective must be what lp"),
        (lambda: nm.network_state(M), "network_state: weights must be a tuple of matrices"),
        (lambda: nm.read_memory((M,), [1.0, 1.0]), "read_memory: x must be an array, got list"),
        (lambda: nm.errors((M,), [1.0], V[0]), "errors: key must be an array, got list"),
        (lambda: nm.omega_state(M, 1.5), "omega_state: window must be at least 1 token"),
        (
            lambda: nm.network_scan(**TOKENS, weights=(M,), rate=0.1, clip=np.float32(-1)),
            "network_scan: clip must be above 0",
        ),
    ):
        with pytest.raises(ValueError, match=said):
            call()


def test_what_does_not_fit_a_network_is_refused(untyped):
    two = (jnp.ones((4, KEY)), jnp.ones((VALUE, 4)))
    other = (jnp.ones((5, KEY)), jnp.ones((VALUE, 5)))
    chunk = partial(nm.network_chunk, **TOKENS, rate=0.1)
    masked = np.ma.masked_array(np.asarray(K), np.asarray(K) > 0)
    for call, said in (
        (lambda: nm.network_state(()), "network_state: weights must be a tuple of matrices"),
        (lambda: nm.read_memory(two, V), f"read_memory: weights must .* from {VALUE} numbers of x"),
        (lambda: nm.errors(two, K, V[:1]), "errors: key .* and value .* must come in pairs"),
        (lambda: nm.errors(two, K, V, clip=0.0), "errors: clip must be above 0, or None"),
        (lambda: nm.errors(two, masked, V), "errors: key must be an array without a mask"),
        (lambda: chunk(two, None, other), "network_chunk: anchor must be matrices like now"),
        (lambda: chunk(two, two, two), "network_chunk: there is a surprise exactly where momentum"),
        (lambda: chunk(two, None, two, read="during"), "network_chunk: read must be"),
        (
            lambda: nm.network_scan(**TOKENS, weights=two, rate=0.1, towards=other),
            "network_scan: towards must be matrices like weights",
        ),
        (lambda: nm.implicit_rate(np.ones(2), K), "implicit_rate: rate must be one number, or"),
        (lambda: nm.dot(V[:1], V), "dot: prediction and value must be of one shape"),
        (
            lambda: nm.write(M, K[0], V[0], 0.1, rule=np.ones(2)),
            'write: rule must be "gd" or "dgd"',
        ),
    ):
        with pytest.raises(ValueError, match=said):
            call()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_stays_to_be_seen(untyped, bad):
    """A power of a size that is not above zero must not be taken for a zero."""
    value = jnp.asarray(V[0]).at[0].set(bad)
    assert not jnp.isfinite(nm.lp(3.0)(jnp.ones(VALUE), value)[0])
    memory, _ = nm.moneta((M, M), K[0], value, 0.1)
    assert not jnp.isfinite(memory).all()


def test_no_tokens_leave_the_state_as_it_is(untyped):
    empty = {name: a[:0] for name, a in TOKENS.items()}
    outputs, state = nm.scan_rule(nm.delta, **empty, state=M, rate=1.0)
    assert outputs.shape == (0, VALUE)
    np.testing.assert_array_equal(state, M)
    outputs, now, _ = nm.network_chunk((M,), None, (M,), **empty, rate=jnp.ones(0))
    assert outputs.shape == (0, VALUE)
    np.testing.assert_array_equal(now[0], M)


def test_whole_numbers_are_taken_for_floating_ones(untyped):
    wanted = nm.hebbian(jnp.zeros((VALUE, KEY)), jnp.ones(KEY), jnp.ones(VALUE), 0.5)
    found = nm.hebbian(np.zeros((VALUE, KEY), int), np.ones(KEY, bool), np.ones(VALUE, bool), 0.5)
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)


def test_rates_of_padding_are_not_looked_at():
    """What padding holds reaches nothing; at a token that is there it is refused as ever."""
    valid = np.array([True, True, False, True])
    q = jnp.asarray(np.eye(4, 3, dtype=np.float32) + np.float32(0.1))
    sound = jnp.full(4, 0.5)
    weights = (jnp.full((3, 3), 0.1),)
    for run in (
        lambda rate: nm.delta_rule(q, q, q, rate, valid=valid),
        lambda rate: nm.titans(q, q, q, rate, 0.5, valid=valid),
        lambda rate: nm.memory_scan(q, q, q, erase=rate, valid=valid),
        lambda rate: nm.network_scan(q, q, q, weights, rate, valid=valid),
    ):
        rates = [jnp.asarray(np.where(valid, sound, bad)) for bad in (np.nan, -1.0)]
        wanted, *found = jax.jit(lambda run=run, r=rates: [run(rate) for rate in (sound, *r)])()
        for made in found:
            for a, b in zip(jax.tree.leaves(made), jax.tree.leaves(wanted), strict=True):
                np.testing.assert_array_equal(a, b)
        for bad in (np.nan, -1.0):
            with pytest.raises(ValueError, match="must be finite and 0 or more"):
                run(jnp.asarray(np.where(valid, bad, sound)))
