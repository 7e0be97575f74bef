"""Blocks of one model, each trained by a worker of Ray on a machine of its own.

Ray starts the workers, places them, tries again those that die and shows how
far each is (https://docs.ray.io/en/latest/tune). Here is what one of them does,
and how the blocks become one model again.
"""

import dataclasses
import hashlib
import json
import math
import os
import shutil
import socket
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
from keras import tree

from keras_dblocks.checks import check_integer
from keras_dblocks.files.atomic_files import written_beside
from keras_dblocks.files.digest import digest_of
from keras_dblocks.models import assembly
from keras_dblocks.models.diffusion_blocks import DiffusionBlocks
from keras_dblocks.training.block_optimizers import clone
from keras_dblocks.training.user_data import as_arrays

__all__ = ["fit_blocks"]
SETTINGS = "settings.json"
OURS = ("keras", "keras_dblocks", "keras_hub")  # a worker imports them


def fit_blocks(
    model: DiffusionBlocks,
    data: Any,
    *,
    storage_path: os.PathLike | str,
    epochs: int = 1,
    batch_size: int = 32,
    refresh_every: int | None = None,
    num_workers: int | None = None,
    resources: dict[str, float] | None = None,
    max_failures: int = 3,
    address: str | None = None,
    verbose: int = 1,
) -> DiffusionBlocks:
    """Trains every block of a model in a worker of its own.

    What a worker reads of other blocks follows from `compile`:

    - `on_policy=0`: nothing. The result is that of `model.block(i).fit` for
      one block after another in one process, to the last bit on machines of
      one kind.
    - above 0: all blocks train at once, each on what the newest saved files of
      the blocks before it hand over.

    `storage_path` holds the files of all blocks: the weights they begin with,
    the state after each epoch, and `block_0.keras`, ..., when they are
    trained. A worker that dies is started again from the last epoch. A call
    with the folder of an earlier one, and the same settings and data, goes on
    with it: it begins with the weights of the first call, and trains only the
    blocks that are not complete.

    Args:
        model: `DiffusionBlocks` with `sharing="targets"`, compiled. Every
            block begins with its weights, and with a fresh optimizer that has
            the settings of `compile`.
        data: arrays `x` or `(x, y)` or `(x, y, sample_weight)`; or a function
            without arguments that each worker calls, and that returns a dict
            of arguments of `fit`, such as `x`, `y`, `callbacks`. Arrays are
            sent to each machine once.
        storage_path: folder that all machines see.
        epochs: int. Epochs that each block is trained for.
        batch_size: int. Rows of a step, for arrays.
        refresh_every: int or None. Steps after which a worker saves its block
            for the later ones and reads the earlier ones anew, where
            `on_policy` is above 0. It must divide the steps of all epochs.
            Defaults to an epoch.
        num_workers: int or None. Blocks trained at the same time. Defaults to
            as many as the machines have room for.
        resources: dict of what a worker takes, as in `tune.with_resources`.
            Defaults to `{"CPU": 1}`; on GPUs take `{"CPU": 1, "GPU": 1}`.
        max_failures: int. How many times a worker of one block may die.
        address: string, of a Ray cluster that runs (`"auto"`, `"ray://..."`).
            Defaults to one of this machine's own, which ends with the program.
            Ignored after a `ray.init` of yours, whose workers then need
            `runtime_env={"env_vars": {"KERAS_BACKEND": ...}}`.
        verbose: 0, or 1 for a table of all blocks as they train.

    Returns:
        `model`, with the trained weights of all blocks. Its optimizers stay as
        they were, since each worker had its own.

    Raises:
        ValueError: if blocks share parts, if the model is not compiled, or
            compiled with what needs them to take turns, or if the folder is
            that of a run with other settings or data.
        ImportError: without Ray; `pip install "keras_dblocks[ray]"`.
        ConnectionError: if no cluster answers at `address`.
        RuntimeError: if a block could not be trained. The others are in
            `storage_path` and in `model`.

    Example:

    ```python
    model = ViT(..., sharing="targets")
    model.compile("adamw", on_policy=0)
    fit_blocks(model, (x, y), epochs=10, storage_path="runs/blocks")
    model.evaluate(x_test, y_test)
    ```

    References:
     - [DiffusionBlocks](https://arxiv.org/abs/2506.14202), Section 3
    """
    tune = _import_ray().tune
    _check(model)
    for name, value in {
        "epochs": epochs,
        "batch_size": batch_size,
        "max_failures": max_failures,
        "refresh_every": refresh_every,
        "num_workers": num_workers,
    }.items():
        if value is not None:
            check_integer(name, value, 0 if name == "max_failures" else 1)
    if not callable(data):
        data = _arrays(model, data)
    worker = Worker(
        folder=Path(storage_path).resolve(),
        backend=keras.backend.backend(),
        data=data,
        epochs=epochs,
        batch_size=batch_size,
        refresh_every=_refreshes(
            model, data, refresh_every, epochs, batch_size
        ),
        registered=_registered(),
    )
    settings = _settings(worker, model)
    _check_folder(worker, model, settings)
    todo = [i for i in range(model.num_blocks) if not worker.path(i).exists()]
    if todo:
        _connect(address)
    _begin(worker, model, settings)
    failed = {}
    if todo:
        # Ray counts what a trial takes, and its arrays, once per trial.
        trainable = tune.with_resources(
            tune.with_parameters(_train, worker=worker),
            resources or {"CPU": 1},
        )
        tuner = tune.Tuner(
            trainable,
            param_space={"block": tune.grid_search(todo)},
            tune_config=tune.TuneConfig(
                max_concurrent_trials=num_workers,
                reuse_actors=True,  # a worker's imports serve its next block
                trial_dirname_creator=lambda trial: (
                    f"block_{trial.config['block']}_{trial.trial_id}"
                ),
            ),
            run_config=tune.RunConfig(
                name="log",
                storage_path=str(worker.folder),
                failure_config=tune.FailureConfig(max_failures=max_failures),
                verbose=int(bool(verbose)),
            ),
        )
        for result in tuner.fit():
            if result.error is not None:
                failed[result.config["block"]] = result.error
    for index in range(model.num_blocks):
        worker.path(index, "latest").unlink(missing_ok=True)
        if worker.path(index).exists():
            model.load_block(worker.path(index))
        elif index not in failed:  # Tune ends so after Ctrl-C
            raise KeyboardInterrupt
    if failed:
        reasons = "; ".join(
            f"block {i}: {_last_line(error)}" for i, error in failed.items()
        )
        raise RuntimeError(
            f"Every block must be trained. Received: {reasons}. The other "
            f"blocks are complete, in `model` and in {worker.folder}. Mend the "
            "cause and call `fit_blocks` with this folder again, which trains "
            "only what is missing, from the last epoch."
        ) from next(iter(failed.values()))
    return model


