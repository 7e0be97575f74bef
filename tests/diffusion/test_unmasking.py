"""Text from masks: what is revealed, when, by which block; and as strings."""

import keras
import numpy as np
import pytest
from keras import ops

from helpers.small_mdm import MASK, SIZES, data, make, randomize
from helpers.small_vit import python, refused
from keras_dblocks import samplers
from keras_dblocks.applications.mdm import MDM
from keras_dblocks.diffusion.samplers.tokens import nucleus
from keras_dblocks.samplers import Draws, UnmaskingSampler, plan
from keras_dblocks.streams import Stream, rows_of

numpy = ops.convert_to_numpy


@pytest.fixture(scope="module")
def model():
    return randomize(make(), scale=0.5)


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def stepped(sampler, tokens, logits, reveal, seed=0):
    """Tokens after one step on given logits."""
    state = sampler.initial(ops.convert_to_tensor(tokens, dtype="int32"))
    logits = ops.convert_to_tensor(logits, dtype="float32")
    call = {"level": 0.5, "reveal": reveal}
    draws = Draws(Stream(seed, "sampling_step"), rows_of(len(tokens)), 0)
    (tokens,) = sampler.step(state, logits, call, draws)
    return numpy(tokens)


def random_logits(*shape):
    return 2.0 * np.random.default_rng(2).normal(size=shape)


@pytest.mark.parametrize("order", ["random", "confidence"])
@pytest.mark.parametrize("grid", ["cosine", "uniform"])
def test_trajectory_reveals_everything_step_by_step(model, order, grid):
    prompt = np.full((5, 6), MASK)
    prompt[:, 2] = [0, 1, 2, 0, 1]
    prompt[0] = prompt[0, 2]  # nothing left to do
    keywords = {"num_steps": 8, "order": order, "grid": grid}
    made, steps = model.generate(
        5, prompt=prompt, batch_size=2, return_trajectory=True, **keywords
    )
    assert len(steps) == 8 and made.shape == (5, 6)
    assert ((0 <= made) & (made < MASK)).all()
    np.testing.assert_array_equal(steps[0]["noisy"], prompt)
    np.testing.assert_array_equal(steps[-1]["denoised"], made)
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        before, after = step["noisy"], step["denoised"]
        known = before != MASK
        np.testing.assert_array_equal(after[known], before[known])
        if following is not None:
            np.testing.assert_array_equal(following["noisy"], after)
            assert following["level"] < step["level"]
        assert step["block"] == model.partition.block_of(step["level"])
    # Ratios fall from the share of masks there is: (4 x 5) of 30.
    assert steps[0]["level"] == pytest.approx(0.9999 * 20 / 30)
    assert [s["block"] for s in steps][:: len(steps) - 1] == [1, 2]
    assert made.tolist() != steps[3]["denoised"].tolist()


def test_compiled_loop_is_the_calls_one_by_one(model):
    keywords = {"num_steps": 7, "seed": 5, "batch_size": 4}
    made, steps = model.generate(4, return_trajectory=True, **keywords)
    blocks = [step["block"] for step in steps]
    assert sorted({*blocks}) == [0, 1, 2] and blocks == sorted(blocks)
    np.testing.assert_array_equal(model.generate(4, **keywords), made)


def test_every_block_is_run(model):
    """Each block is called, and its weights change what is generated.

    docs/method.md#routing
    """
    for blocks in (2, 3, 4, 6):
        many = make(num_layers=12, num_blocks=blocks, hand_over="signal")
        for steps in sorted({blocks, blocks + 1, max(4, blocks), 50}):
            for grid in ("uniform", "cosine")[: 2 if steps == 50 else 1]:
                sampler = UnmaskingSampler(steps, grid, mask_token=MASK)
                visits = plan(sampler, many.partition)
                assert [v.block for v in visits] == [*range(blocks)]
                assert sum(len(v.calls["level"]) for v in visits) == steps
    keywords = {"num_steps": 12, "num_samples": 32}
    before = model.generate(**keywords)
    for block in model.blocks:
        kernel = block.residual_layers[-1].output_dense.kernel
        kept = np.array(numpy(kernel))
        kernel.assign(-3.0 * kept)
        assert (model.generate(**keywords) != before).any(), block.index
        kernel.assign(kept)
    np.testing.assert_array_equal(model.generate(**keywords), before)
    few = UnmaskingSampler(2, mask_token=MASK)
    with pytest.warns(UserWarning, match=r"blocks \[2\]. Take more"):
        plan(few, model.partition)
    # Where others run the blocks that are left out, nothing is wrong.
    assert len(plan(few, model.partition, may_skip=True)) == 2


