"""Runs: meta-training as a user starts it, with logs, checkpoints, early stop, resume and evaluation in a run folder.

    recipe ──► Experiment ──► loop: dispatch, log, evaluate, keep the best, save ──► run folder ──► evaluate, replay

A *recipe* is a Python file with a frozen dataclass `Options` and a function `build(options) -> Experiment`. The command
`jmeta train RECIPE` trains one, ours by name or a user's by path; `main(build, Options)` makes a recipe file a command.

`fit` gives the same run to a trainer and a sampler of a user's own, without a recipe.

The packages that the command line, the progress and the pictures need come with `pip install "jmeta[runs]"`.
"""

from .experiment import Experiment, Metric, Testing, Training, check_positive
from .fit import Fitted, fit
from .main import main

__all__ = ["Experiment", "Training", "Testing", "Metric", "check_positive", "Fitted", "fit", "main"]
