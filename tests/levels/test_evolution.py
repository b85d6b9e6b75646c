"""Evolution strategies in nests: against the interpreter, closed forms, and their own promises."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from references.nests import agree, draw_task, noise

import nestax as nx


def noisy(task, key):
    return task["shift"] + 0.3 * noise(key, 3)


def learner(flow, accumulate=None, every=2, horizon=4, **options):
    """A rate and a target that are shared, above weights that learn in episodes."""

    def inner(values, batch):
        return jnp.sum((values["w"] - batch - jnp.tanh(values["theta"]["target"])) ** 2) / 2

    def outer(values, batch):
        loss = jnp.sum((values["w"] - batch) ** 2) + jnp.sum(values["theta"]["target"] ** 4)
        return loss, {"size": jnp.sum(values["w"] ** 2)}

    w = nx.Level(
        "w",
        inner,
        lambda values: optax.sgd(jnp.exp(values["theta"]["rate"]), momentum=0.5),
        noisy,
        start=lambda values, task, key: values["theta"]["target"] + noise(key, 3),
        horizon=horizon,
    )
    theta = nx.Level(
        "theta", outer, optax.adam(0.1), noisy, every=every, flow=flow, accumulate=accumulate
    )
    values = {"theta": {"rate": jnp.asarray(-1.0), "target": jnp.array([0.5, -0.2, 0.1])}}
    return [w, theta], values, {"task": draw_task, "copies": 4, **options}


@pytest.mark.parametrize(
    "flow, accumulate, more",
    [
        (nx.PES(0.2), "mean", {"stagger": True}),
        (nx.NRES(0.1), None, {}),
        (nx.ES(0.1), "sum", {"stagger": True}),
    ],
    ids=str,
)
def test_it_is_a_loop_over_pairs(x64, flow, accumulate, more):
    levels, values, options = learner(flow, accumulate, **more)
    beside = nx.Level(
        "rate", lambda v, b: jnp.sum((v["rate"] - v["w"][0]) ** 2), optax.sgd(0.1), every=2
    )
    top = nx.Level("top", lambda v, b: jnp.sum(v["top"] * v["w"]), optax.sgd(0.1), every=4)
    nest = nx.Nest([levels[0], (levels[1], beside), top], **options)
    values = {**values, "rate": jnp.asarray(0.3), "top": jnp.ones(3)}
    agree(nest, values, 3, tolerance=1e-10)


SIGNS = jnp.concatenate([jnp.ones(10), -jnp.ones(13)])


def balancing(flow):
    """Influence balancing: theta acts on a chain whose early answer has the wrong sign."""
    matrix = 0.5 * jnp.eye(23) + 0.5 * jnp.diag(jnp.ones(22), 1)

    def ahead(values, batch):
        return values["s"] - matrix @ values["s"] - values["theta"] * SIGNS.astype(matrix.dtype)

    begin = lambda values, task, key: jnp.linalg.solve(jnp.eye(23) - matrix, 0.5 * SIGNS)  # noqa: E731
    s = nx.Level("s", nx.Field(ahead), optax.sgd(1.0), start=begin, horizon=2**20)
    loss = lambda values, batch: (values["s"][0] - 1) ** 2 / 2  # noqa: E731
    theta = nx.Level("theta", loss, optax.sgd(1e-4), flow=flow)
    return nx.Nest([s, theta], copies=400)


@pytest.mark.parametrize("flow", [nx.PES(0.1), nx.NRES(0.1), nx.ES(0.1), nx.Unroll()], ids=repr)
def test_influence_balancing(x64, flow):
    """Vicol et al. (2021), section 5. One step shows the wrong sign; at rest s_0 is -6 theta."""
    nest = balancing(flow)
    state, info = nest.run(nest.init({"theta": jnp.asarray(0.5)}, jax.random.key(0)), 3000)
    assert info["theta"].loss[0] == pytest.approx(8, abs=0.2)
    loss = float((6 * state.values["theta"] + 1) ** 2 / 2)
    assert loss < 1e-10 if isinstance(flow, (nx.PES, nx.NRES)) else loss > 100


def gathered():
    """An optimizer that moves nothing and remembers all gradients' sum and the last one."""

    def init(params):
        return jax.tree.map(jnp.zeros_like, (params, params))

    def update(gradient, state, params=None):
        total = jax.tree.map(jnp.add, state[0], gradient)
        return jax.tree.map(jnp.zeros_like, gradient), (total, gradient)

    return optax.GradientTransformation(init, update)


