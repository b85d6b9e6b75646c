"""Tasks of recall: answers against plain reading, a whole small run and its figures."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from references.sequence_models import Bag
from studies.drawn import assert_range

from nestax_studies import recall
from nestax_studies.recall import tasks


def draw(task, count=20, world=None):
    """Examples at evenly spread places, as numpy arrays (count, time)."""
    keys = jax.random.split(jax.random.key(1), count)
    drawn = jax.jit(jax.vmap(task.train, (None, 0, 0)))
    found = drawn(world, keys, jnp.arange(count) / count)
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


def test_keys_that_have_occurred_are_answered_by_their_values():
    task, noisy = tasks.in_context(length=40, keys=4, values=5, noise=0.3, kinds=3), 0
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
    assert 60 < noisy < 180  # of 400


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
    # The mean of what came before is all that this model tells.
    swapped = jnp.array([[0, 1, 2, 3, 4, 4, 5], [1, 0, 2, 3, 4, 4, 5]])
    one, other = (task.answer(trained, tokens, None) for tokens in swapped)
    assert one.shape == (7, 5)
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_numbers_are_those_of_before_the_move_and_figures_show_them(desk, before):
    """Of the same seeds, when runs were scans written by hand."""
    settings = recall.Settings(
        tasks=("mqar",), arms=("linear_attention",), steps=20, batch_size=4, seeds=2, trials=1
    )
    records = {name: stage(desk) for name, stage in recall.STUDY.stages(settings).items()}
    record = records["mqar linear_attention"]
    before("recall", record)
    results, pairs, training = recall.STUDY.draw(settings, records)
    test, (task, arm) = record["tests"]["test"], ("multi-query recall", "linear attention")
    right = 100 * np.asarray(test["accuracy"])
    np.testing.assert_allclose(results.drawn[task][arm][0], np.quantile(right, (0, 0.5, 1)))
    assert pairs.drawn[task][arm][0].tolist() == list(range(1, 9))
    assert_range(pairs.drawn[task][arm], 100 * np.asarray(test["by_place"]))
    assert_range(training.drawn[task][arm], 100 * np.asarray(record["accuracy"]))
    (row,) = recall.STUDY.find(settings, records).numbers.rows
    np.testing.assert_allclose(row.measures["answers right"]["values"], right)
