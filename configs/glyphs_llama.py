"""LLAMA on the embedded data set: MAML, with a Laplace approximation around the adapted network."""

from dataclasses import dataclass

import optax

from jmeta import Learner, learners, losses, models, runs
from jmeta.domains import images


@dataclass(frozen=True)
class Options:
    """LLAMA on glyphs, tested on a script never seen in training.

    Paper:    Grant, Finn, Levine, Darrell, Griffiths, "Recasting Gradient-Based Meta-Learning as Hierarchical Bayes",
              2018, arXiv:1801.08930.
    Command:  jmeta train glyphs_llama
    Time:     not measured yet.
    Expected: not measured yet.

    The curvature is diagonal, since that of convolutions is no Kronecker product. It is a sum over single examples, so
    the norm is that of groups.
    """

    num_ways: int = 5
    num_shots: int = 1
    num_filters: int = 32
    num_steps: int = 1
    """Inner steps in training."""
    num_test_steps: int = 3
    inner_lr: float = 0.4
    log_det_weight: float = 1e-6
    prior_precision: float = 1e4
    """The network's parameters have a standard deviation of at most one over its root."""
    num_samples: int = 10
    """Samples of the posterior that predict together at test; training has none."""
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
        inner_lr=options.inner_lr,
        meta_lr=options.meta_lr,
        clip_norm=options.clip_norm,
        prior_precision=options.prior_precision,
    )
    network = models.conv4(options.num_ways, num_filters=options.num_filters, pooling="strided", norm="group")

    def llama(num_steps: int, num_samples: int | None) -> Learner:
        inner = optax.sgd(options.inner_lr)
        return learners.llama(
            network,
            losses.cross_entropy,
            inner,
            num_steps=num_steps,
            log_det_weight=options.log_det_weight,
            prior_precision=options.prior_precision,
            num_samples=num_samples,
        )

    rate = optax.linear_schedule(options.meta_lr, 0.0, options.training.num_steps)
    return runs.Experiment(
        learner=llama(options.num_steps, None),
        loss_fn=losses.cross_entropy,
        source=images.protocols.glyphs.source(num_ways=options.num_ways, num_shots=options.num_shots),
        optimizer=optax.chain(optax.clip_by_global_norm(options.clip_norm), optax.adam(rate)),
        with_num_steps=lambda num_steps: llama(num_steps, options.num_samples),
        num_test_steps=options.num_test_steps,
        baselines=images.baselines(network, num_ways=options.num_ways),
        training=options.training,
        testing=options.testing,
    )


if __name__ == "__main__":
    runs.main(build, Options)
