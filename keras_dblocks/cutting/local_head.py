"""What a block of a network that was cut predicts with while it trains.

The last block ends in the network's own head. Every other block gets one of
its own, which is dropped with the cut.
"""

import keras

from keras_dblocks import streams
from keras_dblocks.checks import shapes_agree
from keras_dblocks.cutting.graph import copied
from keras_dblocks.cutting.large_head import LargeHead
from keras_dblocks.layers.context import call_part


class OwnTail:
    """The network's own calls after its last layer, with layers of their own.

    Layers that an earlier block trains, as a tied vocabulary, are read; the
    others are copied.

    Args:
        tail: `Piece`, from where the network's last layer ends.
        taken: list of ints. Which of the tensors that the block hands over
            stand for those that the tail is handed.
        read: set of the `id` of layers that are not copied.
        large_head: `LargeHead` of the network, or None.
    """

    def __init__(self, tail, taken, read, large_head):
        self.tail = tail
        self.taken = taken
        self.copies = {
            id(layer): copied(
                layer,
                'training="sequential" gives each block a copy of the head.',
                "Pass `head=`.",
            )
            for layer in tail.layers
            if id(layer) not in read
        }
        self.layers = list(self.copies.values())
        self.large_head = None
        if large_head is not None:
            own = large_head.layer
            self.large_head = LargeHead(
                self.copies.get(id(own), own),
                large_head.arguments,
                large_head.vocabulary_size,
            )

    def __call__(self, x, states, training):
        states = [states[i] for i in self.taken]
        (prediction,) = self.tail(x, states, training, self.copies)
        return prediction


class OwnLayers:
    """Layers that make a prediction of what a block hands over.

    Args:
        layers: list of Keras layers, which are called one after the other. The
            first gets a list if several tensors are handed over.
    """

    large_head = None

    def __init__(self, layers):
        self.layers = layers

    def __call__(self, x, states, training):
        state = _one(states)
        for layer in self.layers:
            state = call_part(layer, state, {"training": training})
        return state


def make_heads(graph, pieces, owner, given, large_head, seed):
    """Local heads of all blocks but the last, which has the network's.

    Args:
        graph: `Graph`.
        pieces: list of `Piece`, one for each block.
        owner: dict from the `id` of a layer to the block that trains it.
        given: the user's, see `cut`.
        large_head: `LargeHead` of the network, or None.
        seed: int.

    Returns:
        List of `OwnTail` and `OwnLayers`.
    """
    last = len(pieces) - 1
    if not last:
        return []
    several = any(len(piece.leaving) > 1 for piece in pieces[:-1])
    tail = _tail(graph, several)
    read = {layer for layer, block in owner.items() if block != last}
    wanted = graph.specs[graph.outputs[0]]
    heads = []
    for index, piece in enumerate(pieces[:-1]):
        states = [graph.specs[number] for number in piece.leaving]
        taken = _taken(graph, piece, tail)
        if given is not None:
            head = OwnLayers([_made(given, index)])
        elif taken is not None:
            head = OwnTail(tail, taken, read, large_head)
        else:
            head = OwnLayers(_pooled(graph, states, wanted))
        if isinstance(head, OwnLayers):
            _build(head.layers, states, wanted)
        streams.seed_layers(head.layers, seed, "head_dropout", index)
        heads.append(head)
    return heads


def _tail(graph, several):
    """`Piece` from where the last repeated layer ends, or the last layer."""
    places = graph.places(several)
    start = places[-1]
    for last in graph.repeated_calls()[-1:]:
        start = next((i for i in places if i > last), start)
    return graph.piece(start, len(graph.calls))


def _taken(graph, piece, tail):
    """Which tensors of a piece stand for those that the tail is handed.

    Args:
        graph: `Graph`.
        piece, tail: `Piece`.

    Returns:
        List of positions in `piece.leaving`, one for each tensor that the tail
        is handed, or None if there is no such tensor for one of them.
    """
    wanted, leaving = tail.entering, piece.leaving
    if len(wanted) > 1 or len(leaving) > 1:
        # What the last call of the repeated layer made is what the piece's
        # last call of it made; the rest is the same tensor everywhere.
        calls = [graph.calls[i] for i in graph.repeated_calls()]
        own = [call for call in piece.calls if any(call is c for c in calls)]
        made = own[-1].outputs if own else ()
        # The network's last call may make fewer than the others.
        stands = dict(zip(calls[-1].outputs, made, strict=False))
        wanted = [stands.get(number, number) for number in wanted]
        if not {*leaving}.issuperset(wanted):
            return None
        taken = [leaving.index(number) for number in wanted]
    else:
        taken = [0]
    pairs = zip(taken, tail.entering, strict=True)
    specs = graph.specs
    alike = all(_alike(specs[leaving[i]], specs[n]) for i, n in pairs)
    return taken if alike else None


def _one(tensors):
    """The tensor, or the list of them if there are several."""
    return tensors[0] if len(tensors) == 1 else list(tensors)


def _alike(one, other):
    return one.dtype == other.dtype and tuple(one.shape) == tuple(other.shape)


def _pooled(graph, states, wanted):
    """Pooling over places, and a fresh layer like the network's last one."""
    state = states[0]
    rank = len(state.shape)
    last = next(c.operation for c in graph.calls[::-1] if c.variables)
    dense = isinstance(last, keras.layers.Dense) and len(wanted.shape) == 2
    if len(states) > 1 or not dense or rank not in (2, 3, 4, 5):
        shapes = ", ".join(str(("B", *s.shape[1:])) for s in states)
        raise ValueError(
            "A block's loss needs a prediction, made of what it hands over. "
            f"Received: tensors of shape {shapes}, and "
            f"{graph.model.name}, which predicts {('B', *wanted.shape[1:])} "
            f"with {last.name}. Pass `head=`, a layer from one to the other."
        )
    layers = [type(last).from_config({**last.get_config(), "name": None})]
    if rank > 2:
        pooling = getattr(keras.layers, f"GlobalAveragePooling{rank - 2}D")
        layers.insert(0, pooling())
    return layers


def _made(given, index):
    """A head of the user's: of a function, or a fresh one from a layer."""
    if isinstance(given, keras.layers.Layer):
        if given.built:
            raise ValueError(
                "`head` is a layer that each block gets one like. Received: "
                f"{given.name}, which has weights already. Pass a new one, or "
                "a function from the number of a block to its layer."
            )
        return type(given).from_config({**given.get_config(), "name": None})
    head = given(index) if callable(given) else given
    if not isinstance(head, keras.layers.Layer):
        raise ValueError(
            "`head` is a layer, or a function from the number of a block to "
            f"one. Received: {head!r}. Pass a keras.layers.Layer."
        )
    return head


def _build(layers, states, wanted):
    """Builds the layers, and refuses what is no prediction."""
    made = _one([keras.KerasTensor(s.shape, s.dtype) for s in states])
    for layer in layers:
        made = layer(made)
    if not shapes_agree(made.shape, wanted.shape):
        raise ValueError(
            "A local head makes a prediction like the network's, of shape "
            f"{('B', *wanted.shape[1:])}. Received: {('B', *made.shape[1:])} "
            f"from {layers[-1].name}. Pass another `head`."
        )
