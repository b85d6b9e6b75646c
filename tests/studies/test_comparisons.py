"""Recall, needles and formal languages: tasks that can be learned, verdicts, tables, figures."""

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from references.sequence_models import Bag
from studies.drawn import assert_range

from nestax.runs import SettingsError
from nestax_studies import formal_languages, needle, recall
from nestax_studies.sequences import ARMS, tasks, training

SUBJECTS = {recall: "tasks", needle: "kinds", formal_languages: "languages"}


@pytest.mark.parametrize("study", SUBJECTS)
def test_every_task_can_be_learned_and_judged(study):
    """Traced only."""
    for preset in ("small", "full"):
        settings = study.Settings(preset=preset)
        for subject in getattr(settings, SUBJECTS[study]):
            task, recipe = study.task_of(settings, subject), study.RECIPE(settings)

            def once(key, task=task, recipe=recipe):
                world = task.world(key)
                model = task.wrap(Bag(task.vocabulary, 0, 0, 0, 0, key), key)
                batch = training.batch(task, recipe, key, jnp.zeros((), int))
                loss, _ = training.objective(task, recipe, model, batch)
                exams = task.tests.items()
                return loss, {n: tasks.judge(task, e, model, world, key) for n, e in exams}

            loss, found = eqx.filter_eval_shape(once, jax.random.key(0))
            assert loss.shape == found[task.tune][task.measure].shape == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"times": (2, 4)}, "begin with 1 and rise, got 2,4"),
        ({"times": (1, 4, 2)}, "got 1,4,2"),
        ({"times": ()}, "got none"),
        ({"length": 35}, "at least 36, got 35"),
    ],
)
def test_haystacks_must_rise_and_hold_their_passkeys(options, message):
    assert needle.Settings(kinds=("passkey",), length=18)
    with pytest.raises(SettingsError, match=message):
        needle.Settings(**options)


# Verdicts

# A share -> what three seeds make of every test; where no claim may look, they make 0.7 of it.
TESTS = {
    recall: lambda right: {"test": {"accuracy": right, "whole": 0.7}},
    needle: lambda whole: {"1": {"whole": 0.7}, "8": {"whole": whole, "accuracy": 0.7}},
    formal_languages: lambda shares: {
        "short": {"whole": 0.7, "accuracy": 0.7, "last": 0.7},
        "longer": {"whole": shares[0], "accuracy": 0.7, "last": 0.7},
        "long": {"whole": 0.7, "accuracy": shares[1], "last": shares[2]},
    },
}
ALL, NAN, NONE = (1.0, 1.0, 1.0), (None, None, None), (0.0, 0.5, 0.5)
ABSENT = "absent"


