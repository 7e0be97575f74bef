"""Refused before the first step: what was wanted, what came, what to do."""

import re

import keras
import numpy as np
import pytest

from helpers.small_vit import SIZES, data, make, python, refused, state
from keras_dblocks.applications import ViT

# Constructor.

CONSTRUCTOR = {
    "patches do not tile": ({"patch_size": 3}, "patch_size=3.*of 8"),
    "no patch": ({"patch_size": 0}, "patch_size=0"),
    "heads do not divide": ({"num_heads": 5}, "num_heads=5.*hidden_dim=12"),
    "no head": ({"num_heads": 0}, "num_heads=0"),
    "layers do not divide": ({"num_layers": 3}, "num_blocks=2 for 3 layers"),
    "more blocks than layers": ({"num_blocks": 3}, "num_blocks=3 for 2 layers"),
    "no block": ({"num_blocks": 0}, "num_blocks=0"),
    "no whole number": ({"num_layers": 2.0}, "num_layers=2.0"),
    "uneven sum": ({"layers_per_block": [1, 2]}, r"\[1, 2\] for 2 blocks"),
    "uneven count": ({"layers_per_block": [1, 1, 0]}, r"\[1, 1, 0\]"),
    "blocks bool": ({"num_blocks": True}, "num_blocks=True"),
    "layers bool": ({"num_layers": True}, "num_layers=True"),
    "no width": ({"hidden_dim": 0}, "hidden_dim=0"),
    "seed below": ({"seed": -1}, "seed=-1"),
    "no seed": ({"seed": None}, "seed=None"),
    "seed fraction": ({"seed": 0.5}, "seed=0.5"),
    "no overlap": ({"overlap": None}, "overlap=None"),
    "overlap name": ({"overlap": "0.1"}, "overlap='0.1'"),
    "overlap below": ({"overlap": -0.1}, "overlap=-0.1"),
    "overlap above": ({"overlap": 1.5}, "overlap=1.5"),
    "sharing": ({"sharing": "none"}, "sharing='none'"),
    "partition": ({"partition": "even"}, "partition='even'"),
    "weighting": ({"loss_weighting": "snr"}, "'snr'"),
    "too few steps": ({"sampler": {"num_steps": 1}}, "num_steps=1 for 2"),
    "float16": ({"dtype": "float16"}, "dtype=float16.*mixed_bfloat16"),
    "mixed float16": ({"dtype": "mixed_float16"}, "dtype=mixed_float16"),
}


@pytest.mark.parametrize("name", CONSTRUCTOR)
def test_constructor_refuses(name):
    kwargs, match = CONSTRUCTOR[name]
    refused(lambda: make(**kwargs), match)


def test_global_float16_is_refused():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        refused(make, "mixed_float16")
    finally:
        keras.config.set_dtype_policy("float32")


def test_end_to_end_refuses_the_same_sizes():
    for kwargs in ({"patch_size": 3}, {"num_heads": 5}):
        refused(
            lambda kwargs=kwargs: ViT.end_to_end(**{**SIZES, **kwargs}),
            "of 8|=12",
        )


def test_preset_refuses(tmp_path):
    message = refused(lambda: ViT.from_preset("vit_mnist"), "'vit_mnist'")
    assert "save_to_preset" in message
    refused(lambda: ViT.from_preset(str(tmp_path)), "config.json")  # empty
    for preset in (None, ["vit_digits"]):
        refused(lambda preset=preset: ViT.from_preset(preset), "known name")


@pytest.mark.parametrize("index", [2, -3, 100, 1.5, "0", None, True])
def test_block_index_refused(index):
    match = f"0 to 1. Received: {index!r}"
    refused(lambda: make().block(index), match)
    noisy = np.zeros((2, 12), "float32")
    if index is not None:  # which routes by the level
        refused(lambda: make().denoise(noisy, 1.0, X[:2], block=index), match)


@pytest.mark.parametrize("level", [np.nan, 0.0, 0.0019, 80.1, np.inf])
def test_denoise_refuses_levels_of_no_block(level):
    noisy, levels = np.zeros((2, 12), "float32"), np.float32([1.0, level])
    refused(
        lambda: make().denoise(noisy, levels, X[:2]),
        "0.002 to 80.0. Received: ",
    )


# compile().

COMPILE = {
    "loss": ({"loss": "sparse_categorical_crossentropy"}, "loss_weighting"),
    "on_policy below": ({"on_policy": -0.1}, "-0.1"),
    "on_policy above": ({"on_policy": 1.1}, "1.1"),
    "on_policy nan": ({"on_policy": float("nan")}, "nan"),
    "on_policy name": ({"on_policy": "half"}, "'half'"),
    "on_policy None": ({"on_policy": None}, "None"),
    "order name": ({"block_order": "random"}, "'random'"),
    "order block": ({"block_order": 2}, "blocks 0 to 1"),
    "order weights": ({"block_order": [1, 1, 1]}, "for 2 blocks"),
    "order negative": ({"block_order": [1, -1]}, "for 2 blocks"),
}


@pytest.mark.parametrize("name", COMPILE)
def test_compile_refuses(name):
    kwargs, match = COMPILE[name]
    refused(lambda: make().compile("adamw", **kwargs), match)


def test_block_compile_refuses_a_loss():
    refused(lambda: make().block(0).compile("adamw", loss="mse"), "loss='mse'")


# Data.

