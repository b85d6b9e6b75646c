r"""Generalized gradient descent: a linearised loss, and retention of several past weights.

Source: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), eq. (59-60),

    W+ = argmin_W  L(W; x, u) + Ret(W, {W_i}_{i = t-c+1 .. t}),    u = f_{W_t}(x),

which names no loss and no retention. As printed it is not well defined: a loss that is not convex
has several minimisers or none, and most pairs have no closed form. Here the loss is linearised,
as in gradient descent, and retention is a weighted sum of Bregman divergences: then the minimiser
exists, is unique and closed.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jaxtyping import Array, PyTree

from ._checks import Rate, Scalar, number, option, rate
from ._precision import guarded

Map = Callable[[Any], Any]


class GeneralizedState(NamedTuple):
    """State of `generalized_gradient_descent`.

    Attributes:
        count: updates so far, for the schedule of the learning rate.
        past: the weights before the present ones, newest first.
    """

    count: Any
    past: tuple[PyTree, ...]


def generalized_gradient_descent(
    learning_rate: Rate,
    retention: Sequence[Scalar] = (1.0,),
    mirror: str | tuple[Map, Map] | None = None,
    scale: Scalar = 1.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Gradient descent that stays near the last c weights, in a chosen geometry.

        W+ = argmin_W  <W, g_t> + (1/eta) sum_{i<c} gamma_i D_psi(W, W_{t-i})

        grad psi(W+) = [sum_i gamma_i grad psi(W_{t-i}) - eta g_t] / sum_i gamma_i

    with the Bregman divergence `D_psi(A, B) = psi(A) - psi(B) - <grad psi(B), A - B>`. Before the
    first step all past weights equal the initial ones.

    The objective is strictly convex if sum_i gamma_i > 0, even if some gamma_i are negative.
    Without a mirror, (1,) is gradient descent; (1, -b / (1 + b)) is exactly heavy-ball momentum b
    at the rate (1 + b) eta; (1, b / (1 - b)) is heavy-ball momentum -b at the rate (1 - b) eta.

    Mirrors, coordinatewise:

    * None: psi = W^2 / 2, Euclidean distance.
    * `"entropy"`: psi = W log W - W, the generalised Kullback-Leibler divergence, for positive
      parameters: exponentiated gradient, W+ = W exp(-eta g) for (1,). A weight that reaches zero
      counts as the smallest positive number.
    * `"hypentropy"`: grad psi = arcsinh(W / scale), for both signs: multiplicative where |W| is
      far above `scale`, additive (at the rate eta scale) where |W| is far below.
    * `(dual, primal)`: grad psi and its inverse, each a function of one tensor.

    Two parts of (59) are not offered, because they have no minimiser in closed form: a loss that is
    not linearised (for one layer's squared error see `delta_gradient_descent`), and retention that
    is not a Bregman divergence.

    Args:
        learning_rate: eta, a float or a schedule. It acts inside the mirror, so scaling the
            returned update afterwards gives another algorithm.
        retention: gamma_0 (of the present weights), gamma_1 (of the weights before), ...; their sum
            must be positive.
        mirror: the geometry, see above.
        scale: of `"hypentropy"`, positive.

    Returns:
        An optax transformation whose update needs the parameters, `update(gradients, state,
        params)`. Its state contains a `GeneralizedState`, with c - 1 copies of the parameters,
        float32 at least.

    Raises:
        ValueError: retention is empty or its sum is not positive; an unknown mirror; a scale that
            is not positive; at init, parameters that are not positive under `"entropy"` (if their
            values are known), not floating-point arrays, or complex with a mirror; at update, no
            params.

    Source: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), eq. (59-60), with the
    loss linearised. Exponentiated gradient: Kivinen and Warmuth (1997); hypentropy: Ghai, Hazan and
    Singer (2020).
    """
    name = "generalized_gradient_descent"
    gammas, scale = _checked(name, retention, mirror, scale)
    eta: Any = rate(name, learning_rate)
    total = sum(gammas)
    weights = [gamma / total for gamma in gammas]
    dual, stepped = _geometry(mirror, scale)

    def init(params: PyTree) -> GeneralizedState:
        if mirror == "entropy":
            _refuse_nonpositive(params)
        # One copy per slot: buffers may be donated.
        past = tuple(jax.tree.map(jnp.copy, params) for _ in weights[1:])
        return GeneralizedState(jnp.zeros((), jnp.int32), past)

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, GeneralizedState]:
        del extra
        if params is None:
            raise ValueError(
                f"{name}: the weights are part of the objective; call "
                "update(gradients, state, params)"
            )
        step = eta(state.count) if callable(eta) else eta

        def move(g: Array, w: Array, *past: Array) -> Array:
            shift = -(jnp.asarray(step, w.dtype) / total) * g.astype(w.dtype)
            for gamma, old in zip(weights[1:], past, strict=True):
                shift = shift + gamma * (dual(old) - dual(w))
            return stepped(w, shift)

        moved = jax.tree.map(move, updates, params, *state.past)
        past = (params, *state.past[:-1]) if state.past else ()
        return moved, GeneralizedState(optax.safe_increment(state.count), past)

    tx = optax.GradientTransformationExtraArgs(init, update)
    return guarded(name, tx, complex_numbers=mirror is None)


