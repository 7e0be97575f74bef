"""`cut`, which makes blocks of a network that exists."""

from collections.abc import Callable, Sequence

import keras

from keras_dblocks import compat
from keras_dblocks.checks import check_integer
from keras_dblocks.cutting.cut_model import CutModel
from keras_dblocks.cutting.division import divide, divide_graph
from keras_dblocks.cutting.exact_cut import ExactCut
from keras_dblocks.cutting.graph import Graph
from keras_dblocks.cutting.sequential_cut import SequentialCut
from keras_dblocks.cutting.units import units_of
from keras_dblocks.training.trainer import BlockTrainer


def cut(
    model: keras.Model,
    num_blocks: int,
    at: Sequence[str] | None = None,
    training: str = "exact",
    head: keras.layers.Layer
    | Callable[[int], keras.layers.Layer]
    | None = None,
    tables: str = "auto",
    seed: int = 0,
) -> CutModel:
    """Cuts any Keras model into blocks that `fit` trains one at a time.

    The model is trained itself: nothing is copied or added to it, and it
    predicts, generates and is saved as before. A step has gradients and
    optimizer state for the weights of one block alone
    (docs/method.md#networks-that-exist).

    Args:
        model: built `keras.Model`.
        num_blocks: int.
        at: list of `num_blocks - 1` names of layers that begin the second and
            later blocks. By default the network is divided evenly; see
            `summary()`.
        training: `"exact"` computes the whole network's loss in every step,
            and suits a network that is trained already. `"sequential"` trains
            block after block, each with a loss of its own on what the blocks
            before it hand over, so that a step keeps one block's activations
            alone. It is for functional networks from scratch: it bends
            features that later layers of a pretrained network were trained on
            (docs/fine_tuning.md#from-scratch-block-after-block).
        head: with `"sequential"`, a layer that makes a prediction of what a
            block hands over, of which each block but the last gets one of its
            own, or a function from a block's number to its layer. By default
            it is a copy of the network's own head, after pooling if needed.
        tables: `"own"` puts embedding tables into a block of their own, the
            last one; `"inside"` leaves them in the blocks where they stand;
            `"auto"` chooses `"own"` for tables larger than an average block.
        seed: int, of the order of blocks and data.

    Returns:
        `CutModel`, an `ExactCut` or a `SequentialCut`.

    Raises:
        ValueError: for a model that is not built, has fewer layers with
            weights than blocks, or has a training step of its own; with
            `"sequential"` also for one without places at which a single
            tensor carries everything, or what one call of a repeated layer
            made, such as the two streams of a multimodal transformer.

    Example:

    ```python
    import keras, keras_dblocks

    model = keras.Sequential(
        [keras.Input((8,)), *(keras.layers.Dense(8) for _ in range(4))]
    )
    cut = keras_dblocks.cut(model, num_blocks=2)
    cut.compile(keras.optimizers.AdamW(1e-3), loss="mse")
    cut.fit(x, y, epochs=2)
    model.predict(x)  # the model itself was trained
    ```

    References:
     - [BAdam](https://arxiv.org/abs/2404.02827)
     - [LISA](https://arxiv.org/abs/2403.17919)
     - [Greedy layerwise learning](https://arxiv.org/abs/1812.11446)
    """
    check_model(model)
    check_integer("seed", seed, 0)
    if training == "sequential":
        if tables == "own":
            raise ValueError(
                'training="sequential" leaves tables in the blocks that read '
                'them. Received: tables="own". Leave it out.'
            )
        check_outputs(model)
        graph = Graph(model)
        starts = divide_graph(graph, num_blocks, at)
        return SequentialCut(model, graph, starts, head, seed)
    if training != "exact" or head is not None:
        raise ValueError(
            '`training` is "exact", or "sequential", which has a `head`. '
            f"Received: training={training!r}, head={head!r}. Leave `head` out."
        )
    units = units_of(model)
    return ExactCut(model, divide(units, num_blocks, at, tables), seed)


def check_outputs(model):
    """Raises a ValueError for what local heads cannot learn."""
    outputs = keras.tree.flatten(getattr(model, "outputs", None) or [None])
    if len(outputs) != 1 or compat.overrides(model, "compute_loss"):
        kind = f"{len(outputs)} outputs"
        if len(outputs) == 1:
            kind = "a `compute_loss` of its own"
        raise ValueError(
            'training="sequential" has one loss, that of `compile`, for the '
            f"predictions of each block. Received: {model.name}, with {kind}. "
            'Use training="exact".'
        )


def check_model(model):
    """Raises a ValueError for what cannot be cut."""
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"`cut` takes a keras.Model. Received: a {type(model).__name__}. "
            "Wrap a layer in `keras.Sequential`."
        )
    if isinstance(model, BlockTrainer):
        raise ValueError(
            "`cut` takes a network that is trained as a whole. Received: a "
            f"{type(model).__name__}, which has blocks already. Call its `fit`."
        )
    if not model.built or not model.variables:
        raise ValueError(
            "`cut` takes a model that has its weights. Received: "
            f"{model.name}, which is not built. Call it on a batch first."
        )
    for name in ("train_step", "test_step", "compute_metrics"):
        if compat.overrides(model, name):
            raise ValueError(
                "`cut` takes the loss and metrics of `compile`, or a "
                f"`compute_loss`. Received: {type(model).__name__} with a "
                f"`{name}` of its own, which would not be called. Move its "
                "loss to `compute_loss`, its metrics to `compile`."
            )
    if compat.own_metrics(model) or compat.overrides(model, "metrics"):
        raise ValueError(
            "`cut` takes the metrics of `compile`. Received: "
            f"{type(model).__name__} with metrics of its own, which would not "
            "be reported. Pass them to `compile`."
        )
    if any(part.compute_dtype == "float16" for part in compat.sublayers(model)):
        raise ValueError(
            "`cut` has an optimizer for each block, without loss scaling. "
            f"Received: {model.name}, which computes in float16. Use "
            "mixed_bfloat16."
        )
