"""Learning in context by the language model's own loss, and levels stacked on a trained model."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest
from modules import drawn
from references import memory_continuum as naive

import nestax as nx
from nestax.memory._in_context import learn_in_context
from nestax.memory.hope import HopeLM, stack_levels

VOCABULARY, WIDTH = 7, 8
GLOBAL = {"periods": (2, 4), "objective": None, "rate": 0.5, "hidden": 5}


def with_key(kind, *args, **options):
    return kind(*args, **options, key=jax.random.key(0))


def language_model(block="hope_attention", continuum=None, depth=2, make=with_key, **options):
    options |= {"chunk": 3, "adaptive": ("v",)} if block == "hope" else {"window": 6}
    sizes = VOCABULARY, WIDTH, depth, 2
    return make(HopeLM, *sizes, block=block, continuum=continuum, **options)


def text(time, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(VOCABULARY, size=time), jnp.int32)


learn = eqx.filter_jit(learn_in_context)
apply = eqx.filter_jit(lambda model, tokens, state=None: model(tokens, state))


@jax.jit
def losses_of(logits, targets):
    scores = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(scores, targets[:, None], axis=1)[:, 0]


def close(a, b, rtol=1e-9, atol=1e-12):
    a, b = jax.tree.leaves(a), jax.tree.leaves(b)
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)


@pytest.mark.parametrize("variant", ["sequential", "nested", "independent"])
def test_equals_a_naive_walk(x64, variant):
    model, tokens = language_model(continuum={**GLOBAL, "variant": variant}), text(13)
    start = [block.feed.init_state().weights for block in model.blocks]
    weights, state = start, model.init_state()
    gathered, told = jax.tree.map(np.zeros_like, weights), []

    @jax.jit
    @partial(jax.grad, has_aux=True)
    def read(weights, state, tokens):
        held = tuple(
            s._replace(feed=s.feed._replace(weights=w)) for s, w in zip(state, weights, strict=True)
        )
        logits, state = model(tokens[:-1], held)
        losses = losses_of(logits, tokens[1:])
        return jnp.sum(losses), (losses, state)

    for t in range(0, 12, 2):
        gradient, (losses, state) = read(weights, state, tokens[t : t + 3])
        told.append(losses)
        gathered = jax.tree.map(np.add, gathered, gradient)
        for b in range(2):
            levels, sums = list(weights[b]), list(gathered[b])
            for s, period in enumerate((2, 4)):
                if (t + 2) % period == 0:
                    leaves, treedef = jax.tree.flatten(levels[s])
                    moved = naive.step(leaves, jax.tree.leaves(sums[s]), 0.5, period, "mean", 1.0)
                    levels[s] = treedef.unflatten(moved)
                    sums[s] = jax.tree.map(np.zeros_like, sums[s])
                if variant == "nested" and s == 0 and (t + 2) % 4 == 0:
                    levels[s] = start[b][s]
            weights = [*weights[:b], tuple(levels), *weights[b + 1 :]]
            gathered = [*gathered[:b], tuple(sums), *gathered[b + 1 :]]
    losses, state = learn(model, tokens)
    close(losses, np.concatenate(told))
    close([s.feed.weights for s in state], weights)
    close([s.feed.gathered for s in state], gathered)
    assert not np.allclose(weights[0][1].up, start[0][1].up)


@pytest.mark.parametrize("block", ["hope", "hope_attention"])
def test_pieces_are_one_pass_and_reading_rests_the_clocks(x64, block):
    model, tokens = language_model(block, GLOBAL, depth=1, make=drawn), text(13)
    losses, state = learn(model, tokens)
    first, held = learn(model, tokens[:7], model.init_state())
    second, held = learn(model, tokens[6:], held)
    close(np.concatenate([first, second]), losses)
    close(held, state)
    # What was learnt is used where nothing is learnt, and stays.
    _, read = apply(model, text(5), state)
    close([s.feed for s in read], [s.feed for s in state], rtol=0, atol=0)
    empty, same = learn_in_context(model, tokens[:1], state)
    assert empty.shape == (0,) and same is state


def test_without_rates_it_is_reading(x64):
    model, tokens = language_model(continuum={**GLOBAL, "rate": 0.0}), text(13)
    losses, _ = learn(model, tokens)
    close(losses, losses_of(apply(model, tokens[:-1])[0], tokens[1:]))


def test_the_outer_level_trains_through_the_writes(x64):
    model, tokens = language_model(continuum=GLOBAL, depth=1), text(9)

    @eqx.filter_jit
    @eqx.filter_value_and_grad
    def loss(model):
        return jnp.sum(learn_in_context(model, tokens)[0])

    _, gradient = loss(model)
    leaves, treedef = jax.tree.flatten(model)
    for i, slope in enumerate(jax.tree.leaves(gradient)):
        way = np.random.default_rng(i).normal(size=slope.shape)
        sides = [
            loss(treedef.unflatten([*leaves[:i], leaves[i] + h * way, *leaves[i + 1 :]]))[0]
            for h in (1e-5, -1e-5)
        ]
        expected = (sides[0] - sides[1]) / 2e-5
        np.testing.assert_allclose(jnp.sum(slope * way), expected, rtol=2e-6, atol=1e-8)
    assert np.all(gradient.blocks[0].feed.rate != 0)


def test_the_level_table_finds_the_periods():
    model = language_model(continuum=GLOBAL, depth=1, make=drawn)

    def step(state, tokens):
        losses, state = learn_in_context(model, tokens, state)
        return state, losses

    table = nx.level_table(step, model.init_state(), text(9))
    for s, writes in enumerate((4, 2)):
        assert table.frequencies[f"[0].feed.weights[{s}].up"] == writes


@pytest.fixture(scope="module")
def trained():
    """A Transformer after a few steps on texts that repeat a pattern of four tokens."""
    model = language_model("transformer")
    tx = optax.adam(1e-2)

    @eqx.filter_jit
    def train(model, key):
        def step(carry, key):
            model, opt = carry
            pattern = jax.random.randint(key, (8, 4), 0, VOCABULARY)
            batch = jnp.tile(pattern, (1, 5))

            def loss(model):
                logits, _ = jax.vmap(model)(batch[:, :-1])
                return jnp.mean(jax.vmap(losses_of)(logits, batch[:, 1:]))

            value, gradient = jax.value_and_grad(loss)(model)
            updates, opt = tx.update(gradient, opt, model)
            return (optax.apply_updates(model, updates), opt), value

        keys = jax.random.split(key, 60)
        (model, _), values = jax.lax.scan(step, (model, tx.init(model)), keys)
        return model, values

    model, values = train(model, jax.random.key(1))
    assert values[-10:].mean() < 0.9 * values[:10].mean()
    return model


@pytest.mark.parametrize("objective", [None, "local"])
def test_levels_stacked_without_rates_are_the_trained_model(x64, trained, objective):
    """Along a stream by which they are written, and after it; with rates they are not."""
    trained = jax.tree.map(lambda x: jnp.asarray(np.asarray(x, float)), trained)
    tokens = text(49)
    plain, _ = apply(trained, tokens)

    def walked(rate):
        """Losses of the first 32 tokens, logits of the rest, and the state between them."""
        options = {"objective": objective, "key": jax.random.key(0)}
        model = stack_levels(trained, (4, 8), rate=rate, **options)
        if objective is None:
            losses, state = learn(model, tokens[:33])
        else:
            logits, state = apply(model, tokens[:32])
            losses = losses_of(logits, tokens[1:33])
        return losses, apply(model, tokens[32:], state)[0], state

    losses, logits, state = walked(0.0)
    np.testing.assert_allclose(losses, losses_of(plain[:32], tokens[1:33]), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(logits, plain[32:], rtol=1e-12, atol=1e-12)
    for block, held in zip(trained.blocks, state, strict=True):
        close(held.feed.weights[0], block.feed.mlp, rtol=0, atol=0)
    assert jnp.abs(walked(0.3)[1] - plain[32:]).max() > 0.1


def test_the_smaller_the_rate_the_nearer_the_trained_model(trained):
    tokens = text(33)
    plain = losses_of(apply(trained, tokens[:-1])[0], tokens[1:])
    away = [
        float(jnp.abs(learn(stack_levels(trained, (4, 8), rate=rate), tokens)[0] - plain).max())
        for rate in (1e-1, 1e-2, 1e-3)
    ]
    assert away[0] > 5 * away[1] > 25 * away[2] > 0


def test_a_trained_model_learns_a_text_in_context(trained):
    """One token follows another in a stream of a kind that training never showed."""
    tokens = jnp.tile(jnp.asarray([0, 0, 0, 1, 1, 1, 2, 2, 2], jnp.int32), 29)[:257]
    frozen, _ = learn(stack_levels(trained, (8, 16), rate=0.0), tokens)
    learning, _ = learn(stack_levels(trained, (8, 16), rate=0.3), tokens)
    assert learning[-64:].mean() < 0.8 * frozen[-64:].mean()


def test_targets_that_are_not_known_are_no_others(monkeypatch):
    """The last token is never read, only learnt from."""
    model = language_model(continuum=GLOBAL)
    vocabulary = model.embedding.shape[0]
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    for token in (-1, vocabulary):
        tokens = text(5).at[-1].set(token)
        with pytest.raises(ValueError, match=f"below the vocabulary; got {token}"):
            learn_in_context(model, tokens)
        losses, _ = jax.jit(learn_in_context)(model, tokens)
        assert jnp.isnan(losses[-1]) and jnp.isfinite(losses[:-1]).all()
    for wrong in (text(6).reshape(2, 3), [1, 2, 3]):
        with pytest.raises(ValueError, match="one array of tokens"):
            learn_in_context(model, wrong)


def test_mistakes_are_refused(trained):
    tokens = text(9)
    local = {k: v for k, v in GLOBAL.items() if k != "objective"}
    for model, told, message in (
        (trained, tokens, "has no ContinuumMemory"),
        (language_model(continuum=local), tokens, "make them with objective=None"),
        (language_model(continuum=GLOBAL), tokens[:8], "a multiple of the smallest period 2"),
        (language_model(continuum={**GLOBAL, "periods": (2, 3)}), tokens, "must divide the others"),
        (language_model(continuum=GLOBAL), tokens[:0], "a multiple of the smallest period"),
    ):
        with pytest.raises(ValueError, match=message):
            learn_in_context(model, told)
    with pytest.raises(ValueError, match="2 continuum memories, and its state holds 0"):
        learn_in_context(language_model(continuum=GLOBAL), tokens, trained.init_state())
    stacked = stack_levels(trained, (4, 4), objective="local", key=jax.random.key(0))
    first, second = (block.feed.target for block in stacked.blocks)
    assert first.shape == second.shape and not jnp.any(first == second)
    with pytest.raises(ValueError, match=r"one period for each of the 2 blocks, got \(4,\)"):
        stack_levels(trained, (4,))
    with pytest.raises(ValueError, match="block 0 has a ContinuumMemory, not a FeedForward"):
        stack_levels(language_model(continuum=GLOBAL), (4, 4))
