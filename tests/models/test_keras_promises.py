"""What Keras users do to any model, done to a whole, a block and a twin."""

import copy
import pickle

import keras
import numpy as np
import pytest

from helpers.small_vit import data, make

MODELS = {
    "whole": make,
    "block": lambda: make().block(0),
    "twin": lambda: make().end_to_end(),
}


def saved_and_loaded(model, path):
    model.save(path / "model.keras")
    return keras.saving.load_model(path / "model.keras")


def weights_loaded(model, path):
    model.save_weights(path / "model.weights.h5")
    other = type(model).from_config(model.get_config())
    if not other.built:
        other.build()
    other.load_weights(path / "model.weights.h5")
    return other


def weights_set(model, path):
    other = type(model).from_config(model.get_config())
    other.set_weights(model.get_weights())
    return other


COPIES = {
    "deepcopy": lambda model, path: copy.deepcopy(model),
    "pickle": lambda model, path: pickle.loads(pickle.dumps(model)),
    "save": saved_and_loaded,
    "save_weights": weights_loaded,
    "set_weights": weights_set,
}
SAME_NETWORK = {
    "clone_model": keras.models.clone_model,
    "from_config": lambda model: type(model).from_config(model.get_config()),
    "to_json": lambda model: keras.models.model_from_json(model.to_json()),
}


def predict(model):
    x, _ = data(4)
    return model.predict(x, verbose=0)


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]()


@pytest.mark.eager
@pytest.mark.parametrize("name", COPIES)
def test_a_copy_says_the_same(model, name, tmp_path):
    again = COPIES[name](model, tmp_path)
    assert type(again) is type(model) and again is not model
    np.testing.assert_allclose(predict(again), predict(model), atol=1e-6)


@pytest.mark.parametrize("name", SAME_NETWORK)
def test_the_same_network_with_weights_of_its_own(model, name):
    again = SAME_NETWORK[name](model)
    assert type(again) is type(model) and again.name == model.name
    if not again.built:
        again.build()
    assert [v.shape for v in again.weights] == [v.shape for v in model.weights]
    shared = {id(v) for v in again.weights} & {id(v) for v in model.weights}
    assert not shared


def test_weights_are_there_before_the_first_fit(model):
    assert model.weights
    assert model.count_params() == sum(
        int(np.prod(v.shape)) for v in model.weights
    )
    lines = []
    model.summary(print_fn=lambda line, **_: lines.append(line))
    assert any("arams" in line or "arameters" in line for line in lines)


@pytest.mark.parametrize("name", MODELS)
def test_a_seed_gives_the_same_weights(name):
    keras.utils.set_random_seed(7)
    one = MODELS[name]().get_weights()
    keras.utils.set_random_seed(7)
    other = MODELS[name]().get_weights()
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)