def _geometry(mirror: Any, scale: Any) -> tuple[Map, Callable[[Any, Any], Array]]:
    """grad psi, and (W, s) -> (grad psi)^-1(grad psi(W) + s) - W without cancellation."""
    if mirror is None:
        return lambda w: w, lambda w, s: s
    if mirror == "entropy":

        def multiplied(w: Array, s: Array) -> Array:
            return _floored(w) * jnp.expm1(s) + (_floored(w) - w)

        return lambda w: jnp.log(_floored(w)), multiplied
    if mirror == "hypentropy":

        def stepped(w: Array, s: Array) -> Array:
            b = jnp.asarray(scale, w.dtype)
            return 2 * w * jnp.square(jnp.sinh(s / 2)) + jnp.hypot(w, b) * jnp.sinh(s)

        return lambda w: jnp.arcsinh(w / scale), stepped
    forward, backward = mirror
    return forward, lambda w, s: backward(forward(w) + s) - w


def _floored(w: Array) -> Array:
    # A zero would stay one for ever, and its logarithm spoil what is averaged with it; what is
    # truly negative is left to become nan.
    tiny = jnp.finfo(w.dtype).tiny
    return jnp.where(jnp.abs(w) < tiny, tiny, w)


def _refuse_nonpositive(params: PyTree) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if isinstance(leaf, Tracer) or bool(jnp.all(jnp.asarray(leaf) > 0)):
            continue
        raise ValueError(
            'generalized_gradient_descent: mirror="entropy" is for positive parameters, and '
            f"params{jax.tree_util.keystr(path)} has others; use "
            '"hypentropy", or optax.masked'
        )


def _checked(name: str, retention: Any, mirror: Any, scale: Any) -> tuple[list[float], Any]:
    """The numbers of retention, and scale."""
    plain = isinstance(retention, Sequence) and not isinstance(retention, str)
    if not plain or len(retention) == 0 or any(isinstance(gamma, Tracer) for gamma in retention):
        raise ValueError(
            f"{name}: retention must hold one number per remembered iterate, the present one "
            f"first, got {retention!r}"
        )
    gammas = [number(name, f"retention[{i}]", g, -math.inf) for i, g in enumerate(retention)]
    if not 0 < sum(gammas) < math.inf:
        raise ValueError(
            f"{name}: the weights of retention must sum to a positive number, or the objective "
            f"has no minimiser; got {tuple(retention)}"
        )
    pair = isinstance(mirror, tuple) and len(mirror) == 2 and all(map(callable, mirror))
    if mirror is not None and not pair:
        names = ("entropy", "hypentropy")
        expected = 'None, "entropy", "hypentropy" or a pair of functions (grad psi and its inverse)'
        option(name, "mirror", mirror, names, expected)
    scale = number(name, "scale", scale, -math.inf)
    if isinstance(scale, float) and not scale > 0:
        raise ValueError(f"{name}: scale must be positive, got {scale}")
    return gammas, scale
