"""A state: saved by what users save with, replaced in parts, refused by other nests."""

import copy
import dataclasses
import io
import pickle
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import serialization as flax
from references import nests

import nestax as nx
from nestax.levels import _belongs, _values

KEY = jax.random.key(0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Model:
    """Weights, a count, a key, nothing, and what is no array."""

    w: jax.Array
    count: jax.Array
    key: jax.Array
    bias: None = None
    activation: object = jnp.tanh


def loss(values, batch):
    model = values["m"]
    noise = jax.random.normal(model.key, model.w.shape)
    return jnp.sum(model.activation(model.w + values["c"] * noise - batch) ** 2)


def noise(task, key):
    return task + nests.noise(key, 2)


def model(values, task, key):
    return Model(values["c"] + jnp.zeros(2), jnp.arange(3), jax.random.key(7))


def single():
    levels = [
        nx.Level("m", loss, optax.adam(0.1), noise),
        nx.Level("c", loss, optax.sgd(0.1), noise, every=2),
    ]
    nest = nx.Nest(levels, task=np.ones(2, np.float32))
    return nest, nest.init({"m": model({"c": 0.0}, None, None), "c": 0.5}, KEY)


def copied(mesh=None):
    levels = [
        nx.Level("m", loss, optax.adam(0.1), noise, start=model, horizon=4),
        nx.Level("c", loss, optax.adam(0.1), noise, every=2, flow=nx.Unroll()),
    ]
    nest = nx.Nest(levels, task=lambda key: nests.noise(key, 2), copies=2, mesh=mesh)
    return nest, nest.init({"c": 0.5}, KEY)


def spread():
    return copied(jax.make_mesh((2,), ("copies",), axis_types=(jax.sharding.AxisType.Auto,)))


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))
    return True


# Saved and restored.


def by_standard_checkpointer(state, like, folder):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "state", state)
        checkpointer.wait_until_finished()
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        return checkpointer.restore(folder / "state", shapes)


def by_manager(state, like, folder):
    with ocp.CheckpointManager(folder / "all") as manager:
        manager.save(3, args=ocp.args.StandardSave(state))
        manager.wait_until_finished()
        return manager.restore(3, args=ocp.args.StandardRestore(like))


def by_equinox(state, like, folder):
    eqx.tree_serialise_leaves(folder / "state.eqx", state)
    return eqx.tree_deserialise_leaves(folder / "state.eqx", like)


def by_flax(state, like, folder):
    leaves, structure = jax.tree.flatten(like)
    saved = flax.to_bytes(jax.tree.leaves(state))
    return structure.unflatten(flax.from_bytes(leaves, saved))


def by_numpy(state, like, folder):
    file = io.BytesIO()
    np.savez(file, *jax.tree.leaves(state))
    file.seek(0)
    with np.load(file) as saved:
        return jax.tree.structure(like).unflatten(map(jnp.asarray, saved.values()))


@pytest.fixture(scope="module", params=[single, copied, spread])
def trained(request):
    nest, begun = request.param()
    state, _ = nest.run(begun, 1)
    return request.param.__name__, nest, begun, state, nest.run(state, 2)


@pytest.mark.parametrize(
    "way", [by_standard_checkpointer, by_manager, by_equinox, by_flax, by_numpy]
)
def test_a_restored_run_goes_on_bit_for_bit(way, trained, tmp_path):
    name, nest, begun, state, expected = trained
    restored = way(state, begun, tmp_path)
    assert same(restored, state)
    assert same(nest.run(restored, 2), expected)
    assert restored.values["m"].activation is jnp.tanh and restored.values["m"].bias is None
    if name == "spread" and way in (by_standard_checkpointer, by_manager):
        assert len(restored.values["m"].w.sharding.device_set) == 2


def pickled(state):
    return pickle.loads(pickle.dumps(state))


@pytest.mark.parametrize("way", [pickled, copy.deepcopy])
def test_a_copy_goes_on_bit_for_bit(way):
    """Texts among its parts have another hash in every process."""
    value = {"w": jnp.ones(2), "kind": "a text", "key": jax.random.key(1)}
    objective = lambda v, batch: jnp.sum((v["w"]["w"] - batch) ** 2)  # noqa: E731
    nest = nx.Nest(
        [nx.Level("w", objective, optax.sgd(0.1), lambda task, key: nests.noise(key, 2))]
    )
    state, _ = nest.run(nest.init({"w": value}, KEY), 1)
    assert same(nest.run(way(state), 2), nest.run(state, 2))
    elsewhere = _values._Static("a text")
    elsewhere._hash += 1
    assert way(elsewhere) == _values._Static("a text")


