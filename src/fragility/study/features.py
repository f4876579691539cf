"""Two classes of images in three parts, and the frozen features of a network [Ghorbani2019, sec. 4]."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fragility import network, train
from fragility.data import datasets
from fragility.data.datasets import ImageDataset


@dataclass(frozen=True)
class Profile:
    """Data, features, and what is varied.

    Attributes:
        data: `"flowers"` (roses, sunflowers) or `"digits"`, of which `classes` are kept.
        network: a key of `NETWORKS`.
        size: height and width of the images.
        tests: how many test images are attacked.
        sweep: pairs of l2 and the epsilons (of 255) tried with it.
        batch: how many images make a piece.
        seed: of the random signs.
        classes: the digits kept; None for both flowers.
    """

    data: str
    network: str
    size: int
    tests: int
    sweep: tuple[tuple[float, tuple[float, ...]], ...]
    batch: int
    seed: int = 0
    classes: tuple[int, int] | None = None


def digits_features() -> nn.Module:
    """Return the features of the small network trained on all ten digits."""
    training, model = datasets.digits("train"), network.digits_cnn()
    train.fit_cached(model, training.images, training.labels, epochs=12, progress=False)
    return network.feature_extractor(model)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "digits_cnn": digits_features,
    "squeezenet": lambda: network.feature_extractor("squeezenet"),
    "inception_v3": lambda: network.feature_extractor("inception_v3"),
}


@dataclass(frozen=True, eq=False)
class Ready:
    """A profile with its features at hand.

    Attributes:
        backbone: images to features.
        labels: of the training images.
        features: of the training images, (N, P).
        test: the test images.
        test_features: theirs, (T, P).
        validation_features: of images used for nothing else.
        validation_labels: theirs.
        inputs: where data and weights come from, with checksums.
    """

    backbone: nn.Module
    features: Tensor
    labels: Tensor
    test: ImageDataset
    test_features: Tensor
    validation_features: Tensor
    validation_labels: Tensor
    inputs: dict[str, Any]


def prepare(profile: Profile, device: str = "cpu") -> Ready:
    """Load a profile's images and compute their features.

    Args:
        profile: which.
        device: where the network and the last layer live; the test images stay in main memory.

    Returns:
        The profile made ready.
    """
    backbone = NETWORKS[profile.network]()
    weights = train.fingerprint(backbone)
    backbone = backbone.to(device)
    training = part(profile, "train")
    features = _features(backbone, training.images, device)
    pixels, labels = train.fingerprint(training.images, training.labels), training.labels.to(device)
    source = training.source
    del training  # half a gigabyte
    validation = part(profile, "validation")
    validation_features = _features(backbone, validation.images, device)
    test = part(profile, "test")
    test = datasets.sample(test, profile.tests, seed=profile.seed)
    return Ready(
        backbone=backbone,
        features=features,
        labels=labels,
        test=test,
        test_features=_features(backbone, test.images, device),
        validation_features=validation_features,
        validation_labels=validation.labels.to(device),
        inputs={
            "data": source,
            "training_images": len(labels),
            "training_sha256": pixels,
            "test_sha256": train.fingerprint(test.images),
            "weights": weights,
        },
    )


def part(profile: Profile, split: str) -> ImageDataset:
    """Load the images of a profile's training, test or validation part.

    Args:
        profile: which.
        split: `"train"`, `"test"` or `"validation"`.

    Returns:
        Images of two classes, labelled 0 and 1.
    """
    if profile.classes is None:
        return datasets.flowers(split, size=profile.size)
    # Digits have no third part: every other test image validates.
    whole = datasets.digits("train" if split == "train" else "test", size=profile.size)
    kept = (whole.labels.unsqueeze(1) == torch.tensor(profile.classes)).any(1).nonzero().flatten()
    if split != "train":
        kept = kept[int(split == "validation") :: 2]
    return replace(
        whole,
        images=whole.images[kept],
        labels=(whole.labels[kept] == profile.classes[1]).long(),
        class_names=tuple(whole.class_names[digit] for digit in profile.classes),
        files=tuple(whole.files[row] for row in kept),
    )


def _features(backbone: nn.Module, images: Tensor, device: str) -> Tensor:
    with torch.no_grad():
        return torch.cat([backbone(batch.to(device)) for batch in torch.split(images, 8)])
