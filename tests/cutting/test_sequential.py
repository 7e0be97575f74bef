"""A network that was cut, trained block after block with local losses."""

import keras
import numpy as np
import pytest
from keras import layers as kl

import keras_dblocks
from helpers.networks import Encoder, Layer, make, vectors
from keras_dblocks import memory
from keras_dblocks.cutting.graph import packed, unpacked
from keras_dblocks.training.curriculum import Phase


def masked():
    """A mask that layers after a cut need, and a mask that is an input."""
    inputs = keras.Input((6,), dtype="int32")
    x = kl.Embedding(9, 4, mask_zero=True)(inputs)
    x = kl.LSTM(4, return_sequences=True)(x)
    x = kl.LSTM(4, return_sequences=True)(x)
    model = keras.Model(inputs, kl.Dense(1)(kl.LSTM(4)(x)))
    tokens = np.random.default_rng(0).integers(1, 9, (8, 6))
    tokens[::2, 3:] = 0
    return model, (tokens, vectors()[1])


def positions():
    """Inputs, and what follows from them alone, pass around the cuts."""
    x = inputs = keras.Input((6,), name="x")
    scale = keras.Input((1,), name="scale")
    twice = 2 * scale
    for i in range(3):
        normed = kl.LayerNormalization(name=f"norm_{i}")(x)
        x = x + kl.Dense(6, name=f"dense_{i}")(normed * twice)
    model = keras.Model({"x": inputs, "scale": scale}, kl.Dense(1)(x))
    x, y = vectors()
    return model, ({"x": x, "scale": x[:, :1]}, y)


@keras.saving.register_keras_serializable("tests")
class Joint(kl.Layer):
    """A layer of two streams that read each other, and a third tensor."""

    def __init__(self, last=False, **kwargs):
        super().__init__(**kwargs)
        self.last = last

    def build(self, one_shape, other_shape, time_shape):
        self.one = kl.Dense(one_shape[-1], name="one")
        self.other = kl.Dense(other_shape[-1], name="other")
        self.one.build(one_shape)
        self.other.build(other_shape)

    def call(self, one, other, time):
        both = one + other
        one = one + self.one(both * time)
        return one if self.last else (one, other + self.other(both - time))

    def get_config(self):
        return {**super().get_config(), "last": self.last}


@keras.saving.register_keras_serializable("tests")
class Ending(kl.Layer):
    """A prediction of one stream and the third tensor."""

    def build(self, one_shape, time_shape):
        self.dense = kl.Dense(1, name="dense")
        self.dense.build(one_shape)

    def call(self, one, time):
        return self.dense(one * time)


def two_streams():
    """Between layers three tensors are alive, after the last one two."""
    x = keras.Input((6,))
    one, other, time = (kl.Dense(6, name=n)(x) for n in ("a", "b", "time"))
    for i in range(3):
        one, other = Joint(name=f"joint_{i}")(one, other, time)
    one = Joint(last=True, name="joint_3")(one, other, time)
    return keras.Model(x, Ending(name="ending")(one, time)), vectors()


OWN = {"masked": masked, "positions": positions, "two_streams": two_streams}
KINDS = ["cnn", "sequential", "nested", *OWN]
kinds = pytest.mark.parametrize("kind", KINDS)


def network(kind):
    if kind not in OWN:
        return make(kind)
    keras.utils.set_random_seed(0)
    return *OWN[kind](), "mse"


def arrays(variables):
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables]


def sequential(model, num_blocks=2, **options):
    return keras_dblocks.cut(
        model, num_blocks, training="sequential", **options
    )


@pytest.mark.eager
@kinds
def test_the_pieces_are_the_network(kind):
    model, (x, _), _ = network(kind)
    before = keras.ops.convert_to_numpy(model(x))
    known, names = set(vars(model)), [v.path for v in model.variables]
    cut = sequential(model)
    state = ()
    for piece in cut.pieces:
        # As it is handed over: masks are tensors.
        state = packed(piece(x, unpacked(state), training=False))
    ((after, *_),) = state
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(after), before)
    steps = cut.predict_steps(x)
    assert steps.shape == (2, *before.shape)
    np.testing.assert_allclose(steps[-1], before, rtol=1e-5, atol=1e-6)
    assert set(vars(model)) == known
    assert [v.path for v in model.variables] == names


