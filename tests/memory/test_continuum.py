"""The continuum memory against numpy, its identities, and the streams it is cut from."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest
from references import memory_continuum as naive

import nestax as nx
from nestax.memory._feed import FeedForward, SwiGLU
from nestax.memory._loop import checkpointed_scan
from nestax.memory.continuum import ContinuumMemory

VARIANTS = ("sequential", "nested", "independent")
WIDTH, TIME = 4, 23


def memory(variant="sequential", periods=(3, 6), **options):
    options = {"rate": 0.4, "hidden": 3, **options}
    made = ContinuumMemory(WIDTH, periods, variant=variant, key=jax.random.key(0), **options)
    # Norms other than at their start.
    dtype = made.norms[0].dtype
    scales = np.linspace(0.5, 1.5, WIDTH)
    scales = tuple(jnp.asarray(scales * (s + 1), dtype) for s in range(len(periods)))
    return eqx.tree_at(lambda m: m.norms, made, scales)


def tokens(time, *shape, seed=1):
    return jax.random.normal(jax.random.key(seed), (*shape, time, WIDTH))


@eqx.filter_jit
def apply(layer, x, state=None):
    return layer(x, state)


def close(a, b, rtol=1e-10, atol=1e-12):
    a, b = jax.tree.leaves(a), jax.tree.leaves(b)
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)


def normed(x, scale):
    return jnp.stack([naive.normed(np.asarray(row), np.asarray(scale)) for row in x])


# What it computes.


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("rate", "accumulate", "clip"), [(0.005, "sum", None), (0.4, "mean", 0.05)]
)
def test_equals_a_naive_loop(x64, variant, rate, accumulate, clip):
    layer, x = memory(variant, rate=rate, accumulate=accumulate, clip=clip), tokens(TIME)
    y, state = apply(layer, x)
    outputs, weights, gathered = naive.continuum(layer, x)
    close(y, outputs)
    close(state.weights, weights)
    close(state.gathered, gathered)
    assert state.tick.tolist() == [5 if variant == "nested" else 2, 5]
    moved = np.abs(outputs - naive.continuum(memory(variant, rate=0.0), x)[0]).max(axis=1)
    assert not moved[:3].any() and moved[3:].all()


def test_a_period_is_one_step_on_its_gradients_at_its_beginning(x64):
    layer, x = memory(periods=(5,), rate=0.005, accumulate="sum", clip=None), tokens(10)
    h = normed(x, layer.norms[0])

    def loss(mlp, h):
        return jnp.sum(jnp.square(jax.vmap(mlp)(h) - h @ layer.target[0].T)) / (2 * WIDTH)

    step = jax.jit(
        lambda mlp, h: jax.tree.map(lambda w, g: w - 0.005 * g, mlp, jax.grad(loss)(mlp, h))
    )
    mlp, state = layer.levels[0], layer.init_state()
    for n in (5, 10):
        mlp = step(mlp, h[n - 5 : n])
        state = apply(layer, x[n - 5 : n], state)[1]
        close(state.weights[0], mlp)


@pytest.mark.parametrize("variant", VARIANTS)
def test_with_rates_of_zero_it_is_a_chain_of_mlps(x64, variant):
    layer, x = memory(variant, rate=0.0), tokens(TIME)
    chain = total = x
    for mlp, norm, mix in zip(layer.levels, layer.norms, (2**-0.5,) * 2, strict=True):
        h = normed(x if variant == "independent" else chain, norm)
        chain = chain + jax.vmap(mlp)(h)
        total = total + mix * jax.vmap(mlp)(h)
    y, state = apply(layer, x)
    close(y, total if variant == "independent" else chain)
    close(state.weights, layer.levels, rtol=0, atol=0)
    # Without objective nothing is even computed.
    still = memory(variant, objective=None)
    y, state = apply(eqx.tree_at(lambda m: m.levels, still, layer.levels), x)
    close(y, total if variant == "independent" else chain)
    assert not state.tick.any() and not any(g.any() for g in jax.tree.leaves(state.gathered))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_piece_of_one_period_is_read_as_if_nothing_were_written(x64, variant):
    x = tokens(TIME)
    written, still = (apply(memory(variant, (2 * TIME, TIME), rate=rate), x) for rate in (5.0, 0.0))
    close(written[0], still[0])
    fast, before = (jax.tree.leaves(state.weights[1]) for _, state in (written, still))
    assert all(jnp.abs(a - b).max() > 1e-3 for a, b in zip(fast, before, strict=True))


def test_one_level_is_the_mlp_of_a_transformer(x64):
    feed = FeedForward(WIDTH, 7, key=jax.random.key(3))
    options = {"levels": [feed.mlp], "norms": [feed.norm], "key": jax.random.key(0)}
    layer, x = ContinuumMemory(WIDTH, (4,), rate=0.0, **options), tokens(9)
    close(apply(layer, x)[0], apply(feed, x)[0])


def test_a_nested_level_begins_anew_when_the_slower_one_moves(x64):
    layer, x = memory("nested", (2, 12, 4)), tokens(12)
    state = layer.init_state()
    start = state.weights
    for n, (first, slow, middle) in {
        2: (False, True, True),
        4: (True, True, False),
        6: (False, True, False),
        8: (True, True, False),
        10: (False, True, False),
        12: (True, False, True),
    }.items():
        state = apply(layer, x[n - 2 : n], state)[1]
        same = [np.array_equal(a.down, b.down) for a, b in zip(state.weights, start, strict=True)]
        assert same == [first, slow, middle], n


def test_a_sum_of_one_is_that_mlp(x64):
    layer, x = memory("independent"), tokens(9)
    for s in range(2):
        one = eqx.tree_at(lambda m: m.mix, layer, jnp.eye(2)[s])
        alone = memory(periods=(layer.periods[s],))
        alone = eqx.tree_at(
            lambda m: (m.levels, m.norms, m.target),
            alone,
            ((layer.levels[s],), (layer.norms[s],), layer.target[s : s + 1]),
        )
        close(apply(one, x)[0], apply(alone, x)[0])


# Streams.


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("sizes", [(1,) * TIME, (2, 5, 0, 16)], ids=str)
def test_pieces_are_one_pass(x64, variant, sizes):
    layer, x = memory(variant), tokens(TIME)
    y, state = apply(layer, x)
    parts, held = [], layer.init_state()
    for end, size in zip(np.cumsum(sizes), sizes, strict=True):
        part, held = apply(layer, x[end - size : end], held)
        parts.append(part)
    close(jnp.concatenate(parts), y)
    close(held, state)
    like = jax.eval_shape(layer.init_state)
    for a, b in zip(jax.tree.leaves(like), jax.tree.leaves(held), strict=True):
        assert (a.shape, a.dtype, b.weak_type) == (b.shape, b.dtype, False)
    assert jax.tree.structure(like) == jax.tree.structure(held)


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_is_causal(x64, variant):
    layer, x = memory(variant, (2, 4)), tokens(7)
    jacobian = np.asarray(jax.jit(jax.jacfwd(lambda x: layer(x)[0]))(x))
    for t in range(7):
        for i in range(7):
            assert np.any(jacobian[t, :, i]) == (i == t or i < t // 2 * 2)


def test_a_period_that_is_not_full_is_never_applied(x64):
    layer, x = memory(periods=(6, 4)), tokens(9)
    _, state = apply(layer, x[:3])
    close(state.weights, layer.init_state().weights, rtol=0, atol=0)
    for accumulate, tokens_ in (("mean", 3), ("sum", 1)):
        layer = memory(periods=(6, 4), accumulate=accumulate)
        flushed = layer.flush(state)
        for s in range(2):
            gathered = jax.tree.leaves(state.gathered[s])
            expected = naive.step(
                jax.tree.leaves(state.weights[s]), gathered, 0.4, tokens_, accumulate, 1.0
            )
            close(flushed.weights[s], expected)
        assert not flushed.tick.any()
        assert not any(g.any() for g in jax.tree.leaves(flushed.gathered))
        close(layer.flush(flushed), flushed, rtol=0, atol=0)


def test_flushing_a_nested_memory_ends_all_contexts(x64):
    layer, x = memory("nested"), tokens(5)
    flushed = layer.flush(apply(layer, x)[1])
    start = layer.init_state().weights
    close(flushed.weights[0], start[0], rtol=0, atol=0)
    assert not np.array_equal(flushed.weights[1].up, start[1].up) and not flushed.tick.any()


def test_sequences_of_a_batch_are_independent(x64):
    layer, x = memory(), tokens(11, 3)
    read = jax.jit(jax.vmap(layer))
    start = jax.tree.map(lambda s: np.broadcast_to(s, (3, *s.shape)), layer.init_state())
    _, state = read(x, start)
    y, _ = read(x, state)
    for b in range(3):
        own = jax.tree.map(lambda s: np.asarray(s)[b], state)  # noqa: B023
        close(y[b], apply(layer, x[b], own)[0])


# Gradients.


@pytest.mark.parametrize("variant", VARIANTS)
def test_meta_gradients_equal_finite_differences(x64, variant):
    layer, x = memory(variant), tokens(16).reshape(2, 8, WIDTH)

    @eqx.filter_jit
    @eqx.filter_value_and_grad
    def loss(layer):
        # The second piece begins in the middle of a period.
        def piece(state, x):
            y, state = layer(x, state)
            return state, jnp.sum(jnp.sin(y))

        return jnp.sum(jax.lax.scan(piece, layer.init_state(), x)[1])

    _, gradient = loss(layer)
    leaves, treedef = jax.tree.flatten(jax.tree.map(np.asarray, layer))
    for i, (leaf, slope) in enumerate(zip(leaves, jax.tree.leaves(gradient), strict=True)):
        for n in range(2):
            way = np.random.default_rng([i, n]).normal(size=leaf.shape)
            sides = [
                loss(treedef.unflatten([*leaves[:i], leaf + h * way, *leaves[i + 1 :]]))[0]
                for h in (1e-5, -1e-5)
            ]
            expected = (sides[0] - sides[1]) / 2e-5
            np.testing.assert_allclose(np.sum(slope * way), expected, rtol=1e-6, atol=1e-8)
        assert np.any(slope)


def test_forward_and_reverse_mode_agree_to_second_order(x64):
    layer, x = memory(periods=(2,)), tokens(5)

    def loss(rate):
        return jnp.sum(jnp.sin(eqx.tree_at(lambda m: m.rate, layer, rate)(x)[0]))

    rate = layer.rate
    one, other = jax.jit(jax.hessian(loss)), jax.jit(jax.jacrev(jax.jacrev(loss)))
    close(one(rate), other(rate))
    assert np.any(one(rate))


@pytest.mark.parametrize("count", [1, 8, 9, 11])
def test_the_loop_that_keeps_little_is_a_scan(usual_loops, x64, count):
    rows = jax.random.normal(jax.random.key(0), (count, 2))

    def body(carry, row):
        return jnp.sin(carry + row[0]) * row[1], carry * row[0]

    def total(scan, rows, carry):
        carry, outs = scan(body, carry, rows)
        return carry + jnp.sum(jnp.cos(outs)), (carry, outs)

    plain, lean = (
        jax.jit(jax.value_and_grad(partial(total, scan), (0, 1), has_aux=True))
        for scan in (jax.lax.scan, checkpointed_scan)
    )
    close(lean(rows, jnp.asarray(0.3)), plain(rows, jnp.asarray(0.3)))


# Numbers.


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_long_streams_stay_finite(scale):
    layer = ContinuumMemory(16, key=jax.random.key(0))
    x = scale * jax.random.normal(jax.random.key(1), (8192, 16))
    x = x.at[4096:].set(jnp.broadcast_to(x[0], (4096, 16)))  # one token again and again
    y, state = apply(layer, x)
    assert np.all(np.isfinite(y)) and all(np.all(np.isfinite(w)) for w in jax.tree.leaves(state))
    assert np.abs(y - x).max() < 100


def test_it_learns_its_local_objective():
    """A period of repeated input brings the level's answer nearer to its target."""
    layer = memory(periods=(4,), accumulate="mean", rate=0.2)
    x = jnp.broadcast_to(tokens(1), (400, WIDTH))
    h = naive.normed(np.asarray(x[0]), np.asarray(layer.norms[0]))
    said = np.asarray(apply(layer, x)[0] - x)
    error = np.linalg.norm(said - np.asarray(layer.target[0]) @ h, axis=1)
    assert error[-1] < 0.1 * error[0] and np.all(np.diff(error[::4]) <= 1e-6)


