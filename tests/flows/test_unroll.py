"""Trajectory flows: checkpointing, memory, and the two modes against each other."""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nestax.flows import Forward, OneStep, Unroll, unrolled
from nestax.flows._scan import _arrangement, _measured, _near_divisor
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


# ---- unrolled ----


def deep(weights, x):
    *hidden, (last, bias) = weights
    for matrix, b in hidden:
        x = jnp.tanh(x @ matrix + b[None])
    return x @ last + bias[None]


def small(weights, x):
    """2-4-1 in a single vector: small programs compile fast."""
    return jnp.tanh(x @ weights[:8].reshape(2, 4)) @ weights[8:].reshape(4, 1)


def trained(weights, rates, data, length, scan, noisy=False):
    """Loss after `length` steps of Adam with a rate for each weight; carries a count and a key."""
    adam = optax.scale_by_adam(eps_root=1e-8)

    network = small if isinstance(weights, jax.Array) else deep

    def loss(w, rest, data):
        x, y, scale = data
        return jnp.mean((network(w, x) - y) ** 2) * scale, ()

    def make_body(lean):
        gradient = lean_gradient(loss) if lean else jax.value_and_grad(loss, has_aux=True)

        def body(carry, scale):
            weights, state, key = carry
            x, y = data
            if noisy:
                key, use = jax.random.split(key)
                x = x + 0.1 * jax.random.normal(use, x.shape, x.dtype)
            (value, _), slope = gradient(weights, (), (x, y, scale))
            updates, state = adam.update(slope, state, weights)
            weights = jax.tree.map(lambda w, u, r: w - jnp.exp(r) * u, weights, updates, rates)
            return (weights, state, key), {"loss": value}

        return body

    scales = jnp.linspace(1.0, 2.0, length)
    carry = (weights, adam.init(weights), jax.random.key(1))
    (weights, _, _), ys = scan(make_body, carry, scales, length)
    return loss(weights, (), (*data, 1.0))[0] + jnp.mean(ys["loss"]), ys


def plainly(make_body, carry, xs, length):
    return jax.lax.scan(make_body(False), carry, xs, length)


def arranged(checkpoint):
    return lambda *arguments: unrolled(*arguments, checkpoint)


def problem():
    return normal(12), jnp.full_like(normal(12), -3.0), (normal(5, 2), normal(5, 1))


@pytest.mark.parametrize(
    ("length", "checkpoints"), [(1, (1,)), (2, (1,)), (7, (3,)), (63, (8, 100))]
)
def test_every_arrangement_equals_the_plain_scan(x64, length, checkpoints):
    """Awkward lengths, with and without remainder; 100 is the lean body without segments."""
    weights, rates, data = problem()

    def derive(scan):
        def f(w, r, d):
            return trained(w, r, d, length, scan, noisy=length == 7)

        return jit(jax.value_and_grad(f, (0, 1, 2), has_aux=True))(weights, rates, data)

    (value, ys), gradients = derive(plainly)
    for checkpoint in checkpoints:
        (other, other_ys), other_gradients = derive(arranged(checkpoint))
        assert gap(value, other) < 1e-15 and gap(ys, other_ys) < 1e-14
        assert gap(gradients, other_gradients) < 1e-12


def test_two_levels_of_segments_equal_the_plain_scan(x64, monkeypatch):
    monkeypatch.setattr("nestax.flows._scan.STORE_ALL", 0)
    monkeypatch.setattr("nestax.flows._scan.ONE_LEVEL", 0)
    weights, rates, data = problem()
    chosen = []

    def recording(make_body, carry, xs, length):
        chosen.append(_arrangement(make_body, carry, xs, length))
        return unrolled(make_body, carry, xs, length)

    def derive(scan):
        return jit(jax.grad(lambda w: trained(w, rates, data, 63, scan)[0]))(weights)

    assert gap(derive(plainly), derive(recording)) < 1e-12
    _, segments = chosen[0]
    assert len(segments) == 2 and 63 > segments[0] > segments[1] > 1


def descended(point, rates, scan, length=5):
    """Gradient descent on a double well, without an optimizer's state."""

    def loss(w, rest, data):
        return jnp.sum((w**2 - 1) ** 2) / 4 + jnp.sum(w) * jnp.sum(w**2) / 10, ()

    def make_body(lean):
        gradient = lean_gradient(loss) if lean else jax.value_and_grad(loss, has_aux=True)

        def body(w, _):
            (value, _aux), slope = gradient(w, (), ())
            return w - rates * slope, value

        return body

    w, values = scan(make_body, point, None, length)
    return loss(w, (), ())[0], jnp.mean(values)


@pytest.mark.parametrize("checkpoint", [2, 5])
def test_second_order_through_segments(x64, checkpoint):
    point, rates = normal(3), jnp.full(3, 0.1)

    def hyper(rates, scan):
        slope = jax.grad(lambda w: sum(descended(w, rates, scan)))(point)
        return jnp.sum(slope**2)

    a, b = (
        jit(jax.grad(lambda r, s=s: hyper(r, s)))(rates) for s in (plainly, arranged(checkpoint))
    )
    assert gap(a, b) < 1e-12


def test_zero_steps_and_no_inputs():
    def make_body(lean):
        return lambda carry, x: (carry * 2, carry)

    carry, ys = unrolled(make_body, jnp.ones(3), None, 0)
    assert carry.tolist() == [1, 1, 1] and ys.shape == (0, 3)
    carry, ys = unrolled(make_body, jnp.ones(3), None, 5, checkpoint=2)
    assert carry.tolist() == [32] * 3 and ys.shape == (5, 3)


