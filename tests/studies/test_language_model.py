"""Language models: the texts, the training as a nest, and what is said of them."""

import contextlib
import dataclasses
import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from studies.drawn import assert_range

from nestax.runs import SettingsError
from nestax_studies import language_model, sequences
from nestax_studies.lab import Desk
from nestax_studies.lab.train import parameters, warmed
from nestax_studies.language_model import ARMS, CAP, CLAIMS, FAMILIES, corpora, find, training
from nestax_studies.language_model.corpora import Corpus, streams, windows
from nestax_studies.language_model.training import Size

LETTERS, LN = "abcdefgh", math.log(2)
SIZE = Size(length=8, batch_size=2, windows=5, pieces=3, sample=6)
TEXT = np.tile(np.arange(8, dtype=np.uint8), 60)
ALPHABET = Corpus(
    TEXT[:300], TEXT[300:380], TEXT[380:], 8, lambda n: "".join(LETTERS[i] for i in n)
)
"""The letters over and over."""


class Counting(eqx.Module):
    """A stand-in: scores from the present token, from how many tokens there were before it, and in
    training noise. A ninth letter never occurs."""

    table: jax.Array
    late: jax.Array

    def init_state(self):
        return jnp.zeros((), jnp.int32)

    def __call__(self, tokens, state=None, *, key=None):
        state = self.init_state() if state is None else state
        at = state + jnp.arange(len(tokens), dtype=jnp.int32)
        late = jnp.where(at >= 8, self.late, 0.0)
        scores = self.table[tokens] + late[:, None] * jnp.eye(8)[(tokens + 1) % 8]
        noise = 0.0 if key is None else jax.random.normal(key, scores.shape)
        return scores + noise, state + len(tokens)


def stand_in(late=0.0, table=0.0):
    return Counting(jnp.full((9, 8), table).at[8].set(1.0), jnp.asarray(late))


# Texts


def test_texts_are_cut_into_parts_that_do_not_overlap(monkeypatch):
    class Text:
        characters, train, test = "aé", np.arange(1000) % 2, np.ones(3, int)

        def decode(self, numbers):
            return "".join("aé"[i] for i in numbers)

    for name in ("tiny_shakespeare", "wikitext2"):
        monkeypatch.setattr(corpora.data, name, Text)
    letters, octets = map(corpora.load, ("tinyshakespeare", "wikitext2"))
    assert (letters.vocabulary, octets.vocabulary) == (2, 256)
    np.testing.assert_array_equal(np.concatenate([letters.train, letters.tune]), Text.train)
    assert (len(letters.tune), letters.decode(letters.test)) == (50, "ééé")
    assert bytes([*octets.train, *octets.tune]).decode() == "aé" * 500
    assert octets.test.tolist() == list("ééé".encode()) and octets.decode(octets.test) == "ééé"
    assert len(octets.tune) == 75 and octets.train.dtype == np.uint8


def test_windows_and_streams_overlap_only_in_what_is_predicted():
    found = windows(np.arange(42), 3, 10)
    assert found.shape == (3, 11) and found[0, 0] == 0 and found[-1, -1] == 41
    np.testing.assert_array_equal(np.diff(found, axis=1), 1)
    assert len(windows(np.arange(42), 100, 10)) == 4  # no more than fit
    with pytest.raises(ValueError, match="too short"):
        windows(np.arange(42), 1, 42)
    along = streams(np.arange(101), 2, 3, 10)
    assert along.shape == (3, 2, 11) and streams(np.arange(45), 2, 9, 10).shape == (2, 2, 11)
    np.testing.assert_array_equal(along[1:, :, 0], along[:-1, :, -1])
    np.testing.assert_array_equal(np.diff(along, axis=2), 1)


# Training and judging


def test_the_rate_warms_up_and_falls_and_gradients_are_clipped():
    at = warmed(jnp.float32(0.1), jnp.float32(100))
    rates = np.array([at(step) for step in range(100)])
    assert rates[0] == pytest.approx(0.1 * 0.1) and rates[-1] < 1e-4
    assert np.argmax(rates) == 5 and rates[5] == pytest.approx(0.1, rel=1e-3)
    tx, params = training.optimizer(0.1, 100.0), {"bias": jnp.ones(4)}

    def second(size):
        """Moves after a gradient of norm 1 and one of this norm."""
        one, last = ({"bias": jnp.full(4, scale / 2)} for scale in (1.0, size))
        return tx.update(last, tx.update(one, tx.init(params), params)[1], params)[0]["bias"]

    np.testing.assert_allclose(second(1e3), second(1.0), rtol=1e-5)
    assert abs(second(0.5) / second(1.0) - 1).max() > 0.05


