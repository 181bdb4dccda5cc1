"""Meta-Curvature on Omniglot, in MAML's protocol."""

from dataclasses import dataclass
from typing import Literal

import optax

from jmeta import Learner, adjoints, learners, losses, models, runs
from jmeta.domains import images


@dataclass(frozen=True)
class Options:
    """Meta-Curvature on Omniglot, protocol `finn2017`, transductive as MAML in that protocol.

    Paper:    Park, Oliva, "Meta-Curvature", 2019, arXiv:1902.03356, section 5.
    Command:  jmeta train omniglot_finn2017_meta_curvature
              for first order add --first-order
              for 20 ways add --num-ways 20 --num-steps 5 --inner-lr 0.1 --training.tasks-per-step 16
    Time:     not measured yet.
    Expected: not measured yet.

    It is `omniglot_finn2017_maml` with another learner.
    """

    num_ways: int = 5
    num_shots: int = 1
    num_filters: int = 64
    num_steps: int = 1
    """Inner steps in training."""
    num_test_steps: int | None = None
    """Inner steps at test. If not given, the protocol's: 3 for 5 ways, 5 for 20, else as many as in training."""
    inner_lr: float = 0.4
    first_order: bool = False
    """Ignore second derivatives."""
    meta_lr: float = 1e-3
    schedule: Literal["constant", "linear"] = "constant"
    """Whether the meta-learning rate stays constant or decays linearly to zero."""
    clip_norm: float | None = None
    """Largest norm of a meta-gradient; no clipping if not given."""
    training: runs.Training = runs.Training(
        num_steps=60_000,
        tasks_per_step=32,
        steps_per_dispatch=50,
        evaluate_every=1000,
        num_valid_tasks=200,
        batching="scan",
    )
    testing: runs.Testing = runs.Testing()


def build(options: Options) -> runs.Experiment:
    """Build the experiment from its options."""
    runs.check_positive(inner_lr=options.inner_lr, meta_lr=options.meta_lr, clip_norm=options.clip_norm)
    protocol = images.protocols.finn2017
    network = models.conv4(options.num_ways, num_filters=options.num_filters, pooling="strided", norm="batch")
    adjoint = adjoints.first_order() if options.first_order else adjoints.unrolled()
    test_steps = (options.num_test_steps, protocol.num_inner_steps(num_ways=options.num_ways), options.num_steps)

    def meta_curvature(num_steps: int) -> Learner:
        inner = optax.sgd(options.inner_lr)
        return learners.meta_curvature(network, losses.cross_entropy, inner, num_steps=num_steps, adjoint=adjoint)

    is_linear = options.schedule == "linear"
    optimizer = optax.adam(
        optax.linear_schedule(options.meta_lr, 0.0, options.training.num_steps) if is_linear else options.meta_lr
    )
    if options.clip_norm is not None:
        optimizer = optax.chain(optax.clip_by_global_norm(options.clip_norm), optimizer)
    return runs.Experiment(
        learner=meta_curvature(options.num_steps),
        loss_fn=losses.cross_entropy,
        source=protocol.source(num_ways=options.num_ways, num_shots=options.num_shots),
        optimizer=optimizer,
        with_num_steps=meta_curvature,
        num_test_steps=next(steps for steps in test_steps if steps is not None),
        baselines=images.baselines(network, num_ways=options.num_ways),
        training=options.training,
        testing=options.testing,
    )


if __name__ == "__main__":
    runs.main(build, Options)
