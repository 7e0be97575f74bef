"""What `BlockLog` writes, as TensorBoard itself reads it."""

import sys

import keras
import numpy as np
import pytest
from tensorboard.backend.event_processing import event_accumulator

import keras_dblocks
from helpers.small_mlp import data, make, refused, three_blocks
from helpers.small_systems import data as data_of
from helpers.small_systems import make as make_system
from keras_dblocks.callbacks import BlockLog

LAST = "learning_rate/shared"  # written last, if there is no validation
ALL = dict.fromkeys(("scalars", "images", "tensors"), 0)


def read(folder):
    """Everything that the event files of a folder hold, once each is read."""
    found = event_accumulator.EventAccumulator(str(folder), ALL)
    return found.Reload()


def curves(folder):
    """For each tag of numbers, its pairs of step and value."""
    found = read(folder)
    tags = found.Tags()["scalars"]
    return {t: [(e.step, e.value) for e in found.Scalars(t)] for t in tags}


def agree(curve, steps, values):
    wanted = list(zip(steps, values, strict=True))
    np.testing.assert_allclose(curve, wanted, rtol=1e-6)


def fit(model, callbacks, x, y, **kwargs):
    options = {"batch_size": 8, "epochs": 2, "verbose": 0, **kwargs}
    return model.fit(x, y, callbacks=callbacks, **options).history


@pytest.mark.eager
@pytest.mark.quick
def test_a_model_in_blocks(tmp_path):
    x, y = data(24)  # three steps an epoch
    model = three_blocks()
    model.compile(keras.optimizers.AdamW(1e-3), block_order=[1.0, 1.0, 0.0])
    log = BlockLog(tmp_path, validation_data=(x[:9], y[:9]))
    history = fit(model, [log], x, y, validation_data=(x, y))
    found = curves(tmp_path)

    drawn = [model.block_order(step) for step in range(6)]
    assert found["blocks/drawn"] == list(zip(range(1, 7), drawn, strict=True))
    for block in range(3):
        counts = [drawn[:3].count(block), drawn[3:].count(block)]
        tag = f"blocks/steps_of_block_{block}"
        assert found[tag] == [(3, counts[0]), (6, counts[1])]
        agree(found[f"learning_rate/block_{block}"], (3, 6), (1e-3, 1e-3))
        values = history[f"block_{block}_loss"]
        wanted = [
            (step, value)
            for step, value, count in zip((3, 6), values, counts, strict=True)
            if count
        ]
        written = found.get(f"train/block_{block}_loss", [])
        np.testing.assert_allclose(written, wanted, rtol=1e-6)
        name = f"block_{block}_loss"
        agree(found[f"validation/{name}"], (3, 6), history[f"val_{name}"])
    assert "train/block_2_loss" not in found  # it was never drawn
    agree(found["train/loss"], (3, 6), history["loss"])

    steps = model.predict_steps(x[:9]).argmax(-1)  # one call of each block
    for block, answers in enumerate(steps):
        tag = f"validation/accuracy_after_block_{block}"
        assert found[tag][-1] == (6, pytest.approx(np.mean(answers == y[:9])))


