"""Implicit derivatives against closed forms, unrolled loops and themselves by another route."""

import functools
import itertools

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from references.implicit import Quadratics, neumann, ridge, softmax_regression

from nestax.flows import (
    CG,
    Dense,
    FiniteDifference,
    Identity,
    Implicit,
    Neumann,
    Nystrom,
    finite_difference_gradient,
    hypergradient,
    implicit_gradient,
    implicit_root,
    solve_linear,
    virtual_step,
)

close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-11)


def ridge_problem(n=40, dim=6, seed=0):
    rng = np.random.default_rng(seed)
    x, y, decay = rng.normal(size=(n, dim)), rng.normal(size=n), rng.normal(size=dim)
    held_x, held_y = rng.normal(size=(n, dim)), rng.normal(size=n)

    def inner(decay, w):
        return jnp.sum((x @ w - y) ** 2) / (2 * n) + 0.5 * jnp.sum(jnp.exp(decay) * w**2)

    def outer(decay, w):
        return jnp.sum((held_x @ w - held_y) ** 2) / (2 * n)

    w, exact = ridge(x, y, decay, lambda w: held_x.T @ (held_x @ w - held_y) / n)
    return inner, outer, jnp.asarray(decay), jnp.asarray(w), exact


# ---- closed forms


@pytest.mark.parametrize("solver", [CG(10), Dense(), Neumann(400), Nystrom(6, damping=0)], ids=repr)
def test_ridge_with_a_decay_for_each_weight(x64, solver):
    inner, outer, decay, w, exact = ridge_problem()
    gradient = jax.jit(lambda s, f: hypergradient(outer, inner, solver)(s, f, diagnostics=True))
    found, diagnostics = gradient(decay, w)
    close(found, exact)
    assert diagnostics.inner_gradient < 1e-12
    assert diagnostics.residual < 1e-9
    assert not diagnostics.diverged


@pytest.mark.parametrize(
    ("solver", "condition"), [(CG(20), None), (Dense(), 10.0), (CG(400), 1e4), (Dense(), 1e4)]
)
def test_quadratic_bilevel(x64, solver, condition):
    q = Quadratics(5, 7, condition=condition)
    found = jax.jit(hypergradient(q.outer, q.inner, solver))(q.x, q.response(q.x))
    close(found, q.gradient(q.x))


def test_softmax_regression_at_convergence(x64):
    rng = np.random.default_rng(1)
    x, labels = rng.normal(size=(60, 4)), rng.integers(0, 3, size=60)
    held_x, held = rng.normal(size=(50, 4)), rng.integers(0, 3, size=50)

    def entropy(x, labels, w):
        picked = jnp.take_along_axis(jax.nn.log_softmax(x @ w), labels[:, None], axis=1)
        return -jnp.mean(picked)

    inner = lambda s, w: entropy(x, labels, w) + 0.5 * jnp.exp(s) * jnp.sum(w**2)  # noqa: E731
    outer = lambda s, w: entropy(held_x, held, w)  # noqa: E731
    w, hessian = softmax_regression(x, labels, 3, -2.0)
    pull = np.asarray(jax.jit(jax.grad(outer, 1))(-2.0, jnp.asarray(w))).ravel()
    exact = -np.exp(-2.0) * w.ravel() @ np.linalg.solve(hessian, pull)
    for solver in (CG(30), Dense()):
        found = jax.jit(hypergradient(outer, inner, solver))(jnp.asarray(-2.0), w)
        close(found, exact)


@pytest.mark.parametrize("terms", [1, 7])
def test_neumann_equals_reverse_and_forward_mode_through_as_many_steps(x64, terms):
    inner, outer, decay, w, _ = ridge_problem()
    rate = 0.2

    def unrolled(decay, start):
        step = lambda w, _: (w - rate * jax.grad(inner, 1)(decay, w), None)  # noqa: E731
        return outer(decay, jax.lax.scan(step, start, length=terms)[0])

    @jax.jit
    def three(decay, w):
        series = hypergradient(outer, inner, Neumann(terms, rate))(decay, w)
        return series, jax.grad(unrolled)(decay, w), jax.jacfwd(unrolled)(decay, w)

    series, reverse, forward = three(decay, w)
    close(series, reverse, rtol=1e-13, atol=1e-15)
    close(series, forward, rtol=1e-13, atol=1e-15)
    away = three(decay, w + 0.3)
    assert np.max(np.abs(away[0] - away[1])) > 1e-3
    if terms == 1:
        close(jax.jit(hypergradient(outer, inner, Identity(rate)))(decay, w), series)


