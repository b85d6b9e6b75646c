"""The convolutional network: its convolution as a matrix product, its normalization."""

import jax
import numpy as np
import pytest

from nestax_studies.models import _conv


@pytest.mark.parametrize("size", [28, 7, 2])
def test_patches_make_a_matrix_product_the_convolution(size):
    x = jax.random.normal(jax.random.key(0), (2, size, size, 3))
    w = jax.random.normal(jax.random.key(1), (3, 3, 3, 4))
    order = ("NHWC", "HWIO", "NHWC")
    expected = jax.lax.conv_general_dilated(x, w, (2, 2), "SAME", dimension_numbers=order)
    np.testing.assert_allclose(_conv._patches(x) @ w.reshape(27, 4), expected, atol=1e-4)


def test_the_network_normalizes_with_the_batch_itself():
    weights = _conv.conv_init(jax.random.key(0), 4, 5)
    pictures = jax.random.uniform(jax.random.key(1), (10, 28, 28))
    scores = _conv.conv(weights, pictures)
    np.testing.assert_allclose(scores, _conv.conv(weights, 3 * pictures), atol=1e-3)
