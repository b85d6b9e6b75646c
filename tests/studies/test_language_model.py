"""Language models: the texts, the training as a nest, and what is said of them."""

import dataclasses
import json
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nestax.memory import HopeLM
from nestax.runs import RunFolder, SettingsError
from nestax_studies import language_model, sequences
from nestax_studies.language_model import corpora, training
from nestax_studies.language_model.arms import ARMS, CLAIMS, FAMILIES, Shape, parameters
from nestax_studies.language_model.corpora import Corpus, streams, windows
from nestax_studies.language_model.findings import CAP, bits, find, gains, seeds_of
from nestax_studies.language_model.training import Size
from nestax_studies.sequences import descent

LETTERS = "abcdefgh"
SIZE = Size(length=8, batch_size=2, windows=5, pieces=3, sample=6, decay=0.1)


class Counting(eqx.Module):
    """A stand-in: scores from the present token and from how many tokens there were before it."""

    table: jax.Array
    late: jax.Array

    def init_state(self):
        return jnp.zeros((), jnp.int32)

    def __call__(self, tokens, state=None, *, key=None):
        state = self.init_state() if state is None else state
        at = state + jnp.arange(len(tokens), dtype=jnp.int32)
        late = jnp.where(at >= 8, self.late, 0.0)
        return self.table[tokens] + late[:, None] * jnp.eye(8)[(tokens + 1) % 8], state + len(
            tokens
        )


def stand_in(late=0.0):
    return Counting(jnp.zeros((8, 8)), jnp.asarray(late))


@pytest.fixture
def small(monkeypatch):
    """The alphabet over and over as the text, and models that learn it in a few steps."""
    text = np.tile(np.arange(8, dtype=np.uint8), 60)

    def decode(numbers):
        return "".join(LETTERS[i] for i in numbers)

    corpus = Corpus(text[:300], text[300:380], text[380:], 8, decode, "character")
    monkeypatch.setattr(corpora, "load", lambda name: corpus)
    monkeypatch.setattr(sequences.Arm, "make", lambda self, *size: stand_in())
    return corpus


# Texts


def test_a_text_is_cut_into_parts_that_do_not_overlap(monkeypatch):
    class Text:
        characters = "xy"
        train, test = np.arange(1000), np.arange(1000, 1100)

        def decode(self, numbers):
            return "".join(map(str, numbers))

    monkeypatch.setattr(corpora.data, "tiny_shakespeare", Text)
    found = corpora.load("tinyshakespeare")
    parts = [found.train, found.tune, found.test]
    assert [len(part) for part in parts] == [950, 50, 100]
    np.testing.assert_array_equal(np.concatenate(parts), np.arange(1100))
    assert (found.vocabulary, found.unit) == (2, "character")


def test_of_wikitext_bytes_are_learned(monkeypatch):
    class Text:
        characters, train, test = "aé", np.zeros(100, int), np.ones(3, int)

        def decode(self, numbers):
            return "".join("aé"[i] for i in numbers)

    monkeypatch.setattr(corpora.data, "wikitext2", Text)
    found = corpora.load("wikitext2")
    assert (found.vocabulary, found.unit) == (256, "byte")
    assert found.test.tolist() == list("ééé".encode()) and found.decode(found.test) == "ééé"
    assert len(found.train) == 95 and found.train.dtype == np.uint8


def test_windows_are_spread_over_the_text_and_overlap_only_in_what_is_predicted():
    part = np.arange(42)
    found = windows(part, 3, 10)
    assert found.shape == (3, 11) and found[0, 0] == 0 and found[-1, -1] == 41
    np.testing.assert_array_equal(np.diff(found, axis=1), 1)
    assert len(windows(part, 100, 10)) == 4  # no more than fit
    with pytest.raises(ValueError, match="too short"):
        windows(part, 1, 42)


