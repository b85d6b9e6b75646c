"""The spectrum of a field: all eigenvalues of its Jacobian at a point, or the leading ones."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .arnoldi import ORDERS, arnoldi_iteration, draw, sorted_eigenvalues
from .checks import holds, is_finite, whole
from .decompose import eigenvalues
from .field import floating
from .products import check_point, jacobian, jacobian_products, like_values, plain


class Leading(NamedTuple):
    """The leading eigenvalues of a field's Jacobian, with what is known of their errors.

    Attributes:
        eigenvalues: shape (k,), complex, best first. Of a complex pair the one with positive
            imaginary part comes first. Approximations that have not converged are included.
        residuals: shape (k,): |J v - lambda v| / (|lambda| |v|) of the approximate eigenvector v.
            A matrix at this distance from J, relative to |lambda|, has exactly this eigenvalue. If
            J is far from normal, J's own eigenvalue may be farther away.
        products: how many products J v were computed.
        converged: shape (k,): whether the residual is at most the tolerance.
    """

    eigenvalues: jax.Array
    residuals: jax.Array
    products: jax.Array
    converged: jax.Array


def spectrum(
    field: Any,
    values: Any,
    leading: Any = None,
    *,
    which: Any = "magnitude",
    products: Any = 60,
    tolerance: Any = None,
    key: Any = None,
) -> jax.Array:
    """Eigenvalues of a field's Jacobian at a point.

    All of them from the dense matrix; or with `leading=k` the first k by Arnoldi's iteration, from
    products with vectors alone. An eigenvalue that has not converged is NaN, with a warning; see
    `leading_eigenvalues` for its approximation and residuals.

    The order: descending by `which`; equal ones by real part, then by imaginary part, both
    descending. So of a complex pair the one with positive imaginary part comes first. Eigenvalues
    that are equal up to rounding may come in any order.

    Example:
        ```python
        field = nx.games.joint_field((lambda x, y: x * y, lambda x, y: -x * y))
        print(nx.games.spectrum(field, (1.0, 2.0)).imag)  # [ 1. -1.]
        ```

    Args:
        field: values -> pytree like values: `joint_field(losses)`, an adjusted field, or a map.
        values: the point, a pytree of finite numbers.
        leading: how many eigenvalues, at most n; None: all n.
        which: what is leading: "magnitude" (the largest modulus), "largest real", "smallest real"
            (where descent along the field leaves the point fastest), "imaginary" (the largest
            modulus of the imaginary part: the fastest rotation).
        products: as `leading_eigenvalues`.
        tolerance: as `leading_eigenvalues`.
        key: as `leading_eigenvalues`.

    Returns:
        Complex, of 64 bits at least, shape (n,) or (leading,). Under `jit` too; then without a
        warning.

    Raises:
        ValueError: as `jacobian` and `leading_eigenvalues`; an unknown `which`.

    Source: Balduzzi et al., "The Mechanics of n-Player Differentiable Games" (2018), Section 2.
    """
    _check_which(which, "spectrum")
    if leading is None:
        found = eigenvalues(jacobian(field, values))
        return found[sorted_eigenvalues(found, which)]
    found = leading_eigenvalues(
        field, values, leading, which=which, products=products, tolerance=tolerance, key=key
    )
    if not holds(found.converged.all, found.converged):
        worst = [f"{r:.1e}" for r in found.residuals.tolist()]
        warnings.warn(
            f"spectrum: {int((~found.converged).sum())} of {leading} leading eigenvalues have not "
            f"converged in {int(found.products)} products and are NaN (relative residuals: "
            f"{', '.join(worst)}); allow more products=, or a larger tolerance=. "
            "Small residuals: the matrix is far from normal, and rounding moves its eigenvalues; "
            "use float64, or compute all. leading_eigenvalues returns the approximations",
            stacklevel=2,
        )
    return jnp.where(found.converged, found.eigenvalues, jnp.nan)


def leading_eigenvalues(
    field: Any,
    values: Any,
    leading: Any = 1,
    *,
    which: Any = "magnitude",
    products: Any = 60,
    tolerance: Any = None,
    key: Any = None,
    start: Any = None,
) -> Leading:
    """The leading eigenvalues of a field's Jacobian by Arnoldi's iteration, without the matrix.

    One compiled program; every fifth product the residuals are checked, and the iteration ends
    where all wanted eigenvalues have converged. It keeps `products + 1` vectors like the values.
    Eigenvalues at the edge of the spectrum and far from the others converge first. Convergence does
    not prove that there is no better eigenvalue: its eigenvector may be absent from the start. In
    particular, if all k converge early, an eigenvalue that is repeated is counted once.

    An invariant subspace is continued with random directions, for at least 20 more products, so
    that eigenvalues outside of the subspace are found, copies included.

    Example:
        ```python
        field = nx.games.joint_field((lambda x, y: x @ y, lambda x, y: -x @ y))
        found = nx.games.leading_eigenvalues(field, (jnp.ones(500), jnp.ones(500)))
        print(found.converged, abs(found.eigenvalues - 1j) < 1e-3)  # [ True] [ True]
        ```

    Args:
        field: values -> pytree like values. Its arrays may be spread over devices.
        values: the point, a pytree of finite numbers.
        leading: k, how many eigenvalues; at most n, and at most `products`.
        which: as in `spectrum`.
        products: how many products J v to compute at most.
        tolerance: the largest relative residual that counts as converged. None: the root of the
            rounding error of the values' coarsest dtype, 3e-4 in float32 and 1.5e-8 in float64.
        key: a PRNG key for the start and for directions that continue an invariant subspace.
            None: `jax.random.key(0)`.
        start: the first direction, a pytree like the values. None: drawn.

    Returns:
        A `Leading`. Its fields are in float32 at least. Wrap the call in `jax.jit`, as a function
        of the values, to compile it once for many points.

    Raises:
        ValueError: as `jacobian`; a number of eigenvalues or products out of range; an unknown
            `which`; a start that is zero, not finite, or of another structure than the values.

    Source: Arnoldi, "The Principle of Minimized Iterations in the Solution of the Matrix Eigenvalue
    Problem" (1951).
    """
    name = "leading_eigenvalues"
    check_point(field, values, name)
    _check_which(which, name)
    moving, combine = floating(plain(values))
    leaves = jax.tree.leaves(moving)
    size = sum(jnp.size(leaf) for leaf in leaves)
    limit = min(whole(name, "products", products), size)
    leading = whole(name, "leading", leading, 1, size)
    if leading > limit:
        raise ValueError(
            f"{name}: {leading} eigenvalues take at least as many products; products={products}"
        )
    dtype = jnp.result_type(*leaves, jnp.float32)
    if tolerance is None:
        tolerance = max(float(jnp.finfo(leaf.dtype).eps) for leaf in leaves) ** 0.5
    elif not isinstance(tolerance, Tracer) and not 0 < float(tolerance) < 1:
        raise ValueError(f"{name}: tolerance is a number between 0 and 1, got {tolerance}")
    key = jax.random.key(0) if key is None else key
    first = None if start is None else _direction(name, start, moving)
    spread = any(_is_spread(leaf) for leaf in leaves)

    @jax.jit
    def program(moving: Any, first: Any, key: Any) -> Leading:
        forward, _ = jacobian_products(field, combine(moving))
        drawn, again = jax.random.split(key)
        like = [jnp.zeros(leaf.shape, dtype) for leaf in jax.tree.leaves(moving)]
        pack, unpack = (lambda v: v, lambda v: v) if spread else _as_one(like)
        begin = draw(drawn, like) if first is None else [a.astype(dtype) for a in first]
        product = lambda v: pack(forward(unpack(v)))  # noqa: E731
        return Leading(
            *arnoldi_iteration(product, pack(begin), again, leading, which, limit, tolerance)
        )

    found = program(moving, first, key)
    if not is_finite(found.eigenvalues):
        raise ValueError(
            f"{name}: a product with the Jacobian is not finite at these values; look for "
            "divisions by zero, roots and logarithms of zero, and iterates that have diverged"
        )
    return found


def _direction(name: str, start: Any, moving: Any) -> list[jax.Array]:
    """The leaves of a start that was given.

    Raises:
        ValueError: not like the values, zero, or not finite.
    """
    leaves = like_values(name, start, moving)
    if not all(is_finite(leaf) for leaf in leaves):
        raise ValueError(f"{name}: start is not finite")
    if not holds(lambda: any(jnp.any(leaf != 0) for leaf in leaves), *leaves):
        raise ValueError(f"{name}: start is zero; give a direction, or None to draw one")
    return leaves


def _is_spread(leaf: Any) -> bool:
    """Whether an array is cut into parts on several devices; of a traced one that is not known."""
    sharding = None if isinstance(leaf, Tracer) else getattr(leaf, "sharding", None)
    return sharding is not None and not sharding.is_fully_replicated


def _as_one(like: list[jax.Array]) -> tuple[Callable, Callable]:
    """Leaves as one array, and back: much faster to compile than an operation for each leaf."""
    dtype, cuts = like[0].dtype, np.cumsum([leaf.size for leaf in like])[:-1].tolist()

    def pack(leaves: list[jax.Array]) -> list[jax.Array]:
        return [jnp.concatenate([leaf.ravel().astype(dtype) for leaf in leaves])]

    def unpack(one: list[jax.Array]) -> list[jax.Array]:
        parts = jnp.split(one[0], cuts)
        return [part.reshape(leaf.shape) for part, leaf in zip(parts, like, strict=True)]

    return pack, unpack


def _check_which(which: Any, name: str) -> None:
    if which not in ORDERS:
        raise ValueError(f"{name}: which is one of {', '.join(map(repr, ORDERS))}; got {which!r}")
