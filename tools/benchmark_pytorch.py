"""A block's training step against a plain PyTorch ViT trained end to end.

    KERAS_BACKEND=torch python tools/benchmark_pytorch.py
    KERAS_BACKEND=jax python tools/benchmark_pytorch.py

The ViT of the paper (METHOD 6.1: 12 layers of width 128, MLP 3072, patches of
4 of 32 x 32 pixels) from `transformers`, which must be installed, with
PyTorch's own AdamW; both in one process, same threads, one step in turn. `x B`
is the time of B of our steps over one of its steps.
"""

import argparse
import statistics

import keras
import torch
import transformers
from steps import report, seconds, stepper

from keras_dblocks.applications import ViT
from keras_dblocks.memory.plan import example

SIZES = {"image_size": 32, "num_classes": 100, "patch_size": 4}
SIZES |= {"hidden_dim": 128, "num_heads": 4, "intermediate_dim": 3072}


def plain_step(args, images, labels):
    """A function that takes one training step of the plain ViT."""
    config = transformers.ViTConfig(
        image_size=32,
        patch_size=4,
        hidden_size=128,
        num_hidden_layers=args.num_layers,
        num_attention_heads=4,
        intermediate_size=3072,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=100,
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = transformers.ViTForImageClassification(config).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters())
    pixels = torch.as_tensor(images, device=device).permute(0, 3, 1, 2)
    labels = torch.as_tensor(labels, device=device).long()

    def step():
        optimizer.zero_grad(set_to_none=True)
        model(pixel_values=pixels.contiguous(), labels=labels).loss.backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def main():
    """Prints one JSON line for each number of blocks."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--blocks", type=int, nargs="+", default=[2, 3, 4])
    add("--batch-size", type=int, default=32)
    add("--num-layers", type=int, default=12)
    add("--steps", type=int, default=9)
    add("--dtype", help="of ours, such as mixed_bfloat16")
    args = parser.parse_args()
    keras.utils.set_random_seed(0)
    steps = {}
    for count in args.blocks:
        model = ViT(
            num_layers=args.num_layers,
            num_blocks=count,
            dtype=args.dtype,
            **SIZES,
        )
        model.compile("adamw", on_policy=0.0, block_order=count // 2)
        data = example(model, args.batch_size)
        steps[count] = stepper(model, data)
    steps[0] = plain_step(args, *data)
    taken = {count: [] for count in steps}
    for repeat in range(args.steps + 2):
        for count, step in steps.items():
            duration = seconds(step)
            if repeat >= 2:  # compiled and warm by then
                taken[count].append(duration)
    whole = statistics.median(taken[0])
    for count in args.blocks:
        each = statistics.median(taken[count])
        report(
            "step_against_pytorch",
            blocks=count,
            pytorch_s=round(whole, 4),
            block_s=round(each, 4),
            times_B=round(count * each / whole, 3),
        )


if __name__ == "__main__":
    main()
