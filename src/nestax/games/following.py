"""Levels of a nest that follow an adjusted field in place of their own gradients."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ..flows.internal import trained_leaves
from ..levels import Field as LevelField
from ..levels import Level, Peers
from .adjust import (
    Adjustment,
    competitive,
    consensus,
    extragradient,
    lola,
    lookahead,
    symplectic,
)
from .field import floating


def adjusted(levels: Any, adjustment: Any) -> Any:
    """The players of a nest, following an adjusted field in place of their own gradients.

    Batches, clocks and optimizers stay as they are: a player's optimizer gets the player's part of
    the field. The reported `loss` is half the part's squared norm; the player's own loss is
    reported as `info["loss"]` in `LevelInfo.user`, beside the objective's own info.

    Example:
        ```python
        x = nx.Level("x", lambda v, batch: v["x"] * v["y"], optax.sgd(0.5))
        y = nx.Level("y", lambda v, batch: -v["x"] * v["y"], optax.sgd(0.5))
        nest = nx.Nest([nx.games.adjusted((x, y), nx.games.consensus(0.5))])
        state = nest.init({"x": 1.0, "y": 3.0}, jax.random.key(0))
        print(nest.gradient(state, "x"), nest.gradient(state, "y"))  # 3.5 0.5
        ```

    Args:
        levels: the players, a tuple or list of levels, or `nx.Peers`. They share one context, so
            that each sees the batch of all others, and one period; none has a flow.
        adjustment: a function `losses -> field` such as `consensus(0.3)`; or a dict player ->
            adjustment for some of the players, the others following their own gradients.

    Returns:
        The levels in the same kind of group, with `nx.Field`s as objectives.

    Raises:
        ValueError: no levels, a level with a flow or a Field, different contexts or periods, an
            adjustment that is not a function, or one for an unknown player.
    """
    players = _players(levels)
    by_name = {level.name: level for level in players}
    if isinstance(adjustment, Mapping):
        adjustments: dict[str, Any] = dict(adjustment)
        for name in adjustments:
            if name not in by_name:
                raise ValueError(
                    f"adjusted: there is no player {name!r}; there are {', '.join(by_name)}"
                )
    else:
        adjustments = dict.fromkeys(by_name, adjustment)
    for one in adjustments.values():
        if one in (extragradient, consensus, symplectic, lookahead, lola, competitive):
            raise ValueError(
                f"adjusted: nx.games.{one.__name__} makes an adjustment; call it with its strength "
                f"or rate: nx.games.{one.__name__}(0.3)"
            )
        if not callable(one):
            raise ValueError(
                "adjusted: an adjustment is a function losses -> field, such as "
                f"nx.games.consensus(0.3); got {one!r:.60}"
            )
    changed = [
        dataclasses.replace(level, objective=_following(by_name, level.name, adjustments))
        if level.name in adjustments
        else level
        for level in players
    ]
    if isinstance(levels, Peers):
        return Peers(*changed, order=levels.order)
    return type(levels)(changed)


def _players(levels: Any) -> list[Level]:
    if not isinstance(levels, (tuple, list, Peers)) or not list(levels):
        raise ValueError(f"adjusted takes levels, (x, y) or nx.Peers(x, y); got {levels!r:.60}")
    players = list(levels)
    first: Any = players[0]
    for level in players:
        if not isinstance(level, Level):
            raise ValueError(f"adjusted takes levels, got {level!r:.60} among them")
        owner = f"adjusted: level {level.name!r}"
        if level.held or isinstance(level.objective, LevelField):
            raise ValueError(f"{owner} has no loss to adjust the gradient of")
        if level.flow is not None and not getattr(level.flow, "partial", False):
            raise ValueError(
                f"{owner} has the flow {level.flow!r}; an adjustment takes partial derivatives of "
                "the players' losses, so leave the flow out"
            )
        if not _same_context(level.context, first.context) or level.every != first.every:
            raise ValueError(
                f"{owner} and level {first.name!r} have different contexts or periods; every "
                "player's gradient enters the field of the others, so give them one context "
                "object, whose batch has a part for each, and one period"
            )
        if level.accumulate is not None:
            raise ValueError(
                f"{owner} accumulates losses; an adjusted field is one of a single batch: leave "
                "accumulate out and use optax.MultiSteps"
            )
    return players


def _same_context(one: Any, other: Any) -> bool:
    """As a nest sees it: equal methods, and partial functions of equal parts, are one context."""
    if isinstance(one, functools.partial) and isinstance(other, functools.partial):
        parts = [(p.func, p.args, tuple(sorted(p.keywords.items()))) for p in (one, other)]
        return parts[0] == parts[1]
    return one is other or (inspect.ismethod(one) and one == other)


def _following(
    players: dict[str, Level], name: str, adjustments: dict[str, Adjustment]
) -> LevelField:
    """The field that one player follows."""

    def function(values: Any, batch: Any) -> Any:
        moving, back = {}, {}
        for player, level in players.items():
            who = f"level {player!r}: its value"
            flags = trained_leaves(who, values[player], level.trained)
            moving[player], back[player] = floating(values[player], flags)

        def of(player: str) -> Callable[[Any], Any]:
            def loss(given: Any) -> Any:
                whole = {p: back[p](given[p]) for p in players}
                found = players[player].objective({**values, **whole}, batch)
                return found[0] if isinstance(found, tuple) else found

            return loss

        field = adjustments[name]({player: of(player) for player in players})(moving)
        found = players[name].objective(values, batch)
        loss, info = found if isinstance(found, tuple) else (found, {})
        if info is None or isinstance(info, Mapping):
            info = {"loss": loss, **(info or {})}
        return field[name], info

    return LevelField(function)
