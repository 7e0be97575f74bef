"""Base class of end-to-end models of the next token."""

# B batch, T slots, D hidden_dim, V vocabulary_size

import keras
from keras import ops

from keras_dblocks import compat
from keras_dblocks.applications.text.decode import shift_right
from keras_dblocks.applications.text.generate import GeneratesText
from keras_dblocks.applications.text.layers import check_heads
from keras_dblocks.applications.text.likelihood import EvaluatesLikelihood
from keras_dblocks.applications.text.strings import TakesStrings
from keras_dblocks.checks import check_integer, check_sizes
from keras_dblocks.diffusion.tokens import (
    CountsTokens,
    check_padding,
    check_tokens,
    mean_over_tokens,
)
from keras_dblocks.diffusion.weighting import weighted_mean
from keras_dblocks.files.atomic_files import AtomicFiles
from keras_dblocks.files.random_states import SavedRandomStates
from keras_dblocks.layers import Embedding
from keras_dblocks.training.data_checks import CheckedData
from keras_dblocks.training.data_order import ResumableOrder


class EndToEndText(
    TakesStrings,
    EvaluatesLikelihood,
    GeneratesText,
    CountsTokens,
    AtomicFiles,
    SavedRandomStates,
    CheckedData,
    ResumableOrder,
    keras.Model,
):
    """A model of the next token, trained on its cross-entropy.

    A subclass has `following(tokens, training)`, which returns the logits
    `(B, T, V)` of the token after each token, and `make_writer`.

    Args:
        arguments: dict of the subclass's constructor arguments, which become
            attributes and are in the config. They include `vocabulary_size`,
            `sequence_length`, `hidden_dim`, `num_heads`, `padding_token` and
            `seed`.
        tokenizer, dtype, name: as in the subclass.
        embedding_scale: float. Standard deviation of an embedded token's
            features in a fresh model.
    """

    def __init__(self, arguments, tokenizer, dtype, name, embedding_scale=1.0):
        super().__init__(dtype=dtype, name=name)
        for key, value in arguments.items():
            setattr(self, key, value)
        self._arguments = tuple(arguments)
        self.tokenizer = tokenizer
        check_integer("vocabulary_size", self.vocabulary_size, 2)
        check_padding(self.padding_token, self.vocabulary_size)
        check_sizes(
            optional=["intermediate_dim"],
            sequence_length=self.sequence_length,
            intermediate_dim=self.intermediate_dim,
        )
        groups = arguments.get("num_key_value_heads")
        check_heads(self.hidden_dim, self.num_heads, groups)
        self.embedding = Embedding(
            self.vocabulary_size + 1,  # the last row is the start token's
            self.hidden_dim,
            scale=self.hidden_dim**0.5,
            reverse_dim=self.vocabulary_size,
            embeddings_initializer=keras.initializers.RandomNormal(
                stddev=embedding_scale * self.hidden_dim**-0.5
            ),
            dtype=self.dtype_policy,
            name="embedding",
        )

    def call(self, x, training=False):
        return self.following(shift_right(x, self.vocabulary_size), training)

    def embed(self, tokens):
        """Embedded tokens `(B, 1, T, D)`, the first state."""
        return ops.expand_dims(self.embedding(tokens), 1)

    def compile(self, optimizer="adamw", loss=None, **kwargs):
        """`keras.Model.compile`, where the loss is cross-entropy in nats."""
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
        loss = mean_over_tokens(entropy, x, self.padding_token)  # (B,)
        counts = self.counts(x)
        return weighted_mean(loss, sample_weight=sample_weight, counts=counts)

    def check_data(self, x, y=None):
        tokens = ops.convert_to_numpy(x)
        check_tokens(
            tokens,
            self.vocabulary_size,
            self.sequence_length,
            self.padding_token,
        )

    def training_step(self):
        return int(compat.iterations(self.optimizer))

    def get_config(self):
        own = {name: getattr(self, name) for name in self._arguments}
        return {**super().get_config(), **own}
