# Two commands do everything on a fresh clone: `make demo` and `make test`. Each makes .venv and installs what it needs.
PYTHON ?= python3
BIN := .venv/bin
MINUTES ?= 60
SEED ?=
GB ?= 20
.DEFAULT_GOAL := help
# The tests start thousands of short processes: each would compile the whole house anew where an environment forbids keeping that.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help demo test check format bench bench-proof bench-scale soak docs clean

help:  ## what each target does
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' $(MAKEFILE_LIST)

.venv/ready: pyproject.toml constraints.txt
	@echo "Making .venv (once) and installing the pinned versions of constraints.txt into it ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Resurgam needs Python 3.11 or newer; run make PYTHON=/path/to/python3.11")'
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable ".[helpdesk,objects,gateway,timestamps]" --group dev
	@touch $@

demo: .venv/ready  ## the main job: capture a system, lose it, bring it back, judge it
	@$(BIN)/resurgam demo

test: .venv/ready  ## every test, with a seeded slice of the long machines
	@$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "not soak"

check: .venv/ready  ## format, lint, types, floors of the house
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: .venv/ready  ## put the code into its one format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: .venv/ready  ## ratios against restic and borg in one run
	@$(BIN)/python -m bench

bench-proof: .venv/ready  ## how often a verdict is right: make bench-proof SEED=7 (several: SEED="1 2 3")
	@$(BIN)/python -m bench.proof $(if $(SEED),--seed $(SEED))

bench-scale: .venv/ready  ## large vaults, distant stores, a large file: make bench-scale GB=20
	@$(BIN)/python -m bench.vault_scale
	@$(BIN)/python -m bench.curves
	@$(BIN)/python -m bench.latency
	@$(BIN)/python -m bench.throughput --gb $(GB)

soak: .venv/ready  ## the long machines in full: make soak MINUTES=60 SEED=7
	@$(BIN)/python -m tests.soak --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

docs: .venv/ready  ## make the generated pages again (docs/cli.md, docs/resurgam.schema.json, diagrams)
	@$(BIN)/python -m docs.generate

clean:  ## remove .venv and caches; no data
	@rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
