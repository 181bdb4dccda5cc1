"""Reptile on Omniglot, in its paper's protocol."""

from dataclasses import dataclass

from .parts import Conv4, Images, Reptile, Testing, Training


@dataclass(frozen=True)
class OmniglotReptile2018:
    """Reptile on Omniglot, protocol `reptile2018`.

    Paper:    Nichol, Achiam, Schulman, "On First-Order Meta-Learning Algorithms", 2018, arXiv:1803.02999, section 6.1.
    Command:  python -m experiments.train omniglot_reptile2018
              for 20 ways add --testing.num-ways 20 --method.batch-size 20 --method.num-steps 10
              --method.test-batch-size 10 --training.num-steps 200000
    Time:     0.05 s a meta-step on one CPU core: 1 h 25 min.
    Expected: 95.11 ± 0.19 % inductive and 97.37 ± 0.15 % transductive after 40,000 meta-steps, 5-way 1-shot;
              the paper has 95.39 ± 0.09 % inductive and 97.68 ± 0.04 % transductive (5-way 1-shot); 88.14 ± 0.15 % and
              89.43 ± 0.14 % (20-way 1-shot).
    """

    data: Images = Images("reptile2018")
    model: Conv4 = Conv4(num_filters=64, pooling="strided", norm="batch")
    method: Reptile = Reptile(num_steps=5, batch_size=10, inner_lr=1e-3, test_batch_size=5)
    training: Training = Training(
        num_steps=100_000,
        tasks_per_step=5,
        steps_per_dispatch=100,
        evaluate_every=5000,
        num_valid_tasks=200,
        optimizer="sgd",
        lr=1.0,
        batching="scan",
        schedule="linear",
    )
    testing: Testing = Testing(num_ways=5, num_shots=1)


RECIPE = OmniglotReptile2018()
