"""What layers of PyTorch are in JAX: the operations of the core ATen set with several parts."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def in_range(index: Any, size: int) -> Any:
    """Indices of which negative ones are out of range too: what is read there is nan."""
    return jnp.where(index < 0, size, index)


def embedding(
    weight: Any, index: Any, padding_idx: int = -1, scale: bool = False, sparse: bool = False
) -> Any:
    if scale:
        raise NotImplementedError("embedding with scale_grad_by_freq=True")
    if padding_idx >= 0:
        weight = weight.at[padding_idx].set(jax.lax.stop_gradient(weight[padding_idx]))
    return weight.at[in_range(index, weight.shape[0])].get(mode="fill")


def log_softmax(x: Any, dim: int, half_to_float: bool = False) -> Any:
    return jax.nn.log_softmax(x, dim) if x.ndim else jnp.zeros_like(x)


def softmax(x: Any, dim: int, half_to_float: bool = False) -> Any:
    return jax.nn.softmax(x, dim) if x.ndim else jnp.ones_like(x)


def safe_softmax(x: Any, dim: int, dtype: Any = None) -> Any:
    dead = jnp.all(x == -jnp.inf, dim, keepdims=True)
    return jnp.where(dead, 0, jax.nn.softmax(jnp.where(dead, 0, x), dim))


def _affine(x: Any, weight: Any, bias: Any, axes: tuple[int, ...]) -> Any:
    def placed(one: Any) -> Any:
        shape = [1] * x.ndim
        for axis, size in zip(axes, one.shape, strict=True):
            shape[axis] = size
        return one.reshape(shape)

    x = x if weight is None else x * placed(weight)
    return x if bias is None else x + placed(bias)


def layer_norm(x: Any, shape: Any, weight: Any, bias: Any, eps: float) -> tuple:
    axes = tuple(range(x.ndim - len(shape), x.ndim))
    mean = jnp.mean(x, axes, keepdims=True)
    scale = jax.lax.rsqrt(jnp.mean((x - mean) ** 2, axes, keepdims=True) + eps)
    return _affine((x - mean) * scale, weight, bias, axes), mean, scale


def group_norm(
    x: Any, weight: Any, bias: Any, n: int, c: int, size: int, groups: int, eps: float
) -> tuple:
    rows = x.reshape(n, groups, -1)
    mean = jnp.mean(rows, 2, keepdims=True)
    scale = jax.lax.rsqrt(jnp.mean((rows - mean) ** 2, 2, keepdims=True) + eps)
    out = ((rows - mean) * scale).reshape(x.shape)
    return _affine(out, weight, bias, (1,)), mean[..., 0], scale[..., 0]


def batch_norm(
    x: Any, weight: Any, bias: Any, mean: Any, var: Any, momentum: float, eps: float
) -> tuple:
    shape = (1, -1, *(1,) * (x.ndim - 2))
    out = (x - mean.reshape(shape)) * jax.lax.rsqrt(var + eps).reshape(shape)
    return _affine(out, weight, bias, (1,)), jnp.zeros(0, x.dtype), jnp.zeros(0, x.dtype)


def any_batch_norm(
    x: Any, weight: Any, bias: Any, mean: Any, var: Any, training: bool, momentum: float, eps: float
) -> tuple:
    if training:
        axes = (0, *range(2, x.ndim))
        mean, var = jnp.mean(x, axes), jnp.var(x, axes)
    return batch_norm(x, weight, bias, mean, var, momentum, eps)[0], None, None


def convolution(
    x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool,
    output_padding: Any, groups: int,
) -> Any:  # fmt: skip
    if transposed:
        raise NotImplementedError("a transposed convolution")
    out = jax.lax.conv_general_dilated(
        x, weight, tuple(stride), [(p, p) for p in padding], rhs_dilation=tuple(dilation),
        feature_group_count=groups,
    )  # fmt: skip
    return _affine(out, None, bias, (1,))


def _two(value: Any) -> tuple[int, int]:
    value = [value] if isinstance(value, int) else list(value)
    return (value[0], value[0]) if len(value) == 1 else (value[0], value[1])


def max_pool(
    x: Any, size: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil: bool = False
) -> tuple:
    if ceil:
        raise NotImplementedError("max_pool2d with ceil_mode=True")
    front = (1,) * (x.ndim - 2)
    edges = [(0, 0)] * len(front) + [(p, p) for p in _two(padding)]
    out = jax.lax.reduce_window(
        x, -jnp.inf, jax.lax.max, front + _two(size), front + _two(stride or size), edges,
        window_dilation=front + _two(dilation),
    )  # fmt: skip
    return out, None


def avg_pool(
    x: Any, size: Any, stride: Any = (), padding: Any = 0, ceil: bool = False,
    count_padding: bool = True, divisor: Any = None,
) -> Any:  # fmt: skip
    if ceil or (not count_padding and any(_two(padding))):
        raise NotImplementedError("avg_pool2d with ceil_mode=True or count_include_pad=False")
    front = (1,) * (x.ndim - 2)
    edges = [(0, 0)] * len(front) + [(p, p) for p in _two(padding)]
    total = jax.lax.reduce_window(
        x, 0.0, jax.lax.add, front + _two(size), front + _two(stride or size), edges
    )
    return total / (divisor or math.prod(_two(size)))


def adaptive_avg_pool(x: Any, size: Any) -> Any:
    if any(have % want for have, want in zip(x.shape[-2:], size, strict=True)):
        raise NotImplementedError("adaptive_avg_pool2d whose output does not divide its input")
    return avg_pool(x, [have // want for have, want in zip(x.shape[-2:], size, strict=True)])


def pad(x: Any, pad: Sequence[int], value: Any = 0) -> Any:
    edges = [(0, 0, 0)] * x.ndim
    for axis in range(len(pad) // 2):
        edges[-1 - axis] = (pad[2 * axis], pad[2 * axis + 1], 0)
    return jax.lax.pad(x, jnp.asarray(value, x.dtype), edges)


def elu(x: Any, alpha: Any = 1, scale: Any = 1, input_scale: Any = 1) -> Any:
    negative = alpha * jnp.expm1(jnp.where(x > 0, 0, x) * input_scale)
    return scale * jnp.where(x > 0, x, negative)


def softplus(x: Any, beta: Any = 1, threshold: Any = 20) -> Any:
    linear = x * beta > threshold
    return jnp.where(linear, x, jnp.logaddexp(jnp.where(linear, 0, x) * beta, 0) / beta)


@jax.custom_jvp
def _cross_entropy(p: Any, target: Any) -> Any:
    least = -100.0  # torch's bound for logarithms
    yes, no = jnp.maximum(jnp.log(p), least), jnp.maximum(jnp.log1p(-p), least)
    return (target - 1) * no - target * yes


@_cross_entropy.defjvp
def _(given: tuple, tangents: tuple) -> tuple:
    (p, target), (dp, dt) = given, tangents
    by_p = (p - target) / jnp.maximum((1 - p) * p, 1e-12)
    return _cross_entropy(p, target), by_p * dp + (jnp.log1p(-p) - jnp.log(p)) * dt


def binary_cross_entropy(p: Any, target: Any, weight: Any = None, reduction: int = 1) -> Any:
    out = _cross_entropy(p, target)
    out = (
        out
        if weight is None
        else out
        * jnp.broadcast_to(
            weight.reshape((1,) * (out.ndim - weight.ndim) + weight.shape), out.shape
        )
    )
    return (out, jnp.mean(out), jnp.sum(out))[reduction]
