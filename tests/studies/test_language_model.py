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
from nestax_studies.lab import Desk
from nestax_studies.lab.train import parameters
from nestax_studies.language_model import ARMS, CAP, CLAIMS, FAMILIES, corpora, find, training
from nestax_studies.language_model.corpora import Corpus, streams, windows
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
        scores = self.table[tokens] + late[:, None] * jnp.eye(8)[(tokens + 1) % 8]
        return scores, state + len(tokens)


def stand_in(late=0.0):
    return Counting(jnp.zeros((8, 8)), jnp.asarray(late))


@pytest.fixture(scope="module")
def alphabet():
    """Over and over as the text."""
    text = np.tile(np.arange(8, dtype=np.uint8), 60)

    def decode(numbers):
        return "".join(LETTERS[i] for i in numbers)

    return Corpus(text[:300], text[300:380], text[380:], 8, decode, "character")


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


def test_training_window_by_window_is_training_at_once_and_has_dropout(x64):
    model = HopeLM(8, 8, 1, 2, block="transformer", dropout=0.5, key=jax.random.key(0))
    batch = jax.random.randint(jax.random.key(1), (3, 10), 0, 8)
    keys = jax.random.split(jax.random.key(2), 3)
    one, other = (
        eqx.filter_jit(eqx.filter_value_and_grad(lambda m, loss=loss: loss(m, batch, keys)))(model)
        for loss in (training.training_loss, training.mean_loss)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-13), one, other)
    assert abs(one[0] - training.mean_loss(model, batch)) > 1e-4


def test_a_text_is_learned_and_an_interrupted_run_ends_where_a_whole_one_does(alphabet, tmp_path):
    nest, said = training.system(alphabet, SIZE, every=5), []

    def train(name, say, model=None):
        desk = Desk(say, tmp_path / name)
        return training.train(nest, model or stand_in(), 0.3, 0, 4, desk)

    def stop(text):
        raise KeyboardInterrupt

    model, seen = train("whole", print)
    assert seen["step"] == [5, 10, 15, 20] and seen["curves"]["trial"][-1] < 0.1
    expected = training.mean_loss(model, jnp.asarray(windows(alphabet.tune, 32, 8)))
    assert seen["curves"]["trial"][-1] == pytest.approx(float(expected), rel=1e-5)
    with pytest.raises(KeyboardInterrupt):
        train("broken", stop)
    again, curves = train("broken", said.append)
    assert "step 20/20" in said[-1] and not any("step 5/20" in text for text in said)
    np.testing.assert_array_equal(again.table, model.table)
    assert curves == seen
    nan = eqx.tree_at(lambda m: m.table, stand_in(), jnp.full((8, 8), jnp.nan))
    assert train("nan", print, nan) is None


def test_kept_text_is_read_without_dropout(alphabet):
    nest = training.system(alphabet, SIZE, every=1)
    model = HopeLM(8, 8, 1, 2, block="transformer", dropout=0.5, key=jax.random.key(0))
    trial = {"rate": jnp.float32(0.0), "steps": jnp.float32(20)}  # nothing is learned
    info = nest.step(nest.init({"model": model, "trial": trial}, jax.random.key(1)))[1]
    kept = training.mean_loss(model, jnp.asarray(windows(alphabet.tune, 32, 8)))
    np.testing.assert_allclose(info["trial"].loss, kept, rtol=1e-6)


def test_weights_have_the_decay_that_is_asked_for(alphabet, tmp_path, monkeypatch):
    """A letter that never occurs has no gradient: its weights only decay."""
    monkeypatch.setattr(corpora, "load", lambda name: alphabet)
    settings = language_model.Settings(steps=40, length=8, batch_size=2, decay=3.0)
    nest, start = language_model._Work(settings).nest, Counting(jnp.ones((9, 8)), jnp.zeros(()))
    model, _ = training.train(nest, start, 0.01, 0, 40, Desk(print, tmp_path))
    # The mean of the schedule is a half.
    assert float(model.table[8, 0]) == pytest.approx(math.exp(-3.0 * 0.01 * 20), rel=0.05)


def test_a_state_that_is_carried_along_counts(alphabet):
    # Knows the alphabet from the ninth token of a stream on: never within windows of eight.
    found = training.judge(stand_in(late=20.0), alphabet, SIZE)
    assert found["windows"] == pytest.approx(math.log(8), rel=1e-5)
    np.testing.assert_allclose(found["along"], [0, math.log(8), math.log(8)], atol=1e-4)
    assert found["gain"] == pytest.approx(math.log(8), rel=1e-3)
    assert training.judge_in_context(stand_in(), alphabet, SIZE) == {}
    with pytest.raises(ValueError, match="do not fit"):
        training.judge(stand_in(), alphabet, SIZE._replace(batch_size=20))


