"""One command that measures an accelerator: `python -m experiments.benchmarks.accelerator --seconds N --out DIR`.

    __main__ ──► supervisor ──► a process for each section ──► rows in DIR/accelerator.jsonl ──► one table

| section | what |
|---|---|
| `check` | is the meta-gradient right on this card, in which precision |
| `w1` | second-order MAML on images: which form of convolution, precision and batching is the fastest |
| `peers` | the same beside PyTorch |
| `w2` | second-order MAML on sinusoids, many meta-steps in one dispatch, beside PyTorch |
| `w3w4` | prototypical networks, and RL² with its environments, beside PyTorch |
| `long_loops` | time and memory of 100 and 1,000 inner steps |
| `full_rows` | whole trainings, with accuracy, that a later call goes on with |

It needs the core's dependencies, and PyTorch for comparisons alone. A row is written as soon as it is measured, so that
a command that is killed loses nothing.
"""
