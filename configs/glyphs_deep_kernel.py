"""A deep kernel classifier on the embedded data set: a Gaussian process on learned features."""

from dataclasses import dataclass

import optax

from jmeta import learners, losses, models, runs
from jmeta.domains import images


@dataclass(frozen=True)
class Options:
    """A deep kernel classifier on glyphs, tested on a script never seen in training.

    Paper:    Patacchiola, Turner, Crowley, O'Boyle, Storkey, "Bayesian Meta-Learning for the Few-Shot Setting via Deep
              Kernels", 2020, arXiv:1910.05199.
    Command:  jmeta train glyphs_deep_kernel
    Time:     not measured yet.
    Expected: not measured yet.

    Differs from the paper: the processes have Pólya-Gamma variables in place of a regression on labels of ±1, and
    training is on the likelihood of the query.
    """

    num_ways: int = 5
    num_shots: int = 1
    num_filters: int = 32
    meta_lr: float = 2e-3
    """Decays linearly to zero."""
    clip_norm: float = 10.0
    training: runs.Training = runs.Training(
        num_steps=800,
        tasks_per_step=8,
        steps_per_dispatch=50,
        evaluate_every=200,
        num_valid_tasks=100,
    )
    testing: runs.Testing = runs.Testing()


def build(options: Options) -> runs.Experiment:
    """Build the experiment from its options."""
    runs.check_positive(meta_lr=options.meta_lr, clip_norm=options.clip_norm)
    embedding = models.conv4(None, num_filters=options.num_filters, pooling="strided", norm="group")
    classifier = models.conv4(options.num_ways, num_filters=options.num_filters, pooling="strided", norm="group")
    rate = optax.linear_schedule(options.meta_lr, 0.0, options.training.num_steps)
    return runs.Experiment(
        learner=learners.deep_kernel_classifier(embedding, num_ways=options.num_ways),
        loss_fn=losses.cross_entropy,
        source=images.protocols.glyphs.source(num_ways=options.num_ways, num_shots=options.num_shots),
        optimizer=optax.chain(optax.clip_by_global_norm(options.clip_norm), optax.adam(rate)),
        baselines=images.baselines(classifier, num_ways=options.num_ways),
        training=options.training,
        testing=options.testing,
    )


if __name__ == "__main__":
    runs.main(build, Options)
