"""The end-to-end twin, an ordinary causal language model like Llama."""

import keras
from keras import ops

from keras_dblocks.applications.text.end_to_end import EndToEndText
from keras_dblocks.applications.text.llama import LlamaLayer
from keras_dblocks.checks import check_integer, check_share

from .writers import TwinWriter


@keras.saving.register_keras_serializable(package="keras_dblocks")
class CausalLM(EndToEndText):
    """Predicts each token from those before it.

    `fit(tokens)` takes ints `(N, sequence_length)` and minimises the
    cross-entropy. `predict(tokens)` gives the logits `(N, T, V)` of each token
    given those before it, where the first one is given the start token.

    Args:
        vocabulary_size, sequence_length, num_layers, hidden_dim, num_heads:
            int.
        num_key_value_heads: int or None, for as many as `num_heads`.
        intermediate_dim: int or None, for four times `hidden_dim`.
        padding_token, tokenizer: as in `ARTransformer`.
        seed: int. Seed of the order of the data.
        blocks_only: keywords of `ARTransformer` that only concern blocks.

    References:
     - [Llama 2](https://arxiv.org/abs/2307.09288)
    """

    def __init__(
        self,
        vocabulary_size=27,
        sequence_length=256,
        num_layers=12,
        hidden_dim=768,
        num_heads=12,
        num_key_value_heads=None,
        intermediate_dim=None,
        dropout=0.0,
        padding_token=None,
        tokenizer=None,
        seed=0,
        dtype=None,
        name="ar_end_to_end",
        **blocks_only,
    ):
        check_integer("num_layers", num_layers)
        check_share("dropout", dropout, "0 to 0.2 is usual.")
        arguments = {
            "vocabulary_size": vocabulary_size,
            "sequence_length": sequence_length,
            "num_layers": num_layers,
            "hidden_dim": hidden_dim,
            "num_heads": num_heads,
            "num_key_value_heads": num_key_value_heads,
            "intermediate_dim": intermediate_dim,
            "dropout": dropout,
            "padding_token": padding_token,
            "seed": seed,
        }
        super().__init__(arguments, tokenizer, dtype, name)
        kwargs = {"dtype": self.dtype_policy}
        self.residual_layers = [
            LlamaLayer(
                num_heads,
                intermediate_dim or 4 * hidden_dim,
                num_key_value_heads,
                dropout,
                conditioned=False,
                name=f"layer_{index}",
                **kwargs,
            )
            for index in range(num_layers)
        ]
        self.norm = keras.layers.RMSNormalization(name="norm", **kwargs)
        self.head = keras.layers.Dense(
            vocabulary_size,
            use_bias=False,
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.02),
            name="logits",
            **kwargs,
        )

    def build(self, input_shape=None):
        shape = (None, 1, self.sequence_length, self.hidden_dim)
        self.embedding.build((None, self.sequence_length))
        for layer in self.residual_layers:
            layer.build(shape)
        self.norm.build(shape)
        self.head.build(shape)
        self.track_progress()

    def following(self, tokens, training=False):
        """Logits `(B, T, V)` of the token after each of `tokens` `(B, T)`."""
        state = self.embed(tokens)
        for layer in self.residual_layers:
            state = layer(state, training=training)
        return self.logits(state)

    def logits(self, state):
        """Logits `(B, T, V)` of the last state `(B, 1, T, D)`."""
        return ops.cast(self.head(self.norm(state[:, 0])), "float32")

    def make_writer(self, num_steps):
        """Makes the `writers.TwinWriter` of this model."""
        return TwinWriter(self)
