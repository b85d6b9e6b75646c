"""A scan to be differentiated in reverse, arranged by what its steps leave for the backward pass.

Plain reverse mode through `lax.scan` stores every intermediate of every step: fastest while that is
small. `lean_gradient` stores of each inner gradient only its point. Nested segments under
`jax.checkpoint` store O(sqrt T) or O(T^(1/3)) carries at the price of one or two more forward
passes. Source: Chen et al., "Training deep nets with sublinear memory cost" (2016), section 4.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ._hoist import hoist, is_pushing_forward

# What reverse mode may store for the whole loop before anything more is recomputed, and what one
# level of segments may need before there is a second one. Bytes, not counting vmapped axes.
STORE_ALL = 16 * 2**20
ONE_LEVEL = 2**30


def unrolled(
    make_body: Callable[[bool], Callable],
    carry: PyTree,
    xs: PyTree,
    length: int,
    checkpoint: int | None = None,
) -> tuple[PyTree, PyTree]:
    """`lax.scan`, arranged to be differentiated in reverse mode within reasonable memory.

    By default the arrangement is the first of these that fits. Sizes are the bytes that all steps
    would leave for the backward pass, found by abstract evaluation:

    1. up to 16 MiB for the plain body: everything is stored, and nothing is recomputed; 2. up to 16
    MiB for the lean body: its arguments are stored; 3. up to 1 GiB with one level of segments: the
    lean body in segments of about `sqrt(T C / R)` steps (C bytes of carry, R bytes left by a lean
    step) under `jax.checkpoint`; 4. otherwise segments of segments, O(T^(1/3)).

    Under `vmap` the bytes are those of one copy. In a trace for forward mode (`Forward`) the plain
    body is used, as forward mode stores nothing.

    Args:
        make_body: `lean -> body`, with `body(carry, x) -> (carry, y)` as for `lax.scan`. The lean
            body stores only the point of each inner gradient.
        carry: initial carry; integer and key leaves are allowed.
        xs: pytree with leading axis `length`, or None.
        length: number of steps T, at least 0.
        checkpoint: None for the choice above; False to store everything; or the length of the
            segments of the lean body.

    Returns:
        (last carry, stacked y), with the values and derivatives of the plain scan up to rounding.

    Raises:
        ValueError: `checkpoint` is below 1.
        TypeError: `checkpoint` is not an int, None or False.

    Source: Chen, Xu, Zhang and Guestrin, "Training deep nets with sublinear memory cost" (2016),
    section 4.
    """
    check_checkpoint(checkpoint)
    if checkpoint is False or is_pushing_forward():
        return jax.lax.scan(make_body(False), carry, xs, length)
    if checkpoint is not None:
        return _segmented(make_body(True), carry, xs, length, (checkpoint,))
    body, segments = _arrangement(make_body, carry, xs, length)
    return _segmented(body, carry, xs, length, segments)


def _arrangement(
    make_body: Callable[[bool], Callable], carry: PyTree, xs: PyTree, length: int
) -> tuple[Callable, tuple[int, ...]]:
    """The body, already traced, and lengths of nested segments, by the rule of `unrolled`."""
    if length <= 1:
        return make_body(False), ()
    body, step = _measured(make_body(False), carry, xs)
    if length * step <= STORE_ALL:
        return body, ()
    body, step = _measured(make_body(True), carry, xs)
    if length * step <= STORE_ALL:
        return body, ()
    state = max(1, sum(_bytes(leaf) for leaf in jax.tree.leaves(carry)))
    step = max(step, state)
    if 2 * (length * state * step) ** 0.5 <= ONE_LEVEL:
        return body, (_near_divisor(length, (length * state / step) ** 0.5),)
    # Equal shares M: (length / a) carries, a / b carries, b steps, hence M^3 = length state^2 step.
    share = (length * state**2 * step) ** (1 / 3)
    inner = max(1, round(share / step))
    outer = inner * max(1, round(share / state))
    return body, (min(outer, length), inner)


def _near_divisor(length: int, ideal: float) -> int:
    """A divisor of `length` near the ideal, for no remainder to be compiled; else the ideal."""
    near = max(1, min(length, round(ideal)))
    divisors = [d for d in range(1, length + 1) if length % d == 0 and 0.7 <= d / ideal <= 1.5]
    return min(divisors, key=lambda d: abs(d - ideal), default=near)


def _segmented(
    body: Callable, carry: PyTree, xs: PyTree, length: int, segments: tuple[int, ...]
) -> tuple[PyTree, PyTree]:
    """A scan in segments whose steps are recomputed in the backward pass, the longest first."""
    if not segments or segments[0] >= length:
        return jax.lax.scan(body, carry, xs, length)
    size = segments[0]
    count, remainder = divmod(length, size)

    # Forward and backward pass are separate loops, so there is nothing to merge them wrongly.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def segment(carry: PyTree, xs: PyTree) -> tuple[PyTree, PyTree]:
        return _segmented(body, carry, xs, size, segments[1:])

    whole = count * size
    head = jax.tree.map(lambda x: x[:whole].reshape(count, size, *x.shape[1:]), xs)
    carry, ys = jax.lax.scan(segment, carry, head, count)
    ys = jax.tree.map(lambda y: y.reshape(whole, *y.shape[2:]), ys)
    if remainder:
        # Last forward is first backward: what it stores is gone before a segment is recomputed.
        tail = jax.tree.map(lambda x: x[whole:], xs)
        carry, more = _segmented(body, carry, tail, remainder, segments[1:])
        ys = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), ys, more)
    return carry, ys


def _measured(body: Callable, carry: PyTree, xs: PyTree) -> tuple[Callable, int]:
    """The traced body, and the bytes that a step of it leaves for the backward pass.

    Without what is there anyway: inputs and constants. Traced once, because loops in loops whose
    bodies are traced for measuring and again for use would take twice as long for each level.
    """
    total = 0

    def probe(constants: list, carry: PyTree, x: PyTree) -> None:
        nonlocal total
        _, pullback = jax.vjp(pure, constants, carry, x)
        there = {id(leaf) for leaf in jax.tree.leaves((constants, x))}
        stored = {id(leaf): leaf for leaf in jax.tree.leaves(pullback) if id(leaf) not in there}
        total = sum(_bytes(leaf) for leaf in stored.values())

    x = jax.eval_shape(lambda xs: jax.tree.map(lambda leaf: leaf[0], xs), xs)
    pure, constants, _ = hoist(body, carry, x)
    jax.eval_shape(probe, constants, carry, x)
    return functools.partial(pure, constants), total


def _bytes(leaf: Any) -> int:
    return leaf.size * leaf.dtype.itemsize


def check_checkpoint(checkpoint: Any) -> None:
    if checkpoint is not None and checkpoint is not False:
        check_count(
            "Unroll", "checkpoint", checkpoint, "None to choose it, False to store everything"
        )


def check_count(owner: str, name: str, value: Any, otherwise: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{owner}: {name} must be an int, or {otherwise}; got {value!r}")
    if value < 1:
        raise ValueError(f"{owner}: {name} must be at least 1, or {otherwise}; got {value}")
