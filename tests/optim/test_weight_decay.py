"""Decoupled weight decay: learning_rate weight_decay W is taken away besides the step."""

import jax.numpy as jnp
import numpy as np
import pytest

from nestax import optim

P = {"w": np.arange(1.0, 7.0).reshape(2, 3), "b": np.ones(2)}
OPTIMIZERS = {
    "muon": optim.muon,
    "m3": optim.m3,
    "delta_momentum": optim.delta_momentum,
    "preconditioned_momentum": lambda r, **given: optim.preconditioned_momentum(
        r, preconditioner="kronecker", **given
    ),
    "deep_momentum": optim.deep_momentum,
    "associative_momentum": optim.associative_momentum,
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_decay_is_decoupled_and_masked(x64, name):
    p = {name: jnp.asarray(a) for name, a in P.items()}
    g = {"w": jnp.cos(p["w"]), "b": jnp.sin(p["b"])}

    def step(**given):
        tx = OPTIMIZERS[name](lambda count: 0.1, **given)
        return tx.update(g, tx.init(p), p)[0]

    plain = step()
    everything = {"w", "b"} if name != "muon" else {"w"}
    for mask, chosen in (
        (None, everything),
        ({"w": False, "b": True}, {"b"}),
        (lambda tree: {"w": tree["w"].ndim == 2, "b": False}, {"w"}),
    ):
        found = step(weight_decay=0.5, mask=mask)
        for leaf in P:
            taken = 0.1 * 0.5 * p[leaf] if leaf in chosen else 0
            np.testing.assert_allclose(found[leaf], plain[leaf] - taken, rtol=1e-12, atol=1e-15)


def test_what_decay_needs_is_said():
    p = {"w": jnp.ones((2, 3))}
    tx = optim.m3(0.1, weight_decay=0.1)
    with pytest.raises(ValueError, match="m3: weight_decay needs the parameters"):
        tx.update(p, tx.init(p))
    for mask in ({"w": 1.0}, lambda tree: {"w": "yes"}):
        with pytest.raises(ValueError, match=r"muon: mask\['w'\] must be True or False"):
            optim.muon(0.1, weight_decay=0.1, mask=mask).init(p)
    structure = r"muon: mask must have the structure .* it lacks \['w'\] and it also has \['v'\]"
    with pytest.raises(ValueError, match=structure):
        optim.muon(0.1, weight_decay=0.1, mask={"v": True}).init(p)
    with pytest.raises(ValueError, match="delta_momentum: weight_decay must be"):
        optim.delta_momentum(0.1, weight_decay=-0.1)
