"""The learned rule and the quadratics of `evolution.py` for JAX."""

import jax
import jax.numpy as jnp
import numpy as np

PAIRS, STEPS, HORIZON, SIZE, SIGMA, RATE, META_RATE = 16, 20, 100, 10, 0.01, 1e-3, 1e-3
DECAYS = (0.1, 0.5, 0.9, 0.99, 0.999, 0.9999)
SCALES = (1, 3, 10, 30, 100, 300, 1000, 3000, 10000, 30000, 100000)


def weights(data):
    """Matrices (in, out) and biases, layer by layer."""
    return [jnp.asarray(data[f"t{i}"]) for i in range(6)]


def begun(params):
    """What the rule remembers at first: momenta, (size, 6), and the number of steps made."""
    return jnp.zeros((*params.shape, len(DECAYS)), params.dtype), jnp.zeros((), jnp.int32)


def change(theta, gradient, memory, w):
    """The change of w and the next memory."""
    momenta, count = memory
    decays = jnp.asarray(DECAYS, w.dtype)
    momenta = decays * momenta + (1 - decays) * gradient[:, None]
    seen = jnp.concatenate([gradient[:, None], w[:, None], momenta], axis=1)
    seen = seen * jax.lax.rsqrt(1e-5 + jnp.mean(seen**2, axis=0))
    clock = jnp.tanh(count / jnp.asarray(SCALES, w.dtype) - 1)
    hidden = jnp.concatenate([seen, jnp.broadcast_to(clock, (len(w), len(SCALES)))], axis=1)
    hidden = jax.nn.relu(hidden @ theta[0] + theta[1])
    hidden = jax.nn.relu(hidden @ theta[2] + theta[3])
    direction, magnitude = jnp.moveaxis(hidden @ theta[4] + theta[5], 1, 0)
    return -RATE * direction * jnp.exp(RATE * magnitude), (momenta, count + 1)


def draw(key):
    """A task: a target and where the weights begin."""
    target, start = jax.random.normal(key, (2, SIZE))
    return {"target": target, "start": start}


def error(w, task):
    return jnp.sum((task["target"] - w) ** 2)


def flat(perturbations):
    """(pairs, numbers), from a leading axis of pairs in every layer."""
    return np.concatenate([np.asarray(a).reshape(PAIRS, -1) for a in perturbations], axis=1)


def report(theta, w, memory, task, total, perturbation, gradient):
    """One outer step, to be judged: what it began with and drew, and the gradient.

    Args:
        theta: the rule's weights.
        w: (copies, size), after new episodes began.
        memory: the rule's, with a leading axis of copies.
        task: of all copies.
        total: perturbations of the episodes so far, layer by layer, (pairs, ...).
        perturbation: of this period.
        gradient: the estimate.
    """
    found = {"w": w, "momenta": memory[0], "count": memory[1], "target": task["target"]}
    found |= {"total": flat(total), "perturbation": flat(perturbation), "late": np.ones(())}
    found |= {f"t{i}": a for i, a in enumerate(theta)}
    found |= {f"g{i}": a for i, a in enumerate(gradient)}
    return {name: np.asarray(a) for name, a in found.items()}