def test_dropping_the_last_rate_would_turn_the_gradient(x64):
    """Beside a direct gradient the scale of the indirect one is part of the direction."""
    q = Quadratics(5, 7)
    rate, fast = 0.1, q.response(q.x)
    found = np.asarray(jax.jit(hypergradient(q.outer, q.inner, Neumann(4, rate)))(q.x, fast))
    indirect = q.C @ neumann(q.A, q.pull(q.x), 4, rate)
    close(found, q.direct(q.x) - indirect)
    wrong = q.direct(q.x) - indirect / rate
    assert found @ wrong < 0.9 * np.linalg.norm(found) * np.linalg.norm(wrong)


def test_what_is_left_over_is_reported(x64):
    q = Quadratics(5, 7, condition=1e3)
    gradient = hypergradient(q.outer, q.inner, CG(2))
    gradient = jax.jit(functools.partial(gradient, diagnostics=True))
    _, at_root = gradient(q.x, q.response(q.x))
    assert at_root.inner_gradient < 1e-12
    assert at_root.residual > 0.01
    assert at_root.products == 2
    _, away = gradient(q.x, q.response(q.x) + 1.0)
    close(away.inner_gradient, np.linalg.norm(q.A @ np.ones(7)))


# ---- derivatives of derivatives


@pytest.mark.parametrize("solver", [CG(20), Dense()], ids=repr)
def test_the_hypergradient_can_be_differentiated(x64, solver):
    q = Quadratics(3, 5)
    gradient = hypergradient(q.outer, q.inner, solver)
    jacobian = jax.jit(jax.jacrev(gradient, (0, 1)))
    by_slow, by_fast = jacobian(q.x, q.response(q.x))
    close(by_slow, q.hessian())
    close(by_fast, np.zeros((3, 5)))


def scalar_root(slow):
    """The root of z^3 + z = slow, in closed form."""
    s = jnp.sqrt(slow**2 / 4 + 1 / 27)
    return jnp.cbrt(slow / 2 + s) + jnp.cbrt(slow / 2 - s)


def test_a_root_keeps_its_dependency_at_every_order(x64):
    cubic = lambda z, s, data: z**3 + z - s  # noqa: E731
    root = implicit_root(cubic, Dense())
    at = lambda s: root(jax.lax.stop_gradient(scalar_root(s)), s)  # noqa: E731

    def orders(function):
        functions = [function]
        for _ in range(3):
            functions.append(jax.grad(functions[-1]))
        return jax.jit(lambda s: [f(s) for f in functions])(0.7)

    close(orders(at), orders(scalar_root))