def test_a_donated_state_is_a_template_still(tmp_path):
    nest, begun = single()
    state, _ = nest.run(begun, 1)
    jax.block_until_ready(jax.jit(lambda s: jax.tree.map(jnp.copy, s), donate_argnums=0)(begun))
    for leaf in jax.tree.leaves(begun):
        leaf.delete()  # CPUs may keep what is donated
    assert same(by_standard_checkpointer(state, begun, tmp_path), state)


def test_the_documented_lines(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "cookbook.md").read_text()
    code = text.split("### Saving and changing a state")[1].split("```python\n")[1].split("```")[0]
    values, nest = {"w": 0.0}, nx.Nest([nx.Level("w", lambda v, b: v["w"] ** 2, optax.sgd(0.1))])
    state, _ = nest.run(nest.init(values, KEY), 2)
    names = {"folder": tmp_path, "state": state, "nest": nest, "values": values, "key": KEY}
    exec(code, {"jax": jax, **names}, names)
    assert same(names["restored"], state)
    assert float(names["changed"].values["w"]) == 2.0 and int(names["again"].tick) == 0


def test_leaves_have_the_paths_of_their_owners_values():
    nest, state = single()
    paths = {
        jax.tree_util.keystr(path): a for path, a in jax.tree_util.tree_leaves_with_path(state)
    }
    assert {path for path in paths if path.startswith(".values")} == {
        ".values['m'].w", ".values['m'].count", ".values['m'].key", ".values['c']",
    }  # fmt: skip
    assert ".task" in paths and ".tick" in paths
    theirs = jax.tree_util
    kinds = (theirs.GetAttrKey, theirs.DictKey, theirs.SequenceKey, theirs.FlattenedIndexKey)
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        assert all(isinstance(key, kinds) for key in path)
        assert isinstance(leaf, jax.Array) and not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    assert (".values['m'].w",) in nest.levels(state).levels


def test_a_start_that_changes_shape_is_refused():
    sizes = iter(range(2, 9))
    level = nx.Level(
        "w", lambda v, b: jnp.sum(v["w"]["a"] ** 2), optax.sgd(0.1),
        start=lambda v, t, k: {"a": jnp.ones(next(sizes)), "n": jnp.arange(2)}, horizon=1,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"level 'w': its start uses numbers that change"):
        nx.Nest([level]).init({}, KEY)


def test_transformations_take_states_as_before():
    nest, state = single()
    stacked = jax.tree.map(lambda a: jnp.stack([a, a]), state)
    twice, _ = jax.vmap(nest.step)(stacked)
    once, _ = jax.jit(nest.step)(state)
    for a, b in zip(jax.tree.leaves(twice), jax.tree.leaves(once), strict=True):
        np.testing.assert_allclose(a[0], b, rtol=1e-6)
    for other in (None, object(), jax.ShapeDtypeStruct((1,), jnp.float32)):
        filled = jax.tree.map(lambda a, other=other: other, state)
        # Protocols ask for attributes, as orbax does.
        assert filled.tick is other and filled.values["m"].key is other
        assert hasattr(filled, "task")
    whole = jax.tree.map(lambda a: 0, state, is_leaf=lambda a: isinstance(a, dict))
    assert jax.tree.leaves(whole) == [0] * 8  # five dicts, the tick, the key and the task
    assert same(pickle.loads(pickle.dumps(state.values["c"])), state.values["c"])


# Replaced.


def test_values_are_read_only():
    _, state = single()
    with pytest.raises(TypeError, match=r"state\.replace\(values=\{'c': value\}\)"):
        state.values["c"] = 1.0
    for change in (
        lambda v: v.update(c=1.0), lambda v: v.pop("c"), lambda v: v.clear(), lambda v: v.popitem(),
        lambda v: v.setdefault("d", 1), lambda v: v.__delitem__("c"), lambda v: v.__ior__({"c": 1}),
    ):  # fmt: skip
        with pytest.raises(TypeError, match="read only"):
            change(state.values)
    assert float(state.values["c"]) == 0.5
    values = jax.tree.map(lambda a: a, state.values)
    assert values.keys() == state.values.keys() and {**values, "c": 1.0}["c"] == 1.0
    assert type(dict(values)) is dict and type(pickle.loads(pickle.dumps({"c": 1}))) is dict


