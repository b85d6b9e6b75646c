"""Hope and its baselines: streams, gradients, sizes, levels, generation."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from modules import drawn

import nestax as nx
from nestax.memory._generate import generate
from nestax.memory._parts import rms_norm
from nestax.memory.blocks import KINDS, count
from nestax.memory.continuum import ContinuumMemory
from nestax.memory.hope import HopeLM

VOCABULARY, WIDTH, TIME = 11, 8, 11
CHUNKED = {"hope": 4, "titans": 4, "gated_delta": 4, "delta": 4}


def with_key(kind, *args, seed, **options):
    return kind(*args, **options, key=jax.random.key(seed))


def language_model(kind, depth=1, key=0, make=with_key, **options):
    if kind in ("hope", "hope_attention"):
        options = {"continuum": {"periods": (2, 4), "rate": 0.4}, **options}
    if kind in ("transformer", "hope_attention"):
        options = {"window": 5, **options}
    if kind in CHUNKED:
        options = {"chunk": CHUNKED[kind], **options}
    if kind == "hope":  # the others have tests of their own
        options = {"adaptive": ("v",), **options}
    return make(HopeLM, VOCABULARY, WIDTH, depth, 2, block=kind, seed=key, **options)


def text(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(VOCABULARY, size=shape), jnp.int32)


@eqx.filter_jit
def apply(model, tokens, state=None):
    return model(tokens, state)


@jax.jit
def slopes(model, tokens):
    """Of all scores, by every weight."""
    return jax.jacrev(lambda model: model(tokens)[0])(model)


def exact_model(kind):
    """Without weak types, so that there is one program for all models of a kind."""
    return jax.tree.map(lambda w: np.asarray(w, np.float64), language_model(kind))


def close(a, b, rtol=1e-9, atol=1e-11):
    a, b = jax.tree.leaves(a), jax.tree.leaves(b)
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)


# Streams.


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_are_one_pass(x64, kind):
    model, tokens = language_model(kind), text(TIME)
    logits, state = apply(model, tokens)
    for sizes in ((1,) * TIME, (5, 5, 1)):
        parts, held = [], model.init_state()
        for end, size in zip(np.cumsum(sizes), sizes, strict=True):
            part, held = apply(model, tokens[end - size : end], held)
            parts.append(part)
        close(jnp.concatenate(parts), logits)
        close(held, state)
    like = jax.eval_shape(model.init_state)
    assert jax.tree.structure(like) == jax.tree.structure(held)
    for a, b in zip(jax.tree.leaves(like), jax.tree.leaves(held), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)


def test_in_float32_pieces_are_one_pass_to_rounding():
    """They differ by no more than rounding every weight would: eps sum_i |w_i d logit / d w_i|."""
    with jax.enable_x64(True):
        model = jax.tree.map(lambda w: np.asarray(w, np.float32), language_model("hope"))
    tokens, model = text(6), jax.tree.map(jnp.asarray, model)
    whole, _ = apply(model, tokens)
    exact = jax.tree.map(lambda w: np.asarray(w, np.float64), model)
    with jax.enable_x64(True):
        jacobian = slopes(exact, tokens)
    bound = np.finfo(np.float32).eps * sum(
        np.sum(np.abs(np.asarray(j) * w), tuple(range(2, j.ndim)))
        for j, w in zip(jax.tree.leaves(jacobian), jax.tree.leaves(exact), strict=True)
    )

    def pieces(between=lambda state: state):
        parts, held = [], model.init_state()
        for piece in jnp.split(tokens, [1, 5]):
            part, held = apply(model, piece, between(held))
            parts.append(part)
        return jnp.concatenate(parts)

    assert np.all(np.abs(pieces() - whole) <= bound)
    half = lambda a: np.asarray(a).astype(jnp.bfloat16).astype(a.dtype)  # noqa: E731
    rounded = pieces(lambda state: jax.tree.map(half, state))
    assert np.mean(np.abs(rounded - whole) > bound) > 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_causal_and_every_weight_matters(x64, kind):
    model = exact_model(kind)
    tokens = jnp.arange(6, dtype=jnp.int32)  # every one once: its embedding is its place
    jacobian = jax.tree.map(lambda a: np.asarray(a)[:, 0], slopes(model, tokens))
    by_place = jacobian.embedding[:, :6]
    for t in range(6):
        assert not np.any(by_place[t, t + 1 :]) and np.any(by_place[t, t])
        assert t == 0 or np.any(by_place[t, :t])
    for path, leaf in jax.tree_util.tree_leaves_with_path(jacobian):
        assert np.all(np.isfinite(leaf)) and np.any(leaf), jax.tree_util.keystr(path)


@pytest.mark.parametrize("kind", ["hope", "hope_attention"])
def test_gradients_through_the_writes_equal_finite_differences(x64, kind):
    model, tokens = exact_model(kind), text(6)

    def loss(model):
        return np.sum(np.sin(apply(model, tokens)[0]))

    paths, treedef = jax.tree_util.tree_flatten_with_path(model)
    leaves = [leaf for _, leaf in paths]
    weights = np.cos(apply(model, tokens)[0])
    for i, jacobian in enumerate(map(np.asarray, jax.tree.leaves(slopes(model, tokens)))):
        slope = np.tensordot(weights, jacobian, 2)
        way = np.random.default_rng(i).normal(size=slope.shape)
        sides = [
            loss(treedef.unflatten([*leaves[:i], leaves[i] + h * way, *leaves[i + 1 :]]))
            for h in (1e-5, -1e-5)
        ]
        name = jax.tree_util.keystr(paths[i][0])
        expected = (sides[0] - sides[1]) / 2e-5
        np.testing.assert_allclose(
            np.sum(slope * way), expected, rtol=2e-6, atol=1e-8, err_msg=name
        )


def test_sequences_of_a_batch_are_independent(x64):
    model, tokens = language_model("hope"), text(3, 5)
    read = jax.jit(jax.vmap(model))
    state = jax.tree.map(lambda s: np.broadcast_to(s, (3, *s.shape)), model.init_state())
    _, state = read(tokens, state)
    logits, _ = read(tokens, state)
    for b in range(3):
        own = jax.tree.map(lambda s: np.asarray(s)[b], state)  # noqa: B023
        close(logits[b], apply(model, tokens[b], own)[0])


@pytest.mark.parametrize("kind", ["hope", "hope_attention"])
def test_long_streams_stay_finite(kind):
    model = HopeLM(VOCABULARY, 16, 1, 2, block=kind, key=jax.random.key(0))
    tokens = text(8192).at[4096:].set(3)  # one token again and again
    logits, state = apply(model, tokens)
    assert np.all(np.isfinite(logits)) and np.abs(logits).max() < 100
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state))


# Sizes.


def test_models_of_all_kinds_are_about_as_large():
    for kind in KINDS:
        build = lambda key, kind=kind: HopeLM(65, 64, 1, block=kind, key=key)  # noqa: E731
        shapes = eqx.filter_eval_shape(build, jax.random.key(0)).blocks[0]
        size = count(jax.tree.map(lambda a: jnp.asarray(np.empty(a.shape, a.dtype)), shapes))
        assert abs(size / 64**2 - 12) < 0.36, kind


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_loss_is_that_of_a_uniform_guess(x64, kind):
    model, tokens = language_model(kind), text(TIME)
    logits = np.asarray(apply(model, tokens)[0])
    scores = logits - np.log(np.sum(np.exp(logits), axis=1, keepdims=True))
    loss = -np.mean(scores[np.arange(TIME - 1), tokens[1:]])
    assert loss == pytest.approx(np.log(VOCABULARY), abs=0.1)


def test_blocks_may_be_of_several_kinds():
    kinds = ("transformer", "hope_attention")
    model = HopeLM(
        VOCABULARY, WIDTH, 2, 2, block=kinds, window=3, continuum=None, key=jax.random.key(0)
    )
    assert [isinstance(b.feed, ContinuumMemory) for b in model.blocks] == [False, True]
    assert model.blocks[0].mixer.window == 3


# Dropout.


def test_dropout_is_on_the_embedding_and_on_what_both_halves_add(x64):
    model, plain = (language_model("transformer", 2, dropout=d) for d in (0.3, 0.0))
    tokens, key = text(TIME), jax.random.key(5)
    keys = jax.random.split(key, 3)
    drop = eqx.nn.Dropout(0.3)

    @eqx.filter_jit
    def run(model, plain):
        x = drop(model.embedding[tokens], key=keys[2])
        for block, own in zip(model.blocks, keys[:2], strict=True):
            first, second = jax.random.split(own)
            x = x + drop(block.mixer(rms_norm(x, block.norm))[0], key=first)
            x = x + drop(block.feed(x)[0] - x, key=second)
        without = [model(tokens)[0], plain(tokens)[0], plain(tokens, key=key)[0]]
        return rms_norm(x, model.norm) @ model.head.T, model(tokens, key=key), without

    expected, (logits, state), (one, other, third) = run(model, plain)
    close(logits, expected)
    assert jax.tree.structure(state) == jax.tree.structure(model.init_state())
    close(one, other)
    close(third, other)


@pytest.mark.parametrize("kind", ["hope_attention", "gated_delta"])
def test_blocks_with_either_mlp_are_trained_with_dropout(kind):
    model, tokens = language_model(kind, dropout=0.2), text(7)
    loss = lambda m, key: jnp.mean(m(tokens, key=key)[0] ** 2)  # noqa: E731
    gradient = eqx.filter_jit(eqx.filter_grad(loss))
    one, same, other = (gradient(model, jax.random.key(i)).embedding for i in (0, 0, 1))
    assert jnp.isfinite(one).all() and (one == same).all() and (one != other).any()


# Levels.


def table_of(model, calls):
    def step(state, token):
        logits, state = model(token[None], state)
        return state, logits

    return nx.level_table(step, model.init_state(), jnp.asarray(3), calls=calls)


def test_the_level_table_finds_every_clock():
    table = table_of(language_model("hope_attention"), 4)
    assert table.frequencies["[0].feed.weights[0].up"] == 0.5
    assert table.frequencies["[0].feed.weights[1].up"] == 0.25
    assert table.frequencies["[0].mixer.keys"] == 1
    assert table.compare("[0].feed.weights[0].up", "[0].feed.weights[1].up") == ">"
    assert table.compare("[0].mixer.keys", "[0].feed.weights[0].up") == ">"


def test_the_memories_of_hope_are_written_at_every_token():
    table = table_of(language_model("hope", adaptive=("k", "v", "rate", "retain")), 4)
    memory = [f for p, f in table.frequencies.items() if p.startswith("[0].mixer.now")]
    assert len(memory) == 5 and min(memory) >= 1
    assert table.frequencies["[0].feed.weights[1].down"] == 0.25


# Generation.


def test_generation_equals_reading_again_and_again(x64):
    model, prompt = language_model("hope_attention", key=1), text(4)
    model = eqx.tree_at(lambda m: m.head, model, replace_fn=lambda w: 30 * w)
    told = np.concatenate([prompt, np.zeros(5, np.int32)])
    for n in range(4, 9):  # what comes later has no effect on what comes before
        told[n] = np.argmax(apply(model, jnp.asarray(told))[0][n - 1])
    told = jnp.asarray(told)
    first, state = generate(model, prompt, 3, jax.random.key(0), temperature=0.0)
    assert first.dtype == jnp.int32 and first.tolist() == told[4:7].tolist()
    # And goes on.
    second, state = generate(model, first[-1:], 2, jax.random.key(1), 0.0, state)
    assert [*first.tolist(), *second.tolist()] == told[4:].tolist()
    close(state, apply(model, told[:-1])[1])


class Chain(eqx.Module):
    """A Markov chain; counts how often it is traced."""

    scores: jax.Array
    traced: list = eqx.field(static=True)

    def __call__(self, tokens, state):
        self.traced.append(len(tokens))
        return self.scores[tokens], state


@pytest.mark.parametrize(("temperature", "power"), [(1.0, 1), (0.5, 2)])
def test_tokens_are_drawn_from_the_distribution(temperature, power):
    shares = jnp.asarray([[0.2, 0.8], [0.6, 0.4]])
    model, prompt = Chain(jnp.log(shares), []), jnp.asarray([1, 0], jnp.int32)
    drawn, _ = generate(model, prompt, 4000, jax.random.key(2), temperature)
    drawn = np.asarray([0, *drawn.tolist()])
    for token in (0, 1):
        expected = shares[token, 1] ** power / jnp.sum(shares[token] ** power)
        after = drawn[1:][drawn[:-1] == token]
        assert abs(after.mean() - expected) < 4 * 0.5 / len(after) ** 0.5
    # Another draw, other temperatures and other weights compile nothing.
    assert len(model.traced) == 2 and sorted(model.traced) == [1, 2]
    other = Chain(model.scores + 1, model.traced)
    again, _ = generate(other, prompt, 4000, jax.random.key(3), 0.0)
    assert len(model.traced) == 2 and set(again[:6].tolist()) == {0, 1}
    assert again[:4].tolist() == [1, 0, 1, 0]


def test_a_batch_is_drawn_side_by_side():
    model, prompts = language_model("transformer"), text(3, 4)
    keys = jax.random.split(jax.random.key(0), 3)
    drawn, _ = jax.vmap(lambda p, k: generate(model, p, 5, k))(prompts, keys)
    for b in range(3):
        alone, _ = generate(model, prompts[b], 5, keys[b])
        assert drawn[b].tolist() == alone.tolist()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("transformer", "delta")])
def test_devices_can_be_given_sequences(x64, kind):
    """Every sequence is read and learnt from where it lies; between devices only sums are moved.

    The two other kinds have the layers of these."""
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    params, static = eqx.partition(language_model(kind), eqx.is_inexact_array)
    batch = text(4, 7)  # odd: gradients of a period that is not over are gathered

    def loss(params, batch):
        logits, states = jax.vmap(eqx.combine(params, static))(batch)
        return jnp.mean(jax.nn.logsumexp(logits, axis=-1)), states

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    placed = jax.device_put(params, NamedSharding(mesh, P()))
    spread = jax.device_put(batch, NamedSharding(mesh, P("data")))
    programs = [program.lower(placed, spread).compile() for program in (jax.jit(loss), step)]
    for program, moved in zip(programs, (1, None), strict=True):  # the loss; and gradients
        moves = re.findall(r" (all-\w+|collective-\w+|reduce-scatter)[\w-]*\(", program.as_text())
        assert set(moves) == {"all-reduce"} and moved in (None, len(moves))
    (value, states), gradient = programs[1](placed, spread)
    memories = [s for s in jax.tree.leaves(states) if eqx.is_inexact_array(s)]  # not the clocks
    assert memories and all(s.sharding.spec[:1] == ("data",) for s in memories)
    close(((value, states), gradient), step(params, batch))


# Mistakes.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": "lstm"}, "HopeLM: block must be one of .*hope_attention.* got 'lstm'"),
        ({"block": ("hope",)}, "one for each of the 2, got 1"),
        ({"block": None}, "HopeLM: block must be one of hope, .* each of the 2 blocks, got None"),
        ({"block": ("delta", ("titans", {"window": 4}))}, "'titans' has no option 'window'"),
        ({"block": ("transformer", {"window": 4})}, r"a pair of a kind and its options, got \{'wi"),
        ({"block": ("delta", ("delta", {}, 1))}, "a pair of a kind and its options, got"),
        ({"block": ("delta", ("delta", {"heads": 1}))}, "heads is the same for all blocks"),
        ({"block": ("delta", "titans"), "continuum": {"rate": 0.1}}, "has no continuum memory"),
        (
            {"block": "transformer", "chunk": 4},
            "has no option 'chunk'; it has: window",
        ),
        ({"block": "gated_delta", "gated": False}, "has no option 'gated'"),
        ({"block": "delta", "continuum": {"rate": 0.1}}, "has no continuum memory"),
        (
            {"continuum": {"period": (4,)}},
            "memory has no option 'period'; it has: periods",
        ),
        ({"continuum": {"periods": 4}}, r"periods must be .* such as \(16, 64\), .* got 4"),
        ({"continuum": (4, 8)}, "continuum must be a mapping of options of ContinuumMemory"),
        ({"dropout": 1.0}, "at least 0 and less than 1, got 1"),
        ({"dropout": "0.1"}, "at least 0 and less than 1, got '0.1'"),
        ({"dropout": float("nan")}, "at least 0 and less than 1, got nan"),
        ({"vocabulary": 0}, "HopeLM: vocabulary must be at least 1, got 0"),
        ({"depth": 1.5}, "HopeLM: depth must be a whole number, got 1.5"),
        ({"key": jax.random.PRNGKey(0)}, r"HopeLM: key must be one typed .* Got uint32"),
    ],
)
def test_bad_models_are_refused(monkeypatch, options, message):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    options = {"vocabulary": 5, "width": 8, "depth": 2, "key": jax.random.key(0), **options}
    with pytest.raises(ValueError, match=message):
        HopeLM(**options)


def test_blocks_of_several_kinds_have_options_of_their_own():
    kinds = ["delta", ("transformer", {"window": 5}), ("delta", {"conv": 0, "hidden": 24}), "hope"]
    shared = {"hidden": 16, "continuum": {"periods": (3,)}}
    model = HopeLM(11, 8, 4, 2, block=kinds, **shared, key=jax.random.key(0))
    first, second, third, fourth = model.blocks
    assert first.mixer.conv.weight.shape[1] == 4 and third.mixer.conv.weight is None
    assert second.mixer.window == 5
    assert [b.feed.mlp.down.shape[1] for b in model.blocks[:3]] == [16, 16, 24]
    assert fourth.feed.periods == (3,)


def test_tokens_out_of_range_are_not_read_as_others(monkeypatch):
    model = language_model("transformer")
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    for wrong, message in (
        (jnp.array([1, 11]), "from 0 to 10, below the vocabulary; got 11"),
        (jnp.array([-1, 0]), "got -1"),
        (jnp.ones(3), "tokens are integers, got float"),
        (jnp.zeros((2, 3), jnp.int32), r"one array of tokens .* got \(2, 3\)"),
    ):
        with pytest.raises(ValueError, match=message):
            model(wrong)
    for token in (-1, 11):  # where they are traced
        logits, _ = apply(model, jnp.array([1, 2, token]))
        assert jnp.isnan(logits[-1]).all()


def test_tokens_that_are_not_there_may_be_any(monkeypatch):
    model, valid = language_model("transformer"), np.array([False, True])
    model.check_tokens(jnp.array([-100, 3]), valid)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match="got 11"):
        model(jnp.array([-100, 11]), valid=valid)
    with pytest.raises(ValueError, match=r"HopeLM: valid must be .* of shape \(3,\)"):
        model.check_tokens(jnp.arange(3), valid)


def test_states_and_masks_that_do_not_fit_are_refused(monkeypatch):
    model, tokens = language_model("transformer"), jnp.arange(3)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    for arguments, message in (
        ({"state": 3}, "HopeLM: state must be a tuple of 1 states, one for each block, got a int"),
        ({"state": ()}, "HopeLM: state must be a tuple of 1 states, .* got 0"),
        ({"state": (3,)}, "Block: state must be a BlockState, got a int"),
        ({"state": language_model("delta").init_state()}, "CausalAttention: state must be a Att"),
        ({"segments": tokens, "reset": np.ones(3, bool)}, "pass segments or reset, not both"),
        ({"segments": tokens[:2]}, r"HopeLM: segments must be .* of shape \(3,\), .* got shape"),
        ({"segments": np.ones(3)}, "segments must be one array of integers"),
        ({"reset": np.ones(3, int)}, "HopeLM: reset must be one array of booleans"),
        ({"segments": tokens, "max_documents": 2}, "HopeLM: 3 documents begin in this piece"),
        ({"key": 0}, r"HopeLM: key must be one typed PRNG key; pass jax.random.key\(seed\)"),
    ):
        with pytest.raises(ValueError, match=message):
            model(tokens, **arguments)


def test_flushing_a_model_flushes_its_continuum_memories():
    model = language_model("hope_attention", depth=2, make=drawn)
    _, state = apply(model, text(5))
    for block, before, after in zip(model.blocks, state, model.flush(state), strict=True):
        close(after.feed, block.feed.flush(before.feed), rtol=0, atol=0)
        assert not after.feed.tick.any() and before.feed.tick.any()
        close(after.mixer, before.mixer, rtol=0, atol=0)
    plain = language_model("transformer", make=drawn)
    _, state = apply(plain, text(5))
    close(plain.flush(state), state, rtol=0, atol=0)


def test_bad_generation_is_refused(monkeypatch):
    model, key, two = Chain(jnp.zeros((2, 2)), []), jax.random.key(0), jnp.zeros(2, jnp.int32)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    for prompt, steps, temperature, message in (
        (jnp.zeros(0, jnp.int32), 3, 1.0, "at least one token, got shape"),
        ([0, 1], 3, 1.0, r"at least one token, got shape \(2,\) in a list"),
        (two, 0, 1.0, "steps must be a whole number, at least 1"),
        (two, 2.5, 1.0, "got 2.5"),
        (two, 3, -1.0, "temperature must be a finite number"),
        (two, 3, jnp.array(-1.0), "temperature must be a finite number"),
        (two, 3, np.float32("nan"), "temperature must be a finite number"),
    ):
        with pytest.raises(ValueError, match=message):
            generate(model, prompt, steps, key, temperature)


def test_prompts_of_unknown_tokens_are_refused(monkeypatch):
    model, key = language_model("transformer"), jax.random.key(0)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    for prompt, message in (
        (jnp.array([3, 99]), "below the vocabulary; got 99"),
        (jnp.array([3, -1]), "below the vocabulary; got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            generate(model, prompt, 3, key)
