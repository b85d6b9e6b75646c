"""How the next token is drawn from a model's scores: penalty, temperature, and what is left out."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, Integer, PRNGKeyArray

from ._parts import widened

_COLD = 1e-30  # scores over a temperature below this could overflow; it is taken for 0


class History(NamedTuple):
    """Which tokens came before; a part that no option asks for is None.

    Attributes:
        seen: whether a token has occurred, (vocabulary,).
        tokens: all tokens in their order, then -1, (room,).
        count: how many they are.
    """

    seen: Bool[Array, " vocabulary"] | None
    tokens: Int[Array, " room"] | None
    count: Int[Array, ""] | None

    def add(self, token: Int[Array, ""]) -> "History":
        """The history with one more token."""
        seen, tokens, count = self
        if seen is not None:
            seen = seen.at[token].set(True)
        if tokens is not None and count is not None:
            tokens, count = tokens.at[count].set(token), count + 1
        return History(seen, tokens, count)


class Sampling(eqx.Module):
    """The options of `generate` that say how a token is drawn; None: the option is not used.

    Numbers are arrays of shape (), so that other numbers need no other program. `name` is that of
    the function that was called, for errors.
    """

    name: str = eqx.field(static=True)
    temperature: Float[Array, ""]
    top_k: Int[Array, ""] | None
    top_p: Float[Array, ""] | None
    min_p: Float[Array, ""] | None
    repetition_penalty: Float[Array, ""] | None
    scores: Callable[..., Any] | None

    def begin(
        self,
        prompt: Integer[Array, " time"],
        valid: Bool[Array, " time"] | None,
        vocabulary: int,
        room: int,
    ) -> History:
        """The history that the prompt's valid tokens make, with room for so many more."""
        time = prompt.shape[0]
        real = jnp.ones(time, bool) if valid is None else valid
        seen = tokens = count = None
        if self.repetition_penalty is not None:
            known = real & (prompt >= 0) & (prompt < vocabulary)
            places = jnp.where(known, prompt, vocabulary)
            seen = jnp.zeros(vocabulary, bool).at[places].set(True, mode="drop")
        if self.scores is not None:
            places = jnp.where(real, jnp.cumsum(real) - 1, time + room)
            tokens = jnp.full(time + room, -1, jnp.int32)
            tokens = tokens.at[places].set(prompt.astype(jnp.int32), mode="drop")
            count = jnp.sum(real, dtype=jnp.int32)
        return History(seen, tokens, count)

    def draw(
        self, logits: Float[Array, " vocabulary"], history: History, key: PRNGKeyArray
    ) -> Int[Array, ""]:
        """One token, int32."""
        logits = widened(logits)
        if self.repetition_penalty is not None and history.seen is not None:
            logits = penalize(logits, history.seen, self.repetition_penalty)
        if self.scores is not None:
            logits = _rescored(self.name, self.scores, logits, history.tokens)
        hot = self.temperature > _COLD
        scaled = logits / jnp.where(hot, self.temperature, 1).astype(logits.dtype)
        scaled = leave_out(scaled, self.top_k, self.top_p, self.min_p)
        drawn = jax.random.categorical(key, scaled)
        return jnp.where(hot, drawn, jnp.argmax(logits)).astype(jnp.int32)


def penalize(
    logits: Float[Array, " vocabulary"],
    seen: Bool[Array, " vocabulary"],
    penalty: Float[Array, ""],
) -> Float[Array, " vocabulary"]:
    """Divides the positive scores of tokens seen by the penalty, and multiplies the negative ones.

    Source: Keskar et al., "CTRL" (2019), 4.1; negative scores as in the transformers library.
    """
    penalty = penalty.astype(logits.dtype)
    return jnp.where(seen, jnp.where(logits < 0, logits * penalty, logits / penalty), logits)