def test_streams_go_on_where_the_last_piece_ended():
    found = streams(np.arange(101), 2, 3, 10)
    assert found.shape == (3, 2, 11)
    np.testing.assert_array_equal(found[1:, :, 0], found[:-1, :, -1])
    np.testing.assert_array_equal(np.diff(found, axis=2), 1)
    assert streams(np.arange(45), 2, 9, 10).shape == (2, 2, 11)  # no more pieces than fit


# Training and judging


def test_the_rate_warms_up_and_falls_and_matrices_decay():
    params = {"weight": jnp.ones((2, 2)), "norm": jnp.ones(2)}
    still = jax.tree.map(jnp.zeros_like, params)
    tx = descent.optimizer(jnp.float32(0.1), jnp.float32(100), 0.5)
    state, moved = tx.init(params), []
    for _ in range(100):
        updates, state = tx.update(still, state, params)
        moved.append(-float(updates["weight"][0, 0]) / 0.5)
        assert (updates["norm"] == 0).all()
    assert moved[0] == pytest.approx(0.1 * 0.1) and moved[-1] < 1e-4
    assert np.argmax(moved) == 5 and moved[5] == pytest.approx(0.1, rel=1e-3)
    big = jax.tree.map(lambda p: 1e3 * jnp.ones_like(p), params)
    clipped = jax.tree.map(lambda g: g / (1e3 * 6**0.5), big)
    one, other = (tx.update(g, tx.init(params), params)[0] for g in (big, clipped))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), one, other)


@pytest.mark.parametrize("each", [1, 2, 6])
def test_a_mean_over_parts_has_the_gradient_of_the_mean(x64, each):
    w = {"a": jax.random.normal(jax.random.key(0), (3,)), "b": jnp.asarray(0.3)}
    x = jax.random.normal(jax.random.key(1), (6, 3))

    def loss(w, x):
        return jnp.mean(jnp.tanh(x @ w["a"] + w["b"]) ** 2)

    def by_parts(w):
        return jnp.exp(descent.mean_by_parts(loss, w, x, each))

    plain = lambda w: jnp.exp(loss(w, x))  # noqa: E731
    np.testing.assert_allclose(by_parts(w), plain(w), rtol=1e-13)
    found, wanted = jax.jit(jax.grad(by_parts))(w), jax.grad(plain)(w)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-13), found, wanted)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_training_window_by_window_is_training_at_once(x64, dropout):
    model = HopeLM(8, 8, 1, 2, block="gated_delta", dropout=dropout, key=jax.random.key(0))
    batch = jax.random.randint(jax.random.key(1), (3, 10), 0, 8)
    keys = jax.random.split(jax.random.key(2), 3)
    one, other = (
        eqx.filter_value_and_grad(lambda m, loss=loss: loss(m, batch, keys))(model)
        for loss in (training.training_loss, training.mean_loss)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-13), one, other)
    assert (abs(one[0] - training.mean_loss(model, batch)) > 1e-4) == (dropout > 0)


def test_a_text_is_learned_and_kept_text_is_looked_at(small, tmp_path):
    nest = training.system(small, SIZE, every=5)
    said = []
    found = training.train(nest, stand_in(), 0.3, 0, 4, tmp_path / "run", said.append)
    assert found.step == [5, 10, 15, 20] and found.losses["trial"][-1] < 0.1 < said.__len__()
    kept = jnp.asarray(windows(small.tune, 32, 8))
    expected = training.mean_loss(found.model, kept)
    assert found.losses["trial"][-1] == pytest.approx(float(expected), rel=1e-5)
    assert "step 20/20" in said[-1]


