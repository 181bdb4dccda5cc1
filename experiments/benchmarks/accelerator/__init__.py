"""One command that measures an accelerator: `python -m experiments.benchmarks.accelerator --seconds N --out DIR`.

    __main__ ──► supervisor ──► a process for each section ──► rows in DIR/accelerator.jsonl ──► one table

| section | measures |
|---|---|
| `check` | whether the meta-gradient is right on this card, and in which precision |
| `w1` | second-order MAML on images: the fastest form of convolution, precision and batching |
| `peers` | the same, compared with PyTorch |
| `w2` | second-order MAML on sinusoids, many meta-steps in one dispatch, compared with PyTorch |
| `w3w4` | prototypical networks, and RL² with its environments, compared with PyTorch |
| `long_loops` | time and memory of 100 and 1,000 inner steps |
| `full_rows` | whole trainings, with accuracy; a later call continues them |

It needs the core's dependencies, and PyTorch only for comparisons. A row is written as soon as it is measured, so that
a killed command loses nothing.
"""
