"""A game with what is known of it: losses, a start, equilibria, and best responses."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..flows import Unroll
from ..levels import Level
from .field import Field, as_losses, check_players, joint_field

Values = dict[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Game:
    """Players' losses, and what is known about them in closed form.

    The functions `bilinear`, `matching_pennies`, ... make such games. A game of your own needs
    `losses` and `start` only.

    Example:
        ```python
        game = nx.games.mixture(0.5, scales=[1.0, 2.0])
        nest = nx.Nest([game.levels(optax.sgd(0.1))])
        state = nest.init(game.start, jax.random.key(0))
        state, info = nest.run(state, steps=200)
        print(f"{game.exploitability(state.values):.4f}")  # 0.0000
        ```

    Attributes:
        losses: a dict, player -> loss. A loss is a function `loss(values) -> scalar`, and `values`
            maps each player to the player's value.
        start: values to begin at.
        equilibria: the known Nash equilibria, as values. Empty where none is known or none is
            finite: a pure strategy needs infinite logits.
        stackelberg: values at the Stackelberg equilibrium, where the first player leads and the
            second one responds; None where it is not known.
        regrets: `regrets(values)` gives for each player the loss minus the lowest loss that the
            player could have against the others' values. It raises a ValueError that names the
            player where the loss has no lower bound. None: not known.
        probabilities: `probabilities(values)` gives for each player the probabilities that the
            logits stand for; None where values are no logits.

    Raises:
        ValueError: losses that are no dict of functions, or another set of players in `start`.
    """

    losses: Any
    start: Values
    equilibria: tuple[Values, ...] = ()
    stackelberg: Values | None = None
    regrets: Callable[[Values], Values] | None = None
    probabilities: Callable[[Values], Values] | None = None

    def __post_init__(self):
        if not isinstance(self.losses, Mapping):
            raise ValueError(
                "Game: losses is a dict, {'x': loss_x, 'y': loss_y}, each a function of all "
                f"values; got {self.losses!r:.60}"
            )
        as_losses(self.losses, "Game")
        try:
            check_players(self.losses, self.start)
        except ValueError as error:
            raise ValueError(f"Game: start: {error}") from None

    @property
    def players(self) -> tuple[str, ...]:
        """The names of the players, in the order in which alternating players move."""
        return tuple(self.losses)

    @property
    def field(self) -> Field:
        """The joint field, values -> each player's own gradient; see `joint_field`."""
        return joint_field(self.losses)

    def levels(self, optimizer: Any) -> tuple[Level, ...]:
        """The players as levels, to be given to a nest as one group of peers.

        `nx.Nest([game.levels(optimizer)])` moves them simultaneously, `nx.Nest([nx.Peers(
        *game.levels(optimizer), order="alternating")])` in turns. Begin at `game.start`.

        Args:
            optimizer: an optax transformation for all players; or a dict, player -> transformation.

        Returns:
            A `Level` for each player, in the order of `players`, without a context.

        Raises:
            ValueError: a dict with other players.
        """
        chosen = optimizer
        if not isinstance(optimizer, Mapping):
            chosen = dict.fromkeys(self.players, optimizer)
        if set(chosen) != set(self.players):
            raise ValueError(
                "Game.levels: optimizer is one optax transformation, or a dict with one for each "
                f"of the players {list(self.players)}; got {list(chosen)}"
            )
        return tuple(
            Level(name, _objective(loss), chosen[name]) for name, loss in self.losses.items()
        )

    def led_by(self, leader: str, optimizer: Any, every: int = 10, flow: Any = None) -> list[Any]:
        """The levels of a Stackelberg game: a leader outside, all other players inside.

        The leader's gradient passes through the others' responses, which the leader so anticipates.

        Example:
            ```python
            game = nx.games.duopoly()
            nest = nx.Nest(game.led_by("leader", optax.sgd(0.3), flow=nx.Implicit(nx.CG())))
            state = nest.init(game.start, jax.random.key(0))
            state, info = nest.run(state, steps=50)
            print(f"{state.values['leader'][0]:.3f}")  # 0.500
            ```

        Args:
            leader: the player who leads.
            optimizer: as for `levels`.
            every: steps of the followers for each step of the leader. Followers go on from where
                they are.
            flow: how the leader's gradient passes through the followers' steps. None: `Unroll()`.

        Returns:
            The levels for `nx.Nest`: the group of followers, then the leader.

        Raises:
            ValueError: an unknown leader, no followers, or a dict of optimizers with other players.
        """
        if leader not in self.losses or len(self.losses) < 2:
            raise ValueError(
                f"Game.led_by: leader is one of several players, got {leader!r} of the players "
                f"{list(self.players)}"
            )
        levels = self.levels(optimizer)
        followers = tuple(level for level in levels if level.name != leader)
        outside = next(level for level in levels if level.name == leader)
        flow = Unroll() if flow is None else flow
        return [followers, dataclasses.replace(outside, every=every, flow=flow)]

    def exploitability(self, values: Values) -> jax.Array:
        """How much the players could gain by best responses, together; 0 at Nash equilibria only.

        The sum over all players of the player's loss minus the lowest loss that the player could
        have against the others' values (NashConv; in zero-sum games of two players the duality
        gap). Every best response is exact.

        Example:
            ```python
            game = nx.games.rock_paper_scissors()
            print(game.exploitability({"x": jnp.zeros(3), "y": jnp.zeros(3)}))  # 0.0
            ```

        Args:
            values: a value for each player.

        Returns:
            A scalar, not negative but for rounding.

        Raises:
            ValueError: best responses are not known for this game, or a loss has no lower bound.
        """
        if self.regrets is None:
            raise ValueError(
                "Game.exploitability: the best responses of this game are not known; give "
                "Game(regrets=), values -> each player's loss minus the lowest one"
            )
        check_players(self.losses, values)
        regrets = self.regrets(dict(values))
        if not isinstance(regrets, Mapping) or set(regrets) != set(self.losses):
            raise ValueError(
                "Game.exploitability: regrets returns a number for each of the players "
                f"{list(self.players)}; got {regrets!r:.60}"
            )
        return jnp.asarray(sum(regrets.values()))

    def policies(self, values: Values) -> Values:
        """The probabilities that logits stand for.

        Example:
            ```python
            game = nx.games.matching_pennies()
            print(game.policies({"x": 0.0, "y": 1.0})["x"])  # [0.5 0.5]
            ```

        Args:
            values: a value for each player.

        Returns:
            player -> array. Of a matrix game: the probability of each action. Of an iterated
            dilemma: the probability of cooperation in each state, shape (5,).

        Raises:
            ValueError: the values of this game are no logits.
        """
        if self.probabilities is None:
            raise ValueError(
                "Game.policies: the values of this game are no logits; they have no probabilities"
            )
        check_players(self.losses, values)
        return self.probabilities(dict(values))


