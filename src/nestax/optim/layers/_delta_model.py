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
    """Gives the linear and convolutional layers of an equinox model delta gradients.

    `equinox.nn.Linear` and `Conv` (any number of dimensions, all paddings, strides and dilations;
    groups=1) become subclasses of themselves that have the same weights at the same paths and
    compute the same outputs. Their biases and all other layers keep the ordinary gradient,
    `ConvTranspose` and the recurrent cells included.

    The rows of a convolution are its patches, at every position of every example, so `"mean"`
    divides the decay by examples x positions. Patches exist in the backward pass only.

    Call it inside the loss if the rate is a schedule's or another array:

        loss = lambda model, rate, batch: mse(delta_layers(model, rate), batch)

    With Python numbers the model may also be transformed once, before training: they become static,
    and the model has no new leaves. An array would become a leaf, which an optimizer might take for
    a parameter.

    Args:
        model: a pytree with equinox layers in it.
        rate: the learning rate of the descent that follows.
        decay: lambda, 1 in the paper; 0 gives the ordinary gradient.
        where: `model -> layer`, or a sequence of layers, as in `equinox.tree_at`; None: all.
        reduction: `"mean"` if the loss is a mean over all rows that a layer sees, else `"sum"`.
        explicit: whether to take the explicit step, see `delta_gradient`.

    Returns:
        The model; it shares its arrays with the one given.

    Raises:
        ValueError: a convolution in groups; a subclass with a forward pass of its own; `where`
            names something else than a linear or convolutional layer; arguments that
            `delta_linear` refuses.

    Source: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), eq. (56-57), per
    layer.
    """
    check_numbers("delta_layers", rate, decay, reduction)
    # With it comes equinox, which would double the time that importing nestax takes.
    from ._delta_layers import converted

    return converted(model, rate, decay, where, reduction, explicit)