def test_the_temperature_is_that_of_the_kept_text(alphabet):
    """Scores of a model that has the right odds, made too large: divided again, they are right."""
    text = np.random.default_rng(0).choice(4, 4000, p=(0.7, 0.1, 0.1, 0.1)).astype(np.uint8)
    odds = jnp.log(jnp.array([0.7, 0.1, 0.1, 0.1, 0, 0, 0, 0]) + 1e-9)
    model = eqx.tree_at(lambda m: m.table, stand_in(), jnp.tile(1.5 * odds, (8, 1)))
    size = SIZE._replace(length=20, batch_size=10, windows=1000)
    corpus = Corpus(text, text[:2000], text[2000:], 8, alphabet.decode, "character")
    found = training.judge(model, corpus, size)
    entropy = -(0.7 * math.log(0.7) + 0.3 * math.log(0.1))
    assert found["temperature"] == pytest.approx(1.5, abs=0.11)
    assert found["calibrated"] == pytest.approx(entropy, rel=0.03)
    assert found["windows"] > found["calibrated"] + 0.03


# Arms


def test_every_arm_is_hope_with_one_thing_changed_or_another_block():
    for name, arm in ARMS.items():
        assert (arm.block == "hope") == name.startswith("hope") or name == "hope_attention"
        assert (name in FAMILIES["ablations"]) == bool(arm.options)
    assert {name for some in FAMILIES.values() for name in some} == set(ARMS)
    assert len({arm.label for arm in ARMS.values()}) == len(ARMS)
    assert {name for claim in CLAIMS for name in (claim.better, claim.worse)} == set(ARMS)
    assert len({(claim.text, claim.of) for claim in CLAIMS}) == len(CLAIMS)


def test_models_have_about_as_many_parameters_and_the_dropout_that_is_asked_for():
    counts = {
        name: parameters(eqx.filter_eval_shape(arm.make, 65, 64, 2, 4, 128, jax.random.key(0)))
        for name, arm in ARMS.items()
    }
    assert max(counts.values()) < 1.15 * min(counts.values()), counts
    settings = language_model.Settings(arms=("transformer",), dropout=0.25, width=8, heads=2)
    work = language_model._Work(settings)
    work.text = Corpus(*[np.zeros(9, np.uint8)] * 3, 5, str, "character")
    assert work.model("transformer", 0).dropout == 0.25


def test_a_transformer_is_judged_and_writes(alphabet, monkeypatch):
    model = ARMS["transformer"].make(8, 8, 1, 1, 8, jax.random.key(0))
    seen = training.judge(model, alphabet, SIZE)
    assert 0 < seen["windows"] < 1.1 * math.log(8)
    assert len(seen["along"]) == 3 and seen["along"][0] == pytest.approx(0, abs=1e-5)
    # The alphabet over and over: it is learnt while it is read, and noise is not.
    size = SIZE._replace(windows=100)
    monkeypatch.setattr(training, "RATES", (0.0, 3.0))
    learnt = training.judge_in_context(model, alphabet, size)
    assert learnt["rate_in_context"] == 3.0 and learnt["tokens_in_context"] == 96
    assert len(learnt["learned"]) == 12 and learnt["learned"][0] == 0
    assert learnt["learned"][-1] > 0.1 and learnt["in_context"] < seen["windows"]
    noise = np.random.default_rng(0).integers(8, size=800).astype(np.uint8)
    of_noise = training.judge_in_context(model, dataclasses.replace(alphabet, test=noise), size)
    assert of_noise["in_context"] > math.log(8)
    prompt, sample = training.write(model, alphabet, SIZE, 0)
    assert prompt == "e" and set(sample) <= set(LETTERS) and len(sample) == SIZE.sample


# Findings


def record(nats, rate=0.1, **more):
    found = {"rate": rate, "parameters": 1_200_000, "step": [5, 10]}
    if nats is None:
        return found | {"diverged": True} | more
    curves = {"model": [2.0, nats], "trial": [2.0, nats]}
    judged = {"windows": nats, "calibrated": nats - 0.05, "gain": 0.1, "along": [0.1] * 3}
    return found | {"curves": curves} | judged | more


def records(**arms):
    return {f"{arm} seed {i}": record(n) for arm, all_ in arms.items() for i, n in enumerate(all_)}


def judged(records, *arms):
    """Verdicts by what they are judged for."""
    found = find(language_model.Settings(arms=arms), records)
    return {verdict.of: verdict.holds for verdict in found.verdicts}


