# make reproduce   set up, run the study of config.yaml from data to report, say where the report is
#                  STUDY=desk-text: text-to-image on captioned emoji, which are fetched first
# make test        set up, run the whole test suite
# make test-unit   set up, run the tests of src/ alone: no workflow engine, no server
# make setup       a virtual environment in .venv with exactly the versions of requirements.lock and requirements-nodeps.txt
# make lint        formatting, lint, types, configuration
# make format      mend what lint can mend
# make lock        resolve requirements*.in anew
# make clean       remove .venv and caches; results stay
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

VENV ?= .venv
PYTHON ?= python3
# The study to run; empty: the one that config.yaml names.
STUDY ?=
BIN := $(VENV)/bin
# Named after what was installed, so that set-up is skipped exactly when it has been done.
INSTALLED := $(VENV)/installed-$(shell cat requirements.lock requirements-nodeps.txt requirements.in requirements-dev.in pyproject.toml | cksum | cut -d' ' -f1)
# Tests are many short processes; two of them at once fill two cores.
TEST_WORKERS ?= 2

.PHONY: help setup reproduce test test-unit lint format lock clean

help:
	@sed -n '/^SHELL/q; s/^# \{0,1\}//p' Makefile

setup: $(INSTALLED)

$(INSTALLED):
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "mudit needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -r requirements.lock
	$(BIN)/pip install --quiet --no-deps -r requirements-nodeps.txt
	$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m compileall -q src  # start-up is several times slower without bytecode
	rm -f $(VENV)/installed-*
	touch $@

reproduce: setup
	@if [ "$(STUDY)" = desk-text ]; then $(BIN)/mudit fetch emoji; fi
	@start=$$SECONDS; \
	$(BIN)/snakemake --cores all --nolock --quiet host reason $(if $(STUDY),--config study=$(STUDY)); \
	echo "The workflow took $$(( SECONDS - start )) seconds. Reports:"; \
	ls -1 results/*/report/report.html

PYTEST = env -u PYTHONDONTWRITEBYTECODE PATH="$(abspath $(BIN)):$$PATH" OMP_NUM_THREADS=1 $(BIN)/pytest -n $(TEST_WORKERS) --durations=25

test: setup
	$(PYTEST)

test-unit: setup
	$(PYTEST) tests/unit

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mudit config check

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock:
	bash containers/resolve-requirements

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
