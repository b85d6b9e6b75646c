"""The programs of docs/cookbook.md, run as they stand there, against closed forms, finite
differences and loops written by hand."""

import dataclasses
import functools
import json
import math
import re
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

import nestax as nx
from nestax.levels import _draws

_TEXT = (Path(__file__).parents[2] / "docs" / "cookbook.md").read_text()
_SECTION = re.compile(r"^## (.+?)\n.*?^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
PROGRAMS = dict(_SECTION.findall(_TEXT))
PRELUDE = re.findall(r"^```python\n(.*?)^```", _TEXT, re.DOTALL | re.MULTILINE)[0]


def run(title):
    """What a program defines."""
    defined = {}
    exec(PRELUDE + PROGRAMS[title], defined)
    return types.SimpleNamespace(**defined)


def slope_is(function, point, gradient, rtol=1e-6, step=1e-5):
    """The gradient of `function` at a point, by central differences in random directions."""
    rng = np.random.default_rng(0)
    function = jax.jit(function)
    for _ in range(3):
        direction = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), point)
        ahead = function(jax.tree.map(lambda x, d: x + step * d, point, direction))
        behind = function(jax.tree.map(lambda x, d: x - step * d, point, direction))
        expected = optax.tree.vdot(gradient, direction)
        np.testing.assert_allclose((ahead - behind) / (2 * step), expected, rtol=rtol)


def close(found, expected, rtol=1e-9):
    found = dict(found) if isinstance(found, dict) else found  # a state's values are read only
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol), found, expected
    )


def test_every_section_is_a_short_program():
    assert list(PROGRAMS) == re.findall(r"^## (.+?)$", _TEXT, re.MULTILINE)
    for title, code in PROGRAMS.items():
        lines = [line for line in code.splitlines() if line.strip()]
        assert len(lines) <= 15, f"{title}: {len(lines)} lines"
        assert max(map(len, lines)) <= 100, title


def test_maml(x64):
    program = run("MAML")
    nest, state = program.nest, program.state
    draws = [_draws.task_key(state.key, state.tick, copy) for copy in range(25)]
    tasks = jax.vmap(program.sinusoid)(jnp.stack(draws))

    def after_ten_steps(init):
        def one(task):
            support, query = (jax.tree.map(lambda a, i=i: a[i], task) for i in (0, 1))

            def step(_, w):
                gradient = jax.grad(lambda w: program.loss({"w": w}, support))(w)
                return jax.tree.map(lambda w, g: w - 0.01 * g, w, gradient)

            return program.loss({"w": jax.lax.fori_loop(0, 10, step, init)}, query)

        return jnp.mean(jax.vmap(one)(tasks))

    slope_is(after_ten_steps, state.values["init"], nest.gradient(state, "init"))
    assert program.info["init"].loss.shape == (20,)
    assert program.info["w"].loss.shape == (200, 25)


def test_first_order_maml_then_full(x64):
    program = run("First-order MAML, then full")
    begin = program.begin
    draws = [_draws.task_key(begin.key, begin.tick, copy) for copy in range(8)]
    tasks = jax.vmap(program.regression)(jnp.stack(draws))

    @functools.partial(jax.jit, static_argnums=1)
    def slope(tasks, curved):
        def adapted(init, task):
            w = init
            for _ in range(3):
                gradient = jax.grad(lambda w: program.loss({"w": w}, task))(w)
                w = w - 0.1 * (gradient if curved else jax.lax.stop_gradient(gradient))
            return program.loss({"w": w}, task)

        slopes = jax.vmap(lambda task: jax.grad(adapted)(jnp.zeros(3), task))(tasks)
        return jnp.mean(slopes, axis=0)

    for nest, curved in ((program.first, False), (program.second, True)):
        close(nest.gradient(begin, "init"), slope(tasks, curved))
    assert program.state.tick == 120


