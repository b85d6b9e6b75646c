"""Every wrong argument is refused with a message that says what, and how to mend it."""

import functools

import jax
import numpy as np
import pytest

from nestax.information import (
    binned,
    gaussian_upper_bound,
    kde_bounds,
    ksg,
    label_entropy,
    standardize,
)
from nestax.information._check import whole_number
from nestax.information.labels import encode

T = np.linspace(-0.9, 0.9, 24).reshape(8, 3)
Y = np.arange(8) % 4
ESTIMATORS = [binned, kde_bounds, gaussian_upper_bound]


@pytest.mark.parametrize("estimator", [*ESTIMATORS, standardize])
def test_wrong_activations(estimator):
    with pytest.raises(ValueError, match=r"t has shape \(8,\); expected \(rows, units\).*reshape"):
        estimator(T[:, 0])
    with pytest.raises(ValueError, match=r"t has shape \(2, 4, 3\); expected"):
        estimator(T.reshape(2, 4, 3))
    with pytest.raises(ValueError, match=r"t has shape \(8, 0\); expected"):
        estimator(T[:, :0])
    with pytest.raises(ValueError, match=r"t has 1 row.*at least 2"):
        estimator(T[:1])
    with pytest.raises(ValueError, match="t has dtype complex128; expected real"):
        estimator(T + 1j)
    with pytest.raises(ValueError, match=r"t has shape \(8,\)"):
        jax.jit(estimator)(T[:, 0])
    bad = T.copy()
    bad[2, 1], bad[5, 0], bad[5, 2] = np.nan, np.inf, -np.inf
    with pytest.raises(ValueError, match=r"3 value\(s\).*first \(nan\) in row 2, unit 1"):
        estimator(bad)


@pytest.mark.parametrize(
    "estimator", [*(functools.partial(estimator, T) for estimator in ESTIMATORS), label_entropy]
)
def test_wrong_labels(estimator):
    with pytest.raises(ValueError, match=r"y has shape \(8, 1\); expected a vector.*argmax"):
        estimator(Y[:, None])
    with pytest.raises(ValueError, match=r"y has dtype float64; expected integer.*astype"):
        estimator(Y.astype(float))
    with pytest.raises(
        ValueError,
        match=r"2 label\(s\) outside the declared classes \[0, 1, 2\], the first \(3\) in row 3",
    ):
        estimator(Y, classes=3)
    with pytest.raises(ValueError, match="outside the declared classes"):
        estimator(Y - 1, classes=4)
    with pytest.raises(
        ValueError, match=r"empty class: 2 of the declared classes .* the first is 4"
    ):
        estimator(Y, classes=6)
    with pytest.raises(ValueError, match=r"empty class: 1 .* the first is 7"):
        estimator(Y, classes=(0, 1, 2, 3, 7))
    with pytest.raises(ValueError, match="names a class twice"):
        estimator(Y, classes=(0, 1, 1))
    with pytest.raises(ValueError, match="classes is 0; expected between 1 and"):
        estimator(Y, classes=0)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_labels_of_another_length(estimator):
    with pytest.raises(ValueError, match=r"y has 7 label\(s\) and t has 8 row\(s\)"):
        estimator(T, Y[:7])
    with pytest.raises(ValueError, match=r"y has 7 label\(s\) and t has 8 row\(s\)"):
        jax.jit(estimator)(T, Y[:7])


def test_integers_must_be_integers():
    for classes, message in (
        ((0.5, 1), "expected a tuple of integers"),
        (2.5, r"classes is 2\.5; expected an integer"),
        (True, "classes is True; expected an integer"),
    ):
        with pytest.raises(ValueError, match=message):
            encode("encode", Y, 8, classes)
    with pytest.raises(ValueError, match=r"bins is 3\.0; expected an integer. Why"):
        whole_number("binned", 3.0, "bins", 2, None, "Why")


def test_label_entropy_needs_two_labels():
    with pytest.raises(ValueError, match="at least 2"):
        label_entropy(np.array([1]))


def test_binned_options():
    with pytest.raises(ValueError, match="bins is 1; expected between 2"):
        binned(T, bins=1)
    with pytest.raises(ValueError, match="edges is 'uniform'; expected one of 'fixed', 'adaptive'"):
        binned(T, edges="uniform")
    for low, high in ((1.0, 1.0), (1.0, -1.0), (0.0, np.inf), (np.nan, 1.0)):
        with pytest.raises(ValueError, match="expected finite low < high"):
            binned(T, low=low, high=high)


def test_strict_refuses_values_outside_fixed_edges_only():
    outside = T.copy()
    outside[3, 2], outside[4, 1] = 1.5, -2.0
    with pytest.raises(
        ValueError, match=r"2 value\(s\) outside \[-1.0, 1.0\], the first \(1.5\) in row 3, unit 2"
    ):
        binned(outside, strict=True)
    binned(outside)
    binned(outside, strict=True, low=-2.0, high=1.5)
    binned(outside, strict=True, edges="adaptive")


@pytest.mark.parametrize("value", [0.0, -0.1, np.nan, np.inf])
def test_noise_must_be_positive(value):
    with pytest.raises(ValueError, match=r"noise_variance is .*; expected a positive finite"):
        kde_bounds(T, noise_variance=value)
    with pytest.raises(ValueError, match=r"noise_std is .*; expected a positive finite"):
        gaussian_upper_bound(T, noise_std=value)


def test_scalars_must_be_scalars():
    with pytest.raises(ValueError, match=r"noise_variance has shape \(2,\); expected a scalar"):
        kde_bounds(T, noise_variance=np.ones(2))


def test_gaussian_options():
    with pytest.raises(ValueError, match=r"epsilon is -1.0; expected"):
        gaussian_upper_bound(T, epsilon=-1.0)
    with pytest.raises(ValueError, match="ddof is 2; expected between 0 and 1"):
        gaussian_upper_bound(T, ddof=2)
    with pytest.raises(ValueError, match=r"bound is 0.0; expected a positive"):
        gaussian_upper_bound(T, bound=0.0)
    with pytest.raises(ValueError, match=r"classes are unknown.*Pass classes="):
        jax.jit(gaussian_upper_bound)(T, Y)


def test_ksg_arguments():
    a, b = T, np.sin(5 * T)
    with pytest.raises(ValueError, match=r"a has 8 row\(s\) and b has 6"):
        ksg(a, b[:6])
    for k in (0, 8):
        with pytest.raises(ValueError, match=f"k is {k}; expected between 1 and 7"):
            ksg(a, b, k=k)
    with pytest.raises(ValueError, match=r"a has shape \(2, 4, 3\); expected \(rows,\) or"):
        ksg(a.reshape(2, 4, 3), b)
    with pytest.raises(ValueError, match=r"b holds 1 value\(s\) that are NaN"):
        ksg(a, np.where(np.arange(24).reshape(8, 3) == 4, np.nan, b))
    with pytest.raises(ValueError, match=r"ksg: 3 row\(s\) of \(a, b\) repeat .* the first row 4"):
        ksg(np.minimum(np.arange(8.0), 4), np.minimum(np.arange(8.0), 4))
