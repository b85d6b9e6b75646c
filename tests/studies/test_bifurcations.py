"""Branching of games: ascent, modes, what random starts find, verdicts, figures."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nestax as nx
from nestax_studies import bifurcations as study
from nestax_studies import lab

TINY = study.Settings(starts=3, subspaces=2, iterations=2, run=20)


def test_the_ascent_is_that_of_the_library(x64):
    """On a map with cheap derivatives; the library's derivatives are in reverse mode."""
    f = nx.games.descent(lambda v: {"x": v["x"] ** 3 - v["x"] * v["y"], "y": v["y"]}, 0.1)
    x, steps = {"x": jnp.array(0.5), "y": jnp.array(0.7)}, 4
    value = lambda x: nx.games.lyapunov_exponents(f, x, steps, 1)[0]  # noqa: E731
    points, values = jax.jit(lambda x: study.ascent(value, x, 3))(x)
    known = nx.games.branch_point(f, x, steps, iterations=3)
    np.testing.assert_allclose(values, known.history, rtol=1e-9)
    best = int(np.argmax(values))
    np.testing.assert_allclose(points["x"][best], known.point["x"], rtol=1e-9)


def test_the_probability_of_two_modes_is_that_of_counting():
    shares = [0.1, 0.5, 0.25, 0.15]
    draws = np.stack(np.meshgrid(*[np.arange(4)] * 3, indexing="ij"), -1).reshape(-1, 3)
    chance = np.prod(np.asarray(shares)[draws], axis=1)
    several = [len({*row} - {0}) > 1 for row in draws.tolist()]
    np.testing.assert_allclose(study.both(shares, 3), chance[several].sum(), rtol=1e-12)
    assert study.both([0.0, 0.5, 0.5], 2) == 0.5 and study.both([0.0, 1.0, 0.0], 9) == 0
    np.testing.assert_allclose(study.both([0.0, 0.5, 0.5], 2.5), (0.5 + 0.75) / 2)


def test_modes_are_those_of_the_losses():
    ends = [[1.0, 1.1], [2.0, 1.9], [1.0, 2.0], [np.nan, np.nan]]
    assert study.modes(ends).tolist() == [1, 2, 0, 0]
    known = [[2.0, 1.95], [0.95, 1.1]]
    assert study.modes(ends, known).tolist() == [2, 1, 0, 0]
    many = [[1.0, 1.0]] * 10 + [[2.0, 2.0]] * 10 + [[0.0, 3.0]] + [[np.nan, 1.0]]
    assert study.centres(many) == [[1.0, 1.0], [2.0, 2.0]]  # one of 22 is too rare
    basins = np.array([[1, 1, 1, 1], [1, 1, 1, 2]])
    assert study.at_edge(basins).tolist() == [[False, False, True, True]] * 2


def test_runs_of_the_small_game_end_in_two_places():
    case, settings = study.CASES["small"], study.Settings(run=100)
    starts = {"x": jnp.array([3.0, -3.0]), "y": jnp.array([3.0, -3.0])}
    run = jax.vmap(lambda x: study.fate(settings, case, "descent", jax.random.key(0), x))
    assert study.modes(jax.jit(run)(starts)).tolist() == [1, 2]


@pytest.mark.parametrize(("game", "seeds"), [("small", 3), ("subspaces", 2)])
def test_a_stage_branches_from_the_best_point_so_far(game, seeds, monkeypatch, tmp_path):
    """With an ascent that goes to the separatrix in its second step, and back."""

    def to_the_separatrix(settings, case, optimizer, objective, key, x):
        path = jnp.array([0.0, 0.63, 0.0])  # logits of both players, next to the separatrix
        return {"x": path, "y": path}, jnp.array([0.1, 0.2, jnp.nan])

    def both_sides(f, x, steps):  # compiles in no time
        return jax.tree.map(lambda a: a + jnp.array([1.0, -1.0]) / 2**0.5, x)

    monkeypatch.setattr(study, "climb", to_the_separatrix)
    monkeypatch.setattr(nx.games, "branches", both_sides)
    random = {"centres": [[[1.0, 1.0]]] * 2 if game == "subspaces" else None}
    desk = lab.Desk(print, tmp_path, {f"{game} descent random": random})
    record = study.branched(TINY, game, "descent", "max", desk)
    assert record["kept"] == [0, 1, 2] and np.shape(record["mode"]) == (seeds, 3, 2)
    assert record["exponent"] == pytest.approx([0.2] * seeds)
    if game == "small":
        assert [sorted(m) for m in record["mode"][0][1:]] == [[1, 2]] * 2
        np.testing.assert_allclose(record["best"], 0.63, rtol=1e-5)


