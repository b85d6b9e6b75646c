"""The results of the estimators: frozen dataclasses that are JAX pytrees.

Every result carries the largest value its estimator could have returned (`ceiling`), because
a value that sits at the ceiling measures the number of samples or cells and not the network
(Saxe et al., "On the information bottleneck theory of deep learning", ICLR 2018; Goldfeld et
al., "Estimating information flow in deep neural networks", ICML 2019).
"""

import dataclasses
from typing import Any, TypeVar, dataclass_transform

import jax
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int

CEILING_TOLERANCE = 0.01
"""Bits below its ceiling within which a value counts as being at the ceiling."""

ROUNDING = 1e-9
"""Bits by which an exact inequality may be missed in float64 before it is an error."""

Bits = Float[ArrayLike, ""]

_T = TypeVar("_T")


@dataclass_transform(frozen_default=True)
def pytree_dataclass(cls: type[_T]) -> type[_T]:
    """Make `cls` a frozen dataclass whose fields are all children of a JAX pytree."""
    cls = dataclasses.dataclass(frozen=True)(cls)
    names = tuple(field.name for field in dataclasses.fields(cls))  # pyright: ignore

    def flatten(result: Any) -> tuple[tuple[Any, ...], None]:
        return tuple(getattr(result, name) for name in names), None

    def flatten_with_keys(result: Any) -> tuple[tuple[tuple[Any, Any], ...], None]:
        keyed = ((jax.tree_util.GetAttrKey(name), getattr(result, name)) for name in names)
        return tuple(keyed), None

    def unflatten(_: None, children: Any) -> Any:
        # Not through __init__: JAX rebuilds trees with placeholders and with batched leaves,
        # which the annotations of the fields do not describe.
        result = object.__new__(cls)
        for name, child in zip(names, children, strict=True):
            object.__setattr__(result, name, child)
        return result

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


def _reaches(value: Any, ceiling: Any) -> Any:
    return value >= ceiling - CEILING_TOLERANCE


@pytree_dataclass
class BinnedInformation:
    """Information of a layer whose rows are seen only up to their cells, in bits.

    Attributes:
        x: I(b(T);X) = H(b(T)).
        y: I(b(T);Y), or None without labels.
        ceiling: log2 of the smaller of N and the number of cells, bins ** units; with the
            Miller-Madow correction, the corrected value for that many occupied cells.
        label_ceiling: H(Y), or None without labels.
        cells: number of occupied cells. With `cells` near N both values are mostly bias.
    """

    x: Bits
    y: Bits | None
    ceiling: Bits
    label_ceiling: Bits | None
    cells: Int[ArrayLike, ""]

    @property
    def at_ceiling(self) -> Bool[ArrayLike, "..."]:
        """Whether `x` is within 0.01 bit of its ceiling."""
        return _reaches(self.x, self.ceiling)


@pytree_dataclass
class KDEInformation:
    """Bounds on the information of a layer seen through Gaussian noise, in bits.

    Attributes:
        x_lower: lower bound on I(M;X), M = T + noise (Bhattacharyya distance).
        x_upper: upper bound on I(M;X) (Kullback-Leibler divergence).
        y_lower: the lower bound on H(M) minus the lower bounds on H(M|y), or None without labels.
            A difference of bounds, so not a bound on I(M;Y).
        y_upper: the upper bound on H(M) minus the upper bounds on H(M|y), or None without labels.
            Not a bound either.
        ceiling: log2 N, which neither bound can exceed.
        label_ceiling: H(Y), or None without labels.
    """

    x_lower: Bits
    x_upper: Bits
    y_lower: Bits | None
    y_upper: Bits | None
    ceiling: Bits
    label_ceiling: Bits | None

    @property
    def at_ceiling(self) -> Bool[ArrayLike, "..."]:
        """Whether `x_lower`, and with it `x_upper`, is within 0.01 bit of log2 N."""
        return _reaches(self.x_lower, self.ceiling)


@pytree_dataclass
class GaussianInformation:
    """Maximum-entropy information of a layer seen through Gaussian noise, in bits.

    Attributes:
        x: upper bound on I(M;X), M = T + noise.
        y: that bound minus the bounds within the classes, or None without labels. A difference
            of bounds, so not a bound on I(M;Y); it may exceed `label_ceiling`.
        ceiling: the largest possible `x` of N rows within [-bound, bound]; infinite if no bound
            was given or if a row exceeds it. It is not limited by log2 N.
        label_ceiling: H(Y), which I(M;Y) cannot exceed, or None without labels.
    """

    x: Bits
    y: Bits | None
    ceiling: Bits
    label_ceiling: Bits | None

    @property
    def at_ceiling(self) -> Bool[ArrayLike, "..."]:
        """Whether `x` is within 0.01 bit of its ceiling."""
        return _reaches(self.x, self.ceiling)


@pytree_dataclass
class KSGInformation:
    """Nearest-neighbour information of two continuous variables, in bits.

    Attributes:
        x: the estimate of I(A;B). Slightly negative values are possible.
        ceiling: (psi(N) - psi(k)) / ln 2, the largest value for N rows without ties.
    """

    x: Bits
    ceiling: Bits

    @property
    def at_ceiling(self) -> Bool[ArrayLike, "..."]:
        """Whether `x` is within 0.01 bit of its ceiling."""
        return _reaches(self.x, self.ceiling)


def assert_consistent(x: Any, y: Any, label_entropy: Any, estimator: str) -> None:
    """Raise if I(T;Y) <= min(I(T;X), H(Y)) does not hold, on concrete values.

    Y and T are both functions of the input here, so on one channel this cannot fail.

    Raises:
        RuntimeError: if the inequality is missed by more than `ROUNDING` bits.
    """
    if any(isinstance(value, Array) for value in (x, y, label_entropy)):
        return
    if y > min(x, label_entropy) + ROUNDING:
        raise RuntimeError(
            f"internal error in {estimator}: I(T;Y) = {y} bits exceeds I(T;X) = {x} or "
            f"H(Y) = {label_entropy} bits, which is impossible on one channel; please report "
            "it with the data that caused it."
        )