def test_training_window_by_window_is_training_at_once_and_has_noise(x64):
    """Of a mean, its gradient, and one behind another function."""
    batch = jax.random.randint(jax.random.key(1), (3, 10), 0, 8)
    keys = jax.random.split(jax.random.key(2), 3)

    def by(loss):
        found = jax.jit(jax.value_and_grad(lambda model: jnp.exp(loss(model, batch, keys))))
        return found(stand_in(0.5, 0.1))

    one, other = by(training.training_loss), by(training.mean_loss)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14), one, other)
    assert abs(jnp.log(one[0]) - training.mean_loss(stand_in(0.5, 0.1), batch)) > 0.1
    for each in (1, 2, 6):
        loss = lambda w, part: jnp.mean(jnp.tanh(w * part) ** 2)  # noqa: E731
        rows, w = jnp.arange(6.0), jnp.asarray(0.3)
        parts = functools.partial(training.mean_by_parts, loss, batch=rows, size=each)
        plain = jax.value_and_grad(loss)(w, rows)
        np.testing.assert_allclose(jax.value_and_grad(parts)(w), plain, rtol=1e-13)


def test_a_state_that_is_carried_along_counts():
    # Knows the alphabet from the ninth token of a stream on: never within windows of eight.
    found = training.judge(stand_in(late=20.0), ALPHABET, SIZE)
    assert found["windows"] == pytest.approx(math.log(8), rel=1e-5)
    np.testing.assert_allclose(found["along"], [0, math.log(8), math.log(8)], atol=1e-4)
    assert found["gain"] == pytest.approx(math.log(8), rel=1e-3)
    assert training.judge_in_context(stand_in(), ALPHABET, SIZE) == {}
    with pytest.raises(ValueError, match="do not fit"):
        training.judge(stand_in(), ALPHABET, SIZE._replace(batch_size=20))


def test_the_temperature_is_that_of_the_kept_text():
    """Scores of a model that has the right odds, made too large: divided again, they are right."""
    text = np.random.default_rng(0).choice(4, 4000, p=(0.7, 0.1, 0.1, 0.1)).astype(np.uint8)
    odds = jnp.log(jnp.array([0.7, 0.1, 0.1, 0.1, 0, 0, 0, 0]) + 1e-9)
    model = eqx.tree_at(lambda m: m.table, stand_in(), jnp.tile(1.5 * odds, (9, 1)))
    size = SIZE._replace(length=20, batch_size=10, windows=1000)
    corpus = dataclasses.replace(ALPHABET, tune=text[:2000], test=text[2000:])
    found = training.judge(model, corpus, size)
    entropy = -(0.7 * math.log(0.7) + 0.3 * math.log(0.1))
    assert found["temperature"] == pytest.approx(1.5, abs=0.11)
    assert found["calibrated"] == pytest.approx(entropy, rel=0.03)
    assert found["windows"] > found["calibrated"] + 0.03


def test_a_transformer_learns_while_it_reads_and_writes(monkeypatch):
    """The letters over and over, but no noise."""
    model = ARMS["transformer"].make(8, 8, 1, 1, 8, jax.random.key(0))
    size = SIZE._replace(windows=100)
    monkeypatch.setattr(training, "RATES", (0.0, 3.0))
    learnt = training.judge_in_context(model, ALPHABET, size)
    assert learnt["rate_in_context"] == 3.0 and learnt["tokens_in_context"] == 96
    assert len(learnt["learned"]) == 12 and learnt["learned"][0] == 0
    assert learnt["learned"][-1] > 0.1 and learnt["in_context"] < math.log(8)
    noise = np.random.default_rng(0).integers(8, size=800).astype(np.uint8)
    of_noise = training.judge_in_context(model, dataclasses.replace(ALPHABET, test=noise), size)
    assert of_noise["in_context"] > math.log(8)
    prompt, sample = training.write(model, ALPHABET, SIZE, 0)
    assert prompt == "e" and set(sample) <= set(LETTERS) and len(sample) == SIZE.sample


# Arms and settings


