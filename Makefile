# Two commands: `make demo` and `make test`. Each makes its own virtual environment first.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export HF_HUB_DISABLE_TELEMETRY := 1
export DO_NOT_TRACK := 1
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: help demo demo-causal-lm demo-deployed setup setup-dev browser materials test test-all check lint typecheck imports proto coverage benchmarks clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Motet needs Python 3.11 or newer; set PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

setup: $(VENV)/.ready ## make the virtual environment with the pinned versions

setup-dev: $(VENV)/.ready-dev ## the same with what the tests need

browser: setup-dev ## a Chromium for the tests of the dashboard, if none is there; never fails
	-@$(BIN)/python scripts/get_browser.py

materials: setup ## download the pinned weights and data (once)
	$(BIN)/motet materials fetch minilm vader newsgroups

demo: setup ## federated fine-tuning of real weights on real data, with privacy, in minutes
	$(BIN)/motet demo

demo-causal-lm: setup ## the same for a language model
	$(BIN)/motet demo --task causal-lm

demo-deployed: setup ## the same with a real coordinator and four client processes
	$(BIN)/motet demo --deployed

test: setup-dev browser ## all set-up, then the tests
	$(BIN)/motet materials fetch minilm vader newsgroups
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadgroup --maxprocesses 2

test-all: setup-dev browser ## the slow campaigns as well
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,trackers]'
	$(BIN)/motet materials fetch
	MOTET_TEST_FORK=0 MOTET_TEST_DRAWS=new $(BIN)/python -m pytest

check: lint typecheck imports proto test ## everything that must hold before a commit

lint: setup-dev ## ruff
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

typecheck: setup-dev ## mypy, strict
	$(BIN)/mypy

imports: setup-dev ## the layering rules
	$(BIN)/lint-imports

proto: setup-dev ## the generated stubs are those of proto/
	$(BIN)/python scripts/gen_proto.py --check

coverage: setup-dev browser ## branch coverage with a floor for each package
	$(BIN)/python -m coverage erase && MOTET_TEST_FORK=0 $(BIN)/python -m coverage run -m pytest -m "not slow" && $(BIN)/python -m coverage combine
	$(BIN)/python -m coverage report --include='privacy/*,aggregation/*' --fail-under=90
	$(BIN)/python -m coverage report --include='client/*,coordinator/*,motet/*' --fail-under=75

benchmarks: setup-dev ## every figure that the README states
	$(BIN)/python benchmarks/dp_step.py && $(BIN)/python benchmarks/aggregation.py && $(BIN)/python benchmarks/round_overhead.py

clean: ## remove the environment and the demo's output
	rm -rf $(VENV) demo-out runs
