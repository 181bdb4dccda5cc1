"""iMAML on the embedded data set: the meta-gradient is that of a minimum, not of the steps towards it."""

from dataclasses import dataclass

import optax

from jmeta import Learner, adjoints, learners, losses, models, runs
from jmeta.adjoints import Adjoint
from jmeta.domains import images


@dataclass(frozen=True)
class Options:
    """iMAML on glyphs, tested on a script never seen in training.

    Paper:    Rajeswaran, Finn, Kakade, Levine, "Meta-Learning with Implicit Gradients", 2019, arXiv:1909.04630.
    Command:  jmeta train glyphs_imaml
    Time:     3.7 minutes of meta-steps, measured on 2 CPU cores that were busy with other work too.
    Expected: 72.6 % inductive and 75.3 % transductive (5-way 1-shot, 1000 test tasks), where the nearest mean of
              pixels has 43 %. The certificate (`implicit_is_valid`) reports at every step that 16 inner steps have
              not reached the minimum, so the meta-gradients are not exact; training works all the same.
    """

    num_ways: int = 5
    num_shots: int = 1
    num_filters: int = 32
    num_steps: int = 16
    """Inner steps towards the minimum in training; they take no memory."""
    num_test_steps: int | None = None
    """Inner steps at test; as many as in training if not given."""
    inner_lr: float = 0.4
    regularization: float = 0.3
    """Weight of the proximal term: the larger, the sooner the loop converges and the less it can adapt."""
    num_cg_steps: int = 5
    """Steps of conjugate gradients, each one product with the Hessian."""
    meta_lr: float = 2e-3
    """Decays linearly to zero."""
    clip_norm: float = 10.0
    training: runs.Training = runs.Training(
        num_steps=2000, tasks_per_step=4, steps_per_dispatch=50, evaluate_every=500, num_valid_tasks=200
    )
    testing: runs.Testing = runs.Testing()


def build(options: Options) -> runs.Experiment:
    """Build the experiment from its options."""
    runs.check_positive(inner_lr=options.inner_lr, meta_lr=options.meta_lr, clip_norm=options.clip_norm)
    network = models.conv4(options.num_ways, num_filters=options.num_filters, pooling="strided", norm="batch")
    implicit = adjoints.implicit(adjoints.conjugate_gradient(num_steps=options.num_cg_steps))

    def imaml(num_steps: int, adjoint: Adjoint = adjoints.unrolled()) -> Learner:  # no derivative is needed at test
        return learners.imaml(
            network,
            losses.cross_entropy,
            optax.sgd(options.inner_lr),
            num_steps=num_steps,
            regularization=options.regularization,
            adjoint=adjoint,
        )

    meta_lr = optax.linear_schedule(options.meta_lr, 0.0, options.training.num_steps)
    return runs.Experiment(
        learner=imaml(options.num_steps, implicit),
        loss_fn=losses.cross_entropy,
        source=images.protocols.glyphs.source(num_ways=options.num_ways, num_shots=options.num_shots),
        optimizer=optax.chain(optax.clip_by_global_norm(options.clip_norm), optax.adam(meta_lr)),
        with_num_steps=imaml,
        num_test_steps=options.num_steps if options.num_test_steps is None else options.num_test_steps,
        baselines=images.baselines(network, num_ways=options.num_ways),
        training=options.training,
        testing=options.testing,
    )


if __name__ == "__main__":
    runs.main(build, Options)
