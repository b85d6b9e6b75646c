"""The level table finds by itself what is known of each program."""

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, PartitionSpec

from nestax.levels._table import level_table

X = jnp.asarray([1.0, 2.0])
PARAMS = {"b": jnp.ones(3), "w": jnp.ones((3, 2))}


def loss(params, x):
    return jnp.sum(jnp.square(params["w"] @ x + params["b"] - 1))


def trained(tx, params=None, objective=loss):
    params = PARAMS if params is None else params

    def step(state, x):
        value, gradient = jax.value_and_grad(objective)(state["p"], x)
        updates, opt = tx.update(gradient, state["opt"], state["p"])
        return {"opt": opt, "p": optax.apply_updates(state["p"], updates)}, value

    return step, {"opt": tx.init(params), "p": params}


def levels(*args, **kwargs):
    return [set(level) for level in level_table(*args, **kwargs).levels]


def paths(prefix, names=("['b']", "['w']")):
    return {prefix + name for name in names}


# Optimizers.


def test_the_weights_of_gradient_descent_are_one_level():
    step, state = trained(optax.sgd(0.1))
    assert level_table(step, state, X).levels == (("['p']['b']", "['p']['w']"),)


def test_momentum_is_faster_than_the_weights():
    step, state = trained(optax.sgd(0.1, momentum=0.9))
    assert levels(step, state, X) == [paths("['opt'][0].trace"), paths("['p']")]


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint], ids=["", "jit", "remat"])
def test_the_moments_of_adam_are_one_level_and_the_weights_wait_for_them(wrap):
    step, state = trained(optax.adamw(1e-2))
    table = level_table(wrap(step), state, X)
    mu, nu = paths("['opt'][0].mu"), paths("['opt'][0].nu")
    assert [set(level) for level in table.levels] == [mu | nu, paths("['p']")]
    assert table.compare("['opt'][0].mu['w']", "['opt'][0].nu['w']") == "="
    assert table.compare("['opt'][0].mu['w']", "['p']['w']") == ">"
    assert table.compare("['p']['w']", "['opt'][0].nu['w']") == "<"
    # Each weight by its own moments only, and by the counter, which is a clock and no level.
    clock = "['opt'][0].count"
    own = {"['opt'][0].mu['w']", "['opt'][0].nu['w']", clock}
    assert table.depends["['p']['w']"] == own
    assert table.kinds[clock] == "clock" and table.frequencies[clock] == 1
    assert set(table.frequencies.values()) == {1}


def test_a_chain_with_clipping_and_a_schedule():
    schedule = optax.cosine_decay_schedule(1e-2, 100)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
    step, state = trained(tx)
    moments = paths("['opt'][1][0].mu") | paths("['opt'][1][0].nu")
    assert levels(step, state, X) == [moments, paths("['p']")]


def test_moments_kept_in_half_precision():
    step, state = trained(optax.adam(1e-2, mu_dtype=jnp.bfloat16))
    moments = paths("['opt'][0].mu") | paths("['opt'][0].nu")
    assert levels(step, state, X) == [moments, paths("['p']")]


def test_lion_reads_its_memory_before_the_write():
    step, state = trained(optax.lion(1e-2))
    assert levels(step, state, X) == [paths("['opt'][0].mu") | paths("['p']")]


def test_multi_steps_stores_by_where_and_is_written_every_time():
    step, state = trained(optax.MultiSteps(optax.adam(1e-2), 3))
    table = level_table(step, state, X, calls=6)
    inner = "['opt'].inner_opt_state[0]"
    fast = paths(f"{inner}.mu") | paths(f"{inner}.nu") | paths("['opt'].acc_grads")
    assert [set(level) for level in table.levels] == [fast, paths("['p']")]
    assert table.kinds["['opt'].mini_step"] == "clock"


