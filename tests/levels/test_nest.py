"""What a nest promises beside its gradients: values of any kind, data, runs that can be cut."""

import dataclasses
import functools
import logging
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from references import nests

import nestax as nx

KEY = jax.random.key(0)


def quadratic(values, batch):
    return jnp.sum((values["w"] - batch) ** 2)


def noise(task, key):
    return nests.noise(key, 2)


def same(a, b):
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(np.asarray(x), np.asarray(y)) for x, y in leaves)


class Task(NamedTuple):
    slope: jax.Array
    seed: jax.Array


def draw(key):
    return Task(nests.noise(key, 2), jax.random.key_data(key)[0])


def maml(copies=4, **rest):
    w = nx.Level(
        "w",
        lambda v, b: jnp.sum((v["w"] - b) ** 2),
        optax.sgd(0.1),
        lambda task, key: task.slope + 0.1 * nests.noise(key, 2),
        start=lambda v, task, key: v["init"],
    )
    init = nx.Level(
        "init", lambda v, b: jnp.sum((v["w"] - b.slope) ** 2), optax.adam(0.1), every=3,
        flow=nx.Unroll(),
    )  # fmt: skip
    return nx.Nest([w, init], task=draw, copies=copies, **rest)


def test_a_run_may_be_cut_anywhere():
    nest = maml()
    begun = nest.init({"init": jnp.zeros(2)}, KEY)
    whole, info = nest.run(begun, 7)
    state, first = nest.run(begun, 3)
    state, second = nest.run(state, 4)
    assert same(state, whole)
    joined = jax.tree.map(lambda *a: np.concatenate(a), first, second)
    assert same(joined, info)
    stepped = begun
    for _ in range(7):
        stepped, _ = nest.step(stepped)
    assert same(stepped, whole)
    assert info["w"].loss.shape == (21, 4)
    assert info["init"]["loss"].shape == (7,)


def test_runs_of_any_length_compile_once(caplog):
    nest = maml()
    state = nest.init({"init": jnp.zeros(2)}, KEY)
    state, _ = nest.run(state, 1)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        for steps in (0, 2, 5, 1100):
            state, _ = nest.run(state, steps)
    compiled = [r.getMessage() for r in caplog.records if "Compiling" in r.getMessage()]
    assert compiled == []


def test_beginning_again_traces_nothing_and_other_shapes_are_checked():
    traced = []

    def loss(values, batch):
        traced.append(values["w"].shape)
        return quadratic(values, batch)

    nest = nx.Nest([nx.Level("w", loss, optax.adam(0.1), noise)])
    first = nest.init({"w": jnp.zeros(2)}, KEY)
    once = len(traced)
    again = nest.init({"w": jnp.ones(2)}, jax.random.key(1))
    runs = nest.init({"w": jnp.ones(2)}, jax.random.split(KEY, 3))
    assert once == len(traced) > 0
    assert same(again.values["w"], jnp.ones(2)) and same(first.values["w"], jnp.zeros(2))
    assert same(runs.run(1).values["w"], jnp.ones(2))
    for _ in range(2):  # what is refused is refused every time
        with pytest.raises(TypeError, match="incompatible shapes"):
            nest.init({"w": jnp.zeros(3)}, KEY)


def test_the_callers_arrays_survive_and_are_not_shared():
    w = jnp.zeros(2)
    nest = nx.Nest([nx.Level("w", quadratic, optax.sgd(0.1), noise)])
    state = nest.init({"w": w}, KEY)
    nest.run(state, 3)
    nest.run(state, 3)  # nothing was donated
    assert same(w, np.zeros(2))


