"""Random draws: the generator's known answers, and nothing drawn twice."""

import keras
import numpy as np
import pytest
from keras import ops
from scipy import stats

from keras_dblocks import streams
from keras_dblocks.streams import Stream, rows_of
from keras_dblocks.threefry import threefry

numpy = ops.convert_to_numpy


def signed(*words):
    return [int(np.uint32(word).astype("int32")) for word in words]


# Random123 1.14, `kat_vectors`, threefry2x32 with 20 rounds: counter, key and
# result.
KNOWN = [
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 2, (0x1CB996FC, 0xBB002BE7)),
    (
        (0x243F6A88, 0x85A308D3),
        (0x13198A2E, 0x03707344),
        (0xC4923A9C, 0x483DF7A0),
    ),
]


@pytest.mark.quick
@pytest.mark.parametrize("counter, key, wanted", KNOWN)
def test_known_answers_of_threefry(counter, key, wanted):
    counter = [ops.convert_to_tensor([c], "int32") for c in signed(*counter)]
    key = [ops.convert_to_tensor(word, "int32") for word in signed(*key)]
    found = threefry(tuple(key), *counter)
    found = [int(numpy(word)[0].astype("uint32")) for word in found]
    assert found == [*wanted]


@pytest.mark.quick
def test_every_backend_draws_the_same_numbers():
    # Written down once: every backend must repeat them.
    stream, rows = Stream(0, "noise", 2), ops.arange(3, 6)
    assert stream.key.tolist() == [1256278091, 753308499]
    uniform = [[0.1547702, 0.0364638], [0.6690968, 0.4642366]]
    uniform += [[0.0587101, 0.6119580]]
    ours = numpy(stream.uniform(rows, (2,), 100))
    np.testing.assert_allclose(ours, uniform, atol=1e-6)
    normal = [[1.8812640, 0.4387173], [-0.8739290, 0.1997525]]
    normal += [[-1.8159617, -1.5403143]]
    ours = numpy(stream.normal(rows, (2,), 100))
    np.testing.assert_allclose(ours, normal, atol=1e-6)
    ours = numpy(Stream(7, "noise_level").uniform(ops.arange(2), (), 3))
    np.testing.assert_allclose(ours, [0.2860287, 0.7249846], atol=1e-6)
    host = streams.generator(0, "data_order", 5)
    assert host.permutation(6).tolist() == [4, 2, 1, 5, 0, 3]


@pytest.mark.parametrize("shape", [(), (100_000,)], ids=["rows", "elements"])
def test_uniform_numbers_are_uniform(shape):
    rows = rows_of(1 if shape else 100_000)
    numbers = numpy(Stream(1, "test").uniform(rows, shape, step=3))
    assert numbers.dtype == "float32" and numbers.shape == (len(rows), *shape)
    numbers = numbers.ravel().astype("float64")
    assert stats.kstest(numbers, "uniform").pvalue > 1e-3
    assert 0.0 <= numbers.min() < 1e-4 and 1 - 1e-4 < numbers.max() < 1.0
    # All 24 bits are used, and each is a fair coin.
    whole = (numbers * 2**24).astype("int64")
    np.testing.assert_array_equal(whole, numbers * 2**24)
    bits = whole[:, None] >> np.arange(24) & 1
    np.testing.assert_allclose(bits.mean(0), 0.5, atol=5 * 0.5 / 1e5**0.5)
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 5 / 1e5**0.5


@pytest.mark.parametrize("shape", [(), (100_000,)], ids=["rows", "elements"])
def test_normal_numbers_are_normal(shape):
    rows = rows_of(1 if shape else 100_000)
    numbers = numpy(Stream(1, "test").normal(rows, shape, step=4))
    assert numbers.dtype == "float32" and numbers.shape == (len(rows), *shape)
    numbers = numbers.ravel().astype("float64")
    assert stats.kstest(numbers, "norm").pvalue > 1e-3
    np.testing.assert_allclose(numbers.mean(), 0.0, atol=5 / 1e5**0.5)
    np.testing.assert_allclose(numbers.std(), 1.0, atol=5 / 2e5**0.5)
    for tail in (2.0, 3.0, 4.0):
        for share in ((numbers > tail).mean(), (numbers < -tail).mean()):
            wanted = stats.norm.sf(tail)
            assert abs(share - wanted) < 5 * (wanted / 1e5) ** 0.5
    # The two halves come from the same pairs of words.
    halves = numbers[:50_000], numbers[50_000:]
    assert abs(np.corrcoef(*halves)[0, 1]) < 5 / 5e4**0.5
    assert abs(np.corrcoef(*np.square(halves))[0, 1]) < 5 / 5e4**0.5


