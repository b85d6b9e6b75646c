"""Information against the epoch, under every estimator and in every layer."""

from pathlib import Path

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from .records import BINNED, Records
from .sheet import Drawing, Sheet, legend_room
from .style import COLOURS, GREY, LIMIT, SHUFFLED, arm_handles, curve, epoch_axis


def information_curves(records: Records, axis: str, directory: Path) -> Drawing:
    """I(T;X), or I(T;Y) with its shuffled-label control: a row per estimator, column per layer."""
    about, symbol, name, limit = {
        "x": ("input", "I(T;X)", "information", "largest possible estimate"),
        "y": ("label", "I(T;Y)", "label_information", "entropy of the labels"),
    }[axis]
    rows, layers = records.measured(), range(len(records.widths))
    handles, labels = arm_handles(records)
    handles, labels = [*handles, Line2D([], [], **LIMIT)], [*labels, limit]
    shuffled = axis == "y" and BINNED in rows
    if shuffled:
        handles.append(Line2D([], [], color=GREY, **SHUFFLED))
        labels.append("same arm, labels shuffled")
    columns = 4 if len(layers) > 3 else 3
    sheet = Sheet(
        (len(rows), len(layers)), (1.95, 1.55), (0.18, 0.42),
        (0.75, 0.25, 0.7 + legend_room(len(labels), columns), 1.25), sharex=True, sharey="row",
    )  # fmt: skip
    title = f"Information about the {about}, {symbol}"
    sheet.heading(title, records.describe())
    for row, estimator in enumerate(rows):
        sheet.row_title(row, estimator.title.capitalize(), 6.0)
        sheet.axes[row, 0].set_ylabel(f"{symbol} (bits)")
        for layer in layers:
            axes = sheet.axes[row, layer]
            for arm in records.arms:
                curve(axes, arm, arm.information(estimator, axis)[:, :, layer])
                if shuffled and estimator is BINNED:
                    bias = np.median(arm.control("shuffled_y")[:, :, layer], 1)
                    axes.plot(arm.epochs, bias, color=COLOURS[arm.name], alpha=0.8, **SHUFFLED)
            if (ceiling := records.ceiling(estimator, axis, layer)) is not None:
                axes.axhline(ceiling, **LIMIT)
        axes = sheet.axes[row, 0]
        axes.autoscale(axis="y")
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.set_ylim(bottom=-0.03 * axes.get_ylim()[1])
    for layer in layers:
        epoch_axis(sheet.axes[-1, layer], records.last_epoch)
        sheet.axes[-1, layer].set_xlabel("epoch")
        sheet.axes[0, layer].set_title(records.layer_name(layer), weight="bold", pad=20)
    sheet.legend(handles, labels, columns)
    caption = (
        f"{symbol} on the training images, in bits, against the epoch (linear up to epoch 1, "
        "logarithmic from there). A row per estimator, a column per hidden layer, a colour per "
        "arm; lines are medians over seeds and bands their whole range. Dotted lines: "
    )
    if axis == "x":
        caption += "the largest values that an estimator can return."
    else:
        caption += (
            "the entropy of the labels, which no true I(T;Y) exceeds, though an estimate may."
        )
    if shuffled:
        caption += (
            " Dashed lines repeat the binned estimate with shuffled labels, where the true value "
            "is 0: what they show is bias."
        )
    return sheet.save(directory / f"{name}.png", title, caption)
