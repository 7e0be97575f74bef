"""Our DiT with the reference's weights gives the reference's figures."""

import numpy as np
import pytest
from keras import ops

from helpers.gradients import gradients
from keras_dblocks.applications import DiT
from keras_dblocks.applications.dit import load_reference_weights
from keras_dblocks.applications.dit.reference_weights import reference_names
from keras_dblocks.diffusion.samplers import loop
from keras_dblocks.diffusion.weighting import weighted_mean
from keras_dblocks.samplers import EulerSampler
from keras_dblocks.streams import rows_of

FORWARD = 2e-5  # float32: tests/golden/README.md#ditnpz
TRAJECTORY = 2e-4
GRADIENT = 1e-4


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def weights_of(reference):
    return {k[2:]: v for k, v in reference.items() if k.startswith("w/")}


@pytest.fixture(scope="module")
def reference(golden):
    return golden("dit")


def dit_of(reference, **kwargs):
    sizes = reference["config"]
    model = DiT(
        image_size=sizes["input_size"],
        num_classes=sizes["num_classes"],
        channels=sizes["in_channels"],
        patch_size=sizes["patch_size"],
        hidden_dim=sizes["hidden_size"],
        num_layers=sizes["depth"],
        num_blocks=kwargs.pop("num_blocks", sizes["B"]),
        num_heads=sizes["num_heads"],
        intermediate_dim=int(sizes["hidden_size"] * sizes["mlp_ratio"]),
        class_dropout=sizes["class_dropout_prob"],
        **kwargs,
    )
    load_reference_weights(model, weights_of(reference))
    return model


@pytest.fixture(scope="module")
def model(reference):
    return dit_of(reference)


def blocks(reference):
    return range(reference["config"]["B"])


def weigh(block, loss, level):
    """The loss of a batch, from those of its examples."""
    method = block.method
    return weighted_mean(loss, level, method.weighting, method.preconditioning)


def network(block, x, t, labels):
    """The network F itself, without preconditioning."""
    noise = block.noise_embedding(t, condition=labels)
    state = block.stem(x)
    for layer in block.residual_layers:
        state = layer(state, noise=noise)
    return numpy(block.readout(state, noise=noise))


@pytest.mark.quick
def test_whole_network_and_each_block(reference, model):
    whole = dit_of(reference, num_blocks=1)
    x, y = reference["x_nhwc"], reference["y"].astype("int32")
    # At t = 737 an angle's rounding to float32 alone is 4e-5; EDM's levels
    # are within 1.6.
    for t, key, tolerance in (
        ("t", "out_full", FORWARD),
        ("t_ddpm", "out_full_t_ddpm", 5e-5),
    ):
        ours = network(whole.blocks[0], x, reference[t], y)
        wanted = reference[f"{key}_nhwc"]
        np.testing.assert_allclose(ours, wanted, atol=tolerance)
    for i in blocks(reference):
        ours = network(model.blocks[i], x, reference["t"], y)
        wanted = reference[f"out_block{i}_nhwc"]
        np.testing.assert_allclose(ours, wanted, atol=FORWARD)


def test_embeddings(reference, model):
    block = model.blocks[0]
    embedding = block.noise_embedding
    noise = numpy(embedding.noise(reference["t"]))
    np.testing.assert_allclose(noise, reference["t_emb"], atol=FORWARD)
    classes = numpy(embedding.classes(reference["y"].astype("int32")))
    np.testing.assert_allclose(classes, reference["y_emb"], atol=FORWARD)
    patches = numpy(block.stem(reference["x_nhwc"]))
    np.testing.assert_allclose(patches, reference["patch_embed"], atol=FORWARD)


def test_denoised_loss_and_guidance(reference, model):
    scale = reference["config"]["cfg_scale"]
    labels = reference["y_cond"].astype("int32")
    for i in blocks(reference):
        part = {
            k.removeprefix(f"block{i}/"): v
            for k, v in reference.items()
            if k.startswith(f"block{i}/")
        }
        arguments = (part["z_nhwc"], part["sigma"], labels)
        denoised = model.denoise(*arguments, block=i)
        np.testing.assert_allclose(denoised, part["D_nhwc"], atol=FORWARD)
        target = model.blocks[i].target
        loss = target.loss(reference["x0_nhwc"], denoised)  # (B,)
        weight = model.preconditioning.weight(part["sigma"])
        weighted = numpy(loss) * weight
        np.testing.assert_allclose(
            weighted, part["loss_per_sample"], rtol=GRADIENT
        )
        np.testing.assert_allclose(weight, part["weight"], rtol=1e-5)
        level = ops.convert_to_tensor(part["sigma"], "float32")
        total = numpy(weigh(model.blocks[i], loss, level))
        np.testing.assert_allclose(total, part["loss"], rtol=GRADIENT)
        noisy = ops.convert_to_tensor(part["z_nhwc"])
        seen = ops.convert_to_tensor(labels)
        guided = model.blocks[i].guided(noisy, level, seen, scale)
        guided = numpy(guided)
        np.testing.assert_allclose(guided, part["D_cfg_nhwc"], atol=FORWARD)


