"""A learned optimizer beside tuned Adam: `python -m experiments.learned_optimizer`."""
