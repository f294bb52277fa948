# The one place for everyday commands: `make` lists them.

PYTHON ?= python3
PORT   ?= 50051
DB     ?= callboard.db
KILLS  ?= 300
# More words for pytest, such as ARGS="-k watch -x".
ARGS   ?=

GRPCURL_VERSION := 1.9.4
BIN := .venv/bin

# A task may hold quotes, spaces and dollar signs: it travels in the environment, never in a command line.
unexport TASK DIR
run: export CALLBOARD_TASK = $(value TASK)
run: export CALLBOARD_DIR = $(value DIR)

.DEFAULT_GOAL := help
.PHONY: help run demo-supervisor demo-two-assistants serve test tools polyglot lint format type protos drift contract check crash bench clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-19s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

run: .venv/.server ## Watch a story: TASK="what to do" DIR=folder CALLBOARD_MODEL=provider:model
	@$(BIN)/python examples/story.py \
		$${CALLBOARD_TASK:+--task="$$CALLBOARD_TASK"} $${CALLBOARD_DIR:+--dir="$$CALLBOARD_DIR"}

demo-supervisor: .venv/.server ## Watch two supervisors, one outside of the server
	@$(BIN)/python examples/supervisor.py

demo-two-assistants: .venv/.server ## Watch two assistants on one thread, each of a provider
	@$(BIN)/python examples/two_assistants.py

serve: .venv/.server ## Start a server with the example agents: PORT=50051 DB=callboard.db
	@$(BIN)/callboard serve --config examples/callboard.toml --port "$(PORT)" --db "$(DB)"

test: .venv/.dev tools polyglot ## Run the tests: ARGS="-k watch -x" goes to pytest
	@PATH="$(CURDIR)/.tools:$$PATH" $(BIN)/pytest -n 3 --dist worksteal $(ARGS)

tools: ## Install grpcurl, which some tests call, into .tools
	@if [ -x .tools/grpcurl ] || command -v grpcurl >/dev/null; then :; \
	elif command -v go >/dev/null; then \
		echo "Installing grpcurl $(GRPCURL_VERSION) into .tools"; \
		GOBIN="$(CURDIR)/.tools" go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v$(GRPCURL_VERSION); \
	else echo "Go is not installed, so there is no grpcurl."; false; \
	fi || if [ "$${CI:-}" = true ]; then exit 1; else echo "Tests that call grpcurl will be skipped."; fi

polyglot: ## Install what examples/polyglot needs, from its lock file
	@cd examples/polyglot && if [ node_modules/.package-lock.json -nt package-lock.json ]; then :; \
	elif command -v npm >/dev/null; then \
		echo "Installing the packages of examples/polyglot"; npm ci --loglevel=error >/dev/null; \
	else echo "Node.js is not installed, so there is no npm."; false; \
	fi || if [ "$${CI:-}" = true ]; then exit 1; else echo "Tests in JavaScript will be skipped."; fi

lint: .venv/.dev ## Check style and format
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

format: .venv/.dev ## Fix style and format, of the protos too
	@$(BIN)/ruff check --fix-only
	@$(BIN)/ruff format
	@$(BIN)/buf format --write protos

type: .venv/.dev ## Check the types
	@$(BIN)/mypy

protos: .venv/.dev ## Generate what is generated: stubs, synchronous SDK, table of errors
	@$(BIN)/python scripts/protos.py
	@$(BIN)/python scripts/sync.py
	@$(BIN)/python scripts/reasons.py

drift: .venv/.dev ## Check that what is generated is up to date
	@$(BIN)/python scripts/protos.py --check
	@$(BIN)/python scripts/sync.py --check
	@$(BIN)/python scripts/reasons.py --check

contract: .venv/.dev ## Check the protos: style, format, nothing broken since the last release
	@$(BIN)/buf lint protos
	@$(BIN)/buf format --diff --exit-code protos
	@scripts/breaking

check: lint type drift contract test ## Check everything, as CI does

crash: .venv/.dev ## Kill servers while clients work, and count what was lost: KILLS=300
	@$(BIN)/python -m tests.robustness.crash --kills "$(KILLS)"

bench: .venv/.dev ## Measure, beside a bare gRPC server and langgraph dev: ARGS="--no-peer"
	@$(BIN)/python -m benchmarks $(ARGS)

clean: ## Remove everything that make made
	@rm -rf .venv .peer .build .tools dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find client server examples tests benchmarks scripts -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# One environment, filled as far as it is needed.
.venv/bin/python:
	@command -v "$(PYTHON)" >/dev/null || \
		{ echo "There is no $(PYTHON): install Python 3.11 or newer, or name yours: make PYTHON=/path/to/python3"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$$("$(PYTHON)" --version) is too old: Callboard needs 3.11 or newer. Name one: make PYTHON=python3.12"; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "$(PYTHON) lacks the venv module: install it (on Debian and Ubuntu: apt install python3-venv)."; exit 1; }
	@"$(PYTHON)" -m venv .venv

.venv/.server: pyproject.toml | .venv/bin/python
	@echo "Installing Callboard into .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[anthropic,openai,server]'
	@touch $@

.venv/.dev: pyproject.toml | .venv/bin/python
	@echo "Installing Callboard and its development tools into .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch .venv/.server $@
