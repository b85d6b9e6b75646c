"""The linear dynamics of optimizers in games, by matrices written out and by nests that step."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from references import games_dynamics as reference

import nestax as nx

BILINEAR = np.array([[0.0, 1.0], [-1.0, 0.0]])
PLAYERS = {"x": slice(0, 2), "y": slice(2, 5)}


def matrix(seed=0, n=5):
    return np.random.default_rng(seed).normal(size=(n, n))


def test_complex_momentum_has_the_roots_of_the_polynomial(x64):
    """For random lambda, rate and beta: numpy's roots, both polynomials, and both matrices."""
    rng = np.random.default_rng(1)
    radius = jax.jit(nx.games.momentum_polynomial)
    for seed in range(5):
        j, rate = matrix(seed), rng.uniform(0.01, 2)
        modulus, angle = rng.uniform(0, 1), rng.uniform(0, np.pi)
        beta = modulus * np.exp(1j * angle)
        eigenvalues = np.linalg.eigvals(j)
        roots = [reference.momentum_roots(value, rate, beta) for value in eigenvalues]
        method = nx.games.Momentum(rate, (modulus, angle))
        found = np.linalg.eigvals(nx.games.augmented(j, method))
        assert reference.matched(found, np.concatenate(roots)) < 1e-10
        printed = np.linalg.eigvals(reference.momentum_matrix(j, complex(rate), beta))
        assert reference.matched(found, printed) < 1e-10
        polynomials = radius(eigenvalues, rate, (modulus, angle))
        assert reference.matched(np.roots(polynomials[0]), roots[0]) < 1e-10
        largest = np.abs(np.concatenate(roots)).max()
        for given in (j, eigenvalues):
            np.testing.assert_allclose(nx.games.spectral_radius(given, method), largest, rtol=1e-10)


def test_a_phase_of_the_learning_rate(x64):
    j, rate, phase, beta = matrix(), 0.3, 0.4, 0.7 * np.exp(0.9j)
    method = nx.games.Momentum(rate, beta, phase)
    printed = reference.momentum_matrix(j, rate * np.exp(1j * phase), beta)
    expected = np.linalg.eigvals(printed)
    assert reference.matched(np.linalg.eigvals(nx.games.augmented(j, method)), expected) < 1e-10
    polynomials = nx.games.momentum_polynomial(np.linalg.eigvals(j), rate, beta, phase)
    roots = np.concatenate([np.roots(p) for p in polynomials])
    assert reference.matched(roots, expected) < 1e-10


def map_spectrum(optimizers: dict, order: str, j: np.ndarray, steps: int = 0) -> np.ndarray:
    """Eigenvalues of a real step: of a nest of two players with the Jacobian j."""
    a, b = j[:2], j[2:]

    def x_loss(v, batch):
        return v["x"] @ a[:, :2] @ v["x"] / 2 + v["x"] @ a[:, 2:] @ v["y"]

    def y_loss(v, batch):
        return v["y"] @ b[:, 2:] @ v["y"] / 2 + v["y"] @ b[:, :2] @ v["x"]

    levels = nx.Level("x", x_loss, optimizers["x"]), nx.Level("y", y_loss, optimizers["y"])
    nest = nx.Nest([nx.Peers(*levels, order=order)])
    state = nest.init({"x": jnp.ones(2), "y": jnp.ones(3)}, jax.random.key(0))
    for _ in range(steps):
        state, _ = nest.step(state)
    f, point = nest.map(state)
    vector, unravel = ravel_pytree(point)
    jacobian = jax.jit(jax.jacfwd(lambda z: ravel_pytree(f(unravel(z)))[0]))(vector)
    if order == "alternating":  # a spectrum is also that of a map
        np.testing.assert_allclose(nx.games.jacobian(f, point), jacobian, atol=1e-12)
    return np.linalg.eigvals(jacobian)


def both(optimizer: Any) -> dict:
    return {"x": optimizer, "y": optimizer}


CASES: list[Any] = [
    (nx.games.GradientDescent(0.3), both(optax.sgd(0.3)), 0),
    (nx.games.Momentum(0.3, 0.7), both(optax.sgd(0.3, 0.7)), 0),
    (nx.games.Nesterov(0.3, 0.7), both(optax.sgd(0.3, 0.7, nesterov=True)), 0),
    (
        nx.games.Momentum(0.3, (0.8, 0.9), 0.2),
        both(nx.optim.complex_momentum(0.3, (0.8, 0.9), phase=0.2)),
        0,
    ),
    # its first step is another one
    (nx.games.Optimistic(0.3, 0.6), both(optax.optimistic_gradient_descent(0.3, 1.0, 0.6)), 1),
    (
        {"x": nx.games.Momentum(0.2, (0.8, 0.9)), "y": nx.games.Momentum(0.3, -0.5)},
        {"x": nx.optim.complex_momentum(0.2, (0.8, 0.9)), "y": optax.sgd(0.3, -0.5)},
        0,
    ),
]


@pytest.mark.parametrize("order", ["simultaneous", "alternating"])
@pytest.mark.parametrize(("method", "optimizers", "steps"), CASES)
def test_matrices_equal_the_derivative_of_a_step(x64, order, method, optimizers, steps):
    """Up to the zeros of memories that a player of another kind does not have."""
    j = matrix(3)
    j[:2, :2], j[2:, 2:] = j[:2, :2] + j[:2, :2].T, j[2:, 2:] + j[2:, 2:].T  # Hessians
    found = np.linalg.eigvals(nx.games.augmented(j, method, PLAYERS, order=order))
    expected = map_spectrum(optimizers, order, j, steps)
    padded = np.append(expected, np.zeros(len(found) - len(expected)))
    # Optimistic descent has a defective zero, whose eigenvalues are roots of rounding errors.
    tolerance = 1e-7 if steps else 1e-10
    assert reference.matched(found, padded) < tolerance


def test_extragradient_by_two_half_steps(x64):
    j = matrix()
    expected = np.eye(5) - 0.3 * j @ (np.eye(5) - 0.2 * j)
    found = nx.games.augmented(j, nx.games.Extragradient(0.3, 0.2))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    rates = {"x": nx.games.Extragradient(0.3, 0.2), "y": nx.games.Extragradient(0.1)}
    last, first = np.diag([0.3] * 2 + [0.1] * 3), np.diag([0.2] * 2 + [0.1] * 3)
    found = nx.games.augmented(j, rates, PLAYERS)
    np.testing.assert_allclose(found, np.eye(5) - last @ j @ (np.eye(5) - first @ j), rtol=1e-12)


def test_complex_momentum_of_one_player(x64):
    """The 6 x 6 matrix by hand; some decay on x alone converges where both with it diverge."""
    players = {"x": slice(0, 1), "y": slice(1, 2)}
    below = above = 0
    for modulus, angle, rate in [(0.9, 0.3, 0.1), (0.9, 1.1, 0.5), (0.7, 1.0, 1.5)]:
        beta = modulus * np.exp(1j * angle)
        expected = np.linalg.eigvals(reference.one_sided_matrix(rate, beta, 0j))
        one = {"x": nx.games.Momentum(rate, beta), "y": nx.games.GradientDescent(rate)}
        matrix = nx.games.augmented(BILINEAR, one, players)
        assert matrix.shape == (6, 6)
        assert reference.matched(np.linalg.eigvals(matrix), expected) < 1e-10
        radius = nx.games.spectral_radius(BILINEAR, one, players)
        np.testing.assert_allclose(radius, np.abs(expected).max(), rtol=1e-10)
        everyone = np.linalg.eigvals(reference.one_sided_matrix(rate, beta, beta))
        below += float(radius) < 1 < np.abs(everyone).max()
        above += float(radius) > 1
    assert below and above


def test_small_spectra_equal_large_ones(x64):
    """One program for eigenvalues alone, against the matrix of all of them."""
    j = matrix()
    eigenvalues = np.linalg.eigvals(j)
    for method in [
        nx.games.GradientDescent(0.3),
        nx.games.Momentum(0.3, -0.7),
        nx.games.Nesterov(0.2, 0.8),
        nx.games.Optimistic(0.2, 0.7),
        nx.games.Extragradient(0.2, 0.3),
    ]:
        radius = nx.games.spectral_radius(eigenvalues, method)
        np.testing.assert_allclose(radius, nx.games.spectral_radius(j, method), rtol=1e-10)


