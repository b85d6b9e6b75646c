"""Learned rules with a perceptron per parameter, with weights by hand under which they descend."""

import dataclasses

import jax
import jax.numpy as jnp

from nestax import learned

SMALL_FC = learned.small_fc(hidden=(2,), step=1.0)
NORMALIZED = learned.normalized(hidden=(2,), begin_as="random")
MLP = learned.mlp(hidden=(2,), step=1.0)


def by_hand(rule):
    """The first answer is the first feature, the normalized gradient; a second one is 0."""
    shapes = jax.eval_shape(rule.init, jax.eval_shape(lambda: jax.random.key(0)))
    theta = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    first, second = theta["layers"]
    signs = jnp.array([1.0, -1.0], jnp.float32)
    first["w"] = first["w"].at[0].set(signs)
    second["w"] = second["w"].at[:, 0].set(signs)
    return theta


def made(rule):
    return lambda rate: rule(by_hand(rule), rate)


RULES = {
    "small_fc": made(SMALL_FC),
    # As it is differentiated.
    "small_fc, plain": made(dataclasses.replace(SMALL_FC, fused=False)),
    "normalized": made(NORMALIZED),
    "mlp": made(MLP),
}
KEEP_RULES = {"normalized"}
NONE_RULES = {"small_fc", "small_fc, plain", "mlp"}
