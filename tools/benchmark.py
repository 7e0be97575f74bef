"""Memory and time of training by several methods.

    KERAS_BACKEND=jax python tools/benchmark.py --applications vit ar
    KERAS_BACKEND=torch python tools/benchmark.py --plot benchmark.png

For each system the methods are the end-to-end twin, also with remat (every
layer is computed again in the backward pass) and with gradient accumulation,
DiffusionBlocks with and without remat, and one block alone. The memory is that
of `keras_dblocks.memory.measure`. The step time is the median over `--steps`
steps, for which the methods take turns; the processor time is that of all
cores together. `x_B` stands for the value of a method times B relative to the
twin, because B steps through 1 / B of the layers are as many layer evaluations
as one step of the twin. Each method gives one line of JSON, and with `--csv` a
row of a table. On a CUDA device PyTorch's allocator also tells what it held at
most in the first steps, model and optimizer included (`allocator_peak`). At
usual sizes, on a GPU:

    KERAS_BACKEND=torch python tools/benchmark.py --applications vit dit ar \
        --sizes base --dtype mixed_bfloat16 --blocks 3 6 --alternatives
"""

import argparse
import csv
import functools
import json
import math
import os
import statistics
import time

import keras
import numpy as np
from steps import BACKEND, print_line, seconds, stepper

from keras_dblocks import applications, memory
from keras_dblocks.applications.program.memory import twin
from keras_dblocks.applications.program.record import commit
from keras_dblocks.memory.plan import example
from keras_dblocks.models.block import Block

CLASSES = {
    "vit": "ViT",
    "dit": "DiT",
    "mdm": "MDM",
    "ar": "ARTransformer",
    "recurrent_depth": "RecurrentDepth",
}
BATCHES = {"vit": 128, "dit": 64, "mdm": 32, "ar": 16, "recurrent_depth": 8}
# ViT-B/16 at 224 pixels, DiT-B/2 on latents of 256 pixels, and text models of
# their depth and width.
BASE = {"num_layers": 12, "hidden_dim": 768, "num_heads": 12}
IMAGENET = {"image_size": 224, "patch_size": 16, "num_classes": 1000}
LATENTS = {**IMAGENET, "image_size": 32, "patch_size": 2, "channels": 4}
TEXT = {"vocabulary_size": 256, "sequence_length": 512}
BASE_SIZES = {"vit": IMAGENET, "dit": LATENTS, "ar": TEXT, "mdm": TEXT}
BASE_BATCHES = {"vit": 64, "dit": 32, "ar": 16, "mdm": 16}


def config_of(args, name):
    """Returns the constructor keywords of the application's class."""
    dtype = {"dtype": args.dtype} if args.dtype else {}
    if args.sizes == "base":
        return {**BASE, **BASE_SIZES[name], **dtype}
    sizes = {"hidden_dim": args.hidden_dim, "num_heads": 4, **dtype}
    if args.intermediate_dim:
        sizes["intermediate_dim"] = args.intermediate_dim
    if name in ("vit", "dit"):
        sizes |= {"image_size": 32, "patch_size": 4, "num_classes": 100}
    else:
        sizes |= {"vocabulary_size": 256}
        sizes |= {"sequence_length": args.sequence_length}
    if name != "recurrent_depth":
        sizes |= {"num_layers": args.num_layers}
    return sizes


def add_sizes(parser):
    """Adds the command-line options that `config_of` reads."""
    add = parser.add_argument
    text = "base: of ViT-B/16 and the like, for which the next four are ignored"
    add("--sizes", choices=["small", "base"], default="small", help=text)
    add("--num-layers", type=int, default=12)
    add("--hidden-dim", type=int, default=128)
    add("--intermediate-dim", type=int)
    add("--sequence-length", type=int, default=128)
    add("--dtype", help="such as mixed_bfloat16")


