"""Blocks of language models: a mixer of tokens, then MLPs that are written in context or not.

    x = x + mixer(norm(x)),    x = x + MLPs(norm(x))

with the mixers and MLPs of Hope (Nested Learning, eq. 94-97: self-modifying memories, then a
continuum memory), of Hope-Attention (softmax attention, then a continuum memory), and of the
models they are compared with, all on the same skeleton and with as many weights.

Source: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), section 8.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ._attention import CausalAttention
from ._checks import (
    check_input,
    check_key,
    check_sizes,
    choice,
    described,
    real,
    share,
    whole_or_none,
)
from ._continuum_level import check_periods
from ._feed import FeedForward
from ._masks import Mask, blank, check_masks
from ._parts import rms_norm
from .continuum import ContinuumMemory
from .layers import DeltaMemory, LinearAttention, SelfModifyingMemory, TitansMemory


class Kind(NamedTuple):
    """A kind of block.

    Attributes:
        mixer: a layer, `mixer(width, heads, **options, key)`.
        fixed: options of the mixer that make the kind what it is.
        continuum: whether its MLPs are a continuum memory.
    """

    mixer: Callable[..., Any]
    fixed: Mapping[str, Any]
    continuum: bool


KINDS: Mapping[str, Kind] = {
    "hope": Kind(SelfModifyingMemory, {}, True),
    "hope_attention": Kind(CausalAttention, {}, True),
    "transformer": Kind(CausalAttention, {}, False),
    "gated_delta": Kind(DeltaMemory, {"gated": True}, False),
    "delta": Kind(DeltaMemory, {"gated": False}, False),
    "titans": Kind(TitansMemory, {}, False),
    "linear_attention": Kind(LinearAttention, {}, False),
}


class BlockState(NamedTuple):
    """State of a `Block` along a stream.

    Attributes:
        mixer: the state of the mixer.
        feed: the state of the second half.
    """

    mixer: Any
    feed: Any


class Block(eqx.Module):
    """A block of a language model: `x + mixer(norm(x))`, then `feed`.

    `feed` has norms and residual connections of its own. `make_block` draws the usual kinds.

    Attributes:
        norm: scale of the root-mean-square norm before the mixer, (width,).
        mixer: a layer `(x, state) -> (y, state)` with `init_state()`.
        feed: `ContinuumMemory`, `FeedForward`, or another layer with the same interface.
    """

    norm: Float[Array, " width"]
    mixer: Any
    feed: Any

    def init_state(self) -> BlockState:
        """The state at the beginning of a stream."""
        return BlockState(self.mixer.init_state(), self.feed.init_state())

    def __call__(
        self,
        x: Float[Array, "time width"],
        state: BlockState | None = None,
        *,
        valid: Mask | None = None,
        reset: Mask | None = None,
        max_documents: int | None = None,
        dropout: float = 0.0,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "time width"], BlockState]:
        """Maps a sequence, or the next piece of a stream.

        Args:
            x: tokens, (time, width).
            state: the state after the piece before; None at the beginning of a stream.
            valid: (time,) bool, False for padding, which changes nothing and is returned as it is.
                None: all tokens are valid.
            reset: (time,) bool, True at the first token of a document, before which both states are
                set to those at the beginning of a stream. None: nowhere.
            max_documents: how many documents begin in the piece at most; only for a traced `reset`,
                see `HopeLM`.
            dropout: probability with which a number that either half adds is dropped, less than 1.
            key: for dropout; None: no dropout.

        Returns:
            (y, state): y of shape (time, width), and the state after the piece.

        Raises:
            ValueError: x, a state, a mask, a dropout or a key does not fit.
        """
        x = check_input("Block", x, self.norm.shape[0])
        dropout = share("Block", "dropout", dropout)
        valid, reset = check_masks("Block", x.shape[0], valid, reset, max_documents)
        given = {"valid": valid, "reset": reset, "max_documents": max_documents}
        if valid is None and reset is None:
            given = {}  # layers of a user's own need not know of masks
        mixer, feed = (None, None) if state is None else _halves(state)
        mixed, mixer = self.mixer(rms_norm(blank(x, valid), self.norm), mixer, **given)
        if key is None:
            x, feed = self.feed(x + mixed, feed, **given)
            return x, BlockState(mixer, feed)
        check_key("Block", key)
        first, second = jax.random.split(key)
        drop = eqx.nn.Dropout(dropout)
        x = x + drop(mixed, key=first)
        fed, feed = self.feed(x, feed, **given)
        return x + drop(fed - x, key=second), BlockState(mixer, feed)


def _halves(state: Any) -> tuple[Any, Any]:
    """The states of the mixer and of the MLPs."""
    if not isinstance(state, tuple) or len(state) != 2:
        raise ValueError(
            f"Block: state must be a BlockState, got a {type(state).__name__}; pass a state that "
            "this block returned, or its init_state()"
        )
    return state[0], state[1]


def make_block(
    kind: str,
    width: int,
    heads: int = 4,
    *,
    hidden: int | None = None,
    continuum: Mapping[str, Any] | None = None,
    scale: float = 1.0,
    key: PRNGKeyArray,
    **options: Any,
) -> Block:
    """Draws a block of one of the usual kinds, all with about the same number of weights.

    A Transformer's block has 12 width^2 weights in its matrices, 4 width^2 of them in attention.
    Here the MLPs get as many hidden units, in multiples of eight, as the mixer and the targets of a
    continuum memory leave of 12 width^2, but at least width / 2: a mixer with many weights of its
    own makes a larger block.

    Args:
        kind: "hope", "hope_attention", "transformer", "gated_delta", "delta", "titans" or
            "linear_attention"; see `HopeLM` for their parts.
        width: channels of the input and of the output.
        heads: heads of the mixer.
        hidden: hidden units of each MLP; None: as above.
        continuum: options of `ContinuumMemory`, for the kinds that have one.
        scale: factor of the outputs of mixer and MLPs at first.
        key: a typed PRNG key.
        **options: of the mixer.

    Returns:
        The block.

    Raises:
        ValueError: an unknown kind or option; arguments that the layers refuse.

    Source: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), section 8.
    """
    name = "make_block"
    kind = choice(name, "kind", kind, tuple(KINDS))
    width, heads = check_sizes(name, width, heads)
    hidden = whole_or_none(name, "hidden", hidden)
    scale = real(name, "scale", scale)
    check_key(name, key)
    if not isinstance(continuum, Mapping | None):
        raise ValueError(
            f"{name}: continuum must be a mapping of options of ContinuumMemory, such as "
            f'{{"periods": (16, 64)}}, got {described(continuum)}'
        )
    mixer_of, fixed, has_continuum = KINDS[kind]
    if continuum and not has_continuum:
        raise ValueError(
            f"{name}: a block of kind {kind!r} has no continuum memory, so `continuum` is without "
            'effect; use "hope" or "hope_attention"'
        )
    _check_options(f"{name}: the mixer of a block of kind {kind!r}", mixer_of, options, fixed)
    _check_options(f"{name}: continuum: a continuum memory", ContinuumMemory, continuum or {}, ())
    mixer_key, feed_key = jax.random.split(key)
    mixer = mixer_of(width, heads, **fixed, **options, key=mixer_key)
    mixer = _scaled(mixer, scale)
    chosen = dict(continuum or {})
    periods = check_periods("ContinuumMemory", chosen.get("periods", (16, 64)))
    levels = len(periods) if has_continuum else 1
    if hidden is None:
        left = 12 * width**2 - count(mixer)
        if has_continuum and chosen.get("objective", "local") == "local":
            left -= levels * width**2
        hidden = max(round(left / (3 * width * levels) / 8) * 8, -(-width // (2 * levels)))
    if has_continuum:
        chosen = {"hidden": hidden, "scale": scale * levels**-0.5, **chosen}
        feed = ContinuumMemory(width, key=feed_key, **chosen)
    else:
        feed = FeedForward(width, hidden, scale=scale, key=feed_key)
    return Block(jnp.ones(width), mixer, feed)


def count(module: Any) -> int:
    """How many numbers a module has that can be trained."""
    return sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(module, eqx.is_inexact_array)))


def _check_options(
    what: str, made: Callable[..., Any], options: Mapping[str, Any], fixed: Iterable[str]
) -> None:
    ours = {"width", "heads", "key", *fixed}
    known = [name for name in inspect.signature(made).parameters if name not in ours]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ValueError(f"{what} has no option {unknown[0]!r}; it has: {', '.join(known)}")


def _scaled(mixer: Any, scale: float) -> Any:
    """The mixer with a smaller map at its end: the residual sum does not grow with depth."""
    if isinstance(mixer, CausalAttention):
        return eqx.tree_at(lambda m: m.output, mixer, replace_fn=lambda w: scale * w)
    return eqx.tree_at(lambda m: m.output.out, mixer, replace_fn=lambda w: scale * w)
