"""Stand-ins for sequence models, with their call signature, that compile in no time."""

import equinox as eqx
import jax
import jax.numpy as jnp


class Recurrent(eqx.Module):
    """h <- (rotation by a token's own angle) h, read by a matrix: it can keep a parity."""

    head: jax.Array

    def __init__(self, vocabulary, width, depth, heads, window, key):
        self.head = 0.1 * jax.random.normal(key, (vocabulary, 2))

    def init_state(self):
        return jnp.array([1.0, 0.0])

    def __call__(self, tokens, state=None):
        turn = jnp.linspace(0.0, jnp.pi, self.head.shape[0])

        def read(h, token):
            c, s = jnp.cos(turn[token]), jnp.sin(turn[token])
            h = jnp.stack([c * h[0] - s * h[1], s * h[0] + c * h[1]])
            return h, h

        state = self.init_state() if state is None else state
        state, seen = jax.lax.scan(read, state, tokens)
        return seen @ self.head.T, state


class Bag(eqx.Module):
    """Scores from the token alone and the mean of those before: it knows no order, and little."""

    own: jax.Array
    mean: jax.Array

    def __init__(self, vocabulary, width, depth, heads, window, key):
        keys = jax.random.split(key)
        shape = (vocabulary, vocabulary)
        self.own, self.mean = (0.1 * jax.random.normal(k, shape) for k in keys)

    def init_state(self):
        return jnp.zeros(self.own.shape[0]), jnp.zeros(())

    def __call__(self, tokens, state=None):
        state = self.init_state() if state is None else state
        shown = jax.nn.one_hot(tokens, self.own.shape[0])
        total = state[0][None] + jnp.cumsum(shown, axis=0)
        count = state[1] + 1 + jnp.arange(len(tokens))
        scores = shown @ self.own + total / count[:, None] @ self.mean
        return scores, (total[-1], count[-1])
