"""Best responses against closed forms, hand-written loops, each other; nested to three levels."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from nestax.flows import (
    CG,
    ES,
    Dense,
    Direct,
    FiniteDifference,
    Flow,
    Forward,
    Identity,
    Implicit,
    Neumann,
    OneStep,
    Unroll,
    best_response,
)

# Programs here are small and run once or twice: most of the time goes into compiling them.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
RNG = np.random.default_rng(0)
FLOWS = [
    Unroll(),
    Unroll(last=2),
    OneStep(),
    Forward(),
    Implicit(CG(20)),
    FiniteDifference(),
    Direct(),
]


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape))


def gap(a, b):
    """Largest difference over two pytrees, relative to the largest number in the first."""
    a, b = (list(map(np.asarray, jax.tree.leaves(tree))) for tree in (a, b))
    difference = max(np.max(np.abs(x - y)) for x, y in zip(a, b, strict=True))
    return difference / max(np.max(np.abs(x)) for x in a)


# ---- a small network with decays, trained by Adam ----


def network(w, x):
    """2-3-1 in a single vector: small programs compile fast."""
    return jnp.tanh(x @ w[:6].reshape(2, 3)) @ w[6:].reshape(3, 1)


def fitting(n=7):
    x, y = normal(n, 2), normal(n, 1)

    def objective(slow, w):
        return jnp.mean((network(w, x) - y) ** 2) + jnp.sum(jnp.exp(slow["decay"]) * w**2)

    slow = {"decay": normal(9) - 3, "rate": jnp.asarray(-3.0, x.dtype)}
    xv, yv = normal(n, 2), normal(n, 1)
    return objective, slow, normal(9), lambda w: jnp.mean((network(w, xv) - yv) ** 2)


def adam(slow):
    return optax.adam(jnp.exp(slow["rate"]), eps_root=1e-8)


def by_hand(objective, slow, start, steps, last=None):
    w, state = start, adam(slow).init(start)
    for step in range(steps):
        if last is not None and step == steps - last:
            w, state = jax.lax.stop_gradient((w, state))
        updates, state = adam(slow).update(jax.grad(objective, 1)(slow, w), state, w)
        w = optax.apply_updates(w, updates)
    return w


def test_the_value_is_the_same_under_every_flow(x64):
    objective, slow, start, _ = fitting()

    @jit
    def ends(slow, start):
        found = [best_response(objective, adam, 4, flow)(slow, start) for flow in FLOWS]
        return by_hand(objective, slow, start, 4), *found

    wanted, *found = ends(slow, start)
    assert all(gap(wanted, end) < 1e-12 for end in found)


@pytest.mark.parametrize("last", [None, 2])
def test_unrolling_is_a_loop_written_by_hand(x64, last):
    objective, slow, start, outer = fitting()
    flows = [Unroll(last=last), Unroll(last=last, checkpoint=2)]
    responses = [partial(by_hand, objective, steps=3, last=last)]
    responses += [best_response(objective, adam, 3, flow) for flow in flows]

    @jit
    def gradients(slow, start):
        return [jax.grad(lambda s, w, r=r: outer(r(s, w)), (0, 1))(slow, start) for r in responses]

    hand, *ours = gradients(slow, start)
    assert all(gap(hand, found) < 1e-12 for found in ours)
    # All but the whole trajectory forgets where it began.
    assert (float(jnp.max(jnp.abs(ours[0][1]))) > 0) == (last != 2)


def test_two_modes_two_orders_and_central_differences(x64):
    objective, slow, start, outer = fitting()

    def derivatives(flow):
        def value(slow, start):
            return outer(best_response(objective, adam, 5, flow)(slow, start))

        gradient = jax.grad(value, (0, 1))

        def second(slow, start):
            """The Hessian of the value times a fixed direction, by reverse over reverse."""
            return jax.grad(lambda s: gradient(s, start)[0]["decay"] @ direction)(slow)

        return jit(lambda s, w: (value(s, w), gradient(s, w), second(s, w)))

    direction = normal(9)
    reverse, forward = derivatives(Unroll(checkpoint=2)), derivatives(Forward())
    _, gradient, second = reverse(slow, start)
    for wanted, found in zip(reverse(slow, start), forward(slow, start), strict=True):
        assert gap(wanted, found) < 1e-12

    # The very functions that are differentiated, measured; both compiled already.
    ways = {"decay": normal(9), "rate": normal()}
    h = 1e-4
    (above, up, _), (below, down, _) = (
        reverse(jax.tree.map(lambda s, d, m=m: s + m * h * d, slow, ways), start) for m in (1, -1)
    )
    along = sum(jnp.sum(gradient[0][k] * ways[k]) for k in ways)
    assert gap((above - below) / (2 * h), along) < 1e-6
    bent = direction @ (up[0]["decay"] - down[0]["decay"]) / (2 * h)
    assert gap(bent, sum(jnp.sum(second[k] * ways[k]) for k in ways)) < 1e-6


# ---- ridge regression with a decay for each weight: closed form, and the Neumann identity ----


def ridge(n=12, d=4):
    X, y, decay, v = (RNG.normal(size=size) for size in ((n, d), n, d, d))
    H = X.T @ X / n + np.diag(np.exp(decay))
    best = np.linalg.solve(H, X.T @ y / n)
    exact = -np.exp(decay) * best * np.linalg.solve(H, v)
    rate = float(1 / np.linalg.eigvalsh(H)[-1])
    X, y, *rest = map(jnp.asarray, (X, y, decay, best, v, exact))

    def objective(decay, w):
        return jnp.sum((X @ w - y) ** 2) / (2 * n) + jnp.sum(jnp.exp(decay) * w**2) / 2

    return objective, *rest, rate


@pytest.mark.parametrize(
    ("flow", "steps"),
    [(Implicit(Dense()), 0), (Implicit(CG(4)), 0), (Unroll(), 400), (Forward(), 400)],
    ids=str,
)
def test_the_exact_hypergradient_of_ridge_regression(x64, flow, steps):
    objective, decay, best, v, exact, rate = ridge()
    respond = best_response(objective, optax.sgd(rate), steps, flow)
    found = jit(jax.grad(lambda decay: v @ respond(decay, best)))(decay)
    assert gap(exact, found) < 1e-10


@pytest.mark.parametrize("terms", [1, 7])
def test_neumann_is_unrolling_at_the_optimum_and_only_there(x64, terms):
    objective, decay, best, v, _, rate = ridge()

    def gradient(flow, steps):
        """Of a start: the gradient, and where the steps end."""
        respond = best_response(objective, optax.sgd(rate), steps, flow)

        def value(decay, start):
            end = respond(decay, start)
            return v @ end, end

        graded = jit(jax.grad(value, has_aux=True))
        return lambda start: graded(decay, start)

    neumann, away = gradient(Implicit(Neumann(terms, rate=rate)), 0), best + 1
    wanted, _ = neumann(best)
    for flow in (Unroll(), Forward(), Unroll(last=terms)):
        unrolled = gradient(flow, terms)
        assert gap(wanted, unrolled(best)[0]) < 1e-12
        if terms > 1:
            found, end = unrolled(away)
            # Compared where both have arrived: the unrolled one remembers the way.
            assert gap(neumann(end)[0], found) > 1e-2


def test_one_step_and_finite_differences_are_the_identity_for_an_inverse(x64):
    objective, decay, best, v, _, rate = ridge()

    def gradient(flow, steps):
        respond = best_response(objective, optax.sgd(rate), steps, flow)
        return jit(jax.grad(lambda decay: v @ respond(decay, best)))(decay)

    identity = gradient(Implicit(Identity(rate)), 0)
    assert gap(identity, gradient(OneStep(), 3)) < 1e-12
    # The objective is quadratic in the weights: a central difference leaves rounding only.
    assert gap(identity, gradient(FiniteDifference(rate=rate), 0)) < 1e-10


def test_finite_differences_of_a_zero_cotangent_are_zero():
    objective, decay, best, _, _, rate = ridge()
    respond = best_response(objective, optax.sgd(rate), 0, FiniteDifference())
    found = jit(jax.grad(lambda decay: 0 * jnp.sum(respond(decay, best))))(decay)
    assert found.tolist() == [0] * 4


def test_forward_mode_through_forward_and_stored_unrolls(x64):
    objective, decay, best, _, _, rate = ridge()

    def end(flow):
        return lambda decay: best_response(objective, optax.sgd(rate), 3, flow)(decay, best + 1)

    wanted = jit(jax.jacrev(end(Unroll())))(decay)
    for flow in (Forward(), Unroll(checkpoint=False)):
        assert gap(wanted, jit(jax.jacfwd(end(flow)))(decay)) < 1e-12


def test_point_flows_have_no_derivative_with_respect_to_the_start():
    objective, decay, best, v, _, rate = ridge()
    for flow in (Implicit(CG(4)), FiniteDifference(), Direct()):
        respond = best_response(objective, optax.sgd(rate), 3, flow)
        gradient = jit(jax.grad(lambda d, w, r=respond: v @ r(d, w), (0, 1)))
        of_decay, of_start = gradient(decay, best + 1)
        assert of_start.tolist() == [0] * 4
        assert (float(jnp.max(jnp.abs(of_decay))) > 0) == (flow != Direct())


# ---- three levels ----


def three_levels():
    """Quadratics g(u, v, w), f(u, v, w), F(u, v, w); w answers (u, v), and v answers u."""
    rng, n = np.random.default_rng(1), 7

    def symmetric(shift):
        M = rng.normal(size=(n, n)) * 0.2
        return (M + M.T) / 2 + shift * np.eye(n), rng.normal(size=n)

    (G, g), (F, f), (T, t) = symmetric(1.0), symmetric(1.0), symmetric(1.0)
    U, V, W = slice(0, 2), slice(2, 5), slice(5, 7)

    def quadratic(A, a):
        A, a = jnp.asarray(A), jnp.asarray(a)

        def value(u, v, w):
            z = jnp.concatenate([u, v, w])
            return z @ A @ z / 2 + a @ z

        return value

    # w = Ku u + Kv v + k; the middle level then sees z = B (u, v) + b.
    inverse = np.linalg.inv(G[W, W])
    Ku, Kv, k = -inverse @ G[W, U], -inverse @ G[W, V], -inverse @ g[W]
    B = np.block([[np.eye(2), np.zeros((2, 3))], [np.zeros((3, 2)), np.eye(3)], [Ku, Kv]])
    b = np.concatenate([np.zeros(5), k])
    M, m = B.T @ F @ B, B.T @ (F @ b + f)
    for inner in (G[W, W], M[2:, 2:]):
        assert 0.5 < np.linalg.eigvalsh(inner)[0] < np.linalg.eigvalsh(inner)[-1] < 2
    J, j = -np.linalg.solve(M[2:, 2:], M[2:, :2]), -np.linalg.solve(M[2:, 2:], m[2:])
    C = B @ np.vstack([np.eye(2), J])
    c = B @ np.concatenate([np.zeros(2), j]) + b

    def exact(u):
        return C.T @ (T @ (C @ u + c) + t)

    return quadratic(G, g), quadratic(F, f), quadratic(T, t), exact


def total(bottom, middle, top, flows, steps):
    """u -> top(u, v(u), w(u, v(u))), each level a best response inside the next."""
    of_bottom, of_middle = flows

    def answer_w(u, v):
        respond = best_response(
            lambda slow, w: bottom(slow[0], slow[1], w), optax.sgd(0.7), steps, of_bottom
        )
        return respond((u, v), jnp.zeros_like(u))

    def answer_v(u):
        respond = best_response(
            lambda u, v: middle(u, v, answer_w(u, v)), optax.sgd(0.7), steps, of_middle
        )
        return respond(u, jnp.zeros_like(u, shape=3))

    def value(u):
        v = answer_v(u)
        return top(u, v, answer_w(u, v))

    return value


IMPLICIT, DENSE, LEAN = Implicit(CG(6)), Implicit(Dense()), Unroll(checkpoint=8)


@pytest.mark.parametrize(
    "flows",
    [
        (IMPLICIT, IMPLICIT),
        (DENSE, LEAN),
        (LEAN, DENSE),
        (LEAN, LEAN),
        (LEAN, Forward()),
        (Forward(), IMPLICIT),
        (IMPLICIT, Forward()),
    ],
    ids=lambda flows: "-in-".join(type(flow).__name__ for flow in flows),
)
def test_three_levels_give_the_exact_total_derivative(x64, flows):
    *objectives, exact = three_levels()
    value = jit(jax.vmap(jax.grad(total(*objectives, flows, 80))))
    points = normal(2, 2)
    wanted = np.stack([exact(np.asarray(u)) for u in points])
    assert gap(jnp.asarray(wanted), value(points)) < 1e-9


def test_freezing_the_bottom_level_is_wrong(x64):
    *objectives, exact = three_levels()
    u = normal(2)
    for flows in ((Direct(), IMPLICIT), (IMPLICIT, Direct())):
        found = jit(jax.grad(total(*objectives, flows, 80)))(u)
        assert gap(jnp.asarray(exact(np.asarray(u))), found) > 1e-2


def test_hessians_through_three_levels(x64):
    flows = (LEAN, IMPLICIT)
    *objectives, exact = three_levels()
    zero = np.zeros(2)
    wanted = np.stack([exact(unit) - exact(zero) for unit in np.eye(2)])
    found = jit(jax.jacrev(jax.grad(total(*objectives, flows, 80))))(normal(2))
    assert gap(jnp.asarray(wanted), found) < 1e-9


def test_what_an_objective_closes_over_is_slow_too(x64):
    """A number, and a batched integer, neither of them an argument of the inner objective."""

    def gradient(flow):
        def value(scale, power):
            def objective(slow, w):
                return jnp.sum((w - scale**power * slow) ** 2)

            return jnp.sum(best_response(objective, optax.sgd(0.3), 80, flow)(one, one) ** 2)

        one = jnp.ones(2)
        scales, powers = jnp.array([0.5, 0.7]), jnp.array([2, 3])
        return jit(jax.vmap(jax.grad(value)))(scales, powers), scales, powers

    exact = (Unroll(), LEAN, Forward(), Implicit(CG(2)), FiniteDifference(rate=0.5))
    # A step of 0.3 on a curvature of 2 goes 0.6 of the way.
    for flow, share in [(flow, 1) for flow in exact] + [(OneStep(), 0.6), (Direct(), 0)]:
        found, scales, powers = map(np.asarray, gradient(flow))
        wanted = share * 2 * 2 * powers * scales ** (2 * powers - 1)
        assert np.max(np.abs(wanted - found)) < 1e-9, flow


# ---- optimizers, pytrees, compilation, devices ----


def test_a_learning_rate_is_differentiated_through_the_steps(x64):
    objective, decay, best, _, _, _ = ridge()

    def end(rate, flow):
        respond = best_response(lambda s, w: objective(decay, w), optax.sgd, 1, flow)
        return respond(rate, best + 1)

    @jit
    def slopes(rate):
        found = [jax.jacrev(lambda rate, f=f: end(rate, f))(rate) for f in (Unroll(), Forward())]
        return jax.grad(objective, 1)(decay, best + 1), *found

    slope, *others = slopes(0.1)
    assert all(gap(-slope, found) < 1e-14 for found in others)


def test_the_optimizer_is_told_value_gradient_and_function(x64):
    seen = {}

    def update(updates, state, params=None, *, value, grad, value_fn, **extra):
        del params, extra
        seen.update(grad=grad is not None)
        return jax.tree.map(lambda g: -value * g, updates), state + value_fn(grad)

    told = optax.GradientTransformationExtraArgs(lambda params: jnp.zeros_like(params[0]), update)
    respond = best_response(lambda slow, w: slow * jnp.sum(w**2), told, 1)
    w = normal(3)
    end = respond(jnp.asarray(2.0), w)
    assert seen["grad"] and gap(w - 2 * jnp.sum(w**2) * 4 * w, end) < 1e-14


def test_leaves_that_are_no_inexact_arrays_are_constants():
    start = {"w": jnp.ones(2), "n": jnp.int32(2), "f": jnp.tanh, "p": 0.5, "key": jax.random.key(0)}
    slow = {"s": jnp.asarray(3.0), "n": np.int32(1), "g": jnp.sin, "name": None}

    def objective(slow, fast):
        noise = jax.random.normal(fast["key"], (2,))
        target = slow["g"](slow["s"]) * slow["n"] + 0 * noise
        return jnp.sum((fast["f"](fast["w"]) * fast["n"] * fast["p"] - target) ** 2)

    for flow in (Unroll(checkpoint=2), Forward(), Implicit(CG(2)), FiniteDifference(), Direct()):
        respond = best_response(objective, optax.sgd(0.1), 3, flow)
        kept = []

        @jit
        @jax.value_and_grad
        def value(s, respond=respond, kept=kept):
            end = respond({**slow, "s": s}, start)
            kept.append((end["f"], end["p"]))
            return jnp.sum(end["w"]) + end["n"]

        found, slope = value(slow["s"])
        assert kept == [(jnp.tanh, 0.5)]
        assert found != 4 and found.dtype == jnp.float32
        assert (float(slope) != 0) == (flow != Direct())


def test_diagnostics_say_how_well_the_inner_problem_was_solved(x64):
    objective, decay, best, _, _, rate = ridge()
    for flow in (Unroll(), Implicit(CG(4))):
        respond = best_response(objective, optax.sgd(rate), 3, flow)

        @jit
        def told(start, respond=respond):
            end, info = respond(decay, start, diagnostics=True)
            loss, slope = jax.value_and_grad(objective, 1)(decay, end)
            return respond(decay, start), end, info, loss, slope

        plain, end, info, loss, slope = told(best + 1)
        assert gap(plain, end) == 0
        assert gap(loss, info.loss) < 1e-14
        assert gap(np.linalg.norm(slope), info.inner_gradient) < 1e-14
        assert told(best)[2].inner_gradient < 1e-14


def test_maml_in_one_expression():
    """The gradient with respect to the start, over tasks side by side, against a plain scan."""
    xs, ys = normal(5, 2, 6, 2), normal(5, 2, 6, 1)
    start = normal(9)

    def loss(w, x, y):
        return jnp.mean((network(w, x) - y) ** 2)

    def ours(start, x, y):
        adapt = best_response(lambda _, w: loss(w, x[0], y[0]), optax.sgd(0.1), 4)
        return loss(adapt((), start), x[1], y[1])

    def plain(start, x, y):
        def body(w, _):
            return w - 0.1 * jax.grad(loss)(w, x[0], y[0]), None

        return loss(jax.lax.scan(body, start, None, 4)[0], x[1], y[1])

    def meta(one):
        over = jax.vmap(one, (None, 0, 0))
        return jit(jax.grad(lambda start: jnp.mean(over(start, xs, ys))))(start)

    assert gap(meta(plain), meta(ours)) < 1e-6


def test_one_compilation_for_all_values():
    objective, slow, start, outer = fitting()
    traced = []

    @jit
    def step(slow, start):
        traced.append(1)
        return jax.grad(lambda s: outer(best_response(objective, adam, 3)(s, start)))(slow)

    for _ in range(3):
        slow = jax.tree.map(lambda s, g: s - 0.1 * g, slow, step(slow, start))
    assert len(traced) == 1 and step._cache_size() == 1


@pytest.mark.parametrize("flow", [Unroll(checkpoint=2), Forward(), Implicit(CG(4))], ids=str)
def test_devices_each_solve_their_own_problem(x64, flow):
    """Inside shard_map, with its check of what varies over the mesh."""
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    X, y, decay = normal(2, 6, 3), normal(2, 6), normal(3)

    def one(decay, X, y):
        def objective(decay, w):
            return jnp.mean((X @ w - y) ** 2) + jnp.sum(jnp.exp(decay) * w**2)

        start = jnp.zeros_like(X[0])
        return jnp.sum(best_response(objective, optax.sgd(0.1), 5, flow)(decay, start) ** 2)

    @partial(jax.shard_map, mesh=mesh, in_specs=(P(), P("data"), P("data")), out_specs=P())
    def sharded(decay, X, y):
        return jax.lax.psum(one(decay, X[0], y[0]), "data")

    def plain(decay, X, y):
        return jnp.sum(jax.vmap(one, (None, 0, 0))(decay, X, y))

    wanted, found = (jit(jax.grad(f))(decay, X, y) for f in (plain, sharded))
    assert gap(wanted, found) < 1e-12


def test_refusals():
    def objective(slow, w):
        return jnp.sum(slow * w**2)

    one, sgd = jnp.ones(2), optax.sgd(0.1)
    with pytest.raises(TypeError, match="optax transformation or a function"):
        best_response(objective, 0.1, 3)
    with pytest.raises(TypeError, match="steps must be an int"):
        best_response(objective, sgd, True)
    with pytest.raises(ValueError, match="must not be negative"):
        best_response(objective, sgd, -1)
    with pytest.raises(TypeError, match="flow"):
        best_response(objective, sgd, 3, CG(2))
    with pytest.raises(ValueError, match="more than the 3 steps"):
        best_response(objective, sgd, 3, Unroll(last=4))
    with pytest.raises(ValueError, match="context belongs to nests"):
        best_response(objective, sgd, 3, Implicit(CG(2), context=lambda task, key: task))
    with pytest.raises(ValueError, match="nothing in start can be trained"):
        best_response(objective, sgd, 3)(one, 1.0)
    with pytest.raises(ValueError, match=r"start\['batch_stats'\].*not a weight"):
        best_response(objective, sgd, 3)(one, {"params": one, "batch_stats": one})
    with pytest.raises(TypeError, match=r"scalar, got an array of shape \(2,\)"):
        best_response(lambda s, w: s * w, sgd, 3)(one, one)
    with pytest.raises(ValueError, match=r"would be zero.*flow=Unroll\(\)"):
        best_response(lambda s, w: jnp.sum(w**2), optax.sgd, 3, Implicit(CG(2)))(0.1 * one, one)


@pytest.mark.parametrize("flow", [Unroll(), Unroll(checkpoint=16), Unroll(last=256), Forward()])
def test_slow_values_in_half_precision_are_derived_by_sums_in_single(flow):
    """512 steps of equal parts: in bfloat16, 256 + 1 is 256."""
    slow, start = jnp.ones((), jnp.bfloat16), jnp.zeros(())
    share = 0.5 if flow == Unroll(last=256) else 1.0

    def along(slow, w):
        return slow.astype(jnp.float32) * w

    pushed = best_response(along, optax.sgd(-1 / 512), 512, flow)
    assert jit(jax.grad(lambda slow: pushed(slow, start)))(slow) == share

    def rated(slow):
        return optax.sgd(-slow.astype(jnp.float32))

    pushed = best_response(lambda slow, w: w, rated, 512, flow)
    found = jit(jax.grad(lambda slow: pushed(slow, start)))(slow)
    assert found.dtype == jnp.bfloat16 and found == 512 * share


def test_flows_of_nests_only_are_refused():
    @dataclasses.dataclass(frozen=True, repr=False)
    class Own(Flow):
        pass

    for flow, message in (
        (ES(0.1), r"nx\.evolution_gradient\(loss, slow, key, ES\(0\.1\)\)"),
        (Own(), "runs a level's period in a nest"),
    ):
        with pytest.raises(TypeError, match=message):
            best_response(lambda slow, fast: fast**2, optax.sgd(0.1), 3, flow)
