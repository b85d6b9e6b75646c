r"""How memories modify themselves: one head, a piece of a stream.

Every memory M_b maps vectors of a head's size d: b = k, v, q to d; rate and retain, the logits of
the gates, to 1; and "memory", the one that is read, to d. With P_b a slow matrix, the skip,

    M_b(x) = P_b x + W_b x    ("linear")    or    P_b x + W_b,1 hidden(W_b,2 x)    ("mlp", (89)).

At every token

    k = unit(M_k(x)),    v = M_v(x),    q = unit(M_q(x)),
    alpha = sigmoid(M_retain(x) + bias),    eta = r sigmoid(M_rate(x) + bias),
    e_b = c(-M_b(v))  ("dot")    or    c(M_b(k) - M_b(v))  ("l2"),
    c(e) = e / sqrt(1 + |e|^2 / limit^2),

all at the anchors, the memories as they were when the present chunk began; then each matrix W of
each memory is written by its own input z and its own error e, to which e_b is passed down,

    W_t = W_{t-1} (alpha_t I - eta_t z_t z_t') + (1 - alpha_t) W* - eta_t e_t z_t',

without -eta z z' for the rule "gd"; "l2" with "dgd" erases twice, and takes half the rate. The
erasure is exact at every token, and so is the read, M_memory,t-1(q_t). W* is zero for linear
memories with skips. For others it is W_0: what they write is a product of memories, which all decay
together, so that none would come back from zero.

Source: Behrouz, Razaviyayn, Zhong and Mirrokni, "Nested Learning" (2025), eq. (83-93).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .._grid import begin_anew, lay_out, spoiled, take_back
from .._loop import checkpointed_scan
from .._masks import Mask
from .._networks import write_chunk
from .._parts import unit

# Matrices (out, in) in the order in which they are applied: (W,), or (W_2, W_1).
Weights = tuple[Float[Array, "..."], ...]
Boxes = dict[str, Weights]
# Boxes that are written together: same shapes, so that they are one vmap, and keys, which all have
# in common, are dealt with once. What is read is a group of its own.
Groups = tuple[tuple[str, ...], ...]
VECTORS, GATES, MEMORY = ("k", "v", "q"), ("rate", "retain"), ("memory",)


class Carried(NamedTuple):
    """Memories and where their stream stands; in the form of `Boxes`.

    Attributes:
        now: the memories.
        surprise: the momentum of each, an empty dict without momentum.
        anchor: as they were when their present chunk began.
        position: tokens seen, modulo the longer of the two chunks.
    """

    now: Any
    surprise: Any
    anchor: Any
    position: Int[Array, ""]


class Fixed(NamedTuple):
    """What a head's memories do not modify.

    Attributes:
        skips: P of each box; without one there is no skip, without a memory it is all there is.
        rate_bias: of the logit of the rate.
        retain_bias: of the logit of the retention; None without decay.
    """

    skips: dict[str, Float[Array, "out size"]]
    rate_bias: Float[Array, ""]
    retain_bias: Float[Array, ""] | None


class Rule(NamedTuple):
    """Static: which step on which objective, in what bounds, at which clocks; and whether retention
    leads back to where the memories began."""

    objective: str
    rule: str
    max_rate: float
    limit: float
    chunk: int
    chunk_others: int
    read: str
    returns: bool

    @property
    def block(self) -> int:
        """Tokens between which no anchor moves."""
        return min(self.chunk, self.chunk_others)

    @property
    def period(self) -> int:
        """Tokens after which all anchors move together."""
        return max(self.chunk, self.chunk_others)


def hidden(z: Float[Array, "*batch hidden"]) -> Float[Array, "*batch hidden"]:
    """tanh(z) / sqrt(hidden): no longer than one, so that erasing along it is stable."""
    return jnp.tanh(z) * z.shape[-1] ** -0.5


def limited(error: Float[Array, "*batch out"], limit: float) -> Float[Array, "*batch out"]:
    """error / sqrt(1 + |error|^2 / limit^2): smooth, and shorter than the limit."""
    square = jnp.sum(jnp.square(error), axis=-1, keepdims=True)
    return error * jax.lax.rsqrt(1 + square / limit**2)


def answer(
    weights: Weights | None, skip: Float[Array, "out size"] | None, x: Float[Array, "*batch size"]
) -> Float[Array, "*batch out"]:
    """M(x) of every token."""
    made = None if skip is None else x @ skip.T
    if weights is None:
        assert made is not None
        return made
    inner = x if len(weights) == 1 else hidden(x @ weights[0].T)
    said = inner @ weights[-1].T
    return said if made is None else made + said


def group(boxes: tuple[str, ...]) -> Groups:
    """The groups of the boxes that modify themselves."""
    found = (tuple(b for b in kind if b in boxes) for kind in (VECTORS, GATES, MEMORY))
    return tuple(names for names in found if names)


def stacked(boxes: Boxes, groups: Groups) -> tuple[Weights, ...]:
    """Each group's matrices side by side."""
    if not boxes:
        return ()
    return tuple(
        jax.tree.map(lambda *ms: jnp.stack(ms), *(boxes[b] for b in names)) for names in groups
    )


