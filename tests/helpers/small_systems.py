"""The five systems and their twins in small, with weights that do something."""

import keras
import numpy as np
from keras import ops

from keras_dblocks import applications

IMAGES = {"image_size": 8, "patch_size": 4, "num_classes": 5, "channels": 1}
TEXT = {"vocabulary_size": 11, "sequence_length": 8}
SIZES = {"hidden_dim": 32, "num_heads": 2}
LAYERS = {"num_layers": 2}
SYSTEMS = {
    "vit": ("ViT", {**IMAGES, **SIZES, **LAYERS}),
    "dit": ("DiT", {**IMAGES, **SIZES, **LAYERS}),
    "mdm": ("MDM", {**TEXT, **SIZES, **LAYERS}),
    "mdm_tied": ("MDM", {**TEXT, **SIZES, **LAYERS, "tied": True}),
    "ar": ("ARTransformer", {**TEXT, **SIZES, **LAYERS}),
    "recurrent_depth": (
        "RecurrentDepth",
        {
            **TEXT,
            **SIZES,
            "prelude_layers": 1,
            "core_layers": 1,
            "coda_layers": 1,
        },
    ),
}


def make(name, twin=False, **kwargs):
    """A built model, the same one every time."""
    keras.utils.set_random_seed(0)
    kind, config = SYSTEMS[name]
    cls = getattr(applications, kind)
    if twin:
        if name == "recurrent_depth":
            kwargs = {"mean_recurrence": 4, **kwargs}
        model = cls.end_to_end(**config, **kwargs)
    else:
        blocks = {} if name == "recurrent_depth" else {"num_blocks": 2}
        model = cls(**config, **blocks, **kwargs)
    if not model.built:
        model.build()
    rng = np.random.default_rng(1)
    for variable in {id(v): v for v in model.trainable_variables}.values():
        value = rng.normal(size=variable.shape)
        if value.ndim > 1:
            value *= len(value) ** -0.5
        else:
            value = ops.convert_to_numpy(variable) + 0.1 * value
        variable.assign(value)
    return model


def data(name, count=16):
    """Tuple of arrays for `fit`; the first is what `predict` takes, if any."""
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 5, count).astype("int32")
    images = rng.uniform(-1.0, 1.0, size=(count, 8, 8, 1)).astype("float32")
    tokens = rng.integers(0, 11, (count, 8)).astype("int32")
    return (images, labels) if name in ("vit", "dit") else (tokens,)


def answers(name, model):
    """What a model says, one array for each question.

    The logits of `predict` where there are any, and for a model in blocks
    what each block denoises at three noise levels.
    """
    inputs = data(name)
    result = []
    if name not in ("dit", "mdm", "mdm_tied"):
        result.append(model.predict(inputs[0], verbose=0))
    for block in getattr(model, "blocks", ()):
        denoiser = Denoiser(block)
        low, high = model.partition.noise_range(block.index, overlap=False)
        for share in (0.1, 0.5, 0.9):
            level = low + share * (high - low)
            asked = _question(name, model, inputs, level)
            result.append(denoiser.predict_on_batch(asked))
    return result


class Denoiser(keras.Model):
    """A block's `denoise`, compiled: int8 layers are slow without."""

    def __init__(self, block):
        super().__init__()
        self.block = block
        self.built = True

    def call(self, inputs):
        return self.block.denoise(*inputs)


def _question(name, model, inputs, level):
    """What `denoise` is given at a noise level, a tuple of arrays."""
    rng = np.random.default_rng(3)
    clean, condition = model.split(inputs[0], inputs[-1])
    levels = np.full(len(inputs[0]), level, "float32")
    if name in ("mdm", "mdm_tied"):
        hidden = rng.random(clean.shape) < level
        return np.where(hidden, 11, clean).astype("int32"), levels
    shape = (len(inputs[0]), *model.target.signal_shape)
    noisy = (0.25 + level**2) ** 0.5 * rng.normal(size=shape)
    condition = ops.convert_to_numpy(condition)
    return noisy.astype("float32"), levels, condition
