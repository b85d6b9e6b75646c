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
    """Moneta's write: errors of an l_p loss, retention by an l_q norm.

        A <- a A - eta e k',    M = sign(A) |A|^(q-1) / |A|_q^(q-2)

    The paper prints M = A / |A|_q^(q-2), which is not the minimiser that it is derived from, the
    gradient of |A|_q^2 / 2. For q = 2 both are A.

    Args:
        state: (M, A), the memory and the gathered writes, (value, key) each; begin with zeros.
        key: k, of shape (key,).
        value: v, of shape (value,).
        rate: eta, 0 or more.
        retain: a, 0 to 1.
        p: of the objective `lp`, 1 or more, static.
        q: 2 or more, static; the norm that is kept small has the exponent q / (q - 1).

    Returns:
        The new (M, A).

    Raises:
        ValueError: p or q out of range, a known rate or retention out of range; shapes that do not
            fit.

    Source: Behrouz et al., "It's all connected" (Miras, 2025), eq. (24-25).
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
    """Yaad's write: the delta rule with errors of a bounded length.

        M <- a M - eta min(1, d / |M k - v|) (M k - v) k'

    It is stable under the same condition as `delta`. An error longer than the threshold d moves M
    as far as an error of length d.

    Args:
        memory: M, of shape (value, key).
        key: k, of shape (key,).
        value: v, of shape (value,).
        rate: eta, 0 or more.
        threshold: d, above 0.
        retain: a, 0 to 1.

    Returns:
        The new memory, (value, key).

    Raises:
        ValueError: a known rate, threshold or retention out of range; shapes that do not fit.

    Source: Behrouz et al., "It's all connected" (Miras, 2025), eq. (26), in the variant that has no
    jump at the threshold (see `huber`).
    """
    memory, key, value = check_write("yaad", memory, key, value, rate=rate, retain=retain)
    check_threshold("yaad", threshold)
    return retain * memory + step(memory, key, value, rate, huber(threshold))


def memora(memory: Memory, key: Key, value: Value, rate: Scalar, retain: Scalar = 1.0) -> Memory:
    """Memora's write: a step of mirror descent that keeps entries positive and their sum constant.

        M <- c softmax(a log M - eta (M k - v) k')    over all entries, c the sum of M's entries

    Rates above the stable ones saturate instead of diverging. An entry below 1e-19 (in float32)
    counts as 1e-19. Begin with equal positive entries: a memory of zeros stays zero, and a
    negative entry gives NaN.

    Args:
        memory: M, of shape (value, key).
        key: k, of shape (key,).
        value: v, of shape (value,).
        rate: eta, 0 or more.
        retain: a, 0 to 1.

    Returns:
        The new memory, (value, key).

    Raises:
        ValueError: a known rate or retention out of range; shapes that do not fit.

    Source: Behrouz et al., "It's all connected" (Miras, 2025), eq. (27), with the constant of its
    KL retention (1 in print).
    """
    memory, key, value = check_write("memora", memory, key, value, rate=rate, retain=retain)
    total = jnp.sum(memory)
    # An entry of zero could never come back, and the logarithm has no derivative there. With the
    # root of the smallest number there is room for products of derivatives.
    least = jnp.finfo(memory.dtype).tiny ** 0.5
    positive = jnp.where((memory >= 0) & (memory < least), least, memory)
    logits = retain * jnp.log(positive) + step(memory, key, value, rate, l2)
    return total * jax.nn.softmax(logits, axis=(0, 1))