def test_adding_a_level_changes_nobody_elses_data():
    def seen(values, batch):
        return jnp.sum((values["w"] - batch) ** 2), batch

    # Uniform numbers: normal ones are rounded as each program's compilation has it.
    def drawn(task, key):
        return jax.random.uniform(key, (2,))

    def other(task, key):
        return jax.random.uniform(key, (2,))

    one = nx.Level("w", seen, optax.sgd(0.1), drawn)
    shared = nx.Level("v", lambda v, b: (jnp.sum(v["v"] ** 2), b), optax.sgd(0.1), drawn)
    extra = nx.Level("u", lambda v, b: (jnp.sum(v["u"] * b), b), optax.sgd(0.1), other)
    values = {"w": jnp.zeros(2), "v": jnp.ones(2), "u": jnp.ones(2)}
    nest = nx.Nest([one])
    _, alone = nest.run(nest.init({"w": values["w"]}, KEY), 5)
    for levels in ([(extra, one, shared)], [(shared, one, extra)]):
        nest = nx.Nest(levels)
        _, info = nest.run(nest.init(values, KEY), 5)
        assert same(info["w"].user, alone["w"].user)
        assert same(info["v"].user, alone["w"].user)
        assert not same(info["u"].user, alone["w"].user)


def test_contexts_defined_alike_draw_apart():
    def make():
        return lambda task, key: jax.random.normal(key, (2,))

    a = nx.Level("a", lambda v, b: (jnp.sum(v["a"] * b), b), optax.sgd(0.1), make())
    b = nx.Level("b", lambda v, b: (jnp.sum(v["b"] * b), b), optax.sgd(0.1), make())
    nest = nx.Nest([a, b])
    _, info = nest.run(nest.init({"a": jnp.ones(2), "b": jnp.ones(2)}, KEY), 2)
    assert not same(info["a"].user, info["b"].user)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Layer:
    """What modules are made of: weights, a count, a key, a function, nothing."""

    weight: jax.Array
    steps: jax.Array
    activation: object
    heads: int
    bias: None = None
    scale: float = 2.0


def test_values_of_any_kind():
    layer = Layer(jnp.ones(2), jnp.arange(3), jnp.tanh, 4)

    def objective(values, batch):
        layer = values["layer"]
        assert layer.heads == 4
        return jnp.sum(layer.activation(layer.weight * layer.scale) ** 2)

    nest = nx.Nest([nx.Level("layer", objective, optax.adam(0.1))])
    state, info = nest.run(nest.init({"layer": layer}, KEY), 20)
    after = state.values["layer"]
    assert after.heads == 4 and after.activation is jnp.tanh and after.bias is None
    assert same(after.steps, np.arange(3))
    assert not same(after.weight, layer.weight) and float(after.scale) != 2.0
    assert info["layer"].loss[-1] < info["layer"].loss[0]


def test_a_python_number_is_a_value():
    nest = nx.Nest([nx.Level("w", lambda v, b: v["w"] ** 2, optax.sgd(0.1))])
    state, _ = nest.run(nest.init({"w": 1.0}, KEY), 2)
    np.testing.assert_allclose(state.values["w"], 0.64, rtol=1e-6)


def test_the_state_is_arrays_only_and_goes_on_from_its_leaves():
    nest = maml()
    state, _ = nest.run(nest.init({"init": jnp.zeros(2)}, KEY), 2)
    leaves, structure = jax.tree.flatten(state)
    assert all(isinstance(leaf, jax.Array) and not leaf.weak_type for leaf in leaves)
    restored = structure.unflatten([jnp.asarray(np.asarray(leaf)) for leaf in leaves])
    assert same(nest.run(restored, 3), nest.run(state, 3))


