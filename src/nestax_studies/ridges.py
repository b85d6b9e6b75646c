"""Does ridge rider find more minima than gradient descent from random starts?

Source: Parker-Holder et al., "Ridge Rider: Finding Diverse Solutions by Following Eigenvectors of
the Hessian" (2020).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import nestax as nx
from nestax.games import Tree

from . import images, lab, models
from .lab import names, option
from .lab.figures import Column, Dot, Line, Panel, Sheet, curves, dots, free

DESCENT = {"random": 100, "near": 300}  # gradients of a run on a surface, with the rate 0.1
NEAR = 0.01  # standard deviation of the starts next to the saddle
HIDDEN = 4  # units; an eigenvalue at the saddle comes as often
DECAY = 1e-3  # of weights, without which minima are at infinity
NUMBERS = {str(n): n for n in (2, 4, 6)}
STARTS = {"random": "descent, random starts", "near": "descent, starts next to the saddle"}


@dataclass(frozen=True)
class Settings(lab.Options):
    """Does ridge rider find more minima than gradient descent from random starts?

    Attributes:
        numbers: Dimensions of the surfaces.
        seeds: Rotations of each surface.
        runs: Most random starts on a surface.
        images: Training images of the network.
        pairs: Eigenpairs known along the network's ridges; 4 equal ones at the saddle.
        ride: Most steps along a ridge of the network, and again while settling.
        finish: Gradient steps from the end of each ridge.
        restarts: Most random starts of the network.
    """

    numbers: tuple[str, ...] = names(NUMBERS)
    seeds: int = option(5, least=1)
    runs: int = option(500, least=2)
    images: int = option(300, least=20)
    pairs: int = option(16, least=4, multiple=4)
    ride: int = option(25, least=1)
    finish: int = option(1000, least=1)
    restarts: int = option(500, least=2)

    def __post_init__(self) -> None:
        super().__post_init__()
        most = images.MOST["digits"]
        self.require(self.images <= most, f"images may be {most} at most, got {self.images}")


class Counted:
    """A loss that counts how often it is evaluated, its derivatives together. Under `jax.vmap` all
    lanes are one evaluation."""

    def __init__(self, loss: Callable[[Any], jax.Array]) -> None:
        self.loss, self.calls = loss, 0

    def __call__(self, x: Any) -> jax.Array:
        jax.debug.callback(self.add)
        return self.loss(x)

    def add(self) -> None:
        self.calls += 1

    def gradients(self, products: int, lanes: int = 1) -> int:
        """Gradients so far, if each evaluation in each lane is one and has so many products."""
        jax.effects_barrier()
        return self.calls * (1 + products) * lanes


def surface(n: int, seed: int) -> tuple[Callable[[jax.Array], jax.Array], np.ndarray]:
    """Coupled quartics with 2^n minima, turned; and by what they are turned.

    Each minimum has its own signs of the coordinates turned back, `turn.T @ x`.
    """
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))
    curvature = jnp.linspace(0.5, 1.5, n)

    def loss(x: jax.Array) -> jax.Array:
        y = jnp.asarray(turn.T) @ x
        return jnp.sum(y**4 / 4 - curvature * y**2 / 2) + 0.05 * jnp.sum(y[:-1] * y[1:])

    return loss, turn


def minima(loss: Callable[[jax.Array], jax.Array], turn: np.ndarray, points: Any) -> np.ndarray:
    """The number of the minimum at each point, -1 where the gradient is not small; (points,)."""
    points = jnp.asarray(points)
    small = jnp.linalg.norm(jax.vmap(jax.grad(loss))(points), axis=1) < 1e-2
    signs = np.asarray(points) @ turn > 0
    return np.where(small, signs @ 2 ** np.arange(len(turn)), -1)


def different(numbers: np.ndarray) -> np.ndarray:
    """How many minima were found after one run, after two, ...; -1 is none."""
    firsts = [n >= 0 and n not in numbers[:i] for i, n in enumerate(numbers)]
    return np.cumsum(firsts)


def descended(loss: Callable, starts: Any, rate: float, steps: int) -> Any:
    """The ends of gradient descent from starts with a leading axis."""

    def one(x: Any) -> Any:
        def step(x: Any, _: Any) -> Any:
            return jax.tree.map(lambda a, g: a - rate * g, x, jax.grad(loss)(x)), None

        return jax.lax.scan(step, x, length=steps)[0]

    return jax.jit(jax.vmap(one))(starts)


def landscape(settings: Settings, n: int, desk: lab.Desk) -> lab.Record:
    """Trees and random starts on the surfaces of n dimensions."""
    with jax.enable_x64(True):
        record: dict[str, Any] = {name: [] for name in
                                  ("segments", "gradients", "tree", "most", *STARTS)}  # fmt: skip
        for seed in range(settings.seeds):
            desk.say(f"{seed}/{settings.seeds}")
            loss, turn = surface(n, seed)
            counted = Counted(loss)
            limit = {"segments": 2 ** (n + 1) + 10, "side_by_side": 1}
            tree = nx.games.ridge_rider(counted, np.zeros(n), **limit)
            record["gradients"].append(counted.gradients(n))
            record["segments"].append(ridden(tree))
            record["tree"].append(int(different(leaves(loss, turn, tree))[-1]))
            most = nx.games.ridge_rider(loss, np.zeros(n), order="most", **limit)
            record["most"].append(int((0, *different(leaves(loss, turn, most)))[-1]))
            draws = np.random.default_rng([seed, 1]).normal(size=(2, settings.runs, n))
            for name, starts in zip(STARTS, (draws[0], NEAR * draws[1]), strict=True):
                ends = descended(loss, jnp.asarray(starts), 0.1, DESCENT[name])
                record[name].append(different(minima(loss, turn, ends)))
            if n == 2 and seed == 0:
                record["paths"] = [[b.start, b.vector, b.depth] for b in tree.branches[1:]]
                record["paths"] = [[*map(np.asarray, path)] for path in record["paths"]]
        return lab.listed(record)


def leaves(loss: Callable, turn: np.ndarray, tree: Tree) -> np.ndarray:
    """The numbers of the minima of a tree's leaves."""
    ends = [leaf.vector for leaf in tree.leaves]
    return minima(loss, turn, np.stack(ends)) if ends else np.full(1, -1)