def test_replaced_values_are_used_and_all_else_is_kept():
    def loss(values, batch):
        return (values["w"] - 1) ** 2

    nest = nx.Nest([nx.Level("w", loss, optax.sgd(0.1, momentum=0.5))])
    state, _ = nest.run(nest.init({"w": 0.0}, KEY), 1)
    other = state.replace(values={"w": 2})
    assert float(state.values["w"]) == np.float32(0.2) and float(other.values["w"]) == 2.0
    assert other.values["w"].dtype == jnp.float32 and int(other.tick) == 1
    after, _ = nest.step(other)  # the gradient is 2, the momentum was -2
    np.testing.assert_allclose(after.values["w"], 2 - 0.1 * (2 + 0.5 * -2), rtol=1e-6)
    fresh = nest.init({"w": 0.0}, KEY).optimizers["w"]
    after, _ = nest.step(state.replace(values={"w": 2.0}, optimizers={"w": fresh}))
    np.testing.assert_allclose(after.values["w"], 2 - 0.1 * 2, rtol=1e-6)
    mine = jnp.asarray(3.0)
    replaced = state.replace(values={"w": mine}, tick=0, key=jax.random.key(1))
    jax.tree.map(lambda a: a.delete(), replaced)
    assert float(mine) == 3.0  # the state has arrays of its own


def test_replacements_that_do_not_fit_are_refused_by_path():
    _, state = single()
    m = state.values["m"]
    for given, message in (
        ({"x": 1.0}, "no level is called 'x'; there are 'c', 'm'"),
        ({"c": jnp.ones(2)}, r"level 'c': value: expected float32\[\], got float32\[2\]"),
        ({"c": "1"}, r"level 'c': value: expected float32\[\], got '1'"),
        ({"c": 1j}, r"level 'c': value: expected float32\[\], got 1j"),
        ({"c": {"c": 1.0}}, "level 'c': value: its structure is"),
        (
            {"m": dataclasses.replace(m, w=m.w.astype(jnp.float16))},
            r"'m': value\.w: .*float16\[2\]",
        ),
        ({"m": dataclasses.replace(m, activation=jnp.sin)}, r"level 'm': value\.activation: it is"),
        ({"m": dataclasses.replace(m, key=jnp.zeros(2))}, r"level 'm': value\.key: it is"),
    ):
        with pytest.raises(ValueError, match=message):
            state.replace(values=given)
    for more, message in (
        ({"values": [1.0]}, "values is a dict of level name -> replacement, got list"),
        ({"tick": -2}, "tick is a number of ticks, at least 0, got -2"),
        ({"tick": 0.5}, r"tick: expected int32\[\], got 0.5"),
        ({"optimizers": {"c": 3}}, "level 'c': optimizer state: its structure is"),
        ({"task": jnp.ones(3)}, r"task: expected float32\[2\], got float32\[3\]"),
    ):
        with pytest.raises(ValueError, match=message):
            state.replace(**more)
    _, begun = copied()
    one = dataclasses.replace(begun.values["m"], w=jnp.ones(2))
    with pytest.raises(ValueError, match=r"'m': value\.w: .*broadcast_to\(value, \(2, 2\)\)"):
        begun.replace(values={"m": one})


def test_replaced_values_of_copies_stay_spread():
    nest, state = spread()
    m = state.values["m"]
    other = state.replace(values={"m": dataclasses.replace(m, w=np.ones((2, 2), np.float32))})
    assert len(other.values["m"].w.sharding.device_set) == 2
    assert other.values["m"].key.shape == (2,)
    nest.step(other)


def test_episodes_begin_at_tick_zero():
    nest, begun = copied()
    state, _ = nest.run(begun, 1)
    kept, _ = nest.step(state)
    begun_anew, _ = nest.step(state.replace(tick=0))
    expected, _ = nest.step(begun.replace(values={"c": state.values["c"]}))
    assert same(begun_anew.values["m"].w, expected.values["m"].w)
    assert not np.array_equal(kept.values["m"].w, expected.values["m"].w)


# Of another nest.


def plain(names=("w",), every=(1,), optimizer=None, **options):
    levels = tuple(
        nx.Level(n, lambda v, b, n=n: jnp.sum(v[n] ** 2), optimizer or optax.sgd(0.1), every=e)
        for n, e in zip(names, every, strict=True)
    )
    return nx.Nest([levels], **options)


