"""The command `generate` for images."""

import re
from pathlib import Path

from keras_dblocks.applications.images.pictures import (
    save_grid,
    save_trajectory,
)
from keras_dblocks.models.one_at_a_time import SavedChain

from . import generate as common
from .arguments import given, number
from .progress import in_terminal

OPTIONS = ("num_steps", "guidance_scale", "sampler", "grid", "seed")


def add_options(parser, model_class):
    """Adds the options of the command."""
    common.add_options(
        parser,
        model_class,
        "picture with ten images per row",
        Path("grid.png"),
        ", of which one is in memory at a time",
    )
    add = parser.add_argument
    text = "classes, such as 0-9 or 3,3,7 (default: each, ten at the most)"
    add("--labels", metavar="LIST", help=text)
    text = "classifier-free guidance (default: none; the paper uses 2)"
    scale = number(float, 0)
    add("--guidance-scale", metavar="X", type=scale, help=text)
    names = ["euler", "heun", "stochastic"]
    text = "the last two call the denoiser twice (default: %(default)s)"
    add("--sampler", choices=names, default="euler", help=text)
    names = ["upper_edges", "equal_mass", "karras"]
    add("--grid", choices=names, help="noise levels (default: karras)")


def generate(model_class, args):
    """Writes a picture of generated images."""
    labels = read_labels(args.labels) if args.labels else None
    options = given(args, OPTIONS) | {"verbose": int(in_terminal())}
    common.check_outputs(args)
    files = common.files_of(args.model)
    if len(files) == 1:
        model = common.load(files[0], model_class, model_class.__name__)
        if labels is None:
            labels = first_classes(model)
        images, trajectory = model.generate(
            labels, return_trajectory=True, **options
        )
    elif args.trajectory:
        raise ValueError(
            "A trajectory is drawn from a whole model. Received: "
            f"{len(files)} files. Pass one `model.keras`."
        )
    else:
        if labels is None:
            labels = first_classes(SavedChain(model_class, files).network)
        images = model_class.generate_from_blocks(files, labels, **options)
    save_grid(args.output, images)
    if args.trajectory:
        save_trajectory(args.trajectory, trajectory)
    print(f"{len(images)} images in {args.output}")


def first_classes(model):
    """The classes that are drawn if none are asked for (list)."""
    return list(range(min(model.num_classes, 10)))


def read_labels(text):
    """Parses a list of classes: `"0-2,7"` gives `[0, 1, 2, 7]`."""
    labels = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if not found:
            raise ValueError(
                "`--labels` must be numbers and ranges. "
                f"Received: {text!r}. Write 0-9 or 3,3,7."
            )
        first, last = int(found[1]), int(found[2] or found[1])
        labels.extend(range(first, last + 1))
    return labels
