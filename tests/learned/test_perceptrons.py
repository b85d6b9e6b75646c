"""Rules with a perceptron per parameter against their formulas in NumPy."""

import dataclasses
import functools
import json
import pathlib
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from references import learned_rules

from nestax import learned
from nestax.learned import features

GOLDEN = pathlib.Path(__file__).parent / "golden" / "perceptrons.json"
SHAPES = ((5,), (), (3, 3, 2, 4), (4, 3), (1, 7), (7, 1))
RANDOM = functools.partial(learned.normalized, begin_as="random")
RULES = {"small_fc": learned.small_fc, "normalized": RANDOM, "mlp": learned.mlp}
SIZES = {"small_fc": 197, "normalized": 329, "mlp": 1762}


def usual(rule):
    return rule


def plain(rule):
    """The rule with features in memory, as it is differentiated; mlp in blocks of two."""
    return dataclasses.replace(rule, **({"block": 2} if rule.name == "mlp" else {"fused": False}))


def smooth(shape, phase, scale=1.0):
    """Numbers without a generator, so that other programs have them, too."""
    n = int(np.prod(shape, dtype=int))
    return (scale * np.sin(1.7 * np.arange(n) + 0.3 * np.arange(n) ** 2 + phase)).reshape(shape)


def weights(rule):
    """Theta with all of it in use."""
    shapes = jax.eval_shape(rule.init, jax.random.key(0))
    leaves, structure = jax.tree.flatten(shapes)
    sizes = [x.shape[0] ** -0.5 if len(x.shape) == 2 else 0.03 for x in leaves]
    found = [smooth(x.shape, i, s) for i, (x, s) in enumerate(zip(leaves, sizes, strict=True))]
    return structure.unflatten(found)


def stream(shape, steps=4):
    """Parameters and gradients of several sizes."""
    return smooth(shape, 0.5), [smooth(shape, 2 + t, 10.0 ** (t - 2)) for t in range(steps)]


@functools.cache
def walked(name, form, dtype):
    """For each shape the updates and states, with a leading axis over gradients."""
    rule = form(RULES[name]())
    theta = weights(rule)
    pairs = [stream(shape) for shape in SHAPES]

    @jax.jit
    def run(theta, params, gradients):
        optimizer = rule(theta)

        def step(carry, g):
            params, state = carry
            updates, state = optimizer.update(g, state, params)
            return (optax.apply_updates(params, updates), state), (updates, state.rule)

        return jax.lax.scan(step, (params, optimizer.init(params)), gradients)[1]

    params, gradients = [p for p, _ in pairs], [np.stack(g) for _, g in pairs]
    cast = functools.partial(jax.tree.map, lambda x: jnp.asarray(x, dtype))
    return jax.tree.map(np.asarray, run(cast(theta), cast(params), cast(gradients)))


def walked_by_reference(name, theta):
    """The same, as (update, features, accumulators) for each shape and gradient."""
    for shape in SHAPES:
        rule = learned_rules.RULES[name](theta, shape)
        p, gradients = stream(shape)
        for step, g in enumerate(gradients):
            update, seen = rule.step(g, p)
            yield shape, step, update, seen, rule.accumulators
            p = p + update


@pytest.mark.parametrize("form", [usual, plain], ids=["as it is", "plain"])
@pytest.mark.parametrize("name", RULES)
def test_updates_are_those_of_the_formulas(name, form, x64):
    found = walked(name, form, jnp.float64)
    for shape, step, update, *_ in walked_by_reference(name, weights(RULES[name]())):
        mine = found[0][SHAPES.index(shape)][step]
        assert mine.shape == shape
        np.testing.assert_allclose(mine, update, rtol=1e-6, atol=1e-12, err_msg=f"{shape}, {step}")


@pytest.mark.parametrize("name", RULES)
def test_updates_in_single_precision(name):
    """Features are quotients of sums, right to a few rounding errors of 6e-8; the perceptron adds
    up to 39 of them that may cancel. Hence an error relative to the largest entry, and to what one
    term of the sum would make of it, the factor 0.001."""
    found = walked(name, usual, jnp.float32)
    for shape, step, update, *_ in walked_by_reference(name, weights(RULES[name]())):
        mine = found[0][SHAPES.index(shape)][step]
        largest = max(np.max(np.abs(update)), 1e-3)
        np.testing.assert_allclose(mine, update, rtol=0, atol=2e-5 * largest)


@pytest.mark.parametrize("name", RULES)
def test_accumulators_are_those_of_the_formulas(name, x64):
    theta = weights(RULES[name]())
    found = walked(name, usual, jnp.float64)
    for shape, step, _, _, accumulators in walked_by_reference(name, theta):
        state, want = found[1][SHAPES.index(shape)], accumulators.values
        state = jax.tree.map(lambda x, step=step: x[step], state)
        mine = {"m": state} if name == "mlp" else {
            "m": state.momentum, "v": state.second,
            "row": state.row, "column": state.column, "full": state.full,
        }  # fmt: skip
        named = {f"{k}{i}": x for k, s in mine.items() if s is not None for i, x in enumerate(s)}
        assert named.keys() == want.keys()
        for key, value in want.items():
            np.testing.assert_allclose(named[key], value, rtol=1e-6, err_msg=f"{shape} {key}")


