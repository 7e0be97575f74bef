"""Memory of a training step of a language model, in blocks and as a whole.

The model has SmolLM2-135M's sizes and random weights; nothing is run, since on
JAX memory is XLA's own accounting of the compiled step. Prints a line of JSON
for each row: bytes of temporaries (with gradients) and of optimizer state, for
a step of each kind.

    KERAS_BACKEND=jax python tools/measure_fine_tuning.py

With `--repeats` it runs steps instead and prints the median seconds of a step
of each of two rows, which take turns; in blocks it is the mean over all blocks.
"""

import argparse
import json

import keras
import keras_hub
import numpy as np
from steps import median_seconds, print_line, stepper

import keras_dblocks
from keras_dblocks import chunks, memory
from keras_dblocks.memory.usage import size

SMOLLM2 = {
    "vocabulary_size": 49152,
    "num_layers": 30,
    "num_query_heads": 9,
    "num_key_value_heads": 3,
    "hidden_dim": 576,
    "intermediate_dim": 1536,
    "rope_max_wavelength": 100000,
    "tie_word_embeddings": True,
}
# name: blocks of layers, table, remat, chunks, rank of LoRA
ROWS = {
    "all weights": (1, "inside", False, False, None),
    "all weights, remat": (1, "inside", True, False, None),
    "all weights, remat, chunks": (1, "inside", True, True, None),
    "LoRA 8, remat, chunks": (1, "inside", True, True, 8),
    "5 blocks and table, remat, chunks": (5, "own", True, True, None),
    "10 blocks and table, remat, chunks": (10, "own", True, True, None),
    "5 blocks and table, chunks": (5, "own", False, True, None),
}


def compiled(row, args):
    """The network of a row in blocks, and a batch."""
    blocks, tables, remat, _, rank = ROWS[row]
    sizes = SMOLLM2 | args.sizes
    backbone = keras_hub.models.LlamaBackbone(**sizes)
    model = keras_hub.models.LlamaCausalLM(backbone, preprocessor=None)
    if rank:
        backbone.enable_lora(rank)
    cut = keras_dblocks.cut(model, blocks, tables=tables)
    order = {"block_order": "round_robin", "steps_per_visit": 1}
    cut.compile(keras.optimizers.AdamW(1e-4), remat=remat, **order)
    shape = args.batch_size, args.sequence_length
    x = {name: np.ones(shape, "int32") for name in model.input}
    return cut, (x, np.ones(shape, "int32"))


def measure(row, args):
    """The figures of a row, a dict; bytes."""
    cut, batch = compiled(row, args)
    allow_chunks(row)
    found = {"row": row, "weights": size(cut.model.weights), "steps": []}
    # The blocks between need less than the first and more than the last.
    last = ROWS[row][0] - 1
    chosen = sorted({0, last, len(cut.blocks) - 1})
    for block in (cut.blocks[i] for i in chosen):
        used = memory.measure(cut, *batch, blocks=[block.index])
        state = size(cut.optimizer.parts[block.index].variables)
        found["steps"].append(
            {
                "layers": f"{block.units[0].name} to {block.units[-1].name}",
                "temporaries": used.temporaries,
                "state": state,
                "step": used.temporaries + state,
            }
        )
    found["largest_step"] = max(step["step"] for step in found["steps"])
    return found


def time(rows, args):
    """Median seconds of a step of each row, a dict."""
    actions, blocks = {}, {}
    for row in rows:
        cut, batch = compiled(row, args)
        blocks[row] = len(cut.blocks)
        actions[row] = _one_of_each(stepper(cut, batch), blocks[row], row)
    found = median_seconds(actions, args.repeats)
    return {row: found[row] / blocks[row] for row in rows}


def _one_of_each(step, count, row):
    def steps():
        allow_chunks(row)
        for _ in range(count):
            step()

    return steps


def allow_chunks(row):
    """Lets what is traced now compute logits in chunks, if the row does."""
    chunks.LARGE = 2**24 if ROWS[row][3] else 2**60


def main():
    """Measures the rows that were requested."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--sequence-length", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=0)
    parser.add_argument("--sizes", type=json.loads, default={})
    args = parser.parse_args()
    if args.repeats:
        print_line(time(args.rows, args))
        return
    for row in args.rows:
        print_line(measure(row, args))


if __name__ == "__main__":
    main()
