"""Generation from a model that carries a state: as one compiled program, or token by token."""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Bool, Int, Integer, Key

from ._checks import described, is_count
from ._prompts import check_model, check_prompt, check_states, pad_token, row_keys, stop_tokens
from ._sampling import History, Sampling, make_sampling


def generate(
    model: Any,
    prompt: Integer[Array, "*batch time"],
    steps: int,
    key: Key[Array, "..."] | None = None,
    temperature: float | Array = 1.0,
    state: Any = None,
    *,
    valid: Bool[Array, "*batch time"] | None = None,
    stop: int | Iterable[Any] | None = None,
    pad: int = -1,
    top_k: int | Array | None = None,
    top_p: float | Array | None = None,
    min_p: float | Array | None = None,
    repetition_penalty: float | Array | None = None,
    scores: Callable[..., Any] | None = None,
) -> tuple[Int[Array, "*batch steps"], Any]:
    """Generates tokens: reads a prompt in one pass, then draws token after token.

    The returned state has read all but the last token drawn, which begins the next piece:

        first, state = generate(model, prompt, 20, key)
        second, state = generate(model, first[-1:], 20, other_key, state=state)

    Prompts of different lengths are one array with padding on any side; `valid` marks the real
    tokens. Each row gets the tokens that its prompt alone gets with its own key:

        tokens, states = generate(model, prompts, 20, key, valid=prompts != pad, stop=end)
        counts = jnp.sum(tokens >= 0, axis=-1)
        row, _ = generate(model, prompts[3], 20, jax.random.split(key, len(prompts))[3], ...)

    A drawn stop token is the last token of its row: the state has not read it and is not written
    any more, and `pad` fills the rest. The loop ends when all rows have stopped.

    The scores of the next token are changed in this order, which is that of the transformers
    library: repetition penalty, the function `scores`, temperature, `top_k`, `top_p`, `min_p`.
    Among equal scores, smaller tokens are kept first, so that `top_k` never keeps more than k.

    The program is compiled once for each shape of the prompt, number of steps, set of stop tokens,
    function `scores`, and set of options that are not None; not again for other values of options.

    Args:
        model: `(tokens (time,), state) -> (logits (time, vocabulary), state)`, such as `HopeLM`;
            with a keyword `valid`, (time,), if prompts are padded.
        prompt: at least one token, (time,) or (batch, time). Known tokens are checked by the
            model's `check_tokens`, if it has that: `HopeLM` refuses tokens out of range. After a
            traced token out of range its scores are NaN, and token 0 is drawn from then on.
        steps: how many tokens to draw, at least 1.
        key: a typed PRNG key; for a batch one key, which is split, or one for each row, (batch,).
            None: only with temperature 0, which draws nothing at random.
        temperature: 1 draws from the model's distribution, 0 takes the most probable token.
        state: the state before the prompt, with a leading axis for a batch; None: the beginning of
            a stream.
        valid: bool in the prompt's shape, False for padding; None: all tokens are valid. A row
            needs one valid token; a traced row without any gives `pad` only.
        stop: one token or several that end a row; None: no token does.
        pad: fills the places after a stop. -1 is not a token, so that tokens >= 0 can be counted.
        top_k: leaves only the k most probable tokens.
        top_p: then leaves the fewest most probable tokens whose probabilities sum to `top_p`.
        min_p: then leaves tokens at least `min_p` times as probable as the most probable one.
        repetition_penalty: divides positive scores of tokens that occur in the prompt or have been
            drawn, and multiplies their negative scores; above 1 these tokens become less probable.
            Tokens that only `state` has read do not count.
        scores: a function `(logits (vocabulary,), tokens (time + steps,)) -> logits`. `tokens` are
            the prompt's valid tokens, then the tokens drawn, then -1; `jnp.sum(tokens >= 0)`
            counts them. Pass the same function each time: another one is compiled anew.

    Returns:
        (tokens, state): the tokens drawn, int32 of shape (steps,) or (batch, steps), and the state.

    Raises:
        ValueError: an empty prompt, or tokens out of range; a key that is not a typed key; options
            out of the ranges above. Traced options are not checked.

    Example:
        A model without a state, which counts:

        ```python
        model = lambda tokens, state: (jax.nn.one_hot((tokens + 1) % 10, 10), state)
        tokens, state = nx.memory.generate(model, jnp.array([1, 2, 3]), 4, temperature=0.0)
        print(tokens)  # [4 5 6 7]
        ```
    """
    check_model("generate", model)
    if not is_count(steps):
        raise ValueError(
            f"generate: steps must be a whole number, at least 1, got {described(steps)}"
        )
    sampling = make_sampling(
        "generate", temperature, top_k, top_p, min_p, repetition_penalty, scores
    )
    plan = _Plan(sampling, stop_tokens("generate", stop), int(steps), pad_token(pad))
    check_prompt("generate", model, prompt, valid, batches=True)
    key = row_keys("generate", key, prompt.shape[:-1], temperature)
    check_states("generate", state, prompt.shape[0] if prompt.ndim == 2 else None)
    return _generate(model, plan, prompt, valid, key, state)


