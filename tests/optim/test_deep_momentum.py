"""Deep momentum against its identities, a naive loop, and what it must not do."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from references.deep_momentum import naive_deep_momentum

from nestax import optim
from nestax.optim._matrices import newton_schulz

SHAPES = {"weight": (5, 7), "bias": (3,), "scalar": ()}


def gradients(steps, seed=0, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return [
        {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}
        for _ in range(steps)
    ]


def trajectory(tx, stream):
    """The updates and the last state along a stream of gradients."""
    state, updates, update = tx.init(stream[0]), [], jax.jit(tx.update)
    for g in stream:
        u, state = update(g, state)
        updates.append(u)
    return updates, state


@pytest.mark.parametrize("objective", ["dot", "l2"])
@pytest.mark.parametrize("memory_input", ["gradient", "average"])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("normalize", ["memory", "update", "none"])
@pytest.mark.parametrize("memory", ["coordinates", "rows"])
def test_first_step_is_plain_or_normalized_descent(
    x64, objective, memory_input, shared, normalize, memory
):
    tx = optim.deep_momentum(
        0.3,
        objective=objective,
        memory=memory,
        memory_input=memory_input,
        shared=shared and memory == "coordinates",
        normalize=normalize,
        features=None if shared else jnp.cos,
    )
    stream = gradients(1)
    update, _ = tx.update(stream[0], tx.init(stream[0]))
    for name, g in stream[0].items():
        rms = jnp.sqrt(jnp.mean(g**2)) if normalize == "update" else 1
        np.testing.assert_allclose(update[name], -0.3 * g / rms, rtol=1e-10)


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 1.0])
def test_linear_memory_of_a_constant_key_is_heavy_ball(x64, beta):
    memory = optim.deep_momentum(
        0.1,
        memory_input="constant",
        hidden=(),
        skip=False,
        normalize="none",
        inner_learning_rate=1.0,
        retention=beta,
    )
    stream = gradients(12)
    ours, _ = trajectory(memory, stream)
    heavy_ball, _ = trajectory(optax.sgd(0.1, momentum=beta), stream)
    for a, b in zip(ours, heavy_ball, strict=True):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-10), a, b)


def test_linear_memory_keyed_by_the_gradient_is_quadratic_in_it_not_heavy_ball(x64):
    """Writing and reading with u are two factors: twice the gradient, four times the answer."""
    memory = optim.deep_momentum(
        1.0,
        memory_input="gradient",
        hidden=(),
        skip=False,
        normalize="none",
        retention=1.0,
    )
    g = {"w": jnp.array([1.0, -2.0, 0.5])}
    once, _ = trajectory(memory, [g, g])
    twice, _ = trajectory(memory, [jax.tree.map(lambda x: 2 * x, g)] * 2)
    np.testing.assert_allclose(twice[1]["w"], 8 * once[1]["w"], rtol=1e-10)


def compare_with_the_naive_loop(shapes, layout="out_in", blank=None, **options):
    """Along a stream in which, for a while, one tensor's second row has no gradient."""
    options = dict(retention=0.9, inner_learning_rate=0.2, average_decay=0.8) | options
    tx = optim.deep_momentum(0.1, readout=0.4, axes="kernel", layout=layout, **options)
    stream, names = gradients(6, shapes=shapes), sorted(shapes)
    for g in stream[2:4]:
        if blank is not None:
            g[blank] = g[blank].at[1].set(0.0)
    updates, _ = trajectory(tx, stream)
    initial = tx.init(stream[0])[0].initial
    memories = [initial if options.get("shared") else initial[name] for name in names]

    def turned(a):
        return np.moveaxis(a, -1, 0) if layout == "in_out" and a.ndim > 1 else np.asarray(a)

    rows = options.pop("memory", "coordinates") == "rows"
    expected = naive_deep_momentum(
        [[turned(g[name]) for name in names] for g in stream],
        [[np.asarray(layer) for layer in memory] for memory in memories],
        learning_rate=0.1,
        rows=rows,
        **{key: value for key, value in options.items() if key != "hidden"},
    )
    for update, reference in zip(updates, expected, strict=True):
        for name, value in zip(names, reference, strict=True):
            np.testing.assert_allclose(turned(update[name]), value, rtol=1e-9, atol=1e-13)


