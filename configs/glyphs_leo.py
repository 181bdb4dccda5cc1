"""LEO on the embedded data set."""

from dataclasses import dataclass

import optax

from jmeta import learners, losses, models, runs
from jmeta.domains import images


@dataclass(frozen=True)
class Options:
    """LEO on glyphs, tested on a script never seen in training.

    Paper:    Rusu et al., "Meta-Learning with Latent Embedding Optimization", 2019, arXiv:1807.05960.
    Command:  jmeta train glyphs_leo
    Time:     not measured yet.
    Expected: not measured yet.

    Differs from the paper, where the embedding is a network trained before on all classes: it is learned with the rest.
    """

    num_ways: int = 5
    num_shots: int = 1
    num_filters: int = 32
    num_latents: int = 64
    """Length of the code of a class."""
    num_steps: int = 5
    """Inner steps on the codes."""
    num_fine_tuning_steps: int = 5
    """Steps on the generated weights that follow."""
    initial_latent_lr: float = 1.0
    initial_weights_lr: float = 1e-3
    kl_weight: float = 1e-3
    encoder_weight: float = 1e-9
    orthogonality_weight: float = 1e-3
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
    runs.check_positive(meta_lr=options.meta_lr, clip_norm=options.clip_norm)
    embedding = models.conv4(None, num_filters=options.num_filters, pooling="strided", norm="group")
    classifier = models.conv4(options.num_ways, num_filters=options.num_filters, pooling="strided", norm="group")
    meta_lr = optax.linear_schedule(options.meta_lr, 0.0, options.training.num_steps)
    return runs.Experiment(
        learner=learners.leo(
            embedding,
            losses.cross_entropy,
            num_ways=options.num_ways,
            num_latents=options.num_latents,
            num_steps=options.num_steps,
            num_fine_tuning_steps=options.num_fine_tuning_steps,
            initial_latent_lr=options.initial_latent_lr,
            initial_weights_lr=options.initial_weights_lr,
            kl_weight=options.kl_weight,
            encoder_weight=options.encoder_weight,
            orthogonality_weight=options.orthogonality_weight,
        ),
        loss_fn=losses.cross_entropy,
        source=images.protocols.glyphs.source(num_ways=options.num_ways, num_shots=options.num_shots),
        optimizer=optax.chain(optax.clip_by_global_norm(options.clip_norm), optax.adam(meta_lr)),
        baselines=images.baselines(classifier, num_ways=options.num_ways),
        training=options.training,
        testing=options.testing,
    )


if __name__ == "__main__":
    runs.main(build, Options)
