"""Which optimizers converge in which games, and what their spectra say beforehand.

Sources: Lorraine, Acuna, Vicol and Duvenaud, "Complex Momentum for Optimization in Games" (2022);
Gidel et al., "Negative Momentum for Improved Game Dynamics" (2019); Balduzzi et al., "The Mechanics
of n-Player Differentiable Games" (2018); Mescheder, Nowozin and Geiger, "The Numerics of GANs"
(2017); Schaefer and Anandkumar, "Competitive Gradient Descent" (2019).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import nestax as nx
from nestax.games import Game

from . import lab
from .lab import names, option
from .lab.figures import Column, Dot, Sheet, dots, maps
from .lab.figures import Map as Panel

REACHED = 1e-5  # distance from the equilibrium, relative to the first, that counts as converged
ENOUGH = 1000  # steps; a shorter run that has not converged says nothing
GAMES: dict[str, tuple[str, Callable[[], Game]]] = {
    "bilinear": ("bilinear", lambda: nx.games.bilinear(jnp.diag(jnp.array([1.0, 0.7])))),
    "cooperative": ("mixture, cooperative", lambda: nx.games.mixture(0.0)),
    "mixed": ("mixture, half", lambda: nx.games.mixture(0.5)),
    "adversarial": ("mixture, adversarial", lambda: nx.games.mixture(1.0)),
    "dirac-gan": ("Dirac-GAN", nx.games.dirac_gan),
    "pennies": ("matching pennies", nx.games.matching_pennies),
}


class Arm(NamedTuple):
    """How players move.

    Attributes:
        label: in tables.
        optimizer: rate -> optax transformation, or player -> transformation as a list for the first
            and the second player.
        adjustment: rate -> adjustment of the field, or None.
        order: of the players.
        cost: gradients of all players that a step takes; a product with the Jacobian counts two.
    """

    label: str
    optimizer: Callable[[Any], Any]
    adjustment: Callable[[Any], Any] | None = None
    order: str = "simultaneous"
    cost: int = 1


def momentum(beta: Any, first: Any = None) -> Callable[[Any], Any]:
    """Complex momentum, (modulus, argument); `first`: only for the first player."""
    if first is None:
        return lambda rate: nx.optim.complex_momentum(rate, beta)
    return lambda rate: [nx.optim.complex_momentum(rate, beta), optax.sgd(rate)]


ALMOST = (0.8, np.pi / 8)  # "almost positive"
# The moduli 0.7 and 0.83 have the least spectral radius on the game xy at that argument.
ARMS = {
    "descent": Arm("descent", optax.sgd),
    "alternating": Arm("descent, alternating", optax.sgd, order="alternating"),
    "positive": Arm("momentum 0.8", momentum((0.8, 0.0))),
    "negative": Arm("momentum -0.5", momentum((0.5, np.pi))),
    "negative-alternating": Arm(
        "momentum -0.5, alternating", momentum((0.5, np.pi)), order="alternating"
    ),
    "almost-positive": Arm("complex momentum, π/8", momentum(ALMOST)),
    "complex": Arm("complex momentum, π/4", momentum((0.7, np.pi / 4))),
    "one-player": Arm("complex momentum, π/4, one player", momentum((0.83, np.pi / 4), first=True)),
    "optimistic": Arm("optimistic", optax.optimistic_gradient_descent),
    "extragradient": Arm("extragradient", optax.sgd, nx.games.extragradient, cost=2),
    "lookahead-minmax": Arm(
        "Lookahead-minmax, 5", lambda rate: nx.games.lookahead_minmax(optax.sgd(rate))
    ),
    "consensus": Arm("consensus 1", optax.sgd, lambda rate: nx.games.consensus(1.0), cost=3),
    "symplectic": Arm("symplectic 1", optax.sgd, lambda rate: nx.games.symplectic(1.0), cost=5),
    "lookahead": Arm("LookAhead", optax.sgd, nx.games.lookahead, cost=3),
    "lola": Arm("LOLA", optax.sgd, nx.games.lola, cost=4),
    "competitive": Arm(
        "competitive", optax.sgd, lambda rate: nx.games.competitive(rate, nx.CG(10)), cost=80
    ),
}


@dataclass(frozen=True)
class Settings(lab.Options):
    """Which optimizers converge in which games, and does the spectrum tell beforehand?

    Attributes:
        games: Games, each with a known equilibrium.
        arms: Optimizers.
        steps: Steps of all players.
        trials: Learning rates tried, from 0.01 to 3.
        seeds: Starting points that arms are judged on; two more choose the rate.
        grid: Learning rates and moduli of the spectral maps.
    """

    games: tuple[str, ...] = names(GAMES)
    arms: tuple[str, ...] = names(ARMS)
    steps: int = option(3000, least=20)
    trials: int = option(24, least=2)
    seeds: int = option(5, least=1)
    grid: int = option(40, least=2)


def system(game: Game, arm: Arm, rate: Any) -> nx.Nest:
    """The players as peers, with the arm's optimizer, adjustment and order."""
    chosen = arm.optimizer(rate)
    if isinstance(chosen, list):
        chosen = dict(zip(game.players, chosen, strict=True))
    levels: Any = game.levels(chosen)
    if arm.adjustment is not None:
        levels = nx.games.adjusted(levels, arm.adjustment(rate))
    return nx.Nest([nx.Peers(*levels, order=arm.order)])


