"""What else changed in the layers: scale, saturation, rank, collapse, noise."""

from pathlib import Path

import numpy as np

from .records import Records
from .sheet import Drawing, Sheet
from .style import arm_handles, curve, epoch_axis, log_ticks

_PERCENT = (-5.0, 105.0)


def controls(records: Records, directory: Path) -> Drawing:
    """A row per control, a column per layer; the readout's has its weights and the legend."""
    # Row by row: the control, its label, what it is multiplied by, and log or limits of the axis.
    rows = (
        ("weight_norm", "weight norm", 1.0, "log"),
        ("std", "standard deviation\nof a unit", 1.0, "log"),
        ("saturated", "saturated\nactivations (%)", 100.0, _PERCENT),
        ("effective_rank", "effective rank", 1.0, None),
        ("distinct", "distinct rows\n(% of inputs)", 100.0 / records.images, _PERCENT),
        ("noisy_accuracy", "test accuracy with\nnoise added here (%)", 100.0, None),
    )
    layers = len(records.widths)
    sheet = Sheet(
        (len(rows), layers + 1), (1.95, 1.4), (0.22, 0.2), (1.0, 0.25, 0.55, 1.02),
        sharex=True, sharey="row",
    )  # fmt: skip
    sheet.heading("Controls: scale, saturation, rank, robustness", records.describe())
    for (name, label, factor, scale), panels in zip(rows, sheet.axes, strict=True):
        first = panels[0]
        first.set_ylabel(label)
        first.yaxis.set_label_coords(-0.24, 0.5)  # one line of labels down the figure
        values = [factor * arm.control(name) for arm in records.arms]
        if scale == "log" and any(np.any(of_arm > 0) for of_arm in values):
            first.set_yscale("log")
        for arm, of_arm in zip(records.arms, values, strict=True):
            for layer in range(of_arm.shape[2]):
                curve(panels[layer], arm, of_arm[:, :, layer])
        first.autoscale(axis="y")
        if first.get_yscale() == "log":
            log_ticks(first.yaxis)
        elif scale == _PERCENT:
            first.set_ylim(scale)
    titles = [*(records.layer_name(layer) for layer in range(layers)), "readout"]
    for column, title in enumerate(titles):
        sheet.axes[0, column].set_title(title, weight="bold")
        sheet.axes[-1, column].set_xlabel("epoch")
        epoch_axis(sheet.axes[-1, column], records.last_epoch)
    for axes in sheet.axes[1:, -1]:
        axes.set_visible(False)
    readout = sheet.axes[0, -1]
    readout.set_xlabel("epoch")
    readout.tick_params(labelbottom=True)
    handles, labels = arm_handles(records)
    readout.legend(
        handles, labels, loc="upper left", bbox_to_anchor=(-0.05, -0.35), labelspacing=0.9
    )
    return sheet.save(
        directory / "controls.png",
        "Controls of scale, saturation and collapse",
        "Per hidden layer against the epoch (linear up to epoch 1, logarithmic from there): norm "
        "of the weights into the layer, standard deviation of a unit over inputs, share of "
        "saturated activations (beyond 0.99 in size; zero for ReLU), effective rank of the "
        "activations, distinct rows as a share of the training images, and test accuracy when the "
        "noise that the Gaussian estimator assumes is really added at that layer. Lines are "
        "medians over seeds and bands their whole range; panels share their scale within a row.",
    )
