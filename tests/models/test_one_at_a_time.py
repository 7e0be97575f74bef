"""Saved blocks answer one at a time as the model does that they make up."""

import numpy as np
import pytest

from helpers import small_systems
from helpers.small_mlp import SmallMLP, data, refused, three_blocks
from keras_dblocks.applications import MDM, ViT


def saved(model, folder):
    paths = [folder / f"block_{i}.keras" for i in range(model.num_blocks)]
    for index, path in enumerate(paths):
        model.block(index).save(path)
    return paths


@pytest.mark.parametrize(
    "sharing", ["all", pytest.param("targets", marks=pytest.mark.eager)]
)
def test_any_number_of_rows_at_once(sharing, tmp_path):
    model = three_blocks(sharing=sharing)
    x, _ = data(7)
    wanted = model.predict(x, verbose=0)
    paths = saved(model, tmp_path)
    for batch_size in (1, 3, 100):
        found = SmallMLP.predict_from_blocks(paths, x, batch_size)
        np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.eager
@pytest.mark.parametrize("name", ["vit", "dit", "ar", "recurrent_depth"])
def test_every_system_with_a_condition(name, tmp_path):
    model = small_systems.make(name)
    x = small_systems.data(name, 4)
    x = x[1] if name == "dit" else x[0]
    wanted = model.predict(x, verbose=0)
    found = type(model).predict_from_blocks(saved(model, tmp_path), x)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.heavy
def test_other_files_are_refused(tmp_path):
    model = three_blocks()
    paths, (x, _) = saved(model, tmp_path), data(4)

    def refuses(match, paths, x=x, cls=SmallMLP):
        refused(lambda: cls.predict_from_blocks(paths, x), match)

    refuses("in order", paths[::-1])
    refuses("One file per block", paths[:2])
    refuses("One file per block", [])
    refuses("those of a ViT", paths, cls=ViT)
    folder = tmp_path / "other"
    folder.mkdir()
    moved = three_blocks()
    moved.blocks[0].stem.trainable_variables[0].assign_add([[1.0] * 8] * 72)
    refuses("must be equal", [paths[0], *saved(moved, folder)[1:]])
    apart = []
    for seed in (0, 1):
        folder = tmp_path / f"seed_{seed}"
        folder.mkdir()
        model = three_blocks(sharing="targets", seed=seed)
        apart.append(saved(model, folder))
    refuses("Received", [apart[0][0], *apart[1][1:]])
    refuses("Received", paths, x[:, :4])
    mdm = small_systems.make("mdm", hand_over="signal")
    (tokens,) = small_systems.data("mdm", 2)
    folder = tmp_path / "mdm"
    folder.mkdir()
    refuses("has none", saved(mdm, folder), tokens, MDM)