@pytest.mark.parametrize("solver", [CG(20), Dense()], ids=repr)
def test_three_levels_by_composition(x64, solver):
    """Middle level on the response of the bottom one; the top on both."""
    rng = np.random.default_rng(5)
    spd = lambda n: np.eye(n) + (lambda m: m @ m.T / n)(rng.normal(size=(n, n)))  # noqa: E731
    A, B, M = spd(4), spd(3), rng.normal(size=(3, 4))
    N, c, t = rng.normal(size=(2, 3)), rng.normal(size=4), rng.normal(size=4)
    bottom = lambda v, w: 0.5 * w @ A @ w + v @ M @ w + c @ w  # noqa: E731
    middle = lambda u, v, w: 0.5 * v @ B @ v + 0.5 * w @ w + u @ N @ v  # noqa: E731
    top = lambda u, v, w: 0.5 * (w - t) @ (w - t) + v @ v + jnp.sum(jnp.sin(u))  # noqa: E731
    # In closed form: w = -A^(-1)(M'v + c) = P v + r; v minimizes the middle with w put in.
    solve = np.linalg.solve
    pv, r = -solve(A, M.T), -solve(A, c)
    total = B + pv.T @ pv
    v_of = lambda u: -solve(total, N.T @ u + pv.T @ r)  # noqa: E731
    u = rng.normal(size=2)
    dv = -solve(total, N.T)
    v = v_of(u)
    w = pv @ v + r
    exact = (pv @ dv).T @ (w - t) + 2 * dv.T @ v + np.cos(u)

    low = implicit_root(lambda w, v, data: jax.grad(bottom, 1)(v, w), solver)
    respond = lambda v: low(jnp.asarray(w), v)  # noqa: E731

    def middle_total(u, v):
        return middle(u, v, respond(v))

    gradient = hypergradient(lambda u, v: top(u, v, respond(v)), middle_total, solver)
    close(jax.jit(gradient)(u, v), exact)
    if not isinstance(solver, CG):
        return
    # The same with the middle's stationarity from `hypergradient` and not from `grad`.
    condition = lambda v, u, data: hypergradient(  # noqa: E731
        lambda v, w: middle(u, v, w), lambda v, w: bottom(v, w), solver
    )(v, jnp.asarray(w))
    loss = lambda v, u, data: (top(u, v, respond(v)), None)  # noqa: E731
    found = jax.jit(lambda u, v: implicit_gradient(loss, condition, solver, u, v)[1])(u, v)
    close(found, exact)
    frozen = hypergradient(lambda u, v: top(u, v, w), lambda u, v: middle(u, v, w), solver)
    assert np.max(np.abs(jax.jit(frozen)(u, v) - exact)) > 0.1


def test_four_levels_of_implicit_functions(x64):
    """z1(z2(z3(s))), each the root of z^3 + z = slower, to second order."""
    cubic = lambda z, s, data: z**3 + z - s  # noqa: E731
    solver = CG(3)

    def respond(s, depth):
        point = jax.lax.stop_gradient(scalar_root(s))
        if depth == 1:
            return implicit_root(cubic, solver)(point, s)

        def condition(z, s, data):
            # The root of this level's condition is the root below of that level's condition.
            return respond(z, depth - 1) ** 3 + z - s

        def newton(z, _):
            slope = jax.grad(condition)(z, s, None)
            return z - condition(z, s, None) / slope, None

        settled = jax.lax.stop_gradient(jax.lax.scan(newton, point, length=8)[0])
        return implicit_root(condition, solver)(settled, s)

    s = jnp.asarray(1.3)
    value = jax.jit(lambda s: respond(s, 3))
    slope = jax.jit(jax.value_and_grad(jax.grad(lambda s: respond(s, 3))))
    first, second = slope(s)
    h = 1e-5
    np.testing.assert_allclose(first, (value(s + h) - value(s - h)) / (2 * h), rtol=1e-8)
    difference = (slope(s + h)[0] - slope(s - h)[0]) / (2 * h)
    np.testing.assert_allclose(second, difference, rtol=1e-7)


# ---- systems that are not symmetric


def test_a_game_needs_the_transposed_operator(x64):
    """Two players, each on a loss of its own: the joint Jacobian is not symmetric."""
    rng = np.random.default_rng(8)
    A = 2 * np.eye(4) + rng.normal(size=(4, 4))
    C, v = rng.normal(size=(2, 4, 3)), rng.normal(size=4)

    def joint(z):
        return jnp.concatenate([z["a"], z["b"]])

    def field(z, s, data):
        whole = A @ joint(z) + C[0] @ s
        return {"a": whole[:2], "b": whole[2:] + 0 * data}

    s = rng.normal(size=3)
    z = -np.linalg.solve(A, C[0] @ s)
    fast = {"a": z[:2], "b": z[2:]}
    exact = -C[0].T @ np.linalg.solve(A.T, v)
    loss = lambda z, s, data: (v @ joint(z), data)  # noqa: E731

    @functools.partial(jax.jit, static_argnums=0)
    def two(solver, s):
        through = lambda s: v @ joint(implicit_root(field, solver)(fast, s, 3))  # noqa: E731
        return implicit_gradient(loss, field, solver, s, fast, jnp.asarray(3)), jax.grad(through)(s)

    for solver in (Dense(), Neumann(2000, 0.1)):
        ((value, aux), found, diagnostics), through = two(solver, s)
        close(found, exact)
        close(through, exact)
        close(value, v @ z)
        assert aux == 3
        assert diagnostics.inner_gradient < 1e-12
    assert np.max(np.abs(-C[0].T @ np.linalg.solve(A, v) - exact)) > 0.1


