"""Which axes of a tensor are a matrix: tensors as batches of matrices, and back.

Optimizers of matrices see a tensor as (*batch, out, in), each matrix with a memory of its own. A
tensor of two axes says by itself what its matrix is, one of more does not: (4, 3, 5) may be four
stacked layers, or a convolution's kernel. That is asked for, not guessed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree
from optax.contrib import MuonDimensionNumbers

from ._checks import option

Layout = str  # "out_in" or "in_out"; refused by `check_layout`
Spec = str | MuonDimensionNumbers | None
Axes = Any  # a Spec, a pytree of them, or a function from parameters to either

_HELP = (
    'axes="kernel" (one matrix, all axes but that of the outputs are inputs; also an ordinary '
    'matrix), axes="stacked" (a matrix for each index of the first axis) or optax.contrib.'
    "MuonDimensionNumbers(reduction_axis, output_axis); where tensors differ, a pytree of these or "
    'a function of the parameters, such as lambda p: jax.tree.map(lambda a: "stacked" if a.ndim > '
    '2 else "kernel", p)'
)


@dataclass(frozen=True)
class Matrices:
    """How a tensor is a batch of matrices (*batch, out, in).

    Attributes:
        batch: axes along which each index has a matrix of its own.
        outputs: axes whose product is the matrix' rows; of a bias all axes.
        inputs: axes whose product is its columns; none for biases, which are one column, the
            weights of a constant input.
    """

    batch: tuple[int, ...]
    outputs: tuple[int, ...]
    inputs: tuple[int, ...]

    @property
    def vector(self) -> bool:
        """Whether there are no inputs, so that the matrix is one column."""
        return not self.inputs

    def of(self, tensor: Array) -> Array:
        """The matrices (*batch, out, in) of a tensor."""
        order = (*self.batch, *self.outputs, *self.inputs)
        batch, rows, columns = (
            tuple(tensor.shape[axis] for axis in axes)
            for axes in (self.batch, self.outputs, self.inputs)
        )
        if order != tuple(range(tensor.ndim)):
            tensor = jnp.transpose(tensor, order)
        return tensor.reshape(*batch, math.prod(rows), math.prod(columns))

    def back(self, matrices: Array, like: Any) -> Array:
        """The tensor with the shape of `like` whose matrices these are."""
        order = (*self.batch, *self.outputs, *self.inputs)
        tensor = matrices.reshape(tuple(like.shape[axis] for axis in order))
        if order == tuple(range(len(order))):
            return tensor
        return jnp.transpose(tensor, tuple(order.index(axis) for axis in range(len(order))))

    def each(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function of one matrix, or of several trees of them, applied to every matrix."""
        for _ in self.batch:
            function = jax.vmap(function)
        return function


def matrices(name: str, axes: Axes, layout: Layout, tree: PyTree, *, needed: bool = True) -> PyTree:
    """For each leaf how it is a batch of matrices: a tree of `Matrices`, shaped like the leaves'.

    Args:
        name: the optimizer, for errors.
        axes: a specification for all leaves, a pytree of them (which may be a prefix of the
            parameters), or a function from the parameters to either. A specification is

            * `"kernel"`: one matrix, as `layout` says, further axes are inputs; so is an ordinary
              matrix. Vectors are one column, and so are biases (n, 1, 1) of convolutions.
            * `"stacked"`: the first axis counts layers, each of which is a matrix, a vector or a
              scalar.
            * `optax.contrib.MuonDimensionNumbers(reduction_axis, output_axis)`: ints or tuples of
              ints, the axes of inputs and of outputs; further ones count matrices.
            * None: no matrix; all numbers are one column, as those of a bias.

            None for the whole tree: `"kernel"` for vectors and matrices, and an error for others.
        layout: `"out_in"` or `"in_out"`, of leaves without dimension numbers.
        tree: the parameters, or gradients of their shapes. Masked ones need no specification.
        needed: whether the optimizer does anything with matrices. If not, and `axes` is None, every
            tensor is one matrix.

    Raises:
        ValueError: a leaf of three or more axes and no specification, or one that does not fit it.
    """
    given = axes(tree) if callable(axes) else axes
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    specs = [(path, spec) for path, spec in _specs(name, given)]

    unclear = given == "stacked" and any(leaf.ndim > 2 for _, leaf in leaves)

    def one(path: Any, leaf: Any) -> Matrices:
        where = f"{name}: params{jax.tree_util.keystr(path)}"
        if unclear and leaf.ndim == 2:
            raise ValueError(
                f'{where} has the shape {leaf.shape}, and axes="stacked" for all parameters does '
                "not say whether that is a matrix or biases of stacked layers; give each parameter "
                'its own: "kernel" for a matrix, "stacked" for stacked layers and their biases'
            )
        if axes is None:
            if _bias(leaf.shape):
                return _view(where, None, layout, leaf.shape)
            if needed and leaf.ndim > 2:
                raise ValueError(
                    f"{where} has {leaf.ndim} axes, {leaf.shape}, and it is not known which of "
                    f"them are a matrix; pass {_HELP}"
                )
            return _kernel(range(leaf.ndim), layout)
        found = [spec for start, spec in specs if path[: len(start)] == start]
        if not found:
            raise ValueError(
                f"{where} has no specification in axes; give one for every parameter, "
                "or for whole subtrees, and None for what is no matrix"
            )
        return _view(where, found[0], layout, leaf.shape)

    return structure.unflatten([one(path, leaf) for path, leaf in leaves])


