"""The study of estimators: closed forms, samples of estimates, verdicts, figures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from studies.drawn import assert_range

import nestax as nx
from nestax_studies import estimators as study

TINY = study.Settings(estimates=64, chaotic=32, steps=60, seeds=2)
H, START = np.asarray(study.CURVATURE), np.asarray(study.START)


def moments(logs):
    """The expected loss of the quadratic at each tick, with a rate for each; (..., ticks)."""
    square, losses = START**2, []
    for rate in np.moveaxis(np.exp(logs), -1, 0):
        step = rate[..., None] * H
        square = (1 - step) ** 2 * square + (step * study.NOISE) ** 2
        losses.append(np.sum(H * square, axis=-1) / 2)
    return np.stack(losses, axis=-1)


def central(loss, size=1e-5):
    return (loss(size) - loss(-size)) / (2 * size)


THETA = float(np.log(study.RATE))


@pytest.mark.parametrize("every", [4, 64])
def test_exact_gradients_are_differences_of_expected_losses(x64, every):
    """All rates are moved; or those of a truncation, and only its own losses are looked at."""
    whole = central(lambda d: moments(np.full(64, THETA + d)).sum())
    own = 0.0
    for begin in range(0, 64, every):
        part = slice(begin, begin + every)
        moved = (np.arange(64) >= begin) & (np.arange(64) < begin + every)
        own += central(lambda d, m=moved, p=part: moments(THETA + d * m)[p].sum())
    np.testing.assert_allclose(study.exact(THETA, 0.0, every), (whole, own), rtol=1e-6)
    np.testing.assert_allclose(study.differentiated(THETA), whole, rtol=1e-6)


def test_smoothed_gradients_are_integrals_of_expected_losses(x64):
    """Over a grid of the perturbations of both truncations, or of the only one."""
    grid = np.linspace(-0.6, 0.6, 121)
    weight = np.exp(-((grid / 0.1) ** 2) / 2)
    weight = weight / weight.sum()
    losses = moments(np.repeat(THETA + grid[:, None], 64, axis=1)).sum(-1)
    found, _ = study.exact(THETA, 0.1, 64)
    np.testing.assert_allclose(found, np.sum(weight * grid * losses) / 0.01, rtol=1e-6)

    both = np.stack(np.meshgrid(grid, grid, indexing="ij"), -1)
    losses = moments(THETA + np.repeat(both, 32, axis=-1))
    chance = weight[:, None] * weight[None]
    whole = np.sum(chance * both.sum(-1) * losses.sum(-1)) / 0.01
    own = sum(
        np.sum(chance * both[..., i] * losses[..., 32 * i : 32 * i + 32].sum(-1)) / 0.01
        for i in range(2)
    )
    np.testing.assert_allclose(study.exact(THETA, 0.1, 32), (whole, own), rtol=1e-6)


def test_gradients_of_cut_unrolls_are_means_over_the_noise(x64):
    """They are quadratic in the noise, whose mean is therefore a sum of second differences."""

    def descended(theta, noise, last, first_order):
        w, total = jnp.asarray(START), 0.0
        for tick in range(64):
            w = jax.lax.stop_gradient(w) if tick == 64 - last else w
            slope = H * (w - noise[tick])
            slope = jax.lax.stop_gradient(slope) if first_order else slope
            # Losses before the derivatives begin have none: theta is a constant there.
            rate = jnp.exp(theta if tick >= 64 - last else jax.lax.stop_gradient(theta))
            w = w - rate * slope
            total = total + jnp.sum(H * w**2) / 2
        return total

    def expected(last, first_order):
        of = jax.jit(
            jax.vmap(lambda n: jax.grad(descended)(jnp.asarray(THETA), n, last, first_order))
        )
        size = np.sqrt(64 * 2) * study.NOISE
        ends = size * np.eye(128).reshape(128, 64, 2)
        return np.mean((of(ends) + of(-ends)) / 2)

    for last, first_order in ((64, True), (5, False)):
        found = study.differentiated(THETA, last, first_order)
        np.testing.assert_allclose(found, expected(last, first_order), rtol=1e-8)


def test_estimates_have_their_expected_mean(x64):
    (samples,) = study.episodes(study.quadratic(nx.Unroll(), 16), [study.RATE], 256, study.TICKS)
    record = study.sampled(samples)
    np.testing.assert_allclose(record["mean"], samples.mean())
    np.testing.assert_allclose(record["error"], samples.std(ddof=1) / 16)
    np.testing.assert_allclose(record["few"], samples[:16].mean())
    _, own = study.exact(THETA, 0.0, 16)
    # The second bound keeps the test from passing by noise; an error of 256 draws varies by 4 %.
    assert abs(record["mean"] - own) < 4 * record["error"] < 0.5


def test_descent_on_the_well_is_stable_or_chaotic(x64):
    nest = study.well(nx.Unroll(), 16, 16)
    stable, chaotic = study.episodes(nest, list(study.RATES.values()), 64, 16)
    assert stable.shape == chaotic.shape == (64,)
    assert chaotic.var() > 1e6 * stable.var() > 0
    # Near the minimum a step multiplies distances by 1 - 2 rate.
    assert study.exponent(0.3, ticks=200) == pytest.approx(np.log(0.4), abs=1e-6)
    assert 0.6 < study.exponent(1.6, ticks=400) < 0.75


def test_the_toy_is_that_of_the_paper(desk):
    def summed(first, last):
        x, total = np.ones(2), 0.0
        for t in range(100):
            rate = np.exp(first) * (1 - t / 100) + np.exp(last) * t / 100
            bell = np.exp(-5 * x[0] ** 2)
            slope = np.array([
                x[0] / np.sqrt(x[0] ** 2 + 5) - 10 * x[0] * np.sin(x[1]) ** 2 * bell,
                np.sin(2 * x[1]) * bell + np.sign(x[1] - 100) / 4,
            ])  # fmt: skip
            x = x - rate * slope
            bell = np.exp(-5 * x[0] ** 2)
            total += np.sqrt(x[0] ** 2 + 5) - np.sqrt(5) + np.sin(x[1]) ** 2 * bell
            total += abs(x[1] - 100) / 4
        return total

    record = study.on_toy(TINY, "NRES", desk)
    path, sums = np.asarray(record["path"]), np.asarray(record["sum"])
    assert path.shape == (61, 2, 2) and sums.shape == (61, 2)
    np.testing.assert_allclose(path[0], np.log(0.01))
    # Adam's first steps are as long as its rate.
    np.testing.assert_allclose(np.abs(path[1] - path[0]), 0.01, rtol=0.01)
    for seed in range(2):
        np.testing.assert_allclose(sums[-1, seed], summed(*path[-1, seed]), rtol=1e-3)


K = list(study.TRUNCATIONS)


def estimated(shift=(0, 0, 0, 0), few=None, error=1.0, variance=(1, 1, 1, 1)):
    """A record of estimates whose exact gradient is -100."""
    mean = np.array([-100.0] * 4) + shift
    few = mean if few is None else np.array([-100.0] * 4) + few
    return {
        "every": K, "target": [-100.0] * 4, "expected": mean, "mean": mean, "few": few,
        "error": [error] * 4, "variance": list(variance),
    }  # fmt: skip


BIASED = (110, 105, 50, 0)


def quadratics(**changes):
    one = {name: [values[-1]] for name, values in estimated((10,) * 4).items()}
    records = {
        "Unroll": estimated(BIASED), "ES": estimated(BIASED),
        "PES": estimated(variance=(2, 2, 2, 1)), "NRES": estimated(),
        "cut": {"last": estimated(BIASED), "first": one, "forward": one, "apart": 1e-15},
    }  # fmt: skip
    return {f"quadratic {name}": record for name, record in (records | changes).items()}


CLAIMS = ["Unroll", "ES", "sign", "PES", "NRES", "means", "first", "forward", "variance"]


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        ({}, set()),
        ({"Unroll": estimated((110, 105, 9, 0))}, {"Unroll"}),
        ({"ES": estimated(BIASED, few=(110, 105, 9, 0))}, {"ES"}),
        ({"ES": estimated(BIASED, error=11)}, {"ES", "sign"}),
        ({"Unroll": estimated((110, 99, 50, 0))}, {"sign"}),
        ({"PES": estimated((5, 0, 0, 0), variance=(2, 2, 2, 1))}, {"PES"}),
        ({"NRES": estimated(error=2)}, {"NRES"}),
        ({"PES": estimated()}, {"variance"}),
        ({"NRES": estimated(variance=(2, 1, 1, 1))}, {"variance"}),
        ({"NRES": estimated() | {"expected": [-95.0] * 4}}, {"means"}),
    ],
)
def test_estimates_on_the_quadratic_are_judged(change, failed):
    settings = study.Settings(parts=("quadratic",))
    found = study.find(settings, quadratics(**change))
    assert len(found.verdicts) == len(CLAIMS)
    assert {c for c, v in zip(CLAIMS, found.verdicts, strict=True) if not v.holds} == failed
    row = found.numbers.summary()["quadratic / ES / K = 16"]["measures"]
    moved = np.asarray(change.get("ES", estimated(BIASED))["mean"])[2] + 100
    assert row["bias"]["values"] == [pytest.approx(moved)]


def chaos(unroll=1.0, pes=2.0):
    rise = 2 * study.exponent(1.6) * unroll
    steady, lesser = [4.0, 2.0, 1.0, 0.5, 0.2], [2.0, 1.0, 0.5, 0.2, 0.1]
    cuts = {"chaotic": [1.0, 1.0, 1.0, 1.0, pes], "stable": steady, "cuts": [4, 2, 1, 1]}
    return {
        "chaos Unroll": {
            "chaotic": np.exp(rise * np.array(study.HORIZONS)).tolist(), "stable": lesser,
        },
        "chaos ES": {"chaotic": steady, "stable": steady}, "chaos PES": cuts,
        "chaos NRES": cuts | {"cuts": [1, 1, 1, 1]},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        (chaos(), [True, True, True]),
        (chaos(unroll=0.5), [True, False, True]),
        (chaos(pes=100.0), [True, False, True]),
        (chaos() | {"chaos Unroll": chaos()["chaos Unroll"] | {"stable": [5.0] * 5}}, [1, 1, 0]),
        ({}, [None] * 3),
    ],
)
def test_chaos_is_judged(records, expected):
    settings = study.Settings(parts=("chaos",))
    found = study.find(settings, records)
    assert [v.holds for v in found.verdicts] == expected
    if records:
        rows = found.numbers.summary()
        row = rows["double well, chaotic / PES / T = 128, K = 2"]
        assert row["measures"]["variance of one"]["values"] == [4]


def toy(ends):
    path = np.zeros((study.POINTS + 1, 2, 2))
    return {"path": path.tolist(), "sum": np.linspace([2500.0] * 2, ends, study.POINTS + 1)}


@pytest.mark.parametrize(
    ("ends", "expected"), [((600, 605), [0, 0, 1, 1]), ((600, 2500), [0, 0, 0, 0])]
)
def test_the_toy_is_judged(ends, expected):
    heights = np.full((len(study.SIDE),) * 2, 2500.0)
    heights[3, 4] = 560.0
    records = {"toy grid": {"sum": heights}} | {f"toy {arm}": toy(ends) for arm in study.ARMS}
    settings = study.Settings(parts=("toy",))
    found = study.find(settings, records)
    assert [v.holds for v in found.verdicts] == expected
    stuck = records | {"toy ES": toy((2400, 2500))}
    assert study.find(settings, stuck).verdicts[1].holds
    assert [v.holds for v in study.find(settings, {}).verdicts] == [None] * 4


def test_figures_show_the_records():
    heights = np.full((len(study.SIDE),) * 2, 2500.0)
    records = quadratics() | chaos() | {"toy grid": {"sum": heights}, "toy PES": toy((600, 700))}
    variance, bias, learned, schedules = study.draw(TINY, records)
    x, y, *_ = variance.drawn["Chaotic, 128 steps"]["PES"]
    assert x.tolist() == list(study.CUTS) and y.tolist() == [4, 2, 1, 1]
    np.testing.assert_array_equal(variance.drawn["Stable, rate 0.3"]["ES"][1], [4, 2, 1, 0.5, 0.2])
    np.testing.assert_allclose(bias.drawn["Bias"]["ES"][1], BIASED)
    np.testing.assert_allclose(bias.drawn["Deviation of one estimate"]["NRES"][1], [1] * 4)
    assert_range(learned.drawn["Sum of losses"]["PES"], records["toy PES"]["sum"])
    assert schedules.drawn["paths"]["PES"].shape == (study.POINTS + 1, 2)
    assert study.draw(TINY, {}) == []
