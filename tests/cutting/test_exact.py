"""A network that was cut: the same network, trained a block at a time."""

import pickle

import keras
import numpy as np
import pytest

import keras_dblocks
from helpers.networks import NETWORKS, Layer, make
from keras_dblocks import memory

kinds = pytest.mark.parametrize("kind", NETWORKS)


def arrays(variables):
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables]


def flat(tree):
    return [
        keras.ops.convert_to_numpy(leaf) for leaf in keras.tree.flatten(tree)
    ]


@kinds
def test_a_cut_changes_nothing(kind):
    model, (x, _), _ = make(kind)
    before = flat(model.predict(x, verbose=0))
    known, names = set(vars(model)), [v.path for v in model.variables]
    cut = keras_dblocks.cut(model, 2)
    for answer in (cut.predict(x, verbose=0), cut(x), model(x)):
        assert len(flat(answer)) == len(before)
    for one, other in zip(flat(cut.predict(x, verbose=0)), before, strict=True):
        np.testing.assert_array_equal(one, other)
    assert [v.path for v in model.variables] == names
    assert set(vars(model)) == known


@kinds
@pytest.mark.parametrize("num_blocks", [1, 2, 3])
def test_every_weight_belongs_to_one_block(kind, num_blocks):
    model, _, _ = make(kind)
    cut = keras_dblocks.cut(model, num_blocks)
    own = [v for block in cut.blocks for v in block.weights]
    assert len({id(v) for v in own}) == len(own)
    assert {id(v) for v in own} >= {id(v) for v in model.weights}
    assert all(block.trainable_variables for block in cut.blocks)


@kinds
def test_a_step_is_the_exact_gradient_for_one_block(kind):
    """What one block does is what it does in a step of the whole network."""
    model, (x, y), loss = make(kind)
    states = [v for v in model.variables if "seed" in v.path]
    first = arrays(model.variables)

    def restore():
        for variable, value in zip(model.variables, first, strict=True):
            variable.assign(value)

    model.compile(keras.optimizers.SGD(0.1), loss)
    model.train_on_batch(x, y)
    whole = arrays(model.variables)
    assert any((a != b).any() for a, b in zip(whole, first, strict=True))
    cut = keras_dblocks.cut(model, 2)
    for block in cut.blocks:
        restore()
        cut.compile(keras.optimizers.SGD(0.1), block_order=block.index)
        cut.train_on_batch(x, y)
        moves = {id(v) for v in (*block.weights, *states)}
        for v, start, end in zip(model.variables, first, whole, strict=True):
            now = keras.ops.convert_to_numpy(v)
            if id(v) in moves:
                np.testing.assert_allclose(now, end, rtol=1e-5, atol=1e-6)
            else:
                np.testing.assert_array_equal(now, start)
        state = cut.optimizer.parts[1 - block.index].variables
        assert int(state[0]) == 0  # no step of the other block's optimizer


def test_fit_learns_and_reports_as_the_network_does():
    model, (x, y), loss = make("cnn")
    model.compile("adam", loss, metrics=["accuracy"])
    cut = keras_dblocks.cut(model, 2)
    cut.compile(keras.optimizers.Adam(0.02), steps_per_visit=2)
    stopper = keras.callbacks.EarlyStopping("val_accuracy", patience=30)
    history = cut.fit(
        x,
        y,
        batch_size=8,
        epochs=20,
        verbose=0,
        validation_data=(x, y),
        callbacks=[stopper],
    ).history
    assert set(history) == {"accuracy", "loss", "val_accuracy", "val_loss"}
    assert history["loss"][-1] < 0.7 * history["loss"][0]
    assert history["accuracy"][-1] > history["accuracy"][0]
    # What was trained is the network itself.
    np.testing.assert_allclose(
        model.evaluate(x, y, verbose=0), cut.evaluate(x, y, verbose=0)
    )
    assert len(cut.evaluate(x, y, verbose=0)) == 2


