"""State that is not a weight: statistics of equinox and flax modules, dropout, refusals."""

import copy

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from references.nests import noise

import nestax as nx
from nestax.levels import _draws

ONLY_PARAMS = {"params": True, "stats": False}


def keep(value, info):
    return {**value, "stats": info["stats"]}


# The same network in three libraries: (value to begin with, (value, x, train) -> (outputs, stats)).


class EquinoxNet(eqx.Module):
    hidden: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    drop: eqx.nn.Dropout
    out: eqx.nn.Linear

    def __init__(self):
        self.hidden = eqx.nn.Linear(2, 3, key=jax.random.key(1))
        self.norm = eqx.nn.BatchNorm(3, "batch", momentum=0.7, mode="batch")
        self.drop = eqx.nn.Dropout(0.5)
        self.out = eqx.nn.Linear(3, 1, key=jax.random.key(2))

    def __call__(self, x, state):
        x, state = self.norm(self.hidden(x), state)
        x = self.drop(jnp.tanh(x), inference=True)
        return self.out(x)[0], state


def equinox_net():
    model, state = eqx.nn.make_with_state(EquinoxNet)()

    def apply(value, x, train):
        model = value["params"] if train else eqx.nn.inference_mode(value["params"])
        run = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
        return run(x, value["stats"])

    return {"params": model, "stats": state}, apply


def nnx_net():
    rngs = nnx.Rngs(0)
    norm = nnx.BatchNorm(3, momentum=0.7, rngs=rngs)
    net = nnx.Sequential(nnx.Linear(2, 3, rngs=rngs), norm, jnp.tanh, nnx.Linear(3, 1, rngs=rngs))
    graph, params, stats = nnx.split(net, nnx.Param, nnx.BatchStat)

    def apply(value, x, train):
        model = nnx.merge(graph, value["params"], value["stats"], copy=True)
        model.set_attributes(use_running_average=not train)
        return model(x)[:, 0], nnx.state(model, nnx.BatchStat)

    return {"params": params, "stats": stats}, apply


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.7)(nn.Dense(3)(x))
        return nn.Dense(1)(jnp.tanh(x))[:, 0]


def linen_net():
    net = LinenNet()
    begin = net.init(jax.random.key(0), jnp.ones((2, 2)), False)

    def apply(value, x, train):
        variables = {"params": value["params"], "batch_stats": value["stats"]}
        y, changed = net.apply(variables, x, train, mutable=["batch_stats"])
        return y, changed["batch_stats"]

    return {"params": begin["params"], "stats": begin["batch_stats"]}, apply


NETS = {"equinox": equinox_net, "nnx": nnx_net, "linen": linen_net}


def make(library):
    begin, apply = NETS[library]()
    wide = lambda a: a.astype(jnp.float64) if eqx.is_inexact_array(a) else a  # noqa: E731

    def error(value, batch, train=True):
        y, stats = apply(value, batch["x"], train)
        return jnp.mean((y - batch["y"]) ** 2), {"stats": stats}

    return jax.tree.map(wide, begin), error


def draw(key):
    x = noise(key, 24).reshape(2, 6, 2)
    return {"x": x, "y": jnp.sin(x[..., 0] + x[..., 1])}  # support and query


def half(i):
    return lambda task, key: jax.tree.map(lambda a: a[i], task)


def close(found, expected, rtol=1e-9):
    found, expected = (
        [a for a in jax.tree.leaves(tree) if eqx.is_array_like(a)] for tree in (found, expected)
    )
    assert len(found) == len(expected) > 0
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-12)


def stopped(tree):
    return jax.tree.map(lambda a: jax.lax.stop_gradient(a) if eqx.is_array(a) else a, tree)


def descend(error, value, batch, rate=0.2):
    """One step by hand: the new value, of whose statistics no derivative is taken."""
    params, rest = eqx.partition(value["params"], eqx.is_inexact_array)

    def loss(params):
        return error({**value, "params": eqx.combine(params, rest)}, batch)

    gradient, info = jax.grad(loss, has_aux=True)(params)
    params = jax.tree.map(lambda p, g: p - rate * g, params, gradient)
    return {"params": eqx.combine(params, rest), "stats": stopped(info["stats"])}


