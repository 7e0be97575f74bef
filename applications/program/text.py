"""The program of the text systems: trains a preset, or generates text."""

import argparse
import inspect
from pathlib import Path

import keras

from keras_dblocks.applications.data import DataUnavailable, load_text
from keras_dblocks.applications.data.text import TOKENIZERS

from .arguments import (
    add_training_options,
    describe_presets,
    folder_of,
    given,
    make_config,
    make_recipe,
    number,
    print_error,
)
from .text_run import TextRun
from .train import claim, train

DATA = """\
python (text that ships with Python), text8, lm1b, or the path of a text file"""


def main(model_class, argv=None):
    """Runs the program.

    Args:
        model_class: subclass of `DiffusionBlocks` for tokens, with `presets`.
        argv: list of strings, or None for the command line's.

    Returns:
        Exit status: 0, or 2 for settings that do not fit together and data
        that are not available. Arguments that cannot be parsed raise
        `SystemExit` with status 2.
    """
    prog = f"python -m {model_class.__module__.rpartition('.')[0]}"
    presets = model_class.presets
    parser = _make_parser(model_class.__name__, prog, presets)
    args = parser.parse_args(argv)
    try:
        if args.command == "generate":
            return _generate(model_class, args)
        preset = presets[args.preset]
        recipe = make_recipe(args, preset)
        data = load_text(args.text or recipe["data"], args.tokenizer)
        config = make_config(args, preset)
        config["vocabulary_size"] = data.vocabulary_size
        run = TextRun(model_class, config, recipe, data, args.row)
        folder = folder_of(args)
        claim(folder, run.settings(), args.resume)
    except (DataUnavailable, ValueError, OSError) as error:
        return print_error(error)
    train(run, folder)
    return 0


def _make_parser(name, prog, presets):
    parser = argparse.ArgumentParser(
        prog=prog,
        description=f"Trains {name} block by block, or generates text with it.",
        epilog=describe_presets(presets),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    text = "train a preset (the default), or generate text with a saved model"
    commands = ["train", "generate"]
    add("command", nargs="?", choices=commands, default="train", help=text)
    add_training_options(parser, presets, "sequences")
    add("--data", metavar="NAME", help=f"{DATA} (default: the preset's)")
    add("--text", metavar="FILE", help="the same as --data with a path")
    text = (
        "symbols of the text: text8 has a to z and space, bytes all bytes of "
        "UTF-8 (default: %(default)s)"
    )
    add("--tokenizer", choices=[*TOKENIZERS], default="text8", help=text)
    group = parser.add_argument_group("options of generate")
    add = group.add_argument
    add("--model", metavar="FILE", type=Path, help="model.keras of a run")
    count = number(int, 1)
    text = "texts to generate (default: %(default)s)"
    add("--num-samples", metavar="N", type=count, default=4, help=text)
    text = "calls of the denoiser (default: the model's)"
    add("--num-steps", metavar="N", type=count, help=text)
    add("--prompt", metavar="TEXT", help="the first characters of each text")
    text = "divides the logits before sampling (default: %(default)s)"
    level = number(float, 0)
    add("--temperature", metavar="X", type=level, default=1.0, help=text)
    text = (
        "sample among the most probable tokens that have this probability "
        "together (default: %(default)s)"
    )
    share = number(float, 0, 1)
    add("--top-p", metavar="X", type=share, default=1.0, help=text)
    text = "picture of the first text, whose colors show the blocks"
    add("--picture", metavar="FILE", type=Path, help=text)
    return parser


def _generate(model_class, args):
    if args.model is None:
        raise ValueError(
            "`generate` needs a saved model. Received: none. "
            "Pass --model model.keras."
        )
    model = keras.saving.load_model(args.model, compile=False)
    if not hasattr(model, "generate"):
        raise ValueError(
            f"The file must hold a {model_class.__name__} or its twin. "
            f"Received: {args.model} with a {type(model).__name__}. "
            "Pass the `model.keras` of a run."
        )
    if model.tokenizer is None:
        model.tokenizer = TOKENIZERS[args.tokenizer]()
    known = inspect.signature(model.generate).parameters
    options = given(args, ("num_samples", "num_steps", "temperature"))
    options |= given(args, ("top_p", "seed"))
    if args.prompt and "prompts" in known:
        options["prompts"] = [args.prompt]
    elif args.prompt:
        options["prompt"] = args.prompt
    if args.picture and "return_trajectory" not in known:
        raise ValueError(
            "A picture shows masks being filled in. Received: --picture for "
            f"a {type(model).__name__}. Leave it out."
        )
    if args.picture:
        options["return_trajectory"] = True
    texts = model.generate(**options)
    if args.picture:
        from .text_picture import save_unmasking

        texts, trajectory = texts
        save_unmasking(
            args.picture, trajectory, model.tokenizer, model.num_blocks
        )
    print("\n".join(texts))
    return 0
