"""Is this gradient right? Central differences in float64, with their own error estimated."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ._hoist import is_inexact, partition

EVERY_COORDINATE = 20  # numbers in the point up to which each one is checked by itself
STEPS = (1, 2, 4)  # multiples of the step at which the function is measured
# Steps tried, times the size of the point. Piecewise smooth functions, such as networks of ReLUs,
# have a kink within the first ones; rounding leaves 1e-8 of the derivative at the last.
LADDER = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)


@dataclasses.dataclass(frozen=True, eq=False)
class GradientCheck:
    """The result of `check_gradient`; print it for a table. Arrays have one entry per direction.

    Attributes:
        directions: the directions: coordinates by their path, then random directions.
        given: derivatives along the directions according to the gradient.
        measured: derivatives by central differences.
        uncertainty: estimated errors of `measured`, from truncation and rounding.
        error: the largest `|given - measured|`, relative to the largest derivative measured, or to
            1e-4 of the function's value where that is larger.
        resolution: the largest uncertainty, relative to the same number. Smaller errors cannot be
            seen.
        tolerance: relative error above which the check fails.
        verdict: "passed"; "failed": a row differs by more than the tolerance and its own
            uncertainty; "inconclusive": no row does, but the uncertainty is above the tolerance.
    """

    directions: tuple[str, ...]
    given: np.ndarray
    measured: np.ndarray
    uncertainty: np.ndarray
    error: float
    resolution: float
    tolerance: float
    verdict: str

    @property
    def passed(self) -> bool:
        """Whether the gradient is right up to the tolerance; False if inconclusive."""
        return self.verdict == "passed"

    def __str__(self) -> str:
        width = max(len("direction"), *(len(name) for name in self.directions))
        lines = [f"{'direction':<{width}}  {'gradient':>13}  {'measured':>13}  {'±':>8}  error"]
        for name, given, measured, uncertainty in zip(
            self.directions, self.given, self.measured, self.uncertainty, strict=True
        ):
            lines.append(
                f"{name:<{width}}  {given:13.6e}  {measured:13.6e}  {uncertainty:8.1e}  "
                f"{abs(given - measured):.1e}"
            )
        lines.append(
            f"relative error {self.error:.1e}, resolution {self.resolution:.1e}, "
            f"tolerance {self.tolerance:.1e}: {self.verdict}"
        )
        if self.verdict == "inconclusive":
            lines.append(
                "the function is too rough to tell: kinks, noise or float32; try another step="
            )
        return "\n".join(lines)

    def __bool__(self) -> bool:
        return self.passed


def check_gradient(
    function: Callable[[Any], Array],
    point: PyTree,
    gradient: Callable[[Any], PyTree] | PyTree | None = None,
    *,
    directions: int = 5,
    key: Array | int = 0,
    step: float | int | Sequence[float] | None = None,
    tolerance: float | int = 1e-6,
    verbose: bool = True,
    coordinates: bool = True,
) -> GradientCheck:
    """Compares a gradient with central differences, both in float64.

    Along a direction d the function is measured at point ± h d, ± 2 h d and ± 4 h d. Richardson's
    extrapolation of the central differences gives two estimates of fourth order. The difference
    between them, and the size of the function's values, give the uncertainty. Random directions
    have unit length. For a point of up to 20 numbers each coordinate is a direction too.

    Where a function bends sharply within ± 4 h d, as at the kink of a ReLU, differences say nothing
    and their uncertainty is large. Then smaller steps are tried, and the one that leaves the least
    uncertainty counts, whatever the gradient says.

    The check measures the derivative of the function as it is computed. A `stop_gradient`, or a
    flow that leaves out a part of a total derivative on purpose, shows as an error of that size.

    Example:
        ```python
        loss = lambda x: jnp.sum(jnp.sin(x))
        print(nx.flows.check_gradient(loss, jnp.ones(2), verbose=False).passed)  # True
        ```

    Args:
        function: `point -> scalar`. It computes in the dtype of the point, which is float64 here;
            arrays that it closes over should not be cast down inside.
        point: any pytree; its inexact arrays are moved, everything else is constant.
        gradient: `point -> pytree like point`, or that pytree itself. None: `jax.grad(function)`.
            Leaves for constants are ignored.
        directions: number of random directions.
        key: seed or typed PRNG key of the directions.
        step: h, or several, of which the first counts that leaves less uncertainty than the
            tolerance, else the one that leaves least. None: 1e-3 to 1e-7 times the larger of 1 and
            the point's root mean square. Choose a larger one for noisy functions.
        tolerance: relative error, to the largest derivative measured, above which the check fails.
        verbose: whether to print the table.
        coordinates: whether each coordinate of up to 20 numbers is a direction too.

    Returns:
        A `GradientCheck`, true if the check passed.

    Raises:
        ValueError: a point without inexact arrays, or with complex ones; a gradient whose structure
            or shapes are not those of the point; no direction at all.
        TypeError: a function that does not return a scalar.
    """
    with jax.enable_x64(True):
        moving, combine = partition(_widen(point))
        flat, unravel = jax.flatten_util.ravel_pytree(moving)
        if not flat.size:
            raise ValueError(
                "check_gradient: the point holds no array of an inexact dtype; convert Python "
                "numbers with jnp.asarray"
            )
        if jnp.iscomplexobj(flat):
            raise ValueError("check_gradient: complex points are not supported; split them in two")

        def value_at(flat: Array) -> Array:
            value = function(combine(unravel(flat)))
            if jnp.shape(value) != ():
                raise TypeError(
                    "check_gradient: the function must return a scalar, got an array of shape "
                    f"{jnp.shape(value)}"
                )
            return jnp.asarray(value)

        compiled = jax.jit(value_at)
        value = compiled(flat)
        if gradient is None:
            slope = jax.jit(jax.grad(value_at))(flat)
        else:
            # A module may be both callable and a gradient; only a gradient has arrays.
            is_tree = any(is_inexact(leaf) for leaf in jax.tree.leaves(gradient))
            found = gradient if is_tree or not callable(gradient) else gradient(combine(moving))
            slope = _flatten_gradient(found, moving, point)
        names, units = _directions(moving, flat, directions, key, coordinates)
        if not names:
            raise ValueError("check_gradient: no direction to check; ask for directions >= 1")
        scale = max(1.0, float(jnp.sqrt(jnp.mean(jnp.square(flat)))))
        given = np.asarray(units @ slope)
        # Where everything is flat, rounding in the function's values is all there is to compare
        # with.
        floor = max(1e-4 * abs(float(value)), np.finfo(np.float64).tiny)
        if step is None:
            steps = [rung * scale for rung in LADDER]
        else:
            steps = [float(h) for h in (step if isinstance(step, Sequence) else [step])]
        measured, uncertainty = _measured(
            compiled, flat, units, steps, float(value), floor, tolerance
        )
    largest = max(np.max(np.abs(measured)), floor)
    difference = np.abs(given - measured)
    error, resolution = float(np.max(difference) / largest), float(np.max(uncertainty) / largest)
    if resolution > tolerance:  # kinks may hide in some rows, whose two estimates agree by luck
        uncertainty = np.full_like(uncertainty, np.max(uncertainty))
    # Written so that a NaN anywhere does not pass.
    if not np.all(difference <= tolerance * largest + uncertainty):
        verdict = "failed"
    else:
        verdict = "passed" if max(error, resolution) <= tolerance else "inconclusive"
    check = GradientCheck(
        names, given, measured, uncertainty, error, resolution, float(tolerance), verdict
    )
    if verbose:
        print(check)
    return check


def _measured(
    function: Callable,
    flat: Array,
    units: Array,
    steps: Sequence[float],
    value: float,
    floor: float,
    tolerance: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Derivatives along unit directions and their uncertainties, by the first step that resolves
    the tolerance, else by that which leaves the least uncertainty."""
    best, least = None, np.inf
    for h in steps:
        measured, spread, rounding = np.array(
            [_difference(function, flat, unit, h, value) for unit in units]
        ).T
        # Two rough estimates may agree by luck, so no row is surer than half of them are.
        uncertainty = np.maximum(spread, np.median(spread)) + rounding
        resolution = np.max(uncertainty) / max(np.max(np.abs(measured)), floor)
        if best is None or resolution < least:
            best, least = (measured, uncertainty), resolution
        if resolution <= tolerance:
            break
    assert best is not None
    return best


