"""PES of a learned rule as a nest: `Nest.step`, or a hundred of `Nest.run`; `bare`: no norms.

`learned` is the library's own rule in its own nest, `nestax.learned.mlp` and `meta_nest`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from nest_steps import stepper
from rule_jax import (
    HORIZON,
    META_RATE,
    PAIRS,
    RATE,
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


def by_hand(bare):
    """The nest spelled out, with the rule of the workers that have JAX alone."""

    def loss(values, task):
        return error(values["w"], task)

    w = nx.Level(
        "w", loss, rule, start=lambda values, task, key: task["start"], horizon=HORIZON
    )  # fmt: skip
    theta = nx.Level(
        "theta", loss, optax.adam(META_RATE), every=STEPS, flow=nx.PES(SIGMA), accumulate="mean"
    )  # fmt: skip
    return nx.Nest([w, theta], task=draw, copies=2 * PAIRS, stagger=True, norms=not bare)


def of_the_library():
    """The same problem as a family of tasks; a loss that is not finite would lose its pair."""
    quadratics = nx.learned.Family(
        "quadratics",
        sample=draw,
        init=lambda task, key: task["start"],
        batch=lambda task, key: task,
        loss=error,
    )
    return nx.learned.meta_nest(
        nx.learned.mlp(step=RATE, exponent=RATE),
        quadratics,
        tasks=PAIRS,
        horizon=HORIZON,
        truncation=STEPS,
        flow=nx.PES(SIGMA),
        optimizer=optax.adam(META_RATE),
        ceiling=None,
    )


def layered(flat):
    """theta as the library's rule has it, from matrices and biases in turn."""
    return {"layers": [{"w": w, "b": b} for w, b in zip(flat[::2], flat[1::2], strict=True)]}


def unlayered(theta):
    return [layer[name] for layer in theta["layers"] for name in ("w", "b")]


def make(data, variant):
    learned = variant.startswith("learned")
    name = "rule" if learned else "theta"
    if learned:
        nest = of_the_library()
        start = nest.init({name: layered(weights(data))}, jax.random.key(0))
    else:
        nest = by_hand(variant.endswith("bare"))
        start = nest.init({name: weights(data)}, jax.random.key(0))

    def parts(state):
        """Weights, what the rule remembers, the tasks and the sums of perturbations."""
        if not learned:
            return state.values["w"], state.optimizers["w"], state.task, state.flows[name]
        memory = state.optimizers["params"]["quadratics"]
        momenta = jnp.moveaxis(memory.rule[0], 1, -1)
        total = unlayered(nest_like(state.flows[name]))
        task = state.task["tasks"]["quadratics"]
        return state.values["params"]["quadratics"], (momenta, memory.count), task, total

    def nest_like(leaves):
        return jax.tree.unflatten(jax.tree.structure(start.values[name]), jax.tree.leaves(leaves))

    count = 100 if "run" in variant else None
    step = stepper(nest, start, count)

    def gradient():
        state = start
        for _ in range(7):  # by then every episode has begun anew once, and some again
            state = nest.step(state)[0]
        w, memory, task, total = parts(state)
        _, _, task_after, total_after = parts(nest.step(state)[0])
        due = np.any(np.asarray(task_after["start"] != task["start"]), axis=1)

        def chosen(new, old):
            return jnp.where(due.reshape(-1, *(1,) * (old.ndim - 1)), new, old)

        memory = jax.tree.map(lambda a: chosen(jnp.zeros_like(a), a), memory)
        began = chosen(task_after["start"], w)
        pair = due[::2]
        total = [jnp.where(pair.reshape(-1, *(1,) * (a.ndim - 1)), 0, a) for a in total]
        noise = [a - b for a, b in zip(total_after, total, strict=True)]
        theta, found = state.values[name], nest.gradient(state, name)
        if learned:
            theta, found = unlayered(theta), unlayered(found)
        return report(theta, began, memory, task_after, total, noise, found)

    def temporary():
        return temporary_bytes(jax.jit(nest.step).lower(start).compile())

    return Work(step, gradient, temporary, per_call=count or 1)


serve(make)
