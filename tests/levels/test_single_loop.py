"""SOBA, SABA and F2SA: their steps as printed, and their ends on a problem with a known answer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from references.quadratic_bilevel import batched, draw, hypergradient

import nestax as nx
from nestax.levels import _draws
from nestax.levels._single_loop import saga

INNER, OUTER = draw()
BATCHES = 8
X0 = 4 * np.random.default_rng(1).normal(size=20)


def outer(x, z, batch):
    return batch["outer"](x, z)


def inner(x, z, batch):
    return batch["inner"](x, z)


DATA = {"inner": batched(INNER, BATCHES), "outer": batched(OUTER, BATCHES)}


def minibatch(task, key):
    index = jax.random.randint(key, (), 0, BATCHES)
    return {"index": index, **jax.tree.map(lambda a: a[index], task)}


WHOLE = {
    "inner": type(INNER)(*(x.mean(0, keepdims=True) for x in INNER)),
    "outer": type(OUTER)(*(x.mean(0, keepdims=True) for x in OUTER)),
}


def begin(nest, **more):
    names = [level.name for group in nest.groups for level in group]
    values = {name: jnp.zeros(20) for name in names} | {"x": jnp.asarray(X0)} | more
    return nest.init(values, jax.random.key(0))


def error(state):
    """The squared norm of the true gradient of f(x, z*(x))."""
    found = hypergradient(INNER, OUTER, np.asarray(state.values["x"]))
    return found @ found


def test_hypergradient_is_that_of_the_implicit_function(x64):
    hyper = nx.hypergradient(
        lambda x, z: WHOLE["outer"](x, z), lambda x, z: WHOLE["inner"](x, z), nx.Dense()
    )
    z = -np.linalg.solve(INNER.A.mean(0), INNER.C.mean(0).T @ X0 + INNER.a.mean(0))
    expected = hypergradient(INNER, OUTER, X0)
    np.testing.assert_allclose(hyper(jnp.asarray(X0), jnp.asarray(z)), expected, rtol=1e-10)


def test_saba_converges_where_soba_stalls_and_falling_rates_take_soba_further(x64):
    def falling(count):
        return 0.1 / jnp.sqrt(1 + count / 20)

    def at_the_end(method, steps, rate, *more):
        levels = method(outer, inner, optax.sgd(rate), optax.sgd(rate), minibatch, *more)
        nest = nx.Nest(levels, DATA)
        state = begin(nest)
        assert error(state) > 10
        return error(nest.run(state, steps)[0])

    stalled = at_the_end(nx.soba, 3072, 0.1)
    assert 1e-4 < stalled < 1
    assert at_the_end(nx.saba, 1536, 0.1, BATCHES, lambda b: b["index"]) < 1e-9
    assert at_the_end(nx.soba, 3072, falling) < stalled / 3


def cubic(x, z, batch):
    return jnp.sum(jnp.cosh(z["a"] - x["p"])) + z["a"] @ z["a"] * z["b"] ** 2 + batch * z["b"]


def quartic(x, z, batch):
    return jnp.sum((z["a"] - 1) ** 4) + jnp.sum(x["p"] ** 2) * z["b"] + batch * jnp.sum(z["a"])


def test_a_step_of_soba_is_the_printed_one(x64):
    """Values are pytrees, with leaves that are not trained."""
    context = lambda task, key: jax.random.normal(key)  # noqa: E731
    levels = nx.soba(quartic, cubic, optax.sgd(0.1), optax.sgd(0.2), context)
    nest = nx.Nest(levels)
    x = {"p": jnp.array([0.3, -0.4]), "layers": 3}
    z = {"a": jnp.array([0.1, 0.5]), "b": jnp.array(0.7), "count": jnp.array(2)}
    v = {"a": jnp.array([0.2, -0.3]), "b": jnp.array(-0.6), "count": jnp.array(0)}
    state = nest.init({"x": x, "z": z, "aux": v}, jax.random.key(0))
    end, _ = nest.step(state)
    batch = _draws.batch(context, state.key, None, 0, 0)

    def joint(function):
        def of(p, flat):
            z = {"a": flat[:2], "b": flat[2]}
            return function({"p": p}, z, batch)

        return of

    @jax.jit
    def printed(p, flat, aux):
        g, f = joint(cubic), joint(quartic)
        curvature = jax.hessian(g, 1)(p, flat)
        cross = jax.jacobian(jax.grad(g, 1), 0)(p, flat)
        new_z = flat - 0.1 * jax.grad(g, 1)(p, flat)
        new_v = aux - 0.1 * (curvature @ aux + jax.grad(f, 1)(p, flat))
        return new_z, new_v, p - 0.2 * (cross.T @ aux + jax.grad(f, 0)(p, flat))

    new_z, new_v, new_x = printed(x["p"], *(jnp.append(one["a"], one["b"]) for one in (z, v)))
    for name, expected in (("z", new_z), ("aux", new_v)):
        value = end.values[name]
        np.testing.assert_allclose(jnp.append(value["a"], value["b"]), expected, rtol=1e-12)
    np.testing.assert_allclose(end.values["x"]["p"], new_x, rtol=1e-12)
    assert end.values["x"]["layers"] == 3 and end.values["z"]["count"] == 2


def test_f2sa_steps_are_the_printed_ones(x64):
    nest = nx.Nest(nx.f2sa(outer, inner, optax.sgd(0.1), optax.sgd(0.2), minibatch, 3, 0.5), DATA)
    state = begin(nest, penalty=2.0)
    end, _ = nest.run(state, steps=2)
    x, y, z, penalty = X0, jnp.zeros(20), jnp.zeros(20), 2.0
    f, g = (jax.jit(jax.grad(one, (0, 1))) for one in (outer, inner))
    for t in range(6):
        batch = _draws.batch(minibatch, state.key, DATA, t, 0)
        shift = f(x, y, batch)[1] + penalty * g(x, y, batch)[1]
        y, z = y - 0.1 / penalty * shift, z - 0.1 * g(x, z, batch)[1]
        if t % 3 == 2:
            gap = g(x, y, batch)[0] - g(x, z, batch)[0]
            x = x - 0.2 * (f(x, y, batch)[0] + penalty * gap)
            penalty += 0.5
    for name, expected in {"x": x, "y": y, "z": z, "penalty": penalty}.items():
        np.testing.assert_allclose(end.values[name], expected, rtol=1e-10)


def test_the_bias_of_f2sa_is_inverse_to_its_penalty(x64):
    rate = optax.sgd(0.3)
    nest = nx.Nest(nx.f2sa(outer, inner, rate, rate, growth=0), task=WHOLE)
    biases = []
    for penalty in (100.0, 1000.0, 10000.0):
        end, _ = nest.run(begin(nest, penalty=penalty), steps=3000)
        biases.append(np.sqrt(error(end)))
    # Inverse up to a term of the next order, itself smaller by the penalty.
    np.testing.assert_allclose(biases[0] / biases[1], 10, rtol=0.04)
    np.testing.assert_allclose(biases[1] / biases[2], 10, rtol=0.004)


def test_a_growing_penalty_removes_the_bias(x64):
    rate = optax.sgd(0.3)
    nest = nx.Nest(nx.f2sa(outer, inner, rate, rate, growth=1.0), task=WHOLE)
    state, _ = nest.run(begin(nest, penalty=1.0), steps=1500)
    end, _ = nest.run(state, steps=1500)
    # Twice the penalty, half the distance.
    np.testing.assert_allclose(error(state) ** 0.5 / error(end) ** 0.5, 2, rtol=0.1)
    assert error(end) ** 0.5 < 0.0015


def test_saga_is_the_naive_one(x64):
    rng = np.random.default_rng(0)
    memory = saga(3, lambda batch: batch)
    state = memory.init({"w": jnp.zeros(2), "none": None})
    table = np.zeros((3, 2))
    for number in (0, 2, 2, 1, 0, 1):
        gradient = rng.normal(size=2)
        found, state = memory.update({"w": gradient, "none": None}, state, batch=number, value=0.0)
        expected = gradient - table[number] + table.mean(0)
        table[number] = gradient
        np.testing.assert_allclose(found["w"], expected, rtol=1e-10)
        np.testing.assert_allclose(state.mean["w"], table.mean(0), rtol=1e-10)


def test_saba_takes_optimizers_that_other_levels_own(x64):
    make = lambda values: optax.sgd(0.1)  # noqa: E731
    plain, owned = (
        nx.Nest(nx.saba(outer, inner, rate, rate, minibatch, BATCHES, lambda b: b["index"]), DATA)
        for rate in (optax.sgd(0.1), make)
    )
    ends = [nest.run(begin(nest), steps=20)[0].values for nest in (plain, owned)]
    for name in ends[0]:
        np.testing.assert_allclose(ends[0][name], ends[1][name], rtol=1e-12)


def test_names_let_several_stand_in_one_nest(x64):
    one = nx.soba(outer, inner, optax.sgd(0.1), optax.sgd(0.1), minibatch)
    two = nx.soba(outer, inner, optax.sgd(0.1), optax.sgd(0.1), minibatch, ("X", "Z", "AUX"))
    both = nx.Nest([(*one, *two)], DATA)
    end, _ = both.run(begin(both, X=jnp.asarray(X0)), steps=5)
    for name in ("x", "z", "aux"):
        np.testing.assert_allclose(end.values[name], end.values[name.upper()], rtol=1e-12)


def test_errors():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        saga(0, lambda batch: batch)
    with pytest.raises(ValueError, match=r"batch=batch"):
        saga(2, lambda batch: batch).update(jnp.ones(2), saga(2, lambda b: b).init(jnp.ones(2)))


def test_the_mean_of_the_last_gradients_keeps_its_digits_in_half_precision():
    """Many small changes: a mean kept in bfloat16 would be off by some of them."""
    transformation = saga(2, lambda batch: batch)
    state, update = transformation.init(jnp.zeros((), jnp.bfloat16)), jax.jit(transformation.update)
    for step in range(64):
        gradient = np.asarray(1 + step / 128, jnp.bfloat16)
        _, state = update(gradient, state, batch=step % 2)
    assert state.table.dtype == jnp.bfloat16
    np.testing.assert_array_equal(state.mean, state.table.astype(jnp.float32).mean())