def test_inputs_in_half_precision_keep_their_dtype_and_the_state_its_own():
    layer, x = memory(), tokens(8).astype(jnp.bfloat16)
    half = jax.tree.map(lambda w: jnp.asarray(np.asarray(w), jnp.bfloat16), layer)
    exact = apply(layer, jnp.asarray(np.asarray(x), jnp.float32))[0]
    for made in (layer, half):
        y, state = apply(made, x, made.init_state())
        again, _ = apply(made, x, state)
        assert y.dtype == again.dtype == jnp.bfloat16
        assert {w.dtype for w in jax.tree.leaves((state.weights, state.gathered))} == {
            jnp.dtype(jnp.float32)
        }
        close(np.asarray(y, np.float32), exact, atol=0.1)


# Clocks.


def test_the_level_table_finds_the_periods():
    layer = memory(periods=(4, 1, 8))

    def step(state, x):
        y, state = layer(x, state)
        return state, y

    table = nx.level_table(step, layer.init_state(), tokens(1), calls=8)
    for s, frequency in enumerate((0.25, 1, 0.125)):
        assert table.frequencies[f".weights[{s}].up"] == frequency
        assert table.kinds[f".weights[{s}].up"] == "state"
    assert table.compare(".weights[0].up", ".weights[2].up") == ">"
    assert table.frequencies[".gathered[0].up"] == 1.25  # added to at every token, then emptied
    assert table.kinds[".tick"] == "clock"