def test_solve_linear_is_differentiable_in_everything_any_number_of_times(x64):
    rng = np.random.default_rng(9)
    A, b = 3 * np.eye(4) + rng.normal(size=(4, 4)), rng.normal(size=4)
    w, scale = rng.normal(size=4), jnp.asarray(1.3)

    def by_rule(A, b, scale):
        operator = lambda p, x: {"x": scale * (p["A"] @ x["x"])}  # noqa: E731
        x, info = solve_linear(Dense(), operator, {"A": A, "n": 3, "f": np.sin}, {"x": b})
        return jnp.sum(jnp.sin(w * x["x"])) + 0 * info.residual

    def direct(A, b, scale):
        return jnp.sum(jnp.sin(w * jnp.linalg.solve(scale * A, b)))

    @functools.partial(jax.jit, static_argnums=0)
    def orders(function, *point):
        every = (0, 1, 2)
        slope = lambda *p: sum(jnp.sum(jnp.cos(g)) for g in jax.grad(function, every)(*p))  # noqa: E731
        first = jax.value_and_grad(function, every)(*point)
        return first, jax.grad(slope, every)(*point)

    point = (jnp.asarray(A), jnp.asarray(b), scale)
    jax.tree.map(close, orders(by_rule, *point), orders(direct, *point))


def test_solve_linear_with_a_symmetric_solver(x64):
    q = Quadratics(2, 6)
    b = jnp.asarray(q.a)
    half = jnp.asarray(np.linalg.cholesky(q.A))

    def by_rule(half, b):
        x, info = solve_linear(CG(20), lambda h, x: h @ (h.T @ x), half, b)
        assert info.products.dtype == jnp.int32
        return jnp.sum(x**3)

    direct = lambda half, b: jnp.sum(jnp.linalg.solve(half @ half.T, b) ** 3)  # noqa: E731
    found = jax.jit(jax.grad(by_rule, (0, 1)))(half, b)
    jax.tree.map(close, found, jax.jit(jax.grad(direct, (0, 1)))(half, b))


# ---- transformations


def test_vmap_and_grad_over_closed_over_tracers(x64):
    """Objectives that close over an integer and a float, whatever these are traced by."""
    q = Quadratics(3, 4)
    rng = np.random.default_rng(2)
    xs, labels = jnp.asarray(rng.normal(size=(5, 3))), jnp.asarray([0, 2, 1, 1, 2])
    weights = jnp.asarray(rng.uniform(0.5, 2, size=5))
    scales = jnp.asarray([1.0, 2.0, 5.0])

    def response(x, label, weight):
        hessian = scales[label] * q.A + weight * jnp.eye(4)
        return -jnp.linalg.solve(hessian, scales[label] * (q.C.T @ x + q.a))

    def one(x, label, weight):
        inner = lambda x, z: scales[label] * q.inner(x, z) + 0.5 * weight * z @ z  # noqa: E731
        fast = jax.lax.stop_gradient(response(x, label, weight))
        outer = lambda x, z: q.outer(x, z) * weight  # noqa: E731
        return jnp.sum(hypergradient(outer, inner, CG(20))(x, fast) ** 2)

    def exact(x, label, weight):
        total = lambda x: q.outer(x, response(x, label, weight)) * weight  # noqa: E731
        return jnp.sum(jax.grad(total)(x) ** 2)

    def all_three(one):
        batch = jax.vmap(one)(xs, labels, weights)
        each = jax.vmap(jax.grad(one, (0, 2)))(xs, labels, weights)
        total = lambda xs, weights: jnp.sum(jax.vmap(one)(xs, labels, weights))  # noqa: E731
        return batch, each, jax.grad(total, (0, 1))(xs, weights)

    with jax.checking_leaks():
        found = jax.jit(lambda: all_three(one))()
    jax.tree.map(close, found, jax.jit(lambda: all_three(exact))())


