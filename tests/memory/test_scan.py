"""The recurrence of linear memories: chunks against tokens against a loop in numpy."""

import functools

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from references import memory as naive

from nestax.memory import memory_chunk, memory_scan

RATES = ("erase", "retain", "momentum", "carried")
SETTINGS = {
    "attention": (),
    "decay": ("retain",),
    "delta": ("erase",),
    "gated": ("erase", "retain"),
    "momentum": ("retain", "momentum"),
    "titans": ("retain", "momentum", "carried"),
    "hope": ("erase", "retain", "momentum"),
    "all": RATES,
}
BEFORE = ("attention", "delta", "momentum", "hope")


def draw(time, key, value, given, seed=0, dtype=np.float64):
    """Unit keys, rates up to 2 in all; retention and momentum are zero at some tokens."""
    rng = np.random.default_rng(seed)
    k = rng.normal(size=(time, key))
    k /= np.linalg.norm(k, axis=1, keepdims=True)
    tokens = {"q": rng.normal(size=(time, key)), "k": k, "u": rng.normal(size=(time, value))}
    rates = {
        "erase": rng.uniform(0, 1 if "carried" in given else 1.9, time),
        "retain": rng.uniform(0.9, 1, time),
        "momentum": rng.uniform(0, 0.9, time),
        "carried": rng.uniform(0, 0.2, time),
    }
    rates["retain"][3::17] = 0
    rates["momentum"][5::23] = 0
    arrays = tokens | {name: rates[name] for name in given}
    state = rng.normal(size=(2, value, key)).astype(dtype)
    return {name: jnp.asarray(a, dtype) for name, a in arrays.items()}, jnp.asarray(state)


@functools.partial(jax.jit, static_argnames=("chunk", "implementation", "read"))
def run(arrays, state, valid=None, **options):
    """Outputs, M, and S or nothing."""
    momentum = "momentum" in arrays
    begin = (state[0], state[1]) if momentum else state[0]
    outputs, end = memory_scan(**arrays, state=begin, valid=valid, **options)
    return (outputs, *end) if momentum else (outputs, end)


def loop(arrays, state, read):
    time = len(arrays["q"])
    means = {"erase": 0.0, "retain": 1.0, "momentum": 0.0, "carried": 0.0}
    rates = [np.asarray(arrays.get(name, np.full(time, means[name]))) for name in RATES]
    q, k, u = (np.asarray(arrays[name]) for name in "qku")
    found = naive.scan(q, k, u, *rates, *np.asarray(state), read)
    return found if "momentum" in arrays else found[:2]


def close(found, wanted, rtol=1e-10):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * max(1, np.abs(b).max(initial=0)))


@functools.partial(jax.jit, static_argnames=("options",))
def graded(arrays, state, options):
    """What `run` finds, and gradients of all of it, weighted unevenly, by all that is given."""

    def total(arrays, state):
        found = run(arrays, state, **dict(options))
        return sum(
            jnp.sum(a * jnp.cos(jnp.arange(a.size, dtype=a.dtype)).reshape(a.shape)) for a in found
        ), found

    return jax.value_and_grad(total, (0, 1), has_aux=True)(arrays, state)


@pytest.mark.parametrize("name", SETTINGS)
def test_tokens_and_chunks_equal_a_loop_and_their_gradients_each_other(x64, name):
    """Chunks of one token, with a last one that is not full, and one for more than all tokens.

    Gradients of each setting for one way of reading, of all rates together for both.
    """
    arrays, state = draw(60, 5, 3, SETTINGS[name])
    graded = {"before": name in BEFORE, "after": name not in BEFORE}
    # Within a chunk of one token no rate meets another.
    for read, chunks in (("before", (1, 100) if name == "all" else (100,)), ("after", (31,))):
        equals_the_loop(arrays, state, read, chunks, 1e-12, graded[read] or name == "all")


@pytest.mark.parametrize(
    "name, time, size, chunks, read",
    [
        ("gated", 100, 5, (9,), "before"),
        ("all", 100, 5, (9,), "before"),
        ("gated", 300, 60, (48,), "after"),
        ("all", 300, 60, (48, 130), "after"),
    ],
)
def test_longer_and_wider_ones_as_well(usual_loops, x64, name, time, size, chunks, read):
    """Many chunks, most of one empty, several groups of chunks, chunks longer than a group."""
    arrays, state = draw(time, size, size, SETTINGS[name])
    equals_the_loop(arrays, state, read, chunks, 1e-10)


def equals_the_loop(arrays, state, read, chunks, rtol, gradients=True):
    """Results of tokens and of chunks are the loop's, gradients of chunks those of tokens."""
    expected = loop(arrays, state, read)
    if not gradients:
        for options in ({"implementation": "recurrent"}, *({"chunk": chunk} for chunk in chunks)):
            close(run(arrays, state, read=read, **options), expected, rtol)
        return
    (_, found), wanted = graded(arrays, state, (("implementation", "recurrent"), ("read", read)))
    close(found, expected, rtol)
    for chunk in chunks:
        (_, found), gradients = graded(arrays, state, (("chunk", chunk), ("read", read)))
        close(found, expected, rtol)
        close(gradients, wanted)


def test_float32_is_right_to_rounding():
    arrays, state = draw(200, 16, 16, SETTINGS["gated"], dtype=np.float32)
    exact = loop(arrays, state, "before")
    for options in ({"chunk": 64}, {"implementation": "recurrent"}):
        close(run(arrays, state, **options), exact, 1e-5)


