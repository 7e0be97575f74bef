"""Draws the pictures of the documentation from the records in `results/`.

A picture `docs/pictures/NAME.png` is drawn from `results/NAME.json`, and holds
the digest of that record, so that a test finds one that is not drawn anew.
`make results` does it. (Samples of images are pictures that programs write.)
"""

import hashlib
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "pictures"


def ways_to_train(rows, figure):
    """Memory and time of each way to train, two panels."""
    left, right = figure.subplots(1, 2)
    labels = [row["way"].strip("*") for row in rows][::-1]
    left.barh(labels, [row["jax_resident_mib"] for row in rows][::-1])
    left.set_title("MiB of a step")
    right.barh(labels, [row["jax_time_times_b"] or 0 for row in rows][::-1])
    right.axvline(1.0, color="black", linewidth=0.8)
    right.set_yticks([])
    right.set_title("time of as many layer evaluations / twin's")


def iterations(rows, figure):
    """The likelihood over the number of iterations, a line for each row."""
    axes = figure.subplots()
    for row in rows:
        numbers = [2**k for k in range(len(row["nats"]))]
        axes.plot(numbers, row["nats"], marker="o", label=row["row"])
    axes.set_xscale("log", base=2)
    axes.set_xlabel("iterations")
    axes.set_ylabel("nats per character")
    axes.legend()


# What draws a record, and the size in inches.
PICTURES = {
    "vit_ways_to_train": (ways_to_train, (11, 2.4)),
    "recurrent_depth_austen": (iterations, (6.4, 4.0)),
}


def record_of(name):
    """A record, and its digest."""
    text = (ROOT / "results" / f"{name}.json").read_bytes()
    return json.loads(text), hashlib.sha256(text).hexdigest()


def digest_of(path):
    """The digest of the record that a picture was drawn from."""
    from PIL import Image

    with Image.open(path) as picture:
        return picture.text.get("Source")


def main():
    from matplotlib.figure import Figure

    FOLDER.mkdir(exist_ok=True)
    for name, (draw, size) in PICTURES.items():
        path = FOLDER / f"{name}.png"
        record, digest = record_of(name)
        if path.exists() and digest_of(path) == digest:
            continue
        figure = Figure(size, layout="constrained")
        draw(record["rows"], figure)
        figure.savefig(path, metadata={"Source": digest})
        print(f"drawn: {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
