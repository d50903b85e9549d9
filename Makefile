# Everything a person types. Each target does its own set-up: a fresh machine needs Python 3.11+ and make.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOCK := requirements/dev.txt

# The training libraries: a lock and a stamp of their own, since torch from the default index brings CUDA's libraries.
# TRAINING=0 leaves them out: `make demo` then shows the feedback alone, `make test` skips the training tests aloud.
TRAINING ?= 1
TRAINING_STAMP := $(VENV)/.training-installed
TRAINING_LOCK := requirements/training.txt
TRAINED := $(if $(filter 0,$(TRAINING)),,$(TRAINING_STAMP))

# The first interpreter that runs and is new enough. Override: make install PYTHON=/path/to/python
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13; do \
  if $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then echo $$p; break; fi; done)

ROOTS := schemas ledger stores producers processors sinks auditor trail
CODE := $(wildcard $(ROOTS) tests benchmarks examples deploy)
PYTEST := $(BIN)/python -m pytest
QUICK := $(wildcard tests/unit tests/vectors)
TRAINS := $(wildcard tests/training tests/integration/test_demo.py tests/kafka/test_demo_kafka.py)  # in a process of their own: torch is 0.5 GiB
STREAMS := $(wildcard tests/kafka)  # in a process of their own too: brokers, registry and workers beside it

.PHONY: help install demo check test chaos bench interop lock clean

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */|/' | while IFS='|' read -r name text; do printf '  make %-9s %s\n' "$$name" "$$text"; done

install: $(STAMP)  ## build .venv from the hashed lock and install the project into it, editable
	@echo "ready: $(BIN)/rlhf-audit --help"

# Keyed on what decides the contents: the project file and the lock. Unchanged, it takes no time.
$(STAMP): pyproject.toml $(LOCK)
	@if [ -z "$(PYTHON)" ]; then echo "no Python 3.11 or newer found: install one, or run make PYTHON=/path/to/python" >&2; exit 1; fi
	@if [ ! -x $(BIN)/python ]; then echo "creating $(VENV) with $(PYTHON)"; $(PYTHON) -m venv $(VENV); fi
	@echo "installing the pinned packages of $(LOCK) (hashes checked)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(LOCK)
	@echo "installing rlhf-audit-trail from this checkout, editable"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# Versions that both locks name agree (a test says so): this only adds to what is there.
$(TRAINING_STAMP): $(STAMP) $(TRAINING_LOCK)
	@echo "installing the pinned packages of $(TRAINING_LOCK) (hashes checked)"
	@if ! $(BIN)/python -c 'import torch' >/dev/null 2>&1; then \
	  echo "  torch and the CUDA libraries it brings on Linux: 3.3 GB to download, 5.5 GB on disk, once"; \
	  echo "  without them: make $(or $(filter demo test,$(MAKECMDGOALS)),demo) TRAINING=0"; fi
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(TRAINING_LOCK)
	@touch $@

# KAFKA=1: the same over three brokers on this machine, with sealers, sinks and sequencer (Java 17 and Maven).
KAFKA ?= 0

demo: $(STAMP) $(TRAINED)  ## train on two ranks, recorded; ask, verify, forge (TRAINING=0: no torch, KAFKA=1: on Kafka)
	@$(BIN)/rlhf-audit demo --out ./rlhf-audit-demo $(if $(TRAINED),,--feedback-only) $(if $(filter 0,$(KAFKA)),,--kafka)

check: $(STAMP)  ## format, lint, types, import contracts, unit tests offline with branch coverage
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy $(CODE)
	$(BIN)/lint-imports --no-logo
	$(PYTEST) $(QUICK) --cov --cov-report=term

test: check $(TRAINED)  ## check, then contract, crash, integration, Kafka, training, demo, minimal install and interop
	$(PYTEST) tests $(addprefix --ignore=,$(QUICK) $(TRAINS) $(STREAMS))
	$(PYTEST) $(STREAMS) $(addprefix --ignore=,$(TRAINS))
	$(PYTEST) $(TRAINS)

interop: $(STAMP)  ## programs nobody here wrote judge our logs and our forgeries (needs Go)
	$(PYTEST) tests/interop

chaos: $(STAMP)  ## ten times the chaos of the tests: 240 faults, five million events (needs Java, Maven; an hour)
	CHAOS_SCALE=10 $(PYTEST) tests/kafka/test_chaos.py

bench: $(STAMP)  ## run every benchmark, results with machine and commit in benchmarks/results
	$(BIN)/python benchmarks/run.py

# uv resolves once for every Python from 3.11 on; neither file names an index, a host or this machine.
lock:  ## resolve the dependencies anew into requirements/*.txt
	@if [ ! -x .lock/bin/uv ]; then $(PYTHON) -m venv .lock && .lock/bin/python -m pip install --quiet uv; fi
	@compile() { .lock/bin/uv pip compile --quiet "$$@" --universal --python-version 3.11 \
	    --fork-strategy fewest --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header; }; \
	compile pyproject.toml --output-file requirements/base.txt; \
	compile pyproject.toml --extra dev --output-file requirements/dev.txt; \
	compile pyproject.toml --extra workers --constraint requirements/dev.txt --output-file requirements/workers.txt; \
	compile --group build --constraint requirements/dev.txt --output-file requirements/build.txt; \
	compile pyproject.toml --extra sinks --extra trl --constraint requirements/dev.txt --output-file $(TRAINING_LOCK)
	@if grep -nE '://|--(extra-)?index-url|--find-links' requirements/*.txt; then echo "the lock names a download address" >&2; exit 1; fi

clean:  ## remove what the other targets made, trails you named yourself excepted
	rm -rf $(VENV) .lock .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage coverage.xml \
	  dist build rlhf-audit-demo tests/interop/bin
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +
