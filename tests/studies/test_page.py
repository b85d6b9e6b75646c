"""Reports for their reader: the answer in words, the page, the terminal, summary.json."""

import dataclasses
import json
import re
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from references.browser import BROWSER, measured
from studies import stubs

import nestax as nx
from nestax.runs import Badge, Folded, RunError
from nestax_studies import lab
from nestax_studies.lab import page, summary
from nestax_studies.lab.log import Log
from nestax_studies.lab.records import Numbers, Row

WORDS = {"+": True, "-": False, "?": None, "a": False}


def verdict(claim, of="", word="+"):
    special = "artefact" if word == "a" else ""
    texts = f"criterion of {claim}", f"measured for {of}"
    return lab.Verdict(claim, *texts, WORDS[word], of, word=special)


def judged(words):
    """Claims A, B, ... with these verdicts."""
    return [verdict(f"{chr(65 + i)} holds (Source)", word=word) for i, word in enumerate(words)]


def grid(claims, ofs, words):
    """Every claim for all of these, with the words in turn."""
    name = "Claim {} holds for what it is about (Source)"
    cases = [(i, j, of) for i in range(claims) for j, of in enumerate(ofs)]
    return [verdict(name.format(i), of, words[(i + 3 * j) % len(words)]) for i, j, of in cases]


# The answer

ANSWERS = {
    "": "This study judges no claim.",
    "??": "No claim could be judged yet.",
    "+": "The claim is supported: A holds.",
    "-": "The claim is not supported: A holds.",
    "a": "The claim is an artefact: A holds.",
    "++": "All 2 claims are supported. Supported: A holds; B holds.",
    "--": "None of 2 claims is supported. Not supported: A holds; B holds.",
    "+-?": "1 of 2 claims is supported and 1 is not. Supported: A holds. Not supported: B holds. "
    "One more could not be judged.",
    "-a": "None of 2 claims is supported and 1 is an artefact. Not supported: A holds. Artefact: "
    "B holds.",
    "+++++-aa": "5 of 8 claims are supported, 1 is not, and 2 are artefacts. Supported: A holds; "
    "B holds; C holds; and 2 more. Not supported: F holds. Artefact: G holds; H holds.",
}


def test_the_answer_is_plain_english_and_short():
    for words, said in ANSWERS.items():
        assert lab.answer(judged(words)) == said
    held = {"A": np.ones(3), "Hope": None}
    lacking = [lab.judge(f"{c} holds", "", held, max, of=c) for c in "xy"]
    assert lab.answer(lacking) == "No claim could be judged for want of Hope."
    said = "The claim is supported: A holds. 2 more could not be judged for want of Hope."
    assert lab.answer(judged("+") + lacking) == said
    one = "One claim was judged in 2 cases, and supported in all. Supported: Claim 0 holds for "
    assert lab.answer(grid(1, ["x", "y"], "+")) == f"{one}what it is about (x and y)."
    text = lab.answer(grid(5, [f"task {i}" for i in range(12)], "+--a-?"))
    assert text.startswith("5 claims were judged in 54 cases: 12 are supported, 30 are not, and 12")
    claim = "Claim {} holds for what it is about (in {} cases)"
    held = "; ".join(claim.format(i, "6 of 12") for i in (0, 3))
    not_held = "; ".join(claim.format(*one) for one in ((1, "all 12"), (2, "all 6"), (4, "all 12")))
    assert f"Supported: {held}. Not supported: {not_held}." in text
    assert "Artefact" not in text and len(text.split()) < 100


# The terminal

SIZES = {
    "one": grid(1, [""], "+"),
    "grid": grid(6, ["one passkey", "one of 4 passkeys"], "+-?"),
    "sparse": [verdict(f"Claim {i} (Source)", f"task {i}", "+-"[i % 2]) for i in range(8)],
    "wide": grid(5, [f"task number {i}" for i in range(12)], "+-a?"),
    "long": grid(40, [""], "+--"),
    "both": grid(20, [f"task {i}" for i in range(20)], "+-"),
}


def told(verdicts, complete=True):
    known = {"question": "What is asked?", "complete": complete}
    return known | {"answer": lab.answer(verdicts), "claims": summary.claims(verdicts)}


@pytest.mark.parametrize("size", SIZES)
def test_the_terminal_shows_at_most_a_screen(size):
    verdicts = SIZES[size]
    for columns in (80, 100):
        lines = page.lines(told(verdicts), columns=columns)
        assert lines[0] == "What is asked?" and len(lines) + 2 <= 24
        verbose = page.lines(told(verdicts), verbose=True, columns=columns)
        assert sum("criterion:" in line for line in verbose) == len(verdicts)
        assert all(len(line) <= columns for line in lines + verbose)
        below = "\n".join(lines[lines.index("") :])
        if size in ("long", "both"):
            assert ("--verbose" in below and " holds" in below) or "… and 9 more" in below
        else:  # a mark for each verdict, and the legend's
            shown = below.count(page.mark(verdicts[0].word))
            assert shown == 1 + sum(v.word == verdicts[0].word for v in verdicts)
    assert page.UNFINISHED in page.lines(told(verdicts, complete=False))


