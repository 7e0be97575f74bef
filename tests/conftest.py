"""What every test shares: one backend a run, fixed seeds, reference figures."""

import gc
import json
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {"KERAS_BACKEND": "jax", "TF_CPP_MIN_LOG_LEVEL": "3"}

# Two workers with a pool of threads each would fight for the same cores.
if "PYTEST_XDIST_WORKER" in os.environ:
    ENVIRONMENT |= {
        "NPROC": "1",  # XLA's thread pool; no flag in XLA_FLAGS sets it
        "OMP_NUM_THREADS": "1",  # torch, and the BLAS under numpy
        "TF_NUM_INTEROP_THREADS": "1",
        "TF_NUM_INTRAOP_THREADS": "1",
    }

# Workers, runs, checkouts and subprocesses share what XLA has compiled.
# `make clean` empties it.
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
CACHE = CACHE / "keras_dblocks" / "jax-tests"
try:
    CACHE.mkdir(parents=True, exist_ok=True)
except OSError:  # a home that cannot be written
    CACHE = ROOT / ".pytest_cache" / "jax"
BACKEND = os.environ.get("KERAS_BACKEND", "jax")
if BACKEND == "jax":
    ENVIRONMENT |= {
        "JAX_COMPILATION_CACHE_DIR": str(CACHE),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
if BACKEND != "torch":
    # Compiling takes most of the time; nothing runs long enough to pay.
    ENVIRONMENT["XLA_FLAGS"] = (
        "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    )

# Read once, on import: hence no keras or numpy at the top of this file.
for name, value in ENVIRONMENT.items():
    os.environ.setdefault(name, value)


def pytest_report_header():
    return f"keras backend: {os.environ['KERAS_BACKEND']}"


@pytest.fixture(autouse=True, scope="module")
def what_stays_is_no_garbage():
    """Keeps the collector from going through millions of old objects.

    Keras collects whenever a variable is deleted, as for each layer that is
    quantized. After many tests that took seconds each time.
    """
    import keras_dblocks.applications  # noqa: F401

    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def fixed_seeds():
    import keras

    keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def golden():
    """Loads `tests/golden/<name>.npz`: arrays by key, `config` parsed."""
    import numpy as np

    def load(name):
        with np.load(ROOT / "tests" / "golden" / f"{name}.npz") as figures:
            arrays = dict(figures)
        arrays["config"] = json.loads(str(arrays["config"]))
        return arrays

    return load
