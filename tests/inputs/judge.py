"""Calls of public functions with inputs that are not sound, and what becomes of them."""

import inspect
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jaxtyping
import numpy as np
from inputs.kinds import Case, Kind

_ABSENT = object()


class Call:
    """A public function with sound arguments and the kind of each.

    Attributes:
        package: where the function is found, such as "optim".
        name: its public name; a method as in "Block.__call__".
        run: from keyword arguments to a tree of arrays.
        kinds: the kind of each argument that is varied.
        sound: sound values.
        words: what an error may call an argument, a regular expression for each; its name where
            there is none.
        owners: what an error may begin with, a regular expression; None: the function's name.
    """

    def __init__(
        self,
        package: str,
        name: str,
        run: Callable[..., Any],
        kinds: Mapping[str, Kind],
        sound: Mapping[str, Any],
        words: Mapping[str, str] | None = None,
        owners: str | None = None,
    ):
        self.package, self.name, self.run = package, name, run
        self.kinds, self.sound, self.words = dict(kinds), dict(sound), words or {}
        self.owners = owners or name.split(".")[0]

    def cases(self, argument: str) -> Iterator[Case]:
        """What is tried for an argument, or for several together."""
        return self.kinds[argument](self.sound.get(argument, self.sound))

    @cached_property
    def _results(self) -> dict[tuple[str, int], tuple[list, Any]]:
        return {}

    def result(self, argument: str | None = None, value: Any = None) -> list:
        """Leaves of the result with one argument replaced."""
        replaced = value if "," in (argument or "") else {argument: value}
        given = self.sound if argument is None else {**self.sound, **replaced}
        return [np.asarray(leaf) for leaf in jax.tree.leaves(self.run(**given)) if _numeric(leaf)]

    def wanted(self, argument: str = "", means: Any = None) -> list:
        """The result for values that are sound. Many cases mean the same, so it is kept."""
        sound = self.sound.get(argument, _ABSENT)
        if means is sound or (type(means) is type(sound) is float and means == sound):
            argument = ""
        label = (argument, id(means) if argument else 0)
        if label not in self._results:
            # With `means`, so that no other object gets its id.
            self._results[label] = (self.result(argument or None, means), means)
        return self._results[label][0]


class Outcome(NamedTuple):
    """What became of one input: `verdict` is "right", "refused" or "fault"."""

    call: str
    argument: str
    case: str
    verdict: str
    said: str = ""


def _numeric(leaf: Any) -> bool:
    if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return False
    return isinstance(leaf, jax.Array | np.ndarray | np.generic | int | float | complex)


def judge(call: Call, argument: str, case: Case) -> Outcome:
    """Calls the function with one input, and compares what happens with what is expected."""

    def outcome(verdict: str, said: str = "") -> Outcome:
        said = " ".join(said.split())
        return Outcome(f"{call.package}.{call.name}", argument, case.name, verdict, said)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = call.result(argument, case.value)
    except (ValueError, TypeError) as error:
        said = str(error)
        word = call.words.get(argument, argument.strip(",").replace(", ", "|"))
        named = re.match(rf"({call.owners})\b", said)
        if not named:
            return outcome(
                "fault", f"{type(error).__name__} that does not begin with {call.owners}: {said}"
            )
        if not re.search(rf"\b({word})\b", said[named.end() :]):
            return outcome("fault", f"{type(error).__name__} that does not name {argument}: {said}")
        return outcome("refused", said)
    except Exception as error:
        return outcome("fault", f"{type(error).__name__}: {error}")

    finite = all(np.isfinite(leaf).all() for leaf in found if leaf.dtype.kind in "fc")
    if case.expect == "refuse":
        return outcome("fault", "accepted" + ("" if finite else ", result not finite"))
    if case.expect == "spread":
        return outcome("fault", "a finite result") if finite else outcome("right")
    if case.expect == "runs":
        return outcome("right") if finite else outcome("fault", "a result that is not finite")
    if case.expect == "prefix":
        whole = call.wanted()[0]
        wanted = [whole[: len(found[0])]]
        found = found[:1]
    else:
        try:
            wanted = call.wanted(argument, case.means)
        except Exception as error:
            return outcome("fault", f"without a result for the same values: {error!r}")
    if _equal(found, wanted, case.rtol, -1 if case.expect == "mirror" else 1):
        return outcome("right")
    return outcome(
        "fault", f"another result than for the same values: {_brief(found)}, not {_brief(wanted)}"
    )


def _equal(found: list, wanted: list, rtol: float, factor: int) -> bool:
    if len(found) != len(wanted):
        return False
    for a, b in zip(found, wanted, strict=True):
        if a.shape != b.shape:
            return False
        if a.dtype.kind not in "fc" and a.dtype.kind != "V":
            if not np.array_equal(a, b):
                return False
            continue
        a, b = (x.astype(np.complex128 if x.dtype.kind == "c" else np.float64) for x in (a, b))
        size = np.max(np.abs(b[np.isfinite(b)]), initial=0.0)
        if not np.allclose(a, factor * b, rtol=rtol, atol=rtol * size + 1e-12, equal_nan=True):
            return False
    return True


def _brief(leaves: list) -> str:
    return ", ".join(f"{leaf.dtype}{list(leaf.shape)} {leaf.ravel()[:3]}" for leaf in leaves[:1])


def judge_all(calls: list[Call]) -> list[Outcome]:
    """Every input of every argument, as a user calls: types are not checked, ranks promoted."""
    checked = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with jax.numpy_rank_promotion("allow"), jax.disable_jit():
            return [
                judge(call, argument, case)
                for call in calls
                for argument in call.kinds
                for case in call.cases(argument)
            ]
    finally:
        jaxtyping.config.update("jaxtyping_disable", checked)


def arguments(function: Callable) -> dict[str, Any]:
    """Names of a function's parameters and their defaults; `inspect.Parameter.empty` for none."""
    return {
        name: p.default
        for name, p in inspect.signature(function).parameters.items()
        if name != "self" and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    }


def is_function(value: Any) -> bool:
    """Whether a public name is called with a user's input: no state, no result, no alias."""
    if isinstance(value, type):
        results = (tuple, Iterator)
        return not issubclass(value, results) and not hasattr(value, "at_ceiling")
    return callable(value) and hasattr(value, "__code__")
