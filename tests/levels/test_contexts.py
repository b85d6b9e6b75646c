"""Which contexts are one: levels given them see the same batch at the same tick (rule R4)."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from references.nests import SIZES, agree, draw_task, noise, noisy, objective, starting

import nestax as nx
from nestax.levels import _draws

KEY = jax.random.key(0)


class Data:
    def __init__(self, scale):
        self.scale = scale

    def draw(self, task, key):
        return self.scale * noise(key, 2)


@dataclasses.dataclass(frozen=True)
class Noise:
    scale: float

    def __call__(self, task, key):
        return self.scale * noise(key, 2)


def normal(scale, task, key, *, mean=0.0):
    return mean + jnp.asarray(scale) * noise(key, 2)


DATA, partial = Data(1.0), functools.partial
ONE = {
    "methods": (DATA.draw, DATA.draw),
    "partials": (partial(normal, 2.0, mean=1.0), partial(normal, 2.0, mean=1.0)),
    "partials of methods": (partial(DATA.draw), partial(DATA.draw)),
    "partials with arrays": (
        partial(normal, np.arange(2.0)), partial(normal, np.arange(2.0)),
    ),
    "partials with JAX arrays": (
        partial(normal, jnp.arange(2.0)), partial(normal, jnp.arange(2.0)),
    ),
    "equal objects": (Noise(1.0), Noise(1.0)),
}  # fmt: skip
TWO = {
    "lambdas of one line": tuple(lambda task, key: noise(key, 2) for _ in range(2)),
    "methods of two objects": (Data(1.0).draw, Data(1.0).draw),
    "partials": (partial(normal, 2.0), partial(normal, 3.0)),
    "partials by keyword": (partial(normal, 2.0, mean=1.0), partial(normal, 2.0)),
    "partials of 1 and 1.0": (partial(normal, 1), partial(normal, 1.0)),
    "partials with arrays": (
        partial(normal, jnp.arange(2.0)), partial(normal, jnp.ones(2)),
    ),
    "unequal objects": (Noise(1.0), Noise(2.0)),
}  # fmt: skip


def seen(**contexts):
    """What levels with these contexts see in two ticks, by name."""

    def level(name, context):
        return nx.Level(name, lambda v, b: (jnp.sum(v[name] * b), b), optax.sgd(0.1), context)

    nest = nx.Nest([tuple(level(*one) for one in contexts.items())])
    _, info = nest.run(nest.init(dict.fromkeys(contexts, np.ones(2, np.float32)), KEY), 2)
    return {name: np.asarray(one.user) for name, one in info.items()}


def of_pairs(kinds):
    """What the two levels of each kind see, all in one nest."""
    pairs = {f"{kind} {i}": pair[i] for kind, pair in kinds.items() for i in (0, 1)}
    found = seen(**pairs)
    return {kind: (found[f"{kind} 0"], found[f"{kind} 1"]) for kind in kinds}


def test_equal_contexts_are_one():
    for kind, (a, b) in of_pairs(ONE).items():
        np.testing.assert_array_equal(a, b, err_msg=kind)


def test_contexts_that_differ_are_two():
    for kind, (a, b) in of_pairs(TWO).items():
        assert not np.array_equal(a, b), kind
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.99, kind  # nor one scaled


def test_the_first_of_two_draws_what_it_draws_alone():
    alone = seen(a=DATA.draw)["a"]
    for other in (DATA.draw, Data(1.0).draw):
        np.testing.assert_array_equal(seen(a=DATA.draw, b=other)["a"], alone)


def test_equal_contexts_in_a_nest_of_copies_with_an_override(x64, threefry):
    """Against the interpreter, which knows the rule for itself."""
    rng, names = np.random.default_rng(3), ["a", "b", "c"]

    def context(scale, task, key):
        return noisy(scale)(task, key)

    def drawn():
        return partial(context, 0.3)

    implicit = nx.Implicit(nx.Dense(), context=drawn())
    levels = [
        nx.Level("a", objective(rng, "a", names), optax.sgd(0.1), drawn(),
                 start=starting(rng, "a", ["b", "c"])),
        nx.Level("b", objective(rng, "b", names), optax.sgd(0.1), partial(context, 0.2),
                 every=2),
        nx.Level("c", objective(rng, "c", names), optax.sgd(0.1), drawn(), every=2, flow=implicit),
    ]  # fmt: skip
    nest = nx.Nest([levels[0], levels[1:]], task=draw_task, copies=2)
    values = {name: jnp.asarray(rng.normal(size=SIZES[name])) for name in "bc"}
    agree(nest, values, whole_run=False)


def test_flows_are_compared_on_the_same_batches():
    inner = nx.Level(
        "w", lambda v, b: jnp.sum((v["w"] - v["x"] - b) ** 2), optax.sgd(0.5), DATA.draw
    )
    outer = nx.Level(
        "x", lambda v, b: jnp.sum(v["w"] * b), optax.sgd(0.0), DATA.draw, every=2, flow=nx.Unroll()
    )
    nest = nx.Nest([inner, outer])
    state = nest.init({"w": jnp.ones(2), "x": jnp.ones(2)}, KEY)
    row = nx.compare_flows(nest, state, [nx.Unroll()], draws=2, repeats=1).rows[0]
    assert row.error.max() < 1e-6


def test_what_a_context_closes_over_may_change_and_its_draws_do_not():
    seen: list[int] = []

    def context(task, key):
        seen.append(1)
        return jax.random.normal(key)

    level = nx.Level("w", lambda v, b: (v["w"] * b, b), optax.sgd(0.1), context)
    nest = nx.Nest([level])
    state = nest.init({"w": 1.0}, KEY)
    once, _ = nest.step(state)
    _, info = nest.step(once)
    np.testing.assert_array_equal(nest.run(state, 2)[1]["w"].user[1:], info["w"].user)


def test_a_definition_does_not_depend_on_where_it_lies():
    """A script draws the same run and imported; functions of two modules differ all the same."""

    def of_module(name, source="def draw(task, key):\n    return jax.random.normal(key)"):
        space = {"jax": jax, "__name__": name}
        exec(source, space)
        return space["draw"]

    one, other = of_module("__main__"), of_module("study")
    assert _draws.definition(one) == _draws.definition(other)
    levels = [
        nx.Level(n, lambda v, b, n=n: (v[n], b), optax.sgd(0.1), c)
        for n, c in (("a", one), ("b", other))
    ]
    nest = nx.Nest(levels)
    info = nest.step(nest.init({"a": 0.0, "b": 0.0}, KEY))[1]
    assert info["a"].user != info["b"].user


def test_a_definition_is_the_same_in_every_process():
    class Label:
        pass

    def closing(table):
        return lambda task, key: table

    one, other = ({Label(): 1.0, "a": 2}, {Label(): 1.0, "a": 2})
    assert _draws.definition(closing(one)) == _draws.definition(closing(other))
    assert _draws.definition(closing({"a": 2})) != _draws.definition(closing({"b": 2}))
