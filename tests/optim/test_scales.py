"""Gradients of any representable size, in float32, and on several devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from nestax import optim

SAME = {  # steps do not depend on the scale of the loss
    "muon": optim.muon,
    "m3": lambda r: optim.m3(r, period=3),
    "m3, unread": lambda r: optim.m3(r, period=3, steps=0),
    "kronecker": lambda r: optim.preconditioned_momentum(r, preconditioner="kronecker", period=3),
    "diagonal": optim.preconditioned_momentum,
    "deep_momentum, update": lambda r: optim.deep_momentum(r, normalize="update"),
}
SCALED = {  # steps are proportional to it
    "delta_momentum": optim.delta_momentum,
    "deep_momentum": lambda r: optim.deep_momentum(r, memory="rows"),
}
ABSOLUTE = {"m3, unread", "diagonal"}  # their eps is in units of gradients


def stream(steps=6, rows=12, columns=16, rank=3):
    """Like gradients of a layer: few directions, very unequal, and most singular values zero."""
    rng = np.random.default_rng(0)
    sizes = np.asarray([1.0, 0.1, 0.003])[:rank]
    return [
        (rng.normal(size=(rows, rank)) * sizes @ rng.normal(size=(rank, columns))).astype("f")
        for _ in range(steps)
    ]


def updates(tx, gradients, dtype, scale=1.0):
    p = {"w": jnp.zeros(gradients[0].shape, dtype), "b": jnp.zeros(len(gradients[0]), dtype)}
    update, state, seen = jax.jit(tx.update), tx.init(p), []
    for g in gradients:
        g = {"w": jnp.asarray(scale * g, dtype), "b": jnp.asarray(scale * g[:, 0], dtype)}
        u, state = update(g, state, p)
        seen.append(np.concatenate([np.asarray(a, np.float64).ravel() for a in u.values()]))
    return seen


def apart(a, b):
    return max(np.linalg.norm(x - y) / np.linalg.norm(y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", [*SAME, *SCALED])
def test_steps_at_every_scale_of_the_loss(name):
    tx = (SAME | SCALED)[name](1.0)
    gradients = [g / np.sqrt(np.mean(g**2)) for g in stream()]
    if name in ("muon", "m3"):  # Newton-Schulz enlarges rounding in directions that are not there
        gradients = [g + 0.1 * np.eye(*g.shape, dtype="f") for g in gradients]
    tensors = {"muon": slice(12, None)}.get(name, slice(None))  # Adam's eps is for the vector
    plain = [u[tensors] for u in updates(tx, gradients, jnp.float32)]
    for scale in (1e-30, 1e-21, 1e21, 1e30):
        if name in ABSOLUTE and scale < 1:
            continue
        found = [u[tensors] for u in updates(tx, gradients, jnp.float32, np.float32(scale))]
        factor = 1 if name in SAME else scale
        assert apart([u / factor for u in found], plain) < 1e-4


@pytest.mark.parametrize("name", ["muon", "m3, literal"])
def test_large_gradients_do_not_end_what_divides_by_squares(name):
    """Adam's vectors, and sums of squares that never decay, after squares that overflow."""
    make = {
        "muon": lambda: optim.muon(1.0),
        "m3, literal": lambda: optim.m3(1.0, literal=True, steps=0, slow_weight=0.0),
    }[name]
    g = {"b": jnp.asarray([1e21, -2e25, 3e30], jnp.float32)}
    tx = make()
    u, _ = tx.update(g, tx.init(g), g)
    with jax.enable_x64(True):
        wide = {"b": jnp.asarray(g["b"], jnp.float64)}
        exact, _ = make().update(wide, make().init(wide), wide)
        np.testing.assert_allclose(u["b"], np.asarray(exact["b"]), rtol=1e-5)


@pytest.mark.parametrize("eps", [None, 1e-9])
def test_kronecker_roots_do_not_depend_on_the_precision(eps):
    """What float32 cannot resolve is not divided by: there a smaller eps counts as the root of the
    dtype's precision."""
    given = {"preconditioner": "kronecker", "period": 3}
    found = updates(optim.preconditioned_momentum(1.0, eps=eps, **given), stream(), jnp.float32)
    resolved = eps and float(np.finfo(np.float32).eps) ** 0.5
    with jax.enable_x64(True):
        tx = optim.preconditioned_momentum(1.0, eps=resolved, **given)
        exact = updates(tx, stream(), jnp.float64)
    assert apart(found, exact) < 1e-4


def test_kronecker_steps_do_not_depend_on_the_number_of_devices():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.normal(size=(64, n)), jnp.float32) for n in (12, 8))
    p = {
        "a": jnp.asarray(rng.normal(size=(16, 12)) / 4, jnp.float32),
        "b": jnp.asarray(rng.normal(size=(8, 16)) / 4, jnp.float32),
    }
    tx = optim.preconditioned_momentum(1e-2, preconditioner="kronecker", period=3)

    def loss(p, x, y):
        return jnp.mean(jnp.square(jnp.tanh(x @ p["a"].T) @ p["b"].T - y))

    @jax.jit
    def train(p, x, y):
        def step(carry, _):
            p, state = carry
            u, state = tx.update(jax.grad(loss)(p, x, y), state, p)
            return (optax.apply_updates(p, u), state), None

        return jax.lax.scan(step, (p, tx.init(p)), length=8)[0][0]

    alone = train(p, x, y)
    rows, everywhere = (NamedSharding(mesh, PartitionSpec(axis)) for axis in ("data", None))
    shared = train(jax.device_put(p, everywhere), *jax.device_put((x, y), rows))
    for name in p:
        far = jnp.linalg.norm(shared[name] - alone[name]) / jnp.linalg.norm(alone[name])
        assert float(far) < 1e-5