@pytest.mark.parametrize("library", NETS)
def test_batchnorm_in_maml(x64, library):
    begin, error = make(library)

    def query(values, batch):
        loss, _ = error(values["w"], batch, train=False)  # by the statistics of the inner steps
        return loss, {"stats": values["w"]["stats"]}

    def mean_over_copies(value, info):
        mean = lambda a: jnp.mean(a, axis=0) if eqx.is_inexact_array(a) else a[0]  # noqa: E731
        return {**value, "stats": jax.tree.map(mean, info["stats"])}

    outer = optax.chain(optax.add_decayed_weights(0.5), optax.sgd(0.3))
    w = nx.Level(
        "w",
        lambda values, batch: error(values["w"], batch),
        optax.sgd(0.2),
        half(0),
        start=lambda values, task, key: values["init"],
        trained=ONLY_PARAMS,
        keep=keep,
    )
    init = nx.Level(
        "init",
        query,
        outer,
        half(1),
        every=2,
        flow=nx.Unroll(),
        trained=ONLY_PARAMS,
        keep=mean_over_copies,
    )
    nest = nx.Nest([w, init], task=draw, copies=2)
    state = nest.init({"init": begin}, jax.random.key(3))
    end, info = nest.run(state, 2)

    params, rest = eqx.partition(begin["params"], eqx.is_inexact_array)
    stats, rule = begin["stats"], outer.init(params)

    def adapted(params, stats, task):
        value = {"params": eqx.combine(params, rest), "stats": stats}
        for _ in range(2):
            value = descend(error, value, half(0)(task, None))
        return error(value, half(1)(task, None), train=False)[0], value["stats"]

    @jax.jit
    def step(params, stats, rule, keys):
        def mean(params):
            each = jax.vmap(lambda key: adapted(params, stats, draw(key)))
            losses, ends = each(keys)
            return jnp.mean(losses), ends

        gradient, ends = jax.grad(mean, has_aux=True)(params)
        updates, rule = outer.update(gradient, rule, params)
        half = lambda a: jnp.mean(a, axis=0) if eqx.is_inexact_array(a) else a[0]  # noqa: E731
        return optax.apply_updates(params, updates), jax.tree.map(half, ends), rule

    for tick in (0, 2):
        keys = jnp.stack([_draws.task_key(state.key, tick, copy) for copy in range(2)])
        params, stats, rule = step(params, stats, rule, keys)
    close(eqx.filter(end.values["init"]["params"], eqx.is_inexact_array), params)
    close(end.values["init"]["stats"], stats)
    assert jax.tree.leaves(info["w"].user) == []  # kept, and not reported as well


FLOWS = {"equinox": nx.Unroll(), "nnx": nx.Forward(), "linen": nx.Implicit(nx.Dense())}


@pytest.mark.parametrize("library", NETS)
def test_batchnorm_in_a_bilevel_problem(x64, library):
    begin, error = make(library)

    def train(values, batch):
        loss, info = error(values["w"], batch)
        weights = jax.tree.leaves(eqx.filter(values["w"]["params"], eqx.is_inexact_array))
        return loss + jnp.exp(values["decay"]) * sum(jnp.sum(a**2) for a in weights) / 2, info

    def valid(values, batch):
        return error(values["w"], batch, train=False)[0]

    def batches(task, key):
        return half(0)(draw(key), None)

    task = half(1)(draw(jax.random.key(5)), None)
    w = nx.Level("w", train, optax.sgd(0.2), batches, trained=ONLY_PARAMS, keep=keep)
    decay = nx.Level("decay", valid, optax.sgd(1.0), every=2, flow=FLOWS[library])
    nest = nx.Nest([w, decay], task)
    state = nest.init({"w": begin, "decay": -1.0}, jax.random.key(4))
    end, _ = nest.run(state, 2)

    params, rest = eqx.partition(begin["params"], eqx.is_inexact_array)
    flat, unravel = jax.flatten_util.ravel_pytree(params)

    def value_of(flat, stats):
        return {"params": eqx.combine(unravel(flat), rest), "stats": stats}

    def train_of(flat, stats, decay, batch):
        return train({"w": value_of(flat, stats), "decay": decay}, batch)

    def period(decay, flat, stats, keys):
        for key in keys:
            batch = batches(task, key)
            gradient, info = jax.grad(train_of, has_aux=True)(flat, stats, decay, batch)
            flat, stats = flat - 0.2 * gradient, stopped(info["stats"])
        return valid({"w": value_of(flat, stats)}, task), (flat, stats)

    @jax.jit
    def step(decay, flat, stats, keys):
        gradient, (flat, stats) = jax.grad(period, has_aux=True)(decay, flat, stats, keys)
        if library == "linen":  # implicit, at the end and on the batch of that tick
            inner = lambda flat, decay: train_of(flat, stats, decay, batches(task, keys[1]))[0]  # noqa: E731
            hessian = jax.hessian(inner)(flat, decay)
            cross = jax.jacobian(jax.grad(inner), 1)(flat, decay)
            outer = jax.grad(lambda flat: valid({"w": value_of(flat, stats)}, task))(flat)
            gradient = -cross @ jnp.linalg.solve(hessian, outer)
        return decay - gradient, flat, stats

    point = (jnp.asarray(-1.0), flat, begin["stats"])
    drawn = lambda tick: _draws._fold(state.key, _draws.definition(batches), 0, tick, 0)  # noqa: E731
    for first in (0, 2):
        point = step(*point, [drawn(first), drawn(first + 1)])
    close(end.values["decay"], point[0], rtol=1e-8)
    close(eqx.filter(end.values["w"]["params"], eqx.is_inexact_array), unravel(point[1]), 1e-8)
    close(end.values["w"]["stats"], point[2])


