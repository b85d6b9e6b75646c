"""What sequence layers are made of: projections, a short convolution, norms, gates, heads, rotary.

Everything takes one sequence (time, width); matrices are (out, in). What is carried along a stream
and what decides about stability (unit keys, gates) is float32 at least, whatever the parameters.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ._checks import check_floating as check_floating
from ._checks import is_count as is_count
from ._checks import whole_or_none
from ._masks import Mask, blank, documents, to_front

EPS = 1e-6


class LayerState(NamedTuple):
    """State of `DeltaMemory`, `LinearAttention` and `TitansMemory` along a stream.

    Its structure, shapes and dtypes never change.

    Attributes:
        tail: the last inputs of the short convolution, (window - 1, channels).
        memory: the memories of all heads, with a leading axis heads.
    """

    tail: Float[Array, "tail channels"]
    memory: Any


def wide(dtype: Any) -> Any:
    """The dtype of what is carried: float32, or what is given where that is wider."""
    return jnp.promote_types(dtype, jnp.float32)


def widened(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x in float32 at least."""
    return x.astype(wide(x.dtype))


def matrix(key: PRNGKeyArray, rows: int, columns: int, scale: float = 1.0) -> Array:
    """A random map (out, in) that keeps the mean square: normal with variance scale^2 / in."""
    return scale * columns**-0.5 * jax.random.normal(key, (rows, columns))


def linear(weight: Float[Array, "out in"], x: Float[Array, "time in"]) -> Float[Array, "time out"]:
    """x W': the matrix applied to every token."""
    return x @ weight.T


def unit(x: Float[Array, "*rest size"], eps: float = EPS) -> Float[Array, "*rest size"]:
    r"""x / sqrt(|x|^2 + eps), along the last axis, in float32 at least.

    The norm never exceeds one, which is what the stability of erasing needs; at zero the answer is
    zero and has a gradient.
    """
    x = widened(x)
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + eps)


def rms_norm(
    x: Float[Array, "*rest size"], scale: Float[Array, " size"] | None = None, eps: float = EPS
) -> Float[Array, "*rest size"]:
    """x over its root mean square along the last axis, times a scale; the dtype of x is kept."""
    inner = widened(x)
    inner = inner * jax.lax.rsqrt(jnp.mean(jnp.square(inner), axis=-1, keepdims=True) + eps)
    if scale is not None:
        inner = inner * jnp.broadcast_to(scale.astype(inner.dtype), x.shape)
    return inner.astype(x.dtype)


def rotary(
    x: Float[Array, "*rest time size"], positions: Int[Array, " time"], base: float = 10_000.0
) -> Float[Array, "*rest time size"]:
    """Turns pairs of coordinates (i, i + size / 2) by their position's angles (Su et al. 2021).

    Args:
        x: queries or keys; size must be even.
        positions: of each token in the stream.
        base: of the wavelengths, in tokens.
    """
    size = x.shape[-1]
    if size % 2:
        raise ValueError(f"rotary: coordinates are turned in pairs, pass an even size, got {size}")
    wave = base ** (-jnp.arange(0, size, 2, dtype=wide(x.dtype)) / size)
    angle = jnp.outer(positions.astype(wave.dtype), wave)
    a, b = jnp.split(widened(x), 2, axis=-1)
    cosine, sine = (jnp.broadcast_to(f(angle), a.shape) for f in (jnp.cos, jnp.sin))
    turned = jnp.concatenate([a * cosine - b * sine, a * sine + b * cosine], axis=-1)
    return turned.astype(x.dtype)