def test_optimizer_steps_are_another_clock():
    """Labels by path give each level's parameters a period in optimizer steps."""
    layer, x = memory(periods=(2, 4)), tokens(6)
    tx = nx.optim.multi_timescale(1e-3, {r"levels/0": 1, r"levels/1": 3, "": 1})

    @jax.jit
    def step(layer, state):
        gradient = jax.grad(lambda layer: jnp.sum(jnp.square(layer(x)[0])))(layer)
        updates, state = tx.update(gradient, state, layer)
        return optax.apply_updates(layer, updates), state

    state, moved = tx.init(layer), []
    for _ in range(6):
        new, state = step(layer, state)
        pairs = zip(new.levels, layer.levels, strict=True)
        moved.append([not np.array_equal(a.up, b.up) for a, b in pairs])
        layer = new
    assert moved == [[True, n % 3 == 2] for n in range(6)]


# From trained MLPs.


def test_levels_from_trained_mlps(x64):
    mlps = [eqx.nn.MLP(WIDTH, WIDTH, 5, 1, key=jax.random.key(s)) for s in range(2)]
    layer = ContinuumMemory.from_mlps(mlps, (2, 4), rate=0.0)
    x = tokens(8)
    chain = x + jax.vmap(mlps[0])(x)
    chain = chain + jax.vmap(mlps[1])(chain)
    y, state = apply(layer, x)
    close(y, chain)
    assert layer.target is None and layer.width is None and not state.tick.any()
    # Every inexact array of theirs is a weight, nothing else is.
    layer = ContinuumMemory.from_mlps(
        mlps, (2, 4), rate=0.3, width=WIDTH, objective="local", key=jax.random.key(0)
    )
    _, state = apply(layer, x)
    assert jax.tree.structure(state.weights[0]) == jax.tree.structure(
        eqx.filter(mlps[0], eqx.is_inexact_array)
    )
    for new, old in zip(
        jax.tree.leaves(state.weights),
        jax.tree.leaves(eqx.filter(tuple(mlps), eqx.is_inexact_array)),
        strict=True,
    ):
        assert new.shape == old.shape and not np.array_equal(new, old)


