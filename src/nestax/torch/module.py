"""Functions and modules of PyTorch as functions of JAX: a graph of operations, run in JAX."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from .trees import array, refuse_module, torch_or_refusal
from .watching import Modules, watcher

_RANDOM = ("bernoulli", "native_dropout", "rand", "randn", "normal", "uniform", "randint")


def jax_function(function: Any) -> Callable:
    """A function or module of PyTorch as a function of JAX: `jit`, `grad` and `vmap` work on it.

    PyTorch records the operations of the function, once for each shape, and JAX computes them.
    Afterwards torch takes no part, and derivatives of every order are JAX's. So a module can be
    part of a level's objective, under any flow. Most operations of multilayer perceptrons,
    convolutional and recurrent networks and transformers have a JAX form. Others are refused by
    name.

    Args:
        function: a function from pytrees of tensors to pytrees of tensors; or a module `net`, which
            becomes `f(parameters, *inputs)`, as `torch.func.functional_call(net, parameters,
            inputs)`. Its parameters are `nx.torch.to_jax(dict(net.named_parameters()))`. Buffers,
            the mode (training or evaluation) and tensors that a function closes over are constants,
            with the values of the present call; within `jax.jit`, of the call that was compiled.

    Returns:
        The function of the same arguments, with arrays in place of tensors. Ints, bools and strings
        among the arguments are constants. While JAX's 64-bit numbers are off, int32 arrays are
        int64 tensors to the function, which labels must be; products beyond int32 overflow. An
        index out of range, which is an error in torch, gives nan.

    Raises:
        ImportError: torch is not installed.
        TypeError: `function` is not callable.
        ValueError: in a call, where JAX would compute another value or another derivative than
            torch: an operation without a JAX form, random numbers (dropout in training mode),
            arguments or buffers changed in place (BatchNorm in training mode), attributes of a
            module set in its call, branches on numbers, `torch.no_grad`, an `autograd.Function` or
            hooks of one's own, writes into `x.detach()` or `x.data`, a parameter that is closed
            over. An argument is a tensor or a module of torch:
            `nx.torch.to_jax` converts them.

    Example:
        ```python
        import torch

        square = nx.torch.jax_function(lambda x: (x**2).sum())
        print(jax.grad(square)(jnp.ones(2)))  # [2. 2.]
        ```
    """
    torch = torch_or_refusal("nestax.torch.jax_function")
    if not callable(function):
        raise TypeError(f"jax_function: give a function or module of torch, got {function!r}")
    name = getattr(function, "__name__", type(function).__name__)
    pure = function
    if isinstance(function, torch.nn.Module):
        if any(one._backward_hooks or one._backward_pre_hooks for one in function.modules()):
            raise ValueError(f"jax_function({name}): it has backward hooks, which JAX never calls")

        def pure(parameters: Any, *inputs: Any, **named: Any) -> Any:
            return torch.func.functional_call(function, parameters, inputs, named)

    graphs: dict[Any, _Graph] = {}

    def call(*args: Any, **kwargs: Any) -> Any:
        leaves, treedef = jax.tree.flatten((args, kwargs))
        for leaf in leaves:
            refuse_module(torch, leaf, f"jax_function({name}): an argument")
            if isinstance(leaf, torch.Tensor):
                raise ValueError(
                    f"jax_function({name}): tensors of torch are arguments of a function of JAX; "
                    "convert them with nx.torch.to_jax"
                )
        # By its words a float differs from itself with another sign, and is found again if nan.
        fixed = tuple(
            None
            if hasattr(leaf, "shape")
            else (float, repr(leaf))
            if isinstance(leaf, float)
            else leaf
            for leaf in leaves
        )
        arrays = [jnp.asarray(leaf) for leaf in leaves if hasattr(leaf, "shape")]
        kinds = tuple((one.shape, one.dtype) for one in arrays)
        wide = bool(jax.config.read("jax_enable_x64"))
        key = (treedef, fixed, tuple(map(type, fixed)), kinds, wide)
        if key not in graphs or graphs[key].stale():
            with jax.ensure_compile_time_eval():
                graphs[key] = _Graph(torch, pure, name, leaves, treedef)
        return graphs[key].run(arrays)

    call.__name__ = name
    return call


class _Graph:
    """The operations of a function at certain shapes."""

    def __init__(self, torch: Any, function: Callable, name: str, leaves: list, treedef: Any):
        self.name, self.result_type = name, torch.result_type
        self.structure: Any = None
        self.nodes = self._traced(torch, function, leaves, treedef)
        self._check(torch)

    def _traced(self, torch: Any, function: Callable, leaves: list, treedef: Any) -> list:
        from torch._decomp import core_aten_decompositions
        from torch.fx.experimental.proxy_tensor import make_fx

        who = f"jax_function({self.name})"
        examples = [
            _example(torch, leaf, who) if hasattr(leaf, "shape") else None for leaf in leaves
        ]

        self.modules = Modules(torch, who)

        def flat(*tensors: Any) -> list:
            given = iter(tensors)
            full = [
                leaf if example is None else next(given)
                for leaf, example in zip(leaves, examples, strict=True)
            ]
            args, kwargs = treedef.unflatten(full)
            with self.modules, watcher(torch, who):
                out = function(*args, **kwargs)
            # Results of torch.max and its like are tuples that no pytree knows.
            out = jax.tree.map(lambda one: tuple(one) if isinstance(one, tuple) else one, out)
            flat, self.structure = jax.tree.flatten(out)
            for one in flat:
                if not isinstance(one, torch.Tensor):
                    raise ValueError(f"{who} must return tensors, in a pytree; not {type(one)}")
            return flat

        # What has a JAX form is not taken apart, so that its derivatives are torch's at ties too.
        rules: Any = core_aten_decompositions()
        rules = {op: rule for op, rule in rules.items() if _name(op) not in _operations()}

        def traced(*tensors: Any) -> Any:
            made, settings = flat, {"tracing_mode": "fake", "_allow_non_fake_inputs": True}
            # Twice: some rules write in place, and only what is written down is made functional.
            for table in (rules, {}):
                made = make_fx(
                    torch.func.functionalize(made, remove="mutations_and_views"), table, **settings
                )(*tensors)
            return made

        with _as_written(torch):
            try:
                module = traced(*(one for one in examples if one is not None))
            except (ValueError, TypeError):
                raise
            except Exception as error:
                if "setup_context" in str(error) or "custom_function_call" in str(error):
                    raise ValueError(
                        f"{who} uses a torch.autograd.Function (checkpoint is one), whose backward "
                        "pass JAX cannot see; write that part in JAX, with jax.custom_vjp"
                    ) from error
                first = str(error).strip().splitlines()[0]
                if "data-dependent" in first:
                    first = f"a branch depends on numbers, use torch.where ({first})"
                raise ValueError(
                    f"{who}: torch cannot write its operations down: {first}"
                ) from error
        self.constants = {
            node.target: getattr(module, node.target)
            for node in module.graph.nodes
            if node.op == "get_attr"
        }
        self.modes = self.modules.modes()
        self.sources = [(one, one._version) for one in self.constants.values()]
        called = [_name(node.target) for node in module.graph.nodes if node.op == "call_function"]
        if any(one.endswith("_") and not one.endswith("__") for one in called):
            raise ValueError(
                f"{who} changes an argument or a buffer in place (BatchNorm in training mode "
                "does); call module.eval(), or give a layer without running statistics"
            )
        module.graph.eliminate_dead_code()
        return list(module.graph.nodes)

    def _check(self, torch: Any) -> None:
        who = f"jax_function({self.name})"
        for key, one in self.constants.items():
            if one.requires_grad:
                raise ValueError(
                    f"{who} closes over a tensor of shape {tuple(one.shape)} that requires a "
                    "gradient; give the module itself, whose parameters are then an argument, or "
                    "use torch.func.functional_call, or x.detach() for a constant"
                )
            self.constants[key] = array(one, f"{who}: a tensor that it closes over", copy=True)
        called = [node for node in self.nodes if node.op == "call_function"]
        unknown = sorted({_name(one.target) for one in called} - set(_operations()) - {"getitem"})
        drawn = [one for one in unknown if one.startswith(_RANDOM)]
        if drawn:
            raise ValueError(
                f"{who} draws random numbers ({drawn[0]}; dropout in training mode does), which "
                "would be the same in every call; call module.eval(), or give the numbers as an "
                "argument"
            )
        if unknown:
            raise ValueError(
                f"{who}: operations without a JAX form: {', '.join(unknown)}; write these parts "
                "with jax.numpy"
            )
        wide = (torch.float64, torch.complex128)
        if not jax.config.read("jax_enable_x64"):
            for node in called:
                made = _name(node.target) in (
                    "full",
                    "full_like",
                    "fill",
                    "arange",
                    "scalar_tensor",
                )
                numbers = [one for one in jax.tree.leaves(node.args) if isinstance(one, int)]
                if made and any(not -(2**31) <= one < 2**31 for one in numbers):
                    raise ValueError(
                        f"{who} has an integer beyond those of int32, and JAX's 64-bit numbers are "
                        'off: say jax.config.update("jax_enable_x64", True)'
                    )
                if any(one.dtype in wide for one in jax.tree.leaves(node.meta.get("val"))):
                    raise ValueError(
                        f"{who} computes in 64 bits ({node.target}), and JAX's 64-bit numbers are "
                        'off: use x.float(), or say jax.config.update("jax_enable_x64", True)'
                    )

    def stale(self) -> bool:
        """Whether a tensor or a module's mode that is a constant here has changed."""
        changed = any(one._version != version for one, version in self.sources)
        return changed or self.modules.modes() != self.modes

    def run(self, arrays: Sequence[Any]) -> Any:
        """The outputs for these inputs."""
        values: dict[Any, Any] = {}
        inputs = iter(arrays)
        for node in self.nodes:
            if node.op == "placeholder":
                values[node] = next(inputs)
            elif node.op == "get_attr":
                values[node] = self.constants[node.target]
            elif node.op == "output":
                out = _replaced(node.args[0], values)
                if any(one is None for one in out):
                    raise ValueError(
                        f"jax_function({self.name}) returns a result without a JAX form, such as "
                        "the indices of max_pool2d; return the others"
                    )
                return jax.tree.unflatten(self.structure, list(out))
            elif _name(node.target) == "getitem":
                source, index = node.args
                values[node] = values[source][index]
            else:
                values[node] = self._computed(node, values)
        raise AssertionError("a graph ends with its output")

    def _computed(self, node: Any, values: dict) -> Any:
        operation = _operations()[_name(node.target)]
        args, kwargs = _replaced(node.args, values), _replaced(node.kwargs, values)
        args = self._promoted(node, args)
        try:
            out = operation(*args, **kwargs)
        except Exception as error:
            raise ValueError(
                f"jax_function({self.name}): {node.target} has no JAX form for these arguments: "
                f"{error}"
            ) from error
        expected = node.meta["val"]
        if not isinstance(expected, (tuple, list)):
            return self._as_expected(node, out, expected)
        pairs = zip(out, expected, strict=True)
        return [None if a is None else self._as_expected(node, a, b) for a, b in pairs]

    def _promoted(self, node: Any, args: Any) -> Any:
        """The arrays among the arguments in the dtype that torch computes in, where it matters."""
        from .aten import COMPARED, PROMOTED

        name = _name(node.target)
        if name in COMPARED:
            metas = [getattr(one, "meta", {"val": one})["val"] for one in node.args]
            dtype = self.result_type(*metas)
        elif name in PROMOTED:
            dtype = node.meta["val"].dtype
        else:
            return args
        dtype = jax.dtypes.canonicalize_dtype(str(dtype).removeprefix("torch."))
        first = 1 if name == "where" else 0
        return args[:first] + [
            one.astype(dtype) if hasattr(one, "astype") else one for one in args[first:]
        ]

    def _as_expected(self, node: Any, out: Any, expected: Any) -> Any:
        """The dtype is torch's, whose rules of promotion are others."""
        if jnp.shape(out) != tuple(expected.shape):
            raise ValueError(
                f"jax_function({self.name}): {node.target} has shape {tuple(expected.shape)} in "
                f"torch and {jnp.shape(out)} in JAX"
            )
        name = str(expected.dtype).removeprefix("torch.")
        return jnp.asarray(out).astype(jax.dtypes.canonicalize_dtype(name))


