"""Complex gradients in optimizers of matrices: right, or refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nestax import optim

# Whether unitary matrices on both sides of the gradient come out of the step as they are.
OPTIMIZERS = {
    "muon": (optim.muon, True),
    "m3": (lambda r: optim.m3(r, period=3), False),
    "m3, literal": (
        lambda r: optim.m3(r, period=3, fast=0.1, literal=True, second=1.0, eps=1e-2),
        False,
    ),
    "kronecker": (
        lambda r: optim.preconditioned_momentum(r, 0.5, preconditioner="kronecker", period=3),
        True,
    ),
    "diagonal": (lambda r: optim.preconditioned_momentum(r, 0.5), False),
    "delta_momentum": (lambda r: optim.delta_momentum(r, block=None), True),
    "delta_momentum, rows": (lambda r: optim.delta_momentum(r, block=1), False),
}


def draw(seed, *shape, imaginary=1.0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=shape) + 1j * imaginary * rng.normal(size=shape))


def walk(tx, stream):
    update, state, seen = jax.jit(tx.update), tx.init(stream[0]), []
    for g in stream:
        u, state = update(g, state)
        seen.append(u)
    return seen


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_turn_with_the_gradient(x64, name):
    """By a phase, in every optimizer; by unitary matrices, in those of the singular values. With
    real gradients they are the steps of real parameters."""
    make, unitary = OPTIMIZERS[name]
    stream = [{"w": draw(s, 3, 4), "b": draw(s + 9, 4)} for s in range(5)]
    left, right = (jnp.linalg.qr(draw(s, n, n))[0] for s, n in ((70, 3), (71, 4)))
    phase = jnp.exp(0.7j)

    def turned(tree):
        return {"w": left @ tree["w"] @ right if unitary else phase * tree["w"],
                "b": phase * tree["b"]}  # fmt: skip

    plain, found = walk(make(0.1), stream), walk(make(0.1), [turned(g) for g in stream])
    for a, b in zip(plain, found, strict=True):
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-9), turned(a), b
        )
    real = [jax.tree.map(jnp.real, g) for g in stream]
    widened = [jax.tree.map(lambda x: x + 0j, g) for g in real]
    for a, b in zip(walk(make(0.1), real), walk(make(0.1), widened), strict=True):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-7, atol=1e-10), a, b)


def test_an_mlp_of_real_numbers_reads_no_complex_ones():
    with pytest.raises(ValueError, match=r"deep_momentum: params\['z'\] is complex64"):
        optim.deep_momentum(0.1).init({"z": jnp.ones(3, jnp.complex64)})
    with pytest.raises(ValueError, match=r"preconditioned_momentum: params\['z'\] is complex64"):
        tx = optim.preconditioned_momentum(0.1, preconditioner=lambda k: k)
        tx.init({"z": jnp.ones(3, jnp.complex64)})


def test_newton_schulz_of_a_complex_matrix_is_its_unitary_factor(x64):
    for shape in ((4, 6), (6, 4)):
        m = draw(3, *shape)
        u, _, v = jnp.linalg.svd(m, full_matrices=False)
        np.testing.assert_allclose(optim.newton_schulz(m, 40, "cubic"), u @ v, atol=1e-10)
