"""A report for its reader: what report.html and the terminal show of summary.json.

Question, answer, headline figure, claims, further figures, numbers, and folded away what only some
readers want.
"""

import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from nestax.runs import Badge, Details, Folded, Picture, Section, Table, Text, write_report

from .claims import NOT_MEASURED, NOT_SUPPORTED, SUPPORTED, short
from .summary import Findings

Claim = Mapping[str, Any]
"""A claim of summary.json."""

_LOOKS = {SUPPORTED: ("good", "✓"), NOT_SUPPORTED: ("bad", "✗"), NOT_MEASURED: ("muted", "\u2013")}
_OTHER = ("warn", "~")
PLAIN = {"✓": "y", "✗": "n", "\u2013": "-", "…": "..."}
"""What is printed where a terminal cannot show a character."""
UNFINISHED = "The run is not finished; only finished stages are judged."
_ROWS = 12  # claims that the terminal shows one by one
_WORDED = 3  # columns of claims whose badges are words
_NARROW = 6  # columns that are shown however many cells are empty
_LABEL = 4  # of a terminal's columns, one in so many at least is a label's


def mark(word: str) -> str:
    """A verdict as one character."""
    return _LOOKS.get(word, _OTHER)[1]


def badge(word: str, worded: bool = True) -> Badge:
    """A verdict as a badge of a report."""
    tone, sign = _LOOKS.get(word, _OTHER)
    return Badge(word, tone) if worded else Badge(sign, tone, word)


def legend(words: Iterable[str]) -> str:
    """What the marks of these verdicts mean."""
    given = set(words)
    order = [word for word in _LOOKS if word in given] + sorted(given - set(_LOOKS))
    return "  ".join(f"{mark(word)} {word}" for word in order)


def shown(value: Any) -> str:
    """A setting as text."""
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def labelled(claim: str, of: str) -> str:
    """A claim without its source, and what it was judged for."""
    return short(claim) + f" [{of}]" * bool(of)


# report.html


def write(
    path: Path,
    title: str,
    lead: str,
    summary: Mapping[str, Any],
    found: Findings,
    pictures: Sequence[Picture],
) -> None:
    """Writes the report of a summary, with its pictures and what else the study tells."""
    claims, numbers = summary["claims"], found.numbers.table()
    machine = "\n".join(f"- {key}: {_listed(value)}" for key, value in summary["machine"].items())
    seconds = sum(_seconds(value) for value in summary["seconds"].values())
    time = f"{seconds / 60:.1f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"
    settings = [[key, shown(value)] for key, value in summary["settings"].items()]
    made = [
        Details("Settings", [Table(["setting", "value"], settings)]),
        Details("Machine and time", [Text(f"{time} on:\n\n{machine}")]),
    ]
    parts = [
        Section("Answer", [Text(summary["answer"]), *pictures[:1]]),
        Section("Claims", [claims_table(claims)] if claims else []),
        Section("Figures", pictures[1:]),
        Section("Numbers", [numbers] if numbers.rows else []),
        *found.sections,
        Section("How it was made", made),
    ]
    told = lead if summary["complete"] else f"{UNFINISHED}\n\n{lead}"
    write_report(path, title, told, [part for part in parts if part.body], summary["question"])


