# The same recipes on a laptop and in CI, which is .ci/run. `make` alone lists them.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTHONS := 3.11 3.12 3.13 3.14
FIT := import sys; sys.exit("%d.%d" % sys.version_info[:2] not in "$(PYTHONS)".split())
# The first that fits and can make a venv; a name on the PATH says neither, and pyenv's may not even run. The oldest comes
# first: CI runs on it.
PYTHON ?= $(shell for found in $(PYTHONS:%=python%) python3; do \
	if $$found -c 'import ensurepip, venv; $(FIT)' 2>/dev/null; then echo $$found; break; fi; done)
UV := .cache/uv-0.13.9/bin/uv
# Passed on to the command behind a target: make demo ARGS="--limit 20000"
ARGS ?=

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

.PHONY: install
install: $(STAMP) ## create .venv with everything that is locked

$(STAMP): requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(or $(PYTHON),false) -c 'import ensurepip, venv; $(FIT)' 2>/dev/null || { \
		echo "pulsegraph needs a Python that is one of $(PYTHONS) and has venv;" \
			"$(if $(PYTHON),$(PYTHON) is not: $$($(PYTHON) --version 2>&1 | head -n 1),none is on the PATH)."; \
		echo "Install one, or name it: make PYTHON=/path/to/python3.13 ..."; exit 1; } >&2
	@test -x $(BIN)/python || { echo "creating $(VENV) with $(PYTHON)"; $(PYTHON) -m venv $(VENV); }
	@$(BIN)/python -c '$(FIT)' || { \
		echo "$(VENV) has $$($(BIN)/python --version 2>&1), and pulsegraph needs one of $(PYTHONS):" \
			"remove $(VENV), and run make again." >&2; exit 1; }
	@sum=$$($(BIN)/python -c 'import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())' requirements.lock); \
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
demo: install ## events in, predictions out, on this machine (ARGS="--limit 20000" for a few dozen households)
	@$(BIN)/pulsegraph demo $(ARGS)

# Two at a time, a file each. Each of the two has a broker of its own.
PYTEST_TWICE = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile
NO_TESTS := 5

.PHONY: test
test: lint types ## lint, types and every test (ARGS="-k broker" for some)
	@status=0; $(PYTEST_TWICE) -m "not broker" $(ARGS) || status=$$?; \
	$(PYTEST_TWICE) -m broker $(ARGS) || { found=$$?; test $$found -eq $(NO_TESTS) || status=$$found; }; \
	test $$status -ne $(NO_TESTS) || status=0; exit $$status

.PHONY: test-fast test-without-broker
test-fast: lint ## lint, types and every test that is quick and needs no broker; one to three minutes
	@$(MAKE) --no-print-directory --jobs 2 --keep-going types test-without-broker

test-without-broker: install
	@$(PYTEST_TWICE) -m "not broker and not slow" --hypothesis-profile=fast $(ARGS)

.PHONY: lint
lint: install ## ruff: rules and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

.PHONY: types
types: install ## mypy, strict
	@$(BIN)/mypy

COMPILE = $(UV) pip compile --quiet pyproject.toml --universal --python-version $(firstword $(PYTHONS)) \
	--generate-hashes --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"
# What the image installs: the same versions, without what only developers need.
IMAGE_LOCK := infra/worker/requirements.lock

.PHONY: lock
lock: $(UV) ## make both locks anew from pyproject.toml; versions stay (ARGS="--upgrade-package rich", ARGS=--upgrade)
	@$(COMPILE) --all-extras --output-file requirements.lock $(ARGS)
	@$(COMPILE) --constraints requirements.lock --output-file $(IMAGE_LOCK)

.PHONY: lock-check
lock-check: install $(UV) ## the lock is that of pyproject.toml, has wheels for every Python, and types hold on each
	@cp requirements.lock .cache/requirements.lock && $(COMPILE) --all-extras --output-file .cache/requirements.lock >/dev/null
	@diff <(grep -E '^[a-z]' requirements.lock) <(grep -E '^[a-z]' .cache/requirements.lock) || { echo "run make lock" >&2; exit 1; }
	@for version in $(PYTHONS); do \
		echo "Python $$version"; \
		$(UV) pip install --quiet --dry-run --python $(BIN)/python --target .cache/nothing --python-version $$version \
			--python-platform x86_64-manylinux_2_28 --only-binary :all: --require-hashes -r requirements.lock; \
		$(BIN)/mypy --python-version $$version; \
	done

$(UV):
	@$(or $(PYTHON),python3) -m venv $(@:/bin/uv=)
	@$(@D)/python -m pip install --quiet --disable-pip-version-check $(patsubst .cache/uv-%/bin/uv,uv==%,$@)

.PHONY: pages
pages: install ## write the generated parts of docs, and the Grafana dashboard, anew
	@$(BIN)/python docs/generate.py
	@$(BIN)/python infra/grafana/build_dashboard.py

.PHONY: faults
faults: install ## kill workers and brokers, and compare with an undisturbed run (Apache Kafka: Java 17 and Maven)
	@$(BIN)/pulsegraph faults $(ARGS)

.PHONY: fuzz
fuzz: install ## a million spoilt payloads: none lost, nothing stopped
	@PULSEGRAPH_TEST_FUZZ=1000000 $(BIN)/python -m pytest -s tests/faults/test_fuzz.py -k every_payload $(ARGS)

.PHONY: bench
bench: install ## speed and memory against Faust, Quix Streams and Kafka Streams (about half an hour; Java 17 and Maven)
	@$(BIN)/pulsegraph bench $(or $(ARGS),all)

.PHONY: gpu
gpu: install ## what wants a GPU: tests, bench and a training run there (ten minutes at most)
	@PYTHON=$(BIN)/python infra/gpu/run.sh

.PHONY: evaluate
evaluate: install ## how good predictions are, beside LightGBM on the same rows (ARGS="churn --json" for one)
	@$(BIN)/pulsegraph evaluate $(ARGS)

.PHONY: clean
clean: ## remove caches and what runs left behind, but not .venv
	@rm -rf .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
	@find . -path ./$(VENV) -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf
