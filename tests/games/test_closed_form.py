"""Games of affine fields, Dirac-GAN, and what a `Game` does with its parts."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from references import games_closed_form as reference

import nestax as nx
from nestax.games import Game


def vector(values: Any) -> np.ndarray:
    return np.concatenate([np.ravel(value) for value in values.values()])


def values_of(game: Game, w: Any) -> dict[str, Any]:
    """A vector as the values of a game, in the order of its players."""
    found, start = {}, 0
    for name in game.players:
        shape = jnp.shape(game.start[name])
        end = start + int(np.prod(shape))
        found[name], start = jnp.asarray(w[start:end]).reshape(shape), end
    return found


def evaluated(game: Game, w: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Losses, field and the field's Jacobian as numpy arrays."""

    @jax.jit
    def run(w: Any) -> Any:
        order = lambda w: jnp.concatenate(  # noqa: E731
            [jnp.ravel(game.field(values_of(game, w))[name]) for name in game.players]
        )
        losses = [loss(values_of(game, w)) for loss in game.losses.values()]
        return jnp.stack(losses), order(w), jax.jacfwd(order)(w)

    losses, field, jacobian = run(jnp.asarray(w))
    return np.asarray(losses), np.asarray(field), np.asarray(jacobian)


def sorted_eigenvalues(matrix: np.ndarray) -> np.ndarray:
    return np.sort_complex(np.round(np.linalg.eigvals(matrix).astype(complex), 10))


def convex(rng: Any, n: int) -> np.ndarray:
    root = rng.normal(size=(n, n))
    return root @ root.T + np.eye(n)


def test_quadratic_games_of_three_players(x64):
    """Losses by sums over entries, field and Jacobian as given, equilibrium, exploitability by a
    shrinking grid around the best replies."""
    rng = np.random.default_rng(0)
    sizes = {"a": 2, "b": 1, "c": 2}
    parts = [[0, 1], [2], [3, 4]]
    jacobian, linear, w = rng.normal(size=(5, 5)), rng.normal(size=5), rng.normal(size=5)
    for own in parts:
        jacobian[np.ix_(own, own)] = convex(rng, len(own))
    game = nx.games.quadratic(jacobian, linear, sizes)
    losses, field, slope = evaluated(game, w)
    here = reference.quadratic_losses(jacobian, linear, parts, w)
    np.testing.assert_allclose(losses, here, rtol=1e-12)
    np.testing.assert_allclose(field, jacobian @ w + linear, rtol=1e-12)
    np.testing.assert_allclose(slope, jacobian, rtol=1e-12)

    def replied(n: int) -> float:
        def loss(own: np.ndarray) -> float:
            other = w.copy()
            other[parts[n]] = own
            return reference.quadratic_losses(jacobian, linear, parts, other)[n]

        return reference.least_by_rings(loss, w[parts[n]], 8.0)

    gains = [here[n] - replied(n) for n in range(3)]
    exploitability = jax.jit(game.exploitability)
    np.testing.assert_allclose(exploitability(values_of(game, w)), sum(gains), rtol=1e-10)
    (zero,) = game.equilibria
    np.testing.assert_allclose(jacobian @ vector(zero), -linear, rtol=1e-10)
    np.testing.assert_allclose(exploitability(zero), 0, atol=1e-12)


def test_what_has_no_equilibrium_lists_none():
    saddle = np.diag([1.0, -1.0])  # y's own loss is concave: a zero of the field, no equilibrium
    assert nx.games.quadratic(saddle).equilibria == ()
    assert nx.games.quadratic(np.zeros((2, 2)), [1.0, 0.0]).equilibria == ()
    assert nx.games.bilinear([[1.0, 1.0]], [1.0], [1.0, 2.0]).equilibria == ()
    (zero,) = nx.games.bilinear([[1.0, 1.0]], [1.0], [2.0, 2.0]).equilibria
    np.testing.assert_allclose(zero["x"], [-2.0], rtol=1e-6)
    np.testing.assert_allclose(zero["y"], [-0.5, -0.5], rtol=1e-6)


