r"""Delta gradient descent: the proximal step on a layer's output, its decay keyed by its input.

Source: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), eq. (56-57), appendix C,

    W+ = argmin_W  1/2 |W x - u|^2 + 1/(2 eta) |W - W_t|_F^2,    u = -delta = -dL/dy,  y = W_t x
       = W_t - eta (W_t x + delta) x' / (1 + eta |x|^2).

Equation (57) prints eta / (1 + eta) for eta / (1 + eta |x|^2), which holds for |x| = 1 only. The
step of the conference version, W (I - x x') - eta delta x', is the explicit one with its decay not
multiplied by eta; its pull diverges for |x|^2 > 2. The implicit step above shrinks W along x by
1 / (1 + eta |x|^2), which lies in (0, 1) for every input.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from .._checks import Rate, Scalar, array, number, option
from .._checks import rate as checked_rate
from .._precision import guarded
from ._local_gradient import Params, local_linear


def delta_gradient_descent(learning_rate: Rate) -> optax.GradientTransformationExtraArgs:
    """Delta gradient descent, `W <- W - learning_rate g` for the gradients of `delta_layers`.

    The rule is in the gradients that `delta_layers` and `delta_linear` return, (W_t - W+) / rate.
    The step ends at the minimiser W+ if `learning_rate` equals the layers' `rate`; with a smaller
    one it stops earlier, with a larger one it overshoots. Any other optax transformation may take
    its place (momentum, Adam, clipping); the step then is not the minimiser. Parameters outside
    such layers have ordinary gradients and take the ordinary step.

    Args:
        learning_rate: a finite number of at least 0, or a schedule.

    Returns:
        An optax transformation.

    Raises:
        ValueError: a negative or infinite learning rate; parameters or gradients that are not
            floating-point or complex arrays.

    Source: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), eq. (57).

    Example:
        ```python
        weight, x = jnp.array([[1.0, 0.0]]), jnp.array([[2.0, 0.0]])
        loss = lambda weight: nx.optim.delta_linear(weight, x, rate=0.5).sum()
        optimizer = nx.optim.delta_gradient_descent(0.5)
        updates, _ = optimizer.update(jax.grad(loss)(weight), optimizer.init(weight), weight)
        print(optax.apply_updates(weight, updates)[0])  # [0. 0.]
        ```
    """
    name = "delta_gradient_descent"
    tx = optax.sgd(checked_rate(name, learning_rate))
    return guarded(name, tx, complex_numbers=True)


def delta_gradient(
    weight: Array | np.ndarray,
    inputs: Array | np.ndarray,
    errors: Array | np.ndarray,
    rate: Scalar,
    decay: Scalar = 1.0,
    reduction: str = "mean",
    explicit: bool = False,
) -> Float[Array, "..."]:
    r"""The gradient g for which `W - rate g` is exactly delta gradient descent's step on a batch.

    With n rows X = `inputs`, D = `errors` = dL/d(X W') and lambda = `decay` / n (`"mean"`) or
    `decay` (`"sum"`),

        W+ = argmin_W  <W X', D'> + (lambda / 2) |W X'|_F^2 + 1/(2 rate) |W - W_t|_F^2
           = W_t - rate g,    g = (lambda W_t X' + D') (I + rate lambda X X')^-1 X

    by Cholesky of the smaller of the n x n and the in x in system. With `decay=0`, g is the
    ordinary gradient D' X; as `rate` goes to 0, it is D' X + lambda W_t X' X. The paper's rule is
    one row with `decay=1`. The result is differentiable by all arrays, and by `rate` and `decay`.

    If inputs are so large that I is lost in the rounding of the matrix above (rate lambda |X|_F^2
    beyond 800 in float32 if there are more rows than inputs, beyond 2e6 otherwise), the step is
    the minimiser for a smaller rate.

    The decay shrinks outputs by factors in (0, 1) for every |x| and rate. Descent converges to the
    point where lambda W x + delta = 0, which is not the minimum of the loss: for
    `|W x - t|^2 / 2` and `decay=1` it is W x = t / 2. It is stable for every |x| if the curvature
    of the loss by the outputs is at most lambda; delta is constant during the step.

    Args:
        weight: W_t, (out, in).
        inputs: what the layer saw, (..., in); leading axes are rows.
        errors: gradients of the loss by the layer's outputs, (..., out).
        rate: eta > 0, the step of the descent that follows; may be traced.
        decay: lambda >= 0, how much outputs are pulled to zero; may be traced.
        reduction: `"mean"` if the loss is a mean over these rows, so that `errors` contain the
            factor 1/n; `"sum"` if it is their sum.
        explicit: whether to take the explicit step, g = (lambda W_t X' + D') X: no linear solve,
            but W diverges if `rate lambda |X|_2^2 > 2`.

    Returns:
        The gradient, (out, in), in the weight's dtype; computed in float32 at least.

    Raises:
        ValueError: shapes that do not fit, a weight that is not a floating-point array, inputs that
            are not real numbers, an unknown reduction, a rate or decay that is negative or not
            finite.

    Source: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), eq. (56-57) and
    appendix C; the batch form is its proximal objective with n rows.
    """
    name = "delta_gradient"
    weight, inputs = _checked(name, weight, inputs, "inputs")
    errors = array(name, "errors", errors, integers=True)
    rate, decay = check_numbers(name, rate, decay, reduction)
    if errors.shape != (*inputs.shape[:-1], weight.shape[0]):
        raise ValueError(
            f"delta_gradient: errors must have the shape of the layer's outputs, "
            f"{(*inputs.shape[:-1], weight.shape[0])}, got {errors.shape}"
        )
    wide = jnp.promote_types(jnp.result_type(weight, inputs, errors), jnp.float32)
    w = weight.astype(wide)
    x = inputs.astype(wide).reshape(-1, weight.shape[1])
    d = errors.astype(wide).reshape(-1, weight.shape[0])
    rows, features = x.shape
    if rows == 0:
        return jnp.zeros_like(weight)
    each = jnp.asarray(decay, wide) / (rows if reduction == "mean" else 1)
    shrinkage = jnp.asarray(rate, wide) * each
    if explicit or features == 0:
        found = _product(each * _product(w, x.T) + d.T, x)
    elif rows <= features:
        pull = each * _product(w, x.T) + d.T
        # Multiplied by x last, rounding cannot leave the span of the inputs, however ill the solve.
        found = _product(_divided(pull, shrinkage * _product(x, x.T), 0.25), x)
    else:
        gram = _product(x.T, x)
        pull = each * _product(w, gram) + _product(d.T, x)
        found = _divided(pull, shrinkage * gram, 1e-4)
    return found.astype(weight.dtype)


def delta_linear(
    weight: Array | np.ndarray,
    x: Array | np.ndarray,
    rate: Scalar,
    decay: Scalar = 1.0,
    reduction: str = "mean",
    explicit: bool = False,
) -> Float[Array, "..."]:
    """A linear layer, y = x W', whose gradient by W is `delta_gradient`.

    The gradient by x is the true one. Call the layer on a batch, or on single rows under `jax.vmap`
    with the weight not batched: the rule sees all rows of the batch in both cases. Weights that are
    batched together with the inputs are copies of the layer, each with its own rows; the same
    holds for gradients taken inside the `vmap`. A weight that is used in several places (a scan
    over time, a `lax.map` over examples, the shards of `jax.shard_map`) gets the sum of the rule's
    gradients of these places. Under `jax.jit` with sharded arrays the batch is one.

    The rule is not linear in the loss: the gradient of a sum of losses is not the sum of their
    gradients, so gradients of microbatches do not add up to that of the batch. Forward mode gives
    the true derivative. The first reverse derivative of the layer is the rule; derivatives of that
    one, in both modes, are exact: through inner steps, and to `rate` and `decay`. An outer loss
    that calls this layer outside the inner gradient gets the rule as its gradient too; use a plain
    x W' there for the true one.

    Args:
        weight: W, (out, in). A bias added outside keeps its ordinary gradient.
        x: inputs, (..., in); leading axes are rows.
        rate: eta, the learning rate of the descent that follows; may be traced (a schedule's
            value). Its own first derivative is zero.
        decay: lambda, 1 in the paper; 0 gives the ordinary gradient.
        reduction: `"mean"` if the loss is a mean over all rows that the layer sees, else `"sum"`.
        explicit: whether to take the explicit step, see `delta_gradient`.

    Returns:
        y, (..., out), in the dtype of x W'.

    Raises:
        ValueError: shapes that do not fit, a weight that is not a floating-point array, inputs that
            are not real numbers, an unknown reduction, a rate or decay that is negative or not
            finite.

    Source: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), eq. (56-57).

    Example:
        The ordinary gradient is x = 2; the rule's is (w x + 1) x / (1 + rate x^2):

        ```python
        weight, x = jnp.array([[1.0]]), jnp.array([[2.0]])
        loss = lambda weight: nx.optim.delta_linear(weight, x, rate=0.5).sum()
        print(loss(weight), jax.grad(loss)(weight)[0])  # 2.0 [2.]
        ```
    """
    weight, x = _checked("delta_linear", weight, x, "x")
    rate, decay = check_numbers("delta_linear", rate, decay, reduction)
    rows = x.reshape(-1, x.shape[-1])
    y = delta_layer(weight, rows, rate, decay, DeltaRule(reduction, explicit))
    return y.reshape(*x.shape[:-1], weight.shape[0])


@dataclasses.dataclass(frozen=True)
class Convolution:
    """The geometry of y = W * x: x (examples, in, ...), W (out, in, ...)."""

    strides: tuple[int, ...]
    padding: str | tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]

    def apply(self, weight: Array, x: Array) -> Array:
        """The convolution."""
        return jax.lax.conv_general_dilated(
            x, weight, self.strides, self.padding, rhs_dilation=self.dilation
        )

    def patches(self, weight: Array, x: Array) -> Float[Array, "rows in"]:
        """What every output position saw, in the order of the weight's own axes."""
        found = jax.lax.conv_general_dilated_patches(
            x,
            weight.shape[2:],
            self.strides,
            self.padding,
            rhs_dilation=self.dilation,
            precision=jax.lax.Precision.HIGHEST,  # copies, not products
        )
        return _channels_last(found)


