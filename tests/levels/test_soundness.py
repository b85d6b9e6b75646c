"""Gradients that cannot be what they are taken for are refused, or warned about; the others are
right. Right values are closed forms or central differences of the executed program."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestax as nx

UPDATE = nx.Implicit(nx.GMRES(), condition="update")


def q(a, c):
    return a**2 + c**2 + a * c


def settled(inner, outer, optimizer, flow, w, every=100, **options):
    """The state of two levels after one step of the outer one, `d`, and the nest."""
    nest = nx.Nest(
        [
            nx.Level("w", inner, optimizer, **options),
            nx.Level("d", outer, optax.sgd(0.0), every=every, flow=flow),
        ]
    )
    state, _ = nest.run(nest.init({"w": w, "d": 1.0}, jax.random.key(0)), steps=1)
    return nest, state


# Leaves that the optimizer cannot move.


def some(thing):
    return {"a": thing(True), "c": thing(False)}


STILL, FAST = optax.set_to_zero(), optax.sgd(0.3)
HELD = optax.masked(STILL, {"a": False, "c": True})
FROZEN = {
    "multi_transform": optax.multi_transform({"t": FAST, "f": STILL}, {"a": "t", "c": "f"}),
    "partition": optax.partition({"t": FAST, "f": STILL}, {"a": "t", "c": "f"}),
    "masked": optax.chain(FAST, optax.masked(STILL, {"a": False, "c": True})),
    "selective": optax.selective_transform(FAST, freeze_mask={"a": False, "c": True}),
    "before adam": optax.chain(HELD, optax.adam(0.3)),
    "rate 0": optax.partition({"t": FAST, "f": optax.sgd(0.0)}, {"a": "t", "c": "f"}),
    "finite": optax.apply_if_finite(
        optax.chain(FAST, optax.masked(STILL, {"a": False, "c": True})), 3
    ),
}


@pytest.mark.parametrize("name", FROZEN)
def test_leaves_that_the_optimizer_cannot_move_are_constants(x64, name):
    def inner(v, batch):
        return q(v["w"]["a"], v["w"]["c"]) - v["d"] * v["w"]["a"]

    def outer(v, batch):
        return v["w"]["a"] + 3 * v["w"]["c"]

    flows = [nx.Implicit(nx.Dense()), UPDATE] if name == "masked" else []
    for flow in [*flows, nx.Implicit(nx.CG(10))]:
        nest, state = settled(inner, outer, FROZEN[name], flow, {"a": 0.0, "c": 2.0})
        np.testing.assert_allclose(nest.gradient(state, "d"), 0.5, atol=1e-12)


def test_an_inner_level_that_nothing_moves_is_refused():
    with pytest.raises(ValueError, match="'w': its optimizer cannot move any leaf"):
        settled(
            lambda v, b: q(v["w"], v["d"]), lambda v, b: v["w"], STILL, nx.Implicit(nx.CG()), 1.0
        )


# Optimizers that settle elsewhere than where the objective is stationary.


def projected(flow):
    def inner(v, batch):
        return q(*v["w"]) - v["d"] * v["w"][0] + 5 * v["w"][1]

    optimizer = optax.chain(optax.sgd(0.2), optax.keep_params_nonnegative())
    outer = lambda v, batch: v["w"][0] + 3 * v["w"][1]  # noqa: E731
    return settled(inner, outer, optimizer, flow, jnp.ones(2))


@pytest.mark.parametrize("solver", [nx.Dense(), nx.GMRES(), nx.Neumann(60, rate=1.0)])
def test_a_projection_has_the_derivative_of_its_fixed_point(x64, solver):
    nest, state = projected(nx.Implicit(solver, condition="update"))
    np.testing.assert_allclose(nest.gradient(state, "d"), 0.5, atol=1e-12)
    if isinstance(solver, nx.GMRES):
        assert nx.check_gradient(nest, state, "d", verbose=False)


def test_a_projection_under_the_objective_is_warned_about(x64):
    with (
        pytest.warns(UserWarning, match="moves weights where the gradient is zero"),
        pytest.warns(UserWarning, match="leaves weights where they are"),
    ):
        nest, state = projected(nx.Implicit(nx.CG(10)))
    with pytest.warns(UserWarning, match="is off by 1.7e\\+00 from central differences"):
        found = nx.compare_flows(nest, state, [nx.Unroll()], draws=1, repeats=1)
    assert found.check.error > 1 and found.check.verdict == "failed"


def test_a_box_is_noticed_while_running(x64):
    """A projection that no probe at init has met, for it lets every likely value through."""

    def inner(v, batch):
        return jnp.sum((v["w"] - v["d"] * jnp.array([1.0, 1e5])) ** 2)

    def box(updates, state, params):
        return jnp.minimum(params + updates, 5e4) - params, state

    optimizer = optax.chain(optax.sgd(0.1), optax.GradientTransformation(lambda p: (), box))
    with pytest.warns(UserWarning, match="leaves weights where they are"):
        settled(inner, lambda v, b: v["w"][1], optimizer, nx.Implicit(nx.CG()), jnp.ones(2))


def decayed(flow, optimizer, w=None, steps=400):
    rates = jnp.array([1.0, 3.0])

    def inner(v, batch):
        return jnp.sum((v["w"] - v["d"]) ** 2 * rates) / 2 + v["w"][0] * v["w"][1]

    outer = lambda v, batch: v["w"][0] + 3 * v["w"][1] ** 2  # noqa: E731
    return settled(inner, outer, optimizer, flow, jnp.ones(2), every=steps)


def test_a_decay_in_the_optimizer_has_the_derivative_of_its_fixed_point(x64):
    optimizer = optax.chain(optax.add_decayed_weights(0.3), optax.sgd(0.2, momentum=0.5))
    nest, state = decayed(UPDATE, optimizer)
    # The weights solve H w = (1, 3) d, at d = 1.
    w = response = np.linalg.solve([[1.3, 1.0], [1.0, 3.3]], [1.0, 3.0])
    expected = np.array([1.0, 6 * w[1]]) @ response
    np.testing.assert_allclose(state.values["w"], w, atol=1e-12)
    np.testing.assert_allclose(nest.gradient(state, "d"), expected, atol=1e-10)
    with pytest.warns(UserWarning, match="weight decay, a projection or noise"):
        decayed(nx.Implicit(nx.CG()), optimizer, steps=1)


def test_what_an_optimizer_only_adds_to_is_held(x64):
    """Adagrad's squares settle anywhere: without a hold the system would be singular."""
    nest, state = decayed(nx.Implicit(nx.Dense(), condition="update"), optax.adagrad(0.7))
    exact, _ = decayed(nx.Implicit(nx.Dense()), optax.adagrad(0.7))
    np.testing.assert_allclose(nest.gradient(state, "d"), exact.gradient(state, "d"), rtol=1e-9)


