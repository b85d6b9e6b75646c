"""The arms: a continuum memory on either clock, plain networks, consolidation and replay.

The continuum memory is a chain of MLPs inside a classifier. Its clock of optimizer steps moves the
starts of the MLPs at periods of their own. Its clock of examples writes an MLP in context, while
the stream is read. The memory's state is carried along the stream as its difference from the
starts, which can be learned meanwhile. No gradient crosses the end of a batch.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from nestax import optim

from .. import models

STEPS = (1, 4, 16)  # optimizer steps between two moves of a level's start
TURNS = (1, 4, 16)  # batches of examples between two writes of a level, by labels
PARTS = (8, 4, 2)  # writes of a level within a batch, by the local objective
_CLIPPED = 1.0  # norm of a gradient, at most: penalties and gated MLPs are steep in places


@dataclasses.dataclass(frozen=True)
class Arm:
    """An arm with everything fixed but its learning rate and what else it tunes.

    Attributes:
        label: for tables and legends.
        network: "mlp" or "chain", the classifier around a continuum memory.
        kind: "plain", "ewc", "replay" or "joint".
        clocks: of the chain's levels, in optimizer steps; None for one clock.
        rates_only: whether there is one clock with the rates that the clocks amount to.
        writes: what is written in context, by the "label" of the examples or by the "local"
            objective; "" for nothing.
        extra: in words, the second thing that is tuned; "" if there is none.
        extras: its values.
        control: what it differs from in the clock alone; None if there is no such arm.
    """

    label: str
    network: str
    kind: str = "plain"
    clocks: tuple[int, ...] | None = None
    rates_only: bool = False
    writes: str = ""
    extra: str = ""
    extras: tuple[float, ...] = (0.0,)
    control: str | None = None

    @property
    def continuum(self) -> bool:
        """Whether it has more than one clock."""
        return bool(self.writes) or (self.clocks is not None and not self.rates_only)

    def make(self, rate: Any) -> optax.GradientTransformation:
        """Gradient descent behind a clipped gradient, the chain's levels on their clocks."""
        return optax.chain(optax.clip_by_global_norm(_CLIPPED), self._descent(rate))

    def _descent(self, rate: Any) -> optax.GradientTransformation:
        if self.clocks is None:
            return optim.gradient_descent(rate)
        # In a path the level's number stands after the module's field.
        clocks = {rf"levels/{i}(/|$)": clock for i, clock in enumerate(self.clocks)} | {"": 1}
        only = self.rates_only
        rates = {name: rate / clock if only else rate for name, clock in clocks.items()}
        return optim.multi_timescale(
            {name: optim.gradient_descent(one) for name, one in rates.items()},
            dict.fromkeys(clocks, 1) if only else clocks,
        )


