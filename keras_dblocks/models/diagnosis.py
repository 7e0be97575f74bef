"""What each block has learned, and what it does in the chain."""

# N examples, B batch

import os
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_dblocks import streams
from keras_dblocks.checks import check_integer
from keras_dblocks.diffusion.label_embedding import LabelEmbedding
from keras_dblocks.diffusion.samplers import loop
from keras_dblocks.diffusion.tokens import Tokens
from keras_dblocks.layers.moving_average import averaged
from keras_dblocks.models.diffusion_blocks import DiffusionBlocks
from keras_dblocks.training.trainable_block import hand_over
from keras_dblocks.training.user_data import as_arrays

COLUMNS = ("input", "block", "level", "loss", "accuracy", "changed")


def diagnose(
    model: DiffusionBlocks,
    x: Any,
    y: Any = None,
    levels_per_block: int = 3,
    batch_size: int = 128,
) -> "Diagnosis":
    """Measures the blocks of a trained model, one by one.

    Args:
        model: `DiffusionBlocks`.
        x, y: arrays as given to `fit`, a few hundred rows.
        levels_per_block: int. Noise levels in each block's range, of equal
            probability.
        batch_size: int.

    Returns:
        `Diagnosis`, with these rows:

        - input `"noised"`: the clean signal with noise, at some levels of the
          block's range;
        - `"condition scrambled"`: the same with another row's condition, which
          tells how much of the answer is read off the noisy signal;
        - `"handed over"`: what the earlier blocks hand over, as at inference;
          `changed` is the share of answers that differ from those of the
          block before it;
        - `"hand-over scrambled"`: another row's hand-over with this row's
          condition, which tells how much the block relies on it.

        Blocks of networks that hand nothing over (`on_policy=0` as the
        class's default, as in DiT) have the first two alone. Where the state
        alone is handed over, as in MDM, `"noised"` runs the earlier blocks
        too, and `"hand-over scrambled"` stands at its levels, with the state
        that they make of another row.

    Raises:
        ValueError: for data that `fit` refuses.

    Example:

    ```python
    found = keras_dblocks.diagnose(model, x_test[:500], y_test[:500])
    print(found)
    found.plot("blocks.png")
    ```
    """
    check_integer("levels_per_block", levels_per_block)
    check_integer("batch_size", batch_size)
    if not model.built:
        model.build()
    x, y = as_arrays((x, y))
    model.check_targets(x, y)
    model.check_data(x, y)
    return Diagnosis(_rows(model, x, y, levels_per_block, batch_size))


class Diagnosis:
    """Rows of `diagnose`, a table when printed.

    Args:
        rows: list of dicts with the keys of `COLUMNS`; NaN where a measure
            does not apply.

    Example:

    ```python
    found = keras_dblocks.diagnose(model, x, y)
    print(found)
    found.rows[0]["block"]  # 0
    ```
    """

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __str__(self):
        heads = f"{'input':22}{'block':>6}" + "".join(
            f"{name:>10}" for name in COLUMNS[2:]
        )
        lines = [heads]
        for row in self.rows:
            numbers = (row[name] for name in COLUMNS[2:])
            lines.append(
                f"{row['input']:22}{row['block']:6d}"
                + "".join(
                    f"{'':>10}" if np.isnan(n) else f"{n:10.4f}"
                    for n in numbers
                )
            )
        return "\n".join(lines)

    def plot(self, path: os.PathLike | str) -> None:
        """Writes a picture of the losses by block and noise level.

        It needs matplotlib, of the extra `plots`.
        """
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10, 4), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2)
        for kind, style in (("noised", "o-"), ("condition scrambled", "x--")):
            rows = [row for row in self.rows if row["input"] == kind]
            rows.sort(key=lambda row: row["level"])
            left.plot(
                [row["level"] for row in rows],
                [row["loss"] for row in rows],
                style,
                label=kind,
            )
        left.set(xscale="log", xlabel="noise level", ylabel="loss")
        left.set_title("Noised, by noise level")
        for kind in ("handed over", "hand-over scrambled"):
            rows = [row for row in self.rows if row["input"] == kind]
            if rows:
                blocks, losses = zip(
                    *((row["block"], row["loss"]) for row in rows), strict=True
                )
                right.plot(blocks, losses, "o-", label=kind)
        right.set(xlabel="block", ylabel="loss")
        right.set_title("As at inference, by block")
        for axis in (left, right):
            axis.legend(frameon=False)
        figure.savefig(path, dpi=120)