def test_conditional_accumulation_has_its_true_frequency():
    tx = optax.adam(1e-2)

    def step(state, x):
        acc = jax.tree.map(jnp.add, state["acc"], jax.grad(loss)(state["p"], x))

        def emit(acc, opt, p):
            updates, opt = tx.update(acc, opt, p)
            return jax.tree.map(jnp.zeros_like, acc), opt, optax.apply_updates(p, updates)

        due = state["t"] % 4 == 3
        wait = lambda *values: values  # noqa: E731
        acc, opt, p = jax.lax.cond(due, emit, wait, acc, state["opt"], state["p"])
        return {"acc": acc, "opt": opt, "p": p, "t": state["t"] + 1}

    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    state = {"acc": zeros, "opt": tx.init(PARAMS), "p": PARAMS, "t": jnp.asarray(0)}
    table = level_table(step, state, X, calls=8)
    moments = paths("['opt'][0].mu") | paths("['opt'][0].nu")
    assert [set(level) for level in table.levels] == [paths("['acc']"), moments, paths("['p']")]
    assert table.frequencies["['p']['w']"] == table.frequencies["['opt'][0].mu['w']"] == 0.25
    assert table.frequencies["['acc']['w']"] == 1.25  # added to at every call, emptied at some
    # In a single call the branch does not run: nothing is written, and the table says why.
    single = level_table(step, state, X)
    assert single.levels == (("['acc']['b']", "['acc']['w']"),)
    assert single.kinds["['p']['w']"] == "constant" and "calls=n" in str(single)


# Nests.


def adapt(w, x, steps=5):
    def body(w, _):
        return jax.tree.map(lambda p, g: p - 0.1 * g, w, jax.grad(loss)(w, x)), None

    return jax.lax.scan(body, w, None, length=steps)[0]


@pytest.mark.parametrize("wrap", [lambda f: f, jax.checkpoint], ids=["plain", "checkpoint"])
def test_maml(wrap):
    outer = wrap(lambda init, x: loss(adapt(init, x), 2 * x))
    step, state = trained(optax.adam(1e-2), objective=outer)
    moments = paths("['opt'][0].mu") | paths("['opt'][0].nu")
    assert levels(step, state, X) == [moments, paths("['p']")]
    table = level_table(step, state, X, hidden=True)
    inner = {"scan[0].carry[0]", "scan[0].carry[1]"}
    assert [set(level) for level in table.levels] == [inner, moments, paths("['p']")]
    assert {table.frequencies[path] for path in inner} == {5}
    assert table.kinds["scan[0].carry[0]"] == "hidden"
    assert table.compare(min(inner), "['p']['w']") == ">"
    assert inner < table.depends["['p']['w']"]


def test_maml_over_many_tasks():
    def outer(init, xs):
        return jnp.mean(jax.vmap(lambda x: loss(adapt(init, x), 2 * x))(xs))

    step, state = trained(optax.sgd(1e-2), objective=outer)
    found = levels(step, state, jnp.stack([X, 2 * X, 3 * X]), hidden=True)
    assert found == [{"scan[0].carry[0]", "scan[0].carry[1]"}, paths("['p']")]


def test_a_loop_that_only_a_checkpoint_runs_again():
    def unrolled(init, x):
        def body(w, _):
            inner = jax.checkpoint(lambda w: loss(adapt(w, x), x))
            return jax.tree.map(lambda p, g: p - 0.1 * g, w, jax.grad(inner)(w)), None

        return loss(jax.lax.scan(body, init, None, length=3)[0], x)

    step, state = trained(optax.sgd(0.1), objective=unrolled)
    table = level_table(jax.jit(step), state, X, hidden=True)
    assert [table.frequencies[level[0]] for level in table.levels] == [15, 3, 1]
    assert [len(level) for level in table.levels] == [2, 2, 2]
    # Run again, the inner loop comes after the outer one: that is not what it needs.
    inner, outer, slow = table.levels
    assert not table.depends[inner[0]] and table.depends[outer[0]] == set(inner)
    assert table.depends[slow[0]] == {*inner, *outer}


def test_a_carry_of_the_state_that_a_checkpoint_runs_again():
    def step(state, x):
        def outer(init):
            w = adapt(init, x)
            return loss(w, 2 * x), w

        gradient, w = jax.grad(jax.checkpoint(outer), has_aux=True)(state["w"])
        slow = jax.tree.map(lambda p, g: p - 0.1 * g, state["slow"], gradient)
        return {"slow": slow, "w": w}

    table = level_table(step, {"slow": PARAMS, "w": PARAMS}, X, hidden=True)
    assert [set(level) for level in table.levels] == [paths("['w']"), paths("['slow']")]
    assert table.frequencies["['w']['w']"] == 5 and len(table.frequencies) == 4


def meta_step(begin):
    """MAML whose inner weights are part of the state, started where `begin` says."""

    def step(state, x):
        def outer(init):
            w = adapt(begin(state["w"], init), x)
            return loss(w, 2 * x), w

        gradient, w = jax.grad(outer, has_aux=True)(state["init"])
        init = jax.tree.map(lambda p, g: p - 0.1 * g, state["init"], gradient)
        return {"init": init, "w": w}

    return step, {"init": PARAMS, "w": PARAMS}


