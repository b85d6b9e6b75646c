"""Trees of arrays from PyTorch to JAX and back, by DLPack."""

from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

_NARROW = {"int64": "int32"}  # what JAX has instead while float64 is off, if every number fits


def torch_or_refusal(who: str) -> Any:
    """The module torch, imported when it is first needed.

    Raises:
        ImportError: torch is not installed.
    """
    try:
        return import_module("torch")
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ImportError(
            f'{who} needs PyTorch, which is not installed: pip install "nestax[torch]"'
        ) from error


def to_jax(tree: Any, *, copy: bool = True) -> Any:
    """A pytree with a JAX array for each torch tensor: parameters, a batch, a module's state dict.

    Values only: gradients do not flow through it, `torch_function` carries them. dtypes stay. While
    JAX's 64-bit numbers are off (`jax_enable_x64`), int64 becomes int32 if every number fits, and
    float64, complex128 and uint64 are refused. An array lies on the device of its tensor.

    Args:
        tree: any pytree, such as `dict(module.named_parameters())`. Leaves that are no tensors stay
            as they are.
        copy: whether the arrays have memory of their own. With False they share the tensor's
            where it is contiguous: later writes to the tensor, an optimizer's step among them, then
            change the array, which JAX takes for constant. It is for data that nobody writes to.

    Returns:
        A tree like `tree`.

    Raises:
        ImportError: torch is not installed.
        ValueError: by path, a tensor that JAX cannot hold: sparse, quantized, without data (meta),
            inside a transform of `torch.func`, of 64 bits while JAX has 32, or on a device that JAX
            does not see; a whole module, of which the tree should be given.

    Example:
        ```python
        import torch

        tree = nx.torch.to_jax({"w": torch.ones(2), "steps": 3})
        print(tree["w"], tree["steps"])  # [1. 1.] 3
        ```
    """
    torch = torch_or_refusal("nestax.torch.to_jax")

    def converted(path: Any, leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            return array(leaf, _who("to_jax", "tree", path), copy=copy)
        refuse_module(torch, leaf, _who("to_jax", "tree", path))
        return leaf

    return jax.tree_util.tree_map_with_path(converted, tree)


def to_torch(tree: Any, *, copy: bool = True) -> Any:
    """A pytree with a torch tensor for each JAX array, such as `module.load_state_dict` takes.

    Values only, dtypes stay, and a tensor lies on the device of its array.

    Args:
        tree: any pytree. Leaves that are no JAX arrays stay as they are, numpy arrays among them.
        copy: whether the tensors have memory of their own. With False they share the array's: a
            write to the tensor then changes the array, which JAX takes for constant.

    Returns:
        A tree like `tree`; no tensor requires a gradient.

    Raises:
        ImportError: torch is not installed.
        ValueError: by path, an array that torch cannot hold: traced, spread over devices, a random
            key, or of a dtype that torch does not have, such as int4.

    Example:
        ```python
        import torch

        print(nx.torch.to_torch({"w": jnp.ones(2)}))  # {'w': tensor([1., 1.])}
        ```
    """
    torch = torch_or_refusal("nestax.torch.to_torch")

    def converted(path: Any, leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array):
            return leaf
        shared = tensor(torch, leaf, _who("to_torch", "tree", path))
        return shared.clone() if copy else shared

    return jax.tree_util.tree_map_with_path(converted, tree)


def refuse_module(torch: Any, leaf: Any, who: str) -> None:
    """A module is a leaf to JAX: its parameters would be constants."""
    if isinstance(leaf, torch.nn.Module):
        raise ValueError(
            f"{who} is a torch module; give its tensors: dict(module.named_parameters()), or "
            "module.state_dict() for the buffers too"
        )


def array(tensor: Any, who: str, copy: bool = False) -> jax.Array:
    """The tensor's numbers as a JAX array, which shares their memory unless it must not or cannot.

    Args:
        tensor: of torch, of any kind.
        who: begins an error.
        copy: whether the array has memory of its own.
    """
    layout = str(tensor.layout).removeprefix("torch.")
    if layout != "strided" or tensor.is_quantized or tensor.device.type == "meta":
        kind = "quantized" if tensor.is_quantized else layout
        kind = "without data (device meta)" if tensor.device.type == "meta" else kind
        raise ValueError(f"{who} is a tensor {kind}, which JAX cannot hold; give a dense one")
    try:
        # The bits that stand for a conjugate or a sign do not travel.
        given = tensor.detach().resolve_conj().resolve_neg()
        if not jax.config.read("jax_enable_x64"):
            given = _narrow(given, who)
        given = given.contiguous()
        if copy and given.data_ptr() == tensor.data_ptr():
            given = given.clone()
        return jax.dlpack.from_dlpack(given)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(_untaken(tensor, who, error)) from error


def _narrow(tensor: Any, who: str) -> Any:
    """Where JAX has 32 bits: a tensor that it would cut down without a word."""
    name = str(tensor.dtype).removeprefix("torch.")
    if name not in ("int64", "uint64", "float64", "complex128"):
        return tensor
    narrow = _NARROW.get(name)
    repair = 'jax.config.update("jax_enable_x64", True) before anything is computed'
    if narrow is None:
        shorter = {"float64": "x.float()", "complex128": "x.cfloat()", "uint64": "x.int()"}[name]
        raise ValueError(
            f"{who} has dtype {name}, and JAX's 64-bit numbers are off: give {shorter}, or say "
            f"{repair}"
        )
    least, most = np.iinfo(narrow).min, np.iinfo(narrow).max
    if tensor.numel() and not (least <= int(tensor.min()) and int(tensor.max()) <= most):
        raise ValueError(
            f"{who} holds int64 numbers beyond those of int32, and JAX's 64-bit numbers are off: "
            f"say {repair}"
        )
    return tensor.int()


def _untaken(tensor: Any, who: str, error: Exception) -> str:
    """Why JAX did not take a tensor, as well as can be said."""
    device = tensor.device.type
    known = {one.platform for one in jax.local_devices()}
    if device in ("cuda", "hip") and not known & {"gpu", "cuda", "rocm"}:
        return (
            f"{who} lies on {tensor.device}, and JAX sees only {sorted(known)}: install JAX for "
            "GPUs (pip install 'jax[cuda13]'), or move the tensor with .cpu()"
        )
    what = f"{who}, a tensor of dtype {tensor.dtype} on {tensor.device}, cannot be handed to JAX"
    if "atching rule" in str(error):
        return (
            f"{what} from within vmap, is_grads_batched=True or vectorize=True, where it holds no "
            "numbers; use torch_function with torch.func.jacrev and torch.func.vmap"
        )
    return f"{what}: {error}"


def tensor(torch: Any, array: jax.Array, who: str) -> Any:
    """The array's numbers as a tensor that shares its memory."""
    if isinstance(array, Tracer):
        raise ValueError(f"{who} is traced by jit, grad or vmap; convert outside of them")
    if jnp.issubdtype(array.dtype, jax.dtypes.extended):
        raise ValueError(f"{who} holds {array.dtype}; give jax.random.key_data of random keys")
    if len(array.sharding.device_set) > 1:
        raise ValueError(
            f"{who} is spread over {len(array.sharding.device_set)} devices; gather it with "
            "jax.device_put(x, jax.devices()[0])"
        )
    try:
        # PyTorch reads host memory at once, so it must have been written.
        return torch.from_dlpack(array.block_until_ready())
    except Exception as error:
        raise ValueError(
            f"{who}, of dtype {array.dtype} on {array.device}, cannot be handed to torch: {error}"
        ) from error


def _who(function: str, argument: str, path: Any) -> str:
    return f"nestax.torch.{function}: {argument}{jax.tree_util.keystr(path)}"
