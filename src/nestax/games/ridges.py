"""Ridge rider: a tree of minima, by following directions of negative curvature from saddles."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree

from ..flows.internal import has_reverse_only_rule
from .checks import positive, whole
from .curvature import Curvature, Dense, Pairs, Products
from .field import differentiating, floating
from .flat import floating_shapes
from .tree import Branch, Tree, resumed, root

STATUS = ("leaf", "split", "endless", "unsettled", "lost")


def ridge_rider(
    loss: Callable[[Any], Any],
    x: Any,
    *,
    method: str = "dense",
    pairs: int = 8,
    step: float = 0.05,
    steps: int = 1000,
    order: str = "least",
    groups: int | None = 1,
    equal: float = 1e-3,
    flat: float = 1e-4,
    segments: int = 1000,
    side_by_side: int = 8,
    folder: str | Path | None = None,
) -> Tree:
    """Finds many minima from one saddle, by following its directions of negative curvature.

    From the saddle x a segment sets out along each sign of a direction of negative curvature. It
    makes steps of length `step` along the eigenvector, and follows the eigenvector as the point
    moves, until its eigenvalue is no longer negative: the end of the ridge. Then it settles, by
    descent along the directions of positive curvature. Where negative curvature is left the tree
    branches again; where there is none the segment ends in a leaf, a minimum.

    The least negative direction is ridden first. The most negative eigenvalue rises through the
    others along its ridge, and where two come close the path turns into the other's ridge. Equal
    eigenvalues are one group, of which one direction is ridden.

    Example:
        ```python
        loss = lambda x: jnp.sum(x**4 / 4 - jnp.array([0.5, 1.0]) * x**2 / 2)
        tree = nx.games.ridge_rider(loss, jnp.zeros(2))
        print(tree, len(tree.distinct()))  # Tree(7 branches, depth 2: 3 split, 4 leaf) 4
        ```

    Args:
        loss: of a pytree, a scalar. Or a field, such as the gradient: a function to a pytree like
            x; the symmetric part of its Jacobian is used, and its norm in place of the loss. Where
            x is a single number without axes, a function to a number is its loss.
        x: the saddle, a pytree; its floating-point leaves move.
        method: "dense", all eigenvectors of the matrix; or "hvp", without a matrix.
        pairs: for "hvp", how many of the lowest eigenpairs are known. Negative ones beyond these
            are taken for positive ones.
        step: length of a step along a ridge, and the longest step while settling.
        steps: the largest number of steps along a ridge, and while settling.
        order: "least" or "most": which negative direction of a point is ridden first.
        groups: how many groups of equal eigenvalues are ridden from each point; None for all.
        equal: eigenvalues are equal if they differ by less, relative to the largest modulus; for
            "hvp" to a bound of it, about 1.5 times as large.
        flat: an eigenvalue is negative if it is below minus this, relative as for `equal`.
        segments: after how many segments to stop; it is looked at between batches.
        side_by_side: number of segments in a batch, which run in one program.
        folder: where the tree is written after each batch. If it has the tree of an earlier call
            this goes on from there, as if it had not been interrupted. Of the loss only its value
            at x can be compared with the earlier one.

    Returns:
        The tree. `tree.distinct()` has one leaf for each minimum.

    Raises:
        ValueError: x has no negative curvature, is not finite or has nothing that moves; a number
            or word out of range; a folder whose tree has other settings.

    Source: Parker-Holder et al., "Ridge Rider: Finding Diverse Solutions by Following Eigenvectors
        of the Hessian" (2020), Algorithms 1 and 2.
    """
    name = "ridge_rider"
    pairs, steps = whole(name, "pairs", pairs), whole(name, "steps", steps)
    groups = None if groups is None else whole(name, "groups", groups)
    segments = whole(name, "segments", segments, 0)
    side_by_side = whole(name, "side_by_side", side_by_side)
    step, equal = positive(name, "step", step), positive(name, "equal", equal)
    flat = positive(name, "flat", flat)
    for word, value, allowed in (
        ("method", method, ("dense", "hvp")), ("order", order, ("least", "most")),
    ):  # fmt: skip
        if value not in allowed:
            raise ValueError(f"{name}: {word} is {' or '.join(map(repr, allowed))}, got {value!r}")
    surface = _surface(loss, x, name)
    n = surface.point.size
    with differentiating():
        reverse = has_reverse_only_rule(jax.make_jaxpr(surface.gradient)(surface.point).jaxpr)
    curvature = Dense(reverse) if method == "dense" else Products(reverse, min(pairs, n))
    rider = _Rider(surface, curvature, step, steps, equal, flat)
    settings = {
        "kind": name, "method": method, "pairs": pairs, "step": step, "steps": steps,
        "order": order, "groups": groups, "equal": equal, "flat": flat,
        "side_by_side": side_by_side,
    }  # fmt: skip
    take = _Choice(order, groups, equal, flat)

    def begin() -> Tree:
        value, first = jax.jit(lambda x: (surface.loss(x), curvature.first(surface.gradient, x)))(
            surface.point
        )
        vector = np.asarray(surface.point)
        below = take.waiting(0, root(vector, np.asarray(value), "split"), first)
        if not np.all(np.isfinite(first.values)):
            raise ValueError(
                f"{name}: the second derivatives at x are not finite; look for divisions by zero, "
                "roots and logarithms of zero"
            )
        if not below:
            raise ValueError(
                f"{name}: x has no direction of negative curvature to ride, its lowest eigenvalue "
                f"is {float(first.values[0]):.3g}; begin at a saddle or a maximum"
            )
        return Tree((root(vector, np.asarray(value), "split"), *below), surface.unravel)

    tree = resumed(folder, begin, settings, name)
    ride = jax.jit(jax.vmap(rider.ride))
    while tree.waiting and sum(b.status != "waiting" for b in tree.branches[1:]) < segments:
        tree = _after_batch(tree, tree.waiting[:side_by_side], ride, side_by_side, take)
        if folder is not None:
            tree.save(folder, settings)
    return tree


@dataclasses.dataclass(frozen=True)
class _Surface:
    """A loss of a vector: its value, its gradient, and where to begin."""

    loss: Callable[[jax.Array], jax.Array]
    gradient: Callable[[jax.Array], jax.Array]
    point: jax.Array
    unravel: Callable[[Any], Any]


def _surface(loss: Callable, x: Any, name: str) -> _Surface:
    moving, combine = floating(x)
    point, back = ravel_pytree(moving)
    if point.size == 0:
        raise ValueError(f"{name}: x has no floating-point array that moves, got {x!r:.60}")
    if not np.all(np.isfinite(point)):
        raise ValueError(f"{name}: x has an infinite or NaN number; give a finite saddle")
    if point.dtype.itemsize < 4:
        raise ValueError(f"{name}: x is {point.dtype}; give float32 or float64")
    with differentiating():
        found = jax.eval_shape(lambda v: loss(combine(back(v))), point)
    unravel = lambda v: combine(back(jnp.asarray(v)))  # noqa: E731
    if getattr(found, "shape", None) == () and jnp.issubdtype(found.dtype, jnp.floating):
        value = lambda v: loss(unravel(v))  # noqa: E731
        # A point of one number alone is a scalar too; then its loss is meant.
        return _Surface(value, jax.grad(value), point, unravel)
    shapes = jax.tree.map(jnp.shape, moving)
    if jax.tree.map(jnp.shape, jax.eval_shape(floating_shapes, found)) != shapes:
        raise ValueError(f"{name}: loss returns a scalar, or a pytree like x, got {found!r:.80}")
    field = lambda v: ravel_pytree(floating_shapes(loss(unravel(v))))[0]  # noqa: E731
    return _Surface(lambda v: jnp.linalg.norm(field(v)), field, point, unravel)


@dataclasses.dataclass(frozen=True)
class _Rider:
    """One segment, as a function of arrays."""

    surface: _Surface
    curvature: Curvature
    step: float
    steps: int
    equal: float
    flat: float

    def ride(self, x: jax.Array, direction: jax.Array) -> Any:
        """From a saddle along a direction to the end of its ridge, and down to rest.

        Returns:
            The point, its loss, its eigenpairs, and the number of its status in `STATUS`.
        """
        gradient = self.surface.gradient
        pairs = self.curvature.first(gradient, x)

        def along(carry: Any) -> Any:
            count, x, e, pairs, _ = carry
            x = x + self.step * e
            pairs = self.curvature.next(gradient, x, pairs)
            inner = pairs.vectors.T @ e
            best = jnp.argmax(jnp.abs(inner))
            value = pairs.values[best]
            # In a group of equal eigenvalues the eigenvectors may turn: the old one is projected.
            near = jnp.abs(pairs.values - value) <= self.equal * pairs.bound
            e = pairs.vectors @ jnp.where(near, inner, 0)
            return count + 1, x, e / jnp.linalg.norm(e), pairs, value < 0

        def on_ridge(carry: Any) -> Any:
            count, *_, negative = carry
            return (count < self.steps) & negative

        _, x, _, pairs, endless = lax.while_loop(
            on_ridge, along, (0, x, direction, pairs, jnp.array(True))
        )

        def settle(carry: Any) -> Any:
            count, x, pairs, _ = carry
            move = self._down(gradient(x), pairs)
            size = jnp.linalg.norm(move)
            x = x - move * jnp.minimum(1, self.step / jnp.where(size > 0, size, 1))
            return count + 1, x, self.curvature.next(gradient, x, pairs), size

        def unsettled(size: jax.Array) -> jax.Array:
            return size > jnp.finfo(x.dtype).eps ** 0.5

        start = (0, x, pairs, jnp.full((), jnp.inf, x.dtype))
        _, x, pairs, size = lax.while_loop(
            lambda carry: (carry[0] < self.steps) & unsettled(carry[3]), settle, start
        )
        loss = self.surface.loss(x)
        # A block that was followed may never see a direction that is orthogonal to all of it.
        pairs = self.curvature.first(gradient, x)
        negative = pairs.values[0] < -self.flat * pairs.bound
        status = jnp.where(negative, 1, 0)
        status = jnp.where(unsettled(size), 3, status)
        status = jnp.where(endless, 2, status)
        status = jnp.where(jnp.all(jnp.isfinite(x)) & jnp.isfinite(loss), status, 4)
        return x, loss, pairs, status

    def _down(self, gradient: jax.Array, pairs: Pairs) -> jax.Array:
        """Newton's step along the known directions of positive curvature, a gradient step along
        the unknown ones, none along the negative ones."""
        inner = pairs.vectors.T @ gradient
        curved = pairs.values > self.flat * pairs.bound
        inverse = jnp.where(curved, 1 / jnp.where(curved, pairs.values, 1), 0)
        unknown = gradient - pairs.vectors @ inner
        return pairs.vectors @ (inverse * inner) + unknown / pairs.bound


@dataclasses.dataclass(frozen=True)
class _Choice:
    """Which directions are ridden from a point."""

    order: str
    groups: int | None
    equal: float
    flat: float

    def waiting(self, parent: int, branch: Branch, pairs: Pairs) -> list[Branch]:
        """The branches of a point, of both signs for each direction."""
        values, vectors = np.asarray(pairs.values), np.asarray(pairs.vectors)
        largest = float(pairs.bound)
        negative = [i for i, value in enumerate(values) if value < -self.flat * largest]
        firsts = [i for i in negative if i == 0 or values[i] - values[i - 1] > self.equal * largest]
        numbered = list(enumerate(firsts))
        if self.order == "least":
            numbered.reverse()
        return [
            Branch(
                parent, (*branch.path, f"{group}{sign}"), branch.vector, branch.losses,
                float(values[i]), "waiting", branch.vector, side * vectors[:, i],
            )
            for group, i in numbered[: self.groups]
            for sign, side in (("+", 1), ("-", -1))
        ]  # fmt: skip


def _after_batch(
    tree: Tree, batch: tuple[int, ...], ride: Callable, width: int, take: _Choice
) -> Tree:
    """The tree after a batch of its waiting branches was run."""
    lanes = [batch[min(i, len(batch) - 1)] for i in range(width)]  # the last one fills up
    start = np.stack([tree.branches[i].start for i in lanes])
    direction = np.stack([tree.branches[i].direction for i in lanes])
    points, losses, pairs, statuses = jax.device_get(ride(start, direction))
    branches = list(tree.branches)
    for lane, number in enumerate(batch):
        status = STATUS[int(statuses[lane])]
        branch = dataclasses.replace(
            branches[number], vector=points[lane], losses=np.asarray(losses[lane]), status=status
        )
        branches[number] = branch
        if status == "split":
            here = jax.tree.map(lambda a, lane=lane: a[lane], pairs)
            branches += take.waiting(number, branch, here)
    return Tree(tuple(branches), tree.unravel)
