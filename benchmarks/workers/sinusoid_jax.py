"""The sinusoids and the network of `maml.py` for JAX."""

import jax
import jax.numpy as jnp
import numpy as np

TASKS, STEPS, RATE, META_RATE = 25, 10, 0.01, 1e-3


def drawer(data):
    """A function key -> task: one row of the table."""
    n = data["x"].shape[1] // 2
    x, y = jnp.asarray(data["x"]), jnp.asarray(data["y"])
    table = {
        "support": (x[:, :n], y[:, :n]),
        "query": (x[:, n:], y[:, n:]),
        "index": jnp.arange(len(x)),
    }

    def draw(key):
        row = jax.random.randint(key, (), 0, len(x))
        return jax.tree.map(lambda a: a[row], table)

    return draw


def weights(data):
    """Matrices (in, out) and biases, layer by layer."""
    return [jnp.asarray(data[f"w{i}"]) for i in range(6)]


def error(w, batch):
    x, y = batch
    hidden = jax.nn.relu(x @ w[0] + w[1])
    hidden = jax.nn.relu(hidden @ w[2] + w[3])
    return jnp.mean((hidden @ w[4] + w[5] - y) ** 2)


def report(picks, gradient):
    return {"picks": picks, **{f"g{i}": np.asarray(g) for i, g in enumerate(gradient)}}