def test_every_arm_is_named_apart_has_a_claim_and_as_many_parameters():
    assert {name for some in FAMILIES.values() for name in some} == set(ARMS)
    assert len({arm.label for arm in ARMS.values()}) == len(ARMS)
    assert {name for claim in CLAIMS for name in (claim.better, claim.worse)} == set(ARMS)
    assert len({(claim.text, claim.of) for claim in CLAIMS}) == len(CLAIMS)
    counts = {
        name: parameters(eqx.filter_eval_shape(arm.make, 65, 64, 2, 4, 128, jax.random.key(0)))
        for name, arm in ARMS.items()
    }
    assert max(counts.values()) < 1.15 * min(counts.values()), counts


def test_settings_name_families_and_must_fit():
    settings = language_model.Settings(arms=("blocks", "hope-gd"))
    assert settings.arms == (*FAMILIES["blocks"], "hope-gd")
    with pytest.raises(SettingsError, match="multiple of twice the heads, 8, got 12"):
        language_model.Settings(width=12)
    with pytest.raises(SettingsError, match="must be fewer than the 111540 tokens"):
        language_model.Settings(batch_size=900)
    work = language_model._Work(language_model.Settings(dropout=0.25, width=8, heads=2))
    work.text = ALPHABET
    assert work.model("transformer", 0).dropout == 0.25


# Findings


def record(nats, **more):
    found = {"rate": 0.1, "parameters": 1_200_000, "step": [5, 10]}
    if nats is None:
        return found | {"diverged": True}
    curves = {"model": [2.0, nats], "trial": [2.0, nats]}
    judged = {"windows": nats, "calibrated": nats - 0.05, "gain": 0.1, "along": [0.1] * 3}
    return found | {"curves": curves} | judged | more


def records(arms):
    return {f"{arm} seed {i}": record(n) for arm, some in arms.items() for i, n in enumerate(some)}


LESS, SOME, MORE = (0.9, 1.0, 1.1), (1.0, 1.1, 1.2), (1.3, 1.4, 1.5)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"hope": SOME, "transformer": MORE}, [True]),
        ({"hope": (1.0, 1.1, 1.5), "transformer": MORE}, [False]),  # one seed is no better
        ({"hope": (1.292, 1.392, 1.492), "transformer": MORE}, [True]),
        ({"hope": (1.295, 1.395, 1.495), "transformer": MORE}, [False]),  # less than 0.01 bits
        ({"hope": (1.0, 1.1, None), "transformer": MORE}, [False]),
        ({"hope": (), "transformer": MORE}, [None]),
        ({"hope": SOME, "hope-momentum": LESS, "hope-adaptive-q": SOME}, [True, True]),
        ({"hope": SOME, "hope-momentum": MORE, "hope-adaptive-q": LESS}, [False, False]),
        ({"hope": SOME, "hope-gd": MORE}, [True]),
    ],
)
def test_verdicts(given, expected):
    found = find(language_model.Settings(arms=tuple(given)), records(given))
    assert [v.holds for v in found.verdicts] == expected


def test_the_table_is_in_bits_the_best_first_and_a_diverged_run_has_the_most():
    settings = language_model.Settings(arms=("hope-gd", "hope"))
    some = records({"hope": (1.0, 1.2, None)}) | {
        "hope-gd seed 0": record(2.0, learned=[-1.0, 0.0]),
        "hope rates": {"rates": [0.1, 0.2], "scores": [1.0, None], "rate": 0.1, "edge": True},
    }
    found = find(settings, some)
    assert [row.labels for row in found.numbers.rows] == [("Hope",), (ARMS["hope-gd"].label,)]
    hope, other = found.numbers.rows
    facts = {"parameters": 1_200_000, "rate": "0.1 (edge)", "rates tried": 2, "diverged": 1}
    assert hope.facts == facts
    for name, expected in (
        ("bits per character", [1 / LN, 1.2 / LN, CAP]),
        ("nats per character", [1.0, 1.2, CAP * LN]),
        ("bits gained by state", [0.1 / LN, 0.1 / LN, 0]),
        ("by temperature", [0.05 / LN, 0.05 / LN, 0]),
    ):
        np.testing.assert_allclose(hope.measures[name]["values"], expected, atol=1e-9)
    assert "by learning in context" not in hope.measures
    np.testing.assert_allclose(other.measures["by learning in context"]["values"], [-0.5 / LN])
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


