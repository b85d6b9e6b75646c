"""Learning in context by a language model's own loss, at the clocks of its continuum memories.

Source: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), 3.3 (iii) and eq. (71).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer

from ._checks import check_state, check_unmasked
from ._loop import checkpointed_scan
from ._prompts import check_model, check_tokens
from .continuum import ContinuumMemory, ContinuumState


def learn_in_context(
    model: Any, tokens: Integer[Array, " tokens"], state: Any = None
) -> tuple[Float[Array, " time"], Any]:
    r"""Reads a stream, and trains the model's continuum memories by the loss of its predictions.

    The stream is read in chunks of the smallest period C. In each chunk the model reads C tokens
    with the weights of the chunk's beginning; the gradient of

        sum_t -log p(token_{t+1} | tokens up to t)

    by the weights of all levels of all blocks is gathered, within the chunk only; and every level
    whose period ends is written, with its own rate (eq. 71). Rates of zero write nothing. The
    writes are differentiable: an outer level may train rates, starts and all other parameters
    through them.

    The last token is a target only: it is not read, and begins the next piece. So pieces overlap by
    one token,

        losses, state = learn_in_context(model, text[:129])
        losses, state = learn_in_context(model, text[128:257], state)
        answer, state = generate(model, text[256:257], 40, key, state=state)

    and any such cut gives what one pass gives. Calling the model itself reads without learning, and
    does not advance the clocks of the periods. There are no masks here: a piece belongs to one
    document and has no padding.

    Args:
        model: `(tokens (time,), state) -> (logits (time, vocabulary), state)` with `init_state()`,
            such as `HopeLM`: a pytree with `ContinuumMemory` modules made with `objective=None`,
            whose state holds their `ContinuumState` in the same order.
        tokens: (time + 1,), time a multiple of the smallest period, which divides the others. Known
            tokens are checked by the model's `check_tokens`, if it has that: `HopeLM` refuses
            tokens out of range. For traced tokens out of range the losses are NaN.
        state: the state after the piece before; None at the beginning of a stream.

    Returns:
        (losses, state): losses in nats, (time,), each taken before the write that it causes.

    Raises:
        ValueError: no continuum memory, one that writes by itself, periods or a number of tokens
            that do not fit, tokens out of range.

    Source: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), section 3.3 (iii) and
    eq. (71).

    Example:
        ```python
        levels = {"periods": (4,), "objective": None, "rate": 0.1}
        model = nx.memory.HopeLM(
            16, 8, 1, 2, block="hope_attention", continuum=levels, key=jax.random.key(0)
        )
        losses, state = nx.memory.learn_in_context(model, jnp.arange(9))
        print(losses.shape)  # (8,)
        ```
    """
    name = "learn_in_context"
    check_model(name, model, carries=True)
    memories = [m for m in jax.tree.leaves(model, is_leaf=_is_memory) if _is_memory(m)]
    if getattr(tokens, "ndim", None) != 1:
        raise ValueError(
            "learn_in_context: one array of tokens (time + 1,) is expected, got shape "
            f"{np.shape(tokens)} in a {type(tokens).__name__}; for a batch use jax.vmap"
        )
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise ValueError(f"{name}: tokens must be integers, got {tokens.dtype}")
    check_unmasked(name, "tokens", tokens)
    tokens = jnp.asarray(tokens)
    check_tokens(model, tokens)
    time = tokens.shape[0] - 1
    chunk = _chunk(memories, time)
    given = state is not None
    state = state if given else model.init_state()
    if len(_states(state)) != len(memories):
        raise ValueError(
            f"learn_in_context: the model has {len(memories)} continuum memories, and its state "
            f"holds {len(_states(state))} of theirs; pass a state that this model returned"
        )
    if given:
        check_state(name, state, model.init_state)
    if not time:
        return jnp.zeros(0, jnp.result_type(float)), state

    def visit(state: Any, pair: tuple[Array, Array]) -> tuple[Any, Array]:
        inputs, targets = pair

        def loss(weights: list[Any]) -> tuple[Array, tuple[Array, Any]]:
            held = [s._replace(weights=w) for s, w in zip(_states(state), weights, strict=True)]
            logits, new = model(inputs, _with_states(state, held))
            scores = jax.nn.log_softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))
            losses = -jnp.take_along_axis(scores, targets[:, None], axis=-1)[:, 0]
            losses = jnp.where(targets < 0, jnp.nan, losses)  # not those that count from the end
            return jnp.sum(losses), (losses, new)

        weights = [s.weights for s in _states(state)]
        gradients, (losses, new) = jax.grad(loss, has_aux=True)(weights)
        written = [
            memory.gather(held, gradient, chunk)
            for memory, held, gradient in zip(memories, _states(state), gradients, strict=True)
        ]
        return _with_states(new, written), losses

    pairs = tokens[:-1].reshape(-1, chunk), tokens[1:].reshape(-1, chunk)
    state, losses = checkpointed_scan(visit, state, pairs)
    return losses.reshape(time), state


def _is_memory(node: Any) -> bool:
    return isinstance(node, ContinuumMemory)


def _is_state(node: Any) -> bool:
    return isinstance(node, ContinuumState)


def _states(state: Any) -> list[ContinuumState]:
    return [s for s in jax.tree.leaves(state, is_leaf=_is_state) if _is_state(s)]


def _with_states(state: Any, new: list[ContinuumState]) -> Any:
    """The state with other continuum states in it."""
    rest = iter(new)
    return jax.tree.map(lambda s: next(rest) if _is_state(s) else s, state, is_leaf=_is_state)


def _chunk(memories: list[ContinuumMemory], time: int) -> int:
    """The smallest of all periods; refuses what does not fit it."""
    if not memories:
        raise ValueError(
            "learn_in_context: the model has no ContinuumMemory, so there is nothing to write; "
            'make it with block="hope" or "hope_attention", or see `stack_levels`'
        )
    if any(memory.target is not None for memory in memories):
        raise ValueError(
            "learn_in_context: the model's continuum memories write by their local objective "
            "already; make them with objective=None"
        )
    periods = {period for memory in memories for period in memory.periods}
    chunk = min(periods)
    if any(period % chunk for period in periods):
        raise ValueError(
            f"learn_in_context: the smallest period must divide the others, got {sorted(periods)}"
        )
    if time < 0 or time % chunk:
        raise ValueError(
            f"learn_in_context: {time + 1} tokens are {time} to learn from and a last target; pass "
            f"a multiple of the smallest period {chunk} and one, and read what is left with "
            "model(tokens, state)"
        )
    return chunk
