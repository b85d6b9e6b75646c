"""The documentation's table of optimizers, computed."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest
from references.optimizers import KEEP, NONE, OPTIMIZERS

import nestax as nx

WEIGHTS = jnp.asarray([[0.3, -0.5, 0.2], [0.7, 0.1, -0.4], [-0.2, 0.6, 0.9], [0.5, 0.5, -0.3]])
TICKS = 10
PAGE = Path(__file__).parents[2] / "docs" / "guides" / "optimizers.md"
ROWS = {
    cells[0].strip("`"): cells[2:]
    for line in PAGE.read_text().splitlines()
    if line.startswith("| `") and len(cells := line.strip("| ").split(" | ")) == 5
}


def loss(weights):
    return jnp.sum(jnp.square(weights["w"] @ jnp.asarray([1.0, 2.0, 3.0]) - 1))


def levels(tx):
    """Fastest first: `=` joins what is of one level, a star marks what is written more rarely."""

    def step(state):
        def tick(state, _):
            update, memory = tx.update(jax.grad(loss)(state["p"]), state["m"], state["p"])
            return {"m": memory, "p": optax.apply_updates(state["p"], update)}, None

        return jax.lax.scan(tick, state, None, TICKS)[0]

    weights = {"w": WEIGHTS}
    table = nx.level_table(step, {"m": tx.init(weights), "p": weights})
    texts = []
    for level in table.levels:
        names = []
        for path in level:
            name = "weights" if path.startswith("['p']") else re.findall(r"\.([a-z_]+)", path)[-1]
            name += "" if table.frequencies[path] >= TICKS else "*"
            names += [] if name in names else [name]
        texts.append(" = ".join(names))
    return " ≻ ".join(texts)


@pytest.mark.parametrize("name", ROWS)
def test_the_table_of_optimizers_is_true(name):
    said, scale, held = ROWS[name]
    tx = OPTIMIZERS[name](0.1)
    assert said == levels(tx)
    assert scale == ("same" if name in KEEP else "other" if name in NONE else "c")
    square = jnp.ones((64, 64))
    state = jax.tree.leaves(tx.init({"w": square}))
    assert held == str(sum(a.size for a in state) // square.size)


def test_every_optimizer_is_in_the_table():
    named = {name.split(",")[0].replace("generalized", "generalized_gradient_descent")
             for name in ROWS}  # fmt: skip
    made = {
        name
        for name in dir(nx.optim)
        if re.search("momentum|descent|sign|muon|m3|adam|timescale", name)
        and name[0] != "_"
        and name.islower()
    }
    assert made - named == {"associative_momentum"}
