# `make` lists what there is. Each step is ordinary; without make: python3 -m venv .venv && .venv/bin/pip install -e '.[dev]'
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.installed
# A machine without RabbitMQ, and no way to install it, is one line.
PROVIDE := $(BIN)/python -c 'import sys; from amqp_rpc import broker; \
	sys.excepthook = lambda kind, error, trace: print(f"error: {error}", file=sys.stderr); broker.provide()'

# The tests start hundreds of programs, each of which would compile the package again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast lint types audit check shape bench fuzz chaos chaos-tasks broker-start broker-stop clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY)  ## make .venv with the package and its tools

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than Python 3.11, or missing; say which one: make PYTHON=python3.12 …" >&2; exit 1; }
	@echo "setting up .venv (pip install -e '.[dev]') …" >&2
	@$(PYTHON) -m venv .venv 2>/dev/null || { rm -rf .venv; scripts/install-venv.sh && $(PYTHON) -m venv .venv; }
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: $(READY)  ## start a broker if there is none, serve fib, call it, stop all again
	@BIN=$(BIN) scripts/demo.sh

test: $(READY)  ## run all tests on a real RabbitMQ, installed where there is none
	@test -n "$$AMQP_RPC_TEST_URL$$AMQP_RPC_TEST_RABBITMQ" || \
		$(PROVIDE)
	@scripts/test-tools.sh amqp-publish=amqp-tools redis-server=redis-server
	@echo "running the tests (pytest) …" >&2
	@$(BIN)/python -m pytest -n 4 --dist worksteal $(ARGS)

test-fast: $(READY)  ## run the tests that need no RabbitMQ, no Redis and no long time (less than a minute)
	@$(BIN)/python -m pytest -n auto --dist worksteal -m 'not rabbitmq and not redis and not slow' $(ARGS)

lint: $(READY)  ## check the style (ruff)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(READY)  ## check the types (mypy --strict)
	@$(BIN)/mypy

audit: $(READY)  ## ask for known vulnerabilities in what the package needs (pip-audit)
	@$(BIN)/python -m scripts.audit

check: lint types test  ## lint, types and test

shape: $(READY)  ## print the package in figures: modules, lines, imports, prose
	@$(BIN)/python -m scripts.shape

bench: $(READY)  ## measure the speed, beside peers and a floor in C (about 26 minutes)
	@$(PROVIDE)
	@$(BIN)/python -m benchmarks $(ARGS)

fuzz: $(READY)  ## read ten million inputs that nobody would write (about 20 minutes of one processor)
	@$(BIN)/python -m fuzz $(ARGS)

chaos: $(READY)  ## break everything under load, and count what went wrong (about 10 minutes)
	@$(BIN)/python -m chaos $(ARGS)

chaos-tasks: $(READY)  ## the same for 100 000 tasks and 10 000 events, each execution recorded outside (about 17 minutes)
	@$(BIN)/python -m chaos.tasks $(ARGS)

broker-start: $(READY)  ## start a throwaway RabbitMQ in the background
	@$(BIN)/amqp-rpc broker start --install

broker-stop: $(READY)  ## stop it
	@$(BIN)/amqp-rpc broker stop

clean:  ## remove what the other targets made
	@rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
