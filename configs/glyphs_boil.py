"""BOIL on the embedded data set."""

from dataclasses import dataclass

import optax

from jmeta import Learner, adjoints, learners, losses, models, runs
from jmeta.domains import images


@dataclass(frozen=True)
class Options:
    """BOIL on glyphs, tested on a script never seen in training.

    Paper:    Oh, Yoo, Kim, Yun, "BOIL: Towards Representation Change for Few-shot Learning", 2021, arXiv:2008.08882.
    Command:  jmeta train glyphs_boil
    Time:     1.4 minutes of meta-steps, measured on 2 CPU cores that were busy with other work too.
    Expected: 75.1 % inductive and 78.9 % transductive (5-way 1-shot, 1000 test tasks), where the nearest
              mean of pixels has 43 %.
    """

    num_ways: int = 5
    num_shots: int = 1
    num_filters: int = 32
    num_steps: int = 1
    """Inner steps in training; they adapt everything but the head."""
    num_test_steps: int | None = None
    """Inner steps at test; as many as in training if not given."""
    inner_lr: float = 0.5
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
    body = models.conv4(None, num_filters=options.num_filters, pooling="strided", norm="batch")
    head = models.mlp([options.num_ways])
    classifier = models.conv4(options.num_ways, num_filters=options.num_filters, pooling="strided", norm="batch")
    adjoint = adjoints.first_order() if options.first_order else adjoints.unrolled()

    def boil(num_steps: int) -> Learner:
        inner = optax.sgd(options.inner_lr)
        return learners.boil(body, head, losses.cross_entropy, inner, num_steps=num_steps, adjoint=adjoint)

    meta_lr = optax.linear_schedule(options.meta_lr, 0.0, options.training.num_steps)
    return runs.Experiment(
        learner=boil(options.num_steps),
        loss_fn=losses.cross_entropy,
        source=images.protocols.glyphs.source(num_ways=options.num_ways, num_shots=options.num_shots),
        optimizer=optax.chain(optax.clip_by_global_norm(options.clip_norm), optax.adam(meta_lr)),
        with_num_steps=boil,
        num_test_steps=options.num_steps if options.num_test_steps is None else options.num_test_steps,
        baselines=images.baselines(classifier, num_ways=options.num_ways),
        training=options.training,
        testing=options.testing,
    )


if __name__ == "__main__":
    runs.main(build, Options)
