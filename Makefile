# Nothing needs setting up first: `make demo` and `make test` each make .venv where it is missing.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
NEWEST := .venv-newest
EXTRAS = $(shell $(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"], sep=",")')
TORCH ?= $(shell sed -n 's/^torch==//p' constraints.txt)
PIP_INSTALL := pip install -q --disable-pip-version-check
NEWEST_TESTS ?= tests/models tests/encoders tests/training tests/test_hero_cot.py
TEST_ENV := HF_HUB_OFFLINE=1 WANDB_MODE=offline OMP_NUM_THREADS=1

.PHONY: help demo test slow check lock newest clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1: /p' Makefile

# A changed pyproject.toml or lock installs again.
$(BIN)/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/$(PIP_INSTALL) -c constraints.txt -e ".[face,dev]"
	touch $@

demo: $(BIN)/ready  ## make a corpus, train, test, print the table
	$(BIN)/python -m hero_lightning.train

test: $(BIN)/ready  ## the tests, without those marked slow, gpu or slurm
	$(TEST_ENV) $(BIN)/python -m pytest -n 2

slow: $(BIN)/ready  ## the tests marked slow
	$(TEST_ENV) $(BIN)/python -m pytest -n 2 -m slow

check: $(BIN)/ready  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# freeze, less pip, this project, what only CUDA builds of torch bring, and the build's suffix (+cpu, +cu130)
define FREEZE
freeze --all --exclude pip --exclude wheel --exclude-editable | grep -Evi '^(nvidia-|cuda-|triton==)' \
  | sed 's/+[a-z0-9.]*$$//' | LC_ALL=C sort -f
endef

# The lock's own comment lines stay; the Python named there becomes this one.
lock:  ## write constraints.txt anew: the newest versions that pyproject.toml admits, torch as it is
	set -e; dir=$$(mktemp -d); trap 'rm -rf "$$dir"' EXIT; \
	$(PYTHON) -m venv "$$dir/env"; \
	"$$dir"/env/bin/$(PIP_INSTALL) "torch==$(TORCH)" -e ".[$(EXTRAS)]"; \
	"$$dir"/env/bin/pip check; \
	python=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	sed -n "s/Python 3[.0-9]*[0-9]/Python $$python/; /^#/p" constraints.txt > "$$dir/lock"; \
	"$$dir"/env/bin/pip $(FREEZE) >> "$$dir/lock"; \
	grep -q "^torch==" "$$dir/lock"; \
	cp "$$dir/lock" constraints.txt

newest:  ## the newest versions that pyproject.toml admits, torch as it is: what differs from the lock, then the tests nearest to it
	$(PYTHON) -m venv --clear $(NEWEST)
	echo '*' > $(NEWEST)/.gitignore
	$(NEWEST)/bin/$(PIP_INSTALL) "torch==$(TORCH)" -e ".[face,dev]"
	@echo "newer than the lock:"; $(NEWEST)/bin/pip $(FREEZE) | grep -vxFf constraints.txt || echo "nothing"
	$(TEST_ENV) $(NEWEST)/bin/python -m pytest -n 2 $(NEWEST_TESTS)

clean:  ## remove the environments and caches
	rm -rf $(VENV) $(NEWEST) build dist .pytest_cache .mypy_cache .ruff_cache
