"""What every optimizer keeps to; optax's own as controls of the tests."""

from functools import partial

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

every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())

# Of full rank: Newton-Schulz enlarges the rounding of a direction that is not there.
WEIGHTS = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
PARAMS = {"w": WEIGHTS / np.abs(WEIGHTS).max(), "b": np.ones(3, np.float32)}


def params():
    return jax.tree.map(jnp.asarray, PARAMS)


def loss(p):
    return 0.5 * jnp.sum(jnp.square(p["w"])) + 2 * jnp.sum(jnp.square(p["b"] - 0.5))


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def described(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_descends_on_a_quadratic(name):
    tx, p = OPTIMIZERS[name](optax.cosine_decay_schedule(0.05, 300)), params()

    @jax.jit
    def run(p):
        def step(carry, _):
            p, s = carry
            u, s = tx.update(jax.grad(loss)(p), s, p)
            return (optax.apply_updates(p, u), s), loss(p)

        return jax.lax.scan(step, (p, tx.init(p)), length=300)

    (p, _), losses = run(p)
    assert losses[1] < losses[0]
    # As printed M3 forgets nothing: it swings about the minimum, less only as V grows.
    assert loss(p) < (0.1 if name == "m3, literal" else 0.01) * losses[0]


@every_optimizer
def test_state_is_stable_under_jit_and_compiles_once(make):
    tx, p = make(0.1), params()
    traces = []

    @jax.jit
    def update(g, s, p):
        traces.append(None)
        return tx.update(g, s, p)

    state = tx.init(p)
    for _ in range(3):
        u, new = update(jax.grad(loss)(p), state, p)
        assert described(new) == described(state)
        assert jax.tree.structure(new) == jax.tree.structure(state)
        assert described(u) == described(p)
        state = new
    assert len(traces) == 1


@every_optimizer
def test_extra_arguments_are_ignored(make):
    tx, p = optax.with_extra_args_support(make(0.1)), params()
    g = jax.grad(loss)(p)
    same(tx.update(g, tx.init(p), p, value=1.0, unheard_of=3), tx.update(g, tx.init(p), p))


@pytest.mark.parametrize("make", [v for k, v in OPTIMIZERS.items() if k not in CONTROLS])
def test_extra_arguments_are_accepted_as_they_are(make):
    assert isinstance(make(0.1), optax.GradientTransformationExtraArgs)


@every_optimizer
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_updates_keep_the_dtype(make, dtype):
    p = jax.tree.map(lambda x: x.astype(dtype), params())
    tx = make(0.1)
    u, _ = tx.update(jax.grad(loss)(p), tx.init(p), p)
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(u))


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name not in CONTROLS])
def test_half_precision_parameters_train_with_single_precision_state(name):
    p = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params())
    tx = OPTIMIZERS[name](0.02)
    update, state = jax.jit(tx.update), tx.init(p)
    before = loss(p)
    for _ in range(20):
        u, state = update(jax.grad(loss)(p), state, p)
        p = optax.apply_updates(p, u)
    kinds = {leaf.dtype for leaf in jax.tree.leaves(state)} - {jnp.dtype(jnp.int32)}
    assert kinds <= {jnp.dtype(jnp.float32)}
    assert loss(p) < before


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if "shared" not in name])
def test_isolates_the_state_of_each_parameter(name):
    """A tensor is updated as if it were the only one."""
    tx = OPTIMIZERS[name](0.1)
    rng = np.random.default_rng(0)
    together = {"w": jnp.ones((4, 3)), "z": jnp.ones(5)}
    alone = {"w": together["w"]}
    s, t, update = tx.init(together), tx.init(alone), jax.jit(tx.update)
    for scale in (1.0, 1e-3, 1e3):
        g = {k: jnp.asarray(scale * rng.normal(size=v.shape), v.dtype) for k, v in together.items()}
        u, s = update(g, s, together)
        v, t = update({"w": g["w"]}, t, alone)
        np.testing.assert_allclose(u["w"], v["w"], rtol=1e-5)


@every_optimizer
def test_works_inside_optaxs_wrappers(make):
    p = params()
    g = jax.grad(loss)(p)
    wrappers = [
        optax.chain(optax.clip_by_global_norm(1.0), make(0.1)),
        optax.masked(make(0.1), {"w": True, "b": False}),
        optax.MultiSteps(make(0.1), 2).gradient_transformation(),
        optax.inject_hyperparams(lambda rate: make(rate))(rate=0.1),
        optax.apply_if_finite(make(0.1), 2),
        optax.partition({"a": make(0.1), "n": optax.set_to_zero()}, {"w": "a", "b": "n"}),
    ]
    for tx in wrappers:
        state = tx.init(p)
        for _ in range(3):
            u, new = jax.jit(tx.update)(g, state, p)
            assert described(new) == described(state)
            state = new
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(u))
    injected = optax.inject_hyperparams(lambda rate: make(rate))(rate=0.1)
    u, _ = injected.update(g, injected.init(p), p)
    v, _ = make(0.1).update(g, make(0.1).init(p), p)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), u, v)


