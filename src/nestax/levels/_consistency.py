"""What a declaration may not say (rule R12), refused by the level's name."""

import itertools
import math
from typing import Any

from ..flows import (
    ES,
    NRES,
    PES,
    Direct,
    FiniteDifference,
    Flow,
    Forward,
    Implicit,
    OneStep,
    Solver,
    Unroll,
)
from ._calls import shown
from ._declaration import Declaration, flow_of
from ._field import Field
from ._level import Level
from ._process import Process
from ._stream import Stream

MAKERS = (Direct, Unroll, Forward, Implicit, FiniteDifference, OneStep, ES, PES, NRES)
_NEEDED = {Implicit: "CG(20)", ES: "0.1", PES: "0.1", NRES: "0.1"}  # arguments without a default


def check(nest: Declaration) -> None:
    """Refuses a declaration that makes no sense.

    Raises:
        ValueError: naming the level, what was wrong, and how to repair it.
    """
    levels = nest.levels
    if not levels:
        raise ValueError("a nest needs at least one level")
    names = [level.name for level in levels]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two levels are called {name!r}; give each its own name")
    if not isinstance(nest.stagger, bool):
        raise ValueError(f"stagger is True or False, got {shown(nest.stagger)}")
    if nest.periods[0] != 1:
        fastest = min(levels, key=lambda level: level.every)
        raise ValueError(
            f"no level has every=1: the clock counts steps of the fastest level; divide all "
            f"periods "
            f"by {fastest.every}, that of {fastest.name!r}"
        )
    for shorter, longer in itertools.pairwise(nest.periods):
        if longer % shorter:
            one = next(level for level in levels if level.every == longer)
            raise ValueError(
                f"level {one.name!r}: periods divide one another, and {longer} is not a multiple "
                f"of {shorter}; use {longer - longer % shorter} or "
                f"{longer + shorter - longer % shorter}"
            )
    for level in levels:
        _check_flow(nest, level)
        _check_episode(nest, level)
        _check_process(nest, level)
    _check_copies(nest)


def _check_flow(nest: Declaration, level: Level) -> None:
    flow, inside, label = flow_of(level), nest.inside(level), f"level {level.name!r}"
    kind = type(flow).__name__
    if not isinstance(flow, Flow):
        raise ValueError(
            f"{label}: the flow is one such as Unroll() or Implicit(CG(20)), got "
            f"{shown(flow)}{flow_repair(flow)}"
        )
    if flow.partial:
        return
    _check_class(label, flow)
    if not inside:
        raise ValueError(
            f"{label} has the flow {kind} and no level inside it; list inner levels before it, or "
            "leave the flow out"
        )
    if flow.follows:
        _check_open(nest, level)
        for other in inside:
            if other.every > level.every:
                raise ValueError(
                    f"{label}: {kind} follows the updates of {other.name!r}, which does not "
                    f"move in "
                    f"its period (every={other.every} against {level.every}); only Direct, "
                    f"Implicit "
                    "and FiniteDifference may cross a slower clock"
                )
        for other in levels_beside(nest, level):
            if other.every < level.every and not other.held:
                raise ValueError(
                    f"{label}: {kind} differentiates its own period, in which {other.name!r}, not "
                    f"inside it, moves (every={other.every}); list {other.name!r} before it, or "
                    f"give "
                    "it that period or a longer one"
                )
    elif level.accumulate:
        raise ValueError(
            f"{label}: accumulate gathers gradients under Direct and losses under Unroll and "
            f"Forward; "
            f"{kind} looks at one point, leave accumulate out"
        )
    for other in () if flow.follows else nest.eliminated(level):
        context = flow.context or other.context
        gone = other.accumulate and level.every < other.every
        if gone and isinstance(context, Stream):
            raise ValueError(
                f"{label}: {kind} looks at what {other.name!r} gathers in its last period, whose "
                "batches a Stream no longer has in the next one; give the level that period "
                f"(every={other.every}) or a longer one, or {other.name!r} a context that is a "
                "function (task, key) -> batch"
            )
    if flow.differences:
        for other in nest.eliminated(level):
            if isinstance(other.objective, Field):
                raise ValueError(
                    f"{label}: {kind} needs inner objectives, and {other.name!r} is "
                    "given by its Field; use Implicit(Dense()) or Unroll()"
                )
            if not flow_of(other).partial:
                raise ValueError(
                    f"{label}: {kind} needs plain inner objectives, and "
                    f"{other.name!r} has "
                    f"the flow {type(flow_of(other)).__name__}; use Implicit"
                )