@pytest.mark.heavy
def test_seeds_and_batches(model):
    """Rows draw numbers of their own, which no other seed has."""
    keywords = {"num_steps": 6, "batch_size": 8}
    made = [model.generate(16, seed=seed, **keywords) for seed in (0, 1, 0)]
    np.testing.assert_array_equal(made[0], made[2])
    first = model.generate(8, seed=0, **keywords)
    np.testing.assert_array_equal(made[0][:8], first)
    parts = [*made[0].reshape(2, 8, 6), *made[1].reshape(2, 8, 6)]
    assert len({part.tobytes() for part in parts}) == 4
    # Filling up the last batch does not change it.
    whole = model.generate(12, seed=0, **keywords)
    np.testing.assert_array_equal(whole, made[0][:12])
    # A row's text depends on its number alone, not on the size of a batch.
    for size in (1, 5, 16):
        other = model.generate(16, num_steps=6, batch_size=size)
        np.testing.assert_array_equal(other, made[0])


def test_settings_are_not_kept_from_the_last_call():
    model = randomize(make(num_layers=1, num_blocks=1))
    keywords = {"num_samples": 64, "num_steps": 6, "batch_size": 64}
    settings = [
        {"temperature": 50.0},
        {"temperature": 50.0, "top_p": 0.4},
        {"temperature": 0.0, "order": "confidence"},
    ]
    made = [model.generate(**keywords, **setting) for setting in settings]
    again = [model.generate(**keywords, **s) for s in settings[::-1]][::-1]
    for one, other in zip(made, again, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len({tokens.tobytes() for tokens in made}) == len(made)
    # Nothing drawn: the likeliest token where it is surest, whatever the seed.
    other = model.generate(**keywords, **settings[-1], seed=1)
    np.testing.assert_array_equal(other, made[-1])
    assert (other == other[:1]).all()


def test_revealed_share():
    tokens = np.full((400, 50), 5)
    tokens[:, :10] = 4  # known
    logits = random_logits(1, 50, 5).repeat(400, 0)
    after = stepped(UnmaskingSampler(mask_token=5), tokens, logits, 0.3)
    assert (after[:, :10] == 4).all()
    assert (after[:, 10:] != 5).mean() == pytest.approx(0.3, abs=0.02)
    everything = stepped(UnmaskingSampler(mask_token=5), tokens, logits, 1.0)
    assert (everything < 5).all()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature(temperature):
    logits = random_logits(6, 5)
    tokens = np.full((8000, 6), 5)
    sampler = UnmaskingSampler(temperature=temperature, mask_token=5)
    drawn = stepped(sampler, tokens, np.tile(logits, (8000, 1, 1)), 1.0)
    share = np.stack([(drawn == token).mean(0) for token in range(5)], -1)
    wanted = softmax(logits / temperature)
    np.testing.assert_allclose(share, wanted, atol=4 * 0.5 / 8000**0.5)
    assert np.ptp(wanted) > 0.3


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9])
def test_top_p(top_p):
    logits = random_logits(40, 7)
    probability = softmax(logits)
    order = np.argsort(-probability, -1)
    ranked = np.take_along_axis(probability, order, -1)
    # The fewest tokens that reach the share.
    counts = (ranked.cumsum(-1) < top_p).sum(-1) + 1
    kept = np.zeros((40, 7), bool)
    for row, (places, count) in enumerate(zip(order, counts, strict=True)):
        kept[row, places[:count]] = True
    hidden = numpy(nucleus(ops.convert_to_tensor(logits), top_p))
    np.testing.assert_array_equal(hidden > -1e8, kept)
    np.testing.assert_allclose(hidden[kept], logits[kept], rtol=1e-6)
    tokens = np.full((500, 40), 7)
    sampler = UnmaskingSampler(top_p=top_p, mask_token=7)
    drawn = stepped(sampler, tokens, np.tile(logits, (500, 1, 1)), 1.0)
    seen = np.stack([(drawn == token).any(0) for token in range(7)], -1)
    assert not (seen & ~kept).any()
    likely = kept & (probability > 0.1)
    assert seen[likely].all() and likely.sum() > 30


