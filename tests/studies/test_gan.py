"""Adversarial training: updates by hand, states of networks, a small run, verdicts."""

import dataclasses
import functools
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from levels.conftest import short_keys as short_keys
from studies.drawn import assert_range

from nestax.runs import SettingsError
from nestax_studies import gan, lab, models
from nestax_studies.gan import conditional, convolutional, findings, players, training, worlds
from nestax_studies.gan.training import Beta

RUN = {"generator": 0.01, "rate": 0.02, "modulus": 0.8, "argument": np.pi / 8}


@pytest.fixture
def world(monkeypatch):
    """The ring with a classifier that learned nothing."""
    fresh = lambda draw, task, sizes: models.mlp_init(jax.random.key(1), sizes)  # noqa: E731
    monkeypatch.setattr(worlds, "trained_classifier", fresh)
    return worlds.ring(8)


def begun(game, nest, copies=None):
    made, judged = game.init(jax.random.key(0))  # compiled as a whole it takes longer
    values = {"generator": made, "discriminator": judged, "run": jax.tree.map(jnp.asarray, RUN)}
    if copies:  # games from several points, by the same rates
        run = jax.tree.map(lambda a: jnp.stack([a] * copies), values.pop("run"))
        values = jax.tree.map(lambda a: jnp.stack([a * (1 + i) for i in range(copies)]), values)
        values["run"] = run
    return nest.init(values, jax.random.key(1))


def weights_of(state):
    return [state.values[name]["weights"] for name in ("generator", "discriminator")]


def by_hand(made, judged, batch, order):
    """Two steps, by optax' Adam, and by complex Adam in numpy's complex numbers."""

    def scores(judged, samples):
        return models.mlp(judged, samples, jax.nn.relu)[:, 0]

    @jax.jit
    @jax.grad
    def g_slope(made, judged):
        samples = models.mlp(made, batch["noise"], jax.nn.relu)
        return -jnp.mean(jax.nn.log_sigmoid(scores(judged, samples)))

    @jax.jit
    @jax.grad
    def d_slope(judged, made):
        samples = models.mlp(made, batch["noise"], jax.nn.relu)
        real = jax.nn.log_sigmoid(scores(judged, batch["real"]))
        return -jnp.mean(real) - jnp.mean(jax.nn.log_sigmoid(-scores(judged, samples)))

    adam = optax.adam(0.01, b1=0.0)
    memory = adam.init(made)
    beta = 0.8 * np.exp(1j * np.pi / 8)
    mu, second = (jax.tree.map(np.zeros_like, judged) for _ in range(2))
    for count in (1, 2):
        update, memory = adam.update(g_slope(made, judged), memory)
        fresh = optax.apply_updates(made, update)
        slope = d_slope(judged, made if order == "simultaneous" else fresh)
        mu = jax.tree.map(lambda m, g: beta * m - np.asarray(g), mu, slope)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * np.asarray(g) ** 2, second, slope)
        move = lambda w, m, v, c=count: w + 0.02 * m.real / (np.sqrt(v / (1 - 0.999**c)) + 1e-8)  # noqa: E731
        made, judged = fresh, jax.tree.map(move, judged, mu, second)
    return [made, judged]


