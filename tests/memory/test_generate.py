"""Generation: padded batches, stop tokens, what is left out of a draw, streams of tokens."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from modules import drawn

from nestax.memory._generate import generate, stream_tokens
from nestax.memory._sampling import leave_out, penalize
from nestax.memory.hope import HopeLM

VOCABULARY = 13


class Recurrent(eqx.Module):
    """h = tanh(W h + embedding), for valid tokens only; counts how often it is traced."""

    embedding: jax.Array
    weight: jax.Array
    head: jax.Array
    traced: list = eqx.field(static=True)

    def __init__(self, seed=0, traced=None):
        draw = np.random.default_rng(seed)
        self.embedding = jnp.asarray(draw.normal(size=(VOCABULARY, 4)))
        self.weight = jnp.asarray(draw.normal(size=(4, 4)))
        self.head = jnp.asarray(2 * draw.normal(size=(VOCABULARY, 4)))
        self.traced = [] if traced is None else traced

    def __call__(self, tokens, state=None, *, valid=None):
        self.traced.append(tokens.shape)
        state = jnp.zeros(4, self.weight.dtype) if state is None else state
        valid = jnp.ones(tokens.shape, bool) if valid is None else valid
        rows = self.embedding.at[tokens]
        inputs = rows.get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)

        def read(h, token):
            x, real = token
            h = jnp.where(real, jnp.tanh(self.weight @ h + x), h)
            return h, self.head @ h

        state, logits = jax.lax.scan(read, state, (inputs, valid))
        return logits, state


def text(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(VOCABULARY, size=shape), jnp.int32)


# The definitions, written out with loops.


def kept(logits, top_k=None, top_p=None, min_p=None):
    """The set of tokens that may be drawn."""
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    if top_k is not None:
        order = order[:top_k]
    shares = np.exp(logits - logits[order[0]])
    if top_p is not None and top_p < 1:
        target, gathered, left = top_p * sum(shares[i] for i in order), 0.0, []
        for i in order:
            left.append(i)
            gathered += shares[i]
            if gathered >= target:
                break
        order = left
    if min_p is not None:
        order = [i for i in order if shares[i] >= min_p]
    return set(order)


def penalized(logits, seen, penalty):
    return [
        (x * penalty if x < 0 else x / penalty) if i in seen else x for i, x in enumerate(logits)
    ]


def generated(model, prompt, steps, key, temperature=1.0, penalty=1.0, scores=None, **options):
    """Token after token in numpy; only the draw is JAX's."""
    weight, rows, head = (np.asarray(a) for a in (model.weight, model.embedding, model.head))
    told, h = prompt.tolist(), np.zeros(4)
    for token in told[:-1]:
        h = np.tanh(weight @ h + rows[token])
    for index in range(steps):
        h = np.tanh(weight @ h + rows[told[-1]])
        logits = np.asarray(penalized(head @ h, set(told), penalty))
        if scores is not None:
            logits = scores(logits, told)
        if temperature:
            logits = logits / temperature
            some = kept(logits, **options)
            left = jnp.asarray([x if i in some else -np.inf for i, x in enumerate(logits)])
            told.append(int(jax.random.categorical(jax.random.fold_in(key, index), left)))
        else:
            told.append(int(np.argmax(logits)))
    return told[len(prompt) :]


# What is left out of a draw.


def test_what_is_left_out_is_as_defined(x64):
    draw = np.random.default_rng(1)
    logits = [3 * draw.normal(size=VOCABULARY) for _ in range(6)]
    logits += [np.round(x) for x in logits] + [np.zeros(VOCABULARY)]  # equal scores
    logits += [np.where(draw.random(VOCABULARY) < 0.5, -np.inf, logits[0])]  # excluded before
    checked = jax.jit(leave_out)
    shares, ratios = (None, 1e-9, 0.31, 0.77, 0.999, 1.0), (None, 0.0, 0.05, 1.0)
    for k, p, m in itertools.product((None, 1, 3, VOCABULARY, 99), shares, ratios):
        options = {
            name: jnp.asarray(value)
            for name, value in (("top_k", k), ("top_p", p), ("min_p", m))
            if value is not None
        }
        for x in logits:
            got = np.asarray(checked(jnp.asarray(x), **options))
            some = kept(x, k, p, m)
            expected = [x[i] if i in some else -np.inf for i in range(VOCABULARY)]
            assert got.tolist() == expected, (k, p, m)