def test_streams_are_read_at_their_ticks_and_resumed():
    asked = []

    def batch(index):
        asked.append(index)
        return np.full(2, index, np.float32)

    fast = nx.Level("w", lambda v, b: (jnp.sum(v["w"] * b), b[0]), optax.sgd(0.1), nx.Stream(batch))
    slow = nx.Level(
        "s", lambda v, b: (jnp.sum(v["s"] * b), b[0]), optax.sgd(0.1), nx.Stream(batch), every=3
    )
    nest = nx.Nest([fast, slow])
    begun = nest.init({"w": jnp.zeros(2), "s": jnp.zeros(2)}, KEY)
    asked.clear()
    whole, info = nest.run(begun, 4)
    assert same(info["w"].user, np.arange(12.0))
    assert same(info["s"].user, np.array([2.0, 5.0, 8.0, 11.0]))
    state, _ = nest.run(begun, 1)
    state, rest = nest.run(state, 3)
    assert same(state, whole) and same(rest["s"].user, np.array([5.0, 8.0, 11.0]))
    stepped, _ = nest.step(begun, nest.feed(begun))
    assert same(stepped, nest.run(begun, 1)[0])


def test_streams_of_copies_have_an_index_for_each():
    def start(values, task, key):
        return jnp.zeros(1)

    w = nx.Level(
        "w", lambda v, b: (jnp.sum(v["w"] * b), b[0]), optax.sgd(0.1),
        nx.Stream(lambda index: np.full(1, index, np.float32)), start=start, horizon=2,
    )  # fmt: skip
    nest = nx.Nest([w], copies=3)
    _, info = nest.run(nest.init({}, KEY), 4)
    assert same(info["w"].user, np.arange(12.0).reshape(4, 3))


def test_a_stream_of_changing_shape_is_refused():
    stream = nx.Stream(lambda index: np.zeros(index + 1, np.float32))
    level = nx.Level("w", lambda v, b: v["w"] * jnp.sum(b), optax.sgd(0.1), stream)
    nest = nx.Nest([level, nx.Level("s", lambda v, b: v["s"] ** 2, optax.sgd(0.1), every=2)])
    with pytest.raises(ValueError, match="one structure, shape and dtype"):
        nest.init({"w": 0.0, "s": 0.0}, KEY)


def test_a_loss_that_is_not_finite_stops_the_run_and_loses_nothing():
    level = nx.Level("w", lambda v, b: jnp.log(v["w"]), optax.sgd(1.0))
    nest = nx.Nest([level])
    with pytest.raises(
        nx.DivergenceError, match="level 'w': the loss is not finite in step 3"
    ) as e:
        nest.run(nest.init({"w": 2.0}, KEY), 50)
    assert e.value.step == 3 and e.value.level == "w"
    losses = e.value.info["w"].loss
    assert len(losses) == 4 and np.isfinite(losses[:3]).all()
    before, _ = nest.run(nest.init({"w": 2.0}, KEY), 3)
    assert same(e.value.state, before)


def test_an_implicit_gradient_that_is_off_warns_once():
    inner = nx.Level("w", lambda v, b: jnp.sum((v["w"] - v["x"]) ** 2), optax.sgd(0.01))
    outer = nx.Level(
        "x", lambda v, b: jnp.sum(v["w"] ** 2), optax.sgd(0.1), every=2,
        flow=nx.Implicit(nx.CG(5), tolerance=1e-3),
    )  # fmt: skip
    nest = nx.Nest([inner, outer])
    state = nest.init({"w": jnp.ones(2), "x": jnp.zeros(2)}, KEY)
    with pytest.warns(UserWarning, match="level 'x': its implicit gradient is off.*levels inside"):
        state, info = nest.run(state, 3)
    assert info["x"].inner_gradient.shape == (3,) and info["x"].products.shape == (3,)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nest.run(state, 3)


def test_a_solver_that_diverges_warns_unless_the_tolerance_allows_what_it_leaves():
    inner = nx.Level("w", lambda v, b: 50 * jnp.sum((v["w"] - v["x"]) ** 2), optax.sgd(0.001))

    def run(tolerance):
        flow = nx.Implicit(nx.Neumann(4, rate=0.05), tolerance=tolerance)
        outer = nx.Level("x", lambda v, b: jnp.sum(v["w"] ** 2), optax.sgd(0.0), every=2, flow=flow)
        nest = nx.Nest([inner, outer])
        return nest.run(nest.init({"w": jnp.ones(2), "x": jnp.zeros(2)}, KEY), 2)[1]

    for tolerance in (None, 1e-3):
        with pytest.warns(UserWarning, match="its implicit gradient is off, its solver diverged"):
            run(tolerance)
    assert run(1e6)["x"].diverged.all()


