"""Do Lyapunov exponents find where runs of a game part, and is that worth its gradients?

Source: Lorraine et al., "Lyapunov Exponents for Diversity in Differentiable Games" (2022).
"""

import time
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
from .lab.figures import Line, Panel, Sheet, curves, free

GREEDY, CAREFUL = 1.3, 1.7  # losses below are of cooperation, above of defection
APART = 0.1  # losses of two modes of a random subspace differ by more
OFTEN = 0.05  # share of random starts that end in such a mode, at least
STILL = 0.01  # change of the losses over the last tenth of a run, at most, that has settled
KEPT = (0, 1, 2, 5, 10, 20, 50, 100)  # iterations of the ascent after which it is branched
RUNS = (1, 2, 3, 5, 8, 12, 20, 32, 50, 80, 120)  # numbers of random starts that are drawn


class Case(NamedTuple):
    """A game.

    Attributes:
        label: in tables.
        make: key -> the game.
        shape: of each player's value.
        many: whether each seed plays a game of its own.
    """

    label: str
    make: Callable[[jax.Array], Game]
    shape: tuple[int, ...] = ()
    many: bool = False


CASES = {
    "small": Case("small IPD", lambda key: nx.games.small_ipd()),
    "full": Case("full IPD", lambda key: nx.games.iterated_prisoners_dilemma(0.96), (5,)),
    "subspaces": Case("random subspaces", nx.games.subspace_ipd, many=True),
}
FIELDS: dict[str, tuple[str, Callable[[Game, float], Any]]] = {
    "descent": ("descent", lambda game, rate: game.field),
    "lola": ("LOLA", lambda game, rate: nx.games.lola(rate)(game.losses)),
}
OBJECTIVES: dict[str, tuple[str, int, Callable[[jax.Array], jax.Array]]] = {
    "max": ("largest exponent", 1, lambda exponents: exponents[0]),
    "min": ("second exponent", 2, lambda exponents: exponents[-1]),
    "sum": ("sum of two", 2, jnp.sum),
    "entropy": ("positive ones of two", 2, lambda exponents: jnp.sum(jnp.maximum(exponents, 0))),
    "published": ("published exponent", 1, lambda exponents: exponents[0]),
}


@dataclass(frozen=True)
class Settings(lab.Options):
    """Does branching at the largest exponent find more modes of a game than random starts?

    Attributes:
        games: Iterated prisoner's dilemmas.
        optimizers: Of the players; LOLA on the small game only, with the objective "max".
        objectives: Of the exponents, on the small game; on the others "max" and "published" at
            most.
        starts: Seeds of the small and of the full game.
        subspaces: Random subspaces, with one seed each.
        steps: Steps whose growth the exponents measure.
        iterations: Steps of the ascent, Adam's with 0.1.
        rate: The players' learning rate.
        run: Steps of a run.
        size: Step off the branching point, by which branching is judged.
        far: A longer step, which is reported.
    """

    games: tuple[str, ...] = names(CASES)
    optimizers: tuple[str, ...] = names(FIELDS)
    objectives: tuple[str, ...] = names(OBJECTIVES)
    starts: int = option(64, least=2)
    subspaces: int = option(100, least=2)
    steps: int = option(10, least=1)
    iterations: int = option(50, least=1)
    rate: float = option(5.0, above=0)
    run: int = option(500, least=10)
    size: float = option(1.0, above=0)
    far: float = option(3.0, above=0)


def seeds(settings: Settings, game: str) -> int:
    return settings.subspaces if CASES[game].many else settings.starts


def begin(case: Case, keys: Any) -> dict[str, jax.Array]:
    """Random starts: logits of uniform probabilities; on the lines of subspaces, as much."""
    draw = lambda key: jax.random.logistic(key, case.shape)  # noqa: E731
    return {p: jax.vmap(lambda k, i=i: draw(jax.random.fold_in(k, i)))(keys)
            for i, p in enumerate("xy")}  # fmt: skip


def keys(settings: Settings, game: str, judged: bool) -> jax.Array:
    """Keys of random starts: those that are branched from, or other ones."""
    return jax.random.split(jax.random.key(0 if judged else 1), seeds(settings, game))


def descends(settings: Settings, game: Game, optimizer: str) -> Callable[[Any], Any]:
    return nx.games.descent(FIELDS[optimizer][1](game, settings.rate), settings.rate)


