r"""Memories that are linear maps or MLPs, written by frozen gradients, chunk by chunk.

A memory is a tuple of matrices (out, in), first applied first; with `skip` it is eq. (89),

    y = x + W_n act(... act(W_1 x)).

The gradient of one pair's loss with respect to W_i is e_i x_i', its error times its own input. If
all gradients of a chunk are taken at its first state, the anchor, every matrix is by itself a
linear memory with keys x_i and writes -rate e_i, so that it goes through the chunk in the dual form
of `_scan`: weights after each token are never made. Retention, momentum and what rules erase are
exact at every token. A read asks the first matrix with q, the next with act of the answer.

Rules, with eta' = eta / (1 + eta |x_i|^2) by each matrix's own input:

    gd      W <- a W - eta e x'
    dgd     W <- a W (I - eta' x x') - eta' e x'      (explicit: W (a I - eta x x') - eta e x')
    local   W <- a W - eta' (W x - t) x',             t = W_anchor x - e

Retention. Each matrix of an MLP has the others in its gradient as factors: if all decay to zero, no
write brings them back. With `towards`, matrices W* like the weights, what decays is the distance
from them,

    W <- a (W - W*) + W* + what is written,

so that a memory that has forgotten everything is W* and learns as that does. The printed rule is
W* = 0, which a single matrix may have: its gradient does not vanish there.

Stability. Where a key comes back within a chunk of C tokens, its frozen gradient is taken each
time. With "l2", gd converges for C eta |x|^2 < 2 only and diverges beyond, and so does dgd if the
memory is an MLP. What helps, simplest first:

    rates divided by C   the mean gradient instead of the sum: C then changes little
    clip                 errors cut to a norm, at every matrix: it bounds what a token writes
    rule "local"         gd that notices: by the delta rule, a matrix moves towards what it said at
                         the anchor less the error there; for C = 1 it is gd, at rate eta'
    "dot" with "dgd"     no error to freeze: for one linear map the delta rule, exactly

"local" makes one linear map with "l2" the exact delta rule at every C, stable at every rate, and
with momentum exact Titans. "dgd" of one linear map without momentum is bounded at every rate, but
with "l2" and C eta far above 1 it swings between 0 and v instead of settling at v / 2. An MLP's
matrices each answer for the whole error, and nothing is guaranteed: shown the same four pairs for
8,192 tokens in chunks of 64, "local" learnt them in most runs at rates up to 1 and stayed bounded,
but not at 100; "dgd" with "dot" stayed bounded at 100 too; with clip = 1 both did, and "dgd" with
"l2" as well, which overflows without.

With momentum, eta / (1 - mu) is what counts as rate. It does not multiply what dgd forgets: "dot"
then converges to v / (1 - mu), and "l2" with C = 1 to v / (2 - mu).

Source: "Nested Learning" (2025), eq. (86-93), with the chunk's first state where (90) prints its
last and (57)'s |x|^2 put back; Behrouz et al., "Titans" (2025), section 3.2 for frozen gradients.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._arguments import check_function, per_token
from ._grid import fill
from ._masks import Mask, blank, check_masks
from ._network_arguments import (
    Weights,
    check_alike,
    check_clip,
    check_features,
    check_options,
    check_sequence,
    check_skip,
    check_weights,
)
from ._objectives import Objective, error_of, shortened
from ._rules import implied
from ._scan import chunk_of_network

Activation = Callable[[Array], Array]


def read_memory(
    weights: Weights,
    x: Float[Array, "*batch key"],
    skip: bool = False,
    activation: Activation = jax.nn.silu,
) -> Float[Array, "*batch value"]:
    """Reads a memory that is a linear map or an MLP, `W_n act(... act(W_1 x))`.

    Args:
        weights: matrices (out, in), in the order in which they are applied.
        x: queries, (..., key).
        skip: whether x is added; values must then have the size of keys.
        activation: elementwise, between matrices; none with one matrix.

    Returns:
        The outputs, (..., value).

    Raises:
        ValueError: matrices that do not fit each other or x, or are not arrays of real numbers.
    """
    x = check_features("read_memory", "x", x)
    weights = check_weights("read_memory", "weights", weights, x.shape[-1], takes="numbers of x")
    check_skip("read_memory", skip, x.shape[-1], weights[-1].shape[0])
    check_function("read_memory", "activation", activation)
    return _forward(weights, x, skip, activation)[0]


def errors(
    weights: Weights,
    key: Float[Array, "*batch key"],
    value: Float[Array, "*batch value"],
    objective: str | Objective = "l2",
    skip: bool = False,
    activation: Activation = jax.nn.silu,
    clip: float | Array | None = None,
) -> tuple[tuple[Float[Array, "*batch _"], Float[Array, "*batch _"]], ...]:
    """The input x_i and the error e_i of each matrix of a memory, for pairs of keys and values.

    The gradient of the loss by matrix i is e_i x_i'.

    Args:
        weights: matrices (out, in), in the order in which they are applied.
        key: keys, (..., key).
        value: values, (..., value); constants for the inner gradient.
        objective: `"dot"`, `"l2"` or a function `(prediction, value) -> error`.
        skip: as in `read_memory`.
        activation: as in `read_memory`.
        clip: errors are cut to this norm, the last matrix's before it is passed down.

    Returns:
        One pair (input, error) for each matrix, of shapes (..., in) and (..., out).

    Raises:
        ValueError: an unknown objective, matrices that do not fit each other or the pair, a known
            clip that is not above 0.
    """
    key, value = check_features("errors", "key", key), check_features("errors", "value", value)
    if key.shape[:-1] != value.shape[:-1]:
        raise ValueError(
            f"errors: key (..., key) and value (..., value) must come in pairs, got shapes "
            f"{key.shape} and {value.shape}"
        )
    weights = check_weights(
        "errors",
        "weights",
        weights,
        key.shape[-1],
        value.shape[-1],
        takes="numbers of key",
        gives="numbers of value",
    )
    check_skip("errors", skip, key.shape[-1], value.shape[-1])
    check_function("errors", "activation", activation)
    check_clip("errors", clip)
    error = error_of(objective, "errors")
    return _errors(weights, key, value, error, skip, activation, clip)


def _errors(
    weights: Weights,
    key: Array,
    value: Array,
    objective: Objective,
    skip: bool,
    activation: Activation,
    clip: float | Array | None,
) -> tuple[tuple[Array, Array], ...]:
    """`errors` of what is checked."""
    prediction, inputs, slopes = _forward(weights, key, skip, activation)
    error = objective(prediction, value)
    found = []
    for i in reversed(range(len(weights))):
        error = error if clip is None else shortened(error, clip)
        found.append((inputs[i], error))
        if i:
            error = (error @ weights[i]) * slopes[i - 1]
    return tuple(reversed(found))


def _forward(
    weights: Weights, x: Array, skip: bool, activation: Activation
) -> tuple[Array, list[Array], list[Array]]:
    """What is said, every matrix's input, and the slopes of the activations."""
    inputs, slopes = [x], []
    for matrix in weights[:-1]:
        z = inputs[-1] @ matrix.T
        h, slope = jax.jvp(activation, (z,), (jnp.ones_like(z),))
        inputs.append(h)
        slopes.append(slope)
    said = inputs[-1] @ weights[-1].T
    return x + said if skip else said, inputs, slopes