@pytest.mark.parametrize(
    "begin",
    [
        lambda w, init: init,  # every call starts afresh
        lambda w, init: jax.tree.map(lambda a, b: a + 0 * b, w, init),
    ],
    ids=["from the meta-parameters", "from itself"],
)
def test_inner_weights_in_the_state(begin):
    step, state = meta_step(begin)
    assert levels(step, state, X) == [paths("['w']"), paths("['init']")]


def test_starting_afresh_is_no_write_but_changing_before_the_loop_is():
    step, state = meta_step(lambda w, init: init)
    assert level_table(step, state, X).frequencies["['w']['w']"] == 5
    step, state = meta_step(lambda w, init: jax.tree.map(lambda a, b: a + 0 * b, w, init))
    assert level_table(step, state, X).frequencies["['w']['w']"] == 6


def test_restarting_at_the_end_of_a_call():
    def step(state, x):
        gradient = jax.grad(lambda w: loss(w, 2 * x))(adapt(state["w"], x))  # first order
        init = jax.tree.map(lambda p, g: p - 0.1 * g, state["init"], gradient)
        return {"init": init, "w": init}

    table = level_table(step, {"init": PARAMS, "w": PARAMS}, X, hidden=True)
    assert [set(level) for level in table.levels] == [paths("['w']"), paths("['init']")]
    assert table.frequencies["['w']['w']"] == 6  # five and the restart


def test_reptile_has_both_weights_alive_at_once():
    def step(w, x):
        return jax.tree.map(lambda a, b: a + 0.1 * (b - a), w, adapt(w, x))

    table = level_table(step, PARAMS, X, hidden=True)
    assert table.frequencies["['w']"] == 1
    assert table.levels == (("scan[0].carry[0]", "scan[0].carry[1]"), ("['b']", "['w']"))


def test_lookahead():
    def step(state, x):
        fast = adapt(state["fast"], x)
        slow = jax.tree.map(lambda s, f: s + 0.5 * (f - s), state["slow"], fast)
        return {"fast": slow, "slow": slow}

    table = level_table(step, {"fast": PARAMS, "slow": PARAMS}, X, hidden=True)
    assert [set(level) for level in table.levels] == [paths("['fast']"), paths("['slow']")]
    assert table.frequencies["['fast']['w']"] == 6


def test_a_loop_and_then_one_more_write():
    def step(w, x):
        w = adapt(jax.tree.map(lambda p: 0.9 * p, w), x)
        w = adapt(w, x, steps=3)
        return jax.tree.map(lambda p: 0.9 * p, w)

    table = level_table(step, PARAMS, X, hidden=True)
    assert table.levels == (("['b']", "['w']"),)
    assert table.frequencies["['w']"] == 1 + 5 + 3 + 1


def three_levels(hyper_in_state=True):
    def fast_step(carry, x):
        w, decay = carry
        return (w - 0.1 * (w - x + decay * w), decay), None

    def mid_step(carry, x):
        w, decay, slow, trace = carry
        (w, decay), _ = jax.lax.scan(fast_step, (w, decay), jnp.stack([x, x, x]))
        trace = 0.9 * trace + w - slow
        return (w, decay - 0.1 * trace, slow, trace), None

    def step(state, xs):
        carry = (state["fast"], state["mid"], state["slow"], state["trace"])
        (fast, mid, slow, trace), _ = jax.lax.scan(mid_step, carry, xs)
        slow = slow - 0.1 * mid
        return {**state, "fast": fast, "mid": mid, "slow": slow, "trace": trace}

    zero = jnp.zeros(())
    names = ("constant", "fast", "mid", "slow", "trace")
    return step, dict.fromkeys(names, zero)


def test_three_levels_nested():
    step, state = three_levels()
    table = level_table(step, state, jnp.ones(4), hidden=True)
    assert table.levels == (("['fast']",), ("['trace']",), ("['mid']",), ("['slow']",))
    frequencies = {path[2:-2]: f for path, f in table.frequencies.items()}
    assert frequencies == {"fast": 12, "trace": 4, "mid": 4, "slow": 1, "constant": 0}
    assert [row.relative for row in table.rows] == [1, 1 / 3, 1 / 3, 1 / 12, 0]


