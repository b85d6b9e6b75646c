"""Stacked layers and kernels: every matrix is updated as if it were alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

from nestax import optim
from nestax.optim._axes import matrices

EXACT = {"rtol": 1e-12, "atol": 1e-12}
OPTIMIZERS = {
    "muon": optim.muon,
    "m3": lambda r, **given: optim.m3(r, period=2, **given),
    "delta_momentum": lambda r, **given: optim.delta_momentum(r, block=2, **given),
    "preconditioned_momentum": lambda r, **given: optim.preconditioned_momentum(
        r, preconditioner="kronecker", period=2, **given
    ),
    "deep_momentum": lambda r, **given: optim.deep_momentum(
        r, memory="rows", output="orthogonal", inner_learning_rate=0.1, **given
    ),
    "associative_momentum": lambda r, **given: optim.associative_momentum(
        r,
        features=lambda g: jnp.concatenate([g, g**2], axis=1),
        readout=lambda m: optim.newton_schulz(m[:, : m.shape[1] // 2]),
        **given,
    ),
}
SHAPES = {"w": (3, 4, 5), "b": (3, 4), "kernel": (2, 3, 2, 5)}
AXES = {"w": "stacked", "b": "stacked", "kernel": MuonDimensionNumbers((2, 0), 3)}


def draw(seed, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}


def single(tree, i):
    """The i-th matrices, written out: inputs in the order of the dimension numbers."""
    kernel = jnp.stack([tree["kernel"][a, i, b] for b in range(2) for a in range(2)], axis=1)
    return {"w": tree["w"][i], "b": tree["b"][i], "kernel": kernel}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_batch_of_matrices_is_a_loop_over_them(x64, name):
    together, alone = OPTIMIZERS[name](0.1, axes=AXES), OPTIMIZERS[name](0.1)
    state = together.init(draw(0))
    states = [alone.init(single(draw(0), i)) for i in range(3)]
    if name == "deep_momentum":  # hidden layers are drawn: each matrix its own
        memories = [
            jax.tree.map(lambda a, i=i: a[i], (state[0].memory, state[0].initial)) for i in range(3)
        ]
        states = [
            (s[0]._replace(memory=m, initial=m0), *s[1:])
            for s, (m, m0) in zip(states, memories, strict=True)
        ]
        first = state[0].memory["w"][0]
        assert np.all(np.abs(np.diff(first, axis=0)).max(axis=(1, 2)) > 0.1)
    update, update_alone = jax.jit(together.update), jax.jit(alone.update)
    for t in range(4):
        g = draw(t + 1)
        # Sizes differ, so that norms over the whole tensor would be seen.
        g["w"] = g["w"] * jnp.asarray([1.0, 1e3, 1e-3])[:, None, None]
        u, state = update(g, state)
        for i in range(3):
            v, states[i] = update_alone(single(g, i), states[i])
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **EXACT), single(u, i), v)


@pytest.mark.parametrize("spec", ["kernel", None, MuonDimensionNumbers(-1, (0, 1))])
@pytest.mark.parametrize("layout", ["out_in", "in_out"])
def test_views_and_back(spec, layout):
    a = jnp.arange(24.0).reshape(2, 3, 4)
    view = matrices("muon", spec if spec else {"a": None}, layout, {"a": a})["a"]
    found = view.of(a)
    if spec is None:
        np.testing.assert_array_equal(found, a.reshape(24, 1))
    elif spec != "kernel":
        np.testing.assert_array_equal(found, a.reshape(6, 4))
    elif layout == "out_in":
        np.testing.assert_array_equal(found, a.reshape(2, 12))
    else:
        np.testing.assert_array_equal(found, a.reshape(6, 4).T)
    np.testing.assert_array_equal(view.back(found, a), a)


def test_functions_prefixes_and_masks_say_axes(x64):
    """A function of the parameters, inside a mask, on a tree of which it knows only the shapes."""
    p, g = {"layers": draw(0)}, {"layers": draw(1)}
    direct = optim.muon(0.1, axes={"layers": AXES})
    by_shape = optim.muon(
        0.1,
        axes=lambda tree: jax.tree.map(
            lambda a: AXES["kernel"] if a.ndim == 4 else "stacked", tree
        ),
    )
    u, v = (tx.update(g, tx.init(p), p)[0] for tx in (direct, by_shape))
    jax.tree.map(np.testing.assert_array_equal, u, v)
    for tx in (direct, by_shape):
        masked = optax.masked(tx, {"layers": {"w": True, "b": False, "kernel": False}})
        v, _ = masked.update(g, masked.init(p), p)
        np.testing.assert_array_equal(u["layers"]["w"], v["layers"]["w"])
        np.testing.assert_array_equal(g["layers"]["kernel"], v["layers"]["kernel"])
    prefix = optim.muon(0.1, axes={"layers": "stacked"})
    flat = {"layers": {name: p["layers"][name] for name in "wb"}}
    v, _ = prefix.update(flat, prefix.init(flat), flat)
    assert jax.tree.structure(v) == jax.tree.structure(flat)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_tensors_whose_matrix_is_unknown_are_refused(name):
    tx = OPTIMIZERS[name](0.1)
    with pytest.raises(ValueError, match=rf"^{name}: params\['w'\] has 3 axes.*\"stacked\""):
        tx.init({"b": jnp.ones(3), "w": jnp.ones((3, 4, 5))})


@pytest.mark.parametrize("name", ["gradient-like", "coordinates", "diagonal"])
def test_where_nothing_is_a_matrix_no_axes_are_needed(name):
    make = {
        "gradient-like": optim.associative_momentum,
        "coordinates": optim.deep_momentum,
        "diagonal": optim.preconditioned_momentum,
    }[name]
    p = jnp.ones((2, 3, 4))
    u, _ = make(0.1).update(p, make(0.1).init(p), p)
    assert u.shape == p.shape and np.all(u < 0)


@pytest.mark.parametrize(
    "axes, message",
    [
        ("rows", r'axes must be one of axes="kernel"'),
        ({"w": 3}, r"axes\['w'\] must be one of"),
        ({"b": None}, r"params\['w'\] has no specification in axes"),
        ({"w": MuonDimensionNumbers(1, 3)}, r"params\['w'\] has the shape \(2, 3, 4\); the axes"),
        ({"w": MuonDimensionNumbers(0, -3)}, r"must be different ones of its 3"),
        (lambda p: {"w": "square"}, r"axes\['w'\] must be one of"),
    ],
)
def test_bad_axes_are_refused(axes, message):
    with pytest.raises(ValueError, match=message):
        optim.m3(0.1, axes=axes).init({"w": jnp.ones((2, 3, 4))})


def test_stacks_of_kernels_need_dimension_numbers():
    with pytest.raises(ValueError, match=r'axes="stacked" is for stacked matrices'):
        optim.m3(0.1, axes="stacked").init(jnp.ones((2, 3, 4, 5)))


@pytest.mark.parametrize(
    "given",
    [
        {"shared": True, "inner_learning_rate": 0.1},
        {"memory_input": "constant", "hidden": (), "skip": False, "output": "orthogonal"},
    ],
    ids=["shared", "constant"],
)
def test_memories_that_are_no_networks_of_their_own(x64, given):
    """One memory for all matrices, stacked or as separate tensors; and one slot a coordinate."""
    together = optim.deep_momentum(0.1, axes="stacked", **given)
    alone = optim.deep_momentum(0.1, **given)
    stream = [draw(seed)["w"] for seed in range(4)]
    state, states = together.init(stream[0]), alone.init(list(stream[0]))
    update, update_alone = jax.jit(together.update), jax.jit(alone.update)
    for g in stream:
        u, state = update(g, state)
        v, states = update_alone(list(g), states)
        np.testing.assert_allclose(u, jnp.stack(v), **EXACT)


def test_one_word_for_stacked_layers_and_a_matrix_is_not_guessed():
    """Of (4, 8) beside (3, 8, 4) it cannot be known whether it is a matrix or four biases."""
    params = {"layers": jnp.ones((3, 8, 4)), "head": jnp.ones((4, 8))}
    with pytest.raises(
        ValueError, match=r"muon: params\['head'\] has the shape \(4, 8\), and axes"
    ):
        optim.muon(0.1, axes="stacked").init(params)
    optim.muon(0.1, axes={"layers": "stacked", "head": "kernel"}).init(params)
    optim.muon(0.1, axes="stacked").init({"layers": params["layers"], "bias": jnp.ones(3)})


@pytest.mark.parametrize("axes", [None, "kernel"])
def test_biases_of_convolutions_are_vectors(axes):
    """equinox has them as (n, 1, 1): Adam moves them, and they do not decay."""
    tx = optim.muon(0.1, axes=axes, weight_decay=0.5, adam_learning_rate=1e-3, nesterov=False)
    bias, vector = jnp.arange(1.0, 5).reshape(4, 1, 1), jnp.arange(1.0, 5)
    for gradient in (jnp.zeros(4), jnp.arange(4.0) - 2):
        shaped = tx.update(gradient.reshape(4, 1, 1), tx.init(bias), bias)[0]
        flat = tx.update(gradient, tx.init(vector), vector)[0]
        np.testing.assert_array_equal(shaped.reshape(4), flat)