def network_chunk(
    now: Weights,
    surprise: Weights | None,
    anchor: Weights,
    q: Float[Array, "time key"],
    k: Float[Array, "time key"],
    v: Float[Array, "time value"],
    rate: Float[Array, " time"],
    retain: Float[Array, " time"] | None = None,
    momentum: Float[Array, " time"] | None = None,
    objective: str | Objective = "l2",
    rule: str = "gd",
    read: str = "before",
    *,
    implicit: bool = True,
    clip: float | Array | None = None,
    skip: bool = False,
    activation: Activation = jax.nn.silu,
    valid: Mask | None = None,
    towards: Weights | None = None,
) -> tuple[Float[Array, "time value"], Weights, Weights | None]:
    """Runs a memory that is a network over one chunk, or a part of one, without a loop.

    For loops over chunks of your own; `network_scan` runs whole sequences.

    Args:
        now: the weights before the first token, matrices (out, in).
        surprise: the momentum before the first token; None without momentum.
        anchor: the weights at which gradients are taken.
        q: queries, (time, key).
        k: keys, (time, key).
        v: values, (time, value).
        rate: eta, (time,).
        retain: a, (time,); None: 1.
        momentum: mu, (time,); None: no momentum.
        objective: as in `errors`.
        rule: `"gd"`, `"dgd"` or `"local"`.
        read: `"before"` the token's own write, or `"after"`.
        implicit: for `"dgd"` and `"local"`: eta' instead of eta.
        clip: as in `errors`.
        skip: as in `read_memory`.
        activation: as in `read_memory`.
        valid: (time,) bool, False for padding, which changes nothing; its output is zero.
        towards: matrices like `now` to which retention leads back, see `network_scan`; None: zero.

    Returns:
        (o, now, surprise): outputs, (time, value), and the weights and momentum after the last
        token.

    Raises:
        ValueError: matrices that do not fit each other or the tokens; an unknown objective, rule
            or `read`; known rates or a clip out of range; only one of `surprise` and `momentum`.
    """
    name = "network_chunk"
    q, k, v = check_sequence(name, q, k, v)
    given = {"now": now, "surprise": surprise, "anchor": anchor, "towards": towards}
    now, surprise, anchor, towards = check_alike(name, q, v, **given)
    if (surprise is None) != (momentum is None):
        raise ValueError(
            f"{name}: there is a surprise exactly where momentum is used; pass zeros like now as "
            "surprise with momentum, None without"
        )
    check_options(name, rule, read, skip, activation, clip, q, v)
    objective = error_of(objective, name)
    time = k.shape[0]
    valid, _ = check_masks(name, time, valid, None)
    rate = per_token(name, "rate", rate, time, valid=valid)
    if retain is not None:
        retain = per_token(name, "retain", retain, time, 1.0, valid)
    if momentum is not None:
        momentum = per_token(name, "momentum", momentum, time, 1.0, valid)
    if not time:
        now, surprise = jax.tree.map(
            lambda w: w.astype(jnp.promote_types(w.dtype, jnp.float32)), (now, surprise)
        )
        return jnp.zeros(v.shape, jnp.result_type(q, k, v)), now, surprise
    if valid is not None:
        q, k, v = fill(q, valid), fill(k, valid), fill(v, valid)
        rate = blank(rate, valid)
        retain, momentum = (None if a is None else blank(a, valid) for a in (retain, momentum))
    outputs, now, surprise = write_chunk(
        now, surprise, anchor, q, k, v, rate, retain, momentum, objective, rule, read,
        implicit=implicit, clip=clip, skip=skip, activation=activation,
        valid=None if valid is None else jnp.asarray(valid), towards=towards,
    )  # fmt: skip
    return blank(outputs, valid), now, surprise


