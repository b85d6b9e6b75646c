"""Generalized ridge rider: a tree of the solutions of a game."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from .branching import Ascent, check, not_finite, split
from .checks import positive, whole
from .field import as_losses, names
from .jacobians import Jacobians, Map, VectorMap, vector_map
from .tree import Branch, Tree, resumed, root


def generalized_ridge_rider(
    f: Map,
    x: Any,
    steps: int,
    run: int,
    *,
    losses: Any = None,
    objective: str = "max",
    n: int = 1,
    size: float = 1.0,
    depth: int = 1,
    optimizer: optax.GradientTransformation | None = None,
    iterations: int = 50,
    side_by_side: int | None = None,
    folder: str | Path | None = None,
) -> Tree:
    """Finds several solutions of a game, on the branches that grow from a branching point.

    From x it climbs to a branching point (`branch_point`), and steps from there to both sides along
    the n directions in which runs part most (`branches`). With a depth above 1 each of these starts
    climbs to a branching point of its own. From the last ones f is applied `run` times.

    Example:
        ```python
        f = nx.games.descent(lambda x: x**3 - x, 0.1)
        tree = nx.games.generalized_ridge_rider(f, 0.3, steps=10, run=200)
        print(sorted(round(float(tree.point(leaf))) for leaf in tree.leaves))  # [-1, 1]
        ```

    Args:
        f: as in `lyapunov_exponents`.
        x: where the first ascent begins.
        steps: number of steps of f whose growth counts.
        run: how often f is applied to the last branches.
        losses: losses of the players as `joint_field` takes them, or one function of the point; for
            the tree's `losses`. None: there are none.
        objective: as in `branch_point`.
        n: as in `branch_point`; 2n branches at each branching point.
        size: length of the step off a branching point, in the units of x. A step that is too short
            may end on the same side.
        depth: number of branching points on the way to a leaf.
        optimizer: as in `branch_point`.
        iterations: as in `branch_point`.
        side_by_side: number of branches that run in one program; None: 2n.
        folder: where the tree is written after each batch. If it has the tree of an earlier call
            this goes on from there, as if it had not been interrupted. f, the losses and the
            optimizer cannot be compared with the earlier ones.

    Returns:
        The tree. `tree.distinct()` has one leaf for each solution.

    Raises:
        ValueError: as `branch_point`; a number out of range; a folder whose tree has other
            settings.

    Source: Lorraine et al., "Lyapunov Exponents for Diversity in Differentiable Games" (2022),
        Algorithm 1.
    """
    name = "generalized_ridge_rider"
    given = vector_map(f, x, name)
    steps, n, iterations = check(given, name, steps, objective, n, iterations)
    width = 2 * n if side_by_side is None else whole(name, "side_by_side", side_by_side)
    run, depth, size = (
        whole(name, "run", run),
        whole(name, "depth", depth),
        positive(name, "size", size),
    )
    ascent = Ascent(
        Jacobians.of(given), steps, objective, n, optimizer or optax.adam(0.1), iterations
    )
    loss = _losses(losses, given, name)
    constants = ascent.one.constants

    def to_branches(point: jax.Array) -> Any:
        found, *_ = ascent.climb(constants, point)
        starts, directions, exponents = split(ascent.one, found, steps, n, size)
        return found, loss(found), starts, directions, exponents

    def to_the_end(point: jax.Array) -> Any:
        end = lax.scan(lambda x, _: (ascent.one.step(x), None), point, length=run)[0]
        return end, loss(end)

    point = np.asarray(given.point)
    programs = {True: jax.jit(jax.vmap(to_branches)), False: jax.jit(jax.vmap(to_the_end))}
    widths = {True: 1 if depth == 1 else width, False: width}  # the first batch has one branch
    settings = {
        "kind": name, "steps": steps, "run": run, "objective": objective, "n": n, "size": size,
        "depth": depth, "iterations": iterations, "side_by_side": width,
    }  # fmt: skip

    def begin() -> Tree:
        here = np.asarray(jax.jit(loss)(given.point))
        return Tree((root(point, here, "waiting"),), given.unravel)

    tree = resumed(folder, begin, settings, name)
    while tree.waiting:
        splits = tree.branches[tree.waiting[0]].depth < depth
        alike = [i for i in tree.waiting if (tree.branches[i].depth < depth) == splits]
        batch = alike[: widths[splits]]
        lanes = [batch[min(i, len(batch) - 1)] for i in range(widths[splits])]
        found = jax.device_get(programs[splits](np.stack([tree.branches[i].start for i in lanes])))
        tree = _grown(tree, batch, found, splits)
        if tree.branches[0].status == "lost":
            raise ValueError(not_finite(name, objective, np.nan))
        if folder is not None:
            tree.save(folder, settings)
    return tree


def _grown(tree: Tree, batch: list[int], found: Any, splits: bool) -> Tree:
    """The tree after a batch of its waiting branches was run."""
    branches = list(tree.branches)
    for lane, number in enumerate(batch):
        vector, losses, *rest = (np.asarray(a[lane]) for a in found)
        branch = dataclasses.replace(branches[number], vector=vector, losses=losses)
        sound = np.all(np.isfinite(vector))
        if splits:
            starts, directions, exponents = rest
            sound = sound and np.all(np.isfinite(starts)) and np.all(np.isfinite(exponents))
            for i, start in enumerate(starts if sound else ()):
                path = (*branch.path, f"{i // 2}{'+-'[i % 2]}")
                branches.append(
                    Branch(
                        number, path, start, losses, float(exponents[i]), "waiting", start,
                        directions[i],
                    )
                )  # fmt: skip
        status = ("split" if splits else "leaf") if sound else "lost"
        branches[number] = dataclasses.replace(branch, status=status)
    return Tree(tuple(branches), tree.unravel)


def _losses(losses: Any, given: VectorMap, name: str) -> Callable[[jax.Array], jax.Array]:
    if losses is None:
        return lambda vector: jnp.zeros(0, vector.dtype)
    if callable(losses):
        return lambda vector: jnp.asarray(losses(given.unravel(vector)))
    players = as_losses(losses, name)

    def all_losses(vector: jax.Array) -> jax.Array:
        values = given.unravel(vector)
        return jnp.stack([jnp.asarray(players[player](values)) for player in names(players)])

    return all_losses
