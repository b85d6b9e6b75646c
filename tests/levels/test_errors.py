"""What strangers get wrong: each is refused with the level's name and the repair, or works."""

import functools
import random
import time
import types

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest
from optax import contrib

import nestax as nx

SGD, KEY, ONE = optax.sgd(0.1), jax.random.key(0), jnp.ones(2)
SEARCH = optax.chain(SGD, optax.scale_by_backtracking_linesearch(2))


@pytest.fixture(autouse=True)
def no_type_checker():
    """Users run without the type checker of these tests, which would refuse much of this first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def loss(values, batch):
    return jnp.sum(values["w"] ** 2)


def noisy(values, batch):
    return jnp.sum((values["w"] - batch) ** 2)


def pull(values, batch):
    return jnp.sum((values["w"] - values["d"]) ** 2)


def leaning(values, batch):
    return jnp.sum(values["w"] * values["d"]) + jnp.sum(values["d"] ** 2)


def lone(objective=loss, optimizer=SGD, context=None, **rest):
    return nx.Level("w", objective, optimizer, context, **rest)


def begin(level, values=None, **rest):
    return nx.Nest([level], **rest).init({"w": ONE} if values is None else values, KEY)


def pair(flow=None, optimizer=SGD, inner=pull, outer=leaning, outer_optimizer=SGD, **rest):
    d = nx.Level("d", outer, outer_optimizer, every=2, flow=flow)
    return nx.Nest([nx.Level("w", inner, optimizer, **rest), d])


def begin_pair(flow=None, **rest):
    return pair(flow, **rest).init({"w": ONE, "d": ONE}, KEY)


def episodes(start, task=None, copies=None, **rest):
    nest = nx.Nest(pair(start=start, **rest).groups, task=task, copies=copies)
    return nest.init({"d": ONE}, KEY)


def refused(make, message, kind=ValueError):
    with pytest.raises(kind, match=message):
        make()


def lessened(function, *bound):
    """A wrapper that shows the signature of what it wraps, and takes fewer arguments."""

    @functools.wraps(function)
    def wrapper(*arguments):
        return function(*arguments, *bound)

    return wrapper


CONSTRUCTION = {
    "objective too few": (lambda: lone(lambda v: 0.0), r"'w': the objective is called as objecti"),
    "objective too many": (lambda: lone(lambda v, b, c: 0.0), r"takes \(v, b, c\).*partial"),
    "objective named": (lambda: lone(lambda v, b, *, c: 0.0), r"objective\(values, batch\)"),
    "context too few": (lambda: lone(context=lambda key: ONE), r"'w': .*context\(task, key\)"),
    "context too many": (lambda: lone(context=lambda a, b, c: ONE), r"context\(task, key\)"),
    "start": (lambda: lone(start=lambda v: ONE), r"'w': .*start\(values, task, key\)"),
    "optimizer": (lambda: lone(optimizer=lambda: SGD), r"'w': .*optimizer\(values\)"),
    "task": (lambda: nx.Nest([lone()], task=lambda: 1.0), r"task\(key\)"),
    "stream": (lambda: nx.Stream(lambda: ONE), r"batch\(index\)"),
    "jitted": (lambda: lone(jax.jit(lambda v: 0.0)), r"objective\(values, batch\)"),
    "implicit": (
        lambda: nx.Level("d", loss, SGD, flow=nx.Implicit(nx.CG(2), context=lambda key: ONE)),
        r"'d': .*context\(task, key\)",
    ),
    "soba": (lambda: nx.soba(lambda a, b: 0.0, lambda a, b: 0.0, SGD, SGD), r"soba: the outer is"),
    "saga": (
        lambda: nx.saba(loss_of_three, loss_of_three, SGD, SGD, None, 2.5, len),
        "batches is a whole number",
    ),
    "growth": (
        lambda: nx.f2sa(loss_of_three, loss_of_three, SGD, SGD, growth="x"),
        "growth is a number",
    ),
    "sgd": (lambda: lone(optimizer=optax.sgd), r"'w'.*write optax.sgd\(learning_rate\)"),
    "identity": (lambda: lone(optimizer=optax.identity), r"write optax.identity\(\)"),
    "lookahead": (lambda: lone(optimizer=optax.lookahead), r"optax.lookahead\(fast_optimizer, "),
    "contrib": (lambda: lone(optimizer=contrib.sophia), r"optax.contrib.sophia\(learning_rate\)"),
    "m3": (lambda: lone(optimizer=nx.optim.m3), r"nx.optim.m3\(learning_rate\)"),
    "own maker": (lambda: lone(optimizer=lambda learning_rate: SGD), "it was not called"),
    "partial": (
        lambda: lone(optimizer=functools.partial(optax.sgd, momentum=0.9)),
        r"write optax.sgd\(learning_rate\)",
    ),
    "soba's sgd": (
        lambda: nx.soba(loss_of_three, loss_of_three, optax.sgd, SGD),
        r"optax.sgd\(learning_rate\)",
    ),
    "inject": (lambda: lone(optimizer=optax.inject_hyperparams(optax.sgd)), "was not called"),
    "schedule": (
        lambda: lone(optimizer=optax.cosine_decay_schedule(0.1, 10)),
        r"a schedule goes into an optimizer: optax.sgd\(schedule\)",
    ),
    "rate": (lambda: lone(optimizer=0.1), r"a learning rate goes into an optimizer: optax.sgd\(0"),
    "text": (lambda: lone(optimizer="adam"), "call optax.adam"),
    "two functions": (lambda: lone(optimizer=(SGD.init, SGD.update)), "GradientTransformation"),
    "class": (lambda: lone(optimizer=optax.MultiSteps), r"not called: write optax.MultiSteps\(opt"),
    "MultiSteps": (
        lambda: lone(optimizer=optax.MultiSteps(SGD, 2)),
        r"'w'.*call its method: .gradient_transformation\(\)",
    ),
    "nnx.Optimizer": (
        lambda: lone(optimizer=types.SimpleNamespace(tx=SGD)),
        r"'w'.*the optax transformation that it holds: \.tx",
    ),
    "flow class": (lambda: pair(nx.Unroll), r"'d': .*the class Unroll; call it: Unroll\(\)"),
    "flow maker": (lambda: pair(nx.OneStep), r"call it: OneStep\(\)"),
    "flow text": (lambda: pair("one_step"), r"call it: OneStep\(\)"),
    "flow implicit": (lambda: pair(nx.Implicit), r"call it: Implicit\(CG\(20\)\)"),
    "flow solver": (lambda: pair(nx.CG(20)), r"'d': .*a solver goes into a flow: Implicit\(CG\("),
    "solver class": (lambda: pair(nx.CG), r"a solver goes into a flow: Implicit\(CG\(\)\)"),
    "dict": (lambda: nx.Nest({"w": lone()}), "takes a list of levels, innermost first, got a dict"),
    "set": (lambda: nx.Nest({lone()}), "takes a list of levels, innermost first, got a set"),
    "str": (lambda: nx.Nest("w"), "takes a list of levels, innermost first, got 'w'"),
    "none": (lambda: nx.Nest(None), "takes a list of levels, innermost first, got None"),
    "none inside": (lambda: nx.Nest([None]), "levels and tuples of levels, got None"),
    "optimizer inside": (lambda: nx.Nest([lone(), SGD]), "got a GradientTransformationExtraArgs"),
    "nested": (lambda: nx.Nest([[[lone()]]]), "levels and tuples of levels, got a list"),
    "name": (lambda: nx.Level(1, loss, SGD), "name is a non-empty string, got 1"),
    "swapped": (lambda: nx.Level("w", SGD, loss), "the objective is a function"),
    "stagger": (lambda: nx.Nest([lone()], stagger=3), "stagger is True or False"),
    "norms": (lambda: nx.Nest([lone()], norms="no"), "norms is True or False"),
    "task iterator": (lambda: nx.Nest([lone()], task=iter([1])), "nx.Stream"),
}


def loss_of_three(slow, fast, batch):
    return jnp.sum(slow * fast)


@pytest.mark.parametrize("case", CONSTRUCTION)
def test_what_makes_no_sense_is_refused_at_construction(case):
    refused(*CONSTRUCTION[case])


def with_key(key):
    return key


@pytest.mark.parametrize(
    "make",
    [
        lambda: lone(lambda values, batch, scale=1.0: 0.0),
        lambda: lone(lambda *arguments: 0.0),
        lambda: lone(lessened(lambda values, batch, rest: 0.0, 1)),
        lambda: lone(jax.jit(lessened(lambda values, batch, rest: 0.0, 1))),
        lambda: lone(jax.vmap(lambda values, batch: 0.0)),
        lambda: lone(functools.partial(lambda scale, values, batch: 0.0, 1.0)),
        lambda: lone(max),
        lambda: lone(context=lambda task, key, copy: ONE),
        lambda: lone(context=lambda task, key, *, copy: ONE),
        lambda: lone(start=lambda values, task, key, copy=0: ONE),
        lambda: nx.Nest(iter([lone()])),
        lambda: nx.Nest([lone(start=lambda v, t, k: ONE, horizon=1)], task=jax.random.normal),
    ],
)
def test_functions_that_fit_are_let_through(make):
    make()


INIT = {
    "missing": (
        lambda: begin_pair(outer=lambda v, b: jnp.sum(v["ds"])),
        r"'d': its objective reads values\['ds'\], and no level.*did you mean 'd'.*'d', 'w'",
    ),
    "missing in start": (
        lambda: episodes(lambda v, t, k: v["x"]),
        r"'w': its start reads values\['x'\], and no level is called 'x'; there are 'd'",
    ),
    "unseen in start": (
        lambda: episodes(lambda v, t, k: v["w"]),
        r"'w': its start reads values\['w'\], which it does not see.*it sees 'd'",
    ),
    "missing in optimizer": (
        lambda: begin(lone(optimizer=lambda v: optax.sgd(v["rate"]))),
        r"'w': its optimizer reads values\['rate'\]",
    ),
    "typo": (lambda: begin(nx.Level("weight", loss, SGD), {"wieght": ONE}), "mean 'weight'"),
    "name of a number": (lambda: begin(lone(), {1: ONE}), "no level is called 1"),
    "array": (lambda: begin(lone(), ONE), "init takes a dict of level name -> value"),
    "integers": (lambda: begin(lone(), {"w": np.arange(3)}), "convert whole numbers to float"),
    "empty": (lambda: begin(lone(), {"w": jnp.ones(0)}), "'w': its value holds nothing to train"),
    "objects": (lambda: begin(lone(), {"w": np.array([{}])}), "'w': .*array of dtype object"),
    "none": (lambda: begin(lone(lambda v, b: None)), "real scalar loss.*got a NoneType"),
    "three": (lambda: begin(lone(lambda v, b: (v["w"][0], 1, 2))), "'w'.*got a tuple of 3"),
    "dict": (lambda: begin(lone(lambda v, b: {"loss": 0.0})), "'w'.*got a dict"),
    "vector": (lambda: begin(lone(lambda v, b: v["w"])), r"'w'.*got float32\[2\]"),
    "complex": (lambda: begin(lone(lambda v, b: v["w"][0] * 1j)), r"'w'.*got complex64\[\]"),
    "int": (lambda: begin(lone(lambda v, b: 0)), r"'w'.*got int32\[\]"),
    "info": (
        lambda: begin(lone(lambda v, b: (v["w"][0], {"a": "text"}))),
        r"info that the objective of level 'w' returns .* at \['a'\] it is 'text'",
    ),
    "batch": (
        lambda: episodes(lambda v, t, k: ONE, copies=2, context=lambda t, k: "abc"),
        "the context of level 'w' holds arrays and numbers only; it is 'abc'",
    ),
    "stream": (
        lambda: begin(lone(context=nx.Stream(lambda i: "abc"))),
        "the context of level 'w' holds arrays and numbers only; it is 'abc'",
    ),
    "start of objects": (
        lambda: episodes(lambda v, t, k: [ONE, object()], inner=lambda v, b: v["w"][0][0]),
        "'w': its start changes its value, which holds <object",
    ),
    "no transformation": (
        lambda: begin(lone(optimizer=lambda v: optax.sgd)),
        r"'w': .*returned function.*write optax.sgd\(learning_rate\)",
    ),
    "optimizer raises": (
        lambda: begin(lone(optimizer=optax.masked(optax.adam(0.1), {"a": True}))),
        "'w': its optimizer raised ValueError: ",
    ),
    "update raises": (
        lambda: begin(
            lone(optimizer=optax.GradientTransformation(SGD.init, lambda g, s, p: 1 / 0))
        ),
        "'w': its optimizer raised ZeroDivisionError: division by zero",
    ),
    "traced schedule": (
        lambda: begin(
            lone(
                optimizer=lambda v: optax.sgd(
                    optax.warmup_cosine_decay_schedule(0.0, jnp.sum(v["w"]), 2, 4)
                )
            )
        ),
        r"(?s)'w': its optimizer raised Tracer.*multiply: optax\.chain\(optax\.adam\(schedule\)",
    ),
    "sam": (
        lambda: begin(lone(optimizer=contrib.sam(SGD, SGD))),
        r"'w': .*sam\(\.\.\., opaque_mode=True\)",
    ),
    "sam in a chain": (
        lambda: begin(lone(optimizer=optax.chain(SGD, contrib.sam(SGD, SGD, opaque_mode=True)))),
        r"'w': .*sam\(optax.chain\(",
    ),
    "lookahead": (
        lambda: begin(lone(optimizer=optax.lookahead(SGD, 2, 0.5))),
        "'w': .*make the slow copy a level of its own",
    ),
    "line search under Unroll": (
        lambda: begin_pair(
            nx.Unroll(), optimizer=optax.chain(SGD, optax.scale_by_zoom_linesearch(2))
        ),
        r"'d': its flow Unroll cannot differentiate the updates of 'w'.*Forward\(\) or Implicit",
    ),
    "L-BFGS under Forward": (
        lambda: begin_pair(nx.Forward(), optimizer=optax.lbfgs(0.1, linesearch=None)),
        "'d': its flow Forward differentiates the updates of 'w', and.*scale_init_precond=False",
    ),
    "line search of a flow": (
        lambda: begin_pair(nx.Unroll(), outer_optimizer=SEARCH),
        "'d': its optimizer evaluates the objective at other values.*linesearch=None",
    ),
    "line search of a sum": (
        lambda: nx.Nest([lone(), nx.Level("d", leaning, SEARCH, every=2, accumulate="sum")]).init(
            {"w": ONE, "d": ONE}, KEY
        ),
        "'d': its optimizer evaluates the objective at one tick, and accumulate='sum'",
    ),
    "loop in the objective": (
        lambda: begin(lone(looping)),
        "'w': its objective cannot be differentiated: Reverse-mode",
    ),
}


def failing(updates, state, params):
    return 1 / 0


def looping(values, batch):
    return jax.lax.while_loop(lambda x: x < 3, lambda x: 2 * x, jnp.sum(values["w"]))


@pytest.mark.parametrize("case", INIT)
def test_what_makes_no_sense_is_refused_at_init(case):
    refused(*INIT[case])


@jax.jit
def jitted(task, key):
    return jnp.asarray(np.random.randn(2))


def taking(items):
    return lambda task, key: next(items)


def wobbling(values, batch):
    return loss(values, batch) * np.random.rand()


FROZEN = {
    "context": lambda: begin(lone(noisy, context=lambda t, k: np.random.randn(2))),
    "context of a number": lambda: begin(lone(noisy, context=lambda t, k: random.random())),
    "context under jit": lambda: begin(lone(noisy, context=jitted)),
    "context of an index": lambda: begin(
        lone(noisy, context=lambda t, k: t[np.random.randint(4)]), task=jnp.ones((50, 2))
    ),
    "context of a clock": lambda: begin(lone(noisy, context=lambda t, k: time.perf_counter())),
    "context of an iterator": lambda: begin(lone(noisy, context=taking(iter(np.arange(9.0))))),
    "start": lambda: episodes(lambda v, t, k: jnp.asarray(np.random.randn(2))),
    "objective": lambda: begin(lone(wobbling)),
    "objective in a loop": lambda: begin(
        lone(lambda v, b: jax.lax.fori_loop(0, 3, lambda i, x: x * np.random.rand(), v["w"][0]))
    ),
    "optimizer": lambda: begin(lone(optimizer=lambda v: optax.sgd(np.random.rand()))),
    "task": lambda: episodes(lambda v, t, k: ONE, task=lambda key: np.random.randn(2)),
}


@pytest.mark.parametrize("case", FROZEN)
def test_numbers_that_tracing_would_freeze_are_refused(case):
    whose = case.split()[0]
    named = "the task function" if whose == "task" else f"level 'w': its {whose}"
    refused(FROZEN[case], f"{named} uses numbers that change from call to call")


@jax.custom_jvp
def halved(x):
    return x / 2


halved.defjvp(lambda primals, tangents: (halved(*primals), tangents[0] / 2))


def test_functions_that_are_the_same_twice_pass():
    """Closed-over arrays, seeded generators, loops, functions under jit and rules of one's own."""
    table, weights = np.random.randn(5, 2), jnp.arange(2.0)

    @jax.jit
    def context(task, key):
        row = jnp.asarray(table)[jax.random.randint(key, (), 0, 5)]
        return row + np.random.default_rng(0).normal(size=2) + task["x"]

    def objective(values, batch):
        def body(carry, x):
            return carry + halved(jnp.sum(x * values["w"] * weights)), None

        return jax.lax.scan(body, jnp.nan_to_num(jnp.nan) + 0.0, batch[None])[0]

    begin(lone(objective, context=context), task={"x": table[0]})


