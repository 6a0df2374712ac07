# Longsight: two commands are enough, `make demo` and `make test`.
#
# Every target uses one virtual environment, .venv, and writes nothing outside this folder.

PYTHON ?= python3
# Extra arguments: make test ARGS="-k replay -x", make bench ARGS="--json", make demo ARGS="--model din"
ARGS ?=
ONCE ?=
EXTRAS := train,serve,demo,loadtest,dev
TORCH := $(shell sed -n '/^torch==/p' constraints.txt)

BIN := .venv/bin
# Written last: a .venv without it is half built and starts anew; one that is older than the two files below is
# brought up to date in place.
STAMP := .venv/.stamp

export PIP_CACHE_DIR ?= $(CURDIR)/.longsight/cache/pip
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# onnxruntime's wheels report usage to their maker, and keep an id in the home folder, unless told not to.
export ORT_DISABLE_TELEMETRY := 1

.DEFAULT_GOAL := help
.PHONY: help demo test lint format types imports check bench loadtest clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/make \1\t\2/' | expand -t 16

demo: $(STAMP) ## real data, a trained model, a running service, a scored request (ONCE=1: then exit)
	$(BIN)/longsight demo $(if $(filter-out 0,$(ONCE)),--once) $(ARGS)

test: $(STAMP) ## all tests
	$(BIN)/python -m pytest $(ARGS)

lint: $(STAMP) ## ruff, rules and layout
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP) ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP) ## mypy --strict
	$(BIN)/mypy

imports: $(STAMP) ## which package may import which
	$(BIN)/lint-imports

check: lint types imports ## everything CI runs, but the tests

bench: $(STAMP) ## every benchmark of benchmarks/, each ending in one line of JSON
	@set -e; for script in $(or $(SCRIPTS),$(wildcard benchmarks/*.py)); do \
		echo "== $$script"; $(BIN)/python $$script --json $(ARGS); done

loadtest: $(STAMP) ## 30 s of traffic at a constant rate against the demo; exit 1 on a breach
	$(BIN)/python loadtest/against_demo.py $(ARGS)

clean: ## remove what the targets made
	rm -rf .venv .longsight .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# torch first and alone: an index may hold both a CPU and a CUDA build, and the exact version settles which.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: $(PYTHON) is older than Python 3.11; name another: make PYTHON=python3.12" >&2; exit 1; }
	@test -e $(STAMP) || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $(STAMP)
