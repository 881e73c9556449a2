# Each target sets up what it needs by itself.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PARITY ?= .venv-parity

.PHONY: quickstart test parity lint clean

quickstart: $(VENV)/ready  ## learns to find, to describe and to answer, in a quarter of an hour; goes on where it was stopped
	$(BIN)/python main.py --config=configs/quickstart.py --workdir=runs/quickstart

test: $(VENV)/ready  ## runs the whole test suite
	$(BIN)/python -m pytest -n 2 --dist worksteal

parity: $(PARITY)/ready  ## compares with torch and transformers
	$(PARITY)/bin/python -m pytest tests/parity

lint: $(VENV)/ready  ## checks style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ty check

$(VENV)/ready: requirements.txt requirements-dev.txt constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mmfuse needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements-dev.txt
	touch $@

$(PARITY)/ready: $(VENV)/ready requirements-parity.txt
	$(PYTHON) -m venv $(PARITY)
	$(PARITY)/bin/pip install --quiet --disable-pip-version-check --requirement requirements-parity.txt
	touch $@

clean:  ## removes the environment and the caches
	rm -rf $(VENV) $(PARITY) .cache .pytest_cache .ruff_cache
