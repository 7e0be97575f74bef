"""ViT with the reference's weights gives the reference's outputs."""

import keras
import numpy as np
import pytest
from keras import ops

from helpers.gradients import gradients
from keras_dblocks.applications.vit import ViT, load_reference_weights
from keras_dblocks.applications.vit.reference_weights import reference_names
from keras_dblocks.diffusion.samplers import loop
from keras_dblocks.diffusion.weighting import weighted_mean
from keras_dblocks.samplers import EulerSampler
from keras_dblocks.streams import rows_of

# Absolute tolerances of one forward pass and of a trajectory:
# tests/golden/README.md#vitnpz
FORWARD = 2e-5
TRAJECTORY = 2e-4


def vit_of(golden, **kwargs):
    config = golden["config"]
    model = ViT(
        image_size=config["image_size"],
        num_classes=config["num_labels"],
        channels=config["channels"],
        patch_size=config["patch_size"],
        hidden_dim=config["hidden"],
        num_heads=config["heads"],
        intermediate_dim=config["intermediate"],
        num_layers=config["layers"],
        num_blocks=config["B"],
        **kwargs,
    )
    weights = {k[2:]: v for k, v in golden.items() if k.startswith("w/")}
    load_reference_weights(model, weights)
    return model


@pytest.fixture(scope="module")
def reference(golden):
    return golden("vit")


@pytest.fixture(scope="module")
def model(reference):
    return vit_of(reference)


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def weigh(method, loss, level):
    """The loss of a batch, from those of its examples."""
    return weighted_mean(loss, level, method.weighting, method.preconditioning)


def blocks(reference):
    return range(reference["config"]["B"])


@pytest.mark.quick
def test_logits_of_each_block(reference, model):
    for i in blocks(reference):
        logits = model.denoise(
            reference[f"block{i}/z"],
            reference[f"block{i}/sigma"],
            reference["images_nhwc"],
            block=i,
        )
        np.testing.assert_allclose(
            logits, reference[f"block{i}/logits"], atol=FORWARD
        )


def test_levels_route_to_their_block(reference, model):
    for i in blocks(reference):
        logits = model.denoise(
            reference[f"block{i}/z"],
            np.clip(
                reference[f"block{i}/sigma"],
                *model.partition.noise_range(i, overlap=False),
            ),
            reference["images_nhwc"],
        )
        assert logits.shape == reference[f"block{i}/logits"].shape
        routed = model.partition.block_of(
            np.clip(
                reference[f"block{i}/sigma"],
                model.partition.noise_range(i, False)[0] * 1.001,
                model.partition.noise_range(i, False)[1],
            )
        )
        assert (routed == i).all()


def test_inside_of_each_block(reference, model):
    for i in blocks(reference):
        block = model.blocks[i]
        z, sigma = reference[f"block{i}/z"], reference[f"block{i}/sigma"]
        scale = model.preconditioning(sigma.astype("float32"))
        noise = block.noise_embedding(scale.c_noise)
        np.testing.assert_allclose(
            numpy(noise), reference[f"block{i}/cond"], atol=FORWARD
        )
        state = block.stem(
            scale.c_in[:, None] * z, condition=reference["images_nhwc"]
        )
        np.testing.assert_allclose(
            numpy(state), reference[f"block{i}/embedded_sequence"], atol=FORWARD
        )
        state = block.residual_layers[0](state, noise=noise)
        np.testing.assert_allclose(
            numpy(state), reference[f"block{i}/after_first_layer"], atol=FORWARD
        )
        for layer in block.residual_layers[1:]:
            state = layer(state, noise=noise)
        np.testing.assert_allclose(
            numpy(block.readout(state)),
            reference[f"block{i}/final_norm_token0"],
            atol=FORWARD,
        )


def test_clean_signal_and_losses(reference, model):
    target = model.blocks[0].target
    labels = reference["labels"].astype("int32")
    np.testing.assert_allclose(
        numpy(target(labels)), reference["y_embed"], atol=1e-6
    )
    paper = vit_of(reference, reference=True).block(0).method
    for i in blocks(reference):
        logits = reference[f"block{i}/logits"]
        ce = target.loss(labels, logits)
        np.testing.assert_allclose(
            numpy(ce), reference[f"block{i}/ce"], atol=FORWARD
        )
        sigma = ops.convert_to_tensor(reference[f"block{i}/sigma"], "float32")
        np.testing.assert_allclose(
            numpy(weigh(paper, ce, sigma)),
            reference[f"block{i}/loss_official_broadcast"],
            rtol=1e-4,
        )
        edm = vit_of(reference, loss_weighting="edm").block(0).method
        np.testing.assert_allclose(
            numpy(weigh(edm, ce, sigma)),
            reference[f"block{i}/loss_weighted"],
            rtol=1e-4,
        )


