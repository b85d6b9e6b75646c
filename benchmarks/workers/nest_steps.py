"""How a nest's worker steps: once a call, or as often as it is told in one `Nest.run`."""

import jax


def stepper(nest, start, count=None):
    """() -> (state, info) after one `Nest.step`, or after `count` steps of `Nest.run`; goes on from
    call to call."""
    held = [start]

    def step():
        if count is None:
            held[0], info = nest.step(held[0])
        else:
            held[0], info = nest.run(held[0], count)
        return jax.block_until_ready((held[0], info))

    return step