def leave_out(
    logits: Float[Array, " vocabulary"],
    top_k: Int[Array, ""] | None = None,
    top_p: Float[Array, ""] | None = None,
    min_p: Float[Array, ""] | None = None,
) -> Float[Array, " vocabulary"]:
    """The scores, and -inf for tokens that are not to be drawn; at least one always is.

    Args:
        logits: of all tokens, already divided by the temperature.
        top_k: leaves the k most probable tokens.
        top_p: then leaves the fewest most probable tokens that have this probability together,
            where the tokens left by `top_k` have probability 1 (Holtzman et al. 2020).
        min_p: then leaves tokens at least this fraction as probable as the most probable one.

    Returns:
        Scores (vocabulary,). Of equal scores those of smaller tokens are kept first.
    """
    if top_k is not None or top_p is not None:
        size = logits.shape[-1]
        ranked = jnp.sort(logits, descending=True)
        count = jnp.asarray(size) if top_k is None else jnp.clip(top_k, 1, size)
        if top_p is not None:
            top_p = top_p.astype(logits.dtype)
            left = jnp.where(jnp.arange(size) < count, ranked, -jnp.inf)
            # From the least probable on: their shares would be lost in a sum of nearly 1.
            tails = jnp.cumsum(jax.nn.softmax(left)[::-1])[::-1]
            likely = jnp.clip(jnp.sum(tails > 1 - top_p), 1, count)
            count = jnp.where(top_p < 1, likely, count)
        last = ranked[count - 1]
        equal = logits == last
        room = count - jnp.sum(logits > last)
        logits = jnp.where((logits > last) | equal & (jnp.cumsum(equal) <= room), logits, -jnp.inf)
    if min_p is not None:
        best = jnp.max(logits)
        least = best + jnp.log(min_p.astype(logits.dtype))
        logits = jnp.where((logits >= least) | (logits == best), logits, -jnp.inf)
    return logits


def _rescored(name: str, scores: Callable[..., Any], logits: Array, tokens: Array | None) -> Array:
    """What the user's function makes of the scores."""
    new = scores(logits, tokens)
    floating = isinstance(new, jax.Array) and jnp.issubdtype(new.dtype, jnp.floating)
    if not floating or new.shape != logits.shape:
        array = isinstance(new, jax.Array)
        got = f"{new.dtype} of shape {new.shape}" if array else type(new).__name__
        raise ValueError(
            f"{name}: scores(logits, tokens) must return floating point numbers of shape "
            f"{logits.shape}, as the logits are, got {got}"
        )
    return new.astype(logits.dtype)


def make_sampling(
    name: str,
    temperature: Any,
    top_k: Any,
    top_p: Any,
    min_p: Any,
    repetition_penalty: Any,
    scores: Callable[..., Any] | None,
) -> Sampling:
    """Checks options; see `generate`.

    Args:
        name: of the function that has them, for messages.
        temperature: at least 0, finite.
        top_k: at least 1; None: no option, as for all that follow.
        top_p: above 0, at most 1.
        min_p: from 0 to 1.
        repetition_penalty: above 0, finite.
        scores: a function (logits, tokens) -> logits.

    Raises:
        ValueError: others, where they are known.
    """

    def number(what: str, value: Any, wanted: str, holds: Any, dtype: Any) -> Array:
        whole = dtype == jnp.int32
        real, traced = is_real(value, whole), isinstance(value, Tracer)
        known = (int(value) if whole else float(value)) if real and not traced else None
        if not (real and (traced or holds(known))):
            raise ValueError(f"{name}: {what} must be {wanted}, got {value!r}")
        if known is None:
            return value.astype(dtype)
        if known:  # what is above 0 shall not be rounded to 0, nor to infinity
            least = 1 if whole else float(jnp.finfo(dtype).tiny)
            most = 2**31 - 1 if whole else float(jnp.finfo(dtype).max)
            known = min(max(known, least), most)
        return jnp.asarray(known, dtype)

    def option(what: str, value: Any, wanted: str, holds: Any, dtype: Any = None) -> Array | None:
        dtype = jnp.result_type(float) if dtype is None else dtype
        return None if value is None else number(what, value, wanted, holds, dtype)

    if scores is not None and not callable(scores):
        raise ValueError(
            f"{name}: scores must be a function (logits, tokens) -> logits, got {scores!r}"
        )
    heat = "a finite number, at least 0"
    share, penalty = "a number above 0 and at most 1", "a finite number above 0"
    return Sampling(
        name,
        number("temperature", temperature, heat, lambda t: 0 <= t < np.inf, jnp.float32),
        option("top_k", top_k, "a whole number, at least 1", lambda k: k >= 1, jnp.int32),
        option("top_p", top_p, share, lambda p: 0 < p <= 1),
        option("min_p", min_p, "a number from 0 to 1", lambda p: 0 <= p <= 1),
        option("repetition_penalty", repetition_penalty, penalty, lambda r: 0 < r < np.inf),
        scores,
    )


def is_real(value: Any, whole: bool) -> bool:
    """Whether it is one number that is real, or whole."""
    if isinstance(value, bool) or not isinstance(
        value, (int, float, np.generic, np.ndarray, jax.Array)
    ):
        return False
    dtype = getattr(value, "dtype", None) or np.dtype(type(value))
    kinds = (jnp.integer,) if whole else (jnp.integer, jnp.floating)
    return np.shape(value) == () and any(jnp.issubdtype(dtype, kind) for kind in kinds)