def make_rows(args, name):
    """Prepares the methods of one application.

    `DiffusionBlocks` train the same inner block at each step, because blocks of
    the same depth cost the same, and each would have to be compiled.

    Returns:
        Its class, the constructor keywords, and a dict by method of
        `(B, batch size, function that makes the model)`.
    """
    cls = getattr(applications, CLASSES[name])
    batches = BASE_BATCHES if args.sizes == "base" else BATCHES
    config, batch = config_of(args, name), args.batch_size or batches[name]

    def blocks(count, remat=False):
        own = {} if name == "recurrent_depth" else {"num_blocks": count}
        model = cls(**{**config, **own, "remat": remat})
        model.compile(
            "adamw",
            on_policy=args.on_policy,
            block_order=model.num_blocks // 2,
            jit_compile=args.jit_compile,
        )
        return model

    def alone(count):
        model = cls(**{**config, "num_blocks": count})
        block = model.block(count // 2)
        block.compile("adamw", jit_compile=args.jit_compile)
        return block

    def whole(**options):
        model = twin(cls, config, **options)
        if name == "recurrent_depth":
            # Always the mean number of iterations, in which time is linear.
            model.probabilities = np.eye(model.mean_recurrence + 2)[-1]
        if args.jit_compile != "auto":
            model.jit_compile = args.jit_compile
        return model

    part = functools.partial
    rows = {"end to end": (1, batch, whole)}
    counts = [1] if name == "recurrent_depth" else args.blocks
    for count in counts:
        rows[f"{count} blocks"] = (count, batch, part(blocks, count))
    if not args.alternatives:
        return cls, config, rows
    last = counts[-1]
    rows["end to end, remat"] = (1, batch, part(whole, remat=True))
    if last > 1:
        make = part(whole, gradient_accumulation_steps=last)
        rows[f"end to end, {last} small batches"] = (1, batch // last, make)
        rows["one block alone"] = (last, batch, part(alone, last))
    rows[f"{last} blocks, remat"] = (last, batch, part(blocks, last, True))
    return cls, config, rows


def cuda():
    """`torch.cuda` where PyTorch has such a device, else None."""
    if BACKEND != "torch":
        return None
    import torch

    return torch.cuda if torch.cuda.is_available() else None


def outside_layers(model):
    """Bytes of a block's stem and head: weights, gradients, AdamW's state."""
    if not isinstance(model, Block):
        return 0
    shell = model.shell_variables()
    return 4 * 4 * sum(math.prod(v.shape) for v in shell)


def run(args, name):
    """Yields one dict of results for each method."""
    cls, config, rows = make_rows(args, name)
    spec = cls(**{**config, "num_blocks": 1})
    used, steps, built, shared, peaks = {}, {}, {}, {}, {}
    gpu = cuda()
    for row, (_, batch, make) in rows.items():
        before = gpu.memory_allocated() if gpu else 0
        model, data = make(), example(spec, batch)
        shared[row] = outside_layers(model)
        if not args.time_only:
            index = getattr(model, "num_blocks", 1) // 2
            used[row] = memory.measure(model, *data, blocks=[index])
        if not args.memory_only:
            keras.utils.set_random_seed(0)
            begin = time.perf_counter()
            if gpu:  # `measure` has a peak of its own
                gpu.reset_peak_memory_stats()
            steps[row] = stepper(model, data)
            steps[row]()
            built[row] = time.perf_counter() - begin
            steps[row]()
            if gpu:
                gpu.synchronize()
                peaks[row] = gpu.max_memory_allocated() - before
    taken, busy = ({row: [] for row in steps} for _ in range(2))
    for _ in range(args.steps):
        for row, step in steps.items():
            small = rows["end to end"][1] // rows[row][1]
            begin = time.process_time()
            taken[row].append(sum(seconds(step) for _ in range(small)))
            busy[row].append(time.process_time() - begin)
    average = statistics.median
    if name == "recurrent_depth":  # the cost differs between steps
        average = statistics.mean
    first = next(iter(rows))
    for row, (count, _, _) in rows.items():
        result = {"application": name, "row": row}
        if used:
            need, whole = used[row], used[first]
            result |= {p: getattr(need, p) for p in memory.PARTS}
            result |= {"total": need.total, "how": need.how}
            share = need.temporaries / whole.temporaries
            result["temporaries_x_B"] = round(count * share, 3)
            result["total_x_B"] = round(count * need.total / whole.total, 3)
            if shared[row]:
                share = (need.total - shared[row]) / whole.total
                result["stem_and_head"] = shared[row]
                result["total_x_B_without"] = round(count * share, 3)
        if steps:
            each = average(taken[row])
            result["step_s"] = round(each, 4)
            result["processor_s"] = round(average(busy[row]), 4)
            result["first_step_s"] = round(built[row], 2)
            if row in peaks:
                result["allocator_peak"] = peaks[row]
            share = each / average(taken[first])
            result["time_x_B"] = round(count * share, 3)
        yield result


def save_plot(path, results):
    """Draws memory and time by method, two panels for each application."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(r["application"] for r in results))
    figure, axes = pyplot.subplots(
        len(names), 2, figsize=(11, 2.2 * len(names)), squeeze=False
    )
    parts = memory.PARTS
    for (left, right), name in zip(axes, names, strict=True):
        rows = [r for r in results if r["application"] == name][::-1]
        labels = [r["row"] for r in rows]
        start = np.zeros(len(rows))
        for part in parts if "total" in rows[0] else ():
            width = np.array([r[part] / 2**20 for r in rows])
            left.barh(labels, width, left=start, label=part)
            start += width
        left.set_title(f"{name}: MiB of a step")
        if "time_x_B" in rows[0]:
            right.barh(labels, [r["time_x_B"] for r in rows])
            right.axvline(1.0, color="black", linewidth=0.8)
        right.set_yticks([])
        right.set_title("time of as many layer evaluations / twin's")
    axes[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path)


def main():
    """Prints one line of JSON for each method."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--applications", nargs="+", choices=list(CLASSES), default=[*CLASSES])
    add("--blocks", type=int, nargs="+", default=[2, 3, 4])
    add("--batch-size", type=int, help="default: the application's")
    add_sizes(parser)
    add("--on-policy", type=float, default=0.0)
    add("--jit-compile", type=json.loads, default='"auto"')
    add("--steps", type=int, default=5)
    add("--memory-only", action="store_true")
    add("--time-only", action="store_true")
    add(
        "--alternatives",
        action="store_true",
        help="all methods, not only DiffusionBlocks and twin",
    )
    add("--csv", help="file")
    add("--plot", help="file")
    args = parser.parse_args()
    if args.sizes == "base" and not set(args.applications) <= set(BASE_SIZES):
        parser.error(f"--sizes base is for --applications {[*BASE_SIZES]}")
    # As in training/jax_step.py, so that remat works for Keras's own step too.
    flag = "--xla_disable_hlo_passes=cse_barrier_expander"
    os.environ.setdefault("XLA_FLAGS", flag)
    results = []
    for name in args.applications:
        for result in run(args, name):
            result |= {"backend": BACKEND, "commit": commit()}
            print_line(result)
            results.append(result)
    if args.csv:
        with open(args.csv, "w", newline="") as file:
            names = list(dict.fromkeys(k for r in results for k in r))
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(results)
    if args.plot:
        save_plot(args.plot, results)


if __name__ == "__main__":
    main()
