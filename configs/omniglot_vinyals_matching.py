"""Matching networks with full context embeddings on Omniglot."""

from dataclasses import dataclass

from .parts import Conv4, Images, Matching, Testing, Training


@dataclass(frozen=True)
class OmniglotVinyalsMatching:
    """Matching networks with full context embeddings on Omniglot, protocol `vinyals`.

    Paper:    Vinyals et al., "Matching Networks for One Shot Learning", 2016, arXiv:1606.04080, section 4.1.1.
    Command:  python -m experiments.train omniglot_vinyals_matching
              for 20 ways add --testing.num-ways 20 --data.train-ways 20
    Time:     0.2 to 0.5 s a meta-step on one CPU core; 20,000 were not run.
    Expected: the paper has 98.1 % (5-way 1-shot), 98.9 % (5w5s), 93.8 % (20w1s), 98.5 % (20w5s); RESULTS.md has what
              5,000 meta-steps with `--training.halve-lr-every 1250` reached.

    Differs from the paper: group instead of batch normalisation, so that predictions are inductive.
    """

    data: Images = Images("vinyals", train_ways=5, train_shots=1, train_queries=5)
    model: Conv4 = Conv4(num_filters=64, pooling="max", norm="group")
    method: Matching = Matching(full_context=True)
    training: Training = Training(
        num_steps=20_000,
        tasks_per_step=8,
        steps_per_dispatch=50,
        evaluate_every=500,
        num_valid_tasks=200,
        lr=1e-3,
        batching="scan",
        schedule="halved",
        halve_lr_every=5000,
        clip_norm=10.0,
        patience=10,
    )
    testing: Testing = Testing(num_ways=5, num_shots=1)


RECIPE = OmniglotVinyalsMatching()
