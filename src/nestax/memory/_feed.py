"""The MLP of a Transformer's block: gated, without biases; and the block's residual connection."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ._checks import (
    check_input,
    check_key,
    check_state,
    check_unmasked,
    described,
    holds,
    real,
    whole,
    whole_or_none,
)
from ._masks import Mask, blank, check_masks
from ._parts import matrix, rms_norm


class SwiGLU(eqx.Module):
    """A gated MLP without biases, `down (silu(gate x) * up x)`, of one token.

    Attributes:
        gate: matrix (hidden, width).
        up: matrix (hidden, width).
        down: matrix (width, hidden).

    Source: Shazeer, "GLU variants improve Transformer" (2020).
    """

    gate: Float[Array, "hidden width"]
    up: Float[Array, "hidden width"]
    down: Float[Array, "width hidden"]

    def __init__(self, width: int, hidden: int, *, scale: float = 1.0, key: PRNGKeyArray):
        """Draws the matrices: normal with variance 1 / inputs.

        Args:
            width: channels of the input and of the output.
            hidden: hidden units.
            scale: factor of `down`.
            key: a typed PRNG key.
        """
        name = "SwiGLU"
        width, hidden = whole(name, "width", width), whole(name, "hidden", hidden)
        scale = real(name, "scale", scale)
        check_key(name, key)
        keys = jax.random.split(key, 3)
        self.gate = matrix(keys[0], hidden, width)
        self.up = matrix(keys[1], hidden, width)
        self.down = matrix(keys[2], width, hidden, scale)

    def __call__(self, x: Float[Array, " width"]) -> Float[Array, " width"]:
        """Maps one token; use `jax.vmap` for a sequence.

        Args:
            x: (width,).

        Returns:
            (width,).

        Raises:
            ValueError: x is not one token of this width, or not of floating point.
        """
        width = self.gate.shape[1]
        if getattr(x, "shape", None) != (width,) or not holds(x, jnp.floating):
            raise ValueError(
                f"SwiGLU: x must be one token, a floating-point array of shape ({width},), got "
                f"{described(x)}; for a sequence use jax.vmap"
            )
        check_unmasked("SwiGLU", "x", x)
        x = jnp.asarray(x)
        gate, up, down = (w.astype(x.dtype) for w in (self.gate, self.up, self.down))
        return down @ (jax.nn.silu(gate @ x) * (up @ x))


class FeedForward(eqx.Module):
    """The second half of a Transformer's block: `x + mlp(norm(x))` for every token.

    It is called as the memories are, with an empty state.

    Attributes:
        norm: scale of the root-mean-square norm, (width,).
        mlp: the gated MLP.
    """

    norm: Float[Array, " width"]
    mlp: SwiGLU

    def __init__(
        self, width: int, hidden: int | None = None, *, scale: float = 1.0, key: PRNGKeyArray
    ):
        """Draws the MLP; the norm's scale is one.

        Args:
            width: channels of the input and of the output.
            hidden: hidden units; None: 8/3 of the width.
            scale: factor of the MLP's output at first.
            key: a typed PRNG key.
        """
        name = "FeedForward"
        width, hidden = whole(name, "width", width), whole_or_none(name, "hidden", hidden)
        scale = real(name, "scale", scale)
        check_key(name, key)
        self.norm = jnp.ones(width)
        hidden = max(1, round(8 * width / 3)) if hidden is None else hidden
        self.mlp = SwiGLU(width, hidden, scale=scale, key=key)

    def init_state(self) -> tuple[()]:
        """The empty state."""
        return ()

    def __call__(
        self,
        x: Float[Array, "time width"],
        state: tuple[()] | None = None,
        *,
        valid: Mask | None = None,
        reset: Mask | None = None,
        max_documents: int | None = None,
    ) -> tuple[Float[Array, "time width"], tuple[()]]:
        """Maps every token of a sequence.

        Args:
            x: tokens, (time, width).
            state: empty, or None.
            valid: (time,) bool, False for padding, which is returned as it is. None: all tokens are
                valid.
            reset: (time,) bool; without effect, because tokens do not interact here.
            max_documents: without effect.

        Returns:
            (y, state): y of shape (time, width), and the empty state.

        Raises:
            ValueError: x is not one sequence of this width, or a state or mask does not fit.
        """
        x = check_input("FeedForward", x, self.norm.shape[0])
        if state is not None:
            state = check_state("FeedForward", state, self.init_state)
        valid, _ = check_masks("FeedForward", x.shape[0], valid, reset, max_documents)
        said = jax.vmap(self.mlp)(rms_norm(blank(x, valid), self.norm))
        return x + blank(said, valid), ()
