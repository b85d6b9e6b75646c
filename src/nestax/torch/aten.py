"""What PyTorch's core operations are in JAX, by their names.

`torch` writes a function down as a graph of these operations (the core ATen set). Each is given
here with torch's conventions where JAX' differ, those of derivatives at ties among them.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import layers


def _dims(x: Any, dim: Any) -> tuple[int, ...]:
    if dim is None or (isinstance(dim, (list, tuple)) and not dim):
        return tuple(range(x.ndim))
    return tuple(d % max(x.ndim, 1) for d in ([dim] if isinstance(dim, int) else dim))[: x.ndim]


def _together(function: Callable) -> Callable:
    """Elementwise, with arrays of lower rank given leading axes."""

    def run(*given: Any) -> Any:
        rank = max(jnp.ndim(one) for one in given)
        return function(
            *(
                one.reshape((1,) * (rank - one.ndim) + one.shape) if hasattr(one, "ndim") else one
                for one in given
            )
        )

    return run


_add, _multiply, _where = _together(jnp.add), _together(jnp.multiply), _together(jnp.where)
_le = _together(jnp.less_equal)


def _abs(x: Any) -> Any:
    # The derivative of jnp.abs is 1 at 0; torch's is 0.
    return jnp.abs(x) if jnp.iscomplexobj(x) else x * jax.lax.stop_gradient(jnp.sign(x))


def _root(x: Any) -> Any:
    """The square root, with derivative 0 at 0, as norms and deviations have it in torch."""
    return jnp.where(x == 0, 0, jnp.sqrt(jnp.where(x == 0, 1, x)))


def _norm(x: Any, order: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    axes, size = _dims(x, dim), _abs(x)
    if order == 2:
        return _root(jnp.sum(size * size, axes, keepdims=keepdim))
    if order == 1:
        return jnp.sum(size, axes, keepdims=keepdim)
    if abs(order) == math.inf:
        return (jnp.max if order > 0 else jnp.min)(size, axes, keepdims=keepdim)
    if order <= 0:
        raise NotImplementedError(f"a norm of order {order}")
    if order < 1:  # an element that is 0 has derivative 0
        powers = jnp.where(size == 0, 0, jnp.where(size == 0, 1, size) ** order)
    else:
        powers = size**order
    total = jnp.sum(powers, axes, keepdims=keepdim)
    return jnp.where(total == 0, 0, jnp.where(total == 0, 1, total) ** (1 / order))


def _sign(x: Any) -> Any:
    # torch's sign of nan is 0.
    return jnp.where(jnp.isnan(x), 0, jnp.sign(x))


@_together
def _atan2(y: Any, x: Any) -> Any:
    # At the origin the derivative is 0.
    origin = (y == 0) & (x == 0)
    at = jnp.arctan2(y, jnp.where(origin, 1, x))
    return jnp.where(origin, jax.lax.stop_gradient(jnp.arctan2(y, x)), at)


@_together
def _xlogy(x: Any, y: Any) -> Any:
    nothing = (x == 0) & ((y <= 0) | jnp.isinf(y))
    return x * jnp.log(jnp.where(nothing, 1, y))


def _wide(function: Callable) -> Callable:
    """Computed in 32 bits where the arrays have 16, as torch does it."""

    def run(*args: Any, **kwargs: Any) -> Any:
        short = (jnp.float16, jnp.bfloat16)
        args = tuple(
            one.astype(jnp.float32) if getattr(one, "dtype", None) in short else one for one in args
        )
        return function(*args, **kwargs)

    return run


def _scaled(alpha: Any, x: Any) -> Any:
    return x if alpha == 1 else _multiply(x, alpha)


@_together
def _truncated(x: Any, y: Any) -> Any:
    dtype = jnp.result_type(x, y)
    return jax.lax.div(*jnp.broadcast_arrays(jnp.asarray(x, dtype), jnp.asarray(y, dtype)))


def _div(x: Any, y: Any, rounding_mode: str | None = None) -> Any:
    if rounding_mode is None:
        return _together(jnp.true_divide)(x, y)
    if rounding_mode == "floor":
        return _together(jnp.floor_divide)(x, y)
    if not jnp.issubdtype(jnp.result_type(x, y), jnp.inexact):
        return _truncated(x, y)
    return jnp.trunc(_together(jnp.true_divide)(x, y))


def _clamp(x: Any, least: Any = None, most: Any = None) -> Any:
    # On a bound that is a number the derivative is 0, as in recent versions of torch.
    if hasattr(least, "ndim") or hasattr(most, "ndim"):
        x = x if least is None else _together(jnp.maximum)(x, least)
        return x if most is None else _together(jnp.minimum)(x, most)
    x = x if least is None else jnp.where(x <= least, least, x)
    return x if most is None else jnp.where(x >= most, most, x)


def _pow(x: Any, y: Any) -> Any:
    if isinstance(y, (int, float)) and float(y).is_integer() and 0 <= y < 64:
        return jax.lax.integer_pow(x, int(y))
    if isinstance(y, float) and y == 0.5:
        return jnp.sqrt(x)
    # 0**0 has derivative 0.
    if hasattr(x, "ndim") and hasattr(y, "ndim"):
        x = _where(_together(jnp.logical_and)(x == 0, y == 0), 1, x)
    return _together(jnp.power)(x, y)


def _remainder(exact: Callable, rounded: Callable) -> Callable:
    # x - rounded(x / y) * y has these derivatives, but not to the last digit this value.
    @jax.custom_jvp
    def rest(x: Any, y: Any) -> Any:
        return exact(x, y)

    @rest.defjvp
    def _(given: tuple, tangents: tuple) -> tuple:
        (x, y), (dx, dy) = given, tangents
        out = rest(x, y)
        times = jnp.where(jnp.isinf(y), rounded(x / y), jnp.round((x - out) / y))
        return out, dx - times * dy

    def run(x: Any, y: Any) -> Any:
        dtype = jnp.result_type(x, y)
        if not jnp.issubdtype(dtype, jnp.inexact):
            return exact(x, y)
        return rest(*jnp.broadcast_arrays(jnp.asarray(x, dtype), jnp.asarray(y, dtype)))

    return _together(run)


def _sum(x: Any, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    return jnp.sum(x, _dims(x, dim), keepdims=keepdim)


def _mean(x: Any, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    return jnp.mean(x, _dims(x, dim), keepdims=keepdim)


def _var(x: Any, dim: Any = None, correction: Any = 1, keepdim: bool = False) -> Any:
    axes = _dims(x, dim)
    count = math.prod(x.shape[a] for a in axes)
    centered = x - jnp.mean(x, axes, keepdims=True)
    return jnp.sum(centered * jnp.conj(centered), axes, keepdims=keepdim) / max(
        count - (1 if correction is None else correction), 0
    )


def _of_dim(reduce: Callable, index: Callable) -> Callable:
    def run(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
        if dim is None:
            return reduce(x)
        # The derivative goes to the element that was taken, not to all that are as large.
        at = index(jax.lax.stop_gradient(x), axis=dim, keepdims=True)
        taken = jnp.take_along_axis(x, at, axis=dim)
        return (taken, at) if keepdim else (jnp.squeeze(taken, dim), jnp.squeeze(at, dim))

    return run


def _arg(index: Callable) -> Callable:
    def run(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
        if dim is None:
            return index(x.reshape(-1), axis=0).reshape((1,) * (x.ndim if keepdim else 0))
        return index(x, axis=dim, keepdims=keepdim)

    return run


def _slice(x: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Any:
    index = [slice(None)] * x.ndim
    index[dim] = slice(start, end, step)
    return x[tuple(index)]


def _select(x: Any, dim: int, index: int) -> Any:
    return x[(slice(None),) * (dim % x.ndim) + (index,)]


def _slice_scatter(
    x: Any, source: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Any:
    index = [slice(None)] * x.ndim
    index[dim] = slice(start, end, step)
    return x.at[tuple(index)].set(source)


def _split(x: Any, size: Any, dim: int = 0) -> list:
    total = x.shape[dim]
    sizes = [size] * math.ceil(total / size) if isinstance(size, int) else list(size)
    return jnp.split(x, np.cumsum(sizes)[:-1].tolist(), axis=dim)


def _expand(x: Any, size: Sequence[int], implicit: bool = False) -> Any:
    own = (1,) * (len(size) - x.ndim) + x.shape
    goal = [mine if wanted == -1 else wanted for mine, wanted in zip(own, size, strict=True)]
    return jnp.broadcast_to(x.reshape(own), goal)


def _squeeze(x: Any, dim: Any = None) -> Any:
    return jnp.squeeze(x, tuple(d for d in _dims(x, dim) if x.shape[d] == 1))


def _permute(x: Any, dims: Sequence[int]) -> Any:
    return jnp.transpose(x, [d % x.ndim for d in dims])


def _sort(x: Any, dim: int = -1, descending: bool = False, stable: bool = True) -> tuple:
    at = jnp.argsort(jax.lax.stop_gradient(x), axis=dim, descending=descending)
    return jnp.take_along_axis(x, at, axis=dim), at


def _topk(x: Any, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> tuple:
    found, at = _sort(x, dim, descending=largest)
    return _slice(found, dim, 0, k), _slice(at, dim, 0, k)


def _index(x: Any, indices: Sequence[Any]) -> Any:
    at = tuple(slice(None) if one is None else one for one in indices)
    return x.at[at].get(mode="fill")


def _gather(x: Any, dim: int, index: Any, sparse_grad: bool = False) -> Any:
    if x.ndim == 0:
        return x
    x = x[
        tuple(slice(None) if a == dim % x.ndim else slice(0, n) for a, n in enumerate(index.shape))
    ]
    return jnp.take_along_axis(x, layers.in_range(index, x.shape[dim]), axis=dim, mode="fill")


def _addmm(x: Any, a: Any, b: Any, beta: Any = 1, alpha: Any = 1) -> Any:
    product = _scaled(alpha, a @ b)
    return _add(_scaled(beta, x), product) if beta else product


def _filled(size: Any, value: Any = 0, *ignored: Any, **others: Any) -> Any:
    return jnp.full(tuple(size), value)


def _arange(*bounds: Any, **ignored: Any) -> Any:
    return jnp.arange(*bounds)


def _same(x: Any, *ignored: Any, **others: Any) -> Any:
    return x


def _cast(x: Any, *ignored: Any, **others: Any) -> Any:
    return x  # every result is given the dtype that torch's has


OPERATIONS: dict[str, Callable] = {
    "add": lambda x, y, alpha=1: _add(x, _scaled(alpha, y)),
    "sub": lambda x, y, alpha=1: _together(jnp.subtract)(x, _scaled(alpha, y)),
    "rsub": lambda x, y, alpha=1: _together(jnp.subtract)(y, _scaled(alpha, x)),
    "mul": _multiply,
    "div": _div,
    "pow": _pow,
    "neg": jnp.negative,
    "abs": _abs,
    "sign": _sign,
    "exp": jnp.exp,
    "expm1": jnp.expm1,
    "log": jnp.log,
    "log1p": jnp.log1p,
    "log2": jnp.log2,
    "sqrt": jnp.sqrt,
    "rsqrt": jax.lax.rsqrt,
    "reciprocal": jnp.reciprocal,
    "sin": jnp.sin,
    "cos": jnp.cos,
    "tanh": jnp.tanh,
    "atan": jnp.arctan,
    "atan2": _atan2,
    "xlogy": _xlogy,
    "binary_cross_entropy": _wide(layers.binary_cross_entropy),
    "fmod": _remainder(jnp.fmod, jnp.trunc),
    "remainder": _remainder(jnp.mod, jnp.floor),
    "isnan": jnp.isnan,
    "isinf": jnp.isinf,
    "erf": jax.lax.erf,
    "floor": lambda x: jnp.floor(x) if jnp.issubdtype(x.dtype, jnp.inexact) else x,
    "round": jnp.round,
    "sigmoid": jax.nn.sigmoid,
    "relu": jax.nn.relu,
    "gelu": lambda x, approximate="none": jax.nn.gelu(x, approximate=approximate == "tanh"),
    "silu": jax.nn.silu,
    "elu": _wide(layers.elu),
    "leaky_relu": lambda x, slope=0.01: jnp.where(x > 0, x, x * slope),
    "hardtanh": lambda x, min_val=-1, max_val=1: _clamp(x, min_val, max_val),
    "softplus": _wide(layers.softplus),
    "log_sigmoid_forward": lambda x: (jax.nn.log_sigmoid(x), None),
    "clamp": lambda x, min=None, max=None: _clamp(x, min, max),
    "clamp_min": _clamp,
    "clamp_max": lambda x, most: _clamp(x, None, most),
    "maximum": _together(jnp.maximum),
    "minimum": _together(jnp.minimum),
    "where": _where,
    "masked_fill": lambda x, mask, value: _where(mask, value, x),
    "eq": _together(jnp.equal),
    "ne": _together(jnp.not_equal),
    "lt": _together(jnp.less),
    "le": _le,
    "gt": _together(jnp.greater),
    "ge": _together(jnp.greater_equal),
    "logical_and": _together(jnp.logical_and),
    "logical_or": _together(jnp.logical_or),
    "logical_not": jnp.logical_not,
    "bitwise_and": _together(jnp.bitwise_and),
    "bitwise_or": _together(jnp.bitwise_or),
    "bitwise_not": jnp.bitwise_not,
    "mm": jnp.matmul,
    "bmm": jnp.matmul,
    "mv": jnp.matmul,
    "dot": jnp.dot,
    "addmm": _addmm,
    "baddbmm": _addmm,
    "convolution": layers.convolution,
    "sum": _sum,
    "mean": _mean,
    "var": _wide(_var),
    "amax": lambda x, dim=(), keepdim=False: jnp.max(x, _dims(x, dim), keepdims=keepdim),
    "amin": lambda x, dim=(), keepdim=False: jnp.min(x, _dims(x, dim), keepdims=keepdim),
    "max": _of_dim(jnp.max, jnp.argmax),
    "min": _of_dim(jnp.min, jnp.argmin),
    "argmax": _arg(jnp.argmax),
    "argmin": _arg(jnp.argmin),
    "any": lambda x, dim=None, keepdim=False: jnp.any(x, _dims(x, dim), keepdims=keepdim),
    "all": lambda x, dim=None, keepdim=False: jnp.all(x, _dims(x, dim), keepdims=keepdim),
    "sort": _sort,
    "topk": _topk,
    "cumsum": lambda x, dim, dtype=None: jnp.cumsum(x, dim),
    "_softmax": _wide(layers.softmax),
    "_safe_softmax": _wide(layers.safe_softmax),
    "_log_softmax": _wide(layers.log_softmax),
    "linalg_vector_norm": _wide(_norm),
    "std": _wide(lambda *args, **kwargs: _root(_var(*args, **kwargs))),
    "native_layer_norm": _wide(layers.layer_norm),
    "native_group_norm": _wide(layers.group_norm),
    "_native_batch_norm_legit_no_training": _wide(layers.batch_norm),
    "native_batch_norm": _wide(layers.any_batch_norm),
    "max_pool2d_with_indices": layers.max_pool,
    "avg_pool2d": _wide(layers.avg_pool),
    "_adaptive_avg_pool2d": _wide(layers.adaptive_avg_pool),
    "constant_pad_nd": layers.pad,
    "embedding": layers.embedding,
    "gather": _gather,
    "index": _index,
    "index_select": lambda x, dim, index: jnp.take(
        x, layers.in_range(index, x.shape[dim]), axis=dim, mode="fill"
    ),
    "view": lambda x, size: x.reshape(tuple(size)),
    "_unsafe_view": lambda x, size: x.reshape(tuple(size)),
    "reshape": lambda x, size: x.reshape(tuple(size)),
    "expand": _expand,
    "permute": _permute,
    "t": lambda x: x.T,
    "transpose": lambda x, a, b: jnp.swapaxes(x, a, b) if x.ndim else x,
    "unsqueeze": jnp.expand_dims,
    "squeeze": _squeeze,
    "slice": _slice,
    "select": _select,
    "slice_scatter": _slice_scatter,
    "select_scatter": lambda x, source, dim, index: _slice_scatter(
        x, jnp.expand_dims(source, dim), dim, index, index + 1 or None
    ),
    "split": _split,
    "split_with_sizes": _split,
    "unbind": lambda x, dim=0: [_select(x, dim, i) for i in range(x.shape[dim])],
    "cat": lambda arrays, dim=0: jnp.concatenate(arrays, dim),
    "stack": lambda arrays, dim=0: jnp.stack(arrays, dim),
    "flip": jnp.flip,
    "repeat": lambda x, repeats: jnp.tile(x, tuple(repeats)),
    "tril": lambda x, diagonal=0: jnp.tril(x, diagonal),
    "triu": lambda x, diagonal=0: jnp.triu(x, diagonal),
    "empty": _filled,
    "empty_permuted": lambda size, order, **ignored: _filled(size),
    "fill": lambda x, value: jnp.broadcast_to(jnp.asarray(value), x.shape),
    "full": _filled,
    "zeros": _filled,
    "ones": lambda size, **ignored: _filled(size, 1),
    "full_like": lambda x, value, **ignored: jnp.full(x.shape, value),
    "zeros_like": lambda x, **ignored: jnp.zeros_like(x),
    "ones_like": lambda x, **ignored: jnp.ones_like(x),
    "scalar_tensor": lambda value, **ignored: jnp.asarray(value),
    "arange": _arange,
    "clone": _same,
    "copy": lambda x, source, non_blocking=False: jnp.broadcast_to(source, x.shape),
    "alias": _same,
    "lift_fresh_copy": _same,
    "_to_copy": _cast,
    "detach": jax.lax.stop_gradient,
}

# Operations whose arguments torch first brings to one dtype: that of the result, or of both sides.
PROMOTED = frozenset(
    ("add", "sub", "rsub", "mul", "div", "pow", "atan2", "xlogy", "fmod", "remainder", "clamp",
     "clamp_min", "clamp_max", "maximum", "minimum", "where", "sum", "mean", "cumsum")
)  # fmt: skip
COMPARED = frozenset(("eq", "ne", "lt", "le", "gt", "ge"))
