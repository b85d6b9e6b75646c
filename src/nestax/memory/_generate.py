"""Generation from a model that carries a state, as one compiled program."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Integer, PRNGKeyArray


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
        prompt: at least one token.
        steps: how many to draw, at least 1.
        key: a typed PRNG key.
        temperature: 1 draws from the model's distribution, 0 takes the most probable token.
        state: what came before the prompt; None: nothing.

    Returns:
        The tokens drawn, (steps,), int32, and the state.

    Raises:
        ValueError: an empty prompt, no steps, a negative temperature.
    """
    if prompt.ndim != 1 or not prompt.shape[0]:
        raise ValueError(
            "generate: the prompt must be one sequence of at least one token, got shape "
            f"{prompt.shape}; for a batch use jax.vmap"
        )
    if isinstance(steps, bool) or steps < 1:
        raise ValueError(f"generate: steps must be at least 1, got {steps}")
    if isinstance(temperature, (int, float)) and not 0 <= temperature < float("inf"):
        raise ValueError(
            f"generate: the temperature must be a finite number, at least 0, got {temperature}"
        )
    heat = jnp.asarray(temperature, jnp.float32)
    return _generate(model, int(steps), prompt, key, heat, state)


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
