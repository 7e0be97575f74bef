"""Memory and time of a training step against the end-to-end twin, one run.

    KERAS_BACKEND=jax python tools/measure.py --blocks 2 3 4
    KERAS_BACKEND=torch python tools/measure.py --blocks 2 3 4
    KERAS_BACKEND=jax python tools/measure.py --application dit --sampling

JAX: temporaries by XLA's own accounting of the compiled step; nothing is run
for it. torch: bytes of distinct storages saved for the backward pass. All:
step time, the median over `--steps` steps of twin and blocks in turn.
`--sampling`: time to make images with as many steps, and on JAX the time to
compile the sampler of 50 steps and of one step per block.
"""

import argparse
import functools
import json
import statistics
import time

import keras
import numpy as np

from keras_dblocks.applications import MDM, ARTransformer, DiT, ViT

BACKEND = keras.backend.backend()
MODELS = {"vit": ViT, "dit": DiT, "mdm": MDM, "ar": ARTransformer}
ON_TEXT = ("mdm", "ar")
PLAIN_TWIN = ("vit", "ar")  # the others' twin is the model with one block


def make_data(args):
    """One batch of random images and labels, or of tokens alone."""
    rng = np.random.default_rng(0)
    if args.application in ON_TEXT:
        tokens = rng.integers(0, 27, (args.batch_size, args.sequence_length))
        return (tokens.astype("int32"),)
    shape = (args.batch_size, 32, 32, 3)
    images = rng.uniform(-1.0, 1.0, size=shape).astype("float32")
    labels = rng.integers(0, args.sizes["num_classes"], args.batch_size)
    return images, labels.astype("int32")


def jax_state(model):
    """State lists as Keras's JAX trainer holds them."""
    kinds = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    return tuple([v.value for v in kind] for kind in kinds)


def jax_temporaries(model, data, index=None):
    """Bytes of temporaries of the twin's or a block's compiled step."""
    import jax

    from keras_dblocks.training.jax_step import BlockStep

    state = jax_state(model)
    if index is None:
        model.make_train_function()
        step = jax.jit(model.train_step, donate_argnums=0)
        lowered = step.lower(state, data)
    else:
        block = BlockStep(model, index)
        active = tuple(
            [values[i] for i in positions]
            for values, positions in zip(state, block.positions, strict=True)
        )
        frozen = [state[kind][i] for kind, i in block.frozen_positions]
        lowered = block.step.lower(active, frozen, data)
    return lowered.compile().memory_analysis().temp_size_in_bytes


def torch_saved(loss_fn, parameters):
    """Bytes of distinct storages that autograd saves, parameters excepted."""
    import torch

    own = {p.untyped_storage().data_ptr() for p in parameters}
    seen = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        loss = loss_fn()
    del loss
    return sum(seen.values())


def stepper(model, data, index=None):
    """A function that takes one training step and waits for it."""
    from keras_dblocks.models.diffusion_blocks import DiffusionBlocks

    blocks = isinstance(model, DiffusionBlocks)
    if blocks:
        model._next_step, model._checks_stream = 0, False
        model._batches_seen = 0
        model.reset_metrics()
    if not blocks:
        model._symbolic_build(data_batch=data)
    model.make_train_function(force=True)
    if BACKEND == "jax":
        import jax

        batch = jax.device_put(data)
        holder = [jax_state(model)]

        def step():
            logs, holder[0] = model.train_function(holder[0], iter([batch]))
            jax.block_until_ready(logs)

    elif BACKEND == "tensorflow":
        import tensorflow as tf

        batch = tuple(tf.constant(d) for d in data)

        def step():
            logs = model.train_function(iter([batch]))
            [np.array(v) for v in logs.values()]

    else:
        import torch

        batch = tuple(torch.as_tensor(d) for d in data)

        def step():
            model.train_function([batch])

    return step


def seconds(step):
    """Duration of one call."""
    begin = time.perf_counter()
    step()
    return time.perf_counter() - begin