def quadratic(flow, periods, local=False):
    """An episode of several periods, whose loss is a quadratic of theta."""

    def pull(values, batch):
        return jnp.sum((values["w"] - values["theta"]) ** 2) / 2

    def loss(values, batch):
        if local:
            return jnp.sum(values["theta"])
        return jnp.sum((values["w"] - jnp.array([1.0, -2.0])) ** 2) / 2

    w = nx.Level(
        "w", pull, optax.sgd(0.2), start=lambda values, task, key: jnp.zeros(2), horizon=periods
    )
    return nx.Nest([w, nx.Level("theta", loss, gathered(), flow=flow)], copies=200)


THETA = jnp.array([0.7, 0.2])


def estimates(flow, periods, local=False):
    """100 means of 100 estimates: of an episode's gradient, and of that of its last period."""
    nest = quadratic(flow, periods, local)
    begin = nest.init({"theta": THETA}, jax.random.key(0))
    keys = jax.random.key_data(jax.random.split(jax.random.key(1), 100))

    @jax.jit
    @jax.vmap
    def episode(key):
        state = begin.replace(key=jax.random.wrap_key_data(key))
        state = jax.lax.scan(lambda s, _: (nest.step(s, {})[0], None), state, None, periods)[0]
        return state.optimizers["theta"]

    return [np.asarray(a) for a in episode(keys)]


@pytest.mark.parametrize("flow", [nx.PES(0.3), nx.NRES(0.3)], ids=repr)
def test_the_mean_over_an_episode_is_the_whole_gradient(x64, flow):
    def total(theta):
        w, loss = jnp.zeros(2), 0.0
        for _ in range(6):
            w = w - 0.2 * (w - theta)
            loss += jnp.sum((w - jnp.array([1.0, -2.0])) ** 2) / 2
        return loss

    # Of a quadratic the smoothed loss has the same gradient.
    found, exact = estimates(flow, 6)[0], jax.grad(total)(THETA)
    error = found.std(axis=0) / np.sqrt(len(found))
    assert (np.abs(found.mean(axis=0) - exact) < 3 * error).all()


def test_variance_grows_with_the_periods_under_pes_only(x64):
    """A loss of the present theta alone: PES weighs it by the sum of t perturbations."""
    late = [estimates(flow, 16, True)[1].var() for flow in (nx.PES(0.3), nx.NRES(0.3))]
    early = [estimates(flow, 1, True)[1].var() for flow in (nx.PES(0.3), nx.NRES(0.3))]
    assert late[0] > 4 * early[0]
    assert late[1] == pytest.approx(early[1], rel=0.4)


def test_what_is_made_of_losses():
    losses = jnp.array([[1.0, 3.0], [jnp.inf, 0.0], [900.0, 2.0], [2.0, 2.0]])
    slopes = lambda **options: nx.ES(0.5, **options).slopes(losses) / 2  # noqa: E731
    np.testing.assert_allclose(slopes(), [-2, 0, 898, 0])
    np.testing.assert_allclose(slopes(clip=10), [-2, 0, 8, 0])
    np.testing.assert_allclose(slopes(shape="sign"), [-1, 0, 1, 0])
    # Ranks of 1, 3, 900, 2, 2, 2: places 0, 4, 5 and three times 2, of 5.
    np.testing.assert_allclose(slopes(shape="rank"), [-0.8, 0, 0.6, 0], rtol=1e-6)
    assert repr(nx.PES(0.1, clip=5.0)) == "PES(0.1, clip=5.0)"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"copies": 3}, "level 'theta': PES tries values in antithetic pairs.*got copies=3"),
        ({"copies": None, "task": None}, "got copies=None"),
        ({"every": 4, "horizon": 2}, "episodes of 'w' are? .*|an episode of 2 ticks"),
    ],
)
def test_what_does_not_go_together_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        levels, _, options = learner(nx.PES(0.1), **change)
        nx.Nest(levels, **options)


