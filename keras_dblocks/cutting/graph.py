"""A functional model as a row of calls, and pieces of that row.

Between any two calls some tensors are alive: what earlier calls made and later
ones need. Where that is a single tensor the network can be cut, and the pieces
hand it over; between calls of a layer that is repeated it may be several. What
follows from the inputs alone, without weights (masks, positions), passes around
a cut: each piece computes it anew.
"""

import collections
import dataclasses
import math
from typing import Any

import keras
from keras import tree

from keras_dblocks import compat
from keras_dblocks.cutting.units import Unit, opens


@dataclasses.dataclass(frozen=True)
class Call:
    """One operation of a graph; tensors are known by numbers.

    Attributes:
        path: str. Names of the models that hold the operation and its own.
        operation: layer, or operation of `keras.ops`.
        node: Keras's record of the call.
        inputs, outputs: tuples of ints.
    """

    path: str
    operation: Any
    node: Any
    inputs: tuple
    outputs: tuple

    @property
    def variables(self):
        """Weights of the operation; none unless it is a layer (list)."""
        return getattr(self.operation, "weights", [])

    @property
    def draws(self):
        """Whether the operation has a random generator (bool)."""
        layer = isinstance(self.operation, keras.layers.Layer)
        return layer and bool(compat.seed_generators([self.operation]))

    def __call__(self, values, training, replaced):
        """Runs it on `values`, dict of tensors by number, and adds to it."""
        operation = replaced.get(id(self.operation), self.operation)
        known = [values[number] for number in self.inputs]
        result = compat.run_node(self.node, operation, known, training)
        values.update(zip(self.outputs, tree.flatten(result), strict=True))


class Graph:
    """A functional model's calls in the order in which they run.

    Models inside of the model are opened, and layers that hold a list of layers
    and do nothing but call them.

    Args:
        model: built functional or `Sequential` model.

    Raises:
        ValueError: if the model has no graph that can be read.
    """

    def __init__(self, model):
        self.model = model
        graph = compat.graph(model)
        if graph is None:
            raise ValueError(
                'training="sequential" takes functional and Sequential '
                f"models, whose order of calls is known. Received: {model.name}"
                f", a {type(model).__name__} with a `call` of its own. Use "
                'training="exact", which takes every model.'
            )
        self.specs = []  # KerasTensors by number
        inputs, nodes, outputs = graph
        numbers = {}
        self.inputs = tuple(self._new(t, numbers) for t in inputs)
        calls = self._opened(nodes, "", numbers)
        self.outputs = tuple(numbers[id(t)] for t in outputs)
        free, self.of_inputs, self.calls = {*self.inputs}, [], []
        for call in calls:
            known = free.issuperset(call.inputs)
            if known and not call.variables and not call.draws:
                free.update(call.outputs)
                self.of_inputs.append(call)
            else:
                self.calls.append(call)

    def _new(self, tensor, numbers):
        number = len(self.specs)
        self.specs.append(tensor)
        numbers[id(tensor)] = number
        return number

    def _opened(self, nodes, prefix, numbers):
        calls = []
        for node in nodes:
            operation, taken = node.operation, node.input_tensors
            path = f"{prefix}{operation.name}"
            inner = compat.inner_graph(node)
            if inner is None and opens(operation):
                inner = compat.graph_of_call(node)
            if inner is not None:
                given = {
                    id(own): numbers[id(tensor)]
                    for own, tensor in zip(inner[0], taken, strict=True)
                }
                calls += self._opened(inner[1], f"{path}/", given)
                pairs = zip(node.outputs, inner[2], strict=True)
                numbers.update((id(t), given[id(own)]) for t, own in pairs)
                continue
            self._check(node, path)
            inputs = tuple(numbers[id(t)] for t in taken)
            outputs = tuple(self._new(t, numbers) for t in node.outputs)
            calls.append(Call(path, operation, node, inputs, outputs))
        return calls

    def _check(self, node, path):
        given = tree.flatten((node.arguments.args, node.arguments.kwargs))
        if any(isinstance(value, keras.Variable) for value in given):
            raise ValueError(
                'training="sequential" must know which layer a weight is '
                f"of. Received: {self.model.name}, which passes a variable to "
                f'{path}. Use training="exact".'
            )

    def size_of(self, call):
        """Numbers in a call's outputs for one row; unknown sizes count 1."""
        shapes = [self.specs[number].shape[1:] for number in call.outputs]
        return sum(math.prod(size or 1 for size in s) for s in shapes)

    def alive(self, position):
        """Tensors that are handed over before call `position` (tuple)."""
        made = {n for call in self.calls[:position] for n in call.outputs}
        needed = {n for call in self.calls[position:] for n in call.inputs}
        return tuple(sorted(made & (needed | {*self.outputs})))

    def places(self, several=False):
        """Positions before which a single tensor carries everything (list).

        A layer with weights stands there, and another one before it.

        Args:
            several: bool. True also lists those before which all that is alive
                was made by the latest call of the repeated layer, or is read
                by every call of it: the two streams of a multimodal
                transformer and an embedded time. A skip connection is neither.
        """
        weighty = [i for i, call in enumerate(self.calls) if call.variables]
        places = [i for i in weighty[1:] if len(self.alive(i)) == 1]
        calls = self.repeated_calls()
        if not several or not calls:
            return places
        common = set.intersection(*({*self.alive(i)} for i in calls))
        for i in weighty:
            latest = [call for call in calls if call < i][-1:]
            made = {
                n
                for first in latest
                for call in self.calls[first:i]
                for n in call.outputs
            }
            if latest and made | common >= {*self.alive(i)}:
                places.append(i)
        return sorted({*places})

    def repeated_calls(self):
        """Positions of the calls of the composite layer that is repeated.

        It is the kind that is called most often, as a transformer's layer. An
        empty list if none is called twice.
        """
        kinds = collections.defaultdict(list)
        for i, call in enumerate(self.calls):
            if call.variables and Unit(call.path, call.operation).is_composite:
                kinds[type(call.operation)].append(i)
        most = max(kinds.values(), key=len, default=[])
        return most if len(most) > 1 else []

    def piece(self, first, end):
        """The `Piece` of the calls from `first` to before `end`."""
        leaving = self.outputs
        if end < len(self.calls):
            leaving = self.alive(end)
        entering = self.alive(first) if first else ()
        return Piece(self, self.calls[first:end], entering, leaving)


