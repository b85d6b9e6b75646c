"""A level's update, what is kept beside its weights, and its report (rule R11)."""

from typing import Any

import jax
import jax.numpy as jnp

from . import _episodes
from ._carry import Carry, Found, Mode, View
from ._info import LevelInfo
from ._level import Level
from ._problem import Problem
from ._values import Parts, like

_SMALL = 2**16  # numbers; larger values may be sharded, which flattening would undo


def moved(
    problem: Problem,
    level: Level,
    found: Found,
    point: Carry,
    after: Carry,
    infos: dict,
    view: View,
    mode: Mode,
    norms: bool,
    captured: bool,
) -> tuple[Carry, dict]:
    """`after` with the level's update, computed at `point`, and `infos` with its report.

    Args:
        problem: the levels at one point.
        level: that moves.
        found: its losses and its gradient.
        point: where they were taken.
        after: where the levels are by now.
        infos: reports so far, by level name.
        view: of the copies.
        mode: how gradients are taken.
        norms: whether the gradient's norm is reported.
        captured: whether the gradient itself is.
    """
    name = level.name
    gradient = like(found.gradient, point.values[name].trained)
    parts, state = problem.update(level, point, gradient, found.losses, view, mode)
    user = found.user
    if level.keep is not None:
        parts, user = kept(problem, level, parts, user, view)
    if level.done is not None:
        after = _episodes.ended(problem, level, parts, found.user, after, view)
    own = view if problem.copied[name] else View()
    shared = not problem.copied[name]
    report = LevelInfo(
        loss=jnp.mean(found.losses) if shared else found.losses,
        gradient_norm=problem.lift(_norm, own, 0)(gradient) if norms else None,
        user=user,
        gradient=problem.handed(level, gradient) if captured else None,
        **(found.diagnostics or {}),
    )
    infos = {**infos, name: jax.tree.map(lambda a: jnp.asarray(a)[None], report)}
    return after._replace(
        values={**after.values, name: parts}, optimizers={**after.optimizers, name: state}
    ), infos


def kept(problem: Problem, level: Level, parts: Parts, info: Any, view: View) -> tuple[Parts, Any]:
    """The level's new value with what its `keep` makes of the objective's info, and the info
    without what has gone into the value as it was."""
    if not parts.fixed:
        raise ValueError(
            f"level {level.name!r}: keep has nothing to keep, since every array of its value "
            'is trained; say which are not, such as trained={"params": True, "stats": False}'
        )
    # Stopped before rather than after, so that `keep` itself is not differentiated.
    still, info = jax.lax.stop_gradient((parts, info))
    shared = not problem.copied[level.name]
    if shared and view.copies is None and problem.nest.copies is not None:
        spread = lambda a: jnp.broadcast_to(a, (problem.nest.copies, *jnp.shape(a)))  # noqa: E731
        info = jax.tree.map(spread, info)
    moved: set[int] = set()

    def called(value: Any, info: Any) -> Any:
        assert level.keep is not None
        try:
            return level.keep(value, info)
        except Exception as error:
            if info is None:
                raise ValueError(
                    f"level {level.name!r}: keep got None for an info, since the objective "
                    "returns a loss only; return (loss, info) there"
                ) from error
            raise

    def one(still: Parts, info: Any) -> list[Any]:
        held = still.keeping(called(still.whole(), info), f"level {level.name!r}: keep").fixed
        places = {id(leaf) for leaf in held}
        moved.update(i for i, a in enumerate(jax.tree.leaves(info)) if id(a) in places)
        return held

    fixed = one(still, info) if shared else problem.lift(one, view, 0)(still, info)
    leaves, structure = jax.tree.flatten(info)
    rest = structure.unflatten([None if i in moved else a for i, a in enumerate(leaves)])
    return parts.but(parts.trained, fixed), rest


def _norm(tree: Any) -> jax.Array:
    """The Euclidean norm, at every step of every copy: it has to be cheap."""
    leaves = jax.tree.leaves(tree)
    leaves = [a.astype(jnp.promote_types(a.dtype, jnp.float32)) for a in leaves]
    if len({a.dtype for a in leaves}) == 1 and sum(a.size for a in leaves) <= _SMALL:
        # One product: XLA's sums on CPUs take one number after another, four times as long.
        flat = jnp.concatenate([jnp.ravel(a) for a in leaves])
        return jnp.sqrt(jnp.vdot(flat, flat, precision=jax.lax.Precision.HIGHEST).real)
    return jnp.sqrt(sum(jnp.sum(jnp.real(a * jnp.conj(a))) for a in leaves))
