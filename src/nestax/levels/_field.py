"""A level that follows a vector field instead of the gradient of a loss."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ._values import Parts


@dataclasses.dataclass(frozen=True, eq=False)
class Field:
    """The vector that a level's optimizer follows, given in place of an objective.

    For updates that are not the gradient of a loss: temporal differences, fixed-point iterations,
    the direction of a player in a game. The optimizer steps against the field as it would against a
    gradient.

    Derivatives pass through the field without a `stop_gradient`: `Unroll` and `Forward` follow its
    updates. `Implicit` treats its zero as the inner solution; the Jacobian of a field need not be
    symmetric, so give it a solver for general systems such as `Dense()`. The reported loss is half
    the squared norm of the field. `accumulate` gathers fields.

    Example:
        ```python
        halve = nx.Field(lambda values, batch: values["w"] / 2)
        nest = nx.Nest([nx.Level("w", halve, optax.sgd(1.0))])
        state, info = nest.step(nest.init({"w": 8.0}, jax.random.key(0)))
        print(state.values["w"])  # 4.0
        ```

    Attributes:
        function: `(values, batch) -> field` or `(field, info)`. The field is a pytree like the
            level's value, with the same shapes. Leaves that are not trained are ignored and may be
            None.

    Raises:
        ValueError: `function` is not a function. While tracing: a field that is not like the
            level's value; the message names the level.
    """

    function: Any  # Callable[[dict[str, Any], Any], Any]

    def __post_init__(self):
        if not callable(self.function):
            raise ValueError(
                "a Field takes a function (values, batch) -> vector like the level's value, got "
                f"{self.function!r}"
            )

    def __call__(self, values: dict[str, Any], batch: Any) -> Any:
        return self.function(values, batch)


def like_value(name: str, returned: Any, value: Parts) -> tuple[Any, Any]:
    """The field for the trained leaves of a level's value, and what was returned besides."""
    field, user = _on_trained(name, returned, value), None
    if field is None and isinstance(returned, tuple) and len(returned) == 2:
        field, user = _on_trained(name, returned[0], value), returned[1]
    if field is None:
        raise ValueError(
            f"level {name!r}: its Field returns a pytree like the level's value, or (pytree, "
            f"info); expected {jax.tree.structure(value.whole())}, got "
            f"{jax.tree.structure(returned)}"
        )
    return field, user


def half_squared_norm(field: Any) -> jax.Array:
    """In float32 at least."""
    leaves = [a.astype(jnp.promote_types(a.dtype, jnp.float32)) for a in jax.tree.leaves(field)]
    return sum(jnp.sum(jnp.real(a * jnp.conj(a))) for a in leaves) / 2  # type: ignore


def _on_trained(name: str, returned: Any, value: Parts) -> Any:
    """None if the structure is another."""
    structure = jax.tree.structure(returned)
    if structure not in map(jax.tree.structure, (value.trained, value.whole())):
        return None

    def one(path: Any, own: Any, given: Any) -> Any:
        if own is None:
            return None
        given = jnp.asarray(given)
        complex_of_real = jnp.iscomplexobj(given) and not jnp.iscomplexobj(own)
        if given.shape != own.shape or complex_of_real:
            raise ValueError(
                f"level {name!r}: its Field returns at {jax.tree_util.keystr(path) or 'the value'} "
                f"{given.dtype}{list(given.shape)}, expected {own.dtype}{list(own.shape)}"
            )
        return given.astype(own.dtype)

    def is_none(leaf: Any) -> bool:
        return leaf is None

    return jax.tree_util.tree_map_with_path(one, value.trained, returned, is_leaf=is_none)
