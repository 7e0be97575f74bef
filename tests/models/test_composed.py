"""A network from parts, in one call: trained, saved, cut, and its twins."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_dblocks
from helpers.small_vit import equal, refused, values
from keras_dblocks import DiffusionBlocks
from keras_dblocks.layers import ContinuousSignal, LabelEmbedding

WIDTH = 8


@keras.saving.register_keras_serializable(package="test_composed")
class Beside(keras.layers.Layer):
    """Noisy signal and condition side by side through a dense layer."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.dense = keras.layers.Dense(units)

    def build(self, noisy_shape, condition_shape):
        width = noisy_shape[-1] + condition_shape[-1]
        self.dense.build((None, width))

    def call(self, noisy, condition):
        return self.dense(ops.concatenate([noisy, condition], -1))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def residual():
    state = keras.Input((WIDTH,))
    x = keras.layers.LayerNormalization()(state)
    x = keras.layers.Dense(2 * WIDTH, activation="gelu")(x)
    return keras.Model(state, state + keras.layers.Dense(WIDTH)(x))


def arguments(**kwargs):
    parts = {
        "target": LabelEmbedding(3, WIDTH),
        "stem": Beside(WIDTH),
        "layers": [residual() for _ in range(4)],
        "head": keras.layers.Dense(3),
        "num_blocks": 2,
        "condition": keras.KerasTensor((None, 2)),
    }
    return {**parts, **kwargs}


def make(initial=0, **kwargs):
    keras.utils.set_random_seed(initial)
    return DiffusionBlocks(**arguments(**kwargs))


def spirals(count=200, seed=0):
    rng = np.random.default_rng(seed)
    arm = rng.integers(0, 3, count)
    angle = 2 * np.pi * arm / 3 + rng.normal(0, 0.3, count)
    points = np.stack([np.cos(angle), np.sin(angle)], -1)
    return points.astype("float32"), arm.astype("int32")


def trained(**kwargs):
    model = make(**kwargs)
    model.compile(keras.optimizers.AdamW(0.02), metrics=["accuracy"])
    model.fit(*spirals(), batch_size=40, epochs=8, verbose=0)
    return model


@pytest.fixture(scope="module")
def model():
    return trained()


@pytest.mark.eager
@pytest.mark.quick
def test_it_learns_is_saved_and_loads(model, tmp_path):
    x, y = spirals(100, seed=1)
    result = model.evaluate(x, y, verbose=0, return_dict=True)
    assert result["accuracy"] > 0.8  # chance: 0.33
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is keras_dblocks.ComposedBlocks
    np.testing.assert_allclose(
        loaded.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6
    )
    assert equal(values(loaded.weights), values(model.weights))


@pytest.mark.eager
def test_one_block_trains_by_itself(tmp_path):
    paths = []
    x, y = spirals()
    for index in range(2):
        block = make(index, sharing="targets").block(index)
        block.compile(keras.optimizers.AdamW(0.02))
        losses = block.fit(x, y, batch_size=40, epochs=3, verbose=0)
        assert losses.history["loss"][-1] < losses.history["loss"][0]
        paths.append(tmp_path / f"block_{index}.keras")
        block.save(paths[-1])
    whole = DiffusionBlocks.from_blocks(paths)
    assert whole.predict(x, verbose=0).shape == (200, 3)
    again = keras.saving.load_model(paths[1])
    np.testing.assert_array_equal(
        again.predict(x, verbose=0), block.predict(x, verbose=0)
    )


def test_blocks_own_their_parts_with_weights_of_their_own():
    whole = make(sharing="targets")
    whole.build()
    first, second = whole.blocks
    assert first.stem is not second.stem and first.head is not second.head
    assert not equal(values(first.stem.weights), values(second.stem.weights))
    shared = make()
    shared.build()
    assert shared.blocks[0].stem is shared.blocks[1].stem


def test_functions_that_make_a_layer_do_as_well():
    whole = make(stem=lambda: Beside(WIDTH), layers=[residual] * 4)
    whole.build()
    layers = [layer for b in whole.blocks for layer in b.residual_layers]
    assert len({id(layer) for layer in layers}) == 4
    assert type(whole).from_config(whole.get_config()).num_layers == 4


@pytest.mark.eager
def test_the_twins_are_plain_models_of_the_same_parts(model):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    x, y = spirals()
    depths = []
    for twin in (model.end_to_end(), model.layer_matched()):
        assert not isinstance(twin, DiffusionBlocks)
        twin.compile(keras.optimizers.AdamW(0.02), loss, metrics=["accuracy"])
        twin.fit(x, y, batch_size=40, epochs=8, verbose=0)
        accuracy = twin.evaluate(x, y, verbose=0, return_dict=True)["accuracy"]
        assert accuracy > 0.8
        inner = [la for la in twin.layers if isinstance(la, keras.Model)]
        depths.append(len(inner))
    assert depths == [4, 2]


