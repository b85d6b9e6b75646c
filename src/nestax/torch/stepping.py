"""The optimizer of PyTorch that runs an optax transformation; imported where torch is needed."""

from collections.abc import Callable
from typing import Any

import jax
import optax
import torch

from .trees import to_jax, to_torch


class Optimizer(torch.optim.Optimizer):
    """See `nestax.torch.optimizer`."""

    def __init__(self, transformation: Any, parameters: Any) -> None:
        named = isinstance(parameters, dict)
        items = list(parameters.items() if named else enumerate(parameters))
        for name, given in items:
            if not isinstance(given, torch.Tensor):
                raise ValueError(
                    f"optimizer: parameters[{name!r}] must be a tensor, got "
                    f"{type(given).__name__}; give dict(module.named_parameters())"
                )
        items = [(name, given) for name, given in items if given.requires_grad]
        if not items:
            raise ValueError("optimizer: no tensor of the parameters requires a gradient")
        self._made = False
        super().__init__([given for _, given in items], {"lr": 1.0})
        self._made = True
        self._names = [name for name, _ in items] if named else None
        transformation = optax.with_extra_args_support(transformation)
        self._update = jax.jit(lambda g, s, p, extra: transformation.update(g, s, p, **extra))
        self._optax_state = transformation.init(self._tree(self._parameters()))

    def _parameters(self) -> list:
        return self.param_groups[0]["params"]

    def _tree(self, tensors: list) -> Any:
        # Copies: the optax state may keep what it is given, and torch writes to its tensors.
        values = [tensor.detach() for tensor in tensors]
        return to_jax(dict(zip(self._names, values, strict=True)) if self._names else values)

    def add_param_group(self, param_group: Any) -> None:
        """Refused after the first group: the transformation sees one tree."""
        if self._made:
            raise ValueError(
                "optimizer: the parameters are one tree; make a new optimizer for more of them, "
                "and treat tensors differently by optax.partition"
            )
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None, **extra: Any) -> Any:
        """One update.

        Args:
            closure: computes the loss and its gradients anew, and returns the loss.
            extra: arguments of the transformation, such as `value`.

        Returns:
            The loss of the closure, if there is one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
            extra = {"value": loss, **extra}
        extra = {name: _detached(value) for name, value in extra.items()}
        tensors = self._parameters()
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in tensors]
        updates, self._optax_state = self._update(
            self._tree(gradients), self._optax_state, self._tree(tensors), to_jax(extra)
        )
        moved = [updates[name] for name in self._names] if self._names else updates
        for tensor, update in zip(tensors, to_torch(moved, copy=False), strict=True):
            tensor.add_(update, alpha=self.param_groups[0]["lr"])
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The optax state as a list of tensors, and the group."""
        leaves = to_torch(jax.tree.leaves(self._optax_state))
        return {"state": leaves, "param_groups": super().state_dict()["param_groups"]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes a state that `state_dict` gave, of the same transformation and parameters."""
        leaves, structure = jax.tree.flatten(self._optax_state)
        given = to_jax(list(state_dict["state"]))
        kinds = [[(a.shape, a.dtype) for a in one] for one in (given, leaves)]
        if kinds[0] != kinds[1]:
            raise ValueError(
                "optimizer: the state is one of another transformation or of other parameters"
            )
        super().load_state_dict({"state": {}, "param_groups": state_dict["param_groups"]})
        self._optax_state = structure.unflatten(given)


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, torch.Tensor) else value
