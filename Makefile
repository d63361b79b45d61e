# The commands of this repository. Each sets up its tools in .venv; nothing outside the folder is changed.
#
#   make demo      trains a small GPT-2 in 3 stages and 3 processes, and compares with one process
#   make test      checks and tests everything
#   make quick     checks, and runs the tests that start no process and compile nothing, in two minutes
#   make docs      builds the site in build/site
#   make bench     measures the codec against others
#   make fuzz      gives the frame library hostile bytes for a minute (needs clang)
#   make sanitize  runs the tests of frames with a debug build under sanitizers
#   make gpu       builds for the torch of PYTHON and runs all that needs a GPU (a CUDA build of torch, nvcc)
#   make matrix    runs tests with other versions of Python, torch and transformers (PYTHONS="paths", gigabytes, an hour)
#   make wheel     builds the sdist, and a wheel for this Python, torch and manylinux, into dist/
#   make cuda-link builds against a CUDA build of torch, links and imports (needs nvcc, no GPU, 1.2 GB)
#   make format    formats all code

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FUZZ_SECONDS ?= 60
CUDA_TORCH ?= 2.14.1
SANITIZE := -fsanitize=address,undefined
PROCESSES := tests/distributed tests/pipelining tests/test_examples.py
FRAME_TESTS := $(addprefix tests/test_,frames.py codec.py golden_frames.py slots.py campaign.py describe.py memory.py types.py bugs.py tunnel.py)
export OMP_NUM_THREADS ?= 1
export DS_ACCELERATOR ?= cpu
export DS_BUILD_OPS := 0

CPP := $(wildcard $(foreach depth,* */* */*/*,$(foreach kind,cpp h cu,csrc/$(depth).$(kind))))
FORMATTED := $(CPP) $(wildcard tests/*/*.cpp tests/*/*.h)

.PHONY: setup demo test quick check native pytest processes others docs fuzz sanitize bench gpu matrix wheel cuda-link format clean

setup: $(VENV)/.built

$(VENV)/.installed: requirements/build.txt requirements/dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements/build.txt
	$(BIN)/python -m pip install --quiet --no-build-isolation -r requirements/dev.txt
	touch $@

$(VENV)/.built: $(VENV)/.installed setup.py pyproject.toml $(CPP)
	$(BIN)/python -m pip install --quiet --no-build-isolation --no-deps --editable .
	touch $@

demo: setup
	$(BIN)/pipecodec demo

# Tests of several processes beside all others: each alone leaves a core idle half of the time. Their reports come
# when they have ended, one after the other.
test: check native
	$(MAKE) --no-print-directory --output-sync=target -j2 processes others

quick: check
	$(BIN)/python -m pytest -m "not slow"

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy
	$(BIN)/stubtest pipecodec._C --mypy-config-file pyproject.toml --allowlist requirements/stubtest.txt
	$(BIN)/clang-format --dry-run --Werror $(FORMATTED)
	$(BIN)/python -m tests.words

native: setup
	$(BIN)/cmake -S . -B build/native -DPIPECODEC_SANITIZE=ON
	$(BIN)/cmake --build build/native --parallel 2
	$(BIN)/ctest --test-dir build/native --output-on-failure

pytest: setup
	$(BIN)/python -m pytest

processes: setup
	$(BIN)/python -m pytest $(PROCESSES)

others: setup
	$(BIN)/python -m pytest $(addprefix --ignore=,$(PROCESSES))

docs: setup
	$(BIN)/python -m sphinx -n -W --keep-going -q -b html docs build/site

fuzz: setup
	$(BIN)/cmake -S . -B build/fuzz -DPIPECODEC_FUZZ=ON -DCMAKE_CXX_COMPILER=clang++
	$(BIN)/cmake --build build/fuzz --parallel 2 --target frame_fuzz
	$(BIN)/python -m tests.seeds build/seeds
	mkdir -p build/corpus build/findings
	build/fuzz/frame_fuzz -max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=1024 -max_len=8192 \
		-print_final_stats=1 -artifact_prefix=build/findings/ build/corpus build/seeds

sanitize: setup
	PIPECODEC_DEBUG=1 LDFLAGS="$(SANITIZE)" \
		CFLAGS="$(SANITIZE) -fno-sanitize-recover=all -fno-omit-frame-pointer" \
		$(BIN)/python setup.py --quiet build --build-base build/asan --build-lib build/asan/lib
	LD_PRELOAD="$(foreach name,asan ubsan stdc++,$(shell $(CXX) -print-file-name=lib$(name).so))" \
		ASAN_OPTIONS=detect_leaks=0 PYTHONPATH=build/asan/lib:. \
		$(BIN)/pytest --import-mode=importlib -k "not test_memory_does_not_grow and not test_remembered_plans" $(FRAME_TESTS)

bench: setup
	$(BIN)/python -m benchmarks --json times.json --plot times.png

# With the packages of PYTHON, not those of .venv, whose torch is one for CPUs.
gpu:
	PIPECODEC_CUDA=1 $(PYTHON) -m pip install --quiet --no-build-isolation --no-deps --editable .
	PIPECODEC_REQUIRE_CUDA=1 $(PYTHON) -m pytest -m cuda
	DS_ACCELERATOR=cuda $(PYTHON) -m pipecodec demo --device cuda
	$(PYTHON) -m benchmarks.gpu

# Each cell in an environment of its own, with the interpreters that PYTHONS or the PATH has.
matrix: setup
	PYTHONS="$(PYTHONS)" $(BIN)/python -m tests.matrix --write

# The wheel is built from the sdist, so what is missing there is missed here.
wheel: setup
	$(BIN)/python -m pip install --quiet -r requirements/release.txt
	rm -rf build/wheel dist
	$(BIN)/python -m build --quiet --sdist --no-isolation
	PIPECODEC_BINARY=1 $(BIN)/python -m pip wheel --quiet --no-build-isolation --no-deps --wheel-dir build/wheel dist/*.tar.gz
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/auditwheel repair --exclude 'libtorch*.so' --exclude 'libc10*.so' \
		--wheel-dir dist build/wheel/*.whl
	$(BIN)/twine check --strict dist/*

# Beside .venv, whose pure-Python packages this torch needs too.
cuda-link: setup
	test -e build/cuda-link/site/torch || \
		$(BIN)/python -m pip install --quiet --no-deps --target build/cuda-link/site torch==$(CUDA_TORCH)
	$(BIN)/python -m tests.cuda.link build/cuda-link

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(FORMATTED)

clean:
	rm -rf $(VENV) build dist *.egg-info pipecodec/_build.py pipecodec/*.so
