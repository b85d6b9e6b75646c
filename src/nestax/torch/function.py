"""JAX functions as functions of PyTorch, which its autograd differentiates."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from .programs import Program
from .trees import refuse_module, torch_or_refusal


def torch_function(function: Any) -> Callable:
    """A function of torch tensors that computes and differentiates in JAX, as compiled programs.

    For losses, hypergradients, best responses, the gradient of a nest and layers of
    `nestax.memory`. Calls of the same shapes run one compiled program forward and one backward,
    which uses the intermediate results of the forward one. The gradient of a real scalar is
    computed together with it. Calls under `torch.no_grad()`, or without tensors that require a
    gradient, compute no gradient. Derivatives of every order that JAX has in reverse mode are
    there (`create_graph=True`), and `torch.func.vmap`, `grad`, `vjp` and `jacrev` work.

    Inputs are read from the tensor's own memory where it is contiguous, and have been read when the
    call returns. Outputs have memory of their own. As for torch's functions, a tensor that is
    changed in place between forward and backward is an error in the backward pass.

    Args:
        function: any function of JAX that `jax.jit` could compile, from pytrees to a pytree of
            arrays. Its tensors arrive as arrays. JAX and numpy arrays and Python floats do too, and
            are not differentiated. Every other leaf, such as an int, a bool or a string, is a
            constant of the program: another value compiles another program.

    Returns:
        The function of the same arguments, with tensors in place of arrays: pytrees of tensors
        in, a pytree of tensors out, on the device of the tensors given.

    Raises:
        ImportError: torch is not installed.
        TypeError: `function` is not callable; a constant that is not hashable, in the call.
        ValueError: in the call or the backward pass, a tensor that JAX cannot hold (see `to_jax`),
            a torch module as an argument, or a derivative that JAX does not have.

    Example:
        ```python
        import torch

        norm = nx.torch.torch_function(lambda tree: jnp.sum(tree["a"] ** 2))
        a = torch.ones(2, requires_grad=True)
        norm({"a": a}).backward()
        print(a.grad)  # tensor([2., 2.])
        ```
    """
    torch = torch_or_refusal("nestax.torch.torch_function")
    if not callable(function):
        raise TypeError(f"torch_function: give a function of JAX, got {function!r}")
    from .autograd import run

    name = getattr(function, "__name__", type(function).__name__)
    programs: dict[Any, Program] = {}

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        leaves, treedef = jax.tree.flatten((args, kwargs))
        moving = [
            isinstance(leaf, (torch.Tensor, jax.Array, np.ndarray, np.generic, float, complex))
            for leaf in leaves
        ]
        constants = tuple(leaf for leaf, moves in zip(leaves, moving, strict=True) if not moves)
        key = (treedef, tuple(moving), constants, tuple(map(type, constants)))
        try:
            program = programs.get(key)
        except TypeError:
            _refuse_constants(torch, name, args, kwargs, constants)
            raise
        if program is None:
            _refuse_constants(torch, name, args, kwargs, constants)
            program = programs[key] = Program(_flat(function, treedef, moving, constants), name)
        return run(program, [leaf for leaf, moves in zip(leaves, moving, strict=True) if moves])

    return torch.compiler.disable(call)


def _flat(function: Callable, treedef: Any, moving: list[bool], constants: tuple) -> Callable:
    """The function of the list of the leaves that move."""

    def flat(leaves: list) -> Any:
        moved, fixed = iter(leaves), iter(constants)
        args, kwargs = treedef.unflatten([next(moved if moves else fixed) for moves in moving])
        return function(*args, **kwargs)

    return flat


def _refuse_constants(torch: Any, name: str, args: Any, kwargs: Any, constants: tuple) -> None:
    who = f"torch_function({name}): an argument"
    for leaf in jax.tree.leaves((args, kwargs)):
        refuse_module(torch, leaf, who)
    for leaf in constants:
        try:
            hash(leaf)
        except TypeError as error:
            raise TypeError(
                f"{who} of type {type(leaf).__name__} is no array, hence a constant of the "
                "compiled program, and must be hashable; give tensors, or close over it"
            ) from error