def test_levels_from_functions_with_weights(x64):
    def branch(weights, x):
        return weights["w"] @ jnp.tanh(x)

    weights = {"w": jnp.eye(WIDTH), "n": jnp.asarray(3)}
    layer = ContinuumMemory.from_mlps([jax.tree_util.Partial(branch, weights)], (2,))
    x = tokens(3)
    close(apply(layer, x)[0], x + jnp.tanh(x))
    state = layer.init_state()
    gradient = jax.tree.map(jnp.ones_like, state.weights)
    for n in range(1, 3):
        state = layer.gather(state, gradient, 1)
        moved = jax.tree.leaves(state.weights)[0] - jnp.eye(WIDTH)
        # The mean of two gradients of ones, of norm 4, times the rate over sqrt(1 + 16).
        close(moved, jnp.full((WIDTH, WIDTH), -0.01 / 17**0.5 * (n == 2)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"periods": ()}, "periods must be one or more numbers of tokens"),
        ({"periods": (2, 0)}, "each at least 1, got"),
        ({"periods": (True,)}, "each at least 1, got"),
        ({"periods": 4}, r"such as \(16, 64\), whole and each at least 1, got 4"),
        ({"periods": None}, "each at least 1, got None"),
        ({"periods": (2, 4.0)}, r"each at least 1, got \(2, 4.0\)"),
        ({"periods": "24"}, "each at least 1, got '24'"),
        ({"variant": "chain"}, "variant must be one of"),
        ({"accumulate": "max"}, "accumulate must be one of"),
        ({"objective": "l2"}, "objective must be one of"),
        ({"variant": "nested", "periods": (2, 3)}, "must differ and divide one another"),
        ({"variant": "nested", "periods": (2, 2)}, "must differ and divide one another"),
        ({"clip": 0.0}, "clip must be positive"),
        ({"clip": 1j}, "clip must be positive"),
        ({"clip": "1"}, "clip must be positive"),
        ({"rate": -0.1}, "rate must be one finite number"),
        ({"rate": np.float32(-0.1)}, "rate must be one finite number"),
        ({"rate": jnp.asarray(np.nan)}, "rate must be one finite number"),
        ({"rate": 0.1j}, "rate must be one finite number"),
        ({"rate": (0.1, np.complex64(0.1))}, "rate must be one finite number"),
        ({"rate": None}, "rate must be one finite number, .* got None"),
        ({"rate": "0.1"}, "rate must be one finite number"),
        ({"rate": (0.1,)}, "one for each of the 2 levels"),
        ({"hidden": 0}, "hidden must be at least 1"),
        ({"hidden": 2.5}, "hidden must be a whole number, got 2.5"),
        ({"key": 0}, r"key must be one typed PRNG key; pass jax.random.key\(seed\)"),
        ({"levels": [lambda x: x] * 2}, "level 0 of levels must be a function with weights"),
        ({"levels": [SwiGLU(4, 3, key=jax.random.key(0))]}, "2 periods, 1 levels"),
    ],
)
def test_bad_arguments_are_refused(monkeypatch, options, message):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    options = {"periods": (2, 4), "key": jax.random.key(0), **options}
    with pytest.raises(ValueError, match=f"ContinuumMemory: .*{message}"):
        ContinuumMemory(WIDTH, **options)