def own_key_error(values, batch):
    return jnp.sum(batch["x"])


def test_what_a_users_function_raises_keeps_its_type_and_gets_the_levels_name():
    with pytest.raises(KeyError) as caught:
        begin(lone(own_key_error, context=lambda task, key: {"y": ONE}))
    assert caught.value.args == ("x",)
    assert caught.value.__notes__[:1] == ["This was raised in the objective of level 'w'."]
    with pytest.raises(TypeError) as caught:
        begin(lone(context=lambda task, key: task["a"]))
    assert caught.value.__notes__[:1] == ["This was raised in the context of level 'w'."]
    with pytest.raises(IndexError) as caught:
        begin(lone(context=nx.Stream(lambda index: [][index])))
    assert caught.value.__notes__[:1] == ["This was raised in the context of level 'w'."]


@pytest.fixture(scope="module")
def plain():
    """A nest, its state and info."""
    nest = nx.Nest([lone()])
    state = nest.init({"w": ONE}, KEY)
    return nest, state, nest.step(state)[1]


@pytest.fixture(scope="module")
def streamed():
    """A nest that reads a stream, and its state."""
    nest = nx.Nest([lone(noisy, context=nx.Stream(lambda i: np.full(2, i, np.float32)))])
    return nest, nest.init({"w": ONE}, KEY)


