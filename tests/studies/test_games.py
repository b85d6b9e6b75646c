"""The study of optimizers in games: runs against closed forms, what is reached, verdicts."""

import jax
import numpy as np
import pytest

from nestax_studies import games as study
from nestax_studies import lab

TINY = study.Settings(steps=40, trials=2, seeds=2, grid=3)
LONG = study.Settings(trials=2, seeds=2, grid=3)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Of a run of some stages."""
    desk = lab.Desk(lambda text: None, tmp_path_factory.mktemp("desk"))
    stages = study.stages(TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "MIXTURES", {"mixed": study.MIXTURES["mixed"]})
        return {name: stages[name](desk) for name in ("map", "bilinear consensus")}


def test_paths_are_those_of_the_bilinear_game(x64):
    """Descent on x'Ay multiplies the distance along a singular value s by sqrt(1 + (rate s)²)."""
    game = study.GAMES["bilinear"][1]()
    begin = study.starts(game, [0, 1])
    paths = study.play(game, study.ARMS["descent"], np.array([0.1, 0.3]), begin, 5)
    for run, rate in enumerate((0.1, 0.3)):
        z = np.stack([begin["x"][run], begin["y"][run]])
        size = np.sum(z**2, axis=0)  # along each singular value
        grown = [np.sum(size * (1 + (rate * np.array([1.0, 0.7])) ** 2) ** n) for n in range(6)]
        np.testing.assert_allclose(paths[:, run], np.sqrt(np.array(grown) / grown[0]), rtol=1e-12)


@pytest.mark.parametrize("arm", ["extragradient", "lola"])
def test_adjusted_arms_have_the_rate_where_it_belongs(x64, arm):
    """The nest's gradient is the adjusted field of the game."""
    game, chosen = study.GAMES["bilinear"][1](), study.ARMS[arm]
    assert chosen.adjustment is not None
    state = study.system(game, chosen, 0.3).init(game.start, jax.random.key(0))
    found = study.system(game, chosen, 0.3).gradient(state, ["x", "y"])
    expected = chosen.adjustment(0.3)(game.losses)(game.start)
    for name in ("x", "y"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-9)


def test_a_distance_is_reached_where_it_stays():
    path = np.array([[1, 1, 1], [1e-6, 1, 1], [1, 1e-6, np.nan], [1e-6, 1e-7, 1e-6]])
    np.testing.assert_array_equal(study.reached(path), [3, 2, 3])
    np.testing.assert_array_equal(study.reached(path[:3]), [np.inf, 2, np.inf])
    halved = 0.5 ** np.arange(60.0)[:, None]
    np.testing.assert_allclose(study.factor(np.hstack([halved, halved * 0])), [0.5, np.nan])


def test_a_run_has_rates_factors_and_radii(records):
    consensus = records["bilinear consensus"]
    assert consensus["rate"] == 0.01 and consensus["edge"] and consensus["steps"] == [None, None]
    # I - rate (J + J'J) has the eigenvalues 1 - rate (s² ± i s).
    s = np.array([1.0, 0.7])
    expected = np.abs(1 - consensus["rate"] * (s**2 + 1j * s)).max()
    np.testing.assert_allclose(consensus["radius"], expected, rtol=1e-5)
    assert np.shape(consensus["distance"]) == (41, 2)
    found = study.find(TINY, records)
    arms = found.numbers.summary()
    assert arms["bilinear / consensus 1"]["measures"]["steps"]["values"] == [None, None]
    drawn = study.draw(TINY, records)
    assert [sheet.name for sheet in drawn] == ["steps", "radius"]
    assert len(drawn[1].drawn) == 4


def record(*steps, **more):
    made = {"rate": 0.1, "edge": False, "steps": list(steps), "last": [0.0] * len(steps)}
    return made | {"evaluations": list(steps), "factor": [0.9] * len(steps)} | more


def test_real_and_complex_momentum_are_judged():
    never, done = record(None, None), record(10.0, 20.0)
    cases = [(done, never, True), (record(10.0, None), never, False), (done, done, False)]
    for turned, real, holds in cases:
        arms = {"complex": turned, "descent": never, "positive": real, "negative": never}
        named = {f"bilinear {arm}": r for arm, r in arms.items()}
        assert study.find(LONG, named).verdicts[0].holds is holds
    short = study.find(TINY, {f"bilinear {arm}": never for arm in arms})
    assert short.verdicts[0].holds is None  # too short to tell
    assert (
        "2 of 2 starts; descent: 0 of 2"
        in study.find(TINY, {f"bilinear {a}": done if a == "complex" else never for a in arms})
        .verdicts[0]
        .measured
    )


def test_mixtures_the_spectrum_and_phases_are_judged():
    def verdict(records, words):
        (found,) = [v for v in study.find(LONG, records).verdicts if v.claim.startswith(words)]
        return found.holds

    for last, holds in ((30.0, True), (None, False)):
        games = {f"{game} almost-positive": record(10.0, 20.0) for game in study.MIXTURES}
        games["adversarial almost-positive"] = record(20.0, last)
        assert verdict(games, "Almost-positive momentum converges") is holds
    for steps, holds in ((40.0, True), (41.0, False)):
        pair = {"cooperative positive": record(20.0), "cooperative almost-positive": record(steps)}
        assert verdict(pair, "On a cooperative game") is holds
    for radius, holds in ((0.9, True), (0.9**0.92, True), (0.9**0.9, False)):
        done = {"bilinear consensus": record(10.0, radius=radius)}
        done["bilinear descent"] = record(None, radius=0.5)  # does not converge: does not count
        assert verdict(done, "The spectrum at the equilibrium") is holds
    flat = np.full((4, 2, 2), 0.9)
    for best, game, holds in ((0, "mixed", False), (1, "mixed", True), (3, "mixed", False),
                              (0, "cooperative", True), (2, "cooperative", False)):  # fmt: skip
        radius = flat.copy()
        radius[best, 1, 0] = 0.5
        (found,) = [
            v for v in study.find(TINY, {"map": {game: radius}}).verdicts
            if v.claim.startswith("The best momentum is real") and v.holds is not None
        ]  # fmt: skip
        assert found.holds is holds and found.of == study.MIXTURES[game]


def test_the_example_is_a_nest_of_two_players():
    example = study.example(TINY)
    assert set(example.state.values) == {"x", "y"}
