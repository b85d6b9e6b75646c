"""The models compared: blocks on one skeleton, and Hope with one thing changed; and the claims."""

from typing import Any, NamedTuple

from .. import sequences


def _hope(label: str, **options: Any) -> sequences.Arm:
    return sequences.Arm(f"Hope, {label}", "hope", options)


_BLOCKS = ("hope", "hope_attention", "transformer", "gated_delta", "titans", "linear_attention")
_ABLATIONS = {
    "hope-gd": _hope("plain gradient descent", rule="gd"),
    "hope-no-decay": _hope("no decay", decay=False),
    "hope-momentum": _hope("with momentum", momentum=True),
    # One level that nothing writes is a Transformer's MLP.
    "hope-no-continuum": _hope("plain MLPs", continuum={"periods": (64,), "objective": None}),
    "hope-static-k": _hope("static keys", adaptive=("v", "rate", "retain")),
    "hope-static-v": _hope("static values", adaptive=("k", "rate", "retain")),
    "hope-adaptive-q": _hope("self-made queries", adaptive=("k", "v", "q", "rate", "retain")),
}
ARMS = {name: sequences.ARMS[name] for name in _BLOCKS} | _ABLATIONS
FAMILIES = {"blocks": _BLOCKS, "ablations": tuple(_ABLATIONS)}


class Claim(NamedTuple):
    """That one arm predicts better than another, or with `opposite` that it does not."""

    text: str
    of: str
    better: str
    worse: str
    opposite: bool = False


_BLOCK = (
    "Hope predicts better than other blocks (Nested Learning, Table 2; the gated delta rule stands "
    "for its modern recurrent networks)"
)
_PART = "This part helps Hope (Nested Learning, Table 6)"
CLAIMS = (
    *(
        Claim(_BLOCK, ARMS[name].label, "hope", name)
        for name in ("transformer", "titans", "gated_delta", "linear_attention")
    ),
    Claim("A continuum memory after attention predicts better than a Transformer (Nested Learning, "
          "section 8)", "Hope-Attention", "hope_attention", "transformer"),
    Claim(_PART, "delta gradient descent", "hope", "hope-gd"),
    Claim(_PART, "decay", "hope", "hope-no-decay"),
    Claim(_PART, "momentum", "hope-momentum", "hope"),
    Claim(_PART, "continuum memory", "hope", "hope-no-continuum"),
    Claim(_PART, "self-made keys", "hope", "hope-static-k"),
    Claim(_PART, "self-made values", "hope", "hope-static-v"),
    Claim("Self-made queries do not help Hope (Nested Learning, Table 6: perplexity)",
          "self-made queries", "hope-adaptive-q", "hope", opposite=True),
)  # fmt: skip