@pytest.mark.heavy
@kinds
def test_every_weight_belongs_to_one_block(kind):
    model, _, _ = network(kind)
    cut = sequential(model)
    own = [v for block in cut.blocks for v in block.weights]
    assert len({id(v) for v in own}) == len(own)
    heads = {id(v) for layer in cut.head_layers for v in layer.variables}
    assert {id(v) for v in own} == {id(v) for v in model.variables} | heads
    assert all(block.trainable_variables for block in cut.blocks)


@pytest.mark.eager
@pytest.mark.parametrize("kind", ["sequential", "positions", "masked"])
def test_the_last_block_has_the_exact_gradient(kind):
    """Its loss is the network's own, and nothing before it draws."""
    found = []
    for training in ("exact", "sequential"):
        model, (x, y), loss = network(kind)
        options = {} if training == "sequential" else {"tables": "inside"}
        cut = keras_dblocks.cut(model, 2, training=training, **options)
        own = arrays(model.layers[-1].weights)
        more = {} if training == "exact" else {"curriculum": "sampled"}
        cut.compile(keras.optimizers.SGD(0.1), loss, block_order=1, **more)
        cut.train_on_batch(x, y)
        found.append(arrays(model.layers[-1].weights))
        assert any((a != b).any() for a, b in zip(own, found[-1], strict=True))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.eager
@pytest.mark.parametrize("kind", ["cnn", "nested"])
def test_a_step_changes_one_block_and_its_head(kind):
    model, (x, y), loss = network(kind)
    cut = sequential(model)
    for block in cut.blocks:
        phases = [Phase(1.0, block.index)]
        cut.compile("sgd", loss, curriculum=phases, curriculum_steps=2)
        every = {id(v): v for v in (*model.weights, *cut.weights)}.values()
        before = arrays(every)
        cut.fit(x, y, 8, epochs=2, verbose=0)
        moved = {
            id(v)
            for v, old in zip(every, before, strict=True)
            if (keras.ops.convert_to_numpy(v) != old).any()
        }
        counters = {id(v) for v in cut.counters()}
        states = {id(v) for v in every if "seed" in v.path}
        own = {id(v) for v in block.weights}
        others = moved - own - counters - states
        inside = {id(v) for v in cut.optimizer.variables}
        assert not others - inside
        trained = {id(v) for v in block.trainable_variables}
        assert len(moved & trained) > len(trained) / 2


def test_block_after_block_learns_and_the_network_is_what_learned(tmp_path):
    model, (x, y), loss = network("cnn")
    cut = sequential(model, 3)
    cut.compile(keras.optimizers.Adam(0.02), loss, metrics=["accuracy"])
    history = cut.fit(
        x, y, 8, epochs=60, validation_data=(x, y), verbose=0
    ).history
    names = {f"block_{i}_loss" for i in range(3)}
    assert set(history) == {
        *names,
        "accuracy",
        "loss",
        "val_accuracy",
        "val_loss",
    }
    for i in range(3):
        losses = history[f"block_{i}_loss"]
        phase = losses[20 * i : 20 * (i + 1)]
        assert phase[-1] < 0.8 * phase[0]
        assert set(losses[20 * (i + 1) :]) <= {phase[-1]}  # it is over
    # Validation is of the network, as it predicts.
    wanted = loss(y, model.predict(x, verbose=0))
    np.testing.assert_allclose(
        history["val_loss"][-1], keras.ops.convert_to_numpy(wanted), rtol=1e-4
    )
    cut.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_allclose(
        loaded.predict(x, verbose=0),
        cut.predict_steps(x)[-1],
        rtol=1e-5,
        atol=1e-5,
    )
    assert len(loaded.weights) == len(model.weights)


