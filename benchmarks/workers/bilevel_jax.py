"""The two problems of `hypergradient.py` for JAX, and their hypergradients written by hand."""

import jax
import jax.numpy as jnp
import numpy as np

STEPS, TERMS = 50, 20
RATES = {"l2": 0.5, "clean": 1.0}
DECAY = 1e-2


def problem(name, data):
    """(inner, outer, slow, start): objectives of (slow, fast), and where to begin."""
    arrays = {key: jnp.asarray(value) for key, value in data.items()}
    x, y, xv, yv = (arrays[key] for key in ("x", "y", "xv", "yv"))

    def binary(w, x, y):
        z = x @ w
        return jnp.mean(jax.nn.softplus(z) - y * z)

    def classes(w, x, y):
        logits = jax.nn.log_softmax(x @ w)
        return -jnp.take_along_axis(logits, y[:, None], axis=1)[:, 0]

    if name == "l2":

        def inner(slow, fast):
            return binary(fast, x, y) + jnp.sum(jnp.exp(slow) * fast**2) / 2

        def outer(slow, fast):
            return binary(fast, xv, yv)
    else:

        def inner(slow, fast):
            trusted = jnp.mean(jax.nn.sigmoid(slow) * classes(fast, x, y))
            return trusted + DECAY * jnp.sum(fast**2) / 2

        def outer(slow, fast):
            return jnp.mean(classes(fast, xv, yv))

    return inner, outer, arrays["slow"], arrays["start"]


def by_hand(name, method, data):
    """(slow -> hypergradient, slow), with plain JAX."""
    inner, outer, slow, start = problem(name, data)
    rate = RATES[name]

    def descend(slow):
        def step(w, _):
            return w - rate * jax.grad(inner, 1)(slow, w), None

        return jax.lax.scan(step, start, None, STEPS)[0]

    def cg(product, b):
        def step(_, carry):
            x, r, p, rr = carry
            q = product(p)
            alpha = rr / jnp.vdot(p, q)
            x, r = x + alpha * p, r - alpha * q
            after = jnp.vdot(r, r)
            return x, r, r + after / rr * p, after

        return jax.lax.fori_loop(0, TERMS, step, (jnp.zeros_like(b), b, b, jnp.vdot(b, b)))[0]

    def neumann(product, b):
        def step(_, carry):
            term, total = carry
            term = term - rate * product(term)
            return term, total + term

        return rate * jax.lax.fori_loop(0, TERMS - 1, step, (b, b))[1]

    def implicit(slow):
        w = descend(slow)
        product = jax.linearize(lambda w: jax.grad(inner, 1)(slow, w), w)[1]
        v = (cg if method == "cg" else neumann)(product, jax.grad(outer, 1)(slow, w))
        back = jax.vjp(lambda slow: jax.grad(inner, 1)(slow, w), slow)[1]
        return jax.grad(outer)(slow, w) - back(v)[0]

    unrolled = jax.grad(lambda slow: outer(slow, descend(slow)))
    return (unrolled if method == "unrolled" else implicit), slow


def work(gradient, slow):
    """A worker's program from a function of `slow` alone."""
    from serve import Work, temporary_bytes  # not on the path of the race, which imports us too

    compiled = jax.jit(gradient)

    def step():
        return {"g": np.asarray(compiled(slow))}

    def temporary():
        return temporary_bytes(compiled.lower(slow).compile())

    return Work(step, temporary=temporary)
