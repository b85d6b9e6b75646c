"""What a function of PyTorch does while its operations are written down, beside the operations."""

import copy
from typing import Any

_MEMORY = ("numpy", "__array__", "__dlpack__", "data_ptr", "untyped_storage", "storage", "tolist")
_VIEWS = (
    "__getitem__", "view", "view_as", "reshape", "t", "T", "mT", "transpose", "permute", "narrow",
    "select", "squeeze", "unsqueeze", "flatten", "expand", "unbind", "chunk", "split", "diagonal",
    "movedim", "swapaxes", "unflatten", "detach",
)  # fmt: skip


def watcher(torch: Any, who: str) -> Any:
    """A mode that refuses what is no operation of the graph, but matters for values or derivatives.

    Args:
        torch: the module.
        who: begins an error.
    """
    tensor = torch.Tensor
    detached: list[Any] = []  # tensors that share memory with one that has a derivative

    def is_detached(given: Any) -> bool:
        return any(given is one for one in detached)

    class Watching(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, called: Any, types: Any, args: Any = (), kwargs: Any = None):
            name = getattr(called, "__name__", "")
            owner = getattr(called, "__self__", None)
            if not torch.is_grad_enabled():
                raise ValueError(
                    f"{who} computes under torch.no_grad(), which JAX cannot see; give "
                    "x.detach() where x is meant to be a constant"
                )
            if name in _MEMORY:
                raise ValueError(
                    f"{who} reads a tensor's numbers by {name}, and has none while its operations "
                    "are written down; use operations of torch"
                )
            if owner is tensor.requires_grad and name == "__get__":
                # As it is where a derivative is asked for.
                return not is_detached(args[0]) and (
                    args[0].is_floating_point() or args[0].is_complex()
                )
            if owner is tensor.data:
                if name != "__get__":
                    raise ValueError(
                        f"{who} sets x.data, which derivatives do not see; write x = ..., with "
                        "x.detach() for constants"
                    )
                called, name = tensor.detach, "detach"
            writes = (name.endswith("_") and not name.endswith("__")) or name == "__setitem__"
            writes = writes or (name.startswith("__i") and name not in ("__invert__", "__index__"))
            if writes and args and is_detached(args[0]):
                raise ValueError(
                    f"{who} writes by {name} into x.detach() or x.data, which changes x without "
                    "its derivative; write into x.detach().clone()"
                )
            out = called(*args, **(kwargs or {}))
            viewed = name in _VIEWS or (name == "__get__" and owner in (tensor.T, tensor.mT))
            if name == "detach" or (viewed and args and is_detached(args[0])):
                many = isinstance(out, (tuple, list))
                detached.extend(out if many else [out])
            return out

    return Watching()


class Modules:
    """The modules that take part, and whether they are as they were.

    A context manager around a call. Attributes that a module sets to a tensor in that call hold no
    numbers afterwards: they are put back, and refused.

    Attributes:
        seen: module -> its attributes when it was first called.
    """

    def __init__(self, torch: Any, who: str):
        self.torch, self.who = torch, who
        self.seen: dict[Any, dict[str, Any]] = {}
        self._alive: dict[int, Any] = {}

    def __enter__(self) -> "Modules":
        hook = self.torch.nn.modules.module.register_module_forward_pre_hook
        self._handle = hook(lambda module, given: self._note(module))
        return self

    def _note(self, module: Any) -> None:
        if module not in self.seen:
            self.seen[module] = {
                name: copy.copy(value) if isinstance(value, (dict, list)) else value
                for name, value in vars(module).items()
            }

    def __exit__(self, *ignored: Any) -> None:
        self._handle.remove()
        left = []
        for module, before in self.seen.items():
            now = vars(module)
            for name in [name for name, value in now.items() if self._hollow(value)]:
                old = before.get(name)
                if isinstance(old, dict):
                    for key in [key for key, value in now[name].items() if self._hollow(value)]:
                        left.append(f"{type(module).__name__}.{key}")
                        now[name].pop(key) if key not in old else now[name].update({key: old[key]})
                    continue
                if name != "_flat_weights":  # torch's own, which follow the parameters
                    left.append(f"{type(module).__name__}.{name}")
                now.pop(name) if name not in before else now.update({name: old})
        if left:
            raise ValueError(
                f"{self.who} sets {', '.join(left)} while it runs, which JAX does not; where it "
                "fills a cache, call the module once in torch before; else return the value"
            )

    def _hollow(self, value: Any) -> bool:
        """Whether a tensor without numbers is in an attribute."""
        if isinstance(value, dict):
            return any(map(self._hollow, value.values()))
        if isinstance(value, (list, tuple)):
            return any(map(self._hollow, value))
        if not isinstance(value, self.torch.Tensor):
            return False
        fake = self.torch._subclasses.fake_tensor.FakeTensor
        return isinstance(value, fake) or self.torch._is_functional_tensor(value)

    def modes(self) -> list[Any]:
        """What can change without another call: numbers, words and tensors that are attributes."""
        plain, found = (bool, int, float, str, type(None)), []
        for module in self.seen:
            for name, value in [*vars(module).items(), *module._buffers.items()]:
                if isinstance(value, self.torch.Tensor):
                    self._alive[id(value)] = value  # while it lives no other has its id
                    found.append((name, id(value), value._version))
                elif isinstance(value, plain):
                    found.append((name, value))
        return found
