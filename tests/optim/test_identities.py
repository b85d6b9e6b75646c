"""That optimizers are memories: each one's step is the step of the objective it is said to have."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

from nestax import optim
from nestax.optim._kronecker import inverse_root as _inverse_root
from nestax.optim._matrices import largest_eigenvalue

EXACT = {"rtol": 1e-10, "atol": 1e-12}


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def walk(tx, stream, start=None):
    """Weights after each gradient of a stream, and the last state."""
    p = jnp.zeros_like(stream[0]) if start is None else start
    state, seen, update = tx.init(p), [], jax.jit(tx.update)
    for g in stream:
        u, state = update(g, state, p)
        p = optax.apply_updates(p, u)
        seen.append(p)
    return seen, state


def memories(tx, stream):
    """The memory after each gradient of a transformation without learning rate."""
    state, seen, update = tx.init(stream[0]), [], jax.jit(tx.update)
    for g in stream:
        _, state = update(g, state, stream[0])
        seen.append(state[0].memory)
    return seen


# Gradient descent, weights and memories alike.


def test_gradient_descent_is_the_proximal_point_of_the_linearised_loss(x64):
    w, delta, x, rate = draw(3, 4), draw(3, seed=1), draw(4, seed=2), 0.3
    gradient = jnp.outer(delta, x)
    ((new,), _) = walk(optim.gradient_descent(rate), [gradient], w)

    def objective(v):
        return jnp.vdot(v @ x, delta) + jnp.sum((v - w) ** 2) / (2 * rate)

    np.testing.assert_allclose(jax.grad(objective)(new), np.zeros((3, 4)), atol=1e-12)


def test_fixed_gradients_follow_the_regularised_leader(x64):
    w, stream, rate = draw(5), [draw(5, seed=s) for s in range(1, 7)], 0.2
    seen, _ = walk(optim.gradient_descent(rate), stream, w)

    def objective(v):
        return sum(jnp.vdot(g, v) for g in stream) + jnp.sum((v - w) ** 2) / (2 * rate)

    np.testing.assert_allclose(jax.grad(objective)(seen[-1]), np.zeros(5), atol=1e-12)


@pytest.mark.parametrize(
    "objective, rate, expected",
    [
        # linear attention; the delta rule with half the square and with the square; Oja's rule
        (lambda m, k, v: -jnp.vdot(m @ k, v), 1.0, lambda m, k, v: m + jnp.outer(v, k)),
        (
            lambda m, k, v: jnp.sum((m @ k - v) ** 2) / 2,
            0.3,
            lambda m, k, v: m @ (jnp.eye(4) - 0.3 * jnp.outer(k, k)) + 0.3 * jnp.outer(v, k),
        ),
        (
            lambda m, k, v: jnp.sum((m @ k - v) ** 2),
            0.3,
            lambda m, k, v: m @ (jnp.eye(4) - 0.6 * jnp.outer(k, k)) + 0.6 * jnp.outer(v, k),
        ),
        (
            lambda m, k, v: -2 * jnp.vdot(m @ k, v) + jnp.sum((m.T @ v) ** 2),
            0.5,
            lambda m, k, v: m + jnp.outer(v, k - m.T @ v),
        ),
    ],
    ids=["hebbian", "delta", "delta, full square", "oja"],
)
def test_memories_of_sequences_are_gradient_descent(x64, objective, rate, expected):
    m, k, v = draw(3, 4), draw(4, seed=1), draw(3, seed=2)
    ((new,), _) = walk(optim.gradient_descent(rate), [jax.grad(objective)(m, k, v)], m)
    np.testing.assert_allclose(new, expected(m, k, v), **EXACT)


def test_softmax_attention_is_the_minimiser_of_weighted_squares(x64):
    values, scores = draw(6, 3), jax.nn.softmax(draw(6, seed=1))
    answer = scores @ values

    def objective(m):
        return jnp.sum(scores * jnp.sum((values - m[None]) ** 2, axis=1))

    np.testing.assert_allclose(jax.grad(objective)(answer), np.zeros(3), atol=1e-12)


# Momentum.


@pytest.mark.parametrize("decay", [0.0, 0.7, 1.0])
def test_momentum_is_a_step_on_its_inner_objective(x64, decay):
    eta, stream = 0.3, [draw(4, 3, seed=s) for s in range(6)]
    tx = optim.associative_momentum(1.0, decay=decay, inner_learning_rate=eta)
    old = jnp.zeros((4, 3))
    for g, new in zip(stream, memories(tx, stream), strict=True):

        def objective(m, g=g):
            return jnp.vdot(m, g) + (1 - decay) / (2 * eta) * jnp.sum(m**2)

        np.testing.assert_allclose(new, old - eta * jax.grad(objective)(old), **EXACT)
        old = new
    if decay == 1.0:
        np.testing.assert_allclose(old, -eta * sum(stream), **EXACT)


def test_momentum_from_parts_is_optaxs_bit_for_bit():
    stream = [draw(4, 3, seed=s) for s in range(6)]
    ours, _ = walk(optim.associative_momentum(0.1), stream)
    for name in ("sgd", "nestax"):
        tx = optax.sgd(0.1, momentum=0.9) if name == "sgd" else optim.momentum(0.1)
        theirs, _ = walk(tx, stream)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)


def test_how_many_gradients_momentum_holds(x64):
    """Of weights (1 - b) b^i at b = 0.9 half lies in the last 7 and 99 % in the last 44."""
    weights = 0.1 * 0.9 ** np.arange(400)
    held = np.cumsum(weights)
    assert np.argmax(held >= 0.5) + 1 == 7
    assert np.argmax(held >= 0.99) + 1 == 44
    stream = [jnp.eye(60)[i] for i in range(60)]
    last = memories(optim.associative_momentum(1.0, inner_learning_rate=0.1), stream)[-1]
    np.testing.assert_allclose(-last[::-1], weights[:60], **EXACT)


# Delta momentum.


def preconditioner(rows, seed=9):
    p = draw(rows, rows, seed=seed)
    return p @ p.T / rows + jnp.eye(rows)


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4,), (2, 3, 2)])
@pytest.mark.parametrize("block", [None, 64])
def test_delta_momentum_as_published_but_for_its_errors(x64, shape, block):
    """m (decay I - eta g'g) - eta P g is a gradient step on |m g' + P|^2 / 2 and the decay's."""
    decay, eta = 0.8, 0.05
    stream = [draw(*shape, seed=s) for s in range(5)]
    rows, p = shape[0], preconditioner(shape[0])
    tx = optim.delta_momentum(
        1.0,
        decay,
        eta,
        normalize="none",
        preconditioner=lambda k: p @ k,
        block=block,
        axes="kernel",
    )
    old = jnp.zeros((rows, np.prod(shape[1:], dtype=int)))
    for g, new in zip(stream, memories(tx, stream), strict=True):
        assert new.shape == shape
        g = g.reshape(rows, -1)

        def objective(m, g=g):
            return jnp.sum((m @ g.T + p) ** 2) / 2 + (1 - decay) / (2 * eta) * jnp.sum(m**2)

        stepped = old - eta * jax.grad(objective)(old)
        np.testing.assert_allclose(new.reshape(rows, -1), stepped, **EXACT)
        closed = old @ (decay * jnp.eye(g.shape[1]) - eta * g.T @ g) - eta * p @ g
        np.testing.assert_allclose(new.reshape(rows, -1), closed, **EXACT)
        old = stepped


def test_delta_momentum_settles_at_the_minimiser_of_its_objective(x64):
    """Shown one gradient again and again, against a numerical minimiser."""
    decay, eta, g, p = 0.9, 0.05, draw(3, 4), preconditioner(3)
    tx = optim.delta_momentum(1.0, decay, eta, normalize="none", preconditioner=lambda k: p @ k)

    def objective(m):
        m = m.reshape(3, 4)
        return jnp.sum((m @ g.T + p) ** 2) / 2 + (1 - decay) / (2 * eta) * jnp.sum(m**2)

    found = scipy.optimize.minimize(
        jax.jit(jax.value_and_grad(objective)), np.zeros(12), jac=True, method="BFGS", tol=1e-12
    )
    last = memories(tx, [g] * 400)[-1]
    np.testing.assert_allclose(last.ravel(), found.x, atol=1e-7)
    assert jnp.vdot(last, g) < 0  # downhill


def test_delta_momentum_is_the_gated_delta_rule(x64):
    """Rank-one gradients d k' are pairs of a sequence: S <- a S (I - b k k') + b v' k' with
    b = eta / a and v' = -a d, for unit k: what runs Hope's linear memory runs this optimizer."""
    a, eta = 0.9, 0.4
    keys = [k / jnp.linalg.norm(k) for k in (draw(4, seed=s) for s in range(6))]
    errors = [draw(3, seed=50 + s) for s in range(6)]
    errors = [d / jnp.linalg.norm(d) for d in errors]
    stream = [jnp.outer(d, k) for d, k in zip(errors, keys, strict=True)]
    s, b = jnp.zeros((3, 4)), eta / a
    tx = optim.delta_momentum(1.0, a, eta, normalize="none")
    for d, k, found in zip(errors, keys, memories(tx, stream), strict=True):
        s = a * s @ (jnp.eye(4) - b * jnp.outer(k, k)) + b * jnp.outer(-a * d, k)
        np.testing.assert_allclose(found, s, **EXACT)


@pytest.mark.parametrize("shape", [(3, 5), (5, 3)])
def test_spectral_delta_momentum_erases_with_unit_keys(x64, shape):
    """One direction: the bound on the spectral norm is exact, and the formula can be written."""
    decay, eta = 0.8, 1.3
    stream = [jnp.outer(draw(shape[0], seed=s), draw(shape[1], seed=50 + s)) for s in range(5)]
    old = jnp.zeros(shape)
    for g, new in zip(stream, memories(optim.delta_momentum(1.0, decay, eta), stream), strict=True):
        k = g / jnp.linalg.norm(g, 2)
        old = decay * old - eta * old @ k.T @ k - eta * g
        np.testing.assert_allclose(new, old, **EXACT)


@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("normalize", ["spectral", "none"])
def test_blocks_are_memories_of_their_own(x64, block, normalize):
    stream = [draw(11, 9, seed=s).at[2].set(0.0) for s in range(4)]
    given = {"normalize": normalize, "inner_learning_rate": 0.1}
    together = memories(optim.delta_momentum(1.0, block=block, **given), stream)
    for first in range(0, 11, block):
        rows = slice(first, min(first + block, 11))
        alone = memories(optim.delta_momentum(1.0, block=None, **given), [g[rows] for g in stream])
        for a, b in zip(together, alone, strict=True):
            np.testing.assert_allclose(a[rows], b, **EXACT)


@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
def test_spectral_delta_momentum_is_bounded_at_any_scale(scale):
    """The step's eigenvalues are at most one in modulus for the largest admissible eta."""
    tx = optim.delta_momentum(1.0, 0.9, 1.9)
    g = scale * draw(30, 20).astype(jnp.float32)

    @jax.jit
    def run(g):
        def step(state, _):
            u, state = tx.update(g, state)
            return state, jnp.max(jnp.abs(u))

        return jax.lax.scan(step, tx.init(g), length=500)[1]

    assert np.max(run(g)) < 25 * np.max(np.abs(g))


def test_published_delta_momentum_blows_up_on_large_gradients():
    """Why the keys are normalized by default."""
    tx = optim.delta_momentum(1.0, normalize="none")
    seen, _ = walk(tx, [10 * draw(6, 5).astype(jnp.float32)] * 5)
    assert float(jnp.max(jnp.abs(seen[-1]))) > 1e8


@pytest.mark.parametrize("n", [1, 2, 7, 64])
def test_bound_on_the_largest_eigenvalue(x64, n):
    a = draw(n, n + 3)
    gram = a @ a.T
    top = float(jnp.linalg.eigvalsh(gram)[-1])
    assert top * (1 - 1e-12) <= float(largest_eigenvalue(gram)) <= top * n ** (1 / 32) + 1e-12
    equal = float(largest_eigenvalue(jnp.eye(n)))
    assert equal == pytest.approx(n ** (1 / 32), rel=1e-12)
    assert float(largest_eigenvalue(jnp.zeros((n, n)))) == 0


# Adam and AdaGrad.


def test_adam_with_equal_rates_is_a_ridge_optimum(x64):
    """m of sum_i w_i (m g_i - P)^2 with w_i = (1 - b) b^(t-i) / (1 - b^t), P = sqrt(v)."""
    b, stream = 0.8, [draw(5, seed=s) for s in range(7)]
    tx = optax.scale_by_adam(b, b, eps=0.0)
    state = tx.init(stream[0])
    for g in stream:
        direction, state = tx.update(g, state)
    t = len(stream)
    weights = np.array([(1 - b) * b ** (t - 1 - i) / (1 - b**t) for i in range(t)])
    stacked = np.stack(stream)
    target = np.sqrt(np.sum(weights[:, None] * stacked**2, axis=0))

    def objective(m):
        return jnp.sum(weights[:, None] * (m[None] * stacked - target[None]) ** 2)

    np.testing.assert_allclose(jax.grad(objective)(direction), np.zeros(5), atol=1e-12)


def test_adagrad_with_momentum_is_the_undecayed_ridge_optimum(x64):
    """m of sum_i (m g_i - P)^2 with P = sqrt(H), H = sum g^2, is H^-1 H^(1/2) sum g: the sum of
    gradients, which momentum that decays nothing holds, preconditioned as AdaGrad does."""
    stream = [draw(5, seed=s) for s in range(6)]
    held = -memories(optim.associative_momentum(1.0, decay=1.0), stream)[-1]
    adagrad = optax.scale_by_rss(initial_accumulator_value=0.0, eps=0.0)
    state = adagrad.init(stream[0])
    for g in stream:
        _, state = adagrad.update(g, state)
    h = state.sum_of_squares
    direction = held / jnp.sqrt(h)

    def objective(m):
        return sum(jnp.sum((m * g - jnp.sqrt(h)) ** 2) for g in stream)

    np.testing.assert_allclose(jax.grad(objective)(direction), np.zeros(5), atol=1e-12)


# Newton-Schulz, Muon, M3.


@pytest.mark.parametrize("shape", [(4, 4), (3, 6), (6, 3)])
def test_cubic_newton_schulz_descends_the_orthogonality_objective(x64, shape):
    o = draw(*shape)
    o = o / jnp.linalg.norm(o)

    def objective(o):
        return jnp.sum((o.T @ o - jnp.eye(shape[1])) ** 2)

    step = o - jax.grad(objective)(o) / 8
    np.testing.assert_allclose(optim.newton_schulz(o, 1, "cubic"), step, **EXACT)
    np.testing.assert_allclose(step, 1.5 * o - 0.5 * o @ o.T @ o, **EXACT)


@pytest.mark.parametrize("shape", [(5, 5), (4, 7), (7, 4), (6, 1)])
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_newton_schulz_finds_the_nearest_orthogonal_matrix(x64, shape, scale):
    m = draw(*shape)
    u, _, v = jnp.linalg.svd(m, full_matrices=False)
    found = optim.newton_schulz(scale * m, 40, "cubic")
    np.testing.assert_allclose(found, u @ v, atol=1e-9)
    for size, least in (((64, 96), 0.0), ((64, 64), 0.05)):  # a square one has small values
        singular = jnp.linalg.svd(optim.newton_schulz(scale * draw(*size), 5), compute_uv=False)
        assert float(jnp.quantile(singular, least)) > 0.6 and float(jnp.max(singular)) < 1.25


def test_newton_schulz_leaves_zero_at_zero():
    assert not np.any(optim.newton_schulz(jnp.zeros((3, 4))))


def test_linear_memory_read_through_newton_schulz_is_muon(x64):
    stream = [draw(5, 8, seed=s) for s in range(5)]
    tx = optax.contrib.scale_by_muon(nesterov=False, eps=0.0, mu_dtype=jnp.float64)
    ours = optim.associative_momentum(1.0, decay=0.95, readout=optim.newton_schulz)
    state, mine = tx.init(stream[0]), ours.init(stream[0])
    update, write = jax.jit(tx.update), jax.jit(ours.update)
    for g in stream:
        theirs, state = update(g, state)
        found, mine = write(g, mine)
        np.testing.assert_allclose(found, -theirs, **EXACT)


@pytest.mark.parametrize("shape", [(16, 4), (4, 16)])
@pytest.mark.parametrize("layout", ["out_in", "in_out"])
def test_muons_steps_have_the_spectral_norm_of_their_layout(shape, layout):
    g = draw(*shape).astype(jnp.float32)
    tx = optim.muon(1.0, layout=layout)
    update, _ = tx.update(g, tx.init(g), g)
    out, fan_in = shape if layout == "out_in" else shape[::-1]
    expected = max(1.0, out / fan_in) ** 0.5
    assert float(jnp.linalg.norm(update, 2)) == pytest.approx(expected, rel=0.25)


def naive_m3(stream, period, b1, b2, b3, alpha, read, eps, literal):
    fast, slow, second, o2, seen = 0.0, 0.0, 0.0, 0.0, []
    for t, g in enumerate(stream):
        if t and t % period == 0:
            chunk = sum(stream[t - period : t])
            slow = slow + b3 * chunk if literal else b3 * slow + (1 - b3) * chunk / period
            o2 = read(slow)
        fast = fast + b1 * g if literal else b1 * fast + (1 - b1) * g
        u = read(fast) + alpha * o2
        if literal:
            second = second + b2 * g**2
            seen.append(-u / np.sqrt(second + eps))
        else:
            second = b2 * second + (1 - b2) * u**2
            seen.append(-u / (np.sqrt(second / (1 - b2 ** (t + 1))) + eps))
    return seen


@pytest.mark.parametrize("literal", [False, True])
@pytest.mark.parametrize("steps", [0, 3])
def test_m3_is_its_algorithm(x64, literal, steps):
    stream = [draw(4, 6, seed=s) for s in range(11)]
    given = {"fast": 0.7, "second": 0.9, "slow": 0.6, "slow_weight": 0.4, "eps": 1e-6}
    tx = optim.m3(1.0, **given, period=3, steps=steps, coefficients="cubic", literal=literal)

    def read(m):
        return optim.newton_schulz(m, steps, "cubic") if steps else m

    expected = naive_m3(stream, 3, 0.7, 0.9, 0.6, 0.4, read, 1e-6, literal)
    state, update = tx.init(stream[0]), jax.jit(tx.update)
    for g, wanted in zip(stream, expected, strict=True):
        found, state = update(g, state)
        np.testing.assert_allclose(found, wanted, **EXACT)


def test_m3s_slow_memory_speaks_only_after_its_first_chunk(x64):
    stream = [draw(4, 6, seed=s) for s in range(9)]
    without, _ = walk(optim.m3(0.1, period=4, slow_weight=0.0), stream)
    with_slow, _ = walk(optim.m3(0.1, period=4, slow_weight=0.9), stream)
    for t in range(4):
        np.testing.assert_array_equal(without[t], with_slow[t])
    assert np.max(np.abs(without[4] - with_slow[4])) > 1e-3


def test_m3_without_slow_memory_and_newton_schulz_has_a_closed_form(x64):
    """As printed: -rate b1 (sum g) / sqrt(b2 (sum g^2) + eps)."""
    stream = [draw(4, seed=s) for s in range(6)]
    tx = optim.m3(0.2, fast=0.9, second=0.5, slow_weight=0.0, steps=0, eps=1e-3, literal=True)
    state = tx.init(stream[0])
    for g in stream:
        u, state = tx.update(g, state)
    squares = sum(g**2 for g in stream)
    np.testing.assert_allclose(
        u, -0.2 * 0.9 * sum(stream) / jnp.sqrt(0.5 * squares + 1e-3), **EXACT
    )


# Preconditioners.


def test_diagonal_preconditioner_is_rmsprops(x64):
    stream = [draw(4, 3, seed=s) for s in range(6)]
    ours, _ = walk(optim.preconditioned_momentum(0.1, 0.8, statistics_decay=0.9), stream)
    v, m, w = 0.0, 0.0, 0.0
    for t, (g, found) in enumerate(zip(stream, ours, strict=True)):
        v = 0.9 * v + 0.1 * g**2
        m = 0.8 * m - g / (np.sqrt(v / (1 - 0.9 ** (t + 1))) + 1e-6)
        w = w + 0.1 * m
        np.testing.assert_allclose(found, w, **EXACT)


@pytest.mark.parametrize("order", [1, 2])
def test_inverse_roots_have_the_derivative_that_eigenvectors_lack(x64, order):
    """Factors of deficient rank, and with equal eigenvalues, against central differences."""
    root = jax.jit(lambda a, eps: _inverse_root(a, eps, order))
    for side in (draw(4, 2), jnp.diag(jnp.array([2.0, 1.0, 1.0, 1.0])), draw(4, 5)):
        direction = draw(*side.shape, seed=1)

        def factor(h, side=side, direction=direction):
            moved = side + h * direction
            return moved @ moved.T

        def at(h, factor=factor):
            return root(factor(h), 0.1 + h)

        power = np.linalg.matrix_power(np.asarray(at(0.0)), 2 * order)
        ridge = 0.1 * np.linalg.eigvalsh(factor(0.0))[-1] * np.eye(4)
        np.testing.assert_allclose(power @ (factor(0.0) + ridge), np.eye(4), **EXACT)
        slope = jax.jvp(at, (0.0,), (1.0,))[1]
        np.testing.assert_allclose(slope, (at(1e-5) - at(-1e-5)) / 2e-5, rtol=1e-6, atol=1e-8)
    np.testing.assert_array_equal(jax.jacrev(root)(jnp.zeros((4, 4)), 0.1), 0)


@pytest.mark.parametrize("shape, largest", [((4, 3), 9), ((4, 3), 3), ((4,), 9), ((), 9)])
def test_kronecker_preconditioner_is_shampoos(x64, shape, largest):
    stream = [draw(*shape, seed=s) for s in range(7)]
    tx = optim.preconditioned_momentum(
        0.1, 0.8, "kronecker", statistics_decay=0.9, period=3, largest=largest, eps=1e-3
    )
    ours, _ = walk(tx, stream)

    def power(a, exponent):
        values, vectors = np.linalg.eigh(a)
        values = np.maximum(values, 0)
        return vectors @ np.diag((values + 1e-3 * values.max()) ** exponent) @ vectors.T

    rows, columns = (shape[0] if shape else 1), (shape[1] if len(shape) > 1 else 1)
    sides = (1 < rows <= largest) + (1 < columns <= largest)
    left, right, square, m, w = 0.0, 0.0, 0.0, 0.0, 0.0
    for t, (g, found) in enumerate(zip(stream, ours, strict=True)):
        g = np.asarray(g).reshape(rows, columns)
        left, right = 0.9 * left + 0.1 * g @ g.T, 0.9 * right + 0.1 * g.T @ g
        if t % 3 == 0:
            fair = 1 - 0.9 ** (t + 1)
            first = power(left / fair, -0.5 / sides) if 1 < rows <= largest else np.eye(rows)
            other = power(right / fair, -0.5 / sides) if 1 < columns <= largest else np.eye(columns)
        square = 0.9 * square + 0.1 * np.mean(g**2)
        said = first @ g @ other
        size = np.sqrt(np.mean(g**2) / (square / (1 - 0.9 ** (t + 1))))
        m = 0.8 * m - size * said / np.sqrt(np.mean(said**2))
        w = w + 0.1 * m
        np.testing.assert_allclose(found.reshape(rows, columns), w, **EXACT)


def test_any_map_and_any_transformation_precondition(x64):
    stream = [draw(3, 4, seed=s) for s in range(5)]
    p = preconditioner(3)
    ours, _ = walk(optim.preconditioned_momentum(0.1, 0.9, lambda k: p @ k), stream)
    plain, _ = walk(optim.momentum(0.1, 0.9), [p @ g for g in stream])
    np.testing.assert_allclose(ours[-1], plain[-1], **EXACT)
    ours, _ = walk(optim.preconditioned_momentum(0.1, 0.9, optax.scale_by_adam()), stream)
    plain, _ = walk(optax.chain(optax.scale_by_adam(), optax.sgd(0.1, momentum=0.9)), stream)
    np.testing.assert_allclose(ours[-1], plain[-1], **EXACT)


# Parts.


def test_a_users_objective_is_differentiated(x64):
    stream = [draw(3, 4, seed=s) for s in range(4)]
    for name, written in (
        ("dot", lambda m, k, s: jnp.vdot(m, s)),
        ("l2", lambda m, k, s: jnp.sum((m @ k.T) ** 2) / 2 + jnp.vdot(m, s)),
    ):
        given = {"decay": 0.8, "inner_learning_rate": 0.1}
        ours = memories(optim.associative_momentum(1.0, objective=name, **given), stream)
        theirs = memories(optim.associative_momentum(1.0, objective=written, **given), stream)
        np.testing.assert_allclose(ours[-1], theirs[-1], **EXACT)


def test_feature_maps_and_readouts(x64):
    """phi doubles the keys' length; the read-out folds the memory back to the weights' shape."""
    stream = [draw(3, 4, seed=s) for s in range(4)]
    tx = optim.associative_momentum(
        0.5,
        objective="l2",
        features=lambda g: jnp.concatenate([g, g**2], axis=1),
        readout=lambda m: m[:, :4] + 2 * m[:, 4:],
        decay=0.7,
        inner_learning_rate=0.1,
    )
    seen, state = walk(tx, stream)
    m, w = jnp.zeros((3, 8)), jnp.zeros((3, 4))
    for g in stream:
        k = jnp.concatenate([g, g**2], axis=1)
        m = 0.7 * m - 0.1 * (m @ k.T @ k + k)
        w = w + 0.5 * (m[:, :4] + 2 * m[:, 4:])
    np.testing.assert_allclose(seen[-1], w, **EXACT)
    np.testing.assert_allclose(state[0].memory, m, **EXACT)
    bad = optim.associative_momentum(0.5, features=lambda g: jnp.concatenate([g, g], axis=1))
    with pytest.raises(ValueError, match="as many numbers as the tensor"):
        walk(bad, stream)


@pytest.mark.parametrize(
    "make",
    [optim.delta_momentum, optim.m3, lambda r, **k: optim.associative_momentum(
        r, readout=optim.newton_schulz, **k)],
    ids=["delta", "m3", "muon"],
)  # fmt: skip
@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 4, 5)])
def test_layouts(x64, make, shape):
    """A kernel (..., in, out) is updated as its transpose (out, ..., in) is."""
    stream = [draw(*shape, seed=s) for s in range(4)]
    turned = [jnp.moveaxis(g, -1, 0) for g in stream]
    ours, _ = walk(make(0.1, axes="kernel", layout="in_out"), stream)
    theirs, _ = walk(make(0.1, axes="kernel"), turned)
    np.testing.assert_allclose(jnp.moveaxis(ours[-1], -1, 0), theirs[-1], **EXACT)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: optim.associative_momentum(0.1, objective="l1"), 'must be "dot", "l2" or'),
        (lambda: optim.associative_momentum(0.1, decay=1.5), r"decay must be in \[0, 1\]"),
        (lambda: optim.delta_momentum(0.1, inner_learning_rate=-1.0), "inner_learning_rate must"),
        (lambda: optim.delta_momentum(0.1, normalize="frobenius"), 'must be "none" or "spectral"'),
        (lambda: optim.delta_momentum(0.1, block=0), "block must be an int of at least 1"),
        (lambda: optim.delta_momentum(0.1, layout="rows"), 'layout must be "out_in"'),
        (lambda: optim.preconditioned_momentum(0.1, preconditioner="full"), '"kronecker"'),
        (lambda: optim.preconditioned_momentum(0.1, statistics_decay=1.0), r"in \[0, 1\), got 1"),
        (lambda: optim.preconditioned_momentum(0.1, period=0), "period must be an int"),
        (lambda: optim.m3(0.1, period=0), "period must be an int of at least 1"),
        (lambda: optim.m3(0.1, fast=1.0), r"fast must be in \[0, 1\), got 1"),
        (lambda: optim.m3(0.1, slow_weight=-1.0), "slow_weight must"),
        (lambda: optim.m3(0.1, coefficients="septic"), 'must be "quintic", "cubic"'),
        (lambda: optim.newton_schulz(jnp.ones(3)), "expected a matrix"),
        (lambda: optim.newton_schulz(jnp.ones((3, 3)), -1), "steps must be an int of at least 0"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