@dataclasses.dataclass(frozen=True)
class DeltaRule:
    """Parameters: weight, rate, decay."""

    reduction: str
    explicit: bool = False
    convolution: Convolution | None = None

    @property
    def trainable(self) -> int:
        """The weight."""
        return 1

    def apply(self, params: Params, x: Array) -> Array:
        """x W', or the convolution."""
        if self.convolution is not None:
            return self.convolution.apply(params[0], x)
        return x @ params[0].T

    def gradients(self, params: Params, x: Array, errors: Array) -> list[Array]:
        """The delta gradient."""
        weight, rate, decay = params
        matrix = weight.reshape(weight.shape[0], -1)
        if self.convolution is not None:
            x, errors = self.convolution.patches(weight, x), _channels_last(errors)
        found = delta_gradient(matrix, x, errors, rate, decay, self.reduction, self.explicit)
        return [found.reshape(weight.shape)]


def delta_layer(weight: Array, x: Array, rate: Scalar, decay: Scalar, rule: DeltaRule) -> Array:
    """The layer on inputs with a leading axis of examples."""
    array("delta_layers", "weight", weight)
    wide = jnp.promote_types(weight.dtype, jnp.float32)
    params = [weight, jnp.asarray(rate, wide), jnp.asarray(decay, wide)]
    return local_linear(rule, params, x)


