"""Callbacks of `fit`."""

import collections
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_dblocks import processes
from keras_dblocks.checks import check_integer
from keras_dblocks.diffusion.label_embedding import LabelEmbedding
from keras_dblocks.models.diffusion_blocks import DiffusionBlocks
from keras_dblocks.training.trainer import BlockTrainer
from keras_dblocks.training.user_data import as_arrays, is_arrays

__all__ = ["BlockLog"]


class BlockLog(keras.callbacks.Callback):
    """Writes what blocks do in `fit` for TensorBoard, without TensorFlow.

    It is for any `keras.Model`: one in blocks, a single block, a network that
    was cut, a twin. The step of everything it writes is the number of steps
    that the model was trained for, so a run that was killed and resumed goes
    on with its curves, and what was written after its backup is hidden.

    | tag | what it is |
    |---|---|
    | `train/loss`, ... | the epoch's losses and metrics in the logs of `fit` |
    | `train/block_0_loss`, ... | of the blocks that the epoch has drawn |
    | `validation/...` | what validation found, by the same names |
    | `validation/accuracy_after_block_0`, ... | with `validation_data` |
    | `blocks/drawn` | the block that each step has trained |
    | `blocks/steps_of_block_0`, ... | steps of the epoch by block |
    | `learning_rate`, `learning_rate/block_0`, ... | at the epoch's end |
    | `samples` | what `samples` makes |

    Keras's own `TensorBoard` callback writes with TensorFlow, on every backend,
    and knows of no blocks. This one writes with tensorboardX, of the extra
    `tensorboard`: `pip install "keras-dblocks[tensorboard]"`. TensorBoard shows
    it: `tensorboard --logdir runs`. (tensorboardX imports PyTorch too, where
    that is installed.)

    Args:
        log_dir: path of a folder for this run alone, which is made if need be.
        update_freq: `"epoch"`, or int to also write the training's numbers
            after each so many batches, for long epochs. Those are means since
            the epoch began.
        validation_data: `(x, y)`, a few hundred rows with integer classes,
            whose accuracy is computed after each block at the end of an epoch.
            It is for models that classify: a `DiffusionBlocks` with a label
            embedding, or a network cut with `training="sequential"`.
        samples: function of the model that returns images `(N, H, W, C)`,
            uint8 or floats in `value_range`, with 1, 3 or 4 channels; or a
            list of strings.
        samples_every: int. Epochs from one call of `samples` to the next.
        value_range: pair of floats. Range of images that are floats, which
            are clipped to it. Defaults to `(-1, 1)`.

    Raises:
        ImportError: without tensorboardX.
        ValueError: for arguments out of range, when `fit` begins for
            `validation_data` that the model has no accuracy of, and at the end
            of an epoch for samples that are neither images nor strings.

    Example:

    ```python
    log = keras_dblocks.callbacks.BlockLog(
        "runs/digits", validation_data=(x_test, y_test)
    )
    model.fit(x, y, epochs=3, validation_data=(x_test, y_test),
              callbacks=[log])
    ```

    To see what a generator draws:

    ```python
    log = keras_dblocks.callbacks.BlockLog(
        "runs/dit", samples=lambda model: model.generate(np.arange(10))
    )
    ```
    """

    def __init__(
        self,
        log_dir: os.PathLike | str,
        update_freq: int | str = "epoch",
        validation_data: tuple[Any, Any] | None = None,
        samples: Callable[[keras.Model], Any] | None = None,
        samples_every: int = 1,
        value_range: Sequence[float] = (-1.0, 1.0),
    ) -> None:
        super().__init__()
        # Keras may call `on_train_batch_end` in a thread, so that no step
        # waits for the losses of the step before it. It waits for the thread
        # before it calls `on_epoch_end`.
        self.async_safe = True
        self._parts = _tensorboardx()
        if update_freq != "epoch":
            check_integer("update_freq", update_freq)
        check_integer("samples_every", samples_every)
        if samples is not None and not callable(samples):
            raise ValueError(
                "`samples` is a function of the model. Received: a "
                f"{type(samples).__name__}. Pass `lambda model: "
                "model.generate(...)`."
            )
        self.log_dir = os.fspath(log_dir)
        self.update_freq = update_freq
        self.validation_data = _classes(validation_data)
        self.samples = samples
        self.samples_every = samples_every
        self.value_range = value_range
        self.writer = self.chain = None
        # `self.model` brings all variables home on JAX, in whatever thread it
        # is asked for. Between batches this is read instead, the model if it
        # is in blocks.
        self.in_blocks = None
        self.epoch_start = self.written = 0
        # Steps of the epoch, by block.
        self.draws: collections.Counter[int] = collections.Counter()

    def on_train_begin(self, logs=None):
        self._close()
        model = self.model
        self.in_blocks = model if isinstance(model, BlockTrainer) else None
        if self.validation_data is not None:
            _check_classifies(self.model)

    def on_epoch_begin(self, epoch, logs=None):
        # By now a backup was restored, whatever the order of the callbacks.
        self.epoch_start = self.written = _training_step(self.model)
        self.draws.clear()
        if self.writer is None and processes.number() == 0:
            self.writer = EventFile(self._parts, self.log_dir, self.epoch_start)

    def on_train_batch_end(self, batch, logs=None):
        if self.update_freq == "epoch" or self.writer is None:
            return
        step = self.epoch_start + batch + 1
        if step - self.written >= self.update_freq:
            self._write_training(step, logs)
            self.writer.flush()

    def on_epoch_end(self, epoch, logs=None):
        if self.writer is None:
            return
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()  # brings home what is offloaded
        step = _training_step(self.model)
        self._write_training(step, logs)
        for block in range(getattr(self.model, "num_blocks", 0)):
            count = self.draws[block]
            self._write(f"blocks/steps_of_block_{block}", count, step)
        for name, rate in _learning_rates(self.model).items():
            self._write(name, rate, step)
        for name, value in (logs or {}).items():
            if name.startswith("val_"):
                self._write(f"validation/{name[4:]}", value, step)
        for block, value in self._accuracies():
            tag = f"validation/accuracy_after_block_{block}"
            self._write(tag, value, step)
        if self.samples is not None and (epoch + 1) % self.samples_every == 0:
            self._write_samples(self.samples(self.model), step)
        self.writer.flush()

    def on_train_end(self, logs=None):
        self._close()

    def _close(self):
        if self.writer is not None:
            self.writer.close()
        self.writer = self.chain = None

    def _write(self, tag, value, step):
        self.writer.scalar(tag, float(value), step)

    def _write_training(self, step, logs):
        """Writes the blocks drawn since the last time, and the logs."""
        own = {}  # for each block's loss, whether the epoch has drawn it
        if self.in_blocks is not None:
            for before in range(self.written, step):
                block = self.in_blocks.block_of(before)
                self.draws[block] += 1
                self._write("blocks/drawn", block, before + 1)
            names = [metric.name for metric in self.in_blocks.block_losses]
            own = {name: self.draws[i] > 0 for i, name in enumerate(names)}
        self.written = step
        for name, value in (logs or {}).items():
            # `fit` repeats the last loss of a block that was not drawn.
            known = name.startswith("val_") or name == "learning_rate"
            if not known and own.get(name, True):
                self._write(f"train/{name}", value, step)

    def _accuracies(self):
        """Pairs of a block and the accuracy after it."""
        if self.validation_data is None:
            return
        x, y = self.validation_data
        if self.chain is None:  # one for the whole `fit`: it is compiled once
            self.chain = self.model.steps_model()
        steps = self.chain.predict(x, batch_size=128, verbose=0)
        calls = self.model.last_calls()
        for block, call in sorted(calls.items()):
            answers = steps[:, call].argmax(-1)
            yield block, np.mean(answers == y.reshape(answers.shape))

    def _write_samples(self, made, step):
        if isinstance(made, str):
            made = [made]
        if isinstance(made, (list, tuple)) and all(
            isinstance(text, str) for text in made
        ):
            # TensorBoard reads Markdown: as code, spaces and lines stay.
            parts = ["    " + text.replace("\n", "\n    ") for text in made]
            self.writer.text("samples", "\n\n---\n\n".join(parts), step)
            return
        images = np.asarray(keras.ops.convert_to_numpy(made))
        if images.ndim != 4 or images.shape[-1] not in (1, 3, 4):
            raise ValueError(
                "`samples` returns images (N, H, W, C) of 1, 3 or 4 channels, "
                f"or a list of strings. Received: shape {images.shape}. Make "
                "images of what it returns."
            )
        if images.dtype != np.uint8:
            low, high = self.value_range
            share = (images.astype("float32") - low) / (high - low)
            images = np.round(255 * np.clip(share, 0.0, 1.0)).astype("uint8")
        self.writer.images("samples", images, step)


