"""What is measured against direct numpy computations; compiled once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nestax import information
from nestax_studies.data import Dataset, Split
from nestax_studies.information_plane.measure import (
    ESTIMATORS,
    TEST_ESTIMATORS,
    Measurement,
    distinct_rows,
    effective_rank,
)
from nestax_studies.models import Layer, mlp_init

WIDTHS = (5, 3)


def split(n, seed):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 17, (n, 4, 3)).astype(np.uint8)
    return Split(images, (np.arange(n) % 3).astype(np.int32), 16)


@pytest.fixture(scope="module")
def measured():
    dataset = Dataset("toy", split(600, 0), split(90, 1), 3)
    parameters = jax.vmap(lambda k: mlp_init(k, (12, *WIDTHS, 3)))(
        jax.random.split(jax.random.key(0), 2)
    )
    measurement = Measurement(dataset, "tanh", kde_points=100)
    return dataset, parameters, measurement, measurement(parameters)


def layers(dataset, parameters, seed, part="train"):
    x, out = getattr(dataset, part).inputs, []
    for layer in parameters[:-1]:
        x = np.tanh(x @ np.asarray(layer.weight[seed]).T + np.asarray(layer.bias[seed]))
        out.append(x)
    last = parameters[-1]
    return out, x @ np.asarray(last.weight[seed]).T + np.asarray(last.bias[seed])


def test_performance(measured):
    dataset, parameters, _, record = measured
    for part in ("train", "test"):
        labels = getattr(dataset, part).labels
        for seed in range(2):
            logits = layers(dataset, parameters, seed, part)[1]
            p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
            loss = -np.log(p[np.arange(len(labels)), labels]).mean()
            assert record[part]["loss"][seed] == pytest.approx(loss, rel=1e-5)
            accuracy = (logits.argmax(1) == labels).mean()
            assert record[part]["accuracy"][seed] == pytest.approx(accuracy, abs=1e-6)


@pytest.mark.parametrize("part", ["train", "test"])
def test_information_is_what_the_estimators_say_of_each_layer_and_seed(measured, part):
    dataset, parameters, _, record = measured
    found = record["information"][part]
    assert set(found) == set(ESTIMATORS if part == "train" else TEST_ESTIMATORS)
    y = getattr(dataset, part).labels
    for seed in range(2):
        for index, t in enumerate(layers(dataset, parameters, seed, part)[0]):
            t = t.astype(np.float32)
            few, free = t[:100], information.standardize(t[:100])
            kde, kde_free = (information.kde_bounds(s, y[:100]) for s in (few, free))
            expected = {
                "binned10": information.binned(t, y, 10),
                "binned30": information.binned(t, y),
                "binned100": information.binned(t, y, 100),
                "adaptive30": information.binned(t, y, edges="adaptive"),
                "quantile4": information.binned(t, y, 4, edges="quantile"),
                "quantile30": information.binned(t, y, edges="quantile"),
                "gaussian": information.gaussian_upper_bound(t[:500], y[:500]),
                "gaussian_standardized": information.gaussian_upper_bound(
                    information.standardize(t[:500]), y[:500]
                ),
            }
            pairs = {name: (result.x, result.y) for name, result in expected.items()}
            for name, bounds in (("kde", kde), ("kde_standardized", kde_free)):
                pairs[f"{name}_lower"] = (bounds.x_lower, bounds.y_lower)
                pairs[f"{name}_upper"] = (bounds.x_upper, bounds.y_upper)
            for name in found:
                here = [found[name][axis][seed][index] for axis in ("x", "y")]
                # activations differ in their last bit, which may move one row to the next cell
                assert here == pytest.approx(pairs[name], abs=2e-2), name


def test_one_channel_obeys_its_bounds(measured):
    *_, record = measured
    for part in ("train", "test"):
        for name, pair in record["information"][part].items():
            if name.startswith("gaussian"):
                continue  # differences of upper bounds obey neither
            x, y = np.array(pair["x"]), np.array(pair["y"])
            assert np.all(y <= np.minimum(x, np.log2(3)) + 1e-9), name


def test_controls(measured):
    dataset, parameters, _, record = measured
    controls = record["controls"]
    for seed in range(2):
        hidden, _ = layers(dataset, parameters, seed)
        for index, t in enumerate(hidden):
            assert controls["std"][seed][index] == pytest.approx(t.std(0).mean(), rel=1e-4)
            assert controls["least_std"][seed][index] == pytest.approx(t.std(0).min(), rel=1e-4)
            assert controls["saturated"][seed][index] == (np.abs(t) > 0.99).mean()
            assert controls["distinct"][seed][index] == len(np.unique(t, axis=0))
            spectrum = np.linalg.eigvalsh(np.cov(t.T))
            share = spectrum / spectrum.sum()
            rank = np.exp(-(share * np.log(share)).sum())
            assert controls["effective_rank"][seed][index] == pytest.approx(rank, rel=1e-3)
        norms = [np.linalg.norm(layer.weight[seed]) for layer in parameters]
        assert controls["weight_norm"][seed] == pytest.approx(norms, rel=1e-5)


def test_noise_ruins_what_only_scale_protects_and_shuffled_labels_are_shuffled():
    """Two classes told apart by one unit: noise is harmless at scale 1, not at scale 0.05."""
    rng = np.random.default_rng(0)
    labels = (np.arange(800) % 2).astype(np.int32)
    images = np.stack([16 * labels, rng.integers(0, 17, 800)], 1).astype(np.uint8)[:, None, :]
    dataset = Dataset("toy", Split(images, labels, 16), Split(images, labels, 16), 2)
    measurement = Measurement(dataset, "tanh", kde_points=100)

    def network(scale):
        first = Layer(jnp.array([[[2 * scale, 0.0]]]), jnp.array([[-scale]]))
        readout = Layer(jnp.array([[[-50.0], [50.0]]]) / scale, jnp.zeros((1, 2)))
        return [first, readout]

    large, small = (measurement(network(scale)) for scale in (1.0, 0.05))
    for record in (large, small):
        assert record["test"]["accuracy"] == [1.0]
        assert record["information"]["train"]["quantile4"]["y"][0][0] == pytest.approx(1)
        assert record["controls"]["shuffled_y"][0][0] < 0.05
        assert record["controls"]["shuffled_y_quantile4"][0][0] < 0.05
    assert large["controls"]["noisy_accuracy"][0][0] == 1.0
    assert large["controls"]["noisy_accuracy_kde"][0][0] > 0.95
    # Phi(0.05 / 0.1) = 0.69, Phi(0.05 / 0.316) = 0.56
    assert small["controls"]["noisy_accuracy"][0][0] == pytest.approx(0.69, abs=0.06)
    assert small["controls"]["noisy_accuracy_kde"][0][0] == pytest.approx(0.56, abs=0.06)


def test_information_that_breaks_its_bound_is_an_error(measured):
    *_, measurement, record = measured
    broken = jax.tree.map(np.asarray, record, is_leaf=lambda x: isinstance(x, list))
    broken["information"]["test"]["quantile4"]["y"] = np.full((2, 2), 1.7)
    with pytest.raises(RuntimeError, match="quantile4 on test images"):
        measurement._check(broken)


def test_compiles_once_per_part(measured):
    _, parameters, measurement, _ = measured
    measurement(jax.tree.map(lambda x: 2 * x, parameters))
    assert measurement._information._cache_size() == 2
    assert measurement._performance._cache_size() == 2
    assert measurement._controls._cache_size() == 1


def test_distinct_rows():
    t = jnp.array([[0.0, 1], [-0.0, 1], [0.0, np.nextafter(np.float32(1), np.float32(2))], [1, 0]])
    assert int(distinct_rows(t)) == 3
    assert int(distinct_rows(jnp.ones((5, 2)))) == 1


def test_effective_rank_of_known_spectra():
    rng = np.random.default_rng(0)
    white = jnp.asarray(rng.normal(size=(20_000, 4)), jnp.float32)
    assert float(effective_rank(white)) == pytest.approx(4, rel=1e-2)
    line = white[:, :1] * jnp.ones((1, 4))
    assert float(effective_rank(line)) == pytest.approx(1, abs=1e-2)
    assert float(effective_rank(jnp.ones((10, 3)))) == 1
    assert float(effective_rank(white[:, :1])) == pytest.approx(1)


def test_ceilings(measured):
    *_, measurement, record = measured
    ceilings = measurement.ceilings(WIDTHS)
    assert set(ceilings) == set(ESTIMATORS)
    for name, limit in ceilings.items():
        found = np.array(record["information"]["train"][name]["x"])
        assert np.all(found <= np.array(limit["x"])[None] + 2e-2), name
