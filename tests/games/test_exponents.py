"""Finite-time Lyapunov exponents."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from references.games_exponents import (
    differences,
    exact_exponents,
    published,
    slope,
    stencil,
)

import nestax as nx

exponents = nx.games.lyapunov_exponents
LOSS = np.array([[1.0, -1.0], [-1.0, 1.0]])


def pennies(rate):
    def loss(x, y):
        p, q = jax.nn.sigmoid(x), jax.nn.sigmoid(y)
        return jnp.stack([p, 1 - p]) @ LOSS @ jnp.stack([q, 1 - q])

    return nx.games.descent(nx.games.joint_field((loss, lambda x, y: -loss(x, y))), rate)


def curved(weights, x):
    return jnp.tanh(weights @ x) + 0.3 * x


def jacobians(weights, x, steps):
    """Those of `curved` along a run."""
    found = []
    for _ in range(steps):
        y = np.tanh(weights @ x)
        found.append((1 - y**2)[:, None] * weights + 0.3 * np.eye(len(x)))
        x = y + 0.3 * x
    return found


def orthogonal(rng, n):
    return np.linalg.qr(rng.normal(size=(n, n)))[0]


def test_linear_maps_of_any_scale(x64):
    """Against exact arithmetic: general, normal, ill-scaled over 32 steps to 1e-200, with repeated
    values in a bad order, far from normal, and singular."""
    rng = np.random.default_rng(0)
    turn, steps = orthogonal(rng, 4), 32
    matrices = np.stack(
        [
            rng.normal(size=(4, 4)),
            turn @ np.diag([3.0, -2.0, 0.5, 0.1]) @ turn.T,
            turn @ np.diag([1.0, 1e-2, 1e-4, 10**-6.25]) @ turn.T,
            np.diag([1e-200, 1.0, 1e200, 1.0]),
            np.triu(rng.normal(size=(4, 4)), 1) * 1e3 + np.diag([0.1, 3.0, 2.0, 2.0]),
            np.diag([0.5, 2.0, 0.0, 1.0]) @ turn,
            np.zeros((4, 4)),
        ]
    )
    x = np.ones(4)
    found = jax.jit(jax.vmap(lambda a: exponents(lambda x: a @ x, x, steps)))(matrices)
    for matrix, one in zip(matrices, found, strict=True):
        np.testing.assert_allclose(one, exact_exponents([matrix] * steps), atol=1e-10)
    np.testing.assert_allclose(found[1], np.log([3.0, 2.0, 0.5, 0.1]), atol=1e-12)

    plain = lambda a, steps: exponents(lambda x: a @ x, x, steps, method="product")  # noqa: E731
    short, long = jax.jit(jax.vmap(lambda a: (plain(a, 2), plain(a, steps))))(matrices)
    np.testing.assert_allclose(short[0], exact_exponents([matrices[0]] * 2), atol=1e-9)
    known = np.isfinite(long)
    assert known[1].tolist() == [True, True, False, False]  # the others are not resolved
    assert not np.isinf(long).any()
    np.testing.assert_allclose(long[known], found[known], atol=1e-9)


def test_gradients_equal_differences(x64):
    """With respect to the start and to what the map closes over, in both modes; the second
    derivative is refused or right."""
    rng = np.random.default_rng(1)
    weights, x = rng.normal(size=(3, 3)), rng.normal(size=3)
    point, h = np.concatenate([x, weights[:1].ravel()]), 1e-4

    def of(point, method="qr"):
        changed = jnp.concatenate([point[None, 3:], weights[1:]])
        return exponents(lambda x: curved(changed, x), point[:3], 3, method=method)

    def looked_at(point):
        forward = jax.jvp(of, (point,), (jnp.ones(6),))[1]
        product = lambda p: of(p, "product")  # noqa: E731
        return of(point), product(point), jax.jacrev(of)(point), forward

    found = jax.jit(jax.vmap(looked_at))(stencil(point, h))
    values, products, slopes, forward = (np.asarray(a) for a in found)
    np.testing.assert_allclose(values[0], exact_exponents(jacobians(weights, x, 3)), atol=1e-12)
    np.testing.assert_allclose(products, values, atol=1e-9)
    np.testing.assert_allclose(slopes[0], slope(values, h), atol=1e-7)
    np.testing.assert_allclose(forward, slopes.sum(-1), atol=1e-10)
    second = jax.jit(jax.jacfwd(jax.grad(lambda p: of(p, "product")[0])))(point)
    np.testing.assert_allclose(second, slope(slopes[:, 0], h), atol=1e-6)
    again = jax.hessian(of), jax.hessian(lambda p: of(jnp.concatenate([x, p])))
    for twice, at in zip(again, (point, point[3:]), strict=True):  # the closure alone, too
        with pytest.raises(TypeError, match="cannot be differentiated again; use method"):
            jax.make_jaxpr(twice)(at)


def test_gradient_of_a_singular_map(x64):
    """Two exponents are -inf, without a NaN; of equal ones the sum has the right derivative."""
    rng = np.random.default_rng(2)
    flat, x, h = rng.normal(size=(4, 2)) @ rng.normal(size=(2, 4)), rng.normal(size=4), 1e-5

    def of(x):
        found = exponents(lambda x: jnp.sin(flat @ x), x, 3)
        return jnp.append(found, found[:2].sum())

    values, slopes = jax.jit(jax.vmap(lambda x: (of(x), jax.jacrev(of)(x))))(stencil(x, h))
    assert np.isneginf(values[:, 2:4]).all()
    np.testing.assert_allclose(slopes[0, 4], slope(values[:, 4], h), rtol=1e-6)
    np.testing.assert_array_equal(slopes[:, 2:4], 0)

    double = jax.grad(lambda a: exponents(lambda x: a * x, np.ones(2), 3).sum())(2.0)
    np.testing.assert_allclose(double, 1.0, rtol=1e-12)


def test_matching_pennies(x64):
    """log(1 + rate²/16) at any number of steps for the published exponent, half for the true."""
    rates, x = np.array([0.1, 0.7, 4.0]), (0.0, 0.0)
    squared = np.log(1 + rates**2 / 16)
    for steps in (1, 7):
        found, true = jax.jit(
            jax.vmap(
                lambda rate, n=steps: (
                    nx.games.published_exponent(pennies(rate), x, n),
                    exponents(pennies(rate), x, n),
                )
            )
        )(rates)
        np.testing.assert_allclose(found, squared, rtol=1e-12)
        np.testing.assert_allclose(true, np.stack([squared / 2] * 2, axis=1), rtol=1e-12)


def test_published_exponents(x64):
    """The four variants and their slopes, from the random direction that they begin with."""
    rng = np.random.default_rng(3)
    weights, x, h = rng.normal(size=(3, 3)), rng.normal(size=3), 1e-4
    options = [(d, m) for d in ("first", "each") for m in ("J^T J", "J J^T")]

    def of(x):
        f = lambda x: curved(weights, x)  # noqa: E731
        return jnp.stack(
            [nx.games.published_exponent(f, x, 5, d, matrix=m, iterations=3) for d, m in options]
        )

    values, slopes = jax.jit(jax.vmap(lambda x: (of(x), jax.jacrev(of)(x))))(stencil(x, h))
    np.testing.assert_allclose(slopes[0], slope(values, h), atol=1e-8)
    start = np.asarray(jax.random.normal(jax.random.key(0), (3,), jnp.float64))
    expected = [published(jacobians(weights, x, 5), start, d, m, 3) for d, m in options]
    np.testing.assert_allclose(values[0], expected, atol=1e-12)
    assert np.isneginf(nx.games.published_exponent(lambda x: 0 * x, x, 2))


def test_leading_exponents_without_a_dense_matrix(x64):
    """Power iteration on 40 numbers: with close values behind the leading ones, and singular. What
    has not converged is NaN."""
    rng = np.random.default_rng(4)
    turn, x = orthogonal(rng, 40), np.ones(40)
    size = np.linspace(1.5, 0.1, 40)
    symmetric = turn @ np.diag(size) @ turn.T
    one_rank = np.outer(rng.normal(size=40), rng.normal(size=40))
    of = lambda a: exponents(lambda x: a @ x, x, 2, k=3)  # noqa: E731
    program = jax.jit(jax.vmap(lambda a: (of(a), jax.grad(lambda a: of(a)[0])(a))))
    found, slope = program(np.stack([symmetric, one_rank]))
    np.testing.assert_allclose(found[0], np.log(size[:3]), atol=1e-10)
    np.testing.assert_allclose(slope[0], np.outer(turn[:, 0], turn[:, 0]) / 1.5, atol=1e-8)
    np.testing.assert_allclose(found[1, 0], exact_rank_one(one_rank), atol=1e-10)
    assert np.isneginf(found[1, 1:]).all()
    hasty = exponents(lambda x: symmetric @ x, x, 2, k=3, sweeps=2)
    assert np.isnan(hasty).all()


def exact_rank_one(matrix):
    return np.log(np.linalg.norm(matrix @ matrix, 2)) / 2


def test_through_implicit_nests(x64):
    """Equal to differences of the map, in values and in gradients."""
    inner = nx.Level(
        "w", lambda v, b: jnp.sum((v["w"] - jnp.sin(v["a"])) ** 2 + v["w"] ** 4 / 9), optax.sgd(0.3)
    )
    loss = lambda v, b: jnp.sum(v["w"] ** 2 + (v["a"] - 1) ** 2 / 2)  # noqa: E731
    outer = lambda flow: nx.Level("a", loss, optax.sgd(0.1, 0.5), every=2, flow=flow)  # noqa: E731
    start = {"w": np.array([0.3]), "a": np.array([0.5])}
    nest = nx.Nest([inner, outer(nx.Implicit(nx.CG(3)))])
    f, x = nest.map(nest.init(start, jax.random.key(0)))
    vector, back = ravel_pytree(x)
    step = jax.jit(lambda v: ravel_pytree(f(back(v)))[0])
    matrices, y, h = [], np.asarray(vector), 1e-3
    for _ in range(2):
        matrices.append(differences(step, y, h))
        y = np.asarray(step(y))

    def of(v):
        found = exponents(f, back(v), 2, k=2)
        return found[0], found

    program = jax.jit(jax.vmap(jax.value_and_grad(of, has_aux=True)))
    (values, found), slopes = program(stencil(np.asarray(vector), h))
    np.testing.assert_allclose(found[0], exact_exponents(matrices)[:2], atol=1e-8)
    np.testing.assert_allclose(slopes[0], slope(values, h), atol=1e-8)

    rough = nx.Nest([inner, outer(nx.FiniteDifference())])
    with pytest.raises(ValueError, match="map: level 'a' has the flow FiniteDifference"):
        rough.map(rough.init(start, jax.random.key(0)))
    state = rough.init(start, jax.random.key(0))
    field = nx.games.joint_field(rough, state)
    with pytest.raises(ValueError, match="joint_field: level 'a' has the flow FiniteDifference"):
        exponents(nx.games.descent(field, 0.1), state.values, 1)
    with pytest.raises(ValueError, match="joint_field: level 'a' has the flow FiniteDifference"):
        nx.games.ridge_rider(field, state.values)


def test_points_of_many_kinds(x64):
    """Complex numbers count as two real ones, other leaves are constants, a nest's values are a
    point, and a run that ends in infinity has NaN for all exponents."""
    x = {"z": 1 + 1j, "count": 3, "none": None, "y": np.float64(1.0)}
    f = lambda x: {**x, "z": 3j * x["z"], "count": x["count"] + 1, "y": 2 * x["y"]}  # noqa: E731
    np.testing.assert_allclose(exponents(f, x, 4), np.log([3.0, 3.0, 2.0]), rtol=1e-12)

    level = nx.Level("w", lambda v, b: jnp.sum(v["w"] ** 2), optax.sgd(0.25))
    nest = nx.Nest([level])
    state = nest.init({"w": np.ones(2)}, jax.random.key(0))
    step = nx.games.descent(nx.games.joint_field(nest, state), 0.25)
    np.testing.assert_allclose(exponents(step, state.values, 2), np.log([0.5] * 2), rtol=1e-12)
    assert np.isnan(exponents(lambda x: x**2, np.array([1e200, 2.0]), 2)).all()


def test_a_leaf_that_is_held_must_not_count(x64):
    """Every step would read the first value of a counter or key, without a word; functions among
    the leaves, and leaves that come back through `jit` as they were, are nothing to refuse."""
    x = {"y": 1.0, "n": jnp.array(2), "f": jnp.sin}
    step = lambda x: {"y": x["y"] * x["n"], "n": x["n"], "f": x["f"]}  # noqa: E731
    inner = jax.jit(lambda y, n: (n * y, n))
    through_jit = lambda x: {**x, **dict(zip("yn", inner(x["y"], x["n"]), strict=True))}  # noqa: E731
    for f in (step, through_jit):
        np.testing.assert_allclose(exponents(f, x, 3), np.log([2.0]), rtol=1e-12)
    counts = lambda x: {**step(x), "n": x["n"] + 1}  # noqa: E731
    for f in (counts, jax.jit(lambda x: {"y": x["y"] * x["n"], "n": x["n"] + 1})):
        with pytest.raises(ValueError, match=r"exponents: f changes x\['n'\], which is no float"):
            exponents(f, x if f is counts else {"y": 1.0, "n": 2}, 3)


def test_long_runs_in_float32():
    """The product would overflow after a few of these steps."""
    found = exponents(lambda x: jnp.array([1e20, 1e-3]) * x * 1e-20, jnp.ones(2), 50)
    np.testing.assert_allclose(found, np.log([1.0, 1e-23]), rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((lambda x: (x, x), 1.0, 1), {}, "lyapunov_exponents: f returns another structure"),
        ((lambda x: x[:1], np.ones(2), 1), {}, "f returns another shape or dtype"),
        ((abs, np.array([1.0, np.inf]), 1), {}, "x has an infinite or NaN number"),
        ((lambda x: x, {"n": 1}, 1), {}, "x has no floating-point array that moves"),
        ((abs, jnp.ones(2, jnp.bfloat16), 1), {}, "x is bfloat16; give float32 or float64"),
        ((abs, 1.0, 0), {}, "steps is a whole number of at least 1, got 0"),
        ((abs, 1.0, True), {}, "steps is a whole number of at least 1, got True"),
        ((abs, np.ones(2), 1, 3), {}, "k is at most the 2 numbers that move in x, got 3"),
        ((abs, np.ones(2), 1, 0), {}, "k is a whole number of at least 1, got 0"),
        ((abs, 1.0, 1), {"method": "svd"}, "method is 'qr' or 'product', got 'svd'"),
        ((abs, 1.0, 1), {"sweeps": 1}, "sweeps is a whole number of at least 2, got 1"),
    ],
)
def test_what_is_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        exponents(*arguments, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"direction": "last"}, "direction is 'first' or 'each', got 'last'"),
        ({"matrix": "JJ"}, r"matrix is 'J\^T J' or 'J J\^T', got 'JJ'"),
        ({"iterations": 0}, "iterations is a whole number of at least 1, got 0"),
    ],
)
def test_what_the_published_one_refuses(options, message):
    with pytest.raises(ValueError, match=f"published_exponent: {message}"):
        nx.games.published_exponent(abs, 1.0, 1, **options)
