"""The optimizers compared: parts of a network on several clocks, and the controls on one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import optax

from nestax import optim

CLOCKS = {16: (1, 4, 16), 64: (1, 16, 64)}  # longest period -> periods, fastest first
FAMILIES = {
    "first": "gradient descent, the first layer slow",
    "last": "gradient descent, the last layer slow",
    "blocks": "gradient descent, parallel blocks",
    "adaptive": "Adam",
    "others": "gradient descent, the middle layer slow; momentum",
}
_BASES: dict[str, Callable[[Any], Any]] = {
    "descent": optim.gradient_descent,
    "momentum": optim.momentum,
    "adam": optax.adam,
}
_WORDS = {"descent": "descent", "momentum": "momentum", "adam": "Adam"}
_PLACES = {
    "first": ("first layer slow", (2, 1, 0)),
    "middle": ("middle layer slow", (0, 2, 0)),
    "last": ("last layer slow", (0, 1, 2)),
    "blocks": ("blocks", (0, 1, 2)),
}


@dataclass(frozen=True)
class Arm:
    """An optimizer with everything fixed but its learning rate, and the network that it trains.

    Attributes:
        label: for tables and legends.
        family: the figure that it is drawn in.
        base: name of what every part is trained by.
        blocks: whether the parts are networks side by side; else layers.
        periods: of the three parts, in the order of the parameters.
        how: "one" clock; several that gather a "mean" or a "sum"; one clock with the "rates" that
            the mean amounts to.
        single: the arm with one clock and one rate; None if this is it.
        control: the arm with one clock that moves every part as far; None if this has one clock.
    """

    label: str
    family: str
    base: str
    blocks: bool = False
    periods: tuple[int, int, int] = (1, 1, 1)
    how: str = "one"
    single: str | None = None
    control: str | None = None

    @property
    def clocks(self) -> bool:
        """Whether it has several."""
        return self.how in ("mean", "sum")

    def make(self, rate: Any) -> Any:
        """The optimizer with this learning rate, of the fastest part."""
        base = _BASES[self.base]
        if self.how == "one":
            return base(rate)
        rates = self.how == "rates"
        return optim.multi_timescale(
            {i: base(rate / c if rates else rate) for i, c in enumerate(self.periods)},
            {i: 1 if rates else c for i, c in enumerate(self.periods)},
            list(range(len(self.periods))),
            "sum" if self.how == "sum" else "mean",
        )


def _arms() -> dict[str, Arm]:
    families = {"descent": "others", "momentum": "others", "adam": "adaptive"}
    made = {base: Arm(f"{_WORDS[base]}, one clock", families[base], base) for base in _BASES}
    for base, family in (("descent", "blocks"), ("adam", "adaptive")):
        label = f"{_WORDS[base]}, blocks, one clock"
        made[f"{base}-blocks"] = Arm(label, family, base, True)

    def add(base: str, place: str, longest: int, *hows: str) -> None:
        words, order = _PLACES[place]
        first, middle, last = (CLOCKS[longest][i] for i in order)
        periods, blocks = (first, middle, last), place == "blocks"
        family = "adaptive" if base == "adam" else "others" if place == "middle" else place
        single = f"{base}-blocks" if blocks else base
        name = f"{base}-{place}-{longest}"
        for how in hows:
            control = {"mean": f"{name}-rates", "sum": single}.get(how)
            text = {"rates": "rates only"}.get(how, how)
            label = f"{_WORDS[base]}, {words} {longest}, {text}"
            made[f"{name}-{how}"] = Arm(label, family, base, blocks, periods, how, single, control)

    for place in ("first", "last", "blocks"):
        for longest in CLOCKS:
            add("descent", place, longest, "mean", "rates", "sum")
    add("descent", "middle", 16, "mean", "rates")
    for place in ("first", "last", "blocks"):
        add("adam", place, 16, "mean", "rates")
    return made


ARMS = _arms()
