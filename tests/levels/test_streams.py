"""Data from the host: no batch is lost, none is read twice, and the end is told."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestax as nx

KEY = jax.random.key(0)


def level(name, stream, every=1, **more):
    return nx.Level(
        name, lambda v, b: (jnp.sum(v[name] * b), b[0]), optax.sgd(0.1), stream, every, **more
    )


def slow(every):
    return nx.Level("s", lambda v, b: jnp.sum(v["s"] ** 2), optax.sgd(0.1), every=every)


def numbers(count=10**6):
    for number in range(count):
        yield np.full(1, number, np.float32)


def begin(*levels, **options):
    nest = nx.Nest([tuple(levels)], **options)
    values = {one.name: jnp.zeros(1) for one in levels if one.start is None}
    return nest, nest.init(values, KEY)


class Loader:
    """Iterated again and again, like a data loader; says what it was asked."""

    def __init__(self, seeded=True):
        self.begun, self.seeded = 0, seeded

    def __iter__(self):
        self.begun += 1
        shift = 0 if self.seeded else self.begun
        return (batch + shift for batch in numbers())


def test_every_batch_of_an_iterator_is_used_once_and_in_order():
    batches = numbers()
    nest, state = begin(level("w", nx.Stream.of(batches)))
    nest.gradient(state, "w")
    nest.levels(state)
    state, info = nest.step(state, nest.feed(state))
    assert float(info["w"].user[0]) == 0
    state, info = nest.run(state, 0)
    for steps, expected in ((3, [1, 2, 3]), (40, range(4, 44)), (2, [44, 45])):
        state, info = nest.run(state, steps)
        np.testing.assert_array_equal(info["w"].user, expected)
    assert next(batches)[0] == 46  # none was read beyond


def test_slow_levels_and_copies_have_each_batch_too():
    def start(values, task, key):
        return jnp.zeros(1)

    shared = nx.Stream.of(numbers())
    nest, state = begin(
        level("w", shared), level("s", nx.Stream.of(numbers()), 3), level("v", shared, 3)
    )
    _, info = nest.run(state, 3)
    np.testing.assert_array_equal(info["w"].user, range(9))
    np.testing.assert_array_equal(info["s"].user, [0, 1, 2])  # one for each update
    np.testing.assert_array_equal(info["v"].user, [2, 5, 8])  # what `w` sees at that tick
    nest, state = begin(level("w", nx.Stream.of(numbers()), start=start, horizon=2), copies=3)
    _, info = nest.run(state, 4)
    np.testing.assert_array_equal(info["w"].user, np.arange(12).reshape(4, 3))


@pytest.mark.parametrize("source", [numbers, Loader, lambda: list(numbers(50))])
def test_a_run_that_goes_on_sees_the_batches_it_would_have_seen(source):
    nest, begun = begin(level("w", nx.Stream.of(source())))
    whole, info = nest.run(begun, 30)
    half, _ = nest.run(begun, 15) if source is not numbers else (None, None)
    if half is None:
        other, again = begin(level("w", nx.Stream.of(source())))
        half, _ = other.run(again, 15)
    # A new process: nothing is left but the state.
    anew = nx.Nest([level("w", nx.Stream.of(source()))])
    end, rest = anew.run(half, 15)
    np.testing.assert_array_equal(rest["w"].user, info["w"].user[15:])
    np.testing.assert_array_equal(end.values["w"], whole.values["w"])


def test_what_was_read_may_be_read_again_within_the_cache():
    nest, begun = begin(level("w", nx.Stream.of(numbers(), keep=4)))
    state, _ = nest.run(begun, 3)
    _, info = nest.run(begun, 4)  # the last four are kept
    np.testing.assert_array_equal(info["w"].user, range(4))
    for _ in range(6):
        state, info = nest.step(state)
    assert float(info["w"].user[0]) == 8
    nest, begun = begin(level("w", nx.Stream.of(numbers(), keep=1)))
    state, _ = nest.run(begun, 3)
    for _ in range(9):
        state, _ = nest.step(state)
    with pytest.raises(
        ValueError, match=r"level 'w'.*cannot go back to batch 0.*from 6 on are kept"
    ):
        nest.run(begun, 1)


def test_a_loader_begins_anew_and_must_give_the_same():
    loader = Loader()
    nest, begun = begin(level("w", nx.Stream.of(loader, keep=1)))
    state, _ = nest.run(begun, 1)
    for _ in range(5):
        state, _ = nest.step(state)
    assert loader.begun == 1
    _, info = nest.run(begun, 2)
    assert loader.begun == 2
    np.testing.assert_array_equal(info["w"].user, [0, 1])
    once = numbers()
    for stream in (nx.Stream.of(Loader(seeded=False), keep=1), nx.Stream.of(lambda: once)):
        nest, begun = begin(level("w", stream))
        state, _ = nest.run(begun, 1)
        for _ in range(20):
            state, _ = nest.step(state)
        with pytest.raises(ValueError, match=r"level 'w'.*began anew"):
            nest.run(begun, 1)


def test_the_end_of_an_iterator_is_told_and_nothing_is_lost():
    nest, begun = begin(level("w", nx.Stream.of(numbers(7))), slow(2))
    with pytest.raises(
        nx.StreamEnded, match=r"level 'w'.*ended after 7 batches, in step 4 of 9"
    ) as e:
        nest.run(begun, 9)
    assert e.value.batches == 7 and int(e.value.state.tick) == 6
    np.testing.assert_array_equal(e.value.info["w"].user, range(6))
    with pytest.raises(ValueError, match=r"level 'w': .* ended after 7 batches"):
        nest.step(e.value.state)
    nest, _ = begin(level("w", nx.Stream.of(numbers(7))), level("v", nx.Stream.of(numbers(5))))
    with pytest.raises(nx.StreamEnded, match=r"level 'v'.*ended after 5 batches") as e:
        nest.run(nest.init({"w": jnp.zeros(1), "v": jnp.zeros(1)}, KEY), 9)
    np.testing.assert_array_equal(e.value.info["v"].user, range(5))
    with pytest.raises(nx.StreamEnded, match="ended after 0 batches"):
        begin(level("w", nx.Stream.of([])))


def test_a_loader_may_write_each_batch_where_the_last_one_was():
    def in_place():
        buffer = np.zeros(1, np.float32)
        while True:
            yield buffer
            buffer += 1

    nest, state = begin(level("w", nx.Stream.of(in_place())), slow(4))
    _, info = nest.run(state, 2)
    np.testing.assert_array_equal(info["w"].user, range(8))


def test_streams_that_are_no_functions_of_the_index_are_refused():
    batches = numbers()
    with pytest.raises(ValueError, match=r"level 'w': .*another batch when index 0.*Stream\.of"):
        begin(level("w", nx.Stream(lambda index: next(batches))))
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"level 's': .*another batch when index 2.*default_rng"):
        begin(
            level("w", nx.Stream.of(numbers())),
            level("s", nx.Stream(lambda i: rng.normal(size=1)), 3),
        )
    with pytest.raises(ValueError, match=r"level 'w': .*StopIteration.*Stream\.of\(iterator\)"):
        begin(level("w", nx.Stream(lambda index: next(iter([])))))
    one = numbers()
    with pytest.raises(
        ValueError, match=r"levels 'w' and 'v': two streams take the batches of one"
    ):
        begin(level("w", nx.Stream.of(one)), level("v", nx.Stream.of(one)))
    with pytest.raises(TypeError, match=r"Stream\.of: expected an iterator.*got int"):
        nx.Stream.of(3)
    with pytest.raises(ValueError, match="keep is a number of batches, at least 1, got 0"):
        nx.Stream.of(numbers(), keep=0)


def test_a_streams_function_is_read_once_for_each_batch_and_once_more_at_init():
    asked = []

    def batch(index):
        asked.append(index)
        return np.full(1, index, np.float32)

    nest, state = begin(level("w", nx.Stream(batch)), slow(3))
    assert sorted(asked) == [0, 0, 1, 2]
    asked.clear()
    nest.run(state, 2)
    nest.run(state, 0)
    assert asked == list(range(6))
