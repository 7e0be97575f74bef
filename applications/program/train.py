"""Trains one run with backups and a log, and saves it."""

import json

import keras


def train(run, folder):
    """Trains, saves and prints what came out.

    Args:
        run: `Run`.
        folder: path that `claim` made this run's.
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
    """`CSVLogger` that goes on where a killed run is resumed.

    Its columns do not depend on epoch 1, which may have no validation and
    may lack a block that was not drawn.
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
        # Epochs that were logged but not backed up are run again.
        with open(self.filename, "r+") as file:
            for _ in range(1 + epoch):
                file.readline()
            file.truncate(file.tell())


def claim(folder, settings, resume):
    """Makes `folder` this run's; a ValueError if it is another's."""
    path = folder / "settings.json"
    settings = json.loads(json.dumps(settings))
    if path.exists() and not resume:
        raise ValueError(
            "A run needs a folder of its own. "
            f"Received: {folder}, which holds one. Pass --resume to go on "
            "with it, or another --output."
        )
    before = json.loads(path.read_text()) if path.exists() else settings
    changed = [
        f"{name}={settings.get(name)} (was {before.get(name)})"
        for name in sorted({*before, *settings})
        if settings.get(name) != before.get(name)
    ]
    if changed:
        raise ValueError(
            "A run is resumed with the settings it began with. Received: "
            f"{', '.join(changed)}. Leave them, or pass another --output."
        )
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings, indent=2) + "\n")