@pytest.mark.parametrize(
    ("study", "subject", "others", "shares", "expected"),
    [
        (recall, "mqar", 0.99, {"hope": 1.0, "linear_attention": 0.8, "delta": 0.95}, [1, 1, 1]),
        (recall, "mqar", 0.9, {"hope": 0.96, "delta": 0.95, "transformer": 0.98}, [0, 0, 0]),
        (recall, "mqar", 0.99, {"titans": ABSENT}, [None, 0, 1]),
        (recall, "recall", 0.9, {"hope": 0.99}, [1, 1]),
        (recall, "recall", 0.9, {"hope": 0.985, "titans": 1.0}, [0, 0]),
        (recall, "fuzzy", 0.5, {"hope": 0.495}, [1]),
        (recall, "fuzzy", 0.5, {"hope": None}, [0]),
        (needle, "passkey", 0.0, {"hope": 1.0, "hope_attention": 0.99, "transformer": 0.8},
         [1, 1, 1]),
        (needle, "passkey", 0.9, {"hope": 0.98, "transformer": 0.95}, [0, 0, 0]),
        (needle, "passkey", 1.0, {"hope": ABSENT}, [None, 1, None]),
        (needle, "names", 0.1, {"hope": 0.2, "transformer": 0.6, "hope_attention": 0.58},
         [1, 1, 1]),
        (needle, "names", 0.58, {"hope": 0.6, "transformer": 0.6, "hope_attention": None},
         [0, 0, 0]),
        (formal_languages, "parity", NONE, {"hope": (1.0, 0.99, 0.99), "delta": ALL},
         [1, 1, 1, 1, 1]),
        (formal_languages, "parity", (0.6, 0.8, 0.8), {"hope": (0.98,) * 3, "delta": (0.98,) * 3},
         [0, 0, 0, 0, 0]),
        (formal_languages, "parity", NONE, {"hope": NAN, "delta": NAN}, [0, 0, 1, 0, 1]),
        (formal_languages, "aa", NONE, {"hope": (1.0, 0.98, 1.0), "transformer": ABSENT},
         [1, 0, None]),  # half of all last symbols are guessed
        (formal_languages, "aa", (0.5, 1.0, 1.0), {}, [0, 1, 1]),
        (formal_languages, "aa", NONE, {"linear_attention": ALL}, [0, 0, 0]),
        (formal_languages, "anbn", ALL, {}, [1, 1, 1]),
        (formal_languages, "anbn", (0.9, 1.0, 1.0), {"hope": ALL, "delta": ALL}, [1, 1, 0]),
    ],
)  # fmt: skip
def test_verdicts(study, subject, others, shares, expected):
    more = {"times": (1, 8)} if study is needle else {}
    settings, records = study.Settings(**{SUBJECTS[study]: (subject,)}, **more), {}
    for arm in ARMS:
        if shares.get(arm) != ABSENT:
            tests = TESTS[study](shares.get(arm, others))
            same = {t: {n: [share] * 3 for n, share in some.items()} for t, some in tests.items()}
            facts = {"rate": 0.1, "edge": False, "parameters": 7}
            records[f"{subject} {arm}"] = facts | {"tests": same}
    found = study.STUDY.find(settings, records)
    assert [v.holds for v in found.verdicts] == expected
    assert len(found.numbers.rows) == len(records) and json.dumps(found.numbers.summary())


def test_counters_choose_rates_by_whole_strings():
    settings = formal_languages.Settings()
    tasks = {name: formal_languages.task_of(settings, name) for name in settings.languages}
    whole = [name for name, t in tasks.items() if (t.tune, t.measure) == ("longer", "whole")]
    assert whole == ["anbn", "anbncn", "shuffle2"]
    others = {(t.tune, t.measure) for name, t in tasks.items() if name not in whole}
    assert others == {("long", "accuracy")}


# Figures


def shares(*shape):
    return np.random.default_rng(0).random(shape)


def test_figures_of_needles_show_what_was_recorded():
    whole, by_place, label = shares(2, 3), shares(2, 8, 3), "one of 4 passkeys"
    tests = {str(1 + i): {"whole": whole[i], "whole_by_place": by_place[i]} for i in range(2)}
    settings = needle.Settings(kinds=("names",), length=40, times=(1, 2))
    length, depths = needle.STUDY.draw(settings, {"names hope": {"tests": tests}})
    assert length.drawn[label]["Hope"][0].tolist() == [40, 80]
    assert_range(length.drawn[label]["Hope"], 100 * whole)
    np.testing.assert_allclose(depths.drawn["Hope"], 100 * np.median(by_place, axis=2).T)


def test_figures_of_languages_show_what_was_recorded():
    along, learned = shares(25, 3), shares(20, 3)
    record = {"tests": {"long": {"by_position": along}}, "step": range(20), "accuracy": learned}
    settings = formal_languages.Settings(languages=("parity",), longest=150)
    long, short = formal_languages.STUDY.draw(settings, {"parity hope": record})
    np.testing.assert_allclose(long.drawn["parity"]["Hope"][0], 6 * (1 + np.arange(25)))
    assert_range(long.drawn["parity"]["Hope"], 100 * along)
    assert_range(short.drawn["parity"]["Hope"], 100 * learned)
