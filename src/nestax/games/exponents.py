"""Finite-time Lyapunov exponents of optimization maps."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .checks import whole
from .jacobians import Jacobians, Map, vector_map
from .singular import Factors, carried, grown, orthonormal, right_singular_vectors

SMALL = 32  # up to this size all directions are carried along: it costs less than to converge


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
            two real ones. Other leaves are constants, also where f changes them.
        steps: number of steps, at least 1.
        k: how many exponents; None: all n, as many as x has numbers. For n above 32 and k below n/2
            no n x n matrix is formed. Otherwise memory is steps x n x n numbers.
        method: "qr", or "product": the plain product and its singular values, for comparison. There
            exponents are NaN that the product does not resolve.
        sweeps: the largest number of passes of power iteration, each forward and back over the run.

    Returns:
        Shape (k,), largest first, per step.

    Raises:
        ValueError: f changes structure, shape or dtype, or a constant leaf that the next point
            depends on, such as a counter; x is not finite, or has nothing that moves; steps, k,
            method or sweeps out of range.
        TypeError: a second derivative of the method "qr".

    Source: Lorraine et al., "Lyapunov Exponents for Diversity in Differentiable Games" (2022),
        section 3; Dieci and Van Vleck (1995) for QR.
    """
    name = "lyapunov_exponents"
    given = vector_map(f, x, name)
    n = given.point.size
    whole(name, "steps", steps, 1)
    whole(name, "sweeps", sweeps, 2)
    if k is not None and (whole(name, "k", k, 1) > n):
        raise ValueError(f"{name}: k is at most the {n} numbers that move in x, got {k}")
    if method not in ("qr", "product"):
        raise ValueError(f"{name}: method is 'qr' or 'product', got {method!r:.60}")
    one, count = Jacobians.of(given), n if k is None else int(k)

    def program(constants: Any, point: jax.Array) -> jax.Array:
        here = one.at(constants)
        if method == "product":
            return _of_product(here, point, steps)[:count]
        return with_directions(here, point, steps, count, sweeps)[0]

    return jax.jit(program)(one.constants, given.point)


def with_directions(
    one: Jacobians, point: jax.Array, steps: int, k: int, sweeps: int
) -> tuple[jax.Array, jax.Array]:
    """The k largest exponents, and the directions that grow so: the right singular vectors.

    The first derivatives of the exponents are exact: they are largest where the directions are the
    singular vectors, so their derivatives are right with the directions held. The directions, shape
    (n, k), are constants; those of exponents of -inf are zeros.
    """
    still = lax.stop_gradient((one.constants, point))
    block, alive, trusted = _directions(one.at(still[0]), still[1], steps, k, sweeps)

    def growth(constants: Any, point: jax.Array, block: Any, alive: Any) -> jax.Array:
        here = one.at(constants)

        @jax.checkpoint
        def step(carry: Any, alive: jax.Array) -> Any:
            x, block, logarithms = carry
            x, columns = here.push(x, block)
            block, triangle, scale, _ = orthonormal(columns, alive=alive)
            return (x, block, logarithms + grown(triangle, scale, alive)), None

        start = (point, block, jnp.zeros(k, point.dtype))
        return lax.scan(step, start, alive)[0][2] / steps

    growth_once = jax.custom_jvp(growth)

    @growth_once.defjvp
    def derivative(primals: Any, tangents: Any) -> Any:
        constants, point, block, alive = primals
        held = _first_order(block, (constants, point))
        return jax.jvp(lambda c, x: growth(c, x, held, alive), (constants, point), tangents[:2])

    found = growth_once(one.constants, point, block, alive)
    found = jnp.where(trusted, found, jnp.nan)
    order = jnp.argsort(-lax.stop_gradient(found))
    return found[order], block[:, order]


def _directions(
    one: Jacobians, point: jax.Array, steps: int, k: int, sweeps: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The leading right singular vectors, where their images are alive, which have converged."""
    n, eps = point.size, jnp.finfo(point.dtype).eps
    wide = 2 * k + 2
    if n <= max(SMALL, wide):
        start = jnp.eye(n, dtype=point.dtype)
        data = one.dense_along(point, steps)

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
            one.along(point, steps),
            lambda x, block: noisy(one.push(x, block)[1]),
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
        x, jacobian = one.dense(x)
        product = jacobian @ product
        scale = lax.stop_gradient(jnp.max(jnp.abs(product)))
        scale = jnp.where(scale == 0, 1, scale)
        # Rounding so far, relative to the scaled product.
        bound = (bound + n * eps) * lax.stop_gradient(jnp.linalg.norm(jacobian, 2)) / scale
        return (x, product / scale, logarithm + jnp.log(scale), bound), None

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
