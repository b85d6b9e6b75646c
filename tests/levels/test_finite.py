"""What stops a run and what does not, at which step, and what is left."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestax as nx

KEY = jax.random.key(0)


def value_of(state, name):
    return float(state.values[name])


@pytest.mark.parametrize("norms", [True, False])
def test_a_gradient_without_a_value_names_the_repair(norms):
    """The outer gradient is 1 at 3 and at 2, and 0 times infinity at 1."""
    w = nx.Level(
        "w", lambda v, b: 0.0 * v["w"] ** 2, optax.sgd(0.1), start=lambda v, task, key: v["init"]
    )

    def loss(v, b):
        return v["w"] + 0.0 * jnp.sqrt(jnp.maximum(v["w"] - 1, 0))

    init = nx.Level("init", loss, optax.sgd(1.0), every=2, flow=nx.Unroll())
    nest = nx.Nest([w, init], norms=norms)
    with pytest.raises(
        nx.DivergenceError, match=r"'init': the gradient is not finite in step 2; .*eps_root"
    ) as e:
        nest.run(nest.init({"init": 3.0}, KEY), 9)
    assert (e.value.what, e.value.step, int(e.value.state.tick)) == ("gradient", 2, 4)
    assert value_of(e.value.state, "init") == 1.0
    assert e.value.info["init"].loss.tolist() == [3, 2, 1] and len(e.value.info["w"].loss) == 6
    with pytest.raises(nx.DivergenceError) as again:
        nest.run(e.value.state, 9)
    assert again.value.step == 2 and value_of(again.value.state, "init") == 1.0


@pytest.mark.parametrize("steps", [4, 30])
def test_a_value_that_overflows_stops_the_run(steps):
    level = nx.Level("w", lambda v, b: v["w"], optax.sgd(1e38))
    nest = nx.Nest([level])
    with pytest.raises(nx.DivergenceError, match="'w': the value is not finite in step 3") as e:
        nest.run(nest.init({"w": 0.0}, KEY), steps)
    assert value_of(e.value.state, "w") == pytest.approx(-3e38) and e.value.what == "value"


def test_a_gradient_at_one_point_is_not_blamed_on_adam():
    level = nx.Level("w", lambda v, b: jnp.sqrt(v["w"] ** 2), optax.sgd(1.0))
    nest = nx.Nest([level])
    with pytest.raises(nx.DivergenceError, match="'w': the gradient is not finite in step 1") as e:
        nest.run(nest.init({"w": 1.0}, KEY), 5)
    assert "eps_root" not in str(e.value) and value_of(e.value.state, "w") == 0.0


@pytest.mark.parametrize("norms", [True, False])
def test_what_an_optimizer_has_rejected_is_told_once(norms):
    batches = np.array([1, 2, np.nan, 4, np.nan, 6], np.float32)
    stream = nx.Stream(lambda index: batches[index])

    def nest(optimizer):
        level = nx.Level("w", lambda v, b: (v["w"] - b) ** 2, optimizer, stream)
        return nx.Nest([level], norms=norms)

    careful = nest(optax.apply_if_finite(optax.sgd(0.25), 3))
    with pytest.warns(UserWarning, match="'w': its loss is not finite in step 2.*goes on") as told:
        state, info = careful.run(careful.init({"w": 0.0}, KEY), 6)
    assert len(told) == 1 and np.isnan(info["w"].loss).sum() == 2
    assert value_of(state, "w") == 4.3125  # 0, then half way to 1, 2, 4 and 6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        careful.run(careful.init({"w": 0.0}, KEY), 6)
    plain = nest(optax.sgd(0.25))
    with pytest.raises(nx.DivergenceError, match="loss is not finite in step 2"):
        plain.run(plain.init({"w": 0.0}, KEY), 6)
    plain.run(plain.init({"w": 0.0}, KEY), 6, check=False)


def test_an_optimizer_that_gathers_what_is_not_finite_is_blamed_before_it_moves():
    stream = nx.Stream(lambda index: np.float32([1, np.inf, 1, 1][index]))
    optimizer = optax.MultiSteps(optax.sgd(0.1), 4).gradient_transformation()
    nest = nx.Nest([nx.Level("w", lambda v, b: jnp.log(jnp.exp(v["w"] * b)), optimizer, stream)])
    with pytest.raises(nx.DivergenceError, match="'w': the loss is not finite in step 1") as e:
        nest.run(nest.init({"w": 1.0}, KEY), 4)
    assert np.isfinite(jax.tree.leaves(e.value.state.optimizers)[-1]).all()


def copied(horizon=None):
    """An inner problem that has no answer for one task in two; the outer level rejects those."""
    w = nx.Level(
        "w", lambda v, b: 0.5 * (v["w"] - b) ** 2, optax.sgd(0.5),
        start=lambda v, task, key: v["init"], horizon=horizon,
    )  # fmt: skip
    init = nx.Level(
        "init", lambda v, b: 0.5 * v["w"] ** 2, optax.apply_if_finite(optax.sgd(0.5), 100),
        every=2, flow=nx.Unroll(),
    )  # fmt: skip
    return nx.Nest([w, init], lambda key: jnp.where(jax.random.bernoulli(key), 1.0, jnp.nan))


def test_episodes_that_are_over_do_not_count():
    nest = copied()
    with pytest.warns(UserWarning, match="its loss is not finite"):
        state, info = nest.run(nest.init({"init": 1.0}, KEY), 12)
    init, losses = 1.0, info["init"].loss
    assert 0 < np.isnan(losses).sum() < 12
    for loss in losses:
        reached = 1 + 0.25 * (init - 1)
        if np.isfinite(loss):
            np.testing.assert_allclose(loss, 0.5 * reached**2, rtol=1e-6)
            init -= 0.5 * 0.25 * reached
    np.testing.assert_allclose(value_of(state, "init"), init, rtol=1e-6)


def test_an_episode_that_is_lost_halfway_stops_the_run():
    nest = copied(horizon=4)
    begun = nest.init({"init": 1.0}, jax.random.key(3))
    warnings.simplefilter("ignore")
    with pytest.raises(nx.DivergenceError, match="'w': the loss is not finite") as e:
        nest.run(begun, 12)
    step = e.value.step
    assert step % 2 == 0 and np.isfinite(value_of(e.value.state, "init"))
    # However the run is cut.
    with pytest.raises(nx.DivergenceError) as cut:
        state = begun
        for _ in range(12):
            state, _ = nest.run(state, 1)
    assert cut.value.step == step


def test_infinities_that_are_meant_and_states_that_are_not():
    def loss(v, b):
        return -jax.nn.log_softmax(v["w"]["score"] + v["w"]["mask"])[0]

    nest = nx.Nest([nx.Level("w", loss, optax.sgd(0.1))])
    value = {"score": jnp.zeros(3), "mask": jnp.array([0, 0, -jnp.inf])}
    state, _ = nest.run(nest.init({"w": value}, KEY), 3)
    assert np.isneginf(state.values["w"]["mask"]).tolist() == [False, False, True]
    lost = nest.init({"w": {**value, "score": jnp.array([0, jnp.nan, 0])}}, KEY)
    with pytest.raises(nx.DivergenceError, match="value is not finite in step 0; it was not bef"):
        nest.run(lost, 3)
