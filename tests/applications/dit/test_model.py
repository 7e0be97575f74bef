"""DiT trains in blocks and makes images: batches, streams, averages."""

import gc
import weakref

import keras
import numpy as np
import pytest
from keras import ops

from helpers.small_vit import equal, refused, state, values
from helpers.toys import CHAINS
from keras_dblocks import samplers
from keras_dblocks.applications import DiT, DiTB2, DiTL2, DiTS2, DiTXL2
from keras_dblocks.diffusion.samplers import loop
from keras_dblocks.models import assembly, one_at_a_time
from keras_dblocks.streams import rows_of

SIZES = {
    "image_size": 8,
    "num_classes": 4,
    "channels": 1,
    "patch_size": 4,
    "hidden_dim": 12,
    "num_heads": 2,
    "intermediate_dim": 16,
    "num_layers": 3,
}


def make(initial=0, **kwargs):
    keras.utils.set_random_seed(initial)
    return DiT(**{**SIZES, **kwargs})


def data(count=24):
    """Images of one brightness per class, and a little noise."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, count).astype("int32")
    images = 0.1 * rng.normal(size=(count, 8, 8, 1))
    images += (labels[:, None, None, None] - 1.5) / 2
    return images.clip(-1, 1).astype("float32"), labels


def randomize(model, scale=0.3):
    """Weights of a network that does something, averages besides."""
    if not model.built:
        model.build()
    rng = np.random.default_rng(1)
    for variable in {id(v): v for v in model.trainable_variables}.values():
        variable.assign(scale * rng.normal(size=variable.shape))
    return model


@pytest.fixture(scope="module")
def trained():
    images, labels = data(256)
    model = make(hidden_dim=32)
    model.compile(keras.optimizers.AdamW(1e-2))
    model.fit(images, labels, batch_size=32, epochs=30, verbose=0)
    return model


@pytest.mark.heavy
@pytest.mark.quick
def test_it_learns_and_generates(trained):
    labels = np.arange(4).repeat(8)
    images = trained.generate(labels, num_steps=12, sampler="euler")
    assert images.shape == (32, 8, 8, 1) and images.dtype == "float32"
    found = images.mean((1, 2, 3)).reshape(4, 8).mean(1)
    np.testing.assert_allclose(found, [-0.75, -0.25, 0.25, 0.75], atol=0.2)
    images, labels = data()
    result = trained.evaluate(images, labels, return_dict=True, verbose=0)
    fresh = make(hidden_dim=32)
    fresh.compile()
    before = fresh.evaluate(images, labels, return_dict=True, verbose=0)
    assert set(result) == {"loss", *(f"block_{i}_loss" for i in range(3))}
    assert all(result[name] < before[name] for name in result)


def test_batches_make_the_same_images():
    model, labels = randomize(make()), [0, 1, 2, 3, 1]
    keywords = {"num_steps": 4, "sampler": "euler", "seed": 3}
    whole = model.generate(labels, **keywords)
    for size in (2, 5, 64):
        parts = model.generate(labels, batch_size=size, **keywords)
        np.testing.assert_allclose(parts, whole, atol=1e-5)
    other = model.generate(labels, **{**keywords, "seed": 4})
    assert np.abs(other - whole).max() > 0.05


@pytest.mark.heavy
@pytest.mark.parametrize(
    "sampler",
    [
        pytest.param("euler", marks=pytest.mark.slow),
        pytest.param("heun", marks=pytest.mark.slow),
        "stochastic",
    ],
)
def test_streaming_is_bit_equal(tmp_path, sampler):
    model, labels = randomize(make()), [0, 1, 2, 3, 1]
    paths = [tmp_path / f"block_{i}.keras" for i in range(3)]
    for block, path in zip(model.blocks, paths, strict=True):
        block.save(path)
    keywords = {"num_steps": 8, "sampler": sampler, "batch_size": 2}
    keywords |= {"grid": "upper_edges", "guidance_scale": 2.0}
    whole = model.generate(labels, **keywords)
    streamed = DiT.generate_from_blocks(paths, labels, **keywords)
    np.testing.assert_array_equal(streamed, whole)
    refused(
        lambda: DiT.generate_from_blocks(paths[::-1], labels, **keywords),
        "in order",
    )
    refused(
        lambda: DiT.generate_from_blocks(paths[:2], labels, **keywords),
        "2 files",
    )


@pytest.mark.heavy
def test_a_column_of_labels_is_the_labels(tmp_path):
    model, column = randomize(make()), np.int32([[0], [2], [1]])
    keywords = {"num_steps": 6, "grid": "upper_edges", "guidance_scale": 2.0}
    whole = model.generate(column[:, 0], **keywords)
    np.testing.assert_array_equal(model.generate(column, **keywords), whole)
    paths = [tmp_path / f"block_{i}.keras" for i in range(3)]
    for block, path in zip(model.blocks, paths, strict=True):
        block.save(path)
    streamed = DiT.generate_from_blocks(paths, column, **keywords)
    np.testing.assert_array_equal(streamed, whole)


def test_streaming_holds_one_block(tmp_path, monkeypatch):
    model = randomize(make())
    paths = [tmp_path / f"block_{i}.keras" for i in range(3)]
    for block, path in zip(model.blocks, paths, strict=True):
        block.save(path)
    loaded = []

    def read(path):
        gc.collect()
        assert [b for b in loaded if b() is not None] == [], path
        block = assembly.read_block(path)
        loaded.append(weakref.ref(block))
        return block

    monkeypatch.setattr(one_at_a_time, "read_block", read)
    DiT.generate_from_blocks(paths, [0, 1], num_steps=3)
    assert len(loaded) == 3  # each file is read once


@pytest.mark.eager
def test_trajectory_is_that_of_the_sampler():
    model, labels = randomize(make()), [0, 1, 2]
    keywords = {"num_steps": 4, "sampler": "heun", "grid": "equal_mass"}
    images, path = model.generate(
        labels, return_trajectory=True, batch_size=2, **keywords
    )
    whole = model.generate(labels, **keywords)
    np.testing.assert_allclose(images, whole, atol=1e-4)
    assert len(path) == 7  # 2 n - 1 calls
    start = ops.convert_to_tensor(path[0]["noisy"])
    condition = ops.convert_to_tensor(labels, dtype="int32")
    sampler = samplers.HeunSampler(4, "equal_mass")
    chain = model.blocks, model.partition, sampler, start, condition
    wanted = loop.trajectory(*chain, rows_of(3))
    for ours, theirs in zip(path, wanted, strict=True):
        assert ours["block"] == theirs["block"]
        assert ours["level"] == pytest.approx(theirs["level"])
        for key in ("noisy", "denoised"):
            theirs_there = ops.convert_to_numpy(theirs[key])
            np.testing.assert_allclose(ours[key], theirs_there, atol=1e-3)
    np.testing.assert_allclose(
        path[-1]["denoised"].clip(-1, 1), images, atol=1e-6
    )


@pytest.mark.eager
def test_every_block_is_run():
    """Each block is called, and its weights change the images.

    docs/method.md#routing
    """
    chains = [c for c in CHAINS if c[1] <= 7 or c[0] == 3]
    for blocks in (2, 3, 4, 6):
        model = randomize(make(num_layers=12, num_blocks=blocks))
        for _, steps, grid in [c for c in chains if c[0] == blocks]:
            sampler = samplers.EulerSampler(steps, grid, "noise")
            visits = loop.plan(sampler, model.partition)
            assert [visit.block for visit in visits] == [*range(blocks)]
            calls = sum(visit.num_calls for visit in visits)
            assert calls == steps
        keywords = {"num_steps": blocks, "sampler": "euler"}
        before = model.generate([0], **keywords)
        if blocks == 6:
            continue  # the other chains say enough about running
        for block in model.blocks:
            kernel = block.residual_layers[-1].output_dense.kernel
            kept = ops.convert_to_numpy(kernel)
            kernel.assign(kept + 1.0)
            after = model.generate([0], **keywords)
            # The last call of this grid, at 0.002, hardly has an effect.
            assert np.abs(after - before).max() > 1e-5, block.index
            kernel.assign(kept)


@pytest.mark.heavy
def test_predict_is_generate():
    model = randomize(make(value_range=(0, 1)))
    model.sampler = samplers.EulerSampler(3, start="noise")
    labels = np.array([0, 1, 2, 3, 1])
    images = model.predict(labels, batch_size=2)
    whole = model.generate(labels, num_steps=3, grid="upper_edges")
    np.testing.assert_allclose(images, whole, atol=1e-5)
    assert np.abs(images[1] - images[4]).max() > 1e-3  # of one class


@pytest.mark.eager
def test_averages_are_used_and_saved(tmp_path):
    model = make(ema_momentum=0.9)
    model.compile(keras.optimizers.AdamW(1e-2), block_order=[1, 0, 1])
    images, labels = data()
    model.fit(images, labels, batch_size=4, epochs=3, verbose=0)
    updates = [int(block.average.updates) for block in model.blocks]
    assert sum(updates) == 18 and updates[1] == 0 and min(updates[::2]) > 0
    assert int(model.blocks[0].shared_average.updates) == 18
    keywords = {"num_steps": 3, "sampler": "euler"}
    averaged = model.generate([0, 1], **keywords)
    # The same weights, written in by hand, and no averages.
    plain = make(ema_momentum=None)
    plain.build()
    for ours, theirs in zip(model.blocks, plain.blocks, strict=True):
        assert theirs.average is None
        with ours.averaged():
            kept = [ops.convert_to_numpy(v) for v in ours.trainable_variables]
        for variable, value in zip(
            theirs.trainable_variables, kept, strict=True
        ):
            variable.assign(value)
    by_hand = plain.generate([0, 1], **keywords)
    np.testing.assert_allclose(averaged, by_hand, atol=1e-5)
    for mine, its in zip(
        model.trainable_variables, plain.trainable_variables, strict=True
    ):
        its.assign(ops.convert_to_numpy(mine))
    assert np.abs(plain.generate([0, 1], **keywords) - averaged).max() > 1e-3
    model.save(tmp_path / "dit.keras")
    loaded = keras.saving.load_model(tmp_path / "dit.keras", compile=False)
    np.testing.assert_allclose(
        loaded.generate([0, 1], **keywords), averaged, atol=1e-6
    )


def test_only_the_active_block_moves():
    model = make()
    model.compile("adamw", block_order=1)
    before = [values(block.variables) for block in model.blocks]
    optimizers = model.optimizer.parts
    states = [values(optimizer.variables) for optimizer in optimizers]
    images, labels = data()
    model.fit(images, labels, batch_size=8, verbose=0)
    for i in (0, 2):
        kept = {id(v) for v in model.blocks[1].variables}
        for v, value in zip(model.blocks[i].variables, before[i], strict=True):
            if id(v) not in kept:
                np.testing.assert_array_equal(ops.convert_to_numpy(v), value)
        assert equal(values(optimizers[i].variables), states[i])
    assert not equal(values(model.blocks[1].variables), before[1])


@pytest.mark.eager
def test_one_block_alone_is_one_block_together():
    """The two ways to train, with averages and class dropout."""
    images, labels = data()
    together, apart = make(num_blocks=1), make(num_blocks=1)
    together.build()
    apart.build()
    apart.set_weights(together.get_weights())
    for model in (together, apart.block(0)):
        model.compile(keras.optimizers.AdamW(1e-2, epsilon=1e-3))
        model.fit(images, labels, batch_size=8, epochs=2, verbose=0)
    for ours, theirs in zip(
        together.blocks[0].weights, apart.blocks[0].weights, strict=True
    ):
        if ours.path.endswith("epoch_start"):
            continue  # of the whole model, or of the block
        np.testing.assert_allclose(
            ops.convert_to_numpy(ours),
            ops.convert_to_numpy(theirs),
            atol=2e-5,
            err_msg=ours.path,
        )


def test_class_dropout_teaches_the_null_class():
    layer = make(class_dropout=0.5).block(0).noise_embedding
    level = np.zeros(400, "float32")
    labels = np.zeros(400, "int32")
    table = ops.convert_to_numpy(layer.classes.embeddings)
    assert table.shape == (5, 12)
    draws = ops.convert_to_numpy(layer(level, condition=labels, training=True))
    kept = ops.convert_to_numpy(layer(level, condition=labels))
    dropped = np.abs(draws - kept).max(1) > 1e-6
    assert 0.4 < dropped.mean() < 0.6
    null = ops.convert_to_numpy(layer(level, condition=labels + 4))
    np.testing.assert_allclose(draws[dropped], null[dropped], atol=1e-6)


def test_end_to_end_is_one_block():
    twin = DiT.end_to_end(**{**SIZES, "num_blocks": 3})
    assert isinstance(twin, DiT) and twin.num_blocks == 1
    assert twin.partition.noise_range(0) == (0.002, 80.0)
    for layers in (3, 1):
        twin = DiT.end_to_end(**{**SIZES, "num_layers": layers})
        assert len(twin.block(0).residual_layers) == layers


@pytest.mark.slow
def test_whole_numbers_in_their_range():
    images, labels = data()
    bytes_ = np.round((images + 1) * 127.5).astype("uint8")
    model = randomize(make(value_range=(0, 255)))
    target = model.blocks[0].target
    clean = ops.convert_to_numpy(target(bytes_))
    np.testing.assert_allclose(clean, bytes_ / 127.5 - 1, atol=1e-6)
    np.testing.assert_allclose(target.restore(clean), bytes_, atol=1e-3)
    model.compile()
    model.fit(bytes_, labels, verbose=0)
    made = model.generate(labels[:4], num_steps=3, sampler="euler")
    assert made.min() >= 0 and made.max() <= 255 and made.max() > 2
    latents = randomize(make(value_range=None, channels=2))
    made, decoded = (
        latents.generate([0], num_steps=3, sampler="euler", decoder=decoder)
        for decoder in (None, lambda z: z[..., :1] * 2.0)
    )
    np.testing.assert_array_equal(decoded, 2.0 * made[..., :1])


@pytest.mark.heavy
def test_frechet_distance_in_evaluate(trained):
    images, labels = data()
    x = keras.Input((8, 8, 1))
    features = keras.layers.GlobalAveragePooling2D()(x)
    extractor = keras.Model(x, ops.concatenate([features, features**2], -1))
    result = trained.evaluate(
        images,
        labels,
        feature_extractor=extractor,
        generate_kwargs={"num_steps": 6, "sampler": "euler"},
        verbose=0,
    )
    assert 0 <= result["frechet_distance"] < 0.2 and result["loss"] > 0


@pytest.mark.eager
def test_mixed_precision_trains_and_generates():
    images, labels = data()
    model = make(dtype="mixed_bfloat16")
    model.compile()
    history = model.fit(images, labels, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    made = model.generate(labels[:2], num_steps=3, sampler="euler")
    assert made.dtype == "float32" and np.isfinite(made).all()


def test_sized_constructors():
    widths = {DiTS2: 384, DiTB2: 768, DiTL2: 1024, DiTXL2: 1152}
    for build, width in widths.items():
        model = build()
        assert (model.hidden_dim, model.value_range) == (width, None)
        assert model.num_layers % model.num_blocks == 0
    model = DiTS2((32, 32, 3), classes=10, patch_size=4)
    assert (model.patch_size, model.value_range) == (4, (-1.0, 1.0))
    refused(lambda: DiTS2((32, 16, 3)), "square")


def test_presets_build():
    for name in DiT.presets:
        model = DiT.from_preset(name)
        assert model.num_blocks == 3
    assert DiT.from_preset("dit_digits", seed=4).seed == 4


CONSTRUCTOR = {
    "patches": ({"patch_size": 3}, "patch_size=3 for images of 8"),
    "heads": ({"num_heads": 5}, "num_heads=5 for hidden_dim=12"),
    "positions": ({"hidden_dim": 14}, "hidden_dim=14"),
    "dropout": ({"class_dropout": -0.1}, "class_dropout=-0.1"),
    "momentum": ({"ema_momentum": 1.5}, "ema_momentum=1.5"),
    "range": ({"value_range": (1, 1)}, r"value_range=\(1, 1\)"),
}


@pytest.mark.parametrize("name", CONSTRUCTOR)
def test_constructor_refuses(name):
    kwargs, match = CONSTRUCTOR[name]
    refused(lambda: make(**kwargs), match)


def test_fit_refuses_before_training():
    images, labels = data()
    bad = images.copy()
    bad[5, 0, 0, 0] = np.nan
    model = make()
    model.compile()
    model.block(0).compile()
    cases = {
        "size": (images[:, :4], labels, r"\(24, 4, 8, 1\)"),
        "channels": (images.repeat(3, -1), labels, r"\(24, 8, 8, 3\)"),
        "label": (images, labels + 1, "1 to 4"),
        "null label": (images, np.full_like(labels, 4), "4 to 4"),
        "one-hot": (images, np.eye(4)[labels], r"\(24, 4\)"),
        "not finite": (bad, labels, "example 5"),
        "range": (images * 255, labels, "value_range"),
        "no labels": (images, None, "y=None"),
    }
    before = state(model)
    for x, y, match in cases.values():
        refused(lambda x=x, y=y: model.fit(x, y, verbose=0), match)
        refused(lambda x=x, y=y: model.block(0).fit(x, y, verbose=0), match)
    assert equal(state(model), before)


def test_generate_refuses():
    model = make(class_dropout=0.0)
    refused(lambda: model.generate([0], guidance_scale=2.0), "null class")
    refused(lambda: model.generate([4]), "4 to 4")
    refused(lambda: model.generate([0.5]), "float64")
    refused(lambda: model.generate([]), "label")
    refused(lambda: model.generate([0], sampler="ddim"), "'ddim'")
    refused(lambda: model.generate([0], num_steps=0), "num_steps=0")
    refused(lambda: model.generate([0], batch_size=0), "batch_size=0")
    assert make().generate([4], num_steps=3, sampler="euler").shape[0] == 1
