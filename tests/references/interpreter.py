"""A nest executed tick by tick in plain Python: the rules of the clock, written for reading.

Nothing is compiled and nothing is kept but what the rules name. Values and optimizer states are
lists: one entry per copy for the copied levels, a single entry for the shared ones. Every gradient
is the same sentence: the derivative, with respect to the level's own value, of its losses, where
the levels inside it are

    Direct     what they are now;
    Unroll     what they become when the period runs again from its beginning with that value;
    Implicit   what keeps their own gradients where they are now (dense Jacobians).

Of a value only what the level trains is ever a variable. What `keep` returns of the rest is a
constant.
A level given by its `Field` has that vector for its gradient. Under evolution strategies each copy
lives through the period with a value of its own, and the gradient is reckoned from the losses.
"""

import inspect
import zlib
from dataclasses import dataclass, field, replace
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

NEVER = 2**31 - 1  # the end of an episode that has none


@dataclass(frozen=True)
class World:
    """All there is at a moment. Dicts go from level names to what is said; none is ever changed."""

    task: list  # per copy
    values: dict = field(default_factory=dict)
    optimizers: dict = field(default_factory=dict)
    gathered: dict = field(default_factory=dict)  # losses and gradients since the period began
    marks: dict = field(default_factory=dict)  # the world in which the present period began
    last: dict = field(default_factory=dict)  # that of the last complete period, and its end
    free: dict = field(default_factory=dict)  # values to differentiate by, and from which tick on
    updates: dict = field(default_factory=dict)  # every (tick, losses, gradients) so far
    trials: dict = field(
        default_factory=dict
    )  # (own value, weights) while perturbed ones are lived
    flows: dict = field(default_factory=dict)  # per pair: what the flow remembers, None at first
    contexts: dict = field(default_factory=dict)  # process -> per copy (batch, memory)
    episodes: dict = field(default_factory=dict)  # per copy: ticks at which it began and will end

    def having(self, part, level, content):
        return replace(self, **{part: {**getattr(self, part), level.name: content}})