def test_a_statistic_for_every_inner_step(x64):
    """MAML++: row i of a table belongs to the i-th inner step of every episode."""

    def normed(values, batch):
        value = values["w"]
        mean = jnp.mean(batch, axis=0)
        loss = jnp.sum((batch[0] - mean + value["bias"] - 1) ** 2) / 2
        return loss, {"row": 0.9 * value["table"][value["step"]] + 0.1 * mean}

    def write(value, info):
        table = value["table"].at[value["step"]].set(info["row"])
        return {**value, "table": table, "step": value["step"] + 1}

    def query(values, batch):
        value = values["w"]
        shifted = batch[0] - value["table"][-1] + value["bias"]
        return jnp.sum(shifted**2) / 2, {"table": value["table"]}

    def average(value, info):
        assert info["table"].shape == (2, 3, 4)  # copies, inner steps, features
        return {**value, "table": jnp.mean(info["table"], axis=0)}

    context = lambda task, key: task[None] + noise(key, 20).reshape(5, 4)  # noqa: E731
    w = nx.Level(
        "w",
        normed,
        optax.adamw(0.1, eps_root=1e-8, weight_decay=0.5),
        context,
        start=lambda values, task, key: {**values["init"], "step": jnp.asarray(0)},
        trained=lambda value: {name: name == "bias" for name in value},
        keep=write,
    )
    init = nx.Level(
        "init",
        query,
        optax.sgd(0.1),
        context,
        every=3,
        flow=nx.Unroll(),
        trained={"bias": True, "table": False},
        keep=average,
    )
    nest = nx.Nest([w, init], task=jnp.arange(4.0), copies=2)
    state = nest.init(
        {"init": {"bias": jnp.zeros(4), "table": jnp.zeros((3, 4))}}, jax.random.key(0)
    )
    end, _ = nest.run(state, 2)

    bias, table = jnp.zeros(4), jnp.zeros((3, 4))
    rule = optax.adamw(0.1, eps_root=1e-8, weight_decay=0.5)

    @jax.jit
    def outer(bias, table, batches, last):
        def one(bias, batches, last):
            memory, rows = rule.init(bias), table
            for i, batch in enumerate(batches):
                mean = jnp.mean(batch, axis=0)
                # The gradient of the inner loss.
                updates, memory = rule.update(batch[0] - mean + bias - 1, memory, bias)
                bias, rows = bias + updates, rows.at[i].set(0.9 * rows[i] + 0.1 * mean)
            return jnp.sum((last[0] - rows[-1] + bias) ** 2) / 2, rows

        def both(bias):
            losses, rows = jax.vmap(one, (None, 0, 0))(bias, batches, last)
            return jnp.mean(losses), jnp.mean(rows, axis=0)

        gradient, table = jax.grad(both, has_aux=True)(bias)
        return bias - 0.1 * gradient, table

    for first in (0, 3):
        take = lambda t, c: _draws.batch(context, state.key, jnp.arange(4.0), t, c)  # noqa: E731
        batches = jnp.array([[take(first + i, copy) for i in range(3)] for copy in range(2)])
        bias, table = outer(bias, table, batches, batches[:, 2])
    close(end.values["init"], {"bias": bias, "table": table})


