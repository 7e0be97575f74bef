"""Diffusion transformer for image generation, trained block by block."""

# B batch, T tokens, D hidden_dim, P patch_size, C channels

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_dblocks import DiffusionBlocks
from keras_dblocks.applications.images.sizes import check_patches
from keras_dblocks.checks import check_share, check_value_range
from keras_dblocks.diffusion.label_embedding import check_labels, squeezed
from keras_dblocks.layers import (
    ContinuousSignal,
    TransformerLayer,
)

from .generate import GeneratesImages
from .layers import ClassAndNoiseEmbedding, DiTReadout, DiTStem
from .presets import PRESETS


@keras.saving.register_keras_serializable(package="keras_dblocks")
class DiT(GeneratesImages, DiffusionBlocks):
    """Image generator that denoises images, given their class.

    The architecture is facebookresearch/DiT's. With `num_blocks=1` it is the
    ordinary DiT under EDM's preconditioning. `fit(images, labels)` takes
    images `(N, H, W, C)` in `value_range`, and `generate(labels)` makes them.

    Args:
        image_size: int. Side of the square images (or latents) in pixels.
        num_classes: int.
        channels: int. Defaults to `3`.
        patch_size: int. Defaults to `2`.
        num_layers, num_blocks, hidden_dim, num_heads: int.
        intermediate_dim: int or None. Width of the perceptrons; None for
            four times `hidden_dim`.
        dropout: float. Defaults to `0.0`, as in DiT.
        class_dropout: float. Share of labels replaced by the null class, for
            guidance; 0 for no null class. Defaults to `0.1`.
        value_range: pair of floats, or None. Range of the images, mapped to
            [-1, 1]; None for latents with standard deviation 0.5, which are
            taken as they are. Defaults to `(-1, 1)`.
        ema_momentum: float or None. Momentum of the moving average of the
            weights that `generate` uses, which counts each block's own steps
            and is warmed up. Defaults to `0.9999`.
        kwargs: keywords of `DiffusionBlocks`.

    Raises:
        ValueError: if the patches do not divide the image, or the heads the
            width.

    Example:

    ```python
    dit = DiT(
        image_size=8, channels=1, num_layers=6, hidden_dim=48, num_heads=4
    )
    dit.compile("adamw")
    dit.fit(images, labels, epochs=10)
    dit.generate([0, 1, 2], num_steps=10, guidance_scale=2.0)
    ```

    References:
     - [DiffusionBlocks](https://arxiv.org/abs/2506.14202), Section 5.2
     - [DiT](https://arxiv.org/abs/2212.09748)
     - [EDM](https://arxiv.org/abs/2206.00364)
    """

    presets = PRESETS
    # Images differ by their start noise, so blocks train on noised images.
    default_on_policy = 0.0

    def __init__(
        self,
        image_size: int = 32,
        num_classes: int = 10,
        channels: int = 3,
        patch_size: int = 2,
        hidden_dim: int = 384,
        num_heads: int = 6,
        intermediate_dim: int | None = None,
        dropout: float = 0.0,
        class_dropout: float = 0.1,
        value_range: Sequence[float] | None = (-1.0, 1.0),
        ema_momentum: float | None = 0.9999,
        **kwargs: Any,
    ) -> None:
        check_patches(
            image_size,
            patch_size,
            hidden_dim,
            num_heads,
            num_classes,
            channels,
            intermediate_dim,
        )
        check_share("dropout", dropout, "DiT uses none.")
        if hidden_dim % 4:
            raise ValueError(
                "`hidden_dim` must be divisible by 4, for the positions. "
                f"Received: hidden_dim={hidden_dim}. Change it."
            )
        check_share("class_dropout", class_dropout, "DiT uses 0.1.")
        check_share("ema_momentum", ema_momentum or 0.0, "DiT uses 0.9999.")
        check_value_range(value_range)
        super().__init__(**kwargs)
        self.image_size = image_size
        self.num_classes = num_classes
        self.channels = channels
        self.patch_size = patch_size
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.dropout = dropout
        self.class_dropout = class_dropout
        self.value_range = value_range
        self.ema_momentum = ema_momentum

    def condition_spec(self):
        return keras.KerasTensor((None,), dtype="int32")

    def batch_spec(self):
        side = self.image_size
        images = keras.KerasTensor((None, side, side, self.channels))
        return images, self.condition_spec()

    def make_target(self):
        shape = (self.image_size, self.image_size, self.channels)
        return ContinuousSignal(shape, self.value_range, name="images")

    def make_noise_embedding(self):
        return ClassAndNoiseEmbedding(
            self.num_classes,
            self.hidden_dim,
            self.class_dropout,
            name="noise_embedding",
        )

    def make_stem(self):
        return DiTStem(self.patch_size, self.hidden_dim, name="stem")

    def make_layer(self, index):
        return TransformerLayer(
            self.num_heads,
            self.intermediate_dim or 4 * self.hidden_dim,
            self.dropout,
            epsilon=1e-6,
            activation="gelu_tanh",
            modulation="before",
            affine=False,
            open_gates=not self.reference,
            name=f"layer_{index}",
        )

    def make_readout(self):
        return DiTReadout(self.patch_size, self.channels, name="readout")

    def make_sampler(self):
        steps = max(50, self.num_blocks)
        return self.sampler_of("euler", steps, seed=self.seed)

    def default_loss_weighting(self):
        return "edm"

    def split(self, x, y):
        return x, None if y is None else squeezed(y)

    def condition_of(self, x):
        return squeezed(x)

    def is_condition(self, x):
        return len(x.shape) < 4  # labels, not images

    def null_condition(self, condition):
        return ops.full_like(condition, self.num_classes)

    def check_targets(self, x, y):
        if y is None:
            raise ValueError(
                "Training needs the class of each image. Received: y=None. "
                "Pass labels, `fit(images, labels)`; zeros if there is one."
            )

    def check_data(self, x, y=None):
        labels = x if y is None else y
        classes = self.num_classes + (y is None and self.class_dropout > 0)
        check_labels(ops.convert_to_numpy(labels), classes)
        super().check_data(x, y)

    @classmethod
    def make_end_to_end(cls, **kwargs: Any) -> keras.Model:
        """Makes the ordinary DiT, which is this class with one block."""
        return cls(**{**kwargs, "num_blocks": 1, "layers_per_block": None})
