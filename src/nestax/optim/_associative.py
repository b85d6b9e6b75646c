"""Optimizers as associative memories: one memory for each tensor, which learns while it is used.

An optimizer is a memory of the stream of gradients. It has a state m, an inner objective that says
what m should store of the gradient that came, an inner step, and a read-out that says how m moves
the weights. For a tensor with gradient G, seen as a matrix (out, in) whose rows are keys:

    K = phi(G)                                              keys
    S = P K                                                 what is to be written
    m <- decay m - eta grad_m L(m; K, S)                    the inner step
    W <- W + learning_rate sigma(m)                         the read-out

The decay is the gradient step on (1 - decay) / (2 eta) |m|^2. With L = <m, S> this is momentum,
with a P preconditioned momentum; with L = |m K' + P|^2 / 2 it is delta momentum, whose memory first
forgets what it would have said for the keys it is about to write; phi gives feature maps, and
Newton-Schulz as sigma gives Muon.

Source: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), eq. (33-34) and (46-52).
Two errors in print are corrected: the step size stands on the Gram term of (49) as well, and the
target is -P, so that the weights descend.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Inexact, PyTree

from ._axes import Axes, Layout, Matrices, check_axes, check_layout, matrices
from ._checks import Rate, Scalar, number, option, rate, static, whole
from ._decay import Mask, decayed
from ._descent import squared_modulus
from ._matrices import largest_eigenvalue
from ._precision import guarded

Objective = Callable[[Array, Array, Array], Array]
Map = Callable[[Array], Array]


class AssociativeState(NamedTuple):
    """State of `associative_momentum`, `preconditioned_momentum` and `delta_momentum`.

    Attributes:
        memory: one memory per tensor, shaped like the parameters, or like the matrices of keys
            where `features` gives these another shape.
        preconditioner: the state of the preconditioner; empty if that is a function.
    """

    memory: PyTree
    preconditioner: Any


def associative_momentum(
    learning_rate: Rate,
    *,
    objective: str | Objective = "dot",
    features: Map | None = None,
    preconditioner: Map | optax.GradientTransformation | None = None,
    readout: Map | None = None,
    decay: Scalar = 0.9,
    inner_learning_rate: Scalar = 1.0,
    normalize: str = "none",
    block: int | None = None,
    weight_decay: Scalar = 0.0,
    mask: Mask | None = None,
    axes: Axes = None,
    layout: Layout = "out_in",
) -> optax.GradientTransformationExtraArgs:
    r"""Momentum from parts: an inner objective, keys, a preconditioner, a read-out.

        K = phi(G),  S = P K,  m <- decay m - eta grad_m L(m; K, S),  W <- W + rate sigma(m)

    Tensors are seen as matrices (out, in), and biases as one column, the weights of a constant
    input. Each matrix has a memory of its own.

    Args:
        learning_rate: float or schedule.
        objective: L. `"dot"`: `<m, S>`. `"l2"`: `|m K'|^2 / 2 + <m, S>`, which is
            `|m K' + P|^2 / 2` up to a constant. Or a function `(memory, keys, written) -> scalar`
            of matrices, which is differentiated; it is called once for each tensor.
        features: phi, from the gradient's matrix to the keys (out, key); None: the gradient itself.
        preconditioner: P, a function of the matrix of keys; or an optax transformation of the tree
            of keys, whose state is kept; None: the identity.
        readout: sigma, from the memory's matrix to one of the shape of W; None: the memory itself.
        decay: alpha, 0 to 1; with 1 nothing decays, and only `"l2"` erases.
        inner_learning_rate: eta, 0 or more.
        normalize: for `"l2"`: `"spectral"` divides the keys that erase by their spectral norm, or a
            bound on it (squared at most 1.14 times the norm's square for 64 rows), so that no
            eigenvalue of the step exceeds one for eta up to 1 + decay. `"none"` is stable only
            while `eta |K|^2` is at most 1 + decay. The written values are not normalized: steps
            scale with the gradient in both.
        block: for `"l2"`: a tensor with both sides longer than this is split into blocks of this
            many rows, and each block has a memory; None: one memory for each tensor. A static
            number. With n = min(out, in, block) a step costs 4 n operations per weight, with
            `"spectral"` 6 n and, for square memories, up to 14 n.
        weight_decay: decoupled: `learning_rate * weight_decay * W` is subtracted as well.
        mask: which parameters decay, a tree of bools or a function of the parameters; None: all.
        axes: for tensors of three or more axes, which of them form the matrix, see `muon`. Needed
            only if one of the parts is a function of matrices.
        layout: `"out_in"` for W x (equinox), `"in_out"` for x W (flax).

    Returns:
        An optax transformation; its state contains an `AssociativeState`, float32 at least. Complex
        parameters are accepted with a named objective and none of the functions.

    Raises:
        ValueError: an argument outside the ranges above; parameters or gradients that are not
            floating-point arrays.
        TypeError: an array where a static number or a function is expected.

    Source: Nested Learning (2025), eq. (33-34), (46-49), (51), (52).
    """
    return composed(
        "associative_momentum", learning_rate, objective, features, preconditioner, readout, decay,
        inner_learning_rate, normalize, block, weight_decay, mask, axes, layout,
    )  # fmt: skip


def composed(
    name: str,
    learning_rate: Any,
    objective: Any = "dot",
    features: Any = None,
    preconditioner: Any = None,
    readout: Any = None,
    decay: Any = 0.9,
    inner_learning_rate: Any = 1.0,
    normalize: Any = "none",
    block: Any = None,
    weight_decay: Any = 0.0,
    mask: Any = None,
    axes: Axes = None,
    layout: Any = "out_in",
    complex_preconditioner: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """`associative_momentum` under another name, which its errors bear; refuses bad arguments.

    Args:
        complex_preconditioner: whether `preconditioner` is right for complex gradients.
    """
    static(
        name,
        objective=objective,
        features=features,
        preconditioner=preconditioner,
        readout=readout,
        block=block,
    )
    if not callable(objective):
        expected = '"dot", "l2" or a function (memory, keys, written) -> scalar'
        option(name, "objective", objective, ("dot", "l2"), expected)
    for argument, function in (("features", features), ("readout", readout)):
        if function is not None and not callable(function):
            raise ValueError(f"{name}: {argument} must be a function or None, got {function!r:.60}")
    if not (
        preconditioner is None
        or callable(preconditioner)
        or isinstance(preconditioner, optax.GradientTransformation)
    ):
        raise ValueError(
            f"{name}: preconditioner must be a function of a matrix, an optax transformation or "
            f"None, got {preconditioner!r:.60}"
        )
    option(name, "normalize", normalize, ("none", "spectral"))
    check_axes(name, axes)
    check_layout(name, layout)
    memory = _scale_by_memory(
        name,
        objective,
        features,
        preconditioner,
        readout,
        number(name, "decay", decay, 0, 1),
        number(name, "inner_learning_rate", inner_learning_rate),
        normalize,
        None if block is None else whole(name, "block", block),
        axes,
        layout,
    )
    step = optax.scale_by_learning_rate(rate(name, learning_rate))
    # Functions of the user's may be for real numbers only.
    ours = isinstance(objective, str) and features is readout is None
    return guarded(
        name,
        optax.chain(memory, *decayed(name, weight_decay, mask), step),
        complex_numbers=ours and (preconditioner is None or complex_preconditioner),
    )


def _scale_by_memory(
    name: str,
    objective: Any,
    features: Map | None,
    preconditioner: Any,
    readout: Map | None,
    decay: Scalar,
    inner_learning_rate: Scalar,
    normalize: str,
    block: int | None,
    axes: Axes,
    layout: Layout,
) -> optax.GradientTransformationExtraArgs:
    """What `associative_momentum` does before the learning rate; negated, as gradients are."""
    stateful = isinstance(preconditioner, optax.GradientTransformation)
    transformation = optax.with_extra_args_support(preconditioner if stateful else optax.identity())
    on_matrices = None if stateful else preconditioner
    needed = objective != "dot" or not (features is on_matrices is readout is None)

    def views(tree: PyTree) -> PyTree:
        return matrices(name, axes, layout, tree, needed=needed)

    def keys_of(g: Array, view: Matrices) -> Array:
        """phi(G), in the shape of G where that fits, so that its sharding stays."""
        if features is None:
            return g
        seen = view.of(g)
        keys = view.each(features)(seen)
        return view.back(keys, g) if keys.shape == seen.shape else keys

    def mapped(function: Callable[..., Any], g: Any, view: Matrices, *given: Array) -> Array:
        """The function of every matrix of arrays of one shape: the tensor's, or matrices'."""
        if given[0].shape != g.shape:
            return view.each(function)(*given)
        return view.back(view.each(function)(*map(view.of, given)), g)

    def init(params: PyTree) -> AssociativeState:
        seen = views(params)
        if features is None:
            zeros = jax.tree.map(jnp.zeros_like, params)
        else:
            shapes = jax.tree.map(
                lambda p, view: jax.eval_shape(lambda p: keys_of(p, view), p), params, seen
            )
            zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        return AssociativeState(zeros, transformation.init(zeros))

    def gradient(m: Array, k: Array, s: Array, g: Array, view: Matrices) -> Array:
        """grad_m L."""
        if objective == "dot":
            return s
        if objective == "l2":
            return s + mapped(lambda m, k: erasure(m, k, normalize, block), g, view, m, k)
        assert callable(objective)
        return mapped(jax.grad(objective), g, view, m, k, s)

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, AssociativeState]:
        seen = views(updates)
        keys = jax.tree.map(keys_of, updates, seen)
        given = params if features is None else None
        written, kept = transformation.update(keys, state.preconditioner, given, **extra)
        if on_matrices is not None:
            written = jax.tree.map(
                lambda k, g, view: mapped(on_matrices, g, view, k),  # type: ignore
                keys,
                updates,
                seen,
            )
        memory = jax.tree.map(
            lambda m, k, s, g, view: decay * m - inner_learning_rate * gradient(m, k, s, g, view),
            state.memory,
            keys,
            written,
            updates,
            seen,
        )
        said = jax.tree.map(
            lambda m, g, view: _read(name, readout, m, g, view), memory, updates, seen
        )
        return jax.tree.map(jnp.negative, said), AssociativeState(memory, kept)

    return optax.GradientTransformationExtraArgs(init, update)


def _read(name: str, readout: Map | None, memory: Array, g: Any, view: Matrices) -> Array:
    if readout is None and memory.shape == g.shape:
        return memory
    seen = view.of(memory) if memory.shape == g.shape else memory
    said = seen if readout is None else view.each(readout)(seen)
    if said.size != g.size:
        raise ValueError(
            f"{name}: what is read from a memory {seen.shape} is {said.shape}; it "
            f"moves a tensor {g.shape} and has to have as many numbers as the tensor"
        )
    return view.back(said, g)


def erasure(
    memory: Inexact[Array, "out key"],
    keys: Inexact[Array, "out key"],
    normalize: str,
    block: int | None,
) -> Inexact[Array, "out key"]:
    """m K'K, what delta momentum takes away: what the memory says for the keys, written back."""
    rows, columns = memory.shape
    if memory.size == 0:
        return memory
    if block is None or min(rows, columns) <= block:
        return _erasure(memory, keys, normalize)
    if block == 1:  # no matrix products left
        return _row_erasure(memory, keys, normalize)
    missing = -rows % block  # rows of zeros have no effect on the others

    def blocks(a: Array) -> Array:
        return jnp.pad(a, ((0, missing), (0, 0))).reshape(-1, block, columns)

    def one(m: Array, k: Array) -> Array:
        return _erasure(m, k, normalize)

    return jax.vmap(one)(blocks(memory), blocks(keys)).reshape(-1, columns)[:rows]


def _erasure(m: Array, k: Array, normalize: str) -> Array:
    wide = m.shape[0] <= m.shape[1]
    if normalize == "none":
        return (m @ k.conj().T) @ k if wide else m @ (k.conj().T @ k)
    # Squares of small gradients underflow: the largest entry is taken out first.
    top = jnp.max(jnp.abs(k), initial=0)
    k = k / jnp.where(top == 0, 1, top)
    gram = k @ k.conj().T if wide else k.conj().T @ k
    largest = largest_eigenvalue(gram)
    found = (m @ k.conj().T) @ k if wide else m @ gram
    return found / jnp.where(largest == 0, 1, largest)


def _row_erasure(m: Array, k: Array, normalize: str) -> Array:
    if normalize == "none":
        return jnp.sum(m * k.conj(), axis=1, keepdims=True) * k
    top = jnp.max(jnp.abs(k), axis=1, keepdims=True)
    k = k / jnp.where(top == 0, 1, top)
    square = jnp.sum(squared_modulus(k), axis=1, keepdims=True)
    return jnp.sum(m * k.conj(), axis=1, keepdims=True) / jnp.where(square == 0, 1, square) * k