_IN_CONTEXT = {"extra": "rate in context", "extras": (0.03, 0.3, 3.0)}
ARMS = {
    "mlp": Arm("plain MLP", "mlp"),
    "chain": Arm("chain, one clock", "chain"),
    "continuum-steps": Arm(
        "continuum, clocks of steps", "chain", clocks=STEPS, control="continuum-rates"
    ),
    "continuum-rates": Arm("chain, rates only", "chain", clocks=STEPS, rates_only=True),
    "continuum-label": Arm(
        "continuum, written by labels", "chain", writes="label", control="chain", **_IN_CONTEXT
    ),
    "continuum-local": Arm(
        "continuum, written locally", "chain", writes="local", control="chain", **_IN_CONTEXT
    ),
    "continuum-both": Arm(
        "continuum, both clocks", "chain", clocks=STEPS, writes="local",
        control="continuum-steps", **_IN_CONTEXT,
    ),
    "ewc": Arm("elastic weights", "mlp", "ewc", extra="penalty", extras=(10.0, 100.0, 1000.0)),
    "replay": Arm("replay", "mlp", "replay", extra="share of replay", extras=(0.25, 0.5, 0.75)),
    "joint": Arm("all tasks so far at once", "mlp", "joint"),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Network:
    """A classifier with a memory that is written while it learns.

    Attributes:
        init: key -> parameters.
        start: parameters -> memory.
        learn: (parameters, memory, x (n, inputs), labels (n,), extra) -> scores (n, classes),
            memory after these examples.
        read: (parameters, memory, x) -> scores; nothing is written.
    """

    init: Callable[[Array], Any]
    start: Callable[[Any], Any]
    learn: Callable[[Any, Any, Array, Array, Any], tuple[Array, Any]]
    read: Callable[[Any, Any, Array], Float[Array, "n classes"]]


def network(arm: Arm, inputs: int, hidden: int, classes: int, batch_size: int) -> Network:
    """An arm's network. The MLP has two layers of `hidden` units; the chain three levels in a
    residual sum three quarters as wide, and about as many parameters."""
    sizes = (inputs, hidden, hidden, classes)
    if arm.network == "mlp":
        return Network(
            lambda key: models.mlp_init(key, sizes),
            lambda params: (),
            lambda params, memory, x, y, extra: (models.mlp(params, x, jax.nn.relu), memory),
            lambda params, memory, x: models.mlp(params, x, jax.nn.relu),
        )
    import equinox as eqx  # would double the time that the command line takes

    from nestax.memory import ContinuumMemory

    width = max(1, 3 * hidden // 4)
    left = (inputs + hidden + classes) * hidden - (inputs + classes) * width
    units = max(1, round(left / (3 * len(TURNS) * width)))  # of gated MLPs with three matrices
    periods = tuple(turn * batch_size for turn in TURNS)
    if arm.writes == "local":
        periods = tuple(batch_size // part for part in PARTS)

    def init(key: Array) -> dict[str, Any]:
        keys = jax.random.split(key, 3)
        memory = ContinuumMemory(
            width, periods, hidden=units, key=keys[1], scale=len(TURNS) ** -0.5,
            objective="local" if arm.writes == "local" else None,
        )  # fmt: skip
        first, last = (inputs, width), (width, classes)
        ends = {"in": models.mlp_init(keys[0], first), "out": models.mlp_init(keys[2], last)}
        return ends | {"memory": memory}

    def start(params: dict[str, Any]) -> Any:
        state = params["memory"].init_state()
        return state._replace(weights=jax.tree.map(jnp.zeros_like, state.weights))

    def now(params: dict[str, Any], memory: Any) -> Any:
        starts = params["memory"].init_state().weights
        return memory._replace(weights=jax.tree.map(jnp.add, starts, memory.weights))

    def scores(params: dict[str, Any], module: Any, x: Array, state: Any) -> Any:
        y, after = module(jax.nn.relu(models.mlp(params["in"], x, jax.nn.relu)), state)
        return models.mlp(params["out"], y, jax.nn.relu), after

    def read(params: dict[str, Any], memory: Any, x: Array) -> Array:
        # Without its targets the module writes nothing.
        absent = lambda node: node is None  # noqa: E731
        module = eqx.tree_at(lambda m: m.target, params["memory"], None, is_leaf=absent)
        return scores(params, module, x, now(params, memory))[0]

    def learn(params: dict[str, Any], memory: Any, x: Array, y: Array, extra: Any) -> Any:
        state = now(params, memory)
        module = eqx.tree_at(lambda m: m.rate, params["memory"], jnp.full(len(TURNS), extra))
        if not arm.writes:
            return scores(params, module, x, state)[0], memory
        if arm.writes == "local":
            outputs, after = scores(params, module, x, state)
        else:

            def loss(weights: Any) -> tuple[Array, Array]:
                outputs = scores(params, module, x, state._replace(weights=weights))[0]
                each = optax.softmax_cross_entropy_with_integer_labels(outputs, y)
                return jnp.sum(each), outputs

            # What is written is written: the optimizer does not look through it.
            gradients, outputs = jax.grad(loss, has_aux=True)(state.weights)
            after = module.gather(state, jax.lax.stop_gradient(gradients), len(x))
        written = jax.tree.map(jnp.subtract, after.weights, module.init_state().weights)
        return outputs, jax.lax.stop_gradient(after._replace(weights=written))

    return Network(init, start, learn, read)
