"""Data parallelism on several devices gives the figures of one device."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from helpers import several_devices
from helpers.programs import environment

backend = keras.backend.backend()


SYSTEMS = ["dit", "mdm", "ar", "recurrent_depth"]


@pytest.mark.skipif(backend != "jax", reason="keras.distribution is JAX's")
@pytest.mark.parametrize(
    "names", [["vit"], pytest.param(SYSTEMS, marks=pytest.mark.slow)]
)
def test_four_devices_are_one(names, tmp_path):
    """With a part of each batch on each, and with a part of the weights."""
    flags = os.environ.get("XLA_FLAGS", "")
    flags += " --xla_force_host_platform_device_count=4"
    file = tmp_path / "found.json"
    command = [sys.executable, several_devices.__file__, *names, file]
    subprocess.run(
        command, env=environment(XLA_FLAGS=flags), check=True, timeout=900
    )
    for name, found in json.loads(file.read_text()).items():
        one, four, divided, shares = found
        for other in (four, divided):
            for what, wanted in one.items():
                np.testing.assert_allclose(
                    other[what],
                    wanted,
                    rtol=1e-4,
                    atol=1e-5,
                    err_msg=f"{name} {what}",
                )
        np.testing.assert_allclose(four["fit"], one["fit"], rtol=1e-5)
        assert max(shares) < 0.30, (name, shares)


@pytest.mark.skipif(backend != "tensorflow", reason="a strategy of TensorFlow")
def test_replicas_are_refused():
    # TensorFlow can be given two devices before it is first used alone.
    command = [sys.executable, "-c", REPLICAS]
    subprocess.run(command, env=environment(), check=True, timeout=300)


REPLICAS = """
import pytest
import tensorflow as tf

cpus = tf.config.list_physical_devices("CPU")
devices = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpus[0], devices)
from helpers import small_systems

with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    model = small_systems.make("vit")
    block = model.block(0)
    for trained in (model, block):
        with pytest.raises(ValueError, match="2 replicas of a Mirrored"):
            trained.compile("sgd")
"""
