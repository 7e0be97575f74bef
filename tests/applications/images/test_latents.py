"""Latents: standardised, and decoded to the images they came from.

keras-hub's VAE where it is installed; a stand-in with the same two methods
shows the same everywhere, and can be inverted exactly.
"""

import importlib
import os
import sys
import types

import keras
import numpy as np
import pytest

from keras_dblocks.applications.data import DataUnavailable
from keras_dblocks.applications.images import latents
from keras_dblocks.applications.images.latents import (
    decode,
    decoder,
    encode,
    load_latents,
    load_vae,
)


class StandIn:
    """2x2 pixels to 12 channels by a rotation, and back by its transpose."""

    def __init__(self, gain=3.0, bias=0.7):
        turn = np.random.default_rng(0).normal(size=(12, 12))
        turn = np.linalg.qr(turn)[0].reshape(2, 2, 3, 12)
        options = {"kernel_size": 2, "strides": 2}
        self.down = keras.layers.Conv2D(12, **options)
        self.up = keras.layers.Conv2DTranspose(3, **options)
        self.down.build((None, 8, 8, 3))
        self.up.build((None, 4, 4, 12))
        self.down.set_weights([gain * turn, np.full(12, bias)])
        self.up.set_weights([turn / gain, np.zeros(3)])
        self.bias, self.decoded = bias, 0

    def encode(self, images):
        return self.down(images)

    def decode(self, z):
        self.decoded += 1
        return self.up(z - self.bias)


def hub_vae():
    models = pytest.importorskip("keras_hub.src.models.vae.vae_backbone")
    sizes = {f"{side}_num_blocks": [1, 1] for side in ("encoder", "decoder")}
    sizes |= {
        f"{side}_num_filters": [32, 32] for side in ("encoder", "decoder")
    }
    return models.VAEBackbone(sampler_method="mode", sample_channels=8, **sizes)


@pytest.fixture(params=[StandIn, hub_vae])
def vae(request):
    return request.param()


@pytest.fixture
def images():
    generator = np.random.default_rng(0)
    return generator.uniform(-1, 1, (10, 16, 24, 3)).astype("float32")


def numpy(tensor):
    return keras.ops.convert_to_numpy(keras.ops.stop_gradient(tensor))


