# Everything here needs Python (3.11 or later), git and make. The environment is .venv, made on first use.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
TORCH := $(shell grep '^torch==' constraints.txt)

.PHONY: help install demo test check format docs fuzz

help:
	@echo "make install   create .venv with cosup and what it is developed with (the others below do so too)"
	@echo "make demo      run the demo: train a small pair, index, answer, measure (results in runs/demo)"
	@echo "make test      run the tests"
	@echo "make check     run ruff and mypy"
	@echo "make format    format the code"
	@echo "make fuzz      try damaged input on everything that reads; an hour or more (records in docs/reliability)"
	@echo "make docs      build the documentation into site/ (open site/index.html)"

install: $(READY)

demo: $(READY)
	$(BIN)/cosup demo

test: $(READY)
	$(BIN)/pytest -n auto --dist loadfile

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The theme would announce what becomes of mkdocs.
docs: $(READY)
	@$(PIP_INSTALL) -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir site

fuzz: $(READY)
	@$(PIP_INSTALL) -e '.[fuzz]'
	$(BIN)/python benchmarks/fuzz.py

# torch goes first, by its exact pin: a build of that version that is at hand locally (a CPU-only one) then serves.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "cosup needs Python 3.11 or later as '$(PYTHON)'; name another: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || { echo "creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing cosup and what it needs into $(VENV) (a few minutes the first time)"
	@$(PIP_INSTALL) $(TORCH)
	@$(PIP_INSTALL) -e '.[dev]'
	@touch $@
