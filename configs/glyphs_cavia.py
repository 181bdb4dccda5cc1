"""CAVIA on the embedded data set."""

from dataclasses import dataclass

import optax

from jmeta import Learner, adjoints, learners, losses, models, runs
from jmeta.domains import images


@dataclass(frozen=True)
class Options:
    """CAVIA on glyphs, tested on a script never seen in training.

    Paper:    Zintgraf et al., "Fast Context Adaptation via Meta-Learning", 2019, arXiv:1810.03642.
    Command:  jmeta train glyphs_cavia
    Time:     2.4 minutes of meta-steps, measured on one CPU core.
    Expected: 49.8 %, inductive (5-way 1-shot, 1000 test tasks), where the nearest mean of pixels has 43 %.

    The context scales and shifts the feature maps. With the context as constant channels of the image the accuracy was
    33.0 %: group norms cancel most of what a constant adds. With an inner rate of 10 it was at chance after 100
    meta-steps.
    """

    num_ways: int = 5
    num_shots: int = 1
    num_filters: int = 32
    num_context: int = 32
    """Number of context parameters, which are all that is adapted."""
    num_steps: int = 2
    """Inner steps in training; they adapt the context alone."""
    num_test_steps: int | None = None
    """Inner steps at test; as many as in training if not given."""
    inner_lr: float = 1.0
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
    network, classifier = (
        models.conv4(
            options.num_ways,
            num_filters=options.num_filters,
            pooling="strided",
            norm="group",
            num_context=num_context,
        )
        for num_context in (options.num_context, 0)
    )
    adjoint = adjoints.first_order() if options.first_order else adjoints.unrolled()

    def cavia(num_steps: int) -> Learner:
        return learners.cavia(
            network,
            losses.cross_entropy,
            optax.sgd(options.inner_lr),
            num_steps=num_steps,
            num_context=options.num_context,
            adjoint=adjoint,
        )

    meta_lr = optax.linear_schedule(options.meta_lr, 0.0, options.training.num_steps)
    return runs.Experiment(
        learner=cavia(options.num_steps),
        loss_fn=losses.cross_entropy,
        source=images.protocols.glyphs.source(num_ways=options.num_ways, num_shots=options.num_shots),
        optimizer=optax.chain(optax.clip_by_global_norm(options.clip_norm), optax.adam(meta_lr)),
        with_num_steps=cavia,
        num_test_steps=options.num_steps if options.num_test_steps is None else options.num_test_steps,
        baselines=images.baselines(classifier, num_ways=options.num_ways),
        training=options.training,
        testing=options.testing,
    )


if __name__ == "__main__":
    runs.main(build, Options)
