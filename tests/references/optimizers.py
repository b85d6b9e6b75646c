"""The optimizers that keep the contract, with settings under which they descend in few steps."""

import cmath

import jax.numpy as jnp
import optax
from references.learned_memories_table import MEMORIES
from references.learned_recurrent_table import KEEP_RECURRENT, NONE_RECURRENT, RECURRENT
from references.learned_rules_table import KEEP_RULES, NONE_RULES, RULES

from nestax import optim
from nestax_studies.information_plane.arms import ARMS

OPTIMIZERS = {
    "gradient_descent": optim.gradient_descent,
    "momentum": optim.momentum,
    "sign_descent": optim.sign_descent,
    "ema_sign": optim.ema_sign,
    "normalized_descent": optim.normalized_descent,
    "deep_momentum": optim.deep_momentum,
    "deep_momentum, l2": lambda r: optim.deep_momentum(r, objective="l2"),
    "deep_momentum, gradient": lambda r: optim.deep_momentum(r, memory_input="gradient"),
    "deep_momentum, shared": lambda r: optim.deep_momentum(r, shared=True),
    "deep_momentum, update": lambda r: optim.deep_momentum(r, normalize="update"),
    "deep_momentum, two layers": lambda r: optim.deep_momentum(r, hidden=(6, 4)),
    "deep_momentum, rows": lambda r: optim.deep_momentum(r, memory="rows"),
    "deep_momentum, orthogonal": lambda r: optim.deep_momentum(r, output="orthogonal"),
    "deep_momentum, features": lambda r: optim.deep_momentum(
        r, features=lambda key: jnp.concatenate([key, jnp.sin(key)]), output="orthogonal"
    ),
    "deep_momentum, constant": lambda r: optim.deep_momentum(
        r, memory_input="constant", hidden=(), skip=False, inner_learning_rate=0.1
    ),
    "associative_momentum, muon": lambda r: optim.associative_momentum(
        r, readout=optim.newton_schulz
    ),
    "associative_momentum, features": lambda r: optim.associative_momentum(
        r, features=jnp.tanh, objective=lambda m, k, s: jnp.sum((m + s) ** 2) / 2
    ),
    "preconditioned_momentum": lambda r: optim.preconditioned_momentum(r, 0.5),
    "preconditioned_momentum, kronecker": lambda r: optim.preconditioned_momentum(
        r,
        0.5,
        "kronecker",
        eps=1e-3,  # in float32 the roots of a rank-deficient factor are noise
    ),
    "preconditioned_momentum, adam": lambda r: optim.preconditioned_momentum(
        r, 0.5, optax.scale_by_adam()
    ),
    "delta_momentum": optim.delta_momentum,
    "delta_momentum, blocks": lambda r: optim.delta_momentum(r, block=2),
    "muon": optim.muon,
    "m3": lambda r: optim.m3(r, period=5),
    "m3, literal": lambda r: optim.m3(
        r, period=5, fast=0.1, slow=0.1, literal=True, second=1.0, eps=1e-2
    ),
    "delta_gradient_descent": optim.delta_gradient_descent,
    "generalized": optim.generalized_gradient_descent,
    "generalized, window": lambda r: optim.generalized_gradient_descent(r, (1.0, 0.5, 0.25)),
    "generalized, repelled": lambda r: optim.generalized_gradient_descent(r, (1.0, -0.3)),
    "generalized, hypentropy": lambda r: optim.generalized_gradient_descent(
        r, (1.0, 0.2), "hypentropy"
    ),
    "complex_momentum": lambda r: optim.complex_momentum(r, 0.9 * cmath.exp(0.125j * cmath.pi)),
    "complex_momentum, pair": lambda r: optim.complex_momentum(r, (0.9, 0.4), phase=0.1),
    "complex_adam": lambda r: optim.complex_adam(r, 0.8 * cmath.exp(0.125j * cmath.pi)),
    "multi_timescale": lambda r: optim.multi_timescale(r, {"w": 2, "": 1}),
    **RECURRENT,
    **RULES,
    "published": lambda r: ARMS["published"].make(r, 0),
    "optax.adamw": optax.adamw,
    "optax.contrib.muon": optax.contrib.muon,
    **MEMORIES,
}
CONTROLS = ("published", "optax.adamw", "optax.contrib.muon")

# What a step becomes when the loss is multiplied by c: the same, c times as large, or else.
KEEP = {
    "sign_descent", "ema_sign", "normalized_descent", "associative_momentum, muon",
    "preconditioned_momentum", "preconditioned_momentum, kronecker",
    "preconditioned_momentum, adam", "muon", "m3", "optax.adamw", "optax.contrib.muon",
    "published",
    "deep_momentum, update",
    "complex_adam",
    *MEMORIES,
    *KEEP_RECURRENT,
    *KEEP_RULES,
}  # fmt: skip
NONE = {
    "associative_momentum, features",
    "generalized, hypentropy",
    "m3, literal",
    *NONE_RECURRENT,
    *NONE_RULES,
}