@pytest.mark.slow
def test_a_regression_and_a_generator():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 2)).astype("float32")
    y = (x[:, ::-1] * 0.5).astype("float32")
    regression = make(
        target=ContinuousSignal((2,), value_range=None),
        stem=Beside(WIDTH),
        readout=keras.layers.Dense(2),
        head=None,
    )
    regression.compile(keras.optimizers.AdamW(0.01))
    history = regression.fit(x, y, epochs=6, verbose=0).history["loss"]
    assert history[-1] < history[0]
    assert regression.predict(x, verbose=0).shape == (64, 2)
    generator = make(
        target=ContinuousSignal((2,), value_range=None),
        stem=keras.layers.Dense(WIDTH),
        readout=keras.layers.Dense(2),
        head=None,
        clean="x",
        condition=None,
    )
    generator.compile(keras.optimizers.AdamW(0.01), on_policy=0)
    history = generator.fit(y, epochs=3, verbose=0).history["loss"]
    assert np.isfinite(history).all()
    twin = generator.layer_matched()
    assert twin.num_blocks == 1 and twin.num_layers == 2


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"target": None}, "`target` must be a `Target`"),
        ({"target": keras.layers.Dense(3)}, "`target` must be a `Target`"),
        ({"stem": None}, "`stem` must be a Keras layer"),
        ({"layers": []}, "`layers` must be a list"),
        ({"layers": None}, "`layers` must be a list"),
        ({"layers": [keras.layers.Dense(8)] * 4}, "layer of its own"),
        ({"head": 3}, "`head` must be a Keras layer"),
        ({"clean": "z"}, "`clean` must be"),
        ({"num_layers": 4}, "layers are counted"),
        ({"noise": "log-normal"}, "`noise` must be a `Noise`"),
        ({"num_blocks": 3}, "must divide the layers"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_wrong_parts_are_refused(changes, match):
    layers = changes.get("layers")
    if layers:
        changes = {"layers": [layers[0]] * 4}
    refused(lambda: make(**changes), match)


class Misspelt(keras.layers.Layer):
    """Would be silently unconditioned."""

    def call(self, noisy, conditon=None):
        return noisy


def test_a_misspelt_argument_is_refused():
    message = refused(lambda: make(stem=Misspelt()).build(), "names")
    assert "Rename it `condition`" in message


@keras.saving.register_keras_serializable(package="test_composed")
class Looking(keras.layers.Layer):
    """A residual layer that sees the condition and no noise level."""

    def build(self, state_shape, condition_shape):
        self.dense = keras.layers.Dense(state_shape[-1])
        self.dense.build(condition_shape)

    def call(self, state, condition):
        return state + self.dense(condition)


def test_a_layer_without_noise_sees_the_condition():
    whole = make(layers=[Looking() for _ in range(4)])
    whole.build()
    noisy, level = np.ones((2, WIDTH), "float32"), np.float32([1.0, 1.0])
    first = whole.denoise(noisy, level, np.zeros((2, 2), "float32"))
    stem = whole.blocks[0].stem.dense
    stem.kernel.assign(stem.kernel * 0)  # no other way for the condition
    seen = [
        whole.denoise(noisy, level, np.full((2, 2), value, "float32"))
        for value in (0.0, 1.0)
    ]
    assert first.shape == (2, 3)
    assert np.abs(seen[0] - seen[1]).max() > 1e-3


# What a stranger met.


def functional_stem(kind=list, names=(None, "condition")):
    noisy = keras.Input((WIDTH,), name=names[0])
    point = keras.Input((2,), name=names[1])
    dense = keras.layers.Dense
    inputs = [noisy, point]
    if kind is dict:
        inputs = {"condition": point, "noisy": noisy}
    return keras.Model(inputs, dense(WIDTH)(noisy) + dense(WIDTH)(point))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "names"),
    [(list, (None, None)), (dict, ("noisy", "condition"))],
)
def test_a_functional_stem_with_two_inputs(kind, names, tmp_path):
    model = make(stem=functional_stem(kind, names))
    model.compile("adamw")
    x, y = spirals(40)
    model.fit(x, y, batch_size=20, verbose=0)
    before = model.predict(x, verbose=0)
    assert np.abs(before - model.predict(-x, verbose=0)).max() > 1e-3
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.predict(x, verbose=0), before, atol=1e-6)


def three_inputs():
    a, b, c = (keras.Input((WIDTH,)) for _ in range(3))
    return keras.Model([a, b, c], a + b + c)


def narrowing():
    state = keras.Input((WIDTH,))
    return keras.Model(state, keras.layers.Dense(4)(state))


STRANGE = {
    "a head for other classes": (
        {"head": keras.layers.Dense(4)},
        "head must return.*LabelEmbedding",
    ),
    "a stem for another target": (
        {"target": LabelEmbedding(3, WIDTH + 1), "stem": functional_stem()},
        r"target's noisy signal, of shape.*LabelEmbedding and a stem",
    ),
    "no head": ({"head": None}, "head must return"),
    "no spec": ({"condition": (None, 2)}, "KerasTensor"),
    "no batch": ({"condition": keras.KerasTensor((2,))}, "None, for the batch"),
    "a lambda": ({"stem": lambda noisy, condition: noisy}, "missing 2"),
    "no stem": ({"stem": None}, "may be None"),
    "blind": ({"stem": keras.layers.Dense(WIDTH)}, "name none"),
    "three inputs": ({"stem": three_inputs}, "must be named"),
    "a last layer that narrows": (
        {"layers": [residual(), narrowing()], "num_blocks": 2},
        "layer must return shape.*Functional",
    ),
}


@pytest.mark.parametrize("name", STRANGE)
def test_strange_networks_are_refused(name):
    changes, match = STRANGE[name]
    refused(lambda: make(**changes).compile("adamw"), match)


def test_labels_for_sequences_are_refused_with_the_way():
    model = make()
    model.compile("adamw")
    x, _ = spirals(4)
    refused(
        lambda: model.fit(x, np.full((4, 3), 1), verbose=0), "TokenEmbedding"
    )
    refused(
        lambda: model.fit(x, np.eye(4, 3, dtype=int), verbose=0), "Received"
    )


def test_a_loss_of_ones_own_is_not_weighted():
    class Own(LabelEmbedding):
        pass

    assert make(target=Own(3, WIDTH)).default_loss_weighting() == "none"