@pytest.mark.parametrize(
    ("hope", "holds"),
    [
        ((1.0, 1.1, 1.2), True),
        ((1.0, 1.1, 1.5), False),  # one seed does not
        ((1.292, 1.392, 1.492), True),
        ((1.295, 1.395, 1.495), False),  # less than a hundredth of a bit
        ((1.0, 1.1, None), False),  # one diverged
        ((), None),
    ],
)
def test_a_claim_holds_where_all_seeds_say_so(hope, holds):
    some = records(hope=hope, transformer=(1.3, 1.4, 1.5))
    assert judged(some, "hope", "transformer") == {"Transformer": holds}


def test_what_is_not_to_help_may_not_and_what_is_added_must():
    arms = "hope", "hope-momentum", "hope-adaptive-q"
    given = {"hope": (1.0, 1.1, 1.2), "hope-momentum": (0.9, 1.0, 1.1),
             "hope-adaptive-q": (1.0, 1.1, 1.2)}  # fmt: skip
    assert judged(records(**given), *arms) == {"momentum": True, "self-made queries": True}
    given["hope-adaptive-q"], given["hope-momentum"] = (0.9, 1.0, 1.1), (1.1, 1.2, 1.3)
    assert judged(records(**given), *arms) == {"momentum": False, "self-made queries": False}


def test_the_table_is_in_bits_the_best_first_and_a_diverged_run_has_the_most():
    settings = language_model.Settings(arms=("hope-gd", "hope"))
    some = records(hope=(1.0, 1.2, None)) | {"hope-gd seed 0": record(2.0, learned=[-1.0, 0.0])}
    some["hope rates"] = {"rates": [0.1, 0.2], "scores": [1.0, None], "rate": 0.1, "edge": True}
    found = find(settings, some)
    assert [row.labels for row in found.numbers.rows] == [("Hope",), (ARMS["hope-gd"].label,)]
    hope, other = found.numbers.summary().values()
    assert hope["facts"] == {
        "parameters": 1_200_000, "rate": "0.1 (edge)", "rates tried": 2, "diverged": 1
    }  # fmt: skip
    values = {name: measure["values"] for name, measure in hope["measures"].items()}
    ln = math.log(2)
    for name, expected in (
        ("bits per character", [1 / ln, 1.2 / ln, CAP]),
        ("nats per character", [1.0, 1.2, CAP * ln]),
        ("bits gained by state", [0.1 / ln, 0.1 / ln, 0]),
        ("by temperature", [0.05 / ln, 0.05 / ln, 0]),
    ):
        np.testing.assert_allclose(values[name], expected, rtol=1e-5, atol=1e-9)
    assert "by learning in context" not in values
    learned = other["measures"]["by learning in context"]["values"]
    np.testing.assert_allclose(learned, [-0.5 / ln], rtol=1e-5)
    nan = find(settings, {"hope seed 0": record(math.nan)}).numbers.rows[0]
    assert nan.measures["bits per character"]["values"] == [CAP]


@pytest.mark.parametrize(("nats", "count", "holds"), [
    (1.6, 1_000_000, True), (1.61, 1_000_000, False), (1.5, 999_999, False),
])  # fmt: skip
def test_the_hour_asks_for_a_loss_and_a_size(nats, count, holds):
    settings = language_model.Settings(preset="hour")
    more = {"calibrated": nats - 0.05, "in_context": nats + 1.0, "learned": [-1.0, -1.0]}
    found = find(settings, {"transformer seed 0": record(nats, parameters=count, **more)})
    assert [v.holds for v in found.verdicts] == [holds, count >= 1e6, False]
    assert len({v.claim for v in found.verdicts}) == 1


# How rates are chosen


@pytest.mark.parametrize(
    ("best", "trials", "tried", "edge"),
    [
        (1.0, 3, (-1, 0, 1), False),
        (10**0.4, 3, (-1, 0, 1, 2), False),  # a step up, and the best one lies within
        (10**-0.4, 3, (-2, -1, 0, 1), False),
        (1e9, 3, (-1, 0, 1, 2, 3), True),  # no more than two
        (1e-9, 2, (-2.5, -1.5, -0.5, 0.5), True),
        (None, 2, (-2.5, -1.5, -0.5, 0.5), True),  # all diverge
    ],
)
def test_the_rate_tuned_is_the_best_of_those_tried(
    tmp_path, monkeypatch, best, trials, tried, edge
):
    seeds = []

    def run(self, arm, rate, seed, points, desk):
        seeds.append((seed, points))
        return best and (None, {"curves": {"trial": [9.0, abs(np.log(rate / best))]}})

    monkeypatch.setattr(language_model._Work, "run", run)
    settings = language_model.Settings(rate=1.0001, trials=trials, steps=40)
    found = language_model._Work(settings).tune("hope", Desk(print, tmp_path))
    np.testing.assert_allclose(found["rates"], 1.0001 * 10 ** (0.4 * np.array(tried)))
    if best:
        expected = np.abs(np.log(np.array(found["rates"]) / best))
        np.testing.assert_allclose(found["scores"], expected, rtol=1e-5)
        assert found["rate"] == found["rates"][int(np.argmin(expected))]
    else:
        assert found["scores"] == [None] * 4 and found["rate"] == found["rates"][0]
    assert found["edge"] is edge
    # A seed to tune by, and half of the steps of a whole run.
    assert set(seeds) == {(10_000, 20)}


