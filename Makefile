# make chat    open the chat (the first time makes .venv and installs into it)
# make test    the whole test suite, in the same environment plus the test tools
# make check   formatting, lint, types and import floors, then the suite: what .ci/run runs
# make venv    the environment only
# make clean   remove .venv and what was built

VENV := .venv
BIN := $(VENV)/bin

# The first Python on the path that runs and is new enough; `make PYTHON=/path/to/python` overrides.
ifndef PYTHON
PYTHON := $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)
endif

# Tests never reach the network, and one thread each keeps parallel tests from fighting over cores.
TEST_ENV := HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
PYTEST_ARGS ?= -n 2 --dist loadfile

.PHONY: chat test check static venv venv-dev clean

chat: venv
	@$(BIN)/hhchat chat $(ARGS)

test: venv-dev
	$(TEST_ENV) $(BIN)/python -m pytest $(PYTEST_ARGS) $(ARGS)

check: static test

static: venv-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

venv: $(VENV)/.installed

venv-dev: $(VENV)/.installed-dev

# The stamps are touched last, so an interrupted installation is done again.
$(VENV)/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { \
		echo "hhchat needs Python 3.11 or newer; found none of python3.13 python3.12 python3.11 python3." >&2; \
		echo "Install one, or say where it is: make $(firstword $(MAKECMDGOALS)) PYTHON=/path/to/python" >&2; \
		exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "hhchat needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1)." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
		rm -rf $(VENV); echo "could not make $(VENV): is the venv module of $(PYTHON) installed?" >&2; exit 1; }
	@echo "installing hhchat into $(VENV) (the first time takes some minutes)"
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "installing the test tools into $(VENV)"
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
