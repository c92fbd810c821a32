# Every target sets up .venv by itself when it is missing; each can be run again at any time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

.PHONY: demo test test-newest test-newest-quick test-oldest lint install install-newest clean
.DEFAULT_GOAL := install

demo: $(STAMP)
	$(BIN)/d3llm demo $(ARGS)

# Two workers of one thread each: several times as fast as one of two threads. Each takes the next file when it is free,
# in the order of tests/conftest.py.
pytest = OMP_NUM_THREADS=1 $(1)/bin/python -m pytest \
	--numprocesses 2 --dist loadfile --no-loadscope-reorder $(TESTS) $(ARGS)

test: $(STAMP)
	$(call pytest,$(VENV))

# The newest and the oldest releases of the Hugging Face libraries that pyproject allows, each in an environment of its
# own. torch is that of constraints.txt in both: another build of it is gigabytes. CI runs the quick part with the newest.
TESTS := tests
QUICK := tests/modeling/test_models.py tests/generation/test_features.py tests/trainers/test_trainer.py

install-newest: $(STAMP)
	@# a copy has most of it already, compiled; it can fail where something else writes into the original meanwhile
	test -d .venv-newest \
		|| (rm -rf .venv-newest.part && cp -a $(VENV) .venv-newest.part && mv .venv-newest.part .venv-newest) \
		|| $(PYTHON) -m venv --upgrade-deps .venv-newest
	@# asked each time: what is newest changes by the day
	.venv-newest/bin/python -m pip install --quiet --no-compile --disable-pip-version-check --upgrade --upgrade-strategy eager \
		"$$(grep '^torch==' constraints.txt)" -e '.[dev]'

test-newest: install-newest
	$(call pytest,.venv-newest)

test-newest-quick:
	$(MAKE) test-newest TESTS="$(QUICK)" ARGS="-m 'not slow and not processes' $(ARGS)"

test-oldest:
	test -x .venv-oldest/bin/pip || $(PYTHON) -m venv --upgrade-deps .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints-oldest.txt -e '.[dev]'
	$(call pytest,.venv-oldest)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p d3llm

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@# an old pip resolves slowly, and little of these libraries is imported and needs bytecode
	test -x $(BIN)/pip || $(PYTHON) -m venv --upgrade-deps $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) .venv-newest .venv-newest.part .venv-oldest build dist d3llm.egg-info .mypy_cache .pytest_cache .ruff_cache