RANDOM = {"shares": [[0.0, 0.4, 0.6]], "centres": None, "seconds": 1e-5}


def record(*modes, seconds=1e-6):
    made = {"kept": [0, 2], "mode": [[[2, 2], m] for m in modes], "seconds": seconds}
    made["far"] = made["mode"]
    return made | {"before": [0.1] * len(modes), "exponent": [0.2] * len(modes)}


def verdicts(records, words):
    found = study.find(TINY, records).verdicts
    return [v.holds for v in found if words in v.claim and v.holds is not None]


def test_branching_is_judged_at_equal_runs_gradients_and_time():
    """Of 100 seeds; two standard errors are 10 points. Two random starts find both in 48 %."""
    for share, holds in ((59, True), (57, False)):
        branching = record(*[[1, 2]] * share, *[[2, 2]] * (100 - share))
        records = {"small descent random": RANDOM, "small descent max": branching}
        assert verdicts(records, "equal runs") == [holds]
        # An iteration of 90 evaluations, three times, is 13.5 runs of 20 steps more.
        assert verdicts(records, "equal gradients") == [False]
        (row,) = study.find(TINY, records).numbers.summary().values()
        found = {name: m["values"][0] for name, m in row["measures"].items()}
        assert found["random: equal runs"] == pytest.approx(48)
        assert found["equal gradients"] == pytest.approx(
            100 * (1 - np.mean([0.4**n + 0.6**n for n in (15, 16)])), rel=1e-6
        )
        assert found["in time"] == pytest.approx(2.0)
    always = record(*[[1, 2]] * 100)
    assert verdicts({"small descent random": RANDOM, "small descent max": always}, "time") == [True]


def test_subspaces_with_one_mode_are_left_out():
    random: Any = {"shares": [[0.0, 1.0], [0.0, 0.5, 0.5]]}
    random["centres"] = [[[1, 1]], [[1, 1], [2, 2]]]
    branching = record([1, 1], [2, 1])
    assert study.found(branching, random).tolist() == [[False, True]]
    assert study.by_chance(random, 2) == 0.5


def test_the_full_game_and_the_separatrix_are_judged():
    for share, holds in ((0.0, True), (0.02, False)):
        random = RANDOM | {"shares": [[0.0, share, 1 - share]]}
        assert verdicts({"full descent random": random}, "finds only defection") == [holds]
    for modes, holds in (([[1, 2], [2, 2]], True), ([[2, 2], [2, 2], [1, 0]], False)):
        assert verdicts({"full descent max": record(*modes)}, "also finds mutual") == [holds]
    basins = np.where(np.add.outer(np.arange(11), np.arange(11)) > 10, 1, 2)
    near = -np.abs(np.add.outer(np.arange(11), np.arange(11)) - 10.5)
    for exponents, holds in ((near, True), (-near, False)):
        look = {"coarse modes": basins, "true": exponents}
        assert verdicts({"landscape": look}, "next to the separatrix") == [holds]


def test_figures_show_what_was_paid():
    settings = study.Settings(games=("small",), optimizers=("descent",), run=20)
    grid = {"fine modes": np.ones((3, 3)), "true": np.eye(2), "published": 2 * np.eye(2)}
    grid["fine modes"][0] = 2
    branching = record([1, 2], [1, 1]) | {"best": [[0.0, 1.0], [0.0, -1.0]]}
    records = {"landscape": grid, "small descent random": RANDOM, "small descent max": branching}
    heat, paid, time = study.draw(settings, records)
    np.testing.assert_array_equal(heat.drawn["true"], np.eye(2))
    np.testing.assert_allclose(heat.drawn["best"][:, 0], 0.5)
    lines = paid.drawn["small IPD, descent"]
    np.testing.assert_allclose(lines["random starts"][0][1], 0.04)
    np.testing.assert_allclose(lines["random starts"][1][1], 0.48)
    np.testing.assert_allclose(lines["largest exponent"][1], [0, 0.5])
    np.testing.assert_allclose(lines["largest exponent"][0], [0.13, 0.31])
    np.testing.assert_allclose(time.drawn["small IPD, descent"]["random starts"][0][1], 0.02)
