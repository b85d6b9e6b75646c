"""The models compared: blocks on one skeleton, and Hope with one thing less or more."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax

from .. import sequences, study

FAMILIES = {"blocks": "blocks on one skeleton", "ablations": "Hope, one thing changed"}


@dataclasses.dataclass(frozen=True)
class Arm(sequences.Arm):
    """A model with everything fixed but its size and learning rate.

    Attributes:
        family: the figure that it is drawn in.
    """

    family: str = "blocks"


def _hope(label: str, **options: Any) -> Arm:
    return Arm(f"Hope, {label}", "hope", options, "ablations")


_BLOCKS = ("hope", "hope_attention", "transformer", "gated_delta", "titans", "linear_attention")
ARMS = {
    **{name: Arm(**vars(sequences.ARMS[name])) for name in _BLOCKS},
    "hope-gd": _hope("plain gradient descent", rule="gd"),
    "hope-no-decay": _hope("no decay", decay=False),
    "hope-momentum": _hope("with momentum", momentum=True),
    # One level that nothing writes is a Transformer's MLP.
    "hope-no-continuum": _hope("plain MLPs", continuum={"periods": (64,), "objective": None}),
    "hope-static-k": _hope("static keys", adaptive=("v", "rate", "retain")),
    "hope-static-v": _hope("static values", adaptive=("k", "rate", "retain")),
    "hope-adaptive-q": _hope("self-made queries", adaptive=("k", "v", "q", "rate", "retain")),
}


@dataclasses.dataclass(frozen=True)
class Claim:
    """That one arm predicts better than another.

    Attributes:
        text: in words, with its source.
        better, worse: names of arms.
        opposite: whether it is that the first is *not* better.
    """

    text: str
    better: str
    worse: str
    opposite: bool = False


CLAIMS = (
    Claim("Hope predicts better than a Transformer (Nested Learning, Table 2)",
          "hope", "transformer"),
    Claim("Hope predicts better than Titans (Nested Learning, Table 2)", "hope", "titans"),
    Claim("Hope predicts better than a gated delta net (Nested Learning, Table 2: modern "
          "recurrent networks)", "hope", "gated_delta"),
    Claim("Hope predicts better than linear attention (Nested Learning, Table 2)",
          "hope", "linear_attention"),
    Claim("A continuum memory after attention predicts better than a Transformer (Nested "
          "Learning, section 8)", "hope_attention", "transformer"),
    Claim("Delta gradient descent helps Hope (Nested Learning, Table 6)", "hope", "hope-gd"),
    Claim("Decay helps Hope (Nested Learning, Table 6)", "hope", "hope-no-decay"),
    Claim("Momentum helps Hope (Nested Learning, Table 6)", "hope-momentum", "hope"),
    Claim("The continuum memory helps Hope (Nested Learning, Table 6)",
          "hope", "hope-no-continuum"),
    Claim("Self-made keys help Hope (Nested Learning, Table 6)", "hope", "hope-static-k"),
    Claim("Self-made values help Hope (Nested Learning, Table 6)", "hope", "hope-static-v"),
    Claim("Self-made queries do not help Hope (Nested Learning, Table 6: perplexity)",
          "hope-adaptive-q", "hope", opposite=True),
)  # fmt: skip


class Shape(NamedTuple):
    """Of a model; blocks of all kinds have about as many parameters at the same width.

    Attention keeps `window` tokens, as many as it learns from, so that it meets no distances in a
    long stream that it has not learned.
    """

    vocabulary: int
    width: int
    depth: int
    heads: int
    window: int


@functools.cache
def parameters(name: str, shape: Shape) -> int:
    """How many an arm's model has; nothing is computed."""
    import equinox as eqx

    make = functools.partial(ARMS[name].make, *shape)
    return study.parameters(eqx.filter_eval_shape(make, jax.random.key(0)))
