"""`python -m jmeta`: the command `jmeta`."""

import sys

from jmeta.runs.main import cli

if __name__ == "__main__":
    sys.exit(cli())
