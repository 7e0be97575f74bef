"""The record of a run, from which tables of results are made."""

import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np

from keras_dblocks.applications.images.files import atomic

from .figures import Figure


@contextlib.contextmanager
def recorded(folder, command, **entries):
    """Writes `record.json` when a run begins, and when it ends in any way.

    | entry | what it is |
    |---|---|
    | `command` | the command line |
    | `started` | date and time, of the last session of a resumed run |
    | `finished` | false for a run that was interrupted or failed |
    | `backend`, `versions` | of Python, Keras, numpy, ours and the backend |
    | `hardware` | `cpu`, `cpu_count` (those it may use), `gpus` (those used) |
    | `commit` | of the checkout, "+ changes" if it had any; null without one |
    | `figures` | a dict by name of `value` and `unit` |

    Among the figures is the duration of all sessions, which includes
    compilation, validation and evaluation.

    Args:
        folder: path of the run's folder, which exists.
        command: string.
        entries: further entries, such as `seed`.

    Yields:
        A dict to which the run adds its `Figure`s by name.
    """
    path = folder / "record.json"
    before = 0.0
    if path.exists():
        old = json.loads(path.read_text())["figures"]
        before = old["duration"]["value"]
    figures = {"duration": Figure(before, "s")}
    record = {
        "command": command,
        **entries,
        "started": datetime.datetime.now().astimezone().isoformat(),
        "finished": False,
        "backend": keras.backend.backend(),
        "versions": versions(),
        "hardware": hardware(),
        "commit": commit(),
    }
    _write(path, record, figures)
    begin = time.perf_counter()
    try:
        yield figures
        record["finished"] = True
    finally:
        seconds = before + time.perf_counter() - begin
        figures["duration"] = Figure(round(seconds, 1), "s")
        _write(path, record, figures)


def _write(path, record, figures):
    figures = {
        name: {"value": figure.value, "unit": figure.unit}
        for name, figure in figures.items()
    }
    text = json.dumps({**record, "figures": figures}, indent=2)
    with atomic(path) as temporary:
        temporary.write_text(text + "\n")


def versions():
    """Dict of versions by name."""
    backend = keras.backend.backend()
    module = sys.modules.get(backend)
    return {
        "python": platform.python_version(),
        "keras-dblocks": importlib.metadata.version("keras-dblocks"),
        "keras": keras.__version__,
        "numpy": np.__version__,
        backend: getattr(module, "__version__", None),
    }


def hardware():
    """Dict of the processor, its usable cores, and the GPUs in use."""
    return {
        "cpu": _cpu(),
        "cpu_count": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "gpus": _gpus(),
    }


def _cpu():
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text()
        found = re.search(r"model name\s*:\s*(.+)", text)
        if found:
            return found[1]
    return platform.processor() or platform.machine()


def _gpus():
    """Names of the GPUs, if the backend computes on one."""
    place = str(getattr(keras.ops.zeros(()), "device", "")).lower()
    if "cuda" not in place and "gpu" not in place:
        return []
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    return _output(command).splitlines() or [place]


def commit():
    """Short hash of the checkout that holds this file, or None.

    It ends in "+ changes" if a file of the checkout was changed.
    """
    git = ["git", "-C", str(Path(__file__).parent)]
    # An installed copy may lie in the folder of another project.
    if not _output([*git, "ls-files", Path(__file__).name]):
        return None
    changes = _output([*git, "status", "--porcelain", "--untracked-files=no"])
    short = _output([*git, "rev-parse", "--short", "HEAD"])
    return f"{short} + changes" if changes else short


def _output(command):
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError:  # there is no such program
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
