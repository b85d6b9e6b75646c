"""PES of a learned rule by hand in JAX: one step a call, or a hundred in a scan (`run`)."""

import jax
import jax.numpy as jnp
import optax
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


def twice(a):
    """Every pair's array for both of its copies."""
    return jnp.repeat(a, 2, axis=0)


def where(due, new, old):
    def one(a, b):
        return jnp.where(due.reshape(-1, *(1,) * (b.ndim - 1)), a, b)

    return jax.tree.map(one, new, old)


def make(data, variant):
    outer = optax.adam(META_RATE)
    phases = jnp.arange(PAIRS) * (HORIZON // STEPS) // PAIRS * STEPS

    def drawn(key, tick):
        keys = jax.random.split(jax.random.fold_in(key, tick), PAIRS)
        return jax.tree.map(twice, jax.vmap(draw)(keys))

    def unrolled(theta, w, memory, task):
        def inner(carry, _):
            w, memory, total = carry
            delta, memory = change(theta, jax.grad(error)(w, task), memory, w)
            w = w + delta
            return (w, memory, total + error(w, task)), None

        carry, _ = jax.lax.scan(inner, (w, memory, jnp.zeros(())), None, STEPS)
        return carry

    def advance(state, _=None):
        theta, adam, total, w, memory, task, key, tick = state
        due = (tick + phases) % HORIZON == 0
        task = where(twice(due), drawn(jax.random.fold_in(key, 0), tick), task)
        fresh = task["start"], jax.vmap(begun)(task["start"])
        w, memory = where(twice(due), fresh, (w, memory))
        total = where(due, jax.tree.map(jnp.zeros_like, total), total)
        keys = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, 1), tick), len(theta))
        noise = [
            SIGMA * jax.random.normal(k, (PAIRS, *a.shape))
            for k, a in zip(keys, theta, strict=True)
        ]
        both = [
            jnp.stack([a + e, a - e], axis=1).reshape(2 * PAIRS, *a.shape)
            for a, e in zip(theta, noise, strict=True)
        ]
        reached = jax.vmap(unrolled)(both, w, memory, task)
        losses = (reached[2] / STEPS).reshape(PAIRS, 2)
        slope = (losses[:, 0] - losses[:, 1]) / (2 * SIGMA**2)
        after = [a + e for a, e in zip(total, noise, strict=True)]
        gradient = [jnp.tensordot(slope, a, 1) / PAIRS for a in after]
        change_of_theta, adam = outer.update(gradient, adam, theta)
        moved = optax.apply_updates(theta, change_of_theta)
        shown = theta, w, memory, task, total, noise, gradient
        state = moved, adam, after, *reached[:2], task, key, tick + STEPS
        return state, (jnp.mean(losses), shown)

    theta, key = weights(data), jax.random.key(0)
    task = drawn(jax.random.key(1), 0)
    zeros = [jnp.zeros((PAIRS, *a.shape)) for a in theta]
    memory = jax.vmap(begun)(task["start"])
    start = (theta, outer.init(theta), zeros, task["start"], memory, task, key, jnp.zeros((), int))

    runs = variant == "run"
    count = 100 if runs else 1

    @jax.jit
    def program(state):
        def bare(state, _=None):
            state, (loss, _) = advance(state)
            return state, loss

        return jax.lax.scan(bare, state, None, count) if runs else bare(state)

    held = [start]

    def step():
        held[0], loss = jax.block_until_ready(program(held[0]))
        return loss

    def gradient():
        state, one = start, jax.jit(advance)
        for _ in range(7):
            state = one(state)[0]
        return report(*one(state)[1][1])

    def temporary():
        return temporary_bytes(program.lower(start).compile())

    return Work(step, gradient, temporary, per_call=count)


serve(make)
