# Landfall. `make help` lists what there is.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

PROXY_VERSION := 5.3.0

# Started as root, the demo and the tests run jobs as other users, who must be able to read the
# environment and its interpreter: both lie outside root's home then.
ifeq ($(shell id -u),0)
VENV ?= /var/cache/landfall/$(shell printf %s "$(CURDIR)" | sha256sum | cut -c1-12)/venv
SYNC_FLAGS := --no-editable --reinstall-package landfall-gateway
else
VENV ?= .venv
SYNC_FLAGS :=
endif
PYTHON ?= $(shell scripts/find-python)
UV := $(shell command -v uv 2>/dev/null || echo .cache/uv/bin/uv)
UV_RUN := UV_PROJECT_ENVIRONMENT=$(VENV) $(UV)
BIN := $(VENV)/bin
export PATH := $(abspath $(BIN)):$(PATH)

PORT ?= 8000

.PHONY: help demo smoke test test-setup lint types docs testbed-up testbed-down env dev-env clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

demo: env ## run everything with an embedded cluster, until Ctrl-C (PORT=8000)
	@cd / && exec $(abspath $(BIN))/gateway up --rehearsal --port $(PORT)

smoke: env ## the demo, unattended: sign in, submit, run 6*7, stop
	@$(BIN)/python -m tests.smoke

test: dev-env ## everything that this machine can run; with CI=true nothing may be left out
	@tests/run

test-setup: ## install what the tests need (root, Debian)
	@tests/testbed/setup.sh

lint: dev-env ## style, layers, file sizes, shell scripts
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/lint-imports
	@tests/check-sizes
	@if command -v shellcheck >/dev/null; then shellcheck scripts/* tests/check-sizes tests/testbed/setup.sh .ci/run; fi

types: dev-env ## mypy --strict
	@$(BIN)/mypy

docs: dev-env ## build the documentation into docs/_build
	@$(UV_RUN) sync --frozen --quiet --python $(PYTHON) $(SYNC_FLAGS) --extra notebook --extra proxy --group docs
	@$(BIN)/sphinx-build -n -W -q docs docs/_build

testbed-up: dev-env ## bring up real Slurm, sshd and Lmod in network namespaces (root)
	@$(BIN)/python -m tests.testbed up

testbed-down: dev-env ## take the test bed down
	@$(BIN)/python -m tests.testbed down

clean: ## remove environments and caches of this checkout
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache docs/_build $(VENV)

env: $(UV) ## make the environment (also done by the others)
	@scripts/make-env "$(VENV)" "$(PYTHON)" "$(UV)" "$(PROXY_VERSION)" --no-default-groups $(SYNC_FLAGS) --extra notebook --extra proxy

dev-env: $(UV)
	@scripts/make-env "$(VENV)" "$(PYTHON)" "$(UV)" "$(PROXY_VERSION)" $(SYNC_FLAGS) --extra notebook --extra proxy

.cache/uv/bin/uv:
	@scripts/get-uv .cache/uv
