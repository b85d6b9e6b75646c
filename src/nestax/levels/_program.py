"""The program that a declaration of levels is: periods compile to nested scans (rules R1 to R3).

`Program.advance(k, ...)` runs one full period of the k-th clock: as many periods of the clock below
as fit, then the updates due, group after group. A trajectory flow differentiates that very program
from the beginning of its level's period; flows that look at one point are in `_point`.
"""

import copy as _copy
import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp

from ..flows import Direct
from . import _episodes, _experience, _point, _trajectory
from ._carry import Carry, Found, Mode, View
from ._declaration import flow_of
from ._level import Level
from ._move import moved
from ._problem import Problem
from ._values import Parts, widened

Swaps = tuple[tuple[int, str, Parts], ...]  # (iteration, level, value)


class Program:
    """The loops.

    Attributes:
        problem: the levels at one point.
        due: for each clock the peers that are due when it ticks, group after group.
        rerun: levels whose last period some outer flow runs again.
        captured: the levels whose gradients are reported as well.
        norms: whether the norms of gradients are reported.
    """

    def __init__(self, problem: Problem, norms: bool = True):
        declaration = problem.nest
        self.problem, self.nest, self.norms = problem, declaration, norms
        self.periods, self.levels = problem.periods, problem.levels
        self.due = [
            [
                peers
                for group in declaration.groups
                if (peers := tuple(level for level in group if level.every == period))
            ]
            for period in self.periods
        ]
        self.rerun = frozenset(_point.rerun(declaration))
        self.captured: frozenset[str] = frozenset()

    def advance(self, k: int, carry: Carry, view: View, mode: Mode) -> tuple[Carry, dict]:
        """One period of the k-th clock: enters with the number of its first tick, leaves with that
        of its last (rule R1)."""
        carry = self.opened(k, carry, view)
        carry, infos = self.until(
            k, len(self.due[k]), carry, _episodes.restarts(self.problem, k), view, mode
        )
        kept = {n: a for n, a in carry.gathered.items() if self.levels[n].every > self.periods[k]}
        return carry._replace(gathered=kept), infos

    def entered(self, k: int, carry: Carry, view: View, anew: bool = True) -> Carry:
        """The carry at the beginning of a step of which only a period of the k-th clock is run:
        slower clocks have begun, their processes have drawn and, with `anew`, their episodes."""
        for slower in range(len(self.periods) - 1, k, -1):
            if anew:
                pending = _episodes.restarts(self.problem, slower)
                carry = _episodes.restart(self.problem, pending, carry, view)
            carry = _experience.drawn(self.problem, self.periods[slower], carry, view)
        return carry

    def opened(self, k: int, carry: Carry, view: View) -> Carry:
        """The carry at the beginning of a period: nothing gathered yet, and kept if it will be run
        again."""
        period = self.periods[k]
        before = {
            name: self.kept(carry) for name in self.rerun if self.levels[name].every == period
        }
        fresh = {
            level.name: self._empty(level, carry, view)
            for level in self.nest.levels
            if level.accumulate and level.every == period and period > 1
        }
        return carry._replace(
            gathered={**carry.gathered, **fresh}, before={**carry.before, **before}
        )

    def _empty(self, level: Level, carry: Carry, view: View) -> Any:
        shape = (view.copies,) if view.copies is not None else ()
        loss = jnp.zeros(shape, self._loss_dtype(level, carry, view))
        if flow_of(level).follows:
            return (loss,)
        gradient = jax.tree.map(jnp.zeros_like, carry.values[level.name].trained)
        return loss, jax.tree.map(widened, gradient)

    def _loss_dtype(self, level: Level, carry: Carry, view: View) -> Any:
        def loss(carry: Carry) -> jax.Array:
            batch, axis = self.problem.batch(level.context, carry, view)
            return self.problem.losses(level, carry.values, batch, axis, view)[0]

        return jax.eval_shape(loss, carry).dtype

    def loop(self, k: int, carry: Carry, view: View, mode: Mode, length: int) -> tuple[Carry, dict]:
        """Some iterations of the loop that a period of the k-th clock begins with."""
        if k == 0:
            return carry, {}

        def make_body(lean: bool) -> Any:
            inner = dataclasses.replace(mode, lean=mode.lean or (lean and not mode.forward))

            def body(moving: Carry, _: Any) -> tuple[Carry, dict]:
                here = self.restored(moving, carry)
                here, infos = self.advance(k - 1, here._replace(tick=here.tick + 1), view, inner)
                return self.moving(here), infos

            return body

        # `before` of the clocks below is written in the loop: it must be there to begin with.
        inner = {n for n in self.rerun if self.levels[n].every < self.periods[k]}
        before = {**carry.before, **{n: self.kept(carry) for n in inner}}
        moving = self.moving(carry._replace(before=before, tick=carry.tick - 1))
        loop = Direct().loop if mode.under is None else mode.under.loop
        moving, infos = loop(make_body, moving, length)
        carry = self.restored(moving, carry)
        return carry, jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), infos)

    def looped(
        self, k: int, carry: Carry, view: View, mode: Mode, swaps: Swaps
    ) -> tuple[Carry, dict]:
        """The whole loop that a period of the k-th clock begins with. A flow that differentiates
        the last iterations only has its variable put in place where they begin: what came before is
        computed, but does not depend on it."""
        length = self.iterations(k)
        cuts = sorted({0, length, *(at for at, _, _ in swaps)})
        infos: dict = {}
        for first, last in itertools.pairwise(cuts):
            new = {name: parts for at, name, parts in swaps if at == first}
            carry = carry._replace(values={**carry.values, **new})
            if first:
                carry = carry._replace(tick=carry.tick + 1)
            carry, found = self.loop(k, carry, view, mode, last - first)
            infos = found if not infos else jax.tree.map(_joined, infos, found)
        return carry, infos

    def until(
        self,
        k: int,
        q: int,
        carry: Carry,
        pending: tuple[str | None, ...],
        view: View,
        mode: Mode,
        swaps: Swaps = (),
    ) -> tuple[Carry, dict]:
        """A period of the k-th clock up to and including the update of its q-th group (rule R2).
        `pending` is what may begin anew, `swaps` what takes its value only from some iteration
        on."""
        if q == 0:
            carry = _episodes.restart(self.problem, pending, carry, view)
            carry = _experience.drawn(self.problem, self.periods[k], carry, view)
            return self.looped(k, carry, view, mode, swaps)
        peers = self.due[k][q - 1]
        followers = [level for level in peers if flow_of(level).follows]
        arguments = (k, q, carry, pending, view, mode, swaps)
        if self.nest.alternating(peers[0]) and len(peers) > 1:
            point, infos = self.until(k, q - 1, *arguments[2:])
            after = point
            for level in peers:
                moved = {p.name: after.values[p.name] for p in peers}
                if level in followers:
                    reached, _, found = self.through([level], *arguments, moved=moved)
                    after = _remembering(after, reached, [level])
                else:
                    found = {level.name: self.gradient(level, after, view, mode)}
                one = _constant(found[level.name]) if mode.first_order else found[level.name]
                after, infos = self._moved(level, one, after, after, infos, view, mode)
        else:
            found, point, infos = {}, None, {}
            for same in _alike(followers):
                reached, seen, gradients = self.through(same, *arguments)
                if point is None:
                    point, infos = reached, seen
                point = _remembering(point, reached, same)
                found |= gradients
            if point is None:
                point, infos = self.until(k, q - 1, *arguments[2:])
            for level in peers:
                if level not in followers:
                    found[level.name] = self.gradient(level, point, view, mode)
            if k == 0:
                point = self.gather(self._early(peers), point, view, mode)
            after = point
            for level in peers:
                one = _constant(found[level.name]) if mode.first_order else found[level.name]
                after, infos = self._moved(level, one, point, after, infos, view, mode)
        if k == 0 and q == len(self.due[0]):
            late = [level for level in self._gathering() if level not in self._early()]
            after = self.gather(late, after, view, mode)
        return after, infos

    def moving(self, carry: Carry) -> Carry:
        """What a loop carries: all but the key, host data, and a task that is never drawn anew."""
        task = carry.task if self.nest.draws_task else None
        return carry._replace(key=None, feed={}, task=task)

    def restored(self, moving: Carry, carry: Carry) -> Carry:
        """The whole of `moving`, which came from `carry`."""
        task = moving.task if self.nest.draws_task else carry.task
        return moving._replace(key=carry.key, feed=carry.feed, task=task)

    def kept(self, carry: Carry) -> Carry:
        """The carry at the beginning of a period that will be run again."""
        return self.moving(carry)._replace(gathered={}, before={})

    def iterations(self, k: int) -> int:
        """How often the clock below ticks in a period of the k-th."""
        return self.periods[k] // self.periods[k - 1] if k else 1

    # Gradients along a trajectory (rule R6).

    def through(
        self, followers, k, q, carry, pending, view, mode, swaps, moved=None
    ) -> tuple[Carry, dict, dict[str, Found]]:
        """Runs the period before the q-th group's update, differentiated with respect to peers of
        flows that are alike; returns where it came to and what they found. `moved`: values of peers
        that moved before them in the tick, seen by their objectives but constant."""
        flow = flow_of(followers[0])
        group = self.nest.group(followers[0])
        outer = tuple(n for n in pending if n is None or self._group(n) >= group)
        carry = _episodes.restart(self.problem, outer, carry, view)
        pending = tuple(n for n in pending if n not in outer)
        length = self.iterations(k)
        # When each begins to look: peers that look back less far see the others' values until then.
        begin = {one.name: length - min(flow_of(one).last or length, length) for one in followers}
        forward = mode.forward or not flow.reverse
        first_order = mode.first_order or flow.first_order
        inner = Mode(flow, mode.lean and not forward, forward, first_order)
        variables = {level.name: carry.values[level.name].wide() for level in followers}

        def reach(trained: tuple[Any, ...], spread: bool) -> tuple[Carry, dict, Carry]:
            """See `_trajectory.Reach`."""
            program = self._spread(followers[0].name) if spread else self
            values = dict(carry.values)
            for level, one in zip(followers, trained, strict=True):
                values[level.name] = variables[level.name].but(one)
            late = tuple((at, name, values[name]) for name, at in begin.items() if at)
            early = {name: values[name] for name, at in begin.items() if not at}
            here = carry._replace(values={**carry.values, **early})
            if spread:  # its optimizer has no axis of copies
                here = here._replace(optimizers={**carry.optimizers, followers[0].name: ()})
            reached, infos = program.until(k, q - 1, here, pending, view, inner, (*swaps, *late))
            seen = reached._replace(values={**reached.values, **(moved or {})})
            # The level's own value is the variable, whatever the peers that moved.
            seen = seen._replace(values=seen.values | {f.name: values[f.name] for f in followers})
            return reached, infos, seen

        if flow.joint:
            return _trajectory.differentiated(self.problem, followers, variables, reach, view)
        return _trajectory.estimated(self.problem, followers[0], variables, reach, carry, view)

    def _spread(self, name: str) -> "Program":
        """This program where every copy has a value of its own of one more level."""
        other = _copy.copy(self)
        other.problem = self.problem.spread(name)
        return other

    def again(
        self,
        level: Level,
        carry: Carry,
        view: View,
        values: dict[str, Parts],
        own: Parts | None = None,
    ) -> tuple[Carry, jax.Array]:
        """See `_point.Again`."""
        flow = flow_of(level)
        carry = self.restored(carry.before[level.name], carry)
        carry = carry._replace(values={**carry.values, **values})
        k = self.periods.index(level.every)
        q = next(i for i, peers in enumerate(self.due[k]) if level in peers)
        carry = self.opened(k, carry, view)
        inner = {one.name for one in self.nest.inside(level)}
        pending, swaps = _episodes.restarts(self.problem, k), ()
        if None in pending:
            carry = _episodes.restart(self.problem, (None,), carry, view)
        # What lies outside has its values already.
        pending = tuple(name for name in pending if name in inner)
        if own is not None:
            length, last = self.iterations(k), flow.last
            if last is not None and last < length:
                swaps = ((length - last, level.name, own),)
            else:
                carry = carry._replace(values={**carry.values, level.name: own})
        mode = Mode(flow, first_order=flow.first_order)
        carry, _ = self.until(k, q, carry, pending, view, mode, swaps)
        return carry, _trajectory.followed(self.problem, level, carry, view)[0]

    # Gathering over a period, gradients at a point, updates.

    def _group(self, name: str) -> int:
        return self.nest.group(self.levels[name])

    def _gathering(self) -> list[Level]:
        return [level for level in self.nest.levels if level.accumulate and level.every > 1]

    def _early(self, peers: Any = None) -> list[Level]:
        """Gathering levels that are read where a peer of the fastest clock is, before it moves."""
        peers = peers or sum(self.due[0], ())
        groups = {self.nest.group(level) for level in peers if not self.nest.alternating(level)}
        return [level for level in self._gathering() if self.nest.group(level) in groups]

    def gather(self, levels: Any, carry: Carry, view: View, mode: Mode) -> Carry:
        """Adds the losses of the present tick to the levels' sums, and under a flow that looks at
        one point the gradients (rule R3)."""
        gathered = dict(carry.gathered)
        for level in levels:
            if level.name not in gathered:
                continue  # this part of the program runs without the level's period
            if flow_of(level).follows:
                batch, axis = self.problem.batch(level.context, carry, view)
                new: tuple = (self.problem.losses(level, carry.values, batch, axis, view)[0],)
            else:
                losses, _, gradient = self.problem.direct(level, carry, view, mode)
                new = losses, gradient
            if isinstance(level.accumulate, tuple):
                weight = jnp.asarray(level.accumulate)[carry.tick % level.every]
                new = jax.tree.map(widened, new)
                new = jax.tree.map(lambda a, w=weight: w.astype(a.dtype) * a, new)
            gathered[level.name] = jax.tree.map(jnp.add, gathered[level.name], new)
        return carry._replace(gathered=gathered)

    def gradient(self, level: Level, carry: Carry, view: View, mode: Mode) -> Found:
        """What a level with a point flow hands to its optimizer at this point."""
        if level.held:
            batch, axis = self.problem.batch(level.context, carry, view)
            losses, user = self.problem.losses(level, carry.values, batch, axis, view)
            return Found(losses, user, carry.values[level.name].trained, None)
        if not flow_of(level).partial:
            return Found(*_point.gradient(self.problem, self.again, level, carry, view))
        if level.accumulate and level.every > 1:
            count = level.every if level.accumulate == "mean" else 1
            losses, gradient = jax.tree.map(lambda a: a / count, carry.gathered[level.name])
            return Found(losses, None, gradient, None)
        return Found(*self.problem.direct(level, carry, view, mode), None)

    def _moved(
        self,
        level: Level,
        found: Found,
        point: Carry,
        after: Carry,
        infos: dict,
        view: View,
        mode: Mode,
    ) -> tuple[Carry, dict]:
        captured = level.name in self.captured
        return moved(
            self.problem, level, found, point, after, infos, view, mode, self.norms, captured
        )


def _alike(followers: list[Level]) -> list[list[Level]]:
    """Peers whose gradients are taken in one pass, first those from whose runs the nest goes on."""
    together: dict[Any, list[Level]] = {}
    for level in followers:
        flow = flow_of(level)
        alike = flow if flow.joint else (flow, level.name)
        if flow.joint and flow.last is not None:
            alike = dataclasses.replace(flow, last=None)
        together.setdefault(alike, []).append(level)
    return sorted(together.values(), key=lambda same: flow_of(same[0]).joint)


def _remembering(carry: Carry, reached: Carry, levels: list[Level]) -> Carry:
    """The carry with what the flows of some levels remember after a run of their own; of the
    others' it knows nothing."""
    own = {one.name: reached.flows[one.name] for one in levels if one.name in reached.flows}
    return carry._replace(flows={**carry.flows, **own})


def _constant(found: Found) -> Found:
    return found._replace(gradient=jax.lax.stop_gradient(found.gradient))


def _joined(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.concatenate([a, b])