def test_no_normal_number_is_infinite():
    # The words that are least and most, which no draw of a test would meet.
    words = ops.convert_to_tensor(signed(0, 0xFF, 0xFFFFFFFF, 1 << 31), "int32")

    class Extreme(Stream):
        def _bits(self, rows, shape, step, per_value):
            return [ops.expand_dims(words, 1)] * per_value

    numbers = numpy(Extreme(0, "test").normal(rows_of(4), (2,)))
    assert np.isfinite(numbers).all() and np.abs(numbers).max() < 5.8
    assert np.abs(numbers).max() > 5.7
    numbers = numpy(Extreme(0, "test").uniform(rows_of(4), (1,)))
    assert numbers.min() == 0.0 and numbers.max() == np.float32(1 - 2.0**-24)


@pytest.mark.parametrize("kind", ["uniform", "normal"])
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 4)], ids=str)
def test_a_row_is_the_same_whatever_else_is_drawn(kind, shape):
    draw = getattr(Stream(3, "noise", 1), kind)
    # TensorFlow's logarithms and cosines round differently at the end of an
    # array.
    rounding = 0.0 if kind == "uniform" else 1e-6
    tolerance = {"rtol": rounding, "atol": rounding}
    whole = numpy(draw(rows_of(9), shape, 5))
    assert whole.shape == (9, *shape)
    for rows in ([4], [8, 0, 3], [2, 2]):
        part = numpy(draw(ops.convert_to_tensor(rows, "int32"), shape, 5))
        np.testing.assert_allclose(part, whole[rows], **tolerance)
    # A step is a number, wherever it comes from.
    step = ops.convert_to_tensor(5, "int32")
    part = numpy(draw(rows_of(9), shape, step))
    np.testing.assert_allclose(part, whole, **tolerance)


def test_a_stream_of_a_key_is_the_stream():
    stream = Stream(3, "noise", 1)
    key = stream.key
    assert key.dtype == "int32" and key.shape == (2,)
    again = Stream.of_key(ops.convert_to_tensor(key))
    for kind in ("uniform", "normal"):
        ours = [
            numpy(getattr(one, kind)(rows_of(3), (5,), 7))
            for one in (stream, again)
        ]
        np.testing.assert_array_equal(*ours)


SEEDS, PURPOSES, BLOCKS = (0, 1, 2), ("noise", "noise_level"), (0, 1, 2)
PURPOSES += ("hand_over", "sampling_step")


@pytest.mark.quick
def test_no_two_draws_are_equal():
    """Of 8 values: 36 streams, 1,000 steps, and 1,000 rows of one step."""
    count = 1000
    drawn = []
    for seed in SEEDS:
        for purpose in PURPOSES:
            for block in BLOCKS:
                stream = Stream(seed, purpose, block)
                # Step i of row 0, and row i of step 0; the first is the same.
                zero = ops.zeros((count,), "int32")
                steps = stream.uniform(zero, (8,), rows_of(count))
                rows = stream.uniform(rows_of(count), (8,), 0)
                drawn += [numpy(steps), numpy(rows)[1:]]
    drawn = np.concatenate(drawn)
    assert len(drawn) == 36 * (2 * count - 1)
    assert len({draw.tobytes() for draw in drawn}) == len(drawn)
    # Single numbers meet as often as chance wants it among 2**24 numbers.
    for place in (0, 7):
        values = len(np.unique(drawn[:, place]))
        expected = len(drawn) ** 2 / 2**25
        assert len(drawn) - values < expected + 5 * expected**0.5


def test_streams_of_related_names_are_unrelated():
    names = [(0, "noise"), (0, "noise", 0), (0, "noise", 0, 0), (1, "noise")]
    names += [(0, "noise", 1), (0, "noises"), (0, "noise", 11), (1, "noise", 1)]
    names += [(10, "noise"), (0, "noise", 1, 1), (2**40, "noise")]
    keys = {tuple(Stream(*name).key) for name in names}
    assert len(keys) == len(names)
    drawn = [numpy(Stream(*n).normal(rows_of(1), (4000,)))[0] for n in names]
    apart = np.corrcoef(drawn)[np.triu_indices(len(names), 1)]
    assert np.abs(apart).max() < 5 / 4000**0.5


def test_steps_and_rows_are_unrelated():
    stream = Stream(0, "noise")
    ours = numpy(stream.normal(rows_of(30), (2000,), 1))
    later = numpy(stream.normal(rows_of(30), (2000,), 2))
    apart = np.corrcoef(np.concatenate([ours, later]))
    assert np.abs(apart[np.triu_indices(60, 1)]).max() < 5.5 / 2000**0.5