def ridden(tree: Tree) -> int:
    return sum(branch.status != "waiting" for branch in tree.branches[1:])


def saddle(batch: images.Batch) -> list[models.Layer]:
    """A network of zeros but for the last bias, at which the loss has a saddle."""
    zeros = jax.tree.map(
        jnp.zeros_like, models.mlp_init(jax.random.key(0), (batch[0].shape[1], HIDDEN, 10))
    )
    frequency = jnp.bincount(batch[1], length=10) / len(batch[1])
    zeros[-1] = zeros[-1]._replace(bias=jnp.log(frequency))
    return zeros


def training_loss(batch: images.Batch) -> Callable[[list[models.Layer]], jax.Array]:
    def loss(layers: list[models.Layer]) -> jax.Array:
        squares = sum(jnp.sum(layer.weight**2) for layer in layers)
        return images.cross_entropy(layers, batch) + DECAY / 2 * squares

    return loss


def network(settings: Settings, desk: lab.Desk) -> lab.Record:
    """Ridges from the saddle of a network, each finished by descent; and random starts."""
    pool, test = images.pools("digits", settings.images)
    batch, held_out = images.whole(pool), images.whole(test)
    loss, start = training_loss(batch), saddle(batch)
    counted = Counted(loss)
    segments = 2 * settings.pairs // HIDDEN
    lanes = min(segments, 8)
    desk.say(f"{segments} ridges")
    tree = nx.games.ridge_rider(
        counted, start, method="hvp", pairs=settings.pairs, step=0.3, steps=settings.ride,
        order="most", groups=None, equal=1e-2, flat=1e-3, segments=segments,
        side_by_side=lanes,
    )  # fmt: skip
    done = [b for b in tree.branches[1:] if b.status not in ("waiting", "lost")]
    points = [tree.point(branch) for branch in done]
    riding = counted.gradients(settings.pairs, lanes)
    budget = riding + len(done) * settings.finish
    afforded = budget // settings.finish
    count = max(len(done), min(settings.restarts, afforded))
    desk.say(f"{count} random starts")
    sizes = (batch[0].shape[1], HIDDEN, 10)
    begin = {
        "ridges": jax.tree.map(lambda *a: jnp.stack(a), *points),
        "random": jax.vmap(lambda k: models.mlp_init(k, sizes))(
            jax.random.split(jax.random.key(1), count)
        ),
    }
    record: dict[str, Any] = {
        "gradients": budget, "riding": riding, "afforded": afforded,
        "rate": [float(branch.rate) for branch in done],
    }  # fmt: skip
    for arm, starts in begin.items():
        ends = descended(loss, starts, 0.5, settings.finish)
        scores = jax.vmap(lambda w: models.mlp(w, held_out[0]))(ends)
        record[arm] = {
            "loss": jax.vmap(loss)(ends),
            "accuracy": jax.vmap(lambda w: images.accuracy(w, held_out))(ends),
            "apart": apart(scores),
            "few": together(scores[: len(done)], held_out[1]),
            "all": together(scores, held_out[1]),
        }
    return lab.listed(record)


