# make demo   set up, then train, compress, verify and report a small model
# make test   set up, then linters, types and the whole test suite
# `make PYTHON=python3.12 ...` picks the interpreter of a new .venv.
.DEFAULT_GOAL := help
.PHONY: help setup demo test lint types pytest format build-files docs bench bench-quick peers clean
VENV := .venv
BIN := $(VENV)/bin
SETUP := $(VENV)/.set-up
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
  $$python -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
    2>/dev/null && echo $$python && break; done)
export TF_CPP_MIN_LOG_LEVEL ?= 3

help:
	@echo 'make demo          set up, then train, compress, verify and report a small model'
	@echo 'make test          set up, then linters, types and the whole test suite'
	@echo 'make lint types pytest   the parts of make test'
	@echo 'make docs          build the documentation into site/'
	@echo 'make bench-quick   every benchmark on small cases, into build/benchmarks (minutes)'
	@echo 'make bench         every benchmark, into docs/benchmarks (hours; goes on where it stopped)'
	@echo 'make peers         the environment of the peers that benchmarks compare with'
	@echo 'make format        format the code and sort the imports'
	@echo 'make build-files   write the BUILD files anew'
	@echo 'make clean         remove .venv and everything generated'

setup: $(SETUP)

# Runs again only when the dependencies change.
$(SETUP): pyproject.toml setup.py
	@test -n '$(PYTHON)' || { echo 'tfapprox needs Python 3.11, 3.12 or 3.13 with its venv module (Debian: apt-get install python3-venv)' >&2; exit 1; }
	test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --editable '.[experiments,datasets,tensorboard,report,serving,onnx,openvino,tfmot,completion,docs,dev]'
	@touch $@

demo: $(SETUP)
	$(BIN)/python -m experiments.digits_demo --output_dir=demo_output

test: lint types pytest

lint: $(SETUP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(SETUP)
	$(BIN)/mypy

# A process for each core; threads of BLAS beside them would only wait for each other.
pytest: $(SETUP)
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

docs: $(SETUP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

format: $(SETUP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

build-files: $(SETUP)
	$(BIN)/python -m tools.build_files

bench: $(SETUP)
	$(BIN)/python -m benchmarks.suite

bench-quick: $(SETUP)
	$(BIN)/python -m benchmarks.suite --quick --fresh

peers: $(SETUP)
	$(BIN)/python -m benchmarks.peers.environment

clean:
	rm -rf $(VENV) build dist site *.egg-info demo_output .pytest_cache .mypy_cache .ruff_cache .hypothesis
