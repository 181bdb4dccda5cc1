"""Bayesian MAML on the embedded data set: particles that SVGD moves."""

from dataclasses import dataclass

import optax

from jmeta import Learner, learners, losses, models, runs
from jmeta.domains import images


@dataclass(frozen=True)
class Options:
    """Bayesian MAML on glyphs, tested on a script never seen in training.

    Paper:    Kim, Yoon, Dia, Kim, Bengio, Ahn, "Bayesian Model-Agnostic Meta-Learning", 2018, arXiv:1806.03836.
    Command:  jmeta train glyphs_bayesian_maml
    Time:     not measured yet.
    Expected: not measured yet.

    Network, inner steps and meta-learning rate are those of `glyphs_maml`. A step of SVGD divides by the number of
    particles, so the inner rate is larger. Trained on the loss of the mixture for the query, not on the chaser loss of
    the paper.
    """

    num_ways: int = 5
    num_shots: int = 1
    num_filters: int = 32
    num_steps: int = 1
    """Inner steps in training."""
    num_test_steps: int = 3
    inner_lr: float = 1.5
    num_particles: int = 5
    meta_lr: float = 2e-3
    """Decays linearly to zero."""
    clip_norm: float = 10.0
    training: runs.Training = runs.Training(
        num_steps=3500,
        tasks_per_step=8,
        steps_per_dispatch=50,
        evaluate_every=250,
        num_valid_tasks=100,
        batching="scan",
    )
    testing: runs.Testing = runs.Testing()


def build(options: Options) -> runs.Experiment:
    """Build the experiment from its options."""
    runs.check_positive(inner_lr=options.inner_lr, meta_lr=options.meta_lr, clip_norm=options.clip_norm)
    network = models.conv4(options.num_ways, num_filters=options.num_filters, pooling="strided", norm="batch")

    def bayesian_maml(num_steps: int) -> Learner:
        inner = optax.sgd(options.inner_lr)
        return learners.bayesian_maml(
            network,
            losses.cross_entropy,
            inner,
            num_steps=num_steps,
            num_particles=options.num_particles,
        )

    rate = optax.linear_schedule(options.meta_lr, 0.0, options.training.num_steps)
    return runs.Experiment(
        learner=bayesian_maml(options.num_steps),
        loss_fn=losses.cross_entropy,
        source=images.protocols.glyphs.source(num_ways=options.num_ways, num_shots=options.num_shots),
        optimizer=optax.chain(optax.clip_by_global_norm(options.clip_norm), optax.adam(rate)),
        with_num_steps=bayesian_maml,
        num_test_steps=options.num_test_steps,
        baselines=images.baselines(network, num_ways=options.num_ways),
        training=options.training,
        testing=options.testing,
    )


if __name__ == "__main__":
    runs.main(build, Options)