X, Y = data(20)
WITH_NAN, WITH_INFINITY = X.copy(), X.copy()
WITH_NAN[13, 2, 3, 0] = np.nan
WITH_INFINITY[7, 0, 0, 0] = -np.inf
SIZE = r"\(N, 8, 8, 1\)"
DATA = {
    "image size": ((np.zeros((20, 16, 16, 1)), Y), SIZE),
    "channels": ((np.zeros((20, 8, 8, 3)), Y), SIZE),
    "channels first": ((np.zeros((20, 1, 8, 8)), Y), SIZE),
    "no channels": ((X[..., 0], Y), SIZE),
    "one image": ((X[0], Y), SIZE),
    "label too large": ((X, Y + 1), "0 to 3.*1 to 4"),
    "label negative": ((X, Y - 1), "0 to 3.*-1 to 2"),
    "label not integer": ((X, Y.astype("float32")), "float32.*astype"),
    "label bool": ((X, Y > 1), "bool"),
    "one-hot": ((X, np.eye(4, dtype="int32")[Y]), r"\(20, 4\).*argmax"),
    "complex": ((X.astype("complex64"), Y), "complex64"),
    "objects": ((X.astype(object), Y), "object"),
    "tuple": (((X,), Y), "a tuple of 1"),
    "two images": (([X, X], Y), "a list of 2"),
    "nan": ((WITH_NAN, Y), r"example 13 \(of 20\)"),
    "infinity": ((WITH_INFINITY, Y), r"example 7 \(of 20\)"),
    "fewer labels": ((X, Y[:12]), "20.*12"),
    "fewer images": ((X[:12], Y), "12.*20"),
    "no labels": ((X, None), "(?i)labels|targets"),
    "weight nan": ((X, Y, np.where(Y == 1, np.nan, 1.0)), "(?i)weight"),
    "fewer weights": ((X, Y, np.ones(12)), "20.*12"),
}


@pytest.fixture(scope="module", params=["model", "block"])
def trainable(request):
    model = make()
    if request.param == "block":
        model = model.block(1)
    model.compile("adamw")
    return model


class Steps(keras.callbacks.Callback):
    """Fails the test when a step is taken."""

    def on_train_batch_begin(self, batch, logs=None):
        raise AssertionError("training has begun")


def fit(model, x=X, y=Y, **kwargs):
    model.fit(x, y, batch_size=4, verbose=0, callbacks=[Steps()], **kwargs)


@pytest.mark.parametrize("name", DATA)
def test_fit_refuses(trainable, name):
    (x, y, *weight), match = DATA[name]
    kwargs = {"sample_weight": weight[0]} if weight else {}
    refused(lambda: fit(trainable, x, y, **kwargs), match, trainable)


@pytest.mark.parametrize("name", DATA)
def test_validation_data_refused(trainable, name):
    validation, match = DATA[name]
    if validation[1] is None:
        validation = validation[:1]

    def act():
        fit(trainable, validation_data=validation)

    refused(act, match, trainable)


@pytest.mark.parametrize("share", [1.0, 1.5, -0.5])
def test_validation_split_leaves_both_sides(trainable, share):
    def act():
        fit(trainable, validation_split=share)

    refused(act, f"{share} of 20", trainable)


@pytest.mark.parametrize("name", DATA)
def test_evaluate_refuses(trainable, name):
    (x, y, *weight), match = DATA[name]
    refused(lambda: trainable.evaluate(x, y, 4, 0, *weight), match)


@pytest.mark.parametrize("name", ["channels", "complex", "tuple", "nan"])
def test_predict_refuses(trainable, name):
    (x, _), match = DATA[name]
    refused(lambda: trainable.predict(x, verbose=0), match)


@pytest.mark.parametrize("method", ["fit", "evaluate"])
def test_a_model_that_is_not_compiled_is_refused(method):
    for model in (make(), make().block(0)):
        act = getattr(model, method)
        refused(lambda act=act: act(X, Y), "compile")


class Stream(keras.utils.PyDataset):
    """Batches of 4; the one from example 12 on holds a NaN."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        rows = slice(4 * index, 4 * index + 4)
        return WITH_NAN[rows], Y[rows]


def test_stream_is_refused_at_the_bad_batch():
    model = make()
    model.compile("adamw", block_order=0)
    message = refused(
        lambda: model.fit(Stream(), shuffle=False, verbose=0), "example 1 "
    )
    assert re.search(r"(?i)batch 4\b", message)
    assert model.training_step() == 3
    assert all(np.isfinite(value).all() for value in state(model))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["uint8", "float64"])
def test_images_of_any_number_type_are_taken(trainable, dtype):
    images = (np.abs(X) * 3).astype(dtype)
    history = trainable.fit(images, Y, batch_size=20, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    same = trainable.predict(images.astype("float32"), verbose=0)
    prediction = trainable.predict(images, verbose=0)
    np.testing.assert_allclose(prediction, same, atol=1e-5)


@pytest.mark.eager
def test_weight_column_is_a_weight_per_example(trainable):
    """Weights `(N, 1)` must not broadcast losses `(N,)` to `(N, N)`.

    docs/method.md#errors-in-the-sources
    """
    weight = np.linspace(0.0, 2.0, 20).astype("float32")

    def loss(weight):
        return trainable.evaluate(
            X,
            Y,
            batch_size=20,
            sample_weight=weight,
            verbose=0,
            return_dict=True,
        )["loss"]

    assert loss(weight[:, None]) == pytest.approx(loss(weight), rel=1e-5)


WITHOUT_GRADIENTS = """
import numpy
from keras_dblocks.applications import ViT
model = ViT(**{sizes})
x, y = numpy.zeros((4, 8, 8, 1), "float32"), numpy.zeros(4, "int32")
try:
    model.compile("adamw")
    model.fit(x, y, verbose=0)
except ValueError as error:
    print(error)
"""


@pytest.mark.heavy
def test_backend_that_cannot_train_is_refused():
    code = WITHOUT_GRADIENTS.replace("{sizes}", repr(SIZES))
    message = python(code, backend="numpy").stdout
    assert "Received: KERAS_BACKEND=numpy. Use jax, ten" in message