def test_the_map_of_radii(x64):
    eigenvalues = np.linalg.eigvals(matrix())
    rates, moduli, phases = [0.05, 0.4, 1.0], [0.0, 0.6, 1.0], [0.0, 0.5, np.pi]
    found = nx.games.convergence_map(eigenvalues, rates, moduli, phases)
    for (p, m, r), radius in np.ndenumerate(found):
        beta = moduli[m] * np.exp(1j * phases[p])
        roots = [reference.momentum_roots(value, rates[r], beta) for value in eigenvalues]
        # double roots, as at beta = 0 and 1, are known to the root of the rounding error
        np.testing.assert_allclose(radius, np.abs(roots).max(), rtol=2e-8)
    assert found.shape == (3, 3, 3)


def test_the_map_of_steps(x64):
    j, start = matrix(2, 4) + 2 * np.eye(4), np.arange(1.0, 5.0)
    rates, moduli, phases = [0.05, 0.3, 1.5], [0.3, 0.9], [0.0, 0.4]
    values = {"x": jnp.asarray(start[:1]), "y": jnp.asarray(start[1:])}

    def field(v):
        g = jnp.asarray(j) @ jnp.concatenate([v["x"], v["y"]])
        return {"x": g[:1], "y": g[1:]}

    for order, first in (("simultaneous", 0), ("alternating", 1)):
        found = nx.games.steps_to_converge(
            field, values, rates, moduli, phases, tolerance=1e-4, limit=60, order=order
        )
        assert 0 < np.isfinite(found).sum() < found.size
        for (p, m, r), steps in np.ndenumerate(found):
            beta = moduli[m] * np.exp(1j * phases[p])
            assert steps == reference.steps(j, start, rates[r], beta, 1e-4, 60, first)


def test_the_best_settings_of_a_spectrum(x64):
    """Polyak's heavy ball; extragradient on the bilinear game, sqrt(3)/2 at 1/sqrt(2)."""
    rate, beta, radius = reference.heavy_ball_optimum(0.1, 10.0)
    found = nx.games.best(
        nx.games.Momentum, jnp.array([0.1, 1.0, 10.0]), {"rate": (1e-3, 2), "beta": (-0.99, 0.99)}
    )
    assert found.radius == pytest.approx(radius, abs=1e-6)
    assert found.parameters == pytest.approx({"rate": rate, "beta": beta}, abs=1e-5)
    found = nx.games.best(nx.games.Extragradient, BILINEAR, {"rate": (0.01, 2)}, rounds=30)
    assert found.radius == pytest.approx(3**0.5 / 2, abs=1e-9)
    assert found.parameters["rate"] == pytest.approx(0.5**0.5, abs=1e-4)


def test_the_best_radii_on_the_bilinear_game(x64):
    """No real decay converges, complex ones do, best at a phase well above pi/8. Checked on a grid:
    no neighbour is better, and the radius is that of the roots."""
    best = {}
    for phase in (np.pi / 8, 3 * np.pi / 8):
        found = nx.games.best(
            lambda rate, modulus, phase=phase: nx.games.Momentum(rate, (modulus, phase)),
            jnp.array([1j, -1j]),
            {"rate": (1e-3, 4), "modulus": (0, 0.999)},
        )
        rate, modulus = found.parameters["rate"], found.parameters["modulus"]
        grid = [(rate, modulus)]
        grid += [
            (rate * a, min(modulus + b, 0.999))
            for a in (0.5, 0.8, 0.99, 1.01, 1.25)
            for b in (-0.1, -0.01, 0, 0.01)
            if modulus + b >= 0
        ]
        radii = [
            np.abs(reference.momentum_roots(1j, a, b * np.exp(1j * phase))).max() for a, b in grid
        ]
        assert found.radius == pytest.approx(radii[0], abs=2e-8)
        assert radii[0] <= min(radii) + 1e-9
        best[phase] = found.radius
    grid = np.geomspace(1e-3, 4, 40), np.linspace(0, 1, 40), [0.0, np.pi]
    assert nx.games.convergence_map([1j, -1j], *grid).min() > 1 - 1e-12
    assert best[3 * np.pi / 8] == pytest.approx(0.888191, abs=1e-5)
    assert best[3 * np.pi / 8] < best[np.pi / 8] < 1