def test_numbers_of_numpy_and_jax_are_numbers(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    key = jax.random.key(0)
    options = {"hidden": np.int64(3), "clip": jnp.asarray(2.0), "trained_rate": False}
    made = ContinuumMemory(WIDTH, np.array([2, 4]), rate=np.array([0.25, 0]), **options, key=key)
    assert made.periods == (2, 4) and made.constant_rate == (0.25, 0.0) and made.clip == 2.0
    made = ContinuumMemory(WIDTH, (2, 4), rate=jnp.asarray(0.5), **options, key=key)
    assert made.constant_rate == (0.5, 0.5)


def test_inputs_and_states_that_do_not_fit_are_refused(monkeypatch):
    layer, x = memory(), tokens(3)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    for wrong, message in (
        (jnp.ones((3, WIDTH), int), "the sequence must be of floating point, got int32; embed"),
        (x.tolist(), "one sequence of shape .* got a list"),
    ):
        with pytest.raises(ValueError, match=f"ContinuumMemory: {message}"):
            layer(wrong)
    state = layer.init_state()
    for call, message in (
        (lambda: layer.gather(state, state.weights[:1], 3), "gather: gradients must be those of 2"),
        (lambda: layer.gather(state, 3, 3), "gather: gradients must be those of 2 levels, .* int"),
        (
            lambda: layer.gather(state, (*state.weights[:1], state.tick), 3),
            r"gather: gradients\[1\] must have the structure and shapes of state.weights\[1\]",
        ),
        (
            lambda: ContinuumMemory(WIDTH, (2,), norms=[None], key=jax.random.key(0)),
            ": norms are those of given levels",
        ),
        (
            lambda: layer.from_mlps(layer.levels, layer.periods, norms=[None, 1.0]),
            ": norms must be a sequence",
        ),
        (
            lambda: layer.gather(state.weights, state.weights, 3),
            "gather: state must be a Continuum",
        ),
        (lambda: layer.gather(state, state.weights, 1.5), "gather: gradients of 1.5 tokens"),
        (lambda: layer.flush(()), "flush: state must be a ContinuumState, got a tuple"),
        (
            lambda: layer.from_mlps(layer.levels[0], (3,)),
            r" levels \(of from_mlps: mlps\) must be a",
        ),
    ):
        with pytest.raises(ValueError, match=f"ContinuumMemory.?{message}"):
            call()
    for wrong, message in (
        (memory(hidden=4).init_state(), r"state.weights\[0\].gate must be of shape \(3, 4\), got"),
        (memory(periods=(3,)).init_state(), "state must hold 13 arrays, got 7"),
        ((), "state must be a ContinuumState, got a tuple"),
    ):
        with pytest.raises(ValueError, match=f"ContinuumMemory: {message}"):
            layer(x, wrong)


def test_other_mistakes_are_refused():
    mlp = SwiGLU(4, 3, key=jax.random.key(0))
    with pytest.raises(ValueError, match="without a width, pass levels and objective=None"):
        ContinuumMemory(None, key=jax.random.key(0))
    with pytest.raises(ValueError, match="targets are drawn; pass a key"):
        ContinuumMemory.from_mlps([mlp], (2,), objective="local", width=4)
    with pytest.raises(ValueError, match="one sequence of shape"):
        memory()(jnp.ones((3, 5)))
    state = memory().init_state()
    with pytest.raises(ValueError, match=r"gradients of 2 tokens .* periods of \(3, 6\)"):
        memory().gather(state, state.weights, 2)


def test_what_fills_a_row_leaves_no_mark(x64):
    """A level whose derivative at zero is not finite, on pieces that do not fill their periods."""
    unit = jax.tree_util.Partial(lambda w, z: w @ z / jnp.linalg.norm(z), jnp.eye(WIDTH))
    layer = ContinuumMemory.from_mlps(
        [unit], (4,), width=WIDTH, objective="local", rate=0.3, key=jax.random.key(0)
    )
    x = tokens(10)
    whole, end = apply(layer, x)
    first, state = apply(layer, x[:5])
    second, state = apply(layer, x[5:], state)
    assert all(jnp.all(jnp.isfinite(a)) for a in jax.tree.leaves((whole, end)))
    close(jnp.concatenate([first, second]), whole)
    close(state, end)


def test_a_level_that_changes_the_width_is_refused():
    narrow = jax.tree_util.Partial(lambda w, z: w * z[:1], jnp.ones(1))
    with pytest.raises(ValueError, match=r"a level says is added .* level 0 maps them to"):
        ContinuumMemory.from_mlps([narrow], (4,))(tokens(5))


def test_rates_can_be_constants(x64):
    layer = memory(rate=(0.1, 0.2), trained_rate=False)
    assert layer.rate is None and layer.constant_rate == (0.1, 0.2)
    trained = memory(rate=(0.1, 0.2))
    close(apply(layer, tokens(9)), apply(trained, tokens(9)))