def _difference(
    function: Callable, flat: Array, unit: Array, h: float, value: float
) -> tuple[float, float, float]:
    """Derivative along a unit direction, its spread over two steps, and its rounding error."""
    ahead = [function(flat + m * h * unit) for m in STEPS]
    behind = [function(flat - m * h * unit) for m in STEPS]
    pairs = np.array([ahead, behind], np.float64)
    first, second, third = (pairs[0] - pairs[1]) / (2 * h * np.array(STEPS))
    # Both are of fourth order; the finer one is the better one unless rounding has taken over.
    fine, coarse = (4 * first - second) / 3, (4 * second - third) / 3
    # Differences over a kink close by agree with each other on a slope that is neither side's.
    # But there second differences shrink no faster than the step.
    bend = np.sum(pairs - value, axis=0) / (h * np.array(STEPS))
    kink = abs(2 * bend[0] - bend[1])
    # The values are rounded, and so are the points at which they are taken.
    size = np.max(np.abs(pairs)) + abs(fine) * float(jnp.max(jnp.abs(flat)))
    rounding = 4 * float(jnp.finfo(ahead[0].dtype).eps) * size / h
    return fine, max(abs(fine - coarse), kink - 2 * rounding), rounding


def _directions(
    moving: PyTree, flat: Array, directions: int, key: Array | int, coordinates: bool
) -> tuple[tuple[str, ...], Array]:
    """Names and unit vectors, shape (directions, numbers)."""
    names: list[str] = []
    units = jnp.zeros((0, flat.size), flat.dtype)
    if coordinates and flat.size <= EVERY_COORDINATE:
        for path, leaf in jax.tree_util.tree_flatten_with_path(moving)[0]:
            label = jax.tree_util.keystr(path) or "point"
            indices = np.ndindex(leaf.shape)
            names += [f"{label}[{','.join(map(str, i))}]" if i else label for i in indices]
        units = jnp.eye(flat.size, dtype=flat.dtype)
    key = key if isinstance(key, jax.Array) else jax.random.key(key)
    random = jax.random.normal(key, (directions, flat.size), flat.dtype)
    random = random / jnp.linalg.norm(random, axis=1, keepdims=True)
    names += [f"random {i}" for i in range(directions)]
    return tuple(names), jnp.concatenate([units, random])