def test_dropout_is_for_learning_only(small):
    nest = training.system(small, SIZE, every=1)
    trial = {"rate": jnp.float32(0.0), "steps": jnp.float32(20)}  # nothing is learned
    found = {}
    for dropout in (0.0, 0.5):
        model = HopeLM(8, 8, 1, 2, block="transformer", dropout=dropout, key=jax.random.key(0))
        state = nest.init({"model": model, "trial": trial}, jax.random.key(1))
        found[dropout] = nest.step(state)[1]
    kept = training.mean_loss(model, jnp.asarray(windows(small.tune, 32, 8)))
    for infos in found.values():
        np.testing.assert_allclose(infos["trial"].loss, kept, rtol=1e-6)
    assert abs(found[0.0]["model"].loss - found[0.5]["model"].loss).min() > 1e-4


def test_an_interrupted_run_goes_on_and_ends_where_a_whole_one_does(small, tmp_path):
    nest = training.system(small, SIZE, every=5)

    def stop(text):
        if int(text.split()[1].split("/")[0]) >= 10:
            raise KeyboardInterrupt

    ends = []
    for name, say in (("whole", print), ("broken", stop)):
        watch = training.Watch(tmp_path / name, progress=False, checkpoint_seconds=0)
        trial = {"rate": jnp.float32(0.1), "steps": jnp.float32(20)}
        state = nest.init({"model": stand_in(), "trial": trial}, jax.random.key(3))
        if name == "broken":
            with pytest.raises(KeyboardInterrupt):
                nest.run(state, 4, watch=training.Told(watch, say))
            with RunFolder(tmp_path / name) as folder:
                assert 2 <= folder.saved()["step"] < 4
        ends.append(training.train(nest, stand_in(), 0.1, 3, 4, tmp_path / name, print))
    np.testing.assert_array_equal(ends[0].model.table, ends[1].model.table)
    assert ends[0].losses == ends[1].losses and ends[0].step == ends[1].step


def test_a_run_that_diverges_is_no_run(small, tmp_path):
    nest = training.system(small, SIZE, every=5)
    model = eqx.tree_at(lambda m: m.table, stand_in(), jnp.full((8, 8), jnp.nan))
    assert training.train(nest, model, 0.1, 0, 2, tmp_path / "run", print) is None


def test_a_state_that_is_carried_along_counts(small):
    # Knows the alphabet from the ninth token of a stream on: never within windows of eight.
    found = training.judge(stand_in(late=20.0), small, SIZE)
    assert found["windows"] == pytest.approx(math.log(8), rel=1e-5)
    np.testing.assert_allclose(found["along"], [0, math.log(8), math.log(8)], atol=1e-4)
    assert found["gain"] == pytest.approx(math.log(8), rel=1e-3)
    assert training.judge_in_context(stand_in(), small, SIZE) == {}
    with pytest.raises(ValueError, match="do not fit"):
        training.judge(stand_in(), small, SIZE._replace(batch_size=20))


def test_the_temperature_is_that_of_the_kept_text(small):
    """Scores of a model that has the right odds, made too large: divided again, they are right."""
    text = np.random.default_rng(0).choice(4, 4000, p=(0.7, 0.1, 0.1, 0.1)).astype(np.uint8)
    odds = jnp.log(jnp.array([0.7, 0.1, 0.1, 0.1, 0, 0, 0, 0]) + 1e-9)
    model = eqx.tree_at(lambda m: m.table, stand_in(), jnp.tile(1.5 * odds, (8, 1)))
    size = SIZE._replace(length=20, batch_size=10, windows=1000)
    corpus = Corpus(text, text[:2000], text[2000:], 8, small.decode, "character")
    found = training.judge(model, corpus, size)
    entropy = -(0.7 * math.log(0.7) + 0.3 * math.log(0.1))
    assert found["temperature"] == pytest.approx(1.5, abs=0.11)
    assert found["calibrated"] == pytest.approx(entropy, rel=0.03)
    assert found["windows"] > found["calibrated"] + 0.03


# Arms


