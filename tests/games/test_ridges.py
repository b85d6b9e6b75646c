"""Ridge rider and its tree."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from references.games_exponents import coupled_quartic
from references.trees import same

import nestax as nx
from nestax.games import Tree, ridge_rider


def quartic(d):
    turn, c, minima = coupled_quartic(d)

    def loss(x):
        y = turn.T @ x
        return jnp.sum(y**4 / 4 - c * y**2 / 2) + 0.05 * jnp.sum(y[:-1] * y[1:])

    return loss, minima


@pytest.mark.parametrize(("d", "method"), [(2, "dense"), (4, "dense"), (6, "dense"), (3, "hvp")])
def test_all_minima_of_coupled_quartics(d, method, x64):
    """In 2^(d + 1) - 2 segments, each minimum once, and with the losses there."""
    loss, minima = quartic(d)
    tree = ridge_rider(
        loss, np.zeros(d), method=method, pairs=d, segments=2 ** (d + 1) + 10, side_by_side=16
    )
    assert len(tree.branches) - 1 == 2 ** (d + 1) - 2 and not tree.waiting
    found = np.stack([leaf.vector for leaf in tree.distinct()])
    apart = np.linalg.norm(found[:, None] - minima[None], axis=-1)
    assert len(found) == 2**d and sorted(np.argmin(apart, axis=1)) == list(range(2**d))
    np.testing.assert_allclose(apart.min(axis=1), 0, atol=1e-7)
    leaf = tree.leaves[0]
    np.testing.assert_allclose(leaf.losses, loss(minima[np.argmin(apart[0])]), rtol=1e-10)
    choices = [(branch.path, branch.depth) for branch in tree.branches[:3]]
    assert choices == [((), 0), ((f"{d - 1}+",), 1), ((f"{d - 1}-",), 1)]  # the least negative


def test_the_most_negative_direction_first_misses_minima(x64):
    loss, minima = quartic(4)
    tree = ridge_rider(loss, np.zeros(4), order="most")
    assert len(tree.distinct()) < len(minima)


def test_interrupted_work_goes_on(tmp_path, monkeypatch, x64):
    """Stopped by a number of segments, and by Ctrl-C after a batch; bit for bit the same tree."""
    loss, _ = quartic(3)
    x: Any = {"x": np.zeros(3), "n": 3}
    options: Any = {"side_by_side": 2}
    of_tree = lambda x: loss(x["x"])  # noqa: E731
    whole = ridge_rider(of_tree, x, **options)
    part = ridge_rider(of_tree, x, **options, segments=4, folder=tmp_path)
    assert repr(part) == "Tree(11 branches, depth 3: 5 split, 6 waiting)"
    save, calls = Tree.save, []

    def stopped(self, *arguments):
        save(self, *arguments)
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Tree, "save", stopped)
    with pytest.raises(KeyboardInterrupt):
        ridge_rider(of_tree, x, **options, folder=tmp_path)
    found = ridge_rider(of_tree, x, **options, folder=tmp_path)
    assert same(found, whole) and len(calls) > 3
    assert found.point(found.leaves[0])["n"] == 3
    assert same(Tree.load(tmp_path, found.unravel), whole)

    with pytest.raises(ValueError, match=r"was made with step=0.05, not 0.1; go on with the same"):
        ridge_rider(of_tree, x, **options, step=0.1, folder=tmp_path)
    with pytest.raises(ValueError, match="began at another point x"):
        ridge_rider(of_tree, {"x": np.full(3, 1e-3), "n": 3}, **options, folder=tmp_path)
    with pytest.raises(ValueError, match="there is no tree in"):
        Tree.load(tmp_path / "elsewhere", found.unravel)


def test_equal_eigenvalues_are_one_group(x64):
    """The loss is symmetric under rotations: one direction of three is ridden, down to a sphere.
    A field gives the same points as the loss."""
    loss = lambda x: jnp.sum(x**2) ** 2 / 4 - jnp.sum(x**2) / 2  # noqa: E731
    tree = ridge_rider(loss, np.zeros(3))
    assert [branch.path for branch in tree.branches] == [(), ("0+",), ("0-",)]
    radii = [np.linalg.norm(leaf.vector) for leaf in tree.leaves]
    np.testing.assert_allclose(radii, 1, rtol=1e-8)
    field = ridge_rider(jax.grad(loss), np.zeros(3))
    for one, other in zip(field.branches, tree.branches, strict=True):
        np.testing.assert_allclose(one.vector, other.vector, atol=1e-12)
    np.testing.assert_allclose(field.leaves[0].losses, 0, atol=1e-8)


def test_a_leaf_has_no_negative_curvature_that_few_pairs_miss(x64):
    """With one pair, the block that followed the steepest ridge is orthogonal to the other one for
    ever; its end, a saddle, was once a leaf."""
    loss = lambda x: jnp.sum(x**4 / 4 - jnp.array([0.5, 1.0]) * x**2 / 2)  # noqa: E731
    tree = ridge_rider(loss, np.zeros(2), method="hvp", pairs=1, side_by_side=4)
    ends = sorted(tuple(np.sign(leaf.vector)) for leaf in tree.leaves)
    assert ends == [(-1, -1), (-1, 1), (1, -1), (1, 1)]


@pytest.mark.parametrize("method", ["dense", "hvp"])
def test_fields_in_reverse_mode_only(method, x64):
    """Such as those through implicit levels; here a rule without a forward mode."""

    @jax.custom_vjp
    def gradient(x):
        return x**3 - jnp.array([0.5, 1.0]) * x

    gradient.defvjp(
        lambda x: (gradient(x), x), lambda x, u: ((3 * x**2 - jnp.array([0.5, 1.0])) * u,)
    )
    tree = ridge_rider(gradient, np.zeros(2), method=method, pairs=1, groups=1, segments=2)
    found = abs(np.stack([branch.vector for branch in tree.branches[1:3]]))
    ridden = [[0.5**0.5, 0]] if method == "dense" else [[0, 1]]  # the least negative one known
    np.testing.assert_allclose(found, np.repeat(ridden, 2, axis=0), atol=1e-7)


def test_folders_of_other_runs_are_refused(tmp_path):
    """By name: another loss, and a file that is no tree."""
    loss = lambda x: jnp.sum(x**4 - x**2)  # noqa: E731
    ridge_rider(loss, np.zeros(1, np.float32), segments=0, folder=tmp_path)
    with pytest.raises(ValueError, match=r"was made with another loss: 0\.0 in place of 1\.0"):
        ridge_rider(lambda x: loss(x) + 1, np.zeros(1, np.float32), folder=tmp_path)
    for damage in (b"", b"PK not a tree"):
        (tmp_path / "tree.npz").write_bytes(damage)
        with pytest.raises(ValueError, match=r"tree\.npz is damaged, or is no tree"):
            Tree.load(tmp_path, np.asarray)


def test_ridges_without_an_end_and_lost_ones():
    endless = ridge_rider(lambda x: -jnp.sum(x**2), jnp.zeros(1), steps=5)
    assert [branch.status for branch in endless.branches] == ["split", "endless", "endless"]
    assert not endless.leaves
    broken = lambda x: jnp.where(x[0] > 0.5, jnp.nan, -jnp.sum(x**2))  # noqa: E731
    lost = ridge_rider(broken, jnp.zeros(1), steps=50)
    assert sorted(branch.status for branch in lost.branches) == ["endless", "lost", "split"]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((lambda x: jnp.sum(x**2), np.ones(2)), {}, "x has no direction of negative curvature"),
        ((lambda x: x[:1], np.ones(2)), {}, "loss returns a scalar, or a pytree like x"),
        ((jnp.sum, np.array([np.nan])), {}, "x has an infinite or NaN number"),
        ((jnp.sum, np.ones(1, int)), {}, "x has no floating-point array that moves"),
        ((jnp.sum, np.ones(1)), {"step": 0.0}, "step is a finite number above 0, got 0.0"),
        ((jnp.sum, np.ones(1)), {"step": np.nan}, "step is one finite number, got nan"),
        ((jnp.sum, jnp.ones(1, jnp.bfloat16)), {}, "x is bfloat16; give float32 or float64"),
        ((lambda x: jnp.sum(x**0.5), np.zeros(1)), {}, "the second derivatives at x are not"),
        ((jnp.sum, np.ones(1)), {"steps": 0}, "steps is a whole number of at least 1, got 0"),
        ((jnp.sum, np.ones(1)), {"groups": 0}, "groups is a whole number of at least 1, got 0"),
        ((jnp.sum, np.ones(1)), {"method": "qr"}, "method is 'dense' or 'hvp', got 'qr'"),
        ((jnp.sum, np.ones(1)), {"order": "all"}, "order is 'least' or 'most', got 'all'"),
    ],
)
def test_what_is_refused(arguments, options, message):
    with pytest.raises(ValueError, match=f"ridge_rider: {message}"):
        ridge_rider(*arguments, **options)


def test_a_tree_is_drawn(tmp_path, x64):
    """Ends stand side by side in the order of the branches, and parents above their middle."""
    from nestax.plots import trees

    loss, _ = quartic(2)
    tree = ridge_rider(loss, np.zeros(2))
    across = trees._places(tree)
    by_path = {branch.path: across[i] for i, branch in enumerate(tree.branches)}
    assert by_path[()] == 1.5 and by_path["1+",] == 0.5 and by_path["1-",] == 2.5
    assert [by_path[leaf.path] for leaf in tree.leaves] == [0, 1, 2, 3]
    picture = nx.plots.draw_tree(tmp_path / "tree.png", tree, "A quartic")
    assert picture.path.is_file()
    assert picture.caption.startswith("6 branches, 4 leaves, 4 different ends.")
    with pytest.raises(ValueError, match="draw_tree: height must be a finite number"):
        nx.plots.draw_tree(tmp_path / "tree.png", tree, "", height=lambda branch: branch.rate)
