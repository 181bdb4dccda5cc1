# The two commands of the README, and what maintainers run beside them.
#   make run    install into .venv, meta-train two learners, evaluate them, leave a run folder
#   make test   install what tests need, run all tests but the slow ones
#   make test-all   the slow ones, too: every method, every kind of fault, every row of the results
#   make lint   ruff and pyright
# EXTRAS=dev,peers adds PyTorch, which a test compares meta-gradients with, to what tests install.
# PYTHON=/path/to/python3.13 uses another interpreter, in an environment of its own.

PYTHON ?= python3
EXTRAS ?= dev
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
VENV := $(if $(filter file default,$(origin PYTHON)),.venv,.venv-$(VERSION))
BIN := $(VENV)/bin
PYTEST = $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/jax

.PHONY: run test test-all lint clean

run: $(VENV)/.installed-run
	$(BIN)/python -m experiments.quickstart

test: $(VENV)/.installed-$(EXTRAS)
	$(PYTEST) -m "not slow"

test-all: $(VENV)/.installed-$(EXTRAS)
	$(PYTEST)

lint: $(VENV)/.installed-$(EXTRAS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "jmeta needs Python 3.11 or newer, but '$(PYTHON)' is $(or $(VERSION),not to be found); try make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-run: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing jmeta into $(VENV) (about a minute the first time)"
	$(INSTALL) --editable '.[experiments]'
	@touch $@

$(VENV)/.installed-$(EXTRAS): $(BIN)/python pyproject.toml constraints.txt
	@echo "installing jmeta and what its tests need into $(VENV) (about a minute the first time)"
	$(INSTALL) --editable '.[$(EXTRAS)]'
	@touch $@ $(VENV)/.installed-run

clean:
	rm -rf .venv .venv-* .cache .pytest_cache .ruff_cache .hypothesis *.egg-info