def test_its_draws_are_not_held_against_differences():
    levels, values, options = learner(nx.PES(0.1))
    nest = nx.Nest(levels, **options)
    with pytest.raises(ValueError, match=r"PES\(0.1\) of level 'theta' draws an estimate"):
        nx.check_gradient(nest, nest.init(values, jax.random.key(0)), "theta")


def test_what_a_flow_remembers_is_resumed(tmp_path):
    levels, values, options = learner(nx.NRES(0.1), "mean", stagger=True)
    nest = nx.Nest(levels, **options)
    begin = nest.init(values, jax.random.key(0))
    assert set(begin.flows) == {"theta"}
    nest.run(begin, 3, watch=tmp_path / "run")
    resumed = nest.run(begin, 5, watch=tmp_path / "run")[0]
    whole = nest.run(begin, 5)[0]
    for a, b in zip(jax.tree.leaves(resumed), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(a, b)


def test_flows_that_cannot_contain_or_share_it():
    levels, _, options = learner(nx.PES(0.1))
    outer = nx.Level("outer", lambda v, b: jnp.sum(v["w"]), optax.sgd(0.1), every=4)
    message = "level 'theta': PES estimates a gradient.*flow Unroll of 'outer' cannot pass"
    with pytest.raises(ValueError, match=message):
        nx.Nest([*levels, nx.Level("outer", outer.objective, optax.sgd(0.1), every=4,
                                   flow=nx.Unroll())], **options)  # fmt: skip
    twin = nx.Level("twin", levels[1].objective, optax.sgd(0.1), every=2, flow=nx.NRES(0.1))
    with pytest.raises(ValueError, match="both one level with a dict as its value"):
        nx.Nest([levels[0], (levels[1], twin)], **options)
    for wrong in ({"sigma": 0}, {"sigma": -1.0}, {"sigma": 0.1, "shape": "centered"}):
        with pytest.raises(ValueError, match=r"PES: "):
            nx.PES(**wrong)


def test_a_peer_that_unrolls_leaves_the_memory_alone(x64):
    """The loss of each of six truncations is its age: their gradients sum to 2 + 4 + ... + 12."""
    start = lambda values, task, key: jnp.zeros(())  # noqa: E731
    w = nx.Level(
        "w", lambda v, b: -v["w"] * v["a"] * v["b"], optax.sgd(1.0), start=start, horizon=12
    )
    rest = optax.sgd(0.0)
    for flow in (nx.PES(0.1), nx.NRES(0.1)):
        a = nx.Level("a", lambda v, b: v["w"], rest, every=2, flow=flow)
        b = nx.Level("b", lambda v, b: v["w"], rest, every=2, flow=nx.Unroll())
        nest = nx.Nest([w, (a, b)], copies=4000)
        state, total = nest.init({"a": 1.0, "b": 1.0}, jax.random.key(0)), 0.0
        for _ in range(6):
            total += float(nest.gradient(state, "a"))
            state, _ = nest.step(state)
        assert abs(total - 42) < 5


def test_what_would_lose_the_perturbations_is_refused():
    start = lambda values, task, key: jnp.zeros(2)  # noqa: E731
    loss = lambda v, b: jnp.sum(v["w"] ** 2)  # noqa: E731
    w = nx.Level("w", loss, optax.sgd(0.1), start=start)
    shared = nx.Level("v", lambda v, b: jnp.sum((v["v"] - v["d"]) ** 2), optax.sgd(0.5), every=6)
    d = nx.Level("d", lambda v, b: jnp.sum(v["v"]), optax.sgd(1.0), every=6, flow=nx.ES(0.01))
    with pytest.raises(
        ValueError, match=r"'d': ES tries .* and 'v', inside it, is shared by the copies"
    ):
        nx.Nest([w, (shared,), d], copies=4)
    d = nx.Level("d", lambda v, b: jnp.sum(v["w"]), optax.sgd(1.0), every=6, flow=nx.PES(0.01))
    nx.Nest([w, d], copies=4, tasks=jnp.array([1.0, 1.0, 2.0, 2.0]))
    with pytest.raises(ValueError, match=r"tasks: copies 2i and 2i \+ 1 are .* theirs differ"):
        nx.Nest([w, d], copies=4, tasks=jnp.arange(4.0))