def test_every_arm_is_hope_with_one_thing_changed_or_another_block():
    for name, arm in ARMS.items():
        assert arm.family in FAMILIES
        assert (arm.block == "hope") == name.startswith("hope") or name == "hope_attention"
        assert (arm.family == "ablations") == bool(arm.options)
    assert len({arm.label for arm in ARMS.values()}) == len(ARMS)
    assert all({claim.better, claim.worse} <= set(ARMS) for claim in CLAIMS)
    claimed = {name for claim in CLAIMS for name in (claim.better, claim.worse)}
    assert claimed == set(ARMS)


def test_models_have_about_as_many_parameters():
    shape = Shape(65, 64, 2, 4, 128)
    counts = {name: parameters(name, shape) for name in ARMS}
    assert max(counts.values()) < 1.15 * min(counts.values()), counts


def test_hope_is_trained(small, monkeypatch, tmp_path):
    monkeypatch.undo()
    nest = training.system(small, SIZE, every=5)
    model = ARMS["hope"].make(8, 8, 1, 1, 8, jax.random.key(0))
    found = training.train(nest, model, 0.03, 0, 2, tmp_path / "run", print)
    assert found.losses["trial"][-1] < found.losses["trial"][0] < 1.1 * math.log(8)


def test_a_transformer_is_judged_and_writes(small, monkeypatch):
    monkeypatch.undo()
    model = ARMS["transformer"].make(8, 8, 1, 1, 8, jax.random.key(0))
    seen = training.judge(model, small, SIZE)
    assert 0 < seen["windows"] < 1.1 * math.log(8)
    assert len(seen["along"]) == 3 and seen["along"][0] == pytest.approx(0, abs=1e-5)
    # The alphabet over and over: it is learnt while it is read, and noise is not.
    size = SIZE._replace(windows=100)
    monkeypatch.setattr(training, "RATES", (0.0, 3.0))
    learnt = training.judge_in_context(model, small, size)
    assert learnt["rate_in_context"] == 3.0 and learnt["tokens_in_context"] == 96
    assert len(learnt["learned"]) == 12 and learnt["learned"][0] == 0
    assert learnt["learned"][-1] > 0.1 and learnt["in_context"] < seen["windows"]
    noise = np.random.default_rng(0).integers(8, size=800).astype(np.uint8)
    of_noise = training.judge_in_context(model, dataclasses.replace(small, test=noise), size)
    assert of_noise["in_context"] > math.log(8)
    prompt, sample = training.write(model, small, SIZE, 0)
    assert prompt == "e" and set(sample) <= set(LETTERS) and len(sample) == SIZE.sample


# Findings


def record(nats, rate=0.1, **more):
    found = {"rate": rate, "parameters": 1_200_000, "step": [5, 10]}
    if nats is None:
        return found | {"diverged": True} | more
    curves = {"model": [2.0, nats], "trial": [2.0, nats]}
    return found | {"curves": curves, "windows": nats, "gain": 0.1, "along": [0.1] * 3} | more


def records(**arms):
    return {f"{arm} seed {i}": record(n) for arm, all_ in arms.items() for i, n in enumerate(all_)}


SETTINGS = {"arms": ("hope", "transformer", "hope-momentum", "hope-adaptive-q")}


@pytest.mark.parametrize(
    ("hope", "holds"),
    [
        ((1.0, 1.1, 1.2), True),
        ((1.0, 1.1, 1.5), False),  # one seed does not
        ((1.295, 1.395, 1.495), False),  # less than a hundredth of a bit
        ((1.0, 1.1, None), False),  # one diverged
    ],
)
def test_a_claim_holds_where_all_seeds_say_so(hope, holds):
    settings = language_model.Settings(**SETTINGS)
    found = find(settings, records(hope=hope, transformer=(1.3, 1.4, 1.5)))
    (verdict,) = found.verdicts
    assert verdict.holds is holds and "Transformer" in verdict.claim
    assert len(found.table.rows) == 2 and json.dumps(found.summary)