def write_chunk(
    now: Weights,
    surprise: Weights | None,
    anchor: Weights,
    q: Array,
    k: Array,
    v: Array,
    rate: Array,
    retain: Array | None,
    momentum: Array | None,
    objective: str | Objective,
    rule: str,
    read: str,
    *,
    implicit: bool,
    clip: float | Array | None,
    skip: bool,
    activation: Activation,
    valid: Array | None,
    towards: Weights | None,
) -> tuple[Array, Weights, Weights | None]:
    """`network_chunk` of tokens that are finite, also where they are not valid; what those read
    means nothing."""
    moved, surprises, asked = [], [], q
    objective = error_of(objective, "network_chunk")
    for i, (x, error) in enumerate(_errors(anchor, k, v, objective, skip, activation, clip)):
        eta = implied(rate, x) if implicit and rule != "gd" else rate
        forgotten = None if rule == "gd" else eta
        if rule == "dgd" and implicit and retain is not None:
            forgotten = retain * eta  # of what is retained: else a small `a` makes it unstable
        if rule == "local":
            error = error - x @ anchor[i].T
        # What is forgotten as a part of the gradient step is carried on by momentum, as that is.
        follows = rule == "local" and momentum is not None
        erase, carried = (None, forgotten) if follows else (forgotten, None)
        # What is retained is the distance from `rest`, which takes no part in the recurrence.
        rest = None if towards is None or retain is None else towards[i]
        written = now[i] if rest is None else now[i] - rest
        state = written if surprise is None else (written, surprise[i])
        bias = None if rest is None else x @ rest.T
        said, state = chunk_of_network(
            state, asked, x, -eta[:, None] * error, erase, retain, momentum, carried, read, valid,
            bias,
        )  # fmt: skip
        said = said if rest is None else said + asked @ rest.T
        new = state if surprise is None else state[0]
        moved.append(new if rest is None else new + rest)
        if surprise is not None:
            surprises.append(state[1])
        asked = said if i == len(now) - 1 else activation(said)
    outputs = q + asked if skip else asked
    return outputs, tuple(moved), None if surprise is None else tuple(surprises)
