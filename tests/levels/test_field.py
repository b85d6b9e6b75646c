"""Levels given by the vector field that they follow, against closed forms and the interpreter."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from references.nests import agree, noise

import nestax as nx


def nested(inner, flow, every=100, outer=None, optimizer=None):
    w = nx.Level("w", inner, optimizer or optax.sgd(0.5))
    outer = outer or (lambda v, _: jnp.sum(v["w"]))
    return nx.Nest([w, nx.Level("d", outer, optax.sgd(0.0), every=every, flow=flow)])


def hypergradient(inner, flow, every=100, values=None, outer=None, optimizer=None):
    nest = nested(inner, flow, every, outer, optimizer)
    state = nest.init(values or {"w": 0.0, "d": 1.0}, jax.random.key(0))
    return nest.gradient(nest.run(state, 1)[0], "d")


BOOTSTRAPPED = nx.Field(lambda v, _: v["w"] - v["d"] - v["w"] / 2)


@pytest.mark.parametrize("flow", [nx.Unroll(), nx.Forward(), nx.Implicit(nx.Dense())], ids=repr)
def test_a_target_of_its_own_value_moves_with_it(x64, flow):
    """w = d + w / 2 settles at 2 d."""
    np.testing.assert_allclose(hypergradient(BOOTSTRAPPED, flow), 2, rtol=1e-10)


ROTATED = jnp.array([[1.0, 2.0], [-1.5, 1.0]])  # the gradient of nothing


@pytest.mark.parametrize(
    "flow",
    [nx.Unroll(), nx.Unroll(checkpoint=1), nx.Implicit(nx.Dense())],
    ids=["unroll", "lean", "implicit"],
)
def test_a_field_that_is_no_gradient(x64, flow):
    """A zero of A w - d, so d w / d d = A^-1: neither symmetric nor that of |field|^2 / 2."""
    rotated = np.asarray(ROTATED, np.float64)
    found = hypergradient(
        nx.Field(lambda v, _: jnp.asarray(rotated) @ v["w"] - v["d"]),
        flow,
        every=400,
        values={"w": jnp.zeros(2), "d": jnp.array([1.0, -2.0])},
        outer=lambda v, _: v["w"] @ jnp.array([1.0, 3.0]),
        optimizer=optax.sgd(0.1),
    )
    np.testing.assert_allclose(found, np.linalg.solve(rotated.T, [1.0, 3.0]), rtol=1e-8)


def noisy(task, key):
    return task["shift"] + noise(key, 2)


def turning(values, batch):
    """A field that is no gradient, with info, and an integer leaf that is not trained."""
    w, u = values["w"]["w"], values["u"]
    field = jnp.stack([w[0] + 2 * w[1], w[1] - w[0] ** 3]) - jnp.tanh(u) - batch
    return {"w": field, "count": None}, {"largest": jnp.max(field)}


def shared(values, batch):
    return values["u"] - 0.3 * values["w"]["w"] - 0.1 * values["v"] - batch


def test_fields_in_nests_are_those_of_the_interpreter(x64):
    """Copied and shared, gathered, alternating, under Unroll and Implicit."""

    def outer(values, batch):
        return jnp.sum((values["w"]["w"] - values["v"]) ** 2) + jnp.sum(values["u"] ** 2)

    start = lambda values, task, key: {"w": values["v"], "count": 3}  # noqa: E731
    w = nx.Level("w", nx.Field(turning), optax.adam(0.05, eps_root=1e-4), noisy, start=start)
    for flow, accumulate in ((nx.Unroll(), "mean"), (nx.Implicit(nx.Dense()), None)):
        gathered = "sum" if accumulate else None
        u = nx.Level("u", nx.Field(shared), optax.sgd(0.2), noisy, every=2, accumulate=gathered)
        v = nx.Level("v", outer, optax.sgd(0.1), every=4, flow=flow, accumulate=accumulate)
        task = lambda key: {"shift": noise(key, 2)}  # noqa: E731
        nest = nx.Nest([w, u, v], task=task, copies=3, order="alternating")
        agree(nest, {"u": jnp.ones(2), "v": jnp.array([0.3, -0.2])}, 2, 0, True)


def test_what_is_reported(x64):
    nest = nx.Nest([nx.Level("w", nx.Field(lambda v, _: (2 * v["w"], {"w": 1})), optax.sgd(0.25))])
    state, info = nest.run(nest.init({"w": jnp.array([3.0, 4.0])}, jax.random.key(0)), 2)
    np.testing.assert_allclose(info["w"].loss, [50, 12.5])
    np.testing.assert_allclose(info["w"].gradient_norm, [10, 5])
    np.testing.assert_allclose(info["w"].user["w"], 1)
    np.testing.assert_allclose(state.values["w"], [0.75, 1])


def test_the_loss_of_a_field_in_half_precision_is_single():
    nest = nx.Nest([nx.Level("w", nx.Field(lambda v, _: v["w"]), optax.sgd(0.25))])
    _, info = nest.step(nest.init({"w": jnp.full(3, 300, jnp.float16)}, jax.random.key(0)))
    np.testing.assert_allclose(info["w"].loss, 135_000)


def test_what_a_field_cannot_do_is_refused():
    level = nx.Level("w", BOOTSTRAPPED, optax.sgd(0.5))
    with pytest.raises(ValueError, match="a Field takes a function"):
        nx.Field(3.0)  # type: ignore
    with pytest.raises(ValueError, match=r"'d': a flow such as Unroll .* given by its Field"):
        nx.Level("d", BOOTSTRAPPED, optax.sgd(0.5), every=2, flow=nx.Unroll())
    outer = nx.Level("d", lambda v, _: v["w"], optax.sgd(0.1), flow=nx.FiniteDifference(0.1))
    with pytest.raises(ValueError, match="'d': FiniteDifference needs inner objectives, and 'w'"):
        nx.Nest([level, outer])

    def begin(function, optimizer):
        nest = nx.Nest([nx.Level("w", nx.Field(function), optimizer)])
        nest.init({"w": {"a": jnp.ones(2)}}, jax.random.key(0))

    for wrong, message in (
        (lambda v, _: jnp.sum(v["w"]["a"]), r"'w': its Field returns a pytree like"),
        (lambda v, _: {"a": jnp.ones(3)}, r"'w': its Field returns at \['a'\] float32\[3\]"),
        (lambda v, _: {"a": 1j * v["w"]["a"]}, r"complex64\[2\], expected float32\[2\]"),
    ):
        with pytest.raises(ValueError, match=message):
            begin(wrong, optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"'w': its optimizer evaluates the loss elsewhere"):
        begin(lambda v, _: v["w"], optax.lbfgs())


def test_a_solver_for_symmetric_systems_does_not_fit_a_field():
    with pytest.raises(ValueError, match=r"'d': CG needs a symmetric system"):
        nested(nx.Field(lambda v, _: ROTATED @ v["w"] - v["d"]), nx.Implicit(nx.CG(2))).init(
            {"w": jnp.zeros(2), "d": jnp.zeros(2)}, jax.random.key(0)
        )


# A stop_gradient that hides how an inner level moves.

stop = jax.lax.stop_gradient


def looped(v, _):
    def body(total, _):
        return total + (v["w"] - v["d"] - stop(v["w"]) / 2) ** 2, None

    return jax.jit(lambda: jax.lax.scan(body, 0 * v["w"], None, 1)[0])()


HIDING = {
    "own": lambda v, _: (v["w"] - v["d"] - stop(v["w"]) / 2) ** 2 / 2,
    "slower": lambda v, _: (v["w"] - stop(v["d"])) ** 2 / 2 + 0.1 * v["w"] * v["d"],
    "looped": looped,
    "field": nx.Field(lambda v, _: v["w"] - v["d"] - stop(v["w"]) / 2),
}
POINT = {"w": jnp.zeros(()), "d": jnp.ones(())}


@pytest.mark.parametrize("name", HIDING)
def test_a_hidden_dependence_is_refused_or_warned_about_once(name):
    inner, key = HIDING[name], jax.random.key(0)
    repair = "write its Field without" if name == "field" else r"give the level by its Field.*peer"
    for flow in (nx.Implicit(nx.Dense()), nx.FiniteDifference(0.5)):
        if name == "field" and isinstance(flow, nx.FiniteDifference):
            continue  # refused for the field
        with pytest.raises(ValueError, match=rf"'w': a stop_gradient .* of 'd'.*{repair}"):
            nested(inner, flow).init(POINT, key)
    nest = nested(inner, nx.Unroll())
    with pytest.warns(UserWarning, match=rf"'w': a stop_gradient .*Unroll of 'd'.*{repair}"):
        nest.init(POINT, key)
    nest.init(POINT, key)


def classes(v, _):
    logits = jnp.stack([v["w"], 0 * v["w"], 2 * v["d"]])
    return -jax.nn.log_softmax(logits)[0] + jax.nn.logsumexp(logits) + (v["w"] - v["d"]) ** 2


HARMLESS = {
    "softmax": classes,
    "constant": lambda v, _: (v["w"] - v["d"]) ** 2 * stop(jnp.ones(())),
    "added": lambda v, _: (v["w"] - v["d"]) ** 2 + stop(v["w"]),  # its gradient does not feel it
}


@pytest.mark.parametrize("name", HARMLESS)
def test_a_stop_that_hides_nothing_is_let_be(name):
    nested(HARMLESS[name], nx.Implicit(nx.CG(1))).init(POINT, jax.random.key(0))


def test_a_stop_outside_the_inner_objectives_is_its_owners_choice():
    w = nx.Level("w", HIDING["own"], optax.sgd(0.5))
    outer = lambda v, _: stop(v["w"]) * v["d"]  # noqa: E731
    nested(lambda v, _: (v["w"] - v["d"]) ** 2, nx.Unroll(), 2, outer).init(
        POINT, jax.random.key(0)
    )
    peer = nx.Level("d", lambda v, _: (v["d"] - v["w"]) ** 2, optax.sgd(0.5))
    nx.Nest([w, peer]).init(POINT, jax.random.key(0))
