"""What every optimizer keeps to; optax's own as controls of the tests."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from references.optimizers import ARMS, CONTROLS, KEEP, NONE, OPTIMIZERS

from nestax import optim
from nestax.flows._safe_update import safe_update
from nestax.optim._checks import static

# Of full rank: Newton-Schulz enlarges the rounding of a direction that is not there.
# First of all: a memory is drawn by the place of its tensor.
WEIGHTS = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
PARAMS = {"w": WEIGHTS / np.abs(WEIGHTS).max(), "z": np.ones(3, np.float32)}
RATE = 0.05


def params(dtype=jnp.float32):
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), PARAMS)


def loss(p):
    return 0.5 * jnp.sum(jnp.square(p["w"])) + 2 * jnp.sum(jnp.square(p["z"] - 0.5))


def gradient(p):
    """That of the loss, without a program of its own."""
    return {"w": p["w"], "z": 4 * (p["z"] - 0.5)}


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


def described(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


class Optimizer:
    """An optimizer and its compiled update, which the tests share."""

    def __init__(self, name):
        self.name, self.make = name, OPTIMIZERS[name]
        self.tx = self.make(optax.cosine_decay_schedule(RATE, 300))
        self.state, self.traces = self.tx.init(params()), []

        @jax.jit
        def update(g, s, p):
            self.traces.append(None)
            return self.tx.update(g, s, p)

        self.update = update

    @functools.cached_property
    def half(self):
        """The state and the compiled update of parameters in bfloat16."""
        tx = self.make(0.02)
        return tx.init(params(jnp.bfloat16)), jax.jit(tx.update)

    def walk(self, p, steps):
        """The parameters after each step along the loss, which begins at `p`."""
        s = self.tx.init(p)
        for _ in range(steps):
            u, s = self.update(gradient(p), s, p)
            p = jax.tree.map(np.add, p, u)
            yield p


@pytest.fixture(scope="module", params=OPTIMIZERS)
def optimizer(request):
    """Of module scope, so that all tests of an optimizer follow each other."""
    return Optimizer(request.param)


def of_all_but(*left_out):
    """Only the optimizers whose names do not contain one of these."""
    names = [name for name in OPTIMIZERS if not any(word in name for word in left_out)]
    return pytest.mark.parametrize("optimizer", names, indirect=True)


def test_descends_on_a_quadratic(optimizer):
    start, p = loss(PARAMS), None
    for step, p in enumerate(optimizer.walk(PARAMS, 300)):
        assert step or loss(p) < start
    # As printed M3 forgets nothing: it swings about the minimum, less only as V grows.
    assert loss(p) < (0.1 if optimizer.name == "m3, literal" else 0.01) * start


def test_state_is_stable_under_jit_and_compiles_once(optimizer):
    p, state = params(), optimizer.state
    for _ in range(3):
        u, new = optimizer.update(gradient(p), state, p)
        assert described(new) == described(state)
        assert jax.tree.structure(new) == jax.tree.structure(state)
        assert described(u) == described(p)
        state = new
    assert len(optimizer.traces) == 1


def test_extra_arguments_are_ignored(optimizer):
    """Traced with them, it is the same program."""
    tx, p = optax.with_extra_args_support(optimizer.tx), params()
    given = (gradient(p), optimizer.state, p)
    told = jax.jit(lambda g, s, p: tx.update(g, s, p, value=2.5, unheard_of=3))
    programs = [str(f.trace(*given).jaxpr) for f in (told, optimizer.update)]
    plain, other = (re.sub("0x[0-9a-f]+", "", program) for program in programs)
    assert plain == other and len(plain) > 100


@of_all_but(*CONTROLS)
def test_extra_arguments_are_accepted_as_they_are(optimizer):
    assert isinstance(optimizer.tx, optax.GradientTransformationExtraArgs)


def test_updates_keep_half_precision(optimizer):
    p = params(jnp.bfloat16)
    state, update = optimizer.half
    assert described(update(gradient(p), state, p)[0]) == described(p)


@of_all_but(*CONTROLS)
def test_half_precision_parameters_train_with_single_precision_state(optimizer):
    p = params(jnp.bfloat16)
    state, update = optimizer.half
    before = loss(p)
    for _ in range(20):
        u, state = update(gradient(p), state, p)
        p = optax.apply_updates(p, u)
    kinds = {leaf.dtype for leaf in jax.tree.leaves(state)} - {jnp.dtype(jnp.int32)}
    assert kinds <= {jnp.dtype(jnp.float32)}
    assert loss(p) < before


def test_isolates_the_state_of_each_parameter(optimizer):
    """A tensor is updated as if it were the only one, also beside one without elements."""
    rng, together = np.random.default_rng(0), params()
    empty = {} if optimizer.name in (*CONTROLS, "muon") else {"zero": jnp.zeros((0, 3))}
    kept = together if "shared" in optimizer.name else {"w": together["w"]}
    few = kept | empty
    s, t, update = optimizer.state, optimizer.tx.init(few), jax.jit(optimizer.tx.update)
    for scale in (1.0, 1e-3, 1e3):
        g = {k: jnp.asarray(scale * rng.normal(size=v.shape), v.dtype) for k, v in together.items()}
        u, s = optimizer.update(g, s, together)
        v, t = update({k: g[k] for k in kept} | empty, t, few)
        assert described(v) == described(few)
        rtol = 1e-6 if scale == 1 else 1e-5
        close({k: v[k] for k in kept}, {k: u[k] for k in kept}, rtol=rtol)


def test_works_inside_optaxs_wrappers(optimizer):
    """Wrapped by several at once: `partition` masks; the hyperparameter is that of the schedule's
    start, and the mean of two equal gradients is the gradient."""
    p, make = params(), optimizer.make
    g = gradient(p)
    injected = optax.inject_hyperparams(lambda rate: make(rate))(rate=RATE)
    parts = {"a": injected, "n": optax.set_to_zero()}
    chain = optax.chain(
        optax.clip_by_global_norm(1e3), optax.partition(parts, {"w": "a", "z": "n"})
    )
    tx = optax.apply_if_finite(optax.MultiSteps(chain, 2).gradient_transformation(), 2)
    state, update, seen = tx.init(p), jax.jit(tx.update), []
    for _ in range(3):
        u, new = update(g, state, p)
        assert described(new) == described(state)
        state = new
        seen.append(u)
    for u, moves in zip(seen, (False, True, False), strict=True):
        assert np.all(np.isfinite(u["w"])) and not np.any(u["z"])
        assert moves or not np.any(u["w"])
    alone, start, plain = (g, p), optimizer.state, optimizer.update
    if "shared" in optimizer.name:  # of the tensors that the wrappers let it see
        alone = ({"w": g["w"]}, {"w": p["w"]})
        start, plain = optimizer.tx.init(alone[1]), optimizer.tx.update
    close(seen[1]["w"], plain(alone[0], start, alone[1])[0]["w"], rtol=1e-6)


def test_sharded_parameters_keep_their_sharding_and_values(optimizer):
    mesh = jax.make_mesh((2,), ("model",), axis_types=(AxisType.Auto,))
    shardings = {
        "w": NamedSharding(mesh, PartitionSpec("model", None)),
        "z": NamedSharding(mesh, PartitionSpec()),
    }

    @jax.jit
    def two_steps(p):
        def step(carry, _):
            p, s = carry
            u, s = optimizer.tx.update(gradient(p), s, p)
            return (optax.apply_updates(p, u), s), None

        return jax.lax.scan(step, (p, optimizer.tx.init(p)), length=2)[0][0]

    sharded = two_steps(jax.device_put(params(), shardings))
    for name in shardings:
        assert sharded[name].sharding.is_equivalent_to(shardings[name], sharded[name].ndim)
    *_, alone = optimizer.walk(PARAMS, 2)
    close(sharded, alone, rtol=1e-5, atol=1e-6)


def test_vmapped_copies_equal_single_ones(optimizer):
    factors = (1, 2, -1)
    p = jax.tree.map(lambda x: np.stack([x, 2 * x, -x]), PARAMS)
    alone = [list(optimizer.walk(jax.tree.map(lambda x, c=c: c * x, PARAMS), 3)) for c in factors]
    update = jax.jit(jax.vmap(optimizer.tx.update))
    s = jax.vmap(optimizer.tx.init)(p)
    for step in range(3):
        u, s = update(gradient(p), s, p)
        p = jax.tree.map(np.add, p, u)
        for i in range(3):
            close(jax.tree.map(lambda x, i=i: x[i], p), alone[i][step], rtol=2e-5, atol=1e-6)


def test_controls_do_what_their_names_say():
    g = {"w": jnp.array([3.0, -4.0]), "b": jnp.zeros(2)}

    def update(tx):
        return tx.update(g, tx.init(g), g)[0]

    np.testing.assert_allclose(update(optim.sign_descent(0.1))["w"], [-0.1, 0.1])
    np.testing.assert_allclose(update(optim.ema_sign(0.1))["w"], [-0.1, 0.1])
    normalized = update(optim.normalized_descent(0.1))
    np.testing.assert_allclose(normalized["w"], -0.1 * g["w"] / np.sqrt(12.5), rtol=1e-6)
    assert not np.any(normalized["b"])
    np.testing.assert_allclose(update(optim.gradient_descent(0.1))["w"], [-0.3, 0.4], rtol=1e-6)


def test_ema_sign_is_the_sign_of_the_average():
    rng = np.random.default_rng(0)
    tx, average = optim.ema_sign(1.0, decay=0.8), np.zeros(6)
    state = tx.init(jnp.zeros(6))
    for _ in range(10):
        g = rng.normal(size=6).astype(np.float32)
        average = 0.8 * average + 0.2 * g
        u, state = tx.update(jnp.asarray(g), state, jnp.zeros(6))
        np.testing.assert_array_equal(u, -np.sign(average))


def test_published_update_has_no_memory_and_is_a_sign_with_step_3e_3():
    tx = ARMS["published"].make(1e-3, 0)
    p = {"w": jnp.zeros(4)}
    g = {"w": jnp.array([1e-3, -2.0, 5.0, -1e-4])}
    state = tx.init(p)
    first, state = tx.update(g, state, p)
    _, state = tx.update({"w": jnp.full(4, 7.0)}, state, p)
    again, _ = tx.update(g, state, p)
    same(first, again)
    np.testing.assert_allclose(
        first["w"], -3.1623e-3 * np.sign(g["w"]), rtol=4e-3
    )  # exactly g / (|g| + 3.16e-7)
    exact = -1e-3 * np.sqrt(10) * g["w"] / (np.abs(g["w"]) + 1e-8 / np.sqrt(1e-3))
    np.testing.assert_allclose(first["w"], exact, rtol=1e-6)


def test_what_the_scale_of_the_loss_does_to_steps(optimizer):
    rng, p = np.random.default_rng(0), params()
    stream = [
        {k: np.float32(2 * rng.normal(size=v.shape)) for k, v in PARAMS.items()} for _ in range(7)
    ]

    def last(c):
        state = optimizer.state
        for g in stream:
            u, state = optimizer.update(jax.tree.map(lambda x: np.float32(c) * x, g), state, p)
        return jax.tree.leaves(u)

    plain = last(1.0)
    size = max(float(np.max(np.abs(leaf))) for leaf in plain)
    for scale in (1e-4, 1e4):
        factor = 1.0 if optimizer.name in KEEP else scale
        far = max(
            float(np.max(np.abs(b / factor - a))) / size
            for a, b in zip(plain, last(scale), strict=True)
        )
        # eps, which is 1e-6 or less beside gradients of 1e-4, is all that may be seen of the scale.
        assert (far < 0.03) is (optimizer.name not in NONE)  # nothing finite may be left of others


def test_state_is_stored_and_restored_bit_for_bit(optimizer, tmp_path):
    p, state = params(), optimizer.state
    g = gradient(p)
    for _ in range(3):
        _, state = optimizer.update(g, state, p)
    leaves, structure = jax.tree.flatten(state)
    np.savez(tmp_path / "state.npz", **{str(i): np.asarray(a) for i, a in enumerate(leaves)})
    with np.load(tmp_path / "state.npz") as stored:
        restored = structure.unflatten([jnp.asarray(stored[str(i)]) for i in range(len(leaves))])
    same(optimizer.update(g, restored, p), optimizer.update(g, state, p))


ROOTS = {"preconditioned_momentum, adam", *CONTROLS}  # optax', which flows guard


def test_derivatives_are_right_where_a_gradient_is_zero(optimizer):
    """A last layer that begins at zero gives the one before it a gradient of zero, once; a tensor
    that the loss does not feel has no other, stays, and hands on its own derivative."""
    tx = optimizer.make(0.1)
    update = functools.partial(safe_update, tx.update) if optimizer.name in ROOTS else tx.update

    def loss(p):
        return jnp.sum((p["z"] @ jnp.tanh(p["w"]) - 1) ** 2)

    @jax.jit
    def step(p, state):
        u, state = update(jax.grad(loss)(p), state, p)
        return optax.apply_updates(p, u), state

    def outer(a, unfelt):
        p = {"w": a * WEIGHTS, "z": jnp.zeros((2, 4)), "unfelt": unfelt}
        p, _ = step(*step(p, tx.init(p)))
        return loss(p) + jnp.sum(jnp.square(p["unfelt"]))

    slope, of_unfelt = jax.jit(jax.grad(outer, (0, 1)))(1.0, jnp.ones(3))
    assert np.isfinite(slope)
    np.testing.assert_allclose(of_unfelt, 2, rtol=1e-4)  # AdamW's decays a little


INJECTED = {
    "delta_momentum": (optim.delta_momentum, ("block",)),
    "preconditioned_momentum": (optim.preconditioned_momentum, ("period", "largest")),
    "m3": (optim.m3, ("period", "steps")),
    "deep_momentum": (optim.deep_momentum, ("key", "readout")),
    "associative_momentum": (optim.associative_momentum, ("block",)),
    "complex_adam": (lambda learning_rate, beta2: optim.complex_adam(
        learning_rate, 0.5j, beta2), ()),
}  # fmt: skip


@pytest.mark.parametrize("name", INJECTED)
def test_all_numbers_that_are_not_structure_are_hyperparameters(name):
    make, static = INJECTED[name]
    given = {"learning_rate": 0.1, **({"beta2": 0.9} if name == "complex_adam" else {})}
    tx = optax.inject_hyperparams(make, static_args=static)(**given)
    p = params()
    g = jax.grad(loss)(p)
    u, _ = jax.jit(tx.update)(g, tx.init(p), p)
    plain = make(**given)
    v, _ = plain.update(g, plain.init(p), p)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), u, v)


def test_structure_that_is_no_plain_number_is_refused():
    static("m3", period=4)
    with pytest.raises(TypeError, match=r'm3: period .* static_args=\("period",\)'):
        static("m3", period=jnp.asarray(4))


@pytest.mark.parametrize(
    "make",
    [
        lambda d: optim.associative_momentum(0.1, decay=d),
        lambda d: optim.delta_momentum(0.1, d, d),
        lambda d: optim.preconditioned_momentum(0.1, d, "kronecker", statistics_decay=d),
        lambda d: optim.m3(0.1, fast=d, slow=d, second=d, slow_weight=d, period=2),
        lambda d: optim.deep_momentum(0.1, retention=d, inner_learning_rate=d, average_decay=d),
    ],
    ids=["associative", "delta", "kronecker", "m3", "deep"],
)
def test_hyperparameters_of_a_wider_dtype_do_not_widen_the_state(x64, make):
    """Traced, as known ones become Python's numbers."""
    wide, p = jnp.linspace(0.5, 0.9, 3)[1], params()
    state = jax.eval_shape(lambda d: make(d).init(p), wide)
    for _ in range(3):
        u, new = jax.eval_shape(lambda d, s: make(d).update(p, s, p), wide, state)
        assert described(new) == described(state) and described(u) == described(p)
        state = new
