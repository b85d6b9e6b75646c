"""Kinds of arguments, and the inputs that are tried for each kind.

An input is made from the sound value and comes with what is expected of it:

    refuse   it has no meaning: an error that names function and argument
    same     it means the same as another value: the result for that value, or such an error
    spread   a number that is not finite: a result that is not finite either, or such an error
    runs     unusual but meaningful: a finite result, or such an error
    prefix   fewer tokens: the first of the same outputs, or such an error
    mirror   a negative learning rate: the opposite update, or such an error
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Case(NamedTuple):
    """One input: `means` is what the result is compared with, for `same` and `mirror`."""

    name: str
    value: Any
    expect: str = "refuse"
    means: Any = None
    rtol: float = 1e-4


Kind = Callable[[Any], Iterator[Case]]

NAN, INF = math.nan, math.inf


def _objects(optional: bool, *, string: bool = True) -> Iterator[Case]:
    yield Case("object", object())
    if string:
        yield Case("string", "seven")
    if not optional:
        yield Case("None", None)


def number(
    low: float = -INF,
    high: float = INF,
    *,
    above: bool = False,
    below: bool = False,
    optional: bool = False,
    tokens: int | None = None,
    schedule: bool = False,
    complex_: bool = False,
    mirror: bool = False,
    endless: bool = False,
) -> Kind:
    """A real number from `low` to `high`, without the ends where `above` and `below` say so.

    With `tokens` it may also be one number for each of so many tokens; `endless`: infinity means
    no bound.
    """

    def cases(sound: Any) -> Iterator[Case]:
        middle = (low + high) / 2 if math.isfinite(low + high) else max(low, 0.0) + 0.5
        value = middle if sound is None else float(np.ravel(sound)[0])
        yield from _objects(optional)
        outside = [("NaN", NAN), ("minus infinite", -INF)]
        if endless:
            yield Case("infinite", INF, "runs")
        else:
            outside.append(("infinite", INF))
        if math.isfinite(low):
            outside.append(("below its range", low - 0.5))
        if math.isfinite(high):
            outside.append(("above its range", high + 0.5))
        if above:
            outside.append(("at the excluded low end", low))
        if below:
            outside.append(("at the excluded high end", high))
        for name, bad in outside:
            yield Case(name, bad)
            yield Case(f"{name}, numpy scalar", np.float32(bad))
            yield Case(f"{name}, jax scalar", jnp.float32(bad))
        if mirror:
            yield Case("negative", -value, "mirror", value)
        if not complex_:
            yield Case("complex", 0.5 + 0.5j)
        yield Case("numpy float32", np.float32(value), "same", value)
        yield Case("numpy float64", np.float64(value), "same", value)
        yield Case("jax scalar", jnp.float32(value), "same", value)
        yield Case("numpy array ()", np.array(value), "same", value)
        yield Case("list of one", [value], "same", value)
        if low <= 1 <= high and not (below and high == 1):
            yield Case("int", 1, "same", 1.0)
            yield Case("True", True, "same", 1.0)
        yield Case("wrong shape", jnp.full(11, value))
        if schedule:
            yield Case("schedule", lambda count: jnp.float32(value), "same", value)
        if tokens:
            yield Case("per token", jnp.full(tokens, value), "same", value)
            yield Case("list, per token", [value] * tokens, "same", value)
            yield Case("one token too many", jnp.full(tokens + 1, value))
            yield Case("one token's NaN", jnp.full(tokens, value).at[1].set(NAN))
            if math.isfinite(low):
                yield Case("one token's below its range", jnp.full(tokens, value).at[1].set(-1.5))

    return cases


def per_token(low: float, high: float, tokens: int, *, optional: bool = False) -> Kind:
    """One number for each token, and nothing else."""

    def cases(sound: Any) -> Iterator[Case]:
        host = np.asarray(sound)
        yield from _objects(optional)
        yield Case("numpy", host, "same", sound)
        yield Case("list", host.tolist(), "same", sound)
        yield Case("a number", float(host[0]), "same", sound)
        yield Case("one token too many", jnp.append(sound, sound[0]))
        yield Case("one token only", sound[:1])
        yield Case("complex", sound + 0.5j)
        outside = [NAN, INF, low - 0.5] + ([high + 0.5] if math.isfinite(high) else [])
        for bad in outside:
            yield Case(f"one token's {bad}", sound.at[1].set(bad))

    return cases


def count(least: int = 1, *, most: int | None = None, optional: bool = False) -> Kind:
    """A whole number of at least `least`."""

    def cases(sound: Any) -> Iterator[Case]:
        value = max(least, 1) if sound is None else int(sound)
        yield from _objects(optional)
        yield Case("below its range", least - 1)
        yield Case("negative", -5)
        yield Case("not whole", value + 0.5)
        yield Case("NaN", NAN)
        yield Case("infinite", INF)
        yield Case("complex", value + 1j)
        yield Case("list", [value])
        yield Case("array", jnp.full(2, value))
        yield Case("float", float(value), "same", value)
        yield Case("numpy int64", np.int64(value), "same", value)
        yield Case("numpy uint16", np.uint16(value), "same", value)
        yield Case("jax scalar", jnp.int32(value), "same", value)
        yield Case("True", True, "same", 1)
        if most is not None:
            yield Case("above its range", most + 1)

    return cases


def flag(sound: Any) -> Iterator[Case]:
    """A truth value; others are taken by their truth, as everywhere in Python."""
    yield Case("numpy bool", np.bool_(sound), "same", sound)
    yield Case("int", int(sound), "same", sound)


def choice(*, optional: bool = False, functions: bool = False) -> Kind:
    """The name of an option; with `functions` a function may stand for it."""

    def cases(sound: Any) -> Iterator[Case]:
        yield from _objects(optional, string=False)
        yield Case("unknown", "seven")
        yield Case("empty string", "")
        yield Case("number", 5)
        yield Case("list", ["seven", "eight"])
        yield Case("array", np.ones(2))
        if not functions:
            yield Case("function", lambda *args: args)
        if isinstance(sound, str):
            yield Case("numpy string", np.str_(sound), "same", sound)

    return cases


def function(*, optional: bool = False, names: bool = False) -> Kind:
    """A callable; with `names` a string may stand for it."""

    def cases(sound: Any) -> Iterator[Case]:
        yield from _objects(optional)
        yield Case("number", 5)
        yield Case("array", np.ones(2))

    return cases


def counts(*, length: int | None = None, least: int = 1, optional: bool = False) -> Kind:
    """A sequence of whole numbers."""

    def cases(sound: Any) -> Iterator[Case]:
        sound = tuple(sound)
        yield from _objects(optional)
        yield Case("a number", sound[0])
        yield Case("list", list(sound), "same", sound)
        yield Case("numpy", np.array(sound), "same", sound)
        yield Case("jax", jnp.array(sound), "same", sound)
        for name, bad in (("below", least - 1), ("not whole", 2.5), ("NaN", NAN), ("string", "2")):
            yield Case(f"one entry {name}", (*sound[:-1], bad))
        if length is not None:
            yield Case("one too many", (*sound, sound[-1]))
            yield Case("empty", ())

    return cases


def numbers(low: float = -INF, high: float = INF, *, empty: bool = False) -> Kind:
    """A sequence of real numbers."""

    def cases(sound: Any) -> Iterator[Case]:
        sound = tuple(sound)
        yield from _objects(False)
        yield Case("a number", sound[0])
        yield Case("list", list(sound), "same", sound)
        yield Case("numpy", np.array(sound), "same", sound)
        for name, bad in (("NaN", NAN), ("infinite", INF), ("string", "2"), ("complex", 1j)):
            yield Case(f"one entry {name}", (*sound[:-1], bad))
        yield Case("numpy entries", tuple(map(np.float32, sound)), "same", sound)
        if not empty:
            yield Case("empty", ())

    return cases


def _floats(sound: Any, complex_: bool, vanishing: tuple[float, ...]) -> Iterator[Case]:
    """The same numbers held otherwise, and other ones in the same shape."""
    host = np.asarray(sound)
    yield Case("numpy float32", host, "same", sound)
    yield Case("numpy float64", host.astype(np.float64), "same", sound)
    yield Case("list", host.tolist(), "same", sound)
    half = sound.astype(jnp.bfloat16)
    yield Case("bfloat16", half, "same", half.astype(jnp.float32), 0.1)
    whole = np.round(3 * host).astype(np.int32)
    yield Case("integers", jnp.asarray(whole), "same", jnp.asarray(whole, jnp.float32))
    yield Case("numpy integers", whole, "same", jnp.asarray(whole, jnp.float32))
    truths = host > 0
    yield Case("truth values", jnp.asarray(truths), "same", jnp.asarray(truths, jnp.float32))
    if not complex_:
        yield Case("complex", sound + 0.5j)
    yield Case("strings", np.full(host.shape, "seven"))
    yield Case("objects", np.full(host.shape, None))
    mask = np.zeros(host.shape, bool)
    mask.flat[0] = True
    yield Case("masked", np.ma.masked_array(host, mask))
    for name, bad in (("NaN", NAN), ("infinite", INF), ("minus infinite", -INF)):
        expect = "runs" if any(bad is v or bad == v for v in vanishing) else "spread"
        yield Case(f"one {name}", sound.at[(0,) * sound.ndim].set(bad), expect)
        spoiled = host.copy()
        spoiled.flat[0] = bad
        yield Case(f"one {name}, numpy", spoiled, expect)


def _shapes(sound: Any, tied: tuple[int, ...], rank: bool) -> Iterator[Case]:
    """Shapes that do not fit; axes that are not tied to another argument may have any length."""
    if rank:
        yield Case("an axis less", sound[0])
        yield Case("an axis more", sound[None])
        yield Case("a number", 0.5)
    for axis in tied:
        longer = jnp.concatenate([sound, jax.lax.slice_in_dim(sound, 0, 1, axis=axis)], axis)
        yield Case(f"axis {axis} too long", longer)
        yield Case(f"axis {axis} empty", jax.lax.slice_in_dim(sound, 0, 0, axis=axis))
        if sound.shape[axis] > 1:
            one = jax.lax.slice_in_dim(sound, 0, 1, axis=axis)
            yield Case(f"axis {axis} of length one", one)


def array(
    tied: tuple[int, ...] | None = None,
    *,
    rank: bool = True,
    optional: bool = False,
    complex_: bool = False,
    vanishing: tuple[float, ...] = (),
) -> Kind:
    """A floating-point array.

    `tied`: the axes whose length is given by something else; `rank`: whether their number is fixed;
    `vanishing`: numbers which the result need not show, as 1 / x does not show infinity.
    """

    def cases(sound: Any) -> Iterator[Case]:
        yield from _objects(optional)
        yield Case("dict", {"a": sound})
        yield from _floats(sound, complex_, vanishing)
        yield from _shapes(sound, range(sound.ndim) if tied is None else tied, rank)

    return cases


def mask(sound: Any) -> Iterator[Case]:
    """One truth value for each token, or None."""
    yield from _objects(True)
    yield Case("numpy", np.asarray(sound), "same", sound)
    yield Case("list", np.asarray(sound).tolist(), "same", sound)
    yield Case("integers", sound.astype(jnp.int32), "same", sound)
    yield Case("floats", sound.astype(jnp.float32) + 0.25)
    yield Case("a truth value", True, "same", jnp.ones_like(sound))
    yield from _shapes(sound, (0,), True)


def tokens(vocabulary: int) -> Kind:
    """One sequence of tokens."""

    def cases(sound: Any) -> Iterator[Case]:
        host = np.asarray(sound)
        yield from _objects(False)
        yield Case("a token", int(host[0]))
        yield Case("list", host.tolist(), "same", sound)
        yield Case("numpy", host, "same", sound)
        yield Case("numpy uint8", host.astype(np.uint8), "same", sound)
        yield Case("floats", sound.astype(jnp.float32))
        yield Case("truth values", host > 0)
        yield Case("strings", host.astype(str))
        yield Case("masked", np.ma.masked_array(host, host == host[0]))
        yield Case("negative", sound.at[1].set(-1))
        yield Case("beyond the vocabulary", sound.at[1].set(vocabulary))
        yield Case("an axis more", sound[None])

    return cases


def key(*, optional: bool = False, seed: bool = False) -> Kind:
    """A typed PRNG key; with `seed` an integer may stand for it."""

    def cases(sound: Any) -> Iterator[Case]:
        yield from _objects(optional)
        yield Case("number", 0.5)
        if seed:
            yield Case("seed", 0, "same", sound)
            yield Case("numpy seed", np.int64(0), "same", sound)
        else:
            yield Case("seed", 0)
        typed = jax.random.key(0) if sound is None or isinstance(sound, int) else sound
        yield Case("raw key", jax.random.key_data(typed), "same", typed)
        yield Case("several keys", jax.random.split(typed, 2))
        yield Case("array of floats", jnp.ones(2))
        yield Case("list", [0, 0])

    return cases


def pieces(*names: str) -> Kind:
    """Shorter sequences: these arguments together, each with a leading axis of tokens."""

    def cases(sound: Mapping[str, Any]) -> Iterator[Case]:
        for word, length in (("no tokens", 0), ("one token", 1)):
            yield Case(word, {name: sound[name][:length] for name in names}, "prefix")

    return cases


def _damaged(tree: Any, change: Callable[[Any], Any], floats: bool = True) -> Any:
    """The tree with its first (floating-point) array changed."""
    leaves, structure = jax.tree.flatten(tree)
    for index, leaf in enumerate(leaves):
        if leaf.ndim and (not floats or jnp.issubdtype(leaf.dtype, jnp.inexact)):
            leaves[index] = change(leaf)
            break
    return jax.tree.unflatten(structure, leaves)


def state(*, optional: bool = True, read: bool = True) -> Kind:
    """What a call before returned: a tree of arrays; `read`: whether the first is looked at."""

    def cases(sound: Any) -> Iterator[Case]:
        yield from _objects(optional)
        yield Case("number", 5)
        yield Case("array of another shape", jnp.ones((3, 5, 7)))
        yield Case("empty tuple", ())
        if not jax.tree.leaves(sound):
            return
        wider = lambda a: jnp.concatenate([a, a[..., :1]], -1)  # noqa: E731
        yield Case("of another width", _damaged(sound, wider))
        taller = lambda a: jnp.concatenate([a, a[:1]])  # noqa: E731
        yield Case("of another length", _damaged(sound, taller))
        yield Case("an axis more", _damaged(sound, lambda a: a[None]))
        yield Case("complex", _damaged(sound, lambda a: a + 0.5j))
        yield Case("strings", _damaged(sound, lambda a: np.full(a.shape, "seven")))
        first = lambda a: a.at[(0,) * a.ndim].set(NAN)  # noqa: E731
        if read:
            yield Case("one NaN", _damaged(sound, first), "spread")
        yield Case("numpy", jax.tree.map(np.asarray, sound), "same", sound)
        if isinstance(sound, tuple):
            yield Case("a part missing", tuple(sound)[:-1])
            if not hasattr(sound, "_fields"):
                yield Case("list", list(sound), "same", sound)

    return cases


def weights(*, optional: bool = False, taken: bool = True, given: bool = True) -> Kind:
    """The matrices of an MLP, first applied first.

    `taken` and `given`: whether another argument says what the first takes and the last gives.
    """
    return lambda sound: _weights(sound, optional, taken, given)


def _weights(sound: Any, optional: bool, taken: bool, given: bool) -> Iterator[Case]:
    yield from _objects(optional)
    yield Case("empty", ())
    yield Case("one matrix, not in a tuple", sound[0])
    yield Case("list", list(sound), "same", sound)
    yield Case("numpy", jax.tree.map(np.asarray, sound), "same", sound)
    wide = (jnp.pad(sound[0], ((0, 0), (0, 1))), *sound[1:])
    yield Case("the first too wide", wide, "refuse" if taken else "runs")
    yield Case("the first too tall", (jnp.pad(sound[0], ((0, 1), (0, 0))), *sound[1:]))
    tall = (*sound[:-1], jnp.pad(sound[-1], ((0, 1), (0, 0))))
    yield Case("the last too tall", tall, "refuse" if given else "runs")
    yield Case("a vector", (*sound[:-1], sound[-1][0]))
    whole = jax.tree.map(lambda w: jnp.round(3 * w).astype(jnp.int32), sound)
    yield Case("integers", whole, "same", jax.tree.map(lambda w: w.astype(jnp.float32), whole))
    yield Case("complex", jax.tree.map(lambda w: w + 0.5j, sound))
    yield Case("one None", (None, *sound[1:]))
    yield Case("one NaN", (sound[0].at[0, 0].set(NAN), *sound[1:]), "spread")


def gradients(*, bounded: bool = False) -> Kind:
    """What an optimizer is updated with; `bounded`: its steps are finite for infinite ones."""

    def cases(sound: Any) -> Iterator[Case]:
        yield from _objects(False)
        yield from _tree(sound)
        yield Case("complex", jax.tree.map(lambda g: g + 0.5j, sound))
        yield Case("a number", 5.5)
        yield Case("lists", jax.tree.map(lambda g: np.asarray(g).tolist(), sound))
        yield Case("a leaf missing", {"w": sound["w"]})
        yield Case("a leaf too many", {**sound, "z": sound["b"]})
        yield Case("a leaf None", {**sound, "b": None})
        w = sound["w"]
        for name, bad in (("an axis less", w[0]), ("an axis more", w[None]), ("a number", 0.5)):
            yield Case(f"a leaf with {name}", {**sound, "w": bad})
        yield Case("a leaf too short", {**sound, "w": w[:1]})
        yield Case("a leaf too long", {**sound, "w": jnp.concatenate([w, w[:1]])})
        yield Case("one NaN", {**sound, "w": w.at[0, 0].set(NAN)}, "spread")
        for name, bad in (("infinite", INF), ("minus infinite", -INF)):
            spoiled = {**sound, "w": w.at[0, 0].set(bad)}
            yield Case(f"one {name}", spoiled, "runs" if bounded else "spread")
        yield Case("zeros", jax.tree.map(jnp.zeros_like, sound), "runs")
        yield Case("tiny", jax.tree.map(lambda g: g * 1e-30, sound), "runs")

    return cases


def parameters(sound: Any) -> Iterator[Case]:
    """What an optimizer is initialized with; gradients are made like them."""
    yield from _objects(True)
    yield Case("None", None, "runs")
    yield from _tree(sound)
    yield Case("complex", jax.tree.map(lambda p: p + 0.5j, sound), "runs")
    yield Case("a number", 5.5, "runs")
    yield Case("lists", jax.tree.map(lambda p: np.asarray(p).tolist(), sound), "runs")
    yield Case("Python floats", {"w": 0.5, "b": 1.5}, "same", _scalars(jnp.float32))
    yield Case("numpy scalars", _scalars(np.float32), "same", _scalars(jnp.float32))
    yield Case("a leaf that is a function", {**sound, "z": jnp.tanh})
    yield Case("no leaves", {}, "runs")
    yield Case("an empty leaf", {**sound, "w": jnp.zeros((0, 2))}, "runs")
    yield Case("leaves of one number", {"w": jnp.ones((1, 1)), "b": jnp.ones(1)}, "runs")
    yield Case("three axes", {**sound, "w": jnp.ones((2, 2, 2))}, "runs")


def _scalars(dtype: Any) -> Any:
    return {"w": dtype(0.5), "b": dtype(1.5)}


def _tree(sound: Any) -> Iterator[Case]:
    yield Case("numpy float32", jax.tree.map(np.asarray, sound), "same", sound)
    wide = jax.tree.map(lambda g: np.asarray(g).astype(np.float64), sound)
    yield Case("numpy float64", wide, "same", sound)
    half = jax.tree.map(lambda g: g.astype(jnp.bfloat16), sound)
    exact = jax.tree.map(lambda g: g.astype(jnp.float32), half)
    yield Case("bfloat16", half, "same", exact, 0.1)
    whole = jax.tree.map(lambda g: jnp.round(3 * g).astype(jnp.int32), sound)
    yield Case("integers", whole)
    yield Case("truth values", jax.tree.map(lambda g: g > 0, sound))
    yield Case("strings", {**sound, "b": "seven"})
    yield Case("objects", {**sound, "b": np.full(3, None)})
    hidden = np.ma.masked_array(np.asarray(sound["b"]), [True, False, False])
    yield Case("masked", {**sound, "b": hidden})


def labels(*, tied: bool = True) -> Kind:
    """Class labels; `tied`: as many as there are rows."""

    def cases(sound: Any) -> Iterator[Case]:
        host = np.asarray(sound)
        yield from _objects(True)
        yield Case("list", host.tolist(), "same", sound)
        yield Case("tuple", tuple(host.tolist()), "same", sound)
        yield Case("jax", jnp.asarray(host), "same", sound)
        yield Case("uint8", host.astype(np.uint8), "same", sound)
        yield Case("truth values", host > 0, "same", (host > 0).astype(int))
        yield Case("shifted", host + 2**40, "same", sound)
        yield Case("floats", host.astype(float))
        yield Case("complex", host + 1j)
        yield Case("strings", host.astype(str))
        yield Case("objects", np.full(host.shape, None))
        yield Case("masked", np.ma.masked_array(host, host == host[0]))
        yield Case("an axis more", host[None])
        yield Case("one-hot", np.eye(5, dtype=int)[host % 5])
        if tied:
            yield Case("one too many", np.append(host, 0))
        yield Case("one", host[:1])
        yield Case("empty", host[:0])
        yield Case("a number", 1)

    return cases


def samples(*, vector: bool = False) -> Kind:
    """Activations or samples, (rows, units), of concrete numbers that must be finite."""

    def cases(sound: Any) -> Iterator[Case]:
        yield from _objects(False)
        yield Case("dict", {"a": sound})
        yield Case("number", 0.5)
        yield Case("numpy float64", sound.astype(np.float64), "same", sound)
        yield Case("jax", jnp.asarray(sound), "same", sound)
        yield Case("list", sound.tolist(), "same", sound)
        half = jnp.asarray(sound, jnp.bfloat16)
        yield Case("bfloat16", half, "same", np.asarray(half, np.float32))
        fine = sound.astype(np.float16)
        yield Case("float16", fine, "same", fine.astype(np.float32))
        whole = np.round(8 * sound)
        for dtype in (np.int8, np.int64):
            yield Case(np.dtype(dtype).name, whole.astype(dtype), "same", whole)
        lifted = whole - whole.min()
        yield Case("uint8", lifted.astype(np.uint8), "same", lifted)
        yield Case("truth values", sound > 0, "same", (sound > 0) + 0.0)
        yield Case("complex", sound + 0.5j)
        yield Case("strings", np.full(sound.shape, "seven"))
        yield Case("objects", sound.astype(object))
        hidden = np.zeros(sound.shape, bool)
        hidden.flat[0] = True
        yield Case("masked", np.ma.masked_array(sound, hidden))
        yield Case("masked, nothing hidden", np.ma.masked_array(sound), "same", sound)
        for name, bad in (("NaN", NAN), ("infinite", INF), ("minus infinite", -INF)):
            spoiled = sound.copy()
            spoiled.flat[0] = bad
            yield Case(f"one {name}", spoiled)
            yield Case(f"one {name}, jax", jnp.asarray(spoiled))
        if not vector:
            yield Case("an axis less", sound[:, 0])
        yield Case("an axis more", sound[None])
        yield Case("one row", sound[:1])
        yield Case("no rows", sound[:0])
        yield Case("no units", sound[:, :0])
        yield Case("ragged", [[1.0, 2.0], [3.0]])
        yield Case("longdouble", sound.astype(np.longdouble), "same", sound)

    return cases


def bools(length: int) -> Kind:
    """One truth value for each token, or None, where none is given so far."""
    return lambda sound: mask(jnp.ones(length, bool) if sound is None else sound)


def segments(length: int, *, optional: bool = True) -> Kind:
    """The number of each token's document."""

    def cases(sound: Any) -> Iterator[Case]:
        numbers = jnp.arange(length) // 2
        yield from _objects(optional)
        yield Case("numpy", np.asarray(numbers), "same", numbers)
        yield Case("list", np.asarray(numbers).tolist(), "same", numbers)
        yield Case("counted from elsewhere", numbers + 7, "same", numbers)
        yield Case("floats", numbers + 0.5)
        yield Case("strings", np.asarray(numbers).astype(str))
        yield Case("a number", 3)
        if optional:
            yield Case("too long", jnp.append(numbers, 9))
        yield Case("an axis more", numbers[None])

    return cases


def other(*cases: Case) -> Kind:
    """Inputs for this argument alone."""
    return lambda sound: iter(cases)


def both(*kinds: Kind) -> Kind:
    """The inputs of several kinds."""

    def cases(sound: Any) -> Iterator[Case]:
        for kind in kinds:
            yield from kind(sound)

    return cases
