"""EDM's coefficients and weight, and what they do inside a block."""

import keras
import numpy as np
import pytest
from keras import ops

from helpers.toys import Toy
from keras_dblocks.diffusion.preconditioning import EDMPreconditioning

NAMES = ("c_skip", "c_out", "c_in", "c_noise")
SIGMA = np.geomspace(0.002, 80.0, 30)


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def dtype_of(tensor):
    return keras.backend.standardize_dtype(tensor.dtype)


@pytest.mark.quick
def test_reference_coefficients_and_weights(golden):
    reference = golden("noise")
    edm = EDMPreconditioning(reference["config"]["sigma_data"])
    sigma = reference["sigma"]
    scale = edm(sigma)
    assert scale._fields == NAMES
    for name, ours in zip(NAMES, scale, strict=True):
        assert ours.dtype == "float64"
        np.testing.assert_allclose(ours, reference[name], rtol=1e-12)
    np.testing.assert_allclose(edm.weight(sigma), reference["weight"], 1e-12)

    tensor = ops.convert_to_tensor(sigma, dtype="float32")
    ours = {**edm(tensor)._asdict(), "weight": edm.weight(tensor)}
    for name, value in ours.items():
        assert ops.is_tensor(value) and dtype_of(value) == "float32"
        np.testing.assert_allclose(numpy(value), reference[name], rtol=1e-5)


def test_symbolic_levels_have_coefficients():
    scale = EDMPreconditioning()(keras.KerasTensor((None,)))
    assert [value.shape for value in scale] == [(None,)] * 4


@pytest.mark.parametrize("sigma_data", [0.5, 0.09, 1.3])
def test_coefficients_do_what_they_are_for(sigma_data):
    edm = EDMPreconditioning(sigma_data)
    scale, signal, noise = edm(SIGMA), sigma_data**2, SIGMA**2
    # EDM, Appendix B.6: the network's input and its target have unit variance,
    variance = scale.c_in**2 * (signal + noise)
    np.testing.assert_allclose(variance, 1.0, rtol=1e-12)
    target = (1 - scale.c_skip) ** 2 * signal + scale.c_skip**2 * noise
    np.testing.assert_allclose(target / scale.c_out**2, 1.0, rtol=1e-6)
    # c_skip multiplies the network's errors as little as possible,
    for shift in (-1e-3, 1e-3):
        c_skip = scale.c_skip + shift
        assert (target < (1 - c_skip) ** 2 * signal + c_skip**2 * noise).all()
    # and every level weighs the same.
    weight = edm.weight(SIGMA) * scale.c_out**2
    np.testing.assert_allclose(weight, 1.0, rtol=1e-12)
    np.testing.assert_allclose(np.exp(4 * scale.c_noise), SIGMA, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_the_denoiser_is_put_together_in_float32(dtype):
    # A network that says 1, which bfloat16 knows; the sum it does not know.
    def ones(index, x, noise):
        return ops.ones_like(x)

    model = Toy(ones, dim=4, num_layers=3, num_blocks=3, dtype=dtype)
    level = np.float32([0.002, 0.1, 0.3, 2.0, 80.0])
    noisy = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    scale = EDMPreconditioning()(level.astype("float64")[:, None])
    wanted = scale.c_skip * noisy + scale.c_out
    ours = model.denoise(noisy, level, np.zeros((5, 1), "float32"))
    assert ours.dtype == "float32"
    np.testing.assert_allclose(ours, wanted, rtol=1e-5)


@pytest.mark.once
@pytest.mark.parametrize("sigma_data", [0.0, -0.5, float("nan")])
def test_refusal(sigma_data):
    match = rf"`sigma_data` must.*Received: .*{sigma_data}\. The paper uses 0.5"
    with pytest.raises(ValueError, match=match):
        EDMPreconditioning(sigma_data)
