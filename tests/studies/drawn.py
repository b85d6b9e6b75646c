"""What a figure must have drawn."""

import numpy as np


def assert_range(drawn, values, x=None):
    """A line is the median over seeds, the last axis of the values, a band their whole range."""
    if x is not None:
        np.testing.assert_allclose(drawn[0], x)
    for told, rule in zip(drawn[-3:], (np.median, np.min, np.max), strict=True):
        np.testing.assert_allclose(told, rule(np.asarray(values, float), axis=-1), rtol=1e-6)
