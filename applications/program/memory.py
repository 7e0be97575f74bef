"""The program that predicts how much memory each training method needs."""

import argparse
import re

import keras

from keras_dblocks import compat
from keras_dblocks.memory.plan import (
    MemoryOfDepth,
    example,
    of_blocks,
    plan,
    shallow,
)
from keras_dblocks.memory.usage import MIB
from keras_dblocks.models.diffusion_blocks import DiffusionBlocks

from .arguments import number, print_error


def table(model, batch_size):
    """Predicts the memory of each training method for a network.

    Args:
        model: `DiffusionBlocks` whose class has `end_to_end`.
        batch_size: int.

    Yields:
        The name of the method and its `Memory`.
    """
    cls, blocks = type(model), model.num_blocks
    config, depth = model.get_config(), getattr(model, model.layers_keyword)

    data = example(model, batch_size)

    def whole(data=data, **options):
        def make(layers):
            return twin(cls, {**config, cls.layers_keyword: layers}, **options)

        return MemoryOfDepth(make, data).at(depth)

    yield "end to end", whole()
    yield "end to end, remat", whole(remat=True)
    if blocks > 1:
        part = example(model, max(1, batch_size // blocks))
        memory = whole(part, gradient_accumulation_steps=blocks)
        yield f"end to end, {blocks} small batches", memory
    for remat in (False, True):
        base = cls.from_config({**config, "remat": remat})
        line = MemoryOfDepth(lambda n, base=base: shallow(base, n), data)
        more = ", remat" if remat else ""
        yield f"{blocks} blocks{more}", of_blocks(base, line, blocks)
        memory = of_blocks(base, line, blocks, offload="host")
        yield f"{blocks} blocks, offload{more}", memory
        yield f"one block alone{more}", of_blocks(base, line, blocks, True)


def twin(cls, config, remat=False, **optimizer):
    """Makes and compiles the end-to-end network of the same sizes.

    Args:
        cls: subclass of `DiffusionBlocks`.
        config: dict of its constructor keywords.
        remat: bool. Whether the residual layers are computed again in the
            backward pass.
        optimizer: keywords of `keras.optimizers.AdamW`.
    """
    model = cls.end_to_end(**config)
    in_blocks = isinstance(model, DiffusionBlocks)
    if in_blocks:
        model.remat = remat
    elif remat:
        for layer in compat.sublayers(model):
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
    # With `keras.RematScope`, `training` would be a traced value, on which JAX
    # cannot branch. The layer itself is called again, not its `call` alone:
    # layers in it ask the outer call whether this is training.
    call = layer.call

    def again(x, **options):
        def run(x):
            layer.call = call
            try:
                return layer(x, **options)
            finally:
                layer.call = again

        return keras.remat(run)(x)

    layer.call = again


def main(classes, argv=None):
    """Prints a table of memory by training method for a preset.

    Args:
        classes: list of subclasses of `DiffusionBlocks` with `presets`.
        argv: list of strings, or None for the command line's.

    Returns:
        Exit status: 0, or 2 for settings that do not fit together.
    """
    presets = {name: c for c in classes for name in c.presets}
    parser = argparse.ArgumentParser(
        prog="python -m keras_dblocks.memory",
        description="Predicts how much memory each training method needs.",
    )
    add = parser.add_argument
    text = f"one of {', '.join(sorted(presets))}"
    names = sorted(presets)
    add("--preset", required=True, choices=names, metavar="NAME", help=text)
    count = number(int, 1)
    text = "examples per step (default: %(default)s)"
    add("--batch-size", metavar="N", type=count, default=128, help=text)
    text = "blocks into which the layers are divided (default: the preset's)"
    add("--num-blocks", metavar="N", type=count, help=text)
    text = "kinds of tokens of a text system (default: the model's)"
    add("--vocabulary-size", metavar="N", type=count, help=text)
    text = (
        'memory such as "8 GiB": print settings that fit it (default: print '
        "none)"
    )
    add("--budget", metavar="SIZE", help=text)
    args = parser.parse_args(argv)
    names = ("num_blocks", "vocabulary_size")
    config = {k: getattr(args, k) for k in names if getattr(args, k)}
    try:
        cls = presets[args.preset]
        model = cls.from_preset(args.preset, load_weights=False, **config)
        names = ("parameters", "state", "gradients", "activations", "total")
        heads = [f"{name:>12}" for name in names]
        print(f"{args.preset}, batch {args.batch_size}, MiB")
        print(f"{'':32}", *heads)
        for name, memory in table(model, args.batch_size):
            print(f"{name:32}", *memory.row(), flush=True)
        print(f"({memory.how})")
        if args.budget:
            found = plan(model, args.batch_size, args.budget)
            print(
                f"{args.budget}: num_blocks={found.num_blocks}, batch "
                f"{found.batch_size}, {found.memory.total / MIB:,.1f} MiB"
            )
    except (TypeError, ValueError) as error:
        return print_error(error)
    return 0
