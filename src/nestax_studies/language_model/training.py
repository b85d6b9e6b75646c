"""A language model as a nest: its training, and how it is judged.

One level learns; another one, which stands still, holds the rate and looks at held-out text now and
then. So other rates need no other program, and the whole run, looks included, is one program.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Integer
from optax import microbatching

from nestax.levels import DivergenceError, Held, Level, Nest

from ..lab import Desk
from ..lab.train import watched
from ..sequences.training import optimizer
from .corpora import Corpus, streams, windows

_SEEN = 32  # windows that are looked at along a run, at most
TEMPERATURES = tuple(round(0.8 + 0.05 * i, 2) for i in range(25))  # that scores are divided by
RATES = (0.0, 0.03, 0.1, 0.3)  # of learning from what is read
_STRETCHES = 40


class Size(NamedTuple):
    """How long everything is. Batches are drawn by what `draw` closes over, so the fields' order
    and values are part of a seed.

    Attributes:
        length: tokens in a window.
        batch_size: windows in a step.
        windows: that a model is judged by, at most.
        pieces: windows in a row, the state carried along.
        sample: characters written by the first seed's model.
        decay: of weights, in units of the learning rate.
    """

    length: int
    batch_size: int
    windows: int = 1000
    pieces: int = 16
    sample: int = 300
    decay: float = 0.0


def mean_loss(
    model: Any, batch: Integer[Array, "n places"], keys: Array | None = None
) -> Float[Array, ""]:
    """Mean nats for each token but the first of every window; with keys (n,) as in training."""
    tokens = batch.astype(jnp.int32)
    if keys is None:
        scores, _ = jax.vmap(lambda one: model(one))(tokens[:, :-1])
    else:
        scores, _ = jax.vmap(lambda one, key: model(one, key=key))(tokens[:, :-1], keys)
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(scores, tokens[:, 1:]))


def mean_by_parts(
    loss: Callable[[Any, Any], jax.Array], params: Any, batch: Any, size: int
) -> jax.Array:
    """The mean of `loss` over the parts of a batch, the gradient of each part made with its loss.

    So nothing of a part outlives it, and what a small part needs stays in a processor's caches. May
    be differentiated once, in reverse, by `params`, a pytree of floating-point arrays. The size of
    a part divides the batch, the leading axis of its arrays."""
    over_parts = functools.partial(
        microbatching.microbatch,
        argnums=1,
        microbatch_size=size,
        accumulator=microbatching.AccumulationType.MEAN,
    )

    @jax.custom_vjp
    def mean(params: Any, batch: Any) -> jax.Array:
        return over_parts(loss)(params, batch)

    def forward(params: Any, batch: Any) -> tuple[jax.Array, Any]:
        return over_parts(jax.value_and_grad(loss))(params, batch)

    def backward(slope: Any, above: jax.Array) -> tuple[Any, None]:
        return jax.tree.map(lambda s: above * s, slope), None

    mean.defvjp(forward, backward)
    return mean(params, batch)


def training_loss(model: Any, batch: Integer[Array, "n places"], keys: Array) -> Float[Array, ""]:
    """`mean_loss` in training. CPUs, whose caches hold one window at a time, are given one."""
    import equinox as eqx

    params, static = eqx.partition(model, eqx.is_inexact_array)

    def loss(params: Any, part: Any) -> jax.Array:
        return mean_loss(eqx.combine(params, static), *part)

    return mean_by_parts(
        loss, params, (batch, keys), 1 if jax.default_backend() == "cpu" else len(batch)
    )


def system(corpus: Corpus, size: Size, every: int) -> Nest:
    """The nest: "model" learns from the training text, "trial" looks at the text that is kept out
    for it after each `every` steps."""
    task = {"text": corpus.train, "kept": windows(corpus.tune, _SEEN, size.length)}

    def draw(task: Any, key: jax.Array) -> Any:
        starts = jax.random.randint(key, (size.batch_size,), 0, len(task["text"]) - size.length)
        cut = lambda i: jax.lax.dynamic_slice(task["text"], (i,), (size.length + 1,))  # noqa: E731
        return jax.vmap(cut)(starts), jax.random.split(jax.random.fold_in(key, 1), len(starts))

    def loss(v: dict[str, Any], batch: Any) -> jax.Array:
        return training_loss(v["model"], *batch)

    def look(v: dict[str, Any], kept: Any) -> jax.Array:
        one = lambda window: mean_loss(v["model"], window[None])  # noqa: E731
        return jnp.mean(jax.lax.map(one, kept, batch_size=min(size.batch_size, len(kept))))

    def make(v: dict[str, Any]) -> optax.GradientTransformation:
        return optimizer(v["trial"]["rate"], v["trial"]["steps"], size.decay)

    model = Level("model", loss, make, draw)
    trial = Held("trial", every, look, lambda task, key: task["kept"])
    # In a group of its own, so that it looks after the step even where it looks at every one.
    return Nest([model, (trial,)], jax.tree.map(jnp.asarray, task), norms=False)


def train(
    nest: Nest, model: Any, rate: float, seed: int, points: int, desk: Desk
) -> tuple[Any, dict[str, Any]] | None:
    """A whole run, which goes on from the desk after an interruption; None if it diverges. The
    model at its end; and `step` of each look at kept text, with `curves`, losses of one batch
    ("model") and of the kept text ("trial") there."""
    every = nest.ticks_per_step
    trial = {"rate": jnp.float32(rate), "steps": jnp.float32(points * every)}
    state = nest.init({"model": model, "trial": trial}, jax.random.key(seed))

    def words(done: int, infos: Any) -> str:
        kept = infos["trial"].loss[-1]
        return f"{rate:.2g}  step {done * every}/{points * every}  {kept:.3f} nats on kept text"

    try:
        state, _, rows = watched(nest, state, points, desk, f"{rate:.2g}", words)
    except DivergenceError:
        return None
    losses = {name: [row["loss"][name] for row in rows] for name in ("model", "trial")}
    steps = [row["step"] * every for row in rows]
    return state.values["model"], {"step": steps, "curves": losses}


def judge(model: Any, corpus: Corpus, size: Size) -> dict[str, Any]:
    """A model on text to judge by, in nats for each token.

    Returns:
        `windows`: the loss, from an empty state in every window; `temperature`: of `TEMPERATURES`,
        the one by which the kept text is predicted best; `calibrated`: the loss with scores divided
        by it; `along`: what is gained where the state is carried along stretches of `size.pieces`
        windows, for each place in such a row (0 at the first), against an empty state on the same
        windows; `gain`: its mean over the others.

    Raises:
        ValueError: the text is too short for as many windows as are in a step.
    """
    rows, length = size.batch_size, size.length
    fit = (len(corpus.test) - 1) // length
    pieces = min(size.pieces, fit // rows)
    if pieces < 1:
        raise ValueError(
            f"judge: {rows} windows of {length} do not fit into {len(corpus.test)} tokens; give a "
            "smaller length or batch_size"
        )
    kept, found = (_tempered(model, text, size) for text in (corpus.tune, corpus.test))
    best = int(np.argmin(kept))
    read, along = _compiled(_read), jnp.asarray(streams(corpus.test, rows, pieces, length))
    alone, carried = (np.asarray(read(model, along, jnp.asarray(c))) for c in (False, True))
    gain = alone - carried
    return {
        "windows": float(found[TEMPERATURES.index(1.0)]),
        "temperature": TEMPERATURES[best],
        "calibrated": float(found[best]),
        "gain": float(gain[1:].mean()) if pieces > 1 else 0.0,
        "along": [round(float(x), 5) for x in gain],
    }


def judge_in_context(model: Any, corpus: Corpus, size: Size) -> dict[str, Any]:
    """A model that learns from what it reads, on one stream of text, in nats for each token.

    Each block's MLP becomes a level of its own (`memory.stack_levels`), written after every window
    by the gradient of the loss on it, at the rate by which the kept text is predicted best.

    Returns:
        `rate_in_context`: of `RATES`; `in_context`: the loss on the text to judge by, of each token
        before it was learnt from; `learned`: how much less that is than with no writes, in up to
        `_STRETCHES` stretches of the text; `tokens_in_context`: its length. Nothing for models with
        other blocks.
    """
    from nestax import memory

    blocks = getattr(model, "blocks", ())
    if not blocks or not all(isinstance(block.feed, memory.FeedForward) for block in blocks):
        return {}

    def read(text: np.ndarray, rate: float) -> np.ndarray:
        learner = memory.stack_levels(model, [size.length] * len(blocks), rate=rate)
        fit = min((len(text) - 1) // size.length, size.windows)
        tokens = jnp.asarray(text[: fit * size.length + 1], jnp.int32)
        losses, _ = _compiled(memory.learn_in_context)(learner, tokens)
        return np.asarray(losses).reshape(fit, -1).mean(1)

    best = min(RATES, key=lambda rate: float(read(corpus.tune, rate).mean()))
    found, gain = read(corpus.test, best), read(corpus.test, 0.0)
    gain = np.array_split(gain - found, min(len(found), _STRETCHES))
    return {
        "rate_in_context": best,
        "in_context": float(found.mean()),
        "learned": [round(float(part.mean()), 5) for part in gain],
        "tokens_in_context": len(found) * size.length,
    }


def _tempered(model: Any, text: np.ndarray, size: Size) -> Float[np.ndarray, " temperatures"]:
    """The mean loss at each of `TEMPERATURES`, from an empty state in every window. All calls have
    one shape, so that there is one program; windows beyond the last full batch are left out."""
    cut = windows(text, size.windows, size.length)
    rows = min(size.batch_size, len(cut))
    batches = cut[: len(cut) // rows * rows].reshape(-1, rows, size.length + 1)
    heated = _compiled(_heated)
    return np.mean([heated(model, jnp.asarray(batch)) for batch in batches], axis=0)


@functools.cache
def _compiled(function: Callable[..., Any]) -> Any:
    """One program for all seeds of a model."""
    import equinox as eqx

    return eqx.filter_jit(function)


def _heated(model: Any, rows: Integer[Array, "n places"]) -> Float[Array, " temperatures"]:
    """The mean loss of some windows at each of `TEMPERATURES`."""
    tokens = rows.astype(jnp.int32)
    scores, _ = jax.vmap(lambda one: model(one))(tokens[:, :-1])

    def loss(temperature: Array) -> Array:
        scaled = scores / temperature
        found = optax.softmax_cross_entropy_with_integer_labels(scaled, tokens[:, 1:])
        return jnp.mean(found)

    return jax.lax.map(loss, jnp.asarray(TEMPERATURES, scores.dtype))


def _read(model: Any, rows: Integer[Array, "pieces n places"], carry: Array) -> Array:
    """The mean loss of every piece, (pieces,); whether the state of one is passed to the next."""
    first = model.init_state()
    spread = lambda a: jnp.broadcast_to(a, (rows.shape[1], *jnp.shape(a)))  # noqa: E731
    empty = jax.tree.map(spread, first)

    def piece(states: Any, batch: Any) -> tuple[Any, Array]:
        tokens = batch.astype(jnp.int32)
        scores, states = jax.vmap(model)(tokens[:, :-1], states)
        loss = optax.softmax_cross_entropy_with_integer_labels(scores, tokens[:, 1:])
        kept = jax.tree.map(lambda new, old: jnp.where(carry, new, old), states, empty)
        return kept, jnp.mean(loss)

    return jax.lax.scan(piece, empty, rows)[1]


def write(model: Any, corpus: Corpus, size: Size, seed: int) -> tuple[str, str]:
    """What a model is given, the first token of the text to judge by, and what it writes then."""
    from nestax import memory

    prompt = corpus.test[:1]
    tokens = memory.generate(
        model, jnp.asarray(prompt, jnp.int32), size.sample, jax.random.key(seed), 0.8
    )[0]
    return corpus.decode(prompt), corpus.decode(np.asarray(tokens))
