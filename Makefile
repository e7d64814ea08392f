# Every target sets up what it needs: `make demo` and `make test` work on a fresh clone.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
CODE := $(wildcard visalign scorers trainers apps tests benchmarks)
# One thread a process: two test processes share two cores, and sums are then made in one order.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: setup demo test lint types test-slow test-kill test-gpu wheel-check clean help

help:  ## this list
	@grep -hE '^[a-z%-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(READY)  ## the environment in .venv (the first time several GB and a few minutes)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else \
	  "visalign needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": make setup PYTHON=/path/to/python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing visalign and its pinned dependencies into $(VENV) (several GB the first time)"
	@$(BIN)/python -m pip install --disable-pip-version-check -e '.[dev]' -c constraints.txt
	@touch $@

demo: $(READY)  ## the main job on the playground: votes, training, evaluation, report in runs/demo
	@$(BIN)/visalign demo $(ARGS)

lint: $(READY)  ## ruff: rules and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(READY)  ## mypy, strict
	@$(BIN)/mypy $(CODE)

test: lint types  ## lint, types and the tests that take seconds
	@$(PYTEST) -n 2 -m "not slow and not gpu and not kill" $(ARGS)

test-slow: $(READY)  ## the tests that take minutes
	@$(PYTEST) -n 2 -m "slow and not gpu and not kill" $(ARGS)

test-kill: $(READY)  ## kill -9 at random moments, resume, compare bit for bit
	@$(PYTEST) -m kill $(ARGS)

test-gpu: $(READY)  ## the tests that need an accelerator
	@$(PYTEST) -m gpu $(ARGS)

wheel-check: $(READY)  ## build the wheel and compare its files with the tracked ones
	@$(PYTEST) tests/test_wheel.py $(ARGS)

bench-%: $(READY)  ## run benchmarks/NAME.py
	@$(BIN)/python benchmarks/$*.py $(ARGS)

clean:  ## remove the environment, builds and caches; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find visalign scorers trainers apps configs tests -name __pycache__ -type d -prune -exec rm -rf {} +
