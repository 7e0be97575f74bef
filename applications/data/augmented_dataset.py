"""Batches of augmented images that a resumed run repeats exactly."""

import math

import keras
import numpy as np

# B batch, H height, W width, C channels.


class AugmentedDataset(keras.utils.PyDataset):
    """Shuffled, augmented batches for `fit` on any backend.

    The content of a batch depends only on the seed, the epoch and the index of
    the batch. A resumed run therefore sees the batches that it would have seen
    without the interruption.

    Args:
        x: float32 array (N, H, W, C), standardised as by `load_images`.
        y: array (N, ...) of targets.
        batch_size: int.
        augment: function `(images, generator)` on pixels in [0, 1], as
            `augmentation` returns it. None leaves the images unchanged.
        mean, std: arrays (C,) with which `x` was standardised. The images
            are converted to pixels for `augment` and standardised again.
        seed: int.
        shuffle: bool.
        drop_remainder: bool. Leaves out the last batch if it is not full.
        steps_per_epoch: int, batches of each epoch. None gives those of one
            pass over the images. Each epoch begins a new pass, and one that is
            longer than a pass goes on with another.

    `fit` needs two arguments for it. `shuffle=False`, because Keras would
    shuffle the batches again, with a random state that is lost when a run is
    killed. And `epoch_callback()` among the `callbacks`, which sets the epoch,
    also when a run is resumed; without it the dataset counts the epochs
    itself, from 0.

    Example:

    ```python
    data = load_images("digits")
    train = AugmentedDataset(
        data.x_train,
        data.y_train,
        batch_size=128,
        augment=augmentation("flip_crop", channels=1),
        mean=data.mean,
        std=data.std,
    )
    model.fit(
        train, epochs=10, shuffle=False, callbacks=[train.epoch_callback()]
    )
    ```
    """

    def __init__(
        self,
        x,
        y,
        batch_size=128,
        augment=None,
        mean=0.0,
        std=1.0,
        seed=0,
        shuffle=True,
        drop_remainder=False,
        steps_per_epoch=None,
    ):
        # With more than one worker Keras (3.15.1) reads ahead, and batches of
        # one epoch end up in the next.
        super().__init__(workers=1)
        if len(x) != len(y):
            raise ValueError(
                "`x` and `y` must have one length. "
                f"Received: {len(x)} images and {len(y)} targets. "
                "Cut them to the same examples."
            )
        self.x = x
        self.y = y
        self.batch_size = batch_size
        self.augment = augment
        self.mean = np.asarray(mean, "float32")
        self.std = np.asarray(std, "float32")
        self.seed = seed
        self.shuffle = shuffle
        self.drop_remainder = drop_remainder
        self.steps_per_epoch = steps_per_epoch
        if batch_size < 1 or self.num_batches == 0:
            raise ValueError(
                "`batch_size` must be above 0 and leave at least one batch. "
                f"Received: batch_size={batch_size} for {len(x)} images, "
                f"drop_remainder={drop_remainder}. Use a smaller one."
            )
        self.set_epoch(0)

    @property
    def num_batches(self):
        if self.steps_per_epoch is not None:
            return self.steps_per_epoch
        rounded = math.floor if self.drop_remainder else math.ceil
        return rounded(len(self.x) / self.batch_size)

    def set_epoch(self, epoch):
        """Sets the epoch, an int from 0, to which the next batches belong."""
        passes = 1
        if self.steps_per_epoch is not None:
            passes = -(-self.steps_per_epoch * self.batch_size // len(self.x))
        order = [np.arange(len(self.x))] * passes
        if self.shuffle:
            generator = self._generator(epoch, 0)
            order = [generator.permutation(len(self.x)) for _ in order]
        order = np.concatenate(order)
        # One assignment, because tf.data reads from another thread.
        self._epoch = (epoch, order)

    def epoch_callback(self):
        """A callback that sets the dataset's epoch to that of `fit`."""
        return keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: self.set_epoch(epoch)
        )

    def on_epoch_end(self):
        # Keras also calls this after it has read one batch to build a model,
        # so that without the callback an epoch may be skipped.
        self.set_epoch(self._epoch[0] + 1)

    def __getitem__(self, index):
        """Batch `index`: images (B, H, W, C) and targets (B, ...)."""
        epoch, order = self._epoch
        first = index * self.batch_size
        chosen = order[first : first + self.batch_size]
        x, y = self.x[chosen], self.y[chosen]
        if self.augment is not None:
            pixels = np.clip(x * self.std + self.mean, 0.0, 1.0)
            pixels = self.augment(pixels, self._generator(epoch, 1 + index))
            x = ((pixels - self.mean) / self.std).astype("float32")
        return x, y

    def _generator(self, epoch, stream):
        return np.random.default_rng((self.seed, epoch, stream))
