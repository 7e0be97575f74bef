"""What `test_devices.py` runs where JAX sees several devices of a CPU.

It is called with names of small systems and a file for the results.
"""

import json
import sys
from pathlib import Path

import jax
import keras
import numpy as np

from helpers import small_systems
from helpers.several_processes import Losses
from keras_dblocks import applications

STEPS = 4


def train(name, folder):
    """Figures of `fit`, of a block's `fit`, and of what follows."""
    # Dropout has one state, and the rows of a device draw from it as before.
    model = small_systems.make(name)
    arrays = small_systems.data(name, 8 * STEPS)
    losses, found = Losses(), {}
    if name not in ("dit", "mdm"):
        made = model.predict(arrays[0], batch_size=8, verbose=0)
        found["predict"] = np.abs(made).sum(-1).ravel().tolist()
    model.compile(keras.optimizers.AdamW(0.01, clipnorm=1.0))
    model.fit(
        *arrays, batch_size=8, shuffle=False, verbose=0, callbacks=[losses]
    )
    block = model.block(0)
    # Adam divides by moments near 0, which rounding changes.
    block.compile("sgd")
    alone = Losses()
    block.fit(
        *arrays, batch_size=8, shuffle=False, verbose=0, callbacks=[alone]
    )
    found |= {"fit": losses.found, "block": alone.found}
    scores = model.evaluate(*arrays, batch_size=8, verbose=0, return_dict=True)
    found["evaluate"] = [
        v for k, v in scores.items() if "bits" in k or "l" in k
    ]
    path = folder / "model.keras"
    model.save(path)
    again = keras.saving.load_model(path)
    found["saved"] = float(
        sum(np.abs(np.array(v)).sum() for v in again.weights)
    )
    return found


def share_on_a_device(variables):
    """Bytes on the first device over all bytes, embeddings and norms aside."""
    held = whole = 0
    for variable in variables:
        if any(word in variable.path for word in ("embed", "norm", "stem")):
            continue
        value = variable.value
        held += value.addressable_shards[0].data.nbytes
        whole += value.nbytes
    return held / whole


def sharded(name, folder):
    """`train`, with weights divided between the devices."""
    model = small_systems.make(name)
    mesh = keras.distribution.DeviceMesh((1, 4), ("batch", "model"))
    keras.distribution.set_distribution(
        keras.distribution.ModelParallel(
            layout_map=type(model).layout_map(mesh), batch_dim_name="batch"
        )
    )
    found = train(name, folder)
    kind, config = small_systems.SYSTEMS[name]
    more, blocks = "num_layers", {"num_blocks": 2}
    if name == "recurrent_depth":
        more, blocks = "core_layers", {}
    model = getattr(applications, kind)(**{**config, **blocks, more: 4})
    model.compile("adam")
    return found, [
        share_on_a_device(model.variables),
        share_on_a_device(model.optimizer.variables),
    ]


def main():
    *names, path = sys.argv[1:]
    path = Path(path)
    assert len(jax.devices()) == 4, jax.devices()
    result = {}
    for name in names:
        keras.distribution.set_distribution(None)
        one = train(name, path.parent)
        keras.distribution.set_distribution(keras.distribution.DataParallel())
        four = train(name, path.parent)
        result[name] = one, four, *sharded(name, path.parent)
    path.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