def test_the_same_number_of_rounds_in_loops_one_after_the_other():
    def step(state, x):
        a = adapt(state["a"], x)
        return {"a": a, "b": adapt(jax.tree.map(jnp.subtract, state["b"], a), x)}

    def independent(state, x):
        return {"a": adapt(state["a"], x), "b": adapt(state["b"], x)}

    state = {"a": PARAMS, "b": PARAMS}
    assert levels(independent, state, X) == [paths("['a']") | paths("['b']")]
    table = level_table(step, state, X)
    assert table.frequencies["['a']['w']"] == 5 and table.frequencies["['b']['w']"] == 6


# Memories inside one call.


def attention(params, xs):
    def token(memory, x):
        q, k, v = (params[name] @ x for name in "qkv")
        memory = memory + jnp.outer(v - memory @ k, k)
        return memory, memory @ q

    memory = jnp.zeros((2, 2)) + 0 * xs[0, 0]
    memory, out = jax.lax.scan(token, memory, xs)
    return jnp.sum(jnp.square(out - xs)), memory


ATTENTION = {name: jnp.eye(2) for name in "qkv"}
SEQUENCE = jnp.ones((7, 2)) / 2


@pytest.mark.parametrize("wrap", [lambda f: f, jax.checkpoint], ids=["plain", "checkpoint"])
def test_the_memory_of_linear_attention_is_faster_than_its_projections(wrap):
    layer = wrap(lambda params, xs: attention(params, xs)[0])
    step, state = trained(optax.sgd(0.1), ATTENTION, layer)
    projections = paths("['p']", [f"['{name}']" for name in "qkv"])
    assert levels(step, state, SEQUENCE) == [projections]
    table = level_table(step, state, SEQUENCE, hidden=True)
    # The backward pass carries cotangents, which are no memory.
    assert [set(level) for level in table.levels] == [{"scan[0].carry[0]"}, projections]
    assert table.frequencies["scan[0].carry[0]"] == 7
    assert "hidden=True" in str(level_table(step, state, SEQUENCE))


def test_a_memory_that_the_state_holds():
    def step(state, xs):
        gradient, memory = jax.grad(attention, has_aux=True)(state["p"], xs)
        return {"m": memory, "p": jax.tree.map(lambda p, g: p - 0.1 * g, state["p"], gradient)}

    table = level_table(step, {"m": jnp.zeros((2, 2)), "p": ATTENTION}, SEQUENCE, hidden=True)
    assert table.levels[0] == ("['m']",) and table.frequencies["['m']"] == 7
    assert len(table.levels) == 2


def test_nothing_is_listed_that_no_round_writes():
    def step(w):
        def body(carry):
            w, fixed = carry
            return w - fixed, fixed

        return jax.lax.while_loop(lambda c: c[0][0] > 0, body, (w, jnp.ones(2) + 0 * w))[0]

    assert dict(level_table(step, X, hidden=True).frequencies) == {"": 1}


def test_counters_and_carries_that_pass_through_are_no_components():
    def step(state, x):
        def body(i, carry):
            w, rate, total = carry
            return w - rate * i, rate, total + w

        w, rate, _ = jax.lax.fori_loop(0, 3, body, (state["w"], state["rate"], jnp.zeros(())))
        return {"rate": rate, "w": w + x}

    state = {"rate": jnp.ones(()), "w": jnp.ones(())}
    table = level_table(step, state, 1.0, hidden=True)
    total = [path for path, kind in table.kinds.items() if kind == "hidden"]
    assert dict(table.frequencies) == {"['rate']": 0, "['w']": 4, total[0]: 3}
    assert table.kinds["['rate']"] == "constant" and total[0].startswith("scan[0].carry[")


# Seeing through, and counting by running.


def test_custom_derivatives_are_seen_through():
    @jax.custom_vjp
    def descend(w, g):
        return jax.lax.scan(lambda w, _: (w - g, None), w, None, length=4)[0]

    descend.defvjp(lambda w, g: (descend(w, g), None), lambda _, c: (c, c))

    @jax.custom_jvp
    def keep(w):
        return w

    keep.defjvp(lambda primals, tangents: (keep(*primals), tangents[0]))

    def step(state, x):
        return {"a": descend(state["a"], x), "b": keep(state["b"])}

    table = level_table(jax.jit(step), {"a": X, "b": X}, X, hidden=True)
    assert dict(table.frequencies) == {"['a']": 4, "['b']": 0}


