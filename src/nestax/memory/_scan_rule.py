"""Any rule over a sequence, token by token."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ._arguments import (
    RATES,
    check_function,
    check_number,
    check_option,
    check_rate,
    check_tokens,
    floating_array,
)
from ._grid import begin_anew, document_starts, fill
from ._masks import Mask, blank, check_masks


def scan_rule(
    rule: Callable[..., Any],
    q: Float[Array, "time key"],
    k: Float[Array, "time key"],
    v: Float[Array, "time value"],
    state: PyTree[Float[Array, "..."]],
    read: str = "before",
    *,
    valid: Mask | None = None,
    reset: Mask | None = None,
    initial: PyTree[Float[Array, "..."]] | None = None,
    **parameters: float | Float[Array, "..."],
) -> tuple[Float[Array, "time value"], Any]:
    """Runs any rule over a sequence, token by token.

    The output is o_t = M_{t-1} q_t, or M_t q_t with `read="after"`. `memory_scan` and
    `network_scan` are many times faster for the rules that they support.

    Args:
        rule: a function `(state, key, value, **parameters) -> state`, such as `oja`; fix static
            arguments by `functools.partial(write, objective="dot", rule="dgd")`.
        q: queries, (time, key).
        k: keys, (time, key).
        v: values, (time, value).
        state: the initial memory (value, key), or a tuple whose first entry is the memory.
        read: `"before"` the token's own write, or `"after"`.
        valid: (time,) bool, False for padding, which changes nothing; its output is zero. None: all
            tokens are valid.
        reset: (time,) bool, True at the first token of a document, before which the state is set to
            `initial`. If that token is padding: at the next valid token.
        initial: the state at the beginning of a document, like `state`; needed with `reset`.
        **parameters: of the rule: numbers, or arrays with a leading axis time. Fix an array that is
            the same at every token by `functools.partial`, such as the weights of `omega`'s window.
            `rate` must be 0 or more, `retain` and `momentum` 0 to 1.

    Returns:
        (o, state): outputs, (time, value), in the dtype of q, k and v; the state, float32 at least.

    Raises:
        ValueError: an unknown `read`, a parameter of another length or out of range, tokens that
            are not floating-point or whose shapes do not fit, a state of other sizes.

    Example:
        ```python
        tokens = jnp.eye(2)
        outputs, memory = nx.memory.scan_rule(
            nx.memory.delta, tokens, tokens, 3 * tokens, jnp.zeros((2, 2)), read="after", rate=1.0
        )
        print(jnp.diag(outputs))  # [3. 3.]
        ```
    """
    name = "scan_rule"
    check_function(name, "rule", rule)
    check_option(name, "read", read, "before", "after")
    q, k, v = check_tokens(name, q, k, v)
    state = _as_state("state", state, k, v)
    initial = None if initial is None else _as_state("initial", initial, k, v)
    time = k.shape[0]
    valid, reset = check_masks(name, time, valid, reset)
    given = jnp.result_type(q, k, v)
    for parameter, a in parameters.items():
        check_number(name, parameter, a)
        if parameter in RATES:
            check_rate(name, parameter, a, RATES[parameter])
    arrays = {name: jnp.asarray(a) for name, a in parameters.items()}
    for parameter, a in arrays.items():
        if a.ndim and a.shape[0] != time:
            raise ValueError(
                f"scan_rule: {parameter} must be a number or have a leading axis of {time} "
                f"tokens, got shape {a.shape}"
            )
    dtype = jnp.result_type(given, jnp.float32, *jax.tree.leaves(state))
    fixed = {name: a.astype(dtype) for name, a in arrays.items() if not a.ndim}
    varying = {name: a.astype(dtype) for name, a in arrays.items() if a.ndim}
    state, initial = (jax.tree.map(lambda a: a.astype(dtype), a) for a in (state, initial))
    if not time:
        return jnp.zeros(v.shape, given), state
    starts, pending = None, None
    if reset is not None:
        if initial is None:
            raise ValueError(
                "scan_rule: with reset, pass initial, the state at the beginning of a document"
            )
        starts, pending = document_starts(time, valid, reset)

    def token(state: Any, inputs: Any) -> tuple[Any, Array]:
        query, key, value, own, there, starts = inputs
        state = begin_anew(starts, initial, state)
        new = rule(state, key, value, **fixed, **own)
        if there is not None:
            new = jax.tree.map(lambda a, b: jnp.where(there, a, b), new, state)
        memory = jax.tree.leaves(state if read == "before" else new)[0]
        return new, memory @ query

    tokens = (fill(a.astype(dtype), valid) for a in (q, k, v))
    varying = {name: fill(a, valid) for name, a in varying.items()}
    there = None if valid is None else jnp.asarray(valid)
    state, outputs = jax.lax.scan(token, state, (*tokens, varying, there, starts))
    return blank(outputs.astype(given), valid), begin_anew(pending, initial, state)


def _as_state(what: str, state: Any, k: Array, v: Array) -> Any:
    """A tree of arrays of which the first is a memory."""

    def as_array(a: Any) -> Array:
        return floating_array("scan_rule", what, jnp.asarray(a) if isinstance(a, float) else a)

    state = jax.tree.map(as_array, state)
    leaves = jax.tree.leaves(state)
    shape = (v.shape[1], k.shape[1])
    if not leaves or leaves[0].shape != shape:
        got = leaves[0].shape if leaves else type(state).__name__
        raise ValueError(
            f"scan_rule: {what} must be the memory (value, key), {shape}, or a tuple of which it "
            f"is the first, got {got}"
        )
    return state
