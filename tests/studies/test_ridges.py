"""Ridge rider against descent: counting, surfaces, verdicts, figures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from studies.drawn import assert_range

from nestax.runs import SettingsError
from nestax_studies import images
from nestax_studies import ridges as study

TINY = study.Settings(numbers=("2",), seeds=1, runs=12)


def test_evaluations_are_counted_with_their_products():
    """One evaluation for each step, its derivatives together; lanes by their number."""
    counted = study.Counted(lambda x: jnp.sum(x**4))

    def descend(x):
        down = lambda _, x: x - 0.1 * jax.grad(counted)(x)  # noqa: E731
        return jax.lax.fori_loop(0, 5, down, x)

    jax.block_until_ready(jax.jit(jax.vmap(descend))(jnp.ones((3, 2))))
    assert counted.gradients(0, lanes=3) == 15
    jax.block_until_ready(jax.jit(jax.jacfwd(jax.grad(counted)))(jnp.ones(2)))
    assert counted.gradients(2) == 6 * 3


def test_minima_are_told_by_their_signs(x64):
    loss, turn = study.surface(2, 0)
    signs = np.array([[-1, -1], [1, -1], [-1, 1], [1, 1]])
    starts = jnp.asarray(signs @ turn.T)  # y = turn.T x
    ends = study.descended(loss, starts, 0.1, 200)
    assert study.minima(loss, turn, ends).tolist() == [0, 1, 2, 3]
    assert study.minima(loss, turn, starts).tolist() == [-1] * 4
    assert study.different(np.array([-1, 2, 2, 0, -1, 1])).tolist() == [0, 1, 1, 2, 2, 3]


def test_a_surface_has_its_minima_on_the_tree(desk):
    record = study.stages(TINY)["2 numbers"](desk)
    assert record["tree"] == [4] and record["segments"] == [6] and record["most"][0] < 4
    assert 0 < record["gradients"][0] < 6000 and np.shape(record["random"]) == (1, 12)
    assert len(record["paths"]) == 6
    found = study.find(TINY, {"2 numbers": record})
    assert next(v.holds for v in found.verdicts if v.of == "2 numbers")
    minima, plan = study.draw(TINY, {"2 numbers": record})
    assert_range(minima.drawn["2 numbers"]["ridge rider"], [[4]], record["gradients"])
    assert len(plan.drawn["segments"]) == 6


def test_the_network_has_a_saddle_without_weights(x64):
    pool, _ = images.pools("digits", 40)
    batch = images.whole(pool)
    start = study.saddle(batch)
    slope = jax.grad(study.training_loss(batch))(start)
    assert max(float(jnp.max(jnp.abs(a))) for a in jax.tree.leaves(slope)) < 1e-12


def test_networks_that_answer_alike_are_one_solution():
    scores = np.eye(3)[[[0, 1, 2, 0], [0, 1, 2, 0], [0, 1, 1, 1]]]
    distances = study.apart(scores)
    assert distances.tolist() == [[0, 0, 0.5], [0, 0, 0.5], [0.5, 0.5, 0]]
    assert study.solutions(distances) == 2 and study.off_diagonal(distances).tolist() == [
        0,
        0.5,
        0.5,
    ]
    assert study.together(scores, np.array([0, 1, 2, 1])) == 0.75


def test_more_images_than_there_are_are_refused():
    with pytest.raises(SettingsError, match="images may be 1437 at most, got 1438"):
        study.Settings(images=1438)


CURVE = [1, 1, 2, 2, 3, 3, 4, 4, 4, 4]


def surface(tree, segments, most, curve=CURVE):
    made = {"tree": tree, "segments": segments, "most": most, "gradients": [500, 500]}
    return made | {"random": [curve, curve], "near": [[1] * 10] * 2}


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (surface([4, 4], [6, 6], [2, 3]), [True, False, True, True]),
        (surface([4, 3], [6, 6], [2, 4]), [False, False, True, False]),
        (surface([4, 4], [6, 19], [2, 2]), [False, False, True, True]),
        (surface([4, 4], [6, 6], [2, 2], [1] * 10), [True, True, True, True]),
        (surface([4, 4], [6, 6], [2, 2], [1, 2, 3, 4, 4, 4]), [True, False, False, True]),
        (None, [None] * 4),
    ],
)
def test_surfaces_are_judged(record, expected):
    """Equal runs are 6 of descent, equal gradients 5."""
    found = study.find(TINY, {} if record is None else {"2 numbers": record})
    assert [v.holds for v in found.verdicts if v.of == "2 numbers"] == expected
    if record is not None:
        arms = found.numbers.summary()
        row = arms["2 numbers, 4 minima / descent, random starts, equal gradients"]
        assert row["measures"]["minima"]["values"] == [record["random"][0][4]] * 2


def arm(accuracy, apart, ensemble):
    count = len(accuracy)
    distances = apart * (1 - np.eye(count))
    made = {"loss": [0.1] * count, "accuracy": accuracy, "apart": distances}
    return made | {"few": ensemble, "all": ensemble}


@pytest.mark.parametrize(
    ("ridges", "expected"),
    [
        (arm([0.9, 0.9], 0.23, 0.92), [True, True, True]),
        (arm([0.88, 0.88], 0.21, 0.905), [False, False, False]),
    ],
)
def test_networks_are_judged(ridges, expected):
    digits = {"ridges": ridges, "random": arm([0.9, 0.9, 0.9], 0.2, 0.9)}
    digits |= {"gradients": 10, "riding": 8, "afforded": 3}
    found = study.find(TINY, {"digits": digits})
    assert [v.holds for v in found.verdicts if v.of == "digits"] == expected
    assert found.more["digits"]["random"]["networks"] == 3
    *_, networks = study.draw(TINY, {"digits": digits})
    assert networks.drawn["Disagreement"]["random starts"] == [pytest.approx((20, 20, 20))]
