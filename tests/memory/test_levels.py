"""The documentation's table of what the models write how often, computed."""

import functools
import math
import types
from itertools import combinations
from pathlib import Path
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import pytest

import nestax as nx
from nestax import plots
from nestax.memory.blocks import KINDS

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "memories.md"
ROWS = dict(
    cells
    for line in PAGE.read_text().replace("\\[", "[").splitlines()  # escaped for the site
    if line.startswith("| `") and "≻" in line and len(cells := line.strip("| ").split(" | ")) == 2
)
CALLS = 16


@functools.cache
def table_of(kind):
    """One block, token by token; the continuum memory's periods are 4 and 16, chunks are of 4."""
    options = {"continuum": {"periods": (4, 16)}} if kind.startswith("hope") else {}
    options |= {"chunk": 4} if kind == "hope" else {}
    model = nx.memory.HopeLM(7, 8, 1, 2, block=kind, key=jax.random.key(0), **options)

    def step(state, token):
        return {"memory": model(token, state["memory"])[1]}

    state = {"memory": model.init_state()}
    return nx.level_table(step, state, jnp.zeros(1, jnp.int32), calls=CALLS)


def levels(table):
    """Fastest first, `=` joins what is of one level; a number is the writes per token."""
    texts = {}
    for row in table.rows:
        if row.level is not None:
            name = row.label.removeprefix("['memory'][0].").replace("['memory']", "[memory]")
            said = f"{name.split(chr(39))[0].rstrip('[')} {row.frequency:g}"
            names = texts.setdefault(row.level, [])
            names += [] if said in names else [said]
    return " ≻ ".join(" = ".join(texts[level]) for level in sorted(texts))


@pytest.mark.parametrize("kind", [name.strip("`") for name in ROWS])
def test_the_table_of_models_is_true(kind):
    assert ROWS[f"`{kind}`"] == levels(table_of(kind))


def test_levels_of_a_continuum_memory_are_written_at_their_periods():
    frequencies = table_of("hope_attention").frequencies
    written = {path: often for path, often in frequencies.items() if ".feed.weights" in path}
    assert sorted(set(written.values())) == [1 / 16, 1 / 4]
    assert all(often == 1 / (4, 16)["weights[1]" in path] for path, often in written.items())


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {name.strip("`") for name in ROWS}))
def test_a_model_that_is_not_in_the_table_has_one_level(kind):
    assert len(table_of(kind).levels) == 1


def test_the_picture_of_frequencies_shows_every_level_where_it_is(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr("nestax.plots.levels.save", lambda figure, path: drawn.append(figure))
    tables = {"one": table_of("hope_attention"), "two": table_of("titans")}
    plots.draw_frequencies(tmp_path / "frequencies.png", tables, tokens=2)
    drawn[0].draw_without_rendering()

    below, above = drawn[0].axes
    dots = {
        line.get_ydata()[0]: line.get_xdata()[0] for line in below.lines if line.get_marker() == "o"
    }
    frequencies = [t.frequencies[level[0]] / 2 for t in tables.values() for level in t.levels]
    assert [dots[y] for y in sorted(dots)] == frequencies
    assert tuple(above.get_xlim()) == pytest.approx([2 * x for x in below.get_xlim()])

    (right,) = below.child_axes
    names = dict(zip(right.get_yticks(), right.get_yticklabels(), strict=True))
    assert [names[y].get_text() for y in sorted(dots)] == [
        *("memory[0].feed.gathered[0]   0.625", "memory[0].feed.gathered[1]   0.53125"),
        "memory[0].mixer.keys, memory[0].mixer.values   0.5",
        *("memory[0].feed.weights[0]   0.125", "memory[0].feed.weights[1]   0.03125"),
        "memory[0].mixer.tail, memory[0].mixer.memory[1]   0.5",
        "memory[0].mixer.memory[0]   0.5",
    ]
    boxes = [text.get_window_extent() for text in (*names.values(), *below.get_yticklabels())]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))


@pytest.mark.parametrize("tables, tokens", [({}, 1), ({"one": "titans"}, 0)])
def test_a_picture_of_nothing_is_refused(tables, tokens, tmp_path):
    tables = {name: table_of(kind) for name, kind in tables.items()}
    with pytest.raises(ValueError, match="draw_frequencies: tokens must be at least 1"):
        plots.draw_frequencies(tmp_path / "frequencies.png", tables, tokens)


def test_pictures_take_any_text_and_folder_but_only_png(tmp_path):
    unlike, path = "one $_b^$ two", str(tmp_path / "new" / "folder" / "a.png")
    assert plots.draw_levels(path, table_of("titans"), unlike).path.is_file()
    row = types.SimpleNamespace(
        name=unlike,
        cosine=(0.5, 0.6),
        **dict.fromkeys(("bias", "spread", "milliseconds", "mebibytes"), math.nan),
    )  # one panel
    found = Mock(nx.levels.FlowComparison, rows=(row,), level=unlike, exact="exact")
    assert plots.draw_flows(path, found).path.is_file()
    found.rows += (types.SimpleNamespace(**vars(row) | {"cosine": (math.nan, math.nan)}),)
    for rows in ((), found.rows[1:]):
        with pytest.raises(ValueError, match="must have finite numbers"):
            plots.draw_flows(path, Mock(nx.levels.FlowComparison, rows=rows))
    with pytest.raises(ValueError, match="table must have a level"):
        plots.draw_levels(path, Mock(nx.levels.LevelTable, rows=()), "title")
    with pytest.raises(ValueError, match=r"must end in .png, got 'a.jpg'"):
        plots.draw_flows("a.jpg", found)
