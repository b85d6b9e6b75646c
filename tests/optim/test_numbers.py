"""What optimizers do with numbers that are complex, of other dtypes, huge, tiny, NaN or wrong."""

import inspect
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest
from references.optimizers import CONTROLS, OPTIMIZERS

from nestax import optim
from nestax.optim._checks import number, option, rate, static, whole

OURS = {name: make for name, make in OPTIMIZERS.items() if name not in CONTROLS}
every_optimizer = pytest.mark.parametrize("name", OURS)

# Public functions, with the arguments that have no default besides the learning rate.
MAKERS = {
    optim.gradient_descent: {},
    optim.momentum: {},
    optim.sign_descent: {},
    optim.ema_sign: {},
    optim.normalized_descent: {},
    optim.associative_momentum: {},
    optim.preconditioned_momentum: {},
    optim.delta_momentum: {},
    optim.muon: {},
    optim.m3: {},
    optim.deep_momentum: {},
    optim.generalized_gradient_descent: {},
    optim.delta_gradient_descent: {},
    optim.complex_momentum: {"beta": 0.5},
    optim.complex_adam: {"beta1": 0.5},
    optim.multi_timescale: {"periods": {"": 2}},
}
FREE = {"phase", "key"}  # numbers that have no range


@pytest.fixture
def untyped(monkeypatch):
    """Without the suite's type checks, which users do not have."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def numbers_of(make):
    """The names of arguments that are one number, by their defaults."""
    for name, parameter in inspect.signature(make).parameters.items():
        default = parameter.default
        plain = isinstance(default, (int, float)) and not isinstance(default, bool)
        if name in ("learning_rate", "optimizer", "beta", "beta1") or plain:
            yield name


def calls(make, **given):
    """A call with one argument replaced."""
    first = next(iter(inspect.signature(make).parameters))
    return make(**{first: 0.1, **MAKERS[make], **given})


WRONG = {
    "negative": np.float32(-1.5),
    "NaN": float("nan"),
    "infinite": np.float64("inf"),
    "JAX": jnp.float32(-2),
    "complex": 3j,
    "text": "0.1",
    "list": [0.1],
    "array": np.array([0.1, 0.2]),
    "bool": True,
}


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_wrong_numbers_are_refused_by_name(untyped, make):
    for argument in numbers_of(make):
        if argument in FREE:
            continue
        for kind, value in {**WRONG, "None": None}.items():
            if kind == "None" and argument not in ("learning_rate", "optimizer", "beta", "beta1"):
                continue  # a default, such as block's
            said = f"{argument}={value!r}"
            with pytest.raises((ValueError, TypeError)) as refused:
                calls(make, **{argument: value})
                pytest.fail(f"{make.__name__} took {said}")
            text = str(refused.value)
            assert text.startswith(f"{make.__name__}: "), f"{said}: {text}"
            assert argument in text or argument == "optimizer", f"{said}: {text}"


@pytest.mark.parametrize(
    ("make", "given"),
    [
        (optim.associative_momentum, {"block": 2.5}),
        (optim.associative_momentum, {"block": True}),
        (optim.delta_momentum, {"block": 0}),
        (optim.preconditioned_momentum, {"period": 1.5}),
        (optim.m3, {"period": np.float64(2)}),
        (optim.m3, {"steps": -1}),
        (optim.muon, {"steps": 2.5}),
        (optim.momentum, {"decay": 1.0}),
        (optim.ema_sign, {"decay": np.int64(1)}),
        (optim.complex_adam, {"beta2": jnp.float32(1)}),
        (optim.complex_momentum, {"beta": (0.9, float("nan"))}),
        (optim.complex_momentum, {"beta": jnp.asarray(2j)}),
        (optim.complex_momentum, {"phase": float("inf")}),
        (optim.generalized_gradient_descent, {"retention": (1.0, float("nan"))}),
        (optim.generalized_gradient_descent, {"retention": "1"}),
    ],
    ids=lambda thing: getattr(thing, "__name__", None) or str(thing),
)
def test_each_argument_has_its_range(untyped, make, given):
    (argument,) = given
    with pytest.raises(ValueError, match=f"^{make.__name__}: .*{argument}"):
        calls(make, **given)


def test_hyperparameters_are_read_in_single_precision_at_least():
    kinds = [0.25, np.float32(0.25), np.array(0.25), jnp.bfloat16(0.25), jnp.float32(0.25)]
    assert [type(number("f", "a", kind)) for kind in kinds] == [float] * len(kinds)
    assert {number("f", "a", kind) for kind in kinds} == {0.25} and number("f", "a", 3) == 3.0
    assert rate("f", lambda count: jnp.bfloat16(0.5) * count)(2).dtype == jnp.float32
    traced = jax.eval_shape(lambda a: number("f", "a", a), jnp.bfloat16(0.5))
    assert traced.dtype == jnp.float32
    assert whole("f", "a", np.int8(3)) == 3
    # What rounds to 1 is read as the middle of [1 - 2^-9, 1] in bfloat16, [1 - 2^-12, 1] in half.
    for dtype, middle in ((jnp.bfloat16, 1 - 2**-10), (jnp.float16, 1 - 2**-13)):
        one = dtype(1)
        assert number("f", "a", one, 0, 1, below=True) == middle
        assert jax.jit(lambda a: number("f", "a", a, 0, 1, below=True))(one) == middle
        assert number("f", "a", one, 0, 1) == 1 and number("f", "a", dtype(0.5), 0, 1) == 0.5


RATES = [np.float64(0.1), np.float32(0.1), jnp.float64, jnp.float32, jnp.bfloat16, np.int64(1), 1]


@every_optimizer
def test_the_dtype_of_a_rate_changes_no_dtype(x64, name):
    def dtypes(p, learning_rate):
        tx = OPTIMIZERS[name](learning_rate)
        state = tx.init(p)
        updates, new = tx.update(p, state, p)
        assert jax.tree.map(lambda a: a.dtype, new) == jax.tree.map(lambda a: a.dtype, state)
        return updates, jax.tree.leaves(new)

    for dtype, rates in ((jnp.bfloat16, RATES), (jnp.float32, [jnp.float64])):
        p = {"w": jnp.ones((2, 3), dtype)}
        expected = jax.eval_shape(lambda p: dtypes(p, 0.1), p)
        assert expected[0]["w"].dtype == dtype
        for value in rates:
            value = value(0.1) if callable(value) else value
            known = jax.eval_shape(lambda p, value=value: dtypes(p, value), p)
            assert known == expected, value
            if isinstance(value, jax.Array):
                assert jax.eval_shape(dtypes, p, value) == expected, value


# Complex numbers. jax.grad of a real loss is the conjugate of the direction in which it grows.

POINT = np.array([[1 - 2j, 0.5j, -0.3], [-1 + 0.1j, 2j, 0.4 - 0.4j]], np.complex64)


@every_optimizer
def test_complex_parameters_arrive_or_are_refused(name):
    slow = name == "m3, literal"  # as printed it swings about the minimum
    tx = OPTIMIZERS[name](optax.cosine_decay_schedule(0.2 if slow else 0.05, 300))
    start = {"z": jnp.zeros_like(POINT) + (0.2 - 0.1j)}
    try:
        state = tx.init(start)
    except ValueError as refused:
        pattern = r"^(\w+): params\['z'\] is complex64, and \1 is for real numbers; .*split_real"
        assert re.search(pattern, str(refused))
        tx = optax.contrib.split_real_and_imaginary(tx)  # as the error says
        if name not in ("deep_momentum", "muon", "associative_momentum, features"):
            return
        state = tx.init(start)

    def loss(p):
        return jnp.sum(jnp.abs(p["z"] - POINT) ** 2)

    def step(carry, _):
        p, s = carry
        g = jax.tree.map(jnp.conj, jax.grad(loss)(p))
        u, s = tx.update(g, s, p)
        return (optax.apply_updates(p, u), s), None

    (end, _), _ = jax.jit(lambda p, s: jax.lax.scan(step, (p, s), length=300))(start, state)
    assert end["z"].dtype == jnp.complex64
    assert loss(end) < (0.1 if slow else 0.01) * loss(start)


def test_complex_steps_are_along_the_gradient_and_use_its_modulus(x64):
    def first(tx, g):
        g = jnp.asarray(g)
        return tx.update(g, tx.init(g), g)[0]

    assert first(optim.complex_adam(1.0, 0.0, eps=0.0), 1j) == -1j
    g = np.array([3 + 4j, 0, -5j, 1.0])
    safe = np.where(g == 0, 1, np.abs(g))
    np.testing.assert_allclose(first(optim.complex_adam(0.1, 0.0), g), -0.1 * g / safe, rtol=1e-7)
    for make in (optim.sign_descent, optim.ema_sign):
        np.testing.assert_allclose(first(make(0.1), g), -0.1 * g / safe, rtol=1e-12)
    rms = np.sqrt(np.mean(np.abs(g) ** 2))
    np.testing.assert_allclose(first(optim.normalized_descent(0.1), g), -0.1 * g / rms, rtol=1e-12)


def test_complex_adam_on_complex_parameters_is_its_recursion(x64):
    rng = np.random.default_rng(0)
    stream = rng.normal(size=(8, 3)) + 1j * rng.normal(size=(8, 3))
    beta, decay, eps, under = 0.6 + 0.5j, 0.9, 1e-3, 1e-2
    tx = optim.complex_adam(0.1, beta, decay, eps, eps_root=under)
    state, update = tx.init(jnp.zeros(3, complex)), jax.jit(tx.update)
    real, imaginary = np.zeros(3, complex), np.zeros(3, complex)
    v = np.zeros(3)
    for t, g in enumerate(stream, 1):
        real, imaginary = (
            beta.real * real - beta.imag * imaginary + g,
            beta.imag * real + beta.real * imaginary,
        )
        v = decay * v + (1 - decay) * np.abs(g) ** 2
        u, state = update(jnp.asarray(g), state)
        expected = -0.1 * real / (np.sqrt(v / (1 - decay**t) + under) + eps)
        np.testing.assert_allclose(u, expected, rtol=1e-10)


@pytest.mark.parametrize("make", [optim.momentum, optim.normalized_descent])
def test_gradients_of_another_kind_than_the_parameters_are_refused(make):
    tx, real, both = make(0.1), {"a": jnp.ones(2)}, {"a": jnp.ones(2, complex)}
    for g, p in ((both, real), (real, both)):
        with pytest.raises(ValueError, match=rf"{make.__name__}: gradients\['a'\] is .* params"):
            tx.update(g, tx.init(p), p)
    if make is optim.momentum:
        with pytest.raises(ValueError, match="the state was made for a complex parameter"):
            tx.update(real, tx.init(both))


# Half precision under inject_hyperparams, which rounds hyperparameters to the parameters' dtype.


def test_a_decay_that_bfloat16_rounds_to_one_still_decays():
    make = optax.inject_hyperparams(optim.complex_adam)
    tx = make(learning_rate=0.1, beta1=(0.9, 0.39))
    p = jnp.ones(4, jnp.bfloat16)
    state, update = tx.init(p), jax.jit(tx.update)
    assert state.hyperparams["beta2"] == 1  # what the optimizer is given for 0.999
    rng, m, v = np.random.default_rng(0), np.zeros(4, complex), np.zeros(4)
    for t in range(1, 30):
        g = jnp.asarray(rng.normal(size=4), jnp.bfloat16)
        u, state = update(g, state, p)
        g = np.asarray(g, float)
        m, v = 0.9 * np.exp(0.39j) * m + g, 0.999 * v + 0.001 * g**2
        expected = -0.1 * m.real / np.sqrt(v / (1 - 0.999**t))
        # The rate and beta1's parts are rounded too.
        np.testing.assert_allclose(np.asarray(u, float), expected, rtol=0.02, atol=0.01)


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_what_must_be_static_is_named_at_once(untyped, make):
    """What the error says is enough, with bfloat16 parameters too."""
    first, given = next(iter(inspect.signature(make).parameters)), MAKERS[make]
    given = {first: 0.1, **given, **({"block": 2} if "block" in numbers_and_none(make) else {})}
    p = {"w": jnp.ones((2, 3), jnp.bfloat16)}
    tx = optax.inject_hyperparams(make)(**given)
    try:
        state = tx.init(p)
    except TypeError as refused:
        text = str(refused)
        assert text.startswith(f"{make.__name__}: ")
        assert f"inject_hyperparams({make.__name__}, static_args=(" in text
        names = tuple(re.findall(r'"(\w+)"', text))
        tx = optax.inject_hyperparams(make, static_args=names)(**given)
        state = tx.init(p)
    updates, _ = jax.jit(tx.update)(p, state, p)
    assert updates["w"].dtype == jnp.bfloat16 and jnp.all(jnp.isfinite(updates["w"]))


def numbers_and_none(make):
    return {name for name, p in inspect.signature(make).parameters.items() if p.default is not True}


def test_static_arguments_are_listed():
    static("m3", period=4, steps=5)
    with pytest.raises(TypeError, match=r'm3: period and steps .*=\("period", "steps"\)'):
        static("m3", period=jnp.asarray(4), steps=jnp.asarray(5), other=3)


# Parameters that are none.


@every_optimizer
def test_parameters_that_are_none_are_refused_by_their_path(name):
    tx = OPTIMIZERS[name](0.1)
    maker = name.split(",")[0].replace("generalized", "generalized_gradient_descent")
    for leaf, said in (
        (jnp.arange(3), "is int32, which cannot be trained"),
        (3, "is int64, which cannot be trained"),
        (np.array([True]), "is bool, which cannot be trained"),
        (jax.nn.relu, "got the function relu"),
        ("relu", "got 'relu'"),
        (jax.random.key(0), "got an array"),
        (np.ma.masked_array([1.0, 2.0], [True, False]), "is a masked array"),
    ):
        with pytest.raises(ValueError, match=rf"params\['a'\]\[0\] .*{said}") as refused:
            tx.init({"a": [leaf], "w": jnp.ones(2)})
        assert str(refused.value).startswith(f"{maker}: ")
    state = tx.init({"a": [jnp.ones(2)]})
    with pytest.raises(ValueError, match=r"gradients\['a'\]\[0\] is int32"):
        tx.update({"a": [jnp.ones(2, int)]}, state, {"a": [jnp.ones(2)]})
    with pytest.raises(ValueError, match=r"must have the structure .*they lack \['a'\]\[0\]"):
        tx.update({"a": []}, state, {"a": [jnp.ones(2)]})
    with pytest.raises(ValueError, match=r"gradients\['a'\]\[0\] must have the shape .*\(2,\)"):
        tx.update({"a": [jnp.ones(1)]}, state, {"a": [jnp.ones(2)]})


@every_optimizer
def test_python_floats_nothing_and_masked_parameters_are_kept(name):
    tx = OPTIMIZERS[name](0.1)
    masked = optax.masked(tx, {"w": True, "x": True, "n": None, "i": False})
    arrays = {"w": jnp.ones((2, 3)), "x": jnp.float32(0.5), "n": None, "i": jnp.arange(2)}
    plain = arrays | {"x": 0.5}

    def shapes(p):
        state = masked.init(p)
        updates, new = masked.update(p, state, p)
        return updates, jax.tree.leaves(state), jax.tree.leaves(new)

    updates, state, new = jax.eval_shape(lambda: shapes(plain))
    assert state == new and (updates, state) == jax.eval_shape(lambda: shapes(arrays))[:2]
    assert updates["n"] is None and updates["x"].dtype == jnp.float32


def test_unfiltered_models_are_refused_and_filtered_ones_train():
    model, tx = eqx.nn.MLP(2, 1, 3, 1, key=jax.random.key(0)), optim.momentum(0.1)
    with pytest.raises(ValueError, match=r"momentum: params\.activation .*equinox\.filter"):
        tx.init(model)
    weights = eqx.filter(model, eqx.is_inexact_array)
    gradient = eqx.filter_grad(lambda m: jnp.sum(m(jnp.ones(2))))(model)
    updates, _ = tx.update(gradient, tx.init(weights), weights)
    assert jax.tree.structure(updates) == jax.tree.structure(weights)
    with pytest.raises(ValueError, match=r"momentum: params\.activation"):
        tx.update(gradient, tx.init(weights), model)


# Not finite, huge and tiny.

# Steps keep their direction from 1e-30 to 1e30: what is left out has an eps, or a scale, in it.
SCALED = [
    "gradient_descent", "momentum", "sign_descent", "ema_sign", "normalized_descent",
    "delta_momentum", "delta_momentum, blocks", "delta_gradient_descent", "complex_momentum",
    "generalized", "generalized, window", "multi_timescale",
]  # fmt: skip


@pytest.mark.parametrize("name", [name for name in OURS if "shared" not in name])
def test_a_nan_changes_no_other_rule_and_no_scale_the_direction(name):
    """Either a coordinate does not feel the one that is NaN, or it is NaN as well."""
    tx = OPTIMIZERS[name](0.1)
    rng = np.random.default_rng(1)
    p = {"w": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32), "b": jnp.ones(3)}
    before = {k: rng.normal(size=v.shape).astype(np.float32) for k, v in p.items()}
    g = rng.normal(size=(3, 4)).astype(np.float32)

    def steps(g, scale):
        state = tx.init(p)
        _, state = tx.update(jax.tree.map(lambda x: scale * x, before), state, p)
        return tx.update({"w": scale * g, "b": scale * before["b"]}, state, p)[0]

    bad = [g.copy() for _ in range(3)]
    for one, value in zip(bad, (0.7, -5.0, np.nan), strict=True):
        one[1, 2] = value
    scales = np.array([1, 1, 1, 1e-30, 1e30], np.float32)
    found = jax.jit(jax.vmap(steps))(np.stack([*bad, bad[0], bad[0]]), scales)
    first, second, spoilt, tiny, huge = np.asarray(found["w"])
    felt = first != second
    felt[1, 2] = True
    assert np.all(np.isnan(spoilt[felt]))
    np.testing.assert_array_equal(spoilt[~felt], first[~felt])
    assert np.all(np.isfinite(found["b"][:3]))
    if name in SCALED or name == "complex_adam":
        for other in (huge,) if name == "complex_adam" else (tiny, huge):
            np.testing.assert_allclose(
                other / np.abs(other).max(), first / np.abs(first).max(), rtol=2e-4, atol=1e-6
            )


def test_influence_is_right_for_tiny_streams_and_nan_where_a_gradient_is(untyped):
    stream = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    expected = 0.5 ** np.arange(3, -1, -1)
    for scale in (1e-30, 1e30):
        found = optim.influence(optim.momentum(1.0, 0.5), scale * stream)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    stream[1, 0] = np.nan
    assert np.isnan(optim.influence(optim.momentum(1.0, 0.5), stream)[1])
    with pytest.raises(ValueError, match="influence: tx must be an optax transformation"):
        optim.influence(0.1, stream)


# Layers.


def test_layers_take_integer_inputs_and_refuse_integer_weights(untyped):
    rng = np.random.default_rng(0)
    w, x, d = rng.normal(size=(2, 3)), rng.integers(0, 9, (4, 3)), rng.normal(size=(4, 2))
    w, d = w.astype(np.float32), d.astype(np.float32)
    expected = optim.delta_gradient(w, x.astype(np.float32), d, 0.1)
    np.testing.assert_array_equal(optim.delta_gradient(w, x, d, np.float64(0.1)), expected)
    gradient = jax.grad(lambda w, x: jnp.sum(d * optim.delta_linear(w, x, 0.1)))(w, jnp.asarray(x))
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)
    ones = np.ones((2, 3), int)
    for call in (
        lambda f: f(ones, x, d, 0.1),
        lambda f: f([[1.0]], x, d, 0.1),
        lambda f: f(w.astype(complex), x, d, 0.1),
    ):
        with pytest.raises(ValueError, match="delta_gradient: weight must be an array of float"):
            call(optim.delta_gradient)
    with pytest.raises(ValueError, match="delta_gradient: weight is a masked array"):
        optim.delta_gradient(np.ma.masked_array(w, w > 0), x, d, 0.1)
    with pytest.raises(ValueError, match="memory_linear: x must be an array of float"):
        optim.memory_linear(w, w, lambda m, x: m @ x, x)
    for bad in (-1.0, np.float32("nan"), 1j, "1", None, [0.1]):
        for argument in ("rate", "decay"):
            given = {"rate": 0.1, argument: bad}
            with pytest.raises(ValueError, match=f"delta_linear: {argument} must be"):
                optim.delta_linear(w, x, **given)


# Options and schedules.


def test_an_array_is_no_option():
    for array in (np.ones(2), jnp.ones(2), np.array(["l2", "dot"])):
        with pytest.raises(ValueError, match='m: a must be "x" or "y", got an array'):
            option("m", "a", array, ("x", "y"))
    with pytest.raises(ValueError, match='m: a must be "x", "y" or "z", got 5'):
        option("m", "a", 5, ("x", "y", "z"))
    assert type(option("m", "a", np.str_("y"), ("x", "y"))) is str


@pytest.mark.parametrize("said", [None, "0.1", 1j, np.ones(2), True, [0.1]])
def test_schedules_that_return_no_number_are_refused(said):
    tx, p = optim.momentum(lambda count: said), jnp.ones(2)
    with pytest.raises(ValueError, match="momentum: learning_rate, a schedule, must return one"):
        tx.update(p, tx.init(p), p)


@pytest.mark.parametrize("said", [-0.1, float("nan"), np.float32(-0.1)])
def test_schedules_whose_known_values_are_no_rates_are_refused(said):
    tx, p = optim.momentum(lambda count: said), jnp.ones(2)
    with pytest.raises(ValueError, match="momentum: learning_rate, as its schedule gives it, must"):
        jax.jit(tx.update)(p, tx.init(p), p)


def test_muon_takes_the_largest_gradients():
    """An orthogonal step does not depend on the scale. With Nesterov's the first is read 1.49 g."""
    tx, g = optim.muon(0.1), jax.random.normal(jax.random.key(0), (4, 6))
    step = lambda g: tx.update(g, tx.init(g), g)[0]  # noqa: E731
    np.testing.assert_allclose(step(g * 2.0**123), step(g), rtol=1e-5)


def test_real_numbers_that_optax_makes_complex():
    """With complex parameters it injects every number as a complex one; the error says how not."""
    z = jnp.array([1 + 1j])
    made = optax.inject_hyperparams(optim.complex_adam)(0.1, 0.5)
    with pytest.raises(ValueError, match=r"tell it hyperparam_dtype=jnp\.float32"):
        made.init(z)
    made = optax.inject_hyperparams(optim.complex_adam, hyperparam_dtype=jnp.float32)(0.1, 0.5)
    plain = optim.complex_adam(0.1, 0.5)
    found, expected = (tx.update(z, tx.init(z), z)[0] for tx in (made, plain))
    np.testing.assert_allclose(found, expected, rtol=2e-5)  # 1 - 0.999 in float32
