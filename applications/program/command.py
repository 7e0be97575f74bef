"""The program of all systems: trains a preset, generates, or compares."""

import os
import shlex
import sys
from pathlib import Path

from keras_dblocks.applications.data import DataUnavailable
from keras_dblocks.callbacks import BlockLog

from .arguments import given, print_error
from .demo import demo
from .figures import lines
from .folder import claim, make_folder
from .parser import parse
from .record import recorded
from .run import ROWS
from .systems import system_of
from .train import train, train_on_ray

# Options that change the entries of a recipe of the same names.
RECIPE = ("data", "epochs", "steps_per_epoch", "batch_size", "learning_rate")
RECIPE += ("train_examples", "on_policy", "tokenizer", "samples")


def main(model_class, argv=None):
    """Runs the program.

    Args:
        model_class: subclass of `DiffusionBlocks` with `presets`.
        argv: list of strings, or None for the command line's.

    Returns:
        Exit status: 0; 2 for settings that do not fit together, data that are
        not available and files that cannot be read or written; 130 if it was
        interrupted by Ctrl-C. Arguments that cannot be parsed raise
        `SystemExit` with status 2.
    """
    argv = sys.argv[1:] if argv is None else argv
    prog = f"python -m {model_class.__module__.rpartition('.')[0]}"
    command = f"{_environment()}{prog} {shlex.join(argv)}".rstrip()
    system = system_of(model_class)
    args = parse(model_class, system, prog, argv)
    try:
        if args.command == "generate":
            system.generate.generate(model_class, args)
        elif args.command == "demo":
            _demo(model_class, system, args, command)
        else:
            _train(model_class, system, args, command)
    except (DataUnavailable, ValueError, OSError) as error:
        return print_error(error)
    except KeyboardInterrupt:
        print(f"interrupted; {_what_to_do(args, command)}", file=sys.stderr)
        return 130
    return 0


def _train(model_class, system, args, command):
    if args.on_policy is not None and args.row != "blocks":
        raise ValueError(
            "On-policy noise is what blocks hand over. Received: "
            f"--on-policy for the {ROWS[args.row]}. Leave it out."
        )
    if args.blocks_on_ray and args.row != "blocks":
        raise ValueError(
            "A network that is trained as a whole has no blocks to spread. "
            f"Received: --blocks-on-ray for the {ROWS[args.row]}. Leave it out."
        )
    if (args.address or args.workers) and not args.blocks_on_ray:
        raise ValueError(
            "Only workers of Ray have an address and a number. Received: "
            "--address or --workers without --blocks-on-ray. Add it."
        )
    if args.blocks_on_ray and args.tensorboard:
        raise ValueError(
            "Ray writes for TensorBoard by itself, into blocks/log of the "
            "run's folder. Received: --tensorboard with --blocks-on-ray. "
            "Leave it out."
        )
    name = f"{args.preset}-{args.row.replace('_', '-')}-seed{args.seed}"
    folder = args.output or Path("runs", name)
    run = _make_runs(model_class, system, args, [args.row])[args.row]
    callbacks = _callbacks(run, folder) if args.tensorboard else []
    before = claim(folder, run, args.resume)
    if before is not None and before < run.recipe["epochs"]:
        print(
            f"lengthened from {before} to {run.recipe['epochs']} epochs: the "
            "learning rate follows the schedule of the new length from here"
        )
    settings = run.settings()
    entries = {"seed": args.seed, "row": args.row, "settings": settings}
    with recorded(folder, command, **entries) as figures:
        if args.blocks_on_ray:
            train_on_ray(run, folder, args.address, args.workers)
        else:
            train(run, folder, callbacks)
        results = run.results(folder)
        print(*lines(results), *run.legend(), sep="\n", flush=True)
        figures.update(results)


def _callbacks(run, folder):
    try:
        return [BlockLog(folder / "tensorboard", **run.watched())]
    except ImportError as error:  # for one line of output
        raise ValueError(str(error)) from error


def _demo(model_class, system, args, command):
    folder = args.output or Path("runs", args.preset)
    rows = [row for row in ROWS if row != "paper"]  # --reference is that one
    runs = _make_runs(model_class, system, args, rows)
    make_folder(folder)
    settings = runs["blocks"].settings()
    entries = {"seed": args.seed, "settings": settings}
    with recorded(folder, command, **entries) as figures:
        figures.update(demo(runs, folder))
        for line in runs["blocks"].legend():
            print(line)


def _make_runs(model_class, system, args, rows):
    preset = model_class.presets[args.preset]
    changed = preset.get("reference_training", {}) if args.reference else {}
    recipe = {**preset["training"], **changed, **given(args, RECIPE)}
    data = system.run_class.load(recipe)
    sizes = given(args, ("num_layers", "num_blocks", "patch_size"))
    if "num_layers" in sizes:
        sizes[model_class.layers_keyword] = sizes.pop("num_layers")
    config = {
        **preset["config"],
        **system.run_class.sizes_of(data, recipe, preset["config"]),
        **sizes,
        "reference": args.reference,
        "seed": args.seed,
    }
    if getattr(args, "blocks_on_ray", False):
        recipe["blocks_on_ray"] = True
        config["sharing"] = "targets"
    return {
        row: system.run_class(model_class, config, recipe, data, row)
        for row in rows
    }


def _environment():
    """The choice of the backend, as it is written before a command."""
    backend = os.environ.get("KERAS_BACKEND")
    return f"KERAS_BACKEND={backend} " if backend else ""


def _what_to_do(args, command):
    if args.command != "train":
        return "nothing was kept"
    resume = "" if args.resume else " --resume"
    return f"to go on from the last complete epoch: {command}{resume}"