def fate(settings: Settings, case: Case, optimizer: str, key: jax.Array, x: Any) -> jax.Array:
    """A run: the losses at its end, nan where it has not settled; shape (2,)."""
    game = case.make(key)
    step = descends(settings, game, optimizer)
    last = settings.run // 10

    def losses(x: Any) -> jax.Array:
        return jnp.stack([game.losses[p](x) for p in "xy"])

    def steps(x: Any, count: int) -> Any:
        return jax.lax.scan(lambda x, _: (step(x), None), x, length=count)[0]

    before = steps(x, settings.run - last)
    end = losses(steps(before, last))
    return jnp.where(jnp.max(jnp.abs(end - losses(before))) <= STILL, end, jnp.nan)


def climb(settings: Settings, case: Case, optimizer: str, objective: str, key: Any, x: Any) -> Any:
    """Ascent on the exponents, as `nx.games.branch_point` does it, but with derivatives in forward
    mode: of as few numbers as here they take a twentieth of the time, and compile in a seventh.

    Returns:
        The points from which each iteration was made and the last one, and the objective there,
        with a leading axis of iterations + 1.
    """
    step = descends(settings, case.make(key), optimizer)
    _, n, total = OBJECTIVES[objective]

    def value(x: Any) -> jax.Array:
        if objective == "published":
            return nx.games.published_exponent(step, x, settings.steps)
        return total(nx.games.lyapunov_exponents(step, x, settings.steps, n))

    return ascent(value, x, settings.iterations)


def ascent(value: Callable[[Any], jax.Array], x: Any, iterations: int) -> Any:
    """Adam's ascent on a function of few numbers; where a number is not finite it stays."""
    optimizer = optax.adam(0.1)

    def one(carry: Any, _: Any) -> Any:
        x, memory = carry
        (slope, height) = jax.jacfwd(lambda x: (value(x),) * 2, has_aux=True)(x)
        finite = jnp.all(jnp.isfinite(jnp.concatenate([jnp.ravel(s) for s in slope.values()])))
        down = jax.tree.map(lambda s: jnp.where(finite, -s, 0), slope)
        update, memory = optimizer.update(down, memory, x)
        return (optax.apply_updates(x, update), memory), (x, height)

    return jax.lax.scan(one, (x, optimizer.init(x)), length=iterations + 1)[1]


def evaluations(settings: Settings, game: str, objective: str) -> int:
    """Evaluations of the joint field in an iteration of the ascent. A step and a direction that
    passes through its Jacobian count one each; a derivative along each of n numbers as often."""
    n = 2 * int(np.prod(CASES[game].shape))
    directions = OBJECTIVES[objective][1]
    if objective == "published":  # ten iterations there and back, and one direction at each step
        once = 10 * 4 + 2 * settings.steps
        return once * (1 + n)
    found = settings.steps * (1 + n)
    return found + settings.steps * (1 + directions) * (1 + n)


def centres(ends: Any) -> list[list[float]]:
    """Losses of the modes that at least OFTEN of all runs end in, those of a seed; (runs, 2)."""
    found: list[np.ndarray] = []
    counts: list[int] = []
    for end in np.asarray(ends, float):
        near = [i for i, c in enumerate(found) if np.max(np.abs(c - end)) <= APART]
        if near:
            counts[near[0]] += 1
        elif np.isfinite(end).all():
            found.append(end)
            counts.append(1)
    often = OFTEN * len(np.asarray(ends))
    return [c.tolist() for c, n in zip(found, counts, strict=True) if n >= often]


def modes(ends: Any, known: Any = None) -> np.ndarray:
    """The number of each run's mode from 1, (..., runs); 0 for none. Without known losses 1 is that
    both cooperate, 2 that both defect.

    Args:
        ends: losses, (..., runs, 2).
        known: losses of the modes, (modes, 2).
    """
    ends = np.asarray(ends, float)
    if known is None:
        together, alone = np.all(ends < GREEDY, -1), np.all(ends > CAREFUL, -1)
        return np.where(together, 1, np.where(alone, 2, 0))
    found = np.zeros(ends.shape[:-1], int)
    for number, one in reversed(list(enumerate(known, 1))):
        found = np.where(np.max(np.abs(ends - np.asarray(one)), -1) <= APART, number, found)
    return found


def both(shares: Any, runs: int | float) -> float:
    """The probability that so many runs from random starts end in two modes or more.

    Args:
        shares: of no mode, of the first, of the second, ...
        runs: their number; between whole numbers it is interpolated.
    """
    if runs != int(runs):
        low, rest = int(runs), runs - int(runs)
        return (1 - rest) * both(shares, low) + rest * both(shares, low + 1)
    none, *some = map(float, shares)
    return 1 - sum((none + s) ** runs for s in some) + (len(some) - 1) * none**runs


