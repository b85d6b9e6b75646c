"""Reports for their reader: the answer in words, the page, the terminal, summary.json."""

import dataclasses
import json
import re
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
    return lab.Verdict(
        claim,
        f"criterion of {claim}",
        f"measured for {of}",
        WORDS[word],
        of,
        word="artefact" if word == "a" else "",
    )


def judged(words):
    """Claims A, B, ... with these verdicts."""
    return [verdict(f"{chr(65 + i)} holds (Source)", word=word) for i, word in enumerate(words)]


def grid(claims, ofs, words):
    return [
        verdict(
            f"Claim {i} holds for what it is about (Source)", of, words[(i + 3 * j) % len(words)]
        )
        for i in range(claims)
        for j, of in enumerate(ofs)
    ]


# The answer


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        ([], "This study judges no claim."),
        (judged("??"), "No claim could be judged yet."),
        (judged("+"), "The claim is supported: A holds."),
        (judged("-"), "The claim is not supported: A holds."),
        (judged("a"), "The claim is an artefact: A holds."),
        (judged("++"), "All 2 claims are supported. Supported: A holds; B holds."),
        (judged("--"), "None of 2 claims is supported. Not supported: A holds; B holds."),
        (
            judged("+-?"),
            "1 of 2 claims is supported and 1 is not. Supported: A holds. Not supported: B holds. "
            "One more could not be judged, because the run lacks what is needed.",
        ),
        (
            judged("-a"),
            "None of 2 claims is supported and 1 is an artefact. Not supported: A holds. "
            "Artefact: B holds.",
        ),
        (
            judged("+" * 5 + "-" + "aa"),
            "5 of 8 claims are supported, 1 is not, and 2 are artefacts. Supported: A holds; "
            "B holds; C holds; and 2 more. Not supported: F holds. Artefact: G holds; H holds.",
        ),
        (
            grid(1, ["x", "y"], "+"),
            "One claim was judged in 2 cases, and supported in all. Supported: Claim 0 holds for "
            "what it is about (x and y).",
        ),
    ],
)
def test_the_answer_is_plain_english(verdicts, said):
    assert lab.answer(verdicts) == said


def test_the_answer_to_sixty_claims_is_short():
    text = lab.answer(grid(5, [f"task {i}" for i in range(12)], "+--a-?"))
    assert text.startswith("5 claims were judged in 54 cases: 12 are supported, 30 are not, and 12")
    claim = "Claim {} holds for what it is about (in {} cases)"
    held = "; ".join(claim.format(i, "6 of 12") for i in (0, 3))
    not_held = "; ".join(
        claim.format(i, n) for i, n in ((1, "all 12"), (2, "all 6"), (4, "all 12"))
    )
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
    claims = [
        {
            "claim": v.claim,
            "of": v.of,
            "criterion": v.criterion,
            "measured": v.measured,
            "verdict": v.word,
        }
        for v in verdicts
    ]
    return {
        "question": "What is asked?",
        "answer": lab.answer(verdicts),
        "complete": complete,
        "claims": claims,
    }


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("columns", [80, 100])
def test_the_terminal_shows_at_most_a_screen(size, columns):
    verdicts = SIZES[size]
    lines = page.lines(told(verdicts), columns=columns)
    assert lines[0] == "What is asked?" and len(lines) + 2 <= 24
    assert all(len(line) <= columns for line in lines)
    below = "\n".join(lines[lines.index("") :])
    if size in ("one", "grid", "sparse", "wide"):  # a mark for each verdict, and the legend's
        shown = sum(below.count(page.mark(v.word)) for v in verdicts[:1])
        assert shown == 1 + sum(v.word == verdicts[0].word for v in verdicts)
    else:
        assert ("--verbose" in below and " holds" in below) or "… and 9 more" in below
    verbose = page.lines(told(verdicts), verbose=True, columns=columns)
    assert sum("criterion:" in line for line in verbose) == len(verdicts)
    assert all(len(line) <= columns for line in verbose)


def test_counts_of_many_claims_are_right():
    lines = page.lines(told(grid(20, ["x", "y"], "+-?")))
    heads, x, y, _ = lines[lines.index("") + 1 :]
    words = {of: [v.word for v in grid(20, ["x", "y"], "+-?") if v.of == of] for of in "xy"}
    for line, of in ((x, "x"), (y, "y")):
        counts = dict(zip(heads.split(), line.split()[1:], strict=True))
        assert counts == {page.mark(w): str(words[of].count(w)) for w in set(words[of])}


def test_an_unfinished_run_says_so():
    assert page.UNFINISHED in page.lines(told(judged("+"), complete=False))


# The page


