# `make demo` and `make test` set up what they need in .venv; nothing is installed elsewhere.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.dev-installed
WORKERS ?= 2
CHAIRS ?= ../shared/data/modelnet10/chair_1024.hdf5
SOURCES := setup.py pyproject.toml $(wildcard pcdiff/ops/csrc/*.* pcdiff/ops/csrc/cuda/*.*)

.PHONY: help setup demo chairs paper test test-all test-isa test-golden lint coverage bench sanitize fuzz clean

help:
	@echo "make demo    train, sample and score airplanes on this machine, within 7 minutes on two slow cores"
	@echo "make test    the test suite in WORKERS=2 processes, linters first"
	@echo "make test-all  those that take minutes too: every CUDA kernel compiled, ten kills, trainings compiled"
	@echo "make test-isa  golden, op and metric tests once more for each instruction set this machine has"
	@echo "make test-golden  the golden tests on a second set of other settings, made on the spot"
	@echo "make chairs  train 40 minutes on real chairs (CHAIRS=file.hdf5), score on the test split"
	@echo "make paper   the paper's generator from data to test scores, unattended (PAPER_DATA=file.hdf5 PAPER_CATEGORY=airplane GPUS=1)"
	@echo "make lint    style, formatting and types (ruff, mypy)"
	@echo "make coverage  the test suite once more, with a table of the lines and branches that no test runs"
	@echo "make bench   time the ops, the scores, the sampling and the training step against their baselines"
	@echo "make sanitize  the CPU ops under the address and undefined-behavior sanitizers, seven minutes"
	@echo "make fuzz    mutated files through every reader (FUZZ=1000 each, SEED=2020); only clean errors may come"
	@echo "make clean   remove build outputs and the virtual environment"

setup: $(DEV_STAMP)

# torch first and alone, so that no other package decides which torch comes. -qq leaves pip's errors, and keeps its
# warnings from hiding what is said here.
PIP = $(BIN)/python -m pip install -qq
$(STAMP): $(SOURCES)
	@echo "== set up $(VENV): torch, pcdiff and its compiled ops (one to three minutes, once)"
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or newer is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 10) else 0)'
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) torch==2.13.0
	@$(PIP) "setuptools>=77" wheel numpy
	@$(PIP) --no-build-isolation -e .
	@$(BIN)/python -c 'import pcdiff.ops; print("ops backend:", pcdiff.ops.backend())'
	@touch $@

$(DEV_STAMP): $(STAMP)
	@echo "== set up what the tests need beside (half a minute, once)"
	@$(PIP) --no-build-isolation -e '.[dev]'
	@touch $@

DEMO_MINUTES ?= 3.5
demo: $(STAMP)
	@rm -rf runs/demo
	@echo "== train a generator of airplanes on built-in stand-in shapes, and draw samples: $(DEMO_MINUTES) minutes"
	@$(BIN)/python train_gen.py --categories airplane --preset demo --budget-minutes $(DEMO_MINUTES) --out runs/demo
	@echo "== score 32 new samples against shapes it has not seen: half a minute"
	@$(BIN)/python evaluate.py --run runs/demo --preset quick --num-samples 32
	@echo "== done; look at runs/demo/samples.png: training shapes in the first row, generated ones below"

# The run of docs/results.md: 40 minutes on two cores, on real chairs where they are at hand.
chairs: $(STAMP)
	rm -rf runs/chairs
	$(BIN)/python train_gen.py --dataset-path $(CHAIRS) --categories chair --preset cpu --max-minutes 40 --out runs/chairs
	$(BIN)/python evaluate.py --run runs/chairs

# The paper's generator, a GPU's work of days: called again after a stop, it goes on where it was.
PAPER_DATA ?= data/shapenet.hdf5
PAPER_CATEGORY ?= airplane
GPUS ?= 1
PAPER_RUN = runs/paper-$(PAPER_CATEGORY)
LAUNCH = $(BIN)/python $(if $(filter-out 1,$(GPUS)),-m torch.distributed.run --standalone --nproc-per-node=$(GPUS))
paper: $(STAMP)
	@test -e "$(PAPER_DATA)" || { echo "PAPER_DATA=$(PAPER_DATA): no such data set; give shapenet.hdf5 or a ShapeNetCore.v2.PC15k folder" >&2; exit 1; }
	$(LAUNCH) train_gen.py --dataset-path $(PAPER_DATA) $(if $(wildcard $(PAPER_RUN)/config.json),--resume $(PAPER_RUN),--preset paper --categories $(PAPER_CATEGORY) --out $(PAPER_RUN))
	$(BIN)/python evaluate.py --run $(PAPER_RUN) --dataset-path $(PAPER_DATA)

lint: $(DEV_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Bytecode is kept, whatever the shell says: tests start many processes.
PYTEST = PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=loadfile \
	--no-loadscope-reorder
test: lint
	$(PYTEST) -m "not slow"

test-all: lint
	$(PYTEST)

# Several times as slow as `make test`: every line is counted, in child processes too.
coverage: $(DEV_STAMP)
	$(BIN)/python -m coverage erase
	$(PYTEST) -m "not slow" --cov --cov-report=term

# Golden, op and metric tests under every instruction set that the machine has, whatever it would choose itself.
test-isa: $(DEV_STAMP)
	PYTHONPATH=. $(BIN)/python tests/isa.py --workers $(WORKERS)

# The golden tests on a set of other settings: one that knows a setting instead of reading it fails.
test-golden: $(DEV_STAMP)
	rm -rf build/golden
	PYTHONPATH=. $(BIN)/python tests/golden_sets.py build/golden
	PCDIFF_GOLDEN=$(abspath build/golden) $(PYTEST) -m golden

bench: $(DEV_STAMP)
	$(BIN)/python benchmarks/ops.py
	PYTHONPATH=. $(BIN)/python benchmarks/metrics.py --only cd emd emd-large
	$(BIN)/python benchmarks/sampling.py
	$(BIN)/python benchmarks/training.py

# 20,000 files a reader take hours; a finding's file: python tests/fuzz --readers NAME --case NUMBER --seed SEED
FUZZ ?= 1000
SEED ?= 2020
fuzz: $(DEV_STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz --per-reader $(FUZZ) --seed $(SEED)

clean:
	rm -rf $(VENV) build *.egg-info pcdiff/ops/*.so

# The CPU kernels, and the bodies of the CUDA kernels, under the address and undefined-behavior sanitizers, in a copy
# of the tree. Torch itself is not instrumented, hence no leak check; the interpreter must load the sanitizer first.
SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
sanitize: $(DEV_STAMP)
	rm -rf build/sanitize
	mkdir -p build/sanitize/tests
	cp -r setup.py pyproject.toml README.md LICENSE pcdiff data build/sanitize
	cp -r tests/conftest.py tests/nursery.py tests/script_tools.py tests/ops build/sanitize/tests
	find build/sanitize -name '*.so' -delete
	cd build/sanitize && PCDIFF_BUILD=cpu CXXFLAGS="$(SANITIZE)" LDFLAGS="$(SANITIZE)" $(abspath $(BIN))/python setup.py -q build_ext --inplace
	nm -D build/sanitize/pcdiff/ops/_C*.so | grep -q __asan_report || { echo "the build is not instrumented"; exit 1; }
	cd build/sanitize && PYTHONPATH=. LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
		ASAN_OPTIONS=detect_leaks=0 PCDIFF_HOST_FLAGS="$(SANITIZE)" PCDIFF_GOLDEN=$${PCDIFF_GOLDEN:-$(abspath ../shared/golden)} \
		OMP_NUM_THREADS=2 $(abspath $(BIN))/python -m pytest -q -p no:cacheprovider tests/ops \
		--ignore tests/ops/test_cuda_compile.py
