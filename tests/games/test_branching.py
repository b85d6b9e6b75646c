"""Branching points by ascent on exponents, and the solutions on their branches."""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from references.trees import same

import nestax as nx
from nestax.games import branch_point, branches, branching, generalized_ridge_rider

double_well = nx.games.descent(lambda x: x**3 - x, 0.1)  # to -1 or to 1


def wells(x):
    """A double well in each of two directions, the first one with more growth."""
    return x - jnp.array([0.2, 0.1]) * (x**3 - x)


def test_the_ascent_ends_where_runs_part(x64):
    """Between the wells, where the first step grows by 1.1, for starts side by side."""
    climb = jax.vmap(lambda x: branch_point(double_well, x, 10, iterations=100))
    found = climb(np.array([-0.5, 0.1, 0.4]))
    np.testing.assert_allclose(found.point, 0, atol=1e-3)
    np.testing.assert_allclose(found.value, np.log(1.1), atol=1e-5)
    assert found.history.shape == (3, 101)
    np.testing.assert_array_equal(found.value, found.history.max(axis=1))
    first = jax.vmap(lambda x: nx.games.lyapunov_exponents(double_well, x, 10)[0])
    np.testing.assert_allclose(found.history[:, 0], first(np.array([-0.5, 0.1, 0.4])), rtol=1e-12)


def test_objectives_of_several_exponents(x64):
    x = np.array([0.1, 0.9])
    both = np.asarray(nx.games.lyapunov_exponents(wells, x, 3))
    assert both[0] > 0 > both[1]
    expected = {"max": both[0], "min": both[1], "sum": both.sum(), "entropy": both[0]}
    for objective, value in expected.items():
        np.testing.assert_allclose(branching.OBJECTIVES[objective](jnp.asarray(both)), value)
    found = branch_point(wells, x, 3, "min", n=2, optimizer=optax.sgd(0.1), iterations=1)
    np.testing.assert_allclose(found.history[0], both[1], rtol=1e-12)
    assert found.value > found.history[0] and found.exponents.shape == (2,)
    with pytest.raises(ValueError, match="branch_point: the objective 'min' is not finite at x"):
        branch_point(lambda x: wells(x) * jnp.array([1.0, 0.0]), x, 3, "min", n=2, iterations=1)


def test_branches_stand_on_both_sides(x64):
    """Along the direction of the largest growth first; what does not move is repeated."""
    point = {"x": np.zeros(2), "n": 3}
    f = lambda point: {**point, "x": wells(point["x"])}  # noqa: E731
    found = branches(f, point, 5, n=2, size=0.5)
    expected = [[0.5, 0], [-0.5, 0], [0, 0.5], [0, -0.5]]
    np.testing.assert_allclose(found["x"], expected, atol=1e-12)
    assert found["n"].tolist() == [3] * 4


def test_both_leaves_of_the_small_dilemma_in_two_runs():
    """From most starts, where two random starts find both in about half of the cases."""
    f = nx.games.descent(nx.games.small_ipd().field, 2.0)
    cooperates = lambda x: jax.lax.fori_loop(0, 400, lambda _, x: f(x), x)["x"] > 0  # noqa: E731

    def both(x, other):
        point = branch_point(f, x, 10, iterations=15).point
        found = jax.vmap(cooperates)(branches(f, point, 10))
        return found[0] != found[1], cooperates(x) != cooperates(other)

    starts = np.random.default_rng(0).normal(size=(4, 16)).astype(np.float32)
    first, second = ({"x": x, "y": y} for x, y in (starts[:2], starts[2:]))
    branched, random = jax.jit(jax.vmap(both))(first, second)
    assert branched.mean() >= 0.85 and random.mean() <= 0.6


def test_a_tree_of_solutions(tmp_path, x64):
    """Of two branching points in a row, all four wells; stopped by Ctrl-C after a batch and gone on
    with it is the same bit for bit."""
    x, losses = np.array([0.2, -0.1]), {"sum": lambda x: x @ x}
    options: Any = {"losses": losses, "n": 2, "size": 0.5, "depth": 2, "iterations": 40}
    tree = generalized_ridge_rider(wells, x, 3, 400, **options)
    assert repr(tree) == "Tree(21 branches, depth 2: 5 split, 16 leaf)"
    ends = {tuple(np.round(leaf.vector, 6)) for leaf in tree.leaves}
    assert ends == {(1, 1), (1, -1), (-1, 1), (-1, -1)} and len(tree.distinct()) == 4
    assert len(tree.distinct(by=lambda x: x[:1])) == 2
    leaf = tree.leaves[0]
    assert leaf.path == ("0+", "0+") and leaf.depth == 2
    np.testing.assert_allclose(leaf.losses, 2, rtol=1e-6)
    assert abs(tree.branches[1].rate - np.log(1.2)) < 1e-3  # along the first well's axis

    save, calls = nx.games.Tree.save, []

    def stopped(self, *arguments):
        save(self, *arguments)
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    found = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nx.games.Tree, "save", stopped)
        for _ in range(2):
            with contextlib.suppress(KeyboardInterrupt):
                found = generalized_ridge_rider(wells, x, 3, 400, **options, folder=tmp_path)
    assert len(calls) == 7 and same(found, tree)
    with pytest.raises(ValueError, match="made with run=400, not 51"):
        generalized_ridge_rider(wells, x, 3, 51, **options, folder=tmp_path)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: branch_point(double_well, 0.3, 0), "branch_point: steps is a whole number"),
        (lambda: branch_point(double_well, 0.3, 1, "mean"), "objective is 'max' or 'min' or 'sum'"),
        (lambda: branch_point(double_well, 0.3, 1, n=2), "n is at most the 1 numbers that move"),
        (lambda: branch_point(double_well, 0.3, 1, iterations=0), "iterations is a whole number"),
        (lambda: branches(double_well, np.inf, 1), "branches: x has an infinite or NaN number"),
        (
            lambda: generalized_ridge_rider(double_well, 0.3, 1, 1, size=0.0),
            "generalized_ridge_rider: size is a finite number above 0, got 0.0",
        ),
        (lambda: generalized_ridge_rider(double_well, 0.3, 1, 0), "run is a whole number"),
        (lambda: generalized_ridge_rider(double_well, 0.3, 1, 1, depth=0), "depth is a whole"),
        (
            lambda: generalized_ridge_rider(double_well, 0.3, 1, 1, side_by_side=0),
            "side_by_side is a whole number of at least 1, got 0",
        ),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