def test_cond_counts_the_branch_that_runs():
    def step(w, flag):
        def many(w):
            return jax.lax.scan(lambda w, _: (0.9 * w, None), w, None, length=6)[0]

        return {"w": jax.lax.cond(flag, many, lambda w: w + 1, w["w"])}

    for flag, times in ((True, 6), (False, 1)):
        table = level_table(step, {"w": X}, jnp.asarray(flag), hidden=True)
        assert dict(table.frequencies) == {"['w']": times}


def test_switch_that_copies_another_component():
    def step(state, i):
        online = 0.9 * state["online"]
        target = jax.lax.switch(
            i, [lambda o, t: t, lambda o, t: o, lambda o, t: 0.9 * t + 0.1 * o], online,
            state["target"],
        )  # fmt: skip
        return {"online": online, "target": target}

    state = {"online": X, "target": X}
    assert level_table(step, state, jnp.asarray(0)).levels == (("['online']",),)
    for i in (1, 2):
        table = level_table(step, state, jnp.asarray(i))
        assert table.levels == (("['online']",), ("['target']",))
        assert set(table.frequencies.values()) == {1}


@pytest.mark.parametrize("outer", [1, 3])
def test_while_loops_are_counted_by_running(outer):
    def step(state, limit):
        def body(carry):
            w, n = carry
            return w / 2, n + 1

        def round_(carry, _):
            w, slow = carry
            w, n = jax.lax.while_loop(lambda c: c[0] > limit, body, (w, 0))
            return (w * 8, slow + n), None

        carry, _ = jax.lax.scan(round_, (state["w"], state["slow"]), None, length=outer)
        return dict(zip(("w", "slow"), carry, strict=True))

    state = {"slow": jnp.zeros(()), "w": jnp.asarray(8.0)}
    table = level_table(step, state, jnp.asarray(1.0))
    assert table.levels == (("['w']",), ("['slow']",)) and "(" not in str(table)
    # Three halvings in each round, and the write that undoes them.
    assert table.frequencies["['w']"] == outer * 4 and table.frequencies["['slow']"] == outer


def test_while_loops_side_by_side_count_until_the_last_has_ended():
    def halve(w, limit):
        return jax.lax.while_loop(lambda w: w > limit, lambda w: w / 2, w)

    def step(state, limit):
        w = jax.vmap(halve)(state["w"], limit)
        total = jax.lax.while_loop(lambda t: t[0] < jnp.sum(w), lambda t: t + 0.5, state["total"])
        return {"total": total, "w": w}

    state = {"total": jnp.zeros(1), "w": jnp.asarray([8.0, 3.0])}
    table = level_table(step, state, jnp.ones(2))
    # 8 takes three halvings to 1; 3 takes two to 0.75, and stays there while the other goes on.
    assert table.frequencies["['w']"] == 3 and table.frequencies["['total']"] == 4


def test_only_what_must_be_counted_needs_values():
    def step(state, x, n):
        y = jax.lax.fori_loop(0, n, lambda i, y: y * x, x)
        return {"w": state["w"] - y}

    shapes = jax.ShapeDtypeStruct((), jnp.float32), jax.ShapeDtypeStruct((), jnp.int32)
    state = {"w": jnp.ones(())}
    assert level_table(step, state, *shapes).levels == (("['w']",),)
    with pytest.raises(ValueError, match="pass arrays"):
        level_table(step, state, *shapes, hidden=True)
    # A number is a constant: the loop's length is then known without running.
    table = level_table(step, state, shapes[0], 9, hidden=True)
    assert sorted(table.frequencies.values()) == [1, 9]


def test_counting_says_nothing_to_the_outside(capfd):
    def step(w):
        jax.debug.print("w = {}", w)
        return jax.lax.cond(jnp.sum(w) > 0, lambda w: 0.9 * w, lambda w: w, w)

    assert level_table(step, X).frequencies[""] == 1
    jax.effects_barrier()
    assert "w =" not in capfd.readouterr().out


def test_every_scale_of_calls():
    def step(state, _):
        due = state["t"] % 10 == 0
        w = jax.lax.cond(due, lambda w: w + 1, lambda w: w, state["w"])
        return {"fast": state["fast"] + 1, "t": state["t"] + 1, "w": w}

    state = {"fast": X, "t": jnp.asarray(0), "w": X}
    assert level_table(step, state, X).frequencies["['w']"] == 1
    assert level_table(step, state, X, calls=50).frequencies["['w']"] == 0.1


