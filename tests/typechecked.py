"""The type checker of the tests: beartype, which compiles each signature's check once.

jaxtyping asks for a check wherever a function is defined, so for one inside another at every call
of the outer one. It hands over a stand-in with the function's signature that does nothing, and one
stand-in is as good as another.
"""

from beartype import BeartypeConf, beartype

# Checking a random item of a sequence moves Python's random generator. A nest that sees it move
# while it traces a function takes the function for one that draws, and traces it eight times more.
_beartype = beartype(conf=BeartypeConf(is_random=False))
_checks = {}


def check(stand_in):
    defaults = len(stand_in.__defaults__ or ()), frozenset(stand_in.__kwdefaults__ or ())
    hints = tuple(stand_in.__annotations__.items())
    key = (stand_in.__module__, stand_in.__qualname__, stand_in.__code__, defaults, hints)
    if key not in _checks:
        _checks[key] = _beartype(stand_in)
    return _checks[key]
