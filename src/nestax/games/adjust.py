"""Fields that players follow in place of their own gradients, because descent alone goes round.

An adjustment is a function `losses -> field`. `joint_field` is the plain one; the others here are
made by a function of their strength, `consensus(0.3)(losses)`. With `adjusted` the levels of a nest
follow such a field, with their own batches, clocks and optimizers.
"""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ..flows import GMRES, solve_linear
from .checks import is_known, number, whole
from .field import (
    Field,
    Losses,
    added,
    as_losses,
    check_players,
    floating,
    joint_field,
    like_players,
    names,
    own_gradient,
    with_value,
)

Adjustment = Callable[[Any], Field]


def extragradient(rate: Any) -> Adjustment:
    """The joint field at the point that one step of descent would reach.

        xi'(x) = xi(x - rate xi(x))

    Descent along it with the same rate is the extragradient method: it converges on bilinear games
    and wherever the players' field is monotone, if `rate` is below one over its Lipschitz constant.

    Example:
        ```python
        losses = (lambda x, y: x * y, lambda x, y: -x * y)
        x, y = nx.games.extragradient(0.5)(losses)((1.0, 3.0))
        print(x, y)  # 3.5 0.5
        ```

    Args:
        rate: size of the step ahead, of all players; a number, may be traced.

    Returns:
        `losses -> field`, with losses and field as in `joint_field`.

    Raises:
        ValueError: a rate that is not one finite number.

    Source: Korpelevich, "The extragradient method for finding saddle points and other problems"
    (1976).
    """
    rate = number("extragradient", "rate", rate)

    def adjust(losses: Any) -> Field:
        field = joint_field(losses)
        return lambda values: field(_moved(values, field(values), -rate))

    return adjust


def consensus(strength: Any) -> Adjustment:
    """The joint field, and the gradient of half its squared norm.

        xi' = xi + strength J' xi

    J is the Jacobian of the joint field xi, J' its transpose. All players are drawn to points where
    all gradients vanish, to repelling ones too if `strength` is large.

    Example:
        ```python
        losses = (lambda x, y: x * y, lambda x, y: -x * y)
        x, y = nx.games.consensus(0.5)(losses)((1.0, 3.0))
        print(x, y)  # 3.5 0.5
        ```

    Args:
        strength: factor of the second term, a number; may be traced.

    Returns:
        `losses -> field`, with losses and field as in `joint_field`.

    Raises:
        ValueError: a strength that is not one finite number.

    Source: Mescheder, Nowozin and Geiger, "The Numerics of GANs" (2017), Algorithm 2.
    """
    strength = number("consensus", "strength", strength)

    def adjust(losses: Any) -> Field:
        field = joint_field(losses)

        def adjusted_field(values: Any) -> Any:
            xi, pull = _linear(field, values)
            return added(xi, strength, pull(xi))

        return adjusted_field

    return adjust


def symplectic(strength: Any = 1.0, align: bool = False) -> Adjustment:
    """Symplectic gradient adjustment: the joint field, turned against its rotation.

        xi' = xi + s A' xi,    A = (J - J') / 2

    A is the antisymmetric part of the Jacobian J of the joint field xi. In a game of one interest
    (J symmetric) nothing is added.

    Example:
        ```python
        losses = (lambda x, y: x * y, lambda x, y: -x * y)
        x, y = nx.games.symplectic(0.5)(losses)((1.0, 3.0))
        print(x, y)  # 3.5 0.5
        ```

    Args:
        strength: the factor s, a number; may be traced.
        align: whether s has the sign of `<xi, g> <A' xi, g> / n + 0.1`, where g = J' xi and n is
            the number of components. Then stable fixed points attract and unstable ones repel.

    Returns:
        `losses -> field`, with losses and field as in `joint_field`.

    Raises:
        ValueError: a strength that is not one finite number.

    Source: Balduzzi et al., "The Mechanics of n-Player Differentiable Games" (2018), Algorithm 1.
    """
    strength = number("symplectic", "strength", strength)

    def adjust(losses: Any) -> Field:
        ready = as_losses(losses, "symplectic")
        field = joint_field(ready)

        def adjusted_field(values: Any) -> Any:
            xi, pull = _linear(field, values)
            downhill = pull(xi)  # of half the squared norm of xi
            turned = jax.tree.map(
                lambda t, p: (t - p) / 2, downhill, _product(ready, values, xi, others=False)
            )
            sign = jnp.ones(())
            if align:
                size = sum(jnp.size(leaf) for leaf in jax.tree.leaves(xi))
                agreement = _dot(xi, downhill) * _dot(turned, downhill) / size
                sign = jnp.where(agreement + 0.1 < 0, -1.0, 1.0)
            return added(xi, strength * sign, turned)

        return adjusted_field

    return adjust