# A small run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One model learns and one diverges: settings, records, the first seed's model, and what is
    told and recorded of it when its run is interrupted and goes on."""
    settings = language_model.Settings(
        arms=("transformer", "hope"), seeds=2, trials=2, steps=40, length=8, batch_size=2, rate=0.3,
        decay=0.02,
    )  # fmt: skip
    found, models, told, path = {}, [], [], tmp_path_factory.mktemp("run")

    def stop(text):
        raise KeyboardInterrupt

    def train(nest, model, rate, seed, points, desk):
        seeds.append((seed, points))
        return really(nest, model, rate, seed, points, desk)

    really, seeds = training.train, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train", train)
        patch.setattr(corpora, "load", lambda name: ALPHABET)
        table = {"Transformer": 0.0, "Hope": math.nan}
        patch.setattr(sequences.Arm, "make", lambda arm, *size: stand_in(table=table[arm.label]))
        writes = lambda model, *_: models.append(model) or ("abc", "def\nghi")  # noqa: E731
        patch.setattr(training, "write", writes)
        stages = language_model.stages(settings)
        for name, stage in stages.items():
            found[name] = stage(Desk(lambda text: None, path / name, dict(found)))
        for say in (stop, told.append):
            with contextlib.suppress(KeyboardInterrupt):
                again = stages["transformer seed 0"](Desk(say, path / "again", dict(found)))
    # Half of the steps of a whole run for those to tune by.
    assert set(seeds[:-2]) == {(10_000, 20), (0, 40), (1, 40)}
    return settings, found, models[0], told, again


def test_a_text_is_learned_at_the_rate_chosen_and_only_read_where_it_is_kept(run):
    settings, found, model, *_ = run
    what = ("rates", "seed 0", "seed 1")
    assert list(found) == [f"{arm} {one}" for arm in settings.arms for one in what]
    rates, first, second, no_rates, *nothing = found.values()
    best = rates["rates"][int(np.argmin(rates["scores"]))]
    assert first["rate"] == second["rate"] == rates["rate"] == best
    assert first["step"] == list(range(1, 41)) and first["windows"] < 1.0
    kept = training.mean_loss(model, jnp.asarray(windows(ALPHABET.tune, 32, 8)))
    assert first["curves"]["trial"][-1] == pytest.approx(float(kept), rel=1e-5)
    # What never occurs only decays; the mean of the schedule is a half.
    decayed = math.exp(-settings.decay * first["rate"] * settings.steps / 2)
    assert float(model.table[8, 0]) == pytest.approx(decayed, rel=0.05)
    assert no_rates["scores"] == [None] * 4 and no_rates["rate"] == min(no_rates["rates"])
    np.testing.assert_allclose(np.diff(np.log10(no_rates["rates"])), 0.4)
    assert no_rates["edge"] and all(r["diverged"] for r in nothing)
    (section,) = find(settings, found).sections
    assert "[abc] def / ghi" in section.body[0].text and "sample" not in second


def test_an_interrupted_run_ends_where_a_whole_one_does(run):
    _, found, _, told, again = run
    assert again == found["transformer seed 0"]
    assert "step 40/40" in told[-2] and not any(" step 1/" in text for text in told)


def test_figures_show_what_was_recorded(run):
    settings, found, *_ = run
    more = {"learned": [0.1, 0.3], "tokens_in_context": 4000}
    some = [found[f"transformer seed {seed}"] | more for seed in (0, 1)]
    found = {f"transformer seed {seed}": record for seed, record in enumerate(some)}
    found |= {"hope seed 0": some[0], "hope seed 1": record(None), "hope-gd seed 0": some[0]}
    results, blocks = language_model.draw(settings, found)
    assert (results.name, blocks.name) == ("results", "blocks")  # no ablation was asked for
    (dot,) = results.drawn["From an empty state"]["Transformer"]
    np.testing.assert_allclose(dot, np.quantile([r["windows"] / LN for r in some], (0, 0.5, 1)))
    (dot,) = results.drawn["From an empty state"]["Hope"]
    assert dot[2] == CAP
    for panel, rows in (
        ("While learning", [r["curves"]["trial"] for r in some]),
        ("What a state is worth", [r["along"] for r in some]),
        ("What learning in context is worth", [r["learned"] for r in some]),
    ):
        assert_range(blocks.drawn[panel]["Transformer"], np.transpose(rows) / LN)
        # Of Hope the run that diverged is left out.
        np.testing.assert_allclose(blocks.drawn[panel]["Hope"][1], np.array(rows[0]) / LN)
    assert blocks.drawn[panel]["Hope"][0].tolist() == [1, 3]  # thousands of tokens
    both = dataclasses.replace(settings, arms=("hope", "hope-gd"))
    *_, ablations = language_model.draw(both, found)
    assert set(ablations.drawn["While learning"]) == {"Hope", ARMS["hope-gd"].label}