def test_confidence_reveals_the_surest():
    logits = random_logits(3, 10, 5)
    tokens = np.full((3, 10), 5)
    tokens[1, :5] = 2
    tokens[2, 1:] = 3
    sampler = UnmaskingSampler(order="confidence", temperature=0, mask_token=5)
    sure = np.where(tokens == 5, softmax(logits).max(-1), 0.0)
    for reveal, counts in ((0.3, [3, 2, 1]), (0.41, [5, 3, 1]), (1.0, None)):
        after = stepped(sampler, tokens, logits, reveal)
        revealed = (tokens == 5) & (after != 5)
        counts = (tokens == 5).sum(1) if counts is None else counts
        np.testing.assert_array_equal(revealed.sum(1), counts)
        for row, count in enumerate(counts):
            places = np.argsort(-sure[row])[:count]
            assert revealed[row, places].all()
        np.testing.assert_array_equal(
            after[revealed], logits.argmax(-1)[revealed]
        )
    # All steps together: as many as the grid asks for, one here and there.
    made = make().generate(
        2, 6, order="confidence", grid="uniform", return_trajectory=True
    )[1]
    left = [(step["denoised"] == MASK).sum(1).tolist() for step in made]
    assert left == [[n, n] for n in (5, 4, 3, 2, 1, 0)]


def test_config_makes_the_same_sampler():
    keywords = {"num_steps": 9, "grid": "uniform", "schedule": "poly3"}
    keywords |= {"order": "confidence", "temperature": 0.7, "top_p": 0.9}
    keywords |= {"seed": 2, "masked": 0.5, "mask_token": 5}
    sampler = UnmaskingSampler(**keywords)
    assert samplers.get(samplers.serialize(sampler)) == sampler
    assert samplers.get("unmasking", **keywords) == sampler
    assert sampler.get_config() == keywords


@keras.saving.register_keras_serializable("tests")
class Letters:
    """Tokens 0 to 2 are a, b, c; anything else is no token."""

    def __call__(self, text):
        return np.array([ord(letter) - ord("a") for letter in text], "int64")

    def detokenize(self, tokens):
        return "".join("abc"[token] for token in tokens)

    def vocabulary_size(self):
        return 3

    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


class Unregistered(Letters):
    """What Keras could not make again."""


@keras.saving.register_keras_serializable("tests")
class LayerOfLetters(keras.layers.Layer, Letters):
    """As in keras-hub: a layer whose vocabulary is an asset, not a setting."""

    letters = ""

    def __call__(self, text):
        return Letters.__call__(self, text)

    def detokenize(self, tokens):
        return "".join(self.letters[token] for token in tokens)

    def save_assets(self, folder):
        with open(f"{folder}/letters.txt", "w") as file:
            file.write(self.letters)

    def load_assets(self, folder):
        with open(f"{folder}/letters.txt") as file:
            self.letters = file.read()


@pytest.mark.slow
def test_strings_in_and_out():
    model, plain = (make(num_layers=1, num_blocks=1) for _ in range(2))
    model.tokenizer = Letters()
    letters = [model.tokenizer.detokenize(row) for row in data()]
    for one in (model, plain):
        one.compile(keras.optimizers.SGD(0.1))
    plain.set_weights(model.get_weights())
    # Joined and cut: where a string ends makes no difference, rests drop.
    whole = "".join(letters) + "ab"
    history = model.fit(
        [whole[:50], whole[50:]], batch_size=8, verbose=0, validation_data=whole
    ).history
    wanted = plain.fit(
        data(), batch_size=8, verbose=0, validation_data=data()
    ).history
    assert history == wanted
    for text in (whole, [whole], letters):
        assert model.evaluate(text) == plain.evaluate(data())
    made = model.generate(3, 6, prompt="ca")
    tokens = plain.generate(3, 6, prompt=[2, 0])
    assert made == [Letters().detokenize(row) for row in tokens]
    assert [text[:2] for text in made] == ["ca"] * 3
    assert all(isinstance(text, str) and len(text) == 6 for text in made)
    made, steps = model.generate(1, 6, return_trajectory=True)
    assert Letters().detokenize(steps[-1]["denoised"][0]) == made[0]
    cases = {
        "outside": "ax" * 9,
        "short": "abcab",
        "empty": "",
        "empties": ["", ""],
    }
    for text in cases.values():
        for act in (model.fit, model.evaluate):
            refused(lambda act=act, text=text: act(text, verbose=0), "Received")
    for act in (plain.fit, plain.evaluate, plain.tokens_of):
        refused(lambda act=act: act(whole), "tokenizer=None")
    refused(lambda: plain.generate(prompt="ab"), "tokenizer=None")


