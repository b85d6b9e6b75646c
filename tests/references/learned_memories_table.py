"""Memories that are meta-trained, as members of the optimizers' contract: normalized momentum."""

from nestax import learned

_DELTA, _DEEP = learned.delta_momentum(), learned.deep_momentum()

MEMORIES = {
    "delta_momentum, learned": lambda r: _DELTA(_DELTA.member("momentum"), r),
    "deep_momentum, learned": lambda r: _DEEP(_DEEP.member("momentum"), r),
}