@dataclasses.dataclass(frozen=True)
class Worker:
    """What a worker is told; it is sent to each of them.

    Attributes:
        folder: path of the run.
        backend: string, the backend of the program that started it.
        data: tuple of arrays, or a function that returns arguments of `fit`.
        epochs, batch_size: ints, as in `fit`.
        refresh_every: None for independent blocks; otherwise the steps between
            two looks at the earlier blocks, or 0 for an epoch.
        registered: dict of the user's own classes by their registered name.
    """

    folder: Path
    backend: str
    data: tuple | Callable
    epochs: int
    batch_size: int
    refresh_every: int | None
    registered: dict[str, Any]

    def path(self, index, state="trained"):
        """Path of a file of block `index`: `trained`, `start` or `latest`."""
        suffix = "" if state == "trained" else f"_{state}"
        return self.folder / f"block_{index}{suffix}.keras"

    def fit(self, model, index, own):
        """Calls `model.fit`, from where a worker that died has come.

        Args:
            model: a block, or the network of which one block is trained.
            index: int, the block.
            own: list of further callbacks.
        """
        if callable(self.data):
            arguments = {**self.data()}
            if "epochs" in arguments:
                raise ValueError(
                    "`fit_blocks` says how many epochs there are. Received: "
                    '"epochs" from the function for data. Leave it out.'
                )
        else:
            names = "x", "y", "sample_weight"
            arguments = dict(zip(names, self.data, strict=False))
            arguments["batch_size"] = self.batch_size
        epochs = self.epochs
        if self.refresh_every:
            arguments["steps_per_epoch"] = self.refresh_every
            steps = epochs * steps_of_a_pass(self.data, self.batch_size)
            epochs = steps // self.refresh_every
        backup = keras.callbacks.BackupAndRestore(
            self.folder / f"backup_{index}",
            double_checkpoint=True,
            delete_checkpoint=False,
        )
        given = arguments.pop("callbacks", ())
        callbacks = [*given, *own, Report(), backup]
        arguments = {"epochs": epochs, "verbose": 0, **arguments}
        model.fit(callbacks=callbacks, **arguments)


def steps_of_a_pass(data, batch_size):
    """Steps in which all rows of a tuple of arrays come once."""
    return math.ceil(len(tree.flatten(data[0])[0]) / batch_size)


