"""MAML completes images of letters."""

from dataclasses import dataclass
from typing import Literal

import optax

from jmeta import Learner, learners, losses, models, runs
from jmeta.domains import images


@dataclass(frozen=True)
class Options:
    """MAML completes images of letters.

    Paper:    Finn, Abbeel, Levine, "Model-Agnostic Meta-Learning", 2017, arXiv:1703.03400.
    Command:  jmeta train glyphs_completion_maml
    Time:     about an hour on a CPU core, validation not counted.
    Expected: 0.33 nats on new classes with 5 % of the pixels seen, 0.29 with 10 %, 0.26 with 30 % and 0.26 with
              50 %, after 400 meta-steps.

    A loss is in nats a pixel that is not seen. Images are binary, and each is distorted anew. One model is trained for
    2 to 50 % of the pixels. The
    network maps the position of a pixel to its log odds, and adapts by gradient steps to the pixels that are seen.
    """

    train_shots: tuple[int, int] = (16, 392)
    """Fewest and most pixels that are seen in training, of 784."""
    train_queries: int = 200
    """Pixels to predict in training."""
    num_shots: int = 78
    """Pixels that are seen at test."""
    tested: Literal["new classes", "new drawings"] = "new classes"
    """Test images: letters of a script that no training sees, or faces that are held out of letters that it sees."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers."""
    num_frequencies: int = 4
    """Waves of each coordinate that the network sees."""
    num_steps: int = 5
    """Inner steps."""
    num_test_steps: int = 5
    inner_lr: float = 1.0
    meta_lr: float = 1e-3
    clip_norm: float = 10.0
    training: runs.Training = runs.Training(
        num_steps=20_000, tasks_per_step=8, steps_per_dispatch=50, evaluate_every=500, num_valid_tasks=200
    )
    testing: runs.Testing = runs.Testing(num_tasks=500, tasks_at_once=10)


def build(options: Options) -> runs.Experiment:
    """Build the experiment from its options."""
    runs.check_positive(inner_lr=options.inner_lr, meta_lr=options.meta_lr, clip_norm=options.clip_norm)
    network = models.bernoulli_outputs(
        models.fourier_features(models.mlp((*options.hidden, 1)), num_frequencies=options.num_frequencies)
    )

    def maml(num_steps: int) -> Learner:
        inner = optax.sgd(options.inner_lr)
        return learners.maml(network, losses.negative_log_likelihood, inner, num_steps=num_steps)

    rate = optax.cosine_decay_schedule(options.meta_lr, options.training.num_steps)
    return runs.Experiment(
        learner=maml(options.num_steps),
        loss_fn=losses.negative_log_likelihood,
        source=images.completion(
            images.protocols.glyphs,
            train_shots=options.train_shots,
            num_shots=options.num_shots,
            train_queries=options.train_queries,
            tested=options.tested,
        ),
        optimizer=optax.chain(optax.clip_by_global_norm(options.clip_norm), optax.adam(rate)),
        metric="loss",
        with_num_steps=maml,
        num_test_steps=options.num_test_steps,
        training=options.training,
        testing=options.testing,
    )


if __name__ == "__main__":
    runs.main(build, Options)
