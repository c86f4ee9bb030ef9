# The front door. Every target does its own set-up; a second run finds it done.
#
#   make test PYTHON=python3.13      another interpreter, in an environment of its own (.venv-python3.13)
#   make test ARGS="-k handshake"    further arguments for pytest
#   make bench ARGS="--quick"        further arguments for the benchmark

.DEFAULT_GOAL := help
SHELL := /bin/sh
.SHELLFLAGS := -eu -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PYTHON ?=
ARGS ?=
VENV := .venv$(if $(PYTHON),-$(notdir $(PYTHON)))
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp-setup
export UV_PROJECT_ENVIRONMENT := $(VENV)
export UV_PYTHON_DOWNLOADS := never

# What mypy checks beyond the shipped packages, which pyproject.toml names.
TYPED := conftest.py bench docs/generate $(sort $(dir $(wildcard examples/*/*.py)))
TYPED_TESTS := conftest.py tests sdk/python/tests $(sort $(wildcard plugins/*/tests))

.PHONY: help setup demo test test-interop lint fix docs fuzz bench

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(STAMP) ## make .venv with everything the lock file names; the command is .venv/bin/meshless
	@echo "ready: $(BIN)/meshless"

$(STAMP): uv.lock pyproject.toml $(wildcard plugins/*/pyproject.toml sdk/*/pyproject.toml) .ci/setup
	@sh .ci/setup "$(VENV)" $(PYTHON)
	@touch "$@"

demo: $(STAMP) ## a two-node mesh on this machine: shares, refusals, failover, identities, in a minute
	@"$(BIN)/python" examples/01-demo/demo.py $(ARGS)

test: $(STAMP) ## every test; with CI set, a skipped test is a failed one
	@"$(BIN)/pytest" -n auto --dist loadfile $(ARGS)

test-interop: $(STAMP) ## real programs over the mesh, unmodified; as root it installs those that are missing
	@sh .ci/install-programs .ci/interop-programs
	@"$(BIN)/pytest" -n auto --dist loadfile tests/interop $(ARGS)

lint: $(STAMP) ## ruff, mypy --strict, import contracts, lock file: all of them, whichever fails
	@failed=0; run() { echo "== $$1"; shift; "$$@" || failed=1; }; \
	run "ruff check" "$(BIN)/ruff" check .; \
	run "ruff format" "$(BIN)/ruff" format --check .; \
	run "mypy, what is shipped" "$(BIN)/mypy"; \
	run "mypy, tools and examples" "$(BIN)/mypy" $(TYPED); \
	run "mypy, tests" "$(BIN)/mypy" $(TYPED_TESTS); \
	run "import contracts" "$(BIN)/lint-imports" --no-logo; \
	run "lock file" "$(BIN)/uv" lock --check --python "$(BIN)/python"; \
	exit $$failed

fix: $(STAMP) ## format the code and repair what ruff can repair
	@"$(BIN)/ruff" check --fix-only .
	@"$(BIN)/ruff" format .

docs: $(STAMP) ## regenerate the reference pages, build the site strictly into site/, check every link and anchor
	@"$(BIN)/python" -m docs.generate
	@NO_MKDOCS_2_WARNING=1 "$(BIN)/mkdocs" build --strict    # with --quiet, strict sees no warning
	@"$(BIN)/python" -m docs.generate.links site

fuzz: $(STAMP) ## 10 million inputs over all client handshakes; takes a quarter of an hour
	@"$(BIN)/python" -m tests.protocol.fuzz_handshakes --count 10000000 --jobs 2 $(ARGS)

bench: $(STAMP) ## measure Meshless, direct sockets and the peers side by side; prints ratios
	@"$(BIN)/python" -m bench $(ARGS)
