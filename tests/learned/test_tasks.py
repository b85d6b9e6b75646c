"""Families of tasks: losses against NumPy, what is drawn, what is refused."""

import functools

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
TEXT = np.random.default_rng(0).integers(0, 3, 20).repeat(5)
FAMILIES = {
    "quadratics": lambda: nx.learned.quadratics(4),
    "noisy": lambda: nx.learned.quadratics(4, noise=0.1),
    "least_squares": lambda: nx.learned.least_squares(4),
    "logistic": lambda: nx.learned.logistic(4, classes=3),
    "mlps": lambda: nx.learned.mlps(DATA, hidden=(8,), batch=16),
    "convnets": lambda: nx.learned.convnets(DATA, channels=(4,), batch=16),
    "characters": lambda: nx.learned.characters(TEXT, hidden=(8,), context=3, batch=16),
    "gru": lambda: nx.learned.characters(TEXT, hidden=(8,), context=4, batch=8, model="gru"),
    "hebbian": lambda: nx.learned.associative(2, values=4, memory="hebbian"),
    "delta": lambda: nx.learned.associative(2, values=4),
}


@functools.partial(jax.jit, static_argnums=0)
def drawn(family, seed=0):
    """A task, where training begins, a batch."""
    one, two, three = jax.random.split(jax.random.key(seed), 3)
    task = family.sample(one)
    return task, family.init(task, two), family.batch(task, three)


@functools.partial(jax.jit, static_argnums=0)
def loss_of(family, params, batch):
    return family.loss(params, batch)


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

        program = jax.jit(jax.vmap(one))
        return program(jnp.arange(8)), program(jnp.arange(8))

    return {name: of(make()) for name, make in FAMILIES.items()}


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
    np.testing.assert_allclose(
        loss_of(family, jnp.asarray(x, jnp.float32), batch), wanted, rtol=1e-5
    )
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
    np.testing.assert_allclose(loss_of(family, params, batch), residual @ residual, rtol=1e-5)
    losses = jax.vmap(lambda seed: loss_of(family, *drawn(family, seed)[1:]))(jnp.arange(2000))
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
        np.testing.assert_allclose(loss_of(family, params, batch), wanted, rtol=1e-5)


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
    assert len(set(names)) == 40  # a nest tells them by their names
    hidden = [[int(n) for n in name.split()[1].split("-") if n != "linear"] for name in names]
    assert {len(sizes) for sizes in hidden} == {0, 1, 2}
    widths = [width for sizes in hidden for width in sizes]
    assert min(widths) == 2 and max(widths) in (8, 9)
    params = jax.eval_shape(many[0].init, None, jax.random.key(0))
    assert [layer["bias"].shape[0] for layer in params] == [*hidden[0], 4]


def test_logistic_labels_are_drawn_by_the_weights_of_the_task():
    family = nx.learned.logistic(3, classes=4, batch=20_000, condition=50.0)
    task, _, batch = drawn(family)
    inputs = np.asarray(batch["inputs"], float)
    mixing, weight = as_numpy(task["mixing"]), as_numpy(task["weight"])
    covariance = mixing.T @ mixing
    np.testing.assert_allclose(np.cov(inputs.T), covariance, atol=0.03)
    spectrum = np.linalg.eigvalsh(covariance)
    np.testing.assert_allclose(spectrum[-1], 1, rtol=1e-5)
    assert 1 / 50 <= spectrum[0] < 1
    shares = np.exp(inputs @ weight)
    shares = shares / shares.sum(1, keepdims=True)
    counts = np.bincount(batch["labels"], minlength=4) / 20_000
    np.testing.assert_allclose(counts, shares.mean(0), atol=0.02)
    params = {"weight": jnp.asarray(weight, jnp.float32), "bias": jnp.ones(4)}
    wanted = cross_entropy(inputs @ weight + 1, np.asarray(batch["labels"]))
    np.testing.assert_allclose(loss_of(family, params, batch), wanted, rtol=1e-5)


def convolved(x, layer):
    """Stride 2, zeros around; x (height, width, inputs), kernel 3."""
    height, width, _ = x.shape
    x = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    rows = [
        [
            np.einsum("ijc,ijco->o", x[i : i + 3, j : j + 3], layer["weight"])
            for j in range(0, width, 2)
        ]
        for i in range(0, height, 2)
    ]
    return np.array(rows) + layer["bias"]


@pytest.mark.parametrize("shape", [(5, 4), (4, 3, 2)])
def test_a_convolutional_network_is_that_of_numpy(shape):
    grey = np.random.default_rng(1).normal(size=(9, *shape)).astype(np.float32)
    family = nx.learned.convnets(
        (grey, np.arange(9) % 3), channels=(2, 3), batch=4, activations="tanh"
    )
    _, params, batch = drawn(family)
    known, scores = as_numpy(params), []
    known[0]["bias"][:] = 0.3
    params[0]["bias"] = params[0]["bias"] + 0.3
    for x in np.asarray(batch["images"], float):
        for layer in known[:-1]:
            x = np.tanh(convolved(x, layer))
        scores.append(x.mean((0, 1)) @ known[-1]["weight"] + known[-1]["bias"])
    wanted = cross_entropy(np.array(scores), np.asarray(batch["labels"]))
    np.testing.assert_allclose(loss_of(family, params, batch), wanted, rtol=1e-5)