def unstacked(made: tuple[Weights, ...], groups: Groups) -> Boxes:
    """The inverse of `stacked`."""
    boxes = {}
    for names, weights in zip(groups, made, strict=False):
        for i, box in enumerate(names):
            boxes[box] = jax.tree.map(lambda ms, i=i: ms[i], weights)
    return boxes


def modify(
    x: Float[Array, "time size"],
    q: Float[Array, "time size"] | None,
    momentum: Float[Array, " time"] | None,
    fixed: Fixed,
    start: Boxes,
    state: Carried,
    rule: Rule,
    fresh: bool,
    masks: tuple[Mask | None, Mask | None, int | None] = (None, None, None),
) -> tuple[Float[Array, "time size"], Carried]:
    """Writes and reads one head's memories along a piece of a stream.

    Args:
        x: what memories read, of unit length.
        q: queries, of unit length; None where a memory makes them.
        momentum: mu, or None.
        fixed: what is not modified.
        start: the memories at the beginning of a stream.
        state: where the stream stands.
        rule: static.
        fresh: whether the stream is known to begin here.
        masks: `valid`, `reset` and `max_documents` of the layer.

    Returns:
        (outputs, state).
    """
    time, size = x.shape
    if time == 0:
        return jnp.zeros_like(x), state
    groups = group(tuple(state.now))
    features = [x]
    if q is not None:
        features.append(q)
    if momentum is not None:
        features.append(momentum[:, None])
    offset = None if fresh else state.position % rule.block
    tokens = jnp.concatenate(features, axis=1)
    if masks[0] is None and masks[1] is None:
        layout = lay_out(tokens, rule.block, offset)
        # Where each row ends. Rows without tokens end where the row before did, where moving an
        # anchor again changes nothing.
        ends = state.position + jnp.cumsum(jnp.sum(layout.valid, axis=1, dtype=jnp.int32))
        begins, position = None, (state.position + time) % rule.period
    else:
        layout = lay_out(tokens, rule.block, None if fresh else state.position, *masks)
        assert layout.documents is not None
        ends, begins = layout.documents.after, layout.documents.begins
        position = layout.documents.position % rule.period
    initial = stacked(start, groups) if rule.returns or begins is not None else ()
    nothing = jax.tree.map(jnp.zeros_like, initial) if state.surprise else ()

    def body(carry: Any, row: Any) -> tuple[Any, Array]:
        tokens, valid, end, begins = row
        now, surprise, anchor = begin_anew(begins, (initial, nothing, initial), carry)
        valid = None if layout.full else valid
        outputs, now, surprise = _write(
            now,
            surprise,
            anchor,
            groups,
            fixed,
            rule,
            tokens[:, :size],
            None if q is None else tokens[:, size : 2 * size],
            None if momentum is None else tokens[:, -1],
            valid,
            initial if rule.returns else None,
        )
        moved = []
        for names, new, old in zip(groups, now, anchor, strict=True):
            due = end % (rule.chunk if names == MEMORY else rule.chunk_others) == 0
            moved.append(jax.tree.map(lambda n, o, due=due: jnp.where(due, n, o), new, old))
        return (now, surprise, tuple(moved)), outputs

    carry = tuple(stacked(boxes, groups) for boxes in state[:3])
    carry, made = checkpointed_scan(body, carry, (layout.tokens, layout.valid, ends, begins))
    outputs = take_back(made, layout, time, rule.block, offset)
    now, surprise, anchor = (unstacked(part, groups) for part in spoiled(carry, layout))
    return outputs, Carried(now, surprise, anchor, position)