def test_bilinear_games_turn_with_the_singular_values(x64):
    rng = np.random.default_rng(0)
    a, b, c, w = rng.normal(size=(2, 3)), rng.normal(size=2), rng.normal(size=3), rng.normal(size=5)
    game = nx.games.bilinear(a, b, c)
    losses, field, slope = evaluated(game, w)
    x, y = w[:2], w[2:]
    value = sum(a[i, j] * x[i] * y[j] for i in range(2) for j in range(3)) + b @ x + c @ y
    np.testing.assert_allclose(losses, [value, -value], rtol=1e-12)
    np.testing.assert_allclose(field, [*(a @ y + b), *(-a.T @ x - c)], rtol=1e-12)
    turns = np.linalg.svd(a, compute_uv=False)
    found = np.linalg.eigvals(slope)
    expected = np.sort([*turns, *-turns, 0])
    np.testing.assert_allclose(np.sort(found.imag), expected, atol=1e-7)
    np.testing.assert_allclose(found.real, 0, atol=1e-12)
    losses, field, _ = evaluated(nx.games.bilinear(2.0, 1.0), np.array([3.0, 5.0]))
    np.testing.assert_array_equal(losses, [33.0, -33.0])
    np.testing.assert_array_equal(field, [11.0, -6.0])


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_mixture_has_the_stated_eigenvalues(x64, share):
    """From a bowl of each player's own to a bilinear game."""
    scales = np.linspace(0.25, 4, 7)
    game = nx.games.mixture(share)
    _, field, slope = evaluated(game, np.ones(14))
    np.testing.assert_allclose(field, [*scales, *scales * (1 - 2 * share)], atol=1e-12)
    expected = np.concatenate([scales * (1 - share + side * 1j * share) for side in (1, -1)])
    expected = np.sort_complex(np.round(expected, 10))
    np.testing.assert_allclose(sorted_eigenvalues(slope), expected, atol=1e-9)
    if share < 1:
        # Each loss is a parabola in each own number, with its least value at -cross/own.
        own, cross = scales * (1 - share), scales * share
        gains = own / 2 * (1 + cross / own) ** 2 + own / 2 * (1 - cross / own) ** 2
        np.testing.assert_allclose(game.exploitability(game.start), gains.sum(), rtol=1e-12)
    else:
        with pytest.raises(ValueError, match="share is 1, a player's loss has no lower bound"):
            game.exploitability(game.start)


def test_mixtures_of_drawn_shares_run_side_by_side(x64):
    """A thousand keys and largest shares in one program; shares as stated."""

    def shares(key: Any, largest: Any) -> Any:
        game = nx.games.mixture(largest, key)
        ones = jnp.ones(7)
        cross = game.field({"x": 0 * ones, "y": ones})["x"]
        return cross / jnp.linspace(0.25, 4, 7)

    keys = jax.random.split(jax.random.key(1), 1000)
    largest = jnp.linspace(0, 1, 1000)
    found = np.asarray(jax.jit(jax.vmap(shares))(keys, largest))
    np.testing.assert_array_equal(found[:, 0], 0)
    np.testing.assert_allclose(found[:, -1], largest, rtol=1e-12)
    inside = found[1:, 1:-1] / largest[1:, None]
    assert 0 <= inside.min() < 0.01 and 0.99 < inside.max() <= 1
    np.testing.assert_allclose(inside.mean(), 0.5, atol=5 / np.sqrt(12 * inside.size))


@pytest.mark.parametrize("nonsaturating", [False, True])
@pytest.mark.parametrize("f", ["standard", "wasserstein"])
def test_dirac_gan(x64, f, nonsaturating):
    """The field by hand; its eigenvalues at the equilibrium, on both sides of critical damping."""
    slope = {"standard": lambda t: 1 / (1 + np.exp(t)), "wasserstein": lambda t: 1.0}[f]
    t, p = 0.7, -1.3

    @jax.jit
    def run(penalty: Any, w: Any) -> Any:
        game = nx.games.dirac_gan(f, penalty, nonsaturating)
        order = lambda w: jnp.stack(  # noqa: E731
            [game.field(values_of(game, w))[n] for n in ("generator", "discriminator")]
        )
        return order(w), jax.jacfwd(order)(w), jnp.stack([*game.equilibria[0].values()])

    down = slope(-p * t if nonsaturating else p * t)
    for penalty in (0.0, 0.5, 3.0):
        field, _, equilibrium = run(penalty, np.array([t, p]))
        np.testing.assert_allclose(field, [p * down, penalty * p - t * slope(p * t)], rtol=1e-12)
        np.testing.assert_array_equal(equilibrium, 0)
        field, jacobian, _ = run(penalty, np.zeros(2))
        np.testing.assert_array_equal(field, 0)
        root = np.sqrt(complex(penalty**2 / 4 - slope(0.0) ** 2))
        expected = np.sort_complex(np.round([penalty / 2 + root, penalty / 2 - root], 10))
        np.testing.assert_allclose(sorted_eigenvalues(jacobian), expected, atol=1e-9)
    of_function = nx.games.dirac_gan(lambda t: t - t**2).losses["discriminator"]
    np.testing.assert_allclose(
        of_function({"generator": t, "discriminator": p}), 1.7381, rtol=1e-10
    )


