"""Binned information: equal to numpy.unique, to closed forms, and to itself under transforms."""

import logging
import math
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from references import information as reference

from nestax.information import BinnedInformation, binned, label_entropy
from nestax.information._result import assert_consistent


def layer(n, units, seed=0, scale=1.0, dtype=np.float32):
    return np.tanh(scale * np.random.default_rng(seed).normal(size=(n, units))).astype(dtype)


def labels(n, classes, seed=1):
    return np.random.default_rng(seed).integers(0, classes, n)


def check(result, cells, y, atol=1e-9):
    x, shared = reference.binned(cells, y)
    np.testing.assert_allclose(result.x, x, atol=atol, rtol=0)
    np.testing.assert_allclose(result.y, shared, atol=atol, rtol=0)
    assert result.cells == len(np.unique(cells, axis=0))


# --- equality with numpy.unique -------------------------------------------------------------


def test_equals_numpy_unique_for_60000_rows():
    t, y = layer(60000, 12), labels(60000, 10)
    t[:30000] = np.sign(t[:30000])  # so that many rows coincide
    cells = reference.fixed_cells(t)
    result = binned(t, y)
    check(result, cells, y)
    assert result.cells < 35000


@pytest.mark.parametrize(
    ("n", "units", "bins", "dtype", "edges"),
    [
        (63, 5, 7, np.float32, "fixed"),  # N is not a multiple of the bins
        (63, 5, 7, np.float32, "adaptive"),
        (63, 5, 7, np.float32, "quantile"),
        (63, 1, 2, np.float64, "quantile"),
        (64, 13, 30, np.float32, "fixed"),  # label in a word of its own
        (64, 14, 30, np.float32, "fixed"),  # two words in uint64
        (97, 12, 100, np.float64, "fixed"),  # two words in uint64
        (97, 12, 100, np.float64, "adaptive"),
        (97, 64, 2, np.float32, "fixed"),  # exactly one word
        (97, 65, 2, np.float32, "fixed"),
        (50, 4, 2**16, np.float32, "fixed"),  # exactly one word, edges by binary search
        (50, 70, 300, np.float32, "fixed"),  # more words than are sorted by at once
        (50, 70, 300, np.float32, "quantile"),
        (2, 1, 2, np.float32, "fixed"),
    ],
)
def test_equals_numpy_unique_at_awkward_shapes(n, units, bins, dtype, edges):
    t, y = layer(n, units, dtype=dtype), labels(n, 4)
    t[n // 2 :] = t[: n - n // 2]  # every row occurs twice, in classes of its own
    t[::7] = np.round(t[::7], 1)  # ties
    cells = {
        "fixed": reference.fixed_cells,
        "adaptive": reference.adaptive_cells,
        "quantile": reference.quantile_cells,
    }[edges](t, bins)
    check(binned(t, y, bins=bins, edges=edges), cells, y)


def test_rows_that_differ_only_in_the_last_of_many_words_are_different():
    t = np.zeros((4, 100), np.float32)
    t[1, 99], t[2, 0] = 0.99, 0.99
    assert binned(t, bins=1000).cells == 3


@pytest.mark.parametrize(
    ("bins", "dtype"),
    [(2, np.float32), (4, np.float64), (7, np.float32), (30, np.float64), (300, np.float32)],
)
def test_values_exactly_on_edges_and_outside(dtype, bins):
    edges = np.linspace(-1, 1, bins + 1).astype(dtype)
    below, above = np.nextafter(edges, dtype(-9)), np.nextafter(edges, dtype(9))
    special = np.array([-1e30, -5, -1, -0.0, 0.0, -1e-40, 1e-40, 1, 5, 1e30], dtype)
    t = np.concatenate([edges, below, above, special])[:, None]
    y = np.arange(len(t)) % 3
    cells = reference.fixed_cells(t, bins)
    assert cells.min() == 0 and cells.max() == bins - 1
    check(binned(t, y, bins=bins), cells, y)


def test_values_at_and_past_an_end_share_the_end_cell():
    t = np.array([[-1.0], [-7.0], [-0.999], [1.0], [7.0], [0.999]], np.float32)
    result = binned(t)
    assert result.cells == 2 and result.x == pytest.approx(1.0, abs=1e-12)


def test_other_ranges_and_dtypes():
    rng = np.random.default_rng(3)
    t, y = rng.integers(-5, 40, size=(200, 3)), labels(200, 3)
    cells = reference.fixed_cells(t.astype(np.float64), 9, 0.0, 20.0)
    check(binned(t, y, 9, 0, 20), cells, y)
    half = jnp.asarray(layer(200, 3), jnp.bfloat16)
    cells = reference.fixed_cells(np.asarray(half, np.float32), 9)
    check(binned(half, y, 9), cells, y)


# --- closed forms ---------------------------------------------------------------------------


def test_tanh_of_a_gaussian_rises_and_falls_to_one_bit():
    """T1: saturation alone makes the curve that has been read as compression."""
    x = np.random.default_rng(0).normal(size=(60000, 1))
    weights = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
    exact = [reference.tanh_entropy(w) for w in weights]
    measured = [binned(np.tanh(w * x)).x for w in weights]
    np.testing.assert_allclose(measured, exact, atol=0.02, rtol=0)
    peak = int(np.argmax(exact))
    assert 0 < peak < len(weights) - 1 and int(np.argmax(measured)) == peak
    assert reference.tanh_entropy(1e6) == pytest.approx(1.0, abs=1e-4)
    assert binned(np.tanh(1e9 * x)).x == pytest.approx(1.0, abs=1e-4)


def test_relu_of_a_gaussian_is_monotone():
    """T1: with cells of one width the same input through ReLU never compresses."""
    x = np.random.default_rng(0).normal(size=(60000, 1))
    weights, width, bins = (0.1, 0.3, 1.0, 3.0, 10.0), 0.1, 1000
    exact = [reference.relu_entropy(w, width) for w in weights]
    measured = []
    for w in weights:
        t = np.where(x > 0, w * x + width, 0.0)  # zero alone in the first cell
        measured.append(binned(t, bins=bins, low=0.0, high=bins * width).x)
    np.testing.assert_allclose(measured, exact, atol=0.02, rtol=0)
    assert np.all(np.diff(exact) > 0.5) and np.all(np.diff(measured) > 0.5)


@pytest.mark.parametrize(
    ("cells", "plug_in", "corrected"), [(1000, 9.953, 9.966), (10000, 13.160, 13.280)]
)
def test_uniform_on_many_cells(cells, plug_in, corrected):
    """T2: the bias of the plug-in value, and what Miller's correction leaves of it."""
    n = 60000
    t = (np.random.default_rng(0).integers(0, cells, (n, 1)) + 0.5) / cells * 2 - 1
    expected = reference.expected_plug_in(n, cells)
    assert expected == pytest.approx(plug_in, abs=4e-3)
    result, mended = binned(t, bins=cells), binned(t, bins=cells, miller_madow=True)
    assert result.x == pytest.approx(expected, abs=2e-3)
    assert mended.x == pytest.approx(corrected, abs=4e-3)
    added = (int(result.cells) - 1) / (2 * n * math.log(2))
    assert mended.x - result.x == pytest.approx(added, abs=1e-12)


@pytest.mark.parametrize("n", [500, 60000])
def test_distinct_rows_give_log2_n(n):
    """T3: and then say nothing of the network, which at_ceiling reports."""
    result = binned(layer(n, 12), np.arange(n) % 10)
    assert result.x == pytest.approx(math.log2(n), abs=1e-12)
    assert result.y == pytest.approx(math.log2(10), abs=1e-12)
    assert result.ceiling == math.log2(n) and result.at_ceiling
    assert result.label_ceiling == pytest.approx(math.log2(10), abs=1e-12)


@pytest.mark.parametrize(("cells", "bias"), [(10000, 1.15), (60000, 2.60)])
def test_independent_labels_have_a_bias_that_a_shuffle_shows(cells, bias):
    """T4: the true value is 0."""
    n, rng = 60000, np.random.default_rng(0)
    t = (rng.integers(0, cells, (n, 1)) + 0.5) / cells * 2 - 1
    y = np.arange(n) % 10
    expected = reference.expected_plug_in_with_labels(n, cells, 10)
    assert expected == pytest.approx(bias, abs=0.01)
    value = binned(t, y, bins=cells).y
    assert value == pytest.approx(expected, abs=0.01)
    assert binned(t, rng.permutation(y), bins=cells).y == pytest.approx(value, abs=0.01)
    told = (y[:, None] - 4.5) / 5
    assert binned(told, y, bins=cells).y == pytest.approx(math.log2(10), abs=1e-12)
    assert binned(told, rng.permutation(y), bins=cells).y < 0.01


def test_miller_madow_removes_most_of_the_bias_of_few_cells():
    n, cells = 60000, 1000
    t = (np.random.default_rng(0).integers(0, cells, (n, 1)) + 0.5) / cells * 2 - 1
    y = np.arange(n) % 10
    plain, mended = binned(t, y, bins=cells), binned(t, y, bins=cells, miller_madow=True)
    joint = len(np.unique(np.stack([reference.fixed_cells(t, cells)[:, 0], y]), axis=1).T)
    change = (int(plain.cells) + 10 - 1 - joint) / (2 * n * math.log(2))
    assert mended.y - plain.y == pytest.approx(change, abs=1e-12)
    assert plain.y > 0.1 and abs(mended.y) < 0.01


# --- invariances ----------------------------------------------------------------------------


def both(t, y, **options):
    result = binned(t, y, **options)
    return [result.x, result.y]


@pytest.mark.parametrize("edges", ["fixed", "adaptive", "quantile"])
def test_invariant_to_the_order_of_units_and_rows_and_to_sign(edges):
    """T8."""
    rng = np.random.default_rng(5)
    t, y = layer(600, 3), labels(600, 4)
    expected = both(t, y, bins=6, edges=edges)
    rows, units = rng.permutation(600), rng.permutation(3)
    np.testing.assert_allclose(both(t[:, units], y, bins=6, edges=edges), expected, atol=1e-12)
    np.testing.assert_allclose(both(t[rows], y[rows], bins=6, edges=edges), expected, atol=1e-12)
    # The range of a whole layer is only kept if all units are flipped.
    signs = np.array([-1, -1, -1] if edges == "adaptive" else [1, -1, -1], np.float32)
    flipped = t * signs
    np.testing.assert_allclose(both(flipped, y, bins=6, edges=edges), expected, atol=1e-12)


def test_scale_changes_fixed_bins_only():
    """T8: quantile bins do not even see a strictly monotone map of each unit."""
    t, y = layer(600, 3), labels(600, 4)
    t[:200] = np.round(t[:200], 1)
    for edges in ("adaptive", "quantile"):
        expected = both(t, y, bins=6, edges=edges)
        np.testing.assert_allclose(both(t * 0.125, y, bins=6, edges=edges), expected, atol=1e-12)
    assert binned(t * 0.125, bins=6).x < binned(t, bins=6).x - 0.5
    mapped = np.stack([np.exp(t[:, 0]), t[:, 1] ** 3 + 5 * t[:, 1], np.arctan(t[:, 2])], axis=1)
    expected = both(t, y, bins=6, edges="quantile")
    np.testing.assert_allclose(both(mapped, y, bins=6, edges="quantile"), expected, atol=1e-12)
    assert abs(binned(mapped, bins=6, edges="adaptive").x - expected[0]) > 0.05


def test_quantile_cells_have_equal_mass_and_ties_share_one():
    t = np.random.default_rng(0).permutation(120)[:, None] ** 3.0
    result = binned(t, bins=8, edges="quantile")
    assert result.cells == 8 and result.x == pytest.approx(3.0, abs=1e-12)
    zeros = np.array([[-0.0], [0.0]] * 20 + [[1.0]] * 80)
    assert binned(zeros, bins=8, edges="quantile").cells == 2
    assert binned(np.ones((120, 1)), bins=8, edges="quantile").x == 0
    assert binned(np.ones((120, 1)), bins=8, edges="adaptive").x == 0


# --- consistency ----------------------------------------------------------------------------


@pytest.mark.parametrize("edges", ["fixed", "adaptive", "quantile"])
@pytest.mark.parametrize("seed", range(5))
def test_label_information_is_within_both_bounds(edges, seed):
    """T9."""
    rng = np.random.default_rng(seed)
    y = labels(600, 4, seed)
    for noise in (0.0, 0.3, 3.0):
        t = (y[:, None] / 4 - 0.5) + noise * rng.normal(size=(600, 3))
        result = binned(t.astype(np.float32), y, bins=6, edges=edges)
        assert 0 <= result.y <= min(result.x, result.label_ceiling)
        assert result.x <= result.ceiling


def test_labels_read_off_the_activation_are_fully_known():
    y = labels(600, 4)
    result = binned(np.tile(y[:, None] / 2.5 - 0.6, 3).astype(np.float32), y, 6)
    assert result.y == pytest.approx(reference.entropy(np.bincount(y)), abs=1e-12)
    assert result.label_ceiling == label_entropy(y) and not result.at_ceiling


def test_an_impossible_value_is_an_internal_error():
    assert_consistent(2.0, 1.0, 1.0, "binned")
    for x, y, h in ((1.0, 1.1, 3.0), (3.0, 1.1, 1.0)):
        with pytest.raises(RuntimeError, match=r"internal error in binned: I\(T;Y\) = 1.1"):
            assert_consistent(x, y, h, "binned")


def test_labels_may_be_any_integers():
    t, y = layer(600, 3), labels(600, 4)
    expected = both(t, y, bins=6)
    far = np.array([-(2**62), -3, 7, 2**62])[y]
    for same in (y - 100, y.astype(np.int8) * 50 - 100, y.astype(np.uint64) + 2**63, far):
        assert both(t, same, bins=6) == pytest.approx(expected, abs=1e-12)
    check(binned(t, y == 2, 6), reference.fixed_cells(t, 6), y == 2)
    declared = (7, 2**62, -3, -(2**62))
    assert both(t, far, bins=6, classes=declared) == pytest.approx(expected, abs=1e-12)


# --- ceilings -------------------------------------------------------------------------------


def test_ceiling_is_the_smaller_of_samples_and_cells():
    assert binned(layer(600, 3), bins=6).ceiling == math.log2(216)
    assert binned(layer(500, 12)).ceiling == math.log2(500)


def test_at_ceiling_has_a_tolerance_of_a_hundredth_of_a_bit():
    def sixteen_cells(extra):
        t = np.repeat(np.arange(16), 100)
        t[:extra] = 0
        t[1500 : 1500 + extra] = 0
        return binned((t[:, None] + 0.5) / 8 - 1, bins=16)

    assert sixteen_cells(0).at_ceiling
    near, far = sixteen_cells(10), sixteen_cells(60)
    assert near.x > 4 - 0.01 and near.at_ceiling
    assert far.x < 4 - 0.01 and not far.at_ceiling


def test_miller_madow_ceiling_is_reached_by_distinct_rows():
    result = binned(layer(500, 12), miller_madow=True)
    assert result.x == pytest.approx(math.log2(500) + 499 / (1000 * math.log(2)), abs=1e-12)
    assert result.x == pytest.approx(result.ceiling, abs=1e-12) and result.at_ceiling


# --- transforms, precision, compilation, speed ----------------------------------------------

# The sums of 16 bits in float32 are good to a few units in the last place, 1e-6 each; I(T;Y) is
# a difference of three of them.
FLOAT32 = 1e-5


def close(result, expected, atol=FLOAT32):
    assert jax.tree.structure(result) == jax.tree.structure(expected)
    for got, want in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, want, atol=atol, rtol=0)


