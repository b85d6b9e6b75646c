"""The shared networks against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nestax_studies import models


def test_equals_numpy_layer_by_layer(x64):
    layers = models.mlp_init(jax.random.key(0), (5, 4, 3, 2))
    x = np.random.default_rng(0).normal(size=(7, 5))
    hidden, outputs = models.mlp_layers(layers, jnp.asarray(x))
    np.testing.assert_array_equal(models.mlp(layers, jnp.asarray(x)), outputs)
    for layer, activation in zip(layers[:-1], hidden, strict=True):
        x = np.tanh(x @ np.asarray(layer.weight).T + np.asarray(layer.bias))
        np.testing.assert_allclose(activation, x, rtol=1e-12)
    last = x @ np.asarray(layers[-1].weight).T + np.asarray(layers[-1].bias)
    np.testing.assert_allclose(outputs, last, rtol=1e-12)


def test_one_input_is_a_batch_of_one(x64):
    layers = models.mlp_init(jax.random.key(1), (5, 3, 2))
    x = jnp.linspace(-1, 1, 5)
    np.testing.assert_allclose(
        models.mlp(layers, x, jax.nn.relu), models.mlp(layers, x[None], jax.nn.relu)[0], rtol=1e-12
    )


def test_initial_values_are_uniform_on_one_over_the_root_of_fan_in():
    layers = models.mlp_init(jax.random.key(0), (400, 300, 10))
    for layer, fan_in in zip(layers, (400, 300), strict=True):
        assert layer.weight.shape[1] == fan_in
        assert np.abs(layer.weight).max() <= fan_in**-0.5
        assert np.std(layer.weight) == pytest.approx((3 * fan_in) ** -0.5, rel=0.05)
        assert np.abs(layer.bias).max() <= fan_in**-0.5


@pytest.mark.parametrize("sizes", [(3,), (3, 0, 2), ()])
def test_bad_sizes_are_refused(sizes):
    with pytest.raises(ValueError, match="sizes must be two or more positive numbers"):
        models.mlp_init(jax.random.key(0), sizes)