@pytest.mark.heavy
def test_one_block_is_the_network():
    found = []
    for training in ("exact", "sequential"):
        model, (x, y), loss = network("sequential")
        cut = keras_dblocks.cut(model, 1, training=training)
        cut.compile(keras.optimizers.SGD(0.1), loss)
        cut.fit(x, y, 4, shuffle=False, verbose=0)
        found.append(arrays(model.weights))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.heavy
def test_statistics_of_the_others_do_not_move():
    model, (x, y), loss = network("cnn")
    cut = sequential(model, 2)
    norms = [v for v in model.non_trainable_variables if "moving" in v.path]
    phases = [Phase(1.0, block=1)]
    cut.compile("sgd", loss, curriculum=phases, curriculum_steps=1)
    before = arrays(norms)
    cut.fit(x, y, 8, verbose=0)
    own = {id(v) for v in cut.blocks[1].weights}
    for v, old in zip(norms, before, strict=True):
        moved = (keras.ops.convert_to_numpy(v) != old).any()
        assert moved == (id(v) in own)


@pytest.mark.eager
def test_killed_and_resumed_in_another_phase(tmp_path):
    class Killed(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def run(callbacks):
        model, (x, y), loss = network("cnn")
        cut = sequential(model, 3)
        rate = keras.optimizers.schedules.CosineDecay(0.01, 4)
        cut.compile(keras.optimizers.AdamW(rate), loss)
        try:
            history = cut.fit(x, y, 4, 6, verbose=0, callbacks=callbacks)
        except KeyboardInterrupt:
            return None, None
        weights = [
            *model.weights,
            *(w for h in cut.head_layers for w in h.weights),
        ]
        return history.history["loss"], arrays(weights)

    whole, weights = run([])
    run([keras.callbacks.BackupAndRestore(tmp_path), Killed()])
    resumed, again = run([keras.callbacks.BackupAndRestore(tmp_path)])
    np.testing.assert_array_equal(resumed, whole[2:])
    for one, other in zip(again, weights, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.eager
@kinds
def test_saved_by_block_and_predicted_one_block_at_a_time(kind, tmp_path):
    model, (x, _), _ = network(kind)
    before = model.predict(x, verbose=0)
    nodes = [len(layer._inbound_nodes) for layer in model.layers]
    cut = sequential(model)
    cut.save_blocks(tmp_path / "blocks")
    assert [len(layer._inbound_nodes) for layer in model.layers] == nodes
    own = {"Layer": Layer}
    made = keras_dblocks.predict_from_blocks(tmp_path / "blocks", x, 3, own)
    np.testing.assert_allclose(made, before, rtol=1e-5, atol=1e-6)
    weights = arrays(model.weights)
    for variable in model.weights:
        variable.assign(0 * variable)
    cut.load_blocks(tmp_path / "blocks", own)
    for one, other in zip(arrays(model.weights), weights, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.heavy
def test_files_of_blocks_that_do_not_fit(tmp_path):
    model, (x, _), _ = network("positions")
    cut = sequential(model, 2)
    cut.save_blocks(tmp_path)
    others = {
        "of 3 blocks": lambda: sequential(model, 3).load_blocks(tmp_path),
        "has a file blocks.json": lambda: cut.load_blocks(tmp_path / "none"),
        "inputs are": lambda: keras_dblocks.predict_from_blocks(
            tmp_path, x["x"]
        ),
    }
    for problem, call in others.items():
        with pytest.raises(ValueError, match=problem):
            call()
    other = keras.Sequential([keras.Input((6,)), *map(kl.Dense, (5, 5, 1))])
    before = arrays(other.weights)
    with pytest.raises(ValueError, match="this network's layers"):
        sequential(other, 2).load_blocks(tmp_path)
    for one, old in zip(arrays(other.weights), before, strict=True):
        np.testing.assert_array_equal(one, old)
    (tmp_path / "block_1.keras").unlink()
    with pytest.raises(ValueError, match="block_1.keras"):
        keras_dblocks.predict_from_blocks(tmp_path, x)


@pytest.mark.eager
def test_heads():
    model, (x, y), loss = network("cnn")
    own = kl.Dense(3)
    pooled = keras.Sequential([kl.GlobalAveragePooling2D(), own])
    by_number = {0: keras.Sequential([kl.Flatten(), kl.Dense(3)])}
    for head in (pooled, by_number.get):
        cut = sequential(model, 2, head=head)
        cut.compile("sgd", loss)
        cut.fit(x, y, 8, epochs=2, verbose=0)
        assert cut.predict_steps(x).shape == (2, 8, 3)
    assert not own.built  # each block has one like it
    for head, problem in (
        (kl.Dense(3), "of shape"),
        (lambda index: 3, "Received: 3"),
    ):
        with pytest.raises(ValueError, match=problem):
            sequential(model, 2, head=head)


@pytest.mark.once
def test_refusals():
    for kind, options, problem in (
        ("subclassed", {}, "a `call` of its own"),
        ("u_net", {}, "2 outputs"),
        ("cnn", {"num_blocks": 9}, "which has 4 such places"),
        ("cnn", {"at": ["conv_1"]}, "2 tensors are needed later"),
        ("cnn", {"at": ["none"]}, "no layer of this name"),
        ("cnn", {"at": []}, "0 names"),
        ("cnn", {"tables": "own"}, "leaves tables"),
    ):
        model, _, _ = make(kind)
        with pytest.raises(ValueError, match=problem):
            sequential(model, **options)
    model, _, loss = make("cnn")
    with pytest.raises(ValueError, match="`training` is"):
        keras_dblocks.cut(model, 2, training="greedy")
    cut = sequential(model)
    for phase in (Phase(1.0, 1, start_from=0), Phase(1.0, 0, None, True)):
        with pytest.raises(ValueError, match="not copies"):
            cut.compile("sgd", loss, curriculum=[phase])
    with pytest.raises(ValueError, match="on_policy"):
        cut.compile("sgd", loss, on_policy=0.5)


@pytest.mark.once
def test_streams_are_cut_together_and_learn():
    model, (x, y) = two_streams()
    cut = sequential(model, 3)
    assert [len(piece.leaving) for piece in cut.pieces] == [3, 3, 1]
    first, second, last = cut.heads
    assert last is None
    # Each block ends in the network's own last layer, of its stream and time.
    for head, piece in ((first, cut.pieces[0]), (second, cut.pieces[1])):
        (ending,) = head.layers
        assert ending.name == "ending" and ending is not model.layers[-1]
        streams = piece.calls[-1].outputs
        time = ({*piece.leaving} - {*streams}).pop()
        taken = [piece.leaving[i] for i in head.taken]
        assert sorted(taken) == sorted([streams[0], time])
    cut.compile(keras.optimizers.Adam(0.02), "mse")
    losses = [np.mean((s - y) ** 2) for s in cut.predict_steps(x)]
    cut.fit(x, y, 8, epochs=60, verbose=0)
    after = [np.mean((s - y) ** 2) for s in cut.predict_steps(x)]
    assert all(a < 0.5 * b for a, b in zip(after, losses, strict=True))
    assert cut.summary_columns(0)[1] == ", ".join(["('B', 6)"] * 3)


class Doubled(Encoder):
    """An encoder whose `call` has a weight of its own."""

    def build(self, shape):
        super().build(shape)
        self.scale = self.add_weight(shape=(), initializer="ones")

    def call(self, x):
        return self.scale * super().call(x)


class Branching(Encoder):
    """An encoder that does something else in training."""

    def call(self, x, training=False):
        return super().call(2 * x if training else x)


@pytest.mark.once
def test_a_list_of_layers_is_opened_if_nothing_else_happens():
    x = keras.Input((6,))
    for kind, opened in ((Encoder, True), (Doubled, False), (Branching, False)):
        model = keras.Model(x, kl.Dense(1)(kind(4, name="encoder")(x)))
        if not opened:
            with pytest.raises(ValueError, match="such places"):
                sequential(model, 3)
            continue
        cut = sequential(model, 3)
        names = [unit.name for block in cut.blocks for unit in block.units]
        assert names[:4] == [f"encoder/layer_{i}" for i in range(4)]
        data = vectors()[0]
        made = cut.predict_steps(data)[-1]
        wanted = model.predict(data, verbose=0)
        np.testing.assert_allclose(made, wanted, atol=1e-6)


@pytest.mark.once
def test_skips_between_repeated_layers_are_no_streams():
    x = keras.Input((6,))
    kept, state = [], x
    for i in range(2):
        state = Layer(name=f"down_{i}")(state)
        kept.append(state)
    for i in range(2):
        state = Layer(name=f"up_{i}")(state + kept.pop())
    model = keras.Model(x, kl.Dense(1)(state))
    with pytest.raises(ValueError, match="such places"):
        sequential(model, 5)


@pytest.mark.once
def test_blocks_that_read_others_weights_share_no_program():
    """Compiled, each reads its own, though all else is alike in two blocks."""
    trained = []
    for eagerly in (False, True):
        keras.utils.set_random_seed(0)
        x = keras.Input((6,))
        tied = [kl.Dense(6, name=name) for name in ("a", "b")]
        state = tied[1](tied[0](x))
        for i, other in enumerate(tied):
            state = other(kl.Dense(6, name=f"own_{i}")(state))
        state = kl.Dense(6, name="last")(state)
        model = keras.Model(x, kl.Dense(1)(state))
        at = ["own_0", "own_1", "last"]
        cut = sequential(model, 4, at=at, head=kl.Dense(1))
        cut.compile(keras.optimizers.SGD(0.05), "mse", run_eagerly=eagerly)
        cut.fit(*vectors(), 8, epochs=8, verbose=0)
        trained.append(arrays(model.variables))
    for ours, wanted in zip(*trained, strict=True):
        np.testing.assert_allclose(ours, wanted, atol=1e-5)


@pytest.mark.once
def test_a_skip_is_cut_only_around():
    inputs = keras.Input((8, 8, 2))
    first = kl.Conv2D(4, 3, padding="same")(inputs)
    low = kl.Conv2D(4, 3, padding="same")(first)
    joined = kl.Concatenate()([first, low])
    model = keras.Model(inputs, kl.Conv2D(1, 3)(joined))
    with pytest.raises(ValueError, match="which has 2 such places"):
        sequential(model, 4)
    with pytest.raises(ValueError, match="Pass `head=`"):
        sequential(model, 3)  # no logits that a pooled state could make


@pytest.mark.once
def test_where_blocks_begin():
    model, _, _ = make("cnn")
    cut = sequential(model, 2, at=["norm_2"])
    assert cut.blocks[1].units[0].name == "norm_2"
    printed = []
    cut.summary(print_fn=printed.append)
    assert "hands over" in printed[0]
    assert "('B', 8, 8, 4)" in printed[0]
    # Layers that repeat are shared out evenly, also in a nested model.
    inputs = keras.Input((6,))
    inner = keras.Sequential(
        [keras.Input((6,)), *map(lambda _: Layer(), "1234")]
    )
    model = keras.Model(inputs, kl.Dense(1)(inner(inputs)))
    cut = sequential(model, 2)
    counts = [
        sum(isinstance(unit.layer, Layer) for unit in block.units)
        for block in cut.blocks
    ]
    assert counts == [2, 2]


@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow",
    reason="it measures the peak of a process, which tiny models do not move",
)
def test_a_step_keeps_one_block_s_activations():
    keras.utils.set_random_seed(0)
    inputs = x = keras.Input((32, 16))
    for _ in range(23):
        x = x + kl.Dense(16, activation="tanh")(x)
    model = keras.Model(inputs, kl.Dense(1)(kl.GlobalAveragePooling1D()(x)))
    data = np.zeros((64, 32, 16), "float32"), np.zeros((64, 1), "float32")
    model.compile("adam", "mse")
    whole = memory.measure(model, *data)
    cut = sequential(model, 4)
    cut.compile("adam")
    used = memory.measure(cut, *data)
    assert used.temporaries < 0.35 * whole.temporaries