def test_of_equal_scores_the_smaller_tokens_stay():
    equal, checked = np.zeros(4, np.float32), jax.jit(leave_out)
    for options, count in (
        ({"top_k": jnp.asarray(3)}, 3),
        ({"top_p": jnp.asarray(0.5)}, 2),
        ({"top_p": jnp.asarray(0.51)}, 3),
        ({"top_k": jnp.asarray(2), "top_p": jnp.asarray(0.5)}, 1),
        ({"min_p": jnp.asarray(1.0)}, 4),
    ):
        assert np.isfinite(checked(equal, **options)).tolist() == [i < count for i in range(4)]


def test_small_probabilities_are_not_lost_in_sums():
    """Half of the probability in one token, the rest in a hundred thousand."""
    logits = np.zeros(100_001, np.float32)
    logits[7] = np.log(1e5)
    left = jax.jit(lambda logits, p: leave_out(logits, top_p=p))
    assert abs(np.sum(np.isfinite(left(logits, 0.75))) - 50_001) <= 10
    assert np.sum(np.isfinite(left(logits, 1.0))) == 100_001


def test_penalty_is_as_defined(x64):
    logits = np.asarray([2.0, -2.0, 0.0, 3.0, -3.0, -np.inf])
    seen = np.asarray([True, True, True, False, False, True])
    for penalty in (0.5, 1.0, 1.25):
        got = penalize(jnp.asarray(logits), jnp.asarray(seen), jnp.asarray(penalty))
        assert got.tolist() == penalized(logits, set(np.flatnonzero(seen)), penalty)


def not_the_last(logits, tokens):
    """Forbids the token before, and the first half of the vocabulary while there are under 8."""
    count = jnp.sum(tokens >= 0)
    logits = logits.at[tokens[count - 1]].set(-jnp.inf)
    return jnp.where((count < 8) & (jnp.arange(VOCABULARY) < 6), -jnp.inf, logits)


def not_the_last_of(logits, told):
    logits[told[-1]] = -np.inf
    if len(told) < 8:
        logits[:6] = -np.inf
    return logits


def test_generation_is_as_defined(x64):
    model, prompt, key = Recurrent(), text(5), jax.random.key(3)
    for penalty, scores, options in (
        (None, (None, None), {"top_k": 4}),
        (1.4, (not_the_last, not_the_last_of), {"top_p": 0.8}),
        (0.7, (not_the_last, not_the_last_of), {"top_k": 6, "top_p": 0.9, "min_p": 0.1}),
    ):
        for heat in (0.0, 1.25):
            given = {"repetition_penalty": penalty, "scores": scores[0], **options}
            drawn, _ = generate(model, prompt, 7, key, heat, **given)
            expected = generated(model, prompt, 7, key, heat, penalty or 1.0, scores[1], **options)
            assert drawn.tolist() == expected


def as_they_are(logits, tokens):
    return logits