class Piece:
    """Consecutive calls of a graph, as a function.

    Args:
        graph: `Graph`.
        calls: list of `Call`.
        entering, leaving: tuples of the numbers of the tensors that the piece
            is handed and that it hands over.

    Attributes:
        of_inputs: list of the `Call` that it makes of the inputs alone.
        inputs: list of the numbers of the model's inputs that it reads.
    """

    def __init__(self, graph, calls, entering, leaving):
        self.graph = graph
        self.calls = calls
        self.entering = entering
        self.leaving = leaving
        needed = {number for call in calls for number in call.inputs}
        before = []
        for call in graph.of_inputs[::-1]:
            if needed.intersection(call.outputs):
                needed.update(call.inputs)
                before.insert(0, call)
        # What it computes anew of the inputs, and the inputs that it reads.
        self.of_inputs = before
        self.inputs = [n for n in graph.inputs if n in needed]

    @property
    def layers(self):
        """The layers with weights or draws that it calls, each once (list)."""
        found = [c.operation for c in self.calls if c.variables or c.draws]
        return list({id(layer): layer for layer in found}.values())

    def __call__(self, x, handed, training, replaced=None):
        """What the piece makes of a batch.

        Args:
            x: inputs as the model takes them.
            handed: list of tensors, those of `entering`.
            training: bool.
            replaced: dict from the `id` of a layer to the one called instead,
                or None.

        Returns:
            List of tensors, those of `leaving`.
        """
        taken = compat.functional_inputs(self.graph.model, x)
        values = dict(zip(self.graph.inputs, taken, strict=True))
        values.update(zip(self.entering, handed, strict=True))
        return self.run(values, training, replaced)

    def run(self, values, training, replaced=None):
        """`__call__` of a dict of what is read, by number, which is changed."""
        for call in (*self.of_inputs, *self.calls):
            call(values, training, replaced or {})
        return [values[number] for number in self.leaving]


def copied(operation, wanted, advice, name=None):
    """An operation like the given one; of a layer also its weights.

    Args:
        operation: Keras layer, or operation of `keras.ops`.
        wanted, advice: first and last sentence of the error that is raised if
            it cannot be copied.
        name: str, that of a layer's copy. Defaults to the layer's own.
    """
    try:
        config = operation.get_config()
        if not isinstance(operation, keras.layers.Layer):
            return type(operation).from_config(config)
        config["name"] = name or operation.name
        copy = type(operation).from_config(config)
        if operation.built and not copy.built:
            copy.build_from_config(operation.get_build_config())
        copy.set_weights(operation.get_weights())
        copy.trainable = operation.trainable
    except Exception as error:
        raise ValueError(
            f"{wanted} Received: {operation.name}, which cannot be copied "
            f"({str(error).splitlines()[0]}). {advice}"
        ) from error
    return copy


def packed(tensors):
    """Tensors and the masks that they carry, as a tuple of tuples."""
    masks = [compat.mask_of(tensor) for tensor in tensors]
    pairs = zip(tensors, masks, strict=True)
    return tuple((t,) if mask is None else (t, mask) for t, mask in pairs)


def unpacked(state):
    """The tensors of `packed`, which carry their masks again (list)."""
    for tensor, *mask in state:
        if mask:
            compat.set_mask(tensor, *mask)
    return [tensor for tensor, *_ in state]