def timed(program: Callable[..., Any], *args: Any) -> tuple[Any, float]:
    """What a compiled program returns, and the least of three times in seconds, warm."""
    found = jax.block_until_ready(program(*args))
    took = []
    for _ in range(3):
        began = time.perf_counter()
        jax.block_until_ready(program(*args))
        took.append(time.perf_counter() - began)
    return found, min(took)


def at_random(settings: Settings, game: str, optimizer: str, desk: lab.Desk) -> lab.Record:
    """Where random starts end: of 16 for each seed, or 128 in each subspace."""
    case = CASES[game]
    own = keys(settings, game, judged=True)  # of the games
    count = 128 if case.many else 16
    others = jax.vmap(partial(jax.random.split, num=count))(keys(settings, game, judged=False))
    starts = jax.vmap(partial(begin, case))(others)
    run = partial(fate, settings, case, optimizer)
    program = jax.jit(jax.vmap(jax.vmap(run, (None, 0))))
    ends, seconds = timed(program, own, starts)
    ends = np.asarray(ends)
    known = [centres(one) for one in ends] if case.many else None
    groups = list(zip(ends, known, strict=True)) if known else [(ends.reshape(-1, 2), None)]
    shares = []
    for one, these in groups:
        number = modes(one, these)
        shares.append([float(np.mean(number == m)) for m in range(1 + len(these or (1, 2)))])
    return {
        "shares": shares, "centres": known, "seconds": seconds / (len(own) * count),
        "settled": float(np.mean(np.isfinite(ends).all(-1))),
    }  # fmt: skip


def branched(
    settings: Settings, game: str, optimizer: str, objective: str, desk: lab.Desk
) -> lab.Record:
    """Both branches from the best point so far, after several numbers of iterations."""
    case, own = CASES[game], keys(settings, game, judged=True)
    starts = begin(case, own)
    desk.say("ascent")
    up = jax.jit(jax.vmap(partial(climb, settings, case, optimizer, objective)))
    (points, values), seconds = timed(up, own, starts)
    values = np.asarray(values, float)
    kept = [i for i in KEPT if i < settings.iterations] + [settings.iterations]
    tops = np.stack([np.argmax(np.nan_to_num(values[:, : i + 1], nan=-np.inf), 1) for i in kept], 1)
    lanes = np.arange(len(own))[:, None]
    best = {p: a[lanes, tops] for p, a in points.items()}  # (seeds, kept, ...)

    def ends(key: jax.Array, x: Any) -> jax.Array:
        step = descends(settings, case.make(key), optimizer)
        near = nx.games.branches(step, x, settings.steps)
        size = jnp.array([settings.size, settings.far])

        def off(branch: Any, point: Any) -> Any:
            return point + jnp.multiply.outer(size, branch - point)

        sides = jax.tree.map(off, near, x)  # (sizes, 2, ...)
        return jax.vmap(jax.vmap(partial(fate, settings, case, optimizer, key)))(sides)

    desk.say("branches")
    fates = np.asarray(jax.jit(jax.vmap(jax.vmap(ends, (None, 0))))(own, best))
    known = desk.done[f"{game} {optimizer} random"]["centres"]
    rows = [modes(one, None if known is None else known[seed]) for seed, one in enumerate(fates)]
    mode = np.stack(rows)  # (seeds, kept, sizes, 2)
    record = {
        "kept": kept, "seconds": seconds / len(own) / (settings.iterations + 1),
        "mode": mode[:, :, 0], "far": mode[:, :, 1],
        "before": values[:, 0], "exponent": values[np.arange(len(own)), tops[:, -1]],
    }  # fmt: skip
    if not case.shape and not case.many:
        record["best"] = [best[p][:, -1] for p in "xy"]
    return lab.listed(record)


