"""An update rule with weights of its own, and how it becomes an optax transformation."""

import abc
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from ..optim.internal import Rate, guarded, number, rate, wide


class Moment(NamedTuple):
    """What a rule is told beside gradients, parameters and its state.

    Attributes:
        count: number of updates before this one, int32.
        value: the loss, or None where the caller does not hand it in.
        num_steps: number of updates that are planned, or None.
    """

    count: Array
    value: Any = None
    num_steps: Any = None


class RuleState(NamedTuple):
    """The state of a rule used as an optax transformation.

    Attributes:
        count: number of updates so far, int32.
        rule: what the rule remembers.
    """

    count: Array
    rule: PyTree


class Rule(abc.ABC):
    """An update rule whose weights theta are an argument, so that they can be trained.

    `rule.init(key)` draws theta, a pytree of arrays. `rule(theta)` is an optax transformation. It
    is differentiable in theta and may be made while JAX traces a program, inside a level or under
    `jax.vmap`. A subclass defines `name`, for errors, and `init`, `begin` and `update`; `PerTensor`
    is the base of rules that treat each tensor by itself.

    Attributes:
        needs: which of "value" and "num_steps" the rule cannot do without.

    Source: Andrychowicz et al., "Learning to learn by gradient descent by gradient descent" (2016).
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()

    @abc.abstractmethod
    def init(self, key: Array) -> PyTree:
        """Weights of the rule before meta-training.

        Args:
            key: of `jax.random.key`.

        Returns:
            theta, a pytree of float32 arrays.
        """

    @abc.abstractmethod
    def begin(self, theta: PyTree, params: PyTree) -> PyTree:
        """The state before the first update.

        Args:
            theta: weights of the rule.
            params: the parameters, float32 at least.

        Returns:
            A pytree of arrays.
        """

    @abc.abstractmethod
    def update(
        self, theta: PyTree, gradients: PyTree, state: PyTree, params: PyTree, moment: Moment
    ) -> tuple[PyTree, PyTree]:
        """One update at a learning rate of one.

        Args:
            theta: weights of the rule.
            gradients: like the parameters, float32 at least.
            state: from `begin` or the last update.
            params: the parameters.
            moment: count, loss and number of steps.

        Returns:
            (updates, state): what is added to the parameters, and the next state.
        """

    def __call__(
        self, theta: PyTree, learning_rate: Rate = 1.0, num_steps: Any = None
    ) -> optax.GradientTransformationExtraArgs:
        """The rule with weights theta as an optax transformation.

        Args:
            theta: weights as `init` gives them; may be traced. Computed with in float32 at least.
            learning_rate: factor of all updates, or a schedule.
            num_steps: number of updates that are planned; may be traced. Rules that need it refuse
                None.

        Returns:
            An optax transformation. Its `update` needs the parameters, and takes the loss as the
            extra argument `value`; other extra arguments are ignored.

        Raises:
            ValueError: theta of another rule; a learning rate that is no number of at least 0 or
                schedule; `num_steps` below 1; parameters that are not floating-point arrays; a
                state of tensors of other shapes; no `value` or `num_steps` for a rule that needs
                it.
        """
        self.check(theta)
        theta = wide(theta)  # a decay of 0.999 is 1 in bfloat16
        if "num_steps" in self.needs and num_steps is None:
            raise ValueError(
                f"{self.name}: the rule needs the number of updates that are planned; give "
                "rule(theta, num_steps=...)"
            )
        if num_steps is not None:
            num_steps = number(self.name, "num_steps", num_steps, 1)
        factor = rate(self.name, learning_rate)

        def init(params: PyTree) -> RuleState:
            return RuleState(jnp.zeros((), jnp.int32), self.begin(theta, params))

        def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
            if params is None:
                raise ValueError(
                    f"{self.name}: the rule reads the parameters; call update(gradients, state, "
                    "params)"
                )
            value = extra.get("value")
            if "value" in self.needs and value is None:
                raise ValueError(
                    f"{self.name}: the rule reads the loss; call update(gradients, state, params, "
                    "value=loss)"
                )
            moment = Moment(state.count, value, num_steps)
            self._check_state(theta, state.rule, params)
            found, rule = self.update(theta, updates, state.rule, params, moment)
            scale = factor(state.count) if callable(factor) else factor
            found = jax.tree.map(lambda u: u * jnp.asarray(scale, u.dtype), found)
            return found, RuleState(jnp.asarray(optax.safe_increment(state.count)), rule)

        return guarded(self.name, optax.GradientTransformationExtraArgs(init, update))

    def _check_state(self, theta: PyTree, state: PyTree, params: PyTree) -> None:
        wanted, given = jax.eval_shape(self.begin, theta, params), jax.eval_shape(lambda: state)
        same = jax.tree.structure(wanted) == jax.tree.structure(given)
        pairs = zip(jax.tree.leaves(wanted), jax.tree.leaves(given), strict=False)
        if not same or any(a.shape != b.shape for a, b in pairs):
            raise ValueError(
                f"{self.name}: the state was made for parameters of other shapes; begin anew with "
                "init(params)"
            )

    def check(self, theta: PyTree) -> None:
        """Refuses weights that `init` would not give.

        Args:
            theta: weights of the rule.

        Raises:
            ValueError: another structure, another shape or no floating-point array; with the path.
        """
        wanted = jax.eval_shape(self.init, jax.eval_shape(lambda: jax.random.key(0)))
        known = dict(jax.tree_util.tree_leaves_with_path(wanted))
        given = dict(jax.tree_util.tree_leaves_with_path(theta))
        for path in [*known, *(path for path in given if path not in known)]:
            where = f"theta{jax.tree_util.keystr(path)}"
            if path not in given or path not in known:
                what = "lacks" if path in known else "has an unknown"
                raise ValueError(
                    f"{self.name}: theta {what} {where}; theta is what rule.init(key) of this rule "
                    "gives, with the same options"
                )
            shape, dtype = jnp.shape(given[path]), jnp.result_type(given[path])
            if shape != known[path].shape or not jnp.issubdtype(dtype, jnp.floating):
                raise ValueError(
                    f"{self.name}: {where} must be a floating-point array of shape "
                    f"{list(known[path].shape)}, got {dtype} of shape {list(shape)}"
                )


class PerTensor(Rule):
    """A rule that treats each tensor by itself, with the same theta.

    A subclass defines `name`, `init`, `begin_tensor` and `update_tensor`. These two never see a
    tensor without elements.
    """

    @abc.abstractmethod
    def begin_tensor(self, theta: PyTree, param: Array) -> PyTree:
        """The state of one tensor before the first update.

        Args:
            theta: weights of the rule.
            param: the tensor, float32 at least, with at least one element.

        Returns:
            A pytree of arrays.
        """

    @abc.abstractmethod
    def update_tensor(
        self, theta: PyTree, gradient: Array, state: PyTree, param: Array, moment: Moment
    ) -> tuple[Array, PyTree]:
        """One update of one tensor at a learning rate of one.

        Args:
            theta: weights of the rule.
            gradient: of the tensor, float32 at least.
            state: from `begin_tensor` or the last update.
            param: the tensor.
            moment: count, loss and number of steps.

        Returns:
            (update, state): what is added to the tensor, and its next state.
        """

    def begin(self, theta: PyTree, params: PyTree) -> PyTree:
        """See `Rule.begin`.

        Args:
            theta: weights of the rule.
            params: the parameters.

        Returns:
            A tuple with the state of each tensor; of tensors without elements ().
        """
        return tuple(
            self.begin_tensor(theta, leaf) if leaf.size else () for leaf in jax.tree.leaves(params)
        )

    def update(
        self, theta: PyTree, gradients: PyTree, state: PyTree, params: PyTree, moment: Moment
    ) -> tuple[PyTree, PyTree]:
        """See `Rule.update`.

        Args:
            theta: weights of the rule.
            gradients: like the parameters.
            state: from `begin` or the last update.
            params: the parameters.
            moment: count, loss and number of steps.

        Returns:
            (updates, state): what is added to the parameters, and the next state.
        """
        leaves, structure = jax.tree.flatten(gradients)
        updates, states = [], []
        for leaf, memory, param in zip(leaves, state, jax.tree.leaves(params), strict=True):
            if leaf.size:
                leaf, memory = self.update_tensor(theta, leaf, memory, param, moment)
            updates.append(leaf)
            states.append(memory)
        return structure.unflatten(updates), tuple(states)
