"""A needle in a haystack: passkeys among noise, asked for at the end.

A passkey is a marker, its name, and its digits; a question is another marker and a name, after
which the digits are asked for one by one, each after the right ones before it. All digits right is
what an answer written freely by the likeliest tokens would need.

Source: Mohtashami and Jaggi, "Landmark attention" (2023), for passkeys; Hsieh et al., "RULER"
(2024), for several of them.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..sequences import Draw, Example

NOISE, NAMES, DIGITS = 16, 4, 10
LENGTH = 4  # digits
BLOCK = LENGTH + 2  # tokens of a passkey: marker, name, digits
_NAME = NOISE
_DIGIT = NOISE + NAMES
_MARK, _ASK = _DIGIT + DIGITS, _DIGIT + DIGITS + 1
VOCABULARY = _ASK + 1
KINDS = {"passkey": 1, "names": NAMES}
LABELS = {"passkey": "one passkey", "names": f"one of {NAMES} passkeys"}


def haystack(length: int, passkeys: int) -> Draw:
    """Sequences of `length` tokens with so many passkeys, at places that are multiples of a
    passkey's length; that which is asked for lies the deeper, the larger the place."""
    slots = (length - BLOCK + 1) // BLOCK  # the last digit is asked for, not read
    if slots < passkeys:
        raise ValueError(
            f"haystack: {passkeys} passkeys and a question take {BLOCK * (passkeys + 1)} tokens, "
            f"got length={length}"
        )

    def draw(world: None, key: Array, place: Array) -> Example:
        ks = jax.random.split(key, 4)
        noise = jax.random.randint(ks[0], (length,), 0, NOISE)
        names = jax.random.permutation(ks[1], NAMES)[:passkeys]
        digits = _DIGIT + jax.random.randint(ks[2], (passkeys, LENGTH), 0, DIGITS)
        asked = jnp.floor(place * slots).astype(jnp.int32)
        # The first is asked for; the others lie in any other slots.
        others = jax.random.permutation(ks[3], slots - 1)[: passkeys - 1]
        where = jnp.concatenate([asked[None], others + (others >= asked)])
        marks = jnp.full((passkeys, 1), _MARK)
        blocks = jnp.concatenate([marks, _NAME + names[:, None], digits], axis=1)
        index = BLOCK * where[:, None] + jnp.arange(BLOCK)[None]
        tokens = noise.at[index].set(blocks)
        question = jnp.concatenate([jnp.stack([jnp.asarray(_ASK), _NAME + names[0]]), digits[0]])
        tokens = tokens.at[length - BLOCK + 1 :].set(question[:-1])
        targets = jnp.zeros_like(tokens).at[length - LENGTH :].set(digits[0])
        return Example(tokens, targets, jnp.arange(length) >= length - LENGTH)

    return draw