def test_where_is_a_write():
    def step(state, flag):
        new = 0.9 * state["w"]
        return {"m": state["m"] + new, "w": jnp.where(flag, new, state["w"])}

    table = level_table(step, {"m": X, "w": X}, jnp.asarray(False))
    assert table.levels == (("['w']",), ("['m']",))  # m uses what may be stored


def test_inside_a_shard_map():
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("d")

    def static(w):
        return jax.lax.scan(lambda w, _: (0.9 * w, None), w, None, length=3)[0]

    def dynamic(w):
        return jax.lax.while_loop(lambda w: jnp.sum(w) > 1, lambda w: w / 2, w)

    for body in (static, dynamic):
        mapped = jax.shard_map(body, mesh=mesh, in_specs=spec, out_specs=spec)
        step = lambda s, f=mapped: {"w": f(s["w"])}  # noqa: E731
        if body is static:
            assert level_table(step, {"w": X}).frequencies["['w']"] == 3
        else:
            with pytest.raises(ValueError, match="shard_map"):
                level_table(step, {"w": X})


# The relation.


def test_being_equal_is_not_transitive():
    def step(state, x):
        a = state["a"] + x
        return {"a": a, "b": state["b"] + x, "c": state["c"] + a}

    table = level_table(step, {"a": X, "b": X, "c": X}, X)
    relation = {(p, q): table.compare(f"['{p}']", f"['{q}']") for p in "abc" for q in "abc"}
    assert relation["a", "b"] == relation["b", "c"] == "=" and relation["a", "c"] == ">"
    assert relation["c", "a"] == "<" and relation["a", "a"] == "="
    assert table.levels == (("['a']", "['b']"), ("['c']",))


def test_simultaneous_and_alternating_games():
    def simultaneous(state):
        x, y = state["x"], state["y"]
        return {"x": x - y, "y": y + x}

    def alternating(state):
        x = state["x"] - state["y"]
        return {"x": x, "y": state["y"] + x}

    state = {"x": X, "y": X}
    assert levels(simultaneous, state) == [{"['x']", "['y']"}]
    assert levels(alternating, state) == [{"['x']"}, {"['y']"}]


def repeated(order):
    """Loops of x and of y in the given order: the n-th of one meets the n-th of the other."""

    def write(own, other):
        return jax.lax.scan(lambda w, _: (w - other, None), own, None, length=2)[0]

    def step(state):
        state = dict(state)
        for name in order:
            state[name] = write(state[name], state["y" if name == "x" else "x"])
        return state

    return step


def test_several_loops_in_turns():
    state = {"x": X, "y": X}
    assert levels(repeated("xyxy"), state) == [{"['x']"}, {"['y']"}]
    assert levels(repeated("yxyx"), state) == [{"['y']"}, {"['x']"}]
    # Forth and back: each waits for the other once, so neither is faster.
    table = level_table(repeated("xyyx"), state)
    assert [set(level) for level in table.levels] == [{"['x']", "['y']"}]
    assert table.compare("['x']", "['y']") == "="


def test_a_copy_waits_for_its_original():
    def step(state, x):
        online = state["online"] - x
        return {"a": state["online"], "online": online, "target": online}

    table = level_table(step, {"a": X, "online": X, "target": X}, X)
    assert table.levels == (("['a']", "['online']"), ("['target']",))


def test_what_decides_whether_or_how_often_is_needed_too():
    def step(state, x):
        a = state["a"] + x
        b = jax.lax.cond(jnp.sum(a) > 0, lambda b: b + 1, lambda b: b, state["b"])
        c = jax.lax.while_loop(lambda c: c[0] < jnp.sum(a), lambda c: c + 10, state["c"])
        return {"a": a, "b": b, "c": c}

    table = level_table(step, {"a": X, "b": X, "c": jnp.zeros(1)}, X)
    assert set(table.frequencies.values()) == {1}
    assert table.levels == (("['a']",), ("['b']", "['c']"))


def test_what_decides_is_needed_even_through_a_carry():
    def step(state, x):
        a = state["a"] + x

        def body(carry):
            return carry[0] + 1, carry[1] + 10

        _, b = jax.lax.while_loop(lambda c: c[0] < 3, body, (jnp.sum(a) - 4, state["b"]))
        return {"a": a, "b": b}

    table = level_table(step, {"a": X, "b": X}, X)
    assert table.frequencies["['b']"] == 1 and table.compare("['a']", "['b']") == ">"


