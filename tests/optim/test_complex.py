"""Complex momentum against its closed form, its spectrum, and the games it is made for."""

import cmath

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import nestax as nx
from nestax.optim import complex_adam, complex_momentum

ALMOST_POSITIVE = 0.9 * cmath.exp(1j * cmath.pi / 8)
BETAS = [ALMOST_POSITIVE, 0.7 * cmath.exp(3j * cmath.pi / 8), -0.3 + 0.6j, 0.8, -0.5, 0.0]
every_beta = pytest.mark.parametrize("beta", BETAS)


def stream(steps, shape=(3, 2), seed=0):
    return np.random.default_rng(seed).normal(size=(steps, *shape))


def trajectory(tx, gradients):
    """All updates, and the last state, along a stream of gradients of one parameter."""

    def step(state, g):
        updates, state = tx.update(g, state)
        return state, updates

    state = tx.init(jnp.asarray(gradients[0]))
    state, updates = jax.jit(lambda s, g: jax.lax.scan(step, s, g))(state, jnp.asarray(gradients))
    return np.asarray(updates), state


# The memory.


@every_beta
@pytest.mark.parametrize("phase", [0.0, 0.4, -2.0])
def test_closed_form(x64, beta, phase):
    gradients = stream(12)
    updates, _ = trajectory(complex_momentum(0.3, beta, phase=phase), gradients)
    modulus, angle = cmath.polar(beta)
    for t in range(12):
        weights = [modulus**k * np.cos(k * angle + phase) for k in range(t + 1)]
        expected = -0.3 * sum(w * gradients[t - k] for k, w in enumerate(weights))
        np.testing.assert_allclose(updates[t], expected, rtol=1e-10, atol=1e-14)


@every_beta
def test_the_recursion_without_an_imaginary_buffer(x64, beta):
    gradients = stream(12)
    m = trajectory(complex_momentum(0.3, beta), gradients)[0] / 0.3  # Re mu
    re, square = complex(beta).real, abs(beta) ** 2
    for t in range(2, 12):
        expected = 2 * re * m[t - 1] - square * m[t - 2] - gradients[t] + re * gradients[t - 1]
        np.testing.assert_allclose(m[t], expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, -0.4, -1.0])