@every_optimizer
def test_sharded_parameters_keep_their_sharding_and_values(make):
    mesh = jax.make_mesh((2,), ("model",), axis_types=(AxisType.Auto,))
    shardings = {
        "w": NamedSharding(mesh, PartitionSpec("model", None)),
        "b": NamedSharding(mesh, PartitionSpec()),
    }
    tx = make(0.1)

    @jax.jit
    def two_steps(p):
        s = tx.init(p)
        for _ in range(2):
            u, s = tx.update(jax.grad(loss)(p), s, p)
            p = optax.apply_updates(p, u)
        return p

    sharded = two_steps(jax.device_put(params(), shardings))
    for name in shardings:
        assert sharded[name].sharding.is_equivalent_to(shardings[name], sharded[name].ndim)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        sharded,
        two_steps(params()),
    )


@every_optimizer
def test_vmapped_copies_equal_single_ones(make):
    stack = jax.tree.map(lambda x: jnp.stack([x, 2 * x, -x]), params())
    tx = make(0.1)

    @jax.jit
    def steps(p):
        s = tx.init(p)
        for _ in range(3):
            u, s = tx.update(jax.grad(loss)(p), s, p)
            p = optax.apply_updates(p, u)
        return p

    together = jax.vmap(steps)(stack)
    for i in range(3):
        alone = steps(jax.tree.map(lambda x, i=i: x[i], stack))
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=2e-5, atol=1e-6),
            together,
            alone,
        )


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


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_what_the_scale_of_the_loss_does_to_steps(name, scale):
    tx, rng = OPTIMIZERS[name](0.1), np.random.default_rng(0)
    stream = [
        {k: jnp.asarray(rng.normal(size=v.shape), v.dtype) for k, v in PARAMS.items()}
        for _ in range(7)
    ]
    update = jax.jit(tx.update)

    def last(c):
        state = tx.init(params())
        for g in stream:
            u, state = update(jax.tree.map(lambda x: c * x, g), state, params())
        return u

    plain, scaled = last(1.0), last(scale)
    factor = 1.0 if name in KEEP else scale
    size = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(plain))
    far = max(
        float(jnp.max(jnp.abs(b / factor - a))) / size
        for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(scaled), strict=True)
    )
    # eps, which is 1e-6 or less beside gradients of 1e-4, is all that may be seen of the scale.
    assert (far < 0.03) is (name not in NONE)  # nothing finite may be left of the others


@every_optimizer
def test_state_is_stored_and_restored_bit_for_bit(make, tmp_path):
    tx, p = make(0.1), params()
    update, state = jax.jit(tx.update), tx.init(p)
    g = jax.grad(loss)(p)
    for _ in range(3):
        _, state = update(g, state, p)
    leaves, structure = jax.tree.flatten(state)
    np.savez(tmp_path / "state.npz", **{str(i): np.asarray(a) for i, a in enumerate(leaves)})
    with np.load(tmp_path / "state.npz") as stored:
        restored = structure.unflatten([jnp.asarray(stored[str(i)]) for i in range(len(leaves))])
    same(update(g, restored, p), update(g, state, p))


ROOTS = {"preconditioned_momentum, adam", *CONTROLS}  # optax', which flows guard


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_derivatives_are_right_where_a_gradient_is_zero(name):
    """A last layer that begins at zero gives the one before it a gradient of zero, once; a tensor
    that the loss does not feel has no other, stays, and hands on its own derivative."""
    tx = OPTIMIZERS[name](0.1)
    update = partial(safe_update, tx.update) if name in ROOTS else tx.update

    def loss(p):
        return jnp.sum((p["z"] @ jnp.tanh(p["w"]) - 1) ** 2)

    def outer(a, unfelt):
        p = {"w": a * WEIGHTS, "z": jnp.zeros((2, 4)), "unfelt": unfelt}
        state = tx.init(p)
        for _ in range(2):
            u, state = update(jax.grad(loss)(p), state, p)
            p = optax.apply_updates(p, u)
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
    tx = make(jnp.linspace(0.5, 0.9, 3)[1])
    p = jax.tree.map(lambda x: x.astype(jnp.float32), params())
    state = tx.init(p)
    for _ in range(3):
        u, new = tx.update(p, state, p)
        assert described(new) == described(state) and described(u) == described(p)
        state = new


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name not in (*CONTROLS, "muon")])
def test_tensors_without_elements_do_no_harm(name):
    tx, p = OPTIMIZERS[name](0.1), params() | {"none": jnp.zeros((0, 3))}
    g = jax.tree.map(jnp.ones_like, p)
    u, _ = tx.update(g, tx.init(p), p)
    alone, _ = tx.update({k: g[k] for k in PARAMS}, tx.init(params()), params())
    assert u["none"].shape == (0, 3)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), {k: u[k] for k in PARAMS}, alone
    )
