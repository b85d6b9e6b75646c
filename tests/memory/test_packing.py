"""Padded and packed sequences against every document alone, token by token, without masks."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from modules import drawn

from nestax import memory
from nestax.memory.blocks import KINDS

VOCABULARY, WIDTH, LONGEST, ROOM = 7, 4, 100, 5
CLOCKS = {"periods": (3, 6), "rate": 0.4, "hidden": 3}
LAYERS = {
    "attention": (memory.CausalAttention, WIDTH, 2, {"window": 5}),
    **{
        variant: (memory.ContinuumMemory, WIDTH, {"variant": variant, **CLOCKS})
        for variant in ("sequential", "nested", "independent")
    },
    "block": (memory.make_block, "transformer", WIDTH, 2, {"window": 5}),
}


def layer_of(name, **more):
    *args, options = LAYERS[name]
    return drawn(*args, **options, **more)


def language_model(kind):
    options = {"window": 5} if kind in ("transformer", "hope_attention") else {"chunk": 4}
    if kind == "linear_attention":
        options = {}
    if kind == "hope":
        options["adaptive"] = ("v",)
    if KINDS[kind].continuum:
        options["continuum"] = {**CLOCKS, "periods": (3,) if kind == "hope" else (3, 6)}
    return drawn(memory.HopeLM, VOCABULARY, WIDTH, 1, 2, block=kind, hidden=3, **options)


class Case:
    """A sequence of several documents with garbage in its padding.

    Args:
        time: of the sequence.
        starts: where documents begin.
        padding: tokens that are not there.
        began: whether a document began before it.
    """

    def __init__(self, time, starts, padding=(), began=False):
        self.time, self.began = time, began
        valid, reset = np.ones(time, bool), np.zeros(time, bool)
        valid[list(padding)], reset[list(starts)] = False, True
        self.masks = {"valid": valid, "reset": reset}

    def long(self):
        """The masks with padding up to the length of the longest."""
        return jax.tree.map(lambda m: jnp.asarray(np.pad(m, (0, LONGEST - self.time))), self.masks)


# Documents shorter and longer than windows, periods and chunks; a document that begins at a token
# which is not there, one that begins behind the last token, and padding on all sides.
CASES = {
    "13 + 17": Case(30, (0, 13)),
    "63": Case(63, (9, 10, 33, 46), (*range(20, 27), 33, 34, 61, 62), began=True),
    "100": Case(100, (0, 21, 70), (*range(21), 99)),
    "nothing in the last": Case(100, (40, 98), (*range(60, 100),), began=True),
}


@functools.cache
def draws():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(LONGEST, WIDTH)))
    tokens = jnp.asarray(rng.integers(VOCABULARY, size=LONGEST), jnp.int32)
    return x, tokens, jnp.asarray(rng.normal(size=(LONGEST, 8))), rng.normal(size=1000)


def measured(y, state, valid):
    """One number in which every output and every number of the final state has its part."""
    seen = jnp.where(valid[:, None], y, 0)
    total = jnp.sum(seen * draws()[2][: len(y), : y.shape[1]])
    for leaf in jax.tree.leaves(state):
        if eqx.is_inexact_array(leaf):
            total += jnp.sum(leaf * np.resize(draws()[3], leaf.shape))
    return total, (seen, state)


def token_by_token(layer, x, state, valid, reset):
    """Each document alone, from the beginning of a stream; only tokens that are there are shown."""

    def step(carry, row):
        held, pending = carry
        token, valid, reset = row
        pending = pending | reset
        before = jax.tree.map(lambda a, b: jnp.where(pending, a, b), layer.init_state(), held)
        y, after = layer(jnp.where(valid, token, jnp.zeros_like(token))[None], before)
        after = jax.tree.map(lambda a, b: jnp.where(valid, a, b), after, before)
        return (after, pending & ~valid), y[0]

    (state, _), y = jax.lax.scan(step, (state, jnp.zeros((), bool)), (x, valid, reset))
    return measured(y, state, valid)


def slopes(loss):
    """A program for a loss, what else it returns, and its gradients by the first argument."""
    return jax.jit(jax.value_and_grad(loss, has_aux=True, allow_int=True))


def close(made, expected, told):
    pairs = jax.tree_util.tree_leaves_with_path(made)
    for (path, a), b in zip(pairs, jax.tree.leaves(expected), strict=True):
        if a.dtype != jax.dtypes.float0:
            told_of = f"{told}: {jax.tree_util.keystr(path)}"
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9, err_msg=told_of)


def token_after_token(layer, x, state, valid, reset):
    """The whole sequence in pieces of one token each, with masks."""

    def step(state, row):
        x, valid, reset = (a[None] for a in row)
        y, state = layer(x, state, valid=valid, reset=reset, max_documents=1)
        return state, y[0]

    state, y = jax.lax.scan(step, state, (x, valid, reset))
    return measured(y, state, valid)


def compare(layer, alone=(), tokens=False, graded=(True, True), single=True):
    """All cases, padded to 100 tokens, with masks that are traced; the state that one ends with is
    what the next begins with. Those named also without that padding, with masks that are known.
    `graded`: whether with gradients, with traced and with known masks; those of all mixers by
    themselves are in `test_documents`. `single`: whether token after token as well."""
    program = slopes if graded[0] else lambda loss: jax.jit(lambda *given: (loss(*given), ((), ())))
    apart = program(lambda inputs, *rest: token_by_token(*inputs, *rest))
    packed = program(
        lambda inputs, state, masks: measured(
            *inputs[0](inputs[1], state, **masks, max_documents=ROOM), masks["valid"]
        )
    )
    state = layer.init_state()
    for name, case in CASES.items():
        masks = case.long()
        there = masks["valid"] if tokens else masks["valid"][:, None]
        x = jnp.where(there, draws()[tokens], -100 if tokens else jnp.nan)
        expected = apart((layer, x), state, masks["valid"], masks["reset"])
        close(packed((layer, x), state, masks), expected, name)
        if name in alone:
            known = case.masks if name != "13 + 17" else {"reset": case.masks["reset"]}

            def short(inputs, case=case, known=known, held=state if case.began else None):
                return measured(*inputs[0](inputs[1], held, **known), case.masks["valid"])

            (total, (y, end)), (by_layer, by_x) = expected
            cut, run = (total, (y[: case.time], end)), jax.jit(short)
            if graded[1]:
                cut, run = (cut, (by_layer, by_x[: case.time])), slopes(short)
            close(run((layer, x[: case.time])), cut, f"{name}, known")
        if single and name == "63":
            made = jax.jit(token_after_token)(layer, x, state, masks["valid"], masks["reset"])
            close(made, expected[0], "single tokens")
        state = expected[0][1][1]


@pytest.mark.parametrize(
    ("name", "alone"), [("attention", ("13 + 17", "63")), ("nested", ("63",)), ("independent", ())]
)
def test_layers_keep_documents_apart(x64, name, alone):
    """Variants of a continuum memory differ in what they do once rows are laid out."""
    other = name == "independent"
    compare(layer_of(name), alone, graded=(not other, name == "attention"), single=not other)


@pytest.mark.parametrize("kind", KINDS)
def test_models_keep_documents_apart(x64, kind):
    graded, single = (kind == "hope_attention", False), kind == "hope"
    compare(language_model(kind), ("13 + 17",), tokens=True, graded=graded, single=single)


# What else masks promise.


def test_queries_in_blocks_keep_documents_apart(x64, monkeypatch):
    layer, case = layer_of("attention"), CASES["63"]
    run = jax.jit(lambda x, state: layer(x, state, **case.masks))
    x, start = draws()[0][:63], jax.jit(lambda x: layer(x))(draws()[0][-8:])[1]
    whole = run(x, start)
    monkeypatch.setattr(memory._attention, "_BLOCK", 8)
    close(jax.jit(lambda x, state: layer(x, state, **case.masks))(x, start), whole, "blocks")


@pytest.mark.parametrize("name", ["attention", "sequential", "block"])
def test_what_stands_where_no_token_is_stays_outside(x64, name):
    layer, valid = layer_of(name), np.array([False, True, False, True])
    x = np.where(valid[:, None], draws()[0][:4], np.nan)

    @jax.jit
    def run(layer, x, state, valid, fresh):
        def made(layer):
            start = jax.tree.map(lambda a, b: jnp.where(fresh, a, b), layer.init_state(), state)
            return layer(x, start, valid=valid)

        y, pull, state = jax.vjp(made, layer, has_aux=True)
        return y, state, pull(jnp.where(valid[:, None], 1.0, jnp.zeros_like(y)))

    @jax.jit
    def alone(layer, x):
        y, pull, state = jax.vjp(lambda m: m(x), layer, has_aux=True)
        return y, state, pull(jnp.ones_like(y))

    y, state, slope = run(layer, x, layer.init_state(), valid, True)
    close((y[valid], state, slope), alone(layer, x[valid]), name)
    if name == "attention":
        assert not np.any(y[~valid])
    else:
        assert np.isnan(y[~valid]).all()  # passed on as it is
    # Where nothing is there, nothing happens.
    y, after, _ = run(layer, x, state, np.zeros(4, bool), False)
    close(after, state, name)
    y, after = jax.jit(lambda x, state: layer(x, state, valid=np.zeros(0, bool)))(x[:0], state)
    assert y.shape == (0, WIDTH)
    close(after, state, name)


def test_levels_that_write_nothing_begin_anew_with_documents(x64):
    """As those do that `learn_in_context` has written."""
    layer = layer_of("nested", objective=None)
    moved = jax.tree.map(lambda w: w + 1, layer.init_state())
    x, case = draws()[0][:12], Case(12, (5,), (0, 4, 5, 11), began=True)
    y, state = jax.jit(lambda x: layer(x, moved, **case.masks))(x)
    close(y[1:4], jax.jit(lambda x: layer(x, moved))(x[1:4])[0], "before")
    close(y[6:11], jax.jit(lambda x: layer(x))(x[6:11])[0], "after")
    close(state, layer.init_state(), "state")


def test_more_documents_than_there_is_room_for_are_not_read(x64):
    layer = drawn(memory.ContinuumMemory, WIDTH, (3,), hidden=3)
    x, reset = draws()[0][:6], np.arange(6) % 2 == 0
    for room, told in ((3, np.isfinite), (None, np.isfinite), (2, np.isnan)):
        y, _ = jax.jit(lambda x, r, n=room: layer(x, reset=r, max_documents=n))(x, reset)
        assert told(y).all()
    with pytest.raises(ValueError, match="3 documents begin in this piece, more than max_doc"):
        layer(x, reset=reset, max_documents=2)


def test_masks_that_change_nothing_leave_the_program_as_it_is():
    model, tokens = language_model("hope_attention"), draws()[1]
    everywhere = np.ones(LONGEST, bool)
    plain = jax.make_jaxpr(lambda m, t: m(t))(model, tokens)
    masked = jax.make_jaxpr(lambda m, t: m(t, valid=everywhere, reset=~everywhere))(model, tokens)
    assert str(plain) == str(masked)


def test_left_padding_does_not_change_what_is_generated(x64):
    """Prompts of several lengths side by side, then token after token."""
    model = language_model("hope_attention")
    model = eqx.tree_at(lambda m: m.head, model, replace_fn=lambda w: 30 * w)
    sizes, prompt = (2, 7), draws()[1][:7]
    valid = np.stack([np.arange(7) >= 7 - size for size in sizes])
    batch = np.where(valid, np.stack([np.roll(prompt, 7 - size) for size in sizes]), -100)

    @jax.jit
    @jax.vmap
    def read(tokens, valid):
        logits, state = model(tokens, valid=valid)
        return logits[-1], state

    @jax.jit
    @jax.vmap
    def follow(logits, state):
        token = jnp.argmax(logits)
        logits, state = model(token[None], state)
        return logits[0], state, token

    def going_on(logits, state):
        for _ in range(4):
            logits, state, token = follow(logits, state)
            yield np.asarray(logits), np.asarray(token)

    alone_of = eqx.filter_jit(lambda tokens: model(tokens))
    alone = [(logits[-1], state) for logits, state in (alone_of(prompt[:size]) for size in sizes)]
    begun = jax.tree.map(lambda *a: np.stack(a), *alone)
    together = going_on(*read(jnp.asarray(batch), jnp.asarray(valid)))
    for (logits, token), (expected, wanted) in zip(together, going_on(*begun), strict=True):
        np.testing.assert_array_equal(token, wanted)
        np.testing.assert_allclose(logits, expected, rtol=1e-9, atol=1e-9)


def test_segments_are_documents(x64):
    model, tokens = language_model("transformer"), draws()[1][:9]
    read = jax.jit(lambda tokens: model(tokens))
    run = jax.jit(lambda **masks: model(tokens, **masks))
    ids, valid = np.array([4, 4, 0, 4, 4, 4, 2, 0, 0]), np.ones(9, bool)
    valid[[2, 7, 8]] = False
    logits, state = run(segments=ids, valid=valid)
    first, _ = read(tokens[valid & (ids == 4)])
    second, end = read(tokens[6:7])
    close(logits[valid], jnp.concatenate([first, second]), "scores")
    close(state, end, "state")
    assert np.isfinite(logits).all()


def test_dropout_leaves_padding_outside(x64):
    model = drawn(memory.HopeLM, VOCABULARY, WIDTH, 1, 2, block="transformer", dropout=0.3)
    valid = np.arange(9) > 2

    @eqx.filter_jit
    @eqx.filter_grad(has_aux=True)
    def run(model, tokens):
        logits, _ = model(tokens, valid=valid, key=jax.random.key(1))
        return jnp.sum(jnp.where(valid[:, None], logits, 0)), logits

    (one, logits), (other, again) = (
        run(model, jnp.where(valid, draws()[1][:9], fill)) for fill in (-100, VOCABULARY + 3)
    )
    close((other, again), (one, logits), "another filling")
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((one, logits)))
