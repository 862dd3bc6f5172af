# `make bench`, `make test` and `make docs` do all set-up: they need Python >= 3.10, git and make, and nothing else.
# `make gpu-check` sets nothing up: it runs in the Python that is there, PYTHON=... or the first python3 >= 3.10, with its packages.

VENV ?= .venv
PROFILE ?= quick
REPORT ?= reports/latest
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python3.10 python; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && { command -v $$p; break; }; done)
GPU_PYTHON = $(if $(filter file,$(origin PYTHON)),$(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python3.10 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && { command -v $$p; break; }; done),$(PYTHON))
GPU_CHECK ?=
BIN := $(VENV)/bin
READY := $(VENV)/.installed

.PHONY: bench gpu-check site test docs lint clean

bench: $(READY)
	$(BIN)/tconv-bench run --profile $(PROFILE)
	$(BIN)/tconv-bench report --profile $(PROFILE) --output $(REPORT)

gpu-check:
	@test -n "$(GPU_PYTHON)" || { echo "make: no Python >= 3.10 found; install one, or name it: make gpu-check PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(GPU_PYTHON)" tconv_bench/gpu_check/preflight.py $(GPU_CHECK)

site: $(READY)
	$(BIN)/tconv-bench site

test: $(READY)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

docs: $(VENV)/.installed-docs
	$(BIN)/sphinx-build --nitpicky --fail-on-warning --keep-going --quiet docs docs/_build/html
	@echo "built docs/_build/html/index.html"

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

$(READY): pyproject.toml
	@test -n "$(PYTHON)" || { echo "make: no Python >= 3.10 with venv found; install one, or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "setting up $(VENV) with $(PYTHON) (once)"
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench,test]'
	@touch $@

$(VENV)/.installed-dev: $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

$(VENV)/.installed-docs: $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	@touch $@

clean:
	rm -rf $(VENV) .asv build docs/_build docs/gallery *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
