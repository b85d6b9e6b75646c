"""Learned rules with a state of their own, with weights by hand under which they descend."""

import jax
import jax.numpy as jnp
import optax

from nestax import learned

LSTM = learned.lstm(hidden=1, layers=1, scale=1.0, preprocess=None)
VELO = learned.velo(lstm_hidden=2, bank=1, hidden=(2,), step=1.0)


def lstm_by_hand():
    """It remembers a third of its cell, and writes about -tanh(g)."""
    gates = jnp.array([9.0, -0.7, 0.0, 9.0])  # input, forget, candidate, output
    layer = {"input": jnp.array([[0.0, 0, 1, 0]]), "hidden": jnp.zeros((1, 4)), "bias": gates}
    return {
        "layers": (layer,),
        "output": {"weights": jnp.full((1, 1), -1.0), "bias": jnp.zeros(1)},
    }


def velo_by_hand():
    """The normalized gradient, times the root mean square of the tensor; the LSTM says nothing."""
    shapes = jax.eval_shape(VELO.init, jax.eval_shape(lambda: jax.random.key(0)))
    theta = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    first, second = theta["bank"]
    signs = jnp.array([1.0, -1.0], jnp.float32)
    first["w"] = first["w"].at[0, 0].set(signs)  # of the first feature, g
    second["w"] = second["w"].at[0, :, 0].set(signs)
    theta["controls"]["b"] = jnp.full(1, 0.01, jnp.float32)
    theta["rate"]["b"] = jnp.ones(1, jnp.float32)
    return theta


def with_loss(tx):
    """The transformation with a loss that the caller need not hand in."""

    def update(updates, state, params=None, **extra):
        del extra
        loss = sum(
            jnp.sum(jnp.square(jnp.asarray(g, jnp.float32))) for g in jax.tree.leaves(updates)
        )
        return tx.update(updates, state, params, value=loss)

    return optax.GradientTransformationExtraArgs(tx.init, update)


def fixed(rule):
    return lambda rate: rule(rule.init(jax.random.key(0)), rate)


RECURRENT = {
    "lstm": lambda r: LSTM(lstm_by_hand(), r),
    "velo": lambda r: with_loss(VELO(velo_by_hand(), r, num_steps=300)),
    "adam_like": fixed(learned.adam_like()),
    "lion_like": fixed(learned.lion_like(weight_decay=0)),
}
KEEP_RECURRENT = {"adam_like", "lion_like"}
NONE_RECURRENT = {"lstm", "velo"}