def test_small_problems_are_the_plain_program():
    """Nothing is recomputed: the compiled gradient is that of a scan, operation for operation."""
    weights, rates, data = problem()

    def text(scan):
        f = jit(jax.grad(lambda w: trained(w, rates, data, 10, scan)[0]))
        return f.lower(weights).as_text()

    def strip(text):
        return sorted(line.split("=")[-1].split(" loc")[0] for line in text.splitlines())

    assert len(strip(text(plainly))) == len(strip(text(unrolled)))
    assert "optimization_barrier" not in text(unrolled)


def test_residuals_are_measured_without_what_is_there_anyway():
    constant, xs = jnp.ones((1000,)), jnp.ones((4, 500))

    def body(carry, x):
        return carry * jnp.sum(constant) + jnp.sum(x * x), None

    assert _measured(body, jnp.ones(3), xs)[1] <= 3 * 4 + 2 * 4


def test_segments_prefer_a_divisor():
    assert _near_divisor(256, 15.0) == 16
    assert _near_divisor(10007, 80.0) == 80  # a prime: a remainder is compiled


def compiled_bytes(length, sizes, batch, argument):
    weights = [(normal(a, b) / np.sqrt(a), jnp.zeros(b)) for a, b in pairwise(sizes)]
    rates = jax.tree.map(lambda w: jnp.full_like(w, -3.0), weights)
    data = normal(batch, sizes[0]), normal(batch, sizes[-1])
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((weights, data)))
    f = jit(jax.grad(lambda w, r, d: trained(w, r, d, length, unrolled)[0], argument))
    return f.lower(weights, rates, data).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("argument", [0, 1])
def test_memory_of_a_small_network_trained_by_adam(argument):
    """3 x 128 tanh units, batch 256, 256 steps: plain reverse mode needs over 600 MiB."""
    used = compiled_bytes(256, (128, 128, 128, 128), 256, argument)
    assert used <= 40 * 2**20


def test_memory_of_a_long_unroll():
    """10,000 steps of 98,880 weights; twice the steps for less than 1.6 times the memory."""
    sizes, batch = (64, 256, 256, 64), 32
    once, twice = (compiled_bytes(n, sizes, batch, 0) for n in (10_000, 20_000))
    assert once <= 2 * 2**30
    assert twice < 1.6 * once


# ---- value_and_gradients ----


def losses_of(data, length, checkpoint):
    def losses(values):
        weights, rates = values
        scan = arranged(checkpoint)
        last, ys = trained(weights, rates, data, length, scan)
        return (last, jnp.mean(ys["loss"][-3:])), {"losses": ys["loss"], "n": jnp.int32(3)}

    return losses


def test_unroll_and_forward_are_the_same_derivative(x64):
    weights, rates, data = problem()
    losses = losses_of(data, 20, None)
    outputs, gradients, aux = jit(lambda v: Unroll().value_and_gradients(losses, v))(
        (weights, rates)
    )
    forward = jit(lambda v: Forward().value_and_gradients(losses, v))((weights, rates))
    assert gap(outputs, forward[0]) < 1e-14
    assert gap(gradients, forward[1]) < 1e-12
    assert gap(aux["losses"], forward[2]["losses"]) < 1e-14 and forward[2]["n"] == 3

    def slope(i):
        return jax.grad(lambda *values: losses(values)[0][i], i)(weights, rates)

    assert gap(jit(lambda: (slope(0), slope(1)))(), gradients) < 1e-12


@pytest.mark.parametrize("flow", [Unroll(), Forward()])
def test_one_array_may_be_the_loss_of_several_values(x64, flow):
    pulled = []

    @jax.custom_vjp
    def watched(x):
        return x

    watched.defvjp(lambda x: (x, None), lambda _, u: (pulled.append(1), (u,))[1])

    def losses(values):
        shared = watched(jnp.sum(values[0] ** 2 * values[1]))
        return (shared, shared, jnp.sum(values[2] * values[0])), ()

    values = (normal(3), normal(3), normal(3))
    _, gradients, _ = flow.value_and_gradients(losses, values)
    assert gap(gradients[0], 2 * values[0] * values[1]) < 1e-15
    assert gap(gradients[1], values[0] ** 2) < 1e-15
    assert gap(gradients[2], values[0]) < 1e-15
    assert len(pulled) <= 2


def test_gradients_differentiate_once_more(x64):
    point, rates = normal(3), jnp.full(3, 0.1)

    def hyper(rates, flow):
        def losses(values):
            end, mean = descended(*values, plainly)
            return (end, mean), ()

        _, gradients, _ = flow.value_and_gradients(losses, (point, rates))
        return jnp.sum(gradients[0] ** 2) + jnp.sum(gradients[1] ** 3)

    a, b = (jit(jax.grad(lambda r, f=f: hyper(r, f)))(rates) for f in (Unroll(), Forward()))
    assert gap(a, b) < 1e-12


def test_refusals():
    assert OneStep() == Unroll(last=1) and hash(Unroll()) == hash(Unroll(None, None))
    with pytest.raises(ValueError, match="last must be at least 1"):
        Unroll(last=0)
    with pytest.raises(TypeError, match="checkpoint must be an int"):
        Unroll(checkpoint=True)
    with pytest.raises(ValueError, match="checkpoint must be at least 1"):
        unrolled(lambda lean: None, 0, None, 3, checkpoint=0)
    with pytest.raises(ValueError, match="one loss for each of the 2 values"):
        Unroll().value_and_gradients(lambda v: ((jnp.sum(v[0]),), ()), (jnp.ones(2), jnp.ones(2)))