def lookahead(rate: Any) -> Adjustment:
    """LookAhead: each player's gradient where the other players' next step leads, to first order.

        xi' = (I - rate J_o) xi

    J_o is the Jacobian of the joint field without the players' own blocks. Unlike `lola`, a player
    does not reckon with a response of the others.

    Example:
        ```python
        losses = (lambda x, y: x * y, lambda x, y: -x * y)
        x, y = nx.games.lookahead(0.5)(losses)((1.0, 3.0))
        print(x, y)  # 3.5 0.5
        ```

    Args:
        rate: the other players' learning rate, a number; may be traced.

    Returns:
        `losses -> field`, with losses and field as in `joint_field`.

    Raises:
        ValueError: a rate that is not one finite number.

    Source: Zhang and Lesser, "Multi-Agent Learning with Policy Prediction" (2010); in this form
    Letcher et al., "Stable Opponent Shaping in Differentiable Games" (2019), section 3.1.
    """
    rate = number("lookahead", "rate", rate)

    def adjust(losses: Any) -> Field:
        ready = as_losses(losses, "lookahead")
        field = joint_field(ready)

        def adjusted_field(values: Any) -> Any:
            xi = field(values)
            return added(xi, -rate, _product(ready, values, xi, others=True))

        return adjusted_field

    return adjust


def lola(rate: Any, steps: int = 1, order: int = 1, first_order: bool = False) -> Adjustment:
    """Learning with opponent-learning awareness: gradients through the other players' steps.

        L_i'(x) = L_i(x_i, others after `steps` steps of descent on their own losses)

    Each player descends L_i', so that the way the others' steps depend on the player's own value
    counts: this shapes what the others learn, as `lookahead` does not.

    Example:
        ```python
        losses = (lambda x, y: x * y, lambda x, y: -x * y)
        x, y = nx.games.lola(0.5)(losses)((1.0, 3.0))
        print(x, y)  # 4.0 2.0
        ```

    Args:
        rate: the other players' learning rate, a number or a dict player -> number; may be traced.
        steps: steps of the other players that are looked ahead, at least 1.
        order: 1: the others are taken to descend their own losses. 2: they are taken to descend
            what they would with order 1, and so on (higher-order LOLA).
        first_order: L_i' to first order in `rate`, as the paper has it; with `steps=1` and
            `order=1` only. Both parts of the derivative of the added term are kept: the paper drops
            the part that `lookahead` consists of.

    Returns:
        `losses -> field`, with losses and field as in `joint_field`.

    Raises:
        ValueError: a rate that is not finite or a player without one, counts below 1, a
            `first_order` of more than one step or order.

    Source: Foerster et al., "Learning with Opponent-Learning Awareness" (2018), section 4; higher
    orders: Willi et al., "COLA: Consistent Learning with Opponent-Learning Awareness" (2022).
    """
    steps, order = whole("lola", "steps", steps), whole("lola", "order", order)
    if isinstance(rate, Mapping):
        rate = {name: number("lola", f"rate of {name!r}", one) for name, one in rate.items()}
    else:
        rate = number("lola", "rate", rate)
    if first_order and (steps > 1 or order > 1):
        raise ValueError(
            "lola: first_order expands one step of players who descend their own losses, so it "
            f"goes with steps=1 and order=1; got steps={steps}, order={order}"
        )

    def adjust(losses: Any) -> Field:
        ready = as_losses(losses, "lola")
        rates = _rates(rate, ready)
        shaped = ready
        for _ in range(order):
            shaped = {
                name: _after(ready, shaped, name, rates, steps, first_order)
                for name in names(ready)
            }

        def adjusted_field(values: Any) -> Any:
            check_players(ready, values)
            found = {name: own_gradient(shaped, name, values) for name in names(ready)}
            return like_players(values, found)

        return adjusted_field

    return adjust


