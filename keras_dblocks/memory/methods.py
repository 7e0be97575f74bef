"""What a user would do instead: the ways to train one network, side by side."""

import re

import keras

from keras_dblocks.memory.plan import Line, example, of_blocks, shallow
from keras_dblocks.models.diffusion_blocks import DiffusionBlocks


def table(model, batch_size):
    """Memory of each way to train a network, foretold.

    Args:
        model: `DiffusionBlocks` whose class has `end_to_end`.
        batch_size: int.

    Yields:
        Name of the way and its `Memory`.
    """
    cls, blocks = type(model), model.num_blocks
    config, depth = model.get_config(), getattr(model, model.layers_keyword)

    def whole(size=batch_size, **options):
        def make(layers):
            return twin(cls, {**config, cls.layers_keyword: layers}, **options)

        return Line(make, example(model, size)).at(depth)

    yield "end to end", whole()
    yield "end to end, remat", whole(remat=True)
    if blocks > 1:
        part = max(1, batch_size // blocks)
        memory = whole(part, gradient_accumulation_steps=blocks)
        yield f"end to end, {blocks} small batches", memory
    for remat in (False, True):
        base = cls.from_config({**config, "remat": remat})
        data = example(model, batch_size)
        line = Line(lambda n, base=base: shallow(base, n), data)
        more = ", remat" if remat else ""
        yield f"{blocks} blocks{more}", of_blocks(base, line, blocks)
        memory = of_blocks(base, line, blocks, offload="host")
        yield f"{blocks} blocks, offload{more}", memory
        yield f"one block alone{more}", of_blocks(base, line, blocks, True)


def twin(cls, config, remat=False, **optimizer):
    """The compiled end-to-end network of the same sizes.

    Args:
        cls: subclass of `DiffusionBlocks`.
        config: dict, its constructor keywords.
        remat: bool. Its residual layers are computed again in the backward
            pass.
        optimizer: keywords of `keras.optimizers.AdamW`.
    """
    model = cls.end_to_end(**config)
    in_blocks = isinstance(model, DiffusionBlocks)
    if in_blocks:
        model.remat = remat
    elif remat:
        for layer in model._flatten_layers(recursive=False):
            if re.fullmatch(r"(layer|core)_\d+", layer.name):
                _compute_again(layer)
    if not model.built:
        model.build()
    own = type(model).compute_loss is not keras.Model.compute_loss
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    options = {} if own else {"loss": loss}
    options |= {"on_policy": 0.0} if in_blocks else {}
    model.compile(keras.optimizers.AdamW(**optimizer), **options)
    return model


def _compute_again(layer):
    # `keras.RematScope` traces `training`, which JAX then cannot branch on.
    call = layer.call

    def again(x, **options):
        return keras.remat(lambda x: call(x, **options))(x)

    layer.call = again
