"""Trains a run with backups and a log, and saves its model."""

import keras

from .progress import Progress


def train(run, folder, callbacks=()):
    """Trains a run and saves its model.

    Args:
        run: `Run`.
        folder: path of the run's folder, which `claim` has created.
        callbacks: further callbacks.
    """
    print(run.describe(), flush=True)
    backup = keras.callbacks.BackupAndRestore(
        folder / "backup", double_checkpoint=True, delete_checkpoint=False
    )
    log = EpochLog(run, folder / "history.csv")
    with Progress(run) as progress:
        run.fit(
            callbacks=[
                log,
                *run.callbacks(folder),
                *callbacks,
                progress,
                backup,
            ],
            validation_data=run.validation_data(),
            validation_freq=max(1, run.epochs // 20),
            verbose=0,
        )
    print("saved", *run.save(folder), flush=True)


def train_on_ray(run, folder, address=None, num_workers=None):
    """Trains each block in a worker of Ray, and saves the model.

    Args:
        run: `Run` of blocks, whose recipe has `blocks_on_ray`.
        folder: path of the run's folder, which all machines see.
        address, num_workers: as in `keras_dblocks.ray.fit_blocks`.
    """
    from keras_dblocks.ray import fit_blocks

    print(run.describe(), flush=True)
    batches = run.batches

    def data():
        callbacks = [batches.epoch_callback()]
        return {"x": batches, "shuffle": False, "callbacks": callbacks}

    try:
        fit_blocks(
            run.model,
            data,
            storage_path=folder / "blocks",
            epochs=run.epochs // run.model.num_blocks,
            num_workers=num_workers,
            address=address,
        )
    except (ImportError, RuntimeError) as error:  # for one line of output
        raise ValueError(str(error)) from error
    print("saved", *run.save(folder), flush=True)


class EpochLog(keras.callbacks.CSVLogger):
    """`CSVLogger` that continues the file of a run that is resumed.

    Its columns do not depend on the first epoch, which may have no validation,
    and in which a block may not have been drawn.
    """

    def __init__(self, run, path):
        super().__init__(path, append=True)
        losses = ["loss"]
        losses += [m.name for m in getattr(run.model, "block_losses", [])]
        named = [f"val_{name}" for name in (*run.metrics, *losses)]
        self.columns = [*losses, *named]

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self.keys = self.columns

    def on_epoch_begin(self, epoch, logs=None):
        # Epochs that were logged but not backed up are trained again: their
        # lines are removed.
        with open(self.filename, "r+") as file:
            for _ in range(1 + epoch):
                file.readline()
            file.truncate(file.tell())