def test_options_that_leave_nothing_out_or_all_but_one():
    model, prompt, key = Recurrent(), text(5), jax.random.key(1)
    plain = generate(model, prompt, 30, key)[0].tolist()
    every = {"top_k": 99, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
    assert generate(model, prompt, 30, key, scores=as_they_are, **every)[0].tolist() == plain
    greedy = generate(model, prompt, 30, temperature=0.0)[0].tolist()
    assert plain != greedy
    assert generate(model, prompt, 30, key, 1e-40)[0].tolist() == greedy
    for one in ({"top_k": 1}, {"top_p": 1e-50}, {"min_p": 1.0}):
        assert generate(model, prompt, 30, key, **one)[0].tolist() == greedy
    equal = eqx.tree_at(lambda m: m.head, model, jnp.zeros_like(model.head))
    for one in ({"top_k": 1}, {"top_p": 1e-50}):
        assert generate(equal, prompt, 30, key, **one)[0].tolist() == [0] * 30


def test_other_numbers_compile_nothing():
    model, prompt = Recurrent(), text(5)
    for seed, heat, k, p in ((0, 1.0, 3, 0.9), (1, 0.5, 5, 0.4), (2, 0.0, 2, 1.0)):
        key = jax.random.key(seed)
        generate(model, prompt, 6, key, heat, top_k=k, top_p=p, repetition_penalty=1 + p, stop=(3,))
        assert sorted(set(model.traced)) == [(1,), (5,)] and len(model.traced) <= 3
    # Numbers may be traced, and then differ between rows.
    shares = jnp.asarray([1e-3, 0.5])
    several = jax.vmap(lambda p: generate(model, prompt, 6, key, top_p=p)[0])(shares)
    for tokens, share in zip(several, shares, strict=True):
        assert tokens.tolist() == generate(model, prompt, 6, key, top_p=share)[0].tolist()


# Stop tokens.


def read(model, prompt, tokens):
    """The state that has seen a prompt and all but the last of some tokens, in numpy."""
    weight, rows, h = np.asarray(model.weight), np.asarray(model.embedding), np.zeros(4)
    for token in [*prompt.tolist(), *tokens[:-1]]:
        h = np.tanh(weight @ h + rows[token])
    return h


def test_a_stop_ends_the_tokens_and_the_state(x64):
    model, prompt, key = Recurrent(), text(4), jax.random.key(5)
    free = generate(model, prompt, 12, key)[0].tolist()
    for place in (0, 5, 11):
        stop = free[place]
        end = free.index(stop)
        drawn, state = generate(model, prompt, 12, key, stop=stop)
        assert drawn.tolist() == free[: end + 1] + [-1] * (11 - end)
        np.testing.assert_allclose(state, read(model, prompt, free[: end + 1]), rtol=1e-12)
    never = next(t for t in range(VOCABULARY) if t not in free)
    drawn, state = generate(model, prompt, 12, key, stop=[never])
    assert drawn.tolist() == free
    np.testing.assert_allclose(state, read(model, prompt, free), rtol=1e-12)
    # Several, in any order and container; another token after the stop.
    first = min(free.index(free[3]), free.index(free[6]))
    for stop in ([free[3], free[6]], np.asarray([free[6], free[3]]), {free[3], free[6]}):
        drawn, _ = generate(model, prompt, 12, key, stop=stop, pad=99)
        assert drawn.tolist() == free[: first + 1] + [99] * (11 - first)
    assert generate(model, prompt, 12, key, stop=())[0].tolist() == free


def test_nothing_is_drawn_after_the_last_stop(x64):
    model, key, counts = Recurrent(), jax.random.key(5), []

    def watched(logits, tokens):
        jax.debug.callback(lambda n: counts.append(int(n)), jnp.sum(tokens >= 0))
        return logits

    drawn, _ = generate(
        model, text(4), 12, key, stop=int(generate(model, text(4), 6, key)[0][5]), scores=watched
    )
    jax.effects_barrier()
    assert sorted(counts) == list(range(4, 4 + int(jnp.sum(drawn >= 0)))) and len(counts) < 12


# Prompts of different lengths.


def padded(prompts, places, time, padding):
    """Prompts at given places of one array, and which tokens are real."""
    tokens, valid = np.full((len(prompts), time), padding), np.zeros((len(prompts), time), bool)
    for row, (prompt, place) in enumerate(zip(prompts, places, strict=True)):
        tokens[row, place], valid[row, place] = prompt, True
    return jnp.asarray(tokens, jnp.int32), jnp.asarray(valid)


def test_padded_prompts_are_each_as_alone(x64):
    model, key, steps = Recurrent(), jax.random.key(7), 10
    prompts = [text(n, seed=n) for n in (1, 4, 4, 6)]
    places = ([5], [0, 1, 2, 3], [0, 2, 3, 5], [0, 1, 2, 3, 4, 5])  # left, right, within, none
    options = {"stop": 2, "top_p": 0.95, "repetition_penalty": 1.2, "scores": not_the_last}
    keys = jax.random.split(key, 4)
    alone = [generate(model, p, steps, k, **options) for p, k in zip(prompts, keys, strict=True)]
    assert (
        len({int(np.sum(np.asarray(tokens) >= 0)) for tokens, _ in alone}) > 1
    )  # they stop at other places
    zeros, valid = padded(prompts, places, 6, 0)
    outside, _ = padded(prompts, places, 6, -100)
    one = jax.vmap(lambda p, v, k: generate(model, p, steps, k, valid=v, **options))
    for tokens, states in (
        generate(model, zeros, steps, key, valid=valid, **options),
        generate(model, outside, steps, keys, valid=valid, **options),
        one(outside, valid, keys),
    ):
        assert tokens.tolist() == [row.tolist() for row, _ in alone]
        np.testing.assert_allclose(states, [state for _, state in alone], rtol=1e-12)
    # The states of a batch go on as one batch, with prompts of one token.
    more, _ = generate(model, text(4, 1), 3, keys, state=states)
    for row in range(4):
        expected, _ = generate(model, text(4, 1)[row], 3, keys[row], state=alone[row][1])
        assert more[row].tolist() == expected.tolist()


def test_padded_prompts_of_a_language_model(x64):
    """Attention with a window and memories with periods: their clocks count real tokens only."""
    continuum = {"periods": (2, 4), "rate": 0.4}
    model = drawn(
        HopeLM, VOCABULARY, 8, 1, 2, block="hope_attention", continuum=continuum, window=5
    )
    model = eqx.tree_at(lambda m: m.head, model, replace_fn=lambda w: 3 * w)
    prompts, key = [text(4, seed=1), text(4, seed=3)], jax.random.key(1)
    batch, valid = padded(prompts, ([2, 3, 4, 5], [0, 1, 3, 4]), 6, -100)
    tokens, states = generate(model, batch, 8, key, valid=valid, stop=11, top_k=5)
    assert len(set(np.sum(np.asarray(tokens) >= 0, axis=1).tolist())) == 2
    for row, (prompt, own) in enumerate(zip(prompts, jax.random.split(key), strict=True)):
        alone, state = generate(model, prompt, 8, own, stop=11, top_k=5)
        assert tokens[row].tolist() == alone.tolist()
        for a, b in zip(jax.tree.leaves(states), jax.tree.leaves(state), strict=True):
            np.testing.assert_allclose(a[row], b, rtol=1e-9, atol=1e-11)
    stream = stream_tokens(model, prompt, 8, own, stop=11, top_k=5)
    assert list(stream) == [t for t in alone.tolist() if t >= 0]


def test_a_traced_prompt_without_a_token_draws_nothing():
    model, key = Recurrent(), jax.random.key(0)
    valid = jnp.asarray([[False] * 3, [True] * 3])
    drawn = jax.jit(lambda v: generate(model, text(2, 3), 4, key, valid=v)[0])(valid)
    assert drawn[0].tolist() == [-1] * 4
    assert drawn[1].tolist() == generate(model, text(2, 3), 4, key)[0][1].tolist()


# Streams of tokens.


@pytest.mark.parametrize("options", [{}, {"top_p": 0.9, "repetition_penalty": 1.3, "stop": [2, 5]}])
def test_a_stream_gives_the_tokens_of_generate(x64, options):
    model, key = Recurrent(), jax.random.key(4)
    prompt = text(3)
    tokens, state = generate(model, prompt, 9, key, **options)
    stream = stream_tokens(model, prompt, 9, key, **options)
    drawn = list(stream)
    assert drawn == [t for t in tokens.tolist() if t >= 0] and list(stream) == []
    assert all(type(token) is int for token in drawn)
    np.testing.assert_allclose(stream.state, state, rtol=1e-12)
    # Without a number of steps, left early: the state is that so far.
    endless = stream_tokens(model, prompt, key=key, **options)
    assert endless.state is None
    some = list(itertools.islice(endless, 2))
    assert some == drawn[:2]
    np.testing.assert_allclose(endless.state, read(model, prompt, some), rtol=1e-12)


def test_a_stream_is_compiled_once_for_all_lengths():
    model, key = Recurrent(), jax.random.key(4)
    assert len(list(stream_tokens(model, text(3), 2, key))) == 2
    assert model.traced == [(3,), (1,)]
    again = itertools.islice(stream_tokens(model, text(3, seed=1), None, key, 0.3), 40)
    assert len(list(again)) == 40 and model.traced == [(3,), (1,)]


def test_a_stream_of_a_padded_prompt_with_scores(x64):
    model, key = Recurrent(), jax.random.key(6)
    prompt, valid = padded([text(4)], [[0, 2, 3, 5]], 7, -100)
    expected, _ = generate(model, text(4), 6, key, scores=not_the_last)
    stream = stream_tokens(model, prompt[0], 6, key, valid=valid[0], scores=not_the_last)
    assert list(stream) == expected.tolist()


# What is refused.


ONE, TWO = text(3), text(2, 3)
REAL, KEY = jnp.ones(3, bool), jax.random.key(0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": [1, 2]}, r"one array of at least one token, got shape \(2,\) in a list"),
        ({"prompt": [[1], [1, 2]]}, "a list of rows of different lengths"),
        ({"prompt": 5}, r"got shape \(\) in a int"),
        ({"prompt": ONE[:0]}, r"got shape \(0,\)"),
        ({"prompt": text(1, 2, 3)}, r"got shape \(1, 2, 3\)"),
        ({"prompt": ONE.astype(float)}, "the prompt must be integers, got float32"),
        ({"steps": 0}, "steps must be a whole number, at least 1.* got 0"),
        ({"steps": 2.0}, "steps must be .* got 2.0"),
        ({"steps": True}, "steps must be .* got True"),
        ({"key": 0}, r"key must be a typed PRNG key, got int; pass jax.random.key\(0\)"),
        ({"key": jax.random.PRNGKey(0)}, r"got uint32 of shape \(2,\); make it .*wrap_key_data"),
        ({"key": None}, r"key is None.* pass a key such as jax.random.key\(0\), or temperature=0"),
        ({"key": jax.random.split(KEY)}, r"key must be one key, of shape \(\), .*got \(2,\)"),
        *[
            ({"temperature": bad}, "temperature must be a finite number, at least 0, got")
            for bad in (-1.0, np.nan, np.inf, 1j, "1", None, True, [1.0], jnp.ones(1), KEY)
        ],
        *[
            ({"top_k": bad}, "top_k must be a whole number, at least 1, got")
            for bad in (0, -3, 2.0, "3", True, [3], jnp.asarray(2.0))
        ],
        *[
            ({"top_p": bad}, "top_p must be a number above 0 and at most 1, got")
            for bad in (0, 0.0, 1.1, -0.1, np.nan, "0.5", 1j, jnp.asarray([0.5]))
        ],
        *[({"min_p": bad}, "min_p must be a number from 0 to 1, got") for bad in (-0.1, 2, np.nan)],
        *[
            ({"repetition_penalty": bad}, "repetition_penalty must be a finite number above 0, got")
            for bad in (0.0, -1, np.nan, np.inf, 1j)
        ],
        ({"scores": 3}, r"scores must be a function \(logits, tokens\) -> logits, got 3"),
        ({"scores": lambda s, t: s[:2]}, r"scores.* shape \(13,\).* got float32 of shape \(2,\)"),
        ({"scores": lambda s, t: s > 0}, r"scores.* got bool of shape"),
        ({"scores": lambda s, t: None}, r"scores.* got NoneType"),
        ({"stop": VOCABULARY}, "stop tokens must be below the vocabulary of 13, got 13"),
        ({"stop": 2**40}, "stop tokens must be below the vocabulary"),
        *[
            ({"stop": bad}, "stop must be a token or several, whole numbers from 0, got")
            for bad in (-1, [3, -1], 2.0, [1.5], "a", True, [None], np.ones((1, 1), int), {"a": 1})
        ],
        ({"valid": [True] * 3}, r"valid must be bools of the prompt's shape \(3,\).* in a list"),
        ({"valid": REAL[:2]}, r"valid must be .* got bool, shape \(2,\)"),
        ({"valid": REAL.astype(int)}, "valid must be .* got int32"),
        ({"valid": ~REAL}, "the prompt has no valid token"),
    ],
)
def test_what_cannot_be_used_is_refused(monkeypatch, change, message):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    given = {"model": Recurrent(), "prompt": ONE, "steps": 2, "key": KEY, **change}
    for function in (generate, stream_tokens):
        with pytest.raises(ValueError, match=message) as refused:
            list(function(**given))
        assert function.__name__ in str(refused.value).split(":")[0]


