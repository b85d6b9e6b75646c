"""lean_gradient differentiates as the plain gradient does, in every argument and order."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nestax.flows.internal import lean_gradient

# Programs here are small and run once or twice: most of the time goes into compiling them.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape))


def gap(a, b):
    """Largest difference over two pytrees, relative to the largest number in the first."""
    a, b = (list(map(np.asarray, jax.tree.leaves(tree))) for tree in (a, b))
    difference = max(np.max(np.abs(x - y)) for x, y in zip(a, b, strict=True))
    return difference / max(np.max(np.abs(x)) for x in a)


def loss_with_everything(value, rest, data):
    key, count, x = data
    h = jnp.tanh(value["w"] @ x + rest["b"] * count)
    noise = jax.random.normal(key, h.shape, h.dtype)
    return jnp.sum(h**3 * rest["c"]) + noise @ value["w"] @ x, {"h": h, "n": count, "key": key}


def lean_arguments():
    value = {"w": normal(3, 3)}
    rest = {"b": normal(3), "c": normal(3), "n": jnp.int32(1)}
    return value, rest, (jax.random.key(0), jnp.int32(2), 0.3 * normal(3))


def both_gradients(loss):
    return jax.value_and_grad(loss, has_aux=True), lean_gradient(loss)


def scalar_of(gradient, parts):
    """A scalar with a non-trivial dependence on the chosen parts of what a gradient returns."""

    def scalar(value, b, x):
        _, rest, (key, count, _) = lean_arguments_fixed
        (loss, aux), slope = gradient(value, {**rest, "b": b}, (key, count, x))
        total = 0.0
        if "loss" in parts:
            total += loss**2
        if "gradient" in parts:
            total += jnp.sum(jnp.sin(slope["w"]))
        if "aux" in parts:
            total += jnp.sum(aux["h"] ** 2)
        return total

    return scalar


@pytest.fixture
def lean_point(x64):
    global lean_arguments_fixed
    lean_arguments_fixed = lean_arguments()
    value, rest, data = lean_arguments_fixed
    return value, rest["b"], data[2]


ALL = ("loss", "gradient", "aux")


@pytest.mark.parametrize("parts", [("loss",), ("gradient",), ("aux",), ALL])
def test_lean_gradient_differentiates_as_the_plain_one(lean_point, parts):
    plain, lean = (scalar_of(g, parts) for g in both_gradients(loss_with_everything))
    (value, wanted), (other, found) = (
        jit(jax.value_and_grad(f, (0, 1, 2)))(*lean_point) for f in (plain, lean)
    )
    assert gap(value, other) < 1e-14
    assert gap(wanted, found) < 1e-13


def test_lean_gradient_in_higher_orders(lean_point):
    plain, lean = (scalar_of(g, ALL) for g in both_gradients(loss_with_everything))

    def squared_slope(f):
        return lambda *point: sum(
            jnp.sum(x**2) for x in jax.tree.leaves(jax.grad(f, (0, 1, 2))(*point))
        )

    second = [jit(jax.grad(squared_slope(f), (0, 1, 2)))(*lean_point) for f in (plain, lean)]
    assert gap(*second) < 1e-13
    hessians = [jit(jax.jacfwd(jax.grad(f, 1), 1))(*lean_point) for f in (plain, lean)]
    assert gap(*hessians) < 1e-13


def test_lean_gradient_under_vmap(lean_point):
    plain, lean = (scalar_of(g, ALL) for g in both_gradients(loss_with_everything))
    value, b, x = lean_point
    values = jax.tree.map(lambda w: jnp.stack([w, 2 * w]), value)
    for transform in (
        lambda f: jax.vmap(jax.grad(f, (0, 1, 2)), (0, None, None)),
        lambda f: jax.grad(lambda *p: jnp.sum(jax.vmap(f, (0, None, None))(*p)), (0, 1, 2)),
    ):
        wanted, found = (jit(transform(f))(values, b, x) for f in (plain, lean))
        assert gap(wanted, found) < 1e-13


def test_lean_gradient_sees_what_its_loss_closes_over(x64):
    """Batched integers, and numbers that are differentiated, neither of them arguments."""
    w = normal(4)

    def total(gradient_of):
        def outer(scale, power):
            def loss(value, rest, data):
                return jnp.sum(jnp.tanh(value * scale) ** power), ()

            (value, _), slope = gradient_of(loss)(w, (), ())
            return value + jnp.sum(jnp.sin(slope))

        return jit(jax.vmap(jax.grad(outer)))(np.array([0.5, 0.7]), np.array([2, 3]))

    assert gap(total(lambda f: jax.value_and_grad(f, has_aux=True)), total(lean_gradient)) < 1e-13


@jax.custom_vjp
def cubed(x):
    return x**3


# Its forward pass calls the rule once more, as implicit roots do: nothing can push through that.
cubed.defvjp(lambda x: (cubed(x), x), lambda x, u: (3 * x**2 * u,))


def test_lean_gradient_over_a_rule_without_forward_mode(x64):
    def loss(value, rest, data):
        return jnp.sum(cubed(value) * rest) + jnp.sum(cubed(rest)), {"r": cubed(value)}

    def total(value, rest, f):
        (loss, aux), slope = f(value, rest, ())
        return loss + jnp.sum(jnp.sin(slope)) + jnp.sum(aux["r"])

    value, rest = normal(3), normal(3)
    plain, lean = both_gradients(loss)
    results = [jit(jax.grad(partial(total, f=f), (0, 1)))(value, rest) for f in (plain, lean)]
    assert gap(*results) < 1e-13


def test_lean_gradient_of_complex_numbers(x64):
    def loss(value, rest, data):
        return jnp.sum(jnp.abs(value**2 + rest) ** 2) + jnp.sum(value.real**3), ()

    def total(value, rest, f):
        (loss, _), slope = f(value, rest, ())
        return loss + jnp.sum(jnp.sin(slope.real) * slope.imag)

    value, rest = normal(3) + 1j * normal(3), normal(3) + 1j * normal(3)
    plain, lean = both_gradients(loss)
    results = [jit(jax.grad(partial(total, f=f), (0, 1)))(value, rest) for f in (plain, lean)]
    assert gap(*results) < 1e-13


def test_truth_values_of_the_loss_can_be_reduced():
    """An episode may end by `jnp.all` of what the loss tells; booleans have no tangent."""

    def outer(w):
        def loss(value, rest, data):
            return jnp.sum(value**2), {"ok": value < 2, "n": jnp.arange(3)}

        (_, aux), slope = lean_gradient(loss)(w, (), ())
        keep = jnp.all(aux["ok"]) & (jnp.max(aux["n"]) == 2)
        return jnp.sum(jnp.where(keep, slope, 0))

    assert jit(jax.grad(outer))(jnp.ones(2)).tolist() == [2.0, 2.0]
