"""What `history`, callbacks and `compile` see of blocks."""

import csv

import keras
import numpy as np
import pandas
import pytest

from helpers.small_mlp import data, make, refused, three_blocks, values


def compiled(**kwargs):
    model = three_blocks()
    kwargs = {"optimizer": keras.optimizers.AdamW(1e-3), **kwargs}
    model.compile(**kwargs)
    return model


LOSSES = [f"block_{i}_loss" for i in range(3)]


@pytest.mark.eager
def test_history_is_a_table_with_known_values_carried():
    x, y = data(16)
    model = compiled(block_order=[1.0, 1.0, 0.0], on_policy=0)
    history = model.fit(x, y, batch_size=8, epochs=4, verbose=0).history
    table = pandas.DataFrame(history)
    assert len(table) == 4 and {"loss", *LOSSES} == set(table.columns)
    assert table["block_2_loss"].isna().all()  # it was never drawn
    for name in LOSSES[:2]:
        known = table[name].notna().to_numpy()
        assert known.any() and (np.diff(known.astype(int)) >= 0).all()
    # Two steps an epoch: an epoch that drew one block has the other's last.
    drawn = [[model.block_order(2 * e + s) for s in (0, 1)] for e in range(4)]
    for epoch in range(1, 4):
        for block in {0, 1} - set(drawn[epoch]):
            name = LOSSES[block]
            assert table[name][epoch] == pytest.approx(
                table[name][epoch - 1], nan_ok=True
            )
    # A second fit, also of a loaded model, goes on with them.
    last = table[LOSSES[0]].iloc[-1]
    model.compile("adamw", block_order=1, on_policy=0)
    history = model.fit(x, y, batch_size=8, verbose=0).history
    assert history[LOSSES[0]] == pytest.approx([last])


