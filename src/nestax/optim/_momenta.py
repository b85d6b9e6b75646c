"""Momentum with a preconditioner, and with erasure: named compositions.

Source: Behrouz et al., "Nested Learning" (2025), eq. (46-49).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from ._associative import composed
from ._axes import Axes, Layout
from ._checks import Rate, Scalar, number, static, whole
from ._decay import Mask
from ._kronecker import scale_by_kronecker
from ._moments import fairly, rooted
from ._precision import as_before


def preconditioned_momentum(
    learning_rate: Rate,
    decay: Scalar = 0.9,
    preconditioner: str | Callable[[Array], Array] | optax.GradientTransformation = "diagonal",
    *,
    statistics_decay: Scalar = 0.99,
    eps: Scalar | None = None,
    period: int = 10,
    largest: int = 1024,
    weight_decay: Scalar = 0.0,
    mask: Mask | None = None,
    axes: Axes = None,
    layout: Layout = "out_in",
) -> optax.GradientTransformationExtraArgs:
    r"""Momentum of preconditioned gradients, `m <- decay m - P G`, `W <- W + learning_rate m`.

    As a memory, m makes a gradient step on `<m, P G> + (1 - decay)/2 |m|^2`: it stores the
    preconditioned gradient P G. The preconditioner is a memory of the stream as well:

    * `"diagonal"`: P G = G / (sqrt(v) + eps), v the bias-corrected average of G^2 (RMSProp's).
    * `"kronecker"`: P G ~ L^(-1/4) G R^(-1/4), L and R the averages of G G' and G'G (Shampoo's);
      the roots are computed again every `period` updates. A side longer than `largest`, or of
      length 1, has no factor; the factor of the remaining side then has the power -1/2. Each
      tensor's step is rescaled to the size rms(G) / sqrt(v), v the average of rms(G)^2, because old
      roots are too large for a gradient in a new direction.
    * a function of the matrix (out, in), or an optax transformation of the tree.

    Steps do not depend on the scale of the loss: with `"kronecker"` from 1e-30 to 1e30, with
    `"diagonal"` while gradients are large compared with eps. Derivatives through both are finite if
    a gradient has always been zero, but may be as large as 1 / eps there. If eigenvalues of a
    factor are equal, `"kronecker"` has first derivatives only.

    Args:
        learning_rate: float or schedule. A constant gradient is amplified by 1 / (1 - decay).
        decay: of the momentum, in [0, 1].
        preconditioner: P, see above.
        statistics_decay: of the averages of squares, in [0, 1).
        eps: `"diagonal"`: added to sqrt(v); None: 1e-6. `"kronecker"`: added to the eigenvalues of
            L and R, relative to the largest; None: 1e-3, and never less than the root of the
            dtype's precision (3.5e-4 in float32), below which eigenvalues are rounding errors.
        period: updates between two computations of the roots, at least 1.
        largest: rows or columns up to which a side has a factor.
        weight_decay: decoupled: `learning_rate * weight_decay * W` is subtracted as well.
        mask: which parameters decay, a tree of bools or a function of the parameters; None: all.
        axes: for tensors of three or more axes, which of them form the matrix, see `muon`; each
            matrix is preconditioned by itself. Not needed by `"diagonal"`.
        layout: `"out_in"` for W x (equinox), `"in_out"` for x W (flax).

    Returns:
        An optax transformation; its state contains an `AssociativeState`, float32 at least. Complex
        parameters are accepted with the first two preconditioners.

    Raises:
        ValueError: an argument outside the ranges above; at init, parameters that are not
            floating-point numbers, or whose axes are not known.
        TypeError: an array where a static number is expected.

    Source: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), eq. (46-47).
    Kronecker factors: Gupta et al., "Shampoo" (2018); rescaled steps: Agarwal et al. (2020).
    """
    name = "preconditioned_momentum"
    static(name, preconditioner=preconditioner, period=period, largest=largest)
    statistics_decay = number(name, "statistics_decay", statistics_decay, 0, 1, below=True)
    period, largest = whole(name, "period", period), whole(name, "largest", largest)
    named = isinstance(preconditioner, str)
    default = 1e-3 if named and preconditioner == "kronecker" else 1e-6
    added = number(name, "eps", default if eps is None else eps)
    if named and preconditioner == "diagonal":
        preconditioner = _by_diagonal(statistics_decay, added)
    elif named and preconditioner == "kronecker":
        preconditioner = scale_by_kronecker(
            name, statistics_decay, added, period, largest, axes, layout
        )
    elif not callable(preconditioner) and not isinstance(
        preconditioner, optax.GradientTransformation
    ):
        raise ValueError(
            f'{name}: preconditioner must be "diagonal", "kronecker", a function of a matrix '
            f"or an optax transformation, got {preconditioner!r:.60}"
        )
    return composed(
        name,
        learning_rate,
        preconditioner=preconditioner,
        decay=decay,
        weight_decay=weight_decay,
        mask=mask,
        axes=axes,
        layout=layout,
        complex_preconditioner=named,
    )


class DiagonalState(NamedTuple):
    """Roots of averages of squares."""

    count: Array
    root: PyTree


def _by_diagonal(decay: Scalar, eps: Scalar) -> optax.GradientTransformation:
    """`optax.scale_by_rms` with bias correction, differentiable where a gradient is zero, and with
    averages whose squares need not be representable."""

    def init(params: PyTree) -> DiagonalState:
        root = jax.tree.map(lambda p: jnp.zeros_like(p.real), params)
        return DiagonalState(jnp.zeros((), jnp.int32), root)

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, DiagonalState]:
        del params
        root = jax.tree.map(
            lambda r, g: as_before(rooted(decay, r, 1 - decay, g), r), state.root, updates
        )
        count = jnp.asarray(optax.safe_increment(state.count))
        said = jax.tree.map(lambda r, g: 1 / (fairly(r, decay, count) + eps) * g, root, updates)
        return said, DiagonalState(count, root)

    return optax.GradientTransformation(init, update)


def delta_momentum(
    learning_rate: Rate,
    decay: Scalar = 0.9,
    inner_learning_rate: Scalar = 1.0,
    *,
    normalize: str = "spectral",
    preconditioner: Callable[[Array], Array] | optax.GradientTransformation | None = None,
    block: int | None = 64,
    weight_decay: Scalar = 0.0,
    mask: Mask | None = None,
    axes: Axes = None,
    layout: Layout = "out_in",
) -> optax.GradientTransformationExtraArgs:
    r"""Momentum by the delta rule: it first erases its old output for the gradient that it stores.

        m <- m (decay I - eta K'K) - eta P G,    W <- W + learning_rate m

    with K = G / |G|_2 (`normalize="spectral"`) or K = G (`"none"`). This is the gradient step of
    size eta on `|m K' + s P|^2 / 2 + (1 - decay) / (2 eta) |m|^2`, where K = G / s. The rows of G
    are keys. The memory is replaced in the directions of the present gradient and kept in all
    others. A constant gradient is amplified by eta / (1 - decay + eta) along its largest singular
    direction, and by up to eta / (1 - decay), momentum's factor, along much smaller ones.

    With `"spectral"` the step's eigenvalues lie in [decay - eta, decay], so that it is stable up to
    eta = 1 + decay, and steps scale with the loss as momentum's do. `"none"` is the published form
    with its errors corrected: `eta |G|_2^2` must not exceed 1 + decay, or the memory diverges
    within a few updates.

    Args:
        learning_rate: float or schedule.
        decay: alpha, 0 to 1.
        inner_learning_rate: eta, at least 0.
        normalize: `"spectral"` or `"none"`.
        preconditioner: P, a function of the matrix (out, in) or an optax transformation.
        block: a tensor with both sides longer than this is split into blocks of this many rows,
            and each block has a memory; None: one memory for each tensor. A static number. With
            n = min(out, in, block) a step costs 6 n operations per weight, up to 14 n for square
            memories; 4 n with `"none"`.
        weight_decay: decoupled: `learning_rate * weight_decay * W` is subtracted as well.
        mask: which parameters decay, a tree of bools or a function of the parameters; None: all.
        axes: for tensors of three or more axes, which of them form the matrix, see `muon`.
        layout: `"out_in"` for W x (equinox), `"in_out"` for x W (flax).

    Returns:
        An optax transformation; its state contains an `AssociativeState`, float32 at least. Complex
        parameters are accepted without a preconditioner; K' is the conjugate transpose.

    Raises:
        ValueError: an argument outside the ranges above; at init, parameters that are not
            floating-point numbers, or whose axes are not known.
        TypeError: an array where a static number is expected.

    Source: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), eq. (48-49).
    Corrected: eta multiplies the Gram term too, the target is -P, and the Gram matrix stands on the
    right of an (out, in) memory.

    Example:
        A constant gradient is amplified by 1 / (1 - 0.5 + 1) = 2/3, not by momentum's 2:

        ```python
        optimizer = nx.optim.delta_momentum(1.0, decay=0.5)
        weights, gradient = jnp.zeros((2, 1)), jnp.array([[0.0], [3.0]])
        state = optimizer.init(weights)
        for _ in range(20):
            updates, state = optimizer.update(gradient, state, weights)
        print(updates[1].round(3))  # [-2.]
        ```
    """
    return composed(
        "delta_momentum",
        learning_rate,
        objective="l2",
        preconditioner=preconditioner,
        decay=decay,
        inner_learning_rate=inner_learning_rate,
        normalize=normalize,
        block=block,
        weight_decay=weight_decay,
        mask=mask,
        axes=axes,
        layout=layout,
    )