def _check_class(label: str, flow: Flow) -> None:
    """Whether a class of flows defines what it is asked for."""
    kind = type(flow).__name__
    defines = type(flow).gradient is not Flow.gradient
    own = "gradient(self, period, memory, key) -> (gradient, reached, memory)"
    if flow.follows and flow.joint and not hasattr(flow, "value_and_gradients"):
        raise ValueError(
            f"{label}: the flow {kind} sets joint = True and defines no value_and_gradients; leave "
            f"joint out and define {own}"
        )
    if flow.follows and not flow.joint and not defines:
        raise ValueError(f"{label}: the flow {kind} follows a period and defines no {own}")
    if not flow.follows and not hasattr(flow, "linear"):
        does = "defines gradient" if defines else "looks at no point"
        raise ValueError(
            f"{label}: the flow {kind} {does} and does not say that it follows the level's period; "
            "write follows: ClassVar[bool] = True into the class"
            + ("" if defines else f", and define {own}")
        )


def _check_open(nest: Declaration, level: Level) -> None:
    """What flows that run the period for themselves ask of a nest."""
    flow, label = flow_of(level), f"level {level.name!r}"
    kind = type(flow).__name__
    if flow.joint:
        return
    for other in nest.levels:
        through = flow_of(other)
        if level in nest.inside(other) and not through.partial:
            raise ValueError(
                f"{label}: {kind} estimates a gradient and has no derivative itself, so the flow "
                f"{type(through).__name__} of {other.name!r} cannot pass through it; leave the "
                f"flow of {other.name!r} out, or use Unroll() here"
            )
        beside = other is not level and nest.group(other) == nest.group(level)
        if beside and other.every == level.every and not (through.partial or through.joint):
            raise ValueError(
                f"{label}: {kind} runs the period, and so does the flow of its peer "
                f"{other.name!r}, which would leave the levels inside at two places; make both "
                "one level with a dict as its value"
            )
        if beside and flow.perturbs and nest.alternating(level):
            raise ValueError(
                f"{label}: {kind} leaves the levels inside where its own values took them, which "
                'peers that move one after another cannot share; use order="simultaneous"'
            )
    if not flow.perturbs:
        return
    if nest.copied(level):
        raise ValueError(
            f"{label}: {kind} tries a value for each copy, so its level must be shared by the "
            "copies; "
            + (
                "only levels inside it may have a start"
                if nest.episodic
                else "give a level inside it a start, with horizon=math.inf if it never begins anew"
            )
        )
    if nest.copies is None or nest.copies % 2:
        raise ValueError(
            f"{label}: {kind} tries values in antithetic pairs, one value for each copy; give the "
            f"nest an even number of copies, got copies={nest.copies}"
        )
    for other in nest.inside(level):
        if not (nest.copied(other) or other.held):
            raise ValueError(
                f"{label}: {kind} tries a value for each copy, and {other.name!r}, inside it, is "
                "shared by the copies: it takes their mean, in which opposite perturbations "
                f"cancel. Give {other.name!r} a start, with horizon=math.inf if it never begins "
                f"anew, or list it after {level.name!r}"
            )
    longest = nest.longest
    if longest is not None and nest.restart_period(longest) % level.every:
        raise ValueError(
            f"{label}: episodes of {longest.name!r} may begin every {nest.restart_period(longest)} "
            f"ticks, within the period of {level.every} ticks that {kind} runs; make the first a "
            "multiple of the second"
        )