class EventFile:
    """A new file of events, which are on the disk after `flush`.

    tensorboardX's own `SummaryWriter` hands events to a thread, so that a run
    that is killed loses those that were still on their way.

    Args:
        parts: what `_tensorboardx` returns.
        folder: str, which is made if need be.
        step: int. Events of older files in the folder above it are hidden.
    """

    def __init__(self, parts, folder, step):
        self.make_event, self.summary, make_writer = parts
        os.makedirs(folder, exist_ok=True)
        # The name of a file has seconds alone. A run that is resumed within
        # one must not write over what it wrote before, nor be read before it.
        suffix = f".{time.time_ns()}.{os.getpid()}"
        self.writer = make_writer(os.path.join(folder, "events"), suffix)
        begin = {"status": 1}  # SessionLog.START
        self._write(step + 1, session_log=begin)

    def _write(self, step, **content):
        event = self.make_event(wall_time=time.time(), step=step, **content)
        self.writer.write_event(event)

    def scalar(self, tag, value, step):
        self._write(step, summary=self.summary.scalar(tag, value))

    def text(self, tag, text, step):
        self._write(step, summary=self.summary.text(tag, text))

    def images(self, tag, images, step):
        """Images `(N, H, W, C)`, uint8, as one picture."""
        made = self.summary.image(tag, images, dataformats="NHWC")
        self._write(step, summary=made)

    def flush(self):
        self.writer.flush()

    def close(self):
        self.writer.close()