class Interpreter:
    """`init(values)`, then `tick(world, t)` for t = 0, 1, 2, ...

    `definition` gives each context the number that stands for it in a draw.
    """

    def __init__(self, nest, key, definition):
        self.nest, self.key, self.definition = nest, key, definition
        self.groups = nest.groups
        self.levels = [level for group in nest.groups for level in group]
        self.home = {level.name: k for k, group in enumerate(nest.groups) for level in group}
        self.copies = nest.copies or 1
        started = [k for k, group in enumerate(nest.groups) if any(x.start for x in group)]
        self.shared_from = max(started, default=len(self.groups) - 1) + 1 if nest.copies else 0
        self.periods = sorted({level.every for level in self.levels})
        self.pairs = any(is_evolution(x) for x in self.levels)
        bound = lambda x: (self.bound(x), self.home[x.name])  # noqa: E731
        self.longest = max((x for x in self.levels if x.start), key=bound, default=None)
        self.known = {}  # draws, which periods that run again ask for again
        contexts = [c for x in self.levels for c in (x.context, getattr(x.flow, "context", None))]
        self.contexts = []
        for context in contexts:
            if context is not None and not any(one_context(context, c) for c in self.contexts):
                self.contexts.append(context)

    def periods_outside(self, level):
        """R7: of held levels only where there are no others."""
        outside = [x for x in self.levels if self.home[x.name] > self.home[level.name]]
        return [x.every for x in [x for x in outside if not x.held] or outside]

    def grid(self, level):
        """R7: the ticks at which the level's episodes may begin are its multiples."""
        return max(min(self.periods_outside(level), default=level.every), level.every)

    def bound(self, level):
        """R7: the most ticks that an episode may have."""
        horizon = level.horizon
        if horizon is None:
            horizon = min(self.periods_outside(level), default=NEVER)
        if callable(horizon) or horizon == float("inf"):
            return NEVER
        return horizon[1] if isinstance(horizon, tuple) else horizon

    def length(self, world, level, t, copy):
        """R7: how many ticks the episode will have that begins now."""
        grid, number = self.grid(level), self.number(copy)
        key = self.draw_key(zlib.crc32(f"horizon {level.name}".encode()), t, number)
        if callable(level.horizon):
            ticks = float(called(level.horizon, number, world.task[copy], key))
            return max(1, -int(-ticks // grid)) * grid
        if isinstance(level.horizon, tuple):
            least, most = level.horizon
            ticks = least * (most / least) ** float(jax.random.uniform(key, (), jnp.float32))
            return round(ticks / grid) * grid
        return self.bound(level)

    def births(self, world):
        """R7, R8: the episodes that go on at tick 0. Staggered, they spread evenly over the longest
        one of their copy, in whole restart periods."""
        for level in [x for x in self.levels if x.start]:
            episodes = []
            for c in range(self.copies):
                age, length = 0, self.length(world, level, 0, c)
                if self.nest.stagger:
                    whole, grid = self.length(world, self.longest, 0, c), self.restart(self.longest)
                    count = self.number(self.copies)
                    age = self.number(c) * (whole // grid) // count * grid % length
                episodes.append((-age, NEVER if length == NEVER else length - age))
            world = world.having("episodes", level, episodes)
        return world

    def restart(self, level):
        return min(self.periods_outside(level), default=level.every)

    def begins(self, world, level, t, copy):
        """Whether an episode begins at this tick, whether or not it was begun already."""
        began, end = world.episodes[level.name][copy]
        return t >= end or began == t

    def number(self, copy):
        """Copies 2i and 2i + 1 share all draws under evolution strategies."""
        return copy // 2 if self.pairs else copy

    def draw_key(self, *numbers):
        """R4: a draw depends on what it is for, the tick and the copy."""
        if not numbers:
            return jax.random.wrap_key_data(self.key)
        if numbers not in self.known:
            *before, last = numbers
            self.known[numbers] = jax.random.fold_in(self.draw_key(*before), last)
        return self.known[numbers]

    def drawn_task(self, t, number):
        """R7: the task of an episode that begins now."""
        if ("task", t, number) not in self.known:
            key = self.draw_key(zlib.crc32(b"task"), t, number)
            self.known["task", t, number] = self.nest.task(key)
        return self.known["task", t, number]

    def width(self, level):
        return self.copies if self.home[level.name] < self.shared_from else 1

    def seen(self, world, copy):
        """The user's view of a copy: name -> value."""
        known = [x for x in self.levels if x.name in world.values]
        return {x.name: world.values[x.name][copy % len(world.values[x.name])] for x in known}

    def transformation(self, level, world, copy):
        made = level.optimizer
        made = made(self.seen(world, copy)) if callable(made) else made
        return optax.with_extra_args_support(made)

    # The beginning, and episodes (R7)

    def init(self, values):
        """The world before tick 0; `values` of the levels that have no `start`."""
        tasks = [self.nest.task] * self.copies
        if self.nest.tasks is not None:
            tasks = [jax.tree.map(lambda a, c=c: a[c], self.nest.tasks) for c in range(self.copies)]
        world = World(tasks)
        for level in self.levels:
            if not level.start:
                value, width = values[level.name], self.width(level)
                each = [value] * width
                if self.nest.copies and not self.longest:  # copies begin where they are told to
                    each = [jax.tree.map(lambda a, c=c: a[c], value) for c in range(width)]
                world = world.having("values", level, each)
        world = self.births(self.begin(world, 0, len(self.groups), always=True))
        for process in [c for c in self.contexts if is_process(c)]:
            held = [(None, self.memory(world, process, 0, c)) for c in range(self.copies)]
            world = replace(world, contexts={**world.contexts, process: held})
        for level in self.levels:
            states = [
                self.transformation(level, world, c).init(trainable(level, value))
                for c, value in enumerate(world.values[level.name])
            ]
            world = world.having("optimizers", level, states)
        return world

    def begin(self, world, t, limit, always=False):
        """Tasks, then fresh values, outermost first; and a mark where a period begins."""
        if callable(self.nest.task):
            new = [always or self.begins(world, self.longest, t, c) for c in range(self.copies)]
            numbers = [self.number(c) for c in range(self.copies)]
            draws = [self.drawn_task(t, n) for n in numbers]
            tasks = [
                draw if n else old for n, draw, old in zip(new, draws, world.task, strict=True)
            ]
            world = replace(world, task=tasks)
        for k in reversed(range(limit)):
            for level in self.groups[k]:
                for c in range(self.copies if level.start else 0):
                    if always or self.begins(world, level, t, c):
                        world = self.start(world, level, t, c)
            for level in self.groups[k]:
                if is_trajectory(level) and t % level.every == 0:
                    world = world.having("marks", level, world)
                if is_evolution(level) and t % level.every == 0 and not always:
                    world = self.perturb(world, level, t)
        return world

    def start(self, world, level, t, copy):
        here = self.home[level.name]
        outside = [x.name for x in self.levels if self.home[x.name] > here]
        outside += [x.name for x in self.groups[here] if not x.start]
        known = {name: x for name, x in self.seen(world, copy).items() if name in outside}
        key = self.draw_key(zlib.crc32(f"start {level.name}".encode()), t, self.number(copy))
        value = called(level.start, self.number(copy), known, world.task[copy], key)
        values = list(world.values.get(level.name, [None] * self.width(level)))
        values[copy] = value
        world = world.having("values", level, values)
        if level.name in world.episodes:
            length, episodes = self.length(world, level, t, copy), list(world.episodes[level.name])
            episodes[copy] = (t, NEVER if length == NEVER else t + length)
            world = world.having("episodes", level, episodes)
        if level.name in world.optimizers and level.reset_optimizer:
            states = list(world.optimizers[level.name])
            made = self.transformation(level, world, copy)
            states[copy] = made.init(trainable(level, value))
            world = world.having("optimizers", level, states)
        return world

    # Processes (R4)

    def memory(self, world, process, t, copy):
        if not process.init:
            return None
        key = self.draw_key(zlib.crc32(b"memory"), *self.identity(process), t, self.number(copy))
        return process.init(self.seen(world, copy), world.task[copy], key)

    def experience(self, world, t, inside):
        """Draws, before any update, from the values there; what is held longer than the period that
        is run again stays as it is."""
        for process in [c for c in self.contexts if is_process(c)]:
            if t % process.every or (inside and process.every > inside.every):
                continue
            held = list(world.contexts[process])
            for c in range(self.copies):
                memory = held[c][1]
                if self.longest and self.begins(world, self.longest, t, c):
                    memory = self.memory(world, process, t, c)
                key = self.draw_key(*self.identity(process), t, self.number(c))
                values, task = self.seen(world, c), world.task[c]
                if process.init:
                    held[c] = process.draw(values, memory, task, key)
                else:
                    held[c] = process.draw(values, task, key), None
            world = replace(world, contexts={**world.contexts, process: held})
        begun = [x for x in self.levels if is_trajectory(x) and t % x.every == 0]
        for level in begun if not inside else []:
            mark = world.marks[level.name]
            slow = {c: x for c, x in world.contexts.items() if c.every > level.every}
            mark = replace(mark, contexts={**mark.contexts, **slow})
            world = world.having("marks", level, mark)
        return world

    # One tick (R1-R3)

    def tick(self, world, t, inside=None):
        """Tick t; with `inside`, only what happens within that level up to its own turn."""
        groups = self.groups if inside is None else self.groups[: self.home[inside.name]]
        for level in self.levels:
            own, since = world.free.get(level.name, (None, None))
            world = world.having("values", level, own) if since == t else world
        world = self.begin(world, t, len(groups))
        world = self.experience(world, t, inside)
        within = [x for group in groups for x in group]
        gathering = [
            x
            for x in self.levels
            if gathers(x) and (x is inside or (x in within and not is_trajectory(x)))
        ]
        for k, group in enumerate(groups):
            point, fastest = world, [x for x in group if x.every == 1]
            world = self.move(world, fastest, t)
            if fastest and self.nest.orders[k] == "simultaneous":
                for level in [x for x in gathering if x in group]:
                    world = self.gather(world, point, level, t, inside)
                    gathering.remove(level)
        after = world
        for level in gathering:
            world = self.gather(world, after, level, t, inside)
        for period in self.periods:
            if period > 1 and (t + 1) % period == 0 and (not inside or period <= inside.every):
                for group in groups:
                    world = self.move(world, [x for x in group if x.every == period], t)
        return world

    def share(self, level, t):
        """The weight of a tick in what its level gathers."""
        if isinstance(level.accumulate, tuple):
            return level.accumulate[t % level.every]
        return 1 / level.every if level.accumulate == "mean" else 1

    def gather(self, world, point, level, t, inside):
        """Adds the losses of one tick to the level's sum and, under a point flow, the gradients."""
        share = self.share(level, t)
        only_losses = level is inside or is_evolution(level)
        new = [self.losses(point, level, t)] if only_losses else self.gradient(point, level, t)
        new = jax.tree.map(lambda x: share * x, list(new))
        if level.name in world.gathered:
            new = jax.tree.map(jnp.add, world.gathered[level.name], new)
        return world.having("gathered", level, new)

    def move(self, world, peers, t):
        """R2: all from one point, or one after another."""
        for level in [x for x in peers if is_evolution(x)]:
            world = self.estimate(world, level, t)
        together = peers and self.nest.orders[self.home[peers[0].name]] == "simultaneous"
        for game in [peers] if together else [[x] for x in peers]:
            point = world
            for level in game:
                world = self.update(world, point, level, t)
        return world

    def update(self, world, point, level, t):
        if is_evolution(level):
            losses, gradients = world.trials[level.name]
        elif gathers(level) and not is_trajectory(level):
            losses, gradients = point.gathered[level.name]
            left = {name: x for name, x in world.gathered.items() if name != level.name}
            world = replace(world, gathered=left)
        else:
            losses, gradients = self.gradient(point, level, t)
        world = self.stepped(world, point, level, t, losses, gradients)
        if is_trajectory(level):
            world = world.having("last", level, (world.marks[level.name], t))
        history = world.updates.get(level.name, ())
        return world.having("updates", level, (*history, (t, losses, gradients)))

    def stepped(self, world, point, level, t, losses, gradients):
        """The world after one update of the level, computed at `point`."""
        values, states = list(point.values[level.name]), list(point.optimizers[level.name])
        over = set()
        for c, gradient in enumerate(gradients):
            if not is_field(level):  # uphill: JAX's derivative by z is dL/dx - i dL/dy
                gradient = jax.tree.map(jnp.conj, gradient)
            own = trainable(level, values[c])

            def value_fn(v, c=c):
                moved = [merge(v, x) if i == c else x for i, x in enumerate(values)]
                return self.losses(point.having("values", level, moved), level, t)[c]

            update, states[c] = self.transformation(level, point, c).update(
                gradient,
                states[c],
                own,
                value=losses[c],
                grad=gradient,
                value_fn=value_fn,
                obj_fn=value_fn,
                grad_fn=lambda v, _=None, loss=value_fn: jax.grad(loss)(v),
                batch=self.batch(point, level.context, t, c),
            )
            values[c] = merge(optax.apply_updates(own, update), values[c])
            if level.keep:
                kept = level.keep(values[c], self.info(point, level, t, c))
                kept = jax.lax.stop_gradient(kept)
                values[c] = merge(trainable(level, values[c]), kept)
            info = self.info(point, level, t, c) if level.done else None
            if level.done and level.done(values[c], info):
                over.add(self.number(c))
        if over:
            grid = self.grid(level)
            episodes = [
                (began, min(end, (t // grid + 1) * grid) if self.number(c) in over else end)
                for c, (began, end) in enumerate(world.episodes[level.name])
            ]
            world = world.having("episodes", level, episodes)
        return world.having("values", level, values).having("optimizers", level, states)

    # Evolution strategies: copies 2i and 2i + 1 are a pair

    def perturb(self, world, level, t):
        """Gives each copy a value of its own to live through the period with."""
        (value,), kind = world.values[level.name], type(level.flow).__name__
        leaves, structure = jax.tree.flatten(trainable(level, value))
        key = self.draw_key(zlib.crc32(f"flow {level.name}".encode()), t)
        keys = jax.random.split(key, len(leaves))
        noise = [
            level.flow.sigma * jax.random.normal(k, (self.copies // 2, *x.shape), x.dtype)
            for k, x in zip(keys, leaves, strict=True)
        ]
        values, weights, memories = [], [], []
        for i in range(self.copies // 2):
            fresh = structure.unflatten([x[i] for x in noise])
            memory = world.flows.get(level.name, [None] * self.copies)[i]
            if memory is None or self.begins(world, self.longest, t, 2 * i):
                memory = None
            reused = kind == "NRES" and memory is not None
            epsilon = memory if reused else fresh
            summed = kind == "PES" and memory is not None
            weight = jax.tree.map(jnp.add, memory, fresh) if summed else epsilon
            for sign in (1, -1):
                moved = jax.tree.map(
                    lambda x, e, s=sign: x + s * e, trainable(level, value), epsilon
                )
                values.append(merge(moved, value))
            weights.append(weight)
            memories.append(weight)
        world = world.having("trials", level, (value, weights)).having("flows", level, memories)
        return world.having("values", level, values)

    def estimate(self, world, level, t):
        """The end of the period: the level's own value again, and what the losses say of it."""
        value, weights = world.trials[level.name]
        if gathers(level):
            (losses,) = world.gathered[level.name]
            left = {name: x for name, x in world.gathered.items() if name != level.name}
            world = replace(world, gathered=left)
        else:
            losses = self.losses(world, level, t)
        total = jax.tree.map(jnp.zeros_like, weights[0])
        for i, weight in enumerate(weights):
            slope = (losses[2 * i] - losses[2 * i + 1]) / (2 * level.flow.sigma**2)
            total = jax.tree.map(lambda x, w, s=slope: x + s * w, total, weight)
        gradient = jax.tree.map(lambda x: x / len(weights), total)
        world = world.having("trials", level, ([sum(losses) / len(losses)], [gradient]))
        return world.having("values", level, [value])

    # Objectives and their gradients (R4-R6, R8)

    def batch(self, world, context, t, copy):
        if context is None:
            return world.task[copy]
        if is_process(context):
            return world.contexts[context][copy][0]
        task, number = world.task[copy], self.number(copy)
        what = (*self.identity(context), t, number)
        if ("batch", what, id(task)) not in self.known:
            drawn = called(context, number, task, self.draw_key(*what))
            self.known["batch", what, id(task)] = task, drawn  # an id is that of what still lives
        return self.known["batch", what, id(task)][1]

    def identity(self, context):
        """What a context is, and its number among those defined alike."""
        what = self.definition(context)
        alike = [c for c in self.contexts if self.definition(c) == what]
        return what, [one_context(context, c) for c in alike].index(True)

    def info(self, world, level, t, copy):
        """What the objective returns beside its loss, where the gradient is taken; of a shared
        level all copies' stacked."""
        if is_implicit(level):
            world = self.settle(world, world, self.home[level.name], t, 1)
        shared = self.nest.copies and self.home[level.name] >= self.shared_from
        found = []
        for c in range(self.copies) if shared else [copy]:
            batch = self.batch(world, level.context, t, c)
            returned = level.objective(self.seen(world, c), batch)
            found.append(returned[1] if isinstance(returned, tuple) else None)
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *found) if shared else found[0]

    def losses(self, world, level, t, context=None):
        """One per copy; of a shared level their mean."""
        found = []
        for c in range(self.copies):
            batch = self.batch(world, context or level.context, t, c)
            loss = level.objective(self.seen(world, c), batch)
            loss = loss[0] if isinstance(loss, tuple) else loss
            if is_field(level):
                loss = sum(jnp.sum(x**2) for x in jax.tree.leaves(trainable(level, loss))) / 2
            found.append(loss)
        each = self.width(level) == self.copies or is_evolution(level)
        return found if each else [sum(found) / len(found)]

    def field(self, world, level, t, context=None):
        """What a level given by its field follows: one per copy, or their mean."""
        found = []
        for c in range(self.copies):
            batch = self.batch(world, context or level.context, t, c)
            vector = level.objective(self.seen(world, c), batch)
            vector = vector[0] if isinstance(vector, tuple) else vector
            found.append(trainable(level, vector))
        if self.width(level) == self.copies:
            return found
        return [jax.tree.map(lambda *x: sum(x) / len(x), *found)]

    def gradient(self, now, level, t, at=None, context=None, order=1):
        """Losses and gradients of the level as its flow computes them.

        `at` is the point, by default `now`. Elsewhere, what the levels inside have become there is
        reckoned from `now`, where they really are. `order`: how often the losses will have been
        differentiated when all is done.
        """
        point, k = at or now, self.home[level.name]
        if is_field(level):
            return self.losses(point, level, t, context), self.field(point, level, t, context)

        def total(own):
            own = list(map(merge, own, point.values[level.name]))
            world = point.having("values", level, own)
            if is_trajectory(level):
                mark, end = now.marks[level.name], t
                if at is not None:
                    mark, end = now.last[level.name]
                    mark = self.graft(mark, at, self.groups[k:])
                ran = self.again(mark, level, own, end)
                losses = self.losses(self.graft(world, ran, self.groups[:k]), level, t, context)
                losses = ran.gathered[level.name][0] if gathers(level) else losses
            else:
                world = self.settle(now, world, k, t, order) if is_implicit(level) else world
                losses = self.losses(world, level, t, context)
            return sum(losses), losses

        own = [trainable(level, x) for x in point.values[level.name]]
        (_, losses), gradients = jax.value_and_grad(total, has_aux=True)(own)
        return losses, gradients

    def over_period(self, now, level, t, at, context, order):
        """R5: what a level gathers in its last complete period, or in its first, at one point."""
        begin = max((t + 1) // level.every * level.every - level.every, 0)
        found = []
        for s in range(begin, begin + level.every):
            here, share = (
                list(self.gradient(now, level, s, at, context, order)),
                self.share(level, s),
            )
            found.append(jax.tree.map(lambda x, share=share: share * x, here))
        return jax.tree.map(lambda *x: sum(x), *found)

    def again(self, world, level, own, end):
        """Runs what is inside the level over its period once more, with its values `own`."""
        begin = since = end + 1 - level.every
        if getattr(level.flow, "last", None):
            loop = max((p for p in self.periods if p < level.every), default=level.every)
            since = end + 1 - level.flow.last * loop
        world = world.having("free", level, (own, since))
        for t in range(begin, end + 1):
            world = self.tick(world, t, inside=level)
        return world

    def settle(self, now, at, k, t, order):
        """The point `at` with everything inside group k as a function of the rest.

        Which function, the flow of group k says: the period run again, or the values at which the
        inner levels' own gradients are what they are `now`.
        """
        eliminator = next(x for x in self.groups[k] if not is_direct(x))
        if is_trajectory(eliminator):
            mark, end = now.last[eliminator.name]
            own = at.values[eliminator.name]
            ran = self.again(self.graft(mark, at, self.groups[k:]), eliminator, own, end)
            return self.graft(at, ran, self.groups[:k])
        done = [j for j in range(k) if not all(is_direct(x) for x in self.groups[j])]
        first = max(done, default=0)
        unknown = [x for group in self.groups[first:k] for x in group]
        by_update = eliminator.flow.condition == "update"
        parts = [[[trainable(x, v) for v in now.values[x.name]] for x in unknown]]
        parts += [[[inexact(s) for s in now.optimizers[x.name]] for x in unknown]] * by_update
        flat, unravel = ravel_pytree(parts)

        def point(x, world):
            parts = unravel(x)
            for part, own in zip(("values", "optimizers"), parts, strict=False):
                for level, new in zip(unknown, own, strict=True):
                    new = list(map(merge, new, getattr(now, part)[level.name]))
                    world = world.having(part, level, new)
            return world

        def stationarity(x, world):
            world, found = point(x, world), []
            settled = self.settle(now, world, first, t, order + 1) if done else world
            for level in unknown:
                where = settled if is_direct(level) else world
                context = eliminator.flow.context
                arguments = (now, level, t, where, context, order + 1)
                if gathers(level) and is_direct(level):
                    found.append(self.over_period(*arguments))
                else:
                    found.append(self.gradient(*arguments))
            if not by_update:
                return ravel_pytree([gradients for _, gradients in found])[0]
            moved = world
            for level, (losses, gradients) in zip(unknown, found, strict=True):
                moved = self.stepped(moved, settled, level, t, losses, gradients)
            after = [[[trainable(x, v) for v in moved.values[x.name]] for x in unknown]]
            after += [[[inexact(s) for s in moved.optimizers[x.name]] for x in unknown]]
            return x - ravel_pytree(after)[0]

        matrix = jax.jacobian(stationarity)(flat, now)
        level_set, x = stationarity(flat, now), flat
        for _ in range(order):  # each step makes one more order of derivative right
            x = x - jnp.linalg.solve(matrix, stationarity(x, at) - level_set)
        world = point(x, at)
        return self.settle(now, world, first, t, order) if done else world

    def graft(self, world, other, groups):
        """The world with the values that another one has in some groups."""
        for level in [x for group in groups for x in group]:
            world = world.having("values", level, other.values[level.name])
        return world


def called(function, copy, *arguments):
    """R4, R7: what has a parameter of that name is told the number of the copy."""
    told = {"copy": copy} if "copy" in inspect.signature(function).parameters else {}
    return function(*arguments, **told)


def one_context(a, b):
    """R4: methods of one object, and one function applied to equal arguments, are one context."""
    if isinstance(a, partial) and isinstance(b, partial):
        return (a.func, a.args, a.keywords) == (b.func, b.args, b.keywords)
    return a == b


def is_process(context):
    return type(context).__name__ == "Process"


def is_field(level):
    return type(level.objective).__name__ == "Field"


def is_direct(level):
    return type(level.flow).__name__ in ("NoneType", "Direct")


def is_trajectory(level):
    return type(level.flow).__name__ in ("Unroll", "Forward")


def is_evolution(level):
    return type(level.flow).__name__ in ("ES", "PES", "NRES")


def is_implicit(level):
    return type(level.flow).__name__ == "Implicit"


def gathers(level):
    return level.accumulate is not None and level.every > 1


def trainable(level, value):
    """What the level trains of its value, inexact arrays all; None for every other leaf."""
    chosen = level.trained(value) if callable(level.trained) else level.trained

    def part(flag, value):
        inexact = lambda x: jnp.issubdtype(jnp.result_type(x), jnp.inexact)  # noqa: E731
        return jax.tree.map(lambda x: x if flag and inexact(x) else None, value)

    return part(True, value) if chosen is None else jax.tree.map(part, chosen, value)


def inexact(state):
    """What an optimizer remembers; None for counts."""
    return jax.tree.map(lambda x: x if jnp.issubdtype(x.dtype, jnp.inexact) else None, state)


def merge(moved, value):
    """`value` with the leaves that `moved` has."""
    return jax.tree.map(
        lambda x, y: y if x is None else x, moved, value, is_leaf=lambda x: x is None
    )
