"""What blocks hand over, kept in files, is what a step would run."""

import json
import shutil

import keras
import numpy as np
import pytest

import keras_dblocks
from helpers import networks
from helpers.small_mlp import data, refused, three_blocks
from keras_dblocks.training.curriculum import Phase

ROWS, BATCH, EPOCHS = 24, 8, 9
SEQUENCE = {"curriculum": "in_sequence", "on_policy": 1.0}


class Losses(keras.callbacks.Callback):
    """The loss of each step, and what is done before an epoch."""

    def __init__(self, before=lambda model, epoch: None):
        super().__init__()
        self.before, self.found = before, []

    def on_epoch_begin(self, epoch, logs=None):
        self.before(self.model, epoch)

    def on_train_batch_end(self, batch, logs=None):
        self.found.append(float(logs["loss"]))


def fit(model, before=lambda model, epoch: None, rows=None, epochs=EPOCHS):
    losses = Losses(before)
    model.fit(
        *(rows or data(ROWS)),
        batch_size=BATCH,
        epochs=epochs,
        callbacks=[losses],
        verbose=0,
    )
    return losses.found


def make(folder=None, **kwargs):
    model = three_blocks(sharing="targets", **kwargs)
    compile_(model, folder)
    return model


def compile_(model, folder, **kwargs):
    # Adam would make much of the rounding of small gradients.
    optimizer = keras.optimizers.SGD(0.05)
    model.compile(optimizer, store_hand_overs=folder, **SEQUENCE | kwargs)


@pytest.mark.parametrize(
    "hand_over", [pytest.param("signal", marks=pytest.mark.heavy), "state"]
)
def test_training_is_what_it_is_without_files(hand_over, tmp_path):
    run = make(hand_over=hand_over)
    kept = make(tmp_path / "hand_overs", hand_over=hand_over)
    np.testing.assert_allclose(fit(kept), fit(run), rtol=2e-3)  # float16
    x, _ = data(ROWS)
    answers = [model.predict(x, verbose=0) for model in (kept, run)]
    np.testing.assert_allclose(*answers, atol=2e-3)
    # Of the last block; those of the block before it are gone.
    known = np.load(tmp_path / "hand_overs" / "known.npy")
    assert known.all() and len(known) == ROWS
    found = json.loads(
        (tmp_path / "hand_overs" / "hand_overs.json").read_text()
    )
    assert found["block"] == 2
    sizes = sum(path.stat().st_size for path in tmp_path.rglob("*.npy"))
    planned = kept.stored_hand_overs.bytes_needed()
    assert planned < sizes < planned + 1000  # the headers


@pytest.mark.heavy
def test_a_row_that_came_before_is_read(tmp_path):
    def spoil(model, epoch):
        if epoch == EPOCHS - 1:
            for leaf in model.stored_hand_overs.leaves:
                leaf[:] = np.nan

    losses = np.array(fit(make(tmp_path), spoil))
    steps = ROWS // BATCH
    assert np.isfinite(losses[:-steps]).all()
    assert np.isnan(losses[-steps:]).all()


@pytest.mark.heavy
def test_a_share_of_a_batch_and_what_a_cut_hands_over(tmp_path):
    for share in (0.5, 0.05):  # half of the rows, and none of so few
        found = []
        for folder in (None, tmp_path / str(share)):
            model = three_blocks(sharing="targets")
            compile_(model, folder, on_policy=share)
            found.append(fit(model))
        np.testing.assert_allclose(*found, rtol=2e-3)

    found = []
    for folder in (None, tmp_path / "cut"):
        keras.utils.set_random_seed(0)
        network, _, loss = networks.make("sequential")
        cut = keras_dblocks.cut(network, 2, training="sequential")
        cut.compile(keras.optimizers.SGD(0.05), loss, store_hand_overs=folder)
        found.append(fit(cut, rows=networks.vectors(ROWS), epochs=4))
    np.testing.assert_allclose(*found, rtol=2e-3)


class Killed(RuntimeError):
    pass


@pytest.mark.heavy
def test_a_killed_run_goes_on_with_its_files(tmp_path):
    unbroken = fit(make(tmp_path / "unbroken"))

    def interrupt(model, epoch):
        if epoch == EPOCHS - 2:
            raise Killed

    def backup():
        return keras.callbacks.BackupAndRestore(
            tmp_path / "backup", delete_checkpoint=False
        )

    folder, arguments = tmp_path / "killed", {"batch_size": BATCH, "verbose": 0}
    arguments["epochs"] = EPOCHS
    model = make(folder)
    with pytest.raises(Killed):
        callbacks = [Losses(interrupt), backup()]
        model.fit(*data(ROWS), callbacks=callbacks, **arguments)
    model.stored_hand_overs.flush()  # what `FLUSH_EVERY` batches do
    again, losses = make(folder), Losses()
    again.fit(*data(ROWS), callbacks=[backup(), losses], **arguments)
    assert np.load(folder / "known.npy").all()
    np.testing.assert_allclose(
        losses.found, unbroken[-len(losses.found) :], rtol=1e-5
    )


@pytest.mark.heavy
def test_files_of_other_data_or_weights_are_not_taken(tmp_path):
    images, labels = data(ROWS)
    fit(make(tmp_path))
    other = -images, labels
    wanted = fit(make(), rows=other)
    np.testing.assert_allclose(
        fit(make(tmp_path), rows=other), wanted, rtol=2e-3
    )
    # Two phases of one block, between which the one before it is trained.
    phases = [Phase(1, 0), Phase(1, 1), Phase(1, 0), Phase(1, 1)]
    found = []
    for folder in (None, tmp_path):
        model = three_blocks(sharing="targets")
        compile_(model, folder, curriculum=phases)
        found.append(fit(model, epochs=8))
    np.testing.assert_allclose(*found, rtol=2e-3)


@pytest.mark.heavy
def test_a_saved_model_keeps_the_folder(tmp_path):
    model = make(tmp_path / "hand_overs")
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.stored_hand_overs.folder == tmp_path / "hand_overs"
    fit(again)


class Stream(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        return data(BATCH)


def test_what_would_not_stay_is_refused(tmp_path, monkeypatch):
    def refuses(match, model, **kwargs):
        refused(lambda: compile_(model, tmp_path, **kwargs), match)

    model = three_blocks(sharing="targets")
    refuses("blocks that are drawn", model, curriculum="sampled")
    refuses("on_policy=0", model, on_policy=0.0)
    refuses("share parts", three_blocks(), curriculum="auto", block_order=2)
    if keras.backend.backend() != "tensorflow":
        refuses("offload=", model, offload="host")
    model = make(tmp_path / "full")
    refused(
        lambda: model.fit(Stream(workers=1), verbose=0), "Pass arrays", model
    )
    # Nobody wants a test that fills the disk.
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: usage._replace(free=100)
    )
    refused(lambda: fit(model), "The disk must hold", model)