def _operations() -> dict[str, Callable]:
    from .aten import OPERATIONS

    return OPERATIONS


def _name(target: Any) -> str:
    """aten.add.Tensor is "add"; what makes a copy of a view is the view."""
    name = getattr(target, "overloadpacket", target)
    name = getattr(name, "__name__", str(name))
    return name if name in ("_to_copy", "lift_fresh_copy") else name.removesuffix("_copy")


def _replaced(given: Any, values: dict) -> Any:
    if isinstance(given, (tuple, list)):
        return [_replaced(one, values) for one in given]
    if isinstance(given, dict):
        return {key: _replaced(one, values) for key, one in given.items()}
    try:
        return values.get(given, given)
    except TypeError:
        return given


def _example(torch: Any, leaf: Any, who: str) -> Any:
    """A tensor of the leaf's shape."""
    name = str(leaf.dtype)
    if name == "int32" and not jax.config.read("jax_enable_x64"):
        name = "int64"
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{who}: torch has no dtype {name}")
    return torch.zeros(tuple(leaf.shape), dtype=dtype)


@contextlib.contextmanager
def _as_written(torch: Any) -> Any:
    """Modules do what they say, in plain operations, in place of fused kernels."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    kernels = torch._C._get_mkldnn_enabled()  # has one for recurrent networks
    torch._C._set_mkldnn_enabled(False)
    try:
        backend = torch.nn.attention.SDPBackend.MATH
        with torch.enable_grad(), torch.nn.attention.sdpa_kernel(backend):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch._C._set_mkldnn_enabled(kernels)
