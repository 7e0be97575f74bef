"""Version of this project's files; files of other versions are refused."""

VERSION = 3


def config():
    """Entry of a config that states its format version."""
    return {"format_version": VERSION}


def check(config, kind):
    """Raises a ValueError unless a config is of this version.

    Args:
        config: dict, read from a file.
        kind: str. What the error message calls the saved object.
    """
    version = config.get("format_version", 1)
    if version != VERSION:
        raise ValueError(
            f"A saved {kind} must be of format version {VERSION}. "
            f"Received: version {version}. Load it with the version of "
            "keras_dblocks that wrote it, or save it again with this one."
        )


def without_version(config):
    """The config without its version, as the constructor takes it."""
    return {k: v for k, v in config.items() if k != "format_version"}