def _listed(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {one}" for key, one in value.items())
    return shown(value)


def _seconds(value: Any) -> float:
    return sum(map(_seconds, value.values())) if isinstance(value, Mapping) else float(value)


def claims_table(claims: Sequence[Claim]) -> Table:
    """The verdicts: a row for each claim, whose criterion and measurements fold out. A column for
    each thing that claims were judged for, where most claims were judged for most of them."""
    cases, columns = _cases(claims)
    caption = "A click on a claim shows its criterion and what was measured."
    if columns is None:
        rows = [[_claim([c]), c["of"] or None, badge(c["verdict"])] for c in claims]
        return Table(["claim", "judged for", "verdict"], rows, caption)
    worded = len(columns) <= _WORDED
    if not worded:
        caption += f" {legend(c['verdict'] for c in claims)}."
    rows = []
    for some in cases:
        by = {c["of"]: badge(c["verdict"], worded) for c in some}
        rows.append([_claim(some), *(by.get(of, "") for of in columns)])
    return Table(["claim", *(of or "verdict" for of in columns)], rows, caption)


def _cases(claims: Sequence[Claim]) -> tuple[list[list[Claim]], list[str] | None]:
    """The cases of each claim, and all that claims were judged for: the rows and columns of a
    table. No columns if that would be wide and mostly empty."""
    cases: dict[str, list[Claim]] = {}
    for claim in claims:
        cases.setdefault(claim["claim"], []).append(claim)
    columns = list(dict.fromkeys(claim["of"] for claim in claims))
    sparse = len(columns) > _NARROW and 2 * len(claims) < len(cases) * len(columns)
    return list(cases.values()), None if sparse else columns


def _claim(cases: Sequence[Claim]) -> Folded:
    """A claim, under which lie its criteria and what was measured."""
    parts = []
    for criterion in dict.fromkeys(c["criterion"] for c in cases):
        parts.append(f"Criterion: {criterion}.".replace("..", "."))
        same = [c for c in cases if c["criterion"] == criterion]
        if len(cases) == 1:
            parts.append(f"Measured: {same[0]['measured']}")
        else:
            parts.append("\n".join(f"- {c['of'] or 'measured'}: {c['measured']}" for c in same))
    return Folded(cases[0]["claim"], "\n\n".join(parts))


# The terminal


def lines(summary: Mapping[str, Any], verbose: bool = False, columns: int = 80) -> list[str]:
    """What the terminal shows: the question, the answer and the claims on one screen; with
    `verbose` what was measured of every claim instead.

    Args:
        summary: of the run.
        verbose: whether every claim is shown with its criterion and measurements.
        columns: of the terminal.
    """
    texts = [summary["question"], *([] if summary["complete"] else [UNFINISHED]), summary["answer"]]
    told = [*(line for text in texts for line in textwrap.wrap(text, columns)), ""]
    if not summary["claims"]:
        return told
    return told + (_at_length if verbose else _grid)(summary["claims"], columns)


def _at_length(claims: Sequence[Claim], columns: int) -> list[str]:
    made = []
    for claim in claims:
        of = f" [{claim['of']}]" if claim["of"] else ""
        made += hung(f"{mark(claim['verdict'])} ", f"{claim['claim']}{of}", columns)
        for head in ("verdict", "criterion", "measured"):
            made += hung(f"    {head + ':':11}", claim[head], columns)
    return made


def hung(head: str, text: str, columns: int) -> list[str]:
    """Text in so many columns, a head before its first line."""
    wrapped = textwrap.wrap(text, columns, initial_indent=head, subsequent_indent=" " * len(head))
    return wrapped or [head]


def _grid(claims: Sequence[Claim], columns: int) -> list[str]:
    """Claims down, across what they were judged for; counts where that is more than a screen."""
    cases, heads = _cases(claims)
    many = len(heads or ())  # columns, numbered where there are many
    broad = many * (len(str(many)) + 2) > columns - columns // _LABEL
    if broad or len(cases if heads is not None else claims) > _ROWS:
        return _counted(claims, columns)
    rows = [(labelled(c["claim"], c["of"]), [mark(c["verdict"])]) for c in claims]
    if heads is not None:
        marks = [{c["of"]: mark(c["verdict"]) for c in some} for some in cases]
        named = zip((short(some[0]["claim"]) for some in cases), marks, strict=True)
        rows = [(name, [by.get(of, "") for of in heads]) for name, by in named]
    return [*aligned(heads or [""], rows, columns), legend(c["verdict"] for c in claims)]


def _counted(claims: Sequence[Claim], columns: int) -> list[str]:
    """How many claims of each verdict there are, for each thing that they were judged for; and the
    supported ones by name."""
    words = list(dict.fromkeys((SUPPORTED, NOT_SUPPORTED, *(c["verdict"] for c in claims))))
    groups: dict[str, Counter[str]] = {}
    for claim in claims:
        groups.setdefault(claim["of"], Counter())[claim["verdict"]] += 1
    rows = [(of or "all claims", [str(n[w] or "") for w in words]) for of, n in groups.items()]
    if len(rows) > _ROWS:
        rows = [*rows[: _ROWS - 1], (f"… and {len(rows) - _ROWS + 1} more", [""] * len(words))]
    held = [c for c in claims if c["verdict"] == SUPPORTED] if len(rows) == 1 else []
    texts = [f"{mark(SUPPORTED)} {labelled(c['claim'], c['of'])}" for c in held[: _ROWS - 3]]
    named = [cut(text, columns) for text in texts]
    named += [f"… and {len(held) - len(named)} more"] if len(held) > len(named) else []
    last = f"{legend(words)}; claim by claim: --verbose"
    return [*aligned([mark(word) for word in words], rows, columns), *named, last]


def aligned(
    heads: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]], columns: int
) -> list[str]:
    """A label and short cells in each row, below their heads. Heads that would take more than a
    third of the columns are numbered and listed; cells for which there is no room follow below."""
    least = min(max(1, columns // _LABEL), max(len(label) for label, _ in rows))
    most = max(1, columns - least - 2)
    rows = [(label, [cut(cell, most) for cell in cells]) for label, cells in rows]
    wide, listed = _widths(heads, rows), []
    numbers = [str(i) for i in range(1, len(heads) + 1)]
    longer = max(map(len, heads)) > len(numbers[-1])
    if longer and len(heads) > 1 and sum(wide) + 2 * len(wide) > columns // 3:
        told = [f"{i}: {head or 'all'}" for i, head in enumerate(heads, 1)]
        whole = "  ".join(text.replace(" ", "\u00a0") for text in told)  # are not broken
        listed = [line.replace("\u00a0", " ") for line in textwrap.wrap(whole, columns)]
        wide = _widths(heads := numbers, rows)
    labels, made, start = [label for label, _ in rows], [], 0
    while start < len(wide):
        end = start + 1
        while end < len(wide) and sum(w + 2 for w in wide[start : end + 1]) <= columns - least:
            end += 1
        room = max(1, columns - sum(w + 2 for w in wide[start:end]))
        room = min(room, max(map(len, labels)))
        texts = zip(["", *apart(labels, room)], [heads, *(cells for _, cells in rows)], strict=True)
        for label, cells in texts:
            told = zip(cells[start:end], wide[start:end], strict=True)
            made.append(f"{label:{room}}{''.join(f'  {cell:>{w}}' for cell, w in told)}".rstrip())
        start = end
    return [*listed, *filter(None, made)]


def _widths(heads: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> list[int]:
    return [
        max(map(len, column)) for column in zip(heads, *(cells for _, cells in rows), strict=True)
    ]


def cut(text: str, room: int) -> str:
    """Text that fits, with a sign where something is left out."""
    return text if len(text) <= room else f"{text[: max(0, room - 1)].rstrip()}…"


def apart(texts: Sequence[str], room: int) -> list[str]:
    """Texts that fit; where two would look alike, they are cut before the place where they
    differ."""

    def told(text: str) -> str:
        pairs = [zip(text, other, strict=False) for other in {*texts} - {text}]
        alike = [sum(1 for _ in takewhile(lambda two: two[0] == two[1], pair)) for pair in pairs]
        if len(text) <= room or max(alike, default=0) < room - 1:
            return cut(text, room)
        return cut(f"…{text[max(alike) - room // 4 :]}", room)

    return [told(text) for text in texts]
