# The user's verbs. Needs only Python >= 3.11 and make; everything else comes from requirements.lock.
PYTHON ?= python3
UV := .uv/bin/uv
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help env demo test ui bench kafka chaos lock fmt clean
help:  ## list the verbs
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "StreamForge needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 ...")'
	$(PYTHON) -m venv .uv
	.uv/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9

$(READY): $(UV) pyproject.toml requirements.lock
	test -x $(BIN)/python || $(UV) venv --quiet --python $(PYTHON) .venv
	$(UV) pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

env: $(READY)  ## make the environment (.venv) from requirements.lock

ON_KAFKA = $(BIN)/python -m tests.servers --run
demo: $(READY)  ## collect 12 symbols x 30 days from the simulated exchange, train on them, report [BUS=kafka]
	$(if $(filter-out kafka embedded,$(BUS)),$(error BUS is $(BUS); it may be kafka, or embedded))
	$(if $(filter kafka,$(BUS)),$(ON_KAFKA)) $(BIN)/streamforge demo

test: $(READY)  ## lint, types, import rules and all tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/build.py --check
	$(BIN)/pytest

ui: $(READY)  ## Dagster's web UI on the collected data: http://127.0.0.1:3000
	$(BIN)/streamforge ui

bench: $(READY)  ## measure against named references: make bench [ONLY=name,...]
	$(BIN)/python -m benchmarks $(if $(ONLY),--only $(ONLY))

kafka: $(READY)  ## a Kafka broker to play with, until Ctrl-C: make kafka [NODES=3] [PORT=9092]
	$(BIN)/python -m tests.servers $(if $(NODES),--nodes $(NODES)) $(if $(PORT),--port $(PORT))

chaos: $(READY)  ## kill, hang, slow and cut off workers and three brokers; say what was lost [ONLY=name,...]
	$(BIN)/python -m tests.chaos $(if $(ONLY),--only $(ONLY))

lock: $(UV)  ## resolve pyproject.toml anew into requirements.lock
	$(UV) pip compile --quiet --universal --generate-hashes --no-header --no-annotate --no-emit-index-url \
		--all-extras --group dev pyproject.toml -o requirements.lock

fmt: $(READY)  ## format and mend what ruff can
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

clean:  ## remove the environments (collected data in .streamforge stay)
	rm -rf .venv .uv
