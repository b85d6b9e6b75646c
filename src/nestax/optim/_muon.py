"""Muon: momentum read through Newton-Schulz, for every matrix; Adam for what is no matrix.

Source: Jordan et al. (2024). Optax has it as `optax.contrib.muon`, whose directions these are up to
its eps; here neither norms nor second moments overflow, and matrices are found by `axes`.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from ._axes import Axes, Layout, Matrices, check_axes, check_layout, matrices
from ._checks import Rate, Scalar, number, rate, static
from ._decay import Mask, decayed
from ._matrices import check_newton_schulz, newton_schulz
from ._moments import fairly, rooted
from ._precision import as_before, guarded

ADAM = (0.9, 0.999, 1e-8)  # decays of its two averages, and eps


class MuonState(NamedTuple):
    """State of `muon`: one buffer for each matrix, two for each vector or scalar.

    Attributes:
        count: updates so far, int32.
        mu: averages of gradients, shaped like the parameters.
        root: root of Adam's average of squares; None for matrices.
    """

    count: Array
    mu: PyTree
    root: PyTree


def muon(
    learning_rate: Rate,
    decay: Scalar = 0.95,
    *,
    steps: int = 5,
    nesterov: bool = True,
    weight_decay: Scalar = 0.0,
    mask: Mask | None = None,
    adam_learning_rate: Rate | None = None,
    axes: Axes = None,
    layout: Layout = "out_in",
) -> optax.GradientTransformationExtraArgs:
    """Momentum read through Newton-Schulz for matrices, Adam for the rest (`optax.contrib.muon`).

    The steps of a matrix have a spectral norm of about `learning_rate sqrt(max(1, out / in))`,
    whatever the scale of the loss. Adam's eps is 1e-8. As a memory this is
    `associative_momentum(objective="dot", readout=newton_schulz)`, which gives matrices the same
    direction as `nesterov=False`.

    Args:
        learning_rate: float or schedule, for matrices and for Adam.
        decay: of the momentum, in [0, 1).
        steps: of the quintic Newton-Schulz iteration, a static number.
        nesterov: whether the present gradient is added once more before the read; Adam then is
            NAdam, as in optax.
        weight_decay: decoupled: `learning_rate * weight_decay * W` is subtracted as well.
        mask: which parameters decay, a tree of bools or a function of the parameters; None: the
            matrices.
        adam_learning_rate: float or schedule for vectors and scalars; None: `learning_rate`.
        axes: for tensors of three or more axes, which of them form the matrix; without it such a
            tensor is an error. `"kernel"`: the tensor is one matrix whose further axes are inputs,
            as in a convolution. `"stacked"`: the first axis counts layers, so that
            (layers, out, in) is `layers` matrices and (layers, n) are biases. Or
            `optax.contrib.MuonDimensionNumbers(reduction_axis, output_axis)`; axes that it does not
            name count matrices. To give each tensor its own: a pytree of these, a prefix of the
            parameters, or a function from the parameters (at `update` from the gradients) to such a
            pytree; in it `"kernel"` also stands for an ordinary matrix, and None for Adam.
        layout: `"out_in"` for W x (equinox), `"in_out"` for x W (flax and optax), for tensors
            without dimension numbers.

    Returns:
        An optax transformation; its state contains a `MuonState`, float32 at least.

    Raises:
        ValueError: an argument outside the ranges above; at init, parameters that are not
            floating-point numbers, or whose axes are not known.
        TypeError: an array for `steps`.

    Source: Jordan et al., "Muon" (2024). As a memory: Nested Learning (2025), eq. (52).

    Example:
        ```python
        optimizer = nx.optim.muon(0.1)
        weights = {"matrix": jnp.eye(2), "bias": jnp.zeros(2)}
        gradients = {"matrix": 1000 * jnp.eye(2), "bias": jnp.ones(2)}
        state = optimizer.init(weights)
        updates, state = optimizer.update(gradients, state, weights)
        print(jnp.linalg.norm(updates["matrix"], 2).round(1))  # 0.1
        ```
    """
    static("muon", steps=steps, nesterov=nesterov)
    decay = number("muon", "decay", decay, 0, 1, below=True)
    check_newton_schulz("muon", steps, "quintic")
    check_axes("muon", axes)
    check_layout("muon", layout)

    def views(tree: PyTree) -> PyTree:
        return matrices("muon", axes, layout, tree)

    def is_matrix(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda view: not view.vector, views(tree))

    def init(params: PyTree) -> MuonState:
        roots = jax.tree.map(
            lambda p, view: jnp.zeros_like(p.real) if view.vector else None, params, views(params)
        )
        return MuonState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params), roots)

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, MuonState]:
        del params
        count = jnp.asarray(optax.safe_increment(state.count))
        leaves, structure = jax.tree.flatten(updates)
        said, averages, roots = [], [], []
        for g, mu, root, view in zip(
            leaves,
            structure.flatten_up_to(state.mu),
            structure.flatten_up_to(state.root),
            structure.flatten_up_to(views(updates)),
            strict=True,
        ):
            b1, b2, eps = ADAM
            beta = b1 if view.vector else decay
            mu = as_before(beta * mu + (1 - beta) * g, mu)
            seen = as_before(_looked_ahead(mu, g, beta, count, nesterov), mu)
            if view.vector:
                root = rooted(b2, root, 1 - b2, g)
                said.append(seen / (fairly(root, b2, count) + eps))
            else:
                said.append(_orthogonal(seen, view, steps))
            averages.append(mu)
            roots.append(root)
        state = MuonState(count, structure.unflatten(averages), structure.unflatten(roots))
        return structure.unflatten(said), state

    parts = [
        optax.GradientTransformation(init, update),
        *decayed("muon", weight_decay, is_matrix if mask is None else mask),
    ]
    step = optax.scale_by_learning_rate(rate("muon", learning_rate))
    if adam_learning_rate is not None:
        other = rate("muon", adam_learning_rate, "adam_learning_rate")
        step = optax.partition({True: step, False: optax.scale_by_learning_rate(other)}, is_matrix)
    return guarded("muon", optax.chain(*parts, step), complex_numbers=True)


def _looked_ahead(mu: Array, g: Array, decay: Any, count: Array, nesterov: bool) -> Array:
    """The average of gradients, corrected for its start; with Nesterov's as if g came once more."""

    def times(share: Any, updates: Array, a: Array) -> Array:
        # The factor first: a gradient over 1 - decay may overflow where their product does not.
        return (share / (1 - decay**updates)).astype(a.real.dtype) * a

    if not nesterov:
        return times(1.0, count, mu)
    ahead = jnp.asarray(optax.safe_increment(count))
    return times(decay, ahead, mu) + times(1 - decay, count, g)


def _orthogonal(mu: Array, view: Matrices, steps: int) -> Array:
    m = view.of(mu)
    rows, columns = m.shape[-2:]
    found = view.each(lambda m: newton_schulz(m, steps))(m)
    return view.back(math.sqrt(max(1, rows / max(columns, 1))) * found, mu)
