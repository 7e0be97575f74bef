"""What users have as data: frames, lists, columns, dicts, parts of a pass."""

import keras
import numpy as np
import pandas
import pytest
from keras import ops

from helpers.small_mlp import data, equal, make, refused, values
from keras_dblocks import DiffusionBlocks
from keras_dblocks.layers import LabelEmbedding
from keras_dblocks.training.data_order import ArrayBatches
from keras_dblocks.training.user_data import as_arrays, is_arrays


@pytest.mark.once
def test_forms_of_arrays():
    frame = pandas.DataFrame(np.ones((3, 2)))
    assert as_arrays(frame).shape == (3, 2)
    assert as_arrays([1, 2]).tolist() == [1, 2]
    assert as_arrays([[[0.5]], [[1.5]]]).shape == (2, 1, 1)
    nested = as_arrays({"a": [1, 2], "b": (frame, None)})
    assert nested["a"].shape == (2,) and nested["b"][0].shape == (3, 2)
    assert is_arrays(nested) and is_arrays(frame.values)
    for other in (iter([1]), None, ["a string"], []):
        assert not is_arrays(other)
    refused(lambda: as_arrays([[1, 2], [3]]), "of unequal lengths")


def fitted(x, y, **kwargs):
    model = make()
    model.compile("adamw")
    model.fit(x, y, batch_size=8, epochs=1, verbose=0, **kwargs)
    return model


@pytest.mark.slow
def test_every_form_trains_the_same():
    x, y = data(24)
    wanted = values(fitted(x, y).weights)
    for other in (
        (x, y[:, None]),  # as `keras.datasets` has labels
        (x.tolist(), y.tolist()),
        (x, pandas.Series(y.astype("int64"))),
    ):
        model = fitted(*other)
        assert equal(values(model.weights), wanted)
    losses = [
        model.evaluate(x, labels, verbose=0, return_dict=True)["loss"]
        for labels in (y, y[:, None], y.tolist())
    ]
    assert losses[0] == losses[1] == losses[2]
    one, other = (model.predict(a, verbose=0) for a in (x, x.tolist()))
    np.testing.assert_array_equal(one, other)
    one_hot = np.eye(4)[y].astype("int32")
    refused(lambda: fitted(x, one_hot), r"or \(N, 1\)")


class Steps:
    """A model as `ArrayBatches` sees it."""

    seed = 0
    _initial_epoch = None

    def __init__(self):
        self.step = 0
        self.epoch_start, self.fit_start = (
            keras.Variable(0, dtype="int32", trainable=False) for _ in "ab"
        )

    def training_step(self):
        return self.step


def rows_seen(model, batches, epochs, killed_at=None):
    """Rows in the order they come, and ends of epochs as numbers of steps."""
    seen, ends = [], []
    for _ in range(epochs):
        batches.on_epoch_begin()
        for index in range(batches.num_batches):
            rows, *_ = batches[index]
            seen.append(rows)
            model.step += 1
            if model.step == killed_at:
                return seen, ends
        ends.append(model.step)
    return seen, ends


@pytest.mark.once
@pytest.mark.parametrize("steps", [None, 2, 3, 7])
def test_all_rows_come_before_any_comes_again(steps):
    x = np.arange(10)
    model = Steps()
    batches = ArrayBatches(model, x, None, None, 4, True, steps)
    seen, ends = rows_seen(model, batches, 6)
    assert ends == [(steps or 3) * (i + 1) for i in range(6)]
    whole = [np.concatenate(seen[i : i + 3]) for i in range(0, len(seen), 3)]
    for rows in whole[: len(seen) // 3]:
        assert sorted(rows) == list(range(10))
    assert len({tuple(rows) for rows in whole[: len(seen) // 3]}) > 1 or (
        len(seen) < 6
    )


@pytest.mark.once
@pytest.mark.parametrize("steps", [None, 2, 7])
@pytest.mark.parametrize("killed_at", [1, 5, 11])
def test_a_killed_run_goes_on_where_it_was(steps, killed_at, monkeypatch):
    x, wanted_model, model = np.arange(10), Steps(), Steps()

    def batches(model):
        return ArrayBatches(model, x, x, None, 4, True, steps)

    wanted, ends = rows_seen(wanted_model, batches(wanted_model), 6)
    seen, done = rows_seen(model, batches(model), 6, killed_at)
    model._initial_epoch = len(done)  # as BackupAndRestore leaves it
    rest, later = rows_seen(model, batches(model), 6 - len(done))
    assert done + later == ends
    both = zip(wanted, seen + rest, strict=True)
    for one, other in both:
        np.testing.assert_array_equal(one, other)


@pytest.mark.once
def test_a_second_fit_starts_a_pass_of_its_own():
    x, model = np.arange(10), Steps()
    for _ in range(2):
        batches = ArrayBatches(model, x, None, None, 4, True, 2)
        seen, _ = rows_seen(model, batches, 1)
        assert len(np.unique(np.concatenate(seen))) == 8


def two_inputs():
    """A network with a dict of inputs."""

    class Stem(keras.layers.Layer):
        def build(self, noisy_shape, condition_shape):
            self.dense = keras.layers.Dense(6)
            self.dense.build((None, 6 + 2 + 3))

        def call(self, noisy, condition):
            both = [noisy, condition["left"], condition["right"]]
            return self.dense(ops.concatenate(both, -1))

    def layer():
        state = keras.Input((6,))
        return keras.Model(state, state + keras.layers.Dense(6)(state))

    return DiffusionBlocks(
        target=LabelEmbedding(3, 6),
        stem=Stem(),
        layers=[layer(), layer()],
        head=keras.layers.Dense(3),
        num_blocks=2,
        condition={
            "left": keras.KerasTensor((None, 2)),
            "right": keras.KerasTensor((None, 3)),
        },
    )


@pytest.mark.eager
def test_a_dict_is_shuffled_split_and_checked_like_one_array():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 40).astype("int32")
    x = {
        "left": np.repeat(y[:, None], 2, 1).astype("float32"),
        "right": rng.normal(size=(40, 3)).astype("float32"),
    }
    model = two_inputs()
    model.compile("adamw", metrics=["accuracy"])
    history = model.fit(
        x, y, batch_size=8, epochs=2, validation_split=0.2, verbose=0
    ).history
    assert len(history["val_accuracy"]) == 2
    rest = {name: part[:5] for name, part in x.items()}
    assert model.predict(rest, verbose=0).shape == (5, 3)
    batches = ArrayBatches(model, x, y, None, 8, True)
    batches.on_epoch_begin()
    inputs, labels = batches[0]
    np.testing.assert_array_equal(inputs["left"][:, 0], labels)
    assert (labels != y[:8]).any()
    wrong = {"left": x["left"], "middle": x["right"]}
    message = refused(lambda: model.fit(wrong, y), "'left', 'right'", model)
    assert "'middle'" in message
    refused(lambda: model.predict(x["left"]), "one array", model)


@pytest.mark.parametrize("alone", [False, True], ids=["whole", "block"])
def test_streams_that_do_not_fit_are_refused(alone):
    x, y = data(16)
    model = make()
    if alone:
        model = model.block(0)
    model.compile("adamw")

    class Rows(keras.utils.PyDataset):
        num_batches = 2

        def __getitem__(self, index):
            return {"image": x[:8], "label": y[:8]}

    refused(lambda: model.fit(Rows(), verbose=0), "'image', 'label'")
    refused(
        lambda: model.fit(Rows(), validation_split=0.1), "with a Rows", model
    )
