"""MAML as a nest: `Nest.step`, or twenty steps of `Nest.run`; `bare`: without gradient norms."""

import jax
import numpy as np
import optax
from nest_steps import stepper
from serve import Work, serve, temporary_bytes
from sinusoid_jax import META_RATE, RATE, STEPS, TASKS, drawer, error, report, weights

import nestax as nx


def make(data, variant):
    def loss(values, batch):
        return error(values["w"], batch)

    w = nx.Level(
        "w", loss, optax.sgd(RATE), lambda task, key: task["support"],
        start=lambda values, task, key: values["init"],
    )  # fmt: skip
    init = nx.Level(
        "init", loss, optax.adam(META_RATE), lambda task, key: task["query"],
        every=STEPS, flow=nx.Unroll(),
    )  # fmt: skip
    bare = variant.endswith("bare")  # what it is raced against reports none either
    nest = nx.Nest([w, init], task=drawer(data), copies=TASKS, norms=not bare)
    start = nest.init({"init": weights(data)}, jax.random.key(0))
    count = 20 if variant.startswith("run") else None
    step = stepper(nest, start, count)

    def gradient():
        return report(np.asarray(start.task["index"]), nest.gradient(start, "init"))

    def temporary():
        return temporary_bytes(jax.jit(nest.step).lower(start).compile())

    return Work(step, gradient, temporary, per_call=count or 1)


serve(make)
