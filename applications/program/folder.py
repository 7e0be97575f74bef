"""The folder of a run, which belongs to that run alone."""

import json
import tempfile

from keras_dblocks.applications.images.files import atomic


def make_folder(folder):
    """Creates a folder, and checks that files can be written in it.

    Raises:
        ValueError: if they cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            "The output must be in a folder that can be written. "
            f"Received: {folder} ({error.strerror}). "
            "Pass another --output."
        ) from error


def claim(folder, run, resume):
    """Creates the folder of a run, or checks that it belongs to the run.

    A run may be resumed with more epochs than it had. Its weights and its
    optimizers go on where they stand, and the learning rate follows from there
    the schedule of the new length.

    Args:
        folder: path.
        run: `Run`.
        resume: bool. Whether the folder may hold a run with these settings.

    Returns:
        int, the number of epochs that the run had before; None for a new run.

    Raises:
        ValueError: if the folder holds a run and `resume` is False, or a run
            with other settings, or cannot be written.
    """
    path = folder / "settings.json"
    settings = json.loads(json.dumps(run.settings()))
    if path.exists() and not resume:
        raise ValueError(
            "A run needs a folder of its own. "
            f"Received: {folder}, which holds one. Pass --resume to continue "
            "it, or another --output."
        )
    before = json.loads(path.read_text()) if path.exists() else None
    if before is not None:
        _compare(before, settings, run.can_be_lengthened)
    make_folder(folder)
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(settings, indent=2) + "\n")
    return before and before["epochs"]


def _compare(before, settings, can_be_lengthened):
    longer = settings["epochs"] > before["epochs"]
    free = {"epochs"} if can_be_lengthened and longer else set()
    changed = [
        f"{name}={settings.get(name)} (was {before.get(name)})"
        for name in sorted({*before, *settings} - free)
        if settings.get(name) != before.get(name)
    ]
    if not changed:
        return
    free = ", of which epochs may grow" if can_be_lengthened else ""
    raise ValueError(
        f"A run must be resumed with its original settings{free}. Received: "
        f"{', '.join(changed)}. Do not change them, or pass another --output."
    )
