# make quickstart   install into .venv, train a small ladder, fit its law (about 6 minutes, 2 cores)
# make test         install into .venv, run the tests, a process a core, at most four
#                   (make test ARGS="-m 'not slow'")
# make lint         ruff
# make clean        remove what these make, but no results

PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3.14 python3,$(shell command -v $(p) 2>/dev/null)))
BIN := .venv/bin
RESULTS ?= results/quickstart
ARGS ?=

.PHONY: quickstart test lint clean install

install: .venv/installed

.venv/installed: setup.cfg pyproject.toml
	@test -n "$(PYTHON)" || { echo "No Python found: install Python 3.11 or newer, or set PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11: set PYTHON=..."; exit 1; }
	@echo "== Installing vit-scaling into .venv with $(PYTHON)"
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv || { echo "$(PYTHON) cannot make .venv: install its venv module (Debian: apt-get install python3-venv)"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@

quickstart: .venv/installed
	@echo "== Training a ladder of ViTs, each one trunk with its cooldown branches, into $(RESULTS)"
	$(BIN)/python -m vit_jax.main --config configs/quickstart.py --workdir $(RESULTS)
	@echo "== Fitting the law that they follow"
	$(BIN)/python -m scaling.fit $(RESULTS) --truth c=0.18

test: .venv/installed
	@echo "== Running the tests"
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal $(ARGS)

lint: .venv/installed
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

clean:
	rm -rf .venv .pytest_cache .ruff_cache *.egg-info