def size(values: Any) -> jax.Array:
    """The Euclidean norm over all players."""
    return jnp.sqrt(sum(jnp.sum(v**2) for v in jax.tree.leaves(values)))


def starts(game: Game, seeds: Any) -> Any:
    """Points around the equilibrium, at a distance of 0.5 in every component."""

    def one(seed: Any) -> Any:
        keys = jax.random.split(jax.random.key(seed), len(game.players))
        return {
            name: game.equilibria[0][name] + 0.5 * jax.random.normal(key, jnp.shape(value))
            for key, (name, value) in zip(keys, game.start.items(), strict=True)
        }

    return jax.vmap(one)(jnp.asarray(seeds))


def play(game: Game, arm: Arm, rates: Any, begin: Any, steps: int) -> np.ndarray:
    """Runs side by side: the distance from the equilibrium before every step and after the last
    one, relative to the first, (steps + 1, runs). The field would not do: it also vanishes far
    away, where sigmoids are flat."""

    @jax.jit
    @jax.vmap
    def run(rate: Any, start: Any) -> Any:
        nest = system(game, arm, rate)
        state = nest.init(start, jax.random.key(0))

        def distance(values: Any) -> Any:
            return size(jax.tree.map(jnp.subtract, dict(values), game.equilibria[0]))

        def step(state: Any, _: Any) -> Any:
            return nest.step(state)[0], distance(state.values)

        last, found = jax.lax.scan(step, state, length=steps)
        found = jnp.append(found, distance(last.values))
        return found / found[0]

    return np.asarray(run(jnp.asarray(rates), begin)).T


def reached(path: np.ndarray) -> np.ndarray:
    """The first step after which a distance stays below REACHED, (runs,); infinite if none does."""
    above = ~(path < REACHED)
    last = np.where(above.any(0), len(path) - 1 - np.argmax(above[::-1], axis=0), -1)
    return np.where(last == len(path) - 1, np.inf, last + 1.0)


def radius(game: Game, arm: Arm, rate: float) -> float:
    """The spectral radius of a step of the nest at the equilibrium."""
    nest = system(game, arm, rate)
    state = nest.init(dict(game.equilibria[0]), jax.random.key(0))
    f, x = nest.map(nest.step(state)[0])  # optimistic optimizers make a first step of its own
    return float(np.max(np.abs(nx.games.spectrum(f, x))))