def test_counts_of_many_claims_are_right():
    verdicts = grid(20, ["x", "y"], "+-?")
    lines = page.lines(told(verdicts))
    heads, x, y, _ = lines[lines.index("") + 1 :]
    for line, of in ((x, "x"), (y, "y")):
        words = [v.word for v in verdicts if v.of == of]
        counts = dict(zip(heads.split(), line.split()[1:], strict=True))
        assert counts == {page.mark(w): str(words.count(w)) for w in set(words)}


def test_columns_for_which_there_is_no_room_are_counted_or_follow_below():
    lines = page.lines(told(grid(3, [f"task {i}" for i in range(30)], "+")))
    assert "… and 19 more" in lines and len(lines) < 24
    heads, rows = [chr(65 + i) for i in range(26)], [("a" * 40, ["1.23456"] * 26)]
    for columns in (20, 60, 80):
        lines = page.aligned(heads, rows, columns)
        assert [head for line in lines[::2] for head in line.split()] == heads
        assert max(map(len, lines)) <= columns
    longs = ["a" * 30 + end for end in ("1, 2", "1, 3", "2")] + ["b"]
    assert page.apart(longs, 12) == ["…1, 2", "…1, 3", "…aaa2", "b"]


# The page


def test_claims_are_a_grid_with_a_badge_in_each_cell_or_a_list():
    verdicts = grid(3, ["x", "y"], "+-")
    table = page.claims_table(summary.claims(verdicts))
    assert table.columns == ["claim", "x", "y"]
    tones = {"supported": "good", "not supported": "bad"}
    cells = [cell for row in table.rows for cell in row[1:]]
    assert cells == [Badge(v.word, tones[v.word]) for v in verdicts]
    first = table.rows[0][0]
    assert isinstance(first, Folded) and first.text == verdicts[0].claim
    for text in (verdicts[0].criterion, "x: measured for x", "y: measured for y"):
        assert text in first.more
    table = page.claims_table(summary.claims(SIZES["wide"]))
    signs = {cell.text: cell.means for row in table.rows for cell in row[1:]}
    every = ["supported", "not supported", "artefact", "not measured"]
    assert signs == dict(zip("✓✗~\u2013", every, strict=True)) and "✓ supported" in table.caption
    table = page.claims_table(summary.claims(SIZES["sparse"]))
    assert table.columns == ["claim", "judged for", "verdict"]
    assert [row[1] for row in table.rows] == [f"task {i}" for i in range(8)]


def test_the_page_answers_first_and_folds_details_last(tmp_path):
    def draw(settings, records):
        (first,) = stubs.draw(settings, records)
        return [first, dataclasses.replace(first, name="second", title="Second")]

    dataclasses.replace(stubs.STUDY, draw=draw).perform(tmp_path / "run", stubs.Settings())
    text = (tmp_path / "run" / "report.html").read_text()
    words = (
        '<p class="question">Which stub is larger?</p>',
        "Two stubs, of which one is faster.",
        "The claim is supported: The fast one scores more.",
        'alt="Scores"',
        ">Claims</h2>",
        "<details><summary>The fast one scores more (Stubs, 2020)</summary>",
        "Criterion: 10 points more, in the median.",
        'alt="Second"',
        ">Numbers</h2>",
        ">How it was made</h2>",
        "<details><summary>Settings</summary>",
    )
    order = [text.index(word) for word in words]
    assert order == sorted(order)


@pytest.mark.skipif(BROWSER is None, reason="no browser")
@pytest.mark.parametrize("size", ["one", "wide"])
def test_no_table_is_wider_than_the_page(tmp_path, size):
    """Arms with long labels and many measures."""
    measure = {"unit": "%", "digits": 1, "values": np.asarray([1.0, 55.5, 99.9])}
    measures = {f"found in {48 * 2**m} tokens": measure for m in range(9)}
    facts = {"rate": "0.0032 (edge)", "parameters": 123456}
    labels = [("a task with a name", f"An arm, the {i}th of them") for i in range(3)]
    numbers = Numbers(("task", "arm"), [Row(one, facts, measures) for one in labels], "Numbers.")
    find = lambda settings, records: lab.Findings(numbers, SIZES[size])  # noqa: E731
    dataclasses.replace(stubs.STUDY, find=find).perform(tmp_path / "run", stubs.Settings())
    text = (tmp_path / "run" / "report.html").read_text()
    text = text.replace("<details>", "<details open>")
    for width, found in measured(text, tmp_path, (1200, 800, 390)).items():
        assert found["wide"] == [] and found["tables"] >= 4, width
        assert (found["blocks"] > 0) == (width < 1200)


# summary.json