class Report(keras.callbacks.Callback):
    """Tells Ray the logs of each epoch, for the table and the log files."""

    def on_epoch_end(self, epoch, logs=None):
        from ray import tune

        logs = {name: float(value) for name, value in (logs or {}).items()}
        tune.report({"epoch": epoch + 1, **logs})


class Refresh(keras.callbacks.Callback):
    """Saves a block after each epoch, and reads the earlier ones before it.

    Args:
        worker: `Worker`.
        index: int, the block that is trained.
    """

    def __init__(self, worker, index):
        super().__init__()
        self.worker = worker
        self.index = index
        self.seen = {}  # times of the files that were read

    def on_epoch_begin(self, epoch, logs=None):
        for index in range(self.index):
            paths = (
                self.worker.path(index),
                self.worker.path(index, "latest"),
            )
            path = next((path for path in paths if path.exists()), None)
            if path is None:
                continue
            changed = path.stat().st_mtime_ns
            if self.seen.get(index) != changed:
                self.model.load_block(path)
                self.seen[index] = changed

    def on_epoch_end(self, epoch, logs=None):
        self.model.block(self.index).save(
            self.worker.path(self.index, "latest")
        )


def _train(config, worker):
    """Trains one block; Ray calls it in a worker."""
    index, path = config["block"], worker.path(config["block"])
    if path.exists():  # an earlier worker died after it was written
        return
    if keras.backend.backend() != worker.backend:
        raise ValueError(
            f"All blocks are trained on one backend. Received: "
            f"{keras.backend.backend()} in a worker of a {worker.backend} "
            'program. Call `ray.init(runtime_env={"env_vars": '
            f'{{"KERAS_BACKEND": "{worker.backend}"}}}})`.'
        )
    for name, kind in worker.registered.items():
        package, _, name = name.rpartition(">")
        keras.saving.register_keras_serializable(package, name)(kind)
    start = worker.path(index, "start")
    if worker.refresh_every is None:
        block = keras.saving.load_model(start)
        worker.fit(block, index, [])
    else:
        model = keras.saving.load_model(worker.folder / "start.keras")
        settings = model.get_compile_config()
        model.compile_from_config({**settings, "block_order": index})
        worker.fit(model, index, [Refresh(worker, index)])
        block = model.block(index)
    block.save(path)
    shutil.rmtree(worker.folder / f"backup_{index}")


def _check(model):
    if not isinstance(model, DiffusionBlocks):
        raise ValueError(
            "`fit_blocks` trains the blocks of a `DiffusionBlocks`. Received: "
            f"a {type(model).__name__}. A network that was cut is trained by "
            "`fit`, since its blocks need each other."
        )
    if not model.compiled:
        raise ValueError(
            "Blocks take the optimizer of `compile`. Received: "
            f"{model.name}, which is not compiled. Call `model.compile` first."
        )
    if model.sharing != "targets":
        raise ValueError(
            "Blocks that are trained apart must not share parts. Received: "
            f"{model.name} with sharing={model.sharing!r}. Build it with "
            'sharing="targets".'
        )
    if model.curriculum_run.curriculum is not None:
        raise ValueError(
            "All blocks are trained at the same time. Received: a curriculum, "
            "in which one comes after another. Compile with "
            'curriculum="sampled"; for a common start, call `fit` with '
            "[Phase(1.0, block=0, as_only_block=True)] before."
        )
    arguments = model.__dict__["_compile_arguments"]
    for name, free in (("block_order", "uniform"), ("store_hand_overs", None)):
        if arguments[name] != free:
            raise ValueError(
                "All blocks are trained at the same time. Received: "
                f"{name}={arguments[name]!r} of `compile`, which is for blocks "
                "that take turns. Leave it out."
            )
    idle = set(range(model.num_blocks)) - set(model.blocks_that_train())
    if idle:
        raise ValueError(
            "Every block needs something to train. Received: nothing that is "
            f"trainable in block {', '.join(map(str, sorted(idle)))}. "
            "Unfreeze it, or train the others with `model.block(i).fit`."
        )


def _arrays(model, data):
    data = tuple(data) if isinstance(data, (tuple, list)) else (data,)
    data = as_arrays(data)
    if not all(hasattr(leaf, "__array__") for leaf in tree.flatten(data)):
        raise ValueError(
            "Workers need the data themselves. Received: "
            f"{', '.join(type(d).__name__ for d in data)}. Pass arrays, or a "
            'function that returns a dict with "x" made anew.'
        )
    data = tree.map_structure(keras.ops.convert_to_numpy, data)
    model.check_data(*data[:2])  # now, and not in a worker
    return data


