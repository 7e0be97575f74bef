"""What the program does with each kind of system."""

import dataclasses

from keras_dblocks import DiffusionBlocks
from keras_dblocks.applications.text.strings import TakesStrings

from . import generate_images, generate_text
from .classifier_run import ClassifierRun
from .generator_run import GeneratorRun
from .text_run import TextRun


@dataclasses.dataclass(frozen=True)
class System:
    """A kind of system.

    Args:
        run_class: subclass of `Run`.
        generate: module of its command `generate`, with `add_options(parser,
            model_class)` and `generate(model_class, args)`, or None for
            classifiers, which have the command `demo`.
    """

    run_class: type
    generate: object = None

    @property
    def commands(self):
        """Names of its commands."""
        return ("train", "generate" if self.generate else "demo")


def system_of(model_class):
    """The `System` to which a subclass of `DiffusionBlocks` belongs."""
    if issubclass(model_class, TakesStrings):
        return System(TextRun, generate_text)
    if model_class.generate is not DiffusionBlocks.generate:
        return System(GeneratorRun, generate_images)
    return System(ClassifierRun)
