# One command a task; `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3.11
# Test processes of one thread each; measured on two cores: 188 s with 2, 315 s with 1.
WORKERS ?= 2
BIN := .venv/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# The demo needs no test tools: two stamps, so that it waits for none of them.
ENGINE := .venv/.installed-engine
DEV := .venv/.installed-dev

.PHONY: help venv demo serve test test-long check lint format types arrows migrations openapi pins bench bench-rest bench-quality audit load crash fuzz clean

help:  ## list the commands
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

venv: $(DEV)  ## the environment with every pinned package, test tools included

# pip comes last when an environment is made: with it in place the environment is whole.
.venv/bin/pip:
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or later is needed; name it: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv .venv

# Redone when a requirement changes: pip then changes only what differs.
$(ENGINE): pyproject.toml constraints.txt | .venv/bin/pip
	@echo "Installing whence[engine] into .venv (pinned by constraints.txt) …"
	$(PIP_INSTALL) -e '.[engine]'
	@touch $@

$(DEV): $(ENGINE)
	@echo "Installing the test tools into .venv …"
	$(PIP_INSTALL) -e '.[engine,dev]'
	@touch $@

# `exec` puts the program in the shell's place: Ctrl-C reaches it, and nothing is left behind.
demo: $(ENGINE)  ## fine-tune a small model, index it, ask, measure trust, serve /ui  (ARGS=--no-serve ends by itself)
	@exec $(BIN)/whence demo $(ARGS)

serve: $(ENGINE)  ## the service on 127.0.0.1  (ARGS="--port 8080")
	@exec $(BIN)/whence serve $(ARGS)

test: $(DEV)  ## every test but the long ones and those that need a GPU  (ARGS="tests/engine -x")
	@exec env OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -m "not gpu and not long" -n $(WORKERS) --dist worksteal $(ARGS)

test-long: $(DEV)  ## what kills real processes again and again
	@exec env OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -m "long and not gpu" $(ARGS)

check: lint format types arrows migrations openapi pins  ## everything that can be checked without running a test
	@echo "check: all passed"

lint: $(DEV)
	$(BIN)/ruff check .

format: $(DEV)
	$(BIN)/ruff format --check .

types: $(DEV)
	$(BIN)/pyright

arrows: $(DEV)
	$(BIN)/lint-imports

migrations: $(DEV)
	$(BIN)/python -m app.database check

openapi: $(DEV)
	$(BIN)/python -m tests.contract.openapi_snapshot

bench: $(DEV)  ## every benchmark of speed and memory, target beside measured  (ARGS="--only capture search", "--table --write")
	@export OMP_NUM_THREADS=1; $(BIN)/python -m benchmarks.everything $(ARGS)

bench-rest: $(DEV)  ## what single choices rest on: calibration sample, torch.compile, the demo's methods, stacks, replay, tail-patch
	@export OMP_NUM_THREADS=1; for name in curvature_sample compiled demo_methods stacked_training tail_patch replay; do \
	  $(BIN)/python -m benchmarks.$$name; done

# Long: 518 retrainings, and four peers in environments of their own. Interrupted, it goes on where it was.
bench-quality: $(DEV)  ## rankings against retraining, beside the peers  (ARGS="--quick": one recipe, 25 subsets, one seed)
	@export OMP_NUM_THREADS=1; $(BIN)/python -m benchmarks.quality.run $(ARGS)
	@[[ "$(ARGS)" == *--* ]] || { $(BIN)/python -m benchmarks.quality.plot && $(BIN)/python -m benchmarks.quality.smoothness; }

pins: $(DEV)  ## every installed package is the pinned one, and none has a known vulnerability
	$(BIN)/python -m tests.contract.pins
	@if $(BIN)/python -m tests.contract.pins --online; then $(MAKE) audit; \
	else echo "audit: left out, pypi.org cannot be asked from here"; fi

# Asks pypi.org what is known of each pinned package.
audit: $(DEV)  ## known vulnerabilities of the pinned packages
	@[[ -x .bench/audit/bin/pip-audit ]] || { $(PYTHON) -m venv .bench/audit && .bench/audit/bin/pip install --quiet pip-audit; }
	.bench/audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict

load: $(DEV)  ## four times the capacity, one server and two  (ARGS="--servers 1 --seconds 20")
	@export OMP_NUM_THREADS=1; $(BIN)/python -m benchmarks.load $(ARGS)

crash: $(DEV)  ## kill -9 fifty times while everything is written to; what is acknowledged must be there  (ARGS="--kills 5")
	@export OMP_NUM_THREADS=1; $(BIN)/python -m tests.app.crashing $(ARGS)

fuzz: $(DEV)  ## 100,000 made-up inputs for everything that reads what others wrote  (ARGS="--seed 1 --target rows")
	@export OMP_NUM_THREADS=1; $(BIN)/python -m tests.fuzzing $(ARGS)

clean:  ## remove the environment and every cache
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .import_linter_cache .grimp_cache .hypothesis
