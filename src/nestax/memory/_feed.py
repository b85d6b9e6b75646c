"""The MLP of a Transformer's block: gated, without biases; and the block's residual connection."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ._masks import Mask, blank, check_masks
from ._parts import check_input, check_key, check_sizes, check_state, matrix, rms_norm


class SwiGLU(eqx.Module):
    """down (silu(gate x) * up x), a token (width,) -> (width,) (Shazeer 2020)."""

    gate: Float[Array, "hidden width"]
    up: Float[Array, "hidden width"]
    down: Float[Array, "width hidden"]

    def __init__(self, width: int, hidden: int, *, scale: float = 1.0, key: PRNGKeyArray):
        """Draws it: normal with variance 1 / inputs, `down` times `scale`."""
        check_sizes("SwiGLU", width, 1, hidden=hidden)
        check_key("SwiGLU", key)
        keys = jax.random.split(key, 3)
        self.gate = matrix(keys[0], hidden, width)
        self.up = matrix(keys[1], hidden, width)
        self.down = matrix(keys[2], width, hidden, scale)

    def __call__(self, x: Float[Array, " width"]) -> Float[Array, " width"]:
        """One token."""
        gate, up, down = (w.astype(x.dtype) for w in (self.gate, self.up, self.down))
        return down @ (jax.nn.silu(gate @ x) * (up @ x))


class FeedForward(eqx.Module):
    """x + f(norm(x)) for every token: the second half of a Transformer's block.

    Called as the memories are, with a state that is empty: it is written by no token.
    """

    norm: Float[Array, " width"]
    mlp: SwiGLU

    def __init__(
        self, width: int, hidden: int | None = None, *, scale: float = 1.0, key: PRNGKeyArray
    ):
        """Draws it; `hidden` is 8/3 of the width unless given, `scale` that of what is added."""
        check_sizes("FeedForward", width, 1, hidden=hidden)
        check_key("FeedForward", key)
        self.norm = jnp.ones(width)
        hidden = max(1, round(8 * width / 3)) if hidden is None else hidden
        self.mlp = SwiGLU(width, hidden, scale=scale, key=key)

    def init_state(self) -> tuple[()]:
        """Nothing."""
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
        """(time, width) -> (time, width), and the empty state.

        Args:
            x: tokens.
            state: empty, or None.
            valid: (time,) bool, the tokens that are there; the others are passed on as they are.
            reset: (time,) bool; without effect, as tokens do not meet here.
            max_documents: without effect.

        Raises:
            ValueError: x is not one sequence of this width, or a state or mask does not fit.
        """
        x = check_input("FeedForward", x, self.norm.shape[0])
        if state is not None:
            check_state("FeedForward", state, self.init_state)
        valid, _ = check_masks("FeedForward", x.shape[0], valid, reset, max_documents)
        said = jax.vmap(self.mlp)(rms_norm(blank(x, valid), self.norm))
        return x + blank(said, valid), ()
