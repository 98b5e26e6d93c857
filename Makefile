# The same recipes on a laptop and in CI. `make` alone lists them.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Prefer the exact version; any python3 that is 3.11 will do.
PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3.11)
# Passed on to the command behind a target: make demo ARGS="--limit 20000"
ARGS ?=

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

.PHONY: install
install: $(STAMP) ## create .venv with everything that is locked

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info[:2] == (3, 11) else "pulsegraph needs Python 3.11, and $(PYTHON) is " + sys.version.split()[0] + ". Install it, or name one: make PYTHON=/path/to/python3.11 ...")'
	@test -x $(BIN)/python || { echo "creating $(VENV) with $(PYTHON)"; $(PYTHON) -m venv $(VENV); }
	@sum=$$($(PYTHON) -c 'import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())' requirements.lock); \
	if [ "$$sum" = "$$(cat $(VENV)/.lock-sum 2>/dev/null)" ]; then \
		echo "dependencies are those of requirements.lock"; \
	else \
		echo "installing the locked dependencies. torch is the CUDA build: 5 GB on disk in all, about 2 minutes"; \
		$(BIN)/python -m pip install --disable-pip-version-check --require-hashes -r requirements.lock; \
		echo "$$sum" > $(VENV)/.lock-sum; \
	fi
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
	@echo "installed; try: $(BIN)/pulsegraph --help"

.PHONY: demo
demo: install ## events in, predictions out, on this machine (ARGS="--limit 20000" for one minute)
	@$(BIN)/pulsegraph demo $(ARGS)

.PHONY: test
test: lint types ## lint, types and every test (ARGS="-k broker" for some)
	@$(BIN)/python -m pytest $(ARGS)

.PHONY: test-fast test-without-broker
test-fast: lint ## lint, types and every test that is quick and needs no broker; two minutes
	@$(MAKE) --no-print-directory --jobs 2 --keep-going types test-without-broker

test-without-broker: install
	@$(BIN)/python -m pytest -m "not broker and not slow" --hypothesis-profile=fast $(ARGS)

.PHONY: lint
lint: install ## ruff: rules and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

.PHONY: types
types: install ## mypy, strict
	@$(BIN)/mypy

.PHONY: faults
faults: install ## kill workers and brokers, and compare with an undisturbed run (Apache Kafka: Java 17 and Maven)
	@$(BIN)/pulsegraph faults $(ARGS)

.PHONY: bench
bench: install ## speed and memory against Faust, Quix Streams and Kafka Streams (about half an hour; Java 17 and Maven)
	@$(BIN)/pulsegraph bench $(or $(ARGS),all)

.PHONY: clean
clean: ## remove caches and what runs left behind, but not .venv
	@rm -rf .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
	@find . -path ./$(VENV) -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf
