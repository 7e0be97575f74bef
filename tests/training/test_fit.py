"""What users pass to `fit`: callbacks, kinds of data, dtype policies."""

import csv

import keras
import numpy as np
import pytest
from keras import ops

from helpers.small_mlp import data, make, three_blocks, values
from keras_dblocks.streams import Stream


def compiled(optimizer="adamw", **kwargs):
    model = three_blocks()
    model.compile(optimizer, metrics=["accuracy"], **kwargs)
    return model


@pytest.mark.heavy
def test_callbacks_work(tmp_path):
    x, y = data(48)
    model = compiled(keras.optimizers.AdamW(1e-3))
    rates = []
    callbacks = [
        keras.callbacks.LearningRateScheduler(lambda e, r: 0.01 / (e + 1)),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.EarlyStopping("val_loss", patience=1, min_delta=10.0),
        keras.callbacks.ModelCheckpoint(tmp_path / "best.keras"),
        keras.callbacks.LambdaCallback(
            on_epoch_end=lambda e, logs: rates.extend(
                float(o.learning_rate) for o in model.optimizer.parts
            )
        ),
    ]
    history = model.fit(
        x,
        y,
        batch_size=8,
        epochs=9,
        verbose=0,
        validation_data=(x, y),
        callbacks=callbacks,
    ).history
    # The first epoch always improves; then min_delta cannot be met.
    assert len(history["loss"]) == 2
    np.testing.assert_allclose(rates, [0.01] * 4 + [0.005] * 4, rtol=1e-6)
    with open(tmp_path / "log.csv") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[1]["val_loss"]) == pytest.approx(history["val_loss"][1])
    assert "val_accuracy" in rows[0] and "block_0_loss" in rows[0]
    best = keras.saving.load_model(tmp_path / "best.keras")
    np.testing.assert_allclose(
        best.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6
    )


@pytest.mark.heavy
def test_moving_average_is_per_block_and_survives_predict_and_save(tmp_path):
    x, y = data(24)

    def adam():
        return keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.5)

    model = compiled(adam(), block_order=0, on_policy=0)
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    model.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[swap])
    before = model.predict(x, verbose=0)
    model.save(tmp_path / "ema.keras")  # Keras 3.15 on JAX: deleted arrays
    loaded = keras.saving.load_model(tmp_path / "ema.keras")
    np.testing.assert_allclose(loaded.predict(x, verbose=0), before, atol=1e-6)
    # A block that never trained has an average nobody touched.
    for optimizer in model.optimizer.parts[1:3]:
        for average in optimizer._model_variables_moving_average:
            assert not ops.convert_to_numpy(average).any()


class Batches(keras.utils.PyDataset):
    """Arrays in batches of 8."""

    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x) // 8

    def __getitem__(self, i):
        return self.x[8 * i : 8 * i + 8], self.y[8 * i : 8 * i + 8]


