"""Runs side by side: each is the run that its key alone begins."""

import dataclasses
import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from references.nests import noise

import nestax as nx
from nestax.levels import _trust
from nestax.levels._info import LevelInfo
from nestax.runs import RunError

KEYS = jax.random.split(jax.random.key(0), 3)


def equal(found, expected, rtol=1e-12):
    """Two pytrees of one structure and dtypes."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


def of_run(tree, run):
    return jax.tree.map(lambda a: a[run], tree)


def separate(nest, values, steps=3, each=None, gradient=None):
    """Holds runs side by side against runs of their own."""
    together = nest.init(values, KEYS, each)
    assert together.runs == len(KEYS) and together.tick.shape == ()
    end, info = nest.run(together, steps)
    if gradient is not None:
        gradients = nest.gradient(end, gradient)
    for run, key in enumerate(KEYS):
        one = nest.init({**values, **of_run(each or {}, run)}, key)
        equal(together.run(run), one)
        last, report = nest.run(one, steps)
        equal(end.run(run), last)
        equal(jax.tree.map(lambda a, run=run: a[:, run], info), report)
        if gradient is not None:
            equal(of_run(gradients, run), nest.gradient(last, gradient))
    return together, end, info


def noisy(task, key):
    return task + noise(key, 2)


def near(name):
    return lambda v, batch: (jnp.sum((v[name] - batch) ** 2) / 2, {"first": batch[0]})


def fresh(values, task, key):
    return values["init"] + noise(key, 2)


def sgd():
    w = nx.Level("w", near("w"), optax.adam(0.3), noisy)
    return nx.Nest([w], task=np.array([1.0, 2.0])), {"w": jnp.zeros(2)}, "w"


def maml(every=2, horizon=4, **options):
    """Drawn tasks, staggered copies, a horizon beyond the outer period."""
    w = nx.Level("w", near("w"), optax.sgd(0.3), noisy, start=fresh, horizon=horizon)
    flow = nx.Unroll()
    init = nx.Level(
        "init", lambda v, b: near("w")(v, b + v["init"]), optax.adam(0.1), noisy, every, flow
    )
    options = {"copies": 2, "stagger": True, **options}
    return nx.Nest([w, init], lambda key: noise(key, 2), **options), {"init": jnp.ones(2)}, None


@functools.cache
def narrow():
    """A nest that tests in single precision share, with the programs that it has compiled."""
    return maml()


def evolved():
    """Episodes of drawn lengths, which end by themselves too."""
    loss, ending = lambda v, b: near("w")(v, b + v["init"]), lambda value, info: info["first"] > 1
    w = nx.Level("w", loss, optax.sgd(0.3), noisy, start=fresh, horizon=(2, 6), done=ending)
    flow = nx.PES(0.1)
    init = nx.Level("init", near("w"), optax.sgd(0.1), noisy, every=2, flow=flow)
    return nx.Nest([w, init], jnp.zeros(2), copies=4, stagger=True), {"init": jnp.ones(2)}, None


def remembering():
    def draw(values, memory, task, key):
        after = 0.9 * memory + 0.1 * values["w"] + 0.1 * noise(key, 2)
        return memory, after

    walk = nx.Process(draw, init=lambda values, task, key: noise(key, 2))
    return nx.Nest([nx.Level("w", near("w"), optax.sgd(0.5), walk)]), {"w": jnp.ones(2)}, None


def implicit():
    w = nx.Level("w", lambda v, b: jnp.sum(jnp.cosh(v["w"] - v["d"] * b)), optax.sgd(0.3), noisy)
    flow = nx.Implicit(nx.CG(4), tolerance=1e3)
    d = nx.Level("d", near("w"), optax.sgd(0.1), noisy, every=4, flow=flow)
    return nx.Nest([w, d], task=jnp.ones(2)), {"w": jnp.zeros(2), "d": jnp.ones(2)}, None


@pytest.mark.parametrize("make", [sgd, maml, evolved, remembering, implicit])
def test_they_are_separate_runs(x64, make):
    nest, values, gradient = make()
    together, end, _ = separate(nest, values, gradient=gradient)
    # Independent ones: no two of them are alike.
    w = np.asarray(end.values["w"]).reshape(len(KEYS), -1)
    assert len({row.tobytes() for row in w}) == len(KEYS)
    if nest.task is not None and not nest.declaration.draws_task:
        assert end.held is together.held or end.task.shape == np.shape(nest.task)


def test_in_single_precision_they_are_so_up_to_rounding():
    nest, values, _ = narrow()
    end, info = nest.run(nest.init(values, KEYS), 3)
    for run, key in enumerate(KEYS):
        last, report = nest.run(nest.init(values, key), 3)
        equal(end.run(run).values["init"], last.values["init"], 1e-5)
        equal(info["w"].loss[:, run], report["w"].loss, 1e-5)


def test_hyperparameters_differ_as_values_or_within_optimizers(x64):
    """w - 1 shrinks by 1 - rate at every step."""
    rates, values = jnp.array([0.1, 0.5, 1.5]), {"w": 0.0}
    expected = 1 - (1 - rates) ** 5
    loss = lambda v, b: (v["w"] - 1) ** 2 / 2  # noqa: E731
    read = nx.Nest([nx.Level("w", loss, lambda v: optax.sgd(v["rate"])), nx.Held("rate")])
    _, end, _ = separate(read, values, steps=5, each={"rate": rates})
    np.testing.assert_allclose(end.values["w"], expected, rtol=1e-12)
    np.testing.assert_array_equal(end.values["rate"], rates)

    injected = nx.Nest([nx.Level("w", loss, optax.inject_hyperparams(optax.sgd)(0.1))])
    state = injected.init(values, jax.random.key_data(KEYS))
    held = state.optimizers["w"]
    held = held._replace(hyperparams={"learning_rate": rates})
    end, _ = injected.run(state.replace(optimizers={"w": held}), 5)
    np.testing.assert_allclose(end.values["w"], expected, rtol=1e-12)


def test_each_may_hold_copied_values_trained_in_part():
    """A level that copies share and one that they have each; what is trained is judged by the
    value of one run."""
    w = nx.Level("w", near("w"), optax.sgd(0.1), noisy, start=fresh)
    ndim = lambda value: jax.tree.map(lambda a: a.ndim == 1, value)  # noqa: E731
    loss = lambda v, b: near("w")(v, b + v["init"]["shift"] * v["init"]["scale"])  # noqa: E731
    init = nx.Level("init", loss, optax.sgd(0.1), noisy, every=2, trained=ndim)
    start = lambda v, task, key: v["init"]["shift"]  # noqa: E731
    nest = nx.Nest([nx.Level(**{**vars(w), "start": start}), init], jnp.zeros(2), copies=2)
    each = {"init": {"shift": jnp.arange(6.0).reshape(3, 2), "scale": jnp.array([1.0, 2, 3])}}
    _, end, _ = separate(nest, {}, steps=2, each=each)
    np.testing.assert_array_equal(end.values["init"]["scale"], [1, 2, 3])


def test_runs_of_any_length_compile_once(caplog):
    nest, values, _ = sgd()
    state = nest.init(values, KEYS)
    state, _ = nest.run(state, 2)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        after, info = nest.run(state, 7)
        nest.run(after, 1)
    assert not [
        r for r in caplog.records if "chunk" in r.getMessage() and "ompil" in r.getMessage()
    ]
    assert info["w"].loss.shape == (7, 3) and nest.run(state, 0)[1]["w"].loss.shape == (0, 3)


def test_branches_on_the_tick_stay_branches():
    nest, values, _ = maml(stagger=False)
    one, three = nest.init(values, KEYS[0]), nest.init(values, KEYS)
    programs = [str(jax.make_jaxpr(nest.step)(state)) for state in (one, three)]
    assert programs[0].count(" cond[") == programs[1].count(" cond[") > 0


def test_steps_maps_and_level_tables_take_them(x64):
    nest, values, _ = sgd()
    state = nest.init(values, KEYS)
    after, info = nest.step(state)
    assert info["w"].user["first"].shape == (1, 3) and "3 runs side by side" in repr(after)
    f, x = nest.map(state)
    equal(f(x)["values"], dict(after.values))
    one = nest.levels(state.run(0))
    assert nest.levels(state).levels == one.levels == nest.levels().levels
    given = state.replace(values={"w": jnp.ones((3, 2))}, key=jax.random.split(KEYS[0], 3), tick=0)
    f, x = nest.map(given)
    along = jax.tree.map(jnp.zeros_like, x) | {"values": {"w": jnp.eye(3, 2)}}
    pushed = jax.jvp(f, (x,), (along,))[1]["values"]["w"]
    assert (np.asarray(pushed) != 0).tolist() == np.eye(3, 2, dtype=bool).tolist()
    nest.run(nest.init(values, KEYS[0]), 1)  # a single run of the same nest still goes


def test_streams_are_shared():
    stream = nx.Stream(lambda index: np.float32([index, 2 * index]))
    nest = nx.Nest([nx.Level("w", near("w"), optax.sgd(1.0), stream)])
    end, info = nest.run(nest.init({"w": jnp.zeros(2)}, KEYS), 4)
    np.testing.assert_array_equal(info["w"].user["first"], np.repeat(np.arange(4.0)[:, None], 3, 1))
    np.testing.assert_array_equal(end.values["w"], [[3, 6]] * 3)


def test_copies_lie_on_the_mesh():
    mesh = jax.make_mesh((2,), ("copies",), axis_types=(jax.sharding.AxisType.Auto,))
    results = []
    for nest, values, _ in (narrow(), maml(mesh=mesh)):
        end, info = nest.run(nest.init(values, KEYS), 2)
        results.append((end.values["init"], end.values["w"], info["w"].loss))
    assert len(end.values["w"].sharding.device_set) == 2
    equal(*map(jax.device_get, results), 1e-6)


def test_they_are_resumed_bit_for_bit(tmp_path):
    nest, values, _ = narrow()
    state = nest.init(values, KEYS)
    nest.run(state, 2, watch=tmp_path / "run")
    resumed = nest.run(state, 5, watch=tmp_path / "run")[0]
    whole = nest.run(state, 5)[0]
    for a, b in zip(jax.tree.leaves(resumed), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(a, b)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 5 and '"first"' in lines[0]
    with pytest.raises(RunError, match="another run: the number of runs side by side differs"):
        nest.run(nest.init(values, KEYS[:2]), 5, watch=tmp_path / "run")


# Runs that are lost.


def doomed(**options):
    """w is multiplied by `factor` at every step; its square overflows, its gradient's does not."""
    loss = lambda v, b: (2.0**-17 * v["w"] ** 2, {"w": v["w"]})  # noqa: E731
    rate = lambda v: optax.sgd((1 - v["factor"]) * 2**16)  # noqa: E731
    nest = nx.Nest([nx.Level("w", loss, rate), nx.Held("factor")], **options)
    return nest, lambda *factors: nest.init({"w": 1.0}, KEYS, {"factor": jnp.array(factors)})