def apart(scores: Any) -> np.ndarray:
    """The share of images on which two networks answer differently; (networks, networks)."""
    answers = np.argmax(np.asarray(scores), -1)
    return np.mean(answers[:, None] != answers[None], axis=-1)


def together(scores: Any, labels: Any) -> float:
    """The accuracy of the networks' mean probabilities."""
    mean = np.mean(np.asarray(jax.nn.softmax(jnp.asarray(scores))), axis=0)
    return float(np.mean(np.argmax(mean, -1) == np.asarray(labels)))


def solutions(distances: Any, least: float = 0.02) -> int:
    """How many networks answer differently from all before them, on more than `least` images."""
    distances, kept = np.asarray(distances), []
    for i in range(len(distances)):
        if all(distances[i, j] > least for j in kept):
            kept.append(i)
    return len(kept)


def off_diagonal(distances: Any) -> np.ndarray:
    distances = np.asarray(distances, float)
    return distances[np.triu_indices(len(distances), 1)]


def stages(settings: Settings) -> dict[str, lab.Stage]:
    done: dict[str, lab.Stage] = {
        f"{name} numbers": partial(landscape, settings, NUMBERS[name]) for name in settings.numbers
    }
    return done | {"digits": partial(network, settings)}


def after(curve: Any, runs: Any) -> np.ndarray:
    """Minima found by so many runs, of each seed; of as many as there were if they are fewer."""
    curve, runs = np.asarray(curve, int), np.broadcast_to(runs, len(curve))
    return np.array([c[min(int(r), len(c)) - 1] for c, r in zip(curve, runs, strict=True)])


def find(settings: Settings, records: lab.Records) -> lab.Findings:
    verdicts, cases = [], {}
    for n in map(int, settings.numbers):
        record = records.get(f"{n} numbers")
        if record is not None:
            cases |= surface_rows(n, record)
        verdicts += on_surface(n, record)
    digits = records.get("digits")
    verdicts += on_digits(digits)
    measures = [
        lab.number("minima", lambda r: r["found"], digits=0),
        lab.number("runs", lambda r: r["runs"], digits=0),
        lab.number("gradients", lambda r: r["gradients"], digits=0),
    ]
    caption = (
        "Median (least to most) over rotations. Minima found; segments of the tree, or runs of "
        f"{DESCENT['random']} gradients from random starts, of {DESCENT['near']} next to the "
        "saddle; gradients, each product with the Hessian counted as one. Trees stop after "
        "2^(d+1) + 10 segments."
    )
    return lab.Findings(lab.numbers(("surface", "arm"), cases, measures, caption), verdicts,
                        {"digits": {} if digits is None else summary(digits)})  # fmt: skip


