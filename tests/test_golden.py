"""Every stored piece keeps its name, a hash of all that it holds (`fragility.study.store.piece_name`).

A piece holds checksums of photographs and of trained weights, which are not on every machine. So the plans are made
with stand-ins: images of one pixel, networks without weights. Their checksums are then exchanged for the recorded
ones: those of weights and whole data sets stand in the provenance of the results, those of batches in `golden.json`,
with the names of the files. The names in the stored tables tell whether all of it is right. What is known of the
images of a table that is stored later joins them.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from fragility import network, train
from fragility.data import datasets
from fragility.data.datasets import ImageDataset
from fragility.study.attacks import setup
from fragility.study.catalogue import STUDIES
from fragility.study.curvature import angles
from fragility.study.explainers import scaffold
from fragility.study.influence import poisoning
from fragility.study.influence.setup import Features
from fragility.study.piece import Piece
from fragility.study.store import piece_name, provenance, read_pieces, results_folder

PROFILE = "laptop"
TABLES = sorted(path.stem.removesuffix(f"-{PROFILE}") for path in results_folder().glob(f"*-{PROFILE}.json"))
RECORDED: dict[str, Any] = json.loads((Path(__file__).parent / "golden.json").read_text())
Checksums = dict[str, str]  # a stand-in's -> the recorded one


class Reader(nn.Module):
    """A network that is right about every stand-in, whose pixel begins with the class."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def extra_repr(self) -> str:  # by which the fingerprint tells one from another
        return self.name

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.one_hot((images.flatten() * 10).long(), 10).double()


def recorded(name: str) -> dict[str, Any]:
    """Look up what was recorded of some images; where that is a name, they are the images of that name."""
    found = RECORDED[name]
    return recorded(found) if isinstance(found, str) else found


def stand_ins(name: str, checksums: Checksums, count: int | None = None) -> ImageDataset:
    """Make one pixel for each of the recorded images, every one different, and note the checksums of batches."""
    known = recorded(name)
    files = known["files"][:count]
    labels = torch.tensor([int(digit) for digit in known.get("labels", "0" * len(files))[:count]])
    numbers = 1000 * list(RECORDED).index(name) + torch.arange(1, len(files) + 1)
    images = (labels.double() / 10 + numbers / 1e6).view(-1, 1, 1, 1)
    for rows, checksum in known.get("pixels", {}).items():
        batch = list(range(*map(int, rows.split(":")))) if ":" in rows else [int(row) for row in rows.split()]
        if max(batch) < len(files):
            checksums[train.fingerprint(images[batch])] = checksum
    return ImageDataset(name, images, labels, tuple("0123456789"), "recorded", tuple(files))