def test_state_that_a_start_makes_of_outer_values_is_differentiated(x64):
    """Also where an Implicit further out runs the period again."""
    w = nx.Level(
        "w",
        lambda values, _: (values["w"]["w"] - values["w"]["scale"]) ** 2 / 2,
        optax.sgd(0.5),
        start=lambda values, task, key: {"w": 0.0, "scale": values["b"]},
        trained={"w": True, "scale": False},
    )
    # Two steps reach w = 0.75 b, so that the product is 0.75 b^2.
    product = lambda values: values["w"]["w"] * values["w"]["scale"]  # noqa: E731
    loss = lambda values, _: (product(values) - values["c"]) ** 2 / 2 + values["b"] ** 2 / 2  # noqa: E731
    b = nx.Level("b", loss, optax.sgd(0.0), every=2, flow=nx.Unroll())
    implicit = nx.Implicit(nx.Dense())
    outer = lambda values, _: product(values) + values["b"]  # noqa: E731
    c = nx.Level("c", outer, optax.sgd(0.0), every=2, flow=implicit)
    nest = nx.Nest([w, b, c])
    state = nest.init({"b": 0.8, "c": 0.3}, jax.random.key(0))
    slope, curvature = 1.5 * 0.8, 1.5 * (0.75 * 0.8**2 - 0.3) + 2.25 * 0.8**2 + 1
    close(nest.gradient(state, "b"), slope * (0.75 * 0.8**2 - 0.3) + 0.8)
    close(nest.gradient(state, "c"), (slope + 1) * slope / curvature)


@pytest.mark.parametrize("library", NETS)
def test_weight_decay_leaves_statistics_alone(library):
    value, _ = NETS[library]()
    loss = lambda values, batch: 0.0 * optax.tree.norm(eqx.filter(values, eqx.is_inexact_array))  # noqa: E731
    net = nx.Level("net", loss, optax.adamw(0.1, weight_decay=0.5), trained=ONLY_PARAMS)
    state = nx.Nest([net]).init({"net": value}, jax.random.key(0))
    end, _ = nx.Nest([net]).run(state, 20)
    close(end.values["net"]["stats"], value["stats"])
    before, after = (
        optax.tree.norm(eqx.filter(one["params"], eqx.is_inexact_array))
        for one in (value, end.values["net"])
    )
    np.testing.assert_allclose(after / before, 0.95**20, rtol=1e-4)
    if library == "equinox":
        assert end.values["net"]["params"].drop.p == 0.5  # a Python float, which is no weight


@pytest.mark.parametrize("library", ["equinox", "nnx"])
def test_dropout_takes_the_key_of_the_batch(library):
    if library == "nnx":
        graph, params = nnx.split(nnx.Dropout(0.5), nnx.Param)

        def dropped(key):
            return nnx.merge(graph, params)(jnp.ones(8), rngs=nnx.Rngs(dropout=key))
    else:
        dropped = lambda key: eqx.nn.Dropout(0.5)(jnp.ones(8), key=key)  # noqa: E731

    def loss(values, key):
        return jnp.sum(values["w"] * dropped(key)), {"mask": dropped(key)}

    keys = lambda task, key: key  # noqa: E731
    nest = nx.Nest([nx.Level("w", loss, optax.sgd(0.1), keys)])
    state = nest.init({"w": jnp.zeros(8)}, jax.random.key(0))
    end, info = nest.run(state, 3)
    masks = [dropped(_draws.batch(keys, state.key, None, tick, 0)) for tick in range(3)]
    np.testing.assert_array_equal(info["w"].user["mask"], np.stack(masks))
    assert len({mask.tobytes() for mask in info["w"].user["mask"]}) == 3
    np.testing.assert_allclose(end.values["w"], -0.1 * sum(masks), rtol=1e-6)


# What is refused.


def touched(values, batch):
    return sum(jnp.sum(x) for x in jax.tree.leaves(eqx.filter(values["w"], eqx.is_inexact_array)))


def init(value, **fields):
    level = nx.Level("w", touched, optax.sgd(0.1), **fields)
    return nx.Nest([level]).init({"w": value}, jax.random.key(0))


