"""ProtoMAML on the embedded data set."""

from dataclasses import dataclass

import optax

from jmeta import Learner, adjoints, learners, losses, models, runs
from jmeta.domains import images


@dataclass(frozen=True)
class Options:
    """ProtoMAML on glyphs, tested on a script never seen in training.

    Paper:    Triantafillou et al., "Meta-Dataset", 2020, arXiv:1903.03096.
    Command:  jmeta train glyphs_proto_maml
    Time:     1.4 minutes of meta-steps, measured on 2 CPU cores that were busy with other work too.
    Expected: 82.1 %, inductive (5-way 1-shot, 1000 test tasks), where the nearest
              mean of pixels has 43 %.
    """

    num_ways: int = 5
    num_shots: int = 1
    num_filters: int = 32
    num_steps: int = 3
    """Inner steps in training; they adapt the embedding and a head that starts at the prototypes."""
    num_test_steps: int | None = None
    """Inner steps at test; as many as in training if not given."""
    inner_lr: float = 0.01
    first_order: bool = False
    """Ignore second derivatives."""
    meta_lr: float = 2e-3
    """Decays linearly to zero."""
    clip_norm: float = 10.0
    training: runs.Training = runs.Training(
        num_steps=1000,
        tasks_per_step=4,
        steps_per_dispatch=50,
        evaluate_every=250,
        num_valid_tasks=320,
        batching="scan",
    )
    testing: runs.Testing = runs.Testing()


def build(options: Options) -> runs.Experiment:
    """Build the experiment from its options."""
    runs.check_positive(inner_lr=options.inner_lr, meta_lr=options.meta_lr, clip_norm=options.clip_norm)
    embedding = models.conv4(None, num_filters=options.num_filters, pooling="strided", norm="group")
    classifier = models.conv4(options.num_ways, num_filters=options.num_filters, pooling="strided", norm="group")
    adjoint = adjoints.first_order() if options.first_order else adjoints.unrolled()

    def proto_maml(num_steps: int) -> Learner:
        return learners.proto_maml(
            embedding,
            losses.cross_entropy,
            optax.sgd(options.inner_lr),
            num_ways=options.num_ways,
            num_steps=num_steps,
            adjoint=adjoint,
        )

    meta_lr = optax.linear_schedule(options.meta_lr, 0.0, options.training.num_steps)
    return runs.Experiment(
        learner=proto_maml(options.num_steps),
        loss_fn=losses.cross_entropy,
        source=images.protocols.glyphs.source(num_ways=options.num_ways, num_shots=options.num_shots),
        optimizer=optax.chain(optax.clip_by_global_norm(options.clip_norm), optax.adam(meta_lr)),
        with_num_steps=proto_maml,
        num_test_steps=options.num_steps if options.num_test_steps is None else options.num_test_steps,
        baselines=images.baselines(classifier, num_ways=options.num_ways),
        training=options.training,
        testing=options.testing,
    )


if __name__ == "__main__":
    runs.main(build, Options)
