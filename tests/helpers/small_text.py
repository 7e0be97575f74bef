"""What the tests of the text programs share: a file of text, and the run."""

from keras_dblocks.applications.program import main


def write_text(folder):
    """Path of a file of text."""
    path = folder / "rhyme.txt"
    path.write_text("Round and round the ragged rock. " * 60)
    return path


def run(model_class, folder, text, *more):
    """Exit status of training the preset `tiny`."""
    arguments = ["--preset", "tiny", "--data", text, "--output", folder, *more]
    return main(model_class, [str(a) for a in arguments])
