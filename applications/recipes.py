"""Training recipes that the presets of several applications share.

A recipe is the entry `training` of a preset, which the training program reads.
Its `epochs` are those of a model that is trained end to end; DiffusionBlocks
run `num_blocks` times as many, each through 1 / `num_blocks` of the layers, so
that both perform the same number of layer evaluations.
"""

from pathlib import Path

_COMMON = {
    "alpha": 0.05,  # final learning rate of the cosine, relative to the peak
    "clipnorm": 1.0,  # of all gradients together
}

IMAGES = {
    **_COMMON,
    "learning_rate": 1e-3,
    "warmup_epochs": 1,
    "augmentation": "none",
}

TEXT = {
    **_COMMON,
    "epochs": 1,
    "batch_size": 32,
    "learning_rate": 2e-3,
    "warmup_steps": 100,
    "weight_decay": 0.03,
}

# The DiffusionBlocks paper trains its language models with this batch size and
# a constant learning rate after the warm-up.
TEXT_OF_THE_PAPER = {
    **TEXT,
    "batch_size": 256,
    "learning_rate": 3e-4,
    "warmup_steps": 2500,
    "alpha": 1.0,
}


# Folders of trained weights, by the name of their preset, with their records;
# written by tools/package_preset.py.
PRETRAINED = Path(__file__).resolve().parent / "pretrained"


def with_commands(application, presets):
    """Adds to each preset the shell command that trains it, and its weights.

    Args:
        application: string, the name of the package with the program.
        presets: dict of presets by name.

    Returns:
        The same dict of presets; each has an entry `command`, and those that
        something trained comes with have `weights`, its folder.
    """
    program = f"python -m keras_dblocks.applications.{application}"
    for name, preset in presets.items():
        preset["command"] = f"{program} --preset {name}"
        if (PRETRAINED / name).is_dir():
            preset["weights"] = str(PRETRAINED / name)
    return presets