def _channels_last(a: Array) -> Array:
    return jnp.moveaxis(a, 1, -1).reshape(-1, a.shape[1])


def _product(a: Array, b: Array) -> Array:
    # A Gram matrix in a GPU's or TPU's fast precision need not be positive.
    return jnp.matmul(a, b, precision="highest")


def _divided(
    a: Float[Array, "rows k"], gram: Float[Array, "k k"], tolerance: float
) -> Float[Array, "rows k"]:
    """a (I + gram)^-1; gram is symmetric and positive up to rounding.

    Where gram is so large that rounding in it exceeds `tolerance`, in units of I, I is enlarged
    until it does not: the minimiser for a smaller rate, approached by a shorter step.
    """
    k = gram.shape[0]
    if k == 1:
        return a / (1 + gram)
    rounding = jnp.finfo(gram.dtype).eps * jnp.trace(gram)
    unit = jnp.maximum(rounding / tolerance, 1)
    factor = jax.scipy.linalg.cho_factor(gram + unit * jnp.eye(k, dtype=gram.dtype))
    return jax.scipy.linalg.cho_solve(factor, a.T).T


def _checked(name: str, weight: Any, x: Any, argument: str) -> tuple[Array, Array]:
    """The weight and the inputs; integers (counts, pixels) are inputs, but no weights."""
    weight = array(name, "weight", weight)
    x = array(name, argument, x, integers=True)
    if weight.ndim != 2 or x.ndim < 1 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"{name}: a weight (out, in) and inputs (..., in) are expected, got {weight.shape} "
            f"and {x.shape}; a kernel (in, out) is passed transposed"
        )
    if not jnp.issubdtype(x.dtype, jnp.floating):
        x = x.astype(weight.dtype)
    return weight, x


def check_numbers(name: str, rate: Scalar, decay: Scalar, reduction: str) -> tuple[Any, Any]:
    """Ranges of known numbers, as they are computed with; traced ones have no value to look at."""
    option(name, "reduction", reduction, ("mean", "sum"))
    return number(name, "rate", rate), number(name, "decay", decay)