def test_a_decay_that_the_optimizer_holds_can_be_tuned(x64):
    """The slow value occurs in no objective, only in the inner optimizer."""

    def optimizer(values):
        return optax.chain(optax.add_decayed_weights(values["d"]), optax.sgd(0.2))

    inner = lambda v, batch: (v["w"] - 2) ** 2 / 2  # noqa: E731
    outer = lambda v, batch: v["w"] ** 2 / 2  # noqa: E731
    nest, state = settled(inner, outer, optimizer, UPDATE, 1.0)  # w = 2 / (1 + d)
    np.testing.assert_allclose(nest.gradient(state, "d"), 1.0 * -2 / 4, atol=1e-12)


def test_gradients_gathered_inside_an_optimizer_are_warned_about():
    optimizer = optax.MultiSteps(optax.sgd(0.1), 4).gradient_transformation()
    with pytest.warns(UserWarning, match='accumulate="mean"'):
        nest = nx.Nest(
            [
                nx.Level("w", lambda v, b: q(v["w"], v["d"]), optimizer),
                nx.Level(
                    "d", lambda v, b: v["w"], optax.sgd(0.1), every=8, flow=nx.Implicit(nx.CG())
                ),
            ]
        )
        nest.init({"w": 1.0, "d": 1.0}, jax.random.key(0))


