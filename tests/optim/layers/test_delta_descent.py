"""Delta gradient descent against its objective, and its layer under every transformation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from scipy.optimize import minimize

from nestax.optim import delta_gradient, delta_gradient_descent, delta_linear

OUT, IN = 3, 5


def problem(rows, seed=0, dtype=np.float64):
    """A weight, inputs and targets of a linear layer."""
    rng = np.random.default_rng(seed)
    return tuple(
        jnp.asarray(rng.normal(size=s), dtype) for s in ((OUT, IN), (rows, IN), (rows, OUT))
    )


def error_rows(w, x, t):
    """dL/dy of the mean over rows of |W x - t|^2."""
    return 2 * (x @ w.T - t) / len(x)


def row_loss(w, x, t, rate=0.3):
    return jnp.sum(jnp.square(delta_linear(w, x, rate) - t))


def close(a, b, rtol=1e-10, atol=1e-13):
    np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


@jax.jit
@jax.value_and_grad
def objective(new, w, x, d, rate, each):
    """Of which a step is the minimiser, and its gradient."""
    new = new.reshape(OUT, IN)
    y = new @ x.T
    return jnp.sum(y * d.T) + each / 2 * jnp.sum(y**2) + jnp.sum((new - w) ** 2) / (2 * rate)


@pytest.mark.parametrize("rows", [1, 2, 5, 9])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("decay", [0.0, 0.7, 1.0])
def test_the_step_is_the_minimiser_of_the_stated_objective(x64, rows, reduction, decay):
    w, x, d = problem(rows)
    rate, each = 0.3, decay / rows if reduction == "mean" else decay
    new = w - rate * delta_gradient(w, x, d, rate, decay, reduction)
    given = (w, x, d, rate, each)
    np.testing.assert_allclose(objective(new.ravel(), *given)[1], 0, atol=1e-10)
    found = minimize(objective, np.zeros(OUT * IN), given, jac=True, tol=1e-9)
    np.testing.assert_allclose(new, found.x.reshape(OUT, IN), rtol=1e-6, atol=1e-6)


def test_one_row_is_the_papers_rule_with_its_denominator_mended(x64):
    w, x, d = problem(1)
    x, d, rate = x[0], d[0], 0.3
    new = w - rate * delta_gradient(w, x, d, rate)
    close(new, w - rate * jnp.outer(w @ x + d, x) / (1 + rate * x @ x))
    inverse = jnp.linalg.inv(jnp.outer(x, x) + jnp.eye(IN) / rate)
    close(new, (jnp.outer(-d, x) + w / rate) @ inverse)
    explicit = w - rate * delta_gradient(w, x, d, rate, explicit=True)
    close(explicit, w @ (jnp.eye(IN) - rate * jnp.outer(x, x)) - rate * jnp.outer(d, x))


def test_both_sides_of_the_push_through_identity_agree(x64):
    """Rows of zeros change the side on which the system is solved, and nothing else."""
    w, x, d = problem(4)
    more = [jnp.concatenate([a, jnp.zeros((6, a.shape[1]))]) for a in (x, d)]
    close(delta_gradient(w, *more, 0.3, reduction="sum"), delta_gradient(w, x, d, 0.3, 1.0, "sum"))


def test_limits_are_the_ordinary_gradient(x64):
    w, x, d = problem(7)
    close(delta_gradient(w, x, d, 0.3, decay=0.0), d.T @ x)
    close(delta_gradient(w, x, d, 0.0), d.T @ x + w @ x.T @ x / 7)
    assert delta_gradient(w, x[:0], d[:0], 0.3).shape == (OUT, IN)


@functools.partial(jax.jit, static_argnames=("steps", "explicit"))
def erased(w, x, steps, explicit):
    """The weight after steps on rows that have no error."""
    none = jnp.zeros((len(x), OUT))

    def step(w, _):
        return w - delta_gradient(w, x, none, 1.0, 1.0, "sum", explicit), None

    return jax.lax.scan(step, w, length=steps)[0]


@pytest.mark.parametrize("norm", [1e-3, 1.0, 2.0, 1e2, 1e4, 1e6])
@pytest.mark.parametrize("rows", [1, 3, 12])
@pytest.mark.parametrize("repeated", [False, True])
def test_never_diverges_where_the_explicit_step_does(norm, rows, repeated):
    w, x, _ = problem(rows, dtype=np.float32)
    x = norm * (jnp.repeat(x[:1], rows, 0) if repeated else x)
    x = x / jnp.linalg.norm(x[0])  # first row of norm `norm`
    x = norm * x
    start, end = jnp.linalg.norm(w), erased(w, x, 50, False)
    grown = jnp.linalg.norm(erased(w, x, 1, False)), jnp.linalg.norm(end)
    assert grown[0] <= start * (1 + 1e-5) and grown[1] <= start * (1 + 1e-3)
    if norm >= 1:  # what the inputs see is forgotten
        seen = jnp.linalg.norm(end @ x[0]) / norm
        assert seen <= 1e-2 * jnp.linalg.norm(w @ x[0]) / norm
    spectral = jnp.linalg.norm(x, 2) ** 2
    exploded = jnp.linalg.norm(erased(w, x, 50, True))
    if spectral > 2.1:
        assert not exploded < 10 * start
    elif spectral < 1.9:
        assert exploded <= start * (1 + 1e-5)


def vmapped(w, x, t):
    return jnp.mean(jax.vmap(row_loss, (None, 0, 0))(w, x, t))


def batched(w, x, t):
    return jnp.mean(jnp.sum(jnp.square(delta_linear(w, x, 0.3) - t), 1))


def nested(w, x, t):
    x, t = x.reshape(2, 3, IN), t.reshape(2, 3, OUT)
    return jnp.mean(jax.vmap(jax.vmap(row_loss, (None, 0, 0)), (None, 0, 0))(w, x, t))


def inner_batches(w, x, t):
    """A vmap over what is a batch already, along another axis."""
    x, t = x.reshape(2, 3, IN), t.reshape(2, 3, OUT)
    return jnp.mean(jax.vmap(lambda x, t: 2 * row_loss(w, x, t), (1, 1))(x, t)) / 4


FORMS = {
    "batched": batched,
    "vmapped": vmapped,
    "nested": nested,
    "inner batches": inner_batches,
    "jit inside": lambda w, x, t: jnp.mean(jax.vmap(jax.jit(row_loss), (None, 0, 0))(w, x, t)),
    "jit outside": jax.jit(vmapped),
    "checkpoint inside": lambda w, x, t: jnp.mean(
        jax.vmap(jax.checkpoint(row_loss), (None, 0, 0))(w, x, t)
    ),
    "checkpoint outside": jax.checkpoint(vmapped),
    "in a scan": lambda w, x, t: jax.lax.scan(
        lambda c, _: (c + vmapped(w, x, t), None), jnp.zeros(()), length=1
    )[0],
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize("jit", [False, True])
def test_every_form_of_a_batch_is_one_batch(x64, form, jit):
    w, x, t = problem(6)
    gradient = jax.grad(form, (0, 1))
    found, by_input = (jax.jit(gradient) if jit else gradient)(w, x, t)
    d = error_rows(w, x, t)
    close(found, delta_gradient(w, x, d, 0.3))
    close(by_input, d @ w)
    close(form(w, x, t), jnp.mean(jnp.sum(jnp.square(x @ w.T - t), 1)))


def test_gradients_inside_a_vmap_are_of_each_copy(x64):
    """Per example, or per task from shared weights: not the whole batch's for everyone."""
    w, x, t = problem(6)
    each = jax.vmap(jax.grad(row_loss), (None, 0, 0))(w, x, t)
    alone = [delta_gradient(w, x[i], 2 * (w @ x[i] - t[i]), 0.3) for i in range(6)]
    close(each, jnp.stack(alone))

    def adapted(x, t):
        new = w
        for _ in range(2):
            new = new - 0.3 * jax.grad(vmapped)(new, x, t)
        return new

    tasks = x.reshape(2, 3, IN), t.reshape(2, 3, OUT)
    side_by_side = jax.jit(jax.vmap(adapted))(*tasks)
    for i in range(2):
        close(side_by_side[i], adapted(tasks[0][i], tasks[1][i]))


