"""Deep momentum gradient descent: momentum whose memory is an MLP that learns while it is used.

Source: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), equation (50),

    W_{t+1} = W_t + m_{t+1}(u_t),    u_t = grad L(W_t),
    m_{t+1} = alpha m_t - eta grad_m L2(m_t; u_t),

with `m` now the weights of an MLP. The paper leaves the inner objective `L2` open ("needs to be
designed carefully"), and what one key is. The readings offered here, by what has to be passed:

* `objective="dot"`: an MLP R -> R for every coordinate, aligned with descent;
* `objective="l2"`: an MLP R -> R for every coordinate, predicting the next gradient;
* `memory="rows"`: a matrix memory, an MLP R^b -> R^b on the rows of (out, b), whose linear form
  with the squared error is the delta rule `m <- m (alpha I - eta k k') - eta P k'`.

A memory keyed by the inputs of a layer rather than by gradients is `delta_gradient_descent`.

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

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from ._axes import Axes, Layout, check_axes, check_layout, matrices
from ._checks import Rate, Scalar, number, rate, static
from ._decay import Mask, decayed
from ._deep_memory import Features, Memory, Reading, check, orthogonal
from ._descent import over_rms, root_mean_square
from ._precision import as_before, guarded


class DeepMomentumState(NamedTuple):
    """State of `deep_momentum`: the memories, and the two buffers that their keys are made of.

    A memory has leading axes if its tensor consists of several matrices.

    Attributes:
        memory: for each parameter the layers of its MLP, first to last; or one MLP if `shared`.
        initial: the initial memory, to which retention leads back.
        gradient: the last gradient as the memory saw it, shaped like the parameters.
        average: its exponential moving average; None unless the keys contain it.
    """

    memory: PyTree
    initial: PyTree
    gradient: PyTree
    average: PyTree


def deep_momentum(
    learning_rate: Rate,
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
    weight_decay: Scalar = 0.0,
    mask: Mask | None = None,
    axes: Axes = None,
    layout: Layout = "out_in",
    key: Array | int = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""Momentum as an MLP per tensor that is trained, one step per update, on the gradient stream.

    For a tensor with gradient `g_t` and coordinates j:

        u_t   = g_t / rms(g_t)
        L2_t  = mean_j y_j u_tj                                 (`objective="dot"`)
              = mean_j (y_j + u_tj)^2 / 2                       (`objective="l2"`)
                with y = m_t(key_{t-1}),  key_{-1} = 0
        m_t+1 = m_0 + alpha (m_t - m_0) - eta grad_m L2_t       (the write)
        c_t   = beta c_{t-1} + (1 - beta) u_t
        W_t+1 = W_t + learning_rate rms(g_t) m_t+1(key_t)       (the read)

    where `m(key) = -u + MLP(key)` with `skip`. With `memory="rows"` the MLP maps scaled rows,
    `sqrt(b) MLP(key / sqrt(b))`, so that it learns equally fast at every width. At the defaults the
    read-out starts at zero: the first step is exactly gradient descent. With `"dot"` the write is
    bounded: every read-out weight stays in `[-eta / (1 - alpha), eta / (1 - alpha)]`, so that eight
    hidden units at most triple the root mean square of a step. `"l2"` learns more as alpha
    approaches 1, because (1 - alpha) / eta is its ridge.

    Heavy-ball momentum is the memory with a constant key: `memory_input="constant", hidden=(),
    skip=False, normalize="none", inner_learning_rate=1, retention=beta` equals
    `optax.sgd(learning_rate, momentum=beta)` exactly. A linear memory that has the gradient as its
    key is something else: it is quadratic in the gradient.

    A linear memory of rows with `"l2"` and `readout=0` is the delta rule: with the rows of the last
    u as k and the rows of the present u as P, `m <- m (alpha I - (eta / n) k'k) - (eta / n) P'k`
    for n coordinates. It is stable while eta times the largest eigenvalue of `k'k / n` is below
    1 + alpha; that eigenvalue is at most 1 for normalized keys of the gradient alone.

    Args:
        learning_rate: step of the weights per update; a float or an optax schedule.
        objective: inner objective; `"dot"` aligns the output with descent (linear in the read-out,
            bounded by `retention`), `"l2"` predicts the next gradient.
        memory: what a key is. `"coordinates"`: each coordinate of a tensor, one MLP R -> R for all.
            `"rows"`: each row of the matrix (out, b), an MLP R^b -> R^b. Vectors and scalars have
            rows of length one, so that both are the same for them.
        memory_input: the key. `"gradient"`: (u,); `"average"`: (u, c / rms(c)), which lets the
            memory see the past; `"constant"`: 1, a linear memory with one slot per coordinate.
        retention: alpha in [0, 1], per update.
        inner_learning_rate: eta >= 0, one gradient step per update; 0 freezes the memory.
        hidden: sizes of the hidden tanh layers; `()` is a linear memory.
        shared: one memory for all tensors instead of one per tensor, for coordinates only. Buffers
            stay per tensor.
        average_decay: beta in [0, 1) of the slow average c.
        normalize: what is divided by each tensor's root mean square. `"memory"`: the input of the
            memory; its output is scaled back. `"update"`: the update too, so that the first update
            has the rms `learning_rate` whatever the scale of the loss. `"none"`: nothing; the speed
            of the memory then grows as the square of the gradient's scale.
        skip: whether -u is added to the output of the memory.
        readout: std of the initial read-out; 0 makes the first step plain (normalized) descent.
        features: phi of eq. (51), from one key (k,) to (d,), with k = 1 or b, doubled by the
            average; the memory reads phi(key). The output for a key of zeros is always zero.
        output: sigma of eq. (52), from the output of the memory, a matrix (out, b), to another one;
            vectors are (n, 1). `"orthogonal"`: Newton-Schulz, scaled to a root mean square of about
            one. `newton_schulz` with the constant key above is Muon without Nesterov.
        weight_decay: decoupled: `learning_rate * weight_decay * W` is subtracted as well.
        mask: which parameters decay, a tree of bools or a function of the parameters; None: all.
        axes: which axes of tensors are matrices, see `muon`; each matrix has a memory of its own.
            None: a tensor has one memory; a tensor of three or more axes is then an error if rows
            or an output are used.
        layout: which axis of a tensor counts the outputs: `"out_in"`, the first, or `"in_out"`, the
            last, as in flax's kernels.
        key: seed or typed PRNG key of the hidden layers; tensors draw from it independently.

    Returns:
        An optax transformation; its state contains a `DeepMomentumState`, float32 at least. Extra
        arguments are ignored.

    Raises:
        ValueError: an argument outside the ranges above; at init, parameters that are not real
            floating-point numbers, or whose axes are not known.
        TypeError: an array where a static number or a function is expected.

    Source: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), eq. (50-52). The
    paper leaves the inner objective and the keys open; the equations above fill that in.

    Example:
        ```python
        optimizer = nx.optim.deep_momentum(0.1)
        weights = {"w": jnp.ones((2, 3))}
        state = optimizer.init(weights)
        updates, state = optimizer.update({"w": 2 * jnp.ones((2, 3))}, state, weights)
        print(updates["w"][0])  # [-0.2 -0.2 -0.2]
        ```
    """
    name = "deep_momentum"
    # A number that became an array, as under inject_hyperparams, and not a key.
    number_as_array = (
        isinstance(key, jax.Array)
        and key.ndim == 0
        and any(jnp.issubdtype(key.dtype, kind) for kind in (jnp.floating, jnp.integer))
    )
    static(name, readout=readout, key=key if number_as_array else None)
    check(
        objective, memory, memory_input, normalize, hidden, skip, shared, readout, features, output
    )
    retention = number(name, "retention", retention, 0, 1)
    inner_learning_rate = number(name, "inner_learning_rate", inner_learning_rate)
    average_decay = number(name, "average_decay", average_decay, 0, 1, below=True)
    check_axes(name, axes)
    check_layout(name, layout)
    _check_key(key)
    constant = memory_input == "constant"
    sigma: Any = orthogonal if output == "orthogonal" else output
    reading = Reading(memory == "rows", memory_input == "average", features)

    def views(tree: PyTree) -> PyTree:
        return matrices(name, axes, layout, tree, needed=memory == "rows" or sigma is not None)

    def answer(memory: Any, u: Array, c: Array | None) -> Array:
        """m(key): the direction in which the weights move."""
        said = memory if constant else reading.said(memory, u, c)
        return said - u if skip else said

    def loss(memory: Any, u: Array, c: Array | None, value: Array) -> Any:
        y = answer(memory, u, c)
        per_coordinate = y * value if objective == "dot" else jnp.square(y + value) / 2
        # An MLP's weights serve every coordinate, a constant-key memory's serve one each.
        return jnp.sum(per_coordinate)

    def write(memory: Any, gradient: Any, initial: Any) -> Any:
        return jax.tree.map(
            lambda m, g, m0: as_before(m0 + retention * (m - m0) - inner_learning_rate * g, m),
            memory,
            gradient,
            initial,
        )

    def write_own(memory: Any, initial: Any, u: Array, c: Array | None, value: Array) -> Any:
        """The memory of one matrix after a step."""
        size = 1 if constant else max(u.size, 1)
        return write(memory, jax.grad(lambda m: loss(m, u, c, value) / size)(memory), initial)

    def read(memory: Any, u: Array, c: Array | None, scale: Array) -> Array:
        y = answer(memory, u, c)
        # Negated: the learning rate's transformation turns gradients into steps.
        return -scale * (y if sigma is None else sigma(y))

    def init(params: PyTree) -> DeepMomentumState:
        leaves, treedef = jax.tree.flatten(params)
        zeros = [jnp.zeros_like(leaf) for leaf in leaves]
        root = key if isinstance(key, jax.Array) else jax.random.key(operator.index(key))

        def fresh(index: int, batch: tuple[int, ...], columns: int, dtype: Any) -> Memory:
            def one(key: Array) -> Memory:
                return reading.initial(key, columns, hidden, readout, dtype)

            own = jax.random.fold_in(root, index)
            if not batch:
                return one(own)
            made = jax.vmap(one)(jax.random.split(own, math.prod(batch)))
            return jax.tree.map(lambda a: a.reshape(*batch, *a.shape[1:]), made)

        shapes = [
            jax.eval_shape(view.of, z).shape
            for view, z in zip(treedef.flatten_up_to(views(params)), zeros, strict=True)
        ]
        if constant:
            memory = treedef.unflatten(zeros)
        elif shared:
            memory = fresh(0, (), 1, jnp.result_type(jnp.float32, *zeros))
        else:
            made = [
                fresh(i, shape[:-2], shape[-1], z.dtype)
                for i, (shape, z) in enumerate(zip(shapes, zeros, strict=True))
            ]
            memory = treedef.unflatten(made)
        average = jax.tree.map(jnp.zeros_like, treedef.unflatten(zeros))
        return DeepMomentumState(
            memory=memory,
            initial=jax.tree.map(jnp.copy, memory),
            gradient=treedef.unflatten(zeros),
            average=average if memory_input == "average" else None,
        )

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, DeepMomentumState]:
        del params
        leaves, treedef = jax.tree.flatten(updates)
        seen = treedef.flatten_up_to(views(updates))

        def split(tree: PyTree) -> list[Array]:
            return [v.of(a) for v, a in zip(seen, treedef.flatten_up_to(tree), strict=True)]

        def joined(parts: list[Array]) -> PyTree:
            found = [v.back(a, g) for v, a, g in zip(seen, parts, leaves, strict=True)]
            return treedef.unflatten(found)

        def each(function: Callable[..., Any], *columns: list[Any]) -> list[Any]:
            """Of every matrix of every tensor."""
            return [v.each(function)(*given) for v, *given in zip(seen, *columns, strict=True)]

        last, values = split(state.gradient), split(updates)
        old = [None] * len(leaves) if state.average is None else split(state.average)
        rms = each(root_mean_square, values)
        if normalize != "none":
            values = each(over_rms, values, rms)
        scales = rms if normalize == "memory" else [jnp.ones_like(r) for r in rms]

        if shared:
            size = max(sum(u.size for u in values), 1)

            def total(memory: Any) -> Any:
                losses = each(lambda u, c, value: loss(memory, u, c, value), last, old, values)
                return sum(jnp.sum(own) for own in losses) / size

            memory = write(state.memory, jax.grad(total)(state.memory), state.initial)
            memories = [
                jax.tree.map(lambda a, r=r: jnp.broadcast_to(a, (*r.shape, *a.shape)), memory)
                for r in rms
            ]
        elif constant:
            memories = each(write_own, split(state.memory), split(state.initial), last, old, values)
            memory = joined(memories)
        else:
            before = [treedef.flatten_up_to(tree) for tree in (state.memory, state.initial)]
            memories = each(write_own, *before, last, old, values)
            memory = treedef.unflatten(memories)

        average = each(
            lambda c, u: (
                None if c is None else as_before(average_decay * c + (1 - average_decay) * u, c)
            ),
            old,
            values,
        )
        said = each(read, memories, values, average, scales)
        return joined(said), DeepMomentumState(
            memory=memory,
            initial=state.initial,
            gradient=joined(values),
            average=None if state.average is None else joined(average),
        )

    core = optax.GradientTransformation(init, update)
    step = optax.scale_by_learning_rate(rate(name, learning_rate))
    return guarded(name, optax.chain(core, *decayed(name, weight_decay, mask), step))


def _check_key(key: Any) -> None:
    if isinstance(key, jax.Array):
        typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        if typed and key.shape == ():
            return
        repair = "pass one of the keys" if typed else "write jax.random.key(seed), not PRNGKey"
        raise ValueError(
            f"deep_momentum: key must be an int or one key of jax.random.key, got an array "
            f"{key.shape} of {key.dtype}; {repair}"
        )
    if isinstance(key, bool) or not isinstance(key, (int, np.integer)):
        raise ValueError(
            "deep_momentum: key must be an int or a key of jax.random.key, got "
            f"{type(key).__name__} {key!r:.60}"
        )