def test_what_only_a_loops_end_shows():
    def step(state, x):
        n = jax.lax.while_loop(lambda n: n < x[0], lambda n: n + 1, jnp.zeros(()))
        return {"n": 2 * n}

    assert level_table(step, {"n": jnp.zeros(())}, X).kinds["['n']"] == "state"


def test_a_branch_that_does_not_run_needs_nothing():
    def step(state, flag):
        a = state["a"] + 1
        b = jax.lax.cond(flag, lambda a, b: a + b, lambda a, b: b + 1, a, state["b"])
        return {"a": a, "b": b}

    state = {"a": X, "b": X}
    assert len(level_table(step, state, jnp.asarray(True)).levels) == 2
    assert len(level_table(step, state, jnp.asarray(False)).levels) == 1


def test_a_branch_that_is_handed_a_component_twice():
    def step(w, flag):
        return jax.lax.cond(flag, lambda a, b: 0.9 * a, lambda a, b: b, w, w)

    assert level_table(step, X, jnp.asarray(False)).frequencies[""] == 0
    assert level_table(step, X, jnp.asarray(True)).frequencies[""] == 1


def test_needs_through_rounds():
    def step(state, x):
        a = state["a"] + x

        def body(carry, _):
            u, v = carry
            return (u + a, v + u), None

        u, v = jax.lax.scan(body, (state["u"], state["v"]), None, length=3)[0]
        return {"a": a, "u": u, "v": v}

    table = level_table(step, {"a": X, "u": X, "v": X}, X)
    # In one round v needs the old u only, but after some it is made of the new a.
    assert table.compare("['u']", "['v']") == "="
    assert table.depends["['v']"] == {"['a']"}


def test_one_component_begins_as_another_ends():
    def step(state, x):
        b = adapt(state["b"], x)
        return {"a": adapt(b, x, steps=3), "b": b}

    table = level_table(step, {"a": PARAMS, "b": PARAMS}, X, hidden=True)
    assert table.frequencies["['b']['w']"] == 5 and table.frequencies["['a']['w']"] == 3
    assert len(table.frequencies) == 4


def test_of_two_that_end_alike_the_one_that_went_in_is_written_by_the_loop():
    def step(state):
        body = lambda b, _: (b - state["a"], None)  # noqa: E731
        end = jax.lax.scan(body, state["b"], None, length=5)[0]
        return {"a": end, "b": end}

    table = level_table(step, {"a": X, "b": X})
    assert dict(table.frequencies) == {"['a']": 1, "['b']": 5}


def test_a_carry_of_another_size_is_not_the_component():
    def step(w):
        h = jax.lax.scan(lambda h, _: (0.9 * h, None), jnp.mean(w), None, length=4)[0]
        return jnp.tile(h, 2)

    assert dict(level_table(step, X, hidden=True).frequencies) == {"": 1, "scan[0].carry[0]": 4}


def test_layers_updated_by_a_scan_over_them():
    tx = optax.adam(1e-2)

    def step(state, x):
        def layer(_, both):
            p, opt, frozen = both
            updates, opt = tx.update(2 * p * x[0], opt, p)
            return None, (optax.apply_updates(p, updates), opt, frozen)

        return jax.lax.scan(layer, None, state)[1]

    p = jnp.ones((4, 2))
    table = level_table(step, (p, jax.vmap(tx.init)(p), p), X, hidden=True)
    assert table.levels == (("[1][0].mu", "[1][0].nu"), ("[0]",))
    assert table.frequencies["[0]"] == 1 and table.frequencies["[2]"] == 0


# What a state may be.


def test_a_bare_array_is_a_state():
    table = level_table(lambda w: (0.9 * w, "anything"), X)
    assert table.levels == (("",),) and "(state)" in str(table)


def test_keys_flags_and_things_that_are_no_arrays():
    class State(NamedTuple):
        w: jax.Array
        key: jax.Array
        flag: object
        function: object

    def step(state, x):
        key, new = jax.random.split(state.key)
        w = state.function(state.w + jax.random.normal(new, (2,)))
        w = jax.lax.cond(state.flag, lambda w: w + x, lambda w: w, w)
        return State(w, key, jnp.logical_not(state.flag), state.function)

    state = State(X, jax.random.key(0), True, jnp.tanh)
    table = level_table(step, state, X, calls=2)
    assert table.levels == ((".w",),)
    assert dict(table.frequencies) == {".w": 1.5, ".key": 1, ".flag": 1}
    assert table.kinds[".key"] == table.kinds[".flag"] == "clock"