STATES = {
    "run info": (lambda n, s, i: n.run(i, 1), "run takes a state .*, got a dict"),
    "run values": (lambda n, s, i: n.run(None, 1), "run takes a state .*, got None"),
    "run swapped": (lambda n, s, i: n.run(3, s), "run takes a state .*, got 3"),
    "run pair": (lambda n, s, i: n.run((s, i), 1), r"the pair \(state, info\); unpack it"),
    "run float": (lambda n, s, i: n.run(s, 10.0), "whole number of at least 0, got 10.0"),
    "run backwards": (lambda n, s, i: n.run(s, -1), "whole number of at least 0, got -1"),
    "step pair": (lambda n, s, i: n.step((s, i)), "step takes a state"),
    "step steps": (lambda n, s, i: n.step(s, 5), "got 5; it has no streams"),
    "feed": (lambda n, s, i: n.feed(i), "feed takes a state"),
    "feed steps": (lambda n, s, i: n.feed(s, 1.5), "whole number of at least 1, got 1.5"),
    "gradient": (lambda n, s, i: n.gradient("w", s), "gradient takes a state .*, got 'w'"),
    "gradient level": (lambda n, s, i: n.gradient(s, n.groups[0][0]), "by its name: 'w'"),
    "levels": (lambda n, s, i: n.levels(i), "levels takes a state"),
    "flows text": (lambda n, s, i: nx.compare_flows(n, s, "w"), "list of flows .*, got 'w'"),
    "flows one": (
        lambda n, s, i: nx.compare_flows(n, s, nx.Unroll(last=2)),
        r"got Unroll\(last=2\); give them in a list: \[Unroll\(",
    ),
    "flows class": (lambda n, s, i: nx.compare_flows(n, s, nx.Unroll), r"call it: Unroll\(\)"),
    "flows none": (lambda n, s, i: nx.compare_flows(n, s, []), "no flow to compare"),
    "flows level": (lambda n, s, i: nx.compare_flows(n, s, [nx.Direct()], "W"), "called 'W'"),
    "flows draws": (
        lambda n, s, i: nx.compare_flows(n, s, [nx.Direct()], "w", draws=0),
        "draws is a whole number",
    ),
    "flows nest": (lambda n, s, i: nx.compare_flows(s, n, [nx.Direct()]), "a nest first"),
    "flows state": (lambda n, s, i: nx.compare_flows(n, i, [nx.Direct()]), "takes a state"),
}


