"""Calls of a level's optimizer: what its `update` is given, and what its errors say."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import optax

from ..flows.internal import uphill
from ._signatures import signature_of

_TRACED = (
    "Values of other levels are traced, and some functions of optax, such as warm-up schedules, "
    "compare numbers in Python. Give those known numbers, and multiply: "
    "optax.chain(optax.adam(schedule), optax.scale(values['rate']))"
)
_LOOKAHEAD = (
    "optax.lookahead keeps two copies of the weights, and a level has one value: make the slow "
    "copy a level of its own, with every=sync_period, the objective sum((slow - fast)**2) / 2 and "
    "optax.sgd(slow_step_size), and begin the fast one from it, start=lambda values, task, key: "
    'values["slow"]'
)


def begun(level: str, transformation: Any, trained: Any) -> Any:
    """The optimizer's state to begin with."""
    with explained(level):
        return transformation.init(trained)


def proposed(
    level: str,
    transformation: Any,
    gradient: Any,
    state: Any,
    trained: Any,
    loss: Any,
    value_fn: Callable[[Any, Any], Any],
    batch: Any,
) -> tuple[Any, Any]:
    """What the optimizer would add to the value, and its next state (rule R9).

    Args:
        level: the level's name.
        transformation: its optimizer.
        gradient: in which the loss grows.
        state: of the optimizer.
        trained: the trained part of its value.
        loss: at that value.
        value_fn: (trained, batch) -> the loss at another value.
        batch: the level's batch at this tick.
    """
    _transparent(level, state)

    # Line searches hand back those extra arguments that the function has a name for.
    def value_of(trained: Any, batch: Any = batch, grad_fn: Any = None, obj_fn: Any = None) -> Any:
        del grad_fn, obj_fn
        return value_fn(trained, batch)

    def grad_fn(trained: Any, step: Any = None) -> Any:  # of optax.contrib.sam
        del step
        return uphill(jax.grad(value_of)(trained))

    extras = {
        "value": loss,
        "grad": gradient,
        "value_fn": value_of,
        "grad_fn": grad_fn,
        "obj_fn": value_of,  # of estimators of the Hessian, such as Sophia's
        "batch": batch,
    }
    with explained(level, state):
        taken = _taken(transformation.update, extras)
        return transformation.update(gradient, state, trained, **taken)


def applied(level: str, trained: Any, updates: Any, state: Any) -> Any:
    """The next value."""
    with explained(level, state):
        return optax.apply_updates(trained, updates)


def _taken(update: Callable, extras: dict[str, Any]) -> dict[str, Any]:
    """Those extra arguments that an update has a name for, or all of them if it takes any."""
    signature = signature_of(update)
    if signature is None:
        return extras
    parameters = signature.parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return extras
    return {name: extra for name, extra in extras.items() if name in parameters}


@contextlib.contextmanager
def explained(level: str, state: Any = None) -> Iterator[None]:
    """What an optimizer raises, with its level's name and, where known, what to use instead."""
    try:
        yield
    except Exception as error:
        if isinstance(error, ValueError) and str(error).startswith(f"level {level!r}: "):
            raise  # of the objective or the nest, which the optimizer has called
        hint = ""
        held = kinds(state)
        if "LookaheadState" in held:
            hint = f". {_LOOKAHEAD}"
        elif isinstance(error, TypeError) and "SAMState" in held:
            hint = ". Chain inside optax.contrib.sam, not around it: sam(optax.chain(...), ...)"
        elif isinstance(error, TypeError) and "unexpected keyword argument" in str(error):
            hint = ". Let its update take **extra_args"
        elif isinstance(error, jax.errors.ConcretizationTypeError):
            hint = f". {_TRACED}"
        raise ValueError(
            f"level {level!r}: its optimizer raised {type(error).__name__}: {error}{hint}"
        ) from error


def _transparent(level: str, state: Any) -> None:
    for part in _tuples(state):
        if type(part).__name__ == "SAMState" and part.cache is not None:
            raise ValueError(
                f"level {level!r}: optax.contrib.sam hands out its adversarial steps as updates, "
                "so that other levels would see weights that the level does not have; use "
                "sam(..., opaque_mode=True)"
            )


def kinds(state: Any) -> set[str]:
    """Names of the classes that an optimizer's state is made of."""
    return {type(part).__name__ for part in _tuples(state)}


def _tuples(state: Any) -> Iterator[Any]:
    """The named tuples that an optimizer's state is made of."""
    if hasattr(state, "_fields"):
        yield state
    parts = state.values() if isinstance(state, dict) else state
    if isinstance(state, (tuple, list, dict)):
        for part in parts:
            yield from _tuples(part)
