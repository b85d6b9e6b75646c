"""M3: momentum on two clocks, both read through Newton-Schulz.

Source: Behrouz et al., "Nested Learning" (2025), Algorithm 1 (Multi-scale Momentum Muon). As
printed its memories never decay and its step is a direction of fixed size divided by the root of a
growing sum of squared gradients: steps shrink as the gradient's scale grows and the other way
round. `literal=True` is that form; by default memories are averages and what is divided by is the
root mean square of the direction itself (as in AdaMuon, Si et al. 2025).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from ._axes import Axes, Layout, Matrices, check_axes, check_layout, matrices
from ._checks import Rate, Scalar, number, static, whole
from ._decay import Mask, finished
from ._descent import over_rms
from ._matrices import check_newton_schulz
from ._matrices import newton_schulz as _newton_schulz
from ._moments import fairly, rooted
from ._precision import as_before


class M3State(NamedTuple):
    """State of `m3`: five buffers per tensor, shaped like the parameters.

    Attributes:
        count: updates so far, int32.
        fast: M1, the momentum written at every update.
        slow: M2, the momentum written once in a period.
        second: sqrt(V), real; it neither underflows nor overflows where V would.
        gathered: the sum of the gradients of the present period.
        slow_direction: Newton-Schulz of the slow momentum.
    """

    count: Array
    fast: PyTree
    slow: PyTree
    second: PyTree
    gathered: PyTree
    slow_direction: PyTree


def m3(
    learning_rate: Rate,
    *,
    fast: Scalar = 0.9,
    slow: Scalar = 0.9,
    second: Scalar = 0.99,
    slow_weight: Scalar = 0.5,
    period: int = 32,
    steps: int = 5,
    coefficients: str | tuple[float, float, float] = "quintic",
    eps: Scalar = 1e-8,
    literal: bool = False,
    weight_decay: Scalar = 0.0,
    mask: Mask | None = None,
    axes: Axes = None,
    layout: Layout = "out_in",
) -> optax.GradientTransformationExtraArgs:
    r"""Multi-scale momentum Muon: momentum on two clocks, both read through Newton-Schulz.

        M1 <- b1 M1 + (1 - b1) G                              every update
        M2 <- b3 M2 + (1 - b3) mean of the last chunk's G     every `period` updates
        U  =  NS(M1) + slow_weight NS(M2)
        V  <- b2 V + (1 - b2) |U|^2
        W  <- W - learning_rate U / (sqrt(V / (1 - b2^t)) + eps)

    Steps have a root mean square of about `learning_rate`, whatever the scale of the loss. The slow
    memory is first used after `period` updates. `literal=True` is the algorithm as printed: nothing
    decays, gradients are added with the weights b, and steps grow without bound as gradients
    shrink:

        M1 += b1 G,  M2 += b3 sum of the last chunk's G,  V += b2 |G|^2
        W  <- W - learning_rate (NS(M1) + slow_weight NS(M2)) / sqrt(V + eps)

    A bias is a matrix of one column, which Newton-Schulz divides by its norm. Derivatives are
    finite if a gradient has always been zero, but may be as large as 1 / eps.

    Args:
        learning_rate: float or schedule.
        fast: b1, in [0, 1); in the literal form any number from 0 on.
        slow: b3, as `fast`.
        second: b2, as `fast`.
        slow_weight: alpha of the printed algorithm, at least 0.
        period: updates per chunk, at least 1; a static number.
        steps: of Newton-Schulz, a static number; 0 reads the memories as they are.
        coefficients: of Newton-Schulz, see `newton_schulz`; the paper's is `"cubic"`.
        eps: added to the root; in the literal form added under it.
        literal: whether to use the printed form.
        weight_decay: decoupled: `learning_rate * weight_decay * W` is subtracted as well.
        mask: which parameters decay, a tree of bools or a function of the parameters; None: all.
        axes: for tensors of three or more axes, which of them form the matrix, see `muon`.
        layout: `"out_in"` for W x (equinox), `"in_out"` for x W (flax).

    Returns:
        An optax transformation; its state contains an `M3State`, float32 at least. Under `vmap` the
        slow memory's Newton-Schulz runs at every update.

    Raises:
        ValueError: an argument outside the ranges above.

    Source: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), Algorithm 1. Its
    sums of period + 1 gradients are read as sums of `period` gradients. Division by the direction's
    own root mean square: Si et al., "AdaMuon" (2025).

    Example:
        ```python
        optimizer = nx.optim.m3(0.1, period=2)
        weights = {"w": jnp.zeros((2, 2))}
        state = optimizer.init(weights)
        updates, state = optimizer.update({"w": jnp.full((2, 2), 1e6)}, state, weights)
        print(updates["w"][0].round(3))  # [-0.1 -0.1]
        ```
    """
    static("m3", period=period, steps=steps)
    high = float("inf") if literal else 1
    fast, slow, second = (
        number("m3", name, value, 0, high, below=not literal)
        for name, value in (("fast", fast), ("slow", slow), ("second", second))
    )
    slow_weight = number("m3", "slow_weight", slow_weight)
    eps = number("m3", "eps", eps)
    period = whole("m3", "period", period)
    check_newton_schulz("m3", steps, coefficients)
    check_axes("m3", axes)
    check_layout("m3", layout)

    def read(memory: Array, view: Matrices) -> Array:
        if steps == 0:
            return memory
        read_one: Callable[..., Array] = view.each(lambda m: _newton_schulz(m, steps, coefficients))
        return view.back(read_one(view.of(memory)), memory)

    def kept(rate: Scalar, old: Array, new: Array) -> Array:
        found = old + rate * new if literal else rate * old + (1 - rate) * new
        return as_before(found, old)

    def init(params: PyTree) -> M3State:
        matrices("m3", axes, layout, params)
        fast, slow, gathered, direction = (jax.tree.map(jnp.zeros_like, params) for _ in range(4))
        second = jax.tree.map(lambda p: jnp.zeros_like(p.real), params)
        return M3State(jnp.zeros((), jnp.int32), fast, slow, second, gathered, direction)

    def update(updates: PyTree, state: Any, params: PyTree | None = None) -> tuple[PyTree, M3State]:
        del params
        share = 1 if literal else 1 / period
        views = matrices("m3", axes, layout, updates)

        def turn(slow_state: Any) -> Any:
            """A new chunk begins: the last one is stored in the slow memory."""
            memory, gathered, _ = slow_state
            memory = jax.tree.map(lambda m, s: kept(slow, m, share * s), memory, gathered)
            return (
                memory,
                jax.tree.map(jnp.zeros_like, gathered),
                jax.tree.map(read, memory, views),
            )

        slow_state = (state.slow, state.gathered, state.slow_direction)
        due = (state.count > 0) & (state.count % period == 0)
        memory, gathered, slow_direction = jax.lax.cond(due, turn, lambda s: s, slow_state)
        gathered = jax.tree.map(jnp.add, gathered, updates)
        momentum = jax.tree.map(lambda m, g: kept(fast, m, g), state.fast, updates)
        direction = jax.tree.map(
            lambda m, view, o: as_before(read(m, view) + slow_weight * o, o),
            momentum,
            views,
            slow_direction,
        )
        squared = updates if literal else direction
        second_kept, second_added = (1, second) if literal else (second, 1 - second)
        moment = jax.tree.map(
            lambda v, u: as_before(rooted(second_kept, v, second_added, u), v),
            state.second,
            squared,
        )
        count = state.count + 1
        if literal:
            said = jax.tree.map(lambda u, v: over_rms(u, under_root(v, eps)), direction, moment)
        else:
            said = jax.tree.map(
                lambda u, v: over_rms(u, fairly(v, second, count) + eps), direction, moment
            )
        return said, M3State(count, momentum, memory, moment, gathered, slow_direction)

    core = optax.GradientTransformation(init, update)
    return finished("m3", core, learning_rate, weight_decay, mask)


def under_root(v: Array, eps: Scalar) -> Array:
    """sqrt(V + eps) from sqrt(V)."""
    return rooted(1, v, eps, jnp.ones_like(v))