def stream_tokens(
    model: Any,
    prompt: Integer[Array, " time"],
    steps: int | None = None,
    key: Key[Array, ""] | None = None,
    temperature: float | Array = 1.0,
    state: Any = None,
    *,
    valid: Bool[Array, " time"] | None = None,
    stop: int | Iterable[Any] | None = None,
    top_k: int | Array | None = None,
    top_p: float | Array | None = None,
    min_p: float | Array | None = None,
    repetition_penalty: float | Array | None = None,
    scores: Callable[..., Any] | None = None,
) -> "TokenStream":
    """Generates tokens like `generate`, and yields each token as soon as it is drawn.

        for token in stream_tokens(model, prompt, 100, key, stop=end):
            print(tokenizer.decode([token]), end="", flush=True)

    The tokens are those of `generate` with the same arguments. Reading the prompt is compiled for
    each of its lengths, and one step once, for streams of any length.

    Args:
        model: see `generate`.
        prompt: one prompt, (time,).
        steps: how many tokens to draw at most; None: no limit. `scores` needs a number.
        key: see `generate`.
        temperature: see `generate`.
        state: see `generate`.
        valid: see `generate`.
        stop: tokens that end the stream; the stop token itself is still yielded.
        top_k: see `generate`.
        top_p: see `generate`.
        min_p: see `generate`.
        repetition_penalty: see `generate`.
        scores: see `generate`.

    Returns:
        An iterator of ints, whose `state` has read all but the last token yielded.

    Raises:
        ValueError: as `generate`, at the call and not at the first token.
    """
    name = "stream_tokens"
    check_model(name, model)
    if steps is not None and not is_count(steps):
        raise ValueError(
            f"{name}: steps must be a whole number, at least 1, or None, got {described(steps)}"
        )
    if scores is not None and steps is None:
        raise ValueError(
            f"{name}: scores is given all tokens in one array of prompt and steps; pass steps="
        )
    given = (model, prompt, valid, key, temperature, top_k, top_p, min_p, repetition_penalty, state)
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(given)):
        raise ValueError(
            f"{name}: tokens are given one by one as ints, which jit and vmap cannot do; use "
            "generate there"
        )
    sampling = make_sampling(name, temperature, top_k, top_p, min_p, repetition_penalty, scores)
    check_prompt(name, model, prompt, valid, batches=False)
    key = row_keys(name, key, (), temperature)
    check_states(name, state, None)
    steps = None if steps is None else int(steps)
    room = 0 if scores is None else (steps or 0)
    return TokenStream(
        model, sampling, stop_tokens(name, stop), steps, room, prompt, valid, key, state
    )


class TokenStream(Iterator[int]):
    """An iterator of tokens, as ints; `stream_tokens` makes it.

    Attributes:
        state: the state after the prompt and all but the last token yielded; before the first
            token, the state that was passed.
    """

    def __init__(
        self,
        model: Any,
        sampling: Sampling,
        stops: tuple[int, ...],
        steps: int | None,
        room: int,
        prompt: Array,
        valid: Array | None,
        key: Array,
        state: Any,
    ):
        """Begins a stream of checked arguments; call `stream_tokens` instead.

        Args:
            model: as in `stream_tokens`.
            sampling: the checked options of sampling.
            stops: the tokens that end the stream.
            steps: how many tokens to draw at most; None: no limit.
            room: length of the array of tokens that the function `scores` gets.
            prompt: (time,) int32.
            valid: (time,) bool, or None.
            key: a typed PRNG key.
            state: the state before the prompt.
        """
        self.state = state
        self._model, self._sampling, self._key, self._stops = model, sampling, key, stops
        self._steps, self._room = steps, room
        self._begin = prompt, valid
        self._drawn = 0
        self._last: tuple[Array, History] | None = None
        self._ended = False

    def __next__(self) -> int:
        """Draws the next token."""
        if self._ended:
            raise StopIteration
        model, sampling, key = self._model, self._sampling, self._key
        if self._last is None:
            token, history, state = _first(
                model, sampling, *self._begin, key, self.state, self._stops, self._room
            )
        else:
            index = jnp.asarray(self._drawn)
            token, history, state = _next(model, sampling, *self._last, index, key, self.state)
        number = int(token)
        self._last, self.state = (token, history), state
        self._drawn += 1
        self._ended = number in self._stops or self._drawn == self._steps
        return number