@pytest.mark.eager
@pytest.mark.parametrize("sigma_data", [0.5, 1.0])
def test_latents_are_standardised(vae, images, sigma_data, tmp_path):
    raw = numpy(vae.encode(images))
    path = tmp_path / "latents.npy"
    z, shift, scale = encode(
        vae, images, path, batch_size=4, sigma_data=sigma_data, verbose=0
    )
    assert z.shape == raw.shape and z.dtype == "float32"
    assert shift.shape == scale.shape == raw.shape[-1:]
    np.testing.assert_allclose(z, (raw - shift) * scale, atol=1e-4)
    np.testing.assert_allclose(z.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(z.std((0, 1, 2)), sigma_data, rtol=1e-4)
    assert np.ptp(raw.std((0, 1, 2))) > 0.01  # nothing to do otherwise

    assert sorted(os.listdir(tmp_path)) == ["latents.npy", "latents.txt"]
    for kept, returned in zip(
        load_latents(path), (z, shift, scale), strict=True
    ):
        np.testing.assert_array_equal(kept, returned)
    np.testing.assert_array_equal(np.load(path), z)


@pytest.mark.eager
def test_decode_undoes_the_scaling(vae, images, tmp_path):
    z, shift, scale = encode(vae, images, tmp_path / "z.npy", verbose=0)
    wanted = numpy(vae.decode(vae.encode(images)))
    ours = decode(vae, z, shift, scale, batch_size=4)
    assert ours.shape == images.shape and ours.dtype == "float32"
    np.testing.assert_allclose(ours, wanted.clip(-1, 1), atol=1e-4)


def test_images_come_back(images, tmp_path):
    vae = StandIn()
    z, shift, scale = encode(vae, images, tmp_path / "z.npy", verbose=0)
    assert z.shape == (10, 8, 12, 12)
    ours = decode(vae, z, shift, scale)
    np.testing.assert_allclose(ours, images, atol=1e-5)
    loud = decode(vae, 100.0 * z, shift, scale)
    assert loud.min() == -1 and loud.max() == 1


def test_decoder_is_made_once(images, tmp_path):
    vae = StandIn()
    z, shift, scale = encode(vae, images, tmp_path / "z.npy", verbose=0)
    to_images = decoder(vae, shift, scale)
    made = vae.decoded
    for part in (z[:4], z[4:8], z[8:]):
        np.testing.assert_allclose(
            to_images(part).shape, (len(part), 16, 24, 3)
        )
    assert vae.decoded == made


def test_bytes_and_memory_maps(images, tmp_path):
    vae = StandIn()
    pixels = np.round((images + 1) * 127.5).astype("uint8")
    np.save(tmp_path / "pixels.npy", pixels)
    stored = np.load(tmp_path / "pixels.npy", mmap_mode="r")
    z, *_ = encode(vae, stored, tmp_path / "bytes.npy", 3, verbose=0)
    floats = (pixels / 127.5 - 1).astype("float32")
    wanted, *_ = encode(vae, floats, tmp_path / "floats.npy", 10, verbose=0)
    np.testing.assert_allclose(z, wanted, atol=1e-5)


def test_a_vae_that_samples_draws_anew(images, tmp_path):
    class Sample(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.seeds = keras.random.SeedGenerator(0)

        def call(self, x):
            shape = keras.ops.shape(x)
            return x + keras.random.normal(shape, seed=self.seeds)

    vae, sample = StandIn(), Sample()
    vae.encode = lambda x: sample(vae.down(x))
    same = np.repeat(images[:1], 6, 0)
    z, *_ = encode(vae, same, tmp_path / "z.npy", batch_size=2, verbose=0)
    assert len(np.unique(z[:, 0, 0, 0])) == 6


def test_a_run_that_fails_keeps_what_was_there(images, tmp_path):
    path = tmp_path / "z.npy"
    wanted = encode(StandIn(), images, path, verbose=0)
    broken = images.copy()
    broken[7, 2] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity in example 3"):
        encode(StandIn(), broken, path, batch_size=4, verbose=0)
    assert sorted(os.listdir(tmp_path)) == ["z.npy", "z.txt"]
    for kept, before in zip(load_latents(path), wanted, strict=True):
        np.testing.assert_array_equal(kept, before)


def test_constants_of_other_latents_are_never_used(
    images, tmp_path, monkeypatch
):
    path = tmp_path / "z.npy"
    encode(StandIn(), images, path, verbose=0)

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "savetxt", killed)
        with pytest.raises(KeyboardInterrupt):
            encode(StandIn(gain=5.0), images, path, verbose=0)
    with pytest.raises(FileNotFoundError, match="z.txt"):
        load_latents(path)


def test_latents_of_one_channel(images, tmp_path):
    vae = StandIn()
    vae.encode = lambda x: vae.down(x)[..., :1]
    z, shift, scale = encode(vae, images, tmp_path / "z.npy", verbose=0)
    assert z.shape == (10, 8, 12, 1) and shift.shape == scale.shape == (1,)


# Refusals.


def test_unfit_images_are_refused(images, tmp_path):
    vae, path = StandIn(), tmp_path / "z.npy"
    for bad, match in (
        (images[0], "must have shape .* Received: shape"),
        (images * 127.5, "Received: float32 from .* Divide pixels"),
        (np.ones((2, 16, 24, 3), int), "Received: int64 from 1 to 1"),
    ):
        with pytest.raises(ValueError, match=match):
            encode(vae, bad, path, verbose=0)
    assert os.listdir(tmp_path) == []


def test_unfit_latents_are_refused(images, tmp_path):
    path = tmp_path / "z.npy"
    broken = StandIn(bias=np.inf)
    with pytest.raises(ValueError, match="Latents from image 0 must be fin"):
        encode(broken, images, path, verbose=0)
    constant = StandIn(gain=1e-9, bias=1.0)
    with pytest.raises(ValueError, match="Latents must vary .* Encode more"):
        encode(constant, images, path, verbose=0)


# The VAE itself.


def test_keras_hub_is_only_imported_when_asked(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_hub", None)  # not to be imported
    importlib.reload(latents)
    with pytest.raises(DataUnavailable, match="Run `pip install keras-hub"):
        load_vae()


def test_vae_of_a_preset(monkeypatch):
    class Preset:
        @staticmethod
        def from_preset(name):
            if name == "some_preset":
                return types.SimpleNamespace(vae="its VAE")
            raise ConnectionError("no route\nto host")

    models = types.SimpleNamespace(StableDiffusion3Backbone=Preset)
    hub = types.SimpleNamespace(models=models)
    monkeypatch.setitem(sys.modules, "keras_hub", hub)
    assert load_vae("some_preset") == "its VAE"
    with pytest.raises(
        DataUnavailable, match="`stable_.*no route to host. Run"
    ):
        load_vae()


def test_vae_saved_alone(images, tmp_path):
    vae = hub_vae()
    vae.save(tmp_path / "vae.keras")
    again = load_vae(tmp_path / "vae.keras")
    wanted, ours = numpy(vae.encode(images)), numpy(again.encode(images))
    np.testing.assert_allclose(ours, wanted, atol=1e-5)