@pytest.mark.parametrize("case", STATES)
def test_what_is_no_state_or_flow_is_refused(plain, case):
    make, message = STATES[case]
    refused(lambda: make(*plain), message)


@pytest.mark.parametrize(
    ("feed", "message"),
    [
        (lambda nest, state: {}, "got {}; draw it with feed of the same nest"),
        (lambda nest, state: np.ones(2), "draw it with feed of the same nest"),
        (lambda nest, state: {0: (np.int32(0), np.ones((1, 3), np.float32))}, "of other shapes"),
        (
            lambda nest, state: {0: (np.int32(2), np.ones((1, 2), np.float32))},
            "the feed holds ticks 2 to 2, and the state is at tick 0",
        ),
    ],
)
def test_batches_of_another_nest_or_tick_are_refused(streamed, feed, message):
    nest, state = streamed
    refused(lambda: nest.step(state, feed(nest, state)), f"(?s){message}")


def test_a_feed_of_many_steps_serves_each_of_them(streamed):
    nest, begun = streamed
    state, feed = begun, nest.feed(begun, 3)
    for _ in range(3):
        state, _ = nest.step(state, feed)
    expected = nest.run(begun, 3)[0]
    np.testing.assert_array_equal(state.values["w"], expected.values["w"])
    refused(lambda: nest.step(state, feed), "holds ticks 0 to 2, and the state is at tick 3")