def test_what_is_not_to_help_may_not_and_what_is_added_must():
    settings = language_model.Settings(**SETTINGS)
    given = {"hope": (1.0, 1.1, 1.2), "hope-momentum": (0.9, 1.0, 1.1),
             "hope-adaptive-q": (1.0, 1.1, 1.2)}  # fmt: skip
    found = find(settings, records(**given))
    assert [v.holds for v in found.verdicts] == [True, True]
    given["hope-adaptive-q"], given["hope-momentum"] = (0.9, 1.0, 1.1), (1.1, 1.2, 1.3)
    found = find(settings, records(**given))
    assert [v.holds for v in found.verdicts] == [False, False]


def test_bits_are_nats_over_ln_2_and_a_diverged_run_has_the_most():
    some = records(hope=(1.0, None)) | {"hope-gd seed 0": record(2.0)}
    seeds = seeds_of(some, "hope")
    np.testing.assert_allclose(bits(seeds), [1 / math.log(2), CAP])
    assert bits([record(math.nan)])[0] == CAP
    np.testing.assert_allclose(gains(seeds), [0.1 / math.log(2), 0])
    assert len(seeds) == 2


@pytest.mark.parametrize(("nats", "count", "holds"), [
    (1.6, 1_000_000, True), (1.61, 1_000_000, False), (1.5, 999_999, False),
])  # fmt: skip
def test_the_hour_asks_for_a_loss_and_a_size(nats, count, holds):
    settings = language_model.Settings(preset="hour")
    arm = settings.arms[0]
    found = find(settings, {f"{arm} seed 0": record(nats, parameters=count)})
    assert [v.holds for v in found.verdicts] == [holds]
    more = {"calibrated": nats - 0.05, "in_context": nats + 1.0, "learned": [-1.0, -1.0]}
    found = find(settings, {f"{arm} seed 0": record(nats, parameters=count, **more)})
    assert [v.holds for v in found.verdicts] == [holds, count >= 1e6, False]
    row = dict(zip(found.table.columns, found.table.rows[0], strict=True))
    assert float(row["by temperature"].split()[0]) == pytest.approx(0.05 / math.log(2), abs=1e-3)
    assert float(row["by learning in context"].split()[0]) == pytest.approx(-1.443, abs=1e-3)


# Studies


@pytest.mark.parametrize(
    ("best", "trials", "tried", "edge"),
    [
        (1.0, 3, (-1, 0, 1), False),
        (10**0.4, 3, (-1, 0, 1, 2), False),  # a step up, and the best one lies within
        (10**-0.4, 3, (-2, -1, 0, 1), False),
        (1e9, 3, (-1, 0, 1, 2, 3), True),  # no more than two
        (1e-9, 2, (-2.5, -1.5, -0.5, 0.5), True),
    ],
)
def test_the_rate_tuned_is_the_best_of_those_tried(
    small, tmp_path, monkeypatch, best, trials, tried, edge
):
    def run(self, arm, rate, seed, points, say):
        loss = abs(np.log(rate / best))
        return training.Trained(None, [1], {"trial": [9.0, loss]}) if loss else None

    monkeypatch.setattr(language_model._Work, "run", run)
    settings = language_model.Settings(rate=1.0001, trials=trials, steps=40)
    found = language_model._Work(settings, tmp_path).tune("hope", print)
    np.testing.assert_allclose(found["rates"], 1.0001 * 10 ** (0.4 * np.array(tried)))
    np.testing.assert_allclose(found["scores"], np.abs(np.log(np.array(found["rates"]) / best)))
    assert found["rate"] == found["rates"][int(np.argmin(found["scores"]))]
    assert found["edge"] is edge


def test_the_best_of_runs_that_all_diverge_lies_at_an_edge(small, tmp_path, monkeypatch):
    monkeypatch.setattr(language_model._Work, "run", lambda *a: None)
    settings = language_model.Settings(rate=1.0, trials=2, steps=40)
    found = language_model._Work(settings, tmp_path).tune("hope", print)
    assert found["scores"] == [None] * 4 and found["rate"] == found["rates"][0] and found["edge"]


