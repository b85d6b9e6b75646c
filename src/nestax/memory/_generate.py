"""Generation from a model that carries a state, as one compiled program."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Int, Integer, PRNGKeyArray

from ._parts import is_count


def generate(
    model: Any,
    prompt: Integer[Array, " time"],
    steps: int,
    key: PRNGKeyArray,
    temperature: float | Array = 1.0,
    state: Any = None,
) -> tuple[Int[Array, " steps"], Any]:
    """Goes on with a stream: reads a prompt in one pass, then draws token after token.

    One compilation for each length of prompt and number of steps; the temperature is traced. The
    state that is returned has seen all but the last token drawn, which begins what comes next:

        first, state = generate(model, prompt, 20, key)
        second, state = generate(model, first[-1:], 20, other_key, state=state)

    Args:
        model: `(tokens (time,), state) -> (logits (time, vocabulary), state)`, such as `HopeLM`;
            for a batch `jax.vmap` over prompts and keys.
        prompt: at least one token. Known ones are shown to the model's `check_tokens`, if it has
            that: `HopeLM` refuses those out of range. Of traced ones its scores are NaN, and token
            0 is drawn from then on.
        steps: how many to draw, at least 1.
        key: a typed PRNG key.
        temperature: 1 draws from the model's distribution, 0 takes the most probable token.
        state: what came before the prompt; None: nothing.

    Returns:
        The tokens drawn, (steps,), int32, and the state.

    Raises:
        ValueError: an empty prompt, or tokens that the model does not know; no steps, a negative
            temperature.
    """
    if getattr(prompt, "ndim", None) != 1 or not prompt.shape[0]:
        raise ValueError(
            "generate: the prompt must be one array of at least one token, got shape "
            f"{np.shape(prompt)} in a {type(prompt).__name__}; for a batch use jax.vmap"
        )
    check_tokens(model, prompt)
    if not is_count(steps):
        raise ValueError(f"generate: steps must be a whole number, at least 1, got {steps}")
    if not isinstance(temperature, Tracer) and not 0 <= float(temperature) < float("inf"):
        raise ValueError(
            f"generate: the temperature must be a finite number, at least 0, got {temperature}"
        )
    heat = jnp.asarray(temperature, jnp.float32)
    return _generate(model, int(steps), prompt, key, heat, state)


def check_tokens(model: Any, tokens: Array) -> None:
    """Has a model that knows which tokens there are, such as `HopeLM`, look at them: within its own
    program it could not, as they are traced there."""
    if hasattr(model, "check_tokens"):
        model.check_tokens(tokens)


@eqx.filter_jit
def _generate(
    model: Any, steps: int, prompt: Array, key: Array, heat: Array, state: Any
) -> tuple[Array, Any]:

    def draw(logits: Array, index: Array) -> Array:
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        scaled = logits / jnp.where(heat > 0, heat, 1).astype(logits.dtype)
        drawn = jax.random.categorical(jax.random.fold_in(key, index), scaled)
        return jnp.where(heat > 0, drawn, jnp.argmax(logits)).astype(jnp.int32)

    def step(carry: tuple[Array, Any], index: Array) -> tuple[tuple[Array, Any], Array]:
        token, state = carry
        logits, state = model(token[None], state)
        token = draw(logits[-1], index)
        return (token, state), token

    logits, state = model(prompt, state)
    first = draw(logits[-1], jnp.asarray(0))
    (_, state), rest = jax.lax.scan(step, (first, state), jnp.arange(1, steps))
    return jnp.concatenate([first[None], rest]), state
