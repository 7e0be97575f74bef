"""The end-to-end twin: an ordinary causal language model in Llama's style."""

import keras
from keras import ops

from keras_dblocks.applications.text.decode import past
from keras_dblocks.applications.text.generate import GeneratesText
from keras_dblocks.applications.text.layers import check_heads
from keras_dblocks.applications.text.likelihood import EvaluatesLikelihood
from keras_dblocks.applications.text.strings import TakesStrings
from keras_dblocks.layers.tokens import check_tokens
from keras_dblocks.models.checks import check_integer
from keras_dblocks.models.durable_model import DurableModel

from .layers import LlamaLayer
from .writers import TwinWriter


@keras.saving.register_keras_serializable(package="keras_dblocks")
class CausalLM(TakesStrings, EvaluatesLikelihood, GeneratesText, DurableModel):
    """Predicts each token from those before it.

    `fit(tokens)` takes ints `(N, sequence_length)` and minimises the
    cross-entropy; `predict(tokens)` gives the logits `(N, T, V)` of each token
    given those before it, the first one given nothing.

    Args:
        vocabulary_size, sequence_length, num_layers, hidden_dim, num_heads:
            int.
        num_key_value_heads: int or None, for as many as `num_heads`.
        intermediate_dim: int or None, for four times `hidden_dim`.
        tokenizer: as in `ARTransformer`.
        seed: int. Of the order of the data.
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
        tokenizer=None,
        seed=0,
        dtype=None,
        name="ar_end_to_end",
        **blocks_only,
    ):
        super().__init__(dtype=dtype, name=name)
        check_integer("vocabulary_size", vocabulary_size, 2)
        check_integer("sequence_length", sequence_length)
        check_integer("num_layers", num_layers)
        check_heads(hidden_dim, num_heads, num_key_value_heads)
        self.vocabulary_size = vocabulary_size
        self.sequence_length = sequence_length
        self.num_layers = num_layers
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.num_key_value_heads = num_key_value_heads
        self.intermediate_dim = intermediate_dim
        self.dropout = dropout
        self.tokenizer = tokenizer
        self.seed = seed
        kwargs = {"dtype": self.dtype_policy}
        self.embedding = keras.layers.Embedding(
            vocabulary_size + 1,  # the last is the beginning
            hidden_dim,
            embeddings_initializer=keras.initializers.RandomNormal(
                stddev=hidden_dim**-0.5
            ),
            name="embedding",
            **kwargs,
        )
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
        self._track_progress()

    def call(self, x, training=False):
        return self.following(past(x, self.vocabulary_size), training)

    def following(self, tokens, training=False):
        """Logits `(B, T, V)` of what follows each of the tokens `(B, T)`."""
        state = self.rows(tokens)
        for layer in self.residual_layers:
            state = layer(state, training=training)
        return self.logits(state)

    def rows(self, tokens):
        """Embedded tokens `(B, 1, T, D)`, the first state."""
        rows = ops.convert_to_tensor(self.embedding.embeddings)
        rows = self.hidden_dim**0.5 * rows
        rows = ops.take(rows, ops.cast(tokens, "int32"), axis=0)
        return ops.cast(ops.expand_dims(rows, 1), self.compute_dtype)

    def logits(self, state):
        """Logits `(B, T, V)` of the last state `(B, 1, T, D)`."""
        return ops.cast(self.head(self.norm(state[:, 0])), "float32")

    def make_writer(self, num_steps):
        """`writers.TwinWriter` of this model."""
        return TwinWriter(self)

    def compile(self, optimizer="adamw", loss=None, **kwargs):
        """`keras.Model.compile`; the loss is the cross-entropy in nats."""
        if loss is not None:
            raise ValueError(
                "The loss is the cross-entropy of the next token. "
                f"Received: loss={loss!r}. Leave it out."
            )
        super().compile(optimizer=optimizer, loss=None, **kwargs)

    def get_compile_config(self):
        return keras.Model.get_compile_config(self)

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        entropy = keras.losses.sparse_categorical_crossentropy(
            ops.cast(x, "int32"), y_pred, from_logits=True
        )
        return ops.mean(entropy)

    def check_targets(self, x, y):
        if y is not None:
            raise ValueError(
                "The tokens are data and target at once. Received: y. "
                "Pass them alone, `fit(tokens)`."
            )

    def check_data(self, x, y=None):
        tokens = ops.convert_to_numpy(x)
        check_tokens(tokens, self.vocabulary_size, self.sequence_length)

    def training_step(self):
        return int(self.optimizer._iterations)

    def get_config(self):
        names = (
            "vocabulary_size",
            "sequence_length",
            "num_layers",
            "hidden_dim",
            "num_heads",
            "num_key_value_heads",
            "intermediate_dim",
            "dropout",
            "seed",
        )
        return {**super().get_config(), **{n: getattr(self, n) for n in names}}