def substitute(study: str, checksums: Checksums, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put stand-ins where a study gets its images, networks and features: the one function that knows where that is."""
    inputs, profile = provenance(study, PROFILE)["inputs"], STUDIES[study].profiles[PROFILE]

    def prepare_setup(which: Any, count: int, seed: int, device: str) -> setup.Subject:
        setups = profile["setups"] if isinstance(profile, dict) else profile.setups
        name = next(name for name, other in setups.items() if other in (which, asdict(which)))
        measured = recorded(f"{study}/{name}").get("measured", {})
        baseline = torch.tensor(which.baseline or (0.0,)).view(-1, 1, 1)
        if measured:
            checksums[train.fingerprint(baseline)] = measured["baseline"]
        return setup.Subject(
            setup=which,
            model=Reader(name),
            data=stand_ins(f"{study}/{name}", checksums, count),
            weights=inputs[name]["weights"],
            device=torch.device(device),
            baseline=baseline,
            surrogate_beta=measured.get("surrogate_beta", which.surrogate_beta),
            measured=measured,
        )

    def prepare_features(which: Any, device: str) -> tuple[Features, dict[str, Any]]:
        source = which["source"]
        predicted = {
            split: torch.tensor([[2.0 * int(digit) - 1] for digit in recorded(f"flowers/{split}")["predicted"]])
            for split in ("test", "validation")
        }
        features = Features(
            backbone=nn.Identity(),
            training=torch.tensor([[-1.0], [1.0]]),  # one feature, whose sign the last layer predicts
            labels=torch.tensor([0, 1]),
            images=stand_ins("flowers/test", checksums, source.tests),
            test=predicted["test"][: source.tests],
            validation=predicted["validation"],
            validation_labels=load(source, "validation").labels,
            inputs=inputs,
        )
        return features, inputs

    def load(_source: Any, split: str) -> ImageDataset:
        return stand_ins("flowers/validation" if split == "validation" else "flowers/test", checksums)

    def explored(name: str) -> tuple[Reader, Reader]:
        checksums[train.fingerprint(smooth := Reader(name))] = inputs[name]["weights"]["softplus"]
        return Reader("relu"), smooth

    def digits(split: str, limit: int, **_: Any) -> ImageDataset:
        which = {"train": "training"}.get(split, split)
        found = stand_ins(f"{profile['data']}/test", checksums, 1 if split == "train" else None)
        if (sized := f"{which} {limit}") in inputs:
            which, found = sized, replace(found, images=found.images + limit * 1e-9)
        checksums[train.fingerprint(found.images)] = inputs[which]["images_sha256"]
        return replace(found, source=inputs[which]["data"])

    if study in ("defense_table", "fashion_table", "training_scales"):
        monkeypatch.setitem(datasets.LOADERS, profile["data"], digits)
    elif study == "angles":
        for name in profile["setups"]:
            monkeypatch.setitem(angles.NETWORKS, name, partial(explored, name))
            monkeypatch.setitem(datasets.LOADERS, name, lambda name=name, **_: stand_ins(f"angles/{name}", checksums))
    elif study in ("compas", "race"):  # whose file lies on no machine before it is asked for
        people = pd.DataFrame({"race": ["Caucasian"]})
        monkeypatch.setattr(f"fragility.study.interpretable.{study}.read_file", lambda: people)
    elif study == "scaffold":
        monkeypatch.setattr(scaffold, "table", lambda: np.zeros((0, 0)))
    elif study == "same_function":
        photographs = stand_ins("same_function/photographs", checksums)
        monkeypatch.setitem(datasets.LOADERS, profile["data"], lambda **_: photographs)
    elif study == "poisoning":
        monkeypatch.setattr(poisoning, "prepare", prepare_features)
        monkeypatch.setattr(poisoning, "load", load)
    elif isinstance(profile, dict) and "source" in profile:  # a study of influence
        monkeypatch.setitem(STUDIES, study, replace(STUDIES[study], prepare=prepare_features))
    monkeypatch.setattr(setup, "prepare", prepare_setup)


def exchange(value: Any, checksums: Checksums) -> Any:
    """Replace the stand-ins' checksums in plain data."""
    if isinstance(value, dict):
        return {key: exchange(part, checksums) for key, part in value.items()}
    if isinstance(value, list):
        return [exchange(part, checksums) for part in value]
    return checksums.get(value, value) if isinstance(value, str) else value


def by_condition(pieces: dict[str, Piece]) -> dict[str, list[str]]:
    """List the names of the pieces that differ in their images alone, in their order."""
    found: dict[str, list[str]] = {}
    for name, piece in pieces.items():
        condition = {key: value for key, value in piece.items() if key not in ("first", "images", "pixels")}
        found.setdefault(json.dumps(condition, sort_keys=True), []).append(name)
    return found


@pytest.mark.parametrize("study", TABLES)
def test_every_stored_piece_is_planned_under_its_name(study: str, monkeypatch: pytest.MonkeyPatch) -> None:
    checksums: Checksums = {}
    substitute(study, checksums, monkeypatch)
    plan = STUDIES[study].plan(STUDIES[study].profiles[PROFILE])
    pieces = {piece_name(piece): piece for piece in exchange(list(plan.pieces), checksums)}
    stored = list(read_pieces(study, PROFILE))
    assert len(pieces) == len(plan.pieces)
    assert set(stored) <= set(pieces)
    assert not provenance(study, PROFILE)["complete"] or len(stored) == len(pieces)
    # The images of a condition stand in the order in which they are averaged and drawn from for an interval.
    assert by_condition({name: pieces[name] for name in stored}) == by_condition(
        {name: piece for name, piece in pieces.items() if name in stored}
    )


# Weights of zero: what counts is the structure, as `repr` shows it, and the names and shapes of the parameters.
STRUCTURES: dict[str, Callable[[], nn.Module]] = {
    "squeezenet": lambda: network.squeezenet(weights=None),
    "squeezenet-ceil": lambda: network.squeezenet(weights=None, pooling="ceil"),
    "squeezenet features": lambda: network.feature_extractor(network.squeezenet(weights=None)),
    "cifar_cnn": network.cifar_cnn,
    "digits_cnn": network.digits_cnn,
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_the_networks_of_stored_pieces_keep_their_fingerprints(name: str) -> None:
    model = STRUCTURES[name]()
    for value in model.state_dict().values():
        value.zero_()
    assert train.fingerprint(model) == RECORDED["structures"][name]


def test_plain_values_keep_their_fingerprints() -> None:
    # Of these the seeds of random draws are made: another value would be other noise under the same name.
    assert train.fingerprint(0, "draw 0", 10, 0.5, True, None, [1, {"a": (2,)}]) == RECORDED["plain values"]