def test_a_real_beta_is_heavy_ball(x64, beta):
    gradients = stream(15)
    updates, state = trajectory(complex_momentum(0.1, beta), gradients)
    expected, heavy_ball = trajectory(optax.sgd(0.1, momentum=beta), gradients)
    np.testing.assert_allclose(updates, expected, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(state[0].real, heavy_ball[0].trace, rtol=1e-12, atol=1e-15)
    assert not np.any(state[0].imaginary)


def test_every_spelling_of_beta(x64):
    gradients = stream(6)
    expected, _ = trajectory(complex_momentum(0.1, ALMOST_POSITIVE), gradients)
    spellings = [
        np.complex128(ALMOST_POSITIVE),
        np.asarray(ALMOST_POSITIVE)[()],
        jnp.asarray(ALMOST_POSITIVE, jnp.complex128),
        (0.9, cmath.pi / 8),
        (jnp.asarray(0.9), cmath.pi / 8),
        (0.9, np.float64(cmath.pi / 8)),
    ]
    for beta in spellings:
        updates, _ = trajectory(complex_momentum(0.1, beta), gradients)
        np.testing.assert_allclose(updates, expected, rtol=1e-12)
    negative, _ = trajectory(complex_momentum(0.1, (0.9, cmath.pi)), gradients)
    np.testing.assert_allclose(
        negative, trajectory(complex_momentum(0.1, -0.9), gradients)[0], rtol=1e-10
    )


def test_a_pair_can_be_traced(x64):
    """Over a grid of betas at once, and as hyperparameters that change on the way."""
    gradients = jnp.asarray(stream(6))

    def run(modulus, angle):
        tx = complex_momentum(0.1, (modulus, angle), phase=angle / 2)
        return jax.lax.scan(lambda s, g: tx.update(g, s)[::-1], tx.init(gradients[0]), gradients)[1]

    angles = np.linspace(0, np.pi, 5)
    together = jax.jit(jax.vmap(run, in_axes=(None, 0)))(jnp.asarray(0.8), jnp.asarray(angles))
    for angle, updates in zip(angles, together, strict=True):
        tx = complex_momentum(0.1, cmath.rect(0.8, angle), phase=float(angle / 2))
        np.testing.assert_allclose(updates, trajectory(tx, gradients)[0], rtol=1e-10, atol=1e-14)

    injected = optax.inject_hyperparams(
        lambda rate, modulus, angle: complex_momentum(rate, (modulus, angle))
    )(rate=0.1, modulus=0.9, angle=lambda count: cmath.pi / 8 * count)
    w = gradients[0]
    state = injected.init(w)
    first, state = injected.update(w, state, w)
    second, _ = injected.update(w, state, w)
    np.testing.assert_allclose(first, -0.1 * w, rtol=1e-10)
    np.testing.assert_allclose(second, -0.1 * w * (1 + 0.9 * np.cos(np.pi / 8)), rtol=1e-10)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("make", [complex_momentum, complex_adam])
def test_buffers_keep_single_precision_whatever_betas_is(x64, make, dtype):
    beta = jnp.asarray(ALMOST_POSITIVE, jnp.complex128)
    tx = make(0.1, beta)
    p = {"w": jnp.ones(3, dtype), "s": jnp.ones((), dtype)}
    state = tx.init(p)
    for _ in range(2):
        updates, state = tx.update(p, state, p)
    floating = [x.dtype for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert set(floating) == {jnp.dtype(jnp.float32)}
    assert {x.dtype for x in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}


# The spectrum.


def printed_map(jacobian, alpha, beta):
    """R of the paper, on (Re mu, Im mu, omega)."""
    n = len(jacobian)
    one, zero = np.eye(n), np.zeros((n, n))
    return np.block(
        [
            [beta.real * one, -beta.imag * one, -jacobian],
            [beta.imag * one, beta.real * one, zero],
            [
                (alpha * beta).real * one,
                -(alpha * beta).imag * one,
                one - alpha.real * jacobian,
            ],
        ]
    )


def radius(eigenvalues, alpha, beta):
    """The largest root of the cubic, over the eigenvalues of the game's Jacobian."""
    memory = np.polymul([1, -1], [1, -2 * beta.real, abs(beta) ** 2])
    read = np.array([alpha.real, -(alpha * beta.conjugate()).real, 0])
    return max(np.abs(np.roots(np.polyadd(memory, x * read))).max() for x in eigenvalues)


@pytest.mark.parametrize("phase", [0.0, 0.5])
@every_beta
def test_the_joint_dynamics_have_the_papers_spectrum(x64, beta, phase):
    jacobian = np.random.default_rng(3).normal(size=(4, 4))
    beta, alpha = complex(beta), cmath.rect(0.2, phase)
    tx = complex_momentum(0.2, beta, phase=phase)
    zero = jnp.zeros(4)
    _, unravel = ravel_pytree((zero, zero, zero))
    empty = tx.init(zero)

    def step(flat):
        real, imaginary, w = unravel(flat)
        state = (empty[0]._replace(real=-real, imaginary=-imaginary), *empty[1:])
        updates, state = tx.update(jnp.asarray(jacobian) @ w, state, w)
        return ravel_pytree((-state[0].real, -state[0].imaginary, w + updates))[0]

    measured = np.asarray(jax.jacobian(step)(jnp.zeros(12)))
    np.testing.assert_allclose(measured, printed_map(jacobian, alpha, beta), atol=1e-12)
    # A double root, as a real beta makes, is known to half the digits only.
    found = np.abs(np.linalg.eigvals(measured)).max()
    expected = radius(np.linalg.eigvals(jacobian), alpha, beta)
    np.testing.assert_allclose(found, expected, rtol=1e-10 if beta.imag else 1e-7)


def test_on_a_bilinear_game_no_real_beta_converges_and_complex_ones_do():
    rates = np.concatenate([np.geomspace(1e-3, 0.1, 20), np.linspace(0.12, 2, 48)])
    eigenvalues = [1j]  # of (y, -x), the field of min_x max_y xy; -i has the conjugate roots
    real = [radius(eigenvalues, a + 0j, complex(b)) for a in rates for b in np.linspace(-1, 1, 81)]
    assert min(real) > 1 - 1e-7  # beta = -1 goes round for ever
    best = {
        angle: min(
            radius(eigenvalues, a + 0j, cmath.rect(modulus, angle * cmath.pi))
            for a in rates
            for modulus in np.linspace(0.05, 0.99, 48)
        )
        for angle in (1 / 16, 1 / 8, 3 / 8, 15 / 16)
    }
    assert max(best.values()) < 1
    assert best[3 / 8] < 0.92 < 0.95 < best[1 / 8]  # far from almost positive
    assert radius(eigenvalues, 0.05 + 0j, ALMOST_POSITIVE) < 0.99


# Games.

PAYOFF = np.array([[1.0, 0.3], [-0.2, 0.8]])


def bilinear(make, order):
    """min_x max_y x'Ay as two levels of a nest."""
    payoff = lambda v, batch: v["x"] @ jnp.asarray(PAYOFF) @ v["y"]  # noqa: E731
    players = (
        nx.Level("x", payoff, make()),
        nx.Level("y", lambda v, batch: -payoff(v, batch), make()),
    )
    return nx.Nest([players], order=order)


@pytest.mark.parametrize("order", ["simultaneous", "alternating"])
@pytest.mark.parametrize(
    ("beta", "rate"), [(ALMOST_POSITIVE, 0.06), (0.7 * cmath.exp(3j * cmath.pi / 8), 0.4)]
)
def test_a_nest_plays_simcm_and_altcm(x64, order, beta, rate):
    start = {"x": jnp.asarray([1.0, -0.5]), "y": jnp.asarray([0.3, 0.7])}
    nest = bilinear(lambda: complex_momentum(rate, beta), order)
    state = nest.init(start, jax.random.key(0))
    few, _ = nest.run(state, steps=40)
    end, _ = nest.run(state, steps=1500)

    x, y = np.asarray(start["x"]), np.asarray(start["y"])
    mx, my = np.zeros(2, complex), np.zeros(2, complex)
    for _ in range(40):
        old = x
        mx = beta * mx - PAYOFF @ y
        x = x + (rate * mx).real
        my = beta * my + PAYOFF.T @ (old if order == "simultaneous" else x)
        y = y + (rate * my).real
    np.testing.assert_allclose(few.values["x"], x, rtol=1e-10)
    np.testing.assert_allclose(few.values["y"], y, rtol=1e-10)
    assert np.linalg.norm(ravel_pytree(end.values)[0]) < 1e-3

    heavy_ball = bilinear(lambda: complex_momentum(rate, 0.9), "simultaneous")
    end, _ = heavy_ball.run(heavy_ball.init(start, jax.random.key(0)), steps=300)
    assert np.linalg.norm(ravel_pytree(end.values)[0]) > 1e3


def test_the_rate_of_a_simultaneous_game_is_the_spectral_radius(x64):
    nest = bilinear(lambda: complex_momentum(0.06, ALMOST_POSITIVE), "simultaneous")
    state = nest.init({"x": jnp.ones(2), "y": jnp.ones(2)}, jax.random.key(0))
    norms = []
    for _ in range(5):
        state, _ = nest.run(state, steps=400)
        norms.append(np.linalg.norm(ravel_pytree(state.values)[0]))
    eigenvalues = np.linalg.eigvals(np.block([[0 * PAYOFF, PAYOFF], [-PAYOFF.T, 0 * PAYOFF]]))
    rate = (norms[-1] / norms[1]) ** (1 / 1200)
    np.testing.assert_allclose(rate, radius(eigenvalues, 0.06 + 0j, ALMOST_POSITIVE), rtol=1e-3)


def dirac_gan(beta):
    """|(theta, psi)| along 1,000 simultaneous steps of min max -log(1 + exp(-theta psi))."""
    tx = complex_momentum(0.1, beta)

    def step(carry, _):
        z, state = carry
        slope = jax.nn.sigmoid(-z[0] * z[1])
        updates, state = tx.update(slope * jnp.stack([z[1], -z[0]]), state, z)
        z = z + updates
        return (z, state), jnp.linalg.norm(z)

    z = jnp.ones(2)
    return np.asarray(jax.lax.scan(step, (z, tx.init(z)), length=1000)[1])


def test_dirac_gan(x64):
    for beta in (0.0, 0.5, 0.8, 0.9, -0.2, -0.5, -0.9, -0.99):
        assert min(dirac_gan(beta)) > 1.4, beta  # it starts at the square root of 2
    for modulus, end in ((0.8, 2e-3), (0.9, 1e-5)):
        assert max(dirac_gan(cmath.rect(modulus, cmath.pi / 8))[-100:]) < end


# Complex Adam.


@every_beta
def test_complex_adam_equals_the_naive_loop(x64, beta):
    gradients = stream(12)
    updates, state = trajectory(complex_adam(0.01, beta, 0.95, 1e-6), gradients)
    mu, v = np.zeros((3, 2), complex), np.zeros((3, 2))
    for t, g in enumerate(gradients, start=1):
        mu = beta * mu - g
        v = 0.95 * v + 0.05 * g**2
        expected = 0.01 * mu.real / (np.sqrt(v / (1 - 0.95**t)) + 1e-6)
        np.testing.assert_allclose(updates[t - 1], expected, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(state[0].imaginary, -mu.imag, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(("beta", "gain"), [(0.8 * cmath.exp(1j * cmath.pi / 8), 1.61), (0.8, 5)])
def test_the_gain_of_a_steady_gradient(x64, beta, gain):
    for tx in (complex_momentum(1.0, beta), complex_adam(1.0, beta)):
        updates, _ = trajectory(tx, np.ones((200, 1)))
        np.testing.assert_allclose(updates[-1], -gain, rtol=5e-3)
        np.testing.assert_allclose(updates[-1], -(1 / (1 - beta)).real, rtol=1e-6)


def test_complex_adam_can_be_differentiated_where_a_gradient_is_zero():
    def last(g, eps_root):
        tx = complex_adam(1.0, ALMOST_POSITIVE, eps_root=eps_root)
        return jnp.sum(tx.update(g, tx.init(g))[0])

    g = jnp.asarray([0.0, 1.0])
    bounded, free = (jax.grad(last)(g, eps_root) for eps_root in (1e-12, 0.0))
    assert np.all(np.isfinite(free)) and abs(bounded[0]) < abs(free[0])


# Levels.


@pytest.mark.parametrize("make", [complex_momentum, complex_adam])
def test_both_parts_are_one_level_and_the_weights_wait_for_the_real_one(make):
    tx = make(0.1, ALMOST_POSITIVE)

    def step(state, x):
        updates, opt = tx.update(state["p"] * x, state["opt"], state["p"])
        return {"opt": opt, "p": state["p"] + updates}

    p = jnp.ones(3)
    table = nx.level_table(step, {"opt": tx.init(p), "p": p}, p)
    real, imaginary = "['opt'][0].real", "['opt'][0].imaginary"
    memory = {real, imaginary}
    if make is complex_adam:
        memory.add("['opt'][0].second")
        assert table.kinds["['opt'][0].count"] == "clock"
    assert [set(level) for level in table.levels] == [memory, {"['p']"}]
    assert table.compare(real, imaginary) == "=" and table.compare(real, "['p']") == ">"
    assert imaginary not in table.depends["['p']"]


# What is refused.


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: complex_momentum(0.1, 1.1j), "complex_momentum: beta must have a modulus of at"),
        (lambda: complex_momentum(0.1, (1.1, 0.3)), "modulus of at most 1"),
        (lambda: complex_momentum(0.1, float("nan")), "modulus of at most 1"),
        (lambda: complex_momentum(0.1, (-0.9, 0.3)), "add pi to the argument"),
        (lambda: complex_adam(0.1, -1.5), "complex_adam: beta1 must have a modulus"),
        (lambda: complex_adam(0.1, 0.9, 1.0), r"beta2 must be in \[0, 1\)"),
        (lambda: complex_adam(0.1, 0.9, 0.9, -1.0), "eps must be in"),
        (lambda: complex_adam(0.1, 0.9, eps_root=-1.0), "eps_root must be in"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_modulus_of_one_is_not_refused_for_a_rounding():
    complex_momentum(0.1, 1j * float(np.nextafter(1, 2)))
    with pytest.raises(ValueError, match="modulus of at most 1"):
        complex_momentum(0.1, 1.000001j)
