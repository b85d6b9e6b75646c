"""optax transformations as optimizers of PyTorch."""

from typing import Any

import optax

from .trees import refuse_module, torch_or_refusal


def optimizer(transformation: Any, parameters: Any) -> Any:
    """An optax transformation as a `torch.optim.Optimizer`: learned rules, Muon, a chain.

    `step()` reads the gradients that `backward()` left, runs the transformation as one compiled
    program, and adds the updates to the parameters in place. Further arguments of `step` by name
    are passed to the transformation, tensors as arrays: `step(value=loss)` hands in the loss, and
    `step(closure)` does so with the loss that the closure returns.

    The learning rate is part of the transformation. The group's `lr`, 1 at the beginning,
    multiplies all updates, so that torch's schedulers work. `state_dict()` contains the optax state
    as a list of tensors, and `load_state_dict()` takes it for the same transformation and
    parameters.

    Args:
        transformation: an optax transformation, such as `nx.optim.muon(0.02)` or `rule(theta)`.
        parameters: a dict of tensors, `dict(net.named_parameters())`, whose names are those of the
            tree that the transformation sees; or an iterable of tensors, which is a list to it.
            Those that require no gradient are left out. A parameter without gradient has a
            gradient of zero.

    Returns:
        The optimizer, with one group of parameters.

    Raises:
        ImportError: torch is not installed.
        TypeError: `transformation` is no optax transformation.
        ValueError: a module in place of its parameters; no tensor that requires a gradient; a
            tensor that JAX cannot hold (see `to_jax`); a state of another transformation; in
            `step`, what the transformation itself refuses.

    Example:
        ```python
        import torch

        net = torch.nn.Linear(3, 1)
        optimizer = nx.torch.optimizer(nx.optim.muon(0.02), dict(net.named_parameters()))
        loss = net(torch.ones(8, 3)).square().mean()
        loss.backward()
        optimizer.step(value=loss)
        ```
    """
    torch = torch_or_refusal("nestax.torch.optimizer")
    if not isinstance(transformation, optax.GradientTransformation):
        raise TypeError(
            f"optimizer: give an optax transformation, got {type(transformation).__name__}; a "
            "learned rule becomes one with its weights, rule(theta)"
        )
    refuse_module(torch, parameters, "optimizer: parameters")
    from .stepping import Optimizer

    return Optimizer(transformation, parameters)
