# Stagekeeper. The two commands of the README are `make demo` and `make test`; `make help` lists the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV ?= .venv
BIN := $(VENV)/bin
# The first Python on PATH that is new enough; override with `make demo PYTHON=/path/to/python`.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)
# Where this is set, Python compiles every module at every start: a worker then takes 2 s longer to begin.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test test-all computing programs lint style types check quick fast bench bench-all format lock schemas screenshots clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(BIN)/.ready ## build the environment from the lock

$(BIN)/.ready: requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Stagekeeper needs Python 3.11 or newer with its venv module (Debian: apt install python3-venv)."; exit 2; }
	@echo "[setup] building $(VENV) with $(PYTHON); about a minute, once"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes --no-deps -r requirements.lock
	@# On all cores at once; some packages carry files that are not meant for this Python, and tests; nobody imports these.
	@$(BIN)/python -m compileall -qq -j 0 -x 'site-packages/.*/tests/' $(VENV)/lib || true
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(BIN)/python -m pip check --disable-pip-version-check >/dev/null \
		|| { $(BIN)/python -m pip check; echo "requirements.lock lacks something: make lock mends it."; exit 2; }
	@touch $@

demo: setup ## start everything with simulated traffic, and the page
	@exec $(BIN)/stagekeeper up --demo

lint: setup style types ## format, lint, types, import rules

style: setup
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/lint-imports --no-cache

types: setup
	@$(BIN)/mypy

# One thread of polars for each of two processes: two processes of two threads each only wait for each other.
# The integration tests are not even read: what they import takes seconds.
FAST := POLARS_MAX_THREADS=1 $(BIN)/pytest -q -n 2 --ignore=tests/integration -m "not slow and not integration and not browser"

check: style ## the inner loop: lint, and the fast tests with a tenth of the examples of each law
	@# Types take one core: beside the tests they cost half of their time.
	@$(MAKE) --no-print-directory --jobs=2 types quick

quick: setup
	@TEST_EXAMPLES=0.1 $(FAST)

fast: setup
	@$(FAST)

format: setup ## format and mend what the linter can mend
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

# Two processes: on a slow machine three make each other late.
SLOW := POLARS_MAX_THREADS=1 $(BIN)/pytest -q -n 2 --dist loadscope --no-loadscope-reorder

test: style ## everything: lint, the fast tests with four tenths of the examples, then the slow, integration and browser tests
	@# Who waits for a broker or a page leaves half a core idle: what only computes takes it, in a process of its own.
	@$(MAKE) --no-print-directory --jobs=2 computing programs

computing: types
	@POLARS_MAX_THREADS=1 $(BIN)/pytest -q -n 0 --ignore=tests/integration \
		-m "slow and not (integration or browser or exhaustive)"

programs: fast
	@$(SLOW) -m "(integration or browser) and not exhaustive"

test-all: test ## also what takes an hour: the storm at full size on both brokers, whole calibrations, all examples
	@$(SLOW) -m exhaustive
	@TEST_EXAMPLES=1 $(SLOW) tests/property tests/unit/test_schemas.py tests/unit/test_receipt_cache.py

bench: setup ## every benchmark, and one table; ARGS="--quick" for a look, ARGS="--broker apache"
	@$(BIN)/python benchmarks/table.py $(ARGS)

bench-all: setup ## the same with the largest fleets and streams, which takes hours
	@$(BIN)/python benchmarks/table.py --all $(ARGS)

schemas: setup ## write the published schemas and the AsyncAPI document
	@$(BIN)/stagekeeper schemas

screenshots: setup ## take the pictures of the README in headless Chromium
	@$(BIN)/python docs/screenshots.py

LOCK := pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate

lock: setup ## resolve the newest releases into requirements.lock, and of these what the image runs into its own
	@$(BIN)/uv $(LOCK) --all-extras --upgrade pyproject.toml -o requirements.lock
	@$(BIN)/uv $(LOCK) --extra build --extra dashboard --extra service --extra streams -c requirements.lock \
		pyproject.toml -o requirements-image.lock

clean: ## remove the environment and everything that was made
	@rm -rf $(VENV) .stagekeeper .mypy_cache .ruff_cache .pytest_cache .hypothesis