def _rows(model, x, y, levels_per_block, batch_size):
    arrays = tuple(part for part in (x, y) if part is not None)
    count = len(tree.flatten(arrays)[0])
    others = tree.map_structure(lambda a: np.roll(a, 1, axis=0), arrays)

    def ask(probe, level):
        levels = np.full(count, level, "float32")
        return probe.predict(
            (arrays, others, levels), batch_size=batch_size, verbose=0
        )

    rows = []
    for index, block in enumerate(model.blocks):
        low, high = model.partition.probability_range(index, overlap=False)
        shares = np.linspace(low, high, 2 * levels_per_block + 1)[1::2]
        kinds = ["noised"]
        if model.condition_spec() is not None:
            kinds.append("condition scrambled")
        if index and block.method.state_alone:
            kinds.append("hand-over scrambled")
        for kind in kinds:
            probe = Probe(model, block, kind)
            for level in np.atleast_1d(model.noise.quantile(shares))[::-1]:
                rows.append(_row(kind, index, level, *ask(probe, level)))
    handed = model.default_on_policy or getattr(model, "on_policy", 0.0)
    if not handed or model.blocks[0].method.state_alone:
        return rows  # no signal is handed over
    before = None
    for index, block in enumerate(model.blocks):
        for kind in ("handed over", "hand-over scrambled"):
            level = block.upper_level
            found = ask(Probe(model, block, kind), level)
            row = _row(kind, index, level, *found)
            if kind == "handed over":
                answer = found[2]
                if before is not None and not np.isnan(row["accuracy"]):
                    row["changed"] = float(np.mean(answer != before))
                before = answer
            rows.append(row)
    return rows


def _row(kind, block, level, loss, hit, answer):
    return {
        "input": kind,
        "block": block,
        "level": float(level),
        "loss": float(np.mean(loss)),
        "accuracy": float(np.mean(hit)),  # NaN where there are no classes
        "changed": np.nan,
    }


class Probe(keras.Model):
    """Losses, hits and answers of one block on a batch; compiled by `predict`.

    Args:
        model: `DiffusionBlocks`.
        block: `Block`.
        kind: str, the input; see `diagnose`.
    """

    def __init__(self, model, block, kind):
        super().__init__(name="probe")
        self.model = model
        self.block = block
        self.kind = kind
        self.built = True

    def call(self, inputs):
        own, other, level = inputs
        own, other = (_pair(arrays) for arrays in (own, other))
        block, blocks = self.block, self.model.blocks
        clean_input, condition = block.layout.split(*own)
        if self.kind == "condition scrambled":
            condition = block.layout.split(*other)[1]
        rows = streams.rows_of(ops.shape(level)[0])
        noised = self.kind in ("noised", "condition scrambled")
        with averaged(blocks):
            if noised or block.method.state_alone:
                noisy = self._noised(clean_input, level, rows)
                read, seen = noisy, condition  # what earlier blocks see
                if not noised:
                    its_input, seen = block.layout.split(*other)
                    read = self._noised(its_input, level, rows)
                run = loop.running(blocks, block.index)
                handed = loop.handed_to(run, read, level, seen)
            else:
                source = own if self.kind == "handed over" else other
                noisy, level, *handed = hand_over(
                    blocks, block.index, (*source, None), 1.0, rows
                )
            prediction, _ = block.denoise_pass(
                noisy, level, condition, tuple(handed)
            )
        loss = block.target.loss(clean_input, prediction, noisy, level)  # (B,)
        if not isinstance(block.target, (LabelEmbedding, Tokens)):
            unknown = ops.full_like(loss, np.nan)
            return loss, unknown, unknown
        labels = ops.reshape(clean_input, ops.shape(prediction)[:-1])
        answer = ops.cast(ops.argmax(prediction, -1), "int32")
        hit = ops.cast(answer == ops.cast(labels, "int32"), "float32")
        return loss, hit, answer

    def _noised(self, clean_input, level, rows):
        block = self.block
        stream = streams.Stream(self.model.seed, "diagnosis", block.index)
        clean = block.target(clean_input)
        return block.method.noise.corrupt(clean, level, stream, rows, 0)


def _pair(arrays):
    return arrays if len(arrays) == 2 else (arrays[0], None)