def test_stackelberg_and_nash_of_random_games(x64):
    """Both equilibria by searches: the leader's loss along the follower's best replies, and best
    replies to each other."""
    rng = np.random.default_rng(0)
    h, k = rng.normal(size=(2, 3, 3))
    h, k = h + h.T + 6 * np.eye(3), k + k.T + 6 * np.eye(3)
    a, b = rng.normal(size=(2, 3))
    game = nx.games.leader_follower(h, k, a, b, size=1)
    w = rng.normal(size=3)
    losses, field, _ = evaluated(game, w)
    expected = [w @ h @ w / 2 + a @ w, w @ k @ w / 2 + b @ w]
    np.testing.assert_allclose(losses, expected, rtol=1e-12)
    np.testing.assert_allclose(field, [(h @ w + a)[0], *(k @ w + b)[1:]], rtol=1e-12)

    def led(x: np.ndarray) -> float:
        y = np.linalg.lstsq(k[1:, 1:], -(k[1:, :1] @ x + b[1:]))[0]
        w = np.concatenate([x, y])
        return w @ h @ w / 2 + a @ w

    assert game.stackelberg is not None
    best = reference.least_by_rings(led, np.zeros(1), 8.0)
    np.testing.assert_allclose(led(np.asarray(game.stackelberg["leader"])), best, rtol=1e-12)
    (nash,) = game.equilibria
    at_stackelberg = game.losses["leader"](game.stackelberg)
    np.testing.assert_allclose(at_stackelberg, best, rtol=1e-12)  # so the follower's reply is too
    assert at_stackelberg < game.losses["leader"](nash) - 1e-4
    np.testing.assert_allclose(jax.jit(game.exploitability)(nash), 0, atol=1e-12)


def test_nests_reach_the_equilibria_of_the_duopoly(x64):
    game = nx.games.duopoly()
    x, y = vector(game.start)
    found = [loss(game.start) for loss in game.losses.values()]
    np.testing.assert_allclose(found, reference.duopoly_losses(x, y), rtol=1e-12)
    np.testing.assert_allclose(vector(game.equilibria[0]), [1 / 3, 1 / 3], rtol=1e-12)
    np.testing.assert_allclose(vector(game.stackelberg), [1 / 2, 1 / 4], rtol=1e-12)
    sgd = {"leader": optax.sgd(0.4), "follower": optax.sgd(0.3)}

    def end(levels: Any) -> np.ndarray:
        nest = nx.Nest(levels)
        state, _ = nest.run(nest.init(game.start, jax.random.key(0)), steps=80)
        return vector({name: state.values[name] for name in game.players})

    np.testing.assert_allclose(end([game.levels(sgd)]), [1 / 3, 1 / 3], rtol=1e-9)
    for flow in (None, nx.Implicit(nx.CG())):
        led = game.led_by("leader", sgd, every=12, flow=flow)
        np.testing.assert_allclose(end(led), [1 / 2, 1 / 4], rtol=1e-4)


