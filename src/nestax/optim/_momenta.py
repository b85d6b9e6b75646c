"""Momentum with a preconditioner, with erasure, read through Newton-Schulz: named compositions.

Source: Behrouz et al., "Nested Learning" (2025), eq. (46-49) and (52); Kronecker-factored
preconditioners: Gupta et al., "Shampoo" (2018); Muon: Jordan et al. (2024).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from ._associative import Scalar, associative_momentum, check_range
from ._descent import over_rms, root_mean_square, square_root
from ._matrices import (
    Layout,
    as_matrix,
    check_layout,
    check_newton_schulz,
    check_static,
    from_matrix,
)
from ._precision import as_before, widened


def preconditioned_momentum(
    learning_rate: optax.ScalarOrSchedule,
    decay: Scalar = 0.9,
    preconditioner: str | Callable[[Array], Array] | optax.GradientTransformation = "diagonal",
    *,
    statistics_decay: Scalar = 0.99,
    eps: Scalar = 1e-6,
    period: int = 10,
    largest: int = 1024,
    layout: Layout = "out_in",
) -> optax.GradientTransformationExtraArgs:
    r"""Momentum of preconditioned gradients: m <- decay m - P G, W <- W + learning_rate m.

    The memory's step on <m, P G> + (1 - decay)/2 |m|^2: what is stored for a gradient is P's image
    of it. The preconditioner is a memory of the stream as well:

    * `"diagonal"`: P G = G / (sqrt(v) + eps), v the bias-corrected average of G^2 (RMSProp's).
    * `"kronecker"`: P G ~ L^(-1/4) G R^(-1/4), L and R the averages of G G' and G'G (Shampoo's);
      roots are taken anew every `period` updates. A side longer than `largest`, or of length 1, has
      no factor, and the other one the power -1/2. As old roots are large where a new gradient
      points for the first time, each tensor's step is given the size rms(G) / sqrt(v), v the
      average of rms(G)^2.
    * a function of the matrix (out, in), or an optax transformation of the tree.

    With the first two the size of steps does not depend on the scale of the loss. Derivatives
    through them are finite where a gradient has always been zero, but may be as large as 1 / eps
    there; `"kronecker"` has first derivatives only where eigenvalues of a factor are equal.

    Args:
        learning_rate: float or schedule. A constant gradient is amplified by 1 / (1 - decay).
        decay: of the momentum, in [0, 1].
        preconditioner: P, see above.
        statistics_decay: of the averages of squares, in [0, 1).
        eps: added to sqrt(v); for `"kronecker"` relative to the largest eigenvalue of L and R.
        period: updates between roots, at least 1.
        largest: rows or columns up to which a side has a factor.
        layout: `"out_in"` (W x) or `"in_out"` (x W).

    Raises:
        ValueError: an argument outside the ranges above.

    Source: Nested Learning (2025), eq. (46-47).
    """
    name = "preconditioned_momentum"
    check_range(name, "statistics_decay", statistics_decay, 0, 1)
    if isinstance(statistics_decay, (int, float)) and statistics_decay == 1:
        raise ValueError(f"{name}: a statistics_decay of 1 averages nothing; use less than 1")
    check_static(name, "period", period)
    check_static(name, "largest", largest)
    if period < 1 or largest < 1:
        raise ValueError(f"{name}: period and largest must be at least 1, got {period}, {largest}")
    check_layout(name, layout)
    if isinstance(preconditioner, str):
        if preconditioner == "diagonal":
            preconditioner = _by_diagonal(statistics_decay, eps)
        elif preconditioner == "kronecker":
            preconditioner = _by_kronecker(statistics_decay, eps, period, largest, layout)
        else:
            raise ValueError(
                f'{name}: preconditioner must be "diagonal", "kronecker", a function of a matrix '
                f"or an optax transformation, got {preconditioner!r}"
            )
    return associative_momentum(
        learning_rate, preconditioner=preconditioner, decay=decay, layout=layout
    )


class DiagonalState(NamedTuple):
    """Averages of squares."""

    count: Array
    nu: PyTree


def _by_diagonal(decay: Scalar, eps: Scalar) -> optax.GradientTransformation:
    """`optax.scale_by_rms` with bias correction, differentiable where a gradient is zero."""

    def init(params: PyTree) -> DiagonalState:
        return DiagonalState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, DiagonalState]:
        del params
        nu = optax.tree.update_moment_per_elem_norm(updates, state.nu, decay, 2)
        count = jnp.asarray(optax.safe_increment(state.count))
        fair = optax.tree.bias_correction(nu, decay, count)
        said = jax.tree.map(lambda v, g: 1 / (square_root(v) + eps) * g, fair, updates)
        return said, DiagonalState(count, nu)

    return optax.GradientTransformation(init, update)


class KroneckerState(NamedTuple):
    """For each tensor a pair of factors, None for a side without one, and their inverse roots."""

    count: Array
    factors: PyTree
    roots: PyTree
    sizes: PyTree  # averages of mean squares


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _inverse_root(factor: Array, eps: Scalar, order: int) -> Array:
    """(factor + eps largest eigenvalue)^(-1/2 / order), order 1 or 2; the identity for zero."""
    vectors, safe, *_ = _eigen(factor, eps)
    return (vectors * (safe ** (-0.5 / order))[None, :]) @ vectors.T


def _eigen(factor: Array, eps: Scalar) -> tuple[Array, Array, Array, Array]:
    """Eigenvectors, eigenvalues with the floor, 1 where that is 0, which are not, the largest."""
    values, vectors = jnp.linalg.eigh(factor)
    values = jnp.maximum(values, 0)
    largest = jnp.max(values)
    positive = values + eps * largest > 0
    return vectors, jnp.where(positive, values + eps * largest, 1), positive, largest


@_inverse_root.defjvp
def _push_inverse_root(order: int, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    """By divided differences of x^(-1/2 / order), which are finite where eigenvalues are equal; the
    derivatives of eigenvectors are not."""
    (factor, eps), (moved, moved_eps) = primals, tangents
    vectors, safe, positive, largest = _eigen(factor, eps)
    power = safe ** (0.5 / order)
    both, sums = power[:, None] * power[None, :], power[:, None] + power[None, :]
    slopes = -1 / (both * sums)
    if order == 2:  # of x^(-1/4): a^4 - b^4 = (a - b) (a + b) (a^2 + b^2)
        slopes = slopes / (jnp.square(power)[:, None] + jnp.square(power)[None, :])
    inside = vectors.T @ moved @ vectors
    floor = moved_eps * largest + eps * inside[-1, -1]  # the largest eigenvalue is the last
    inside = inside + floor * jnp.eye(len(safe), dtype=inside.dtype)
    slopes = jnp.where(positive[:, None] & positive[None, :], slopes, 0)
    pushed = vectors @ (slopes * inside) @ vectors.T
    return _inverse_root(factor, eps, order), pushed.astype(factor.dtype)


def _by_kronecker(
    decay: Scalar, eps: Scalar, period: int, largest: int, layout: Layout
) -> optax.GradientTransformation:
    def sides(a: Any) -> tuple[bool, bool]:
        rows, columns = jax.eval_shape(lambda a: as_matrix(a, layout), a).shape
        return 1 < rows <= largest, 1 < columns <= largest

    def squares(a: Array) -> tuple[Array | None, Array | None]:
        m, (left, right) = as_matrix(a, layout), sides(a)
        return m @ m.T if left else None, m.T @ m if right else None

    def root(factor: Array, order: int) -> Array:
        return _inverse_root(factor, eps, order)

    def rooted(pair: Any) -> Any:
        order = sum(side is not None for side in pair)
        return tuple(None if side is None else root(side, order) for side in pair)

    def init(params: PyTree) -> KroneckerState:
        leaves, treedef = jax.tree.flatten(params)
        factors = [jax.tree.map(jnp.zeros_like, squares(p)) for p in leaves]
        eyes = [jax.tree.map(lambda f: jnp.eye(len(f), dtype=f.dtype), pair) for pair in factors]
        count = jnp.zeros((), jnp.int32)
        sizes = [jnp.zeros((), p.dtype) for p in leaves]
        return KroneckerState(count, *map(treedef.unflatten, (factors, eyes, sizes)))

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, KroneckerState]:
        del params
        leaves, treedef = jax.tree.flatten(updates)
        old = treedef.flatten_up_to(state.factors)
        factors = [
            jax.tree.map(lambda f, s: as_before(decay * f + (1 - decay) * s, f), pair, squares(g))
            for pair, g in zip(old, leaves, strict=True)
        ]
        count = state.count + 1
        correction = 1 - decay**count

        def renewed(factors: Any) -> Any:
            fair = jax.tree.map(lambda f: as_before(f / correction, f), factors)
            return [rooted(pair) for pair in fair]

        roots = jax.lax.cond(
            state.count % period == 0,
            renewed,
            lambda _: treedef.flatten_up_to(state.roots),
            factors,
        )
        said, sizes = [], []
        before = treedef.flatten_up_to(state.sizes)
        for g, (left, right), size in zip(leaves, roots, before, strict=True):
            m = as_matrix(g, layout)
            m = m if left is None else left @ m
            m = m if right is None else m @ right
            rms = root_mean_square(g)
            size = as_before(decay * size + (1 - decay) * jnp.square(rms), size)
            scale = over_rms(rms, square_root(size / correction).astype(g.dtype))
            said.append(scale * from_matrix(over_rms(m, root_mean_square(m)), g, layout))
            sizes.append(size)
        state = KroneckerState(count, *map(treedef.unflatten, (factors, roots, sizes)))
        return treedef.unflatten(said), state

    return optax.GradientTransformation(init, update)


def delta_momentum(
    learning_rate: optax.ScalarOrSchedule,
    decay: Scalar = 0.9,
    inner_learning_rate: Scalar = 1.0,
    *,
    normalize: str = "spectral",
    preconditioner: Callable[[Array], Array] | optax.GradientTransformation | None = None,
    block: int | None = 64,
    layout: Layout = "out_in",
) -> optax.GradientTransformationExtraArgs:
    r"""Momentum that first erases what it would say for the gradient it is about to store.

        m <- m (decay I - eta K'K) - eta P G,    W <- W + learning_rate m

    with K = G / |G|_2 (`normalize="spectral"`) or K = G (`"none"`): the gradient step of size eta
    on |m K' + s P|^2 / 2 + (1 - decay) / (2 eta) |m|^2, where K = G / s. Rows of G are keys. What
    the memory holds in directions that no present gradient has stays; in theirs it is replaced, so
    that a constant gradient is amplified by eta / (1 - decay + eta) along its largest singular
    direction, and by up to eta / (1 - decay), momentum's factor, along much smaller ones.

    With `"spectral"` the step's eigenvalues lie in [decay - eta, decay], stable up to
    eta = 1 + decay, and steps scale with the loss as momentum's do. With `"none"`, the published
    form but for its errors, eta |G|_2^2 must not exceed 1 + decay: larger gradients blow the memory
    up within a few updates.

    Args:
        learning_rate: float or schedule.
        decay: alpha, 0 to 1.
        inner_learning_rate: eta, at least 0.
        normalize: `"spectral"` or `"none"`.
        preconditioner: P, a function of the matrix (out, in) or an optax transformation.
        block: where both sides of a tensor are longer, every so many rows are a memory of their
            own, as are heads; None: one memory for each tensor. A static number. With
            n = min(out, in, block) a step costs 6 n operations per weight, up to 14 n for square
            memories; 4 n with `"none"`.
        layout: `"out_in"` (W x) or `"in_out"` (x W).

    Raises:
        ValueError: an argument outside the ranges above.

    Source: Nested Learning (2025), eq. (48-49). Corrected: eta stands on the Gram term, the target
    is -P, and the Gram matrix stands on the right of an (out, in) memory.
    """
    return associative_momentum(
        learning_rate,
        objective="l2",
        preconditioner=preconditioner,
        decay=decay,
        inner_learning_rate=inner_learning_rate,
        normalize=normalize,
        block=block,
        layout=layout,
    )


def muon(
    learning_rate: optax.ScalarOrSchedule,
    decay: float = 0.95,
    *,
    steps: int = 5,
    nesterov: bool = True,
    weight_decay: float = 0.0,
    layout: Layout = "out_in",
) -> optax.GradientTransformationExtraArgs:
    """Momentum read through Newton-Schulz for matrices, Adam for the rest (`optax.contrib.muon`).

    As a memory: `associative_momentum(objective="dot", readout=newton_schulz)`, which for matrices
    is the same direction without Nesterov's look ahead. Steps of matrices have the spectral norm
    about `learning_rate sqrt(max(1, out / in))`, whatever the scale of the loss.

    Args:
        learning_rate: float or schedule, for matrices and for Adam.
        decay: of the momentum, in [0, 1].
        steps: of the quintic Newton-Schulz iteration.
        nesterov: whether the present gradient is added once more before it is read.
        weight_decay: of matrices.
        layout: `"out_in"` (W x) or `"in_out"` (x W, optax's own convention).

    Raises:
        ValueError: an argument outside the ranges above.

    Source: Jordan et al. (2024); Nested Learning (2025), eq. (52).
    """
    check_range("muon", "decay", decay, 0, 1)
    check_newton_schulz("muon", steps, "quintic")
    check_layout("muon", layout)
    axes = (1, 0) if layout == "out_in" else (0, 1)
    numbers = optax.contrib.MuonDimensionNumbers(*axes)

    def dimensions(params: PyTree) -> PyTree:
        return jax.tree.map(lambda p: numbers if p.ndim == 2 else None, params)

    return widened(
        optax.contrib.muon(
            learning_rate,
            ns_steps=steps,
            beta=decay,
            nesterov=nesterov,
            weight_decay=weight_decay,
            muon_weight_dimension_numbers=dimensions,
        )
    )
