"""The leave-one-out board: what `_static/pieces/board.js` needs of chapter 3's threes and eights; by `make play`."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

import numpy as np
import play_still
import torch
from PIL import Image
from torch import Tensor

from fragility import network, page
from fragility.attack import random_sign
from fragility.data import datasets
from fragility.influence import LastLayerInfluence
from fragility.influence.attack import lower_influence, sign_attack

FOLDER = Path(__file__).parent / "_static" / "play"
FILE = FOLDER / "board-data.js"
NAMES, L2, SIDE, COLUMNS = ("3", "8"), 0.1, 56, 12
EPSILON, TOP = 32 / 255, 3
RANKS = (5, 0, 20, 60)  # of the test digits by how sure their prediction is, the least sure one first
SHOWN = 8  # training digits on each side of the board, as board.js has it


def pair(split: str) -> tuple[Tensor, Tensor]:
    """Return threes and eights (N, 1, 28, 28), and labels 0 and 1."""
    digits = datasets.mnist_5k(split)
    kept = (digits.labels == 3) | (digits.labels == 8)
    return digits.images[kept], (digits.labels[kept] == 8).long()


def sheet(images: Tensor, columns: int, name: str) -> None:
    """Write digits in rows, twice as large."""
    rows = -(-len(images) // columns)
    whole = Image.new("L", (SIDE * columns, SIDE * rows))
    for place, image in enumerate(images):
        shown = page.rendered(image).convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        whole.paste(shown, (place % columns * SIDE, place // columns * SIDE))
    whole.save(FOLDER / name, quality=80, method=6)


def write(data: dict[str, Any]) -> None:
    """Write what the browser reads."""
    FILE.write_text(f"const boardData = {json.dumps(data)};\n", encoding="utf-8")


def loaded() -> tuple[LastLayerInfluence, Tensor, Tensor]:
    """Read what the browser reads.

    Returns:
        The last layer; the features (tests, states, P) of the test digits as they are, with noise, and attacked; and
        the test digits' labels.
    """
    data = json.loads(FILE.read_text(encoding="utf-8").partition("=")[2].rstrip(";\n"))
    numbers = np.frombuffer(b64decode(data["features"]), "<i2").astype("f8").reshape(-1, data["width"])
    features, labels = torch.from_numpy(data["scale"] * numbers), torch.tensor(data["labels"])
    layer = LastLayerInfluence(features[: len(labels)], labels, l2=data["l2"], num_classes=2)
    asked = features[len(labels) :].view(len(data["tests"]), len(data["states"]), -1)
    return layer, asked, torch.tensor(data["tests"])


def main() -> None:
    """Choose test digits, change them, and write features and pictures."""
    (training, labels), (tests, _) = pair("train"), pair("test")
    backbone = network.feature_extractor(network.mnist_cnn())
    with torch.no_grad():
        features, asked = backbone(training), backbone(tests)
    layer = LastLayerInfluence(features, labels, l2=L2, num_classes=2)
    confidence, said = layer.logits(asked).softmax(1).max(1)
    noisy = random_sign(tests, EPSILON, generator=torch.Generator().manual_seed(0))
    top = layer.influence(asked, said).topk(TOP).indices
    objective = lower_influence(layer, said, layer.parameter_change(top))
    attacked = sign_attack(backbone, layer, tests, objective=objective, epsilon=EPSILON).images
    with torch.no_grad():
        changed = torch.stack([asked, backbone(noisy), backbone(attacked)], 1)
    kept = (layer.logits(changed.flatten(0, 1)).argmax(1).view(-1, 3) == said[:, None]).all(1)
    chosen = confidence.masked_fill(~kept, torch.inf).argsort()[list(RANKS)]
    everything = torch.cat([features, changed[chosen].flatten(0, 1)])
    scale, size = everything.abs().max().item() / 32767, f"{EPSILON * 255:.0f}/255"
    data: dict[str, Any] = {
        "names": NAMES,
        "l2": L2,
        "labels": labels.tolist(),
        "tests": said[chosen].tolist(),
        "states": ["as it is", f"random noise of {size}", f"attacked with {size}"],
        "width": features.shape[1],
        "scale": scale,
        "features": b64encode((everything / scale).round().numpy().astype("<i2").tobytes()).decode(),
    }
    write(data)
    layer, asked, said = loaded()
    order = layer.influence(asked.flatten(0, 1), said.repeat_interleave(asked.shape[1])).argsort(1)
    shown = sorted({*torch.cat([order[:, :SHOWN], order[:, -SHOWN:]]).flatten().tolist()})
    write(data | {"columns": COLUMNS, "shown": shown})
    sheet(training[shown], COLUMNS, "board-training.webp")
    pictures = torch.stack([tests, noisy, attacked], 1)[chosen]
    sheet(pictures.flatten(0, 1), pictures.shape[1], "board-tests.webp")
    play_still.photograph("board")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
