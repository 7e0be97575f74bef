"""Files that appear only when they are complete."""

import contextlib
import os
from pathlib import Path


@contextlib.contextmanager
def atomic(path):
    """Gives a temporary path whose file becomes `path` on success.

    Args:
        path: path of the file to be written. A file that is already there
            stays as it is until the new one is complete.
    """
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
