"""Vision transformer for classification, trained block by block."""

from typing import Any

import keras

from keras_dblocks import DiffusionBlocks
from keras_dblocks.applications.images.sizes import check_patches
from keras_dblocks.checks import check_share
from keras_dblocks.layers import (
    LabelEmbedding,
    NoiseEmbedding,
    TransformerLayer,
)

from .layers import FirstToken, ViTStem
from .modulated_dense import ModulatedDense
from .presets import PRESETS


@keras.saving.register_keras_serializable(package="keras_dblocks")
class ViT(DiffusionBlocks):
    """Image classifier that denoises a label embedding, given the image.

    The architecture is the reference's: the noisy label takes the place of the
    class token, and every layer has adaptive layer norm. `predict` gives the
    logits `(N, num_classes)` after the whole chain.

    Args:
        image_size: int. Side of the square images in pixels.
        num_classes: int.
        channels: int. Defaults to `3`.
        patch_size: int. Defaults to `4`.
        num_layers, num_blocks, hidden_dim, num_heads: int.
        intermediate_dim: int or None. Width of the perceptrons; None for
            four times `hidden_dim`. The reference's width is 3072.
        dropout: float. Defaults to `0.0`; the reference uses 0.1.
        kwargs: keywords of `DiffusionBlocks`.

    Raises:
        ValueError: if the patches do not divide the image, or the heads the
            width.

    Example:

    ```python
    model = ViT(
        image_size=8, num_classes=10, channels=1, patch_size=2, num_layers=6
    )
    model.compile("adamw", metrics=["accuracy"])
    model.fit(images, labels, epochs=3)
    ```

    References:
     - [DiffusionBlocks](https://arxiv.org/abs/2506.14202), Section 5.1
     - [ViT](https://arxiv.org/abs/2010.11929)
    """

    presets = PRESETS
    default_on_policy = 1.0  # measured, see README.md

    def __init__(
        self,
        image_size: int = 32,
        num_classes: int = 100,
        channels: int = 3,
        patch_size: int = 4,
        hidden_dim: int = 128,
        num_heads: int = 4,
        intermediate_dim: int | None = None,
        dropout: float = 0.0,
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
        check_share("dropout", dropout, "The reference uses 0.1.")
        super().__init__(**kwargs)
        self.image_size = image_size
        self.num_classes = num_classes
        self.channels = channels
        self.patch_size = patch_size
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.dropout = dropout

    def condition_spec(self):
        side = self.image_size
        return keras.KerasTensor((None, side, side, self.channels))

    def make_target(self):
        bridge = "unnormalized" if self.reference else "soft"
        return LabelEmbedding(
            self.num_classes, self.hidden_dim, bridge, name="labels"
        )

    def make_noise_embedding(self):
        # The published code divides by 6 (docs/method.md#noise-conditioning).
        width = max(1, self.hidden_dim // 6)
        return NoiseEmbedding(width, name="noise_embedding")

    def make_stem(self):
        return ViTStem(
            self.patch_size, self.hidden_dim, self.dropout, name="stem"
        )

    def make_layer(self, index):
        return TransformerLayer(
            self.num_heads,
            self.intermediate_dim or 4 * self.hidden_dim,
            self.dropout,
            open_gates=not self.reference,
            name=f"layer_{index}",
        )

    def make_readout(self):
        return FirstToken(name="readout")

    def make_head(self):
        return ModulatedDense(self.num_classes, self.reference, name="head")

    @classmethod
    def make_end_to_end(cls, **kwargs: Any) -> keras.Model:
        """Makes the same network for ordinary backpropagation.

        It takes the same keywords, but those that only concern blocks have no
        effect.
        """
        from .twin import vit_twin

        return vit_twin(**kwargs)

    def make_twin(self, num_layers, name):
        config = {**self.get_config(), "num_layers": num_layers, "name": name}
        return self.make_end_to_end(**config)