def _widen(point: PyTree) -> PyTree:
    """Real leaves in float64, complex ones in complex128, others as they are."""

    def widen(leaf: Any) -> Any:
        if not is_inexact(leaf):
            return leaf
        return jnp.asarray(leaf, jnp.promote_types(leaf.dtype, jnp.float64))

    return jax.tree.map(widen, point)


def _flatten_gradient(gradient: PyTree, moving: PyTree, point: PyTree) -> Array:
    """The given gradient as a vector in the order of the point's numbers."""
    try:
        wanted = [is_inexact(leaf) for leaf in jax.tree.leaves(point)]
        leaves = jax.tree.structure(point).flatten_up_to(gradient)
    except ValueError as error:
        raise ValueError(
            "check_gradient: the gradient must have the structure of the point, "
            f"{jax.tree.structure(point)}, got {jax.tree.structure(gradient)}"
        ) from error
    chosen = [leaf for leaf, here in zip(leaves, wanted, strict=True) if here]
    for (path, leaf), given in zip(
        jax.tree_util.tree_flatten_with_path(moving)[0], chosen, strict=True
    ):
        if jnp.shape(given) != leaf.shape:
            raise ValueError(
                f"check_gradient: at {jax.tree_util.keystr(path) or 'the point'} the gradient has "
                f"shape {jnp.shape(given)}, the point {leaf.shape}"
            )
    return jnp.concatenate([jnp.ravel(jnp.asarray(x, jnp.float64)) for x in chosen])
