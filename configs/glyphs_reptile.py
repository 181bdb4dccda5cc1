"""Reptile on the embedded data set."""

from dataclasses import dataclass

import optax

from jmeta import Learner, learners, losses, models, runs
from jmeta.domains import images


@dataclass(frozen=True)
class Options:
    """Reptile on glyphs, tested on a script never seen in training.

    Paper:    Nichol, Achiam, Schulman, "On First-Order Meta-Learning Algorithms", 2018, arXiv:1803.02999.
    Command:  jmeta train glyphs_reptile
    Time:     0.9 minutes of meta-steps, measured on 2 CPU cores that were busy with other work too.
    Expected: 61.0 % inductive and 64.3 % transductive (5-way 1-shot, 1000 test tasks), where the nearest
              mean of pixels has 43 %.

    Far from converged: the accuracy on meta_valid was still rising at the end of these few meta-steps; the paper takes
    100,000. With an inner optimizer that starts afresh for every task it reached 46.9 % and 48.4 %.
    """

    num_ways: int = 5
    num_shots: int = 1
    train_shots: int = 5
    """Support examples of each class in training."""
    num_filters: int = 32
    num_steps: int = 5
    """Inner steps in training."""
    batch_size: int = 10
    """Examples of an inner step in training."""
    num_test_steps: int = 50
    test_batch_size: int = 5
    inner_lr: float = 3e-3
    learns_optimizer_state: bool = True
    """Whether the running mean of squared gradients is kept from task to task, as in the paper's code."""
    meta_lr: float = 1.0
    """Learning rate of SGD in the meta-step, at most 1 with a learned state; decays linearly to zero."""
    training: runs.Training = runs.Training(
        num_steps=1000,
        tasks_per_step=5,
        steps_per_dispatch=50,
        evaluate_every=250,
        num_valid_tasks=320,
        batching="scan",
    )
    testing: runs.Testing = runs.Testing()


def build(options: Options) -> runs.Experiment:
    """Build the experiment from its options."""
    runs.check_positive(inner_lr=options.inner_lr, meta_lr=options.meta_lr)
    if options.learns_optimizer_state and options.meta_lr > 1:
        raise ValueError(
            f"meta_lr={options.meta_lr:g}; expected at most 1: a larger step may take the learned running mean of "
            "squared gradients below zero; lower it, or pass --no-learns-optimizer-state"
        )
    network = models.conv4(options.num_ways, num_filters=options.num_filters, pooling="strided", norm="batch")
    inner = optax.adam(options.inner_lr, b1=0.0)
    if options.learns_optimizer_state:  # Adam without its bias correction, which counts a task's steps
        inner = optax.rmsprop(options.inner_lr, decay=0.999, initial_scale=1e-4, eps_in_sqrt=False)

    def reptile(num_steps: int, batch_size: int = options.test_batch_size) -> Learner:
        return learners.reptile(
            network,
            losses.cross_entropy,
            inner,
            num_steps=num_steps,
            batch_size=batch_size,
            learns_optimizer_state=options.learns_optimizer_state,
        )

    return runs.Experiment(
        learner=reptile(options.num_steps, options.batch_size),
        loss_fn=losses.cross_entropy,
        source=images.protocols.glyphs.source(
            num_ways=options.num_ways, num_shots=options.num_shots, train_shots=options.train_shots, train_queries=1
        ),
        optimizer=optax.sgd(optax.linear_schedule(options.meta_lr, 0.0, options.training.num_steps)),
        with_num_steps=reptile,
        num_test_steps=options.num_test_steps,
        training_names={"loss": "objective"},  # half the squared distance to the adapted parameters
        baselines=images.baselines(network, num_ways=options.num_ways),
        training=options.training,
        testing=options.testing,
    )


if __name__ == "__main__":
    runs.main(build, Options)
