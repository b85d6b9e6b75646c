"""What nests, states, tables and reports look like."""

import sys
from html.parser import HTMLParser

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestax as nx


class Cells(HTMLParser):
    """The cells of a table, row by row; fails on tags that are left open."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.open = [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1] in ("td", "th"):
            self.rows[-1].append(data)


@pytest.fixture(scope="module")
def nest():
    w = nx.Level(
        "w", lambda v, b: (jnp.sum((v["w"] - b) ** 2), {"first": v["w"][0], "all": v["w"]}),
        optax.chain(optax.clip(1.0), optax.adam(0.1)), lambda task, key: jnp.ones(2),
        start=lambda v, task, key: v["<s>"]["at"],
    )  # fmt: skip
    s = nx.Level(
        "<s>", lambda v, b: jnp.sum(v["w"] ** 2), lambda v: optax.sgd(0.1), every=4,
        flow=nx.Unroll(),
    )  # fmt: skip
    made = nx.Nest([w, s], copies=3)
    return made, made.init({"<s>": {"at": jnp.zeros(2)}}, jax.random.key(0))


def test_a_nest_fits_a_screen(nest):
    title, head, w, s = repr(nest[0]).splitlines()
    assert title == "Nest of 2 levels, innermost first; a step is 4 ticks; 3 copies"
    assert head.split() == ["level", "every", "flow", "optimizer", "copies", "episodes"]
    assert " ".join(w.split()) == "w 1 Direct() clip + scale_by_adam + scale 3 of 4 ticks"
    assert s.split()[:2] == ["<s>", "4"] and s.endswith("made from values")
    assert Cells(nest[0]._repr_html_()).rows[2][:2] == ["<s>", "4"]
    levels = [nx.Level(f"w{i}", lambda v, b: 0.0, optax.sgd(0.1)) for i in range(50)]
    assert len(repr(nx.Nest(levels)).splitlines()) < 25


def test_a_state_shows_shapes_wherever_it_is(nest):
    _, state = nest
    title, _, s, w = repr(state).splitlines()
    assert title == "State after 0 ticks"
    assert s.split() == ["<s>", "['at']", "float32[2]", "2", "0", "numbers"]
    assert w.split() == ["w", "float32[3,2]", "6", "15", "numbers"]
    assert Cells(state._repr_html_()).rows[1][0] == "<s>"
    seen = []
    jax.eval_shape(lambda s: seen.append(repr(s)), state)
    for strange in (jax.eval_shape(lambda s: s, state), jax.tree.map(lambda a: None, state)):
        seen.append(repr(strange))
    for text in seen:
        assert text.splitlines()[0] == "State"
    assert "float32[3,2]" in seen[0] and "float32[3,2]" in seen[1]


def test_tables_are_their_text(nest):
    table = nest[0].levels()
    assert repr(table) == str(table)
    assert Cells(table._repr_html_()).rows[0][:2] == ["level", "component"]
    rows = (nx.levels._compare.FlowRow("Unroll()", np.ones(2), np.zeros(2), 0.0, 0.0, 1.0, 0.5),)
    check = nx.flows.check_gradient(jnp.sum, jnp.ones(2), verbose=False)
    found = nx.levels.FlowComparison("<s>", "<truth>", rows, check)
    assert repr(found) == str(found)
    head, body = Cells(found._repr_html_()).rows
    cells = ["1 (1 to 1)", "0 (0 to 0)", "0", "0", "1.00", "0.50"]
    assert head[0] == "flow" and body == ["Unroll()", *cells]


def test_reports_are_a_few_lines(nest):
    _, info = nest[0].run(nest[1], 2)
    loss = info["w"].loss
    first, last = (np.mean(loss[i]) for i in (0, -1))
    lines = repr(info["w"]).splitlines()
    assert lines[0] == "LevelInfo" and len(lines) < 20
    shape = ",".join(map(str, loss.shape))
    assert lines[1] == f"  loss: float32[{shape}], {first:.4g} to {last:.4g}"
    jax.eval_shape(lambda info: print(info), info)  # shapes while tracing


def test_reports_become_a_data_frame(nest, monkeypatch):
    _, info = nest[0].run(nest[1], 2)
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "pandas", None)
        with pytest.raises(ModuleNotFoundError, match="pip install pandas"):
            info["w"].frame()
    frame = info["w"].frame()
    np.testing.assert_array_equal(frame["loss"].mean(axis=1), info["w"].loss.mean(axis=1))
    np.testing.assert_array_equal(frame["first"], info["w"].user["first"])
    assert frame.shape == (8, 9) and "all" not in frame
    shared = info["<s>"].frame()
    assert list(shared) == ["loss", "gradient_norm"] and shared.shape == (2, 2)
    np.testing.assert_array_equal(shared["loss"], info["<s>"].loss)
