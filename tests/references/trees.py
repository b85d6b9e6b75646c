"""Comparison of trees of branches."""

import numpy as np


def same(a, b):
    """Whether two trees are equal bit for bit."""
    for one, other in zip(a.branches, b.branches, strict=True):
        assert (one.parent, one.path, one.status) == (other.parent, other.path, other.status)
        for name in ("vector", "losses", "rate", "start", "direction"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), name)
    return True