def test_claims_are_a_grid_with_a_badge_in_each_cell():
    verdicts = grid(3, ["x", "y"], "+-")
    table = page.claims_table(told(verdicts)["claims"])
    assert table.columns == ["claim", "x", "y"]
    cells = [cell for row in table.rows for cell in row[1:]]
    assert cells == [
        Badge(v.word, "good" if v.word == lab.claims.SUPPORTED else "bad") for v in verdicts
    ]
    first = table.rows[0][0]
    assert isinstance(first, Folded) and first.text == verdicts[0].claim
    for text in (verdicts[0].criterion, "x: measured for x", "y: measured for y"):
        assert text in first.more


def test_many_columns_have_signs_and_few_claims_of_each_a_list():
    table = page.claims_table(told(SIZES["wide"])["claims"])
    cells = [cell for row in table.rows for cell in row[1:]]
    assert {(c.text, c.means) for c in cells} == {
        ("✓", "supported"), ("✗", "not supported"), ("~", "artefact"), ("\u2013", "not measured")
    }  # fmt: skip
    assert "✓ supported" in table.caption
    table = page.claims_table(told(SIZES["sparse"])["claims"])
    assert table.columns == ["claim", "judged for", "verdict"]
    assert [row[1] for row in table.rows] == [f"task {i}" for i in range(8)]


def study(verdicts, arms=0):
    """The stub with other findings: many arms with long labels and many measures."""

    def find(settings, records):
        found = stubs.find(settings, records)
        rows = [
            Row(
                ("a task with a name", f"An arm, the {i}th of them"),
                {"rate": "0.0032 (edge)", "parameters": 123456},
                {
                    f"found in {48 * 2**m} tokens": {
                        "unit": "%", "digits": 1, "values": np.asarray([1.0, 55.5, 99.9])
                    }
                    for m in range(9)
                },
            )
            for i in range(arms)
        ]  # fmt: skip
        numbers = Numbers(("task", "arm"), rows, "Numbers.") if arms else found.numbers
        return lab.Findings(numbers, verdicts or found.verdicts)

    def draw(settings, records):
        (first,) = stubs.draw(settings, records)
        return [first, dataclasses.replace(first, name="second", title="Second")]

    return dataclasses.replace(stubs.STUDY, find=find, draw=draw)


