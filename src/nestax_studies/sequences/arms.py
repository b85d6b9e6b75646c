"""The sequence models compared: one frame of blocks, and what each block reads sequences with."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

_ATTENTION = ("hope_attention", "transformer")


@dataclasses.dataclass(frozen=True)
class Arm:
    """A model with everything fixed but its size.

    Attributes:
        label: for tables and legends.
        block: of `nestax.memory.HopeLM`.
        options: what else it is given.
    """

    label: str
    block: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def given(self, **options: Any) -> "Arm":
        """The same with further options."""
        return dataclasses.replace(self, options={**self.options, **options})

    def make(
        self, vocabulary: int, width: int, depth: int, heads: int, window: int, key: jax.Array
    ) -> Any:
        """A model `(tokens (time,), state=None) -> (scores (time, vocabulary), state)`; attention
        keeps `window` tokens."""
        from nestax import memory  # its equinox would double the time that the command line takes

        options = dict(self.options)
        if self.block in _ATTENTION:
            options["window"] = window
        return memory.HopeLM(vocabulary, width, depth, heads, block=self.block, key=key, **options)


ARMS = {
    "hope": Arm("Hope", "hope"),
    "hope_attention": Arm("Hope-Attention", "hope_attention"),
    "transformer": Arm("Transformer", "transformer"),
    "gated_delta": Arm("gated delta rule", "gated_delta"),
    "delta": Arm("delta rule, rates up to 2", "delta"),
    "delta_positive": Arm("delta rule, rates up to 1", "delta", {"negative": False}),
    "titans": Arm("Titans", "titans"),
    "linear_attention": Arm("linear attention", "linear_attention"),
}
