"""Draws the gallery: a card for each study, from the tables of benchmarks/RESULTS.md.

Called by docs/gather.py. What a card shows was measured by the study's own command; the question
and the minutes come from the catalogue of studies.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

from nestax_studies.registry import STUDIES

RESULTS = Path(__file__).parents[1] / "benchmarks" / "RESULTS.md"
_CELL = re.compile(
    r"^(-?\d[\d.e-]*)(?: ± ([\d.]+))?(?: \((-?\d[\d.e-]*)(?: to |\u2013)(-?\d[\d.e-]*)\))?$"
)


@dataclass(frozen=True)
class Card:
    """What a card shows.

    Attributes:
        section: heading in RESULTS.md, or its beginning, under which the table stands.
        label: columns whose cells name a bar.
        value: the column drawn; several are lengths along an axis, and each row is a line.
        unit: what the axis is labelled with.
        verdict: what was found, with its number.
        where: column -> cell that rows must have.
        options: of the command, where the table is not of the default settings.
    """

    section: str
    label: tuple[str, ...]
    value: tuple[str, ...]
    unit: str
    verdict: str
    where: dict[str, str] = field(default_factory=dict)
    options: str = ""


CARDS = {
    "maml": Card(
        "Learning to learn: sinusoids",
        ("arm",),
        ("after adaptation",),
        "test error after ten steps (less is better)",
        "It does: error 0.16 with all derivatives, 0.44 to first order, 2.31 by the implicit "
        "formula, whose inner loop has not converged.",
    ),
    "weight-decay": Card(
        "One weight decay for each weight",
        ("arm",),
        ("test",),
        "test accuracy, %",
        "They overfit the choice, 100 % on the 50 images, and still help: 72 % on test images, "
        "63 % with one decay.",
        {"model": "linear"},
    ),
    "distillation": Card(
        "Distillation",
        ("ten images",),
        ("MLP, test accuracy %",),
        "accuracy after ten images, %",
        "Unrolled, ten learned images teach a fresh network 86.0 %, class means 80.4 %. "
        "By implicit flows they teach less than the means.",
        {"data": "mnist"},
    ),
    "cleaning": Card(
        "Data hyper-cleaning",
        ("arm",),
        ("test accuracy %",),
        "test accuracy, %",
        "Wrong labels are found with an F1 score of 89 %, and 98 % of the accuracy they cost comes "
        "back.",
    ),
    "three-level": Card(
        "Three levels",
        ("arm",),
        ("test loss",),
        "test loss (less is better)",
        "Yes: a learned rate for each weight ends 20 % lower than one tuned rate, in three times "
        "the time.",
    ),
    "implicit-bias": Card(
        "Warm and cold starts",
        ("flow", "start"),
        ("trained anew: test error",),
        "test error (less is better)",
        "In the example. None of the paper's claims holds in these two problems.",
        {"problem": "curve"},
    ),
    "information-plane": Card(
        "MNIST, 600 epochs",
        ("arm",),
        ("L5 I(T;X) gaussian",),
        "information of the last layer, bits",
        "Not toward 0 bits, as was claimed, but for sign descent (the published code's update): "
        "its units shrink below the estimator's noise, an artefact of scale.",
        options=" --data mnist --epochs 600 --tune",
    ),
    "optimizers": Card(
        "Fashion-MNIST, 784-32-10",
        ("optimizer",),
        ("training loss",),
        "training loss after 240 steps (less is better)",
        "Delta momentum is the best of 22 after equal steps; after equal time it leads no longer.",
        options=" --tasks toy,forgetting,network --data fashion-mnist",
    ),
    "timescales": Card(
        "Clocks: split and permuted digits",
        ("arm",),
        ("forgetting, points",),
        "points forgotten (less is better)",
        "No: none of 21 claims is supported.",
        {"stream": "split by classes, task known"},
    ),
    "continual": Card(
        "Continual learning: digits by classes",
        ("arm",),
        ("final %",),
        "accuracy on all tasks at the end, %",
        "No: replay of 100 images keeps 82 %, a continuum memory 52 %, a plain network 51 %.",
        {"stream": "permuted pixels"},
    ),
    "formal-languages": Card(
        "Parity, learned",
        ("model",),
        ("last symbol %, longest",),
        "parity of 500 symbols right, learned from 50, %",
        "Hope, gated delta rules and delta rules with rates up to 2 keep parity at ten times the "
        "length. Transformers guess.",
        {"language": "parity"},
        " --languages parity",
    ),
    "recall": Card(
        "Multi-query associative recall",
        ("model",),
        ("answers %",),
        "answers right, %",
        "All but Hope: 54 % where the Transformer has 99 %, after equal steps.",
        options=" --tasks mqar",
    ),
    "needle": Card(
        "One passkey in haystacks",
        ("model",),
        ("48 tokens", "96 tokens", "192 tokens", "384 tokens", "768 tokens", "1536 tokens"),
        "found, %",
        "The gated delta rule: 91 % at 32 times the length it learned from. Hope finds none there.",
        options=" --kinds passkey --arms hope,transformer,titans,gated_delta,linear_attention",
    ),
    "language-model": Card(
        "Thirteen language models",
        ("model",),
        ("bits per character",),
        "bits per character (less is better)",
        "Better than a Transformer and as good as Titans at 0.1 million parameters. "
        "No part of it helps alone.",
    ),
    "games": Card(
        "Games: sixteen ways",
        ("optimizer, Dirac-GAN",),
        ("steps",),
        "steps to converge (less is better)",
        "Descent and real momentum leave bilinear games and the Dirac-GAN, complex momentum "
        "converges, and the spectrum tells how fast: within 2 % for all pairs.",
    ),
    "bifurcations": Card(
        "Bifurcations",
        ("game", "ascent"),
        ("both modes %",),
        "both modes found by two branches, %",
        "Per run yes, in small games: two branches find both modes in 83 % of cases, two random "
        "starts in 48 %. At equal gradients or equal time random starts win everywhere.",
    ),
    "ridges": Card(
        "Ridges: a tree",
        ("arm",),
        ("minima",),
        "minima found, of 64",
        "All 64 minima in 126 runs, where as many random starts find 55; at equal gradients random "
        "starts find them all too.",
        {"surface": "6 numbers, 64 minima"},
    ),
    "estimators": Card(
        "Estimators",
        ("estimate",),
        ("sum of losses",),
        "sum of losses of a learned schedule (less is better)",
        "Truncated unrolls and ES are biased and stay stuck at 2,423; PES and NRES reach 568 and "
        "565. Through chaos the variance of unrolls explodes, that of PES does not.",
        {"problem": "toy"},
    ),
    "learned-optimizers": Card(
        "Learned optimizers: a minute",
        ("optimizer",),
        ("mean loss (nats)",),
        "mean loss over 1,600 steps on MNIST (less is better)",
        "A memory that is meta-trained for a minute beats tuned Adam by 6 % where it was trained, "
        "and by 8 % on other data, 16 times as long. Perceptrons fall behind beyond their horizon.",
        {"world": "16 times, 1600 steps"},
    ),
    "gan": Card(
        "Adversarial training: eight modes",
        ("beta",),
        ("matched %",),
        "share of the mixture matched, %",
        "At equal steps 0.8 exp(i π/8) matches 90 %, 0.3 84 %, no momentum 77 %, 0.8 only 6 %. "
        "At equal rates the real -0.5 does as well as any.",
        {"comparison": "equal effective step"},
    ),
}


def rows_of(text: str, card: Card) -> list[dict[str, str]]:
    """The table's rows that a card shows, column -> cell.

    Raises:
        LookupError: no table under the heading has the columns and a row.
    """
    _, found, section = text.partition(f"\n## {card.section}")
    section = re.split(r"^#{1,2} ", section, maxsplit=1, flags=re.MULTILINE)[0]
    wanted = {*card.label, *card.value, *card.where}
    header, rows = [], []
    for line in section.splitlines() if found else ():
        cells = [cell.strip() for cell in line[1:-1].split("|")]
        if not line.startswith("|"):
            if rows:
                break
            header = []
        elif not header:
            header = cells if wanted <= set(cells) else header
        elif len(cells) == len(header):
            row = dict(zip(header, cells, strict=True))
            if all(row[column] == cell for column, cell in card.where.items()):
                rows.append(row)
    rows = [row for row in rows if all(_CELL.match(row[column]) for column in card.value)]
    if not rows:
        raise LookupError(f"no table under '## {card.section}' has the columns {sorted(wanted)}")
    return rows


def number(cell: str) -> tuple[float, float, float]:
    """Value, least and most of a cell such as `0.24 (0.2 to 0.3)` or `0.24 ± 0.04`."""
    value, either, least, most = _CELL.match(cell).groups()
    value = float(value)
    if either:
        return value, value - float(either), value + float(either)
    return value, float(least or value), float(most or value)


def draw(card: Card, text: str, path: Path) -> None:
    """Draws the points, or the lines, of a card. Information is no score, so none is best."""
    rows = rows_of(text, card)
    rows = rows[:13]
    labels = [", ".join(row[column] for column in card.label) for row in rows]
    figure, axes = plt.subplots(figsize=(5.6, 3.6), layout="constrained")
    if len(card.value) > 1:
        lengths = [int(column.split()[0]) for column in card.value]
        for label, row in zip(labels, rows, strict=True):
            values = [number(row[column])[0] for column in card.value]
            axes.plot(lengths, values, marker="o", label=label)
        axes.set_ylim(-5, 150)  # the legend above the lines
        axes.set_yticks(range(0, 101, 25))
        axes.set(xscale="log", xticks=lengths, xticklabels=lengths, xlabel="tokens")
        axes.set_ylabel(card.unit)
        axes.minorticks_off()
        axes.legend(frameon=False, loc="upper center", ncols=2)
    else:
        numbers = [number(row[card.value[0]]) for row in rows]
        values = [value for value, _, _ in numbers]
        spread = [
            [value - least for value, least, _ in numbers],
            [most - value for value, _, most in numbers],
        ]
        best = (min if "less is better" in card.unit else max)(values)
        dark = [value == best and not card.unit.endswith("bits") for value in values]
        for place, (value, is_best) in enumerate(zip(values, dark, strict=True)):
            around = [[spread[0][place]], [spread[1][place]]]
            colour = "#c2185b" if is_best else "#3f51b5"
            axes.errorbar(value, place, xerr=around, fmt="o", color=colour, elinewidth=1.5)
        axes.set_yticks(range(len(labels)), labels)
        axes.grid(axis="x", color="#ddd")
        axes.invert_yaxis()
        axes.set_xlabel(card.unit, loc="right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def write(site: Path) -> None:
    """Writes gallery.md and its figures into the folder of the site's pages."""
    from markdown.extensions.toc import slugify  # only the site needs it, not the tests

    missing = set(STUDIES) ^ set(CARDS)
    if missing:
        raise LookupError(f"studies and cards differ: {sorted(missing)}")
    text = RESULTS.read_text()
    figures = site / "figures" / "gallery"
    figures.mkdir(parents=True)
    page = [
        "# Gallery",
        "",
        "Each card is a study that puts published claims to the test. Points are medians over "
        "seeds, lines reach from the least to the most, the best is red; at most thirteen are "
        "shown. Minutes are rough, for the default settings on two cores; above each table stands "
        "the command that made it.",
        "",
        '<div class="grid cards" markdown>',
        "",
    ]
    for name, card in CARDS.items():
        draw(card, text, figures / f"{name}.png")
        heading = re.search(rf"^## ({re.escape(card.section)}.*)$", text, re.MULTILINE)[1]
        entry = STUDIES[name]
        page += [
            f"-   **{entry.question}**",
            "",
            f"    ![{card.unit}, by {' and '.join(card.label)}](figures/gallery/{name}.png)",
            "",
            f"    {card.verdict}",
            "",
            "    ```sh",
            f"    nestax run {name}{card.options}",
            "    ```",
            "",
            f"    {entry.minutes} minutes. [All numbers](results.md#{slugify(heading, '-')})",
            "",
        ]
    page += ["</div>", ""]
    (site / "gallery.md").write_text("\n".join(page))