def form(value, name=""):
    """What a summary looks like, whatever its study: its keys, and the kinds of its values."""
    if name in ("settings", "machine", "facts", "more"):
        return type(value)
    if isinstance(value, dict):
        forms = {key: form(one, key) for key, one in value.items()}
        free = name in ("seconds", "arms", "labels", "measures", "spread")
        return {"*": next(iter(forms.values()))} if free else forms
    if isinstance(value, list):
        return [form(value[0])]
    return "number" if type(value) in (int, float, type(None)) else type(value)


def test_a_summary_has_the_documented_layout(tmp_path):
    stubs.STUDY.perform(tmp_path / "run", stubs.Settings())
    found = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert found == summary.read(tmp_path / "run") == summary.read(tmp_path / "run/summary.json")
    text = (Path(__file__).parents[2] / "docs" / "guides" / "studies.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == list(found)
    assert set(found) == set(summary.KEYS)
    (example,) = re.findall(r"^```json\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert form(found) == form(json.loads(example)) and found["schema"] == summary.SCHEMA == 1
    scores = found["arms"]["fast"]["measures"]["score"]
    assert scores == {"unit": "points", "values": [30, 31, 32]}
    assert found["claims"][0]["spread"]["fast"] == {"least": 30, "median": 31, "most": 32}
    assert found["settings"]["steps"] == 10 and found["complete"]
    assert set(found["seconds"]) == {"slow", "fast"} and "jax" in found["machine"]["versions"]


def test_numbers_that_are_not_finite_are_null():
    for values, least, median, most in (
        ([1.0, np.nan], None, None, None),
        ([3.0, np.inf, 1.0], 1, 3, None),
        ([2.0, 1.0, 4.0, 3.0], 1, 2.5, 4),
        (2.0, 2, 2, 2),
    ):
        (claim,) = summary.claims([lab.Verdict("", "", "", True, values={"a": np.array(values)})])
        assert claim["spread"] == {"a": {"least": least, "median": median, "most": most}}
    assert np.isnan(summary.spread_of([1.0, None])).all()
    assert summary.spread_of([3, 1, 2]) == (2, 1, 3)


def test_summaries_of_another_layout_are_refused(tmp_path):
    stubs.STUDY.perform(tmp_path / "run", stubs.Settings())
    path = tmp_path / "run" / "summary.json"
    good = json.loads(whole := path.read_text())
    other = "has layout 2, and nestax .* reads layout 1; make it again with: nestax"
    for text, said in (
        (json.dumps(good | {"schema": 2}), other),
        (json.dumps(good | {"claims": {}}), "is damaged: 'claims' is missing or not what it"),
        (json.dumps(good | {"arms": {"x": []}}), "is damaged: arms 'x' 'labels' is"),
        (json.dumps(good | {"claims": [{"claim": "A"}]}), "is damaged: claims 0 'of' is"),
        (whole.replace('"unit"', '"units"'), "is damaged: arms 'slow' measures 'score' 'unit' is"),
        (whole.replace("31.0", "false"), "is damaged: arms 'fast' measures 'score' 'values' is"),
        ('{"complete": true, "verdicts": []}', "earlier version of nestax"),
        ("{", "cannot be read"),
    ):
        path.write_text(text)
        with pytest.raises(RunError, match=said):
            summary.read(path)
    path.unlink()
    hint = re.escape(f"make it with: nestax report {tmp_path / 'run'}")
    with pytest.raises(RunError, match=hint):
        summary.read(tmp_path / "run")


# Stages that run a nest


def test_a_nest_of_a_stage_goes_on_where_it_was_and_reaches_the_logger(tmp_path, folder):
    w = nx.Level("w", lambda v, batch: v["w"] ** 2 / 2, optax.sgd(0.5))
    nest, seen, logged = nx.Nest([w]), [], []

    def stage(desk):
        state = nest.init({"w": jnp.ones(())}, jax.random.key(0))
        for steps in (2, 4):  # as if it had been interrupted after two
            state_, info = nest.run(state, steps, watch=desk.watch("own"))
            seen.append(len(info["w"].loss))
        return {"w": float(state_.values["w"]), "losses": [[0.5]], "note": "text"}

    study = dataclasses.replace(stubs.STUDY, stages=lambda s: {"a stage": stage})
    as_tensorboard = types.SimpleNamespace(add_scalar=lambda *told: logged.append(told))
    with folder(tmp_path / "run", stubs.Settings()) as opened:
        study.run(stubs.Settings(), opened, Log(as_tensorboard))
        assert opened.metrics("stage")[0]["w"] == 1 / 16
    assert seen == [2, 2]
    losses = {step: x for name, x, step in logged if name == "a/stage/w/loss"}
    assert losses == {1: 1 / 2, 2: 1 / 8, 3: 1 / 32, 4: 1 / 128}
    assert logged[-1] == ("a/stage/w", 1 / 16, 0)
    assert not (tmp_path / "run" / "checkpoints" / "a-stage").exists()
