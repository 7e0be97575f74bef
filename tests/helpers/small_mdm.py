"""What the tests of masked diffusion share: a tiny model, text, the bound."""

import keras
import numpy as np
from keras import ops

from keras_dblocks.applications.mdm import MDM

SIZES = {
    "vocabulary_size": 3,
    "sequence_length": 6,
    "hidden_dim": 16,
    "num_heads": 2,
    "intermediate_dim": 32,
    "num_layers": 3,
    "num_blocks": 3,
    "conditioning_dim": 16,
}
MASK = SIZES["vocabulary_size"]


def make(initial=0, **kwargs):
    """Same sizes every time; `initial` decides the first weights."""
    keras.utils.set_random_seed(initial)
    return MDM(**{**SIZES, **kwargs})


def data(count=24, length=6):
    """Text with a rule: token 0 follows 2, 1 follows 0, 2 follows 1."""
    first = np.random.default_rng(0).integers(0, 3, (count, 1))
    return ((first + np.arange(length)) % 3).astype("int32")


def randomize(model, scale=0.3):
    """Weights of a network that does something, at every mask ratio."""
    if not model.built:
        model.build()
    rng = np.random.default_rng(1)
    for variable in {id(v): v for v in model.trainable_variables}.values():
        variable.assign(scale * rng.normal(size=variable.shape))
    return model


def masks(length):
    """Every mask of a sequence, bool `(2^T, T)`."""
    return np.arange(2**length)[:, None] >> np.arange(length) & 1 == 1


def losses(model, tokens, hidden, level, block=None):
    """Our loss of each sequence under each mask, `(N, M)`, in nats.

    Args:
        model: `MDM`.
        tokens: ints `(N, T)`.
        hidden: bools `(M, T)`.
        level: float, the mask ratio.
        block: int, or None for the one that owns the ratio.
    """
    clean = tokens.repeat(len(hidden), 0).astype("int32")
    hidden = np.tile(hidden, (len(tokens), 1))
    noisy = np.where(hidden, model.vocabulary_size, clean).astype("int32")
    levels = np.full(len(clean), level, "float32")
    clean, noisy, levels = map(ops.convert_to_tensor, (clean, noisy, levels))
    logits = model.denoise(noisy, levels, block=block)
    loss = model.target.loss(clean, logits, noisy, levels)
    return ops.convert_to_numpy(loss).reshape(len(tokens), -1)


def expected_loss(model, tokens, level, block=None):
    """Mean of our loss over all masks at a ratio, `(N,)`, in nats."""
    hidden = masks(tokens.shape[1])
    chance = np.where(hidden, level, 1.0 - level).prod(1)
    return losses(model, tokens, hidden, level, block) @ chance


def integral(function, low, high, nodes=8):
    """Gauss-Legendre quadrature."""
    places, weights = np.polynomial.legendre.leggauss(nodes)
    places = low + (high - low) * (places + 1) / 2
    values = [w * function(p) for p, w in zip(places, weights, strict=True)]
    return (high - low) / 2 * sum(values)


def exact_bound(model, tokens, edges=None):
    """Bits per token, `(B, N)`: each interval of ratios, block 0 first.

    Args:
        edges: ascending ratios. Defaults to the boundaries of the blocks.
    """
    edges = model.partition.boundaries if edges is None else edges
    nats = [
        integral(lambda m: expected_loss(model, tokens, m), low, high)
        for low, high in zip(edges[:-1], edges[1:], strict=True)
    ]
    return np.array(nats[::-1]) / np.log(2.0)
