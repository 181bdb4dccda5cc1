"""Does PLATIPUS see that two points fit a sinusoid and a line? `python -m experiments.reproduce.both_modes`.

The kept weights predict test tasks whose exact posterior hesitates most between the two. The command writes
`docs/both_modes.png`: the exact density of y at every x, and over it the curves that PLATIPUS samples, with its band.
"""

import pathlib
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

from jmeta import Learner, Task, learners
from jmeta.calibration import quantiles
from jmeta.distributions import Mixture
from jmeta.runs import console, loop
from jmeta.runs.pictures import STYLE, VALID, WRONG

from . import rows

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PICTURE = pathlib.Path(__file__).parents[2] / "docs" / "both_modes.png"
NUM_CANDIDATES, NUM_SHOWN = 200, 3
X, Y = np.linspace(-5, 5, 120), np.linspace(-8, 8, 160)


class Panel(NamedTuple):
    """One task, seen by the exact posterior and by PLATIPUS.

    Attributes:
      task: the task.
      sinusoid: exact posterior probability of a sinusoid.
      density: exact log density of y at x, `[Y, X]`.
      curves: means of the sampled networks, `[samples, X]`.
      band: the predicted quantiles of 5 and 95 %, `[2, X]`.
    """

    task: Task
    sinusoid: float
    density: np.ndarray
    curves: np.ndarray
    band: np.ndarray


def panels() -> list[Panel]:
    """Predict the most ambiguous of the first test tasks at two shots."""
    row = rows.read("sine_or_line_platipus")
    experiment = rows.experiment_of(row.facts, variant={"num_shots": 2})
    meta_params, learner = rows.restored(experiment, row.meta_params), experiment.tested
    assert isinstance(learner, Learner)
    exact = learners.exact_sinusoid_or_line(num_nodes=64)
    x = jnp.asarray(X, jnp.float32)[:, None]
    keys = jax.random.split(loop.split_key("meta_test"), NUM_CANDIDATES)

    @jax.jit
    def probability(key: Any) -> jax.Array:
        return exact.adapt({}, experiment.source.meta_test(key).support, key).class_probs()[0]

    @jax.jit
    def panel(key: Any) -> tuple[Task, jax.Array, Mixture]:
        task = experiment.source.meta_test(key)
        posterior = exact.predict({}, exact.adapt({}, task.support, key), x, None)
        density = jax.lax.map(lambda y: posterior.log_prob(jnp.full_like(x, y))[:, 0], jnp.asarray(Y, x.dtype))
        adapted = learner.adapt(meta_params, task.support, jax.random.fold_in(key, 1))
        return task, density, learner.predict(meta_params, adapted, x, None)

    sinusoid = np.array([probability(key) for key in keys])
    found = []
    for i in np.argsort(abs(sinusoid - 0.5), kind="stable")[:NUM_SHOWN]:
        task, density, prediction = panel(keys[i])
        curves = np.asarray(prediction.components.mean())[:, 0].T
        band = np.asarray(quantiles(prediction, (0.05, 0.95)))[..., 0]
        found.append(Panel(task, float(sinusoid[i]), np.asarray(density), curves, band))
    return found


def draw(path: pathlib.Path, found: list[Panel]) -> None:
    """Draw the panels side by side, as a PNG file."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, len(found), figsize=(3.6 * len(found), 3.4), layout="constrained", sharey=True, squeeze=False
        )
        for axis, panel in zip(axes[0], found, strict=True):
            axis.pcolormesh(X, Y, np.exp(panel.density), cmap="Greys", vmin=0, vmax=1.0, shading="nearest")
            for i, curve in enumerate(panel.curves):
                axis.plot(X, curve, color=VALID, linewidth=0.8, alpha=0.7, label=None if i else "PLATIPUS, samples")
            for i, edge in enumerate(panel.band):
                axis.plot(X, edge, color=VALID, linewidth=1.0, linestyle="--", label=None if i else "PLATIPUS, 90 %")
            points = (np.asarray(each)[:, 0] for each in panel.task.support[:2])
            axis.scatter(*points, color=WRONG, s=30, zorder=3, label="support")
            axis.set(xlabel="x", xlim=(X[0], X[-1]), ylim=(Y[0], Y[-1]))
            axis.set_title(f"exact posterior: sinusoid {100 * panel.sinusoid:.0f} %", loc="left", fontsize=9)
        axes[0, 0].set_ylabel("y (grey: exact density)")
        axes[0, -1].legend(loc="lower right", fontsize=7)
        figure.savefig(path, dpi=130)
        plt.close(figure)


def main() -> int:
    """Write the picture."""
    console.use_compilation_cache()
    draw(PICTURE, panels())
    print(f"wrote {PICTURE.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