def flow_repair(flow: Any) -> str:
    """How something that is no flow becomes one, where that can be told: "; call it: Unroll()"."""
    if isinstance(flow, str):
        names = {maker.__name__.casefold(): maker for maker in MAKERS}
        flow = names.get(flow.casefold().replace("_", ""))
    known = any(flow is maker for maker in MAKERS)
    if known or (isinstance(flow, type) and issubclass(flow, Flow)):
        return f"; call it: {flow.__name__}({_NEEDED.get(flow, '') if known else '...'})"
    if isinstance(flow, Solver) or (isinstance(flow, type) and issubclass(flow, Solver)):
        solver = shown(flow) if isinstance(flow, Solver) else f"{flow.__name__}()"
        return f"; a solver goes into a flow: Implicit({solver})"
    return ""


def levels_beside(nest: Declaration, level: Level) -> tuple[Level, ...]:
    """The other levels of its own group, and those outside it."""
    inside = nest.inside(level)
    return tuple(one for one in nest.levels if one is not level and one not in inside)


def _check_episode(nest: Declaration, level: Level) -> None:
    if level.start is None:
        return
    label = f"level {level.name!r}"
    given = level.horizon if isinstance(level.horizon, tuple) else (nest.horizon(level),)
    for horizon in given:
        for divisor, what in (
            (nest.restart_period(level), "the smallest period outside it"),
            (level.every, "its own period"),
        ):
            if horizon < math.inf and horizon % divisor:
                raise ValueError(
                    f"{label}: an episode of {horizon} ticks is not a multiple of {divisor}, "
                    f"{what}; use {horizon + divisor - horizon % divisor}"
                )
    for other in nest.episodic if callable(level.horizon) else ():
        if other is not level and nest.horizon(other) > nest.grid(level):
            raise ValueError(
                f"{label}: tasks, processes and what flows remember begin anew with the longest "
                f"episode, and whether that is its own or that of {other.name!r} cannot be told "
                "from a function; give the horizon as (least, most)"
            )
    if level.done is not None and nest.horizon(level) <= nest.grid(level):
        raise ValueError(
            f"{label}: done can end an episode every {nest.grid(level)} ticks, and the horizon "
            "does so in any case; give a longer horizon, or math.inf for one that ends only when "
            "done"
        )


def _check_process(nest: Declaration, level: Level) -> None:
    for context in (level.context, flow_of(level).context):
        if not isinstance(context, Process):
            continue
        label = f"level {level.name!r}: its process"
        if context.every not in nest.periods:
            known = ", ".join(map(str, nest.periods))
            raise ValueError(
                f"{label} draws every {context.every} ticks, where no level of this nest has its "
                f"period; use one of {known}"
            )
        longest = nest.longest
        if longest is not None and nest.restart_period(longest) % context.every:
            raise ValueError(
                f"{label} holds a batch for {context.every} ticks, and episodes of "
                f"{longest.name!r} may begin every {nest.restart_period(longest)}; make the second "
                "a multiple of the first"
            )
        followed = [one for one in nest.levels if not flow_of(one).partial]
        gathers = level.accumulate and level.every > 1
        for outer in followed if gathers else ():
            if not flow_of(outer).follows and level in nest.eliminated(outer):
                raise ValueError(
                    f"{label} draws from values, and {type(flow_of(outer)).__name__} of "
                    f"{outer.name!r} looks at all batches of its last period, which are gone; "
                    "leave accumulate out, or give the level a context that is a function of "
                    "(task, key)"
                )


def _check_copies(nest: Declaration) -> None:
    copies = nest.copies
    if copies is not None and (
        isinstance(copies, bool) or not isinstance(copies, int) or copies < 1
    ):
        raise ValueError(f"copies is a whole number of at least 1, got {shown(copies)}")
    if nest.draws_task and not nest.episodic:
        raise ValueError(
            "a task function without a level that has a start: nothing begins an episode; give the "
            "inner level a start, or fixed tasks as tasks"
        )
    if nest.stagger and copies is None:
        raise ValueError("stagger spreads the episodes of copies; give copies as well")
    if nest.stagger and (nest.longest is None or not nest.ending(nest.longest)):
        raise ValueError(
            "stagger spreads the episodes of copies, and no level has episodes that end; give the "
            "inner level a start and a horizon"
        )
    if nest.stagger and nest.longest is not None and nest.longest.horizon == math.inf:
        raise ValueError(
            f"stagger spreads episodes evenly, and those of {nest.longest.name!r} have no longest "
            "length; give it a finite horizon beside done"
        )
