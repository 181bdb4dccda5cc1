"""Pictures of a run, as PNG files: learning curve, test tasks, accuracy against inner steps, calibration."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Array
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from ..calibration import Reliability, quantiles
from ..distributions import Distribution, Mixture
from ..evaluation import Estimate
from ..types import Task
from . import files, folder, log

__all__ = [
    "TRAIN",
    "VALID",
    "RIGHT",
    "WRONG",
    "NEUTRAL",
    "UNKNOWN",
    "STYLE",
    "learning_curve",
    "episode",
    "adaptation_curve",
    "reliability",
    "regression",
    "completion",
]

TRAIN, VALID, RIGHT, WRONG, NEUTRAL = "#8fa3b8", "#1f5fa8", "#2a8f4f", "#c8382e", "#9a9a9a"
UNKNOWN = "#a9c4e4"
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e8e8e8",
    "axes.titleweight": "bold",
    "axes.titlesize": 10,
    "legend.frameon": False,
}
_LARGEST_SHOWN = 1e100


def learning_curve(run: pathlib.Path) -> pathlib.Path:
    """Draw the training objective, loss and accuracy on meta_train and meta_valid, with the best step marked.

    A panel shows one quantity; tasks, ways and inner steps may differ between meta_train and meta_valid.
    """
    train, valid = (log.read_metrics(run, split) for split in ("meta_train", "meta_valid"))
    ordered = ("objective", "loss", "accuracy", "reward", "return")
    names = [name for name in ordered if any(name in line for line in (*train, *valid))]
    if "return" in names:
        names = [name for name in names if name != "loss"]  # here the loss is minus the return
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(names), figsize=(4.6 * len(names), 3.2), squeeze=False, layout="constrained")
        for axis, name in zip(axes[0], names, strict=True):
            _curve(axis, name, train, valid)
        _mark_best(axes[0], names, valid)
        axes[0, -1].legend(loc="best")
        recipe = folder.read_config(run).recipe
        name = recipe if run.name.startswith(recipe) else f"{recipe}, {run.name}"
        protocol = valid[-1].get("protocol") if valid else None
        title = f"{name}\nmeta_valid: {protocol}" if protocol else name
        figure.suptitle(title, x=0.01, ha="left", fontsize=9, parse_math=False)  # no math: dollars are plain text
        return _saved(figure, run / "learning_curve.png")


def _curve(axis: Axes, name: str, train: list[files.Line], valid: list[files.Line]) -> None:
    steps, values = _series(train, name)
    if name in (train or [{}])[-1]:
        axis.plot(steps, values, color=TRAIN, linewidth=0.8, alpha=0.6)
        axis.plot(steps, _smoothed(values), color=TRAIN, linewidth=1.6, label="meta_train")
    steps, values = _series(valid, name)
    _, half_widths = _series(valid, f"{name}_half_width")
    if steps.size:
        axis.fill_between(steps, values - half_widths, values + half_widths, color=VALID, alpha=0.2, linewidth=0)
        label = "meta_valid (95 % interval)"
        axis.plot(steps, values, color=VALID, marker="o", markersize=2.5, linewidth=1.4, label=label)
    shown = np.concatenate([_series(train, name)[1], values])
    if (
        name in ("objective", "loss")
        and np.isfinite(shown).any()
        and np.nanmin(shown) > 0
        and np.nanmax(shown) > 20 * np.nanmin(shown)
    ):
        axis.set_yscale("log")
    axis.set(xlabel="meta-step", title=name if steps.size else f"{name}, of meta_train", xlim=(0, None))


def _mark_best(axes: np.ndarray, names: list[str], valid: list[files.Line]) -> None:
    """Draw a vertical line at the selected step, with its value in the legend."""
    name = names[-1]
    steps, values = _series(valid, name)
    if not np.isfinite(values).any():
        return
    best = int(np.nanargmax(values) if name in ("accuracy", "return") else np.nanargmin(values))
    label = f"best on meta_valid: {values[best]:.3f}, step {steps[best]}"
    for axis in axes:
        axis.axvline(steps[best], color="black", linewidth=0.8, linestyle=":", label=label)


def _series(lines: list[files.Line], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps and values of a metric; values that no axis can show, as a diverged loss may be, are gaps."""
    kept = [(line["step"], line[name]) for line in lines if name in line]
    steps, values = zip(*kept, strict=True) if kept else ((), ())
    numbers = np.array([np.nan if value is None else value for value in values], float)
    return np.array(steps), np.where(np.abs(numbers) < _LARGEST_SHOWN, numbers, np.nan)


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Return the mean over a window of a twentieth of the run, without gaps."""
    width = max(1, len(values) // 20)
    known = np.isfinite(values)
    sums, counts = (np.convolve(v, np.ones(width), "same") for v in (np.where(known, values, 0.0), known.astype(float)))
    return sums / np.where(counts > 0.5, counts, np.nan)


def episode(
    path: pathlib.Path, task: Task, logits: np.ndarray | None, *, title: str, max_queries: int = 6
) -> pathlib.Path:
    """Draw one episode of images: a row for each class with its support and its queries, framed by right and wrong.

    Args:
      path: the PNG to write.
      task: with images `[height, width, channels]`.
      logits: predictions, `[queries, ways]`; `None` shows the task alone.
      title: title of the picture.
      max_queries: the most queries to show of each class.
    """
    support, query = task.support, task.query
    num_ways = int(np.max(support.y)) + 1
    labels = np.asarray(query.y)
    predicted = labels if logits is None else np.argmax(logits, -1)
    right = NEUTRAL if logits is None else RIGHT
    shots = [np.flatnonzero(np.asarray(support.y) == way)[:5] for way in range(num_ways)]
    queries = [np.flatnonzero(labels == way)[:max_queries] for way in range(num_ways)]
    num_support, num_query = max(map(len, shots)), max(map(len, queries))
    widths = [1] * num_support + [0.35] + [1] * num_query
    style: Any = {**STYLE, "axes.grid": False}
    with plt.rc_context(style):
        size = (0.82 * sum(widths) + 0.6, 0.92 * num_ways + 0.7)
        figure, axes = plt.subplots(num_ways, len(widths), figsize=size, width_ratios=widths, squeeze=False)
        for axis in axes.flat:
            axis.set_axis_off()
        for way in range(num_ways):
            axes[way, 0].text(-0.25, 0.5, "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[way % 26], transform=axes[way, 0].transAxes,
                              ha="center", va="center", fontweight="bold")  # fmt: skip
            for column, i in enumerate(shots[way]):
                _image(axes[way, column], support.x[i], NEUTRAL)
            for column, i in enumerate(queries[way]):
                is_right = predicted[i] == way
                axis = axes[way, num_support + 1 + column]
                _image(axis, query.x[i], right if is_right else WRONG)
                if not is_right:
                    axis.text(0.98, 0.02, "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[predicted[i] % 26], transform=axis.transAxes,
                              color="white", backgroundcolor=WRONG, fontsize=7, ha="right", va="bottom")  # fmt: skip
        axes[0, 0].set_title("support", loc="left", fontsize=9)
        colours = "" if logits is None else ": green right, red wrong (as which class)"
        axes[0, num_support + 1].set_title(f"queries{colours}", loc="left", fontsize=9)
        accuracy = f": {(predicted == labels).mean():.0%} of {len(labels)} right, predicted together"
        heading = title if logits is None else title + accuracy
        figure.suptitle(heading, x=0.02, ha="left", fontsize=10)
        return _saved(figure, path)


def _image(axis: Axes, image: np.ndarray, frame: str) -> None:
    image = np.asarray(image, float)
    axis.imshow(image if image.shape[-1] == 3 else image[..., 0], cmap="gray_r", vmin=0, vmax=1)
    axis.set_axis_on()
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set(visible=True, color=frame, linewidth=2)


def adaptation_curve(
    path: pathlib.Path, curves: Mapping[str, Mapping[int, Estimate]], *, metric: str, title: str
) -> pathlib.Path:
    """Draw a metric against the number of inner steps, with 95 % intervals; one line for each named curve."""
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(4.6, 3.2), layout="constrained")
        for (name, curve), color in zip(curves.items(), (VALID, RIGHT, WRONG, TRAIN), strict=False):
            steps = sorted(curve)
            means, half_widths = (np.array([getattr(curve[s], f) for s in steps]) for f in ("mean", "half_width"))
            axis.fill_between(steps, means - half_widths, means + half_widths, color=color, alpha=0.2, linewidth=0)
            axis.plot(steps, means, color=color, marker="o", markersize=4, linewidth=1.4, label=name)
        axis.set(xlabel="inner steps", ylabel=metric, xticks=sorted(next(iter(curves.values()))))
        axis.set_title(title, loc="left")
        axis.legend(title="95 % intervals over tasks", title_fontsize=8)
        return _saved(figure, path)


def reliability(path: pathlib.Path, diagrams: Mapping[str, Reliability], *, title: str) -> pathlib.Path:
    """Draw reliability diagrams: accuracy against confidence above, how many predictions have it below.

    Args:
      path: the PNG to write.
      diagrams: by name, the diagram of all predictions of a method, such as `Evaluation.reliability["inductive"]`;
        the first four are drawn.
      title: title of the picture.
    """
    with plt.rc_context(STYLE):
        figure, (above, below) = plt.subplots(
            2, 1, figsize=(4.6, 5.0), height_ratios=(3, 1), sharex=True, layout="constrained"
        )
        above.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle=":", label="calibrated")
        for (name, each), color in zip(diagrams.items(), (VALID, RIGHT, WRONG, TRAIN), strict=False):
            counts = np.asarray(each.counts)
            edges = np.linspace(0, 1, counts.size + 1)
            label = f"{name}: error {float(each.calibration_error()):.3f}"
            is_shown = counts > 0
            points = np.asarray(each.mean_confidence())[is_shown], np.asarray(each.accuracy())[is_shown]
            above.plot(*points, color=color, marker="o", markersize=4, linewidth=1.4, label=label)
            below.stairs(counts / max(counts.sum(), 1), edges, color=color, linewidth=1.4)
        above.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
        below.set(xlabel="confidence", ylabel="share of predictions", ylim=(0, None))
        above.set_title(title, loc="left", parse_math=False)
        above.legend(loc="best")
        return _saved(figure, path)


def regression(
    path: pathlib.Path,
    task: Task,
    x: Array | np.ndarray,
    prediction: Distribution,
    *,
    title: str,
    exact: Distribution | None = None,
    max_components: int = 20,
) -> pathlib.Path:
    """Draw what a learner makes of one task: its support, the bands of 50 and 90 %, and its components.

    Args:
      path: the PNG to write.
      task: with `x` and `y` of shape `[points, 1]`.
      x: the inputs to predict at, `[inputs, 1]`, in order.
      prediction: a distribution of `[inputs, 1]`; of a mixture, such as one of particles, the means of the most
        probable components are shown, too.
      title: title of the picture.
      exact: the exact posterior at the same inputs, shown by its median and its band of 90 %.
      max_components: the most components to show.
    """
    low, inner_low, median, inner_high, high = _bands(prediction)
    along = np.asarray(x)[:, 0]
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(5.6, 3.4), layout="constrained")
        axis.fill_between(along, low, high, color=VALID, alpha=0.15, linewidth=0, label="90 %")
        axis.fill_between(along, inner_low, inner_high, color=VALID, alpha=0.25, linewidth=0, label="50 %")
        for i, mean in enumerate(_means(prediction, max_components)):
            axis.plot(along, mean, color=VALID, linewidth=0.6, alpha=0.6, label=None if i else "components")
        axis.plot(along, median, color=VALID, linewidth=1.4, label="median")
        if exact is not None:
            exact_low, _, exact_median, _, exact_high = _bands(exact)
            axis.plot(along, exact_median, color="black", linewidth=1.0, linestyle="--", label="exact, 90 %")
            for edge in (exact_low, exact_high):
                axis.plot(along, edge, color="black", linewidth=0.7, linestyle=":")
        for name, batch, style in (
            ("query", task.query, (NEUTRAL, ".", 12)),
            ("support", task.support, (WRONG, "o", 24)),
        ):
            is_real = slice(None) if batch.mask is None else np.asarray(batch.mask)
            points, (color, marker, size) = (np.asarray(each)[is_real, 0] for each in (batch.x, batch.y)), style
            axis.scatter(*points, color=color, marker=marker, s=size, label=name, zorder=3)
        axis.set(xlabel="x", ylabel="y")
        axis.set_title(title, loc="left", parse_math=False)
        axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
        return _saved(figure, path)


def completion(path: pathlib.Path, tasks: Sequence[Mapping[str, np.ndarray]], *, title: str) -> pathlib.Path:
    """Draw images that a learner completes: a row for each task, and a column for each of its named images.

    Args:
      path: the PNG to write.
      tasks: for each task, images `[height, width, channels]` of one or three channels, in [0, 1], by the name of their
        column; pixels that are NaN are not known.
      title: title of the picture.
    """
    num_columns = len(tasks[0])
    style: Any = {**STYLE, "axes.grid": False}
    with plt.rc_context(style):
        size = (1.3 * num_columns, 1.3 * len(tasks) + 0.6)
        figure, axes = plt.subplots(len(tasks), num_columns, figsize=size, squeeze=False, layout="constrained")
        for name, axis in zip(tasks[0], axes[0], strict=True):
            axis.set_title(name, fontsize=9)
        for images, row in zip(tasks, axes, strict=True):
            for image, axis in zip(images.values(), row, strict=True):
                unknown = np.isnan(image).any(-1)
                _image(axis, np.nan_to_num(image), NEUTRAL)
                overlay = np.ma.masked_where(~unknown, np.ones(unknown.shape))
                axis.imshow(overlay, cmap=ListedColormap([UNKNOWN]))
        figure.suptitle(title, x=0.01, ha="left", fontsize=9, parse_math=False)
        return _saved(figure, path)


def _bands(prediction: Distribution) -> np.ndarray:
    """Return the quantiles of 5, 25, 50, 75 and 95 % along the inputs, `[5, inputs]`."""
    return np.asarray(quantiles(prediction, (0.05, 0.25, 0.5, 0.75, 0.95)))[..., 0]


def _means(prediction: Distribution, most: int) -> np.ndarray:
    """Return the means of a mixture's most probable components along the inputs, `[components, inputs]`."""
    if not isinstance(prediction, Mixture):
        return np.zeros((0, 0))
    means, log_weights = np.asarray(prediction.components.mean())[:, 0], np.asarray(prediction.log_weights)[:, 0]
    return means[:, np.argsort(-log_weights.mean(0), kind="stable")[:most]].T


def _saved(figure: Figure, path: pathlib.Path) -> pathlib.Path:
    unfinished = path.with_name(f".{path.name}.tmp")
    figure.savefig(unfinished, format="png", dpi=150, bbox_inches="tight", facecolor="white")
    plt.close(figure)
    unfinished.replace(path)
    return path
