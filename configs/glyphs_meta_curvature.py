"""Meta-Curvature on the embedded data set."""

from dataclasses import dataclass

import optax

from jmeta import Learner, adjoints, learners, losses, models, runs
from jmeta.domains import images


@dataclass(frozen=True)
class Options:
    """Meta-Curvature on glyphs, tested on a script never seen in training.

    Paper:    Park, Oliva, "Meta-Curvature", 2019, arXiv:1902.03356.
    Command:  jmeta train glyphs_meta_curvature
              for first order add --first-order
    Time:     0.45 s a meta-step on 2 CPU cores that were busy with much other work.
    Expected: not measured yet; 48 % of validation tasks, transductive, after the first 100 meta-steps.
    """

    num_ways: int = 5
    num_shots: int = 1
    num_filters: int = 32
    num_steps: int = 1
    """Inner steps in training."""
    num_test_steps: int | None = None
    """Inner steps at test; as many as in training if not given."""
    inner_lr: float = 0.4
    """Rate of the transformed gradient."""
    first_order: bool = False
    """Ignore second derivatives."""
    meta_lr: float = 2e-3
    """Decays linearly to zero."""
    clip_norm: float = 10.0
    training: runs.Training = runs.Training(
        num_steps=1000,
        tasks_per_step=8,
        steps_per_dispatch=50,
        evaluate_every=250,
        num_valid_tasks=320,
        batching="scan",
    )
    testing: runs.Testing = runs.Testing()


def build(options: Options) -> runs.Experiment:
    """Build the experiment from its options."""
    runs.check_positive(inner_lr=options.inner_lr, meta_lr=options.meta_lr, clip_norm=options.clip_norm)
    network = models.conv4(options.num_ways, num_filters=options.num_filters, pooling="strided", norm="batch")
    adjoint = adjoints.first_order() if options.first_order else adjoints.unrolled()

    def meta_curvature(num_steps: int) -> Learner:
        inner = optax.sgd(options.inner_lr)
        return learners.meta_curvature(network, losses.cross_entropy, inner, num_steps=num_steps, adjoint=adjoint)

    meta_lr = optax.linear_schedule(options.meta_lr, 0.0, options.training.num_steps)
    return runs.Experiment(
        learner=meta_curvature(options.num_steps),
        loss_fn=losses.cross_entropy,
        source=images.protocols.glyphs.source(num_ways=options.num_ways, num_shots=options.num_shots),
        optimizer=optax.chain(optax.clip_by_global_norm(options.clip_norm), optax.adam(meta_lr)),
        with_num_steps=meta_curvature,
        num_test_steps=options.num_steps if options.num_test_steps is None else options.num_test_steps,
        baselines=images.baselines(network, num_ways=options.num_ways),
        training=options.training,
        testing=options.testing,
    )


if __name__ == "__main__":
    runs.main(build, Options)
