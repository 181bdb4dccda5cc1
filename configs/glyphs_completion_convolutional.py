"""A convolutional neural process completes images of letters."""

from dataclasses import dataclass
from typing import Literal

import optax

from jmeta import learners, losses, models, runs
from jmeta.domains import images


@dataclass(frozen=True)
class Options:
    """A convolutional neural process completes images of letters.

    Paper:    Gordon et al., "Convolutional Conditional Neural Processes", 2020, arXiv:1910.13556, section 5.3.
    Command:  jmeta train glyphs_completion_convolutional
    Time:     about an hour on a CPU core, validation not counted.
    Expected: 0.28 nats on new classes with 5 % of the pixels seen, 0.23 with 10 %, 0.14 with 30 % and 0.11 with
              50 %, after 2,000 meta-steps.

    A loss is in nats a pixel that is not seen. Images are binary, and each is distorted anew. One model is trained for
    2 to 50 % of the pixels.
    """

    train_shots: tuple[int, int] = (16, 392)
    """Fewest and most pixels that are seen in training, of 784."""
    train_queries: int = 200
    """Pixels to predict in training."""
    num_shots: int = 78
    """Pixels that are seen at test."""
    tested: Literal["new classes", "new drawings"] = "new classes"
    """Test images: letters of a script that no training sees, or faces that are held out of letters that it sees."""
    num_filters: int = 24
    """Channels of every layer of the network, and features of a pixel."""
    num_layers: int = 5
    """Convolutions of 5 x 5 pixels."""
    hidden: tuple[int, ...] = (24,)
    """Widths of the hidden layers of the decoder."""
    meta_lr: float = 2e-3
    clip_norm: float = 10.0
    training: runs.Training = runs.Training(
        num_steps=20_000, tasks_per_step=8, steps_per_dispatch=50, evaluate_every=500, num_valid_tasks=200
    )
    testing: runs.Testing = runs.Testing(num_tasks=500, tasks_at_once=10)


def build(options: Options) -> runs.Experiment:
    """Build the experiment from its options."""
    runs.check_positive(meta_lr=options.meta_lr, clip_norm=options.clip_norm)
    splits = images.protocols.glyphs.load(None)
    _, height, width, _ = splits.meta_test.examples.shape
    network = models.conv2d([options.num_filters] * options.num_layers)
    decoder = models.bernoulli_outputs(models.mlp((*options.hidden, 1)))
    learner = learners.grid_convolutional_neural_process(network, decoder, height=height, width=width)
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
        optimizer=optax.chain(optax.clip_by_global_norm(options.clip_norm), optax.adam(rate)),
        metric="loss",
        training=options.training,
        testing=options.testing,
    )


if __name__ == "__main__":
    runs.main(build, Options)
