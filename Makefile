# Every target sets up .venv by itself when it is missing; each can be run again at any time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
TYPECHECK := $(VENV)/typecheck
PACKAGES := commands evaluation generation hub_cards modeling quickstart trainers

.PHONY: demo test lint install clean
.DEFAULT_GOAL := install

demo: $(STAMP)
	$(BIN)/d3llm demo $(ARGS)

# Two workers of one thread each: several times as fast as one of two threads.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@# mypy does not follow setuptools' editable import hook: check a regular install, made from scratch each time
	@rm -rf $(TYPECHECK) build
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --target $(TYPECHECK) .
	@rm -rf build
	MYPYPATH=$(TYPECHECK) $(BIN)/mypy $(PACKAGES:%=-p d3llm.%)

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist d3llm.egg-info .mypy_cache .pytest_cache .ruff_cache