def test_gradients_of_each_block(reference, model):
    images = ops.convert_to_tensor(reference["images_nhwc"])
    labels = ops.convert_to_tensor(reference["labels"].astype("int32"))
    for i in blocks(reference):
        block = model.blocks[i]
        sigma = ops.convert_to_tensor(reference[f"block{i}/sigma"], "float32")
        eps = ops.convert_to_tensor(reference["eps"], "float32")

        def loss_fn(block=block, sigma=sigma, eps=eps):
            # The clean signal carries gradient to the label table.
            noisy = block.target(labels) + sigma[:, None] * eps
            logits = block.denoise(noisy, sigma, images)
            return ops.mean(block.target.loss(labels, logits))

        names = reference_names(block)
        variables = block.trainable_variables
        assert len(names) == len(variables)
        found = dict(
            zip(
                [names[id(v)][0] for v in variables],
                gradients(loss_fn, variables),
                strict=True,
            )
        )
        prefix = f"block{i}/grad/"
        wanted = {
            key.removeprefix(prefix): value
            for key, value in reference.items()
            if key.startswith(prefix)
        }
        assert set(found) == set(wanted)
        for variable in variables:
            name, layout = names[id(variable)]
            want = layout(wanted[name], tuple(variable.shape))
            # 1e-4 of the tensor's largest entry
            # (tests/golden/README.md#vitnpz). The bias of the keys
            # cancels in the softmax: its gradient is 0 up to rounding.
            atol = 1e-4 * np.abs(want).max() + 1e-7
            np.testing.assert_allclose(found[name], want, atol=atol, rtol=0)


@pytest.mark.parametrize("bridge", ["norm", "unnorm"])
def test_trajectories(reference, bridge):
    model = vit_of(reference, reference=bridge == "unnorm")
    for steps in reference["config"]["steps"]:
        sampler = EulerSampler(num_steps=steps, grid="equal_mass")
        start = ops.convert_to_tensor(reference["z0"])
        images = ops.convert_to_tensor(reference["images_nhwc"])
        chain = model.blocks, model.partition, sampler, start, images
        path = loop.trajectory(*chain, rows_of(len(start)))
        prefix = f"traj_n{steps}/{bridge}_halfopen"
        np.testing.assert_allclose(
            [step["level"] for step in path],
            reference[f"traj_n{steps}/sigmas"],
            rtol=1e-5,
        )
        route = [step["block"] for step in path]
        assert route == reference[f"{prefix}/route"].tolist()
        for name, key in (
            ("noisy", "z"),
            ("denoised", "denoised"),
            ("prediction", "logits"),
        ):
            ours = np.stack([numpy(step[name]) for step in path])
            np.testing.assert_allclose(
                ours, reference[f"{prefix}/{key}"], atol=TRAJECTORY
            )
        looped = loop.sample(*chain, rows_of(len(start)))
        np.testing.assert_allclose(
            numpy(looped), reference[f"{prefix}/logits"][-1], atol=TRAJECTORY
        )


def test_guidance(reference, model):
    for i in blocks(reference):
        logits = model.blocks[i].guided(
            ops.convert_to_tensor(reference[f"block{i}/z"]),
            ops.convert_to_tensor(reference[f"block{i}/sigma"], "float32"),
            ops.convert_to_tensor(reference["images_nhwc"]),
            1.5,
        )
        np.testing.assert_allclose(
            numpy(logits),
            reference[f"block{i}/logits_cfg1.5"],
            atol=2 * FORWARD,  # 1.5 times one forward less 0.5 of another
        )


def test_twin(golden):
    reference = golden("vit_baseline")
    config = reference["config"]
    twin = ViT.end_to_end(
        image_size=config["image_size"],
        num_classes=config["num_labels"],
        channels=config["channels"],
        patch_size=config["patch_size"],
        num_layers=config["layers"],
        hidden_dim=config["hidden"],
        num_heads=config["heads"],
        intermediate_dim=config["intermediate"],
    )
    weights = {k[2:]: v for k, v in reference.items() if k.startswith("w/")}
    load_reference_weights(twin, weights)
    logits = twin.predict(reference["images_nhwc"], verbose=0)
    np.testing.assert_allclose(logits, reference["logits"], atol=FORWARD)
    loss = keras.losses.sparse_categorical_crossentropy(
        reference["labels"], logits, from_logits=True
    )
    np.testing.assert_allclose(numpy(loss), reference["ce"], atol=FORWARD)