def test_settings_may_be_traced():
    """Also in 32 bits, where a program differentiates or batches over them."""
    radius = jax.jit(
        jax.vmap(lambda r, m: nx.games.spectral_radius(BILINEAR, nx.games.Momentum(r, (m, 1.0))))
    )(jnp.array([0.1, 0.5]), jnp.array([0.5, 0.9]))
    expected = [np.abs(reference.momentum_roots(1j, r, m * np.exp(1j))).max() for r, m in
                ((0.1, 0.5), (0.5, 0.9))]  # fmt: skip
    np.testing.assert_allclose(radius, expected, rtol=1e-4)
    many = jax.jit(lambda r: nx.games.momentum_polynomial(1j, r, (0.5, 1.0)))(jnp.array([0.1, 0.5]))
    one = nx.games.momentum_polynomial(1j, 0.5, (0.5, 1.0))
    np.testing.assert_allclose(many[1], one, rtol=1e-6)


GD = nx.games.GradientDescent(0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nx.games.Momentum(0.1, 1.5), r"Momentum: beta is in \[-1, 1\], got 1.5"),
        (lambda: nx.games.Momentum(0.1, (1.5, 0.1)), r"the modulus of beta is in \[0, 1\]"),
        (lambda: nx.games.Momentum(0.1, 1 + 1j), r"the modulus of beta is in \[0, 1\], got 1.41"),
        (lambda: nx.games.Momentum(-0.1, 0.5), r"Momentum: rate is at least 0, got -0.1"),
        (lambda: nx.games.Momentum(0.1, (1, 2, 3)), r"a number or \(modulus, argument\)"),
        (lambda: nx.games.GradientDescent("0.1"), "rate is one finite number, got '0.1'"),
        (lambda: nx.games.Extragradient(0.1, np.inf), r"extrapolation is one finite number"),
        (lambda: nx.games.augmented(np.ones((2, 3)), GD), r"has the shape \(n, n\), got \[2, 3\]"),
        (lambda: nx.games.augmented(np.full((2, 2), np.nan), GD), "entries that are not finite"),
        (lambda: nx.games.augmented(BILINEAR, 0.1), "the method is GradientDescent, .*got 0.1"),
        (lambda: nx.games.augmented(BILINEAR, {"x": GD}), "methods by player need players="),
        (
            lambda: nx.games.augmented(BILINEAR, {"z": GD}, {"x": slice(0, 1), "y": slice(1, 2)}),
            r"for the players \[\"'x'\", \"'y'\"\], got them for \[\"'z'\"\]",
        ),
        (
            lambda: nx.games.augmented(BILINEAR, GD, {"x": slice(0, 2), "y": slice(1, 2)}),
            "each of the 2 components belongs to exactly one player",
        ),
        (lambda: nx.games.augmented(BILINEAR, GD, order="random"), "got 'random'"),
        (lambda: nx.games.augmented(BILINEAR, GD, order="alternating"), "need players="),
        (
            lambda: nx.games.augmented(
                BILINEAR, nx.games.Extragradient(1), {0: slice(0, 2)}, order="alternating"
            ),
            "Extragradient looks ahead with all players at once",
        ),
        (
            lambda: nx.games.spectral_radius(
                np.array([1j]), GD, {0: slice(0, 1)}, order="alternating"
            ),
            "its eigenvalues alone do not determine the dynamics",
        ),
        (
            lambda: nx.games.spectral_radius(np.array([np.inf]), GD),
            "eigenvalues that are not finite",
        ),
        (lambda: nx.games.convergence_map([1j], [0.1], [1.5], [0.0]), "moduli are .* from 0 to 1"),
        (lambda: nx.games.convergence_map([1j], 0.1, [0.5], [0.0]), "rates is a vector of real"),
        (lambda: nx.games.best(GD, BILINEAR, {"rate": (0.1, 1)}), "make is a function"),
        (
            lambda: nx.games.best(nx.games.Momentum, BILINEAR, {"rate": (1, 0.1)}),
            r"bounds\['rate'\]",
        ),
        (
            lambda: nx.games.steps_to_converge(
                lambda v: v, jnp.ones(2), [0.1], [0.5], [0.0], limit=0
            ),
            "limit is a whole number of at least 1",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