def test_character_models_are_those_of_numpy():
    family = nx.learned.characters(TEXT, hidden=(5,), context=3, batch=6, activations=("tanh",))
    _, params, batch = drawn(family)
    known, tokens = as_numpy(params), np.asarray(batch["tokens"])
    x = known["embedding"][tokens[:, :-1]].reshape(6, -1)
    first, last = known["layers"]
    scores = np.tanh(x @ first["weight"] + first["bias"]) @ last["weight"] + last["bias"]
    np.testing.assert_allclose(
        loss_of(family, params, batch), cross_entropy(scores, tokens[:, -1]), rtol=1e-5
    )

    family = nx.learned.characters(TEXT, hidden=(5,), context=3, batch=6, model="gru")
    _, params, batch = drawn(family)
    known, tokens = as_numpy(params), np.asarray(batch["tokens"])
    sigmoid, state, scores = lambda a: 1 / (1 + np.exp(-a)), np.zeros((6, 5)), []
    for t in range(3):
        read = known["embedding"][tokens[:, t]] @ known["input"]["weight"]
        read, own = read + known["input"]["bias"], state @ known["recurrent"]
        reset, keep = sigmoid(read[:, :5] + own[:, :5]), sigmoid(read[:, 5:10] + own[:, 5:10])
        new = np.tanh(read[:, 10:] + reset * own[:, 10:])
        state = keep * state + (1 - keep) * new
        scores.append(state @ known["readout"]["weight"] + known["readout"]["bias"])
    wanted = cross_entropy(np.stack(scores, 1), tokens[:, 1:])
    np.testing.assert_allclose(loss_of(family, params, batch), wanted, rtol=1e-5)


def test_windows_lie_within_the_text_of_the_task():
    texts = [np.arange(7), np.arange(10, 15)]
    family = nx.learned.characters(texts, context=3, batch=200)
    for which, starts in enumerate(({0, 1, 2, 3}, {10, 11})):
        task = {"text": jnp.int32(which), "activation": jnp.int32(0)}
        tokens = np.asarray(family.batch(task, jax.random.key(0))["tokens"])
        assert set(tokens[:, 0]) == starts and (np.diff(tokens) == 1).all()


@pytest.mark.parametrize("memory", ["hebbian", "delta"])
def test_an_associative_memory_is_that_of_numpy(memory):
    family = nx.learned.associative(3, keys=5, values=4, size=6, memory=memory, batch=7)
    task, params, batch = drawn(family)
    known, vectors = as_numpy(params), as_numpy(task)
    rate, scores = 1 / (1 + np.exp(-known["rate"])), []
    for written, paired, asked, answer in zip(
        *(np.asarray(batch[name]) for name in ("keys", "values", "query", "answer")), strict=True
    ):
        assert len(set(written)) == 3 and paired[list(written).index(asked)] == answer
        matrix = np.zeros((6, 6))
        for one, two in zip(written, paired, strict=True):
            k, v = vectors["keys"][one] @ known["key"], vectors["values"][two] @ known["value"]
            k = k / np.linalg.norm(k)
            matrix += rate * np.outer(v - (memory == "delta") * matrix @ k, k)
        q = vectors["keys"][asked] @ known["query"]
        scores.append(matrix @ q / np.linalg.norm(q) @ known["readout"])
    wanted = cross_entropy(np.array(scores), np.asarray(batch["answer"]))
    np.testing.assert_allclose(loss_of(family, params, batch), wanted, rtol=1e-5)


BAD = {
    "logistic: classes must be": lambda: nx.learned.logistic(classes=1),
    "convnets: images must have the shape": lambda: nx.learned.convnets(
        (DATA[0].reshape(30, -1), DATA[1])
    ),
    "convnets: kernel must be odd": lambda: nx.learned.convnets(DATA, kernel=2),
    "one convolution at least": lambda: nx.learned.convnets(DATA, channels=()),
    "texts are an array": lambda: nx.learned.characters("abc"),
    "integers with one axis": lambda: nx.learned.characters(np.ones(20)),
    "more than context=8": lambda: nx.learned.characters(np.arange(8)),
    "largest character is 2 and vocabulary=2": lambda: nx.learned.characters(TEXT, vocabulary=2),
    "a GRU has one size": lambda: nx.learned.characters(TEXT, hidden=(2, 2), model="gru"),
    'model must be "mlp" or "gru"': lambda: nx.learned.characters(TEXT, model="lstm"),
    "pairs=4 and keys=3": lambda: nx.learned.associative(4, keys=3),
    'memory must be "hebbian" or "delta"': lambda: nx.learned.associative(memory="linear"),
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
