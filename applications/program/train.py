"""Trains a run with backups and a log, and saves its model."""

import json

import keras


def train(run, folder):
    """Trains a run, saves its model and prints its results.

    Args:
        run: `Run`.
        folder: path of the run's folder, which `claim` has created.
    """
    run.prepare_fit(folder)
    print(run.describe())
    backup = keras.callbacks.BackupAndRestore(
        folder / "backup", double_checkpoint=True, delete_checkpoint=False
    )
    log = EpochLog(run, folder / "history.csv")
    run.fit(
        callbacks=[log, *run.callbacks(folder), backup],
        validation_data=run.validation_data(),
        validation_freq=max(1, run.epochs // 20),
    )
    print("saved", *run.save(folder))
    for line in run.results(folder):
        print(line)


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


def claim(folder, settings, resume):
    """Creates the folder of a run, or checks that it belongs to the run.

    Args:
        folder: path.
        settings: dict of the run's settings.
        resume: bool. Whether the folder may hold a run with these settings.

    Raises:
        ValueError: if the folder holds a run and `resume` is False, or a run
            with other settings.
    """
    path = folder / "settings.json"
    settings = json.loads(json.dumps(settings))
    if path.exists() and not resume:
        raise ValueError(
            "A run needs a folder of its own. "
            f"Received: {folder}, which holds one. Pass --resume to continue "
            "it, or another --output."
        )
    before = json.loads(path.read_text()) if path.exists() else settings
    changed = [
        f"{name}={settings.get(name)} (was {before.get(name)})"
        for name in sorted({*before, *settings})
        if settings.get(name) != before.get(name)
    ]
    if changed:
        raise ValueError(
            "A run must be resumed with its original settings. Received: "
            f"{', '.join(changed)}. Do not change them, or pass another "
            "--output."
        )
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings, indent=2) + "\n")