@functools.partial(jax.jit, static_argnames="clipped")
def normalized_features(state, gradient, param, clipped):
    seen = features.tensor_features(state, gradient, param, clipped=clipped)
    eps = 1e-20 if clipped else 1e-5
    seen = [x * features.over_tensor(x, eps) for x in seen]
    return jnp.concatenate([jnp.broadcast_to(x, (len(x), *param.shape)) for x in seen])


@pytest.mark.parametrize("name", ["small_fc", "normalized"])
def test_each_feature_is_that_of_the_formulas(name, x64):
    theta = weights(RULES[name]())
    found = walked(name, usual, jnp.float64)
    for shape, step, update, seen, _ in walked_by_reference(name, theta):
        if step == 0:
            p, gradients = stream(shape)
        state = jax.tree.map(lambda x, step=step: x[step], found[1][SHAPES.index(shape)])
        mine = normalized_features(
            state, jnp.asarray(gradients[step]), jnp.asarray(p), name == "normalized"
        )
        names = [key for key in seen if "clock" not in key]
        assert len(mine) == len(names) == (28 if name == "small_fc" else 30)
        for key, value in zip(names, mine, strict=True):
            np.testing.assert_allclose(value, seen[key], rtol=1e-6, err_msg=f"{shape} {key}")
        p = p + update
        assert len(seen) == learned_rules.RULES[name].features


def test_clock(x64):
    for count in (0, 1, 57, 12_345):
        np.testing.assert_allclose(
            features.clock(jnp.asarray(count, jnp.int32), jnp.float64), learned_rules.clock(count)
        )


def test_updates_and_features_are_those_that_were_stored(x64):
    """Of a matrix and a vector, by rule; stored from the reference by `write_golden`."""
    stored = json.loads(GOLDEN.read_text())
    assert stored.keys() == RULES.keys()
    for name, shapes in stored.items():
        for text, want in shapes.items():
            shape = tuple(json.loads(text))
            seen, update = golden(name, shape)
            assert seen.keys() == want["features"].keys()
            for key, value in want["features"].items():
                np.testing.assert_allclose(seen[key], value, rtol=1e-8)
            np.testing.assert_allclose(update, want["update"], rtol=1e-8)
            mine = walked(name, usual, jnp.float64)[0][SHAPES.index(shape)][-1]
            np.testing.assert_allclose(mine, want["update"], rtol=1e-8)


def golden(name, shape):
    """Features and update at the last of four gradients."""
    rule = learned_rules.RULES[name](weights(RULES[name]()), shape)
    p, gradients = stream(shape)
    update = seen = None
    for g in gradients:
        update, seen = rule.step(g, p)
        p = p + update
    return seen, update


def write_golden():
    def rounded(x):
        return np.vectorize(lambda v: float(f"{v:.12g}"))(x).tolist()

    found: dict[str, Any] = {}
    for name in RULES:
        for shape in ((4, 3), (5,)):
            seen, update = golden(name, shape)
            found.setdefault(name, {})[json.dumps(shape)] = {
                "features": {key: rounded(x) for key, x in seen.items()}, "update": rounded(update)
            }  # fmt: skip
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n")


@pytest.mark.parametrize("name", RULES)
def test_gradients_in_theta_are_finite_differences(name, x64):
    """Through five updates of a matrix, a vector and a scalar, for each number of theta. Updates
    that are differentiated are computed in the plain form, those of the differences are not."""
    rule = RULES[name]()
    theta, unflatten = jax.flatten_util.ravel_pytree(jax.tree.map(jnp.asarray, weights(rule)))
    shapes = {"w": (4, 3), "b": (3,), "s": ()}
    start = {k: jnp.asarray(smooth(s, 0.5)) for k, s in shapes.items()}

    def loss(p):
        return jnp.sum(jnp.square(jnp.tanh(p["w"]) @ p["b"] - p["s"]))

    def after(theta):
        optimizer, p = rule(unflatten(theta)), start
        state = optimizer.init(p)

        def step(carry, _):
            p, state = carry
            updates, state = optimizer.update(jax.grad(loss)(p), state, p)
            return (optax.apply_updates(p, updates), state), None

        return loss(jax.lax.scan(step, (p, state), length=5)[0][0])

    slope, h = jax.jit(jax.grad(after))(theta), 1e-6
    some = np.arange(0, theta.size, 1 if theta.size < 500 else 37)
    moved, theta = h * jnp.eye(theta.size)[some], theta[None]
    many = jax.jit(jax.vmap(after))
    differences = (many(theta + moved) - many(theta - moved)) / (2 * h)
    assert jnp.max(jnp.abs(slope)) > 1e-6
    np.testing.assert_allclose(
        slope[some], differences, rtol=1e-5, atol=1e-5 * jnp.max(jnp.abs(slope))
    )


