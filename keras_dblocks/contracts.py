"""Base classes that refuse an incomplete subclass when it is constructed."""

import abc


class Contract(abc.ABC):  # noqa: B024
    """A part of the method that users may replace.

    A subclass of this class declares what a part must define as abstract
    methods, and documents for each who calls it, when, and with which shapes
    and dtypes. A class that misses one of them cannot be instantiated, and
    the error names what is missing.
    """

    def __new__(cls, *args, **kwargs):
        missing = sorted(cls.__abstractmethods__)
        if missing:
            contract = next(
                base
                for base in reversed(cls.__mro__)
                if set(missing) <= set(getattr(base, "__abstractmethods__", ()))
            )
            raise TypeError(
                f"A `{contract.__name__}` must define "
                f"{', '.join(f'`{name}`' for name in missing)}. "
                f"Received: the class `{cls.__name__}` without. "
                f"Define it as the docstring of `{contract.__name__}` says."
            )
        make = super().__new__
        if make is object.__new__:
            return make(cls)
        return make(cls, *args, **kwargs)
