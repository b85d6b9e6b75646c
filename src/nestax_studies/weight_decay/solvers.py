"""Part of `weight_decay`: which approximation of the inverse Hessian points the right way?

Cosines of approximate hypergradients with the exact one, against Hessian-vector products: where the
inner problem is solved and all its data is seen, and where neither holds.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax

from nestax.flows import (
    CG,
    Direct,
    Identity,
    Neumann,
    Nystrom,
    Solver,
    best_response,
    hypergradient,
)
from nestax.levels import Level, Nest
from nestax.runs import Picture

from .. import models
from .._images import Pool, cross_entropy, halves
from ..plots import Line, Panel, draw
from ..study import Records, Verdict

SOLVERS = {
    "cg": "CG",
    "neumann": "Neumann, best rate",
    "slow": "Neumann, inner rate",
    "nystrom": "Nyström",
    "identity": "identity",
}
PLACES = {
    "settled": "full batch, inner problem solved",
    "noisy": "minibatch, inner problem not solved",
}
_NOISY, _SETTLED = 100, 5000  # updates of the weights


def compare(
    objective: Any,
    decay: Any,
    pool: Pool,
    sizes: tuple[int, ...],
    images: int,
    batch_size: int,
    seeds: int,
    products: Sequence[int],
    inner_rate: float,
    say: Any,
) -> dict[str, Any]:
    """Cosines in the order (products, seed), in float64.

    The noisy point lies on the way to the settled one, whose exact hypergradient is the truth for
    both.

    Args:
        objective: the weights', ({"weights": ..., "decay": ...}, batch) -> loss.
        decay: the logarithms of the decays, a pytree like the weights.
        inner_rate: a rate of Neumann's beside the best one.
    """

    def some(task: Any, key: jax.Array) -> Any:
        index = jax.random.choice(key, images, (batch_size,), replace=False)
        return jax.tree.map(lambda a: a[index], task["train"])

    def loss(decay: Any, weights: Any, batch: Any) -> jax.Array:
        return objective({"decay": decay, "weights": weights}, batch)

    level = Level(
        "weights",
        lambda values, batch: loss(decay, values["weights"], batch),
        optax.adam(0.01),
        context=some,
        start=lambda values, task, key: models.mlp_init(key, sizes),
        horizon=_NOISY,
    )
    nest = Nest([level], lambda key: halves(pool, key, images), copies=seeds)
    say("trains")
    state, _ = nest.run(nest.init({}, jax.random.key(1)), _NOISY)
    task, noisy = state.task, state.values["weights"]

    @jax.jit
    @jax.vmap
    def settle(start: Any, task: Any) -> Any:
        def full(decay: Any, weights: Any) -> jax.Array:
            return loss(decay, weights, task["train"])

        descent = optax.sgd(0.03, momentum=0.99, nesterov=True)
        end = best_response(full, descent, _SETTLED, Direct())(decay, start)
        return end, optax.tree.norm(jax.grad(full, 1)(decay, end))

    settled, left = settle(noisy, task)
    batches = jax.vmap(some)(task, jax.random.split(jax.random.key(2), seeds))

    def towards(solver: Solver, weights: Any, seen: Any) -> Any:
        @jax.jit
        @jax.vmap
        def one(weights: Any, task: Any, seen: Any) -> Any:
            gradient = hypergradient(
                lambda decay, weights: cross_entropy(weights, task["valid"]),
                lambda decay, weights: loss(decay, weights, seen),
                solver,
            )
            found, report = gradient(decay, weights, diagnostics=True)
            return jax.flatten_util.ravel_pytree(found)[0], report.residual

        return one(weights, task, seen)

    say("finds the exact hypergradient")
    exact, residual = towards(CG(2000, tolerance=1e-8), settled, task["train"])
    record: dict[str, Any] = {
        "products": list(products),
        "gradient": left.tolist(),
        "exact_residual": residual.tolist(),
    }
    for place, at, seen in (("settled", settled, task["train"]), ("noisy", noisy, batches)):
        best = 1 / float(jnp.max(jax.jit(jax.vmap(_curvature))(at, seen)))
        made = {
            "cg": lambda k: CG(k),
            "neumann": lambda k, best=best: Neumann(k + 1, best),
            "slow": lambda k: Neumann(k + 1, inner_rate),
            "nystrom": lambda k: Nystrom(k),
            "identity": lambda k: Identity(),
        }
        record[place] = {"rate": best}
        for name, make in made.items():
            say(f"{place}, {SOLVERS[name]}")
            counts = products if name != "identity" else products[:1]
            found = [towards(make(k), at, seen)[0] for k in counts]
            record[place][name] = [_cosine(g, exact).tolist() for g in found]
    return record


def _curvature(weights: Any, batch: Any) -> jax.Array:
    """The largest eigenvalue of the cross entropy's Hessian, by power iteration."""
    slope = jax.grad(lambda w: cross_entropy(w, batch))

    def iterate(_: Any, carry: Any) -> Any:
        v, size = carry
        v = jax.tree.map(lambda a: a / size, v)
        v = jax.jvp(slope, (weights,), (v,))[1]
        return v, optax.tree.norm(v)

    return jax.lax.fori_loop(0, 50, iterate, (weights, optax.tree.norm(weights)))[1]


def _cosine(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.sum(a * b, 1) / jnp.linalg.norm(a, axis=1) / jnp.linalg.norm(b, axis=1)


def directions(model: str, record: dict[str, Any]) -> list[Verdict]:
    """Lorraine et al.'s claim about Neumann and CG, judged at both places."""
    found = []
    for place, words in PLACES.items():
        medians = {name: np.median(record[place][name], axis=1) for name in ("neumann", "cg")}
        few = [i for i, k in enumerate(record["products"]) if 2 <= k <= 10]
        better = medians["neumann"] >= medians["cg"]
        measured = ", ".join(
            f"{k}: {a:.3f} against {b:.3f}"
            for k, a, b in zip(record["products"], *medians.values(), strict=True)
        )
        found.append(
            Verdict(
                "A few Neumann terms point closer to the exact hypergradient than as many steps of "
                f"CG (Lorraine et al. 2020, comparison of inverses): {model}, {words}",
                "median cosine, at Neumann's best rate, at least CG's at every number of products "
                "from 2 to 10",
                f"products: Neumann against CG; {measured}",
                bool(np.all(better[few])) if few else None,
            )
        )
    return found


def draw_directions(records: Records, models: Sequence[str], directory: Path) -> list[Picture]:
    panels = []
    for model in models:
        if (record := records.get(f"{model} solvers")) is None:
            continue
        for place, words in PLACES.items():
            lines = []
            for name, label in SOLVERS.items():
                cosines = record[place][name]
                if name == "identity":
                    cosines = cosines * len(record["products"])
                lines.append(Line(record["products"], cosines, label))
            title = f"{model}: {words}"
            axes = "Hessian-vector products", "cosine with the exact one"
            panels.append(Panel(title, *axes, lines, log="x"))
    if not panels:
        return []
    caption = (
        "Cosine with the hypergradient of the solved problem, found by CG to a residual of 1e-8 in "
        "float64. Neumann's best rate, 1 / the largest eigenvalue, was found beforehand and is not "
        "counted; the inner rate is that of the weights' Adam, as in the authors' code. Bands: the "
        "range over seeds."
    )
    title = "Direction of approximate hypergradients"
    return [draw(directory / "solvers.png", panels, title, caption)]
