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

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ._checks import (
    check_input,
    check_key,
    check_state,
    choice,
    described,
    is_count,
    known_number,
    real,
    whole_or_none,
)
from ._continuum_level import (
    ContinuumState,
    Masks,
    add,
    check_gradients,
    check_levels,
    check_periods,
    check_rates,
    cycle_of,
    read_level,
    start_of,
    write_level,
)
from ._feed import SwiGLU
from ._grid import fill
from ._masks import Mask, check_masks
from ._parts import matrix

_VARIANTS = ("sequential", "nested", "independent")


class ContinuumMemory(eqx.Module):
    r"""A chain of MLPs that are written in context, each at the end of its own period.

    With f_s the MLP of level s, n_s its norm, theta_s its weights and C_s its period in tokens,

        sequential, nested   x_{s+1} = x_s + f_s(theta_s; n_s(x_s)),     y = x_{levels}     (70)
        independent          y = x + sum_s mix_s f_s(theta_s; n_s(x))                       (74)

    The tokens of a period are read, and their gradients g_t taken, at the weights of the period's
    beginning. At the end of the period

        theta_s <- theta_s - rate_s c(sum_t g_t)       or the mean over the period's tokens  (71)

    with every gradient counted once. The gradients of an unfinished period stay in the state until
    the period ends; `flush` ends it early. c(g) = g / sqrt(1 + |g|^2/clip^2), over all weights of a
    level, keeps each step shorter than `rate * clip`.

    In the *nested* variant (72) a level is set back to its initial weights whenever a period of the
    next slower level ends. In all variants the initial weights, rates, targets and mixing weights
    are this module's parameters: an outer level trains them through the writes.

    With `objective="local"` a level maps its normed input to a learned linear target of the same
    token, with the loss `|f_s(h_t) - W_s h_t|^2 / (2 width)`, h = n_s(x); only theta_s is written
    in context. With `objective=None` calling the module writes nothing, and `learn_in_context`
    writes by the language model's own loss. Without writes this is a chain of MLPs; one level then
    is the Transformer's MLP block.

    `periods` count tokens of one sequence, whose own state is written. The other clock counts
    optimizer steps and writes the parameters; see `nx.optim.multi_timescale`.

    Attributes:
        levels: the MLPs with their initial weights.
        norms: scales of the root-mean-square norms before them; None for no norm.
        rate: one step size for each level; None if they are constants.
        target: W, (levels, width, width); None without local objective.
        mix: mixing weights of the independent variant.
        constant_rate: the step sizes if they are constants.
        width: channels of the input and of the output.
        periods: in tokens, one for each level.
        variant: "sequential", "nested" or "independent".
        accumulate: "mean" or "sum".
        clip: bound of the gathered gradient's norm.

    Source: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), eq. (70-74), sections
    3.3 and 7.3; the printed sum of (71) has C + 1 terms.

    Example:
        ```python
        memory = nx.memory.ContinuumMemory(8, periods=(2, 4), key=jax.random.key(0))
        y, state = jax.jit(lambda x: memory(x))(jnp.ones((7, 8)))  # seven tokens
        print(y.shape, state.tick)  # (7, 8) [1 3]
        ```
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
            width: channels of the input and of the output; None only for given levels without
                local objective.
            periods: in tokens, in the order in which the levels are applied. For the nested variant
                all must differ, and each must divide the next longer one.
            hidden: units of each level's gated MLP (SwiGLU); None: 8/3 width, divided among the
                levels, so that all levels together have as many weights as a Transformer's MLP.
            variant: "sequential", "nested" or "independent".
            accumulate: "mean" of a period's gradients, so that a rate has the same effect for every
                period, or their "sum" as printed.
            objective: "local" or None.
            rate: initial step sizes, one number or one for each level. Zero: no writes.
            trained_rate: whether the step sizes are parameters (of any sign) or constants.
            clip: bound of the gathered gradient's norm; None: no bound, as printed.
            scale: factor of the output of each level at first.
            levels: given MLPs, in place of drawn ones; see `from_mlps`.
            norms: with given levels, the scales of the norms before them.
            key: a typed PRNG key.

        Raises:
            ValueError: an argument that does not fit; the message names it.
        """
        name = "ContinuumMemory"
        check_key(name, key)
        width, hidden = whole_or_none(name, "width", width), whole_or_none(name, "hidden", hidden)
        periods = check_periods(name, periods)
        count = len(periods)
        variant = choice(name, "variant", variant, _VARIANTS)
        accumulate = choice(name, "accumulate", accumulate, ("mean", "sum"))
        objective = choice(name, "objective", objective, ("local", None))
        scale = real(name, "scale", scale)
        if variant == "nested":
            ordered = sorted(periods)
            if any(b % a or a == b for a, b in pairwise(ordered)):
                raise ValueError(
                    f"{name}: a level of the nested variant begins anew at the end of the next "
                    f"slower one's period, so periods must differ and divide one another; got "
                    f"{periods}"
                )
        bound = None if clip is None else known_number(clip)
        if clip is not None and (bound is None or not bound > 0):
            raise ValueError(
                f"{name}: clip must be positive, or None for no bound; got {described(clip)}"
            )
        rates = check_rates(name, rate, count)
        if width is None and (levels is None or objective is not None):
            raise ValueError(f"{name}: without a width, pass levels and objective=None")
        keys = jax.random.split(key, count + 1)
        if levels is None:
            assert width is not None
            if norms is not None:
                raise ValueError(f"{name}: norms are those of given levels; pass levels= too")
            hidden = max(1, round(8 * width / 3 / count)) if hidden is None else hidden
            levels = [SwiGLU(width, hidden, scale=scale, key=k) for k in keys[1:]]
            norms = [jnp.ones(width)] * count
        self.levels, self.norms = check_levels(name, levels, norms, count, width)
        self.rate = jnp.asarray(rates, jnp.result_type(float)) if trained_rate else None
        self.constant_rate = None if trained_rate else rates
        self.target = None
        if objective == "local":
            assert width is not None
            self.target = jnp.stack(
                [matrix(k, width, width) for k in jax.random.split(keys[0], count)]
            )
        self.mix = jnp.full(count, count**-0.5) if variant == "independent" else None
        self.width, self.periods, self.variant = width, periods, variant
        self.accumulate, self.clip = accumulate, bound

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
        """Makes a continuum memory of trained MLPs (ad-hoc level stacking, section 7.3).

        Args:
            mlps: callables (width,) -> (width,), the residual branches: equinox modules, or
                `jax.tree_util.Partial` of a function and its weights. Every inexact array in them
                is written in context; close over arrays that should not be.
            periods: in tokens, one for each MLP.
            norms: scales (width,) of root-mean-square norms before them, or None for an MLP that
                has a norm of its own or needs none.
            width: channels of the input; required for the local objective only.
            objective: None, for `learn_in_context`; or "local", whose targets start random and have
                to be trained.
            rate: initial step sizes, one number or one for each level. Zero gives the trained model
                exactly.
            key: required for the local objective only.
            **options: further arguments of `ContinuumMemory`.

        Returns:
            The continuum memory.

        Raises:
            ValueError: arguments that `ContinuumMemory` refuses.
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
        """The state at the beginning of a stream: every level has its initial weights."""
        weights = tuple(start_of(self, s) for s in range(len(self.levels)))
        gathered = jax.tree.map(jnp.zeros_like, weights)
        return ContinuumState(weights, gathered, jnp.zeros(len(self.levels), jnp.int32))

    def __call__(
        self,
        x: Float[Array, "time width"],
        state: ContinuumState | None = None,
        *,
        valid: Mask | None = None,
        reset: Mask | None = None,
        max_documents: int | None = None,
    ) -> tuple[Float[Array, "time width"], ContinuumState]:
        """Maps a sequence, or the next piece of a stream.

        Args:
            x: tokens, (time, width).
            state: the state after the piece before; None at the beginning of a stream.
            valid: (time,) bool, False for padding, which writes nothing, is not counted in periods
                and is returned as it is. None: all tokens are valid.
            reset: (time,) bool, True at the first token of a document, before which all levels are
                set to their initial weights and all periods begin. None: nowhere.
            max_documents: how many documents begin in the piece at most; only for a traced `reset`.
                None: one at each token, which costs a period for each. If there are more, all
                numbers are NaN.

        Returns:
            (y, state): y of the shape and dtype of x, and the state after the piece.

        Raises:
            ValueError: x is not one sequence, a state or mask does not fit, or a level maps tokens
                to another shape.
        """
        name = "ContinuumMemory"
        x = check_input(name, x, self.width)
        if state is not None:
            state = check_state(name, state, self.init_state)
        valid, reset = check_masks(name, x.shape[0], valid, reset, max_documents)
        masks = Masks(valid, reset, max_documents)
        known = self.init_state() if state is None else state
        inputs = total = fill(x, valid)
        parts = []
        for s in range(len(self.levels)):
            offset = None if state is None else known.tick[s]
            said, *part = read_level(
                self, s, total if self.mix is None else inputs, known, offset, masks
            )
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
        if valid is not None:
            total = jnp.where(jnp.broadcast_to(jnp.asarray(valid)[:, None], x.shape), total, x)
        return total, ContinuumState(weights, gathered, jnp.stack(ticks))

    def gather(
        self, state: ContinuumState, gradients: Sequence[PyTree], tokens: int
    ) -> ContinuumState:
        """Adds gradients computed elsewhere, and writes the levels whose period ends.

        Args:
            state: the state at which the gradients were taken.
            gradients: shaped like `state.weights`, summed over the tokens.
            tokens: number of tokens. All periods, and all earlier pieces, must be multiples of it.

        Returns:
            The new state.

        Raises:
            ValueError: a period that is not a multiple, a state of another memory, or gradients for
                another number of levels.
        """
        name = "ContinuumMemory.gather"
        state = check_state(name, state, self.init_state)
        check_gradients(name, gradients, state.weights)
        parts = []
        for s, period in enumerate(self.periods):
            if not is_count(tokens) or period % tokens:
                raise ValueError(
                    f"{name}: gradients of {tokens} tokens do not end where "
                    f"periods of {self.periods} do; pass a divisor of all periods"
                )
            gathered = jax.tree.map(add, state.gathered[s], gradients[s])
            tick = state.tick[s] + tokens
            due = None if tokens == period else tick % period == 0
            renew = tick % cycle_of(self, s) == 0
            weights, gathered = write_level(self, s, state.weights[s], gathered, due, renew, period)
            parts.append((weights, gathered, tick % cycle_of(self, s)))
        weights, gathered, ticks = zip(*parts, strict=True)
        return ContinuumState(weights, gathered, jnp.stack(ticks))

    def flush(self, state: ContinuumState) -> ContinuumState:
        """Ends every level's period now: writes the gathered gradients, and begins new periods.

        A mean is taken over the tokens read so far; a period without tokens writes nothing. In the
        nested variant all levels but the slowest are set back to their initial weights.

        Args:
            state: the state after some piece of a stream.

        Returns:
            The new state.

        Raises:
            ValueError: a state of another memory.
        """
        state = check_state("ContinuumMemory.flush", state, self.init_state)
        parts = []
        for s, period in enumerate(self.periods):
            seen = state.tick[s] % period
            renew = jnp.asarray(cycle_of(self, s) != period)
            due = seen > 0
            count = jnp.maximum(seen, 1)
            weights, gathered = write_level(
                self, s, state.weights[s], state.gathered[s], due | renew, renew, count
            )
            parts.append((weights, gathered))
        weights, gathered = zip(*parts, strict=True)
        return ContinuumState(weights, gathered, jnp.zeros_like(state.tick))
