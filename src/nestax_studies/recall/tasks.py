"""Tasks of recall: associations of the present sequence, tokens among noise, and lasting ones.

In every task tokens are numbered keys first, then values, then noise, then the others. Examples are
fresh at every step; the published tasks have 12,800 that are seen again and again.

Sources: Arora et al., "Zoology: measuring and improving recall in efficient language models"
(2024), for multi-query associative recall; Poli et al., "Mechanistic design and scaling of hybrid
architectures" (2024), for the six others, called MAD.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from ..sequences.tasks import Draw, Exam, Example, Task, read

_LONGEST = 3  # tokens of a fuzzy key or value, at most
_COUNT = 512  # sequences to judge by
GROUPS = 8  # of numbers of pairs


def _seen(entries: Array, counted: Array) -> Array:
    """(slots,): whether an entry has occurred before, in a slot that counts."""
    same = entries[:, None] == entries[None]
    before = jnp.tril(jnp.ones(same.shape, bool), -1)
    return jnp.any(same & before & jnp.broadcast_to(counted[None], same.shape), axis=1)


def multi_query(length: int, pairs: int, keys: int, values: int) -> Task:
    """Pairs of a key and a value, at most `pairs`, more the larger the place; then, among blanks,
    every key once, in another order, to be answered by its value."""
    blank = keys + values

    def draw(world: Any, key: Array, place: Array) -> Example:
        ks = jax.random.split(key, 4)
        known = jax.random.permutation(ks[0], keys)[:pairs]
        own = keys + jax.random.randint(ks[1], (pairs,), 0, values)
        some = jnp.arange(pairs) < 1 + jnp.floor(place * pairs).astype(jnp.int32)
        told = jnp.where(jnp.repeat(some, 2), jnp.stack([known, own], axis=1).reshape(-1), blank)
        # Places of the questions: any, in any order.
        where = jax.random.permutation(ks[2], length - 2 * pairs)[:pairs]
        rest = jnp.full(length - 2 * pairs, blank)
        asked = rest.at[where].set(jnp.where(some, known, blank))
        answers = jnp.zeros_like(rest).at[where].set(jnp.where(some, own, 0))
        tokens = jnp.concatenate([told, asked])
        targets = jnp.concatenate([jnp.zeros_like(told), answers])
        return Example(tokens, targets, targets > 0)

    return _task(blank + 1, length, draw, groups=GROUPS)


def in_context(length: int, keys: int, values: int, noise: float = 0.0, kinds: int = 0) -> Task:
    """Keys, each followed by its value in this sequence; a key that has occurred is to be answered
    by its value. Two tokens of noise stand in the place of this share of pairs."""

    def draw(world: Any, key: Array, place: Array) -> Example:
        ks = jax.random.split(key, 4)
        slots = length // 2
        own = keys + jax.random.randint(ks[0], (keys,), 0, values)
        entries = jax.random.randint(ks[1], (slots,), 0, keys)
        clear = jax.random.uniform(ks[2], (slots,)) >= noise
        pair = jnp.stack([entries, own[entries]], axis=1)
        if kinds:
            other = keys + values + jax.random.randint(ks[3], pair.shape, 0, kinds)
            pair = jnp.where(jnp.broadcast_to(clear[:, None], pair.shape), pair, other)
        asked = _seen(entries, clear) & clear
        return Example(
            pair.reshape(-1),
            jnp.stack([own[entries], 0 * entries], axis=1).reshape(-1),
            jnp.stack([asked, jnp.zeros_like(asked)], axis=1).reshape(-1),
        )

    return _task(keys + values + kinds, length, draw)


def _motifs(count: int) -> tuple[Array, Array]:
    """Every sequence of one to three tokens: tokens (motifs, 3), lengths (motifs,)."""
    every = [m for n in range(1, _LONGEST + 1) for m in itertools.product(range(count), repeat=n)]
    padded = [(*m, *(0,) * (_LONGEST - len(m))) for m in every]
    return jnp.asarray(padded), jnp.asarray([len(m) for m in every])


def fuzzy(length: int, entries: int, keys: int, values: int) -> Task:
    """In-context recall where keys and values are of one to three tokens each. A sequence has
    `entries` keys, all different; every token of the value of one that has occurred is asked for,
    each after the one before it."""
    (key_tokens, key_sizes), (value_tokens, value_sizes) = _motifs(keys), _motifs(values)

    def draw(world: Any, key: Array, place: Array) -> Example:
        ks = jax.random.split(key, 3)
        own = jax.random.permutation(ks[0], len(key_sizes))[:entries]
        theirs = jax.random.randint(ks[1], (entries,), 0, len(value_sizes))
        chosen = jax.random.randint(ks[2], (length // 2,), 0, entries)
        k, v = key_sizes[own[chosen]], value_sizes[theirs[chosen]]
        ends = jnp.cumsum(k + v)
        time = jnp.arange(length + 1)  # the last token is asked for, not read
        slot = jnp.searchsorted(ends, time, side="right")
        inside = time - (ends - k - v)[slot]
        in_value = inside >= k[slot]
        entry = chosen[slot]
        key_token = key_tokens[own[entry], jnp.minimum(inside, _LONGEST - 1)]
        place_ = jnp.clip(inside - k[slot], 0, _LONGEST - 1)
        value_token = keys + value_tokens[theirs[entry], place_]
        tokens = jnp.where(in_value, value_token, key_token)
        seen = _seen(chosen, jnp.ones_like(chosen, bool))[slot]
        return Example(tokens[:-1], tokens[1:], (in_value & seen)[1:])

    return _task(keys + values, length, draw)


def copying(length: int, content: int, kinds: int) -> Task:
    """Tokens at any places among blanks, then as many requests, answered by them in their order."""
    blank, request = kinds, kinds + 1

    def draw(world: Any, key: Array, place: Array) -> Example:
        ks = jax.random.split(key)
        body = length - content
        where = jnp.sort(jax.random.permutation(ks[0], body)[:content])
        what = jax.random.randint(ks[1], (content,), 0, kinds)
        tokens = jnp.full(length, blank).at[where].set(what).at[body:].set(request)
        targets = jnp.zeros(length, jnp.int32).at[body:].set(what)
        return Example(tokens, targets, jnp.arange(length) >= body)

    return _task(kinds + 2, length, draw)


def memorization(length: int, keys: int, values: int) -> Task:
    """Keys, each followed by a request for its value, which is the same in all sequences of a run
    and never shown."""

    def draw(world: Int[Array, " keys"], key: Array, place: Array) -> Example:
        shown = jax.random.randint(key, (length // 2,), 0, keys)
        request = jnp.full_like(shown, keys + values)
        own = world[shown]
        return Example(
            jnp.stack([shown, request], axis=1).reshape(-1),
            jnp.stack([0 * own, own], axis=1).reshape(-1),
            jnp.arange(2 * len(shown)) % 2 == 1,
        )

    def world(key: Array) -> Int[Array, " keys"]:
        return keys + jax.random.randint(key, (keys,), 0, values)

    return _task(keys + values + 1, length, draw, world=world)


def compression(length: int, kinds: int, size: int) -> Task:
    """Random tokens and an end, at which the model's `size` scores are all that two layers have to
    tell every token from, given its number."""

    def draw(world: Any, key: Array, place: Array) -> Example:
        shown = jax.random.randint(key, (length + 1,), 0, kinds)
        asked = jnp.arange(length + 1) < length
        tokens = jnp.where(asked, shown, kinds)
        return Example(tokens, jnp.where(asked, shown, 0), asked)

    def wrap(model: Any, key: Array) -> Any:
        ks = jax.random.split(key, 3)
        hidden = 2 * size
        return {
            "model": model,
            "place": jax.random.normal(ks[0], (length + 1, size)),
            "up": jax.random.normal(ks[1], (hidden, size)) * size**-0.5,
            "down": jax.random.normal(ks[2], (kinds, hidden)) * hidden**-0.5,
        }

    def answer(trained: Any, tokens: Array, piece: int | None) -> Array:
        told = read(trained["model"], tokens, piece)[-1]
        x = trained["place"] + jnp.broadcast_to(told[None], trained["place"].shape)
        x = x * jax.lax.rsqrt(jnp.mean(x**2, axis=1, keepdims=True) + 1e-6)
        return jax.nn.gelu(x @ trained["up"].T) @ trained["down"].T

    return _task(max(size, kinds + 1), length + 1, draw, wrap=wrap, answer=answer)


def _task(vocabulary: int, length: int, draw: Draw, groups: int = 1, **options: Any) -> Task:
    tests = {"test": Exam(draw, _COUNT, groups=groups)}
    return Task(vocabulary, draw, tests, "test", length, **options)


class Kind(NamedTuple):
    """A kind of task: its label, what makes it, and what that is given under each preset."""

    label: str
    make: Callable[..., Task]
    small: tuple[Any, ...]
    full: tuple[Any, ...]


TASKS = {
    "mqar": Kind("multi-query recall", multi_query, (32, 8, 16, 16), (256, 64, 512, 512)),
    "recall": Kind("in-context recall", in_context, (32, 8, 8), (128, 8, 8)),
    "fuzzy": Kind("fuzzy recall", fuzzy, (40, 4, 4, 4), (128, 8, 8, 8)),
    "noisy": Kind("noisy recall", in_context, (40, 8, 8, 0.2, 8), (128, 8, 8, 0.2, 16)),
    "copying": Kind("selective copying", copying, (32, 6, 8), (256, 16, 16)),
    "compression": Kind("compression", compression, (12, 8, 32), (32, 16, 128)),
    "memorization": Kind("memorization", memorization, (32, 64, 64), (32, 256, 256)),
}
