"""What came out: a table in Markdown, and the learning curves of each network as a picture."""

import pathlib
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from jmeta.runs.pictures import STYLE

COLORS = {"learned": "#c8382e", "Adam": "#8fa3b8", "Adam, cosine": "#1f5fa8"}


def table(record: dict[str, Any]) -> str:
    """Return the table of the record, in Markdown."""
    lines = [
        "| network | learned | Adam, tuned | Adam with cosine, tuned | learned − Adam | learned − Adam with cosine |",
        "|---|---|---|---|---|---|",
    ]
    for row in record["rows"]:
        last, minus = row["last_loss"], row["learned_minus"]
        cells = [row["size"], *(_shown(each) for each in (*last.values(), *minus.values()))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _shown(value: dict[str, float]) -> str:
    return f"{value['mean']:.3f} ± {value['half_width']:.3f}"


def draw(path: pathlib.Path, rows: list[dict[str, Any]]) -> None:
    """Draw the mean training loss against the step, one panel for each network, as a PNG file."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(rows), figsize=(3.4 * len(rows), 3.2), layout="constrained", squeeze=False)
        for axis, row in zip(axes[0], rows, strict=True):
            for name, curve in row["mean_curves"].items():
                smooth = np.convolve(curve, np.ones(window := max(len(curve) // 50, 1)) / window, mode="valid")
                axis.plot(window + np.arange(len(smooth)), smooth, color=COLORS[name], label=name, linewidth=1.4)
            axis.set_title(row["size"], fontsize=9)
            axis.set_xlabel("step")
        axes[0, 0].set_ylabel("training loss, nats")
        axes[0, 0].legend(frameon=False, fontsize=8)
        figure.savefig(path, dpi=130)
        plt.close(figure)