def test_what_only_clocks_drive_is_a_clock():
    tx = optax.inject_hyperparams(optax.sgd)(optax.cosine_decay_schedule(0.1, 10), momentum=0.9)
    step, state = trained(tx)
    table = level_table(step, state, X)
    assert [set(level) for level in table.levels] == [
        paths("['opt'].inner_state[0].trace"),
        paths("['p']"),
    ]
    assert table.kinds["['opt'].hyperparams['learning_rate']"] == "clock"
    assert table.kinds["['opt'].hyperparams['momentum']"] == "constant"

    def drawn(state):
        key, new = jax.random.split(state["key"])
        x = jax.random.normal(new, (2,))
        return {"key": key, "w": 0.9 * state["w"], "x": x}

    table = level_table(drawn, {"key": jax.random.key(0), "w": X, "x": X})
    assert table.levels == (("['w']",),)
    assert table.kinds["['x']"] == table.kinds["['key']"] == "clock"


def test_numbers_and_numpy_arrays_are_leaves():
    table = level_table(lambda s, x: {"a": s["a"] + x, "b": s["b"]}, {"a": 0.0, "b": np.ones(2)}, 1)
    assert table.levels == (("['a']",),) and table.frequencies["['b']"] == 0


def test_double_precision(x64):
    def step(state, limit):
        w = jax.lax.while_loop(lambda w: w[0] > limit, lambda w: (w[0] / 2, w[1] + 1), (state, 0))
        return w[0]

    assert level_table(step, jnp.asarray(8.0), jnp.asarray(1.0)).frequencies[""] == 3


def test_wrong_input_is_refused():
    with pytest.raises(TypeError):
        level_table("step", X)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="at least 1"):
        level_table(lambda w: w, X, calls=0)
    with pytest.raises(ValueError, match="holds no array"):
        level_table(lambda w: w, {"name": "w"})
    with pytest.raises(ValueError, match="must return the state"):
        level_table(lambda s: {"v": s["w"]}, {"w": X})
    with pytest.raises(ValueError, match=r"shape of the state's leaf \"\['w'\]\""):
        level_table(lambda s: {"w": s["w"][0]}, {"w": X})
    table = level_table(lambda s: {"v": s["v"], "w": s["w"] + 1}, {"v": X, "w": X})
    with pytest.raises(KeyError, match="not a component that is written"):
        table.compare("['w']", "['v']")


# Printing, and cost.


def test_print():
    step, state = three_levels()
    state |= {"t": jnp.asarray(0)}
    many = {"layers": [PARAMS, PARAMS], "rest": state}

    def whole(s, xs):
        rest = step(s["rest"], xs)
        layers = jax.tree.map(lambda p: 0.9 * p, s["layers"])
        return {"layers": layers, "rest": {**rest, "t": rest["t"] + 1}}

    assert str(level_table(whole, many, jnp.ones(4))) == (
        "level     component             leaves  writes per call  relative  needs\n"
        "--------  --------------------  ------  ---------------  --------  "
        "----------------------------------------------------\n"
        "1         ['rest']['fast']           1               12         1\n"
        "2         ['rest']['trace']          1                4     0.333  ['rest']['fast']\n"
        "3         ['rest']['mid']            1                4     0.333  "
        "['rest']['fast'], ['rest']['trace']\n"
        "4         ['layers']                 4                1    0.0833\n"
        "4         ['rest']['slow']           1                1    0.0833  "
        "['rest']['fast'], ['rest']['mid'], ['rest']['trace']\n"
        "clock     ['rest']['t']              1                1\n"
        "constant  ['rest']['constant']       1                0"
    )


def test_a_nest_of_hundreds_of_leaves_is_read_in_no_time():
    params = {f"layer{i}": PARAMS for i in range(100)}
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2))

    def total(p, x):
        return sum(loss(layer, x) for layer in jax.tree.leaves(p, is_leaf=lambda n: "w" in n))

    inner_step, state = trained(tx, params, total)

    def step(state, x):
        return jax.lax.scan(lambda s, _: (inner_step(s, x)[0], None), state, None, length=3)[0]

    jax.make_jaxpr(step)(state, X)
    begin = time.process_time()
    table = level_table(step, state, X)
    print(table)
    assert time.process_time() - begin < 10  # it takes two
    assert [len(level) for level in table.levels] == [400, 200]
    assert set(table.frequencies.values()) == {3} and len(table.rows) == 4
