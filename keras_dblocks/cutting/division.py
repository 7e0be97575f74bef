"""Which units, or calls, go into which block."""

import collections

from keras_dblocks.checks import check_integer


def divide(units, num_blocks, at=None, tables="auto"):
    """Cuts an ordered list of units into blocks.

    Where a network repeats a composite layer at least `num_blocks` times, each
    block has as many of these, as nearly as can be. What stands before the
    first is the first block's, what stands after the last the last block's.
    Other networks are cut so that the largest block is as small as can be.

    Args:
        units: list of `Unit`.
        num_blocks: int.
        at: list of str, names of the units (or the ends of names) that begin
            the second and later blocks. It replaces the rule above.
        tables: `"own"` puts embedding tables into a block of their own, after
            the others; `"inside"` leaves them where they stand; `"auto"`
            chooses `"own"` if they are larger than the mean of the others.

    Returns:
        List of lists of `Unit`.

    Raises:
        ValueError: if there are fewer units than blocks, or for unknown names.
    """
    check_integer("num_blocks", num_blocks)
    if tables not in ("auto", "own", "inside"):
        raise ValueError(
            '`tables` must be "auto", "own" or "inside". '
            f'Received: tables={tables!r}. Use the default, "auto".'
        )
    units = [unit for unit in units if unit.variables]
    inside = [unit for unit in units if not unit.is_table]
    kept = [unit for unit in units if unit.is_table]
    sizes = [sum(u.num_parameters for u in some) for some in (inside, kept)]
    large = num_blocks > 1 and sizes[1] > sizes[0] / num_blocks
    if tables == "inside" or not inside or tables == "auto" and not large:
        inside, kept = units, []
    if at is not None:
        blocks = _at(inside, num_blocks, at)
    else:
        blocks = _blocks(inside, num_blocks)
    return [*blocks, kept] if kept else blocks


def _blocks(units, num_blocks):
    if len(units) < num_blocks:
        raise ValueError(
            f"`num_blocks` must be at most the {len(units)} layers with "
            f"weights. Received: num_blocks={num_blocks}. Pass fewer."
        )
    kinds = collections.Counter(
        type(unit.layer) for unit in units if unit.is_composite
    )
    (kind, count) = kinds.most_common(1)[0] if kinds else (None, 0)
    if count >= num_blocks:
        places = [i for i, unit in enumerate(units) if type(unit.layer) is kind]
        share, more = divmod(count, num_blocks)
        starts, first = [0], 0
        # Later blocks get what is left over.
        for block in range(num_blocks - 1):
            first += share + (block >= num_blocks - more)
            starts.append(places[first])
    else:
        starts = _even_starts([u.num_parameters for u in units], num_blocks)
    ends = [*starts[1:], len(units)]
    return [units[a:b] for a, b in zip(starts, ends, strict=True)]


def divide_graph(graph, num_blocks, at=None):
    """Cuts a graph into blocks that hand a single tensor over, or several.

    Several are handed over only if single ones do not make enough blocks. Each
    block has as many calls of the composite layer that the network
    repeats, as nearly as can be. Where there is none, the outputs of its calls
    are as many numbers, which is about what a step keeps of them.

    Args:
        graph: `Graph`.
        num_blocks: int.
        at: list of str, names of the layers (or the ends of names) that begin
            the second and later blocks.

    Returns:
        List of the positions of the blocks' first calls.

    Raises:
        ValueError: if there are too few places, or none at a layer of `at`.
    """
    check_integer("num_blocks", num_blocks)
    if at is not None:
        return _at_calls(graph, num_blocks, at)
    weights = dict.fromkeys(graph.repeated_calls(), 1)
    if len(weights) < num_blocks:
        weights = dict(enumerate(map(graph.size_of, graph.calls)))
    starts, sizes = _parts(graph, weights, graph.places())
    if len(sizes) < num_blocks:
        starts, sizes = _parts(graph, weights, graph.places(several=True))
    if len(sizes) < num_blocks:
        raise ValueError(
            'training="sequential" cuts where a single tensor carries '
            "everything, or what one call of a repeated layer made. Received: "
            f"num_blocks={num_blocks} for {graph.model.name}, which has "
            f"{len(sizes) - 1} such places between its layers. Pass fewer "
            'blocks, or use training="exact", which cuts anywhere.'
        )
    return [starts[i] for i in _even_starts(sizes, num_blocks)]


def _parts(graph, weights, places):
    """First calls and sizes of the smallest parts that a graph is cut into."""
    places = [0, *places]
    ends = [*places[1:], len(graph.calls)]
    starts, sizes, size = [0], [], 0
    for first, end in zip(places, ends, strict=True):
        here = sum(weights.get(i, 0) for i in range(first, end))
        if size and here:  # nothing begins with what does not count
            starts.append(first)
            sizes.append(size)
            size = 0
        size += here
    sizes.append(size)
    return starts, sizes


def _at_calls(graph, num_blocks, at):
    _check_count(num_blocks, at)
    starts, places = [0], graph.places(several=True)
    for name in at:
        found = _named([call.path for call in graph.calls], name)
        problem = None
        if not found:
            problem = "no layer of this name"
        elif found[0] <= starts[-1]:
            problem = "a layer that does not stand after the one before"
        elif found[0] not in places and len(graph.alive(found[0])) != 1:
            count = len(graph.alive(found[0]))
            problem = f"before which {count} tensors are needed later"
        if problem:
            paths = [graph.calls[i].path for i in places]
            raise ValueError(
                "`at` names layers before which a single tensor carries "
                f"everything, in the model's order. Received: {name!r}, "
                f"{problem}. Such layers are {', '.join(paths[:8])}"
                f"{' and more' if len(paths) > 8 else ''}."
            )
        starts.append(found[0])
    return starts


def _even_starts(sizes, num_blocks):
    """First units of blocks of which the largest is as small as can be."""

    def pack(limit):
        starts, filled = [0], 0
        for i, size in enumerate(sizes):
            # As many units must be left as blocks.
            needed = len(sizes) - i <= num_blocks - len(starts)
            if i and (filled + size > limit or needed):
                starts.append(i)
                filled = 0
            filled += size
        return starts

    low, high = max(sizes), sum(sizes)
    while low < high:
        middle = (low + high) // 2
        if len(pack(middle)) > num_blocks:
            low = middle + 1
        else:
            high = middle
    return pack(low)


def _named(paths, name):
    """Positions of the paths that end with a name of `at` (list)."""
    return [i for i, p in enumerate(paths) if f"/{p}".endswith(f"/{name}")]


def _check_count(num_blocks, at):
    if len(at) != num_blocks - 1:
        raise ValueError(
            "`at` names the layers that begin the second and later blocks. "
            f"Received: {len(at)} names for num_blocks={num_blocks}. "
            f"Pass {num_blocks - 1}."
        )


def _at(units, num_blocks, at):
    _check_count(num_blocks, at)
    starts = [0]
    for name in at:
        found = _named([unit.name for unit in units], name)
        if len(found) != 1 or found[0] <= starts[-1]:
            names = ", ".join(unit.name for unit in units[:8])
            problem = f"{len(found)} layers of this name"
            if len(found) == 1:
                problem = "a layer that does not stand after the one before"
            raise ValueError(
                "`at` names layers with weights, in the model's order. "
                f"Received: {name!r}, {problem}. "
                f"The model begins with {names}."
            )
        starts.append(found[0])
    ends = [*starts[1:], len(units)]
    return [units[a:b] for a, b in zip(starts, ends, strict=True)]
