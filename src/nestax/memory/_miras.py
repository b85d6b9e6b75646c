"""The rules of Miras: robust errors, and retentions that are not a plain decay.

Source: Behrouz et al., "It's all connected: a journey through test-time memorization, attentional
bias, retention, and online optimization" (Miras, 2025), section 5; here for linear memories.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from ._arguments import check_pair, check_write
from ._objectives import check_power, check_threshold, huber, l2, lp
from ._rules import Key, Memory, Scalar, Value, step


def moneta(
    state: tuple[Memory, Memory],
    key: Key,
    value: Value,
    rate: Scalar,
    retain: Scalar = 1.0,
    p: float = 3.0,
    q: float = 4.0,
) -> tuple[Memory, Memory]:
    """A <- a A - eta e k',  M = sign(A) |A|^(q-1) / |A|_q^(q-2): l_p errors, l_q retention.

    The paper prints M = A / |A|_q^(q-2), which is not the minimiser it is derived from: the
    gradient of |A|_q^2 / 2, entry by entry. For q = 2 both are A.

    Args:
        state: (M, A), the memory and what was gathered; (0, 0) to begin with.
        key: k.
        value: v.
        rate: eta.
        retain: a, 0 to 1.
        p: of the objective `lp`, 1 or more, static.
        q: 2 or more, static; the norm that is kept small is that of q / (q - 1).

    Raises:
        ValueError: p or q out of range.

    Source: Miras (2025), eq. (24-25).
    """
    check_power("moneta", p)
    if not (isinstance(q, (int, float, np.floating, np.integer)) and 2 <= q < math.inf):
        raise ValueError(
            f"moneta: q must be at least 2 and finite, got {q!r:.60}; 2 is plain decay"
        )
    memory, gathered = check_pair("moneta", "(M, A)", state)
    memory, key, value = check_write("moneta", memory, key, value, rate=rate, retain=retain)
    gathered = retain * gathered + step(memory, key, value, rate, lp(p))
    # Of degree one: the largest entry is taken out, so that powers stay in range.
    top = jnp.max(jnp.abs(gathered))
    size = jnp.abs(gathered) / jnp.where(top == 0, 1, top)
    there = size != 0  # also NaN
    size = jnp.where(there, size, 1)
    norm = jnp.sum(jnp.where(there, size**q, 0)) ** ((q - 2) / q)
    shrunk = gathered * size ** (q - 2) / jnp.where(top == 0, 1, norm)
    return jnp.where(there, shrunk, 0), gathered


def yaad(
    memory: Memory,
    key: Key,
    value: Value,
    rate: Scalar,
    threshold: Scalar,
    retain: Scalar = 1.0,
) -> Memory:
    """M <- a M - eta min(1, d / |M k - v|) (M k - v) k': the delta rule with short errors.

    Stable as `delta` is; a surprise beyond the threshold d moves M no further than one of size d.

    Source: Miras (2025), eq. (26), in the variant that has no jump at the threshold (see `huber`).
    """
    memory, key, value = check_write("yaad", memory, key, value, rate=rate, retain=retain)
    check_threshold("yaad", threshold)
    return retain * memory + step(memory, key, value, rate, huber(threshold))


def memora(memory: Memory, key: Key, value: Value, rate: Scalar, retain: Scalar = 1.0) -> Memory:
    """M <- c softmax(a log M - eta (M k - v) k') over all entries, c = the sum of M's entries.

    A step of mirror descent: entries stay positive and their sum stays what it was, so that rates
    beyond the stable ones saturate instead of diverging. An entry below 1e-19 (in float32) counts
    as that much. Begin with, for example, c / (value key) everywhere: to zeros, whose sum
    is kept, nothing is ever written, and of a memory with a negative entry the outcome is NaN.

    Source: Miras (2025), eq. (27), with the constant of its KL retention (1 in print).
    """
    memory, key, value = check_write("memora", memory, key, value, rate=rate, retain=retain)
    total = jnp.sum(memory)
    # An entry of zero could never come back, and the logarithm has no derivative there. With the
    # root of the smallest number there is room for products of derivatives.
    least = jnp.finfo(memory.dtype).tiny ** 0.5
    positive = jnp.where((memory >= 0) & (memory < least), least, memory)
    logits = retain * jnp.log(positive) + step(memory, key, value, rate, l2)
    return total * jax.nn.softmax(logits, axis=(0, 1))
