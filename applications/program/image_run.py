"""A run that trains on images, of whatever use."""

import dataclasses

from keras_dblocks.applications.data import (
    AugmentedDataset,
    augmentation,
    load_images,
)
from keras_dblocks.applications.data.images import READERS
from keras_dblocks.applications.images.latents import load_latent_data
from keras_dblocks.applications.images.sizes import patch_size_for

from .run import Run


class ImageRun(Run):
    """Trains a model on images and labels, which are an `ImageData`."""

    examples = "images"
    has_patches = True
    data_help = (
        "digits, fashion_mnist, cifar10, cifar100, tiny_imagenet, a folder "
        "that has a folder of images for each class (every fifth image is for "
        "the test; or such folders in train/ and test/), an .npz file with "
        "x_train, y_train, x_test, y_test, or an .npy file of latents (see "
        "keras_dblocks.applications.images.latents); the size of the "
        "images and the number of classes follow from the data"
    )
    example_file = "my_images.npz"

    @staticmethod
    def load(recipe):
        load = load_latent_data if _are_latents(recipe) else load_images
        return load(recipe["data"])

    @staticmethod
    def sizes_of(data, recipe, config):
        size = data.x_train.shape[1]
        sizes = {
            "image_size": size,
            "channels": data.x_train.shape[-1],
            "num_classes": data.num_classes,
        }
        if _are_a_users_images(recipe):
            sizes["patch_size"] = patch_size_for(size, config["patch_size"])
        return sizes

    def prepare(self, data, blocks):
        count = self.recipe.get("train_examples")
        return dataclasses.replace(
            data, x_train=data.x_train[:count], y_train=data.y_train[:count]
        )

    def make_batches(self, blocks):
        data, recipe = self.data, self.recipe
        blocks.check_data(data.x_train, data.y_train)
        return AugmentedDataset(
            data.x_train,
            data.y_train,
            batch_size=min(recipe["batch_size"], len(data.x_train)),
            augment=augmentation(
                recipe["augmentation"], self.config["channels"]
            ),
            mean=data.mean,
            std=data.std,
            seed=self.config["seed"],
            drop_remainder=True,  # a step is compiled for each batch size
            steps_per_epoch=recipe.get("steps_per_epoch"),
        )

    def warmup_steps(self, steps):
        recipe = self.recipe
        warmup = steps * recipe["warmup_epochs"] // recipe["epochs"]
        return max(1, min(warmup, steps // 2))

    def describe_data(self):
        text = f"{len(self.data.x_train):,} images of {self.data.name}"
        if _are_a_users_images(self.recipe):
            size = self.config["patch_size"]
            text += f" in patches of {size} x {size} pixels"
        return text

    def settings(self):
        """Those of any run; of named classes also what predictions need."""
        settings, data = super().settings(), self.data
        if data.class_names is not None:
            settings |= {
                "class_names": list(data.class_names),
                "mean": data.mean.tolist(),
                "std": data.std.tolist(),
            }
        return settings

    def legend(self):
        names = enumerate(self.data.class_names or ())
        text = ", ".join(f"{label} {name}" for label, name in names)
        return [f"classes: {text}"] if text else []

    def validation_data(self):
        """The data on which `fit` computes `val_loss`."""
        return self.data.x_test, self.data.y_test


def _are_latents(recipe):
    return str(recipe["data"]).endswith(".npy")


def _are_a_users_images(recipe):
    return recipe["data"] not in READERS and not _are_latents(recipe)