def test_data_is_constant_and_closures_are_not(x64):
    q = Quadratics(3, 4)
    fast = q.response(q.x)

    def condition(z, x, data):
        return jax.grad(q.inner, 1)(x, z) + (0.0 if data is None else data["shift"])

    by_data = lambda a: jnp.sum(  # noqa: E731
        implicit_root(condition, CG(10))(fast, q.x, {"shift": a, "key": jax.random.key(0)})
    )
    close(jax.jit(jax.grad(by_data))(np.zeros(4)), np.zeros(4))
    by_closure = lambda a: jnp.sum(  # noqa: E731
        implicit_root(lambda z, x, data: condition(z, x, None) + a, CG(10))(fast, q.x)
    )
    close(jax.jit(jax.grad(by_closure))(np.zeros(4)), -np.linalg.solve(q.A, np.ones(4)))


def regression(x, y, decay, w):
    return jnp.mean((x @ w - y) ** 2) + jnp.sum(jnp.exp(decay) * w**2)


@pytest.mark.parametrize("solver", [CG(10), Dense()], ids=repr)
def test_sharded_batches(x64, solver):
    """Under jit with sharded inputs, and within shard_map with a mean over the devices."""
    rng = np.random.default_rng(3)
    x, y, decay = rng.normal(size=(16, 5)), rng.normal(size=16), rng.normal(size=5)
    w = jnp.asarray(np.linalg.solve(x.T @ x / 16 + np.diag(np.exp(decay)), x.T @ y / 16))
    outer = lambda decay, w: jnp.sum(jnp.tanh(w))  # noqa: E731

    def gradient(x, y, decay, w):
        return hypergradient(outer, lambda d, w: regression(x, y, d, w), solver)(decay, w)

    expected = jax.jit(gradient)(x, y, decay, w)
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))
    put = lambda a: jax.device_put(a, NamedSharding(mesh, P("d")))  # noqa: E731
    close(jax.jit(gradient)(put(x), put(y), decay, w), expected)

    def mapped(x, y, decay, w):
        inner = lambda d, w: jax.lax.pmean(regression(x, y, d, w), "d")  # noqa: E731
        return hypergradient(outer, inner, solver)(decay, w)

    specs = dict(mesh=mesh, in_specs=(P("d"), P("d"), P(), P()), out_specs=P())
    close(jax.jit(jax.shard_map(mapped, **specs))(x, y, decay, w), expected)
    if isinstance(solver, CG):

        def second(gradient, x, y, decay, w):
            return jax.grad(lambda decay: jnp.sum(gradient(x, y, decay, w) ** 2))(decay)

        found = jax.shard_map(functools.partial(second, mapped), **specs)
        plain = functools.partial(second, gradient)
        close(jax.jit(found)(x, y, decay, w), jax.jit(plain)(x, y, decay, w))


def test_problems_of_one_device_each_within_shard_map(x64):
    q = Quadratics(3, 4)
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))
    xs = np.random.default_rng(4).normal(size=(2, 3))
    fast = np.stack([q.response(x) for x in xs])

    def own(x, z):
        return hypergradient(q.outer, q.inner, CG(20))(x[0], z[0])[None]

    for check in (True, False):
        specs = dict(mesh=mesh, in_specs=P("d"), out_specs=P("d"), check_vma=check)
        found = jax.jit(jax.shard_map(own, **specs))(xs, fast)
        close(found, np.stack([q.gradient(x) for x in xs]))


def equations(jaxpr):
    yield from jaxpr.eqns
    for inner in jex.subjaxprs(jaxpr):
        yield from equations(inner)


def test_the_loop_of_a_solver_computes_nothing_of_the_objective_again():
    w, decay = jnp.ones((4, 3)), jnp.zeros(())
    inner = lambda d, w: jnp.sum(jnp.tanh(w @ w.T)) + jnp.exp(d) * jnp.sum(w**2)  # noqa: E731
    gradient = hypergradient(lambda d, w: jnp.sum(w), inner, CG(5))
    jaxpr = jax.make_jaxpr(gradient)(decay, w).jaxpr
    loops = [e for e in equations(jaxpr) if e.primitive.name == "while"]
    assert len(loops) == 1
    body = {e.primitive.name for e in equations(loops[0].params["body_jaxpr"].jaxpr)}
    assert "dot_general" in body
    assert not body & {"tanh", "exp"}
    assert "tanh" in {e.primitive.name for e in equations(jaxpr)}