def test_the_page_answers_first_and_folds_details_last(tmp_path):
    study([]).perform(tmp_path / "run", stubs.Settings())
    text = (tmp_path / "run" / "report.html").read_text()
    order = [
        text.index(word)
        for word in (
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
    ]
    assert order == sorted(order)


def test_a_run_that_goes_on_is_the_same_and_another_is_refused(tmp_path):
    done = stubs.STUDY.perform(tmp_path / "run", stubs.Settings())
    assert stubs.STUDY.perform(str(tmp_path / "run"), stubs.Settings()) == done
    with pytest.raises(RunError, match="other settings"):
        stubs.STUDY.perform(tmp_path / "run", stubs.Settings(seeds=1))


@pytest.mark.skipif(BROWSER is None, reason="no browser")
@pytest.mark.parametrize("size", ["one", "wide"])
def test_no_table_is_wider_than_the_page(tmp_path, size):
    study(SIZES[size], arms=3).perform(tmp_path / "run", stubs.Settings())
    text = (tmp_path / "run" / "report.html").read_text()
    text = text.replace("<details>", "<details open>")
    for width, found in measured(text, tmp_path, (1200, 800, 390)).items():
        assert found["wide"] == [], width
        assert found["tables"] >= 4
        assert (found["blocks"] > 0) == (width < 1200)


# summary.json


def valid(value, form, at="summary"):
    """Whether JSON has a form: a type, {key: form}, [form of each], {"*": form of each value}, or a
    tuple of forms of which it must have one."""
    if isinstance(form, tuple):
        return any(valid(value, one, at) for one in form)
    if isinstance(form, type):
        return isinstance(value, form) and not (form is float and isinstance(value, bool))
    if isinstance(form, list):
        return isinstance(value, list) and all(valid(one, form[0], at) for one in value)
    if not isinstance(value, dict):
        return False
    if set(form) == {"*"}:
        return all(
            isinstance(k, str) and valid(v, form["*"], f"{at}.{k}") for k, v in value.items()
        )
    return set(value) == set(form) and all(valid(value[k], form[k], f"{at}.{k}") for k in form)


NUMBER = (int, float, type(None))
JSON = (str, int, float, bool, type(None), list, dict)
LAYOUT_1 = {
    "schema": int,
    "study": str,
    "question": str,
    "nestax": str,
    "complete": bool,
    "answer": str,
    "settings": {"*": JSON},
    "machine": {"*": JSON},
    "seconds": {"*": NUMBER},
    "arms": {
        "*": {
            "labels": {"*": str},
            "facts": {"*": JSON},
            "measures": {"*": {"unit": str, "values": [NUMBER]}},
        }
    },
    "claims": [
        {
            "claim": str,
            "of": str,
            "criterion": str,
            "measured": str,
            "spread": {"*": {"least": NUMBER, "median": NUMBER, "most": NUMBER}},
            "verdict": str,
        }
    ],
    "more": {"*": JSON},
}


def test_a_summary_has_the_documented_layout(tmp_path):
    stubs.STUDY.perform(tmp_path / "run", stubs.Settings())
    found = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert valid(found, LAYOUT_1) and found["schema"] == summary.SCHEMA == 1
    assert found == summary.read(tmp_path / "run") == summary.read(tmp_path / "run/summary.json")
    assert set(summary.KEYS) == set(LAYOUT_1)
    scores = found["arms"]["fast"]["measures"]["score"]
    assert scores == {"unit": "points", "values": [30, 31, 32]}
    assert found["claims"][0]["spread"]["fast"] == {"least": 30, "median": 31, "most": 32}
    assert found["settings"]["steps"] == 10 and found["complete"]
    assert set(found["seconds"]) == {"slow", "fast"} and "jax" in found["machine"]["versions"]
    for damage in ({"schema": "1"}, {"claims": [{}]}, {"arms": {"x": {}}}, {"extra": 1}):
        assert not valid(found | damage, LAYOUT_1)


def test_numbers_that_are_not_finite_are_null():
    assert summary._spread([1.0, np.nan]) == {"least": None, "median": None, "most": None}
    assert summary._spread([3.0, np.inf, 1.0]) == {"least": 1, "median": 3, "most": None}
    assert summary._spread([2.0, 1.0, 4.0, 3.0]) == {"least": 1, "median": 2.5, "most": 4}
    assert summary._spread(np.float64(2.0)) == {"least": 2, "median": 2, "most": 2}
    assert np.isnan(summary.spread_of([1.0, None])).all()
    assert summary.spread_of([3, 1, 2]) == (2, 1, 3)


def test_summaries_of_another_layout_are_refused(tmp_path):
    stubs.STUDY.perform(tmp_path / "run", stubs.Settings())
    path = tmp_path / "run" / "summary.json"
    good = json.loads(path.read_text())
    for change, said in (
        ({"schema": 2}, r"has layout 2, and nestax .* reads layout 1; make it again with: nestax"),
        ({"claims": {}}, "is damaged: 'claims' is missing or not what it should be"),
    ):
        path.write_text(json.dumps(good | change))
        with pytest.raises(RunError, match=said):
            summary.read(path)
    path.write_text(json.dumps({"complete": True, "verdicts": []}))
    with pytest.raises(RunError, match="earlier version of nestax"):
        summary.read(path)
    path.write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        summary.read(path)
    path.unlink()
    hint = re.escape(f"make it with: nestax report {tmp_path / 'run'}")
    with pytest.raises(RunError, match=hint):
        summary.read(tmp_path / "run")


def test_every_key_of_the_layout_is_documented():
    text = (Path(__file__).parents[2] / "docs" / "studies.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == list(summary.KEYS)
    (example,) = re.findall(r"^```json\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert valid(json.loads(example), LAYOUT_1)


# Stages that run a nest


class Told:
    """A logger as TensorBoard's."""

    def __init__(self):
        self.told = []

    def add_scalar(self, name, number, step):
        self.told.append((name, number, step))


def test_a_nest_of_a_stage_goes_on_where_it_was_and_reaches_the_logger(tmp_path, folder):
    w = nx.Level("w", lambda v, batch: v["w"] ** 2 / 2, optax.sgd(0.5))
    nest, seen = nx.Nest([w]), []

    def stage(desk):
        state = nest.init({"w": jnp.ones(())}, jax.random.key(0))
        for steps in (2, 4):  # as if it had been interrupted after two
            state_, info = nest.run(state, steps, watch=desk.watch("own"))
            seen.append(len(info["w"].loss))
        return {"w": float(state_.values["w"]), "losses": [[0.5]], "note": "text"}

    def find(settings, records):
        return lab.Findings(stubs.find(settings, {}).numbers)

    study = dataclasses.replace(stubs.STUDY, stages=lambda s: {"a stage": stage}, find=find)
    log = Log(Told())
    with folder(tmp_path / "run", stubs.Settings()) as opened:
        study.run(stubs.Settings(), opened, log)
        assert opened.metrics("stage")[0]["w"] == 1 / 16
    assert seen == [2, 2]
    losses = {step: x for name, x, step in log.writer.told if name == "a/stage/w/loss"}
    assert losses == {1: 1 / 2, 2: 1 / 8, 3: 1 / 32, 4: 1 / 128}
    assert log.writer.told[-1] == ("a/stage/w", 1 / 16, 0)
    assert not (tmp_path / "run" / "checkpoints" / "a-stage").exists()
