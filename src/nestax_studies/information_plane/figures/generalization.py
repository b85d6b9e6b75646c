"""Loss and accuracy against the epoch, and the accuracy gap at equal training loss."""

from pathlib import Path

from matplotlib.axes import Axes

from .records import Records
from .sheet import Drawing, Sheet, legend_room
from .style import GREY, arm_handles, arm_line, curve, epoch_axis, log_ticks

_COLUMNS = 6


def generalization(records: Records, directory: Path) -> Drawing:
    """Two by two panels of epochs, and the gap in the room of two by two more."""
    handles, labels = arm_handles(records)
    bottom = 0.7 + legend_room(len(labels), _COLUMNS)
    sheet = Sheet(
        (2, 4), (2.7, 2.2), (0.25, 0.4), (0.75, 0.25, bottom, 1.0), sharex="col", sharey="row"
    )
    title = "Loss, accuracy and generalization"
    sheet.heading(title, records.describe())
    for row, (kind, factor, label) in enumerate(
        (("loss", 1.0, "loss (nats)"), ("accuracy", 100.0, "accuracy (%)"))
    ):
        sheet.axes[row, 0].set_ylabel(label)
        for column, part in enumerate(("train", "test")):
            axes = sheet.axes[row, column]
            axes.set_title(f"{'training' if part == 'train' else part} {kind}")
            for arm in records.arms:
                curve(axes, arm, factor * arm.measured.performance(part, kind))
        sheet.axes[row, 0].autoscale(axis="y")
    sheet.axes[0, 0].set_yscale("log")
    log_ticks(sheet.axes[0, 0].yaxis)
    for axes in sheet.axes[1, :2]:
        epoch_axis(axes, records.last_epoch)
        axes.set_xlabel("epoch")
    for axes in sheet.axes[:, 2:].flat:
        axes.set_visible(False)
    low, high = sheet.axes[1, 2].get_position(), sheet.axes[0, 3].get_position()
    left = low.x0 + 0.5 / sheet.width
    _gap(sheet.figure.add_axes((left, low.y0, high.x1 - left, high.y1 - low.y0)), records)
    sheet.legend(handles, labels, _COLUMNS)
    return sheet.save(
        directory / "generalization.png",
        title,
        "Left: loss (cross-entropy) and accuracy on all training and all test examples against the "
        "epoch (linear up to epoch 1, logarithmic from there). Right: training minus test "
        "accuracy, in percentage points, when a network first reaches a training loss, over the "
        "losses that every seed reached, without arms that never halved their loss; training "
        "proceeds from left to right. Lines are medians over seeds and bands their whole range.",
    )


def _gap(axes: Axes, records: Records) -> None:
    axes.set_title("accuracy gap at equal training loss")
    losses = records.gaps["losses"]
    if not losses:
        axes.set(xticks=[], yticks=[])
        message = "the arms have no training loss in common"
        axes.text(0.5, 0.5, message, ha="center", transform=axes.transAxes, color=GREY)
        return
    compared = [arm for arm in records.arms if arm.name in records.gaps["arms"]]
    for arm in compared:
        line, gaps = arm_line(arm), records.gaps["arms"][arm.name]
        axes.plot(losses, gaps["median"], **line)
        axes.fill_between(
            losses, gaps["low"], gaps["high"], color=line["color"], alpha=0.1, linewidth=0
        )
    axes.axhline(0.0, color="#666666", linewidth=0.8)
    axes.set_xscale("log")
    log_ticks(axes.xaxis)
    axes.invert_xaxis()
    axes.set_xlabel("training loss (nats), falling →")
    axes.set_ylabel("training minus test accuracy (points)")