def _write(
    now: tuple[Weights, ...],
    surprise: tuple[Weights, ...],
    anchor: tuple[Weights, ...],
    groups: Groups,
    fixed: Fixed,
    rule: Rule,
    x: Array,
    q: Array | None,
    momentum: Array | None,
    valid: Array | None,
    towards: tuple[Weights, ...] | None,
) -> tuple[Array, tuple[Weights, ...], tuple[Weights, ...]]:
    """One row of tokens: all anchors stand still."""
    boxes = unstacked(anchor, groups)

    def ask(box: str, x: Array) -> Array:
        return answer(boxes.get(box), fixed.skips.get(box), x)

    k, v = unit(ask("k", x)), ask("v", x)
    q = unit(ask("q", x)) if q is None else q
    rate = rule.max_rate * _gate(ask("rate", x), fixed.rate_bias)
    retain = None
    if fixed.retain_bias is not None:
        retain = _gate(ask("retain", x), fixed.retain_bias)
        # Then alpha - eta, the eigenvalue along the key, is -1 or more whatever alpha is.
        rate = rate * (1 + retain) / 2
    if rule.objective == "l2" and rule.rule == "dgd":
        # Both the rule and the loss erase: for small errors the eigenvalue is alpha - 2 eta.
        rate = rate / 2
    write = functools.partial(
        write_chunk,
        objective=_objective(rule),
        rule=rule.rule,
        read=rule.read,
        implicit=False,
        clip=None,
        skip=False,
        activation=hidden,
        valid=valid,
    )

    def step(*given: Any) -> tuple[Array, Weights, Weights | None]:
        return write(*given[:-1], towards=given[-1])

    step = jax.vmap(step, in_axes=(0, 0, 0, None, None, 0, None, None, None, 0))
    news, surprises, read = [], [], None
    for i, names in enumerate(groups):
        reads = names == MEMORY
        # The skip is not written: a memory's own part is to say the rest.
        rest = jnp.stack([ask(b, v) for b in names])
        if rule.objective == "l2":
            known = [fixed.skips[b] for b in names if b in fixed.skips]
            rest = rest - jnp.stack([k @ p.T for p in known]) if known else rest
        before = surprise[i] if surprise else None
        asked = q if reads else k  # what the others say of k is thrown away
        home = None if towards is None else towards[i]
        said, new, moved = step(
            now[i], before, anchor[i], asked, k, rest, rate, retain, momentum, home
        )
        news.append(new)
        surprises.append(moved)
        read = said[0] if reads else read
    assert read is not None
    if "memory" in fixed.skips:
        read = read + q @ fixed.skips["memory"].T
    return read, tuple(news), tuple(surprises) if surprise else ()


def _gate(logit: Float[Array, "time 1"], bias: Float[Array, ""]) -> Float[Array, " time"]:
    logit = logit[:, 0]
    return jax.nn.sigmoid(logit + jnp.broadcast_to(bias, logit.shape))


def _objective(rule: Rule) -> Callable[[Array, Array], Array]:
    def error(prediction: Array, value: Array) -> Array:
        found = -value if rule.objective == "dot" else prediction - value
        return limited(found, rule.limit)

    return error
