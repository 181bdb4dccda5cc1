"""Second-order MAML on the embedded data set: the second of the two trainings of `make run`."""

from dataclasses import dataclass

import optax

from jmeta import Learner, adjoints, learners, losses, models, runs
from jmeta.domains import images


@dataclass(frozen=True)
class Options:
    """Second-order MAML on glyphs, tested on a script never seen in training.

    Paper:    Finn, Abbeel, Levine, "Model-Agnostic Meta-Learning", 2017, arXiv:1703.03400.
    Command:  jmeta train glyphs_maml
    Time:     about 2 minutes on 2 CPU cores.
    Expected: about 85 % inductive and 87 % transductive (5-way 1-shot), where the nearest mean of pixels has 43 %.
    """

    num_ways: int = 5
    num_shots: int = 1
    num_filters: int = 32
    num_steps: int = 1
    """Inner steps in training."""
    num_test_steps: int = 3
    inner_lr: float = 0.4
    first_order: bool = False
    """Ignore second derivatives."""
    meta_lr: float = 2e-3
    """Decays linearly to zero."""
    clip_norm: float = 10.0
    training: runs.Training = runs.Training(
        num_steps=3500,
        tasks_per_step=8,
        steps_per_dispatch=50,
        evaluate_every=500,
        num_valid_tasks=320,
        batching="scan",
    )
    testing: runs.Testing = runs.Testing()


def build(options: Options) -> runs.Experiment:
    """Build the experiment from its options."""
    runs.check_positive(inner_lr=options.inner_lr, meta_lr=options.meta_lr, clip_norm=options.clip_norm)
    network = models.conv4(options.num_ways, num_filters=options.num_filters, pooling="strided", norm="batch")
    adjoint = adjoints.first_order() if options.first_order else adjoints.unrolled()

    def maml(num_steps: int) -> Learner:
        inner = optax.sgd(options.inner_lr)
        return learners.maml(network, losses.cross_entropy, inner, num_steps=num_steps, adjoint=adjoint)

    meta_lr = optax.linear_schedule(options.meta_lr, 0.0, options.training.num_steps)
    return runs.Experiment(
        learner=maml(options.num_steps),
        loss_fn=losses.cross_entropy,
        source=images.protocols.glyphs.source(num_ways=options.num_ways, num_shots=options.num_shots),
        optimizer=optax.chain(optax.clip_by_global_norm(options.clip_norm), optax.adam(meta_lr)),
        with_num_steps=maml,
        num_test_steps=options.num_test_steps,
        baselines=images.baselines(network, num_ways=options.num_ways),
        training=options.training,
        testing=options.testing,
    )


if __name__ == "__main__":
    runs.main(build, Options)