# A small run


@pytest.fixture(scope="module")
def run(alphabet, tmp_path_factory):
    """Stand-ins for two models: settings, records, summary and report."""
    settings = language_model.Settings(
        arms=("transformer", "hope"), seeds=2, trials=2, steps=40, length=8, batch_size=2, rate=0.1
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpora, "load", lambda name: alphabet)
        patch.setattr(sequences.Arm, "make", lambda self, *size: stand_in())
        patch.setattr(training, "write", lambda model, corpus, size, seed: ("abc", "def\nghi"))
        asked = json.loads(json.dumps(dataclasses.asdict(settings)))
        path = tmp_path_factory.mktemp("run") / "run"
        with RunFolder.create(path, "language-model", asked) as opened:
            language_model.STUDY.run(settings, opened)
            summary = language_model.STUDY.report(settings, opened)
            found = {record["stage"]: record for record in opened.metrics()}
    return settings, found, summary, (path / "report.html").read_text()


def test_every_seed_is_learned_at_the_rate_chosen_for_its_model(run):
    settings, found, summary, report = run
    assert list(found) == [
        f"{arm} {what}" for arm in settings.arms for what in ("rates", "seed 0", "seed 1")
    ]
    rates, first, second = list(found.values())[:3]
    assert rates["rate"] in rates["rates"] and first["rate"] == second["rate"] == rates["rate"]
    assert first["step"] == list(range(1, 41)) and first["windows"] < math.log(8)
    assert summary["complete"] and len(summary["claims"]) == 1  # one is about these two
    assert "[abc] def / ghi" in report and "sample" not in second


def test_figures_show_what_was_recorded(run):
    settings, found, *_ = run
    more = {"learned": [0.1, 0.3], "tokens_in_context": 4000}
    found = {n: r if "rates" in r else r | more for n, r in found.items()}
    found["hope seed 1"] = record(None)
    results, blocks = language_model.draw(settings, found)
    assert (results.name, blocks.name) == ("results", "blocks")  # no ablation was asked for
    some = [found[f"transformer seed {seed}"] for seed in (0, 1)]
    windows = [r["windows"] / math.log(2) for r in some]
    (dot,) = results.drawn["From an empty state"]["Transformer"]
    np.testing.assert_allclose(dot, (min(windows), np.median(windows), max(windows)))
    (dot,) = results.drawn["From an empty state"]["Hope"]
    assert dot[2] == CAP
    for panel, rows in (
        ("While learning", [r["curves"]["trial"] for r in some]),
        ("What a state is worth", [r["along"] for r in some]),
        ("What learning in context is worth", [r["learned"] for r in some]),
    ):
        x, middle, low, high = blocks.drawn[panel]["Transformer"]
        for drawn, rule in ((middle, np.median), (low, np.min), (high, np.max)):
            np.testing.assert_allclose(drawn, rule(rows, axis=0) / math.log(2), rtol=1e-6)
        assert len(blocks.drawn[panel]) == 2
    np.testing.assert_allclose(x, [1, 3])  # thousands of tokens
    # Of Hope the run that diverged is left out.
    drawn = blocks.drawn["While learning"]["Hope"][1]
    kept = np.asarray(found["hope seed 0"]["curves"]["trial"])
    np.testing.assert_allclose(drawn, kept / math.log(2), rtol=1e-6)
    some = found | {"hope-gd seed 0": found["hope seed 0"]}
    both = language_model.Settings(arms=("hope", "hope-gd"), length=8)
    *_, ablations = language_model.draw(both, some)
    assert set(ablations.drawn["While learning"]) == {"Hope", ARMS["hope-gd"].label}


def test_settings_name_families_and_must_fit():
    settings = language_model.Settings(arms=("blocks", "hope-gd"))
    assert settings.arms == (*FAMILIES["blocks"], "hope-gd")
    assert language_model.Settings().arms == tuple(ARMS)
    hour = language_model.Settings(preset="hour")
    assert (hour.arms, hour.width, hour.dropout) == (("transformer",), 192, 0.1)
    with pytest.raises(SettingsError, match="multiple of twice the heads, 8, got 12"):
        language_model.Settings(width=12)