def options(third):
    """A third or a half of all combinations: any three of the options occur together."""
    for i, hidden in enumerate([(), (3,), (4, 2)]):
        for a, b in itertools.product(range(2), repeat=2):
            chosen = {
                "objective": ("dot", "l2")[a],
                "memory_input": ("gradient", "average")[b],
                "hidden": hidden,
            }
            if third == "layout":
                yield {**chosen, "layout": ("out_in", "in_out")[(i + a + b) % 2]}
                continue
            for shared in (False, True):
                j = -i - (2 if a != b else int(a != shared))
                yield {**chosen, "shared": shared, "normalize": ("memory", "update", "none")[j % 3]}


@pytest.mark.parametrize("options", list(options("normalize")), ids=str)
def test_equals_the_naive_loop(x64, options):
    compare_with_the_naive_loop(SHAPES, **options)


ROWS = {"weight": (5, 7), "kernel": (3, 2, 2, 3), "row": (1, 4), "bias": (3,), "scalar": ()}


@pytest.mark.parametrize("options", list(options("layout")), ids=str)
def test_rows_equal_the_naive_loop(x64, options):
    compare_with_the_naive_loop(ROWS, memory="rows", **options)


@pytest.mark.parametrize("memory", ["coordinates", "rows"])
@pytest.mark.parametrize("memory_input", ["gradient", "average"])
def test_features_and_output_equal_the_naive_loop(x64, memory, memory_input):
    """phi changes the length of a key and is not zero at zero; sigma sees the matrix."""
    compare_with_the_naive_loop(
        ROWS,
        memory=memory,
        memory_input=memory_input,
        hidden=(3,),
        features=lambda key: jnp.concatenate([jnp.cos(key), key**2, key[:1]]),
        output=lambda said: 3 * jnp.cumsum(said, axis=0),
        blank="weight",
    )


def rows_of(stream, name="w"):
    return [np.asarray(g[name]) for g in stream]


@pytest.mark.parametrize("out", [1, 4])
def test_a_linear_memory_of_rows_is_the_delta_rule(x64, out):
    """m <- m (alpha I - eta k k') - eta P k', with the last gradient as key and this one as value;
    several rows are written at once, and eta is per coordinate."""
    alpha, eta, width = 0.9, 0.3, 5
    tx = optim.deep_momentum(
        0.1,
        memory="rows",
        objective="l2",
        memory_input="gradient",
        hidden=(),
        skip=False,
        normalize="none",
        retention=alpha,
        inner_learning_rate=eta,
    )
    stream = gradients(6, shapes={"w": (out, width)})
    updates, state = trajectory(tx, stream)
    m, key = np.zeros((width, width)), np.zeros((out, width))
    for g, update in zip(rows_of(stream), updates, strict=True):
        share = eta / g.size
        m = m @ (alpha * np.eye(width) - share * key.T @ key) - share * g.T @ key
        key = g
        np.testing.assert_allclose(update["w"], 0.1 * key @ m.T, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(state[0].memory["w"][0], m, rtol=1e-10)


def test_rows_of_length_one_are_coordinates(x64):
    shapes = {"column": (6, 1), "bias": (3,), "scalar": ()}
    stream = gradients(5, shapes=shapes)
    one, other = (
        trajectory(optim.deep_momentum(0.1, memory=memory, inner_learning_rate=0.1), stream)[0]
        for memory in ("coordinates", "rows")
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), one, other)


def test_rows_learn_alike_at_every_width(x64):
    """A row with all its coordinates repeated learns what the row does, and says it as often."""
    stream = gradients(8, shapes={"w": (4, 3)})
    wide = [{"w": jnp.tile(g["w"], (1, 5))} for g in stream]
    options = dict(memory="rows", hidden=(), memory_input="gradient", inner_learning_rate=0.1)
    narrow, _ = trajectory(optim.deep_momentum(1.0, **options), stream)
    repeated, _ = trajectory(optim.deep_momentum(1.0, **options), wide)
    for a, b in zip(narrow, repeated, strict=True):
        np.testing.assert_allclose(np.tile(a["w"], (1, 5)), b["w"], rtol=1e-10)