def _refreshes(model, data, refresh_every, epochs, batch_size):
    if not model.on_policy:
        if refresh_every is not None:
            raise ValueError(
                "Independent blocks read nothing of each other. Received: "
                f"refresh_every={refresh_every} with on_policy=0. Leave it out."
            )
        return None
    if callable(data) and refresh_every is not None:
        raise ValueError(
            "With a function for data, the earlier blocks are read after each "
            f"epoch. Received: refresh_every={refresh_every}. Leave it out, "
            'and return "steps_per_epoch" from the function.'
        )
    if refresh_every is None:
        return 0
    steps = epochs * steps_of_a_pass(data, batch_size)
    if steps % refresh_every:
        raise ValueError(
            "The earlier blocks are read after equal numbers of steps. "
            f"Received: refresh_every={refresh_every} for {steps} steps. Use a "
            "divisor of that, or other `epochs`."
        )
    return refresh_every


def _registered():
    """The user's own registered classes, which a worker does not import."""
    return {
        name: kind
        for name, kind in keras.saving.get_custom_objects().items()
        if kind.__module__.partition(".")[0] not in OURS and ">" in name
    }


def _settings(worker, model):
    """What a call must share with the one that began a folder (dict)."""
    kept = [model.get_config(), model.get_compile_config()]
    text = assembly.anonymous(kept)
    arrays = [] if callable(worker.data) else tree.flatten(worker.data)
    return {
        "model": hashlib.sha256(text.encode()).hexdigest()[:12],
        "data": digest_of(arrays),
        "backend": worker.backend,
        "epochs": worker.epochs,
        "batch_size": worker.batch_size,
        "refresh_every": worker.refresh_every,
    }


def _check_folder(worker, model, settings):
    """Refuses the folder of another run, and files of nobody knows which."""
    path = worker.folder / SETTINGS
    if path.exists():
        found = json.loads(path.read_text())
        differ = [k for k in settings if found.get(k) != settings[k]]
        if differ:
            raise ValueError(
                "A folder holds one run. Received: storage_path="
                f"{str(worker.folder)!r}, whose {', '.join(differ)} differ "
                "from those of this call. Choose another folder."
            )
        return
    for index in range(model.num_blocks):
        states = worker.path(index), worker.path(index, "latest")
        for file in (*states, worker.folder / f"backup_{index}"):
            if file.exists():
                raise ValueError(
                    "A run needs a folder of its own. Received: storage_path="
                    f"{str(worker.folder)!r}, which holds {file.name} and no "
                    f"{SETTINGS}. Choose another folder."
                )


def _begin(worker, model, settings):
    """Writes what the blocks begin with, if the run has not begun."""
    path = worker.folder / SETTINGS
    if path.exists():
        return
    worker.folder.mkdir(parents=True, exist_ok=True)
    if worker.refresh_every is None:
        for index in range(model.num_blocks):
            block = model.block(index)
            _as_alone(model, block).save(worker.path(index, "start"))
    else:
        model.save(worker.folder / "start.keras")
    with written_beside(path) as beside:  # last: the run is whole
        Path(beside).write_text(json.dumps(settings, indent=2) + "\n")


def _as_alone(model, block):
    """`block`, compiled as by itself with the model's optimizer."""
    arguments = model.__dict__["_compile_arguments"]
    block.compile(clone(arguments["optimizer"]))
    block.optimizer.build(block.trainable_variables)
    return block


def _connect(address):
    ray = _import_ray()
    if ray.is_initialized():
        return
    environment = {"env_vars": {"KERAS_BACKEND": keras.backend.backend()}}
    if address is None:
        ray.init("local", include_dashboard=False, runtime_env=environment)
        return
    try:
        _knock(address)
        ray.init(address, runtime_env=environment)
    except (OSError, RuntimeError, ValueError) as error:
        raise ConnectionError(
            "Workers need a Ray cluster that runs. Received: "
            f"address={address!r}, where none answers ({error}). Start one "
            "with `ray start --head`, or leave `address` out."
        ) from error


def _knock(address):
    """Raises an OSError if nobody listens, for which Ray waits minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        with socket.create_connection((host, int(port)), timeout=10):
            pass


def _import_ray():
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import ray
            import ray.tune
    except ImportError as error:
        raise ImportError(
            "`fit_blocks` needs Ray with Tune. Received: none that can be "
            f'imported ({error}). Call `pip install "keras_dblocks[ray]"`.'
        ) from error
    return ray


def _last_line(error):
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
