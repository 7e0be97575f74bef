"""Sequences of a text: random ones for training, consecutive for tests."""

import keras
import numpy as np

from keras_dblocks.applications.data.augmented_dataset import AugmentedDataset

# B batch, N sequences, T tokens.


class RandomChunks(keras.utils.PyDataset):
    """Batches of sequences that begin at random places of a text.

    The content of a batch, an int32 array (B, T), depends only on the seed, the
    epoch and the index of the batch. `fit` needs the same arguments as for
    `AugmentedDataset`:
    `fit(train, shuffle=False, callbacks=[train.epoch_callback()])`.

    Args:
        tokens: integer array (T,), such as `TextData.train`.
        sequence_length: int, tokens of each sequence.
        batch_size: int, sequences of each batch.
        steps_per_epoch: int, batches of each epoch. None gives as many tokens
            per epoch as the text has, and at least one batch.
        seed: int.
    """

    # Epochs are counted and set as for images.
    epoch_callback = AugmentedDataset.epoch_callback
    on_epoch_end = AugmentedDataset.on_epoch_end
    _generator = AugmentedDataset._generator

    def __init__(
        self, tokens, sequence_length, batch_size, steps_per_epoch=None, seed=0
    ):
        super().__init__(workers=1)  # as in `AugmentedDataset`
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
        """Sets the epoch, an int from 0, to which the next batches belong."""
        self._epoch = (epoch,)

    def __getitem__(self, index):
        """Batch `index`, an int32 array (B, T)."""
        view = np.lib.stride_tricks.sliding_window_view
        windows = view(self.tokens, self.sequence_length)  # (places, T)
        generator = self._generator(*self._epoch, index)
        places = generator.integers(len(windows), size=self.batch_size)
        return windows[places].astype("int32")


def chunks(tokens, sequence_length):
    """Cuts a text into consecutive sequences.

    Args:
        tokens: integer array (T,).
        sequence_length: int.

    Returns:
        An int32 array (N, sequence_length). The tokens at the end that do not
        fill a sequence are left out.
    """
    tokens = _check(tokens, sequence_length)
    whole = len(tokens) // sequence_length * sequence_length
    return tokens[:whole].reshape(-1, sequence_length).astype("int32")


def _check(tokens, *sizes):
    tokens = np.asarray(tokens)
    one_row = tokens.ndim == 1 and tokens.dtype.kind in "iu"
    if not one_row or min(sizes) < 1 or sizes[0] > len(tokens):
        raise ValueError(
            "`tokens` must be a vector of integers that holds a sequence. "
            f"Received: {tokens.dtype} of shape {tokens.shape}, sizes {sizes}. "
            "Use shorter sequences, or a longer text."
        )
    return tokens
