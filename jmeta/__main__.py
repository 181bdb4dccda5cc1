"""`python -m jmeta`: the command `jmeta`."""

import sys

from jmeta.runs.main import cli

sys.exit(cli())