class _Plan(NamedTuple):
    """What a call of `generate` asks for.

    Attributes:
        sampling: how a token is drawn.
        stops: tokens that end a row.
        steps: how many tokens.
        pad: the token after a stop.
    """

    sampling: Sampling
    stops: tuple[int, ...]
    steps: int
    pad: Array


@eqx.filter_jit
def _generate(
    model: Any, plan: _Plan, prompt: Array, valid: Array | None, key: Array, state: Any
) -> tuple[Array, Any]:
    row = functools.partial(_row, model, plan)
    tokens, state = (jax.vmap(row) if prompt.ndim == 2 else row)(prompt, valid, key, state)
    if valid is not None:
        tokens = jnp.where(jnp.any(valid, axis=-1, keepdims=True), tokens, plan.pad)
    return tokens, state


def _row(
    model: Any, plan: _Plan, prompt: Array, valid: Array | None, key: Array, state: Any
) -> tuple[Array, Any]:
    """One row's tokens and state."""
    sampling, stops, steps, pad = plan
    first, history, state = _read(model, sampling, prompt, valid, key, state, stops, steps)

    def step(carry: tuple[Array, History, Any], index: Array) -> tuple[Any, Array]:
        token, history, state = _step(model, sampling, *carry[:2], index, key, carry[2])
        return (token, history, state), token

    if not stops:
        (_, _, state), rest = jax.lax.scan(step, (first, history, state), jnp.arange(1, steps))
        return jnp.concatenate([first[None], rest]), state

    def is_going(carry: tuple[Array, Any, Array]) -> Array:
        index, (token, _, _), _ = carry
        return (index < steps) & ~jnp.any(token == jnp.asarray(stops, jnp.int32))

    def go(carry: tuple[Array, Any, Array]) -> tuple[Array, Any, Array]:
        index, last, tokens = carry
        last, token = step(last, index)
        return index + 1, last, tokens.at[index].set(token)

    tokens = jnp.full(steps, pad, jnp.int32).at[0].set(first)
    start = jnp.asarray(1), (first, history, state), tokens
    _, (_, _, state), tokens = jax.lax.while_loop(is_going, go, start)
    return tokens, state


def _read(
    model: Any,
    sampling: Sampling,
    prompt: Array,
    valid: Array | None,
    key: Array,
    state: Any,
    stops: tuple[int, ...],
    room: int,
) -> tuple[Array, History, Any]:
    """Reads the prompt and draws the first token."""
    if valid is None:
        logits, state = model(prompt, state)
        last = logits[-1]
    else:
        logits, state = model(prompt, state, valid=valid)
        last = logits[prompt.shape[0] - 1 - jnp.argmax(valid[::-1])]
    vocabulary = logits.shape[-1]
    if stops and stops[-1] >= vocabulary:
        raise ValueError(
            f"{sampling.name}: stop tokens must be below the vocabulary of {vocabulary}, got "
            f"{stops[-1]}"
        )
    history = sampling.begin(prompt, valid, vocabulary, room)
    token = sampling.draw(last, history, jax.random.fold_in(key, 0))
    return token, history.add(token), state


def _step(
    model: Any,
    sampling: Sampling,
    token: Array,
    history: History,
    index: Array,
    key: Array,
    state: Any,
) -> tuple[Array, History, Any]:
    """Reads one token and draws the next."""
    logits, state = model(token[None], state)
    token = sampling.draw(logits[-1], history, jax.random.fold_in(key, index))
    return token, history.add(token), state


_first, _next = eqx.filter_jit(_read), eqx.filter_jit(_step)
