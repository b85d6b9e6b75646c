"""What a level is built of, read off before anything runs: signatures, and optimizers that are
none."""

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import jax
import optax

from ._calls import shown

_JITTED: Any = type(jax.jit(lambda: None))
_RATES = ("learning_rate", "lr", "step_size")


def check_arguments(
    owner: str,
    role: str,
    function: Callable,
    arguments: tuple[str, ...],
    optional: tuple[str, ...] = (),
) -> None:
    """Refuses a function that cannot be called as a nest calls it.

    Args:
        owner: such as "level 'w'".
        role: what the function is to it, such as "objective".
        function: the user's; one whose signature cannot be read is let through.
        arguments: names of the positional arguments it is called with.
        optional: names of arguments that it may have besides, given by name.

    Raises:
        ValueError: the signature does not take them.
    """
    signature = signature_of(function)
    if signature is None:
        return
    after = list(signature.parameters)[len(arguments) :]
    more = {name for name in after if name in optional}
    if _takes(signature, len(arguments), more) or _takes(signature, len(arguments) + len(more)):
        return
    called = f"{role}({', '.join(arguments)})"
    required = [p for p in signature.parameters.values() if _required(p)]
    repair = f"give it the parameters ({', '.join(arguments)})"
    if len(required) > len(arguments):
        repair += "; bind what else it needs with functools.partial or as a default"
    raise ValueError(
        f"{owner}: the {role} is called as {called}, and {_name(function)} takes "
        f"{_parameters(signature)}; {repair}"
    )


def signature_of(function: Callable) -> inspect.Signature | None:
    """The signature of the function as it stands. A wrapper's is its own: `functools.wraps` may
    show that of a function with other arguments."""
    if isinstance(function, _JITTED):
        function = function.__wrapped__
    try:
        return inspect.signature(function, follow_wrapped=False)
    except (TypeError, ValueError):
        return None


def _takes(signature: inspect.Signature, count: int, named: Iterable[str] = ()) -> bool:
    try:
        signature.bind(*[None] * count, **dict.fromkeys(named))
    except TypeError:
        return False
    return True


def _required(parameter: inspect.Parameter) -> bool:
    star = (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return parameter.default is parameter.empty and parameter.kind not in star


def _parameters(signature: inspect.Signature) -> str:
    """`(values, *, rate=...)`, without annotations, which may be long."""
    bare = [
        p.replace(annotation=p.empty, default=p.empty if p.default is p.empty else ...)
        for p in signature.parameters.values()
    ]
    return str(signature.replace(parameters=bare, return_annotation=signature.empty)).replace(
        "Ellipsis", "..."
    )


def _name(function: Callable) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", type(function).__name__)


def is_transformation(optimizer: Any) -> bool:
    """Whether this is an optax transformation rather than a function that makes one."""
    return isinstance(optimizer, optax.GradientTransformation)


def check_optimizer(owner: str, optimizer: Any) -> None:
    """Refuses what is neither an optax transformation nor a function values -> transformation.

    Raises:
        ValueError: with what it is instead, such as `optax.sgd` without its arguments.
    """
    if is_transformation(optimizer):
        return
    repair = repaired(optimizer)
    if repair is not None or not callable(optimizer):
        raise ValueError(
            f"{owner}: the optimizer is an optax transformation or a function values -> "
            f"transformation, got {shown(optimizer)}" + (f"; {repair}" if repair else "")
        )
    check_arguments(owner, "optimizer", optimizer, ("values",))


def repaired(optimizer: Any) -> str | None:
    """How something that is no optimizer becomes one, where that can be told."""
    if hasattr(optimizer, "gradient_transformation") and not isinstance(optimizer, type):
        return "call its method: .gradient_transformation()"
    if is_transformation(getattr(optimizer, "tx", None)):  # flax' nnx.Optimizer, TrainState
        return "give the optax transformation that it holds: .tx"
    if isinstance(optimizer, (int, float)):
        return f"a learning rate goes into an optimizer: optax.sgd({optimizer})"
    if isinstance(optimizer, str):
        known = callable(getattr(optax, optimizer, None))
        return f"call optax.{optimizer}" if known else None
    if isinstance(optimizer, tuple) and len(optimizer) == 2 and all(map(callable, optimizer)):
        return "make a transformation of the pair: optax.GradientTransformation(init, update)"
    if not callable(optimizer):
        return None
    base = optimizer
    while isinstance(base, functools.partial):
        base = base.func
    module, name = getattr(base, "__module__", None) or "", _name(base)
    if module.startswith("optax") and "<locals>" in getattr(base, "__qualname__", ""):
        return f"a schedule goes into an optimizer: optax.sgd({name})"
    home = _home(module)
    # inject_hyperparams and its like show the parameters of what they wrap.
    try:
        parameters = list(inspect.signature(optimizer).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    if home or (parameters and _required(parameters[0]) and parameters[0].name in _RATES):
        # What a partial has bound by name is no longer asked for.
        needed = [p.name for p in parameters if _required(p)]
        return f"it was not called: write {home}{name}({', '.join(needed)})"
    if isinstance(optimizer, type):
        return f"it is a class: make one, {name}(...)"
    return None


def _home(module: str) -> str:
    """How users call the place that a maker of transformations comes from; empty for others."""
    for start, home in (
        ("optax.contrib", "optax.contrib."),
        ("optax", "optax."),
        ("nestax.optim", "nx.optim."),
    ):
        if module == start or module.startswith(start + "."):
            return home
    return ""
