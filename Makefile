# Every target sets up what it needs: a virtual environment in .venv with the locked requirements.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
export OMP_NUM_THREADS ?= 2

.PHONY: help demo test quick lint check format bench docs links clean

help:  ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18

$(READY): requirements.lock pyproject.toml
	@echo "Setting up .venv (once) …"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $(READY)

demo: $(READY)  ## train on real data with missing modalities and write runs/demo/index.html
	@$(BIN)/amodal demo --out runs/demo

test: $(READY)  ## run every test
	@$(BIN)/pytest -n 2

quick: $(READY)  ## run the fast tests
	@$(BIN)/pytest -n 2 -m "not slow"

lint: $(READY)  ## formatting, lint, types, import layers
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/pyright
	@$(BIN)/lint-imports --no-cache

check: lint  ## the same and the fast tests
	@$(BIN)/pytest -n 2 -m "not slow"

format: $(READY)  ## format and repair what can be repaired
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(READY)  ## measure speed in small, as ratios beside those of the last release
	@$(BIN)/python benchmarks/run_all.py

docs: $(READY)  ## build the documentation into runs/docs, failing on the first warning
	@$(BIN)/sphinx-build -q -W --keep-going -b html docs runs/docs
	@echo "The documentation is runs/docs/index.html"

links: $(READY)  ## look whether the links of the documentation still lead somewhere (needs a network)
	@$(BIN)/sphinx-build -q -b linkcheck docs runs/links

clean:  ## remove the environment and caches
	rm -rf .venv build .pytest_cache .ruff_cache .hypothesis