def test_batched_weights_are_copies_with_rows_of_their_own(x64):
    w, x, t = problem(6)
    weights = jnp.stack([w, -w])

    def total(weights):
        return jnp.sum(jax.vmap(vmapped, (0, None, None))(weights, x, t))

    found = jax.grad(total)(weights)
    for one, new in zip(weights, found, strict=True):
        close(new, delta_gradient(one, x, error_rows(one, x, t), 0.3))

    def rates(rates):
        return jax.vmap(lambda r: jax.grad(lambda w: jnp.sum(delta_linear(w, x, r)))(w))(rates)

    ones = jnp.ones((6, OUT))
    close(rates(jnp.array([0.1, 2.0]))[1], delta_gradient(w, x, ones, 2.0))


def test_a_scan_over_batches_adds_up_their_rules(x64):
    w, x, t = problem(6)
    parts = x.reshape(2, 3, IN), t.reshape(2, 3, OUT)

    def loss(w):
        return jax.lax.scan(lambda c, xt: (c + vmapped(w, *xt), None), jnp.zeros(()), parts)[0]

    expected = [delta_gradient(w, x, error_rows(w, x, t), 0.3) for x, t in zip(*parts, strict=True)]
    close(jax.grad(loss)(w), expected[0] + expected[1])


def test_forward_mode_is_the_true_derivative(x64):
    w, x, t = problem(6)
    dots = problem(6, seed=1)
    for form in (vmapped, batched, nested):
        _, found = jax.jvp(form, (w, x, t), dots)
        plain = lambda w, x, t: jnp.mean(jnp.sum(jnp.square(x @ w.T - t), 1))  # noqa: E731
        close(found, jax.jvp(plain, (w, x, t), dots)[1])
    close(jax.jacfwd(vmapped)(w, x, t), jax.grad(plain)(w, x, t))


