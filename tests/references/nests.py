"""Small nests whose levels all depend on one another, and what they must agree with."""

import collections
import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

import nestax as nx
from nestax.levels._draws import definition

from .interpreter import Interpreter, is_direct

SIZES = {"a": 2, "b": 1, "c": 2, "d": 1}
CLOCKS = ((1, 2, 4), (1, 2), (1, 3), (1, 2, 6), (1, 3, 6), (1, 4), (1, 1))


# Losses that couple every level, bounded below, strongly convex in the level's own value. They are
# written in `lax`: they are called thousands of times, and calls of `jnp` take twice as long.


def vector(value):
    """All trained entries of a value."""
    leaves = [x if isinstance(x, jax.Array) else jnp.asarray(x) for x in jax.tree.leaves(value)]
    leaves = [x for x in leaves if jnp.issubdtype(x.dtype, jnp.inexact)]
    leaves = [x if x.ndim == 1 else x.reshape(-1) for x in leaves]
    return leaves[0] if len(leaves) == 1 else jnp.concatenate(leaves)


def mixing(rng, names, out):
    """values -> a vector of `out` entries in which every level has a part."""
    maps = {name: jnp.asarray(rng.normal(size=(out, SIZES[name]))) for name in names}
    parts = lambda values: [lax.dot(maps[name], vector(values[name])) for name in sorted(names)]  # noqa: E731
    return lambda values: functools.reduce(lax.add, parts(values))


def objective(rng, name, names, with_info=False):
    mix, center = mixing(rng, names, 3), jnp.asarray(rng.normal(size=SIZES[name]))
    weights = jnp.asarray(rng.normal(size=3)) * 0.5

    def loss(values, batch):
        own = lax.sub(vector(values[name]), center)
        mixed = lax.tanh(lax.add(mix(values), batch["shift"]))
        found = lax.add(lax.dot(own, own), lax.dot(weights, mixed))
        return (found, {"largest": jnp.max(own)}) if with_info else found

    return loss


def noise(key, size):
    """Numbers out of the key's own bits: the program of `jax.random.normal` is longer than that of
    a whole small nest, and is compiled wherever something is drawn."""
    numbers = lax.convert_element_type(jax.random.key_data(key), jnp.result_type(float))
    turns = np.stack([np.arange(1, size + 1), np.ones(size)], axis=1) / 2.0**32
    return math.sqrt(2) * lax.sin(lax.dot(2 * math.pi * turns, numbers))


def noisy(scale):
    def context(task, key):
        return {"shift": task["shift"] + scale * noise(key, 3).astype(task["shift"].dtype)}

    return context


def draw_task(key):
    return {"shift": noise(key, 3)}


def starting(rng, name, outside):
    """A start that depends on every level outside, on the task and on chance."""
    mix = mixing(rng, outside, SIZES[name])

    def start(values, task, key):
        drawn = 0.3 * noise(key, SIZES[name])
        return jnp.tanh(mix(values) + drawn + task["shift"][: SIZES[name]])

    return start


# What a compiled nest must agree with.


def agree(nest, values, steps=2, seed=0, whole_run=True, gradients=(), tolerance=1e-10):
    """Asserts that the compiled nest does what the interpreter does; returns its end and the
    interpreter's world."""
    begin = nest.init(values, jax.random.key(seed))
    if whole_run:
        end, info = nest.run(begin, steps=steps)
    else:
        end, infos = begin, []
        for _ in range(steps):
            end, info = nest.step(end)
            infos.append(info)
        info = jax.tree.map(lambda *rows: np.concatenate(rows), *infos)
    oracle = Interpreter(nest, begin.key, definition)
    world = oracle.init(values)
    for t in range(steps * oracle.periods[-1]):
        world = oracle.tick(world, t)

    def same(ours, theirs, what):
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, err_msg=what)

    found = nest.gradient(begin, tuple(gradients)) if gradients else {}
    for level in oracle.levels:
        name, updates = level.name, world.updates[level.name]
        copied = nest.copies is not None and oracle.home[name] < oracle.shared_from
        rows = stacked if copied else (lambda entries: entries[0])
        norms = [rows([optax.tree.norm(g) for g in gradients]) for _, _, gradients in updates]
        same(info[name].loss, stacked([rows(losses) for _, losses, _ in updates]), f"{name}: loss")
        same(info[name].gradient_norm, stacked(norms), f"{name}: gradient")
        same(end.values[name], rows(world.values[name]), f"{name}: value")
        same(end.optimizers[name], rows(world.optimizers[name]), f"{name}: optimizer")
        if name in found:
            same(found[name], rows(updates[0][2]), f"{name}: nest.gradient")
    for name, episode in end.episodes.items():
        assert np.stack(episode, axis=-1).reshape(-1, 2).tolist() == [
            list(one) for one in world.episodes[name]
        ], f"{name}: episodes"
    return end, world


