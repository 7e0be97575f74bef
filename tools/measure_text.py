"""Cost of next-token prediction in blocks, relative to the twins.

    KERAS_BACKEND=jax python tools/measure_text.py attention
    KERAS_BACKEND=jax python tools/measure_text.py generation
    KERAS_BACKEND=jax python tools/measure_text.py training

`attention` compares a forward and backward pass of the attention for two
streams with a masked attention over both streams: time, and temporary memory
as XLA reports it (JAX only). `generation` compares the tokens per second, with
caches and one step per block, with those of the twin. `training` compares a
step of each block, after all blocks before it, with one of the twin, and weighs
them as `fit` does.
"""

import argparse

import keras
import numpy as np
from keras import ops
from steps import median_seconds, report, stepper

from keras_dblocks.applications import ARTransformer
from keras_dblocks.applications.text.causal_attention import CausalAttention
from keras_dblocks.training.curriculum import in_sequence


def masked(query, key, value):
    """Masked attention of two streams `(B, 2 T, H, d)`, the clean one first."""
    length = query.shape[1] // 2
    places = np.arange(length)
    causal = places[:, None] >= places
    itself = np.eye(length, dtype=bool)
    nothing = np.zeros_like(itself)
    mask = np.block([[causal, nothing], [causal, itself]])
    return ops.dot_product_attention(query, key, value, mask=mask[None, None])


def attention(args):
    """Prints the ratios of the two-stream attention to the masked one."""
    import jax

    for length in args.lengths:
        shape = (args.batch_size, 2, length, args.hidden_dim)
        x = np.random.default_rng(0).normal(size=shape).astype("float32")
        layer = CausalAttention(args.num_heads)
        layer.build((None, *shape[1:]))

        def two_streams(x, layer=layer):
            return layer(x)[0].sum()

        def both(x, layer=layer):
            flat = ops.reshape(x, (x.shape[0], -1, x.shape[-1]))
            heads = (x.shape[0], flat.shape[1], args.num_heads, -1)
            parts = (layer.query_dense, layer.key_dense, layer.value_dense)
            parts = [ops.reshape(dense(flat), heads) for dense in parts]
            return masked(*parts).sum()

        steps, bytes_of = {}, {}
        for name, loss in (("ours", two_streams), ("masked", both)):
            step = jax.jit(jax.grad(loss)).lower(x).compile()
            bytes_of[name] = step.memory_analysis().temp_size_in_bytes
            steps[name] = lambda s=step, x=x: jax.block_until_ready(s(x))
        taken = median_seconds(steps, args.steps)
        report(
            "attention",
            length=length,
            time=round(taken["ours"] / taken["masked"], 3),
            temporaries=round(bytes_of["ours"] / bytes_of["masked"], 3),
            masked_s=round(taken["masked"], 4),
            masked_mb=round(bytes_of["masked"] / 2**20, 1),
        )


def sizes_of(args):
    """Keywords of a model of bytes and of its twin."""
    return {
        "vocabulary_size": 256,
        "sequence_length": args.lengths[0],
        "num_layers": args.num_layers,
        "hidden_dim": args.hidden_dim,
        "num_heads": args.num_heads,
    }


def training(args):
    """Prints the time of training in sequence relative to the twin's."""
    sizes, count = sizes_of(args), args.blocks
    shape = args.batch_size, args.lengths[0]
    data = (np.random.default_rng(0).integers(0, 256, shape, "int32"),)
    actions = {}
    for block in (None, *range(count)):
        if block is None:
            model, options = ARTransformer.end_to_end(**sizes), {}
        else:
            model = ARTransformer(num_blocks=count, **sizes)
            options = {"block_order": block, "on_policy": 1.0}
        optimizer = keras.optimizers.AdamW(1e-3, global_clipnorm=1.0)
        model.compile(optimizer, **options)
        actions[block] = stepper(model, data)
    taken = median_seconds(actions, args.steps)
    twin = taken.pop(None)
    times = [count * taken[block] / twin for block in range(count)]
    shares = [phase.share for phase in in_sequence(count).phases]
    report(
        "training",
        twin_s=round(twin, 4),
        times_b=[round(time, 3) for time in times],
        whole=round(np.average(times, weights=shares), 3),
    )


def generation(args):
    """Prints the tokens per second of blocks relative to the twin."""
    sizes = sizes_of(args)
    models = {
        "twin": ARTransformer.end_to_end(**sizes),
        "blocks": ARTransformer(num_blocks=args.blocks, **sizes),
    }
    for batch in (1, 16):
        actions = {
            name: lambda m=model, n=batch: m.generate(
                num_samples=n, batch_size=n
            )
            for name, model in models.items()
        }
        taken = median_seconds(actions, args.steps)
        count = batch * args.lengths[0]
        report(
            "generation",
            batch=batch,
            blocks=args.blocks,
            twin_tokens_per_s=round(count / taken["twin"], 1),
            blocks_tokens_per_s=round(count / taken["blocks"], 1),
            share=round(taken["twin"] / taken["blocks"], 3),
        )


def main():
    """Prints one line of JSON for each result."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    figures = {f.__name__: f for f in (attention, generation, training)}
    add("figure", choices=list(figures))
    add("--batch-size", type=int, default=4)
    add("--lengths", type=int, nargs="+", default=[512, 2048])
    add("--hidden-dim", type=int, default=128)
    add("--num-heads", type=int, default=4)
    add("--num-layers", type=int, default=12)
    add("--blocks", type=int, default=4)
    add("--steps", type=int, default=5)
    args = parser.parse_args()
    keras.utils.set_random_seed(0)
    figures[args.figure](args)


if __name__ == "__main__":
    main()