def test_models_have_the_dropout_that_is_asked_for(tmp_path):
    settings = language_model.Settings(arms=("transformer",), dropout=0.25, width=8, heads=2)
    work = language_model._Work(settings, tmp_path)
    work.shape = lambda: Shape(5, 8, 1, 2, 4)
    assert work.model("transformer", 0).dropout == 0.25


def test_weights_have_the_decay_that_is_asked_for(small, tmp_path):
    """A letter that never occurs has no gradient: its weights only decay."""
    moved = {}
    for decay in (0.0, 3.0):
        settings = language_model.Settings(steps=40, length=8, batch_size=2, decay=decay)
        work = language_model._Work(settings, tmp_path / f"{decay}")
        start = Counting(jnp.ones((9, 8)), jnp.asarray(0.0))
        found = training.train(work.nest("hope"), start, 0.01, 0, 40, tmp_path / f"{decay}", print)
        moved[decay] = float(found.model.table[8, 0])
    assert moved[0.0] == 1.0
    # The mean of the schedule is a half.
    assert moved[3.0] == pytest.approx(math.exp(-3.0 * 0.01 * 20), rel=0.05)


def test_a_run_is_complete_and_a_half_finished_one_goes_on(small, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(
        language_model, "write", lambda model, corpus, size, seed: ("abc", "def\nghi")
    )
    settings = language_model.Settings(
        arms=("transformer", "hope"), seeds=2, trials=2, steps=40, length=8, batch_size=2, rate=0.1
    )
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    with folder(whole, settings) as opened:
        language_model.run(settings, opened)
        lines = language_model.STUDY.report(settings, opened)
        found = opened.metrics()
    assert len(lines) == 1  # one claim is about these two
    names = [one["stage"] for one in found]
    assert names == [f"{arm} {what}" for arm in settings.arms
                     for what in ("rates", "seed 0", "seed 1")]  # fmt: skip
    assert found[0]["rate"] in found[0]["rates"] and found[1]["rate"] == found[0]["rate"]
    assert found[1]["step"] == list(range(1, 41)) and found[1]["windows"] < math.log(8)
    assert not list((whole / "checkpoints").iterdir())  # nothing is kept of what is done
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["complete"] and len(summary["hope"]["bits"]) == 2
    assert "[abc] def / ghi" in (whole / "report.html").read_text()
    for name in ("results", "blocks"):
        assert (whole / "figures" / f"{name}.png").stat().st_size > 8_000
    with folder(broken, settings) as opened:
        for one in found[:2]:
            opened.append(one)
        language_model.STUDY.report(settings, opened)
        language_model.run(settings, opened)
    assert (broken / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_the_example_is_a_nest_of_one_that_learns_and_one_that_looks(small):
    settings = language_model.Settings(steps=40, length=8, batch_size=2)
    example = language_model.example(settings)
    state, info = example.nest.run(example.state, 2)
    assert info["model"].loss.shape == info["trial"].loss.shape == (2,)
    assert state.values["trial"]["rate"] == np.float32(settings.rate)
    assert not np.array_equal(state.values["model"].table, example.state.values["model"].table)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arms": ("gpt",)}, "got gpt"),
        ({"steps": 50}, "multiple of 40, got 50"),
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"rate": 0.0}, "rate must be positive"),
        ({"decay": -1.0}, "decay must be at least 0, got -1"),
        ({"dropout": 1.0}, "less than 1, got 1"),
        ({"width": 12}, "multiple of twice the heads, 8, got 12"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(SettingsError, match=message):
        language_model.Settings(**options)


def test_settings_name_families():
    settings = language_model.Settings(arms=("blocks", "hope-gd"))
    assert {ARMS[arm].family for arm in settings.arms} == set(FAMILIES)
    assert language_model.Settings().arms == tuple(ARMS)