def test_a_rate_that_has_decayed_to_zero_is_no_projection(x64):
    rate = optax.warmup_cosine_decay_schedule(0.0, 0.1, 20, 300)
    _, state = settled(
        lambda v, b: (v["w"] - v["d"]) ** 2 / 2,
        lambda v, b: v["w"],
        optax.adam(rate),
        nx.Implicit(nx.CG()),
        0.0,
        every=310,
    )  # without a warning
    assert state.tick == 310


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.chain(optax.add_decayed_weights(0.5), optax.sgd(optax.linear_schedule(0.0, 0.1, 5))),
        optax.adamw(optax.linear_schedule(0.0, 0.01, 5), weight_decay=0.5),
        optax.chain(
            optax.sgd(0.1),
            optax.stateless(lambda u, p: optax.projections.projection_l2_ball(p + u, 5.0) - p),
        ),
    ],
)
def test_what_moves_weights_only_later_or_further_out_is_found(optimizer):
    w = nx.Level("w", lambda v, b: jnp.sum((v["w"] - v["d"]) ** 2), optimizer)
    d = nx.Level("d", lambda v, b: jnp.sum(v["w"]), optax.sgd(0.1), flow=nx.Implicit(nx.CG()))
    with pytest.warns(UserWarning, match="moves weights where the gradient is zero"):
        nx.Nest([w, (d,)]).init({"w": jnp.ones(2), "d": 1.0}, jax.random.key(0))


def test_a_flow_that_finds_only_the_partial_derivative_is_warned_about():
    loss = lambda v, b: (v["w"] - 3) ** 2 / 2 + 0.01 * v["d"] ** 2  # noqa: E731
    w = nx.Level("w", lambda v, b: v["w"] ** 2, optax.sgd(0.1), start=lambda v, task, key: v["d"])
    d = nx.Level("d", loss, optax.sgd(0.1), every=2, flow=nx.OneStep())
    with pytest.warns(UserWarning, match="finds nothing but the partial derivative"):
        nx.Nest([w, d]).init({"d": 1.0}, jax.random.key(0))


def test_an_unrolled_nest_is_checked_without_drawing_a_batch():
    def context(task, key):
        assert isinstance(key, jax.core.Tracer), "drawn, though only its shapes are wanted"
        return jax.random.normal(key)

    begin = lambda v, task, key: v["d"]  # noqa: E731
    w = nx.Level("w", lambda v, b: (v["w"] - b) ** 2, optax.sgd(0.1), context, start=begin)
    d = nx.Level(
        "d", lambda v, b: (v["w"] - b) ** 2, optax.sgd(0.1), context, every=2, flow=nx.Unroll()
    )
    nx.Nest([w, d]).init({"d": 1.0}, jax.random.key(0))


@pytest.mark.parametrize("solver", [nx.CG(), nx.Neumann()])
def test_a_symmetric_solver_is_refused_for_updates(solver):
    with pytest.raises(ValueError, match="is not symmetric"):
        nx.Implicit(solver, condition="update")


def test_an_update_without_a_derivative_is_refused():
    with pytest.raises(ValueError, match="has no derivative with respect to its gradient"):
        settled(
            lambda v, b: q(v["w"], v["d"]), lambda v, b: v["w"], optax.sign_sgd(0.1), UPDATE, 1.0
        )


# Gradients that are zero by structure.


def adapted(flow, inner=None):
    inner = inner or (lambda v, batch: (v["w"] - 1) ** 2 / 2)
    w = nx.Level("w", inner, optax.sgd(0.1), start=lambda v, task, key: v["d"])
    d = nx.Level("d", lambda v, batch: (v["w"] - 3) ** 2 / 2, optax.sgd(0.0), every=2, flow=flow)
    nest = nx.Nest([w, d])
    return nest, nest.init({"d": 0.0}, jax.random.key(0))


@pytest.mark.parametrize(
    "flow, says",
    [
        (None, "Direct\\(\\) treats the inner levels as constants.*flow=Unroll"),
        (nx.Direct(), "Direct\\(\\) treats the inner levels as constants"),
        (nx.OneStep(), "nor on the path that Unroll\\(last=1\\) follows"),
    ],
)
def test_a_starting_point_that_no_gradient_reaches_is_refused(flow, says):
    with pytest.raises(ValueError, match="'d': its gradient would always be zero.*" + says):
        adapted(flow)


