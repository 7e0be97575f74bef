"""Diagnosis: what each block reads its answer from."""

import keras
import numpy as np
import pytest

import keras_dblocks
from helpers import small_systems
from helpers.small_mlp import data, refused, three_blocks


@pytest.fixture(scope="module")
def trained():
    keras.utils.set_random_seed(0)
    x, y = data(256)
    model = three_blocks()
    model.compile(keras.optimizers.Adam(0.02))
    model.fit(x, y, batch_size=32, epochs=12, verbose=0)
    return model


def rows_of(found, kind):
    return [row for row in found.rows if row["input"] == kind]


@pytest.mark.eager
def test_what_is_handed_over_is_what_predict_does(trained):
    x, y = data(100)
    found = keras_dblocks.diagnose(trained, x, y, batch_size=64)
    handed = rows_of(found, "handed over")
    answers = trained.predict_steps(x).argmax(-1)
    accuracy = (answers == y).mean(-1)
    np.testing.assert_allclose([r["accuracy"] for r in handed], accuracy)
    changed = (answers[1:] != answers[:-1]).mean(-1)
    np.testing.assert_allclose([r["changed"] for r in handed[1:]], changed)
    scrambled = rows_of(found, "hand-over scrambled")
    assert scrambled[0]["loss"] == pytest.approx(handed[0]["loss"])


@pytest.mark.eager
def test_a_scrambled_condition_costs_and_levels_are_the_blocks(trained):
    x, y = data(100)
    found = keras_dblocks.diagnose(trained, x, y, levels_per_block=2)
    noised = rows_of(found, "noised")
    scrambled = rows_of(found, "condition scrambled")
    assert len(noised) == len(scrambled) == 6
    for row in noised:
        assert trained.partition.block_of(row["level"]) == row["block"]
    # At the highest level nothing but the condition tells the class.
    assert noised[0]["accuracy"] > scrambled[0]["accuracy"] + 0.2
    assert noised[0]["loss"] < scrambled[0]["loss"]


@pytest.mark.slow
def test_table_and_picture(trained, tmp_path):
    pytest.importorskip("matplotlib")
    found = keras_dblocks.diagnose(trained, *data(20), levels_per_block=1)
    lines = str(found).splitlines()
    assert len(lines) == 1 + len(found.rows)
    assert len({len(line) for line in lines}) == 1
    found.plot(tmp_path / "blocks.png")
    assert (tmp_path / "blocks.png").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dit", "mdm", "ar"])
def test_every_kind_of_network(name):
    model = small_systems.make(name)
    arrays = small_systems.data(name, 6)
    found = keras_dblocks.diagnose(model, *arrays, levels_per_block=1)
    assert np.isfinite([row["loss"] for row in found.rows]).all()
    kinds = {row["input"] for row in found.rows}
    assert ("handed over" in kinds) == (name == "ar")
    assert ("condition scrambled" in kinds) == (name != "mdm")
    accuracy = np.array([row["accuracy"] for row in found.rows])
    assert np.isnan(accuracy).all() == (name == "dit")


@pytest.mark.heavy
def test_refusals(trained):
    x, y = data(8)
    diagnose = keras_dblocks.diagnose
    refused(lambda: diagnose(trained, x, y, levels_per_block=0), "levels_per")
    refused(lambda: diagnose(trained, x, y + 9), "0 to 3")
    refused(lambda: diagnose(trained, x), "y=None")
