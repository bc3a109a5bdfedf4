# make demo    the main job, end to end
# make test    linter, types and tests, for the Python named by PYTHON
# make pytest  the tests alone
# make test-accelerated   the tests of what the accelerator does, with it; ARGS= for all tests
# make bench   the benchmarks beside asyncio and uvloop; ARGS="--quick", ARGS="--only NAME"
# make docs    the documentation as a site: site/index.html
# make test-kernel   the backends' tests in a virtual machine that has /dev/vpoll and EFD_VPOLL
# make soak    servers of others under load for SECONDS each, 600 by default: 12 times 10 minutes
#
# PYTHON=python3.12 chooses the interpreter; each version has a venv of its own in the tree.
# ARGS="-k name" goes to pytest, which runs WORKERS processes: many tests wait for others.
# ACCELERATE=1 has the compiled classes tested instead of those in Python.

PYTHON ?= python3
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
ifeq ($(VERSION),)
$(error $(PYTHON) does not run: name a Python 3.11, 3.12 or 3.13 with PYTHON=...)
endif
WORKERS ?= 4
SECONDS ?= 600
ACCELERATE ?= 0
VENV := .venv-$(VERSION)
BIN := $(VENV)/bin

# What the native helpers and pip leave behind stays inside the tree too.
export XDG_CACHE_HOME := $(CURDIR)/.cache

.PHONY: demo test test-accelerated pytest test-kernel bench docs soak lint types setup tools dist clean

demo: setup
	$(BIN)/python -m vpoll_asyncio demo $(ARGS)

test: lint types pytest

pytest: tools
	VPOLL_ASYNCIO_ACCELERATE=$(ACCELERATE) $(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

test-accelerated: ARGS ?= $(addprefix tests/test_,accelerator.py loop_call_soon.py loop_readers.py loop_turns.py \
	memory_loops.py memory_streams.py selector.py transport_connect.py transport_ends.py transport_stream.py \
	transport_tls.py vpoll.py vpoll_interrupts.py vpoll_threads.py wakeups.py)
test-accelerated: ACCELERATE = 1
test-accelerated: pytest

test-kernel: tools
	cd tests && ../$(BIN)/python -m kernel $(ARGS)

bench: tools
	@$(BIN)/python -c 'import matplotlib, pyperf, zmq' 2>/dev/null || \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	$(BIN)/python -m benchmarks.suite $(ARGS)

docs: tools
	@$(BIN)/python -c 'import material, mkdocstrings_handlers.python' 2>/dev/null || \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

soak: tools
	cd tests && VPOLL_ASYNCIO_ACCELERATE=$(ACCELERATE) ../$(BIN)/python -m soak --seconds $(SECONDS) $(ARGS)

lint: tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: tools
	$(BIN)/mypy

setup:
	@sh .ci/setup "$(PYTHON)" "$(VENV)"

tools:
	@sh .ci/setup "$(PYTHON)" "$(VENV)" tools

dist: tools
	@$(BIN)/python -c 'from importlib.metadata import version as v; v("build"), v("twine")' \
		2>/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--editable '.[release]'
	rm -rf dist
	$(BIN)/python -m build --outdir dist .

clean:
	rm -rf .venv-* .cache build dist site .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