def _tensorboardx():
    """What `EventFile` takes of tensorboardX."""
    try:
        from tensorboardX import summary
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event
    except ImportError as error:
        raise ImportError(
            "`BlockLog` writes with tensorboardX. Received: an environment "
            f"without it ({error}). Run "
            '`pip install "keras-dblocks[tensorboard]"`.'
        ) from error
    return Event, summary, EventsWriter


def _training_step(model):
    """Number of steps that any model was trained for (int)."""
    if hasattr(model, "training_step"):
        return model.training_step()
    return int(model.optimizer.iterations)


def _learning_rates(model):
    """Present learning rates by tag."""
    if not isinstance(model, BlockTrainer):
        return {"learning_rate": float(model.optimizer.learning_rate)}
    names = [f"block_{i}" for i in range(model.num_blocks)] + ["shared"]
    return {
        f"learning_rate/{name}": float(part.learning_rate)
        for name, part in zip(names, model.optimizer.parts, strict=False)
    }


def _classes(validation_data):
    """`(x, y)` as arrays, checked as far as no model is needed."""
    if validation_data is None:
        return None
    pair = isinstance(validation_data, tuple) and len(validation_data) == 2
    x, y = as_arrays(validation_data) if pair else (None, None)
    kind = keras.backend.standardize_dtype(y.dtype) if is_arrays(y) else "none"
    if "int" not in kind:
        came = f"y of {kind}" if pair else "no pair"
        raise ValueError(
            "`validation_data` is a pair (x, y) of arrays, where y holds "
            f"integer classes. Received: {came}. Pass a few hundred rows of "
            "the test set."
        )
    return x, keras.ops.convert_to_numpy(y)


def _check_classifies(model):
    """Raises a ValueError for a model without accuracies after its blocks."""
    able = hasattr(model, "steps_model")
    if isinstance(model, DiffusionBlocks):
        able = isinstance(model.target, LabelEmbedding)
    if not able:
        raise ValueError(
            "`validation_data` is for models that predict classes after each "
            'block: with a label embedding, or cut with training="sequential". '
            f"Received: {model.name}, a {type(model).__name__}. Leave it out; "
            "the `validation_data` of `fit` is logged anyway."
        )