def streams(x, y):
    """The same batches as every kind of stream this backend takes."""
    kinds = {"py_dataset": Batches(x, y)}
    kinds["generator"] = (Batches(x, y)[i] for i in range(len(x) // 8))
    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        tensors = torch.as_tensor(x), torch.as_tensor(y)
        kinds["loader"] = torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(*tensors), batch_size=8
        )
    if backend == "tensorflow":
        import tensorflow as tf

        kinds["tf.data"] = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    else:  # grain feeds JAX and torch
        import grain

        kinds["grain"] = (
            grain.MapDataset.source(list(zip(x, y, strict=True)))
            .batch(8)
            .to_iter_dataset()
        )
    return kinds


@pytest.mark.eager
def test_every_kind_of_data_gives_the_same_weights():
    x, y = data(24)
    results = {}
    for name, stream in {"arrays": None, **streams(x, y)}.items():
        model = compiled("sgd", block_order="round_robin", on_policy=0.5)
        if stream is None:
            model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
        else:
            model.fit(stream, shuffle=False, verbose=0)
        assert model.training_step() == 3
        results[name] = values(model.trainable_variables)
    for name, result in results.items():
        for a, b in zip(results["arrays"], result, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6, err_msg=name)


def test_a_bad_batch_of_a_stream_is_named_and_the_model_kept():
    x, y = data(24)
    x[17] = np.nan
    model = compiled("sgd", on_policy=0)
    with pytest.raises(ValueError, match="Batch 3: .*NaN"):
        model.fit(Batches(x, y), shuffle=False, verbose=0)
    assert model.training_step() == 2
    assert np.isfinite(model.predict(x[:8], verbose=0)).all()


def test_sample_and_class_weights():
    x, y = data(24)
    weights = np.zeros(24, "float32")
    model = compiled("sgd", on_policy=0)
    start = values(model.trainable_variables)
    model.fit(x, y, batch_size=8, sample_weight=weights, verbose=0)
    for a, b in zip(start, values(model.trainable_variables), strict=True):
        np.testing.assert_array_equal(a, b)
    zero = dict.fromkeys(range(4), 0.0)
    history = model.fit(x, y, batch_size=8, class_weight=zero, verbose=0)
    assert history.history["loss"] == [0.0]


@pytest.mark.eager
def test_validation_split():
    x, y = data(40)
    model = compiled("sgd", on_policy=0)
    history = model.fit(
        x, y, batch_size=8, validation_split=0.4, verbose=0
    ).history
    assert model.training_step() == 3
    assert "val_accuracy" in history and "val_loss" in history


def test_noise_is_float32_under_bfloat16():
    # docs/method.md#what-blocks-share
    x, y = data(16)
    exact, mixed = three_blocks(), three_blocks(dtype="mixed_bfloat16")
    mixed.set_weights(exact.get_weights())
    block = mixed.blocks[0]
    assert block.residual_layers[0].inner.compute_dtype == "bfloat16"
    assert block.target(y).dtype == exact.blocks[0].target(y).dtype
    sigma = ops.convert_to_tensor([0.0021, 0.0022, 79.0, 79.1])
    clean = ops.cast(block.target(y[:4]), "bfloat16")
    stream, rows = Stream(0, "test"), ops.arange(4, dtype="int32")
    noisy = mixed.noise.corrupt(clean, sigma, stream, rows, 1)
    assert keras.backend.standardize_dtype(noisy.dtype) == "float32"
    prediction = block.denoise(noisy, sigma, ops.convert_to_tensor(x[:4]))
    assert keras.backend.standardize_dtype(prediction.dtype) == "float32"
    bounds = block.range_bounds(overlap=True)
    level = block._draw_levels(stream, rows, 1, bounds, True)
    assert keras.backend.standardize_dtype(level.dtype) == "float32"
    mixed.compile("adamw")
    loss = mixed.fit(x, y, batch_size=8, verbose=0).history["loss"]
    assert np.isfinite(loss).all()
    for variable in mixed.trainable_variables:
        assert variable.dtype == "float32"


@pytest.mark.quick
def test_train_on_batch_takes_one_step_of_the_block_order():
    x, y = data(16)
    model = compiled("sgd", block_order="round_robin", on_policy=0)
    start = [values(group) for group in model.own_variables()]
    for step in range(2):
        rows = slice(8 * step, 8 * step + 8)
        logs = model.train_on_batch(x[rows], y[rows], return_dict=True)
        assert np.isfinite(logs[f"block_{step}_loss"])
    assert model.training_step() == 2
    moved = [
        any(not np.array_equal(a, b) for a, b in zip(s, values(g), strict=True))
        for s, g in zip(start, model.own_variables(), strict=True)
    ]
    assert moved == [True, True, False]


def test_predict_steps_builds_a_fresh_model():
    x, _ = data(4)
    model = make(1, num_layers=3, num_blocks=3)
    assert not model.built
    assert model.predict_steps(x).shape == (3, 4, 4)