def multi_step(program, init, weights, task):
    """The weighted losses after each of five steps of descent."""
    support, query = task

    def step(w, weight):
        gradient = jax.grad(lambda w: program.loss({"w": w}, support))(w)
        w = w - 0.1 * gradient
        return w, weight * program.loss({"w": w}, query)

    return jnp.sum(jax.lax.scan(step, init, weights)[1])


def test_a_loss_at_every_inner_step(x64):
    program = run("A loss at every inner step")
    nest, state = program.nest, program.state
    draws = [_draws.task_key(state.key, state.tick, copy) for copy in range(8)]
    tasks = jax.vmap(program.regression)(jnp.stack(draws))
    weights = jnp.array([0.1, 0.1, 0.2, 0.2, 0.4])

    def outcome(init):
        halves = [jax.tree.map(lambda a, i=i: a[:, i], tasks) for i in (0, 1)]
        each = jax.vmap(lambda *task: multi_step(program, init, weights, task))
        return jnp.mean(each(*halves))

    expected = jax.jit(jax.grad(outcome))(state.values["init"])
    close(nest.gradient(state, "init"), expected)
    # The tasks' answers are spread around 1.
    np.testing.assert_allclose(state.values["init"], 1, atol=0.5)


def test_weights_of_inner_steps_that_change(x64):
    program = run("Weights of inner steps that change")
    nest, state = program.nest, program.state
    close(state.values["shares"], jnp.array([0, 0, 0, 0, 2.0]))  # twenty steps of 0.1
    weights = jax.nn.softmax(state.values["shares"])
    task = (program.task, program.task)
    expected = jax.jit(jax.grad(lambda init: multi_step(program, init, weights, task)))
    close(nest.gradient(state, "init"), expected(state.values["init"]))


def test_implicit_maml(x64):
    program = run("Implicit MAML")
    nest, state = program.nest, program.state
    init, expected, draw = np.asarray(state.values["init"]), [], jax.jit(program.regression)
    for copy in range(8):
        task = jax.device_get(draw(_draws.task_key(state.key, state.tick, copy)))
        (x, xq), (y, yq) = task["x"], task["y"]
        curvature = x.T @ x / 20 + 2 * np.eye(3)
        w = np.linalg.solve(curvature, x.T @ y / 20 + 2 * init)
        expected.append(2 * np.linalg.solve(curvature, xq.T @ (xq @ w - yq) / 20))
    close(nest.gradient(state, "init"), sum(expected) / 8, rtol=1e-6)
    # The tasks' answers are spread around 1.
    np.testing.assert_allclose(init, 1, atol=0.5)


def test_a_decay_for_every_weight(x64):
    program = run("A decay for every weight")
    (x, y), (xv, yv) = program.data["train"], program.data["valid"]
    decay = jnp.exp(program.state.values["decay"])
    curvature = x.T @ x / 20 + jnp.diag(decay)
    w = jnp.linalg.solve(curvature, x.T @ y / 20)
    expected = -decay * w * jnp.linalg.solve(curvature, xv.T @ (xv @ w - yv) / 20)
    close(program.nest.gradient(program.state, "decay"), expected, rtol=1e-6)
    losses = program.info["decay"].loss
    assert losses[-1] < losses[0]


def test_three_levels_listed_and_composed(x64):
    program = run("Three levels, listed and composed")
    points = {"w": jnp.zeros(3), "v": jnp.zeros(3), "u": jnp.array([0.3, -0.2, 0.9])}
    state = program.nest.init(points, jax.random.key(0))
    listed = program.nest.gradient(state, "u")
    close(jax.jit(jax.grad(program.outcome))(points["u"]), listed, rtol=1e-6)

    def w_of(v, u):
        return scipy.optimize.brentq(lambda w: 2 * (w - v) + 0.4 * (w - u) ** 3, -9, 9, xtol=1e-14)

    def outcome(u):  # every coordinate is a problem by itself
        def slope(v):
            w = w_of(v, u)
            return 2 * (w - 1) * 2 / (2 + 1.2 * (w - u) ** 2) + 2 * (v - u)

        v = scipy.optimize.brentq(slope, -9, 9, xtol=1e-14)
        return (w_of(v, u) - 0.5) ** 2 + (v + u) ** 2

    slopes = [(outcome(u + 1e-5) - outcome(u - 1e-5)) / 2e-5 for u in np.asarray(points["u"])]
    np.testing.assert_allclose(listed, slopes, rtol=1e-6)


