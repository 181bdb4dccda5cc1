"""MAML on Omniglot, in its paper's protocol."""

from dataclasses import dataclass

from .parts import Conv4, Images, Maml, Testing, Training


@dataclass(frozen=True)
class OmniglotFinn2017Maml:
    """Second-order MAML on Omniglot, protocol `finn2017`, transductive as in the paper.

    Paper:    Finn, Abbeel, Levine, "Model-Agnostic Meta-Learning", 2017, arXiv:1703.03400, section 5.2, appendix A.1.
    Command:  python -m experiments.train omniglot_finn2017_maml
              for first order add --method.adjoint first_order
              for 20 ways add --testing.num-ways 20 --method.num-steps 5 --method.inner-lr 0.1
              --training.tasks-per-step 16
    Time:     73 ms a meta-step on 2 CPU cores (5-way), 0.9 s (20-way, one core); 60,000 were not run.
    Expected: the paper has 98.7 ± 0.4 % (5-way 1-shot; first order 98.3 ± 0.5 %) and 95.8 ± 0.3 % (20-way 1-shot;
              first order 89.4 ± 0.5 %), all transductive; RESULTS.md has what 15,000 (5-way) and 8,000 meta-steps of
              half the tasks (20-way) reached, with `--training.lr 2e-3 --training.schedule linear`.
    """

    data: Images = Images("finn2017")
    model: Conv4 = Conv4(num_filters=64, pooling="strided", norm="batch")
    method: Maml = Maml(num_steps=1, inner_lr=0.4)
    training: Training = Training(
        num_steps=60_000,
        tasks_per_step=32,
        steps_per_dispatch=50,
        evaluate_every=1000,
        num_valid_tasks=200,
        lr=1e-3,
        batching="scan",
    )
    testing: Testing = Testing(num_ways=5, num_shots=1)


RECIPE = OmniglotFinn2017Maml()