OTHERS = {
    "a level missing": (plain(("w", "v"), (1, 1)), r"no level 'v', only 'w'"),
    "a level too many": (plain(("v",)), r"no level 'v', only 'w'"),
    "an optimizer": (plain(optimizer=optax.adam(0.1)), r"level 'w': its optimizer state has the"),
    "a task's shape": (plain(task=jnp.ones(2)), r"its task has the structure"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_state_of_another_nest_is_refused(other):
    nest, message = OTHERS[other]
    mine = plain()
    state = mine.init({"w": jnp.ones(2)}, KEY)
    name = nest.groups[0][-1].name
    for use in (
        nest.step,
        nest.levels,
        lambda s: nest.run(s, 1),
        lambda s: nest.gradient(s, name),
        lambda s: nx.compare_flows(nest, s, [nx.Direct()], name, exact=nx.Direct()),
    ):
        with pytest.raises(ValueError, match=f"state of another nest: .*{message}.*nest.init"):
            use(state)
    mine.step(state)


def test_a_state_with_other_copies_is_refused():
    def nest(copies):
        w = nx.Level(
            "w", lambda v, b: jnp.sum(v["w"] ** 2), optax.sgd(0.1),
            start=lambda v, t, k: jnp.ones(2), horizon=2,
        )  # fmt: skip
        p = nx.Level("p", lambda v, b: jnp.sum(v["p"] ** 2), optax.sgd(0.1))
        return nx.Nest([(w, p)], copies=copies)

    state = nest(2).init({"p": jnp.ones(2)}, KEY)
    message = r"level 'p': its value is float32\[2, 2\], without a first axis of 3 copies"
    with pytest.raises(ValueError, match=message):
        nest(3).step(state)
    other, single = nest(2), nest(None)
    other.step(state)  # never begun, but the state is one of its own
    with pytest.raises(
        ValueError, match=r"level 'w': its value is float32\[2, 2\], expected.*\[2\]"
    ):
        single.step(state)


def test_a_state_between_two_steps_is_refused():
    def start(values, task, key):
        return jnp.zeros(2)

    inner = nx.Level(
        "w", lambda v, b: jnp.sum((v["w"] - 1) ** 2), optax.sgd(0.1), start=start, horizon=4
    )
    outer = nx.Level("c", lambda v, b: v["c"] ** 2, optax.sgd(0.1))
    by_one = nx.Nest([(inner, outer)])
    by_two = nx.Nest([(inner, dataclasses.replace(outer, every=2))])
    state, _ = by_one.run(by_one.init({"c": 1.0}, KEY), 3)
    for use in (by_two.step, lambda s: by_two.run(s, 1), lambda s: by_two.gradient(s, "c")):
        with pytest.raises(
            ValueError, match=r"after 3 ticks it is 1 ticks into.*'c'.*replace\(tick=0"
        ):
            use(state)
    after, _ = by_two.run(state.replace(tick=0), 2)  # the episode begins
    np.testing.assert_allclose(after.values["w"], 1 - 0.8**4, rtol=1e-6)
    state, _ = by_one.step(state)
    after, _ = by_two.step(state)  # at tick 4, where its own episodes begin as well
    np.testing.assert_allclose(after.values["w"], 1 - 0.8**2, rtol=1e-6)


def test_a_state_over_another_task_is_refused():
    def nest(task):
        return nx.Nest([nx.Level("w", lambda v, b: (v["w"] - b["x"]) ** 2, optax.sgd(0.5))], task)

    train, test = nest({"x": 1.0}), nest({"x": 5.0})
    state, _ = train.run(train.init({"w": 0.0}, KEY), 1)
    with pytest.raises(ValueError, match=r"its task\['x'\] holds other numbers.*task=nest.task"):
        test.gradient(state, "w")
    assert float(test.gradient(state.replace(task=test.task), "w")) == 2 * (1 - 5)
    again = nest({"x": 1.0})  # a new process
    assert same(again.step(state), train.step(state))


def test_states_that_come_straight_from_the_nest_are_not_waited_for():
    nest = plain(every=(1,))
    state = nest.init({"w": jnp.ones(2)}, KEY)
    for _ in range(2):
        assert _belongs.known(nest.machine, state)
        state, _ = nest.step(state)
    state, _ = nest.run(state, 2)
    assert _belongs.known(nest.machine, state)
    assert _belongs.known(nest.machine, state.replace(values={"w": jnp.ones(2)}))
    assert not _belongs.known(nest.machine, state.replace(tick=0))