@pytest.mark.parametrize("differentiate", [jax.grad, jax.jacfwd, jax.jacrev])
@pytest.mark.parametrize("deep", [False, True])
def test_derivatives_through_inner_steps_are_exact(x64, differentiate, deep):
    """By the weights that were started from, the inputs, and the rate inside the rule."""
    w, x, t = problem(6)

    def layered(w, x, rate):
        def loss(w):
            losses = lambda x, t: row_loss(w, x, t, rate)  # noqa: E731
            if not deep:
                return jnp.mean(jax.vmap(losses)(x, t))
            split = x.reshape(2, 3, IN), t.reshape(2, 3, OUT)
            return jnp.mean(jax.vmap(jax.vmap(losses))(*split))

        for _ in range(2):
            w = w - rate * jax.grad(loss)(w)
        return jnp.sum(jnp.sin(w))

    def spelled_out(w, x, rate):
        for _ in range(2):
            w = w - rate * delta_gradient(w, x, error_rows(w, x, t), rate)
        return jnp.sum(jnp.sin(w))

    found, expected = (
        jax.jit(differentiate(f, (0, 1, 2)))(w, x, 0.3) for f in (layered, spelled_out)
    )
    for one, other in zip(found, expected, strict=True):
        close(one, other)


def test_a_sharded_batch_is_one_batch_under_jit_and_shards_add_up_under_shard_map(x64):
    w, x, t = problem(6)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    sharded = jax.device_put((x, t), (rows, rows))
    close(jax.jit(jax.grad(vmapped))(w, *sharded), delta_gradient(w, x, error_rows(w, x, t), 0.3))
    spec = PartitionSpec("data")
    mapped = jax.shard_map(
        jax.grad(vmapped),
        mesh=mesh,
        in_specs=(PartitionSpec(), spec, spec),
        out_specs=PartitionSpec(),
    )
    parts = [(x[i : i + 3], t[i : i + 3]) for i in (0, 3)]
    expected = [delta_gradient(w, x, error_rows(w, x, t), 0.3) for x, t in parts]
    close(jax.jit(mapped)(w, *sharded), expected[0] + expected[1])


def test_descent_at_the_layers_rate_lands_on_the_minimiser(x64):
    w, x, t = problem(6)
    tx = delta_gradient_descent(optax.piecewise_constant_schedule(0.3, {1: 0.5}))
    state, layered, closed = tx.init(w), w, w
    for rate in (0.3, 0.15):
        gradient = jax.grad(
            lambda w, rate=rate: jnp.mean(jax.vmap(lambda x, t: row_loss(w, x, t, rate))(x, t))
        )(layered)
        step, state = tx.update(gradient, state)
        layered = optax.apply_updates(layered, step)
        x_gram, d = jnp.eye(6) + rate / 6 * x @ x.T, error_rows(closed, x, t)
        pull = closed @ x.T / 6 + d.T
        closed = closed - rate * pull @ jnp.linalg.inv(x_gram) @ x
        close(layered, closed)


@pytest.mark.parametrize("norm", [0.3, 1.0, 30.0])
def test_descent_rests_where_pull_and_error_balance_not_at_the_losses_minimum(x64, norm):
    """Half the target for the half squared error, at any norm of the input."""
    x, t = norm * jnp.eye(IN)[0], jnp.arange(1.0, 1 + OUT)
    w, _, _ = problem(1)

    def step(w, _):
        loss = lambda w: jnp.sum(jnp.square(delta_linear(w, x, 1.0) - t)) / 2  # noqa: E731
        return w - jax.grad(loss)(w), None

    new = jax.lax.scan(step, w, length=20_000)[0]
    close(new @ x, t / 2)
    close(new[:, 1:], w[:, 1:])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_half_precision_keeps_its_dtype_and_is_solved_in_single(dtype):
    w, x, t = (a.astype(dtype) for a in problem(9, dtype=np.float32))
    assert delta_linear(w, x, 0.3).dtype == dtype
    found, by_input = jax.grad(batched, (0, 1))(w, x, t)
    assert (found.dtype, by_input.dtype) == (dtype, dtype)
    wide = [a.astype(jnp.float32) for a in (w, x, t)]
    tolerance = 50 * float(jnp.finfo(dtype).eps)
    close(found.astype(jnp.float32), jax.grad(batched)(*wide), tolerance, tolerance)


def test_wrong_arguments_are_refused_by_name():
    w, x, t = problem(6, dtype=np.float32)
    with pytest.raises(ValueError, match=r"delta_linear: a weight \(out, in\)"):
        delta_linear(w.T, x, 0.1)
    with pytest.raises(ValueError, match="delta_gradient: errors must have the shape"):
        delta_gradient(w, x, x, 0.1)
    with pytest.raises(ValueError, match=r"delta_linear: rate must be in \[0, inf\), got -0\.1"):
        delta_linear(w, x, -0.1)
    with pytest.raises(ValueError, match="delta_linear: reduction must be"):
        delta_linear(w, x, 0.1, reduction="median")
    with pytest.raises(ValueError, match=r"delta_gradient: decay must be in \[0, inf\)"):
        delta_gradient(w, x, t, 0.1, -1.0)