def attempt(settings: Settings, game_name: str, arm_name: str, desk: lab.Desk) -> lab.Record:
    """Rates are chosen on two starts of their own: fewest steps, else the least last distance."""
    with jax.enable_x64(True):
        game, arm = GAMES[game_name][1](), ARMS[arm_name]
        rates = np.geomspace(0.01, 3.0, settings.trials)
        judged = list(range(settings.seeds))
        seeds = [lab.tuning(seed) for seed in (0, 1)] + judged
        begin = starts(game, seeds)
        desk.say(f"{len(rates)} rates")
        each = jax.tree.map(lambda a: jnp.concatenate([a] * len(rates)), begin)
        paths = play(game, arm, np.repeat(rates, len(seeds)), each, settings.steps)
        paths = paths.reshape(len(paths), len(rates), len(seeds))

        def score(place: int) -> tuple[float, float]:
            own = paths[:, place, :2]
            last = np.nan_to_num(own[-1], nan=np.inf)
            return float(np.mean(reached(own))), float(np.max(last))

        best = min(range(len(rates)), key=score)
        path = paths[:, best, 2:]
        steps = reached(path)
        record = {"rate": float(rates[best]), "edge": best in (0, len(rates) - 1)}
        record |= {"steps": steps, "evaluations": steps * arm.cost}
        record |= {"last": path[-1], "factor": factor(path)}
        if arm_name != "lookahead-minmax":  # whose step is not the same at every count
            record["radius"] = radius(game, arm, float(rates[best]))
        kept = np.unique(np.linspace(0, settings.steps, 101).astype(int))
        return lab.listed(record | {"at": kept, "distance": path[kept]})


def factor(path: np.ndarray) -> np.ndarray:
    """By what the distance is multiplied in a step, (runs,): over the second half of the run, or of
    its part above 1e-10, below which rounding may count."""
    found = []
    for one in path.T:
        below = np.flatnonzero(~(one > 1e-10))
        end = int(below[0]) - 1 if below.size else len(one) - 1
        begin = end // 2
        ok = end > begin and one[begin] > 0 and np.isfinite(one[end])
        found.append((one[end] / one[begin]) ** (1 / (end - begin)) if ok else np.nan)
    return np.array(found)


PHASES = {"0": 0.0, "π/8": np.pi / 8, "π/4": np.pi / 4, "π": np.pi}
MIXTURES = {name: label for name, (label, _) in GAMES.items() if label.startswith("mixture")}


def spectral_map(settings: Settings, desk: lab.Desk) -> lab.Record:
    """The spectral radius of complex momentum on every mixture game: phase, modulus, rate."""
    with jax.enable_x64(True):
        rates = np.linspace(0, 1, settings.grid + 1)[1:]
        moduli = np.linspace(0, 1, settings.grid, endpoint=False)
        record: dict[str, Any] = {"rates": rates, "moduli": moduli}
        for name in MIXTURES:
            game = GAMES[name][1]()
            eigenvalues = nx.games.spectrum(game.field, game.equilibria[0])
            phases = list(PHASES.values())
            record[name] = nx.games.convergence_map(eigenvalues, rates, moduli, phases)
        return lab.listed(record)


def stages(settings: Settings) -> dict[str, lab.Stage]:
    done: dict[str, lab.Stage] = {"map": partial(spectral_map, settings)}
    for game in settings.games:
        for arm in settings.arms:
            done[f"{game} {arm}"] = partial(attempt, settings, game, arm)
    return done


CONVERGES = (
    f"the distance from the equilibrium falls below {REACHED:g} of the first, from every start"
)
SHOULD = {  # of the optimizers' own papers, on the bilinear game
    "optimistic": "Optimistic descent converges on bilinear games (Daskalakis et al. 2018)",
    "extragradient": "Extragradient converges on bilinear games (Korpelevich 1976)",
    "consensus": "Consensus optimization converges on bilinear games (Mescheder et al. 2017)",
    "symplectic": "Symplectic adjustment converges on bilinear games (Balduzzi et al. 2018)",
    "lookahead": "LookAhead converges on bilinear games (Zhang and Lesser 2010)",
    "competitive": "Competitive descent converges on bilinear games (Schaefer et al. 2019)",
    "lookahead-minmax": "Lookahead-minmax converges on bilinear games (Chavdarova et al. 2021)",
    "negative-alternating": "Negative momentum converges on bilinear games if players take turns "
    "(Gidel et al. 2019)",
}


def converged(values: Mapping[str, Any]) -> str:
    """How many starts converged, in words."""
    told = []
    for label, steps in values.items():
        steps = np.asarray(steps, float)
        told.append(f"{label}: {int(np.isfinite(steps).sum())} of {steps.size} starts")
    return "; ".join(told)


