"""A user's own network in under 40 lines: examples/residual_mlp.py."""

import ast

import keras
import numpy as np
import pytest

from helpers.residual_mlp import EXAMPLE, example
from helpers.small_vit import equal, refused, values
from keras_dblocks import Target
from keras_dblocks.layers import NoiseModulation


def make(initial=0, **kwargs):
    keras.utils.set_random_seed(initial)
    sizes = {"num_layers": 4, "num_blocks": 2, "width": 16}
    return example.ResidualMLP(2, 3, **{**sizes, **kwargs})


def compiled(**kwargs):
    model = make(**kwargs)
    model.compile(keras.optimizers.AdamW(0.01), metrics=["accuracy"])
    return model


def predict(model):
    return model.predict(example.spirals(100, seed=2)[0], verbose=0)


@pytest.fixture(scope="module")
def trained():
    model = compiled()
    data = example.spirals(1000, seed=0)
    history = model.fit(*data, batch_size=100, epochs=10, verbose=0)
    return model, history.history


@pytest.mark.once
def test_it_takes_under_40_lines():
    tree = ast.parse(EXAMPLE.read_text("utf-8"))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    assert {node.name for node in classes} >= {"ResidualMLP"}
    lines = [node.end_lineno - node.lineno + 1 for node in classes]
    decorators = sum(len(node.decorator_list) for node in classes)
    assert sum(lines) + decorators < 40
    # Stem, layers, head, what the clean signal is, what the input is.
    (network,) = (node for node in classes if node.name == "ResidualMLP")
    methods = {n.name for n in network.body if isinstance(n, ast.FunctionDef)}
    parts = {"make_stem", "make_layer", "make_head", "make_target"}
    assert methods == parts | {"__init__", "condition_spec"}


@pytest.mark.once
def test_it_needs_keras_and_numpy_only():
    tree = ast.parse(EXAMPLE.read_text("utf-8"))
    roots = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            roots.add(node.module.split(".")[0])
    assert roots == {"keras", "numpy", "keras_dblocks"}


@pytest.mark.heavy
def test_it_learns(trained):
    model, history = trained
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    held_out = example.spirals(300, seed=1)
    result = model.evaluate(
        *held_out, batch_size=300, verbose=0, return_dict=True
    )
    assert result["accuracy"] > 0.9  # chance: 0.33
    # The task is no straight line: a linear model does not get there.
    points, arms = held_out
    points = np.concatenate([points, np.ones((300, 1))], 1)
    plane = np.linalg.lstsq(points, np.eye(3)[arms], rcond=None)[0]
    assert (np.argmax(points @ plane, -1) == arms).mean() < 0.8


@pytest.mark.heavy
def test_every_block_was_trained(trained):
    model, history = trained
    fresh = make()
    fresh.build()
    for before, after in zip(fresh.blocks, model.blocks, strict=True):
        for layer, same in zip(
            before.residual_layers, after.residual_layers, strict=True
        ):
            # The user wrote no `noise`: the layer listens to it all the same.
            assert isinstance(same, NoiseModulation)
            moved = zip(layer.variables, same.variables, strict=True)
            assert not any(equal(values([a]), values([b])) for a, b in moved)
    assert {"loss", "block_0_loss", "block_1_loss"} <= set(history)


@pytest.mark.heavy
@pytest.mark.quick
def test_it_is_saved_without_get_config(trained, tmp_path):
    model, _ = trained
    assert "get_config" not in vars(example.ResidualMLP)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is example.ResidualMLP
    assert loaded.get_config() == model.get_config()
    assert equal(values(loaded.weights), values(model.weights))
    state = loaded.optimizer.variables
    assert equal(values(state), values(model.optimizer.variables))
    np.testing.assert_array_equal(predict(loaded), predict(model))


@pytest.mark.heavy
def test_its_blocks_train_apart(tmp_path):
    paths = []
    for i in range(2):
        block = make(i, sharing="targets").block(i)
        block.compile(keras.optimizers.AdamW(0.01))
        x, y = example.spirals(1000, seed=0)
        losses = block.fit(x, y, batch_size=100, epochs=6, verbose=0)
        losses = losses.history["loss"]
        assert losses[-1] < losses[0]
        paths.append(tmp_path / f"block_{i}.keras")
        block.save(paths[-1])
    model = example.ResidualMLP.from_blocks(paths)
    held_out, arms = example.spirals(300, seed=1)
    prediction = model.predict(held_out, verbose=0)
    assert (np.argmax(prediction, -1) == arms).mean() > 0.6  # chance: 0.33


class Scaled(Target):
    """A target with weights of its own: what the contract asks for."""

    @property
    def signal_shape(self):
        return (2,)

    def build(self, input_shape):
        self.scale = self.add_weight(shape=input_shape[1:], initializer="ones")

    def call(self, y):
        return y * self.scale

    def loss(self, y, prediction, noisy, level):
        return keras.losses.mean_squared_error(y, prediction)

    def bridge(self, prediction):
        return self(prediction)


class Regression(example.ResidualMLP):
    """Vectors `(N, 2)` instead of labels."""

    def make_target(self):
        return Scaled()

    def make_head(self):
        return keras.layers.Dense(2)


@pytest.mark.eager
def test_a_target_of_ones_own():
    keras.utils.set_random_seed(0)
    model = Regression(2, 2, num_layers=2, num_blocks=2, width=2)
    model.compile(keras.optimizers.AdamW(0.01))
    x, _ = example.spirals(1000, seed=0)
    y = x[:, ::-1] + 1.0
    losses = model.fit(x, y, batch_size=50, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]
    assert model.block(0).target.scale.shape == (2,)
    assert model.predict(x, verbose=0).shape == (1000, 2)


def test_its_data_is_checked():
    model = compiled()
    x, y = example.spirals(20, seed=0)
    wrong = np.concatenate([x, x], 1)
    for bad_x, bad_y, match in (
        (wrong, y, r"\(N, 2\)"),
        (x, y + 1, "0 to 2"),
        (np.where(x == x[7], np.nan, x), y, "example 7 "),
    ):
        refused(
            lambda x=bad_x, y=bad_y: model.fit(x, y, verbose=0), match, model
        )
