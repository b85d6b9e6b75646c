"""Evolution strategies in nests: against the interpreter, closed forms, and their own promises."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from references.nests import agree

import nestax as nx


def noisy(task, key):
    return task["shift"] + 0.3 * jax.random.normal(key, (3,))


def draw_task(key):
    return {"shift": jax.random.normal(key, (3,))}


def learner(flow, accumulate=None, every=2, horizon=4, **options):
    """A rate and a target that are shared, above weights that learn in episodes."""

    def inner(values, batch):
        return jnp.sum((values["w"] - batch - jnp.tanh(values["theta"]["target"])) ** 2) / 2

    def outer(values, batch):
        loss = jnp.sum((values["w"] - batch) ** 2) + jnp.sum(values["theta"]["target"] ** 4)
        return loss, {"size": jnp.sum(values["w"] ** 2)}

    w = nx.Level(
        "w",
        inner,
        lambda values: optax.sgd(jnp.exp(values["theta"]["rate"]), momentum=0.5),
        noisy,
        start=lambda values, task, key: values["theta"]["target"] + jax.random.normal(key, (3,)),
        horizon=horizon,
    )
    theta = nx.Level(
        "theta", outer, optax.adam(0.1), noisy, every=every, flow=flow, accumulate=accumulate
    )
    values = {"theta": {"rate": jnp.asarray(-1.0), "target": jnp.array([0.5, -0.2, 0.1])}}
    return [w, theta], values, {"task": draw_task, "copies": 4, **options}


@pytest.mark.parametrize(
    "flow, accumulate, more",
    [
        (nx.PES(0.2), "mean", {"stagger": True}),
        (nx.NRES(0.1), None, {}),
        (nx.ES(0.1), "sum", {"stagger": True}),
    ],
    ids=str,
)
def test_it_is_a_loop_over_pairs(x64, flow, accumulate, more):
    levels, values, options = learner(flow, accumulate, **more)
    beside = nx.Level("rate", lambda v, b: jnp.sum((v["rate"] - v["w"][0]) ** 2), optax.sgd(0.1), every=2)
    top = nx.Level("top", lambda v, b: jnp.sum(v["top"] * v["w"]), optax.sgd(0.1), every=4)
    nest = nx.Nest([levels[0], (levels[1], beside), top], **options)
    values = {**values, "rate": jnp.asarray(0.3), "top": jnp.ones(3)}
    agree(nest, values, 3, tolerance=1e-10)
