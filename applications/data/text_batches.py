"""Chunks of a text: at random places to train on, in a row to test on."""

import keras
import numpy as np

from keras_dblocks.applications.data.augmented_dataset import AugmentedDataset

# B batch, N rows, T tokens.


class RandomChunks(keras.utils.PyDataset):
    """Overlapping chunks that begin anywhere, for `fit` on any backend.

    What a batch, an int32 array (B, T), holds is a function of (seed, epoch,
    index) alone. Needs what `AugmentedDataset` needs of `fit`:
    `fit(train, shuffle=False, callbacks=[train.epoch_callback()])`.

    Args:
        tokens: integer array (T,), such as `TextData.train`.
        sequence_length: int, tokens of a chunk.
        batch_size: int, chunks of a batch.
        steps_per_epoch: int, batches of an epoch. None: as many as hold the
            text once, at least one.
        seed: int.
    """

    # Epochs are counted and told as for images.
    epoch_callback = AugmentedDataset.epoch_callback
    on_epoch_end = AugmentedDataset.on_epoch_end
    _generator = AugmentedDataset._generator

    def __init__(
        self, tokens, sequence_length, batch_size, steps_per_epoch=None, seed=0
    ):
        super().__init__(workers=1)  # more would mix epochs (Keras 3.15.1)
        self.tokens = _check(tokens, sequence_length, batch_size)
        self.sequence_length = sequence_length
        self.batch_size = batch_size
        once = max(1, len(self.tokens) // (batch_size * sequence_length))
        self.steps_per_epoch = (
            once if steps_per_epoch is None else steps_per_epoch
        )
        self.seed = seed
        self.set_epoch(0)

    def __len__(self):
        return self.steps_per_epoch

    def set_epoch(self, epoch):
        """Sets the epoch (int, from 0) whose batches are given out."""
        self._epoch = (epoch,)

    def __getitem__(self, index):
        """Batch `index`, an int32 array (B, T)."""
        view = np.lib.stride_tricks.sliding_window_view
        windows = view(self.tokens, self.sequence_length)  # (places, T)
        generator = self._generator(*self._epoch, index)
        places = generator.integers(len(windows), size=self.batch_size)
        return windows[places].astype("int32")


def chunks(tokens, sequence_length):
    """The text cut into int32 rows (N, T); a last one not full is dropped."""
    tokens = _check(tokens, sequence_length)
    whole = len(tokens) // sequence_length * sequence_length
    return tokens[:whole].reshape(-1, sequence_length).astype("int32")


def _check(tokens, *sizes):
    tokens = np.asarray(tokens)
    one_row = tokens.ndim == 1 and tokens.dtype.kind in "iu"
    if not one_row or min(sizes) < 1 or sizes[0] > len(tokens):
        raise ValueError(
            "`tokens` must be one row of integers that holds a chunk. "
            f"Received: {tokens.dtype} of shape {tokens.shape}, sizes {sizes}. "
            "Use shorter chunks, or a longer text."
        )
    return tokens