def make_blocks(args, blocks, **options):
    """A compiled model of so many blocks."""
    model = args.model(num_blocks=blocks, **args.sizes)
    model.compile("adamw", **options)
    return model


def make_twin(args):
    """The compiled end-to-end twin."""
    if args.application not in PLAIN_TWIN:
        return make_blocks(args, 1)
    if args.application == "ar":
        twin = ARTransformer.end_to_end(**args.sizes)
        twin.build()
        twin.compile("adamw")
        twin.optimizer.build(twin.trainable_variables)
        return twin
    twin = ViT.end_to_end(**args.sizes)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    twin.compile("adamw", loss)
    twin.optimizer.build(twin.trainable_variables)
    return twin


def main():
    """Prints one JSON line a figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--application", choices=list(MODELS), default="vit")
    parser.add_argument("--sampling", action="store_true", help="alone")
    parser.add_argument("--blocks", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--num-layers", type=int, default=12)
    parser.add_argument("--hidden-dim", type=int, default=128)
    parser.add_argument("--sequence-length", type=int, default=256)
    parser.add_argument("--on-policy", type=float, nargs="+", default=[0.0])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--fit", action="store_true", help="`fit` alone")
    parser.add_argument("--memory-only", action="store_true")
    parser.add_argument("--time-only", action="store_true")
    args = parser.parse_args()
    sizes = {"num_layers": args.num_layers, "hidden_dim": args.hidden_dim}
    sizes |= {"num_heads": 4}
    if args.application in ON_TEXT:
        sizes |= {"vocabulary_size": 27}
        sizes |= {"sequence_length": args.sequence_length}
    else:
        sizes |= {"patch_size": 4, "num_classes": 100}
    args.sizes = sizes
    args.model = MODELS[args.application]
    data = make_data(args)
    if args.fit:
        fit_overhead(args)
        return
    if args.sampling:
        if BACKEND == "jax":
            compile_time(args)
        sampling(args)
        return
    for on_policy in args.on_policy:
        if not args.time_only and BACKEND in ("jax", "torch"):
            memory(args, data, on_policy)
        if not args.memory_only:
            times(args, data, on_policy)


def memory(args, data, on_policy):
    """Ratios of temporaries (JAX) or saved bytes (torch)."""
    twin = make_twin(args)
    in_blocks = args.application not in PLAIN_TWIN
    x, y = (*data, None)[:2]
    if BACKEND == "jax":
        whole = jax_temporaries(twin, data, 0 if in_blocks else None)
    else:
        import torch

        images = torch.as_tensor(x)
        labels = None if y is None else torch.as_tensor(y)

        def loss():
            if in_blocks:
                return twin.training_loss(0, images, labels, None, None)
            prediction = twin(images, training=True)
            return twin.compute_loss(images, labels, prediction)

        whole = torch_saved(loss, [v.value for v in twin.trainable_variables])
    for blocks in args.blocks:
        model = make_blocks(args, blocks, on_policy=on_policy)
        each = []
        for i in range(blocks):
            if BACKEND == "jax":
                each.append(jax_temporaries(model, data, i))
                continue
            with torch.no_grad():
                handed = model.hand_over(i, images, labels)
            each.append(
                torch_saved(
                    lambda i=i, m=model, h=handed: m.training_loss(
                        i, images, labels, None, h
                    ),
                    [v.value for v in model.trainable_variables],
                )
            )
        report(
            "temporaries" if BACKEND == "jax" else "saved_for_backward",
            blocks=blocks,
            on_policy=on_policy,
            twin_mb=round(whole / 2**20, 1),
            block_mb=[round(e / 2**20, 1) for e in each],
            times_B=round(max(each) / whole * blocks, 3),
        )


def times(args, data, on_policy):
    """Ratios of step times, twin and blocks in turn."""
    twin_step = stepper(make_twin(args), data)
    for blocks in args.blocks:
        model = make_blocks(
            args, blocks, on_policy=on_policy, block_order="round_robin"
        )
        block_step = stepper(model, data)
        for _ in range(2 * blocks):
            block_step()
        twin_step()
        whole, each = [], []
        for _ in range(args.steps):
            whole.append(seconds(twin_step))
            each.append(sum(seconds(block_step) for _ in range(blocks)))
        whole, each = statistics.median(whole), statistics.median(each)
        report(
            "step_time",
            blocks=blocks,
            on_policy=on_policy,
            twin_s=round(whole, 4),
            block_s=round(each / blocks, 4),
            times_B=round(each / whole, 3),
        )


def fit_overhead(args):
    """`fit` over a set against a loop over the same compiled steps."""
    x, y = make_data(args)
    epoch = args.steps * args.blocks[0]
    x, y = np.concatenate([x] * epoch), np.concatenate([y] * epoch)
    model = make_blocks(
        args, args.blocks[0], on_policy=0.0, block_order="round_robin"
    )
    model.fit(x, y, args.batch_size, verbose=0)  # compiles
    fit, bare = [], []
    for _ in range(3):
        begin = time.perf_counter()
        model.fit(x, y, args.batch_size, verbose=0)
        fit.append(time.perf_counter() - begin)
        model._next_step, model._checks_stream = 0, False
        bare.append(bare_loop(model, make_data(args), epoch))
    fit, bare = statistics.median(fit), statistics.median(bare)
    report(
        "fit_over_bare_loop",
        steps=epoch,
        fit_s=round(fit, 3),
        bare_s=round(bare, 3),
        ratio=round(fit / bare, 3),
    )


def generator(args, model, count, steps):
    """A function that makes `count` samples in `steps` steps."""
    if args.application == "mdm":
        options = {"num_samples": count}
    else:
        labels = np.zeros(count, "int32")
        options = {"labels": labels, "sampler": "euler"}
    return functools.partial(
        model.generate, num_steps=steps, batch_size=count, **options
    )


def sampling(args):
    """Ratios of the time to make as many samples with as many steps."""
    models = {b: make_blocks(args, b) for b in (1, *args.blocks)}
    makers = {
        blocks: generator(args, model, args.batch_size, 50)
        for blocks, model in models.items()
    }
    for make in makers.values():  # compiles
        make()
    taken = {blocks: [] for blocks in models}
    for _ in range(args.steps):
        for blocks, make in makers.items():
            taken[blocks].append(seconds(make))
    whole = statistics.median(taken[1])
    for blocks in args.blocks:
        each = statistics.median(taken[blocks])
        report(
            "sampling_50_steps",
            blocks=blocks,
            one_block_s=round(whole, 3),
            blocks_s=round(each, 3),
            times_B=round(each / whole * blocks, 3),
        )


def compile_time(args):
    """Seconds to make images for the first time, less the second time."""
    for blocks in args.blocks:
        taken = {}
        for steps in (blocks, 50):
            make = generator(args, make_blocks(args, blocks), 2, steps)
            taken[steps] = seconds(make) - seconds(make)
        report(
            "sampler_compile",
            blocks=blocks,
            one_step_per_block_s=round(taken[blocks], 2),
            steps_50_s=round(taken[50], 2),
            ratio=round(taken[50] / taken[blocks], 3),
        )


def bare_loop(model, data, steps):
    """Seconds of `steps` calls of the model's own train function on JAX."""
    import jax

    batch = jax.device_put(data)
    state = jax.tree.map(lambda v: v.copy(), jax_state(model))
    begin = time.perf_counter()
    for _ in range(steps):
        logs, state = model.train_function(state, iter([batch]))
    jax.block_until_ready((logs, state))
    return time.perf_counter() - begin


def report(figure, **values):
    """One line of JSON."""
    line = {"figure": figure, "backend": BACKEND, **values}
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