@pytest.mark.parametrize(
    ("n", "units", "bins", "edges"),
    [
        (600, 3, 6, "fixed"),
        (600, 3, 6, "adaptive"),
        (600, 3, 6, "quantile"),
        (63, 13, 30, "fixed"),  # three words in uint32
        (63, 60, 100, "fixed"),  # more words in uint32 than are sorted by at once
    ],
)
def test_jit_and_vmap_equal_the_eager_result(n, units, bins, edges):
    y = labels(n, 4)
    ts = np.stack([layer(n, units, seed) for seed in range(3)])
    each = [binned(t, y, bins, edges=edges) for t in ts]
    expected = jax.tree.map(lambda *leaves: np.stack(leaves), *each)
    batched = jax.jit(jax.vmap(lambda t: binned(t, y, bins, edges=edges)))(ts)
    close(batched, expected)
    np.testing.assert_array_equal(batched.at_ceiling, expected.at_ceiling)


def test_vmap_without_jit_and_traced_labels():
    y = labels(600, 4)
    ts = np.stack([layer(600, 3, seed) for seed in range(3)])
    each = [binned(t, y, 6) for t in ts]
    expected = jax.tree.map(lambda *leaves: np.stack(leaves), *each)
    close(jax.vmap(lambda t: binned(t, y, 6))(ts), expected)
    by_labels = jax.jit(jax.vmap(lambda y: binned(ts[0], y, 6).y))(jnp.stack([y, y[::-1]]))
    close(by_labels, np.stack([each[0].y, binned(ts[0], y[::-1], 6).y]))
    close(jax.jit(lambda t: binned(t, None, 6))(ts[0]), binned(ts[0], None, 6))