class Whole(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(2, 2, rngs=rngs)
        self.again = self.first
        self.norm, self.drop = nnx.BatchNorm(2, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)


class Count(nnx.Variable):
    pass


class Opaque(nnx.Module, pytree=False):
    pass


def foreign(package, name):
    attributes = {"shape": (2,), "dtype": "float32", "__module__": f"{package}.somewhere"}
    return type(name, (), attributes)()


def linear():
    return nnx.Linear(2, 2, rngs=nnx.Rngs(0))


def twice(layer):
    return {"a": layer.kernel, "b": layer.kernel}


class Tied(eqx.Module):
    first: eqx.nn.Linear
    again: eqx.nn.Linear

    def __init__(self, weight=False):
        self.first = eqx.nn.Linear(2, 2, key=jax.random.key(0))
        self.again = eqx.nn.Linear(2, 2, key=jax.random.key(1)) if weight else self.first
        if weight:
            self.again = eqx.tree_at(lambda layer: layer.weight, self.again, self.first.weight)


def table():
    net = eqx.nn.Linear(2, 2, key=jax.random.key(0))
    return eqx.tree_at(lambda net: net.bias, net, np.ones(2, np.float32))


HAIKU = {"norm/~/mean_ema": {"counter": 1, "hidden": jnp.ones(2), "average": jnp.ones(2)}}
REFUSED = {
    "module": (
        lambda: Whole(nnx.Rngs(0)),
        r"\.again\.bias.* whole flax nnx module.*nnx\.split",
    ),
    "opaque": (lambda: {"net": Opaque()}, r"\['net'\].* whole flax nnx module"),
    "statistics": (lambda: nnx.state(Whole(nnx.Rngs(0))), r"\['drop'\]\['rngs'\].*random state"),
    "nnx": (lambda: nnx_net()[0], r"\['stats'\].*flax BatchStat.*trained=.*keep="),
    "variable": (lambda: {"n": Count(jnp.ones(2))}, r"\['n'\].*flax Count"),
    "rngs": (lambda: {"r": nnx.Rngs(0)}, r"\['r'\].*random state.*batch's key"),
    "tied": (lambda: twice(linear()), r"one flax Variable twice, at \['a'\] and \['b'\]"),
    "module twice": (Tied, r"equinox module twice, at \.first and \.again.*eqx\.nn\.Shared"),
    "array twice": (lambda: Tied(True), r"array .* twice, at \.first\.weight and \.again\.weight"),
    "numpy": (table, r"\.bias is a numpy array in an equinox module.*jnp\.asarray"),
    "equinox": (lambda: equinox_net()[0], r"\['stats'\].*equinox State.*keep="),
    "layer": (lambda: EquinoxNet(), r"\.norm\.batch_counter.*make_with_state"),
    "linen": (lambda: LinenNet().init(jax.random.key(0), jnp.ones((2, 2)), True), r"batch_stats"),
    "cache": (lambda: {"params": jnp.ones(2), "cache": jnp.ones(2)}, r"collection 'cache'"),
    "beside": (lambda: {"params": jnp.ones(2), "ema": jnp.ones(2)}, r"\['ema'\].*\"ema\": False"),
    "haiku": (lambda: {"w": jnp.ones(2), "state": HAIKU}, r"mean_ema.*haiku state"),
    "optax": (lambda: (jnp.ones(2), optax.adam(1.0).init(jnp.ones(2))), r"an optimizer's state"),
    "torch": (lambda: {"a": foreign("torch", "Tensor")}, r"\['a'\] is a torch Tensor.*to_jax"),
    "tensorflow": (lambda: {"a": foreign("tensorflow", "EagerTensor")}, r"tensorflow EagerTensor"),
    "shape": (lambda: {"a": jax.eval_shape(lambda: 1.0)}, r"jax ShapeDtypeStruct"),
    "words": (lambda: {"a": np.array(["b"]), "w": jnp.ones(2)}, r"\['a'\].*dtype <U1"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_leaf_that_is_no_weight(kind):
    value, message = REFUSED[kind][0](), "level 'w': its value.*" + REFUSED[kind][1]
    with pytest.raises(ValueError, match=message):
        init(value)
    firm = kind not in ("variable", "haiku", "optax", "numpy", "beside")
    if firm:  # to say that everything is trained is not enough
        with pytest.raises(ValueError, match=message):
            init(value, trained=True)
    if kind in ("torch", "tensorflow", "shape", "words"):
        with pytest.raises(ValueError, match=message):
            init(value, trained=lambda value: jax.tree.map(lambda _: False, value))
    if kind == "torch":
        with pytest.raises(ValueError, match=r"the task\['a'\] is a torch Tensor"):
            level = nx.Level("w", lambda values, batch: 0.0, optax.sgd(0.1))
            nx.Nest([level], task=value).init({"w": 1.0}, jax.random.key(0))
    if kind in ("tied", "module twice"):  # copies that never move stay tied
        init((jnp.ones(2), value), trained=(True, False))
    if kind in ("numpy", "beside"):
        init(value, trained=True)


def test_layers_tied_as_equinox_ties_them_stay_tied():
    linear = Tied(True)
    pair = linear.first, linear.again
    shared = eqx.nn.Shared(pair, lambda pair: pair[1].weight, lambda pair: pair[0].weight)
    first, again = init(shared).values["w"]()
    np.testing.assert_array_equal(first.weight, again.weight)
    init(copy.deepcopy(linear.first))


def test_layers_may_begin_with_one_array_of_ones():
    """Two norms that share it at first do so by chance, and go ways of their own."""
    ones = jnp.ones(2)
    norms = [eqx.tree_at(lambda norm: norm.weight, eqx.nn.LayerNorm(2), ones) for _ in range(2)]
    init(eqx.nn.Sequential(norms))


def test_a_module_changed_from_outside_is_explained():
    graph, params, rest = nnx.split(nnx_net_of_dropout(), nnx.Param, ...)
    loss = lambda values, batch: jnp.sum(nnx.merge(graph, values["w"], rest)(jnp.ones((1, 2))))  # noqa: E731
    level = nx.Level("w", loss, optax.sgd(0.1))
    with pytest.raises(Exception, match="Cannot mutate") as caught:
        nx.Nest([level]).init({"w": params}, jax.random.key(0))
    assert any("copy=True" in note for note in caught.value.__notes__)


def nnx_net_of_dropout():
    rngs = nnx.Rngs(0)
    return nnx.Sequential(nnx.Linear(2, 2, rngs=rngs), nnx.Dropout(0.5, rngs=rngs))


def test_a_start_is_refused_what_init_is_refused():
    w = nx.Level("w", lambda v, b: 0.0, optax.sgd(0.1), start=lambda v, t, k: nnx_net()[0])
    init = nx.Level("init", lambda v, b: 0.0, optax.sgd(0.1), every=2)
    with pytest.raises(ValueError, match=r"level 'w': its value\['stats'\].*BatchStat"):
        nx.Nest([w, init]).init({"init": 1.0}, jax.random.key(0))


@pytest.mark.parametrize(
    ("trained", "message"),
    [
        ({"a": 1, "b": False}, "trained is a pytree of bools.*got 1"),
        ({"a": eqx.is_array, "b": False}, "trained is a pytree of bools"),
        (lambda value: eqx.is_array, "from the value to one; got .* at its root"),
        ({"a": True}, "does not have the structure that `trained` says"),
        (False, "holds nothing to train.*`trained` chooses"),
    ],
)
def test_trained_must_fit_the_value(trained, message):
    with pytest.raises(ValueError, match=f"(?s)level 'w'.*{message}"):
        init({"a": jnp.ones(2), "b": jnp.ones(2)}, trained=trained)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v, i: {**v, "w": v["w"] + 1}, r"changes \['w'\], which is trained.*the optimizer"),
        (lambda v, i: v["m"], "changes the structure of the value"),
        (lambda v, i: {**v, "m": v["m"][:1]}, r"changes \['m'\] from float32\[2\] to float32\[1\]"),
        (lambda v, i: {**v, "m": jnp.ones(2, int)}, r"changes \['m'\] from float32\[2\] to int32"),
        (lambda v, i: {**v, "n": v["n"] + 1}, r"changes \['n'\] from 3 to 4.*an array"),
        (lambda v, i: {**v, "m": i["m"]}, r"got None for an info.*return \(loss, info\)"),
    ],
)
def test_keep_changes_what_is_not_trained_and_nothing_else(change, message):
    value = {"w": jnp.ones(2), "m": jnp.ones(2), "n": 3}
    with pytest.raises(ValueError, match=f"level 'w': keep {message}"):
        init(value, trained={"w": True, "m": False, "n": False}, keep=change)


def test_keep_needs_something_to_keep_and_one_info():
    with pytest.raises(ValueError, match=r"level 'w': keep has nothing to keep.*trained="):
        init({"w": jnp.ones(2)}, keep=lambda value, info: value)
    with pytest.raises(ValueError, match=r"level 'w': keep.*accumulates.*optax\.MultiSteps"):
        init({"w": jnp.ones(2)}, every=2, accumulate="mean", keep=lambda value, info: value)
