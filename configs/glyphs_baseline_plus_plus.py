"""Baseline++ on the embedded data set."""

from dataclasses import dataclass
from typing import Literal

import optax

from jmeta import Learner, learners, losses, models, runs
from jmeta.domains import images


@dataclass(frozen=True)
class Options:
    """Baseline++ on glyphs, tested on a script never seen in training.

    Paper:    Chen, Liu, Kira, Wang, Huang, "A Closer Look at Few-shot Classification", 2019, arXiv:1904.04232.
    Command:  jmeta train glyphs_baseline_plus_plus
              for Baseline add --head linear
    Time:     0.8 minutes of meta-steps, measured on 2 CPU cores that were busy with other work too.
    Expected: 80.3 %, inductive (5-way 1-shot, 1000 test tasks), where the nearest
              mean of pixels has 43 %.

    A classifier of all classes of meta_train is trained on batches; a fresh head is fitted to each test task.
    """

    num_ways: int = 5
    num_shots: int = 1
    num_filters: int = 32
    head: Literal["cosine", "linear"] = "cosine"
    """`cosine` is Baseline++, `linear` is Baseline."""
    scale: float = 10.0
    """Factor of the cosine, which makes it a logit."""
    batch_size: int = 64
    """Examples in a batch; a meta-step uses `training.tasks_per_step` batches."""
    num_steps: int = 100
    """Steps of fitting a task's head."""
    inner_lr: float = 0.01
    """Learning rate of the Adam that fits a task's head."""
    meta_lr: float = 2e-3
    """Halved every `halve_lr_every` meta-steps."""
    halve_lr_every: int = 300
    training: runs.Training = runs.Training(
        num_steps=1500,
        tasks_per_step=1,
        steps_per_dispatch=50,
        evaluate_every=250,
        num_valid_tasks=320,
        batching="scan",
    )
    testing: runs.Testing = runs.Testing()


def build(options: Options) -> runs.Experiment:
    """Build the experiment from its options."""
    runs.check_positive(inner_lr=options.inner_lr, meta_lr=options.meta_lr, halve_lr_every=options.halve_lr_every)
    protocol = images.protocols.glyphs
    splits = protocol.load(None)
    sample_batch, num_classes = protocol.pretraining(splits, batch_size=options.batch_size)
    source = protocol.source(splits, num_ways=options.num_ways, num_shots=options.num_shots)
    body = models.conv4(None, num_filters=options.num_filters, pooling="strided", norm="group")
    classifier = models.conv4(options.num_ways, num_filters=options.num_filters, pooling="strided", norm="group")

    def fine_tune(num_steps: int) -> Learner:
        return learners.fine_tune(
            body,
            optax.adam(options.inner_lr, eps_root=1e-8),
            num_classes=num_classes,
            num_ways=options.num_ways,
            num_steps=num_steps,
            head=options.head,
            scale=options.scale,
        )

    meta_lr = optax.exponential_decay(options.meta_lr, options.halve_lr_every, 0.5, staircase=True)
    return runs.Experiment(
        learner=fine_tune(options.num_steps),
        loss_fn=losses.cross_entropy,
        source=source._replace(meta_train=lambda: sample_batch),
        optimizer=optax.adam(meta_lr),
        with_num_steps=fine_tune,
        num_test_steps=options.num_steps,
        training_names={"loss": "objective", "accuracy": "accuracy_of_all_classes"},
        baselines=images.baselines(classifier, num_ways=options.num_ways),
        training=options.training,
        testing=options.testing,
    )


if __name__ == "__main__":
    runs.main(build, Options)