def landscape(settings: Settings, desk: lab.Desk) -> lab.Record:
    """The small game: exponents and fates over the probabilities of both players."""
    case, key = CASES["small"], jax.random.key(0)
    step, k = descends(settings, case.make(key), "descent"), settings.steps
    record: dict[str, Any] = {}
    for name, count in (("coarse", 11), ("fine", 101)):
        logits = jax.scipy.special.logit((jnp.arange(count) + 0.5) / count)
        y, x = jnp.meshgrid(logits, logits, indexing="ij")
        grid = {"x": x, "y": y}
        run = jax.jit(jax.vmap(jax.vmap(partial(fate, settings, case, "descent", key))))
        record[f"{name} modes"] = modes(np.asarray(run(grid)))
        if name == "coarse":
            over = lambda f, grid=grid: jax.jit(jax.vmap(jax.vmap(f)))(grid)  # noqa: E731
            record["true"] = over(lambda x: nx.games.lyapunov_exponents(step, x, k, 1)[0])
            record["published"] = over(lambda x: nx.games.published_exponent(step, x, k))
    return lab.listed(record)


def stages(settings: Settings) -> dict[str, lab.Stage]:
    done: dict[str, lab.Stage] = {}
    if "small" in settings.games:
        done["landscape"] = partial(landscape, settings)
    for game, optimizer in players(settings):
        arm = f"{game} {optimizer}"
        done[f"{arm} random"] = partial(at_random, settings, game, optimizer)
        for objective in objectives(settings, game, optimizer):
            done[f"{arm} {objective}"] = partial(branched, settings, game, optimizer, objective)
    return done


def players(settings: Settings) -> list[tuple[str, str]]:
    """The games and how players move in them."""
    every = [(game, optimizer) for game in settings.games for optimizer in settings.optimizers]
    return [
        (game, optimizer) for game, optimizer in every if optimizer == "descent" or game == "small"
    ]


def objectives(settings: Settings, game: str, optimizer: str) -> list[str]:
    """The objectives of a game and an optimizer."""
    few = ("max", "published") if optimizer == "descent" else ("max",)
    every = optimizer == "descent" and game == "small"
    return [o for o in settings.objectives if every or o in few]


def several(record: Mapping[str, Any]) -> np.ndarray:
    """The games that have two modes or more, for which branching is judged."""
    return np.array([sum(s > 0 for s in one[1:]) > 1 for one in record["shares"]])


def found(record: Mapping[str, Any], random: Mapping[str, Any], by: str = "mode") -> np.ndarray:
    """Whether both branches end in different modes, (seeds, kept); of games with several modes."""
    first, second = np.moveaxis(np.asarray(record[by], int), -1, 0)
    differ = (first != second) & (first > 0) & (second > 0)
    return differ if random["centres"] is None else differ[several(random)]


def by_chance(random: Mapping[str, Any], runs: int | float) -> float:
    """The share of seeds in which so many random starts find two modes."""
    if random["centres"] is None:
        return both(random["shares"][0], runs)
    judged = zip(random["shares"], several(random), strict=True)
    return float(np.mean([both(shares, runs) for shares, some in judged if some] or [np.nan]))


def budgets(
    settings: Settings, game: str, objective: str, random: Any, record: Any, iterations: int
) -> tuple[float, float]:
    """Random starts that as many evaluations, and as much time, pay for as two branches do."""
    count = evaluations(settings, game, objective)
    # The exponent is also needed at the branching point, which gives the directions.
    gradients = 2 + (iterations + 1) * count / settings.run
    return gradients, 2 + (iterations + 1) * record["seconds"] / random["seconds"]


EQUAL = {
    "runs": "two runs each",
    "gradients": "as many evaluations of the field, those of the ascent included",
    "time": "as much time, measured warm, that of the ascent included",
}


