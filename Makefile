# Every target sets up what it needs. `make` alone lists the targets.
# Override the first install with any pip requirement: make discover TORCH="torch==2.12.0"

TORCH  ?= torch==2.13.0
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV   ?= .venv
BIN    := $(VENV)/bin
# A stamp for this very torch: asking for another one installs again, asking for the same costs nothing.
STAMP  := $(VENV)/.ready-$(shell printf '%s' "$(TORCH)" | cksum | cut -d' ' -f1)

# A worker to a core and a file to a worker, in the order that tests/conftest.py gives: the longest first.
SIDE_BY_SIDE := -n auto --dist loadfile --no-loadscope-reorder

export OMP_WAIT_POLICY = PASSIVE
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help setup discover explore onset geometry transfer overlap repair claims benchmark benchmark-explorer calibration truth verdicts families embedded-model test test-all test-quick drills lint clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /|/' | awk -F'|' '{printf "  make %-18s %s\n", $$1, $$2}'

setup: $(STAMP) ## make .venv and install everything into it

$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; install it or give PYTHON=/path/to/python3" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@rm -f $(VENV)/.ready-*
	@touch $@

discover: $(STAMP) ## find the six circuits of the embedded model; ARGS="--model gpt2 --prompts situations" for another
	@$(BIN)/python experiments/discover.py $(ARGS)

explore: $(STAMP) ## walk through the newest run in the browser; ARGS="runs/my-run --port 8070 --no-browser"
	@$(BIN)/circuits explore $(ARGS)

onset: $(STAMP) ## where in the model is each emotion first decodable?
	@$(BIN)/python experiments/onset.py $(ARGS)

geometry: $(STAMP) ## how do the six directions lie to each other, layer by layer?
	@$(BIN)/python experiments/geometry.py $(ARGS)

transfer: $(STAMP) ## do directions carry over to real labelled text? ARGS="--labelled comments.tsv --model gpt2 --prompts situations"
	@$(BIN)/python experiments/transfer.py $(ARGS)

overlap: $(STAMP) ## do emotions share heads more than neurons, and is what they share about emotions?
	@$(BIN)/python experiments/overlap.py $(ARGS)

repair: $(STAMP) ## who makes up for the loss of a top component: the final norm, or components behind it?
	@$(BIN)/python experiments/repair.py $(ARGS)

claims: $(STAMP) ## what others said about emotion in models, put to the test: supported, contradicted or undecided
	@$(BIN)/python experiments/claims.py $(ARGS)

benchmark: $(STAMP) ## exact effects beside one hooked forward a component: benchmarks/results.json (about 20 minutes)
	@$(BIN)/python experiments/benchmark.py $(ARGS)

benchmark-explorer: $(STAMP) ## how fast does the explorer open and answer? benchmarks/explorer.md (about 5 minutes; wants chromium)
	@$(BIN)/python experiments/explorer_benchmark.py $(ARGS)

calibration: $(STAMP) ## do p-values and intervals keep what they promise? benchmarks/calibration.json
	@$(BIN)/python experiments/calibration.py $(ARGS)

truth: $(STAMP) ## every method on planted models whose circuits are known: benchmarks/truth.md (about 40 minutes, resumable)
	@$(BIN)/python experiments/truth.py $(ARGS)

verdicts: $(STAMP) ## one direction, several mechanisms: are verdicts right on planted contexts? benchmarks/verdicts.md (about 10 minutes)
	@$(BIN)/python experiments/verdicts.py $(ARGS)

families: $(STAMP) ## laws and exact effects against naive hooks in every family: docs/families.md
	@$(BIN)/python experiments/families.py $(ARGS)

embedded-model: $(STAMP) ## train the embedded model again (about 20 minutes on two idle cores)
	@$(BIN)/python experiments/embedded_model.py $(ARGS)

test: lint ## lint, types and tests (on a few families; make test-all for every one)
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not exhaustive"

test-all: lint ## make test, on every other family too
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE)

test-quick: $(STAMP) ## the tests that take seconds
	@$(BIN)/python -m pytest -q -m "not slow and not wheel"

drills: $(STAMP) ## kill, starve and corrupt sweeps at length (200 kills)
	@CIRCUITS_DRILL_KILLS=200 $(BIN)/python -m pytest -q -s tests/runs/test_kills.py tests/runs/test_disk.py \
		tests/runs/test_sweep.py tests/runs/test_shards.py

lint: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

clean: ## remove runs and caches (the environment stays)
	rm -rf runs build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