def test_rows_mix_coordinates_and_coordinates_do_not():
    """Shuffled along one column, coordinates are the same keys, but belong to other rows."""
    stream, other = gradients(4, shapes={"w": (3, 6)}), gradients(4, shapes={"w": (3, 6)})
    for g in other:
        g["w"] = g["w"].at[:, 0].set(jnp.roll(g["w"][:, 0], 1))
    for memory in ("coordinates", "rows"):
        tx = optim.deep_momentum(0.1, memory=memory, hidden=(), inner_learning_rate=0.5)
        a, b = (trajectory(tx, s)[0][-1]["w"][:, 1:] for s in (stream, other))
        assert np.allclose(a, b, rtol=1e-4) is (memory == "coordinates")


def test_orthogonalised_heavy_ball_is_muon(x64):
    """Eq. (52) with the linear memory of a constant key: sigma(m)."""
    tx = optim.deep_momentum(
        1.0,
        memory_input="constant",
        hidden=(),
        skip=False,
        normalize="none",
        inner_learning_rate=1.0,
        retention=0.95,
        output=newton_schulz,
    )
    muon = optax.contrib.scale_by_muon(beta=0.95, nesterov=False, eps=0.0)
    stream = [g["w"] for g in gradients(5, shapes={"w": (4, 6)})]
    (ours, _), (theirs, _) = trajectory(tx, stream), trajectory(muon, stream)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, -b, rtol=1e-9)


@pytest.mark.parametrize("layout", ["out_in", "in_out"])
def test_orthogonal_output_has_equal_singular_values_and_the_gradients_rms(x64, layout):
    """Up to what five quintic steps leave: singular values between 0.68 and 1.2 of the same."""
    tx = optim.deep_momentum(1.0, output="orthogonal", axes="kernel", layout=layout)
    stream = gradients(1, shapes={"w": (5, 3, 4), "b": (6,)})
    (update,), _ = trajectory(tx, stream)
    g = stream[0]
    matrix = np.asarray(update["w"]).reshape((5, 12) if layout == "out_in" else (15, 4))
    values = np.linalg.svd(matrix, compute_uv=False)
    assert values.max() / values.min() < 1.8
    for name in g:
        size = np.sqrt(np.mean(update[name] ** 2) / np.mean(g[name] ** 2))
        assert 0.68 < size < 1.2
        assert np.sum(update[name] * g[name]) < 0


def test_the_memory_is_trained_on_what_it_can_learn(x64):
    """On noise around a steady gradient, answers turn toward the steady part with training."""
    rng = np.random.default_rng(0)
    steady = rng.normal(size=400)
    stream = [{"w": jnp.asarray(steady + 3 * rng.normal(size=400))} for _ in range(600)]

    def alignment(tx):
        updates, _ = trajectory(tx, stream)
        late = [np.asarray(u["w"]) for u in updates[-100:]]
        return np.mean([-u @ steady / np.linalg.norm(u) / np.linalg.norm(steady) for u in late])

    plain = alignment(optim.gradient_descent(1.0))
    for objective, retention in (("dot", 0.99), ("l2", 0.999)):
        options = {"objective": objective, "retention": retention}
        trained = alignment(optim.deep_momentum(1.0, inner_learning_rate=0.01, **options))
        untrained = alignment(optim.deep_momentum(1.0, inner_learning_rate=0.0, **options))
        assert untrained == pytest.approx(plain, rel=1e-9)
        assert trained > 1.2 * plain, (objective, plain, trained)


def test_dot_objective_is_the_outer_losss_own_gradient(x64):
    """The write follows d/dm L(W_{t-1} + lr m(key_{t-1})), divided by lr and coordinates."""
    curvature = jnp.asarray(np.random.default_rng(1).normal(size=(6, 6)))
    loss = lambda w: 0.5 * w @ curvature @ curvature.T @ w  # noqa: E731
    rate, eta = 1e-2, 0.05
    tx = optim.deep_momentum(
        rate,
        objective="dot",
        normalize="none",
        retention=1.0,
        inner_learning_rate=eta,
        readout=0.3,
        memory_input="gradient",
    )
    w = jnp.asarray(np.random.default_rng(2).normal(size=6))
    state = tx.init(w)
    u, state = tx.update(jax.grad(loss)(w), state, w)
    memory, key = state[0].memory, jax.grad(loss)(w)

    def after(memory):
        hidden, readout = memory
        said = (readout @ jnp.tanh(hidden @ key.reshape(1, -1)))[0] - key
        return loss(w + rate * said)

    expected = jax.tree.map(
        lambda m, g: m - eta * g / (rate * w.size), memory, jax.grad(after)(memory)
    )
    w = optax.apply_updates(w, u)
    _, state = tx.update(jax.grad(loss)(w), state, w)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), state[0].memory, expected
    )


