"""Evolution strategies as a plain function: against loops by hand, closed forms, and their mean."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestax as nx

MATRIX = np.array([[2.0, 0.5], [0.5, 1.0]])


def quadratic(value):
    x, y = value["x"], value["y"]
    return x @ jnp.asarray(MATRIX, x.dtype) @ x / 2 + jnp.sum(x) * y + y**2


def point():
    return {"x": jnp.array([1.0, -2.0]), "y": jnp.array(0.5)}


def tried(value, key, pairs, sigma):
    """The values at which the loss is evaluated, found by a loss that hands them out."""
    seen = []

    def spy(value):
        jax.debug.callback(lambda v: seen.append(jax.tree.map(np.asarray, v)), value)
        return jnp.zeros(())

    jax.jit(lambda *given: nx.evolution_gradient(spy, *given, nx.ES(sigma), pairs))(value, key)
    jax.effects_barrier()
    return seen


def by_hand(losses, perturbations, sigma, shape, clip):
    """One pair after another, in numpy."""
    losses = np.minimum(losses, np.inf if clip is None else clip)
    if shape == "rank":
        losses = np.argsort(np.argsort(losses.ravel())).reshape(losses.shape)
        losses = losses / (losses.size - 1) - 0.5
    total = 0.0
    for (above, below), e in zip(losses, perturbations, strict=True):
        difference = np.sign(above - below) if shape == "sign" else above - below
        total = total + e * difference / (2 * sigma**2)
    return total / len(losses)


@pytest.mark.parametrize(
    "options", [{}, {"shape": "sign"}, {"shape": "rank"}, {"clip": 2.0}], ids=str
)
def test_it_is_a_loop_over_pairs(x64, options):
    value, key, sigma = point(), jax.random.key(3), 0.7
    flow = nx.ES(sigma, **options)
    values = tried(value, key, 5, sigma)
    assert len(values) == 10
    # Any order of calls: neighbours about the value are pairs.
    flat = np.array([np.append(v["x"], v["y"]) for v in values]) - [1, -2, 0.5]
    e = np.array([a for i, a in enumerate(flat) if any(np.allclose(a, -b) for b in flat[i:])])
    assert e.shape == (5, 3)
    at = np.array([1, -2, 0.5])
    full = np.block([[MATRIX, np.ones((2, 1))], [np.ones((1, 2)), np.full((1, 1), 2.0)]])
    losses = np.array([[(at + s * a) @ full @ (at + s * a) / 2 for s in (1, -1)] for a in e])
    expected = by_hand(losses, e, sigma, options.get("shape"), options.get("clip"))

    @jax.jit
    def found(value, key):
        return nx.evolution_gradient(quadratic, value, key, flow, 5)

    mean, gradient = found(value, key)
    np.testing.assert_allclose(np.append(gradient["x"], gradient["y"]), expected, rtol=1e-10)
    np.testing.assert_allclose(mean, losses.mean(), rtol=1e-12)
    # Side by side, each with a value and a key of its own.
    keys = jax.random.split(key, 2)
    both = {"x": jnp.stack([value["x"], 2 * value["x"]]), "y": jnp.stack([value["y"]] * 2)}
    together = jax.vmap(found)(both, keys)
    for i in range(2):
        alone = found(jax.tree.map(lambda a, i=i: a[i], both), keys[i])
        chosen = jax.tree.map(lambda a, i=i: a[i], together)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), alone, chosen)


def test_its_mean_is_the_gradient(x64):
    """Of a quadratic the smoothed loss has the same gradient; of a step function it has that of the
    normal distribution."""
    value = point()
    step = lambda v: jnp.where(v["y"] > 0, 3.0, 0.0)  # noqa: E731
    density = 3 * np.exp(-0.5) / (0.5 * np.sqrt(2 * np.pi))  # at y = sigma = 1/2
    exact = jax.jit(jax.grad(quadratic))(value)

    @jax.jit
    @jax.vmap
    def estimates(key):
        ask = lambda loss: nx.evolution_gradient(loss, value, key, nx.ES(0.5), 4)[1]  # noqa: E731
        return ask(quadratic), ask(step)["y"]

    smooth, rough = estimates(jax.random.split(jax.random.key(0), 4000))
    for found, right in ((smooth["x"], exact["x"]), (smooth["y"], exact["y"]), (rough, density)):
        error = np.std(found, axis=0) / np.sqrt(len(found))
        assert (np.abs(np.mean(found, axis=0) - right) < 3 * error).all()
        assert (error < 0.05).all()


def test_a_response_is_followed_and_optax_takes_the_gradient():
    """The rate of an inner descent with two steps, whose loss is rounded to whole numbers."""

    def loss(slow):
        inner = lambda rate, w: jnp.sum((w - 3) ** 2) / 2  # noqa: E731
        end = nx.best_response(inner, lambda s: optax.sgd(s["rate"]), 2)(slow, jnp.zeros(8))
        return jnp.round(jnp.sum((end - 3) ** 2))

    slow = {"rate": jnp.asarray(0.2, jnp.bfloat16), "name": "a", "count": 3}
    value, gradient = jax.jit(
        lambda rate: nx.evolution_gradient(
            lambda s: loss({**s, "rate": s["rate"].astype(jnp.float32)}),
            {**slow, "rate": rate}, jax.random.key(0), nx.ES(0.05), 8192,
        )
    )(slow["rate"])  # fmt: skip
    assert gradient["name"] is None and gradient["count"] is None
    assert gradient["rate"].dtype == jnp.bfloat16 and value.dtype == jnp.float32
    # 72 (1 - rate)^4, smoothed; three standard errors are 3 sqrt(2 / 8192) of it.
    exact = -288 * 0.8**3 - 1728 * 0.8 * 0.05**2 / 2
    assert float(gradient["rate"]) == pytest.approx(exact, rel=0.05)
    optimizer = optax.sgd(1e-3)
    updates, _ = optimizer.update(gradient, optimizer.init({**gradient}))
    assert float(updates["rate"]) > 0


def test_a_pair_that_fails_counts_for_nothing():
    broken = lambda v: jnp.where(v > 0, jnp.inf, 2 * v)  # noqa: E731
    estimate = jax.jit(lambda *given: nx.evolution_gradient(broken, *given, nx.ES(0.1)))
    value, gradient = estimate(jnp.zeros(()), jax.random.key(0))
    assert np.isinf(value) and gradient == 0


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"flow": nx.PES(0.2)}, ValueError, r"PES\(0\.2\) remembers.*use ES\(0\.2\), or.*a nest"),
        ({"flow": nx.Unroll()}, TypeError, "flow must be an evolution strategy"),
        ({"pairs": 0}, ValueError, "pairs must be an integer of at least 1, got 0"),
        ({"key": 3}, ValueError, r"key must be a key, such as jax\.random\.key\(0\), got 3"),
        ({"key": jax.random.split(jax.random.key(0))}, ValueError, "key must be a key"),
        ({"value": 1.0}, ValueError, "nothing in value can be perturbed"),
        ({"value": jnp.ones(2) * 1j}, ValueError, "ES perturbs real numbers"),
        ({"loss": lambda v: v}, TypeError, r"a real scalar, got an array of shape \(2,\)"),
        ({"loss": lambda v: (jnp.sum(v), 1)}, TypeError, "a real scalar, got a tuple"),
        ({"loss": lambda v: jnp.sum(v) * 1j}, TypeError, "a real scalar, got .*complex64"),
    ],
)
def test_what_makes_no_sense_is_refused(change, error, message):
    arguments = {"loss": jnp.sum, "value": jnp.ones(2), "key": jax.random.key(0), "flow": nx.ES(1)}
    with pytest.raises(error, match=message):
        nx.evolution_gradient(**{**arguments, **change})