def test_first_order_maml(x64):
    nest, state = adapted(nx.Unroll(first_order=True))
    np.testing.assert_allclose(nest.gradient(state, "d"), -2.81, atol=1e-12)
    nest, state = adapted(nx.Unroll())
    np.testing.assert_allclose(nest.gradient(state, "d"), -2.81 * 0.81, atol=1e-12)
    response = nx.best_response(
        lambda d, w: (w - 1) ** 2 / 2, optax.sgd(0.1), 2, nx.Unroll(first_order=True)
    )
    first = jax.grad(lambda start: (response(0.0, start) - 3) ** 2 / 2)(0.0)
    np.testing.assert_allclose(first, -2.81, atol=1e-12)


def test_a_penalty_is_out_of_reach_of_first_order():
    w = nx.Level("w", lambda v, b: v["d"] * v["w"] ** 2, optax.sgd(0.1))
    flow = nx.Unroll(first_order=True)
    d = nx.Level("d", lambda v, b: (v["w"] - 3) ** 2, optax.sgd(0.1), every=2, flow=flow)
    with pytest.raises(ValueError, match="follows; use Unroll\\(\\)"):
        nx.Nest([w, d]).init({"w": 1.0, "d": 1.0}, jax.random.key(0))


@pytest.mark.parametrize("connected", [False, True])
def test_a_rate_that_lies_in_a_state_does_not_follow_its_level(connected):
    injected = optax.inject_hyperparams(optax.sgd)

    def optimizer(values):
        return optax.sgd(values["d"]) if connected else injected(learning_rate=values["d"])

    w = nx.Level("w", lambda v, b: (v["w"] - 1) ** 2, optimizer)
    d = nx.Level("d", lambda v, b: v["w"] ** 2, optax.sgd(0.1), every=2, flow=nx.Unroll())
    nest = nx.Nest([w, d])
    if connected:
        nest.init({"w": 0.0, "d": 0.1}, jax.random.key(0))
    else:
        with pytest.raises(ValueError, match="inject_hyperparams, is copied once"):
            nest.init({"w": 0.0, "d": 0.1}, jax.random.key(0))


def test_an_objective_without_its_own_value_is_refused():
    one = nx.Level("w", lambda v, b: v["d"] ** 2, optax.sgd(0.1))
    other = nx.Level("d", lambda v, b: v["d"] ** 2, optax.sgd(0.1))
    with pytest.raises(ValueError, match="'w': its gradient would always be zero"):
        nx.Nest([(one, other)]).init({"w": 1.0, "d": 1.0}, jax.random.key(0))
    held = nx.Level("w", lambda v, b: v["d"] ** 2, optax.set_to_zero())  # on purpose
    nx.Nest([(held, other)]).init({"w": 1.0, "d": 1.0}, jax.random.key(0))


# `check_gradient` of any nest.


@pytest.mark.parametrize(
    "flow", [None, nx.Unroll(), nx.Forward(), nx.OneStep(), nx.Implicit(nx.CG(5))]
)
@pytest.mark.parametrize("copies", [None, 2])
def test_gradients_are_those_of_the_executed_program(flow, copies):
    def inner(v, batch):
        return jnp.sum((v["w"] - v["d"] + batch) ** 2) / 2 + jnp.sum(v["w"] ** 4) / 20

    def outer(v, batch):
        return jnp.sum(v["w"] * v["d"]) + jnp.sum(v["w"] ** 2)

    start = (lambda v, task, key: jnp.zeros(2)) if copies else None
    every = 60 if isinstance(flow, nx.Implicit) else 3
    w = nx.Level("w", inner, optax.sgd(0.5), lambda task, key: task, start=start)
    d = nx.Level(
        "d",
        outer,
        optax.sgd(0.1),
        every=every,
        flow=flow,
        accumulate="mean" if flow is None else None,
    )
    nest = nx.Nest([w, d], task=jnp.array([0.3, -0.1]), copies=copies)
    state = nest.init(
        {"d": jnp.ones(2)} | ({} if copies else {"w": jnp.zeros(2)}), jax.random.key(0)
    )
    check = nx.check_gradient(nest, state, "d", verbose=False)
    assert check.error < 1e-8 and check.passed, check