@pytest.mark.parametrize("norms", [True, False])
def test_the_others_go_on(norms):
    nest, begin = doomed(norms=norms)
    told = []
    with pytest.warns(
        UserWarning, match="run 1 .level 'w': its loss is not finite in step 2."
    ) as w:
        end, info = nest.run(begin(0.5, -1e11, 0.75), 60, watch=lambda *args: told.append(args))
    assert len(w) == 1 and "of 3 runs side by side" in str(w[0].message)
    np.testing.assert_allclose(end.values["w"][::2], [0.5**60, 0.75**60], rtol=1e-5)
    assert not np.isfinite(end.values["w"][1]) and len(info["w"].loss) == len(told) == 60
    # A mean over those runs that have a number.
    mean = 2.0**-17 * (0.25**9 + 0.5625**9) / 2
    np.testing.assert_allclose(told[9][1]["w"]["loss"], mean, rtol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nest.run(end, 3)  # it is known by now
    np.testing.assert_array_equal(nest.run(end.run(0), 3)[0].values["w"], 0.5**63)
    with pytest.raises(nx.DivergenceError):
        nest.run(end.run(1), 3)


def test_where_all_are_lost_the_last_one_stops_the_call():
    nest, begin = doomed()
    state = begin(-1e15, -3e5, -1e20)
    with pytest.raises(nx.DivergenceError, match=r"in step 4; .*It is run 1, the last of 3") as e:
        nest.run(state, 100)
    assert (e.value.level, e.value.step, int(e.value.state.tick)) == ("w", 4, 4)
    np.testing.assert_allclose(e.value.state.values["w"][1], 8.1e21, rtol=1e-5)
    assert e.value.info["w"].loss.shape == (5, 3)
    with pytest.warns(UserWarning, match="are lost: run 2 .*in step 1"):
        state, _ = nest.run(state, 2)
    with pytest.raises(nx.DivergenceError, match=r"in step 4; .*It is run 1"):
        nest.run(state, 100)


def test_doubts_about_a_gradient_name_the_run():
    """Of those that are not lost; run 2 is."""
    nest, _, _ = implicit()
    flat = np.zeros((1, 3), np.float32)
    fields = {"residual": flat, "diverged": flat > 0, "at_rest": flat - 1, "moving": flat - 1}
    norms = np.float32([[1, 2e3, 3e3]])
    infos = {"w": LevelInfo(flat), "d": LevelInfo(flat, flat, inner_gradient=norms, **fields)}
    with pytest.warns(
        UserWarning, match="'d': its implicit gradient is off, in run 1 the gradient"
    ) as w:
        _trust.warn(nest.machine, infos, 3, {2})
    assert len(w) == 1


# What is refused.


def test_what_does_not_fit_is_refused():
    nest = nx.Nest(
        [nx.Level("w", near("w"), lambda v: optax.sgd(v["rate"]), noisy), nx.Held("rate")],
        jnp.zeros(2),
    )
    values, rate = {"w": jnp.zeros(2)}, {"rate": jnp.arange(3.0)}
    for arguments, message in (
        (({**values, "rate": 1.0}, KEYS[:0]), "init got keys for no run"),
        (({**values, "rate": 1.0}, jnp.zeros((2, 3, 2), jnp.uint32)), "takes a key, .*several"),
        ((values, KEYS[0], rate), "'rate' a value for every run, and one key is one run"),
        ((values, KEYS[:2], rate), r"'rate': its value has shape \[3\], and there are 2 runs"),
        (
            (values, KEYS, {"rate": 0.1}),
            "'rate': its value is a single number, 0.1, and there are 3",
        ),
        ((values, KEYS, {"rate": [0.1, 0.2, 0.3]}), r"its value\[0\] is a single number"),
        (({**values, "rate": 1.0}, KEYS, rate), "'rate' is both in values"),
        ((values, KEYS, {**rate, "rates": 1.0}), "single number"),
        ((values, KEYS, {**rate, "rates": jnp.zeros(3)}), "'rates'"),
        ((values, KEYS), "'rate' has no start: init needs a value"),
    ):
        with pytest.raises(ValueError, match=message):
            nest.init(*arguments)
    state = nest.init(values, KEYS, rate)
    equal(state.run(jnp.nanargmin(jnp.array([2.0, jnp.nan, 1.0]))), state.run(2))
    for call, message in (
        (lambda: state.run(3), "from 0 to 2, got 3"),
        (lambda: state.run(jnp.asarray(3)), "from 0 to 2, got Array"),
        (lambda: state.run(jnp.asarray(1.0)), "the number of a run is a whole number"),
        (lambda: state.run(np.bool_(True)), "the number of a run is a whole number"),
        (lambda: jax.jit(state.run)(1), "the number of a run is a whole number"),
        (lambda: state.run(0).run(0), "is that of a single run"),
        (
            lambda: state.replace(key=KEYS[0]),
            r"takes 3 keys, such as jax.random.split\(key, 3\); g",
        ),
        (lambda: state.run(0).replace(key=KEYS), "takes one key"),
        (lambda: state.replace(values={"w": jnp.zeros(2)}), r"\[3,2\]|\[3, 2\]"),
        (
            lambda: nx.check_gradient(nest, state, "w"),
            r"this state holds 3 side by side; .*state.run",
        ),
        (lambda: nx.compare_flows(nest, state, [nx.Direct()], "w"), r"state.run\(0\)"),
        (lambda: sgd()[0].run(state, 1), "the nest has no level 'rate'"),
        (lambda: nest.run(jax.tree.map(lambda a: jnp.stack([a, a]), state), 1), "stacked"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_states_of_other_nests_are_refused():
    drawn, values, _ = narrow()
    given = nx.Nest([*(level for group in drawn.groups for level in group)], jnp.zeros(2), copies=2)
    other = drawn.init(values, KEYS)
    with pytest.raises(ValueError, match="a task for every run, expected one task for all runs"):
        given.step(other)
    parts = {**other.parts, "init": other.run(0).parts["init"]}
    with pytest.raises(ValueError, match=r"'init'.* is float32\[2\], without a leading axis of 3"):
        drawn.step(dataclasses.replace(other, parts=parts))


def test_frames_of_one_run():
    nest, values, _ = narrow()
    _, info = nest.run(nest.init(values, KEYS), 1)
    with pytest.raises(ValueError, match=r"shape \[2, 3, 2\], updates x runs"):
        info["w"].frame()
    assert jax.tree.map(lambda a: a[:, 1], info["w"]).frame()["loss"].shape == (2, 2)
