"""Sound calls of the estimators."""

from typing import Any

import numpy as np
from inputs.judge import Call, arguments
from inputs.kinds import (
    Case,
    both,
    choice,
    count,
    flag,
    labels,
    number,
    other,
    samples,
)

from nestax import information

_RNG = np.random.default_rng(0)
T = _RNG.normal(size=(12, 2)).astype(np.float32)
B = (T[:, :1] + 0.5 * _RNG.normal(size=(12, 1))).astype(np.float32)
Y = np.array([0, 1, 2] * 4)

_CLASSES = other(
    Case("a tuple", (0, 1, 2), "same", 3),
    Case("a list", [0, 1, 2], "same", 3),
    Case("numpy", np.arange(3), "same", 3),
    Case("too few", 2),
    Case("too many", 4),
    Case("zero", 0),
    Case("negative", -1),
    Case("not whole", 2.5),
    Case("a class twice", (0, 1, 2, 2)),
    Case("no classes", ()),
    Case("floats", (0.0, 1.0, 2.0)),
    Case("string", "3"),
    Case("object", object()),
    Case("masked", np.ma.masked_array([0, 1, 2], [True, False, False])),
)
_POSITIVE = number(0, above=True)
_KINDS = {
    "t": samples(),
    "a": samples(vector=True),
    "b": samples(vector=True),
    "y": labels(),
    "classes": _CLASSES,
    "bins": both(count(2), other(Case("2**31 - 1", 2**31 - 1), Case("2**62", 2**62))),
    "low": both(number(), other(Case("above high", 2.0), Case("equal to high", 1.5))),
    "high": both(number(), other(Case("below low", -2.0))),
    "edges": choice(),
    "miller_madow": flag,
    "strict": flag,
    "noise_std": both(_POSITIVE),
    "noise_variance": _POSITIVE,
    "epsilon": number(0),
    "ddof": count(0, most=1),
    "bound": number(0, above=True, optional=True),
    "standardize": flag,
    "k": count(1, most=11),
}
_WORDS = {"low": "low", "high": "high", "y": "y|labels?"}


def _call(name: str, _also: Any = None, **sound: Any) -> Call:
    function = getattr(information, name)
    values = {**arguments(function), **sound}
    kinds = {argument: _KINDS[argument] for argument in values} | (_also or {})
    return Call("information", name, function, kinds, values, _WORDS)


def calls() -> list[Call]:
    """One for every public function."""
    labelled: dict[str, Any] = {"y": Y, "classes": 3}
    return [
        _call("binned", t=T, low=-1.5, high=1.5, bins=3, **labelled),
        _call("gaussian_upper_bound", t=T, **labelled),
        _call("kde_bounds", t=T, **labelled),
        _call("ksg", {"b": samples(vector=True)}, a=T, b=B),
        _call("label_entropy", {"y": labels(tied=False)}, **labelled),
        _call("standardize", t=T),
    ]