def estimated(loss, start):
    w = nx.Level("w", lambda v, b: v["w"] ** 2, optax.sgd(0.1), start=start)
    d = nx.Level("d", loss, optax.sgd(0.1), every=2, flow=nx.ES(0.1))
    nx.Nest([w, d], copies=2).init({"d": 1.0}, jax.random.key(0))


def test_losses_without_derivatives_are_for_evolution_strategies():
    """What counts is whether the value occurs, not whether a derivative follows it there."""
    begin = lambda v, task, key: v["d"]  # noqa: E731
    estimated(lambda v, b: jnp.round(v["w"]), begin)
    estimated(lambda v, b: v["w"] + v["d"], lambda v, task, key: jnp.round(v["d"]))
    with pytest.raises(ValueError, match="its gradient would always be zero"):
        estimated(lambda v, b: jnp.round(v["w"]), lambda v, task, key: jnp.ones(()))
    with pytest.warns(UserWarning, match="finds nothing but the partial derivative"):
        estimated(lambda v, b: jnp.round(v["w"]) + v["d"], lambda v, task, key: jnp.ones(()))


def test_an_estimate_shows_what_it_leaves_out():
    nest, state = adapted(nx.Unroll(first_order=True))
    assert nx.check_gradient(nest, state, "d", verbose=False).error == pytest.approx(0.19 / 0.81)


# Best responses, by the same rules.


def test_best_responses_take_still_leaves_and_updates_alike(x64):
    def inner(d, w):
        return q(w["a"], w["c"]) - d * w["a"]

    start = {"a": jnp.zeros(()), "c": jnp.full((), 2.0)}

    def slope(flow, optimizer=FROZEN["partition"], inner=inner, start=start):
        response = nx.best_response(inner, optimizer, 100, flow)
        weighed = lambda d: jnp.vdot(jnp.array([1.0, 3.0]), stacked(response(d, start)))  # noqa: E731
        return jax.jit(jax.grad(weighed))(1.0)

    stacked = lambda w: jnp.stack(jax.tree.leaves(w)).reshape(2)  # noqa: E731
    for flow in (nx.Implicit(nx.CG(5)), UPDATE, nx.FiniteDifference(rate=0.5)):
        np.testing.assert_allclose(slope(flow), 0.5, atol=1e-9)
    np.testing.assert_allclose(slope(nx.Implicit(nx.CG(5)), FROZEN["before adam"]), 0.5, atol=1e-9)
    uncalled = nx.best_response(lambda d, w: jnp.sum((w - d["d"]) ** 2), optax.sgd, 3)
    with pytest.raises(TypeError, match=r"call the optimizer: optax\.sgd\(learning_rate\)"):
        uncalled({"d": jnp.ones(2)}, jnp.zeros(2))
    project = optax.chain(optax.sgd(0.2), optax.keep_params_nonnegative())
    bounded = lambda d, w: q(*w) - d * w[0] + 5 * w[1]  # noqa: E731
    np.testing.assert_allclose(slope(UPDATE, project, bounded, jnp.ones(2)), 0.5, atol=1e-9)
    with pytest.warns(UserWarning, match="best_response: Implicit takes the weights to settle"):
        slope(nx.Implicit(nx.CG(5)), project, bounded, jnp.ones(2))


@pytest.mark.parametrize(
    ("optimizer", "says"),
    [
        (optax.lbfgs(0.1), "loop of unknown length"),
        (optax.lbfgs(0.1, linesearch=None), "hides the scale of its first step"),
    ],
)
def test_best_responses_refuse_updates_whose_derivative_is_another(optimizer, says):
    response = nx.best_response(lambda d, w: jnp.sum((w - d) ** 2), optimizer, 2)
    with pytest.raises(ValueError, match=says):
        jax.grad(lambda d: jnp.sum(response(d, jnp.ones(2))))(1.0)


def test_best_responses_take_updates_that_hide_nothing():
    plain = optax.lbfgs(0.1, linesearch=None, scale_init_precond=False)
    response = nx.best_response(lambda d, w: jnp.sum((w - d) ** 2), plain, 1)
    assert jax.grad(lambda d: jnp.sum(response(d, jnp.ones(2))))(1.0) == pytest.approx(0.4)