def test_a_read_only_mapping_begins_a_nest(plain):
    nest, state, _ = plain
    again = nest.init(dict.fromkeys(state.values, ONE).items().mapping, KEY)
    np.testing.assert_array_equal(again.values["w"], ONE)


# What works, against the same optimizer in a loop written by hand.

BEND = jnp.array([1.0, 4.0])


def bent(w, batch):
    return jnp.sum(jnp.log(jnp.cosh(BEND * (w - batch))))


def drawn(task, key):
    return jax.random.normal(key, (2,))


@pytest.mark.parametrize(
    "optimizer",
    [
        contrib.sam(
            optax.sgd(0.1), optax.chain(contrib.normalize(), optax.sgd(0.05)), opaque_mode=True
        ),
        contrib.sophia(0.1, update_interval=2),
    ],
    ids=["sam", "sophia"],
)
def test_optimizers_that_ask_for_functions_get_them(x64, optimizer):
    def objective(values, batch):
        return bent(values["w"], batch), batch

    nest = nx.Nest([nx.Level("w", objective, optimizer, drawn)])
    end, info = nest.run(nest.init({"w": jnp.ones(2)}, KEY), 4)
    w = jnp.ones(2)
    held = optimizer.init(w)
    # sam takes `grad_fn` and nothing else, Sophia whatever there is.
    for batch in info["w"].user:
        of = functools.partial(bent, batch=batch)
        is_sam = isinstance(held, contrib.SAMState)
        extra = {"grad_fn": lambda v, _, of=of: jax.grad(of)(v)} if is_sam else {"obj_fn": of}
        change, held = optimizer.update(jax.grad(of)(w), held, w, **extra)
        w = optax.apply_updates(w, change)
    np.testing.assert_allclose(end.values["w"], w, rtol=1e-10)