def test_copies_are_spread_over_a_mesh():
    mesh = jax.make_mesh((2,), ("copies",), axis_types=(jax.sharding.AxisType.Auto,))
    plain, spread = maml(), maml(mesh=mesh)
    begun = spread.init({"init": jnp.zeros(2)}, KEY)
    assert len(begun.values["w"].sharding.device_set) == 2
    state, info = spread.run(begun, 5)
    assert len(state.values["w"].sharding.device_set) == 2
    expected, expected_info = plain.run(plain.init({"init": jnp.zeros(2)}, KEY), 5)
    np.testing.assert_allclose(state.values["init"], expected.values["init"], rtol=1e-5)
    np.testing.assert_allclose(info["w"].loss, expected_info["w"].loss, rtol=1e-5)
    with pytest.raises(ValueError, match="3 copies do not divide over the 2 devices"):
        maml(copies=3, mesh=mesh)


def centres(copies=4, **rest):
    """Every copy begins at its number and settles on its own task; `m` on the mean of them."""
    w = nx.Level(
        "w", lambda v, b: jnp.sum((v["w"] - b) ** 2), optax.sgd(0.25),
        start=lambda v, task, key, copy: 0.0 * task + copy, horizon=2,
    )  # fmt: skip
    m = nx.Level("m", lambda v, b: jnp.sum((v["m"] - v["w"] - b) ** 2), optax.sgd(0.5), every=2)
    return nx.Nest([w, m], copies=copies, **rest)


def test_a_task_of_its_own_for_each_copy():
    tasks = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, -1.0], [-1.0, 3.0]], np.float32)
    mesh = jax.make_mesh((2,), ("copies",), axis_types=(jax.sharding.AxisType.Auto,))
    for more in ({}, {"mesh": mesh}):
        nest = centres(tasks=tasks, **more)
        state = nest.init({"m": jnp.zeros(2)}, KEY)
        assert same(state.task, tasks)
        state, info = nest.run(state, 1)
        # From the copy's number, half of the way twice; m sees the mean over copies.
        start, w = np.arange(4.0)[:, None], 0.75 * tasks + 0.25 * np.arange(4.0)[:, None]
        np.testing.assert_allclose(state.values["w"], w, rtol=1e-6)
        np.testing.assert_allclose(state.values["m"], (w + tasks).mean(0), rtol=1e-6)
        np.testing.assert_allclose(info["w"].loss[0], ((start - tasks) ** 2).sum(1), rtol=1e-6)
        assert same(state.task, tasks)
    assert len(state.task.sharding.device_set) == 2


def counted(task, key, copy):
    return copy


def passing_on(function):
    @functools.wraps(function)
    def called(*arguments, **named):
        return function(*arguments, **named)

    return called


def hiding(function):
    @functools.wraps(function)
    def called(task, key):
        return function(task, key, 7)

    return called


class Numbering:
    def __call__(self, task, key, *, copy):
        return copy

    def method(self, task, key, copy=5):
        return copy


