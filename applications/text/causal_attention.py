"""Causal attention of clean tokens, and of noisy tokens beside them."""

# B batch, S streams, T slots, D width, H heads, K key/value heads

import keras
from keras import ops

from keras_dblocks.checks import check_sizes
from keras_dblocks.configuration import Configured
from keras_dblocks.layers.rotary import rotate


@keras.saving.register_keras_serializable(package="keras_dblocks")
class CausalAttention(Configured, keras.layers.Layer):
    """Attention of one or two streams to the clean tokens so far.

    Stream 0 holds clean tokens and is ordinary causal attention. Stream 1, if
    there is one, holds noisy tokens: slot i stands for the token after clean
    slot i, and attends to the clean slots up to i and to itself. This is the
    mask of block diffusion with blocks of one token, but most of the
    `2 T x 2 T` scores, which that mask hides, are not computed.

    Args:
        num_heads: int. Must divide the width.
        num_key_value_heads: int, which must divide `num_heads`, or None for
            `num_heads`.
        theta: float. Base of the rotary wavelengths. Defaults to `10000`.
        bias: bool. Whether queries and keys have a bias, as in Huginn.
            Defaults to False.

    Call arguments:
        x: tensor `(B, S, T, D)`, where S is 1 or 2.
        cache: pair of tensors `(B, N, K, D / H)`, keys and values of N clean
            slots, into which those of `x` are written before they are read.
            None attends to the T slots of `x` alone.
        index: int tensor `()`. Slot of the cache that is the first of `x`.
        last_only: bool. True returns the last stream alone, and computes only
            keys and values of the other one.

    Returns:
        Tensor `(B, S, T, D)` with the heads side by side, or `(B, 1, T, D)` of
        the last stream; and the new cache.

    References:
     - [Llama 2](https://arxiv.org/abs/2307.09288)
     - [Block diffusion](https://arxiv.org/abs/2503.09573), Section 3
    """

    def __init__(
        self,
        num_heads,
        num_key_value_heads=None,
        theta=10000.0,
        bias=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_sizes(
            optional=["num_key_value_heads"],
            num_heads=num_heads,
            num_key_value_heads=num_key_value_heads,
        )
        self.theta = theta
        self.bias = bias
        self.num_heads = num_heads
        self.num_key_value_heads = num_key_value_heads or num_heads

    def build(self, x_shape):
        dim = x_shape[-1]
        shared = dim // self.num_heads * self.num_key_value_heads
        for name, units in (("query", dim), ("key", shared), ("value", shared)):
            dense = keras.layers.Dense(
                units,
                use_bias=self.bias and name != "value",
                dtype=self.dtype_policy,
                name=name,
            )
            setattr(self, f"{name}_dense", dense)
            dense.build(x_shape)

    def call(self, x, cache=None, index=0, last_only=False):
        streams, length, dim = x.shape[1:]
        size = dim // self.num_heads
        asking = x[:, -1:] if last_only else x
        query, key, value = (
            ops.reshape(dense(t), (-1, t.shape[1], length, heads, size))
            for dense, heads, t in (
                (self.query_dense, self.num_heads, asking),
                (self.key_dense, self.num_key_value_heads, x),
                (self.value_dense, self.num_key_value_heads, x),
            )
        )
        first = streams - asking.shape[1]

        def rotated(t, first):
            # A noisy slot is one position after the clean slot beside it.
            each = enumerate(ops.unstack(t, axis=1), first)
            return [rotate(t, self.theta, index + place) for place, t in each]

        query, key = rotated(query, first), rotated(key, 0)
        value = ops.unstack(value, axis=1)
        if cache is None:
            past = key[0], value[0]
        else:
            place = (0, index, 0, 0)
            cache = past = tuple(
                ops.slice_update(old, place, ops.cast(new, old.dtype))
                for old, new in zip(cache, (key[0], value[0]), strict=True)
            )
        past, own = self._repeated(past), self._repeated((key[-1], value[-1]))
        result = []
        if first == 0:
            how = {"is_causal": True}
            if cache is not None:
                mask = _reaches(length, past[0].shape[1], index)
                how = {"mask": mask[None, None]}
            result = [ops.dot_product_attention(query[0], *past, **how)]
        if streams == 2:
            result.append(attend_past_and_self(query[-1], *past, *own, index))
        return ops.reshape(ops.stack(result, 1), (-1, *asking.shape[1:])), cache

    def _repeated(self, pair):
        times = self.num_heads // self.num_key_value_heads
        if times == 1:
            return pair
        return tuple(ops.repeat(t, times, axis=2) for t in pair)

    def empty_cache(self, batch_size, length):
        """Keys and values of `length` slots, filled with zeros."""
        heads = self.num_key_value_heads
        size = self.query_dense.units // self.num_heads
        shape = (batch_size, length, heads, size)
        return (ops.zeros(shape, self.compute_dtype),) * 2

    def compute_output_spec(self, x, cache=None, index=0, last_only=False):
        batch, streams, *rest = x.shape
        shape = (batch, 1 if last_only else streams, *rest)
        return keras.KerasTensor(shape, dtype=self.compute_dtype), cache


def attend_past_and_self(query, past_key, past_value, key, value, index=0):
    """Attention of each slot to the clean slots so far, and to itself.

    It is one softmax over N + 1 scores, so that only `T x N` scores and T of
    the slots themselves are kept. On PyTorch it is one fused call over N + T
    keys, where each slot sees one of the last T. That call keeps no scores and
    is twice as fast, although it computes more of them.

    Args:
        query, key, value: tensors `(B, T, H, d)` of the slots.
        past_key, past_value: tensors `(B, N, H, d)` of the clean slots.
        index: int or int tensor. Position of the first slot among the clean
            ones.

    Returns:
        Tensor `(B, T, H, d)`.
    """
    reaches = _reaches(query.shape[1], past_key.shape[1], index)
    if keras.backend.backend() == "torch":
        itself = ops.eye(query.shape[1], dtype="bool")
        mask = ops.concatenate([reaches, itself], 1)[None, None]
        key = ops.concatenate([past_key, key], 1)
        value = ops.concatenate([past_value, value], 1)
        return ops.dot_product_attention(query, key, value, mask=mask)
    dtype, scale = query.dtype, query.shape[-1] ** -0.5
    scores = ops.einsum("bthd,bnhd->bhtn", query * scale, past_key)
    scores = ops.cast(scores, "float32")
    scores = ops.where(reaches, scores, -1e9)
    itself = ops.cast(ops.sum(query * scale * key, -1), "float32")
    itself = ops.expand_dims(ops.transpose(itself, (0, 2, 1)), -1)  # B, H, T, 1
    top = ops.maximum(ops.max(scores, -1, keepdims=True), itself)
    top = ops.stop_gradient(top)
    weights, own = ops.exp(scores - top), ops.exp(itself - top)
    total = ops.sum(weights, -1, keepdims=True) + own
    past = ops.einsum(
        "bhtn,bnhd->bthd", ops.cast(weights / total, dtype), past_value
    )
    own = ops.transpose(own / total, (0, 2, 1, 3))  # B, T, H, 1
    return past + ops.cast(own, dtype) * value


def _reaches(slots, past, index):
    # Slot t is at position index + t and sees clean slots up to there.
    places = index + ops.arange(slots, dtype="int32")
    return ops.arange(past, dtype="int32") <= ops.expand_dims(places, 1)
