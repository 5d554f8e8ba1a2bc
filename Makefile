# `make demo` and `make test` set up what they need in .venv; nothing is installed elsewhere.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CHAIRS ?= ../shared/data/modelnet10/chair_1024.hdf5
SOURCES := setup.py pyproject.toml $(wildcard pcdiff/ops/csrc/*)

.PHONY: help setup demo chairs test lint bench clean

help:
	@echo "make demo    train, sample and score airplanes on this machine, within 10 minutes on two cores"
	@echo "make test    the whole test suite, linters first"
	@echo "make chairs  train 40 minutes on real chairs (CHAIRS=file.hdf5), score on the test split"
	@echo "make bench   time the ops against their baselines"
	@echo "make clean   remove build outputs and the virtual environment"

setup: $(STAMP)

# torch first and alone, so that no other package decides which torch comes.
$(STAMP): $(SOURCES)
	$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or newer is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet "setuptools>=77" wheel numpy
	$(BIN)/python -m pip install --quiet --no-build-isolation -e '.[dev]'
	$(BIN)/python -c 'import pcdiff.ops; print("ops backend:", pcdiff.ops.backend())'
	@touch $@

demo: $(STAMP)
	rm -rf runs/demo
	$(BIN)/python train_gen.py --categories airplane --preset quick --max-minutes 5 --out runs/demo
	$(BIN)/python evaluate.py --run runs/demo --preset quick --num-samples 32
	@echo "look at runs/demo/samples.png"

# The run of docs/results.md: 40 minutes on two cores, on real chairs where they are at hand.
chairs: $(STAMP)
	rm -rf runs/chairs
	$(BIN)/python train_gen.py --dataset-path $(CHAIRS) --categories chair --preset cpu --max-minutes 40 --out runs/chairs
	$(BIN)/python evaluate.py --run runs/chairs

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test: lint
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-2} $(BIN)/python -m pytest

bench: $(STAMP)
	$(BIN)/python benchmarks/chamfer.py
	$(BIN)/python benchmarks/training.py

clean:
	rm -rf $(VENV) build *.egg-info pcdiff/ops/*.so