def find(settings: Settings, records: lab.Records) -> lab.Findings:
    def steps(game: str, *arms: str) -> dict[str, Any]:
        found = {arm: records.get(f"{game} {arm}", {}).get("steps") for arm in arms}
        return {ARMS[arm].label: None if a is None else _filled(a) for arm, a in found.items()}

    def judged(claim: str, criterion: str, values: Any, holds: Any, of: str = "") -> lab.Verdict:
        told = "" if any(a is None for a in values.values()) else converged(values)
        return lab.judge(claim, criterion, values, holds, of=of, measured=told)

    def every(steps: np.ndarray) -> bool | None:
        """Whether all starts converged; runs too short to tell whether they would say nothing."""
        return bool(np.isfinite(steps).all()) or (False if settings.steps >= ENOUGH else None)

    none = lambda a: not np.isfinite(a).any()  # noqa: E731
    real = ("descent", "positive", "negative")
    verdicts = []
    for game in ("bilinear", "dirac-gan", "adversarial"):
        verdicts.append(judged(
            "If players move at once, no real momentum converges on purely adversarial games, and "
            "some complex momentum does (Lorraine et al. 2022)",
            f"at the best of all rates, {CONVERGES} with complex momentum π/4, and from no start "
            "with momentum 0, 0.8 and -0.5",
            steps(game, "complex", *real),
            lambda turned, *rest: every(turned) and all(map(none, rest)), of=GAMES[game][0],
        ))  # fmt: skip
    mixtures = {game: steps(game, "almost-positive")[ARMS["almost-positive"].label]
                for game in MIXTURES}  # fmt: skip
    verdicts.append(judged(
        "Almost-positive momentum converges on cooperative, mixed and adversarial games (Lorraine "
        "et al. 2022)",
        f"with 0.8 e^(iπ/8) and the best rate of each game, {CONVERGES}",
        {MIXTURES[game]: a for game, a in mixtures.items()},
        lambda *each: None if None in map(every, each) else all(map(every, each)),
    ))  # fmt: skip
    verdicts.append(lab.judge(
        "On a cooperative game almost-positive momentum costs few steps more than the best real "
        "one (Lorraine et al. 2022)",
        "each at its best rate, at most twice the steps in the median",
        steps("cooperative", "almost-positive", "positive"),
        lab.medians(lambda almost, positive: almost <= 2 * positive),
        of=GAMES["cooperative"][0], shown=partial(lab.significant, digits=4), unit=" steps",
    ))  # fmt: skip
    verdicts.append(judged(
        "Complex momentum of one player is enough on a bilinear game, where both with it need not "
        "be (this project)",
        f"at the best of all rates, {CONVERGES}",
        steps("bilinear", "one-player"), every, of=GAMES["bilinear"][0],
    ))  # fmt: skip
    for arm, claim in SHOULD.items():
        verdicts.append(judged(claim, f"at the best of all rates, {CONVERGES}",
                               steps("bilinear", arm), every))  # fmt: skip
    verdicts.append(predicted(settings, records))
    verdicts += [best_phase(records.get("map", {}), game) for game in MIXTURES]
    measures = [
        lab.number("steps", lambda r: _filled(r["steps"]), digits=0),
        lab.number("gradients", lambda r: _filled(r["evaluations"]), digits=0),
        lab.number("distance at last", lambda r: _filled(r["last"])),
        lab.number("factor a step", lambda r: _unknown(r["factor"]), digits=4),
        lab.number("spectral radius", lambda r: r.get("radius"), digits=4),
    ]
    cases = {
        (GAMES[game][0], ARMS[arm].label): records[f"{game} {arm}"]
        for game in settings.games for arm in settings.arms if f"{game} {arm}" in records
    }  # fmt: skip
    caption = (
        f"Median (least to most) over starts. Steps until the distance from the equilibrium stays "
        f"below {REACHED:g} of the first, at the best of {settings.trials} rates; gradients of all "
        "players that these steps take, a product with the Jacobian counted as two. The factor by "
        "which the distance changes in a step, and the spectral radius that predicts it."
    )
    facts = lambda r: {"rate": lab.rate_tuned(r)}  # noqa: E731
    return lab.Findings(
        lab.numbers(("game", "optimizer"), cases, measures, caption, facts), verdicts
    )


