"""Lets tests see, and set off, what is computed in chunks."""

from keras_dblocks import chunks


def count_chunks(monkeypatch, module):
    """List to which each call of `in_chunks` from a module adds its count."""
    counts = []

    def counted(function, count, *arguments, **keywords):
        counts.append(count)
        return chunks.in_chunks(function, count, *arguments, **keywords)

    monkeypatch.setattr(f"keras_dblocks.{module}.in_chunks", counted)
    return counts


def set_chunk(monkeypatch, size, large=None):
    """Numbers in a chunk, and from which on there are several."""
    monkeypatch.setattr(chunks, "CHUNK", size)
    monkeypatch.setattr(chunks, "LARGE", large or size)
