"""Families of tasks: losses against NumPy, what is drawn, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestax as nx


def images(count=30, side=3, classes=4, seed=0):
    draws = np.random.default_rng(seed)
    labels = draws.integers(0, classes, count)
    labels[-1] = classes - 1
    grey = draws.integers(0, 17, (count, side, side)) + 4 * labels[:, None, None]
    return grey.astype(np.uint8), labels


DATA = images()
FAMILIES = {
    "quadratics": lambda: nx.learned.quadratics(4),
    "noisy": lambda: nx.learned.quadratics(4, noise=0.1),
    "least_squares": lambda: nx.learned.least_squares(4),
    "mlps": lambda: nx.learned.mlps(DATA, hidden=(8,), batch=16),
}


def drawn(family, seed=0):
    """A task, where training begins, a batch."""
    one, two, three = jax.random.split(jax.random.key(seed), 3)
    task = family.sample(one)
    return task, family.init(task, two), family.batch(task, three)


def as_numpy(tree):
    return jax.tree.map(lambda a: np.asarray(a, float), tree)


@pytest.fixture(scope="module")
def starts():
    """For each family: (losses at the start over their scale, losses after training, gradients,
    whether two draws with the same key are equal)."""

    def of(family):
        def one(key):
            task, params, batch = drawn(family, key)
            optimizer = optax.adam(0.02)

            def step(carry, key):
                params, state = carry
                loss, slope = jax.value_and_grad(family.loss)(params, family.batch(task, key))
                updates, state = optimizer.update(slope, state)
                return (optax.apply_updates(params, updates), state), (loss, slope)

            keys = jax.random.split(jax.random.key(9), 60)
            carry = params, optimizer.init(params)
            _, (losses, slopes) = jax.lax.scan(step, carry, keys)
            first = jax.tree.map(lambda a: a[0], slopes)
            return losses / family.scale(task), first, batch

        return jax.jit(jax.vmap(one))(jnp.arange(8))

    return {name: (of(make()), of(make())) for name, make in FAMILIES.items()}


@pytest.mark.parametrize("name", FAMILIES)
def test_families_begin_at_their_scale_and_can_be_learned(starts, name):
    (losses, slopes, _), _ = starts[name]
    assert losses.shape == (8, 60) and np.isfinite(losses).all()
    assert 0.5 < losses[:, :5].mean() < 1.5
    assert losses[:, -5:].mean() < 0.8 * losses[:, :5].mean()
    for leaf in jax.tree.leaves(slopes):
        assert np.isfinite(leaf).all()
    assert optax.tree.norm(slopes) > 0


@pytest.mark.parametrize("name", FAMILIES)
def test_families_are_what_their_keys_say(starts, name):
    one, two = starts[name]
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        assert np.array_equal(a, b)
    tasks = jax.tree.leaves(one[2])
    assert any(len(np.unique(np.asarray(leaf), axis=0)) > 1 for leaf in tasks)


def test_a_quadratic_is_that_of_its_matrix():
    family = nx.learned.quadratics(4)
    task, params, batch = drawn(family)
    x = np.array([0.5, -1.0, 2.0, 0.25])
    factor, minimum = as_numpy(task["factor"]), as_numpy(task["minimum"])
    matrix = factor.T @ factor
    wanted = (x - minimum) @ matrix @ (x - minimum) / 2
    np.testing.assert_allclose(family.loss(jnp.asarray(x, jnp.float32), batch), wanted, rtol=1e-5)
    np.testing.assert_array_equal(params, 0)
    np.testing.assert_allclose(family.scale(task), minimum @ matrix @ minimum / 2, rtol=1e-5)


def test_spectra_are_drawn_log_uniformly(x64):
    family = nx.learned.quadratics(6, condition=1e4)
    tasks = jax.vmap(family.sample)(jax.random.split(jax.random.key(1), 2000))
    factors = np.asarray(tasks["factor"])
    spectrum = np.linalg.svd(factors, compute_uv=False) ** 2
    np.testing.assert_allclose(spectrum[:, 0], 1)
    condition = np.log(1 / spectrum[:, -1]) / np.log(1e4)
    assert condition.min() >= 0 and condition.max() <= 1
    # Kolmogorov's distance to the uniform distribution; 1.63 / sqrt(n) is the 1 % level.
    assert distance(condition) < 1.63 / np.sqrt(2000)
    between = np.log(spectrum[:, 1:-1]) / np.log(spectrum[:, -1:])
    order = np.random.default_rng(0).integers(0, 4, 2000)
    assert distance(between[np.arange(2000), order]) < 1.63 / np.sqrt(2000)
    # Rotations: the first axis is any direction, with squared coordinates of mean 1 / n.
    axes = factors[:, 0] ** 2
    np.testing.assert_allclose(axes.mean(0), 1 / 6, atol=0.02)


def distance(sample):
    sample = np.sort(sample)
    steps = np.arange(len(sample) + 1) / len(sample)
    return max(np.max(steps[1:] - sample), np.max(sample - steps[:-1]))


def test_noise_moves_the_minimum_alone():
    family = nx.learned.quadratics(4, noise=0.5)
    task, *_ = drawn(family)
    batches = jax.vmap(lambda k: family.batch(task, k))(jax.random.split(jax.random.key(2), 500))
    assert np.ptp(batches["factor"], axis=0).max() == 0
    moved = np.asarray(batches["minimum"] - task["minimum"][None])
    np.testing.assert_allclose(moved.std(), 0.5, rtol=0.1)


def test_small_quadratics_have_as_many_eigenvalues():
    for size in (1, 2):
        task, *_ = drawn(nx.learned.quadratics(size))
        assert task["factor"].shape == (size, size)
        spectrum = np.linalg.svd(as_numpy(task["factor"]), compute_uv=False)
        np.testing.assert_allclose(spectrum[0], 1, rtol=1e-5)


def test_least_squares_are_sums_of_squares_and_begin_near_their_size():
    family = nx.learned.least_squares(10)
    task, params, batch = drawn(family)
    known = as_numpy(task)
    residual = known["matrix"] @ as_numpy(params) - known["target"]
    np.testing.assert_allclose(family.loss(params, batch), residual @ residual, rtol=1e-5)
    losses = jax.vmap(lambda seed: family.loss(*drawn(family, seed)[1:]))(jnp.arange(2000))
    # The mean of 2,000 draws of a sum of ten squares has a standard deviation of 0.1.
    assert abs(losses.mean() - 10) < 0.3


def test_a_perceptron_is_that_of_numpy():
    activations = ("tanh", "relu")
    family = nx.learned.mlps(DATA, hidden=(5, 4), batch=7, activations=activations)
    for which, of in enumerate((np.tanh, lambda x: np.maximum(x, 0))):
        task, params, _ = drawn(family)
        batch = family.batch({**task, "activation": jnp.int32(which)}, jax.random.key(3))
        x = as_numpy(batch["images"])
        for layer in as_numpy(params)[:-1]:
            x = of(x @ layer["weight"] + layer["bias"])
        last = as_numpy(params)[-1]
        wanted = cross_entropy(x @ last["weight"] + last["bias"], np.asarray(batch["labels"]))
        np.testing.assert_allclose(family.loss(params, batch), wanted, rtol=1e-5)


def cross_entropy(scores, labels):
    shares = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    return -np.log(np.take_along_axis(shares, labels[..., None], -1)).mean()


def test_batches_are_standardised_and_of_the_data_set_of_the_task():
    first, second = images(), images(count=12, seed=1)
    family = nx.learned.mlps([first, (second[0] + np.uint8(100), second[1])], batch=400)
    for which, (grey, labels) in enumerate((first, (second[0] + 100.0, second[1]))):
        task = {"data": jnp.int32(which), "activation": jnp.int32(0)}
        batch = family.batch(task, jax.random.key(4))
        rows = ((grey - grey.mean()) / grey.std()).reshape(len(grey), -1)
        apart = np.abs(np.asarray(batch["images"])[:, None] - rows[None]).max(-1)
        assert apart.min(1).max() < 1e-5  # each image is one of the set
        np.testing.assert_array_equal(batch["labels"], labels[apart.argmin(1)])
        assert len(np.unique(apart.argmin(1))) == len(grey)  # and all of the set come
    chosen = jax.vmap(family.sample)(jax.random.split(jax.random.key(5), 400))
    assert abs(np.mean(chosen["data"]) - 0.5) < 0.1
    assert set(np.asarray(chosen["activation"])) == {0, 1, 2}


def test_families_of_perceptrons_have_drawn_sizes():
    many = nx.learned.mlp_families(DATA, jax.random.key(0), 40, widths=(2, 9), depths=(0, 2))
    again = nx.learned.mlp_families(DATA, jax.random.key(0), 40, widths=(2, 9), depths=(0, 2))
    names = [family.name for family in many]
    assert names == [family.name for family in again]
    hidden = [[int(n) for n in name.split()[1].split("-") if n != "linear"] for name in names]
    assert {len(sizes) for sizes in hidden} == {0, 1, 2}
    widths = [width for sizes in hidden for width in sizes]
    assert min(widths) == 2 and max(widths) in (8, 9)
    params = jax.eval_shape(many[0].init, None, jax.random.key(0))
    assert [layer["bias"].shape[0] for layer in params] == [*hidden[0], 4]


BAD = {
    "size must be an int": lambda: nx.learned.quadratics(0),
    r"condition must be in \[1": lambda: nx.learned.quadratics(condition=0.5),
    "noise must be in": lambda: nx.learned.quadratics(noise=-1.0),
    "least_squares: size": lambda: nx.learned.least_squares(2.5),
    "pair of arrays": lambda: nx.learned.mlps(DATA[0]),
    "images must be an array of real": lambda: nx.learned.mlps((DATA[1], DATA[1])),
    "one for each of the 30": lambda: nx.learned.mlps((DATA[0], DATA[1][:-1])),
    "must not be negative, got -1": lambda: nx.learned.mlps((DATA[0], DATA[1] - 1)),
    "largest label is 3 and classes=3": lambda: nx.learned.mlps(DATA, classes=3),
    "must have one shape": lambda: nx.learned.mlps([DATA, images(side=2)]),
    "finite": lambda: nx.learned.mlps((np.full((2, 3), np.nan), np.array([0, 1]))),
    "activations are names": lambda: nx.learned.mlps(DATA, activations=("swish",)),
    "hidden must be a list": lambda: nx.learned.mlps(DATA, hidden=32),
    "mlps: batch must be": lambda: nx.learned.mlps(DATA, batch=0),
    r"widths must be \(least": lambda: nx.learned.mlp_families(
        DATA, jax.random.key(0), 1, widths=(9, 2)
    ),
    "count must be": lambda: nx.learned.mlp_families(DATA, jax.random.key(0), 0),
}


@pytest.mark.parametrize("words", BAD)
def test_bad_input_is_refused(words):
    with pytest.raises(ValueError, match=words):
        BAD[words]()
