"""Which estimates of a gradient through learning are biased, and which vary too much?

Sources: Vicol, Metz and Sohl-Dickstein, "Unbiased gradient estimation in unrolled computation
graphs with persistent evolution strategies" (2021); Li et al., "Variance-reduced gradient
estimation via noise-reuse in online evolution strategies" (2023); Wu et al., "Understanding
short-horizon bias in stochastic meta-optimization" (2018); Metz et al., "Understanding and
correcting pathologies in the training of learned optimizers" (2019).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nestax.flows import ES, NRES, PES, Forward, Unroll
from nestax.levels import Level, Nest
from nestax.plots import COLOURS

from . import lab
from .lab import names, option
from .lab.figures import Line, Panel, Sheet, curves, free

# A noisy quadratic: two curvatures, each weight with its start and noise of its minimum.
CURVATURE, START, NOISE, RATE = (1.0, 0.03), (1.0, 10.0), 1.0, 0.3
TICKS, SIGMA = 64, 0.1  # of an episode; of the logarithm of the rate
TRUNCATIONS = (1, 4, 16, 64)

# Descent on the double well (w^2 - 1)^2 / 4.
RATES = {"stable": 0.3, "chaotic": 1.6}
HORIZONS = (8, 16, 32, 64, 128)
PERIOD, NARROW = 8, 0.02  # ticks of a truncation there, and sigma
CUTS = (2, 8, 32, 128)  # truncations, in ticks, of the longest of these horizons

# The schedule of Vicol et al. (2021): two logarithms of rates over an episode.
TOY = {"ticks": 100, "period": 10, "copies": 100, "sigma": 0.3, "rate": 0.01}
POINTS = 60  # times at which its values are kept
SIDE = np.linspace(-10.0, 4.0, 57)  # of the grid of both logarithms

ARMS: dict[str, Callable[[Any], Any]] = {
    "Unroll": lambda sigma: Unroll(),
    "ES": ES,
    "PES": PES,
    "NRES": NRES,
}
PARTS = ("quadratic", "chaos", "toy")
CUT = {"last": "Unroll(last=K)", "first": "first_order=True", "forward": "Forward"}


@dataclass(frozen=True)
class Settings(lab.Options):
    """Which estimates of a gradient through learning are biased, and which vary too much?

    Attributes:
        parts: Problems.
        estimates: Estimates of each kind on the quadratic.
        chaotic: Estimates of each kind on the double well.
        steps: Updates of the toy's schedule.
        seeds: Runs of the toy.
    """

    parts: tuple[str, ...] = names(PARTS)
    estimates: int = option(20000, least=64, multiple=16)
    chaotic: int = option(4000, least=32)
    steps: int = option(3000, least=POINTS, multiple=POINTS)
    seeds: int = option(5, least=1)


def gathered() -> optax.GradientTransformation:
    """An optimizer that moves nothing and sums the gradients it is given."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        added = jax.tree.map(jnp.add, state, updates)
        return jax.tree.map(jnp.zeros_like, updates), added

    return optax.GradientTransformation(lambda params: jax.tree.map(jnp.zeros_like, params), update)


