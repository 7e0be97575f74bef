# make demo | make test | make docs | make lint | ...; see CONTRIBUTING.md
PYTHON ?= python3
WORKERS ?= 2
PYTEST_ARGS ?=

# CPU builds. torch is pinned to a version that resolves to its CPU build on the
# development machines; the newest one there brings gigabytes of CUDA.
TORCH ?= torch==2.13.0
TENSORFLOW ?= tensorflow-cpu
# It asks for tensorflow-text, and with it for TensorFlow's GPU build, which no
# test needs: it is installed without what it asks for.
KERAS_HUB ?= keras-hub==0.32.0

BIN := .venv/bin
FULL := .venv/.setup-full
JAX_ONLY := .venv/.setup-jax
NIGHTLY := .venv-nightly
SUITES := test-jax test-tensorflow test-torch

export TF_CPP_MIN_LOG_LEVEL := 3

.PHONY: setup demo docs results test test-all test-quick test-nightly \
    $(SUITES) lint clean
.NOTPARALLEL:

setup: $(FULL)

$(FULL): pyproject.toml setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -e ".[jax,dev]" \
	    "$(TENSORFLOW)" "$(TORCH)"
	$(BIN)/python -m pip install --no-deps "$(KERAS_HUB)"
	touch $@

$(JAX_ONLY): pyproject.toml setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -e ".[jax,data,plots]"
	touch $@

# One backend is enough here: the full environment is used where there is one.
demo: $(if $(wildcard $(FULL)),$(FULL),$(JAX_ONLY))
	KERAS_BACKEND=jax $(BIN)/python -m keras_dblocks.applications.vit demo

# The site, build/docs/index.html: runs every guide, and fails on a warning.
docs: setup
	$(BIN)/python -m sphinx -b html -W --keep-going -j 4 -c docs . build/docs

# Tables and pictures of the documentation, from the records in results/.
results: setup
	$(BIN)/python tools/tables.py
	$(BIN)/python tools/pictures.py

test: $(SUITES) lint

test-all: SPEED = slow or not slow
test-all: HEAVY =
test-all: EAGER =
test-all: test

SPEED = not slow
# What needs no backend runs once. What takes long and shows nothing of its
# backend does so by default: with JAX (`heavy`), or with PyTorch where it is
# compiling that takes long (`eager`).
HEAVY = and not heavy
EAGER = and not eager
test-jax: ONE_BACKEND = $(EAGER)
test-tensorflow: ONE_BACKEND = and not once $(HEAVY) $(EAGER)
test-torch: ONE_BACKEND = and not once $(HEAVY)

# The last -m wins over the one in pyproject.toml.
$(SUITES): test-%: setup
	KERAS_BACKEND=$* $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal \
	    -m "($(SPEED)) $(ONE_BACKEND)" $(PYTEST_ARGS)

test-quick: setup
	KERAS_BACKEND=jax $(BIN)/python -m pytest -n $(WORKERS) -m quick \
	    $(PYTEST_ARGS)

# The newest Keras and JAX, released or not, in an environment made anew.
test-nightly:
	$(PYTHON) -m venv --clear $(NIGHTLY)
	$(NIGHTLY)/bin/python -m pip install -e ".[jax,dev]" \
	    "$(TENSORFLOW)" "$(TORCH)"
	$(NIGHTLY)/bin/python -m pip install --no-deps "$(KERAS_HUB)"
	$(NIGHTLY)/bin/python -m pip install --pre --upgrade keras jax jaxlib \
	    "$(TORCH)"
	KERAS_BACKEND=jax $(NIGHTLY)/bin/python -m pytest -n $(WORKERS) \
	    $(PYTEST_ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy keras_dblocks

# Keeps .venv, .venv-nightly and runs/.
clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	rm -rf $${XDG_CACHE_HOME:-$$HOME/.cache}/keras_dblocks/jax-tests
	find . -name '.venv*' -prune -o -name __pycache__ -prune -exec rm -rf {} +
