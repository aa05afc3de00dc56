# make demo · make test · make check · make bench · make gpu-check; each sets up .venv when needed.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
# Without a GPU the CUDA library could not be loaded: spare its build. `make check` compiles it.
CLFAST_CUDA ?= $(if $(shell command -v nvidia-smi),auto,0)
export CLFAST_CUDA
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

FAMILY ?= retrieval,adaptation,recall,consolidation,masks,optimizers,exemplars
OUT ?= gpu-check
PROCESSES ?= 5

.PHONY: help demo test test-slow test-avalanche check sanitize lint bench ops-bench other-bench \
        bench-avalanche gpu-check wheel clean
help:
	@echo "make demo       online adaptation on images: Parametric, Mixture, MbPA, Hebb (a minute)"
	@echo "make test       build and run the tests"
	@echo "make test-slow  those that take long"
	@echo "make test-avalanche, make bench-avalanche"
	@echo "                with Avalanche, which .venv-avalanche is made for"
	@echo "make check      lint, types, format, symbols, SIMD levels, CUDA build, sanitized emulator"
	@echo "make sanitize   all kernel tests under sanitizers: run it when a kernel changes"
	@echo "make bench      all benchmarks: of ops (make ops-bench) and of what is made of them (make"
	@echo "                other-bench); tables into README.md and docs/performance.md, plots into"
	@echo "                benchmarks/results/"
	@echo "make gpu-check  build, test, sanitize and measure on an NVIDIA GPU; FAMILY= OUT="
	@echo "make wheel      a wheel into dist/"
	@echo "make clean      remove .venv, .venv-avalanche, builds and wheels; runs/ and results stay"

demo: $(VENV)/.built
	@clfast demo

test: $(VENV)/.built
	@# Threads that wait do not keep a core from another worker's.
	# The emulator's turn is in `make check`, under sanitizers.
	OMP_WAIT_POLICY=passive python -m pytest -q -m "not cuda and not slow" -n auto \
	  --dist worksteal --benchmark-disable --ignore-glob='tests/kernels/test_cuda_*'

test-slow: $(VENV)/.built
	@OMP_WAIT_POLICY=passive python -m pytest -q -m "slow and not cuda" -n auto --benchmark-disable tests

# Avalanche brings much with it, so it has an environment of its own, with the versions of
# requirements.txt; clfast is the one of this tree, as it was built for $(VENV).
AVALANCHE := .venv-avalanche
IN_AVALANCHE := PYTHONPATH=$(CURDIR) OMP_WAIT_POLICY=passive $(AVALANCHE)/bin/python

test-avalanche: $(AVALANCHE)/.installed $(VENV)/.built
	@$(IN_AVALANCHE) -m pytest -q -n auto --dist worksteal --benchmark-disable --disable-warnings \
	  tests/integrations/avalanche

bench-avalanche: $(AVALANCHE)/.installed $(VENV)/.built
	@$(IN_AVALANCHE) -W ignore -m benchmarks.avalanche --out $(RESULTS)/avalanche.json

