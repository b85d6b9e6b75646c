"""Compiled side-by-side training against a plain loop; one compilation; chunks change nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from nestax_studies.information_plane.arms import ARMS
from nestax_studies.information_plane.training import Images, Training
from nestax_studies.models import mlp

SIZES = (6, 5, 3, 4)
RNG = np.random.default_rng(0)
IMAGES = Images(
    jnp.asarray(RNG.integers(0, 256, (45, 6)), jnp.uint8),
    jnp.asarray(RNG.integers(0, 4, 45), jnp.int32),
    jnp.float32(255),
)


def training(arm="adamw"):
    return Training(ARMS[arm].make, SIZES, "tanh", 10)


def fresh(t, seeds=3, rate=0.05):
    return t.init(jnp.arange(seeds), jnp.full(seeds, rate, jnp.float32))


def close(a, b, rtol=1e-4, atol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol, atol), a, b)


@pytest.mark.parametrize("arm", ["adamw", "dmgd"])
def test_equals_a_plain_loop_over_networks_epochs_and_batches(arm):
    t = training(arm)
    start = fresh(t)
    first = [jax.tree.map(lambda x, i=i: x[i], (start.parameters, start.optimizer)) for i in (0, 2)]
    x, y, tx = IMAGES.pixels.astype(jnp.float32) / 255, IMAGES.labels, ARMS[arm].make(0.05, 0)

    @jax.jit
    def step(p, s, batch):
        def loss(p):
            logits = mlp(p, x[batch])
            return optax.softmax_cross_entropy_with_integer_labels(logits, y[batch]).mean()

        value, gradient = jax.value_and_grad(loss)(p)
        updates, s = tx.update(gradient, s, p)
        return optax.apply_updates(p, updates), s, value

    done = t.advance(start, 2, IMAGES, True)
    for i, (p, s) in zip((0, 2), first, strict=True):
        for epoch in range(2):
            words = jax.random.bits(jax.random.fold_in(jax.random.key(0), epoch), (45,))
            order, losses = np.argsort(np.asarray(words)), []
            for batch in order[:40].reshape(4, 10):
                p, s, value = step(p, s, batch)
                losses.append(float(value))
        close(jax.tree.map(lambda a, i=i: a[i], done.parameters), p, 2e-4, 2e-5)
        np.testing.assert_allclose(done.loss[i], np.mean(losses), rtol=1e-4)


def test_every_arm_trains_with_a_rate_of_its_own():
    """Programs are traced; they are not compiled."""
    for arm in ARMS:
        t = training(arm)
        state = jax.eval_shape(lambda t=t: fresh(t))
        after = jax.eval_shape(t._epoch, state, IMAGES)
        assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, after), arm


def test_chunks_neighbours_and_devices_change_nothing_and_it_compiles_once():
    t = training("dmgd")
    whole, pieces = t.advance(fresh(t), 12, IMAGES, True), fresh(t)
    for until in (1, 4, 5, 12):
        pieces = t.advance(pieces, until, IMAGES, True)
    jax.tree.map(np.testing.assert_array_equal, whole, pieces)
    assert t.advance._cache_size() == 1
    # Networks are independent: four, sharded over two devices, are what three are on one.
    mesh = jax.make_mesh((2,), ("networks",), axis_types=(AxisType.Auto,))
    place = lambda x: NamedSharding(mesh, PartitionSpec(*["networks"] * (x.ndim > 0)))  # noqa: E731
    sharded = jax.tree.map(lambda x: jax.device_put(x, place(x)), fresh(t, 4))
    on_two = t.advance(sharded, 3, IMAGES, True)
    on_one = t.advance(fresh(t), 3, IMAGES, True)
    close(jax.tree.map(lambda x: x[:3], on_two.parameters), on_one.parameters)


def test_arms_start_from_the_same_weights_and_seeds_from_different_ones():
    a, b = fresh(training("sgd")).parameters, fresh(training("dmgd")).parameters
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert not np.array_equal(a[0].weight[0], a[0].weight[1])


def test_training_stops_at_a_loss_that_is_not_finite_only_if_asked():
    t = training("sgd")
    for stop, epochs in ((True, 1), (False, 9)):
        assert int(t.advance(fresh(t, rate=np.inf), 9, IMAGES, stop).epoch) == epochs


def test_unit_step_makes_first_epochs_steps_comparable():
    def steps(make):
        t = Training(make, SIZES, "tanh", 10)
        return np.asarray(t.unit_step(fresh(t), IMAGES))

    # Sign descent moves every coordinate by 3.162, but for the dead ones of gradient zero.
    np.testing.assert_allclose(steps(ARMS["published"].make), 10**0.5, rtol=0.02)
    single, double = (steps(lambda r, k, size=size: optax.scale(size)) for size in (-1.0, -2.0))
    np.testing.assert_allclose(double, 2 * single, rtol=1e-5)