def stacked(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


# Nests drawn at random.


def draw(seed):
    """A nest, values to begin with, and a count of what is special about it."""
    rng = np.random.default_rng(seed)
    while True:
        declared = declare(rng)
        try:
            nest = nx.Nest(*declared[0], **declared[1])
        except ValueError:  # clocks and flows that do not go together
            continue
        found = features(nest)
        if 5 < work(nest) <= 50 and (found["flows"] or found["gathered"] > 1):
            values = {
                level.name: jnp.asarray(rng.normal(size=SIZES[level.name]))
                for group in nest.groups
                for level in group
                if not level.start
            }
            return nest, values, found


def declare(rng):
    """The arguments of a nest, which may make no sense."""

    def maybe(p):
        return rng.random() < p

    names = list("abcd"[: rng.choice([2, 3, 3, 4])])
    cuts = rng.choice(len(names) - 1, size=rng.choice([0, 1, 1, 2, 3]) % len(names), replace=False)
    groups = [[str(name) for name in part] for part in np.split(names, sorted(cuts + 1))]
    clock = CLOCKS[rng.integers(len(CLOCKS))]
    periods = sorted([1, *(int(rng.choice(clock[1:])) for _ in groups[1:])])
    every = {
        name: period if maybe(0.85) else int(rng.choice(clock))
        for group, period in zip(groups, periods, strict=True)
        for name in group
    }
    episodes = rng.integers(len(groups)) if maybe(0.9) else 0
    contexts, listed = [noisy(0.5), noisy(0.2)], []
    for k, group in enumerate(groups):
        outside = [name for later in groups[k + 1 :] for name in later]
        restart = min((every[name] for name in outside), default=1)
        override = contexts[1] if maybe(0.3) else None
        flows = [None, nx.Unroll(), nx.Unroll(last=1), nx.Forward()]
        flow = [*flows, *[nx.Implicit(nx.Dense(), override, **UNCHECKED)] * 2][rng.integers(6)]
        peers = []
        for name in group:
            own = flow if k and maybe(0.8) else None
            start = starting(rng, name, outside) if k < episodes and maybe(0.8) else None
            gathers = not isinstance(own, nx.Implicit) and every[name] > 1 and maybe(0.4)
            accumulate = str(rng.choice(["mean", "sum"])) if gathers else None
            rate = 0.2 / (every[name] if accumulate == "sum" else 1)
            peers.append(
                nx.Level(
                    name,
                    objective(rng, name, names, maybe(0.3)),
                    optimizer(rng.choice(4), rate, outside),
                    contexts[int(maybe(0.4))],
                    every[name],
                    own,
                    start,
                    int(rng.integers(1, 4)) * restart if start and maybe(0.7) else None,
                    accumulate,
                )
            )
        listed.append(tuple(peers) if maybe(0.8) else peers[0])
        listed += [] if isinstance(listed[-1], tuple) else peers[1:]
    started = any(level.start for entry in listed for level in np.ravel(entry))
    copies = int(rng.integers(2, 4)) if started and maybe(0.8) else None
    order = "alternating" if maybe(0.4) else "simultaneous"
    task = draw_task if started and maybe(0.6) else {"shift": jnp.asarray(rng.normal(size=3))}
    stagger = copies is not None and maybe(0.5)
    return (listed, task), {"copies": copies, "order": order, "stagger": stagger}


UNCHECKED: dict = {}


def optimizer(kind, rate, outside):
    """Plain, with a state, adaptive, or with a rate that belongs to an outer level."""
    if kind == 3 and outside:
        return lambda values: optax.sgd(rate * (1 + jnp.tanh(vector(values[outside[0]])[0]) / 2))
    adam = optax.adam(rate, b1=0.5, b2=0.8, eps_root=1e-3)
    return [optax.sgd(rate), optax.sgd(rate / 2, momentum=0.5), adam, optax.sgd(rate)][kind]


def work(nest):
    """About how many updates two steps take: periods, copies, and runs within runs."""
    levels = [level for group in nest.groups for level in group]
    ticks = sum(max(x.every for x in levels) / x.every for x in levels)
    flows = sum(not all(map(is_direct, group)) for group in nest.groups)
    return ticks * 2**flows * (1 + (nest.copies or 1)) / 2


def features(nest):
    levels = [level for group in nest.groups for level in group]
    found = collections.Counter(type(level.flow).__name__ for level in levels)
    for level in (level for level in levels if level.accumulate and level.every > 1):
        found += collections.Counter(("gathered", f"gathered {type(level.flow).__name__}"))
    found["flows"] = len(levels) - found["NoneType"]
    found += collections.Counter("start" for level in levels if level.start)
    found += collections.Counter("last" for x in levels if getattr(x.flow, "last", None))
    for name in ("copies", "stagger", "order", "task"):
        value = getattr(nest, name)
        found[value if isinstance(value, str) else name] += value is not None and value is not False
    found["drawn task"] += callable(nest.task)
    return found


# The same nests with state beside the weights.


def stateful(nest, values):
    """The nest with a statistic and a counter in every value, and what to begin it with."""
    groups = [tuple(map(lambda x: _remembering(nest, x), group)) for group in nest.groups]
    more = {name: getattr(nest, name) for name in ("copies", "order", "stagger")}
    begin = {name: _with_state(value, jnp.full(2, 0.2)) for name, value in values.items()}
    return nx.Nest(groups, nest.task, **more), begin


def experienced(nest, values):
    """The same nest whose first context depends on values and remembers; None if there is none, or
    if an Implicit would ask for batches that are gone."""
    contexts = [level.context for level in nest.declaration.levels if level.context is not None]
    if not contexts:
        return None
    first, name = contexts[0], nest.declaration.levels[-1].name

    def draw(values, memory, task, key):
        batch = task["shift"] + 0.1 * memory + 0.1 * jnp.sum(values[name])
        return {"shift": batch}, 0.5 * memory + 0.1 * noise(key, 3) + 0.1 * jnp.sin(batch)

    def init(values, task, key):
        return 0.2 * noise(key, 3) + 0.1 * jnp.sum(values[name])

    process = nx.Process(draw, init=init)
    change = lambda one: dataclasses.replace(  # noqa: E731
        one, context=process if one.context is first else one.context
    )
    try:
        return changed(nest, change)
    except ValueError:
        return None


def changed(nest, change):
    """The same nest with other levels."""
    groups = [
        nx.Peers(*map(change, group), order=order)
        for group, order in zip(nest.groups, nest.orders, strict=True)
    ]
    return nx.Nest(groups, nest.task, copies=nest.copies, stagger=nest.stagger)


def restless(nest):
    """The same nest with episodes of drawn lengths, which the first level with a start may end."""
    grid, first = nest.declaration.grid, nest.declaration.episodic[0].name

    def change(level):
        if level.start is None:
            return level
        spread = (grid(level), 3 * grid(level))
        if level.name != first:
            return dataclasses.replace(level, horizon=spread)
        if level.accumulate and level.every > 1:
            horizon = lambda task, key: 1 + grid(level) * jax.random.bernoulli(key)  # noqa: E731
            return dataclasses.replace(level, horizon=horizon)
        return dataclasses.replace(
            level,
            horizon=spread if nest.stagger else math.inf,
            done=lambda value, info: vector(value)[0] > 0.3,
        )

    return changed(nest, change)


def _with_state(weights, seen):
    return {"w": weights, "state": {"seen": seen, "count": jnp.asarray(0)}}


def _remembering(nest, level):
    bare = lambda values: {name: value["w"] for name, value in values.items()}  # noqa: E731
    shared = nest.copies is not None and not nest.declaration.copied(level)

    def objective(values, batch):
        found = level.objective(bare(values), batch)
        found = found[0] if isinstance(found, tuple) else found
        seen = sum(value["state"]["seen"] for value in values.values())
        own = vector(values[level.name]["w"])
        now = jnp.stack([jnp.sum(jnp.tanh(own)), jnp.tanh(found)])
        return found + 0.3 * jnp.dot(jnp.tanh(seen), now), {"now": now}

    def start(values, task, key):
        weights = level.start(bare(values), task, key)
        # Of what lies outside, so that its gradient passes here too.
        seen = sum(jnp.sum(jnp.sin(vector(value["w"]))) for value in values.values())
        return _with_state(weights, jnp.stack([jnp.tanh(seen), jnp.asarray(0.1)]))

    def keep(value, info):
        now = jnp.mean(info["now"], axis=0) if shared else info["now"]
        seen, count = value["state"]["seen"], value["state"]["count"]
        return {**value, "state": {"seen": 0.6 * seen + 0.4 * now, "count": count + 1}}

    made = level.optimizer
    return dataclasses.replace(
        level,
        objective=objective,
        optimizer=(lambda values: made(bare(values))) if callable(made) else made,
        start=start if level.start else None,
        trained={"w": True, "state": False},
        keep=None if level.accumulate and level.every > 1 else keep,
    )
