"""A run that trains on text."""

import keras

from keras_dblocks.applications.data import RandomChunks, chunks, load_text
from keras_dblocks.applications.data.text import TOKENIZERS

from .figures import Figure
from .run import Run

# What `evaluate` measures: the words of its name, and the unit.
MEASURES = {
    "bits_per_token": ("bound", "bits per token"),
    "cross_entropy": ("cross-entropy", "nats per token"),
    "loss": ("loss", "nats per token"),
    "num_tokens": ("tokens", "that count"),
}


class TextRun(Run):
    """Trains a model of tokens on a `TextData`."""

    examples = "sequences"
    data_help = (
        "python (text that ships with Python), text8, lm1b, or the path of a "
        "text file"
    )
    example_file = "my_text.txt"
    tokenizers = tuple(TOKENIZERS)

    @staticmethod
    def load(recipe):
        return load_text(recipe["data"], recipe["tokenizer"])

    @staticmethod
    def sizes_of(data, recipe, config):
        return {"vocabulary_size": data.vocabulary_size}

    def make_batches(self, blocks):
        recipe, length = self.recipe, blocks.sequence_length
        tokens = self.data.train
        if recipe.get("train_examples"):
            tokens = tokens[: recipe["train_examples"] * length]
        return RandomChunks(
            tokens,
            length,
            recipe["batch_size"],
            recipe.get("steps_per_epoch"),
            seed=self.config["seed"],
        )

    def compile_model(self):
        self.model.tokenizer = self.data.tokenizer
        super().compile_model()

    def warmup_steps(self, steps):
        return min(self.recipe["warmup_steps"], steps // 2)

    def describe_data(self):
        return f"{len(self.batches.tokens):,} tokens of {self.data.name}"

    def validation_data(self):
        """The data on which `fit` computes `val_loss`."""
        return chunks(self.data.validation, self.model.sequence_length)[:256]

    def callbacks(self, folder):
        return [Samples()]

    def watched(self):
        return {"samples": lambda model: model.generate(num_samples=2)}

    def results(self, folder):
        test = chunks(self.data.test, self.model.sequence_length)[:1000]
        scores = self.model.evaluate(test, return_dict=True)
        if self.in_blocks:  # after the last block it is that of the model
            last = f"block_{self.model.num_blocks - 1}_cross_entropy"
            scores.pop(last, None)
        measure = next(iter(scores))
        result = {}
        for name, value in scores.items():
            kind = next((kind for kind in MEASURES if kind in name), measure)
            words, unit = MEASURES[kind]
            name = name.replace(kind, words).replace("_", " ")
            result[f"test {name}"] = Figure(value, unit)
        return result


class Samples(keras.callbacks.Callback):
    """Prints one generated text after each epoch."""

    def on_epoch_end(self, epoch, logs=None):
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        (text,) = self.model.generate(num_samples=1, seed=epoch)
        print(f"sample: {text!r}", flush=True)