@pytest.mark.parametrize("name", ["delta", "all"])
def test_a_second_derivative_forward_over_reverse(x64, name):
    arrays, state = draw(7, 3, 2, SETTINGS[name])

    def gradient(scale, **options):
        def loss(s):
            scaled = {n: a * s if n in RATES else a for n, a in arrays.items()}
            return sum(jnp.sum(jnp.square(a)) for a in run(scaled, state, **options))

        return jax.grad(loss)(scale)

    def along(**options):
        f = functools.partial(gradient, **options)
        return jax.jit(lambda s: jax.jvp(f, (s,), (jnp.ones(()),)))(jnp.asarray(0.9))

    close(along(chunk=4), along(implementation="recurrent"))


def test_under_vmap_every_memory_is_its_own(x64):
    both = [draw(20, 4, 4, SETTINGS["all"], seed) for seed in (0, 1)]
    arrays, state = jax.tree.map(lambda *a: jnp.stack(a), *both)
    found = jax.vmap(functools.partial(run, chunk=8))(arrays, state)
    for i, (one, start) in enumerate(both):
        close(jax.tree.map(lambda a, i=i: a[i], found), run(one, start, chunk=8))


@pytest.mark.parametrize("read", ["before", "after"])
def test_chunks_of_every_size_have_the_same_causal_jacobian(x64, read):
    """Of outputs and states by all that is given, entry by entry: of a last chunk that is not full,
    and of a single one."""
    arrays, state = draw(5, 3, 2, SETTINGS["all"])

    @functools.partial(jax.jit, static_argnames="options")
    def jacobians(arrays, state, options):
        def twice(arrays, state):
            found = run(arrays, state, read=read, **dict(options))
            return found, found

        return jax.jacobian(twice, (0, 1), has_aux=True)(arrays, state)

    wanted = jacobians(arrays, state, (("implementation", "recurrent"),))
    for chunk in (2, 5):
        found = jacobians(arrays, state, (("chunk", chunk),))
        close(found, wanted)
        of_outputs, _ = found[0][0]
        for name, jacobian in of_outputs.items():
            by_time = np.abs(np.moveaxis(jacobian, 2, 1)).reshape(5, 5, -1).sum(-1)
            own = 0 if read == "before" and name != "q" else 1
            assert not np.triu(by_time, own).any(), name
            assert by_time[-1, 0] > 0 or name == "q"


@pytest.mark.parametrize("cut", [0, 1, 7, 20])
def test_a_stream_can_be_cut_anywhere(x64, cut):
    arrays, state = draw(20, 4, 3, SETTINGS["all"])
    whole = run(arrays, state, chunk=8)
    first, *middle = run({n: a[:cut] for n, a in arrays.items()}, state, chunk=8)
    second, *end = run({n: a[cut:] for n, a in arrays.items()}, jnp.stack(middle), chunk=8)
    close((jnp.concatenate([first, second]), *end), whole)


@pytest.mark.parametrize("name", ["gated", "all"])
@pytest.mark.parametrize("options", [{"chunk": 8}, {"implementation": "recurrent"}])
def test_tokens_that_are_not_valid_change_nothing(x64, name, options):
    arrays, state = draw(20, 4, 3, SETTINGS[name])
    valid = np.random.default_rng(0).random(20) < 0.6
    found = run(arrays, state, valid=jnp.asarray(valid), **options)
    wanted = run({n: a[valid] for n, a in arrays.items()}, state, **options)
    close((found[0][valid], *found[1:]), wanted)
    assert np.isfinite(found[0]).all()


@pytest.mark.parametrize("name", ["gated", "all"])
def test_one_chunk_is_the_scan_of_one_chunk(x64, name):
    arrays, state = draw(9, 4, 3, SETTINGS[name])
    begin = (state[0], state[1]) if name == "all" else state[0]
    one, scan = jax.jit(memory_chunk), jax.jit(functools.partial(memory_scan, chunk=9))
    close(one(begin, **arrays), scan(**arrays, state=begin))


def test_states_are_float32_where_tokens_are_bfloat16():
    arrays, _ = draw(40, 8, 8, SETTINGS["all"], dtype=np.float32)
    half = {n: a.astype(jnp.bfloat16) for n, a in arrays.items()}
    scan = jax.jit(functools.partial(memory_scan, chunk=16))
    outputs, (memory, surprise) = scan(**half)
    assert outputs.dtype == jnp.bfloat16
    assert memory.dtype == surprise.dtype == jnp.float32
    rounded = {n: np.asarray(a, np.float64) for n, a in half.items()}
    close(memory, loop(rounded, np.zeros((2, 8, 8)), "before")[1], 1e-4)


def test_no_tokens_change_nothing():
    arrays, state = draw(0, 4, 3, SETTINGS["gated"], dtype=np.float32)
    outputs, memory = memory_scan(**arrays, state=state[0])
    assert outputs.shape == (0, 3)
    np.testing.assert_array_equal(memory, state[0])


def test_wrong_input_is_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    arrays, state = draw(4, 3, 2, SETTINGS["gated"], dtype=np.float32)
    for options, said in (
        ({"read": "during"}, 'read must be "before" or "after"'),
        ({"chunk": 0}, "chunk must be"),
        ({"chunk": 2.5}, "chunk must be a number of tokens, 1 or more, got 2.5"),
        ({"implementation": "fast"}, "implementation must be"),
        ({"u": jnp.ones((4, 2), jnp.int32)}, "floating point, got float32, float32, int32"),
    ):
        with pytest.raises(ValueError, match=said):
            memory_scan(**{**arrays, "state": state[0], **options})
    with pytest.raises(ValueError, match=r"\(value, key\)"):
        memory_scan(**arrays, state=state[0].T)
    with pytest.raises(ValueError, match="without momentum the array M"):
        memory_scan(**arrays, state=(state[0], state[1]))
