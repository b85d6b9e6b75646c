"""Programs of JAX as nodes of torch's graph; imported where torch is needed."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import torch

from .programs import Program
from .trees import array, tensor


def run(program: Program, leaves: list) -> Any:
    """A program called with tensors among its leaves; its outputs are tensors.

    Args:
        program: of as many leaves.
        leaves: tensors, and what `jax.jit` takes otherwise.
    """
    where = [index for index, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
    needs = ()
    if torch.is_grad_enabled():
        needs = tuple(index for index in where if leaves[index].requires_grad)
    transformed = _inside_transform()
    call = _Call(program, leaves, where, () if transformed or program.order else needs)
    if not needs and not transformed:
        flat = call.compute([leaves[index] for index in where])
    else:
        node = _Transformable if transformed else _Node
        flat = node.apply(call, *(leaves[index] for index in where))
    return jax.tree.unflatten(call.structure, flat)


class _Call:
    """One call: what the graph's node remembers.

    Attributes:
        program: what is computed.
        leaves: as given, tensors included.
        where: which leaves are tensors.
        needs: which leaves the residuals are kept for; empty: none are kept.
        structure: of the output, known once it was computed.
        gradients: of a scalar output, where they are kept.
        residuals: of the forward pass, where they are kept.
    """

    def __init__(self, program: Program, leaves: list, where: list[int], needs: tuple[int, ...]):
        self.program, self.where, self.needs = program, where, needs
        # Tensors are remembered by the graph alone, which frees them.
        # A numpy array may be written to before the backward pass.
        self.leaves = [
            None
            if isinstance(leaf, torch.Tensor)
            else np.array(leaf)
            if isinstance(leaf, np.ndarray)
            else leaf
            for leaf in leaves
        ]
        self.structure: Any = None
        self.gradients: Any = None
        self.residuals: Any = None

    def filled(self, tensors: Sequence[Any]) -> list:
        full = list(self.leaves)
        for index, one in zip(self.where, tensors, strict=True):
            full[index] = one
        return full

    def compute(self, tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        given = self.filled(_arrays(self.program, tensors))
        if self.needs:
            out, self.gradients, self.residuals = self.program.keeping(self.needs)(given)
        else:
            out = self.program.forward(given)
        flat, self.structure = jax.tree.flatten(out)
        return _tensors(flat)

    def pull(self, cotangents: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        """The gradients with respect to `needs`."""
        if self.gradients is not None:
            return [cotangents[0] * one for one in _tensors(self.gradients)]
        given = _arrays(self.program, cotangents)
        return _tensors(self.program.pull(self.residuals, given))


class _Node(torch.autograd.Function):
    """A call of a program as a node of the graph."""

    @staticmethod
    def forward(ctx: Any, call: _Call, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        output = call.compute(tensors)
        _remember(ctx, call, tensors, output)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple:
        call, tensors = ctx.call, ctx.saved_tensors  # raises where one was changed in place
        cotangents = [one for one in gradients if _inexact(one)]
        if call.needs and not torch.is_grad_enabled() and not _inside_transform():
            needs = call.needs
            found = call.pull(cotangents)
        else:
            pairs = zip(call.where, ctx.needs_input_grad[1:], strict=True)
            needs = tuple(index for index, wanted in pairs if wanted)
            program = call.program.gradient(needs, len(cotangents))
            found = run(program, [*call.filled(tensors), *cotangents])
        by_leaf = dict(zip(needs, found, strict=True))
        return None, *(by_leaf.get(index) for index in call.where)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise NotImplementedError(
            f"torch_function({ctx.call.program.name}) has no forward mode (torch.func.jvp, jacfwd, "
            "hessian); use reverse mode: torch.func.vjp, jacrev, jacrev(jacrev(f))"
        )


class _Transformable(_Node):
    """The node inside transforms of torch.func, which ask for more and take longer."""

    @staticmethod
    def forward(call: _Call, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:  # pyright: ignore
        return call.compute(tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        call, *tensors = inputs
        _remember(ctx, call, tensors, output)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, call: _Call, *tensors: torch.Tensor) -> tuple:
        axes: list[int | None] = [None] * len(call.leaves)
        for index, axis in zip(call.where, in_dims[1:], strict=True):
            axes[index] = axis
        out = run(call.program.batched(tuple(axes)), call.filled(tensors))
        flat, call.structure = jax.tree.flatten(out)
        return tuple(flat), (0,) * len(flat)


def _remember(ctx: Any, call: _Call, tensors: Sequence[Any], output: Sequence[Any]) -> None:
    ctx.call = call
    ctx.save_for_backward(*tensors)
    ctx.mark_non_differentiable(*(one for one in output if not _inexact(one)))


def _arrays(program: Program, tensors: Sequence[torch.Tensor]) -> list[jax.Array]:
    who = f"torch_function({program.name}): a tensor"
    return [array(one, who) for one in tensors]


def _tensors(arrays: Sequence[jax.Array]) -> tuple[torch.Tensor, ...]:
    # A program's outputs are ready together. From then on nothing reads the memory of its inputs.
    return tuple(tensor(torch, one, "torch_function: an output") for one in arrays)


def _inexact(one: torch.Tensor) -> bool:
    return one.is_floating_point() or one.is_complex()


def _inside_transform() -> bool:
    """Whether a transform of torch.func is at work, in which tensors may hold no numbers."""
    return torch._C._are_functorch_transforms_active()
