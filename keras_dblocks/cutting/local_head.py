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
        read: set of the `id` of layers that are not copied.
        large_head: `LargeHead` of the network, or None.
    """

    def __init__(self, tail, read, large_head):
        self.tail = tail
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
        (prediction,) = self.tail(x, states, training, self.copies)
        return prediction


class OwnLayers:
    """Layers that make a prediction of what a block hands over.

    Args:
        layers: list of Keras layers, which are called one after the other.
    """

    large_head = None

    def __init__(self, layers):
        self.layers = layers

    def __call__(self, x, states, training):
        (state,) = states
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
    tail = _tail(graph)
    read = {layer for layer, block in owner.items() if block != last}
    wanted = graph.specs[graph.outputs[0]]
    heads = []
    for index, piece in enumerate(pieces[:-1]):
        (number,) = piece.leaving
        state = graph.specs[number]
        if given is not None:
            head = OwnLayers([_made(given, index)])
        elif _alike(state, graph.specs[tail.entering[0]]):
            head = OwnTail(tail, read, large_head)
        else:
            head = OwnLayers(_pooled(graph, state, wanted))
        if isinstance(head, OwnLayers):
            _build(head.layers, state, wanted)
        streams.seed_layers(head.layers, seed, "head_dropout", index)
        heads.append(head)
    return heads


def _tail(graph):
    """`Piece` from where the last repeated layer ends, or the last layer."""
    places = graph.places()
    start = places[-1]
    for last in graph.repeated_calls()[-1:]:
        start = next((i for i in places if i > last), start)
    return graph.piece(start, len(graph.calls))


def _alike(one, other):
    return one.dtype == other.dtype and tuple(one.shape) == tuple(other.shape)


def _pooled(graph, state, wanted):
    """Pooling over places, and a fresh layer like the network's last one."""
    rank = len(state.shape)
    last = next(c.operation for c in graph.calls[::-1] if c.variables)
    dense = isinstance(last, keras.layers.Dense) and len(wanted.shape) == 2
    if not dense or rank not in (2, 3, 4, 5):
        raise ValueError(
            "A block's loss needs a prediction, made of what it hands over. "
            f"Received: a tensor of shape {('B', *state.shape[1:])}, and "
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


def _build(layers, state, wanted):
    """Builds the layers, and refuses what is no prediction."""
    made = keras.KerasTensor(state.shape, state.dtype)
    for layer in layers:
        made = layer(made)
    if not shapes_agree(made.shape, wanted.shape):
        raise ValueError(
            "A local head makes a prediction like the network's, of shape "
            f"{('B', *wanted.shape[1:])}. Received: {('B', *made.shape[1:])} "
            f"from {layers[-1].name}. Pass another `head`."
        )