@pytest.mark.eager
def test_killed_and_resumed(tmp_path):
    """With dropout, statistics and an order of blocks that is drawn."""

    class Killed(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def run(callbacks, epochs):
        model, (x, y), loss = make("cnn")
        cut = keras_dblocks.cut(model, 3)
        cut.compile(keras.optimizers.AdamW(0.01), loss, steps_per_visit=1)
        try:
            history = cut.fit(
                x, y, 4, epochs, verbose=0, callbacks=callbacks
            ).history["loss"]
        except KeyboardInterrupt:
            history = None
        return history, arrays(model.weights)

    whole, weights = run([], 4)
    backup = keras.callbacks.BackupAndRestore(tmp_path)
    run([backup, Killed()], 4)
    resumed, again = run([keras.callbacks.BackupAndRestore(tmp_path)], 4)
    np.testing.assert_array_equal(resumed, whole[2:])
    for one, other in zip(again, weights, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.eager
def test_killed_and_resumed_inside_an_epoch(tmp_path):
    class Killed(keras.callbacks.Callback):
        steps = 0

        def on_train_batch_end(self, batch, logs=None):
            self.steps += 1
            if self.steps == 6:
                raise KeyboardInterrupt

    def run(*callbacks):
        model, (x, y), loss = make("cnn")
        cut = keras_dblocks.cut(model, 2)
        cut.compile(
            keras.optimizers.AdamW(0.01),
            loss,
            metrics=["accuracy"],
            steps_per_visit=1,
        )
        try:
            cut.fit(x, y, 2, epochs=3, verbose=0, callbacks=[*callbacks])
        except KeyboardInterrupt:
            return None
        return int(cut.optimizer.iterations), arrays(model.weights)

    steps, weights = run()
    assert steps == 12
    backup = keras.callbacks.BackupAndRestore
    assert run(backup(tmp_path, save_freq=1), Killed()) is None
    again, resumed = run(backup(tmp_path, save_freq=1))
    assert again == 12
    for one, other in zip(resumed, weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_schedule_is_that_of_all_steps():
    model, (x, y), loss = make("sequential")
    cut = keras_dblocks.cut(model, 2)
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 8)
    cut.compile(keras.optimizers.SGD(schedule), loss, steps_per_visit=1)
    cut.fit(x, y, batch_size=4, epochs=4, verbose=0)
    assert float(cut.optimizer.learning_rate) == pytest.approx(0.0, abs=1e-6)


def test_a_fit_too_short_for_all_blocks_says_so():
    model, (x, y), loss = make("sequential")
    cut = keras_dblocks.cut(model, 2)
    cut.compile("adam", loss, steps_per_visit=10)
    with pytest.warns(
        UserWarning, match="No turn comes for block.* in the 2 steps"
    ):
        cut.fit(x, y, batch_size=4, verbose=0)


def test_a_list_of_outputs_has_names_and_losses_of_their_own():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    x = keras.layers.Dense(4)(inputs)
    outputs = [keras.layers.Dense(1, name=name)(x) for name in "pq"]
    model = keras.Model(inputs, outputs)
    x, y = make("sequential")[1]
    kinds = {"loss": {"p": "mse", "q": "mae"}, "metrics": {"p": ["mae"]}}
    model.compile("sgd", **kinds)
    whole = model.evaluate(x, [y, y], verbose=0, return_dict=True)
    cut = keras_dblocks.cut(model, 1)
    cut.compile(keras.optimizers.SGD(0.0), loss_weights=[1.0, 2.0])
    logs = cut.fit(x, (y, y), verbose=0).history
    assert set(logs) == set(whole) == {"loss", "p_loss", "q_loss", "p_mae"}
    for name in ("p_loss", "q_loss", "p_mae"):
        assert logs[name][0] == pytest.approx(whole[name], rel=1e-5)
    total = whole["p_loss"] + 2 * whole["q_loss"]
    assert logs["loss"][0] == pytest.approx(total, rel=1e-5)


def test_inputs_arrive_as_they_are_under_any_policy():
    """Whole numbers above 256 are not rounded to bfloat16."""
    model = keras.Sequential(
        [keras.Input((1,)), keras.layers.Rescaling(1.0, dtype="float32")]
    )
    model = keras.Sequential([model, keras.layers.Dense(1, dtype="float32")])
    x = np.array([[1001.0], [1003.0]])
    model.layers[-1].kernel.assign([[1.0]])
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        cut = keras_dblocks.cut(model, 1)
        cut.compile(keras.optimizers.SGD(0.0), "mae")
        assert cut.fit(x, x, verbose=0).history["loss"] == [0.0]
    finally:
        keras.config.set_dtype_policy(before)


class Noisy(Layer):
    """A layer that draws, adds a loss, and holds a frozen part."""

    def build(self, shape):
        super().build(shape)
        self.drop = keras.layers.Dropout(0.5, seed=1)

    def call(self, x):
        y = self.drop(self.dense(self.norm(x)))  # `training` is not named
        self.add_loss(0.1 * keras.ops.mean(y**2))
        return x + keras.ops.cast(y, x.dtype)


@pytest.mark.eager
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_rematerialized_layers_draw_and_add_losses_alike(policy):
    weights, losses = [], []
    for remat in (False, True):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((6,))
        layers = [Noisy(dtype=policy) for _ in range(3)]
        x = inputs
        for layer in layers:
            x = layer(x)
        model = keras.Model(inputs, keras.layers.Dense(1)(x))
        layers[1].dense.trainable = False
        frozen = np.array(layers[1].dense.kernel)
        x, y = make("sequential")[1]
        cut = keras_dblocks.cut(model, 2)
        optimizer = keras.optimizers.SGD(0.002)
        cut.compile(optimizer, "mse", steps_per_visit=1, remat=remat)
        history = cut.fit(x, y, batch_size=4, epochs=2, verbose=0).history
        losses.append(history["loss"])
        weights.append(arrays(model.weights))
        np.testing.assert_array_equal(layers[1].dense.kernel, frozen)
    tolerance = 1e-5 if policy == "float32" else 2e-3
    np.testing.assert_allclose(*losses, rtol=tolerance)
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=tolerance)


def test_lora_trains_its_matrices_alone_block_by_block():
    model, (x, y), loss = make("sequential")
    cut = keras_dblocks.cut(model, 2)
    for layer in model.layers:
        layer.enable_lora(2)
    kernels = [layer._kernel for layer in model.layers]
    for layer in model.layers:
        layer.bias.trainable = False
    before = arrays(kernels)
    cut.compile(keras.optimizers.SGD(0.1), loss, steps_per_visit=1)
    cut.fit(x, y, batch_size=4, epochs=3, verbose=0)
    for one, other in zip(arrays(kernels), before, strict=True):
        np.testing.assert_array_equal(one, other)
    matrices = [layer.lora_kernel_b for layer in model.layers]
    assert all(matrix.any() for matrix in arrays(matrices))


def test_saved_as_what_it_always_was(tmp_path):
    model, (x, y), loss = make("u_net")
    cut = keras_dblocks.cut(model, 2)
    cut.compile("adam", loss, steps_per_visit=1)
    cut.fit(x, y, batch_size=4, verbose=0)
    cut.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    assert type(loaded) is keras.Model or type(loaded).__module__.startswith(
        "keras."
    )
    for one, other in zip(
        flat(loaded.predict(x, verbose=0)),
        flat(model.predict(x, verbose=0)),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_a_loss_of_the_model_s_own():
    class Own(keras.Sequential):
        def compute_loss(self, x, y, y_pred, sample_weight=None):
            return keras.ops.mean(keras.ops.abs(y - y_pred))

    _, (x, y), _ = make("sequential")
    model = Own([keras.Input((6,)), *(keras.layers.Dense(1) for _ in "ab")])
    model.compile("sgd")
    cut = keras_dblocks.cut(model, 2)
    cut.compile(keras.optimizers.SGD(0.0), steps_per_visit=1)
    found = cut.fit(x, y, batch_size=4, verbose=0).history["loss"][0]
    assert found == pytest.approx(np.abs(y - model.predict(x)).mean(), rel=1e-5)


class Group(keras.layers.Layer):
    """Layers that are one layer of the network."""

    def __init__(self, parts):
        super().__init__()
        self.parts = parts

    def build(self, shape):
        for part in self.parts:
            part.build(shape)
            shape = part.compute_output_shape(shape)

    def call(self, x):
        for part in self.parts:
            x = part(x)
        return x


def refused(call, *words):
    with pytest.raises(ValueError) as error:
        call()
    assert all(word in str(error.value) for word in words), error.value


def test_refusals():
    model, (x, y), loss = make("sequential")
    refused(lambda: keras_dblocks.cut(model, 9), "4 layers", "num_blocks=9")
    refused(lambda: keras_dblocks.cut(model, 0), "num_blocks")
    refused(lambda: keras_dblocks.cut(keras.layers.Dense(1), 2), "Dense")
    fresh = keras.Sequential([keras.layers.Dense(1)])
    refused(lambda: keras_dblocks.cut(fresh, 1), "not built")
    cut = keras_dblocks.cut(model, 2)
    refused(lambda: keras_dblocks.cut(cut, 2), "ExactCut")
    cut.compile("adam", steps_per_visit=1)
    refused(lambda: cut.fit(x, y, 4, verbose=0), "needs a loss")
    refused(lambda: cut.compile("adam", loss, on_policy=1.0), "on_policy")
    refused(
        lambda: cut.compile(
            "adam", loss, offload="host", offload_parameters=True
        ),
        "offload_parameters",
    )
    refused(lambda: keras_dblocks.cut(model, 2, tables="x"), "tables='x'")
    refused(lambda: keras_dblocks.cut(model, 2, at=["none"]), "'none'")

    class Step(keras.Sequential):
        def train_step(self, *arguments):
            return {}

    own = Step([keras.Input((6,)), keras.layers.Dense(1)])
    refused(lambda: keras_dblocks.cut(own, 1), "`train_step`", "compute_loss")
    half = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(1, dtype="mixed_float16")]
    )
    refused(lambda: keras_dblocks.cut(half, 1), "float16", "mixed_bfloat16")
    refused(lambda: pickle.dumps(cut), "Take its `model`")