def find(settings: Settings, records: lab.Records) -> lab.Findings:
    verdicts, cases = [], {}
    for game, optimizer in players(settings):
        random = records.get(f"{game} {optimizer} random")
        label = f"{CASES[game].label}, {FIELDS[optimizer][0]}"
        for objective in objectives(settings, game, optimizer):
            record = records.get(f"{game} {optimizer} {objective}")
            row = None
            if random is not None and record is not None:
                row = compared(settings, game, objective, random, record)
                cases[label, OBJECTIVES[objective][0]] = row
            if objective == "max":
                verdicts += [better(label, equal, row) for equal in EQUAL]
    random = records.get("full descent random")
    shares = None if random is None else [random["shares"][0][1]]
    verdicts.append(lab.judge(
        "From random starts descent on the IPD finds only defection (Lorraine et al. 2022)",
        "fewer than 1 % of random starts end where both cooperate",
        {"both cooperate": shares}, lambda a: a[0] < 0.01,
    ))  # fmt: skip
    record = records.get("full descent max")
    last = None if record is None else np.asarray(record["mode"], int)[:, -1]
    verdicts.append(lab.judge(
        "Branching at the largest exponent of the IPD also finds mutual cooperation (Lorraine et "
        "al. 2022)",
        "one of two branches ends where both cooperate, in at least half of the seeds",
        {"a branch cooperates": None if last is None else [np.mean(np.any(last == 1, 1))]},
        lambda a: a[0] >= 0.5,
    ))  # fmt: skip
    verdicts.append(beside(records.get("landscape")))
    measures = [
        lab.share("both modes", lambda r: r["branching"]),
        lab.share("longer step", lambda r: r["far"]),
        lab.share("random: equal runs", lambda r: r["runs"]),
        lab.share("equal gradients", lambda r: r["gradients"]),
        lab.share("equal time", lambda r: r["time"]),
        lab.number("exponent before", lambda r: r["before"]),
        lab.number("after", lambda r: r["exponent"]),
        lab.number("field evaluations", lambda r: r["evaluations"], digits=0),
        lab.number("in time", lambda r: r["measured"], digits=0),
        lab.number("fewest evaluations", lambda r: r["fewest"], digits=0),
    ]
    caption = (
        f"Share of seeds in which two branches find two modes, after {settings.iterations} "
        f"iterations of ascent from a random start, with steps of {settings.size:g} and of "
        f"{settings.far:g} off the branching point; and the probability that random starts do: "
        "two of them, as many as the same evaluations of the joint field pay for, and as many as "
        "the same time does. Exponents: median (least to most) over seeds. Field evaluations of an "
        "iteration of the ascent, counted, and its time in those of a run's steps. Fewest "
        "evaluations: of random starts, run one after another, until they find two modes as often "
        "as the branches do. Subspaces with one mode are left out."
    )
    more = {game: int(several(r).sum()) for game in ("subspaces",)
            if (r := records.get(f"{game} descent random"))}  # fmt: skip
    table = lab.numbers(("game", "ascent"), cases, measures, caption)
    return lab.Findings(table, verdicts, {"subspaces with several modes": more})


def compared(
    settings: Settings, game: str, objective: str, random: Any, record: Any
) -> dict[str, Any]:
    """An arm beside random starts at equal runs, gradients and time."""
    differ = found(record, random)
    gradients, seconds = budgets(settings, game, objective, random, record, settings.iterations)
    branching = float(np.mean(differ[:, -1])) if len(differ) else np.nan
    enough = (m for m in range(1, 10_000) if by_chance(random, m) >= branching)
    far = found(record, random, "far")
    return {
        "branching": branching,
        "far": float(np.mean(far[:, -1])) if len(far) else np.nan,
        "seeds": len(differ),
        "runs": by_chance(random, 2),
        "gradients": by_chance(random, gradients),
        "time": by_chance(random, seconds),
        "before": record["before"],
        "exponent": record["exponent"],
        "evaluations": evaluations(settings, game, objective),
        "measured": record["seconds"] / random["seconds"] * settings.run,
        "fewest": next(enough, np.nan) * settings.run,
    }


def better(label: str, equal: str, row: Any) -> lab.Verdict:
    """Whether branching finds both modes more often at equal runs, gradients or time."""
    values = {"branching": None, "random starts": None}
    if row is not None:
        values = {"branching": [row["branching"]], "random starts": [row[equal]]}
    error = 0.0 if row is None else 2 * (0.25 / max(row["seeds"], 1)) ** 0.5
    return lab.judge(
        f"Branching at the largest exponent finds two modes more often than random starts, at "
        f"equal {equal} (after Lorraine et al. 2022)",
        f"{EQUAL[equal]}; more often by two standard errors of a share, 1 / sqrt(seeds)",
        values, lambda branching, random: branching[0] - random[0] >= error, of=label,
        shown=lambda a: f"{100 * a[0]:.1f}",
    )  # fmt: skip


def beside(record: Any) -> lab.Verdict:
    """Whether the exponent is largest next to the separatrix."""
    values: dict[str, Any] = {"among the largest": None, "among all": None}
    if record is not None:
        edge = at_edge(np.asarray(record["coarse modes"]))
        exponents = np.asarray(record["true"], float)
        top = exponents >= np.quantile(exponents, 0.9)
        values = dict(zip(values, ([np.mean(edge[top])], [np.mean(edge)]), strict=True))
    return lab.judge(
        "The exponent is largest next to the separatrix (Lorraine et al. 2022)",
        "small IPD, 11 x 11 starts: of the tenth with the largest exponents at least three in four "
        "have a neighbour in the other basin, and twice the share of all starts",
        values, lambda top, every: top[0] >= 0.75 and top[0] >= 2 * every[0],
        of=CASES["small"].label,
    )  # fmt: skip