def test_a_learned_optimizer(x64):
    program = run("A learned optimizer")
    nest, state = program.nest, program.state
    found = nest.gradient(state, "theta")
    tick, now = int(state.tick), state.values["theta"]
    # A hundred steps in five truncations, spread over ten copies: two are at every place.
    begins = [(tick + 20 * (5 * copy // 10)) % 100 == 0 for copy in range(10)]
    assert sum(begins) == 2

    def copied(copy):
        if not begins[copy]:
            return state.values["w"][copy], state.optimizers["w"][copy], state.task[copy]
        task = program.draw(_draws.task_key(state.key, tick, copy))
        w = program.start({}, task, _draws.start_key(state.key, "w", tick, copy))
        return w, jnp.zeros(5), task

    copies = jax.tree.map(lambda *x: jnp.stack(x), *map(copied, range(10)))

    def truncated(theta):
        def one(w, memory, task):
            def step(carry, late):
                w, memory = carry
                rule = program.learned(jax.tree.map(lambda a, b: jnp.where(late, a, b), theta, now))
                gradient = jax.grad(lambda w: program.loss({"w": w}, task))(w)
                change, memory = rule.update(gradient, memory)
                return (w + change, memory), program.loss({"w": w + change}, task)

            return jnp.mean(jax.lax.scan(step, (w, memory), jnp.arange(20) >= 15)[1])

        return jnp.mean(jax.vmap(one)(*copies))

    slope_is(truncated, now, found)


def test_a_hypernetwork(x64):
    program = run("A hypernetwork, five steps to one")
    nest, state = program.nest, program.state
    noise, tick = nest.groups[0][0].context, int(state.tick)
    end, _ = nest.run(state, steps=1)
    net, decay, held = *map(state.values.get, ("net", "decay")), state.optimizers["net"]
    train = jax.grad(lambda net, decay, noise: program.train({"net": net, "decay": decay}, noise))

    @jax.jit
    def descended(net, held, decay, tick):
        gradient = train(net, decay, _draws.batch(noise, state.key, None, tick, 0))
        change, held = optax.adam(0.02).update(gradient, held)
        return optax.apply_updates(net, change), held

    valid = jax.grad(lambda decay, net: program.valid({"net": net, "decay": decay}, None))
    for t in range(tick, tick + 5):
        net, held = descended(net, held, decay, jnp.asarray(t))
    change, _ = optax.adam(0.01).update(valid(decay, net), state.optimizers["decay"])
    decay = decay + change
    close(end.values, {"net": net, "decay": decay})
    # What it has learned: the best weights at the present decay.
    x, y = program.x[:20], program.y[:20]
    best = jnp.linalg.solve(x.T @ x / 20 + jnp.exp(decay) * jnp.eye(5), x.T @ y / 20)
    error = program.response(net, decay) - best
    assert jnp.linalg.norm(error) < 0.1 * jnp.linalg.norm(best)


def test_games_in_both_orders(x64):
    program = run("Games, in both orders")
    x, y = program.outward.values["x"], program.outward.values["y"]
    np.testing.assert_allclose(x**2 + y**2, 1.01**100, rtol=1e-10)
    x, y = program.around.values["x"], program.around.values["y"]
    np.testing.assert_allclose(x**2 + y**2 - 0.1 * x * y, 1, rtol=1e-10)


def test_a_target_that_follows_its_own_value(x64):
    program = run("A target that follows its own value")
    for nest, state in ((program.nest, program.state), (program.by_field, program.begin)):
        np.testing.assert_allclose(nest.gradient(state, "reward"), 2, rtol=1e-10)
    reward = program.nest.groups[1][0]
    levels = [program.nest.groups[0], dataclasses.replace(reward, flow=nx.Implicit(nx.Dense()))]
    settled = nx.Nest(levels, order="alternating")
    np.testing.assert_allclose(settled.gradient(program.state, "reward"), 2, rtol=1e-10)


def test_continuum_memory(x64):
    program = run("Continuum memory")
    state = program.nest.init({n: 0.1 * jnp.eye(4) for n in program.clocks}, jax.random.key(5))
    end, _ = program.nest.run(state, steps=1)
    values = dict(state.values)
    gathered = jax.tree.map(jnp.zeros_like, values)

    @jax.jit
    def slope(values, tick):
        batch = _draws.batch(program.stream, state.key, None, tick, 0)
        return jax.grad(program.loss)(values, batch)

    for t in range(16):
        gathered = jax.tree.map(jnp.add, gathered, slope(values, jnp.asarray(t)))
        for name, every in program.clocks.items():
            if (t + 1) % every == 0:
                values = {**values, name: values[name] - 0.05 * gathered[name]}
                gathered = {**gathered, name: jnp.zeros((4, 4))}
    close(end.values, values)


def test_several_inner_problems(x64):
    program = run("Several inner problems")
    followers, leader = program.nest.groups
    state = program.nest.init(program.begin, jax.random.key(0))
    np.testing.assert_allclose(program.nest.gradient(state, "q0"), -2 / 7 * (1 - 0.2), rtol=1e-8)
    close(program.state.values, {"q0": 1 / 2, "q1": 1 / 7, "q2": 3 / 14}, rtol=1e-6)
    flow = nx.Implicit(nx.CG(10))
    symmetric = nx.Level("q0", leader[0].objective, optax.sgd(0.3), every=50, flow=flow)
    with pytest.raises(ValueError, match=r"q0.*symmetric"):
        nx.Nest([followers, symmetric]).init(program.begin, jax.random.key(0))


def test_an_outer_level_faster_than_its_inner_one(x64):
    program = run("An outer level faster than its inner one")
    x, y, xv, yv = program.x[:20], program.y[:20], program.x[20:], program.y[20:]
    w, decay = np.zeros(5), 0.0
    end, info = program.nest.run(program.begin, steps=2)
    assert info["decay"].loss.shape == (8,) and info["weights"].loss.shape == (2,)
    for t in range(8):
        curvature = x.T @ x / 20 + np.exp(decay) * np.eye(5)
        outer = np.linalg.solve(curvature, xv.T @ (xv @ w - yv) / 20)
        decay = decay + 0.2 * np.exp(decay) * w @ outer
        if t % 4 == 3:
            w = w - 0.5 * (x.T @ (x @ w - y) / 20 + np.exp(decay) * w)
    close(end.values, {"weights": w, "decay": decay}, rtol=1e-6)


def test_data_from_the_host(x64):
    program = run("Data from the host")
    w = np.zeros(5, np.float32)
    for t in range(100):
        batch = program.rows(t)
        w = w - 0.1 * 2 * batch[:, :5].T @ (batch[:, :5] @ w - batch[:, 5]) / 32
    np.testing.assert_allclose(program.state.values["w"], w, rtol=1e-4, atol=1e-5)
    again, _ = program.nest.run(
        program.nest.run(
            program.nest.init({"w": jnp.zeros(5, jnp.float32)}, jax.random.key(0)), 37
        )[0],
        63,
    )
    assert jnp.array_equal(again.values["w"], program.state.values["w"])
    assert jnp.array_equal(program.end.values["w"], program.state.values["w"])


def test_batchnorm():
    program = run("BatchNorm, and other state that is not a weight")
    nest, rows = program.nest, program.rows
    state = nest.init({"net": program.value, "decay": 0.1}, jax.random.key(1))
    end, info = nest.run(state, steps=2)

    def inner(params, stats):
        return program.error([params, stats], rows[:20], True)

    @jax.jit
    def period(decay, params, stats):
        def valid(decay, params, stats):
            def step(_, point):
                gradient, stats = jax.grad(inner, has_aux=True)(*point)
                params = jax.tree.map(lambda p, g: p - 0.1 * (g + decay * p), point[0], gradient)
                return params, jax.lax.stop_gradient(stats)

            params, stats = jax.lax.fori_loop(0, 10, step, (params, stats))
            return program.error([params, stats], rows[20:], False)[0], (params, stats)

        gradient, (params, stats) = jax.grad(valid, has_aux=True)(decay, params, stats)
        return decay - 0.1 * gradient, params, stats

    point = (jnp.asarray(0.1), *program.value)
    for _ in range(2):
        point = period(*point)
    close([end.values["decay"], *end.values["net"]], list(point), rtol=1e-4)
    assert abs(end.values["decay"] - 0.1) > 1e-3 and info["decay"].loss.shape == (2,)


def test_one_loop(x64):
    program = run("One loop: SOBA, SABA, F2SA")
    a = program.rows.T @ program.rows / 64
    z = program.state.values["z"]
    x = program.state.values["x"]
    # z* = (A + I)^-1 A x, so the hypergradient is closed.
    settled = jnp.linalg.solve(a + jnp.eye(6), a)
    np.testing.assert_allclose(z, settled @ x, atol=1e-6)
    slope = settled.T @ (a @ settled @ x - program.rows.mean(0)) + 0.2 * x
    assert slope @ slope < 1e-10
    for nest, more in ((program.soba, {"aux"}), (program.f2sa, {"y", "penalty"})):
        names = [level.name for group in nest.groups for level in group]
        assert set(names) == {"x", "z"} | more
        zeros = {name: jnp.ones(6) if name != "penalty" else 1.0 for name in names}
        _, info = nest.run(nest.init(zeros, jax.random.key(0)), steps=3)
        assert all(jnp.isfinite(level.loss).all() for level in info.values())


def test_watching_a_run(x64, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program = run("Watching a run")
    # The error shrinks by 0.8 in every step, from 4 on, and is looked at before the step.
    steps = math.floor(math.log(0.01 / 4, 0.8)) + 2
    close(program.state.values["w"], program.target * (1 - 0.8**steps))
    assert int(program.state.tick) == len(program.info["w"].loss) == steps
    rows = (tmp_path / "runs" / "mine" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(rows[-1])["step"] == steps


def test_level_tables(x64, capsys):
    program = run("Level tables")
    assert program.table.levels == (("['adam'].mu", "['adam'].nu"), ("['w']",))
    printed = capsys.readouterr().out
    assert printed.index("['fast']") < printed.index("['slow']") < printed.index("['adam'].mu")


def test_a_learned_optimizer_by_persistent_evolution():
    """The flow that the text offers in place of truncated gradients."""
    program = PROGRAMS["A learned optimizer"].replace("nx.Unroll(last=5)", "nx.PES(0.1)")
    program = program.replace("steps=10", "steps=2")
    defined = {}
    exec(PRELUDE + program, defined)
    assert set(defined["state"].flows) == {"theta"}
    moved = jax.tree.map(
        lambda a, b: bool((a != b).any()), defined["theta"], dict(defined["state"].values["theta"])
    )
    assert moved == {"in": True, "out": True}


def test_meta_training_in_one_call_and_as_a_nest():
    program = run("Meta-training in one call, and as a nest")
    short, spelled = program.found.nest.declaration, program.nest.declaration
    assert short.periods == spelled.periods and short.copies == spelled.copies
    assert [len(group) for group in short.groups] == [len(group) for group in spelled.groups]
    assert short.groups[1][0].flow == spelled.groups[1][0].flow == nx.PES(0.01)
    # Adam's rate is too small at first: both raise it.
    assert program.found.theta["scale"] > 0 and program.state.values["theta"]["scale"] > 0
    tx = program.optimizer
    weights = jnp.ones(5)
    updates, _ = tx.update(weights, tx.init(weights), weights)
    np.testing.assert_allclose(updates, -0.1 * jnp.exp(program.found.theta["scale"]), rtol=1e-2)


def test_the_spectrum_of_a_game(x64):
    program = run("The spectrum of a game")
    # Every pair of coordinates turns: z -> (1 - 0.1 i) z, and with the last gradient remembered
    # z'' = (1 - 0.2 i) z' + 0.1 i z.
    np.testing.assert_allclose(program.radius(optax.sgd(0.1)), abs(1 - 0.1j), rtol=1e-12)
    expected = np.abs(np.roots([1, -(1 - 0.2j), -0.1j])).max()
    optimistic = program.radius(optax.optimistic_gradient_descent(0.1))
    np.testing.assert_allclose(optimistic, expected, rtol=1e-12)
    assert round(expected, 3) == 0.995


def test_a_gan_with_complex_momentum_on_one_side(x64):
    program = run("A GAN with complex momentum on one side")
    rng = np.random.default_rng(0)

    def player(out):
        shapes = {"in": (2, 8), "bias": (1, 8), "out": (8, out)}
        return {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}

    state = program.nest.init(
        {"generator": player(2), "discriminator": player(1)}, jax.random.key(0)
    )
    g, d = state.values["generator"], state.values["discriminator"]
    real, noise = _draws.batch(program.batch, state.key, None, 0, 0)
    np.testing.assert_allclose(np.linalg.norm(real, axis=1), 2, atol=0.6)

    def score(d, x):
        return jnp.tanh(x @ d["in"] + d["bias"]) @ d["out"]

    def losses(g, d):
        fake, true = score(d, score(g, noise)), score(d, real)
        return -jnp.mean(jnp.log(jax.nn.sigmoid(fake))), -jnp.mean(
            jnp.log(jax.nn.sigmoid(true)) + jnp.log(jax.nn.sigmoid(-fake))
        )

    found = program.nest.gradient(state, ["generator", "discriminator"])
    close(found["generator"], jax.grad(lambda g: losses(g, d)[0])(g))
    close(found["discriminator"], jax.grad(lambda d: losses(g, d)[1])(d))


def test_lola_cooperates_where_descent_defects(capsys):
    program = run("LOLA: players who shape what others learn")
    naive, shaped = map(json.loads, capsys.readouterr().out.splitlines())
    assert min(naive) > 1.9 and max(shaped) < 1.1
    levels = nx.games.adjusted(program.levels, nx.games.lola(20.0))
    nest = nx.Nest([levels])
    found = nest.gradient(nest.init(program.begin, jax.random.key(0)), "x")
    x, y = program.begin["x"], program.begin["y"]
    own, other = program.game.losses["x"], program.game.losses["y"]
    answer = lambda x: y - 20.0 * jax.grad(lambda y: other({"x": x, "y": y}))(y)  # noqa: E731
    np.testing.assert_allclose(
        found, jax.grad(lambda x: own({"x": x, "y": answer(x)}))(x), rtol=1e-3, atol=1e-5
    )


def test_the_exponents_of_your_own_training(x64, capsys):
    program = run("The exponents of your own training")
    flat, unravel = jax.flatten_util.ravel_pytree(program.point)
    step = jax.jit(lambda z: jax.flatten_util.ravel_pytree(program.f(unravel(z)))[0])
    jacobian, product = jax.jit(jax.jacobian(step)), np.eye(flat.size)
    for _ in range(20):
        product, flat = jacobian(flat) @ product, step(flat)
    expected = np.log(np.linalg.svd(product, compute_uv=False)[:3]) / 20
    printed = [float(word) for word in capsys.readouterr().out.strip("[]\n").split()]
    np.testing.assert_allclose(printed, expected, rtol=1e-6)
    assert min(printed) > 0


def test_a_tree_of_solutions(capsys):
    program = run("A tree of solutions")
    assert len(program.minima) == 4
    for point in program.minima:
        slope = jax.grad(program.loss)(jnp.array(point))
        assert np.abs(slope).max() < 0.1  # they are rounded
    assert "4 leaf" in capsys.readouterr().out


def test_reinforce_in_an_environment_that_goes_on(x64):
    program = run("REINFORCE in an environment that goes on")
    seen = {name: np.asarray(one) for name, one in program.info["policy"].user.items()}
    at, right, won, over = (seen[name].ravel() for name in ("at", "right", "won", "over"))
    after = at + np.where(right, 1, -1)
    np.testing.assert_array_equal(over, (after == 0) | (after == 6))
    np.testing.assert_array_equal(won, after == 6)
    position = np.where(over, 3, after)  # across roll-outs too
    assert at[0] == 3
    np.testing.assert_array_equal(at[1:], position[:-1])
    assert program.state.contexts["policy"] == position[-1]
    # The gradient by hand: d log_sigmoid(score) is right - sigmoid(score).
    begin = program.nest.init({"policy": jnp.zeros(7)}, jax.random.key(0))
    rows, expected = {name: one[0] for name, one in seen.items()}, np.zeros(7)
    for t in range(20):
        gain = 0.0
        for later in range(t, 20):
            gain += rows["won"][later]
            if rows["over"][later]:
                break
        expected[rows["at"][t]] -= (gain - 0.5) * (rows["right"][t] - 0.5) / 20
    close(program.nest.gradient(begin, "policy"), expected)
    assert seen["won"][-20:].sum() > 2 * seen["won"][:20].sum()


def test_a_replay_buffer(x64):
    program = run("A replay buffer")
    # A reward of 1 at every move from the end of the corridor on, at a discount of one half.
    rightward = np.array([1 / 4, 1 / 2, 1, 2])
    expected = np.stack([np.full(4, rightward[0] / 2), rightward], axis=1)
    np.testing.assert_allclose(program.state.values["q"], expected, rtol=1e-6)
    memory = program.state.contexts["q"]
    assert memory["count"] == 1000
    order = np.arange(1000 - 64, 1000) % 64  # the last 64 moves, oldest first
    at, right, paid, after = np.asarray(memory["rows"])[order].T
    np.testing.assert_array_equal(after, np.where(right, np.minimum(at + 1, 3), 0))
    np.testing.assert_array_equal(paid, right & (at == 3))
    np.testing.assert_array_equal(at[1:], after[:-1])
    assert memory["at"] == after[-1] and set(right) == {0, 1}


def test_seeds_and_rates_side_by_side(x64):
    with pytest.warns(UserWarning) as warned:
        program = run("Seeds and rates side by side")
    assert any("run 3 " in str(one.message) and "lost" in str(one.message) for one in warned)
    x, losses = np.asarray(program.x), []
    hessian, minimum = 2 * x.T @ x / 20, np.arange(5.0)
    values, vectors = np.linalg.eigh(hessian)
    for seed in range(3):
        first = jax.random.normal(program.seeds[seed], (5,)) - minimum
        for rate in (0.03, 0.1, 0.3):
            error = vectors @ ((1 - rate * values) ** 199 * (vectors.T @ first))
            losses.append(error @ hessian @ error / 2)
    found = np.asarray(program.info["w"].loss[-1]).reshape(3, 4)
    assert not np.isfinite(found[:, 3]).any()
    np.testing.assert_allclose(found[:, :3].ravel(), losses, rtol=1e-6, atol=1e-25)
    seed, rate = np.unravel_index(np.argmin(found[:, :3]), (3, 3))
    best = {"w": program.state.values["w"][4 * seed + rate], "rate": program.rates[rate]}
    close(program.best.values, best)


def test_test_loss_along_a_run(x64):
    program = run("Test loss along a run")
    (x, y), (xt, yt) = program.data["train"], program.data["test"]
    w, tested = np.zeros(5), []
    for t in range(200):
        w = w - 0.1 * 2 * x.T @ (x @ w - y) / 20
        if t % 10 == 9:
            tested.append(np.mean((xt @ w - yt) ** 2))
    np.testing.assert_allclose(program.info["test"].loss, tested, rtol=1e-10)
    assert program.info["w"].loss.shape == (200,)