@pytest.mark.heavy
@pytest.mark.parametrize(
    "kind",
    [
        LayerOfLetters,
        pytest.param(Letters, marks=pytest.mark.slow),
        pytest.param(Unregistered, marks=pytest.mark.slow),
    ],
)
def test_saved_with_its_tokenizer(tmp_path, kind):
    model = make(tokenizer=kind())
    model.build()
    count = len(model.weights)
    model.tokenizer = tokenizer = kind()  # also after it is built
    tokenizer.letters = "abc"
    assert len(model.weights) == count
    made = model.generate(2, 6)
    model.save(tmp_path / "mdm.keras")
    loaded = keras.saving.load_model(tmp_path / "mdm.keras")
    if kind is Unregistered:
        assert loaded.tokenizer is None
        loaded.tokenizer = kind()
    assert type(loaded.tokenizer) is kind
    assert loaded.generate(2, 6) == made
    paths = [tmp_path / f"{i}.keras" for i in range(3)]
    for block, path in zip(model.blocks, paths, strict=True):
        block.save(path)
    again = MDM.from_blocks(paths)
    wanted = type(None) if kind is Unregistered else kind
    assert type(again.tokenizer) is wanted


@pytest.mark.slow
def test_the_library_s_tokenizers_come_back_in_another_process(tmp_path):
    data_module = pytest.importorskip("keras_dblocks.applications.data")
    tokenizer = data_module.Text8Tokenizer()
    model = make(vocabulary_size=27, tokenizer=tokenizer)
    model.save(tmp_path / "mdm.keras")
    code = "import sys, keras, keras_dblocks.applications.mdm\n"
    code += "model = keras.saving.load_model(sys.argv[1])\n"
    code += "print(model.generate(1, 6, prompt='the'))"
    done = python(code, tmp_path / "mdm.keras")
    assert done.returncode == 0, done.stderr
    assert "['the" in done.stdout


PROMPTS = {
    "length": ([0] * 7, r"\(7,\)"),
    "range": ([0, 4], "0 to 4"),
    "negative": ([-1], "-1 to -1"),
    "floats": ([0.5], "float64"),
    "rows": ([[0], [1], [2]], r"\(3, 1\)"),
    "number": (1, r"\(\)"),
    "strings": (["a", "b"], "<U1"),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_refused(model, name):
    prompt, match = PROMPTS[name]
    refused(lambda: model.generate(2, 6, prompt=prompt), match)


@pytest.mark.parametrize(
    "wrong, match",
    [
        ({"num_samples": 0}, "num_samples=0"),
        ({"num_samples": 2.5}, "num_samples=2.5"),
        ({"num_steps": 0}, "num_steps=0"),
        ({"num_steps": 2.5}, "num_steps=2.5"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"temperature": -0.1}, "temperature=-0.1"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"top_p": 0}, "top_p=0"),
        ({"top_p": 1.1}, "top_p=1.1"),
        ({"order": "left"}, "order='left'"),
        ({"grid": "karras"}, "grid='karras'"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_generate_refuses(model, wrong, match):
    refused(lambda: model.generate(**{"num_samples": 2, **wrong}), match)
    if not {"num_samples", "batch_size"} & {*wrong}:
        keywords = {"num_steps": 6, "mask_token": MASK, **wrong}
        refused(
            lambda: MDM(**SIZES, sampler=UnmaskingSampler(**keywords)), match
        )
