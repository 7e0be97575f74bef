"""The card that `save_to_preset` leaves, and what a preset's folder may do."""

import json
import math
import re

import keras
import numpy as np
import pytest
import yaml

from helpers.small_vit import data, equal, make, predict, refused, weights
from keras_dblocks.applications import ViT
from keras_dblocks.files import model_card

RECORD = {
    "command": "python -m keras_dblocks.applications.vit --preset tiny",
    "seed": 3,
    "finished": True,
    "backend": "jax",
    "versions": {"keras": "3.15.1"},
    "hardware": {"cpu": "one of 2 | 4", "gpus": []},
    "commit": "abc1234",
    "figures": {
        "test accuracy": {"value": 97.123456, "unit": "%"},
        "duration": {"value": 12.5, "unit": "s"},
    },
}


def saved(folder, model=None, **kwargs):
    """Front matter, and text, of the card of a model that is saved."""
    model = model or make()
    model.save_to_preset(folder, **kwargs)
    page = (folder / "README.md").read_text("utf-8")
    _, front, text = page.split("---\n", 2)
    return yaml.safe_load(front), text


def rows(text, section):
    """Cells of the table in a section of the card."""
    part = text.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("| ")]
    return [re.split(r" (?<!\\)\| ", line[2:-2]) for line in lines][2:]


@pytest.mark.eager
def test_the_card_of_a_trained_model(tmp_path, monkeypatch):
    model = make(num_layers=3, layers_per_block=[2, 1])
    model.compile(keras.optimizers.Adam(1e-3), block_order=1)
    x, y = data(16)
    model.fit(x, y, batch_size=8, epochs=2, verbose=0)
    front, text = saved(tmp_path, model, record=RECORD)
    assert front["library_name"] == "keras" and "license" not in front
    assert {"keras", "vit"} <= set(front["tags"])

    blocks = rows(text, "Blocks")
    assert [row[:2] for row in blocks] == [["0", "0 to 1"], ["1", "2 to 2"]]
    own = [
        sum(math.prod(v.shape) for v in group)
        for group in model.own_variables()
    ]
    assert [int(row[3].replace(",", "")) for row in blocks] == own
    sizes = dict(rows(text, "Sizes"))
    assert sizes["hidden_dim"] == "12" and sizes["num_layers"] == "3"

    training = dict(rows(text, "Training"))
    assert training["optimizer"] == "Adam"
    assert training["steps of each block"] == "0, 4"
    assert training["last loss of each block"].startswith("none, ")
    assert training["command"] == f"`{RECORD['command']}`"
    assert training["hardware: cpu"] == r"`one of 2 \| 4`"
    assert "hardware: gpus" not in training
    assert rows(text, "Results")[0] == ["test accuracy", "97.123", "%"]

    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)  # it says how to load it
    np.testing.assert_allclose(predict(names["model"]), predict(model), 1e-5)


def test_what_is_not_known_is_left_out(tmp_path):
    front, text = saved(tmp_path, license="apache-2.0")
    assert front["license"] == "apache-2.0"
    assert "Nothing is known of it." in text and "## Results" not in text


def test_a_record_may_be_a_path(tmp_path):
    path = tmp_path / "record.json"
    path.write_text(json.dumps({**RECORD, "finished": False}))
    _, text = saved(tmp_path / "preset", record=path)
    assert "no: the run was interrupted" in text
    assert rows(text, "Results")


def test_an_earlier_record_does_not_stay_beside_other_weights(tmp_path):
    saved(tmp_path, record=RECORD)
    assert (tmp_path / "record.json").exists()
    saved(tmp_path)
    assert not (tmp_path / "record.json").exists()


def test_a_page_of_one_s_own_stays(tmp_path):
    saved(tmp_path)
    page = tmp_path / "README.md"
    _, text = saved(tmp_path, record=RECORD)  # ours is written anew
    assert "97.123" in text
    page.write_text(page.read_text().replace(model_card.MARK, "Mine.\n---\n"))
    before = page.read_text()
    make().save_to_preset(tmp_path)
    assert page.read_text() == before


@pytest.mark.parametrize(
    "record", [{"figures": {"accuracy": 0.5}}, "none.json", ["a"]]
)
def test_a_record_that_is_none_is_refused(record, tmp_path):
    model = make()
    folder = tmp_path / "preset"
    refused(lambda: model.save_to_preset(folder, record), "record.json")
    assert not folder.exists()


def test_code_in_a_preset_is_refused(tmp_path):
    model = make()
    model.save_to_preset(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    layer = keras.layers.Lambda(lambda x: x)
    config["config"]["sampler"] = keras.saving.serialize_keras_object(layer)
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="Lambda"):
        ViT.from_preset(tmp_path)


def test_a_pickle_in_a_weights_file_is_refused(tmp_path):
    model = make()
    model.save_to_preset(tmp_path)
    before = weights(model)
    path = tmp_path / "model.weights.h5"
    path.write_bytes(b"\x80\x04\x8c\x02os\x8c\x06system\x93.")
    with pytest.raises(OSError):
        ViT.from_preset(tmp_path)
    with pytest.raises(OSError):
        model.load_weights(path)
    assert equal(weights(model), before)