def competitive(rate: Any, solver: Any = None) -> Adjustment:
    """Competitive gradient descent: each player answers the other players' simultaneous step.

        (I + rate J_o) xi' = xi

    A step of `rate` along xi' is the Nash equilibrium of the game in which losses are replaced by
    their linear parts, their mixed second derivatives and a squared distance. J_o is the Jacobian
    of the joint field without the players' own blocks. More than two players play the polymatrix
    form of it.

    Example:
        ```python
        losses = (lambda x, y: x * y, lambda x, y: -x * y)
        x, y = nx.games.competitive(0.5)(losses)((1.0, 3.0))
        print(f"{x:.3f} {y:.3f}")  # 2.800 0.400
        ```

    Args:
        rate: learning rate of the step that follows; a number, may be traced.
        solver: a solver of `nestax.flows`. Solvers for symmetric systems, such as `nx.CG(20)`, are
            given the normal equations. None: `nx.GMRES(20)`. A system of n numbers may take n
            products; with fewer the field is an approximation.

    Returns:
        `losses -> field`, with losses and field as in `joint_field`. Its derivatives are those of
        the exact solution, in reverse mode only. Outside of `jax.jit` the field warns if the solver
        leaves a relative residual above 0.01.

    Raises:
        ValueError: a rate that is not one finite number.
        TypeError: not a solver.

    Source: Schaefer and Anandkumar, "Competitive Gradient Descent" (2019), equation (3); Ma et al.,
    "Polymatrix Competitive Gradient Descent" (2021).
    """
    rate = number("competitive", "rate", rate)
    solver = GMRES(20) if solver is None else solver

    def adjust(losses: Any) -> Field:
        ready = as_losses(losses, "competitive")
        field = joint_field(ready)

        def adjusted_field(values: Any) -> Any:
            xi = field(values)
            push = lambda u: added(u, rate, _product(ready, values, u, others=True))  # noqa: E731
            if getattr(solver, "symmetric", False):
                pull = lambda u: jax.vjp(push, xi)[1](u)[0]  # noqa: E731
                found = solve_linear(solver, lambda _, u: pull(push(u)), None, pull(xi))
            else:
                found = solve_linear(solver, lambda _, u: push(u), None, xi)
            _tell_residual(solver, *found)
            return found[0]

        return adjusted_field

    return adjust


def _tell_residual(solver: Any, _: Any, info: Any) -> None:
    """Warns of a solution that is not one; of a traced one nothing is known."""
    if is_known(info.residual) and not info.residual <= 0.01:
        warnings.warn(
            f"competitive: {solver!r} leaves a relative residual of {float(info.residual):.1e}, so "
            "this is not the competitive step; allow more steps of the solver, or a smaller rate",
            stacklevel=3,
        )


def _after(
    losses: Losses, shaped: Losses, player: Any, rates: dict[Any, Any], steps: int, first: bool
) -> Callable[[Any], Any]:
    """A player's loss after the others' steps along their gradients of the `shaped` losses."""
    others = [name for name in names(losses) if name != player]

    def loss(values: Any) -> Any:
        if first:
            found = losses[player](values)
            for name in others:
                step = own_gradient(losses, name, values)
                along = _cross_gradient(losses, player, name, values)
                found = found - rates[name] * _dot(step, along)
            return found
        for _ in range(steps):
            steps_of = {name: own_gradient(shaped, name, values) for name in others}
            for name in others:
                moved = _moved(values[name], steps_of[name], -rates[name])
                values = with_value(values, name, moved)
        return losses[player](values)

    return loss


def _rates(rate: Any, losses: Losses) -> dict[Any, Any]:
    if not isinstance(rate, dict):
        return dict.fromkeys(names(losses), rate)
    if set(rate) != set(names(losses)):
        raise ValueError(
            f"lola: rate has the players {list(rate)}, and the game has {names(losses)}"
        )
    return rate


def _cross_gradient(losses: Losses, player: Any, name: Any, values: Any) -> Any:
    """The gradient of a player's loss with respect to any player's value."""
    own, back = floating(values[name])
    return jax.grad(lambda m: losses[player](with_value(values, name, back(m))))(own)


def _product(losses: Losses, values: Any, vector: Any, others: bool) -> Any:
    """J u for the Jacobian of the joint field; without the players' own blocks: J_o u.

    Component i is the gradient by x_i of <d L_i / d x, u>: second derivatives commute, so reverse
    mode is enough.
    """
    found = {}
    for name in names(losses):
        others_names = [n for n in names(losses) if not (others and n == name)]

        def along(own: Any, name: Any = name, read: Any = others_names) -> Any:
            here = with_value(values, name, floating(values[name])[1](own))
            parts = [_dot(_cross_gradient(losses, name, n, here), vector[n]) for n in read]
            return sum(parts, start=jnp.zeros(()))

        found[name] = jax.grad(along)(floating(values[name])[0])
    return like_players(values, found)


def _linear(field: Field, values: Any) -> tuple[Any, Callable[[Any], Any]]:
    """The field, and u -> J' u."""
    moving, back = floating(values)
    xi, pull = jax.vjp(lambda m: field(back(m)), moving)
    return xi, lambda u: pull(u)[0]


def _moved(values: Any, along: Any, factor: Any) -> Any:
    moving, back = floating(values)
    return back(added(moving, factor, along))


def _dot(a: Any, b: Any) -> Any:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return sum((jnp.sum(one * other) for one, other in pairs), start=jnp.zeros(()))
