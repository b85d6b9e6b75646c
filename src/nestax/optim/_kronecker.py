"""The Kronecker-factored preconditioner: inverse roots of averages of G G' and G'G.

Source: Gupta et al., "Shampoo" (2018); steps' sizes are grafted as in Agarwal et al. (2020).

Two choices keep it exact. *Scale*: factors are stored over the average square of the gradient's
size, so that they are of the order of one whatever the loss is measured in. *Rounding*: an average
of G G' in precision u knows eigenvalues up to u times the largest. What is added to them, relative
to the largest, is therefore at least sqrt(u), 3.5e-4 in float32 and 1.5e-8 in float64: then roots
are right to about sqrt(u) / 10, in float32 to 1e-5 or 2e-5. With 1e-6 rounding was a percent of a
step.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from ._axes import Axes, Layout, Matrices, matrices
from ._descent import over_rms, root_mean_square
from ._moments import fairly, rooted
from ._precision import as_before

# Tensor cores would round factors to ten bits.
_product = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class KroneckerState(NamedTuple):
    """State of the Kronecker-factored preconditioner of `preconditioned_momentum`.

    For each tensor a pair of matrices, None for a side without a factor; with leading axes if the
    tensor consists of several matrices.

    Attributes:
        count: updates so far, int32.
        factors: averages of G G' and of G'G, divided by the square of `sizes`.
        roots: inverse roots of the factors.
        sizes: roots of the average of each tensor's mean square.
    """

    count: Array
    factors: PyTree
    roots: PyTree
    sizes: PyTree


def scale_by_kronecker(
    name: str,
    decay: Any,
    eps: Any,
    period: int,
    largest: int,
    axes: Axes,
    layout: Layout,
) -> optax.GradientTransformation:
    """G -> L^(-1/4) G R^(-1/4) at the size of G over its running size; see the callers' docstring.

    Args:
        name: the optimizer, for errors.
        decay: of the averages.
        eps: added to eigenvalues, relative to the largest.
        period: updates between roots.
        largest: rows or columns up to which a side has a factor.
        axes: which axes are matrices, see `matrices`.
        layout: of the others.
    """

    def sides(view: Matrices, a: Any) -> tuple[bool, bool]:
        rows, columns = jax.eval_shape(view.of, a).shape[-2:]
        return 1 < rows <= largest, 1 < columns <= largest

    def products(m: Array, left: bool, right: bool) -> tuple[Array | None, Array | None]:
        return (
            _product(m, m.conj().T) if left else None,
            _product(m.conj().T, m) if right else None,
        )

    def root(factor: Array, order: int) -> Array:
        resolution = float(jnp.finfo(factor.dtype).eps) ** 0.5
        return inverse_root(
            factor, jnp.maximum(jnp.asarray(eps, factor.real.dtype), resolution), order
        )

    def roots_of(pair: Any) -> Any:
        order = sum(side is not None for side in pair)
        return tuple(None if side is None else root(side, order) for side in pair)

    def init(params: PyTree) -> KroneckerState:
        views = matrices(name, axes, layout, params)
        factors, eyes, sizes = [], [], []
        leaves, structure = jax.tree.flatten(params)
        for view, p in zip(structure.flatten_up_to(views), leaves, strict=True):
            m = view.of(p)
            pair = [
                jnp.zeros((*m.shape[:-2], n, n), m.dtype) if has else None
                for n, has in zip(m.shape[-2:], sides(view, p), strict=True)
            ]
            factors.append(tuple(pair))
            eyes.append(jax.tree.map(_eye_like, tuple(pair)))
            sizes.append(jnp.zeros(m.shape[:-2], m.real.dtype))
        count = jnp.zeros((), jnp.int32)
        return KroneckerState(count, *map(structure.unflatten, (factors, eyes, sizes)))

    def gathered(m: Array, pair: Any, size: Array) -> tuple[Any, Array, Array]:
        """The factors with one more gradient, its size, and the average of sizes."""
        rms = root_mean_square(m)
        new_size = as_before(rooted(decay, size, 1 - decay, rms), size)
        u = over_rms(m, new_size)
        kept = decay * jnp.square(over_rms(size, new_size))
        squares = products(u, *(side is not None for side in pair))
        pair = jax.tree.map(lambda f, s: as_before(kept * f + (1 - decay) * s, f), pair, squares)
        return pair, rms, new_size

    def preconditioned(m: Array, pair: Any, rms: Array, size: Array) -> Array:
        left, right = pair
        u = over_rms(m, rms)
        u = u if left is None else _product(left, u)
        u = u if right is None else _product(u, right)
        return over_rms(rms, size) * over_rms(u, root_mean_square(u))

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, KroneckerState]:
        del params
        leaves, structure = jax.tree.flatten(updates)
        views = structure.flatten_up_to(matrices(name, axes, layout, updates))
        tensors = [view.of(g) for view, g in zip(views, leaves, strict=True)]
        factors, rms, sizes = [], [], []
        old = zip(
            views,
            tensors,
            structure.flatten_up_to(state.factors),
            structure.flatten_up_to(state.sizes),
            strict=True,
        )
        for view, m, pair, size in old:
            pair, own, size = view.each(gathered)(m, pair, size)
            factors.append(pair)
            rms.append(own)
            sizes.append(size)
        count = state.count + 1
        roots = jax.lax.cond(
            state.count % period == 0,
            # Whether averages are corrected for their start is no matter to directions.
            lambda pairs: [v.each(roots_of)(p) for v, p in zip(views, pairs, strict=True)],
            lambda _: structure.flatten_up_to(state.roots),
            factors,
        )
        said = []
        for view, g, m, pair, own, size in zip(
            views, leaves, tensors, roots, rms, sizes, strict=True
        ):
            fair = as_before(fairly(size, decay, count), size)
            said.append(view.back(view.each(preconditioned)(m, pair, own, fair), g))
        state = KroneckerState(count, *map(structure.unflatten, (factors, roots, sizes)))
        return structure.unflatten(said), state

    return optax.GradientTransformation(init, update)


def _eye_like(factor: Array) -> Array:
    return jnp.broadcast_to(jnp.eye(factor.shape[-1], dtype=factor.dtype), factor.shape)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def inverse_root(factor: Array, eps: Any, order: int) -> Array:
    """(factor + eps largest eigenvalue)^(-1/2 / order), order 1 or 2; the identity for zero."""
    vectors, safe, *_ = _eigen(factor, eps)
    return _product(vectors * (safe ** (-0.5 / order))[None, :], vectors.conj().T)


def _eigen(factor: Array, eps: Any) -> tuple[Array, Array, Array, Array]:
    """Eigenvectors, eigenvalues with the floor, 1 where that is 0, which are not, the largest."""
    values, vectors = jnp.linalg.eigh(factor)
    values = jnp.maximum(values, 0)
    largest = jnp.max(values)
    positive = values + eps * largest > 0
    return vectors, jnp.where(positive, values + eps * largest, 1), positive, largest


@inverse_root.defjvp
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
    inside = _product(_product(vectors.conj().T, moved), vectors)
    floor = moved_eps * largest + eps * inside[-1, -1]  # the largest eigenvalue is the last
    inside = inside + floor * jnp.eye(len(safe), dtype=inside.dtype)
    slopes = jnp.where(positive[:, None] & positive[None, :], slopes, 0)
    pushed = _product(_product(vectors, slopes * inside), vectors.conj().T)
    return inverse_root(factor, eps, order), pushed.astype(factor.dtype)