def test_what_only_one_of_both_can_use_is_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    model = Recurrent()
    for change, message in (
        ({"valid": jnp.asarray([[True] * 3, [False] * 3])}, "row 1 has no valid token"),
        ({"valid": REAL}, r"valid must be bools of the prompt's shape \(2, 3\)"),
        ({"key": jax.random.split(KEY, 3)}, r"one for each row, \(2,\); got \(3,\)"),
        ({"state": jnp.zeros(4)}, r"a leading axis of 2, got shape \(4,\) at state"),
        ({"pad": 0.5}, "pad must be a whole number, such as -1, got 0.5"),
    ):
        with pytest.raises(ValueError, match=message):
            generate(**{"model": model, "prompt": TWO, "steps": 2, "key": KEY, **change})
    with pytest.raises(ValueError, match="a function, has no argument valid"):
        generate(lambda tokens, state: model(tokens, state), ONE, 2, KEY, valid=REAL)
    for change, message in (
        ({"prompt": TWO}, "for a batch use generate"),
        ({"steps": None, "scores": as_they_are}, "pass steps="),
    ):
        with pytest.raises(ValueError, match=message):
            stream_tokens(**{"model": model, "prompt": ONE, "key": KEY, **change})
    with pytest.raises(ValueError, match="which jit and vmap cannot do; use generate there"):
        jax.jit(lambda prompt: list(stream_tokens(model, prompt, 3, KEY)))(ONE)
    with pytest.raises(ValueError, match="stop must be known when this is compiled"):
        jax.jit(lambda stop: generate(model, ONE, 3, KEY, stop=stop)[0])(3)
