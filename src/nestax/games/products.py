"""The Jacobian of a field at a point: dense, and as products with vectors."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from ..flows.internal import has_reverse_only_rule
from .checks import is_finite
from .field import differentiating, floating
from .flat import flat, floating_shapes

Product = Callable[[Any], Any]
Leaves = list[jax.Array]


@dataclasses.dataclass(frozen=True)
class JacobianOperator:
    """The Jacobian J of a field at a point, without its matrix; made by `jacobian_operator`.

    Attributes:
        product: `v -> J v`. v is a vector of shape (n,), or a pytree like the values; the result is
            of the same kind. Components are ordered as in `player_slices`.
        transposed: `v -> J^T v`, with vectors as for `product`.
        size: n, the number of components.
        players: player -> slice of its components, from `player_slices`.
    """

    product: Product
    transposed: Product
    size: int
    players: dict[Any, slice]


def player_slices(values: Any) -> dict[Any, slice]:
    """Which components of a game's vector belong to which player.

    Components are ordered as JAX orders leaves: players of a dict by name, players of a tuple by
    number, the leaves of a player in the order of `jax.tree.leaves`, arrays row by row. Leaves that
    are not real floating-point arrays do not move and have no components.

    Example:
        ```python
        players = nx.games.player_slices({"y": jnp.ones(3), "x": jnp.ones(2)})
        print(players["y"])  # slice(2, 5, None)
        ```

    Args:
        values: the value of each player, a dict, tuple or list; any other pytree is one player, 0.

    Returns:
        player -> slice.
    """
    return flat(lambda v: v, values, "player_slices: the identity").players


def jacobian(field: Any, values: Any) -> jax.Array:
    """The Jacobian of a field at a point, as a matrix.

    Entry (i, j) is the derivative of component i of the field with respect to component j of the
    values, in the order of `player_slices`. It takes n products. They are computed by columns in
    forward mode, or by rows in reverse mode if a rule of the field has no forward mode, such as
    that of an `Implicit` level.

    Example:
        ```python
        field = nx.games.joint_field((lambda x, y: x * y, lambda x, y: -x * y))
        print(nx.games.jacobian(field, (1.0, 2.0))[0].tolist())  # [0.0, 1.0]
        ```

    Args:
        field: values -> pytree like values: `joint_field(losses)`, an adjusted field, or a map.
        values: the point, a pytree of finite numbers.

    Returns:
        Shape (n, n).

    Raises:
        ValueError: values or derivatives that are not finite, if they are known; a field of another
            structure than the values; a field of a nest with `FiniteDifference` or another flow
            whose derivative is wrong by design.

    Source: Balduzzi et al., "The Mechanics of n-Player Differentiable Games" (2018), Section 2.
    """
    check_point(field, values, "jacobian")
    function = flat(field, values, "jacobian: the field")
    point, eye = function.point, jnp.eye(function.point.size, dtype=function.point.dtype)

    @jax.jit
    def dense(point: jax.Array) -> jax.Array:
        if _reverse_only(function.function, point):
            pullback = jax.vjp(function.function, point)[1]
            return jax.vmap(lambda row: pullback(row)[0])(eye)
        return jax.vmap(jax.linearize(function.function, point)[1], out_axes=1)(eye)

    with differentiating():
        found = dense(point)
    if not is_finite(found):
        raise ValueError(
            "jacobian: the field's derivatives are not finite at these values; look for divisions "
            "by zero, roots and logarithms of zero, and iterates that have diverged"
        )
    return found


def jacobian_operator(field: Any, values: Any) -> JacobianOperator:
    """Products with the Jacobian of a field at a point, and with its transpose.

    The field is linearized once. If a rule of the field has no forward mode, J v is computed by
    differentiating the transposed product, in reverse mode twice.

    Example:
        ```python
        field = nx.games.joint_field((lambda x, y: x * y, lambda x, y: -x * y))
        operator = nx.games.jacobian_operator(field, (1.0, 2.0))
        print(operator.product(jnp.array([1.0, 0.0])).tolist())  # [0.0, -1.0]
        ```

    Args:
        field: values -> pytree like values.
        values: the point, a pytree of finite numbers.

    Returns:
        A `JacobianOperator`.

    Raises:
        ValueError: as `jacobian`. From a product: a vector of another shape or structure.

    Source: Pearlmutter, "Fast Exact Multiplication by the Hessian" (1994), for joint fields.
    """
    check_point(field, values, "jacobian_operator")
    moving = floating_shapes(plain(values))
    forward, backward = jacobian_products(field, values)

    def of(product: Product) -> Product:
        def apply(v: Any) -> Any:
            found = product(like_values("jacobian_operator", v, moving))
            tree = jax.tree.structure(moving).unflatten(found)
            return ravel_pytree(tree)[0] if is_vector(v, moving) else tree

        return apply

    size = sum(jnp.size(leaf) for leaf in jax.tree.leaves(moving))
    return JacobianOperator(of(forward), of(backward), size, player_slices(values))


def jacobian_products(field: Any, values: Any) -> tuple[Product, Product]:
    """v -> J v and v -> J^T v, for lists of the leaves that move, in their own dtypes."""
    moving, combine = floating(plain(values))
    leaves, structure = jax.tree.flatten(moving)

    def function(leaves: Leaves) -> Leaves:
        return jax.tree.leaves(floating_shapes(field(combine(structure.unflatten(leaves)))))

    with differentiating():
        reverse_only = _reverse_only(function, leaves)
        pullback = jax.vjp(function, leaves)[1]

        def transposed(v: Leaves) -> Leaves:
            return pullback(_like(v, leaves))[0]

        if reverse_only:
            zero = jax.tree.map(jnp.zeros_like, leaves)
            second = jax.vjp(lambda v: pullback(v)[0], zero)[1]
            return lambda v: second(_like(v, leaves))[0], transposed
        linear = jax.linearize(function, leaves)[1]
        return lambda v: linear(_like(v, leaves)), transposed


def check_point(field: Any, values: Any, name: str) -> None:
    """Refuses what has no Jacobian.

    Raises:
        ValueError: a field that is no function or returns another structure than it is given,
            values with nothing to move, known values that are not finite.
    """
    if not callable(field):
        raise ValueError(
            f"{name}: the field is a function of values, such as joint_field(losses); got "
            f"{field!r:.60}"
        )
    moving = floating_shapes(plain(values))
    if not sum(jnp.size(leaf) for leaf in jax.tree.leaves(moving)):
        raise ValueError(
            f"{name}: the values have no real floating-point number to move; got {values!r:.60}"
        )
    for path, leaf in jax.tree_util.tree_leaves_with_path(moving):
        if not is_finite(leaf):
            raise ValueError(
                f"{name}: the values are not finite at {jax.tree_util.keystr(path) or 'the array'}"
            )
    flat(field, values, f"{name}: the field")


def plain(values: Any) -> Any:
    """The values as a pytree of JAX: `State.values` is a mapping of its own."""
    return dict(values) if isinstance(values, Mapping) else values


def like_values(name: str, vector: Any, moving: Any) -> Leaves:
    """The leaves of a pytree like the values, or of a vector of all components.

    Args:
        name: public function, for the message.
        vector: what was given.
        moving: the floating-point leaves of the values.

    Raises:
        ValueError: another structure or shape.
    """
    whole, back = ravel_pytree(moving)
    if is_vector(vector, moving):
        given, wanted = vector, whole
    else:
        given, wanted = floating_shapes(plain(vector)), moving
    if jax.tree.structure(given) != jax.tree.structure(wanted) or any(
        jnp.shape(a) != jnp.shape(b)
        for a, b in zip(jax.tree.leaves(given), jax.tree.leaves(wanted), strict=True)
    ):
        raise ValueError(
            f"{name}: a vector is an array of shape [{whole.size}] or a pytree like the values; "
            f"got {jax.tree.map(jnp.shape, vector)!r:.80}"
        )
    return jax.tree.leaves(back(jnp.asarray(given, whole.dtype)) if wanted is whole else given)


def is_vector(vector: Any, moving: Any) -> bool:
    """Whether an array stands for all components; for one array they are the same."""
    return hasattr(vector, "ndim") and not hasattr(moving, "ndim")


def _like(vector: Leaves, leaves: Leaves) -> Leaves:
    return [jnp.asarray(a).astype(b.dtype) for a, b in zip(vector, leaves, strict=True)]


def _reverse_only(function: Callable, point: Any) -> bool:
    return has_reverse_only_rule(jax.make_jaxpr(function)(point).jaxpr)