def test_games_are_made_inside_of_programs(x64):
    """Traced numbers give the games that known ones give."""
    jacobian, linear = np.array([[2.0, 3.0], [-1.0, 4.0]]), np.array([1.0, -2.0])
    leader, follower = np.array([[2.0, 1.0], [1.0, 0.0]]), np.array([[0.0, 1.0], [1.0, 2.0]])

    def make(j: Any, b: Any, f: Any, g: Any, a: Any) -> Any:
        quadratic, bilinear = nx.games.quadratic(j, b), nx.games.bilinear(a, b)
        pair = nx.games.leader_follower(f, g, b, b)
        games = (quadratic, bilinear, pair)
        fields = [game.field(game.start) for game in games]
        gaps = [game.exploitability(game.start) for game in (quadratic, pair)]
        return fields, gaps, [game.equilibria for game in games], pair.stackelberg

    given = (jacobian, linear, leader, follower, jacobian.T)
    traced, known = jax.jit(make)(*given), make(*given)
    assert jax.tree.structure(traced) == jax.tree.structure(known)
    for a, b in zip(jax.tree.leaves(traced), jax.tree.leaves(known), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    start = nx.games.quadratic(jacobian).start
    gap = jax.jit(lambda j: nx.games.quadratic(j).exploitability(start))
    assert np.isnan(gap(np.diag([1.0, -1.0])))


def test_games_of_half_precision_are_computed_in_float32():
    half = jnp.array([[2.0, 1.0], [-1.0, 2.0]], jnp.bfloat16)
    game = nx.games.quadratic(half, half[0])
    gap = game.exploitability(game.start)
    assert gap.dtype == game.start["x"].dtype == jnp.float32
    np.testing.assert_allclose(gap, (5**2 + 2**2) / 4, rtol=1e-5)


def test_users_games():
    losses = {"x": lambda v: v["x"] ** 2, "y": lambda v: v["y"] * v["x"]}
    start = {"x": 1.0, "y": 2.0}
    game = Game(losses, start)
    assert game.players == ("x", "y") and game.equilibria == ()
    assert [level.name for level in game.levels(optax.sgd(0.1))] == ["x", "y"]
    with pytest.raises(ValueError, match=r"best responses of this game are not known; give"):
        game.exploitability(start)
    with pytest.raises(ValueError, match=r"Game.policies: .* are no logits"):
        game.policies(start)
    with pytest.raises(ValueError, match=r"one for each of the players \['x', 'y'\]; got \['x'\]"):
        game.levels({"x": optax.sgd(0.1)})
    with pytest.raises(ValueError, match=r"leader is one of several players, got 'z'"):
        game.led_by("z", optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"Game: start: the values of this game are a dict"):
        Game(losses, {"x": 1.0})
    with pytest.raises(ValueError, match=r"Game: losses is a dict"):
        Game(list(losses.values()), start)


refused: Any = [
    (partial(nx.games.bilinear, np.ones(3)), "bilinear: matrix must have 0 or 2 axes, .* [(]3,[)]"),
    (partial(nx.games.bilinear, np.ones((0, 2))), "bilinear: matrix must have entries"),
    (partial(nx.games.bilinear, [[np.inf]]), "bilinear: matrix must have finite numbers"),
    (partial(nx.games.bilinear, 1e300), "must have finite numbers only, in float32; got 1e[+]300"),
    (partial(nx.games.bilinear, [[1j]]), "bilinear: matrix must have real numbers, got complex"),
    (partial(nx.games.bilinear, [[1, 2], [3]]), "bilinear: matrix must be an array of real"),
    (partial(nx.games.bilinear, [[1, 2]], [1, 2]), r"x_linear must have shape \(1,\), got \(2,\)"),
    (partial(nx.games.quadratic, np.ones(2)), "quadratic: jacobian must have 2 axes"),
    (partial(nx.games.quadratic, np.ones((2, 3))), "quadratic: jacobian must be square"),
    (partial(nx.games.quadratic, np.eye(3)), "two players of equal size, and 3 is odd"),
    (partial(nx.games.quadratic, np.eye(3), sizes={"x": 1, "y": 1}), "that sum to 3"),
    (partial(nx.games.quadratic, np.eye(2), sizes={"x": 2.0}), "sizes must be positive whole"),
    (
        partial(nx.games.quadratic, [[1, 2], [3, 1]], sizes={"x": 2}),
        "jacobian's block of player 'x' with itself must be symmetric",
    ),
    (partial(nx.games.mixture, 1.5), r"mixture: adversarial must be in \[0, 1\], got 1.5"),
    (partial(nx.games.mixture, [0.5, 0.5]), r"adversarial has shape \(2,\) and scales \(7,\)"),
    (partial(nx.games.mixture, 0.5, scales=[0.0]), "scales must be positive numbers"),
    (partial(nx.games.mixture, np.ones(7), jax.random.key(0)), "with a key adversarial is one"),
    (partial(nx.games.dirac_gan, "hinge"), 'f must be "standard", "wasserstein" or a function'),
    (partial(nx.games.dirac_gan, penalty=-1), r"penalty is at least 0, got -1"),
    (partial(nx.games.leader_follower, np.eye(2), np.eye(3)), "square and of one size"),
    (partial(nx.games.leader_follower, np.eye(2), [[1, 2], [0, 1]]), "follower must be symmetric"),
    (partial(nx.games.leader_follower, np.eye(2), np.eye(2), size=2), "from 1 to 1, got 2"),
    (partial(nx.games.leader_follower, np.eye(2), -np.eye(2)), "the follower has no best response"),
]


@pytest.mark.parametrize(("make", "message"), refused)
def test_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("game", "message"),
    [
        (nx.games.bilinear(), "in a bilinear game a player's loss has no lower bound"),
        (nx.games.dirac_gan(), "the best responses in dirac_gan are at infinity"),
        (nx.games.quadratic([[0, 1], [-1, 1]]), "derivative of the loss of player 'x' .* definite"),
    ],
)
def test_no_exploitability_without_best_responses(game, message):
    with pytest.raises(ValueError, match=message):
        game.exploitability(game.start)
    with pytest.raises(ValueError, match="the values of this game are a dict"):
        game.exploitability({"z": 1.0})


def test_regrets_are_those_of_all_players():
    losses = {"x": lambda v: v["x"] * v["y"], "y": lambda v: -v["x"] * v["y"]}
    for regrets in ({"x": 0.0}, 0.0):
        given: Any = lambda v, r=regrets: r  # noqa: E731
        game = nx.games.Game(losses, {"x": 1.0, "y": 1.0}, regrets=given)
        with pytest.raises(ValueError, match="a number for each of the players"):
            game.exploitability(game.start)