def check_axes(name: str, axes: Axes) -> None:
    """Refuses what is no specification as soon as an optimizer is made."""
    if not callable(axes):
        _specs(name, axes)


def check_layout(name: str, layout: str) -> None:
    """Refuses other layouts than the two."""
    expected = '"out_in" (W x, as in equinox) or "in_out" (x W, as in flax)'
    option(name, "layout", layout, ("out_in", "in_out"), expected)


def _specs(name: str, axes: PyTree) -> list[tuple[Any, Spec]]:
    def leaf(a: Any) -> bool:
        return a is None or isinstance(a, MuonDimensionNumbers)

    found = jax.tree_util.tree_leaves_with_path(axes, is_leaf=leaf)
    for path, spec in found:
        if not (leaf(spec) or (isinstance(spec, str) and spec in ("kernel", "stacked"))):
            raise ValueError(
                f"{name}: axes{jax.tree_util.keystr(path)} must be one of {_HELP}; got {spec!r:.60}"
            )
    return found


def _kernel(axes: Any, layout: Layout, batch: tuple[int, ...] = ()) -> Matrices:
    axes = tuple(axes)
    if len(axes) < 2:
        return Matrices(batch, axes, ())
    if layout == "in_out":
        return Matrices(batch, axes[-1:], axes[:-1])
    return Matrices(batch, axes[:1], axes[1:])


def _bias(shape: tuple[int, ...]) -> bool:
    """Whether this is (n, 1, 1), as equinox has biases of convolutions: a vector."""
    return len(shape) > 2 and math.prod(shape) == shape[0]


def _view(where: str, spec: Spec, layout: Layout, shape: tuple[int, ...]) -> Matrices:
    count = len(shape)
    if spec is None or (spec == "kernel" and _bias(shape)):
        return Matrices((), tuple(range(count)), ())
    if spec == "kernel":
        return _kernel(range(count), layout)
    if spec == "stacked":
        if not 1 <= count <= 3:
            raise ValueError(
                f'{where} has the shape {shape}; axes="stacked" is for stacked matrices, vectors '
                "or scalars, of 3, 2 or 1 axes; for others pass optax.contrib.MuonDimensionNumbers("
                "reduction_axis, output_axis), whose further axes count matrices"
            )
        return _kernel(range(1, count), layout, batch=(0,))
    assert isinstance(spec, MuonDimensionNumbers)
    inputs, outputs = (
        (axes,) if isinstance(axes, int) else tuple(axes)
        for axes in (spec.reduction_axis, spec.output_axis)
    )
    named = [axis for axis in (*inputs, *outputs) if -count <= axis < count]
    inside = len(named) == len(inputs) + len(outputs)
    if not inside or len({axis % count for axis in named}) < len(named):
        raise ValueError(
            f"{where} has the shape {shape}; the axes of {spec} must be different ones of its "
            f"{count}"
        )
    inputs, outputs = (tuple(axis % count for axis in axes) for axes in (inputs, outputs))
    batch = tuple(axis for axis in range(count) if axis not in (*inputs, *outputs))
    return Matrices(batch, outputs, inputs)
