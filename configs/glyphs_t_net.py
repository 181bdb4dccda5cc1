"""T-nets and MT-nets on the embedded data set."""

from dataclasses import dataclass

import optax

from jmeta import Learner, adjoints, learners, losses, models, runs
from jmeta.domains import images


@dataclass(frozen=True)
class Options:
    """T-nets on glyphs, tested on a script never seen in training.

    Paper:    Lee, Choi, "Gradient-Based Meta-Learning with Learned Layerwise Metric and Subspace", 2018,
              arXiv:1801.05558.
    Command:  jmeta train glyphs_t_net
              for MT-nets add --learns-masks
    Time:     not measured yet.
    Expected: not measured yet.
    """

    num_ways: int = 5
    num_shots: int = 1
    num_filters: int = 32
    num_steps: int = 1
    """Inner steps in training."""
    num_test_steps: int | None = None
    """Inner steps at test; as many as in training if not given."""
    inner_lr: float = 0.4
    learns_masks: bool = False
    """Whether tasks adapt only a learned subspace, as in MT-nets."""
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

    def t_net(num_steps: int) -> Learner:
        make = learners.mt_net if options.learns_masks else learners.t_net
        inner = optax.sgd(options.inner_lr)
        return make(network, losses.cross_entropy, inner, num_steps=num_steps, adjoint=adjoint)

    meta_lr = optax.linear_schedule(options.meta_lr, 0.0, options.training.num_steps)
    return runs.Experiment(
        learner=t_net(options.num_steps),
        loss_fn=losses.cross_entropy,
        source=images.protocols.glyphs.source(num_ways=options.num_ways, num_shots=options.num_shots),
        optimizer=optax.chain(optax.clip_by_global_norm(options.clip_norm), optax.adam(meta_lr)),
        with_num_steps=t_net,
        num_test_steps=options.num_steps if options.num_test_steps is None else options.num_test_steps,
        baselines=images.baselines(network, num_ways=options.num_ways),
        training=options.training,
        testing=options.testing,
    )


if __name__ == "__main__":
    runs.main(build, Options)