def episodes(nest: Nest, rates: Any, count: int, ticks: int) -> np.ndarray:
    """The gradients of `count` whole episodes for each of these rates, (rates, count)."""
    rates, keys = np.log(np.asarray(rates, float)), jax.random.split(jax.random.key(0), count)
    each = {"rate": jnp.repeat(jnp.asarray(rates), count)}
    keys = jax.random.wrap_key_data(jnp.tile(jax.random.key_data(keys), (len(rates), 1)))
    state, _ = nest.run(nest.init({}, keys, each), ticks // nest.ticks_per_step)
    return np.asarray(state.optimizers["rate"]).reshape(len(rates), count)


def around(flow: Any) -> dict[str, Any]:
    """Options of a nest that holds one sample of this flow's estimate."""
    return {"copies": 2} if flow.perturbs else {}


def quadratic(flow: Any, every: int) -> Nest:
    """The rate of descent on a noisy quadratic, for the sum of the losses of an episode."""
    curvature = jnp.asarray(CURVATURE)

    def draw(task: Any, key: jax.Array) -> jax.Array:
        del task
        return NOISE * jax.random.normal(key, (len(CURVATURE),))

    def train(values: dict[str, Any], minimum: Any) -> jax.Array:
        return jnp.sum(curvature * (values["w"] - minimum) ** 2) / 2

    def total(values: dict[str, Any], task: Any) -> jax.Array:
        return jnp.sum(curvature * values["w"] ** 2) / 2

    w = Level(
        "w", train, lambda values: optax.sgd(jnp.exp(values["rate"])), draw, horizon=TICKS,
        start=lambda values, task, key: jnp.asarray(START),
    )  # fmt: skip
    rate = Level("rate", total, gathered(), every=every, flow=flow, accumulate="sum")
    return Nest([w, rate], **around(flow))


def exact(theta: float, sigma: float, every: int) -> tuple[float, float]:
    """The gradient of the expected sum of losses of the quadratic, and without the influence of
    earlier truncations.

    The rate of each truncation is perturbed by itself, by N(0, sigma^2). Then the expected squares
    of the weights go through an affine map in each truncation, whose coefficients are independent,
    so that expectations are products of one-dimensional integrals.
    """
    node, weight = np.polynomial.hermite_e.hermegauss(80)
    weight = weight / weight.sum()
    curvature = np.asarray(CURVATURE)

    def coefficients(theta: jax.Array) -> jax.Array:
        """Of the squares at the end, and of the summed losses: (4, weights)."""
        rate = jnp.exp(theta)
        factor, added = (1 - rate * curvature) ** 2, (rate * curvature * NOISE) ** 2

        def tick(c: Any, _: Any) -> Any:
            c = factor * c[0], factor * c[1] + added
            return c, c

        begin = jnp.ones_like(factor), jnp.zeros_like(factor)
        (a, b), (each, of) = jax.lax.scan(tick, begin, None, every)
        return jnp.stack([a, b, curvature / 2 * each.sum(0), curvature / 2 * of.sum(0)])

    if sigma == 0:
        mean, slope = jax.jvp(coefficients, (jnp.asarray(theta),), (jnp.ones(()),))
    else:
        at = np.asarray(jax.vmap(coefficients)(theta + sigma * jnp.asarray(node)))
        mean, slope = (np.tensordot(w, at, 1) for w in (weight, weight * node / sigma))
    (a, b, c, _), (da, db, dc, dd) = np.asarray(mean), np.asarray(slope)
    square, along = np.square(START), np.zeros(len(START))  # and its derivative
    gradient = own = 0.0
    for _ in range(TICKS // every):
        own += np.sum(dc * square + dd)
        gradient += np.sum(dc * square + c * along + dd)
        square, along = a * square + b, da * square + a * along + db
    return float(gradient), float(own)


def differentiated(theta: float, last: int = TICKS, first_order: bool = False) -> float:
    """The expected gradient of the quadratic through the last steps alone, or with the gradients of
    the weights as constants, from the second moments of the weights and their derivatives."""
    rate, h = np.exp(theta), np.asarray(CURVATURE)
    keep = 1.0 if first_order else 1 - rate * h  # of the derivative, in one step
    square, mixed, found = np.square(START), np.zeros(len(START)), 0.0
    for tick in range(TICKS):
        if tick < TICKS - last:
            mixed = np.zeros(len(START))
        else:
            drawn = (rate * h * NOISE) ** 2
            mixed = (1 - rate * h) * (keep * mixed - rate * h * square) + drawn
        square = (1 - rate * h) ** 2 * square + (rate * h * NOISE) ** 2
        found += np.sum(h * mixed)
    return float(found)


def sampled(samples: np.ndarray) -> dict[str, Any]:
    """Mean, its standard error, and the variance; and the mean of a sixteenth of the samples."""
    return {
        "mean": np.mean(samples), "error": np.std(samples, ddof=1) / np.sqrt(len(samples)),
        "few": np.mean(samples[: len(samples) // 16]), "variance": np.var(samples, ddof=1),
    }  # fmt: skip


def on_quadratic(settings: Settings, arm: str, desk: lab.Desk) -> lab.Record:
    """Estimates of one kind for each truncation, beside what they should be and what is known of
    their mean."""
    theta, rows = float(np.log(RATE)), []
    with jax.enable_x64(True):
        for every in TRUNCATIONS:
            desk.say(f"truncations of {every}")
            flow = ARMS[arm](SIGMA)
            smooth = {"Unroll": (0.0, every), "NRES": (SIGMA, TICKS)}.get(arm, (SIGMA, every))
            target, own = exact(theta, *smooth)
            (samples,) = episodes(quadratic(flow, every), [RATE], settings.estimates, TICKS)
            mean = own if arm in ("Unroll", "ES") else target
            rows.append({"every": every, "target": target, "expected": mean, **sampled(samples)})
    return lab.listed({name: [row[name] for row in rows] for name in rows[0]}, None)


def on_cut(settings: Settings, desk: lab.Desk) -> lab.Record:
    """The same of unrolls that are cut short on purpose, and of forward mode."""
    theta, found = float(np.log(RATE)), {}
    count, samples = settings.estimates, np.zeros(0)
    with jax.enable_x64(True):
        target, _ = exact(theta, 0.0, TICKS)
        for name in CUT:
            desk.say(name)
            rows = []
            for last in TRUNCATIONS if name == "last" else (TICKS,):
                flow = Forward() if name == "forward" else Unroll(
                    last=last if name == "last" else None, first_order=name == "first"
                )  # fmt: skip
                (samples,) = episodes(quadratic(flow, TICKS), [RATE], count, TICKS)
                mean = differentiated(theta, last, name == "first")
                rows.append({"every": last, "target": target, "expected": mean, **sampled(samples)})
            if name == "forward":
                (unrolled,) = episodes(quadratic(Unroll(), TICKS), [RATE], count, TICKS)
                apart = np.max(np.abs(samples - unrolled)) / np.max(np.abs(unrolled))
                found["apart"] = apart
            found[name] = {key: [row[key] for row in rows] for key in rows[0]}
    return lab.listed(found, None)


def well(flow: Any, every: int, horizon: int) -> Nest:
    """The rate of descent on a double well, for the mean loss of an episode."""

    def loss(values: dict[str, Any], task: Any) -> jax.Array:
        return (values["w"] ** 2 - 1) ** 2 / 4

    def mean(values: dict[str, Any], task: Any) -> jax.Array:
        return loss(values, task) / horizon

    w = Level(
        "w", loss, lambda values: optax.sgd(jnp.exp(values["rate"])), horizon=horizon,
        start=lambda values, task, key: jax.random.uniform(key, (), minval=0.1),
    )  # fmt: skip
    rate = Level("rate", mean, gathered(), every=every, flow=flow, accumulate="sum")
    return Nest([w, rate], **around(flow))


@cache
def exponent(rate: float, ticks: int = 1000) -> float:
    """The Lyapunov exponent of descent on the double well, per step."""
    w, total = np.random.default_rng(0).uniform(0.1, 1, 500), 0.0
    for tick in range(2 * ticks):
        if tick >= ticks:
            slope = np.abs(1 + rate - 3 * rate * w**2)
            total += np.mean(np.log(np.maximum(slope, 1e-300))) / ticks
        w = (1 + rate) * w - rate * w**3
    return float(total)


def on_well(settings: Settings, arm: str, desk: lab.Desk) -> lab.Record:
    """Variances of one kind of estimate for each horizon, and for each truncation of the last."""

    def variances(every: int, horizon: int) -> np.ndarray:
        desk.say(f"{horizon} steps, truncations of {every}")
        nest = well(ARMS[arm](NARROW), every, horizon)
        samples = episodes(nest, list(RATES.values()), settings.chaotic, horizon)
        return np.var(samples, axis=1, ddof=1)

    cut = arm in ("PES", "NRES")
    with jax.enable_x64(True):
        seen = np.stack([variances(PERIOD if cut else one, one) for one in HORIZONS])
        record: dict[str, Any] = dict(zip(RATES, seen.T, strict=True))
        if cut:
            known = {PERIOD: seen[-1]}
            of = [known[n] if n in known else variances(n, HORIZONS[-1]) for n in CUTS]
            record["cuts"] = np.stack(of)[:, list(RATES).index("chaotic")]
    return lab.listed(record, None)


def height(x: jax.Array) -> jax.Array:
    """The loss of the toy, with local minima all along its second number."""
    return (
        jnp.sqrt(x[0] ** 2 + 5) - jnp.sqrt(5.0)
        + jnp.sin(x[1]) ** 2 * jnp.exp(-5 * x[0] ** 2) + jnp.abs(x[1] - 100) / 4
    )  # fmt: skip


def scheduled(theta: Any, count: Any) -> Any:
    """The toy's rate at a step, between its first and its last."""
    share = count / TOY["ticks"]
    return jnp.exp(theta[0]) * (1 - share) + jnp.exp(theta[1]) * share


def toy(flow: Any) -> Nest:
    """A schedule of two numbers, learned from truncations of its episode."""
    loss = lambda values, task: height(values["x"])  # noqa: E731
    x = Level(
        "x", loss, lambda values: optax.sgd(partial(scheduled, values["schedule"])),
        start=lambda values, task, key: jnp.ones(2), horizon=TOY["ticks"],
    )  # fmt: skip
    schedule = Level(
        "schedule", loss, optax.adam(TOY["rate"]), every=TOY["period"], flow=flow,
        accumulate="mean",
    )  # fmt: skip
    return Nest([x, schedule], copies=TOY["copies"])


@jax.jit
def summed(theta: jax.Array) -> jax.Array:
    """The sum of the toy's losses over an episode with this schedule."""

    def step(x: jax.Array, count: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = x - scheduled(theta, count) * jax.grad(height)(x)
        return x, height(x)

    return jnp.sum(jax.lax.scan(step, jnp.ones(2), jnp.arange(TOY["ticks"]))[1])


def on_toy(settings: Settings, arm: str, desk: lab.Desk) -> lab.Record:
    """The schedule while it is learned, and its sum of losses, (1 + POINTS, seeds)."""
    nest = toy(ARMS[arm](TOY["sigma"]))
    keys = jax.random.split(jax.random.key(0), settings.seeds)
    begin = jnp.log(jnp.full(2, TOY["rate"]))
    state = nest.init({"schedule": begin}, keys)
    seen = [np.asarray(state.values["schedule"])]
    for point in range(POINTS):
        desk.say(f"{point}/{POINTS}")
        state, _ = nest.run(state, settings.steps // POINTS)
        seen.append(np.asarray(state.values["schedule"]))
    path = np.stack(seen)
    return lab.listed({"path": path, "sum": jax.vmap(jax.vmap(summed))(jnp.asarray(path))})


def on_grid(desk: lab.Desk) -> lab.Record:
    """The sums of losses of a grid of schedules, (last rate, first rate)."""
    desk.say(f"{len(SIDE)} times {len(SIDE)} schedules")
    grid = np.stack(np.meshgrid(SIDE, SIDE), -1)
    return lab.listed({"sum": jax.vmap(jax.vmap(summed))(jnp.asarray(grid))})


def stages(settings: Settings) -> dict[str, lab.Stage]:
    done: dict[str, lab.Stage] = {}
    if "quadratic" in settings.parts:
        done |= {f"quadratic {arm}": partial(on_quadratic, settings, arm) for arm in ARMS}
        done["quadratic cut"] = partial(on_cut, settings)
    if "chaos" in settings.parts:
        done |= {f"chaos {arm}": partial(on_well, settings, arm) for arm in ARMS}
    if "toy" in settings.parts:
        done |= {"toy grid": on_grid}
        done |= {f"toy {arm}": partial(on_toy, settings, arm) for arm in ARMS}
    return done


def find(settings: Settings, records: lab.Records) -> lab.Findings:
    quadratics = {arm: records.get(f"quadratic {arm}") for arm in ARMS}
    wells = {arm: records.get(f"chaos {arm}") for arm in ARMS}
    toys = {arm: records.get(f"toy {arm}") for arm in ARMS}
    cut, grid, verdicts = records.get("quadratic cut"), records.get("toy grid"), []
    if "quadratic" in settings.parts:
        verdicts += about_bias(quadratics, cut)
    of = {
        "quadratic": {arm: record and record["variance"] for arm, record in quadratics.items()},
        "chaos": {arm: record and record.get("cuts") for arm, record in wells.items()},
    }
    verdicts += [about_truncations(part, of[part]) for part in of if part in settings.parts]
    if "chaos" in settings.parts:
        verdicts += about_chaos(wells)
    if "toy" in settings.parts:
        verdicts += about_toy(toys, grid)
    measures = [
        lab.share("bias", lambda row: row.get("bias")),
        lab.share("standard error", lambda row: row.get("error")),
        lab.number("variance of one", lambda row: row.get("variance")),
        lab.number("sum of losses", lambda row: row.get("sum"), digits=0),
    ]
    caption = (
        f"Quadratic: {TICKS} steps; bias of the mean of {settings.estimates} estimates in percent "
        "of the exact gradient of the loss that is unrolled or smoothed (PES: the rate of each "
        "truncation by itself). Double well: truncations "
        f"of {PERIOD} steps where none are given. Toy: median (least to most) over seeds."
    )
    numbers = lab.numbers(("problem", "estimate", "steps"), cases(records), measures, caption)
    more: dict[str, Any] = {"exponents": {n: exponent(rate) for n, rate in RATES.items()}}
    if grid is not None:
        more["best of the grid"] = np.min(grid["sum"])
    return lab.Findings(numbers, verdicts, more)


def cases(records: lab.Records) -> dict[tuple[str, ...], dict[str, Any]]:
    """The rows of the table."""
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    some = {arm: records.get(f"quadratic {arm}") for arm in ARMS}
    some |= {CUT[name]: records.get("quadratic cut", {}).get(name) for name in CUT}
    for label, record in some.items():
        if record is None:
            continue
        for i, every in enumerate(record["every"]):
            rows["quadratic", label, f"K = {int(every)}"] = {
                "bias": bias(record)[i], "error": error(record)[i],
                "variance": record["variance"][i],
            }  # fmt: skip
    for arm in ARMS:
        record = records.get(f"chaos {arm}", {})
        for name in RATES:
            for i, horizon in enumerate(HORIZONS if name in record else ()):
                rows[f"double well, {name}", arm, f"T = {horizon}"] = {"variance": record[name][i]}
        for i, every in enumerate(CUTS if "cuts" in record else ()):
            if every != PERIOD:
                label = f"T = {HORIZONS[-1]}, K = {every}"
                rows["double well, chaotic", arm, label] = {"variance": record["cuts"][i]}
    for arm in ARMS:
        if record := records.get(f"toy {arm}"):
            rows["toy", arm, f"K = {TOY['period']}"] = {"sum": record["sum"][-1]}
    return rows


def bias(record: Any, of: str = "mean") -> np.ndarray:
    """Relative to the size of the exact gradient, for each truncation."""
    target = np.asarray(record["target"])
    return (np.asarray(record[of]) - target) / np.abs(target)


def error(record: Any) -> np.ndarray:
    """Standard errors of the means, relative as `bias`."""
    return np.asarray(record["error"]) / np.abs(np.asarray(record["target"]))


def about_bias(arms: Mapping[str, Any], cut: Any) -> list[lab.Verdict]:
    verdicts = []
    for arm in ("Unroll", "ES"):
        record = arms[arm]
        values: dict[str, Any] = dict.fromkeys(("all", "a sixteenth", "five standard errors"))
        if record is not None:
            cases = (bias(record), bias(record, "few"), 5 * error(record))
            values = {n: np.abs(v)[:-1] for n, v in zip(values, cases, strict=True)}
        verdicts.append(lab.judge(
            "Truncations are biased, however many estimates are averaged (Vicol et al. 2021)",
            f"for each K below {TICKS} the means of all estimates and of a sixteenth of them are "
            "off by more than 10 % and five standard errors (of all)",
            values,
            lambda all_, few, five: np.all(np.minimum(all_, few) > np.maximum(0.1, five)), of=arm,
        ))  # fmt: skip
    short = [i for i, every in enumerate(TRUNCATIONS) if every <= 4]
    towards: dict[str, Any] = dict.fromkeys(("Unroll", "ES"))
    for arm in towards:
        if (record := arms[arm]) is not None:
            towards[arm] = (1 + np.sign(record["target"]) * bias(record) + 5 * error(record))[short]
    verdicts.append(lab.judge(
        "Short truncations have the wrong sign (after Wu et al. 2018)",
        f"through at most 4 of {TICKS} steps: mean plus five standard errors, in units of the "
        "exact gradient, below 0",
        towards, lambda *shares: all(np.all(share < 0) for share in shares), of="quadratic",
    ))  # fmt: skip
    for arm in ("PES", "NRES"):
        record = arms[arm]
        values: dict[str, Any] = {"off by": None, "four standard errors": None}
        if record is not None:
            values = dict(zip(values, (np.abs(bias(record)), 4 * error(record)), strict=True))
        verdicts.append(lab.judge(
            "Strategies that remember their noise are unbiased for the smoothed loss of the "
            "episode (Vicol et al. 2021; Li et al. 2023)",
            "for each K the mean is within four standard errors of the exact gradient, and these "
            "are at most 5 % of it",
            values, lambda off, four: np.all(off <= four) and np.all(four <= 0.05), of=arm,
        ))  # fmt: skip
    some = dict(arms) | {CUT[name]: None if cut is None else cut[name] for name in CUT}
    verdicts.append(lab.judge(
        "Means of estimates are what closed forms say (this project)",
        "within four standard errors for all estimates and truncations",
        {label: None if record is None else distance(record) for label, record in some.items()},
        lambda *apart: all(np.all(one <= 4) for one in apart), of="quadratic",
        shown=partial(lab.spread, scale=1), unit=" standard errors",
    ))  # fmt: skip
    first = None if cut is None else cut["first"]
    verdicts.append(lab.judge(
        "Unrolls with inner gradients as constants are biased (after Finn et al. 2017)",
        "off by more than five standard errors",
        {"off by": None if first is None else np.abs(bias(first)),
         "five standard errors": None if first is None else 5 * error(first)},
        lambda off, five: np.all(off > five), of=CUT["first"],
    ))  # fmt: skip
    verdicts.append(lab.judge(
        "Forward mode is the gradient of the unroll (this project)",
        "the largest difference below 1e-10 of the largest gradient",
        {"difference": None if cut is None else [cut["apart"]]}, lambda apart: apart[0] < 1e-10,
        of=CUT["forward"], shown=lambda value: f"{value[0]:.1e}", unit="",
    ))  # fmt: skip
    return verdicts


def distance(record: Any) -> np.ndarray:
    """Between the measured and the expected mean, in standard errors."""
    return np.abs(np.asarray(record["mean"]) - record["expected"]) / np.asarray(record["error"])


def about_truncations(part: str, variances: Mapping[str, Any]) -> lab.Verdict:
    """`variances`: of each arm for truncations from the shortest to none."""
    values = {
        arm: None if (v := variances[arm]) is None else [v[0] / v[-1]] for arm in ("PES", "NRES")
    }
    return lab.judge(
        "The variance of PES grows with the number of truncations, that of NRES does not (Vicol "
        "et al. 2021; Li et al. 2023)",
        "with the most truncations, over that without: at least 2 and at most 1.2",
        values, lambda pes, nres: pes[0] >= 2 and nres[0] <= 1.2, of=part,
        shown=lambda value: f"{value[0]:.2f}", unit="-fold",
    )  # fmt: skip


def about_chaos(arms: Mapping[str, Any]) -> list[lab.Verdict]:
    growth: dict[str, Any] = dict.fromkeys(("Unroll", "PES", "NRES"))
    ratio: dict[str, Any] = {"Unroll over PES": None}
    if (record := arms["Unroll"]) is not None:
        rise = np.log(record["chaotic"][-1] / record["chaotic"][-2]) / (HORIZONS[-1] - HORIZONS[-2])
        growth["Unroll"] = [rise / (2 * exponent(RATES["chaotic"]))]
        if arms["PES"] is not None:
            ratio = {"Unroll over PES": np.divide(record["stable"], arms["PES"]["stable"])}
    at = HORIZONS.index(16)
    for arm in ("PES", "NRES"):
        if arms[arm] is not None:
            growth[arm] = [arms[arm]["chaotic"][-1] / arms[arm]["chaotic"][at]]
    told = "needs all arms"
    if all(value is not None for value in growth.values()):
        told = "Unroll {:.2f} times twice the exponent; PES {:.2f}-fold, NRES {:.2f}-fold".format(
            *(value[0] for value in growth.values())
        )
    return [
        lab.judge(
            "Through chaos the variance of unrolled gradients explodes, and that of PES does not "
            "(Metz et al. 2019; Vicol et al. 2021)",
            f"from {HORIZONS[-2]} to {HORIZONS[-1]} steps its logarithm rises at twice the "
            "Lyapunov exponent within a quarter; those of PES and NRES grow less than 64-fold from "
            f"16 to {HORIZONS[-1]}",
            growth,
            lambda unroll, pes, nres: abs(unroll[0] - 1) < 0.25 and max(pes[0], nres[0]) < 64,
            of="chaos", measured=told,
        ),
        lab.judge(
            "Where training is stable, unrolled gradients vary less than PES (this project)",
            "a smaller variance at every horizon", ratio, lambda ratio: np.all(ratio < 1),
            of="chaos", shown=partial(lab.spread, digits=2, scale=1), unit="",
        ),
    ]  # fmt: skip


def about_toy(arms: Mapping[str, Any], grid: Any) -> list[lab.Verdict]:
    best = None if grid is None else np.min(grid["sum"])
    verdicts = []
    for arm in ARMS:
        record = arms[arm]
        values = {
            "sum of losses": None if record is None else record["sum"][-1],
            "best of the grid": None if best is None else [best],
        }
        finds = arm in ("PES", "NRES")
        claim = "Strategies that remember their noise find the best basin (Vicol et al. 2021)"
        verdicts.append(lab.judge(
            claim if finds else "Truncations leave the schedule stuck (Vicol et al. 2021)",
            "after all updates at most 10 % above the best of the grid, with every seed" if finds
            else "after all updates more than twice the best of the grid, with every seed",
            values,
            (lambda ends, best: np.all(ends <= 1.1 * best)) if finds
            else (lambda ends, best: np.all(ends > 2 * best)),
            of=arm, shown=partial(lab.spread, digits=0, scale=1), unit="",
        ))  # fmt: skip
    return verdicts


def draw(settings: Settings, records: lab.Records) -> list[Sheet]:
    return [
        sheet for make in (draw_chaos, draw_bias, draw_toy) for sheet in make(settings, records)
    ]


def draw_chaos(settings: Settings, records: lab.Records) -> list[Sheet]:
    done = {arm: records[f"chaos {arm}"] for arm in ARMS if f"chaos {arm}" in records}
    panels = []
    for name in reversed(RATES):
        lines = [Line(HORIZONS, record[name], arm) for arm, record in done.items()]
        title = f"{name.capitalize()}, rate {RATES[name]}"
        panels.append(Panel(title, "steps of an episode", "variance of one estimate", lines,
                            log="xy"))  # fmt: skip
    lines = [Line(CUTS, record["cuts"], arm) for arm, record in done.items() if "cuts" in record]
    panels.append(Panel(f"Chaotic, {HORIZONS[-1]} steps", "steps of a truncation",
                        "variance of one estimate", lines, log="xy"))  # fmt: skip
    caption = (
        "The gradient of the mean loss of descent on a double well by the logarithm of its rate. "
        f"Unroll and ES go through the whole episode; PES and NRES through truncations of {PERIOD} "
        "steps, except in the last panel. Variances of a pair, or of one unroll."
    )
    return [curves("variance", panels, "Variance against the horizon", caption)] if done else []


def draw_bias(settings: Settings, records: lab.Records) -> list[Sheet]:
    done = {arm: records[f"quadratic {arm}"] for arm in ARMS if f"quadratic {arm}" in records}
    if "quadratic cut" in records:
        done["Unroll(last=K)"] = records["quadratic cut"]["last"]
    lines = [Line(r["every"], 100 * bias(r), label) for label, r in done.items()]
    spreads = [
        Line(r["every"], 100 * np.sqrt(r["variance"]) / np.abs(np.asarray(r["target"])), label)
        for label, r in done.items()
    ]
    panels = [
        Panel("Bias", "K, steps of a truncation", "% of the exact gradient", lines,
              {"wrong sign above": 100}, log="x"),
        Panel("Deviation of one estimate", "K, steps of a truncation", "% of the exact gradient",
              spreads, log="xy"),
    ]  # fmt: skip
    caption = (
        f"The gradient of the losses of {TICKS} steps on a noisy quadratic by the logarithm of the "
        f"rate, which is negative. Means of {settings.estimates} estimates against the exact "
        "gradient; the other panel shows their standard deviation. NRES is the same for every K."
    )
    return [curves("bias", panels, "Bias against the truncation", caption)] if done else []


def draw_toy(settings: Settings, records: lab.Records) -> list[Sheet]:
    done = {arm: records[f"toy {arm}"] for arm in ARMS if f"toy {arm}" in records}
    updates, sheets = np.linspace(0, settings.steps, POINTS + 1), []
    grid = records.get("toy grid")
    if done:
        best = {} if grid is None else {"best of the grid": np.min(grid["sum"])}
        lines = [Line(updates, record["sum"], arm) for arm, record in done.items()]
        panels = [Panel("Sum of losses", "updates", "sum of 100 losses", lines, best, log="y")]
        caption = "Of the unperturbed schedule. Medians and ranges over seeds."
        sheets.append(curves("toy", panels, "A schedule learned from truncations", caption))
    if done and grid is not None:
        sheets.append(landscape(grid, done))
    return sheets


def landscape(grid: Any, done: Mapping[str, Any]) -> Sheet:
    """The sums of losses over both logarithms, and the way of each arm's first seed."""
    heights = np.asarray(grid["sum"])
    paths = {arm: np.asarray(record["path"])[:, 0] for arm, record in done.items()}

    def on(figure: Any) -> dict[str, Any]:
        axes = figure.subplots()
        shown = axes.contourf(SIDE, SIDE, np.log10(heights), levels=20, cmap="Greys_r")
        figure.colorbar(shown, ax=axes, label="sum of losses, power of ten")
        for arm, path in paths.items():
            colour = COLOURS[list(ARMS).index(arm)]
            axes.plot(*path.T, color=colour, linewidth=1.8, label=arm)
            axes.plot(*path[-1], "o", color=colour, markersize=6)
        row, column = np.unravel_index(np.argmin(heights), heights.shape)
        axes.plot(SIDE[column], SIDE[row], "*", color="black", markersize=10, label="best")
        axes.set(xlabel="log of the first rate", ylabel="log of the last rate")
        axes.grid(False)
        figure.legend(loc="outside lower center", ncols=len(paths) + 1)
        return {"heights": heights, "paths": paths}

    caption = (
        "Sums of losses from low (dark) to high, and the schedules of the first seed from their "
        "common start to the dots."
    )
    return free("schedules", "The way of the schedule", caption, on, (5.4, 4.8))


def example(settings: Settings) -> lab.Example:
    """The noisy quadratic with truncations of 16 steps, one of them done."""
    del settings
    nest = quadratic(PES(SIGMA), 16)
    state, _ = nest.step(nest.init({"rate": float(np.log(RATE))}, jax.random.key(0)))
    flows = {"Unroll()": Unroll(), "ES(0.1)": ES(SIGMA), "PES(0.1)": PES(SIGMA)}
    return lab.Example(nest, state, "rate", flows)


LEAD = """A rate is learned from what it does to an episode of learning. Gradients are unrolled or
estimated from losses alone, through the whole episode or through truncations of it. Their bias is
measured against exact gradients, their variance against the length of the episode, in stable and in
chaotic training."""
STUDY = lab.Study("Estimators", LEAD, Settings, stages, find, draw, example)
