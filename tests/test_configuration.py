"""Configs that are made from a constructor's arguments."""

import keras
import pytest

from keras_dblocks.configuration import Configured

pytestmark = pytest.mark.once


@keras.saving.register_keras_serializable("test_configuration")
class Wide(Configured, keras.layers.Layer):
    def __init__(self, width, inner=(), **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.inner = inner


@keras.saving.register_keras_serializable("test_configuration")
class Wider(Wide):
    """Takes the arguments of its base, and one more."""

    def __init__(self, *args, factor=2, **kwargs):
        super().__init__(*args, **kwargs)
        self.factor = factor


@keras.saving.register_keras_serializable("test_configuration")
class Narrow(Wide):
    """Fixes the arguments of its base."""

    def __init__(self, depth):
        super().__init__(1, name="narrow")
        self.depth = depth


def test_a_layer_comes_back_with_the_layers_it_was_given():
    dense = keras.layers.Dense(3, activation="relu")
    layer = Wider(4, [dense, None], factor=3, name="wide", dtype="float16")
    config = layer.get_config()
    again = Wider.from_config(config)
    assert again.get_config() == config
    assert again.name == "wide" and again.compute_dtype == "float16"
    assert again.inner[0] is not dense and again.inner[0].units == 3
    assert again.inner[1] is None
    # What was nested is not emptied by being read.
    assert Wider.from_config(config).get_config() == config


def test_arguments_that_a_constructor_does_not_take_are_left_out():
    assert Wider.argument_names() == ["factor", "width", "inner"]
    assert Narrow.argument_names() == ["depth"]


def test_an_object_without_a_config_of_its_own():
    class Plain(Configured):
        def __init__(self, size=2):
            self.size = size

    assert Plain(3).get_config() == {"size": 3}
    assert Plain.from_config({"size": 5}).size == 5
