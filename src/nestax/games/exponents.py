"""Finite-time Lyapunov exponents of optimization maps."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from ..flows.internal import has_reverse_only_rule, hoist
from .flat import flat
from .singular import Factors, carried, grown, orthonormal, right_singular_vectors

SMALL = 32  # up to this size all directions are carried along: it costs less than to converge

Map = Callable[[Any], Any]


def lyapunov_exponents(
    f: Map,
    x: Any,
    steps: int,
    k: int | None = None,
    *,
    method: str = "qr",
    sweeps: int = 100,
) -> jax.Array:
    """True finite-time Lyapunov exponents of a map: the growth of small differences per step.

    With J_t the Jacobian of `f` at the point after t steps and sigma_i the singular values of the
    product J_(steps-1) ... J_0, exponent i is `log(sigma_i) / steps`, a natural logarithm. A
    positive one says that runs which begin next to `x` part, at a factor of `exp(exponent)` a step.

    The product itself is never formed, so all exponents are right, whatever their scales. An
    exponent is -inf where the Jacobian of a step is singular to rounding. It is NaN where the run
    from x becomes infinite or NaN, and where the power iteration has not converged (k below n, n
    above 32): raise `sweeps` or k.

    The first derivative with respect to x, and to all that f closes over, is exact, in forward and
    in reverse mode; an exponent of -inf has the derivative 0. Among equal exponents only the sum
    has a derivative, which is right. A second derivative is refused; `method="product"` has it.

    Maps through `nx.Implicit` are taken in reverse mode. Under `jax.vmap` over x and under
    `jax.jit` all is one program; without `jax.jit` each call compiles it anew.

    Example:
        ```python
        field = nx.games.joint_field((lambda x, y: x * y, lambda x, y: -x * y))
        step = nx.games.descent(field, 1.0)  # grows by a factor of sqrt(2) a step
        exponents = nx.games.lyapunov_exponents(step, (1.0, 2.0), steps=5)
        print(bool(jnp.allclose(exponents, jnp.log(2.0) / 2)))  # True
        ```

    Args:
        f: a pure function from a pytree to one of the same structure and shapes, such as that of
            `Nest.map` or of `descent`.
        x: where the run begins. Floating-point and complex leaves move; a complex number counts as
            two real ones. Other leaves are constants.
        steps: number of steps, at least 1.
        k: how many exponents; None: all n, as many as x has numbers. For n above 32 and k below n/2
            no n x n matrix is formed. Otherwise memory is steps x n x n numbers.
        method: "qr", or "product": the plain product and its singular values, for comparison. There
            exponents are NaN that the product does not resolve.
        sweeps: the largest number of passes of power iteration, each forward and back over the run.

    Returns:
        Shape (k,), largest first, per step.

    Raises:
        ValueError: f changes structure, shape or dtype; x is not finite, or has nothing that moves;
            steps, k, method or sweeps out of range.
        TypeError: a second derivative of the method "qr".

    Source: Lorraine et al., "Lyapunov Exponents for Diversity in Differentiable Games" (2022),
        section 3; Dieci and Van Vleck (1995) for QR.
    """
    name = "lyapunov_exponents"
    function, point = vector_map(f, x, name)
    n = point.size
    whole(steps, name, "steps", 1)
    whole(sweeps, name, "sweeps", 2)
    if k is not None and (whole(k, name, "k", 1) > n):
        raise ValueError(f"{name}: k is at most the {n} numbers that move in x, got {k}")
    if method not in ("qr", "product"):
        raise ValueError(f"{name}: method is 'qr' or 'product', got {method!r:.60}")
    pure, constants, jaxpr = hoist(function, point)
    reverse_only = has_reverse_only_rule(jaxpr)
    count = n if k is None else int(k)

    def program(constants: Any, point: jax.Array) -> jax.Array:
        if method == "product":
            return _of_product(Jacobians(pure, constants, reverse_only), point, steps)[:count]
        return _of_block(pure, constants, reverse_only, point, steps, count, sweeps)

    return jax.jit(program)(constants, point)


def vector_map(f: Map, x: Any, name: str) -> tuple[Callable[[jax.Array], jax.Array], jax.Array]:
    """A map as a function of one real vector, and the vector of x.

    Raises:
        ValueError: f changes structure, shape or dtype; x is not finite, has nothing that moves, or
            has too low a precision.
    """
    if not callable(f):
        raise ValueError(f"{name}: f is a function from a pytree to one like it, got {f!r:.60}")
    parts, join = _real_parts(x)
    found = flat(lambda real: _real_parts(f(join(real)))[0], parts, f"{name}: f")
    point = found.point
    if point.size == 0:
        raise ValueError(f"{name}: x has no floating-point array that moves, got {x!r:.60}")
    if point.dtype.itemsize < 4:
        raise ValueError(f"{name}: x is {point.dtype}; give float32 or float64")
    if not isinstance(point, Tracer) and not np.all(np.isfinite(point)):
        raise ValueError(f"{name}: x has an infinite or NaN number; give a finite point")
    return found.function, point


class Jacobians:
    """The Jacobian of a step, applied to blocks of columns."""

    def __init__(self, pure: Callable, constants: Any, reverse_only: bool):
        self.step = lambda x: pure(constants, x)
        self.reverse_only = reverse_only

    def push(self, x: jax.Array, block: jax.Array) -> jax.Array:
        """J at x times a block of shape (n, p)."""
        if not self.reverse_only:
            return jax.vmap(lambda v: jax.jvp(self.step, (x,), (v,))[1], 1, 1)(block)
        # u -> J' u is linear: pulling back once more gives J.
        _, pull = jax.vjp(lambda u: jax.vjp(self.step, x)[1](u)[0], jnp.zeros_like(x))
        return jax.vmap(lambda v: pull(v)[0], 1, 1)(block)

    def pull(self, x: jax.Array, block: jax.Array) -> jax.Array:
        """The transpose of J at x times a block of shape (n, p)."""
        _, pull = jax.vjp(self.step, x)
        return jax.vmap(lambda u: pull(u)[0], 1, 1)(block)

    def jacobian(self, x: jax.Array) -> jax.Array:
        """J at x, dense."""
        eye = jnp.eye(x.size, dtype=x.dtype)
        return self.pull(x, eye).T if self.reverse_only else self.push(x, eye)

    def along(self, x: jax.Array, steps: int, look: Callable) -> Any:
        """What `look` finds at each of the points from which a step is made, stacked."""
        return lax.scan(lambda x, _: (self.step(x), look(x)), x, length=steps)[1]


def _of_block(
    pure: Callable,
    constants: Any,
    reverse_only: bool,
    point: jax.Array,
    steps: int,
    k: int,
    sweeps: int,
) -> jax.Array:
    """Exponents by a block of directions; first derivatives are exact.

    The logarithms of the diagonals are largest where the block is that of the singular vectors, so
    their derivatives are right with the block held.
    """
    still = lax.stop_gradient((constants, point))
    block, alive, trusted = _directions(
        Jacobians(pure, still[0], reverse_only), still[1], steps, k, sweeps
    )

    def growth(constants: Any, point: jax.Array, block: Any, alive: Any) -> jax.Array:
        one = Jacobians(pure, constants, reverse_only)

        @jax.checkpoint
        def step(carry: Any, alive: jax.Array) -> Any:
            x, block, logarithms = carry
            columns = one.push(x, block)
            block, triangle, scale, _ = orthonormal(columns, alive=alive)
            return (one.step(x), block, logarithms + grown(triangle, scale, alive)), None

        start = (point, block, jnp.zeros(k, point.dtype))
        return lax.scan(step, start, alive)[0][2] / steps

    growth_once = jax.custom_jvp(growth)

    @growth_once.defjvp
    def derivative(primals: Any, tangents: Any) -> Any:
        constants, point, block, alive = primals
        held = _first_order(block, (constants, point))
        return jax.jvp(lambda c, x: growth(c, x, held, alive), (constants, point), tangents[:2])

    found = growth_once(constants, point, block, alive)
    found = jnp.where(trusted, found, jnp.nan)
    return found[jnp.argsort(-lax.stop_gradient(found))]


def _directions(
    one: Jacobians, point: jax.Array, steps: int, k: int, sweeps: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The leading right singular vectors, where their images are alive, which have converged."""
    n, eps = point.size, jnp.finfo(point.dtype).eps
    wide = 2 * k + 2
    if n <= max(SMALL, wide):
        start = jnp.eye(n, dtype=point.dtype)
        data = one.along(point, steps, one.jacobian)

        def forward(jacobian: Any, block: jax.Array) -> Any:
            noise = (n + 2) * eps * jnp.max(jnp.abs(jacobian) @ jnp.abs(block), axis=0)
            return jacobian @ block, noise

        factors = Factors(data, forward, lambda jacobian, block: forward(jacobian.T, block))
    else:
        drawn = jax.random.normal(jax.random.key(0), (n, wide), point.dtype)
        start = orthonormal(drawn)[0]

        def noisy(columns: jax.Array) -> Any:
            largest = jnp.max(jnp.abs(columns))
            size = jnp.linalg.norm(columns / jnp.where(largest == 0, 1, largest), axis=0)
            return columns, jnp.broadcast_to(10 * eps * largest * jnp.max(size), wide)

        factors = Factors(
            one.along(point, steps, lambda x: x),
            lambda x, block: noisy(one.push(x, block)),
            lambda x, block: noisy(one.pull(x, block)),
        )
    vectors, logarithms, residuals = right_singular_vectors(factors, start, k, sweeps)
    _, again, alive = carried(factors, vectors)
    # Two computations of each singular value, from the way back and from the way there.
    apart = jnp.where(again == logarithms, 0, jnp.abs(again - logarithms))
    limit = jnp.sqrt(eps)
    trusted = (residuals <= limit) & (apart <= limit * (1 + jnp.abs(logarithms)))
    trusted = jnp.cumprod(trusted[:k]).astype(bool)
    return vectors[:, :k], alive[:, :k], trusted


