"""Every error and warning that docs/faq.md quotes is raised by a small input, with that text."""

import re
import sys
import warnings
from pathlib import Path

import flax.linen as linen
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest
from flax import nnx

import nestax as nx
from nestax import memory, runs

PAGE = (Path(__file__).parents[1] / "docs" / "faq.md").read_text()
QUOTED = re.findall(r"^#+ `(.+)`$", PAGE, re.MULTILINE)
SGD, KEY, ONE = optax.sgd(0.1), jax.random.key(0), np.ones(2)
INPUTS = {}


def raises(text):
    """Registers an input that raises an error, or warns, with this text."""

    def register(function):
        assert text not in INPUTS, text
        INPUTS[text] = function
        return function

    return register


def square(values, batch):
    return jnp.sum(values["w"] ** 2)


def pull(values, batch):
    return jnp.sum((values["w"] - values["d"]) ** 2)


def outer(values, batch):
    return jnp.sum(values["w"] ** 2)


def one(objective=square, optimizer=SGD, context=None, value=ONE, **rest):
    """A nest of the level w, begun."""
    nest = nx.Nest([nx.Level("w", objective, optimizer, context, **rest)])
    return nest, nest.init({"w": value}, KEY)


def two(flow=None, inner=pull, optimizer=SGD, objective=outer, every=2, values=None, **rest):
    """A nest of w inside d, begun."""
    w = nx.Level("w", inner, optimizer, **rest)
    nest = nx.Nest([w, nx.Level("d", objective, SGD, every=every, flow=flow)])
    return nest, nest.init({"w": ONE, "d": 2 * ONE} if values is None else values, KEY)


# Building a nest.


@raises("periods divide one another")
def _():
    d = nx.Level("d", outer, SGD, every=2, flow=nx.Unroll())
    nx.Nest([nx.Level("w", pull, SGD), d, nx.Level("u", outer, SGD, every=3)])


@raises("and no level inside it; list inner levels before it")
def _():
    nx.Nest([nx.Level("d", square, SGD, flow=nx.Unroll()), nx.Level("w", pull, SGD)])


@raises("the optimizer is an optax transformation or a function values -> transformation")
def _():
    nx.Level("w", square, optax.MultiSteps(SGD, 2))


@raises("ticks is not a multiple of")
def _():
    start = lambda values, task, key: values["d"]  # noqa: E731
    w = nx.Level("w", square, SGD, start=start, horizon=5)
    nx.Nest([w, nx.Level("d", square, SGD, every=2, flow=nx.Unroll())])


# Beginning.


@raises("its value holds nothing to train")
def _():
    one(value=np.arange(3))


@raises("it would be trained, or stay what it is for ever")
def _():
    net = linen.BatchNorm(use_running_average=False)
    one(value=net.init(KEY, jnp.ones((2, 3))))


@raises("updates would part them")
def _():
    layer = nnx.Param(jnp.ones(2))
    one(value={"encoder": layer, "decoder": layer})


@raises("no array of JAX or numpy")
def _():
    tensor = type("Tensor", (), {"__module__": "torch", "shape": (2,), "dtype": "torch.float32"})
    one(value={"jax": ONE, "torch": tensor()})


@raises("the context is a function (task, key) -> batch, a Stream or a Process")
def _():
    one(context=[ONE, ONE])


@raises("no level is called")
def _():
    one(lambda values, batch: jnp.sum(values["weight"] ** 2))


@raises("returns a real scalar loss, or (loss, info)")
def _():
    one(lambda values, batch: values["w"] ** 2)


@raises("it must keep shape and dtype")
def _():
    one(value=np.ones(1), optimizer=optax.stateless(lambda updates, params: jnp.ones(2)))


@raises("that change from call to call and come from none of its arguments")
def _():
    one(context=lambda task, key: np.random.normal(size=2))


@raises("its gradient would always be zero")
def _():
    two(flow=None)


@raises("finds nothing but the partial derivative")
def _():
    start = lambda values, task, key: values["d"]  # noqa: E731
    w = nx.Level("w", square, SGD, start=start)
    d = nx.Level("d", pull, SGD, every=2, flow=nx.OneStep())
    nx.Nest([w, d]).init({"d": ONE}, KEY)


@raises("whose stationary point its implicit flow differentiates: the gradient would be zero")
def _():
    two(nx.Implicit(nx.CG()), inner=square)


@raises("needs a symmetric system")
def _():
    a = nx.Level("a", lambda v, b: jnp.sum((v["a"] + v["b"] - v["d"]) ** 2), SGD)
    b = nx.Level("b", lambda v, b: jnp.sum((v["b"] - v["a"] - v["d"]) ** 2), SGD)
    leader = lambda v, b: jnp.sum(v["a"] ** 2)  # noqa: E731
    d = nx.Level("d", leader, SGD, every=2, flow=nx.Implicit(nx.CG()))
    nx.Nest([(a, b), d]).init({"a": ONE, "b": ONE, "d": ONE}, KEY)


