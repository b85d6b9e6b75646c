"""Delta gradients for the layers of a whole model."""

from typing import Any

from jaxtyping import PyTree

from .._checks import Scalar
from ._delta_descent import check_numbers


def delta_layers(
    model: PyTree,
    rate: Scalar,
    decay: Scalar = 1.0,
    where: Any = None,
    reduction: str = "mean",
    explicit: bool = False,
) -> PyTree:
    """An equinox model whose linear and convolutional layers have delta gradients.

    `equinox.nn.Linear` and `Conv` (any number of dimensions, all paddings, strides and dilations;
    groups=1) become subclasses of themselves with the same weights at the same paths that compute
    the same outputs. Their biases, and every other layer, keep the ordinary gradient; of these
    layers with matrices of their own, `ConvTranspose` and the recurrent cells stay as they are.

    The rows of a convolution are its patches, at every position of every example, so `"mean"`
    divides the decay by examples x positions; patches exist in the backward pass only.

    A schedule's rate, or any array, belongs into the loss, where the model stays as it was:

        loss = lambda model, rate, batch: mse(delta_layers(model, rate), batch)

    With Python numbers the model may also be transformed once, for good: they become static, and
    the model has no new leaves. An array given then is one, which an optimizer might take for a
    parameter.

    Args:
        model: a pytree with equinox layers in it.
        rate: the learning rate of the descent that follows.
        decay: lambda, 1 in the paper.
        where: `model -> layer`, or a sequence of layers, as in `equinox.tree_at`; None: all.
        reduction, explicit: as in `delta_linear`.

    Returns:
        The model, sharing its arrays.

    Raises:
        ValueError: a convolution in groups; a subclass with a forward pass of its own; `where`
            names something else than a linear or convolutional layer; arguments as in
            `delta_linear`.

    Source: Nested Learning (2025), eq. (56-57), per layer.
    """
    check_numbers("delta_layers", rate, decay, reduction)
    # With it comes equinox, which would double the time that importing nestax takes.
    from ._delta_layers import converted

    return converted(model, rate, decay, where, reduction, explicit)
