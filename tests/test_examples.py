"""The examples run as they stand, for fewer epochs."""

import io
import tokenize

import pytest

from helpers.programs import ROOT, load

pytest.importorskip("sklearn")  # of the extra `data`


def lines_of_code(text):
    """Number of lines that hold more than comments and docstrings."""
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE}
    skipped |= {tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    read, found, fresh = io.StringIO(text).readline, set(), True
    for kind, _, start, end, _ in tokenize.generate_tokens(read):
        if kind in skipped:
            fresh = fresh or kind == tokenize.NEWLINE
        elif kind == tokenize.STRING and fresh:  # a docstring
            continue
        else:
            fresh = False
            found |= {*range(start[0], end[0] + 1)}
    return len(found)


def example(name):
    path = ROOT / "examples" / f"{name}.py"
    assert lines_of_code(path.read_text("utf-8")) < 60
    return load(path)


@pytest.mark.slow
def test_regression(capsys):
    error, variance = example("regression").main(epochs=10)
    assert error < 0.8 * variance
    assert "mse" in capsys.readouterr().out


@pytest.mark.slow
def test_unconditional_digits():
    found = example("unconditional_digits").main(epochs=8)
    assert found["samples"] < 0.75 * found["noise"]


@pytest.mark.eager
def test_residual_cnn(capsys):
    found = example("residual_cnn").main(epochs=4)
    assert len(found) == 3
    assert found[-1] > 0.7
    assert "accuracy after each block" in capsys.readouterr().out


@pytest.mark.eager
def test_small_gpt(capsys):
    nats, alone = example("small_gpt").main(epochs=1, count=10)
    assert nats < 0.97 * alone
    assert "The statement " in capsys.readouterr().out