def known_game(function: str, losses: dict[str, Any], start: Values, **known: Any) -> Game:
    """A game whose functions refuse values of other shapes than those at the start.

    Without that some shapes would broadcast, or be read past their end, and give wrong numbers.

    Args:
        function: the public function that makes the game, for messages.
        losses: as `Game` takes them.
        start: a value for each player, one array each.
        **known: other arguments of `Game`.
    """

    def guarded(of_values: Callable[[Values], Any]) -> Callable[[Values], Any]:
        def checked(values: Values) -> Any:
            for name, begin in start.items():
                shape = np.shape(values[name]) if name in values else None
                if shape != begin.shape:
                    raise ValueError(
                        f"{function}: the value of player {name!r} must have shape {begin.shape}, "
                        f"got {'none' if shape is None else shape}"
                    )
            return of_values(values)

        return checked

    for name in known:
        if name in ("regrets", "probabilities"):
            known[name] = guarded(known[name])
    return Game({name: guarded(loss) for name, loss in losses.items()}, start, **known)


def refusing(message: str) -> Callable[[Values], Values]:
    """Regrets of a game where some player's loss has no lower bound."""

    def regrets(values: Values) -> Values:
        raise ValueError(f"Game.exploitability: {message}")

    return regrets


def _objective(loss: Callable[[Values], Any]) -> Callable[[Values, Any], Any]:
    return lambda values, batch: loss(values)
