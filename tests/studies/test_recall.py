"""Tasks of recall: answers against plain reading, settings, a whole small run, verdicts."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from references.sequence_models import Bag

from nestax_studies import recall
from nestax_studies.recall import find, tasks
from nestax_studies.recall.tasks import TASKS
from nestax_studies.sequences import ARMS, Arm


def draw(task, count=20, world=None):
    """Examples at evenly spread places, as numpy arrays (count, time)."""
    keys = jax.random.split(jax.random.key(1), count)
    found = jax.vmap(task.train, (None, 0, 0))(world, keys, jnp.arange(count) / count)
    assert {a.dtype for a in found} == {np.dtype("int32"), np.dtype("bool")}
    assert (np.asarray(found.tokens) < task.vocabulary).all() and found.tokens.min() >= 0
    assert (np.asarray(found.targets) < task.vocabulary).all() and found.targets.min() >= 0
    return [tuple(map(np.asarray, one)) for one in zip(*found, strict=True)]


def test_multi_query_recall_is_answered_by_the_pairs_shown_first():
    task, counts = tasks.multi_query(length=40, pairs=6, keys=9, values=5), []
    for tokens, targets, mask in draw(task, 24):
        shown = tokens[:12][tokens[:12] < 14].reshape(-1, 2)
        known = {int(k): int(v) for k, v in shown}
        counts.append(len(known))
        assert len(known) == len(shown) and all(k < 9 <= v < 14 for k, v in shown)
        assert not mask[:12].any() and set(tokens[12:][~mask[12:]]) <= {14}
        assert sorted(tokens[mask]) == sorted(known)
        assert [known[int(k)] for k in tokens[mask]] == list(targets[mask])
    assert counts == sorted(counts) and set(counts) == set(range(1, 7))


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_keys_that_have_occurred_are_answered_by_their_values(noise):
    task = tasks.in_context(length=40, keys=4, values=5, noise=noise, kinds=3 if noise else 0)
    noisy = 0
    for tokens, targets, mask in draw(task):
        known = {}
        for place, (key, value) in enumerate(tokens.reshape(-1, 2)):
            if key >= 9:
                noisy += 1
                assert value >= 9 and not mask[2 * place : 2 * place + 2].any()
                continue
            assert key < 4 <= value < 9 and not mask[2 * place + 1]
            assert mask[2 * place] == (key in known)
            if key in known:
                assert targets[2 * place] == known[key] == value
            known[key] = value
        assert len(known) > 1
    assert (noisy > 60) == bool(noise)


def test_fuzzy_keys_and_values_are_read_by_where_kinds_of_tokens_change():
    task, seen = tasks.fuzzy(length=60, entries=4, keys=3, values=5), set()
    for tokens, targets, mask in draw(task):
        whole = [*tokens, int(targets[-1])]
        assert list(targets[:-1][mask[:-1]]) == list(tokens[1:][mask[:-1]])
        runs = [list(run) for _, run in itertools.groupby(enumerate(whole), lambda e: e[1] >= 3)]
        known = {}
        for key, value in zip(runs[::2], runs[1::2], strict=False):
            k, v = (tuple(int(token) for _, token in part) for part in (key, value))
            seen |= {len(k), len(v)}
            cut = value[-1][0] == len(whole) - 1
            for place, _ in value:
                assert mask[place - 1] == (k in known)
            if k in known:
                assert known[k][: len(v)] == v and (cut or known[k] == v)
            elif not cut:
                known[k] = v
            for place, _ in key[1:]:
                assert not mask[place - 1]
        assert 1 < len(known) <= 4
    assert seen == {1, 2, 3}


def test_what_is_copied_is_what_was_no_blank_in_its_order():
    for tokens, targets, mask in draw(tasks.copying(length=30, content=5, kinds=7)):
        assert (tokens[mask] == 8).all() and mask.sum() == 5 and mask[-5:].all()
        body = tokens[:-5]
        assert list(body[body != 7]) == list(targets[mask]) and (body[body != 7] < 7).all()


def test_what_is_memorized_is_one_dictionary_for_a_run():
    task = tasks.memorization(length=32, keys=10, values=6)
    world = np.asarray(task.world(jax.random.key(0)))
    assert (world != np.asarray(task.world(jax.random.key(1)))).any()
    assert world.min() >= 10 and world.max() < 16
    for tokens, targets, mask in draw(task, world=jnp.asarray(world)):
        assert (tokens[mask] == 16).all() and (np.flatnonzero(mask) % 2 == 1).all()
        assert list(world[tokens[~mask]]) == list(targets[mask]) and mask.sum() == 16


def test_what_is_compressed_is_told_from_one_vector_at_the_end():
    task = tasks.compression(length=6, kinds=5, size=8)
    for tokens, targets, mask in draw(task):
        assert tokens[-1] == 5 and (tokens[:-1] == targets[:-1]).all()
        assert mask.tolist() == [True] * 6 + [False]
    model = Bag(task.vocabulary, 0, 0, 0, 7, jax.random.key(0))
    trained = task.wrap(model, jax.random.key(1))
    scores = [task.answer(trained, jnp.array(t), None) for t in ([0, 1, 2, 3, 4, 4, 5],
                                                               [1, 0, 2, 3, 4, 4, 5])]  # fmt: skip
    assert scores[0].shape == (7, 5)
    # The mean of what came before is all that this model tells.
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("preset", ["small", "full"])
def test_presets_make_every_task(preset):
    settings = recall.Settings(preset=preset)
    for name in TASKS:
        task = recall.task_of(settings, name)
        world = jax.eval_shape(task.world, jax.random.key(0))
        one = jax.eval_shape(task.train, world, jax.random.key(0), jnp.zeros(()))
        assert one.tokens.shape == one.targets.shape == one.mask.shape


# Studies


def test_a_run_is_complete_and_its_figures_show_what_was_recorded(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(Arm, "make", lambda self, *sizes: Bag(*sizes))
    monkeypatch.setattr(tasks, "_COUNT", 16)
    settings = recall.Settings(
        tasks=("mqar", "compression"), arms=("hope",), steps=20, batch_size=4, seeds=2, trials=1
    )
    with folder(tmp_path / "run", settings) as opened:
        recall.STUDY.run(settings, opened)
        summary = recall.STUDY.report(settings, opened)
        records = {record["stage"]: record for record in opened.metrics()}
    assert summary["complete"] and len(summary["claims"]) == 3 + 1
    results, pairs, training = recall.STUDY.draw(settings, records)
    right = 100 * np.asarray(records["compression hope"]["tests"]["test"]["accuracy"])
    least, middle, most = results.drawn["compression"]["Hope"][0]
    np.testing.assert_allclose((least, middle, most), np.quantile(right, (0, 0.5, 1)))
    values = summary["arms"]["compression / Hope"]["measures"]["answers right"]["values"]
    np.testing.assert_allclose(values, right, rtol=1e-6)
    by_pairs = 100 * np.asarray(records["mqar hope"]["tests"]["test"]["by_place"])
    x, middle, low, high = pairs.drawn["multi-query recall"]["Hope"]
    assert x.tolist() == list(range(1, 9))
    np.testing.assert_allclose((low, high), (by_pairs.min(1), by_pairs.max(1)))
    assert set(training.drawn) == {"multi-query recall", "compression"}


def test_numbers_are_those_of_before_the_move(desk, before):
    """Of the same seeds, when runs were scans written by hand."""
    settings = recall.Settings(
        tasks=("mqar",), arms=("linear_attention",), steps=20, batch_size=4, seeds=2, trials=1
    )
    record = recall.STUDY.stages(settings)["mqar linear_attention"](desk)
    before("recall", record)


@pytest.mark.parametrize(
    ("name", "scores", "expected"),
    [
        ("mqar", {"hope": 1.0, "linear_attention": 0.8, "delta": 0.95}, [True, True, True]),
        ("mqar", {"hope": 0.96, "linear_attention": 0.9, "delta": 0.95, "transformer": 0.98},
         [False, False, False]),
        ("recall", {"hope": 0.99}, [True, True]),
        ("recall", {"hope": 0.985, "titans": 1.0}, [False, False]),
        ("fuzzy", {"hope": None}, [False]),
    ],
)  # fmt: skip
def test_verdicts(name, scores, expected):
    settings = recall.Settings(tasks=(name,))
    records = {}
    for arm in ARMS:
        default = 0.99 if name == "mqar" and arm != "titans" else 0.9
        test = {key: [scores.get(arm, default)] * 3 for key in ("accuracy", "whole")}
        records[f"{name} {arm}"] = {
            "rates": [0.1], "scores": [1.0], "rate": 0.1, "edge": False, "parameters": 7,
            "tests": {"test": test},
        }  # fmt: skip
    found = find(settings, records)
    assert [v.holds for v in found.verdicts] == expected
    assert len(found.numbers.rows) == len(ARMS) and json.dumps(found.numbers.summary())
    del records[f"{name} titans"]
    assert find(settings, records).verdicts[0].holds is None
