"""equinox models with delta gradients: the same forward pass, per layer the rule's step."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nestax.optim import delta_gradient, delta_gradient_descent, delta_layers

KEY = jax.random.key(0)


def arrays(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=shape)) for shape in shapes]


def close(a, b, rtol=1e-10, atol=1e-12):
    np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def mean_loss(model, x, t):
    return jnp.mean(jnp.sum(jnp.square(jax.vmap(model)(x) - t), 1))


def gradient(model, *batch, loss=mean_loss):
    return eqx.filter_jit(eqx.filter_grad(loss))(model, *batch)


def test_two_steps_of_a_network_are_the_closed_form_of_every_layer(x64):
    rate = 0.2
    model = eqx.nn.MLP(4, 3, 5, 2, activation=jnp.tanh, key=KEY)
    x, t = arrays((7, 4), (7, 3))
    weights = [(layer.weight, layer.bias) for layer in model.layers]
    model = delta_layers(model, rate)
    tx = delta_gradient_descent(rate)
    state = tx.init(eqx.filter(model, eqx.is_inexact_array))
    for _ in range(2):
        updates, state = tx.update(gradient(model, x, t), state)
        model = eqx.apply_updates(model, updates)

        seen, outputs = [x], []
        for w, b in weights:
            outputs.append(seen[-1] @ w.T + b[None])
            seen.append(jnp.tanh(outputs[-1]))
        error, stepped = 2 * (outputs[-1] - t) / 7, []
        for layer in (2, 1, 0):
            (w, b), inputs = weights[layer], seen[layer]
            inverse = jnp.linalg.inv(jnp.eye(7) + rate / 7 * inputs @ inputs.T)
            new = w - rate * (w @ inputs.T / 7 + error.T) @ inverse @ inputs
            stepped.append((new, b - rate * error.sum(0)))
            error = (error @ w) * (1 - inputs**2)
        weights = stepped[::-1]
        for layer, (w, b) in zip(model.layers, weights, strict=True):
            close(layer.weight, w)
            close(layer.bias, b)


@pytest.mark.parametrize("padding", [0, 2, ((1, 0), (2, 1)), "SAME", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("mode", ["ZEROS", "REFLECT", "REPLICATE", "CIRCULAR"])
def test_convolutions_compute_the_same_and_learn_from_their_patches(x64, padding, mode):
    layer = eqx.nn.Conv2d(
        2, 3, (3, 2), stride=(2, 1), padding=padding, dilation=(1, 2), padding_mode=mode, key=KEY
    )
    new = delta_layers(layer, 0.3, 0.7)
    (x,) = arrays((4, 2, 7, 6))
    y = jax.vmap(layer)(x)
    close(jax.vmap(new)(x), y)
    (t,) = arrays(y.shape, seed=1)

    def loss(model, x):
        return jnp.mean(jnp.square(jax.vmap(model)(x) - t))

    found = gradient(new, x, loss=loss)
    plain = gradient(layer, x, loss=loss)
    close(found.bias, plain.bias)
    close(jax.grad(loss, 1)(new, x), jax.grad(loss, 1)(layer, x))

    # Rows without knowledge of the geometry: y - bias is linear in the weight, row by row.
    errors = jnp.moveaxis(2 * (y - t) / y.size, 1, -1).reshape(-1, 3)
    one = eqx.tree_at(lambda m: m.bias, layer, jnp.zeros_like(layer.bias))

    def first_channel(flat):
        weight = jnp.zeros_like(layer.weight).at[0].set(flat.reshape(layer.weight.shape[1:]))
        return jax.vmap(eqx.tree_at(lambda m: m.weight, one, weight))(x)[:, 0].ravel()

    rows = jax.jacfwd(first_channel)(jnp.zeros(layer.weight[0].size))
    expected = delta_gradient(layer.weight.reshape(3, -1), rows, errors, 0.3, 0.7)
    close(found.weight.reshape(3, -1), expected)


def test_one_dimension_and_three(x64):
    for dimensions, make in ((1, eqx.nn.Conv1d), (3, eqx.nn.Conv3d)):
        layer = make(2, 3, 2, use_bias=False, key=KEY)
        (x,) = arrays((2, 2, *[4] * dimensions))
        new = delta_layers(layer, 0.3, decay=0.0)
        close(jax.vmap(new)(x), jax.vmap(layer)(x))
        total = lambda m, x=x: jnp.sum(jnp.sin(jax.vmap(m)(x)))  # noqa: E731
        close(gradient(new, loss=total).weight, gradient(layer, loss=total).weight)


@pytest.mark.parametrize("sizes", [("scalar", 3), (3, "scalar"), ("scalar", "scalar"), (3, 2)])
@pytest.mark.parametrize("use_bias", [False, True])
def test_linear_layers_compute_the_same(x64, sizes, use_bias):
    layer = eqx.nn.Linear(*sizes, use_bias=use_bias, key=KEY)
    new = delta_layers(layer, 0.3)
    (x,) = arrays((4,) if sizes[0] == "scalar" else (4, 3))
    y = jax.vmap(new)(x)
    assert y.shape == jax.vmap(layer)(x).shape
    close(y, jax.vmap(layer)(x))
    found = gradient(new, loss=lambda m: jnp.mean(jnp.sin(jax.vmap(m)(x))))
    assert np.any(found.weight != 0)


def test_weights_keep_their_paths_and_nothing_is_added():
    model = eqx.nn.MLP(4, 3, 5, 2, key=KEY)

    def paths(tree):
        leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(tree, eqx.is_array))
        return [(jax.tree_util.keystr(path), leaf.shape) for path, leaf in leaves]

    new = delta_layers(model, 0.1)
    assert paths(new) == paths(model)
    assert new.layers[0].weight is model.layers[0].weight
    assert isinstance(new.layers[0], eqx.nn.Linear)
    assert jax.tree.structure(delta_layers(new, 0.1)) == jax.tree.structure(new)


def test_where_chooses_layers():
    model = eqx.nn.MLP(4, 3, 5, 2, key=KEY)
    new = delta_layers(model, 0.1, where=lambda m: m.layers[1])
    kinds = [type(layer) is eqx.nn.Linear for layer in new.layers]
    assert kinds == [True, False, True]
    new = delta_layers(model, 0.1, where=lambda m: [m.layers[0], m.layers[2]])
    assert [type(layer) is eqx.nn.Linear for layer in new.layers] == [False, True, False]
    with pytest.raises(ValueError, match="`where` must name"):
        delta_layers(model, 0.1, where=lambda m: m.layers[0].weight)


def test_a_schedule_enters_in_the_loss_and_the_model_stays(x64):
    model = eqx.nn.MLP(4, 3, 5, 1, key=KEY)
    x, t = arrays((7, 4), (7, 3))

    def loss(model, rate, x, t):
        return mean_loss(delta_layers(model, rate), x, t)

    traced = eqx.filter_jit(eqx.filter_grad(loss))(model, jnp.asarray(0.3), x, t)
    assert jax.tree.structure(eqx.filter(traced, eqx.is_array)) == jax.tree.structure(
        eqx.filter(model, eqx.is_array)
    )
    fixed = gradient(delta_layers(model, 0.3), x, t)
    for a, b in zip(jax.tree.leaves(traced), jax.tree.leaves(fixed), strict=True):
        close(a, b)


def test_ensembles_of_models_are_copies(x64):
    make = eqx.filter_vmap(lambda key: eqx.nn.MLP(4, 3, 5, 1, key=key))
    models = delta_layers(make(jax.random.split(KEY, 2)), 0.3)
    x, t = arrays((7, 4), (7, 3))
    together = gradient(
        models,
        x,
        t,
        loss=lambda m, x, t: jnp.sum(
            eqx.filter_vmap(mean_loss, in_axes=(eqx.if_array(0), None, None))(m, x, t)
        ),
    )
    for i in range(2):
        one = jax.tree.map(lambda a, i=i: a[i] if eqx.is_array(a) else a, models)
        alone = jax.tree.leaves(gradient(one, x, t))
        for a, b in zip(jax.tree.leaves(together), alone, strict=True):
            close(a[i], b)


def test_small_rates_without_decay_are_the_ordinary_gradient(x64):
    model = eqx.nn.MLP(4, 3, 5, 1, key=KEY)
    x, t = arrays((7, 4), (7, 3))
    plain = jax.tree.leaves(gradient(model, x, t))
    for new in (delta_layers(model, 0.5, decay=0.0), delta_layers(model, 0.0, 0.0)):
        for a, b in zip(jax.tree.leaves(gradient(new, x, t)), plain, strict=True):
            close(a, b)


@pytest.mark.parametrize(
    "tx",
    [optax.adam(1e-2), optax.chain(optax.trace(0.9), optax.sgd(0.03)), delta_gradient_descent(0.1)],
    ids=["adam", "momentum", "descent"],
)
def test_trains_a_convolutional_network(tx):
    keys = jax.random.split(KEY, 2)
    model = eqx.nn.Sequential(
        [
            eqx.nn.Conv1d(1, 4, 3, padding=1, key=keys[0]),
            eqx.nn.Lambda(jnp.tanh),
            eqx.nn.Lambda(jnp.ravel),
            eqx.nn.Linear(32, 2, key=keys[1]),
        ]
    )
    model = delta_layers(model, 0.1, decay=0.05)
    (x,) = arrays((32, 1, 8))
    t = jnp.stack([x[:, 0, :4].sum(1), x[:, 0, 4:].sum(1)], 1) / 2
    state = tx.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(model, state):
        loss, g = eqx.filter_value_and_grad(mean_loss)(model, x, t)
        updates, state = tx.update(g, state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), state, loss

    losses = []
    for _ in range(150):
        model, state, loss = step(model, state)
        losses.append(float(loss))
    assert losses[-1] < 0.2 * losses[0]


def test_what_cannot_be_replaced_is_refused_by_name():
    with pytest.raises(ValueError, match="groups=2"):
        delta_layers(eqx.nn.Conv2d(2, 2, 3, groups=2, key=KEY), 0.1)

    class Scaled(eqx.nn.Linear):
        def __call__(self, x, *, key=None):
            return 2 * super().__call__(x)

    with pytest.raises(ValueError, match="Scaled computes something else"):
        delta_layers(Scaled(2, 2, key=KEY), 0.1)
    with pytest.raises(ValueError, match=r"shape \(2,\) is expected, got \(3, 2\)"):
        delta_layers(eqx.nn.Linear(2, 2, key=KEY), 0.1)(jnp.ones((3, 2)))
    with pytest.raises(ValueError, match="delta_layers: where must be a function"):
        delta_layers(eqx.nn.Linear(2, 2, key=KEY), 0.1, where="weight")
    with pytest.raises(ValueError, match=r"delta_layers: decay must be in \[0, inf\)"):
        delta_layers(eqx.nn.Linear(2, 2, key=KEY), 0.1, -1.0)
