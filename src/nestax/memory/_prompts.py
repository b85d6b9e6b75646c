"""Prompts, keys and stop tokens of generation: what cannot be used is refused."""

import inspect
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from ._checks import check_unmasked, described
from ._sampling import is_real


def check_tokens(model: Any, tokens: Array) -> None:
    """Has a model that knows which tokens there are, such as `HopeLM`, look at them: within its own
    program it could not, as they are traced there."""
    if hasattr(model, "check_tokens"):
        model.check_tokens(tokens)


def check_model(name: str, model: Any, carries: bool = False) -> None:
    """Refuses what cannot be called or, with `carries`, has no `init_state`."""
    if not callable(model) or (carries and not callable(getattr(model, "init_state", None))):
        wanted = " with init_state()" if carries else ""
        raise ValueError(
            f"{name}: model must be a function (tokens, state) -> (logits, state){wanted}, such as "
            f"HopeLM, got {described(model)}"
        )


def check_prompt(name: str, model: Any, prompt: Any, valid: Any, batches: bool) -> None:
    """Refuses prompts that cannot be read, and masks that do not fit them."""
    ranks = (1, 2) if batches else (1,)
    if getattr(prompt, "ndim", None) not in ranks or not prompt.size:
        wanted = "(time,) or (batch, time)" if batches else "(time,); for a batch use generate"
        raise ValueError(
            f"{name}: the prompt must be one array of at least one token, got "
            f"{_described(prompt)}; pass integers of shape {wanted}"
        )
    if not jnp.issubdtype(prompt.dtype, jnp.integer):
        raise ValueError(f"{name}: the prompt must be integers, got {prompt.dtype}")
    check_unmasked(name, "the prompt", prompt)
    traced = isinstance(prompt, Tracer)
    if valid is None:
        # One sequence for the model: all rows or, where tokens are not known, the first.
        _show(model, prompt if prompt.ndim == 1 else prompt[0] if traced else np.ravel(prompt))
        return
    if getattr(valid, "shape", None) != prompt.shape or valid.dtype != bool:
        dtype = f"{valid.dtype}, " if hasattr(valid, "dtype") else ""
        raise ValueError(
            f"{name}: valid must be bools of the prompt's shape {prompt.shape}, True for real "
            f"tokens, got {dtype}{_described(valid)}; make numbers bools with astype(bool)"
        )
    if not _takes_valid(model):
        raise ValueError(
            f"{name}: this model, a {type(model).__name__}, has no argument valid, so it cannot "
            "leave padding out; pass prompts of one length without valid="
        )
    if isinstance(valid, Tracer):
        return
    known = np.asarray(valid)
    if not known.any(axis=-1).all():
        where = f"row {np.argmin(known.any(axis=-1))}" if known.ndim == 2 else "the prompt"
        raise ValueError(f"{name}: {where} has no valid token; a prompt needs at least one")
    if not traced:
        _show(model, np.asarray(prompt)[known])


def _show(model: Any, tokens: Any) -> None:
    """`check_tokens` of an array, which must not be traced here if it is known."""
    with jax.ensure_compile_time_eval():
        check_tokens(model, jnp.asarray(tokens))


def _described(value: Any) -> str:
    try:
        return f"shape {np.shape(value)} in a {type(value).__name__}"
    except ValueError:  # rows of different lengths
        return f"a {type(value).__name__} of rows of different lengths"


def _takes_valid(model: Any) -> bool:
    """Whether a model can be called with `valid`."""
    try:
        parameters = inspect.signature(model).parameters
    except (TypeError, ValueError):
        return True  # nothing is known; the call itself will tell
    return "valid" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def row_keys(name: str, key: Any, batch: tuple[int, ...], temperature: Any) -> Array:
    """One key for each row."""
    if key is None:
        if isinstance(temperature, Tracer) or float(temperature) > 0:
            raise ValueError(
                f"{name}: key is None, so nothing can be drawn at random; pass a key such as "
                "jax.random.key(0), or temperature=0.0"
            )
        key = jax.random.key(0)
    dtype = getattr(key, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        if dtype == np.uint32:
            repair = "make it a typed key with jax.random.wrap_key_data(key)"
        else:
            repair = "pass jax.random.key(0)"
        got = type(key).__name__ if dtype is None else f"{dtype} of shape {np.shape(key)}"
        raise ValueError(f"{name}: key must be a typed PRNG key, got {got}; {repair}")
    if key.shape not in ((), batch):
        wanted = f"or one for each row, {batch}" if batch else "for one prompt"
        raise ValueError(f"{name}: key must be one key, of shape (), {wanted}; got {key.shape}")
    return jax.random.split(key, batch[0]) if batch and not key.shape else key


def check_states(name: str, state: Any, batch: int | None) -> None:
    """Refuses states of what is no number and, of a batch, those that are not one for each row."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        where = f"state{jax.tree_util.keystr(path)}"
        check_unmasked(name, where, leaf)
        if isinstance(leaf, np.ndarray | np.generic) and leaf.dtype.kind in "OSUmM":
            raise ValueError(f"{name}: {where} must be an array of numbers, got {leaf.dtype}")
        if batch is not None and np.shape(leaf)[:1] != (batch,):
            raise ValueError(
                f"{name}: state must have a leading axis of {batch}, got shape {np.shape(leaf)} at "
                f"{where}; pass one state for each row of the prompt"
            )


def stop_tokens(name: str, stop: Any) -> tuple[int, ...]:
    """Stop tokens in their order, each once."""
    if stop is None:
        return ()
    if isinstance(stop, Tracer):
        raise ValueError(f"{name}: stop must be known when this is compiled, got a traced array")
    if isinstance(stop, np.ndarray | jax.Array):
        given = np.asarray(stop).reshape(-1) if np.ndim(stop) < 2 else [stop]
    else:
        given = stop if isinstance(stop, Iterable) and not isinstance(stop, str) else [stop]
    tokens = set()
    for token in given:
        if not is_real(token, whole=True) or int(token) < 0:
            raise ValueError(
                f"{name}: stop must be a token or several, whole numbers from 0, got {token!r}"
            )
        tokens.add(int(token))
    return tuple(sorted(tokens))


def pad_token(pad: Any) -> Array:
    """What stands for tokens after a stop, int32."""
    if isinstance(pad, Tracer) or not is_real(pad, whole=True) or abs(int(pad)) >= 2**31:
        raise ValueError(f"generate: pad must be a whole number, such as -1, got {pad!r}")
    return jnp.asarray(int(pad), jnp.int32)