def test_lookahead_is_two_levels(x64):
    """The repair that the refusal names, against optax."""
    fast = nx.Level(
        "fast",
        lambda v, b: bent(v["fast"], 0.3),
        optax.adam(0.1),
        start=lambda values, task, key: values["slow"],
    )
    slow = nx.Level(
        "slow", lambda v, b: jnp.sum((v["slow"] - v["fast"]) ** 2) / 2, optax.sgd(0.5), every=3
    )
    nest = nx.Nest([fast, slow])
    end, _ = nest.run(nest.init({"slow": jnp.ones(2)}, KEY), 2)
    optimizer = optax.lookahead(optax.adam(0.1), 3, 0.5, reset_state=True)
    both = optax.LookaheadParams.init_synced(jnp.ones(2))
    held = optimizer.init(both)
    for _ in range(6):
        change, held = optimizer.update(jax.grad(bent)(both.fast, 0.3), held, both)
        both = optax.apply_updates(both, change)
    np.testing.assert_allclose(end.values["slow"], both.slow, rtol=1e-10)


@pytest.mark.parametrize(
    ("flow", "optimizer", "searches"),
    [
        (nx.Forward(), optax.chain(optax.sgd(1.0), optax.scale_by_zoom_linesearch(3)), True),
        (nx.Unroll(), optax.lbfgs(0.1, linesearch=None, scale_init_precond=False), False),
    ],
    ids=["zoom", "lbfgs"],
)
def test_repaired_line_searches_have_the_derivative_of_the_program(x64, flow, optimizer, searches):
    """The repairs that the refusals name, against central differences of a loop by hand."""

    def inner(values, batch):
        return bent(values["w"], values["d"])

    nest = pair(flow, optimizer, inner, lambda v, b: jnp.sum(v["w"] ** 3))
    state = nest.init({"w": jnp.ones(2), "d": jnp.array([0.2, 0.4])}, KEY)

    @jax.jit
    def through(d):
        def of(w):
            return bent(w, d)

        w = jnp.ones(2)
        held = optimizer.init(w)
        for _ in range(2):
            value, slope = jax.value_and_grad(of)(w)
            more = {"value": value, "grad": slope, "value_fn": of} if searches else {}
            change, held = optimizer.update(slope, held, w, **more)
            w = optax.apply_updates(w, change)
        return jnp.sum(w**3)

    step = 1e-5 * jnp.eye(2)
    at = state.values["d"]
    expected = [(through(at + s) - through(at - s)) / 2e-5 for s in step]
    np.testing.assert_allclose(nest.gradient(state, "d"), expected, rtol=1e-7)
