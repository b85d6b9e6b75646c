"""PES of a learned rule as a nest: `Nest.step`, or a hundred of `Nest.run`; `bare`: no norms."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from nest_steps import stepper
from rule_jax import (
    HORIZON,
    META_RATE,
    PAIRS,
    SIGMA,
    STEPS,
    begun,
    change,
    draw,
    error,
    report,
    weights,
)
from serve import Work, serve, temporary_bytes

import nestax as nx


def rule(values):
    def update(updates, state, params=None):
        return change(values["theta"], updates, state, params)

    return optax.GradientTransformation(begun, update)


def make(data, variant):
    def loss(values, task):
        return error(values["w"], task)

    w = nx.Level(
        "w", loss, rule, start=lambda values, task, key: task["start"], horizon=HORIZON
    )  # fmt: skip
    theta = nx.Level(
        "theta", loss, optax.adam(META_RATE), every=STEPS, flow=nx.PES(SIGMA), accumulate="mean"
    )  # fmt: skip
    bare = variant.endswith("bare")
    nest = nx.Nest([w, theta], task=draw, copies=2 * PAIRS, stagger=True, norms=not bare)
    start = nest.init({"theta": weights(data)}, jax.random.key(0))
    count = 100 if variant.startswith("run") else None
    step = stepper(nest, start, count)

    def gradient():
        state = start
        for _ in range(7):  # by then every episode has begun anew once, and some again
            state = nest.step(state)[0]
        after = nest.step(state)[0]
        due = np.any(np.asarray(after.task["start"] != state.task["start"]), axis=1)

        def chosen(new, old):
            return jnp.where(due.reshape(-1, *(1,) * (old.ndim - 1)), new, old)

        memory = jax.tree.map(lambda a: chosen(jnp.zeros_like(a), a), state.optimizers["w"])
        began = chosen(after.task["start"], state.values["w"])
        pair = due[::2]
        total = [
            jnp.where(pair.reshape(-1, *(1,) * (a.ndim - 1)), 0, a) for a in state.flows["theta"]
        ]
        noise = [a - b for a, b in zip(after.flows["theta"], total, strict=True)]
        found = nest.gradient(state, "theta")
        return report(state.values["theta"], began, memory, after.task, total, noise, found)

    def temporary():
        return temporary_bytes(jax.jit(nest.step).lower(start).compile())

    return Work(step, gradient, temporary, per_call=count or 1)


serve(make)