# ---- what values may be


def test_values_of_every_kind(x64):
    q = Quadratics(3, 4)
    x, z = jnp.asarray(q.x), jnp.asarray(q.response(q.x))
    expected = q.gradient(q.x)
    slow = {"x": (x[:1], x[1:]), "n": 7, "i": jnp.arange(3), "f": jnp.tanh, "none": None}
    fast = {"z": [z[:2].reshape(2, 1), z[2:]], "key": jax.random.key(1), "name": "w", "b": True}
    of_slow = lambda s: jnp.concatenate(s["x"]) * (s["n"] - 6) + 0 * s["i"]  # noqa: E731
    of_fast = lambda f: jnp.concatenate([f["z"][0][:, 0], f["z"][1]])  # noqa: E731
    wrap = lambda objective: lambda s, f: objective(of_slow(s), of_fast(f))  # noqa: E731
    # In a program all of these are known, as they are outside.
    found = jax.jit(lambda: hypergradient(wrap(q.outer), wrap(q.inner), CG(20))(slow, fast))()
    constant = {"n": None, "i": None, "f": None}
    assert jax.tree.structure(found) == jax.tree.structure({**slow, **constant})
    close(jnp.concatenate(found["x"]), expected)
    by_number = hypergradient(
        lambda s, z: q.outer(s * x, z), lambda s, z: q.inner(s * x, z), CG(20)
    )
    close(jax.jit(lambda: by_number(1.0, np.asarray(z)))(), expected @ q.x)


