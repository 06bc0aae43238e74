# One file of commands. `make demo` and `make test` work on a bare machine with Python 3.11 to 3.13 and make.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.mailstay-ready
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export DO_NOT_TRACK := 1
# Property suites whose sample alone takes many seconds: `make test` runs them, the inner loop does not.
LONG := $(addprefix --ignore=tests/,snapshots/test_live.py snapshots/test_faulty_store.py snapshots/test_model.py \
	snapshots/test_segments.py snapshots/test_round_trip.py snapshots/test_erase.py checks/test_properties.py \
	checks/test_dirty_matrix.py impact/test_counterfactual.py)
# One process per core, at most four; a file's tests stay together, as they share servers.
AT_ONCE := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: help demo test test-fast test-slow check format lock docs docs-check assets clean

help:            ## show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] < (3, 14) else "Mailstay needs Python 3.11, 3.12 or 3.13; this is %s. Try: make PYTHON=python3.11 demo" % sys.version.split()[0])'
	@echo "Installing the locked packages into $(VENV)/ (about two minutes, once)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(READY)

demo: $(READY)   ## run the whole story on the sample shop and open nothing: it prints the report's path
	@$(BIN)/mailstay demo

check: $(READY)  ## format, lint, types, layers, generated docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/cog --check --diff -I . docs/reference/*.md

test-fast: $(READY) ## the inner loop: under 90 seconds
	$(BIN)/pytest -q $(AT_ONCE) $(LONG) -m "not integration and not browser and not kill and not slow"

test: check      ## everything a change must pass: under 15 minutes on two cores
	$(BIN)/pytest -q $(AT_ONCE) -m "not slow"

test-slow: check ## the heavy suites in full; writes their counts into docs/guarantees.md
	$(BIN)/pytest -q --timeout 7200 --guarantees docs/guarantees.md

format: $(READY) ## let ruff put the code in order
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(READY)   ## write the generated pages again
	$(BIN)/cog -r -I . docs/reference/*.md

assets:          ## fetch what Data Docs load again from npm, verified against the pinned digests
	@$(BIN)/python -m tasks.checks.assets.renew

lock: $(READY)   ## resolve requirements.lock again
	$(BIN)/uv pip compile --universal --python-version 3.11 --extra dev --generate-hashes --no-emit-index-url --no-emit-find-links --quiet --custom-compile-command "make lock" pyproject.toml -o requirements.lock

clean:           ## remove the environment and what the tools left behind
	rm -rf $(VENV) .mypy_cache .ruff_cache .hypothesis build *.egg-info
