"""Writes of memories as they are defined: minimisers and gradients of losses, token by token."""

import jax
import jax.numpy as jnp
import numpy as np

LOSSES = {
    "dot": lambda said, v: -jnp.vdot(said, v),
    "l2": lambda said, v: jnp.sum((said - v) ** 2) / 2,
    "l3": lambda said, v: jnp.sum(jnp.abs(said - v) ** 3) / 3,
    "huber": lambda said, v: _huber(jnp.sqrt(jnp.sum((said - v) ** 2)), 0.7),
}


def _huber(distance, d):
    return jnp.where(distance <= d, distance**2 / 2, d * (distance - d / 2))


def gradient(loss, m, k, v):
    """Of a loss of what a linear memory says for one key, as a matrix."""
    return jax.grad(lambda m: LOSSES[loss](m @ k, v))(m)


def proximal_descent(m, k, u, eta, start):
    """argmin |M k - u|^2 / 2 + |M - start|^2 / (2 eta), from its normal equations."""
    k, u, start = (np.asarray(a) for a in (k, u, start))
    right = np.outer(u, k) + start / eta
    return right @ np.linalg.inv(np.outer(k, k) + np.eye(len(k)) / eta)


def mirror_map(gathered, q):
    """The gradient of |A|_q^2 / 2."""
    return jax.grad(lambda a: jnp.sum(jnp.abs(a) ** q) ** (2 / q) / 2)(gathered)


def read(weights, x, act, skip):
    h = x
    for w in weights[:-1]:
        h = act(w @ h)
    return weights[-1] @ h + (x if skip else 0)


def layer_inputs(weights, x, act):
    found = [x]
    for w in weights[:-1]:
        found.append(act(w @ found[-1]))
    return found


def naive_network_scan(
    q, k, v, weights, rate, retain, momentum, *,
    loss, rule, chunk, when, implicit, skip, act, returns=False,
):  # fmt: skip
    """One token at a time, every weight matrix made at every token, gradients by `jax.grad`."""
    weights = list(weights)

    def token(carry, inputs):
        now, surprise, anchor, position = carry
        query, key, value, eta, a, mu = inputs
        anchor = [jnp.where(position == 0, w, old) for w, old in zip(now, anchor, strict=True)]
        slopes = jax.grad(lambda w: LOSSES[loss](read(w, key, act, skip), value))(anchor)
        new, moved = [], []
        for w, w0, s, g, x, begun in zip(
            now, anchor, surprise, slopes, layer_inputs(anchor, key, act), weights, strict=True
        ):
            step = eta / (1 + eta * jnp.vdot(x, x)) if implicit and rule != "gd" else eta
            if rule == "local":  # the gradient, as the matrix has moved since
                g = g + (w - w0) @ jnp.outer(x, x)
            kept = w if a is None else a * w
            s = (0 if mu is None else mu * s) - step * g
            forgotten = (kept if implicit else w) @ jnp.outer(x, x) if rule == "dgd" else 0
            home = (1 - a) * begun if returns else 0
            new.append(kept - step * forgotten + s + home)
            moved.append(s)
        output = read(now if when == "before" else new, query, act, skip)
        return (new, moved, anchor, (position + 1) % chunk), output

    start = (weights, [jnp.zeros_like(w) for w in weights], weights, jnp.zeros((), int))
    (now, surprise, *_), outputs = jax.lax.scan(token, start, (q, k, v, rate, retain, momentum))
    return outputs, tuple(now), None if momentum is None else tuple(surprise)