@pytest.mark.parametrize("first, count", [(0, 7), (0, 1000), (12345, 1000)])
def test_spread_leaves_no_large_gap(first, count):
    shift = ops.convert_to_tensor([0.37], "float32")
    numbers = numpy(streams.spread(rows_of(count) + first, shift))
    assert numbers.dtype == "float32" and numbers.shape == (count,)
    assert (0 <= numbers).all() and (numbers < 1).all()
    ordered = np.sort(numbers)
    gaps = np.diff([*ordered, ordered[0] + 1.0])
    # Gaps of the golden ratio's multiples are at most 1.18 + 1 / sqrt 5 times
    # the mean one; those of chance would be ln N times.
    assert gaps.max() * count < 2.0 and gaps.min() * count > 0.3
    rows = np.arange(first, first + count, dtype="float64")
    wanted = (0.37 + rows * ((np.sqrt(5) - 1) / 2)) % 1.0
    np.testing.assert_allclose(numbers, wanted, atol=3e-6)


def test_spread_is_fine_at_large_rows():
    rows = 2**30 + np.arange(100, dtype="int32")
    rows = ops.convert_to_tensor(rows, "int32")
    ordered = np.sort(numpy(streams.spread(rows, 0.0)))
    gaps = np.diff([*ordered, ordered[0] + 1.0])
    assert gaps.max() * 100 < 2.0 and gaps.min() * 100 > 0.3


def test_generators_of_the_host():
    first = streams.generator(0, "block_order").random(8)
    np.testing.assert_array_equal(
        streams.generator(0, "block_order").random(8), first
    )
    others = [(0, "data_order"), (1, "block_order"), (0, "block_order", 0)]
    drawn = [first, *(streams.generator(*one).random(8) for one in others)]
    assert len(np.unique(drawn)) == 32


def dropouts(count, seed=0):
    return [keras.layers.Dropout(0.5, seed=seed) for _ in range(count)]


def drawn_by(layers, count):
    """Draws of 8 values of each layer's generator, as a list of bytes."""
    drawn = []
    for layer in layers:
        for _ in range(count):
            values = keras.random.uniform((8,), seed=layer.seed_generator)
            drawn.append(numpy(values).tobytes())
    return drawn


def test_every_generator_of_layers_has_a_stream_of_its_own():
    layers = [*dropouts(2), keras.Sequential(dropouts(2))]
    streams.seed_layers(layers, 0, "dropout", 1)
    states = [tuple(numpy(s).tolist()) for s in streams.random_states(layers)]
    assert len(states) == 4 == len({*states})
    # They follow from seed, purpose and index alone.
    again = dropouts(4, seed=9)
    streams.seed_layers(again, 0, "dropout", 1)
    assert states == [
        tuple(numpy(s).tolist()) for s in streams.random_states(again)
    ]
    for other in ((1, "dropout", 1), (0, "dropout", 2), (0, "other", 1)):
        streams.seed_layers(again, *other)
        for state in streams.random_states(again):
            assert tuple(numpy(state).tolist()) not in states


def test_generators_of_layers_never_draw_the_same():
    """1,000 steps of four generators.

    Keras on torch adds a generator's seed and counter, so that generators
    with neighbouring seeds repeat each other's draws, one step later.
    """
    count = 1000 if keras.backend.backend() == "torch" else 50
    layers = dropouts(4)
    streams.seed_layers(layers, 0, "dropout", 0)
    drawn = drawn_by(layers, count)
    assert len({*drawn}) == 4 * count
    if keras.backend.backend() == "torch":
        plain = [keras.layers.Dropout(0.5, seed=seed) for seed in range(4)]
        assert len({*drawn_by(plain, count)}) == count + 3
        # Seeding again does not hash twice.
        streams.seed_layers(layers, 0, "dropout", 0)
        assert drawn_by(layers, 5) == [
            one for i in range(4) for one in drawn[i * count : i * count + 5]
        ]


def test_a_restored_state_draws_on():
    layers = dropouts(2)
    streams.seed_layers(layers, 0, "dropout")
    drawn_by(layers, 3)
    states = [np.array(numpy(s)) for s in streams.random_states(layers)]
    wanted = drawn_by(layers, 4)
    again = dropouts(2, seed=5)
    streams.seed_layers(again, 1, "dropout")
    for state, value in zip(streams.random_states(again), states, strict=True):
        state.assign(value)
    assert drawn_by(again, 4) == wanted