@pytest.mark.parametrize("objective", ["dot", "l2"])
def test_bounded_over_a_long_adversarial_stream(objective):
    """Steady gradients push a dot-product read-out hardest; the docstring's bound holds."""
    tx = optim.deep_momentum(1.0, objective=objective)
    g = {"w": jnp.ones((3, 4))}

    @jax.jit
    def run(state):
        return jax.lax.scan(lambda s, _: tx.update(g, s)[::-1], state, length=20_000)

    state, updates = run(tx.init(g))
    readout = state[0].memory["w"][-1]
    assert np.all(np.isfinite(updates["w"]))
    assert np.max(np.abs(readout)) <= 0.0025 / (1 - 0.99) + 1e-4
    assert np.all(updates["w"] < 0)


@pytest.mark.parametrize("normalize", ["memory", "update"])
def test_the_memory_learns_alike_at_every_scale_of_the_loss(x64, normalize):
    """With "update" steps do not depend on the scale, with "memory" they are proportional to it."""
    stream = gradients(20, shapes={"w": (4, 5)})
    updates = {}
    for scale in (1e-4, 1.0, 1e4):
        scaled = [jax.tree.map(lambda x, s=scale: s * x, g) for g in stream]
        tx = optim.deep_momentum(1.0, normalize=normalize)
        updates[scale] = np.stack([u["w"] for u in trajectory(tx, scaled)[0]])
    for scale in (1e-4, 1e4):
        expected = updates[1.0] * (scale if normalize == "memory" else 1)
        np.testing.assert_allclose(updates[scale], expected, rtol=1e-9)


def test_every_tensor_has_its_own_memory():
    """Changing one tensor's gradients changes nothing of another's; unless the memory is shared."""
    stream, other = gradients(5), gradients(5)
    for g in other:
        g["bias"] = -2 * g["bias"] + 1
    for shared in (False, True):
        tx = optim.deep_momentum(0.1, shared=shared)
        a, b = trajectory(tx, stream)[0][-1], trajectory(tx, other)[0][-1]
        assert np.array_equal(a["weight"], b["weight"]) is not shared


def test_a_zero_gradient_is_answered_by_zero():
    updates, state = trajectory(optim.deep_momentum(0.1), [{"w": jnp.zeros((2, 3))}] * 3)
    for leaf in jax.tree.leaves((updates, state)):
        assert np.all(np.isfinite(leaf))
    assert not np.any(updates[-1]["w"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "huber"}, 'objective must be "dot" or "l2"'),
        ({"memory_input": "past"}, 'memory_input must be "gradient", "average" or'),
        ({"normalize": "yes"}, 'normalize must be "memory", "update" or'),
        ({"memory_input": "constant"}, "pass hidden=\\(\\) and skip=False"),
        ({"hidden": (8, 0)}, "hidden sizes must be an int of at least 1"),
        ({"retention": 1.1}, "retention must be in"),
        ({"inner_learning_rate": -1.0}, "inner_learning_rate must be in"),
        ({"average_decay": 2.0}, "average_decay must be in"),
        ({"memory": "columns"}, 'memory must be "coordinates" or "rows"'),
        ({"memory": "rows", "shared": True}, "rows of different tensors differ in length"),
        (
            {"memory": "rows", "memory_input": "constant", "hidden": (), "skip": False},
            "reads no rows and no features",
        ),
        ({"output": "sigma"}, 'output must be "orthogonal", a function or None'),
        ({"layout": "rows"}, "layout must be"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        optim.deep_momentum(0.1, **options)


def test_features_of_another_shape_are_refused():
    tx = optim.deep_momentum(0.1, features=lambda key: jnp.outer(key, key))
    with pytest.raises(ValueError, match="features must map a key of shape \\(2,\\) to one axis"):
        tx.init(jnp.zeros(3))


def test_the_key_may_be_traced():
    """Typed keys have a dtype of their own kind, within `vmap` and `jit` too."""
    keys = jax.random.split(jax.random.key(0), 2)
    states = jax.vmap(lambda key: optim.deep_momentum(0.1, key=key).init(jnp.ones(3)))(keys)
    assert all(leaf.shape[0] == 2 for leaf in jax.tree.leaves(states))