def test_traced_labels_declared_or_not_mended_or_not():
    t, y = layer(600, 3), np.array([-2, 5, 9])[labels(600, 3)]
    for options in ({}, {"classes": (9, -2, 5)}, {"miller_madow": True}):
        traced = jax.jit(lambda y, options=options: binned(t, y, 6, **options))(y)
        close(traced, binned(t, y, 6, **options))


def test_traced_counts_are_exact_at_full_size():
    t, y = layer(60000, 4), labels(60000, 10)
    traced, expected = jax.jit(lambda t: binned(t, y))(t), binned(t, y)
    assert int(traced.cells) == expected.cells
    close(traced, expected)


def test_concrete_arrays_inside_a_trace_stay_concrete():
    t, y = layer(600, 3), labels(600, 4)
    inside = []
    jax.jit(lambda: inside.append(binned(t, y, 6)))()
    assert inside[0] == binned(t, y, 6)


def test_results_are_pytrees_with_float64_leaves():
    t, y = layer(600, 3), labels(600, 4)
    result = binned(jnp.asarray(t), jnp.asarray(y), 6)
    assert all(isinstance(v, np.float64) for v in (result.x, result.y, result.ceiling))
    assert isinstance(result.label_ceiling, np.float64) and isinstance(result.cells, np.int64)
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(result)]
    assert names == [".x", ".y", ".ceiling", ".label_ceiling", ".cells"]
    assert isinstance(jax.tree.map(lambda leaf: None, result), BinnedInformation)
    assert binned(t, None, 6).y is None and binned(t, None, 6).label_ceiling is None
    assert not jax.config.jax_enable_x64
    under = jax.jit(lambda t: binned(t, None, 6))(t)
    assert under.x.dtype == jnp.float32
    with pytest.raises(AttributeError):
        result.x = 0.0


