"""Deep momentum gradient descent: momentum whose memory is an MLP that learns while it is used.

Source: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), equation (50),

    W_{t+1} = W_t + m_{t+1}(u_t),    u_t = grad L(W_t),
    m_{t+1} = alpha m_t - eta grad_m L2(m_t; u_t),

with `m` now the weights of an MLP. The paper leaves the inner objective `L2` open ("needs to be
designed carefully"), and what one key is. The readings offered here, by what has to be passed:

* `objective="dot"`: an MLP R -> R for every coordinate, aligned with descent (reading R2);
* `objective="l2"`: the same, predicting the next gradient (R3);
* `memory="rows"`: a matrix memory, an MLP R^b -> R^b on the rows of (out, b) (R4), whose linear
  form with the squared error is the delta rule `m <- m (alpha I - eta k k') - eta P k'`.

A memory keyed by the inputs of a layer rather than by gradients (R5) is `delta_gradient_descent`.

Three simpler objectives fail: `<m(u), 1>` has no target; `|m(u_t) + u_t|^2` has the optimum
`m(u) = -u`, which remembers nothing; and decaying *all* weights of an MLP to zero kills its hidden
units for good. This file therefore fixes the three open points as follows.

* **Keys are of the past, values of the present.** What the memory said for the last gradient is
  compared with the gradient that came: the pair written at step t is (key of step t-1, u_t). With
  the dot product this makes `L2` the derivative of the outer loss itself,
  `grad_m L(W_{t-1} + lr m(key_{t-1})) = lr <u_t, grad_m m(key_{t-1})>`: the memory descends the
  same objective as the weights, one step later. With the squared error it predicts the next
  gradient and so averages away what cannot be predicted.
* **Retention is toward the initial memory**, `m0 + alpha (m - m0)`, which is the printed `alpha m`
  wherever the initial memory is zero (the read-out; a linear memory).
* **The memory is odd** (no biases, tanh), so no direction is preferred, a zero gradient is answered
  by zero, and the first write, whose key is zero, changes nothing. A feature map (eq. 51) is never
  asked about a key of zeros.

What the memory sees is normalized, so that it learns alike at every scale of the loss; what it
says is by default scaled back by the gradient's root mean square, so that steps vanish where the
gradient does. Steps of constant size (`normalize="update"`) do not depend on the scale of the loss,
but never settle: without a decaying learning rate weights grow until units saturate.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from ._deep_memory import Features, Memory, Reading, Scalar, check, orthogonal
from ._descent import over_rms, root_mean_square
from ._matrices import Layout, as_matrix, check_layout, check_static, from_matrix
from ._precision import as_before


class DeepMomentumState(NamedTuple):
    """One memory per tensor (or one for all), and the two buffers its keys are made of."""

    memory: PyTree  # per parameter: the layers of its MLP, first to last
    initial: PyTree  # what retention pulls the memory back to
    gradient: PyTree  # the last gradient as the memory saw it, shaped like the parameters
    average: PyTree  # its exponential moving average; None unless the keys contain it


def deep_momentum(
    learning_rate: optax.ScalarOrSchedule,
    *,
    objective: str = "dot",
    memory: str = "coordinates",
    memory_input: str = "average",
    retention: Scalar = 0.99,
    inner_learning_rate: Scalar = 0.0025,
    hidden: Sequence[int] = (8,),
    shared: bool = False,
    average_decay: Scalar = 0.9,
    normalize: str = "memory",
    skip: bool = True,
    readout: float = 0.0,
    features: Features | None = None,
    output: Callable[[Array], Array] | str | None = None,
    layout: Layout = "out_in",
    key: Array | int = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""Momentum as an MLP per tensor that is trained, one step per update, on the gradient stream.

    For a tensor with gradient `g_t` and coordinates j, all of which, or all of whose rows, are
    treated alike:

        u_t   = g_t / rms(g_t)
        L2_t  = mean_j y_j u_tj                                 (`objective="dot"`)
              = mean_j (y_j + u_tj)^2 / 2                       (`objective="l2"`)
                with y = m_t(key_{t-1}),  key_{-1} = 0
        m_t+1 = m_0 + alpha (m_t - m_0) - eta grad_m L2_t       (the write)
        c_t   = beta c_{t-1} + (1 - beta) u_t
        W_t+1 = W_t + learning_rate rms(g_t) m_t+1(key_t)       (the read)

    where `m(key) = -u + MLP(key)` with `skip`, and with `memory="rows"` the MLP maps rows in units
    of the root of their length, `sqrt(b) MLP(key / sqrt(b))`, which makes learning alike at every
    width. At its defaults the read-out starts at zero, so the
    first step is exactly gradient descent, and with `"dot"` the write is bounded: no read-out
    weight leaves `[-eta / (1 - alpha), eta / (1 - alpha)]`. By default that lets eight hidden units
    at most triple the root mean square of a step. `"l2"` learns the more the nearer alpha is to 1,
    as (1 - alpha) / eta is its ridge.

    A *linear* memory read with the gradient as key is quadratic in the gradient, not heavy-ball
    momentum: writing with u and reading with u are two factors. Heavy-ball momentum is the memory
    with a **constant** key, `<m, 1>`-style, one slot per coordinate: `memory_input="constant",
    hidden=(), skip=False, normalize="none", inner_learning_rate=1, retention=beta` equals
    `optax.sgd(learning_rate, momentum=beta)` exactly.

    A linear memory of rows with `"l2"` and `readout=0` is the delta rule: with the rows of the last
    u as k and those of this one as P, `m <- m (alpha I - (eta / n) k'k) - (eta / n) P'k` for n
    coordinates. It is stable while eta times the largest eigenvalue of `k'k / n`, at most 1 for
    normalized keys of the gradient alone, is below 1 + alpha.

    Args:
        learning_rate: step of the weights per update; a float or an optax schedule.
        objective: inner objective; `"dot"` aligns the answer with descent (linear in the read-out,
            bounded by `retention`), `"l2"` predicts the next gradient.
        memory: what a key is. `"coordinates"`: each coordinate of a tensor, one MLP R -> R for all.
            `"rows"`: each row of the matrix (out, b), an MLP R^b -> R^b; trailing axes of (out, in,
            height, width) are flattened. Vectors and scalars have rows of length one: there both
            are the same.
        memory_input: the key. `"gradient"`: (u,); `"average"`: (u, c / rms(c)), which lets the
            memory see the past; `"constant"`: 1, a linear memory with one slot per coordinate.
        retention: alpha in [0, 1], per update.
        inner_learning_rate: eta >= 0, one gradient step per update; 0 freezes the memory.
        hidden: sizes of the hidden tanh layers; `()` is a linear memory.
        shared: one memory for all tensors instead of one per tensor, for coordinates only. Buffers
            stay per tensor.
        average_decay: beta in [0, 1) of the slow average c.
        normalize: what is divided by each tensor's root mean square. `"memory"`: what the memory
            sees; its answer is scaled back. `"update"`: the update too, whose first one has rms
            `learning_rate` whatever the scale of the loss. `"none"`: nothing; the memory then
            learns as fast as the square of the gradient's scale.
        skip: add -u to what the memory says.
        readout: std of the initial read-out; 0 makes the first step plain (normalized) descent.
        features: phi of eq. (51), from one key (k,) to (d,), with k = 1 or b, doubled by the
            average; the memory reads phi(key). A key of zeros is answered by zero nevertheless.
        output: sigma of eq. (52), from what the memory says, as a matrix (out, b), to another one;
            vectors are (n, 1). `"orthogonal"`: Newton-Schulz, scaled to a root mean square of about
            one. `newton_schulz` itself with the constant key above is Muon without Nesterov.
        layout: where a tensor of several axes has its outputs: `"out_in"`, first, or `"in_out"`,
            last, as flax's kernels.
        key: seed or typed PRNG key of the hidden layers; tensors draw from it independently.

    Returns:
        A transformation; state: `DeepMomentumState`, float32 at least. Extra arguments are ignored.

    Raises:
        ValueError: an argument outside the ranges above.

    Source: Nested Learning (2025), eq. (50-52); the module's docstring says what was left open.
    """
    check(
        objective,
        memory,
        memory_input,
        normalize,
        retention,
        inner_learning_rate,
        hidden,
        skip,
        average_decay,
        shared,
        features,
        output,
    )
    check_layout("deep_momentum", layout)
    if isinstance(key, jax.Array) and not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        check_static("deep_momentum", "key", key)
    constant = memory_input == "constant"
    sigma: Any = orthogonal if output == "orthogonal" else output
    reading = Reading(memory == "rows", layout, memory_input == "average", features)

    def answer(memory: Any, u: Array, c: Array | None) -> Array:
        """m(key): the direction in which the weights move."""
        said = memory if constant else reading.said(memory, u, c)
        return said - u if skip else said

    def through(y: Array) -> Array:
        if sigma is None:
            return y
        return from_matrix(sigma(as_matrix(y, layout)), y, layout)

    def loss(memory: Any, u: Array, c: Array | None, value: Array) -> Any:
        y = answer(memory, u, c)
        per_coordinate = y * value if objective == "dot" else jnp.square(y + value) / 2
        # An MLP's weights serve every coordinate, a constant-key memory's serve one each.
        return jnp.sum(per_coordinate)

    def init(params: PyTree) -> DeepMomentumState:
        leaves, treedef = jax.tree.flatten(params)
        dtypes = [jnp.promote_types(leaf.dtype, jnp.float32) for leaf in leaves]
        zeros = [jnp.zeros_like(leaf, dtype=d) for leaf, d in zip(leaves, dtypes, strict=True)]
        root = key if isinstance(key, jax.Array) else jax.random.key(operator.index(key))

        def fresh(index: int, shape: tuple[int, ...], dtype: Any) -> Memory:
            return reading.initial(jax.random.fold_in(root, index), shape, hidden, readout, dtype)

        if constant:
            memory = treedef.unflatten(zeros)
        elif shared:
            memory = fresh(0, (), jnp.result_type(jnp.float32, *dtypes))
        else:
            memory = treedef.unflatten([fresh(i, z.shape, z.dtype) for i, z in enumerate(zeros)])
        average = jax.tree.map(jnp.zeros_like, treedef.unflatten(zeros))
        return DeepMomentumState(
            memory=memory,
            initial=jax.tree.map(jnp.copy, memory),
            gradient=treedef.unflatten(zeros),
            average=average if memory_input == "average" else None,
        )

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, DeepMomentumState]:
        del params, extra
        leaves, treedef = jax.tree.flatten(updates)
        last = treedef.flatten_up_to(state.gradient)
        values = [g.astype(old.dtype) for g, old in zip(leaves, last, strict=True)]
        scales: list[Any] = [1] * len(leaves)
        if normalize != "none":
            rms = [root_mean_square(g) for g in values]
            values = [over_rms(g, r) for g, r in zip(values, rms, strict=True)]
            scales = rms if normalize == "memory" else scales
        old = (
            [None] * len(leaves) if state.average is None else treedef.flatten_up_to(state.average)
        )

        def write(memory: Any, gradient: Any, initial: Any) -> Any:
            return jax.tree.map(
                lambda m, g, m0: as_before(m0 + retention * (m - m0) - inner_learning_rate * g, m),
                memory,
                gradient,
                initial,
            )

        if shared:
            size = max(sum(u.size for u in values), 1)

            def total(memory: Any) -> Any:
                keyed = zip(last, old, values, strict=True)
                return sum(loss(memory, u, c, value) for u, c, value in keyed) / size

            memory = write(state.memory, jax.grad(total)(state.memory), state.initial)
            memories = [memory] * len(leaves)
        else:
            memories = []
            for m, m0, u, c, v in zip(
                treedef.flatten_up_to(state.memory),
                treedef.flatten_up_to(state.initial),
                last,
                old,
                values,
                strict=True,
            ):
                size = 1 if constant else max(u.size, 1)
                gradient = jax.grad(lambda m, u=u, c=c, v=v, n=size: loss(m, u, c, v) / n)(m)
                memories.append(write(m, gradient, m0))
            memory = treedef.unflatten(memories)

        average = [
            None if c is None else as_before(average_decay * c + (1 - average_decay) * u, c)
            for c, u in zip(old, values, strict=True)
        ]
        # Negated: the learning rate's transformation turns gradients into steps.
        said = [
            -scale * through(answer(m, u, c))
            for scale, m, u, c in zip(scales, memories, values, average, strict=True)
        ]
        said = [y.astype(g.dtype) for y, g in zip(said, leaves, strict=True)]
        return treedef.unflatten(said), DeepMomentumState(
            memory=memory,
            initial=state.initial,
            gradient=treedef.unflatten(values),
            average=None if state.average is None else treedef.unflatten(average),
        )

    transformation = optax.GradientTransformationExtraArgs(init, update)
    return optax.chain(transformation, optax.scale_by_learning_rate(learning_rate))