def test_gradients(reference, model):
    arrays = weights_of(reference)
    compared = 0
    for i in blocks(reference):
        block = model.blocks[i]
        z = ops.convert_to_tensor(reference[f"block{i}/z_nhwc"])
        sigma = ops.convert_to_tensor(reference[f"block{i}/sigma"], "float32")
        labels = ops.convert_to_tensor(reference["y_cond"], "int32")

        def loss(block=block, z=z, sigma=sigma, labels=labels):
            denoised = block.denoise(z, sigma, labels)
            each = block.target.loss(reference["x0_nhwc"], denoised)
            return weigh(block, each, sigma)

        variables = block.trainable_variables
        names = reference_names(block)
        parts = {}
        for v, g in zip(variables, gradients(loss, variables), strict=True):
            parts.setdefault(names[id(v)][0], []).append((v, g))
        idle = set(reference[f"block{i}/grad_none"]) - {"pos_embed"}
        assert not idle & set(parts) and idle | set(parts) == {
            name for name in arrays if name != "pos_embed"
        }
        for name, found in parts.items():
            key = f"block{i}/grad/{name}"
            if key not in reference:
                continue
            wanted = reference[key]
            tolerance = GRADIENT * np.abs(wanted).max()
            pieces = np.split(wanted, len(found))  # q, k and v are one tensor
            for (v, ours), piece in zip(found, pieces, strict=True):
                layout = names[id(v)][1]
                if len(found) > 1:
                    piece = piece.T
                else:
                    piece = layout(piece, tuple(v.shape))
                np.testing.assert_allclose(ours, piece, atol=tolerance)
                compared += 1
    assert compared > 10 * len(blocks(reference))


@pytest.mark.heavy
def test_trajectories(reference, model):
    labels = ops.convert_to_tensor(reference["y_cond"], "int32")
    start = ops.convert_to_tensor(reference["z0_nhwc"])
    steps = reference["config"]["n_steps"]
    for guided in ("nocfg", "cfg"):
        scale = reference["config"]["cfg_scale"] if guided == "cfg" else None
        sampler = EulerSampler(steps, "equal_mass", guidance_scale=scale)
        chain = model.blocks, model.partition, sampler, start, labels
        path = loop.trajectory(*chain, rows_of(len(start)))
        route = [step["block"] for step in path]
        assert route == reference["traj/route"].tolist()
        levels = [step["level"] for step in path]
        np.testing.assert_allclose(levels, reference["traj/sigmas"], rtol=1e-5)
        for ours, key in (("noisy", "z"), ("denoised", "D")):
            ours = np.stack([numpy(step[ours]) for step in path])
            wanted = reference[f"traj/{guided}/{key}_nhwc"]
            np.testing.assert_allclose(ours, wanted, atol=TRAJECTORY)
        final = numpy(loop.sample(*chain, rows_of(len(start))))
        wanted = reference[f"traj/{guided}/D_nhwc"][-1]
        np.testing.assert_allclose(final, wanted, atol=TRAJECTORY)


def test_variances_are_dropped(reference, model):
    """Published weights with `learn_sigma` give the same images."""
    arrays = weights_of(reference)
    channels = reference["config"]["in_channels"]
    for kind in ("weight", "bias"):
        name = f"final_layer.linear.{kind}"
        each = arrays[name].reshape(-1, channels, *arrays[name].shape[1:])
        both = np.concatenate([each, np.full_like(each, 7.0)], 1)
        arrays[name] = both.reshape(-1, *arrays[name].shape[1:])
    other = dit_of(reference, num_blocks=1)
    linear = other.blocks[0].readout.linear
    wanted = [numpy(v) for v in linear.variables]
    for variable in linear.variables:
        variable.assign(np.zeros(variable.shape, "float32"))
    load_reference_weights(other, arrays)
    for variable, value in zip(linear.variables, wanted, strict=True):
        np.testing.assert_array_equal(numpy(variable), value)


def test_wrong_weights_leave_the_model_untouched(reference, model):
    arrays = weights_of(reference)
    before = [numpy(v) for v in model.weights]
    cases = {
        "blocks.5.mlp.fc2.bias": "must hold 'blocks.5.mlp.fc2.bias'",
        "pos_embed": "'pos_embed' must hold",
    }
    for name, match in cases.items():
        part = {k: v for k, v in arrays.items() if k != name}
        with pytest.raises(ValueError, match=match):
            load_reference_weights(model, part)
    wrong = {**arrays, "blocks.0.mlp.fc1.bias": np.zeros(3)}
    with pytest.raises(
        ValueError, match=r"must have shape .* Received: \(3,\)"
    ):
        load_reference_weights(model, wrong)
    for variable, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(numpy(variable), value)