def split_heads(x: Float[Array, "time channels"], heads: int) -> Float[Array, "heads time size"]:
    """Channels cut into heads, heads first."""
    return jnp.swapaxes(x.reshape(x.shape[0], heads, x.shape[1] // heads), 0, 1)


def merge_heads(x: Float[Array, "heads time size"]) -> Float[Array, "time channels"]:
    """The inverse of `split_heads`."""
    return jnp.swapaxes(x, 0, 1).reshape(x.shape[1], x.shape[0] * x.shape[2])


class ShortConvolution(eqx.Module):
    """A causal convolution of every channel on its own, y_t = sum_j w_j x_{t-j}, j < window.

    Attributes:
        weight: (channels, window), the present token's first; None for a window of 0, which passes
            everything on as it is.
    """

    weight: Float[Array, "channels window"] | None
    channels: int = eqx.field(static=True)

    def __init__(self, channels: int, window: int | None, *, key: PRNGKeyArray):
        window = whole_or_none("ShortConvolution", "window", window, 0)
        self.channels = channels
        self.weight = matrix(key, channels, window) if window else None

    def init_state(self, dtype: Any = jnp.float32) -> Float[Array, "tail channels"]:
        """The tail at the beginning of a stream: zeros."""
        window = 1 if self.weight is None else self.weight.shape[1]
        return jnp.zeros((window - 1, self.channels), wide(dtype))

    def __call__(
        self,
        x: Float[Array, "time channels"],
        tail: Float[Array, "tail channels"],
        valid: Mask | None = None,
        reset: Mask | None = None,
    ) -> tuple[Float[Array, "time channels"], Float[Array, "tail channels"]]:
        """The convolved tokens, and the tail that the next piece of the stream begins with.

        Windows hold valid tokens of one document. Where a token is not valid the answer is zero,
        and what stood there reaches nothing.
        """
        time = x.shape[0]
        if self.weight is None or not time:
            return blank(x, valid), tail
        front = None if valid is None else to_front(valid)
        document = None if reset is None else documents(reset)
        if front is not None:
            x = front.take(x)
            document = None if document is None else front.label(document)
        owner = None
        weight = self.weight.astype(x.dtype)
        window = weight.shape[1]
        padded = jnp.concatenate([tail.astype(x.dtype), x])
        if document is not None:
            owner = jnp.concatenate([jnp.zeros(window - 1, document.dtype), document])
        y = jnp.zeros_like(x)
        for j in range(window):
            start = window - 1 - j
            seen = padded[start : start + time]
            if owner is not None and j:
                seen = blank(seen, owner[start : start + time] == document)
            y = y + seen * jnp.broadcast_to(weight[:, j], x.shape)
        if front is None:
            tail_of = lambda a: a[time:]  # noqa: E731
        else:
            y = front.back(y)
            tail_of = lambda a: jax.lax.dynamic_slice_in_dim(a, front.count, window - 1)  # noqa: E731
        last = tail_of(padded)
        if owner is not None and document is not None:
            last = blank(last, tail_of(owner) == document[-1])
        return y, last.astype(tail.dtype)


class Gate(eqx.Module):
    """One number in (0, 1) per head and token: sigmoid(W x + b), in float32 at least."""

    weight: Float[Array, "heads width"]
    bias: Float[Array, " heads"]

    def __init__(self, width: int, bias: Float[Array, " heads"], *, key: PRNGKeyArray):
        self.weight = matrix(key, bias.shape[0], width)
        self.bias = bias

    def __call__(self, x: Float[Array, "time width"]) -> Float[Array, "heads time"]:
        """The gates of all heads."""
        logits = widened(linear(self.weight.astype(x.dtype), x)).T
        bias = self.bias.astype(logits.dtype)
        return jax.nn.sigmoid(logits + jnp.broadcast_to(bias[:, None], logits.shape))


def spread(low: float, high: float, heads: int) -> Float[Array, " heads"]:
    """Biases evenly between two numbers, so that heads begin with different time constants."""
    return low + (high - low) * (jnp.arange(heads) + 0.5) / heads


class GatedOutput(eqx.Module):
    """W_out [ norm(y) * silu(W_gate x) ]: the norm is per head, with a scale per coordinate.

    Source: the output of gated delta nets (Yang, Kautz and Hatamizadeh 2025).
    """

    scale: Float[Array, " size"]
    gate: Float[Array, "channels width"]
    out: Float[Array, "width channels"]

    def __init__(self, width: int, heads: int, size: int, *, key: PRNGKeyArray):
        gate_key, out_key = jax.random.split(key)
        self.scale = jnp.ones(size)
        self.gate = matrix(gate_key, heads * size, width)
        self.out = matrix(out_key, width, heads * size)

    def __call__(
        self, y: Float[Array, "heads time size"], x: Float[Array, "time width"]
    ) -> Float[Array, "time width"]:
        """What the heads read, gated by the layer's input; the dtype of x."""
        normed = merge_heads(rms_norm(y, self.scale)).astype(x.dtype)
        gated = normed * jax.nn.silu(linear(self.gate.astype(x.dtype), x))
        return linear(self.out.astype(x.dtype), gated)