def predicted(settings: Settings, records: lab.Records) -> lab.Verdict:
    """Whether the spectral radius is the rate at which converging arms converge."""
    ratios = {}
    for name, record in records.items():
        if "radius" in record and np.isfinite(_filled(record["steps"])).all():
            rate = np.log(_unknown(record["factor"]).astype(float))
            ratios[name] = float(np.median(rate / np.log(record["radius"])))
    values = {"measured over predicted rate": np.array(list(ratios.values()))} if ratios else {}
    return lab.judge(
        "The spectrum at the equilibrium tells how fast players converge (theory)",
        "the logarithm of the measured factor is that of the spectral radius within 10 %, for at "
        "least nine in ten pairs of a game and an optimizer that converge",
        values,
        lambda a: np.mean(np.abs(a - 1) <= 0.1) >= 0.9,
        shown=partial(lab.significant, digits=3), unit="",
    )  # fmt: skip


def best_phase(record: Mapping[str, Any], game: str) -> lab.Verdict:
    """Where the least spectral radius lies."""
    least = {}
    if game in record:
        radius = np.asarray(record[game], float)
        least = {f"arg β = {phase}": [r.min()] for phase, r in zip(PHASES, radius, strict=True)}
    real = game == "cooperative"
    return lab.judge(
        "The best momentum is real if the game is cooperative, and complex if it is not (Lorraine "
        "et al. 2022)",
        "the least spectral radius over learning rates and moduli is that of "
        + ("0 or π" if real else "π/8 or π/4"),
        least,
        lambda zero, *rest: (min(rest[:2]) < min(zero, rest[2])) != real,
        of=MIXTURES[game], shown=lambda a: f"{a[0]:.4f}", unit="",
    )  # fmt: skip


def _filled(values: Any) -> np.ndarray:
    """As recorded; None, which stands for what was never reached, is infinite."""
    return np.array([np.inf if v is None or v != v else v for v in np.ravel(values)], float)


def _unknown(values: Any) -> np.ndarray:
    return np.array([np.nan if v is None else v for v in np.ravel(values)], float)


def draw(settings: Settings, records: lab.Records) -> list[Sheet]:
    columns = []
    for game in settings.games:
        rows = {}
        for arm in settings.arms:
            record = records.get(f"{game} {arm}")
            if record is not None:
                steps = _filled(record["steps"])
                rows[ARMS[arm].label] = [Dot(steps if np.isfinite(steps).all() else None)]
        columns.append(Column(GAMES[game][0], "steps", rows, log=True))
    caption = (
        f"Steps until the distance from the equilibrium stays below {REACHED:g} of the first, at "
        "the best rate; the bar is the range over starts. No dot: not from every start."
    )
    sheets = [dots("steps", columns, "Who converges where", caption)]
    panels = []
    record = records.get("map", {})
    for game, label in MIXTURES.items():
        for phase, radius in zip(PHASES, record.get(game, ()), strict=False):
            shown = np.where(np.asarray(radius, float) < 1, radius, np.nan)
            panels.append(Panel(f"{label.removeprefix('mixture, ')}, arg β = {phase}", shown[::-1]))
    caption = (
        "Learning rates to the right, from 0 to 1; |β| upwards, from 0 to 1. Blank: the spectral "
        "radius is 1 or more, and players do not converge."
    )
    look: dict[str, Any] = {"label": "spectral radius", "limits": (0.5, 1), "columns": 4}
    sheets.append(maps("radius", panels, "Where complex momentum converges", caption, **look))
    return sheets


def example(settings: Settings) -> lab.Example:
    """The bilinear game with complex momentum."""
    game = GAMES["bilinear"][1]()
    nest = system(game, ARMS["complex"], 0.1)
    return lab.Example(nest, nest.init(game.start, jax.random.key(0)))


LEAD = """Players who descend at the same time may circle around their equilibrium, or leave it.
Optimizers for games are compared on games whose equilibria are known, each at its best rate, and
with what the eigenvalues of a step predict."""
STUDY = lab.Study("Games", LEAD, Settings, stages, find, draw, example)