@pytest.mark.parametrize("name", RULES)
def test_updates_and_derivatives_are_finite_at_every_size_of_the_gradient(name):
    """From none to 1e30, with parameters of zeros and in half precision."""
    rule = RULES[name]()
    p = {"w": jnp.zeros((4, 3)), "s": jnp.ones(()), "b": jnp.ones(3, jnp.bfloat16)}

    @jax.jit
    def run(theta, scale):
        def loss(theta):
            optimizer, q = rule(theta), p
            state = optimizer.init(p)
            for t in range(2):
                g = {k: scale.astype(x.dtype) * jnp.asarray(smooth(x.shape, t), x.dtype)
                     for k, x in p.items()}  # fmt: skip
                updates, state = optimizer.update(g, state, q)
                q = optax.apply_updates(q, updates)
            return sum(jnp.sum(jnp.square(x.astype(jnp.float32))) for x in jax.tree.leaves(q)), q

        return jax.grad(loss, has_aux=True)(theta), loss(theta)

    for scale in (0.0, 1e-30, 1e-12, 1.0, 1e8, 1e30):
        found = run(rule.init(jax.random.key(0)), jnp.asarray(scale))
        assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(found))


@pytest.mark.parametrize("name", RULES)
def test_number_of_weights_and_their_initial_size(name):
    theta = RULES[name]().init(jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(theta)) == SIZES[name]
    assert {x.dtype for x in jax.tree.leaves(theta)} == {jnp.dtype(jnp.float32)}
    first = theta["layers"][0]
    assert not np.any(first["b"]) and np.max(np.abs(first["w"])) <= 2 / len(first["w"]) ** 0.5
    # A normal distribution that is cut at two deviations has a deviation of 0.88.
    assert 0.7 < np.std(first["w"]) * len(first["w"]) ** 0.5 < 1.05


def test_the_normalized_rule_begins_as_adam(x64):
    """Each step is Adam's without bias correction, its eps below the root, to a factor."""
    rng = np.random.default_rng(0)
    rule = learned.normalized((3, 2, 4))
    tx = rule(rule.init(jax.random.key(0)), 0.5)
    params = {"w": jnp.asarray(rng.normal(size=(4, 3)))}
    state, m, v = tx.init(params), 0.0, 0.0
    for _ in range(3):
        g = rng.normal(size=(4, 3))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        step = m / np.sqrt(v + 1e-6)
        updates, state = tx.update({"w": jnp.asarray(g)}, state, params)
        expected = -0.5 * step / np.sqrt(np.mean(step**2))
        np.testing.assert_allclose(updates["w"], expected, rtol=1e-6)
    with pytest.raises(ValueError, match="two units"):
        learned.normalized((8, 1))


def test_steps_of_the_normalized_rule_have_the_size_of_the_learning_rate():
    rule = learned.normalized()
    p = {"w": jnp.asarray(smooth((4, 3), 0)), "b": jnp.asarray(smooth((5,), 1, 1e-3))}
    optimizer = rule(rule.init(jax.random.key(1)), optax.linear_schedule(0.1, 0.0, 4))
    state, update = optimizer.init(p), jax.jit(optimizer.update)
    for rate in (0.1, 0.075, 0.05):
        updates, state = update(jax.tree.map(jnp.cos, p), state, p)
        for u in jax.tree.leaves(updates):
            np.testing.assert_allclose(jnp.sqrt(jnp.mean(u**2)), rate, rtol=1e-5)


def test_a_batch_of_thetas_gives_what_each_gives_alone():
    """Statistics over a tensor are those of this tensor, also beside others of another size."""
    for rule in (learned.small_fc(), plain(learned.normalized())):
        thetas = jax.vmap(rule.init)(jax.random.split(jax.random.key(0), 3))
        g = jnp.stack([jnp.asarray(smooth((4, 3), i, 10.0 ** (3 * i))) for i in range(3)])

        def update(theta, g, rule=rule):
            optimizer, p = rule(theta), jnp.ones((4, 3))
            return optimizer.update(g, optimizer.init(p), p)[0]

        together, one = jax.jit(jax.vmap(update))(thetas, g), jax.jit(update)
        for i in range(3):
            alone = one(jax.tree.map(lambda x, i=i: x[i], thetas), g[i])
            largest = np.max(np.abs(alone))
            np.testing.assert_allclose(together[i], alone, rtol=0, atol=2e-5 * largest)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: learned.small_fc(hidden=4), "small_fc: hidden must be a sequence"),
        (lambda: learned.mlp(hidden=(0,)), "mlp: hidden must be an int of at least 1"),
        (lambda: learned.small_fc(step=-1.0), "small_fc: step"),
        (lambda: learned.mlp(exponent=float("inf")), "mlp: exponent"),
        (lambda: learned.normalized(eps=1e-30), "normalized: eps"),
    ],
)
def test_options_that_cannot_be_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


if __name__ == "__main__":
    write_golden()
