"""The command `generate` for text."""

import inspect

from keras_dblocks.applications.data.text import TOKENIZERS
from keras_dblocks.applications.images.files import atomic
from keras_dblocks.applications.text.strings import TakesStrings

from . import generate as common
from .arguments import given, number
from .text_picture import save_unmasking

OPTIONS = ("num_samples", "num_steps", "temperature", "top_p", "seed")


def add_options(parser, model_class):
    """Adds the options of the command."""
    text = "file for the texts, one after the other"
    common.add_options(parser, model_class, text)
    add = parser.add_argument
    text = "texts to generate (default: %(default)s)"
    count = number(int, 1)
    add("--num-samples", metavar="N", type=count, default=4, help=text)
    text = "the first characters of each text (default: none)"
    add("--prompt", metavar="TEXT", help=text)
    text = "divides the logits before sampling (default: %(default)s)"
    level = number(float, 0)
    add("--temperature", metavar="X", type=level, default=1.0, help=text)
    text = (
        "sample among the most probable tokens that have this probability "
        "together, from 0 to 1 (default: %(default)s)"
    )
    share = number(float, 0, 1)
    add("--top-p", metavar="X", type=share, default=1.0, help=text)
    text = "of a model saved without one (default: %(default)s)"
    names = list(TOKENIZERS)
    add("--tokenizer", choices=names, default=names[0], help=text)


def generate(model_class, args):
    """Prints generated texts, or writes them."""
    common.check_outputs(args)
    model = _load(model_class, args)
    known = inspect.signature(model.generate).parameters
    options = given(args, OPTIONS)
    if args.prompt and "prompts" in known:
        options["prompts"] = [args.prompt]
    elif args.prompt:
        options["prompt"] = args.prompt
    trajectory = getattr(args, "trajectory", None)
    if trajectory:
        texts, steps = model.generate(return_trajectory=True, **options)
        save_unmasking(trajectory, steps, model.tokenizer, model.num_blocks)
    else:
        texts = model.generate(**options)
    if args.output is None:
        print("\n".join(texts))
        return
    with atomic(args.output) as temporary:
        temporary.write_text("\n".join(texts) + "\n")
    print(f"{len(texts)} texts in {args.output}")


def _load(model_class, args):
    files = common.files_of(args.model)
    if len(files) > 1:
        model = model_class.from_blocks(files)
    else:
        name = f"{model_class.__name__} or its twin"
        model = common.load(files[0], TakesStrings, name)
    if model.tokenizer is None:
        model.tokenizer = TOKENIZERS[args.tokenizer]()
    return model