def test_where_blocks_begin():
    model, _, _ = make("subclassed")
    names = [b.units[0].name for b in keras_dblocks.cut(model, 2).blocks]
    assert names == ["subclassed", "encoder/layer_2"]
    at = ["layer_1"]
    named = keras_dblocks.cut(model, 2, at=at).blocks[1].units[0].name
    assert named == "encoder/layer_1"
    sizes = [
        sum(np.prod(v.shape) for v in block.weights)
        for block in keras_dblocks.cut(make("cnn")[0], 3).blocks
    ]
    assert max(sizes) < 0.5 * sum(sizes)


@pytest.mark.parametrize(
    "kind", ["subclassed", pytest.param("nested", marks=pytest.mark.heavy)]
)
def test_rematerialized_layers_train_the_same(kind):
    weights = []
    for remat in (False, True):
        model, (x, y), loss = make(kind)
        cut = keras_dblocks.cut(model, 2)
        cut.compile(
            keras.optimizers.SGD(0.01), loss, steps_per_visit=1, remat=remat
        )
        cut.fit(x, y, batch_size=4, epochs=2, verbose=0)
        weights.append(arrays(model.weights))
        assert not any("call" in vars(layer) for layer in model.layers)
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow",
    reason="a network that was cut is measured in its own process",
)
def test_a_step_needs_less_memory():
    """Gradients of one block; later blocks keep less, or only inputs."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((64,))
    for _ in range(8):
        parts = [keras.layers.Dense(n, activation="gelu") for n in (256, 64)]
        x = Group(parts)(x)
    model = keras.Model(inputs, x)
    x = np.zeros((256, 64), "float32")
    temporaries = {}
    for remat in (False, True):
        cut = keras_dblocks.cut(model, 4)
        cut.compile("adam", "mse", remat=remat)
        temporaries[remat] = [
            memory.measure(cut, x, x, blocks=[i]).temporaries for i in (0, 3)
        ]
    assert temporaries[False][1] < 0.7 * temporaries[False][0]
    assert temporaries[True][0] < 0.8 * temporaries[False][0]