@pytest.mark.eager
def test_a_run_that_was_killed_goes_on_with_its_curves(tmp_path):
    x, y = data(24)

    class Kill(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:  # logged, but not backed up
                steps = [step for step, _ in curves(killed / "log")[LAST]]
                assert steps == [3, 6]  # nothing is on its way any more
                raise KeyboardInterrupt

    def run(folder, *more):
        model = three_blocks()
        model.compile("adamw")
        backup = keras.callbacks.BackupAndRestore(
            folder / "backup", delete_checkpoint=False
        )
        log = BlockLog(folder / "log")
        try:  # the order of the callbacks does not matter
            fit(model, [log, *more, backup], x, y, epochs=3)
        finally:
            log.on_train_end()  # closes the file, as the process's end does

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(whole)
    with pytest.raises(KeyboardInterrupt):
        run(killed, Kill())
    run(killed)
    assert len(list((killed / "log").iterdir())) == 2
    wanted, found = curves(whole / "log"), curves(killed / "log")
    assert wanted.keys() == found.keys()
    for tag, pairs in wanted.items():
        np.testing.assert_allclose(found[tag], pairs, rtol=1e-5, err_msg=tag)


def network():
    sizes = [keras.layers.Dense(8, activation="relu") for _ in range(3)]
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), *sizes]
    )
    model.add(keras.layers.Dense(4, activation="softmax"))
    model.compile(
        "sgd", "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return model


@pytest.mark.heavy
def test_a_block_by_itself(tmp_path):
    x, y = data(24)
    block = make().block(1)
    block.compile(keras.optimizers.Adam(1e-3))
    history = fit(block, [BlockLog(tmp_path)], x, y, validation_data=(x, y))
    found = curves(tmp_path)
    tags = {"train/loss", "validation/loss", "learning_rate"}
    assert found.keys() == tags
    agree(found["validation/loss"], (3, 6), history["val_loss"])


@pytest.mark.heavy
def test_a_network_that_has_no_blocks(tmp_path):
    x, y = data(24)
    fit(network(), [BlockLog(tmp_path)], x, y)
    found = curves(tmp_path)
    assert found.keys() == {"train/loss", "train/accuracy", "learning_rate"}
    assert [step for step, _ in found["train/loss"]] == [3, 6]


@pytest.mark.heavy
def test_a_cut_network(tmp_path):
    x, y = data(24)
    cut = keras_dblocks.cut(network(), 2)
    cut.compile(keras.optimizers.SGD(0.01), steps_per_visit=1)
    fit(cut, [BlockLog(tmp_path)], x, y, validation_data=(x, y))
    found = curves(tmp_path)
    drawn = [value for _, value in found["blocks/drawn"]]
    assert drawn == [cut.block_order(step) for step in range(6)]
    assert not [tag for tag in found if tag.startswith("train/block")]
    assert "validation/accuracy" in found


@pytest.mark.heavy
def test_a_network_cut_in_sequence(tmp_path):
    x, y = data(24)
    cut = keras_dblocks.cut(network(), 2, training="sequential")
    cut.compile(keras.optimizers.SGD(0.01))
    log = BlockLog(tmp_path, validation_data=(x, y))
    history = fit(cut, [log], x, y, validation_data=(x, y))
    found = curves(tmp_path)
    drawn = [value for _, value in found["blocks/drawn"]]
    assert drawn == [0, 0, 0, 1, 1, 1]  # one phase an epoch
    first = history["block_0_loss"][:1]  # the second is the first, carried on
    agree(found["train/block_0_loss"], (3,), first)
    assert [step for step, _ in found["train/block_1_loss"]] == [6]
    whole = found["validation/accuracy"][-1][1]
    last = found["validation/accuracy_after_block_1"][-1][1]
    assert whole == pytest.approx(last)


@pytest.mark.heavy
def test_batches_of_a_long_epoch(tmp_path):
    x, y = data(40)  # five steps
    model = three_blocks()
    model.compile("adamw", block_order="round_robin")
    fit(model, [BlockLog(tmp_path, update_freq=2)], x, y, epochs=1)
    found = curves(tmp_path)
    assert [step for step, _ in found["train/loss"]] == [2, 4, 5]
    assert [step for step, _ in found["train/block_2_loss"]] == [4, 5]
    assert [int(value) for _, value in found["blocks/drawn"]] == [0, 1, 2, 0, 1]


@pytest.mark.heavy
def test_images_and_texts(tmp_path):
    x, y = data(16)
    shade = np.linspace(-1.5, 1.0, 2 * 4 * 4 * 3).reshape(2, 4, 4, 3)
    made = iter([shade, ["one\ntwo", "three"], shade[..., :2]])
    model = make()
    model.compile("adamw")
    log = BlockLog(tmp_path, samples=lambda of: next(made), samples_every=2)
    fit(model, [log], x, y, epochs=5)
    found = read(tmp_path)
    (image,) = found.Images("samples")
    assert image.step == 4  # after the second epoch
    picture = tmp_path / "picture.png"
    picture.write_bytes(image.encoded_image_string)
    pixels = np.asarray(keras.utils.load_img(picture)).astype(int)
    wanted = np.round(np.clip((shade + 1) / 2, 0, 1) * 255).astype(int)
    assert np.any(np.all(pixels == wanted[0, 3, 3], axis=-1))
    assert pixels.max() == 255
    (text,) = found.Tensors("samples/text_summary")
    assert text.step == 8
    (written,) = text.tensor_proto.string_val
    assert b"    one\n    two" in written and b"    three" in written
    refused(lambda: fit(model, [log], x, y), "1, 3 or 4 channels")
    log.on_train_end()  # closes the file, as the process's end does


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dit", "mdm"])
def test_what_a_generator_draws(name, tmp_path):
    model = make_system(name)
    model.compile("adamw")

    def samples(model):
        if name == "dit":
            return model.generate([0, 1], num_steps=2)
        return [str(row) for row in model.generate(num_samples=2)]

    log = BlockLog(tmp_path, samples=samples)
    model.fit(*data_of(name, 8), callbacks=[log], epochs=2, verbose=0)
    found = read(tmp_path)
    kind = found.Images if name == "dit" else found.Tensors
    tag = "samples" if name == "dit" else "samples/text_summary"
    assert [event.step for event in kind(tag)] == [1, 2]


def test_without_the_package_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"Received: .* Run `pip install"):
        BlockLog(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"update_freq": 0}, "update_freq"),
        ({"update_freq": "batch"}, "update_freq"),
        ({"samples_every": 0}, "samples_every"),
        ({"samples": 3}, "function of the model"),
        ({"validation_data": np.zeros(3)}, "no pair"),
        ({"validation_data": (np.zeros(3), np.zeros(3))}, "float64"),
    ],
    ids=lambda value: next(iter(value), "") if isinstance(value, dict) else "",
)
def test_arguments_out_of_range_are_refused(arguments, match, tmp_path):
    refused(lambda: BlockLog(tmp_path, **arguments), match)


def test_accuracies_need_a_classifier(tmp_path):
    x, y = data(8)
    cut = keras_dblocks.cut(network(), 2)
    cut.compile("sgd")
    log = BlockLog(tmp_path, validation_data=(x, y))
    refused(lambda: fit(cut, [log], x, y), "predict classes")
