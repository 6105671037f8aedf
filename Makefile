# One environment, .venv, made by the first target that needs it. `make` alone lists the targets.

# The first Python that fits; override with `make PYTHON=/path/to/python3.12 demo`.
FITS := import sys; sys.exit(not ((3, 11) <= sys.version_info[:2] <= (3, 13)))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	"$$p" -c '$(FITS)' >/dev/null 2>&1 && { echo "$$p"; break; }; done)

BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable
PYTEST := $(BIN)/python -m pytest
DATA ?= $(or $(COVIDSEG_DATA),../shared/data)

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow check bench bench-train clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "make %-10s %s\n", $$1, $$2 }'

demo: .venv/.installed-runtime ## a synthetic CT through the whole job, into demo-out/
	$(BIN)/covidseg demo -o demo-out

test: .venv/.installed-tests ## all tests but the slow ones; the skipped are listed with reasons
	$(PYTEST) -m "not slow" -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-slow: .venv/.installed-tests ## soak, memory, fuzz, accuracy and full-size runs
	$(PYTEST) -m slow

check: .venv/.installed-tests ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/.installed-tests ## measure speed and memory on $(DATA), into bench-out/
	$(BIN)/python Testing/benchmarks/bench_inference.py --data "$(DATA)" -o bench-out $(BENCH_OPTIONS)

bench-train: .venv/.installed-tests ## measure the speed of training, into bench-out/
	$(BIN)/python Testing/benchmarks/bench_training.py -o bench-out

clean: ## delete what the targets made, the environment included
	rm -rf .venv demo-out bench-out build dist *.egg-info

.venv/.created:
	@"$(or $(PYTHON),python3)" -c '$(FITS)' >/dev/null 2>&1 || { \
		echo "CovidSeg needs Python 3.11, 3.12 or 3.13; found: $$("$(or $(PYTHON),python3)" --version 2>&1 | head -n 1)." \
		"Install one and run: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	test -x $(BIN)/python || "$(PYTHON)" -m venv .venv
	touch $@

.venv/.installed-runtime: .venv/.created pyproject.toml constraints.txt
	$(INSTALL) '.[train,dicom]'
	touch $@

.venv/.installed-tests: .venv/.installed-runtime
	$(INSTALL) '.[train,dicom,slicer,cluster,dev]'
	touch $@
