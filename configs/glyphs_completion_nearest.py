"""The nearest pixels and the mean image complete images of letters."""

from dataclasses import dataclass
from typing import Literal

import optax

from jmeta import learners, losses, runs
from jmeta.domains import images


@dataclass(frozen=True)
class Options:
    """The nearest pixels and the mean image complete images of letters.

    Paper:    none: this is the baseline, which knows no shapes.
    Command:  jmeta train glyphs_completion_nearest
    Time:     about 2 minutes on a CPU core, validation not counted.
    Expected: 0.30 nats on new classes with 5 % of the pixels seen, 0.26 with 10 %, 0.18 with 30 % and 0.16 with
              50 %.

    A loss is in nats a pixel that is not seen. Images are binary, and each is distorted anew. One model is trained for
    2 to 50 % of the pixels. Trained are a length scale, a smoothing and the mean image.
    """

    train_shots: tuple[int, int] = (16, 392)
    """Fewest and most pixels that are seen in training, of 784."""
    train_queries: int = 200
    """Pixels to predict in training."""
    num_shots: int = 78
    """Pixels that are seen at test."""
    tested: Literal["new classes", "new drawings"] = "new classes"
    """Test images: letters of a script that no training sees, or faces that are held out of letters that it sees."""
    meta_lr: float = 0.05
    training: runs.Training = runs.Training(
        num_steps=2_000, tasks_per_step=8, steps_per_dispatch=50, evaluate_every=500, num_valid_tasks=200
    )
    testing: runs.Testing = runs.Testing(num_tasks=500, tasks_at_once=10)


def build(options: Options) -> runs.Experiment:
    """Build the experiment from its options."""
    runs.check_positive(meta_lr=options.meta_lr)
    splits = images.protocols.glyphs.load(None)
    _, height, width, _ = splits.meta_test.examples.shape
    learner = learners.nearest_pixels(height=height, width=width)
    rate = optax.cosine_decay_schedule(options.meta_lr, options.training.num_steps)
    return runs.Experiment(
        learner=learner,
        loss_fn=losses.negative_log_likelihood,
        source=images.completion(
            images.protocols.glyphs,
            splits,
            train_shots=options.train_shots,
            num_shots=options.num_shots,
            train_queries=options.train_queries,
            tested=options.tested,
        ),
        optimizer=optax.adam(rate),
        metric="loss",
        training=options.training,
        testing=options.testing,
    )


if __name__ == "__main__":
    runs.main(build, Options)