# torchvision asks for a torch with CUDA where it finds none.
$(AVALANCHE)/.installed: requirements.txt | $(VENV)/.built
	@$(PYTHON) -m venv --clear $(AVALANCHE)
	echo "clfast: installing Avalanche into $(AVALANCHE) (minutes)"
	install="$(AVALANCHE)/bin/python -m pip install --quiet --disable-pip-version-check"
	$$install -c requirements.txt torch numpy safetensors rich click scikit-learn \
	  pytest pytest-xdist pytest-benchmark
	$$install --no-deps torchvision==0.28.0
	$$install -c requirements.txt avalanche-lib==0.6.0 quadprog==0.1.14
	packages=$$($(AVALANCHE)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
	cp -r $(VENV)/lib/python*/site-packages/clfast-*.dist-info "$$packages"
	touch $@

lint: $(VENV)/.built
	@ruff check .
	ruff format --check .
	mypy
	files=$$(git ls-files '*.h' '*.cpp' '*.cu' '*.cuh')
	clang-format --dry-run -Werror $$files

check: lint
	@python tools/check_cuda_build.py
	libraries=clfast/_C.so
	if [ -e build/cuda/_C_cuda.so ]; then libraries+=" build/cuda/_C_cuda.so"; fi
	python tools/check_objects.py build/editable $$libraries
	PYTHON=$(CURDIR)/$(PY) tests/kernels/run_sanitized.sh --ignore-glob='tests/kernels/test_cpu_*'

# With the CPU kernels, at all SIMD levels, which takes minutes more.
sanitize: $(VENV)/.built
	@PYTHON=$(CURDIR)/$(PY) tests/kernels/run_sanitized.sh

RUN := python -m benchmarks.run --unless-done --processes $(PROCESSES)
REPORT := python -m benchmarks.report
RESULTS := benchmarks/results
# Of those that were measured, in this order.
PERFORMANCE = $(wildcard $(addprefix $(RESULTS)/,$(addsuffix .json, \
  online observe chains iteration unrolled loops masks exemplars calls index avx2 scaling)))

bench: ops-bench other-bench

ops-bench: $(VENV)/.built
	@$(RUN) --family retrieval,adaptation --out $(RESULTS)/cpu.json
	$(RUN) --family recall,consolidation --out $(RESULTS)/recall.json
	$(RUN) --family masks,optimizers --out $(RESULTS)/masks.json
	$(RUN) --family exemplars --out $(RESULTS)/exemplars.json
	$(REPORT) $(RESULTS)/{cpu,recall}.json --readme README.md
	$(REPORT) $(PERFORMANCE) --readme docs/performance.md

# A run that was stopped goes on where it was, and one that is whole is not made again.
other-bench: $(VENV)/.built
	@$(RUN) --family online --out $(RESULTS)/online.json
	$(RUN) --family observe --only ARM --out $(RESULTS)/observe.json
	$(RUN) --family observe --only DGM --out $(RESULTS)/iteration.json
	$(RUN) --family observe --only unrolled --out $(RESULTS)/unrolled.json
	$(RUN) --family observe --only LinearChains --out $(RESULTS)/chains.json
	$(RUN) --family importance,plugins,replay --out $(RESULTS)/loops.json
	$(RUN) --family calls --out $(RESULTS)/calls.json
	$(RUN) --family index --out $(RESULTS)/index.json
	$(RUN) --family retrieval --only "knn B=100 " --avx2 --out $(RESULTS)/avx2.json
	$(RUN) --family scaling --out $(RESULTS)/scaling.json
	$(REPORT) $(PERFORMANCE) --readme docs/performance.md

# Uses the Python that is there, with its torch: a GPU machine may have no network.
gpu-check:
	@PATH="$${PATH#$(CURDIR)/$(VENV)/bin:}"
	$(PYTHON) -m benchmarks.gpu_check --family $(FAMILY) --out $(OUT)

wheel: $(VENV)/.installed
	@pip wheel --no-build-isolation --no-deps -w dist .

clean:
	rm -rf $(VENV) $(AVALANCHE) build dist clfast/_C.so clfast/_C_cuda.so *.egg-info

$(VENV)/.installed: requirements.txt
	@say() { echo "clfast: $$1" >&2; exit 1; }
	command -v $(PYTHON) >/dev/null || say "$(PYTHON) is missing: apt-get install python3 python3-venv"
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || say "Python 3.10 or newer is needed; name one with PYTHON="
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || say "Python's venv module is missing: apt-get install python3-venv"
	command -v g++ >/dev/null || say "g++ is missing: apt-get install g++"
	$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	echo "clfast: installing what requirements.txt names into $(VENV) (torch takes minutes)"
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

# CMake decides what to compile again; this only has to notice that something changed.
$(VENV)/.built: $(VENV)/.installed pyproject.toml setup.py CMakeLists.txt \
                $(shell find csrc -type f 2>/dev/null)
	@echo "clfast: building"
	$(PY) -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	touch $@
