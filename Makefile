# Darkroom. `make help` lists the targets; each sets up what it needs.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Set-up, demo and tests follow each other in one environment, also under `make -j`.
.NOTPARALLEL:

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.darkroom-stamp
# More arguments for the tool behind a target: make bench ARGS="--help", make unit ARGS="-k storage".
ARGS ?=
# Large wheels come slowly over some lines; uv gives up after 30 seconds of silence by default.
export UV_HTTP_TIMEOUT ?= 300
# The interpreter to start from; without it the first of the usual names that works is taken.
PYTHON ?=

# Asks each interpreter itself: a name on the PATH may be a shim that fails, and `python3` may be any version.
define FIND_PYTHON
for python in $(PYTHON) python3.12 python3.11 python3 python; do \
	if "$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then \
		found=$$python; break; \
	fi; \
done; \
if [ -z "$${found:-}" ]; then \
	echo "make setup: Darkroom needs Python 3.11 or 3.12 and found neither." >&2; \
	echo "On Debian: apt-get install python3 python3-venv. Elsewhere: make setup PYTHON=/path/to/python3.12" >&2; \
	exit 1; \
fi
endef

# Debian keeps `venv`'s installer in a package of its own, named for the version.
define NEED_ENSUREPIP
if ! "$$found" -c 'import ensurepip' 2>/dev/null; then \
	package=$$("$$found" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "make setup: this Python cannot make environments; installing $$package with apt-get"; \
		apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$$package"; \
	fi; \
	if ! "$$found" -c 'import ensurepip' 2>/dev/null; then \
		echo "make setup: $$found cannot make virtual environments." >&2; \
		echo "Install $$package (on Debian: sudo apt-get install $$package) and run make again." >&2; \
		exit 1; \
	fi; \
fi
endef

# What reads the texts of bridge_evaluate; pip has no such wheel. Without it, setup goes on: only that suite needs it.
OCR := tesseract-ocr tesseract-ocr-deu tesseract-ocr-fra tesseract-ocr-chi-sim fonts-wqy-microhei
define WANT_OCR
if ! command -v tesseract >/dev/null; then \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "make setup: installing $(OCR) with apt-get"; \
		apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $(OCR); \
	fi; \
	command -v tesseract >/dev/null || echo "make setup: there is no tesseract, which bridge_evaluate's texts and" \
		"their tests need. On Debian: sudo apt-get install $(OCR)" >&2; \
fi
endef

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(STAMP) ## .venv with the pinned requirements and this project

# The stamp is written last, so an interrupted run starts again.
$(STAMP): requirements-dev.txt pyproject.toml
	@set -e; \
	if ! $(BIN)/python -c 'import pip, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then \
		$(FIND_PYTHON); \
		$(NEED_ENSUREPIP); \
		echo "make setup: $(VENV) from $$("$$found" -V)"; \
		"$$found" -m venv --clear $(VENV); \
	fi
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^uv==' requirements-dev.txt)"
	$(BIN)/uv pip install --python $(BIN)/python -r requirements-dev.txt
	$(BIN)/uv pip install --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@$(WANT_OCR)
	@touch $@

.PHONY: demo
demo: $(STAMP) ## edit a shipped photo through the local endpoint and print where the picture is
	$(BIN)/python examples/demo.py $(ARGS)

.PHONY: test
test: lint types unit ## everything that must hold: lint, types, tests

.PHONY: lint
lint: $(STAMP) ## ruff
	$(BIN)/ruff check .

.PHONY: types
types: $(STAMP) ## mypy in strict mode
	$(BIN)/mypy

# Two processes with one thread each suit two cores: tests of one file stay together, for what they share is slow to make.
WORKERS ?= 2

.PHONY: unit
unit: $(STAMP) ## pytest; warnings are errors
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile $(ARGS)

.PHONY: endpoint
endpoint: $(STAMP) ## a RunPod endpoint and its playground on 127.0.0.1:8000
	$(BIN)/darkroom endpoint --host 127.0.0.1 --port 8000 $(ARGS)

.PHONY: bench
bench: $(STAMP) ## engine, levers, latency and cost on this machine's CPU
	$(BIN)/darkroom bench --engine --out bench/results/cpu $(ARGS)
	$(BIN)/python -m darkroom.bench.page

.PHONY: bench-gpu
bench-gpu: $(STAMP) ## the full-size architecture with random weights on one NVIDIA GPU, in under 8 minutes
	$(BIN)/python -m darkroom.bench.gpu --out bench/results/gpu $(ARGS)
	$(BIN)/python -m darkroom.bench.page

# Pins stay as they are unless pyproject.toml rules them out; make requirements ARGS=--upgrade moves all.
COMPILE := $(BIN)/uv pip compile --universal --python-version 3.11 --no-header --no-annotate --quiet

.PHONY: requirements
requirements: $(STAMP) ## pin requirements.txt and requirements-dev.txt anew from pyproject.toml
	$(COMPILE) $(ARGS) pyproject.toml --output-file requirements.txt
	$(COMPILE) $(ARGS) pyproject.toml --extra dev --constraints requirements.txt --output-file requirements-dev.txt

.PHONY: clean
clean: ## remove caches; .venv and results stay
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build
