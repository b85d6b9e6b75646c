"""MAML written by hand in JAX: jit(vmap(grad(scan))), Adam included, tasks drawn inside."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from serve import Work, serve, temporary_bytes
from sinusoid_jax import META_RATE, RATE, STEPS, TASKS, drawer, error, report, weights


def make(data, variant):
    draw, begin, outer = drawer(data), weights(data), optax.adam(META_RATE)

    def adapted(init, task):
        def inner(w, _):
            gradient = jax.grad(error)(w, task["support"])
            return jax.tree.map(lambda a, b: a - RATE * b, w, gradient), None

        return error(jax.lax.scan(inner, init, None, STEPS)[0], task["query"])

    @jax.jit
    def advance(init, state, key, tick):
        keys = jax.random.split(jax.random.fold_in(key, tick), TASKS)
        tasks = jax.vmap(draw)(keys)
        losses, gradients = jax.vmap(jax.value_and_grad(adapted), (None, 0))(init, tasks)
        gradient = jax.tree.map(lambda a: jnp.mean(a, axis=0), gradients)
        update, state = outer.update(gradient, state, init)
        init = optax.apply_updates(init, update)
        return (init, state, key, tick + 1), (jnp.mean(losses), tasks["index"], gradient)

    held = [(begin, outer.init(begin), jax.random.key(0), jnp.zeros((), jnp.int32))]
    start = held[0]

    def step():
        held[0], info = jax.block_until_ready(advance(*held[0]))
        return info

    def gradient():
        _, picks, found = advance(*start)[1]
        return report(np.asarray(picks), found)

    def temporary():
        return temporary_bytes(advance.lower(*start).compile())

    return Work(step, gradient, temporary)


serve(make)