def _of_product(one: Jacobians, point: jax.Array, steps: int) -> jax.Array:
    """Exponents from the product of the Jacobians, NaN where it does not resolve them."""
    n, eps = point.size, jnp.finfo(point.dtype).eps

    def step(carry: Any, _: Any) -> Any:
        x, product, logarithm, bound = carry
        jacobian = one.jacobian(x)
        product = jacobian @ product
        scale = lax.stop_gradient(jnp.max(jnp.abs(product)))
        scale = jnp.where(scale == 0, 1, scale)
        # Rounding so far, relative to the scaled product.
        bound = (bound + n * eps) * lax.stop_gradient(jnp.linalg.norm(jacobian, 2)) / scale
        return (one.step(x), product / scale, logarithm + jnp.log(scale), bound), None

    zero = jnp.zeros((), point.dtype)
    start = (point, jnp.eye(n, dtype=point.dtype), zero, zero)
    (_, product, logarithm, bound), _ = lax.scan(step, start, length=steps)
    values = jnp.linalg.svd(product, compute_uv=False)
    resolved = values > bound / jnp.sqrt(eps)
    found = (jnp.log(jnp.where(resolved, values, 1)) + logarithm) / steps
    return jnp.where(resolved, found, jnp.nan)


@jax.custom_jvp
def _first_order(block: Any, depends_on: Any) -> Any:
    """The block, which must not be differentiated."""
    return block


@_first_order.defjvp
def _refuse(primals: Any, tangents: Any) -> Any:
    raise TypeError(
        "lyapunov_exponents: the derivative of an exponent cannot be differentiated again; use "
        'method="product", which can'
    )


def _real_parts(tree: Any) -> tuple[Any, Callable[[Any], Any]]:
    """A pytree with each complex leaf as a list of two real ones, and the way back."""
    if isinstance(tree, Mapping):  # `State.values` is a dict of its own
        tree = dict(tree)
    leaves, structure = jax.tree.flatten(tree)
    pairs = [isinstance(leaf, complex) or jnp.iscomplexobj(leaf) for leaf in leaves]
    split = [
        [jnp.real(leaf), jnp.imag(leaf)] if pair else leaf
        for leaf, pair in zip(leaves, pairs, strict=True)
    ]

    def join(real: Any) -> Any:
        parts = structure.flatten_up_to(real)
        return structure.unflatten(
            [lax.complex(*part) if pair else part for part, pair in zip(parts, pairs, strict=True)]
        )

    return structure.unflatten(split), join


def whole(value: Any, function: str, name: str, least: int) -> int:
    """A whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(
            f"{function}: {name} is a whole number of at least {least}, got {value!r:.60}"
        )
    return int(value)