def at_edge(basins: np.ndarray) -> np.ndarray:
    """Which entries of a matrix have a neighbour, of eight, with another number."""
    padded = np.pad(basins, 1, mode="edge")
    rows, columns = basins.shape
    shifted = [padded[i : i + rows, j : j + columns] for i in range(3) for j in range(3)]
    return np.any([one != basins for one in shifted], axis=0)


def draw(settings: Settings, records: lab.Records) -> list[Sheet]:
    sheets = paid(settings, records)
    if "landscape" in records:
        best = records.get("small descent max", {}).get("best")
        sheets.insert(0, heat(records["landscape"], best))
    return sheets


def paid(settings: Settings, records: lab.Records) -> list[Sheet]:
    """The share of seeds with two modes, by evaluations and by time."""
    gradients, seconds = [], []
    for game, optimizer in players(settings):
        random = records.get(f"{game} {optimizer} random")
        if random is None:
            continue
        lines: tuple[list[Line], list[Line]] = ([], [])
        share = [by_chance(random, runs) for runs in RUNS]
        costs = (settings.run / 1000, 1e3 * random["seconds"])
        for own, cost in zip(lines, costs, strict=True):
            own.append(Line(np.multiply(RUNS, cost), share, "random starts"))
        for objective in objectives(settings, game, optimizer):
            record = records.get(f"{game} {optimizer} {objective}")
            if record is None:
                continue
            share = np.mean(found(record, random), axis=0)
            equal = [budgets(settings, game, objective, random, record, i) for i in record["kept"]]
            for own, cost, each in zip(lines, costs, zip(*equal, strict=True), strict=True):
                own.append(Line(np.multiply(each, cost), share, OBJECTIVES[objective][0]))
        label = f"{CASES[game].label}, {FIELDS[optimizer][0]}"
        said = "both modes found"
        gradients.append(Panel(label, "thousand evaluations of the field", said, lines[0], log="x"))
        seconds.append(Panel(label, "milliseconds a seed", said, lines[1], log="x"))
    caption = (
        "Share of seeds in which two modes are found: by random starts, "
        "1 to 120; and by two branches after 0, 1, 2, 5, ... iterations of ascent, whose cost "
        "counts."
    )
    title = "What it costs to find both modes"
    return [
        curves("paid", gradients, f"{title}: evaluations", caption),
        curves("paid-time", seconds, f"{title}: time", caption),
    ]


def heat(record: Mapping[str, Any], best: Any) -> Sheet:
    """Exponents over the two probabilities, the separatrix, and where ascents end."""
    drawn = {name: np.asarray(record[name], float) for name in ("true", "published")}
    basins = np.asarray(record["fine modes"], float)
    where = (np.arange(len(basins)) + 0.5) / len(basins)

    def on(figure: Any) -> dict[str, Any]:
        cells = figure.subplots(1, 2, sharey=True)
        for axes, (name, values) in zip(cells, drawn.items(), strict=True):
            image = axes.imshow(values, origin="lower", extent=(0, 1, 0, 1), cmap="viridis")
            axes.contour(where, where, basins, levels=[1.5], colors="white", linewidths=1.5)
            title = "true exponent" if name == "true" else "published exponent"
            axes.set_title(title, loc="left")
            axes.set_xlabel("probability that x cooperates")
            axes.grid(False)
            figure.colorbar(image, ax=axes, shrink=0.75)
        cells[0].set_ylabel("probability that y cooperates")
        if best is not None:
            x, y = (1 / (1 + np.exp(-np.asarray(one, float))) for one in best)
            drawn["best"] = np.stack([x, y])
            cells[0].plot(x, y, "o", color="tab:red", markersize=3, alpha=0.7)
        return drawn

    caption = (
        "Growth per step over the first steps of descent, from each start; the published one "
        "counts squares. White: the separatrix, from 101 x 101 runs; to its upper right both "
        "cooperate. Red: where ascents on the true exponent end."
    )
    return free("exponents", "The exponent over the small IPD", caption, on, (8.2, 3.6))


LEAD = """From a random start, ascent on a Lyapunov exponent looks for a point where nearby runs
part; runs from both sides of it may end in different modes. Two branches are compared with random
starts: at equal runs, at equal evaluations of the players' gradients, and at equal time."""
STUDY = lab.Study("Bifurcations of games", LEAD, Settings, stages, find, draw)
