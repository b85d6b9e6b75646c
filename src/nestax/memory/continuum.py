r"""The continuum memory: a chain of MLPs, each written in context at a clock of its own.

A Transformer's MLP is a memory that is never written after training. The continuum memory puts
several of them in its place, from often to rarely written, so that what is seen in context is kept
for as long as each clock says. Two clocks must be told apart. `periods` here are *tokens* of one
sequence, and what is written is the sequence's own state. The other clock counts *optimizer steps*
and writes the parameters, which all sequences share; it is `nestax.optim.multi_timescale`, whose
labels by path give each level of this memory a clock of that kind too:

    optim.multi_timescale(optax.adam(1e-3), {r"levels/0": 1, r"levels/1": 8, "": 1})

Source: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), eq. (70-74), 3.3, 7.3.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from ._feed import SwiGLU
from ._grid import lay_out, take_back
from ._loop import checkpointed_scan
from ._parts import check_input, is_count, linear, matrix, rms_norm, wide, widened

_VARIANTS = ("sequential", "nested", "independent")


class ContinuumState(NamedTuple):
    """What is written along a stream; one entry per level.

    Attributes:
        weights: the levels' weights as they are now, float32 at least.
        gathered: the sum of the gradients of the present period, like the weights.
        tick: tokens since the level's period began, int32; in the nested variant since it was last
            begun anew.
    """

    weights: tuple[PyTree, ...]
    gathered: tuple[PyTree, ...]
    tick: Int[Array, " levels"]


class ContinuumMemory(eqx.Module):
    r"""MLPs with residual connections, each moving by one gradient step at the end of its period.

    With f_s the MLP of level s, n_s its norm, theta_s its weights and C_s its period,

        sequential, nested   x_{s+1} = x_s + f_s(theta_s; n_s(x_s)),     y = x_{levels}     (70)
        independent          y = x + sum_s mix_s f_s(theta_s; n_s(x))                       (74)

    Every token of a period is read, and its gradient g_t taken, at the weights of the period's
    beginning; at the end of the period

        theta_s <- theta_s - rate_s c(sum_t g_t)       or the mean over the period's tokens  (71)

    with every gradient counted once (the printed sum has C + 1 terms). A period that is not full is
    carried in the state and never applied by itself; see `flush`. c(g) = g / sqrt(1 + |g|^2/clip^2)
    over all weights of a level keeps each step shorter than `rate * clip`.

    In the *nested* variant (72) a level begins anew, from its start, whenever a period of the next
    slower level ends. In all variants the starts, rates, targets and weights of the sum are this
    module's parameters: the outer level learns them through the writes.

    The gradients are those of a local objective or none. "local": the level maps its normed input
    to a learned linear target of the same token, 1/(2 width) |f_s(h_t) - W_s h_t|^2, h = n_s(x)
    (test-time training; only theta_s moves in context). None: nothing is written by itself, and
    `learn_in_context` writes by the language model's own loss. With no writes, or rates of zero,
    this is a chain of MLPs, and one level is the Transformer's MLP block.

    Attributes:
        levels: the MLPs at their starts.
        norms: scales of the root-mean-square norms before them; None for no norm.
        rate: one step size for each level; None if they are constants.
        target: W, one for each level; None without local objective.
        mix: weights of the independent variant's sum.
    """

    levels: tuple[Any, ...]
    norms: tuple[Float[Array, " width"] | None, ...]
    rate: Float[Array, " levels"] | None
    target: Float[Array, "levels width width"] | None
    mix: Float[Array, " levels"] | None
    constant_rate: tuple[float, ...] | None = eqx.field(static=True)
    width: int | None = eqx.field(static=True)
    periods: tuple[int, ...] = eqx.field(static=True)
    variant: str = eqx.field(static=True)
    accumulate: str = eqx.field(static=True)
    clip: float | None = eqx.field(static=True)

    def __init__(
        self,
        width: int | None,
        periods: Sequence[int] = (16, 64),
        *,
        hidden: int | None = None,
        variant: str = "sequential",
        accumulate: str = "mean",
        objective: str | None = "local",
        rate: float | Sequence[float] = 0.1,
        trained_rate: bool = True,
        clip: float | None = 1.0,
        scale: float = 1.0,
        levels: Sequence[Callable[[Any], Any]] | None = None,
        norms: Sequence[Any] | None = None,
        key: PRNGKeyArray,
    ):
        """Draws the levels.

        Args:
            width: of the tokens; None only for given levels without local objective.
            periods: in tokens, in the order in which the levels are applied. For the nested
                variant they must differ and divide one another, in any order.
            hidden: units of each level's gated MLP (SwiGLU); None: 8/3 width, divided among the
                levels, so that all levels together have as many weights as a Transformer's MLP.
            variant: "sequential", "nested" or "independent".
            accumulate: "mean" over a period's gradients, so that a rate means the same for every
                period, or their "sum" as printed.
            objective: "local" or None.
            rate: where the step sizes start, one number or one for each level. Zero: no writes.
            trained_rate: whether the step sizes are parameters (of any sign) or constants.
            clip: bound of the gathered gradient's norm; None: no bound, as printed.
            scale: of what a level adds to the residual sum at first.
            levels: MLPs to use instead of drawing some; see `from_mlps`.
            norms: with given levels, the scales of the norms before them.
            key: a typed PRNG key.

        Raises:
            ValueError: arguments of which one does not fit; it says which.
        """
        name = "ContinuumMemory"
        periods = tuple(periods)
        count = len(periods)
        if not count or not all(is_count(period) for period in periods):
            raise ValueError(
                f"{name}: periods must be one or more numbers of tokens, each at least 1, got "
                f"{periods}"
            )
        for what, value, known in (
            ("variant", variant, _VARIANTS),
            ("accumulate", accumulate, ("mean", "sum")),
            ("objective", objective, ("local", None)),
        ):
            if value not in known:
                raise ValueError(f"{name}: {what} must be one of {known}, got {value!r}")
        if variant == "nested":
            ordered = sorted(periods)
            if any(b % a or a == b for a, b in pairwise(ordered)):
                raise ValueError(
                    f"{name}: a level of the nested variant begins anew at the end of the next "
                    f"slower one's period, so periods must differ and divide one another; got "
                    f"{periods}"
                )
        if clip is not None and not clip > 0:
            raise ValueError(f"{name}: clip must be positive, or None for no bound; got {clip}")
        rates = (rate,) * count if isinstance(rate, (int, float, np.number)) else tuple(rate)
        if len(rates) != count or not all(0 <= r < math.inf for r in rates):
            raise ValueError(
                f"{name}: rate must be one finite number, at least 0, or one for each of the "
                f"{count} levels, got {rate}"
            )
        if width is None and (levels is None or objective is not None):
            raise ValueError(f"{name}: without a width, pass levels and objective=None")
        keys = jax.random.split(key, count + 1)
        if levels is None:
            assert width is not None
            hidden = max(1, round(8 * width / 3 / count)) if hidden is None else hidden
            if width < 1 or hidden < 1:
                raise ValueError(
                    f"{name}: sizes must be at least 1, got width={width} and hidden={hidden}"
                )
            levels = [SwiGLU(width, hidden, scale=scale, key=k) for k in keys[1:]]
            norms = [jnp.ones(width)] * count
        norms = [None] * len(levels) if norms is None else norms
        if not len(levels) == len(norms) == count:
            raise ValueError(
                f"{name}: one period, one level and one norm (or None) belong together, got "
                f"{count} periods, {len(levels)} levels and {len(norms)} norms"
            )
        for index, level in enumerate(levels):
            if not jax.tree.leaves(eqx.filter(level, eqx.is_inexact_array)):
                raise ValueError(
                    f"{name}: level {index} has no weights that could be written: {level!r:.80}; "
                    "pass an equinox module, or jax.tree_util.Partial(function, weights)"
                )
        self.levels, self.norms = tuple(levels), tuple(norms)
        self.rate = jnp.asarray(rates, jnp.result_type(float)) if trained_rate else None
        self.constant_rate = None if trained_rate else tuple(float(r) for r in rates)
        self.target = None
        if objective == "local":
            assert width is not None
            self.target = jnp.stack(
                [matrix(k, width, width) for k in jax.random.split(keys[0], count)]
            )
        self.mix = jnp.full(count, count**-0.5) if variant == "independent" else None
        self.width, self.periods, self.variant = width, periods, variant
        self.accumulate, self.clip = accumulate, None if clip is None else float(clip)

    @classmethod
    def from_mlps(
        cls,
        mlps: Sequence[Callable[[Any], Any]],
        periods: Sequence[int],
        *,
        norms: Sequence[Any] | None = None,
        width: int | None = None,
        objective: str | None = None,
        rate: float | Sequence[float] = 0.01,
        key: PRNGKeyArray | None = None,
        **options: Any,
    ) -> "ContinuumMemory":
        """A continuum memory whose levels start from trained MLPs (ad-hoc level stacking, 7.3).

        Args:
            mlps: callables (width,) -> (width,), the residual branches; every inexact array in them
                is written in context, so what is not to be is closed over. Equinox modules, or
                `jax.tree_util.Partial` of a function and its weights.
            periods: in tokens, one for each.
            norms: scales (width,) of root-mean-square norms before them, or None where the MLP
                norms its input itself or has none.
            width: needed for the local objective only.
            objective: None, for `learn_in_context`, which needs no more than the trained model; or
                "local", whose targets start random and have to be trained.
            rate: as the rates go to zero, the trained model comes back exactly.
            key: needed for the local objective only.
            **options: further ones of `ContinuumMemory`.

        Raises:
            ValueError: see `ContinuumMemory`.
        """
        if objective is not None and key is None:
            raise ValueError(
                "ContinuumMemory.from_mlps: the local objective's targets are drawn; pass a key"
            )
        key = jax.random.key(0) if key is None else key
        return cls(
            width, periods, levels=mlps, norms=norms, objective=objective, rate=rate, key=key,
            **options,
        )  # fmt: skip

    def init_state(self) -> ContinuumState:
        """The state at the beginning of a stream: every level at its start."""
        weights = tuple(self._start(s) for s in range(len(self.levels)))
        gathered = jax.tree.map(jnp.zeros_like, weights)
        return ContinuumState(weights, gathered, jnp.zeros(len(self.levels), jnp.int32))

    def __call__(
        self, x: Float[Array, "time width"], state: ContinuumState | None = None
    ) -> tuple[Float[Array, "time width"], ContinuumState]:
        """One piece of a stream.

        Args:
            x: tokens.
            state: what came before; None: nothing.

        Returns:
            The tokens with what the levels add, in the dtype of x; the state after them.

        Raises:
            ValueError: x is not one sequence, or a level maps tokens to another shape.
        """
        check_input("ContinuumMemory", x, x.shape[-1] if self.width is None else self.width)
        known = self.init_state() if state is None else state
        total, parts = x, []
        for s in range(len(self.levels)):
            offset = None if state is None else known.tick[s]
            said, *part = self._level(s, total if self.mix is None else x, known, offset)
            if said.shape != x.shape:
                raise ValueError(
                    f"ContinuumMemory: what a level says is added to the tokens, {x.shape}; level "
                    f"{s} maps them to {said.shape}"
                )
            if self.mix is not None:
                said = self.mix[s].astype(said.dtype) * said
            total = total + said.astype(x.dtype)
            parts.append(part)
        weights, gathered, ticks = zip(*parts, strict=True)
        return total, ContinuumState(weights, gathered, jnp.stack(ticks))

    def gather(
        self, state: ContinuumState, gradients: Sequence[PyTree], tokens: int
    ) -> ContinuumState:
        """Adds gradients from outside for the next tokens, and writes at the ends of periods.

        Args:
            state: that the gradients were taken at.
            gradients: like `state.weights`, summed over the tokens.
            tokens: how many. All periods must be multiples of it, and all earlier pieces too.

        Raises:
            ValueError: a period that is no multiple.
        """
        parts = []
        for s, period in enumerate(self.periods):
            if tokens < 1 or period % tokens:
                raise ValueError(
                    f"ContinuumMemory.gather: gradients of {tokens} tokens do not end where "
                    f"periods of {self.periods} do; pass a divisor of all periods"
                )
            gathered = jax.tree.map(_add, state.gathered[s], gradients[s])
            tick = state.tick[s] + tokens
            due = None if tokens == period else tick % period == 0
            renew = tick % self._cycle(s) == 0
            weights, gathered = self._write(s, state.weights[s], gathered, due, renew, period)
            parts.append((weights, gathered, tick % self._cycle(s)))
        weights, gathered, ticks = zip(*parts, strict=True)
        return ContinuumState(weights, gathered, jnp.stack(ticks))

    def flush(self, state: ContinuumState) -> ContinuumState:
        """Ends every level's period now: writes what was gathered, and all periods begin anew.

        A mean is over the tokens that there were; a period without any writes nothing. In the
        nested variant all levels but the slowest begin anew, as the periods around them end.
        """
        parts = []
        for s, period in enumerate(self.periods):
            seen = state.tick[s] % period
            renew = jnp.asarray(self._cycle(s) != period)
            due = seen > 0
            count = jnp.maximum(seen, 1)
            weights, gathered = self._write(
                s, state.weights[s], state.gathered[s], due | renew, renew, count
            )
            parts.append((weights, gathered))
        weights, gathered = zip(*parts, strict=True)
        return ContinuumState(weights, gathered, jnp.zeros_like(state.tick))

    def _start(self, s: int) -> PyTree:
        weights = eqx.filter(self.levels[s], eqx.is_inexact_array)
        return jax.tree.map(lambda w: w.astype(wide(w.dtype)), weights)

    def _cycle(self, s: int) -> int:
        """After how many tokens a level is as at the beginning, but for its weights."""
        slower = [p for p in self.periods if p > self.periods[s]]
        return min(slower) if self.variant == "nested" and slower else self.periods[s]

    def _level(
        self, s: int, x: Array, state: ContinuumState, offset: Array | None
    ) -> tuple[Array, PyTree, PyTree, Array]:
        """What level s adds to tokens, its weights, what it gathered, and its tick."""
        static = eqx.filter(self.levels[s], eqx.is_inexact_array, inverse=True)
        norm, time = self.norms[s], x.shape[0]
        inputs = widened(x if norm is None else rms_norm(x, norm))

        def said_of(weights: PyTree, inputs: Array) -> Array:
            return jax.vmap(cast(Any, eqx.combine(weights, static)))(inputs)

        weights, gathered, tick = state.weights[s], state.gathered[s], state.tick[s]
        if self.target is None or not time:
            return said_of(weights, inputs), weights, gathered, tick
        target = widened(self.target[s])
        period, cycle = self.periods[s], self._cycle(s)
        within = None if offset is None else offset % period
        layout = lay_out(inputs, period, within)
        # The tick at the end of each row, if the row is full; to know where contexts end.
        row = jnp.arange(len(layout.ends)) + 1 + tick // period
        renew = row * period % cycle == 0

        def visit(carry: tuple[PyTree, PyTree], row: Any) -> tuple[tuple[PyTree, PyTree], Array]:
            weights, gathered = carry
            tokens, valid, due, renew = row
            valid = jnp.broadcast_to(valid[:, None], tokens.shape)
            said, pull = jax.vjp(lambda w: said_of(w, tokens), weights)
            error = (said - linear(target, tokens)) / tokens.shape[1]
            (gradient,) = pull(jnp.where(valid, error, jnp.zeros_like(error)))
            gathered = jax.tree.map(_add, gathered, gradient)
            due = None if layout.full else due
            return self._write(s, weights, gathered, due, renew, period), said

        rows = (layout.tokens, layout.valid, layout.ends, renew)
        (weights, gathered), said = checkpointed_scan(visit, (weights, gathered), rows)
        said = take_back(said, layout, time, period, within)
        return said, weights, gathered, (tick + time) % cycle

    def _write(
        self, s: int, weights: PyTree, gathered: PyTree, due: Any, renew: Any, count: Any
    ) -> tuple[PyTree, PyTree]:
        """Where due (None: always) one step; or, where a context ends, a new beginning.

        A branch rather than a choice between values: what is not due costs nothing then, and
        `nestax.level_table` finds the level's frequency.
        """
        anew = self._cycle(s) != self.periods[s]

        def move(weights: PyTree, gathered: PyTree) -> tuple[PyTree, PyTree]:
            gradient = gathered
            if self.accumulate == "mean":
                gradient = jax.tree.map(lambda g: g / count, gathered)
            rate = self.constant_rate[s] if self.rate is None else self.rate[s]  # type: ignore
            factor = rate
            if self.clip is not None:
                leaves = jax.tree.leaves(gradient)
                square = sum((jnp.sum(jnp.square(g)) for g in leaves), start=jnp.zeros(()))
                factor = rate * jax.lax.rsqrt(1 + square / self.clip**2)
            new = jax.tree.map(lambda w, g: (w - factor * g).astype(w.dtype), weights, gradient)
            if anew:
                new = jax.tree.map(lambda n, w: jnp.where(renew, w, n), new, self._start(s))
            return new, jax.tree.map(jnp.zeros_like, gathered)

        if due is None:
            return move(weights, gathered)
        return jax.lax.cond(due, move, lambda *rest: rest, weights, gathered)


def _add(total: Array, more: Array) -> Array:
    return total + more.astype(total.dtype)