def test_complex_values(x64):
    """As two real ones each; gradients in JAX's convention."""
    q = Quadratics(4, 6)
    x, z = q.x, q.response(q.x)
    pack = lambda a: jnp.asarray(a[: len(a) // 2] + 1j * a[len(a) // 2 :])  # noqa: E731
    real = lambda a: jnp.concatenate([a.real, a.imag])  # noqa: E731
    wrap = lambda objective: lambda s, f: objective(real(s), real(f))  # noqa: E731
    respond = implicit_root(lambda f, s, data: jax.grad(wrap(q.inner), 1)(s, f), CG(20))

    @jax.jit
    def both(x, z):
        total = lambda x: wrap(q.outer)(x, respond(z, x))  # noqa: E731
        return hypergradient(wrap(q.outer), wrap(q.inner), CG(20))(x, z), jax.grad(total)(x)

    for found in both(pack(x), pack(z)):
        close(real(found.conj()), q.gradient(x))


def test_low_precision_values():
    inner, outer, decay, w, exact = ridge_problem()
    low = lambda a: a.astype(jnp.bfloat16)  # noqa: E731
    wide = lambda f: lambda s, w: f(s.astype(jnp.float32), w.astype(jnp.float32))  # noqa: E731
    found = jax.jit(hypergradient(wide(outer), wide(inner), CG(20)))(low(decay), low(w))
    assert found.dtype == jnp.bfloat16
    assert np.linalg.norm(found - exact) < 0.05 * np.linalg.norm(exact)


def test_what_is_not_finite_is_reported():
    inner, outer, decay, w, _ = ridge_problem()
    gradient = jax.jit(lambda s, f: hypergradient(outer, inner, CG())(s, f, diagnostics=True))
    for where in range(2):
        values = [decay, w]
        values[where] = values[where].at[1].set(jnp.nan)
        found, diagnostics = gradient(*values)
        assert diagnostics.diverged
        assert not np.all(np.isfinite(found))
    found, diagnostics = gradient(decay, w)
    assert not diagnostics.diverged


def test_a_zero_outer_gradient_leaves_the_direct_one():
    inner, _, decay, w, _ = ridge_problem()
    for solver in (CG(), Dense()):
        gradient = hypergradient(lambda d, w: jnp.sum(d**2), inner, solver)
        found, diagnostics = jax.jit(functools.partial(gradient, diagnostics=True))(decay, w)
        np.testing.assert_allclose(found, 2 * decay, rtol=1e-6)
        assert diagnostics.residual == 0
        assert not diagnostics.diverged


# ---- finite differences


def test_finite_difference_is_darts(x64):
    """Written out in numpy on a problem where the difference is not exact."""
    rng = np.random.default_rng(6)
    C, w, s = rng.normal(size=(3, 4)), rng.normal(size=4), rng.normal(size=3)
    inner = lambda w, s, data: jnp.sum(jnp.sin(s) @ C * jnp.cos(w)) + jnp.sum(w**2) * data  # noqa: E731
    loss = lambda w, s, data: (jnp.sum(w**3) + jnp.sum(s * s), data)  # noqa: E731
    flow = FiniteDifference(rate=0.2, scale=0.1)
    step = w - 0.2 * (-np.sin(w) * (np.sin(s) @ C) + 2 * w)
    v = 3 * step**2
    e = 0.1 / np.linalg.norm(v)
    by_slow = lambda w: np.cos(s) * (C @ np.cos(w))  # noqa: E731
    exact = 2 * s - 0.2 * (by_slow(w + e * v) - by_slow(w - e * v)) / (2 * e)
    found = jax.jit(lambda s, w: finite_difference_gradient(loss, inner, flow, s, w, 1))(s, w)
    (value, aux), gradient, diagnostics = found
    close(gradient, exact)
    close(value, np.sum(step**3) + s @ s)
    assert aux == 1
    assert diagnostics.residual == -1
    close(diagnostics.inner_gradient, np.linalg.norm((w - step) / 0.2))
    close(jax.jit(virtual_step(inner, flow))(w, s, 1), step)
    # With respect to the point that the step starts from: constant.
    through = lambda w: jnp.sum(virtual_step(inner, flow)(w, s, 1))  # noqa: E731
    close(jax.jit(jax.grad(through))(w), np.zeros(4))


def test_finite_difference_of_a_quadratic_is_the_identity_solver(x64):
    q = Quadratics(3, 5)
    fast = q.response(q.x)
    loss = lambda z, x, data: (q.outer(x, z), None)  # noqa: E731
    inner = lambda z, x, data: q.inner(x, z)  # noqa: E731
    flow = FiniteDifference(rate=0.3)
    nothing = lambda z, x, data: (jnp.sum(x), None)  # noqa: E731

    cases = (loss, flow), (loss, FiniteDifference(0.0)), (nothing, flow)

    @jax.jit
    def all_of_them(x, fast):
        made = [finite_difference_gradient(f, inner, own, x, fast)[1:] for f, own in cases]
        return *made, hypergradient(q.outer, q.inner, flow.linear)(x, fast)

    (found, _), (first_order, _), (rest, diagnostics), by_rule = all_of_them(q.x, fast)
    close(found, by_rule, rtol=1e-7)
    close(first_order, q.direct(q.x))
    close(rest, np.ones(3))
    assert not diagnostics.diverged


# ---- refusals


def test_bad_arguments_are_refused():
    q = Quadratics(2, 3)
    vector = lambda x, z: z  # noqa: E731
    with pytest.raises(ValueError, match="outer must return a scalar loss"):
        hypergradient(vector, q.inner, CG())(q.x, q.a)
    with pytest.raises(ValueError, match=r"inner must return a scalar loss.*a tuple"):
        hypergradient(q.outer, lambda x, z: (q.inner(x, z), {}), CG())(q.x, q.a)
    with pytest.raises(TypeError, match="slow value has no inexact array"):
        hypergradient(q.outer, q.inner, CG())(3, q.a)
    with pytest.raises(TypeError, match="fast value has no inexact array"):
        hypergradient(q.outer, q.inner, CG())(q.x, jnp.arange(3))
    with pytest.raises(ValueError, match=r"expected shapes \[\(3,\)\], got \[\(2,\)\]"):
        implicit_root(lambda z, x, data: z[:2], CG())(q.a, q.x)
    with pytest.raises(ValueError, match="must have the shapes of x"):
        solve_linear(CG(), lambda p, x: x[:1], (), jnp.ones(2))
    with pytest.raises(ValueError, match="scale must be positive"):
        FiniteDifference(scale=0.0)
    assert Implicit(CG(3)) == Implicit(CG(3), context=None)
    assert len({Implicit(CG(n)) for n, _ in itertools.product((2, 3), repeat=2)}) == 2