def test_every_kind_of_context_may_be_told_the_copy():
    asking = {
        "function": counted,
        "keyword": lambda task, key, *, copy: copy,
        "positional": lambda task, key, copy, /: copy,
        "later": lambda task, key, scale=1, copy=5: copy * scale,
        "method": Numbering().method,
        "callable": Numbering(),
        "partial": functools.partial(lambda scale, task, key, copy: copy * scale, 1),
        "named": functools.partial(lambda task, key, scale, copy: copy * scale, scale=1),
        "jitted": jax.jit(counted),
        "decorated": passing_on(counted),
    }
    silent = {
        "bound": (functools.partial(counted, copy=7), 7),
        "hidden": (hiding(counted), 7),
        "other": (lambda copy, key: 7, 7),
        "caught": (lambda task, *copy, **more: len(copy) + len(more), 1),
    }
    contexts = asking | {name: context for name, (context, _) in silent.items()}

    def level(name, context):
        def objective(values, batch):
            return values[name], jnp.asarray(batch)

        def start(values, task, key, copy):
            return 1.0 * copy

        return nx.Level(name, objective, optax.sgd(0.0), context, start=start, horizon=1)

    levels = tuple(level(name, context) for name, context in contexts.items())
    for copies in (3, None):
        nest = nx.Nest([levels], copies=copies)
        state, info = nest.run(nest.init({}, KEY), 1)
        numbers = np.arange(3) if copies else np.zeros(())
        for name in contexts:
            expected = numbers if name in asking else silent[name][1] + 0 * numbers
            np.testing.assert_array_equal(info[name].user[0], expected, err_msg=name)
            np.testing.assert_array_equal(state.values[name], numbers)


def test_an_optimizer_may_go_on_over_episodes():
    """Against a loop: the value begins anew every two ticks, Adam's moments and count do not."""
    rule = optax.adam(0.1)
    w = nx.Level(
        "w", quadratic, rule, lambda task, key: jnp.ones(2), start=lambda v, t, k: jnp.zeros(2),
        horizon=2, reset_optimizer=False,
    )  # fmt: skip
    nest = nx.Nest([w])
    state, _ = nest.run(nest.init({}, KEY), 5)
    held = rule.init(jnp.zeros(2))
    for tick in range(5):
        value = jnp.zeros(2) if tick % 2 == 0 else value  # noqa: F821
        change, held = rule.update(2 * (value - 1), held)
        value = value + change
    np.testing.assert_allclose(state.values["w"], value, rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), state.optimizers["w"], held
    )


def test_staggered_episodes_begin_at_different_ticks():
    w = nx.Level(
        "w", lambda v, b: jnp.sum(v["w"]), optax.sgd(1.0),
        start=lambda v, t, k: jnp.zeros(()), horizon=4,
    )  # fmt: skip
    nest = nx.Nest([w], copies=4, stagger=True)
    state = nest.init({}, KEY)
    seen = []
    for _ in range(6):
        state, _ = nest.step(state)
        seen.append(np.asarray(state.values["w"]))
    # Copy c is c ticks ahead: its first episode is shorter by as much.
    expected = [
        [-((t + c) % 4 + 1) if t + c >= 4 else -(t + 1) for c in range(4)] for t in range(6)
    ]
    np.testing.assert_array_equal(np.stack(seen), expected)


def test_norms_are_left_out_on_request_and_nothing_else_changes():
    def build(norms):
        def loss(values, batch):
            return jnp.sum((values["w"] - batch) ** 2)

        def outer(values, batch):
            return jnp.sum(values["w"] ** 2) + values["init"] ** 2

        w = nx.Level(
            "w", loss, optax.sgd(0.1), lambda task, key: jax.random.normal(key), start=_from_init
        )
        init = nx.Level("init", outer, optax.adam(0.1), every=3, flow=nx.Unroll())
        nest = nx.Nest([w, init], copies=2, norms=norms)
        return nest.run(nest.init({"init": 0.5}, jax.random.key(0)), steps=2)

    (state, info), (bare, less) = build(True), build(False)
    jax.tree.map(np.testing.assert_array_equal, state, bare)
    for name in ("w", "init"):
        np.testing.assert_array_equal(info[name].loss, less[name].loss)
        assert np.all(info[name].gradient_norm > 0)
        assert less[name].gradient_norm is None


def _from_init(values, task, key):
    return values["init"]
