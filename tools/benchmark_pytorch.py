"""Time of a block's training step, relative to a ViT in plain PyTorch.

    KERAS_BACKEND=torch python tools/benchmark_pytorch.py
    KERAS_BACKEND=jax python tools/benchmark_pytorch.py

The reference is the ViT of the paper (docs/method.md#image-classification: 12
layers of width 128, MLP 3072, images 32 x 32 in patches of 4 pixels) from the
package `transformers`, which must be installed, trained end to end with AdamW
of PyTorch. Both run in one process with the same threads, and their steps take
turns. `times_B` is the time of B of our steps relative to one of the reference.
"""

import argparse

import keras
import torch
import transformers
from steps import median_seconds, report, stepper

from keras_dblocks.applications import ViT
from keras_dblocks.memory.plan import example

SIZES = {"image_size": 32, "num_classes": 100, "patch_size": 4}
SIZES |= {"hidden_dim": 128, "num_heads": 4, "intermediate_dim": 3072}


def plain_step(args, images, labels):
    """Makes a function that performs one training step of the plain ViT."""
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
    """Prints one line of JSON for each number of blocks."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--blocks", type=int, nargs="+", default=[2, 3, 4])
    add("--batch-size", type=int, default=32)
    add("--num-layers", type=int, default=12)
    add("--steps", type=int, default=9)
    add("--dtype", help="of our model, such as mixed_bfloat16")
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
    taken = median_seconds(steps, args.steps, warmups=2)
    for count in args.blocks:
        report(
            "step_against_pytorch",
            blocks=count,
            pytorch_s=round(taken[0], 4),
            block_s=round(taken[count], 4),
            times_B=round(count * taken[count] / taken[0], 3),
        )


if __name__ == "__main__":
    main()
