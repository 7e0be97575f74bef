"""Levels a block draws follow the noise it owns."""

import numpy as np
import pytest
from keras import ops
from scipy import stats

from helpers.toys import log_sigma
from keras_dblocks.applications.vit import ViT
from keras_dblocks.streams import Stream, rows_of


def drawing_blocks(**kwargs):
    sizes = dict(image_size=4, patch_size=2, hidden_dim=6, num_heads=1)
    model = ViT(num_classes=2, num_layers=3, num_blocks=3, **sizes, **kwargs)
    return [model.block(i, build=False) for i in range(3)]


def draw(block, count, training=True, step=0):
    bounds = block.range_bounds(overlap=training)
    stream = Stream(block.seed, "noise_level", block.index)
    rows = rows_of(count)
    levels = block._draw_levels(stream, rows, step, bounds, training)
    levels = ops.convert_to_numpy(levels)
    assert levels.dtype == "float32" and levels.shape == (count,)
    return levels.astype("float64")


@pytest.mark.eager
@pytest.mark.parametrize("reference", [False, True])
def test_drawn_levels_follow_the_whole_distribution(reference):
    blocks = drawing_blocks(overlap=0.0, reference=reference)
    whole = log_sigma(blocks[0].method.noise)
    batch = np.log([draw(block, 2000) for block in blocks])
    distance, p_value = stats.ks_1samp(batch.ravel(), whole.cdf)
    if blocks[0].method.stratified:
        assert not reference
        # Spread evenly: far closer than independent draws ever come.
        assert distance < 1e-3
    else:
        assert reference
        assert p_value > 1e-2
        assert distance > 1e-3
    # Each place in a batch has the same distribution.
    batches = [
        [draw(block, 4, step=step) for step in range(120)] for block in blocks
    ]
    batches = np.log(batches)  # (block, draw, place)
    for place in (0, 3):
        levels = batches[..., place].ravel()
        assert stats.ks_1samp(levels, whole.cdf).pvalue > 1e-2


def test_overlap_is_for_training_only():
    for block in drawing_blocks(overlap=0.1):
        partition = block.method.partition
        for training in (True, False):
            low, high = partition.noise_range(block.index, overlap=training)
            levels = draw(block, 4000, training)
            assert low * (1 - 1e-6) <= levels.min()
            assert levels.max() <= high * (1 + 1e-6)
            # Truncated to the range, and filling it.
            whole = log_sigma(partition.noise)
            edges = whole.cdf(np.log([low, high]))
            uniform = (whole.cdf(np.log(levels)) - edges[0]) / np.diff(edges)
            assert stats.ks_1samp(uniform, stats.uniform.cdf).statistic < 1e-3