def test_under_x64_traced_results_are_float64():
    t, y = layer(64, 15), labels(64, 3)
    with jax.enable_x64(True):
        traced = jax.jit(binned)(t, y)
        assert traced.x.dtype == jnp.float64
        close(traced, binned(t, y), atol=1e-12)


def test_one_compilation_for_one_shape(caplog):
    def compilations(call):
        caplog.clear()
        with jax.log_compiles(True), caplog.at_level(logging.WARNING):
            call()
        return sum("Compiling jit" in record.getMessage() for record in caplog.records)

    n, units = 71, 4
    binned(layer(600, 3), labels(600, 4), 6)
    assert compilations(lambda: binned(layer(n, units), labels(n, 9))) == 1
    for seed, classes in ((1, 9), (2, 12), (3, 15)):
        t, y = layer(n, units, seed), labels(n, classes, seed)
        assert compilations(lambda t=t, y=y: binned(t, y)) == 0
        assert compilations(lambda t=t, y=y: binned(t, y + 50, low=-2.0, high=3.0)) == 0
        assert compilations(lambda t=t, y=y: binned(t, y, edges="adaptive")) == 0


def test_five_layers_of_60000_rows_are_fast(optimized):
    y = labels(60000, 10)
    layers = [layer(60000, units, units) for units in (12, 10, 8, 6, 4)]

    def measure():
        start = time.perf_counter()
        for t in layers:
            binned(t, y)
        return time.perf_counter() - start

    measure()
    assert min(measure() for _ in range(5)) < 0.25