@pytest.mark.parametrize(("order", "games"), [("alternating", None), ("simultaneous", 2)])
def test_two_steps_are_those_of_players_written_out(x64, world, order, games):
    """The second pair of games is spread over two devices."""
    batch, options = world.game.draw(None, jax.random.key(2)), {}
    if games:
        axes = (jax.sharding.AxisType.Auto,)
        options = {"copies": games, "mesh": jax.make_mesh((games,), ("games",), axis_types=axes)}
    game = dataclasses.replace(world.game, draw=lambda task, key: batch)
    nest = players.system(game, order, **options)
    after, _ = nest.run(begun(game, nest, games), 2)
    ends = weights_of(after)
    made, judged = (network["weights"] for network in game.init(jax.random.key(0)))
    for number in range(games or 1):
        start = jax.tree.map(lambda a, n=number: a * (1 + n), (made, judged))
        expected = by_hand(*start, batch, order)
        end = jax.tree.map(lambda a, n=number: a[n] if games else a, ends)
        for own, other in zip(jax.tree.leaves(end), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(own, other, rtol=1e-9, atol=1e-12)
    if games:
        assert len(ends[0][0].weight.sharding.device_set) == 2


def test_losses_are_the_published_ones(x64):
    real, made = np.array([0.3, -2.0, 1.5]), np.array([-0.2, 0.7, 3.0])
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    plain, hinge = players.LOSSES["nonsaturating"], players.LOSSES["hinge"]
    expected = -np.mean(np.log(sigmoid(real))) - np.mean(np.log(1 - sigmoid(made)))
    np.testing.assert_allclose(plain.discriminator(real, made), expected, rtol=1e-12)
    np.testing.assert_allclose(plain.generator(made), -np.mean(np.log(sigmoid(made))), rtol=1e-12)
    np.testing.assert_allclose(hinge.discriminator(real, made), 3.7 / 3 + 6.5 / 3, rtol=1e-12)
    np.testing.assert_allclose(hinge.generator(made), -3.5 / 3, rtol=1e-12)


def test_rates_at_equal_steps_make_equal_sums_of_steps(x64):
    betas = list(training.grid((0.5, 0.9), tuple(training.ARGUMENTS)).values())
    assert len(betas) == 11
    runs = training.settings_of(betas, 0.1, 0.2, "step")
    for place, beta in enumerate(betas):
        powers = (beta.modulus * np.exp(1j * beta.argument)) ** np.arange(600)
        np.testing.assert_allclose(runs["rate"][place] * powers.real.sum(), 0.2, rtol=1e-9)
    np.testing.assert_array_equal(training.settings_of(betas, 0.1, 0.2, "rate")["rate"], 0.2)
    names = [str(beta) for beta in betas]
    assert names[:3] == ["0", "0.5", "0.5 exp(i π/8)"] and names[-1] == "-0.9"
    assert [str(b) for b in betas if b.real] == ["0", "0.5", "-0.5", "0.9", "-0.9"]


def pictures(side, classes=3, count=12):
    random = np.random.default_rng(0)
    drawn = random.integers(0, 255, (count, side, side)).astype(np.uint8)
    return {"images": drawn, "labels": np.arange(count, dtype=np.int32) % classes}


def test_power_iterations_go_on_with_the_discriminators_own_passes():
    game = dataclasses.replace(convolutional.game(8, 4, 6, 255), task=pictures(8))
    nest = players.system(game)
    state = begun(game, nest)
    after, _ = nest.step(state)

    def parts(state):
        network = state.values["discriminator"]
        return {
            name: (
                layer.layer.weight.reshape(len(layer.layer.weight), -1),
                *network["state"].get(layer.uv_index),
            )
            for name, layer in {
                "first": network["weights"].blocks[0],
                "out": network["weights"].out,
            }.items()
        }

    before, later = parts(state), parts(after)
    for name, (weight, _, v) in before.items():
        u = np.asarray(weight) @ np.asarray(v)
        u /= np.linalg.norm(u)
        v = np.asarray(weight).T @ u
        v /= np.linalg.norm(v)  # one iteration, with the weight of the pass
        np.testing.assert_allclose(later[name][1], u, atol=1e-5)
        np.testing.assert_allclose(later[name][2], v, atol=1e-5)
        assert np.abs(later[name][0] - weight).max() > 1e-3  # which the step then moved
    # No optimizer has statistics of the state.
    held = sum(
        a.size
        for a in jax.tree.leaves(
            eqx.filter(state.values["discriminator"]["weights"], eqx.is_inexact_array)
        )
    )
    stored = sum(
        a.size
        for a in jax.tree.leaves(state.optimizers["discriminator"])
        if jnp.issubdtype(a.dtype, jnp.inexact)
    )
    assert stored == 3 * held
    still = {**RUN, "rate": 0.0}
    after = after.replace(values={"run": jax.tree.map(jnp.asarray, still)})
    for _ in range(40):
        after, _ = nest.step(after)
    for weight, u, v in parts(after).values():  # where the weights stand still, they converge
        np.testing.assert_allclose(u @ weight @ v, np.linalg.norm(weight, 2), rtol=1e-3)
    assert game.sample(after.values["generator"], jax.random.key(2), 3).shape == (3, 8, 8)


def test_conditional_networks_take_a_step_and_keep_their_states():
    game = conditional.game(6, 4, 3, 2, 255, padded=8)
    game = dataclasses.replace(game, task=pictures(6))
    nest = players.system(game, "alternating")
    state = begun(game, nest)
    after, info = nest.step(state)
    for name in ("generator", "discriminator"):
        assert np.isfinite(info[name].loss).all()
        for part in ("weights", "state"):
            old, new = (jax.tree.leaves(s.values[name][part]) for s in (state, after))
            assert any((a != b).any() for a, b in zip(old, new, strict=True)), (name, part)
    made = after.values["generator"]
    counts = made["state"].get(made["weights"].norm.batch_counter), made["state"].get(
        made["weights"].blocks[0].norms[0].norm.batch_counter)  # fmt: skip
    assert [int(count) for count in counts] == [1, 1]  # the discriminator's pass left it alone
    one = eqx.filter_jit(game.sample)(made, jax.random.key(3), 2)
    assert one.shape == (2, 6, 6) and one.min() >= 0 and one.max() <= 1
    assert conditional.blocks_of(32) == 3

    network = after.values["discriminator"]  # a class adds a projection of the features
    judge = eqx.nn.inference_mode(network["weights"])
    score = eqx.filter_jit(
        eqx.filter_vmap(lambda label: judge(jnp.ones((8, 8)) / 3, label, network["state"])[0])
    )
    plain, *by_class, mixed = score(jnp.array([[0.0] * 3, *np.eye(3), [0.5, 0.25, 0.25]]))
    expected = plain + np.dot([0.5, 0.25, 0.25], np.subtract(by_class, plain))
    np.testing.assert_allclose(mixed, expected, rtol=1e-5)
    assert len({round(float(one), 5) for one in by_class}) == 3


@pytest.mark.parametrize(("by_class", "side"), [(False, 8), (True, 32)])
def test_pictures_are_padded_and_judged_by_a_classifier(request, monkeypatch, by_class, side):
    if by_class:  # the classifier need not learn twice
        request.getfixturevalue("world")
    else:
        short = functools.partial(worlds.trained_classifier, steps=300)
        monkeypatch.setattr(worlds, "trained_classifier", short)
    found = worlds.pictures("digits", 16, 4, by_class)
    batch = found.game.draw(found.game.task, jax.random.key(0))
    assert batch["real"].shape == (16, side, side) and batch["real"].max() <= 1
    image = np.asarray(batch["real"][0])
    kept = image[12:20, 12:20] if by_class else image
    assert kept.sum() == image.sum() > 0
    assert (set(batch) == {"noise", "real", "labels", "wanted"}) == by_class
    real = found.real(jax.random.key(1), 200)
    assert real.shape == (200, 8, 8) and found.features(real).shape == (200, worlds.FEATURES)
    np.testing.assert_allclose(found.wanted.sum(), 1, rtol=1e-5)
    assert found.shares(real).shape == (11,) and found.shares(real)[-1] == 0
    if not by_class:  # a classifier that learned nothing gives most of them one class
        digits = found.game.task["images"] / 16
        for digit in range(10):
            own = jnp.asarray(digits[found.game.task["labels"] == digit][:100])
            assert found.shares(own)[digit] > 0.8


def test_pictures_are_drawn_sixteen_together():
    pictures = np.arange(16 * 4, dtype=float).reshape(16, 2, 2)
    expected = np.block([[pictures[4 * row + column] for column in range(4)] for row in range(4)])
    np.testing.assert_array_equal(findings._mosaic(pictures), expected)


TINY = gan.Settings(
    steps=8, points=4, seeds=2, samples=16, batch=8, trials=1, moduli=(0.8,), arguments=("0", "π/8")
)  # fmt: skip


@pytest.fixture(scope="module")
def small():
    """The ring, and the record of a small run."""
    with pytest.MonkeyPatch.context() as patch:
        fresh = lambda draw, task, sizes: models.mlp_init(jax.random.key(1), sizes)  # noqa: E731
        patch.setattr(worlds, "trained_classifier", fresh)
        world = worlds.ring(8)
    return world, gan.compare(TINY, world, "step", lab.Desk(lambda text: None, Path("none")))


def test_runs_are_the_same_side_by_side_and_one_after_another(small):
    world, record = small
    assert np.shape(record["score"]) == (3, 2) and np.shape(record["chosen by"]) == (3, 2)
    nest = players.nest_of(world.game, "simultaneous")
    runs = training.settings_of([Beta(0.8, "π/8")], record["generator"], record["rate"], "step")
    look = lambda made, key: world.game.sample(made, key, 16)  # noqa: E731
    alone = dataclasses.replace(world, together=False)
    seen, last = training.played(alone, nest, runs, (0,), 8, 4, look, look)
    assert last.shape == (1, 16, 2) and np.abs(seen[4, 0] - seen[3, 0]).min() > 1e-4
    np.testing.assert_allclose(seen[:, 0], record["samples"]["0.8 exp(i π/8)"], atol=1e-4)


def test_findings_and_figures_hold_the_records_numbers(small):
    settings = dataclasses.replace(TINY, equal=("step",))
    records, name = {"equal step": small[1]}, "equal effective step"
    found = gan.find(settings, records)
    lacking = [v.holds is None for v in found.verdicts]
    assert lacking == [True, False, True, False]  # there is no negative one
    cell = found.numbers.summary()[f"{name} / 0.8"]["measures"]["matched"]["values"]
    np.testing.assert_allclose(cell, 100 * np.array(small[1]["score"][1]), rtol=1e-6)
    grid, curves, samples = gan.draw(settings, records)
    none, *others = 100 * np.median(small[1]["score"], axis=1)
    np.testing.assert_allclose(grid.drawn[name], [[none, none], others])
    assert_range(
        curves.drawn[name]["0.8"], 100 * np.array(small[1]["curve"]["0.8"]), [0, 2, 4, 6, 8]
    )
    np.testing.assert_allclose(samples.drawn["0.8"], small[1]["samples"]["0.8"])
    assert gan.draw(settings, {})[0].drawn == {}


def test_rates_are_tuned_beyond_the_first_by_the_mean_over_betas(small, monkeypatch):
    """On games whose score is known: 1 at rates of 0.01 and 0.001, less the further away."""
    world, record = small

    def played(world, nest, runs, seeds, steps, points, look, last, say):
        away = np.abs(np.log10(runs["generator"] / 0.01)) + np.abs(np.log10(runs["rate"] / 0.001))
        matched = np.tile(1 - away / 10 - np.array(seeds) % 2 / 100, (points + 1, 1))
        if len(runs["rate"]) == 12:  # judged: three betas, four seeds
            ends = {name: np.zeros((12, gan.ROUNDS)) for name in record["end"]}
            return {"matched": matched, "samples": np.zeros((points + 1, 12, 1, 2))}, ends
        return {"matched": matched}, ()

    monkeypatch.setattr(training, "played", played)
    desk = lab.Desk(lambda text: None, Path("none"))
    found = gan.compare(dataclasses.replace(TINY, trials=3), world, "rate", desk)
    assert found["generator"] == pytest.approx(0.01) and found["rate"] == pytest.approx(0.001)
    assert not found["edge"] and len(found["tried"]) > 9
    np.testing.assert_allclose(found["score"], [[1, 0.99]] * 3, rtol=1e-3)
    with pytest.raises(SettingsError, match="multiple of points"):
        gan.Settings(steps=5001)
    for moduli in ((0.5, 0.5), (0.5, 1.0), (0.0,)):
        with pytest.raises(SettingsError, match="moduli must differ and lie between 0 and 1"):
            gan.Settings(moduli=moduli)
    assert gan.score([[np.nan, 1], [1, 1], [np.nan, 0.5], [np.nan, 0]]).tolist() == [0, 0]


def test_verdicts_follow_their_criteria():
    betas = training.grid((0.8,), ("0", "π/8", "π"))

    def judged(none, positive, almost, negative):
        scores = [none, positive, almost, negative]
        record = {"score": scores, "chosen by": [[np.mean(one)] for one in scores]}
        return [v.word for v in findings.verdicts("equal rate", record, betas)]

    low, high = [0.5] * 5, [0.6] * 5
    assert judged(low, low, high, low) == ["supported", "supported", "not supported", "supported"]
    assert judged(low, high, low, high) == [
        "not supported",
        "not supported",
        "supported",
        "not supported",
    ]
    assert judged(low, low, [0.505] * 5, low) == [
        "not supported",
        "supported",
        "not supported",
        "not supported",
    ]
    mixed = [0.6, 0.6, 0.6, 0.6, 0.49]
    assert judged(low, low, mixed, low)[0] == "not supported"  # not with nine seeds of ten