@pytest.mark.heavy
def test_callbacks_see_one_optimizer_and_losses_that_fall(tmp_path):
    x, y = data(24)
    model = compiled()
    callbacks = [
        keras.callbacks.EarlyStopping("val_block_1_loss", patience=0),
        keras.callbacks.ReduceLROnPlateau(
            "val_block_0_loss", factor=0.5, patience=1, min_delta=1e9
        ),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
    ]
    history = model.fit(
        x,
        y,
        batch_size=8,
        epochs=3,
        validation_data=(x, y),
        callbacks=callbacks[1:],
        verbose=0,
    ).history
    assert history["learning_rate"] == pytest.approx([1e-3, 1e-3, 5e-4])
    rates = [float(part.learning_rate) for part in model.optimizer.parts]
    assert rates == pytest.approx([2.5e-4] * 4)
    with open(tmp_path / "log.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 and set(LOSSES) < set(rows[0])
    stopped = callbacks[0]
    stopped.set_model(model)
    stopped.on_train_begin()
    for epoch, loss in enumerate((2.0, 1.0, 1.5)):
        stopped.on_epoch_end(epoch, {"val_block_1_loss": loss})
    assert model.stop_training and stopped.stopped_epoch == 2


@pytest.mark.eager
def test_moving_averages_of_the_optimizer_are_swapped():
    x, y = data(24)
    adam = keras.optimizers.Adam(0.05, use_ema=True, ema_momentum=0.5)
    model = compiled(optimizer=adam, block_order="round_robin")
    seen = []

    class Look(keras.callbacks.Callback):
        def on_test_begin(self, logs=None):
            seen.append(values(model.trainable_variables))

    swap = keras.callbacks.SwapEMAWeights()
    model.fit(x, y, batch_size=8, epochs=2, verbose=0)
    before = values(model.trainable_variables)
    model.evaluate(x, y, callbacks=[swap, Look()], verbose=0)
    averages = model.optimizer._model_variables_moving_average
    known = {
        id(v): a
        for v, a in zip(
            model.optimizer._trainable_variables, averages, strict=True
        )
    }
    for variable, old, used in zip(
        model.trainable_variables, before, seen[0], strict=True
    ):
        np.testing.assert_allclose(used, np.array(known[id(variable)]), 1e-4)
        np.testing.assert_allclose(np.array(variable), old, 1e-4)
    plain = compiled()
    with pytest.raises(ValueError, match="use_ema"):
        plain.evaluate(
            x, y, callbacks=[keras.callbacks.SwapEMAWeights()], verbose=0
        )


@pytest.mark.eager
def test_one_metric_object_serves_again():
    x, y = data(8)
    metric = keras.metrics.SparseCategoricalAccuracy()
    model = compiled(metrics=[metric])
    for _ in range(2):
        model.fit(x, y, validation_data=(x, y), verbose=0)
        model.compile("adamw", metrics=[metric])
    other = compiled(metrics=[metric])
    found = other.evaluate(x, y, return_dict=True, verbose=0)
    assert 0 <= found["sparse_categorical_accuracy"] <= 1


@pytest.mark.parametrize(
    "settings",
    [
        {"loss_weights": [1.0]},
        {"auto_scale_loss": False},
        {
            "optimizer": keras.optimizers.LossScaleOptimizer(
                keras.optimizers.Adam()
            )
        },
        {"weird": 3},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_compile_refuses_what_blocks_have_no_use_for(settings):
    model = make()
    arguments = {"optimizer": "adam", **settings}
    refused(lambda: model.compile(**arguments), "[Bb]lock")


@pytest.mark.slow
def test_weights_are_excluded_from_decay_after_compile_and_fit():
    x, y = data(16)

    def trained(before, after):
        adamw = keras.optimizers.AdamW(0.0, weight_decay=0.5)
        if before:
            adamw.exclude_from_weight_decay(var_names=["kernel"])
        model = compiled(optimizer=adamw, block_order="round_robin")
        model.fit(x, y, batch_size=8, verbose=0)  # a rate of 0: no change
        model.optimizer.learning_rate = 0.05
        if after:
            model.optimizer.exclude_from_weight_decay(var_names=["kernel"])
        model.fit(x, y, batch_size=8, epochs=2, verbose=0)
        return values(model.trainable_variables)

    wanted, found = trained(True, False), trained(False, True)
    for one, other in zip(wanted, found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    decayed = trained(False, False)
    pairs = zip(wanted, decayed, strict=True)
    assert any(np.abs(one - other).max() > 1e-3 for one, other in pairs)


class Overrides(type(make())):
    def compute_loss(self, *args, **kwargs):
        return 0.0


def test_a_step_of_one_s_own_is_refused():
    model = Overrides()
    refused(lambda: model.compile("adam"), "that of its `Target`")


def frozen(part):
    part.trainable = False


@pytest.mark.parametrize(
    ("what", "when"),
    [
        pytest.param("block", "between", marks=pytest.mark.eager),
        pytest.param("layer", "before", marks=pytest.mark.slow),
        pytest.param("block", "before", marks=pytest.mark.slow),
        pytest.param("layer", "between", marks=pytest.mark.slow),
    ],
)
def test_what_is_frozen_stays(what, when):
    x, y = data(24)
    model = three_blocks(sharing="targets")
    block = model.block(1)
    part = block if what == "block" else block.residual_layers[0]
    settings = {"block_order": "round_robin", "on_policy": 0}
    if when == "before":
        frozen(part)
    model.compile(keras.optimizers.Adam(0.05), **settings)

    def fit():
        model.fit(x, y, batch_size=8, epochs=2, verbose=0)

    if when == "between":
        fit()
        frozen(part)
    before = values(part.variables[:8])
    others = values(model.block(0).trainable_variables)
    if what == "block":
        with pytest.warns(UserWarning, match="block 1 is trainable"):
            fit()
        assert {model.block_order(s) for s in range(9)} == {0, 2}
    else:
        fit()
        assert {model.block_order(s) for s in range(9)} == {0, 1, 2}
    for old, new in zip(before, values(part.variables[:8]), strict=True):
        np.testing.assert_array_equal(old, new)
    after = values(model.block(0).trainable_variables)
    assert any((a != b).any() for a, b in zip(others, after, strict=True))
    if when == "between":
        part.trainable = True
        fit()
        assert any(
            (a != b).any()
            for a, b in zip(before, values(part.variables[:8]), strict=True)
        )


def test_a_model_with_nothing_to_train_is_refused():
    x, y = data(8)
    model = make()
    model.build()
    model.trainable = False
    model.compile("adam")
    refused(lambda: model.fit(x, y, verbose=0), "something to train")
