"""Runs of a game, looked at on their way: many side by side, or one after another."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from nestax.levels import Nest

from .players import gain
from .worlds import World

ARGUMENTS = {"0": 0.0, "π/8": 1 / 8, "π/4": 1 / 4, "π/2": 1 / 2, "π": 1.0}  # times π


@dataclasses.dataclass(frozen=True)
class Beta:
    """The discriminator's decay of momentum.

    Attributes:
        modulus: |beta|.
        turn: the argument of beta, a name of `ARGUMENTS`.
    """

    modulus: float
    turn: str

    @property
    def argument(self) -> float:
        return np.pi * ARGUMENTS[self.turn]

    @property
    def real(self) -> bool:
        """Whether beta is a real number."""
        return self.modulus == 0 or self.turn in ("0", "π")

    @property
    def gain(self) -> float:
        return float(gain(self.modulus, self.argument))

    def __str__(self) -> str:
        turns = {"0": "", "π": "-"}
        if self.real:
            return f"{turns[self.turn]}{self.modulus:g}" if self.modulus else "0"
        return f"{self.modulus:g} exp(i {self.turn})"


def grid(moduli: Sequence[float], turns: Sequence[str]) -> dict[str, Beta]:
    """Every beta of these moduli and arguments, and first 0, by name."""
    every = [Beta(0.0, "0"), *(Beta(m, t) for m in moduli for t in turns if m)]
    return {str(beta): beta for beta in every}


def settings_of(
    betas: Sequence[Beta], generator: Any, rate: Any, equal: str
) -> dict[str, np.ndarray]:
    """What the level "run" holds, one entry for each beta.

    Args:
        betas: of the runs.
        generator: the generator's learning rate.
        rate: the discriminator's.
        equal: "rate": the same for all; "step": such that a constant gradient makes the same steps.
    """
    gains = np.array([beta.gain for beta in betas])
    return {
        "generator": np.broadcast_to(np.asarray(generator, float), gains.shape),
        "rate": np.broadcast_to(rate, gains.shape) / (gains if equal == "step" else 1),
        "modulus": np.array([beta.modulus for beta in betas]),
        "argument": np.array([beta.argument for beta in betas]),
    }


def played(
    world: World,
    nest: Nest,
    runs: Mapping[str, np.ndarray],
    seeds: Sequence[int],
    steps: int,
    points: int,
    look: Callable[[Any, jax.Array], Any],
    last: Callable[[Any, jax.Array], Any],
    say: Callable[[str], None] = lambda text: None,
) -> Any:
    """Plays the game once for each entry of `runs`.

    Args:
        world: what is generated.
        nest: its `system`.
        runs: what the level "run" holds, each of shape (runs,).
        seeds: of each run: of its networks and of all that it draws.
        steps: of every run, a multiple of `points`.
        points: how often it is looked at after its beginning.
        look: (generator, key) -> arrays; the key is the run's and the point's own.
        last: the same, for the generator at the end.
        say: is told how far the runs are.

    Returns:
        What was seen on the way, numpy arrays of shape (1 + points, runs, ...); and at the end,
        (runs, ...). Runs may diverge.
    """
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds))
    held = {name: jnp.asarray(values, jnp.float32) for name, values in runs.items()}

    def glance(what: Any) -> Any:
        def own(generator: Any, key: jax.Array, point: Any) -> Any:
            return what(generator, jax.random.fold_in(jax.random.fold_in(key, 2), point))

        return jax.jit(jax.vmap(own, (0, 0, None))) if world.together else eqx.filter_jit(own)

    def begun(key: jax.Array) -> Any:
        return world.game.init(jax.random.fold_in(key, 1))

    looks = glance(look), glance(last)
    if world.together:
        made, judged = jax.jit(jax.vmap(begun))(keys)
        state = nest.init({}, keys, each={"generator": made, "discriminator": judged, "run": held})
        words = f"{len(keys)} runs side by side"
        return _followed(nest, state, steps, points, looks, keys, lambda t: say(f"{words}  {t}"))
    every = []
    for number, key in enumerate(keys):
        made, judged = begun(key)
        own = {name: values[number] for name, values in held.items()}
        state = nest.init({"generator": made, "discriminator": judged, "run": own}, key)
        words = f"run {number + 1} of {len(keys)}"
        told = lambda text, words=words: say(f"{words}  {text}")  # noqa: E731
        every.append(_followed(nest, state, steps, points, looks, key, told))
    ways, ends = zip(*every, strict=True)
    stacked = lambda axis: lambda *each: np.stack(each, axis)  # noqa: E731
    return jax.tree.map(stacked(1), *ways), jax.tree.map(stacked(0), *ends)


def _followed(
    nest: Nest, state: Any, steps: int, points: int, looks: Any, keys: Any, say: Any
) -> tuple[Any, Any]:
    look, last = (
        lambda state, point, f=f: jax.tree.map(
            np.asarray, f(state.values["generator"], keys, jnp.asarray(point))
        )
        for f in looks
    )
    seen = [look(state, 0)]
    for point in range(1, points + 1):
        say(f"{steps // points * (point - 1)}/{steps}")
        state, _ = nest.run(state, steps // points, check=False)
        seen.append(look(state, point))
    return jax.tree.map(lambda *each: np.stack(each), *seen), last(state, points + 1)
