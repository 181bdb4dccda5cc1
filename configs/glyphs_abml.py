"""Amortized Bayesian meta-learning on the embedded data set: every weight has a distribution."""

from dataclasses import dataclass

import optax

from jmeta import Learner, learners, losses, models, runs
from jmeta.domains import images


@dataclass(frozen=True)
class Options:
    """Amortized Bayesian meta-learning on glyphs, tested on a script never seen in training.

    Paper:    Ravi, Beatson, "Amortized Bayesian Meta-Learning", 2019, ICLR.
    Command:  jmeta train glyphs_abml
    Time:     not measured yet.
    Expected: not measured yet.

    Network, inner steps and meta-learning rate are those of `glyphs_maml`. The divergence of 30,000 weights from a
    prior outweighs the few examples of a task, so it has a small weight.
    """

    num_ways: int = 5
    num_shots: int = 1
    num_filters: int = 32
    num_steps: int = 1
    """Inner steps in training."""
    num_test_steps: int = 3
    inner_lr: float = 0.2
    initial_scale: float = 0.05
    """Standard deviation of every parameter at the start; it is learned."""
    kl_weight: float = 0.01
    num_inner_samples: int = 2
    """Draws for the expectation in each inner step."""
    num_train_samples: int = 2
    """Networks that the loss of training averages over."""
    num_samples: int = 10
    """Networks that predict together at test."""
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
    runs.check_positive(
        inner_lr=options.inner_lr, meta_lr=options.meta_lr, clip_norm=options.clip_norm, kl_weight=options.kl_weight
    )
    network = models.conv4(options.num_ways, num_filters=options.num_filters, pooling="strided", norm="batch")

    def abml(num_steps: int, num_samples: int) -> Learner:
        inner = optax.sgd(options.inner_lr)
        return learners.abml(
            network,
            losses.cross_entropy,
            inner,
            num_steps=num_steps,
            num_samples=num_samples,
            num_inner_samples=options.num_inner_samples,
            initial_scale=options.initial_scale,
            kl_weight=options.kl_weight,
        )

    rate = optax.linear_schedule(options.meta_lr, 0.0, options.training.num_steps)
    return runs.Experiment(
        learner=abml(options.num_steps, options.num_train_samples),
        loss_fn=losses.cross_entropy,
        source=images.protocols.glyphs.source(num_ways=options.num_ways, num_shots=options.num_shots),
        optimizer=optax.chain(optax.clip_by_global_norm(options.clip_norm), optax.adam(rate)),
        with_num_steps=lambda num_steps: abml(num_steps, options.num_samples),
        num_test_steps=options.num_test_steps,
        baselines=images.baselines(network, num_ways=options.num_ways),
        training=options.training,
        testing=options.testing,
    )


if __name__ == "__main__":
    runs.main(build, Options)
