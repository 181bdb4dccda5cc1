# The two commands of the README, and what maintainers run beside them.
#   make run    install into .venv, meta-train two learners, evaluate them, leave a run folder
#   make test   install what tests need, run all tests but the slow ones
#   make test-extra  with PyTorch and scikit-learn, the tests that compare with them, and those that read the real data sets in JMETA_DATA
#   make test-all    slow tests, too: long learning, kills of whole jobs, every row of the results, scaling
#   make lint   ruff, import-linter and pyright
# PYTHON=/path/to/python3.13 uses another interpreter, in an environment of its own.

PYTHON ?= python3
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
VENV := $(if $(filter file default,$(origin PYTHON)),.venv,.venv-$(VERSION))
BIN := $(VENV)/bin
PYTEST = $(BIN)/python -m pytest --numprocesses auto --dist worksteal
# editable_mode=compat puts this folder on the path: else a script beside a clone named jmeta would import the clone's folder
# no-compile: modules are compiled when they are imported, and most of what is installed never is
INSTALL = $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt \
  --config-settings editable_mode=compat

export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/jax

.PHONY: run test test-extra test-all lint clean

run: $(VENV)/.installed-run
	$(BIN)/python -m experiments.quickstart

test: $(VENV)/.installed-dev
	$(PYTEST) -m "not slow"

test-extra: $(VENV)/.installed-dev,peers
	$(PYTEST) -m "(data or peers) and not slow"

test-all: $(VENV)/.installed-dev,peers
	$(PYTEST)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/pyright

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "jmeta needs Python 3.11 or newer, but '$(PYTHON)' is $(or $(VERSION),not to be found); try make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-run: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing jmeta into $(VENV) (about a minute the first time)"
	$(INSTALL) --editable '.[runs]'
	@touch $@

$(VENV)/.installed-%: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing jmeta and what its tests need into $(VENV) (about a minute the first time)"
	$(INSTALL) --editable '.[$*]'
	@touch $@ $(VENV)/.installed-run

clean:
	rm -rf .venv .venv-* .cache .pytest_cache .ruff_cache .hypothesis *.egg-info