def surface_rows(n: int, record: Mapping[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    label = f"{n} numbers, {2**n} minima"
    segments, gradients = (np.asarray(record[name]) for name in ("segments", "gradients"))
    rows = {(label, "ridge rider"): {"found": record["tree"], "runs": segments,
                                     "gradients": gradients}}  # fmt: skip
    for name, words in STARTS.items():
        paid = gradients // DESCENT[name]
        for equal, runs in {"equal runs": segments, "equal gradients": paid}.items():
            rows[label, f"{words}, {equal}"] = {
                "found": after(record[name], runs), "runs": runs,
                "gradients": runs * DESCENT[name],
            }  # fmt: skip
    return rows


def on_surface(n: int, record: Any) -> list[lab.Verdict]:
    label, every = f"{n} numbers", 2**n
    some = (
        {} if record is None else {k: np.asarray(record[k]) for k in ("tree", "segments", "most")}
    )
    equal: dict[str, Any] = {}
    if record is not None:
        equal["runs"] = after(record["random"], some["segments"])
        equal["gradients"] = after(
            record["random"], np.asarray(record["gradients"]) // DESCENT["random"]
        )
    look: dict[str, Any] = {
        "shown": partial(lab.spread, digits=0, scale=1),
        "unit": "",
        "of": label,
    }
    return [
        lab.judge(
            "Ridge rider finds all minima from one saddle (after Parker-Holder et al. 2020)",
            f"all {every}, with every rotation, in at most {2 * every + 10} segments",
            {"minima": some.get("tree"), "segments": some.get("segments")},
            lambda found, segments: np.all(found == every) and np.all(segments <= 2 * every + 10),
            **look,
        ),
        lab.judge(
            "Descent from random starts finds fewer than half of the solutions (Parker-Holder et "
            "al. 2020, of their trees)",
            f"as many runs as the tree has segments find fewer than {every // 2} of {every}, in "
            "the median",
            {"random starts": equal.get("runs")},
            lab.medians(lambda found: found < every / 2), **look,
        ),
        lab.judge(
            "Ridge rider finds more minima than random starts at equal gradients (after "
            "Parker-Holder et al. 2020)",
            "more in the median, products with the Hessian counted as gradients",
            {"ridge rider": some.get("tree"), "random starts": equal.get("gradients")},
            lab.medians(lambda tree, random: tree > random), **look,
        ),
        lab.judge(
            "The least negative direction has to be ridden first (this project)",
            "trees that ride the most negative one first miss minima, with every rotation",
            {"most negative first": some.get("most")},
            lambda found: np.all(found < every), **look,
        ),
    ]  # fmt: skip


def on_digits(record: Any) -> list[lab.Verdict]:
    def values(of: Callable[[Any, int], Any]) -> dict[str, Any]:
        if record is None:
            return {"ridges": None, "random starts": None}
        count = len(record["ridges"]["loss"])
        return {"ridges": of(record["ridges"], count), "random starts": of(record["random"], count)}

    return [
        lab.judge(
            "Ridges lead to more diverse networks than random starts do (after Parker-Holder et "
            "al. 2020)",
            "as many networks of each; those of ridges answer differently on a tenth more test "
            "images, over pairs in the median",
            values(lambda arm, n: off_diagonal(np.asarray(arm["apart"])[:n, :n])),
            lab.medians(lambda ridges, random: ridges >= 1.1 * random), of="digits",
        ),
        lab.judge(
            "Networks at the end of ridges are as good as those from random starts (after "
            "Parker-Holder et al. 2020)",
            "test accuracy at most one point lower, in the median",
            values(lambda arm, n: arm["accuracy"]),
            lab.medians(lambda ridges, random: ridges >= random - 0.01), of="digits",
        ),
        lab.judge(
            "An ensemble of ridges is better than one of random starts (this project)",
            "test accuracy of the mean probabilities, of as many random starts as the same "
            "gradients pay for, one point higher",
            values(lambda arm, n: [arm["all"]]),
            lambda ridges, random: ridges[0] >= random[0] + 0.01, of="digits",
            shown=lambda a: f"{100 * a[0]:.1f}",
        ),
    ]  # fmt: skip


def summary(record: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers of the networks that belong to no rotation."""
    count = len(record["ridges"]["loss"])
    found = {}
    for arm in ("ridges", "random"):
        one = record[arm]
        few = np.asarray(one["apart"])[:count, :count]
        found[arm] = {
            "networks": len(one["loss"]), "accuracy": np.median(one["accuracy"]),
            "ensemble": one["all"], f"ensemble of {count}": one["few"],
            "disagreement": np.median(off_diagonal(few)),
            f"different of {count}": solutions(few), "different": solutions(one["apart"]),
        }  # fmt: skip
    own = ("gradients", "riding", "afforded")
    return found | {name: record[name] for name in own}


def draw(settings: Settings, records: lab.Records) -> list[Sheet]:
    sheets = []
    panels = []
    for n in map(int, settings.numbers):
        record = records.get(f"{n} numbers")
        if record is None:
            continue
        runs = np.unique(np.geomspace(1, settings.runs, 40).astype(int))
        lines = [
            Line(DESCENT[name] * runs, np.asarray(record[name], float)[:, runs - 1].T, words)
            for name, words in STARTS.items()
        ]
        tree = np.asarray(record["tree"], float)
        at = np.median(np.asarray(record["gradients"], float))
        lines.append(Line([at], tree[None], "ridge rider"))
        panels.append(Panel(f"{n} numbers", "gradients", "minima found", lines,
                            {"all": 2**n}, log="x"))  # fmt: skip
    caption = (
        "Minima found by runs of descent one after another, and by the tree of ridge rider; each "
        "product with the Hessian counts as a gradient. Medians and ranges over rotations."
    )
    sheets.append(curves("minima", panels, "Minima, by gradients", caption))
    if "paths" in records.get("2 numbers", {}):
        sheets.append(plan(records["2 numbers"]["paths"]))
    if "digits" in records:
        sheets.append(networks(records["digits"]))
    return sheets


def plan(paths: Any) -> Sheet:
    """The surface of two numbers, and the tree on it."""
    loss, _ = surface(2, 0)
    side = np.linspace(-1.8, 1.8, 121)
    grid = np.stack(np.meshgrid(side, side), -1)
    heights = np.asarray(jax.vmap(jax.vmap(loss))(jnp.asarray(grid, jnp.float32)))
    drawn = {"heights": heights, "segments": [(np.asarray(a), np.asarray(b)) for a, b, _ in paths]}

    def on(figure: Any) -> dict[str, Any]:
        axes = figure.subplots()
        low = heights.min()
        levels = low + (1.2 - low) * np.linspace(0, 1, 16) ** 2
        axes.contourf(side, side, heights, levels=levels, cmap="Greys_r", extend="max")
        axes.contour(side, side, heights, levels=levels, colors="grey", linewidths=0.4)
        colours = {1: "tab:blue", 2: "tab:orange"}
        for begin, end, depth in paths:
            (x, y), (u, v) = begin, end
            axes.annotate("", (u, v), (x, y), arrowprops={
                "arrowstyle": "->", "color": colours.get(int(depth), "black"), "linewidth": 2.0,
            })  # fmt: skip
        ends = np.array([end for _, end, depth in paths if depth == 2], float).reshape(-1, 2)
        axes.plot(*ends.T, "o", color="tab:orange", markersize=6)
        axes.plot([0], [0], "s", color="black", markersize=6)
        axes.set(xlabel="first number", ylabel="second number", aspect="equal")
        axes.grid(False)
        return drawn

    caption = (
        "Loss from low (dark) to high. From the saddle in the middle (square) both signs of the "
        "least negative direction are ridden, blue; from the saddles there the next ones, orange, "
        "to the minima (dots). Segments are drawn straight."
    )
    return free("plan", "A tree on a surface of two numbers", caption, on, (4.6, 4.4))


def networks(record: Mapping[str, Any]) -> Sheet:
    """Accuracy and disagreement of networks, as many of each arm."""
    count = len(record["ridges"]["loss"])
    labels = {"ridges": "ends of ridges", "random": "random starts"}
    accuracy, differ = {}, {}
    for arm, label in labels.items():
        few = np.asarray(record[arm]["apart"])[:count, :count]
        accuracy[label] = [Dot(100 * np.asarray(record[arm]["accuracy"][:count]))]
        differ[label] = [Dot(100 * off_diagonal(few))]
    columns = [Column("Test accuracy", "%", accuracy), Column("Disagreement", "%", differ)]
    caption = (
        f"{count} networks of each: median and range, of the accuracy over networks, and over "
        "pairs of the share of test images on which they answer differently."
    )
    return dots("networks", columns, "Networks on digits", caption)


LEAD = """From a saddle ridge rider follows directions of negative curvature, and branches again at
the saddles where they end. Its tree of minima is compared with gradient descent from random starts,
on surfaces whose minima are known and on a small network of digits, at equal gradients."""
STUDY = lab.Study("Ridges", LEAD, Settings, stages, find, draw)
