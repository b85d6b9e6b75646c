"""Compiled nests, drawn at random, against the tick-by-tick interpreter."""

import pytest
from references.nests import agree, draw, stateful

# With those below, and those that are drawn for processes and episodes: every flow, alone and with
# others, gathered, cut, restarted, copied, in both orders.
SEEDS = (0, 2, 7, 8, 20, 22, 26)


@pytest.mark.parametrize("seed", SEEDS)
def test_random_nest(x64, seed):
    nest, values, _ = draw(seed)
    whole_run = seed % 4 == 0
    agree(nest, values, 2, seed, whole_run, gradients=list(values)[-1:] if whole_run else ())


# Copies, their start and shared levels; an Implicit inside a Forward; an Implicit over copies.
@pytest.mark.parametrize("seed", (1, 9, 14))
def test_random_nest_with_state_beside_the_weights(x64, seed):
    nest, values, _ = draw(seed)
    nest, values = stateful(nest, values)
    agree(nest, values, 2, seed, whole_run=False)
