"""What sequence layers are made of: projections, a short convolution, norms, gates, heads, rotary.

Everything takes one sequence (time, width); matrices are (out, in). What is carried along a stream
and what decides about stability (unit keys, gates) is float32 at least, whatever the parameters.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ._masks import Mask, blank, documents, to_front

EPS = 1e-6


class LayerState(NamedTuple):
    """What a layer carries along a stream; structure, shapes and dtypes never change.

    Attributes:
        tail: the last inputs of the short convolution, (window - 1, channels).
        memory: the memories of all heads, leading axis heads.
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
        if window is not None and window < 0:
            raise ValueError(
                f"ShortConvolution: the window is a number of tokens, 0 or None for no "
                f"convolution, got {window}"
            )
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


def is_count(value: Any) -> bool:
    """Whether a value is a whole number of things, at least one."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and int(value) >= 1


def known_number(value: Any) -> float | None:
    """The real number that a scalar is, of Python, numpy or jax; None if it is none, or traced."""
    if isinstance(value, Tracer) or np.ndim(value):
        return None
    array = np.asarray(value)
    real = jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)
    return float(array) if real else None


def check_sizes(name: str, width: int, heads: int, **others: int | None) -> None:
    """Refuses sizes that are no whole numbers from one, and heads that do not divide the width."""
    sizes = {"width": width, "heads": heads, **others}
    for what, size in sizes.items():
        whole = isinstance(size, (int, np.integer)) and not isinstance(size, bool)
        if not whole and not (size is None and what in others):
            raise ValueError(f"{name}: {what} must be a whole number, got {size!r}")
    if width < 1 or heads < 1 or width % heads:
        raise ValueError(
            f"{name}: heads must divide the width into equal parts of at least one channel, got "
            f"width={width} and heads={heads}"
        )
    for what, size in others.items():
        if size is not None and size < 1:
            raise ValueError(f"{name}: {what} must be at least 1, got {size}")


def check_floating(name: str, *arrays: Array) -> None:
    """Refuses queries, keys and values that cannot hold what is read from a memory."""
    if any(not jnp.issubdtype(a.dtype, jnp.floating) for a in arrays):
        raise ValueError(
            f"{name}: queries, keys and values must be of floating point, got "
            f"{', '.join(str(a.dtype) for a in arrays)}; cast them with astype"
        )


def check_input(name: str, x: Any, width: int | None) -> Array:
    """Refuses all but one sequence of this width (None: of any), of floating point.

    Returns:
        x as an array of jax.
    """
    shape = getattr(x, "shape", None)
    if shape is None or len(shape) != 2 or width not in (None, shape[1]):
        got = f"a {type(x).__name__}" if shape is None else str(shape)
        raise ValueError(
            f"{name}: one sequence of shape (time, {width or 'width'}) is expected, got {got}; "
            "make lists arrays, and for a batch use jax.vmap"
        )
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"{name}: the sequence must be of floating point, got {x.dtype}; embed tokens, or cast "
            "numbers with astype"
        )
    return jnp.asarray(x)


def check_key(name: str, key: Any) -> None:
    """Refuses all but one typed PRNG key."""
    dtype = getattr(key, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key) or key.shape:
        if dtype is None:
            got = repr(key)
        elif jnp.issubdtype(dtype, jax.dtypes.prng_key):
            got = f"{key.shape} of them; for a batch use jax.vmap"
        else:
            got = f"{dtype} of shape {key.shape}, as the older jax.random.PRNGKey gives"
        raise ValueError(
            f"{name}: key must be one typed PRNG key; pass jax.random.key(seed). Got {got}"
        )


def check_state(name: str, state: Any, init_state: Callable[[], Any]) -> None:
    """Refuses a state of another kind of layer, or of other sizes.

    Args:
        name: of the layer, for the error.
        state: as given by the user.
        init_state: the layer's own, which gives the kind and the shapes; nothing is computed.
    """
    like = jax.eval_shape(init_state)
    repair = "pass a state that this layer returned, or its init_state()"
    if type(state) is not type(like):
        raise ValueError(
            f"{name}: state must be a {type(like).__name__}, got a {type(state).__name__}; {repair}"
        )
    given, own = (jax.tree_util.tree_leaves_with_path(s) for s in (state, like))
    if len(given) != len(own):
        raise ValueError(
            f"{name}: state must hold {len(own)} arrays, got {len(given)}, as a layer with other "
            f"options has; {repair}"
        )
    for (path, leaf), (_, expected) in zip(given, own, strict=True):
        if jnp.shape(leaf) != expected.shape:
            raise ValueError(
                f"{name}: state{jax.tree_util.keystr(path)} must be of shape {expected.shape}, got "
                f"{jnp.shape(leaf)}; {repair}, and for a batch use jax.vmap"
            )
