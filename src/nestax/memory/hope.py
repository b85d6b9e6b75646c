"""Hope and the language models it is compared with, on one skeleton.

Source: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), section 8, eq. (94-97).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Integer, PRNGKeyArray

from ._checks import (
    check_key,
    check_sizes,
    check_unmasked,
    choice,
    described,
    holds,
    share,
    whole,
    whole_or_none,
)
from ._feed import FeedForward
from ._masks import Mask, blank, check_masks, segment_starts
from ._parts import linear, matrix, rms_norm
from .blocks import KINDS, Block, BlockState, make_block
from .continuum import ContinuumMemory


class HopeLM(eqx.Module):
    r"""Hope, and the language models that it is compared with: embedding, blocks, norm, head.

        model = HopeLM(256, 128, 4, block="hope", key=jax.random.key(0))
        logits, state = model(tokens)             # (time,) -> (time, 256)
        logits, state = model(more, state)        # the stream goes on
        logits, _ = jax.vmap(model)(batch)        # (batch, time) -> (batch, time, 256)
        logits, _ = model(tokens, key=key)        # in training, for a model with dropout

    | block | mixer | MLPs |
    | --- | --- | --- |
    | "hope" | `SelfModifyingMemory` | `ContinuumMemory` |
    | "hope_attention" | `CausalAttention` | `ContinuumMemory` |
    | "transformer" | `CausalAttention` (rotary positions) | SwiGLU |
    | "gated_delta", "delta" | `DeltaMemory` | SwiGLU |
    | "titans" | `TitansMemory` | SwiGLU |
    | "linear_attention" | `LinearAttention` | SwiGLU |

    Blocks of all kinds have about 12 width^2 weights (`make_block`). Initial predictions are nearly
    uniform, so the first loss is about log(vocabulary). All states are float32 at least.

    Attributes:
        embedding: (vocabulary, width), normal with variance 1.
        blocks: the blocks, in the order in which they are applied.
        norm: scale of the root-mean-square norm before the head, (width,).
        head: (vocabulary, width), not tied to the embedding; small at first.
        dropout: probability with which, in training, a number of the embedding or of a block's
            additions is dropped.

    Source: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), section 8, eq.
    (94-97).

    Example:
        ```python
        model = nx.memory.HopeLM(16, 8, 1, 2, key=jax.random.key(0))
        logits, state = jax.eval_shape(model, jnp.arange(6))  # shapes only
        print(logits.shape)  # (6, 16)
        ```
    """

    embedding: Float[Array, "vocabulary width"]
    blocks: tuple[Block, ...]
    norm: Float[Array, " width"]
    head: Float[Array, "vocabulary width"]
    dropout: float = eqx.field(static=True)

    def __init__(
        self,
        vocabulary: int,
        width: int,
        depth: int,
        heads: int = 4,
        *,
        block: str | Sequence[str | tuple[str, Mapping[str, Any]]] = "hope",
        hidden: int | None = None,
        continuum: Mapping[str, Any] | None = None,
        dropout: float = 0.0,
        key: PRNGKeyArray,
        **options: Any,
    ):
        """Draws a model.

        Args:
            vocabulary: number of different tokens.
            width: channels between blocks.
            depth: number of blocks.
            heads: heads of every mixer.
            block: the kind of all blocks, or a kind for each, alone or with options of its own, as
                in `["hope", ("transformer", {"window": 512})]`.
            hidden: hidden units of each MLP; None: models of all kinds get about as many weights.
            continuum: options of `ContinuumMemory`, such as `{"periods": (4, 32)}`, for the blocks
                that have one.
            dropout: at least 0, less than 1; without effect in calls without a key.
            key: a typed PRNG key.
            **options: of all mixers, such as `window=512` of attention.

        Raises:
            ValueError: sizes below 1, a dropout out of range, an unknown kind or option; arguments
                that the layers refuse.
        """
        name = "HopeLM"
        vocabulary, depth = whole(name, "vocabulary", vocabulary), whole(name, "depth", depth)
        width, heads = check_sizes(name, width, heads)
        hidden = whole_or_none(name, "hidden", hidden)
        check_key(name, key)
        kinds = _kinds(block, depth)
        dropout = share(name, "dropout", dropout)
        keys = jax.random.split(key, depth + 2)
        self.embedding = jax.random.normal(keys[0], (vocabulary, width))
        with_memory = [kind for kind, _ in kinds if kind in KINDS and KINDS[kind].continuum]
        blocks = []
        for (kind, own), key in zip(kinds, keys[2:], strict=True):
            shared = {"hidden": hidden, **options}
            if kind in with_memory or not with_memory:  # without one, it is refused
                shared["continuum"] = continuum
            scale = (2 * depth) ** -0.5
            blocks.append(make_block(kind, width, heads, **{**shared, **own}, scale=scale, key=key))
        self.blocks = tuple(blocks)
        self.norm = jnp.ones(width)
        self.head = matrix(keys[1], vocabulary, width, 0.1)
        self.dropout = dropout

    def init_state(self) -> tuple[BlockState, ...]:
        """The state at the beginning of a stream."""
        return tuple(block.init_state() for block in self.blocks)

    def __call__(
        self,
        tokens: Integer[Array, " time"],
        state: tuple[BlockState, ...] | None = None,
        *,
        valid: Mask | None = None,
        reset: Mask | None = None,
        segments: Integer[Array | np.ndarray, " time"] | None = None,
        max_documents: int | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "time vocabulary"], tuple[BlockState, ...]]:
        """Predicts the next token after each token of a sequence, or of the next piece of a stream.

        A piece may contain several documents. Every document gets the scores that it gets alone,
        and the state is that of the last document. Padding changes nothing, and may be any integer.

        Args:
            tokens: (time,) integers from 0, below the vocabulary. Others are an error if they are
                known, and give scores of NaN if they are traced.
            state: the state after the piece before; None at the beginning of a stream.
            valid: (time,) bool, False for padding, in any place. None: all tokens are valid.
            reset: (time,) bool, True at the first token of a document, before which the state is
                set to `init_state()`. If that token is padding: at the next valid token. None:
                nowhere.
            segments: (time,) integers, the id of each token's document, in place of `reset`: see
                `segment_starts`. A document begins with the first token, so `state` has no effect.
            max_documents: how many documents begin in the piece at most, if they are traced (under
                `jax.vmap`, or as an argument of `jit`). None: one at each token, which costs a
                chunk for each. If there are more, scores are NaN in models with a continuum memory
                or an MLP as a memory; other models need no bound.
            key: for dropout in training; None: no dropout.

        Returns:
            (scores, state): scores of the next token after each one, (time, vocabulary), finite
            and without meaning for padding; and the state after the piece.

        Raises:
            ValueError: tokens that are not one sequence, not integers or out of range; masks or a
                state that do not fit.
        """
        self.check_tokens(tokens, valid)
        depth, time = len(self.blocks), tokens.shape[0]
        if segments is not None:
            if reset is not None:
                raise ValueError("HopeLM: pass segments or reset, not both")
            if _shape(segments) != (time,):
                raise ValueError(
                    f"HopeLM: segments must be one array of integers of shape ({time},), an id for "
                    f"each token, got shape {_shape(segments)}; for a batch use jax.vmap"
                )
            if not holds(segments, jnp.integer):
                raise ValueError(
                    "HopeLM: segments must be one array of integers, an id for each token, got "
                    f"{described(segments)}; make lists arrays with jax.numpy.asarray"
                )
            check_unmasked("HopeLM", "segments", segments)
            reset = segment_starts(segments, valid)
        valid, reset = check_masks("HopeLM", time, valid, reset, max_documents)
        if state is not None and (not isinstance(state, tuple | list) or len(state) != depth):
            some = isinstance(state, tuple | list)
            held = f"{len(state)} of them" if some else f"a {type(state).__name__}"
            raise ValueError(
                f"HopeLM: state must be a tuple of {depth} states, one for each block, got {held}; "
                "pass a state that this model returned, or its init_state()"
            )
        if key is not None:
            check_key("HopeLM", key)
        masks = {}
        if valid is not None or reset is not None:
            masks = {"valid": valid, "reset": reset, "max_documents": max_documents}
        keys = [None] * (depth + 1) if key is None else list(jax.random.split(key, depth + 1))
        drop = eqx.nn.Dropout(self.dropout, inference=key is None)
        # Out of range they would be clamped, or count from the end, and no one would notice.
        rows = self.embedding.at[tokens]
        x = rows.get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
        x = drop(blank(x, valid), key=keys[-1])
        states = []
        for index, block in enumerate(self.blocks):
            known = None if state is None else state[index]
            x, new = block(x, known, **masks, dropout=self.dropout, key=keys[index])
            states.append(new)
        return linear(self.head, rms_norm(x, self.norm)), tuple(states)

    def flush(self, state: tuple[BlockState, ...]) -> tuple[BlockState, ...]:
        """Ends the periods of all continuum memories now, see `ContinuumMemory.flush`.

        Args:
            state: the state after some piece of a stream.

        Returns:
            The new state.
        """
        return tuple(
            s._replace(feed=b.feed.flush(s.feed)) if isinstance(b.feed, ContinuumMemory) else s
            for b, s in zip(self.blocks, state, strict=True)
        )

    def check_tokens(self, tokens: Integer[Array, " time"], valid: Mask | None = None) -> None:
        """Refuses tokens that this model cannot read; checks shape and dtype only if traced.

        Args:
            tokens: (time,) integers from 0, below the vocabulary.
            valid: (time,) bool, False for padding, which may be any integer. None: all tokens are
                valid.

        Raises:
            ValueError: tokens that are not one sequence, not integers or out of range; a mask of
                another shape or dtype.
        """
        if getattr(tokens, "ndim", None) != 1:
            raise ValueError(
                f"HopeLM: one array of tokens (time,) is expected, got {_shape(tokens)} in a "
                f"{type(tokens).__name__}; make lists arrays, and for a batch use jax.vmap"
            )
        if not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise ValueError(f"HopeLM: tokens are integers, got {tokens.dtype}")
        check_unmasked("HopeLM", "tokens", tokens)
        valid, _ = check_masks("HopeLM", tokens.shape[0], valid, None)
        if isinstance(tokens, Tracer) or isinstance(valid, Tracer):
            return
        # Of numpy: within a jit even the minimum of an array that is known would be traced.
        known, vocabulary = np.asarray(tokens), self.embedding.shape[0]
        known = known if valid is None else known[valid]
        outside = known[(known < 0) | (known >= vocabulary)]
        if outside.size:
            raise ValueError(
                f"HopeLM: tokens must be from 0 to {vocabulary - 1}, below the vocabulary; got "
                f"{outside[0]}"
            )


def _shape(value: Any) -> Any:
    """The shape of lists and arrays, as far as they have one."""
    try:
        return np.shape(value)
    except ValueError:
        return "rows of several lengths"


def _kinds(block: Any, depth: int) -> list[tuple[str, Mapping[str, Any]]]:
    """The kind of each block, and options of its own."""
    if not np.iterable(block):
        raise ValueError(
            f"HopeLM: block must be one of {', '.join(KINDS)}, or one for each of the {depth} "
            f"blocks, got {described(block)}"
        )
    named = (block,) * depth if isinstance(block, str) else tuple(block)
    if len(named) != depth:
        raise ValueError(
            f"HopeLM: block must be one kind for all blocks or one for each of the {depth}, "
            f"got {len(named)}"
        )
    kinds = []
    for one in named:
        match one:
            case str():
                kinds.append((one, {}))
            case (str(), Mapping()):
                kinds.append(one)
            case _:
                raise ValueError(
                    "HopeLM: each entry of block must be a kind, or a pair of a kind and its "
                    f"options, got {one!r}; options of all blocks are arguments of HopeLM"
                )
        choice("HopeLM", "block", kinds[-1][0], tuple(KINDS))
        if taken := {"width", "heads", "scale", "key"} & set(kinds[-1][1]):
            raise ValueError(f"HopeLM: {min(taken)} is the same for all blocks, no option of one")
    return kinds


def stack_levels(model: HopeLM, periods: Sequence[int], **options: Any) -> HopeLM:
    """Lets a trained model learn in context: the MLP of each block becomes a level of its own.

    The MLP of block i becomes a `ContinuumMemory` of one level, which starts from the trained
    weights and is written every `periods[i]` tokens by `learn_in_context`. A rate of zero gives the
    trained model.

    Args:
        model: a trained model whose blocks have a `FeedForward`.
        periods: in tokens, one for each block.
        **options: of `ContinuumMemory.from_mlps`, such as `rate`; a `key` is split over blocks.

    Returns:
        The new model.

    Raises:
        ValueError: other blocks, or another number of periods; arguments that `ContinuumMemory`
            refuses.

    Source: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), section 7.3.
    """
    if not isinstance(model, HopeLM):
        raise ValueError(f"stack_levels: model must be a HopeLM, got a {type(model).__name__}")
    if _shape(periods) != (len(model.blocks),):
        raise ValueError(
            f"stack_levels: periods must be one period for each of the {len(model.blocks)} blocks, "
            f"got {periods!r:.80}"
        )
    blocks = []
    key = options.pop("key", None)
    for index, (block, period) in enumerate(zip(model.blocks, periods, strict=True)):
        if not isinstance(block.feed, FeedForward):
            raise ValueError(
                f"stack_levels: block {index} has a {type(block.feed).__name__}, not a FeedForward "
                "whose MLP could become a level"
            )
        feed = ContinuumMemory.from_mlps(
            [block.feed.mlp],
            [period],
            norms=[block.feed.norm],
            width=model.embedding.shape[1],
            key=None if key is None else jax.random.fold_in(key, index),
            **options,
        )
        blocks.append(Block(block.norm, block.mixer, feed))
    return eqx.tree_at(lambda m: m.blocks, model, tuple(blocks))
