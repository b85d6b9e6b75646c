"""Compiled side-by-side training against a plain loop; one compilation; chunks change nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nestax_studies.information_plane.arms import ARMS
from nestax_studies.information_plane.training import Images, Training
from nestax_studies.models import mlp

SIZES = (6, 5, 3, 4)


def images(n=45):
    rng = np.random.default_rng(0)
    return Images(
        jnp.asarray(rng.integers(0, 256, (n, 6)), jnp.uint8),
        jnp.asarray(rng.integers(0, 4, n), jnp.int32),
        jnp.float32(255),
    )


def training(arm="adamw", batch_size=10):
    return Training(ARMS[arm].make, SIZES, "tanh", batch_size)


def fresh(t, seeds=3, rate=0.05):
    return t.init(jnp.arange(seeds), jnp.full(seeds, rate, jnp.float32))


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("arm", ARMS)
def test_equals_a_plain_loop_over_networks_epochs_and_batches(arm):
    t, data = training(arm), images()
    start = fresh(t)
    networks = [
        jax.tree.map(lambda x, i=i: x[i], (start.parameters, start.optimizer)) for i in range(3)
    ]
    x, y = data.pixels.astype(jnp.float32) / 255, data.labels
    tx, losses = ARMS[arm].make(0.05, 0), np.zeros(3)

    @jax.jit
    def step(p, s, batch):
        def loss(p):
            logits = mlp(p, x[batch])
            return optax.softmax_cross_entropy_with_integer_labels(logits, y[batch]).mean()

        value, gradient = jax.value_and_grad(loss)(p)
        updates, s = tx.update(gradient, s, p)
        return optax.apply_updates(p, updates), s, value

    for i, (p, s) in enumerate(networks):
        for epoch in range(2):
            words = jax.random.bits(jax.random.fold_in(jax.random.key(0), epoch), (45,))
            order, epoch_losses = np.argsort(np.asarray(words)), []
            for batch in order[:40].reshape(4, 10):
                p, s, value = step(p, s, batch)
                epoch_losses.append(float(value))
        networks[i], losses[i] = p, np.mean(epoch_losses)
    done = t.advance(start, 2, data, True)
    for i, p in enumerate(networks):
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=2e-4, atol=2e-5),
            done.parameters,
            p,
        )
    np.testing.assert_allclose(done.loss, losses, rtol=1e-4)


def test_chunks_change_nothing_and_compile_once():
    t, data = training("dmgd"), images()
    whole = t.advance(fresh(t), 12, data, True)
    pieces = fresh(t)
    for until in (1, 4, 5, 12):
        pieces = t.advance(pieces, until, data, True)
    same(whole, pieces)
    assert t.advance._cache_size() == 1


def test_a_network_does_not_depend_on_its_neighbours():
    t, data = training(), images()
    together, alone = t.advance(fresh(t, 3), 3, data, True), t.advance(fresh(t, 1), 3, data, True)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[:1], b, rtol=1e-4, atol=1e-6),
        together.parameters,
        alone.parameters,
    )


def test_arms_start_from_the_same_weights_and_seeds_from_different_ones():
    a, b = fresh(training("sgd")), fresh(training("dmgd"))
    same(a.parameters, b.parameters)
    assert not np.array_equal(a.parameters[0].weight[0], a.parameters[0].weight[1])


def test_every_epoch_visits_every_image_at_most_once_in_a_new_order():
    t, data = training(), images()
    orders = [np.asarray(t._order(jnp.int32(e), data)) for e in range(3)]
    for order in orders:
        assert order.shape == (4, 10)
        assert len(set(order.ravel().tolist())) == 40
    assert not np.array_equal(orders[0], orders[1])


def test_a_batch_larger_than_the_data_is_refused():
    t = training(batch_size=46)
    with pytest.raises(ValueError, match="use a batch size of at most 45"):
        t.advance(fresh(t), 1, images(), True)


def test_training_stops_at_a_loss_that_is_not_finite_only_if_asked():
    t, data = training("sgd"), images()
    assert int(t.advance(fresh(t, rate=np.inf), 9, data, True).epoch) == 1
    assert int(t.advance(fresh(t, rate=np.inf), 9, data, False).epoch) == 9


def test_unit_step_makes_first_epochs_steps_comparable():
    t, data = training("published"), images()
    step = np.sqrt(10) * np.asarray(t.unit_step(fresh(t), data))
    # sign descent moves every coordinate by 3.162, but for the dead ones of gradient zero
    np.testing.assert_allclose(step, 10, rtol=0.02)
    doubled = Training(lambda r, k: optax.scale(-2.0), SIZES, "tanh", 10)
    single = Training(lambda r, k: optax.scale(-1.0), SIZES, "tanh", 10)
    np.testing.assert_allclose(
        doubled.unit_step(fresh(doubled), data),
        2 * single.unit_step(fresh(single), data),
        rtol=1e-5,
    )


def test_runs_on_a_mesh_with_networks_sharded():
    """Networks are independent: sharded over two devices they are what they are on one."""
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    mesh = jax.make_mesh((2,), ("networks",), axis_types=(AxisType.Auto,))
    t, data = training("dmgd"), images()
    start = fresh(t, 4)
    sharded = jax.tree.map(
        lambda x: jax.device_put(
            x, NamedSharding(mesh, PartitionSpec("networks") if x.ndim else PartitionSpec())
        ),
        start,
    )
    on_two = t.advance(sharded, 3, data, True)
    on_one = t.advance(fresh(t, 4), 3, data, True)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), on_two, on_one
    )