@raises("moves weights where the gradient is zero")
def _():
    two(nx.Implicit(nx.CG()), optimizer=optax.adamw(0.1))


@raises("its optimizer gathers gradients of several")
def _():
    gathering = optax.MultiSteps(SGD, 2).gradient_transformation()
    two(nx.Implicit(nx.CG()), optimizer=gathering)


@raises("a stop_gradient in its objective hides from the flow")
def _():
    def inner(values, batch):
        target = values["d"] + jax.lax.stop_gradient(values["w"]) / 2
        return jnp.sum((values["w"] - target) ** 2) / 2

    two(nx.Implicit(nx.GMRES()), inner=inner)


@raises("hides the scale of its first step from derivatives")
def _():
    two(nx.Unroll(), optimizer=optax.lbfgs(0.1, linesearch=None))


# Data.


@raises("Stream: expected a function index -> batch")
def _():
    nx.Stream([ONE])


@raises("its Stream gives another batch when index")
def _():
    rng = np.random.default_rng(0)
    one(context=nx.Stream(lambda index: rng.normal(size=2)))


@raises("a Stream's batches must all have one structure, shape and dtype")
def _():
    nest, state = one(context=nx.Stream.of([np.zeros(4), np.zeros(3)]))
    nest.run(state, 2)


@raises("the iterator of a Stream ended after")
def _():
    one(context=nx.Stream.of([]))


@raises("a Stream.of cannot go back to batch")
def _():
    nest, begun = one(context=nx.Stream.of(iter(np.zeros((9, 2))), keep=1))
    state = begun
    for _ in range(4):
        state, _ = nest.run(state, 1)
    nest.run(begun, 1)


# Running.


@raises("its implicit gradient is off")
def _():
    steep = lambda v, b: jnp.sum(jnp.array([1.0, 1e3]) * (v["w"] - v["d"]) ** 2)  # noqa: E731
    nest, state = two(nx.Implicit(nx.CG(1)), inner=steep, optimizer=optax.sgd(1e-4))
    nest.run(state, 1)


@raises("is not finite in step")
def _():
    nest, state = one(optimizer=optax.sgd(1e30))
    nest.run(state, 10)


@raises("Adam's square root has no derivative at a gradient of 0")
def _():
    nest, state = two(nx.Unroll(), optimizer=optax.adam(0.1), every=8, values={"w": ONE, "d": ONE})
    nest.run(state, 1)


@raises("The optimizers kept all values finite")
def _():
    careful = optax.apply_if_finite(SGD, 9)
    nest, state = one(lambda v, b: jnp.sum(jnp.sqrt(v["w"])), careful, value=np.zeros(2))
    nest.run(state, 1)


# States and folders.


@raises("state.values is read only")
def _():
    one()[1].values["w"] = ONE


@raises("a state of another nest")
def _():
    one()[0].run(two(nx.Unroll())[1], 1)


@raises("holds another run")
def _(path):
    nest, state = one()
    nest.run(state, 1, watch=runs.Watch(path, progress=False))
    nest.run(state.replace(values={"w": 3 * ONE}), 1, watch=runs.Watch(path, progress=False))


@raises("steps were asked for; ask for at least")
def _(path):
    nest, state = one()
    for steps in (2, 1):
        nest.run(state, steps, watch=runs.Watch(path, progress=False))


@raises("a run's checkpoints need the package")
def _(path):
    nest, state = one()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "orbax.checkpoint", None)
        nest.run(state, 1, watch=runs.Watch(path, progress=False))


# Memories and optimizers.


@raises("make lists arrays, and for a batch use jax.vmap")
def _():
    memory.DeltaMemory(4, 2, key=KEY)(jnp.ones((3, 5, 4)))


@raises("and it is not known which of them are a matrix")
def _():
    nx.optim.muon(0.1).init(jnp.ones((2, 3, 4)))


@pytest.fixture(autouse=True)
def no_type_checker():
    """Users run without the type checker of these tests, which would refuse much of this first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_every_quoted_error_has_an_input_and_every_input_is_quoted():
    assert len(set(QUOTED)) == len(QUOTED)
    assert set(QUOTED) == set(INPUTS)


@pytest.mark.parametrize("quoted", INPUTS)
def test_the_quoted_error_is_raised(quoted, tmp_path):
    function = INPUTS[quoted]
    given = (tmp_path / "run",)[: function.__code__.co_argcount]
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            function(*given)
            told = []
        except Exception as error:
            told = [str(error)]
    told += [str(one.message) for one in warned]
    assert any(quoted in text for text in told), told
