"""Two classes of images in three parts, and the frozen features of a network [Ghorbani2019, sec. 4]."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from fragility import network, train
from fragility.data import datasets
from fragility.data.datasets import ImageDataset
from fragility.influence.last_layer import LastLayerInfluence


@dataclass(frozen=True, kw_only=True)
class TwoClasses:
    """Images of two classes, and the network that supplies their features.

    Attributes:
        data: `"flowers"` (roses, sunflowers) or `"digits"`, from which `classes` are kept.
        network: a key of `NETWORKS`.
        size: height and width of the images.
        tests: how many test images are drawn.
        classes: the digits kept; None for both flowers.
        seed: of that draw.
    """

    data: str
    network: str
    size: int
    tests: int
    classes: tuple[int, int] | None = None
    seed: int = 0


L2 = 1e-2  # the penalty of the last layer, where a study does not vary it
SOURCES = {
    "fast": TwoClasses(data="digits", network="digits_cnn", size=32, tests=24, classes=(3, 8)),
    "laptop": TwoClasses(data="flowers", network="squeezenet", size=227, tests=200),
    "paper": TwoClasses(data="flowers", network="inception_v3", size=299, tests=200),
}


def sourced(*, source: str, tests: int | None = None, **entries: Any) -> dict[str, Any]:
    """Make a profile with its images: one of `SOURCES`, with another number of test images where that is given."""
    images = SOURCES[source]
    return {**entries, "source": images if tests is None else replace(images, tests=tests)}


def _digits_features() -> nn.Module:
    """The features of the small network trained on all ten digits."""
    training, model = datasets.digits("train"), network.digits_cnn()
    train.fit_cached(model, training.images, training.labels, epochs=12, progress=False)
    return network.feature_extractor(model)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "digits_cnn": _digits_features,
    "squeezenet": lambda: network.feature_extractor("squeezenet"),
    "inception_v3": lambda: network.feature_extractor("inception_v3"),
}


@dataclass(frozen=True, eq=False)
class Features:
    """Images with their features (N, P), which are on the device.

    Attributes:
        backbone: images to features.
        training: features of the training images.
        labels: of the training images.
        images: the test images, in main memory.
        test: features of the test images.
        validation: features of images used for nothing else.
        validation_labels: of these.
        inputs: where data and weights come from, with checksums.
    """

    backbone: nn.Module
    training: Tensor
    labels: Tensor
    images: ImageDataset
    test: Tensor
    validation: Tensor
    validation_labels: Tensor
    inputs: dict[str, Any]

    @property
    def checksums(self) -> dict[str, str]:
        """All that determines the influence on a test image."""
        return {"weights": self.inputs["weights"], "training": self.inputs["training_sha256"]}

    def accuracy(self, layer: LastLayerInfluence) -> float:
        """Return the share of the validation images that a layer gets right."""
        right = layer.logits(self.validation).argmax(1) == self.validation_labels
        return float(right.double().mean())


@lru_cache(maxsize=4)
def last_layer(features: Features, l2: float, dtype: torch.dtype = torch.float64) -> LastLayerInfluence:
    """Fit the last layer to the training images."""
    return LastLayerInfluence(features.training, features.labels, l2=l2, num_classes=2, dtype=dtype)


def prepare(profile: dict[str, Any], device: str = "cpu") -> tuple[Features, dict[str, Any]]:
    """Load the images of a profile and compute their features; return them, and where they come from."""
    source: TwoClasses = profile["source"]
    backbone = NETWORKS[source.network]()
    weights = train.fingerprint(backbone)
    backbone = backbone.to(device)
    training = load(source, "train")
    checksum = train.fingerprint(training.images, training.labels)
    inputs = {"data": training.source, "training_images": len(training), "training_sha256": checksum}
    phi, labels = _features(backbone, training.images, device), training.labels.to(device)
    del training  # half a gigabyte
    validation = load(source, "validation")
    test = datasets.sample(load(source, "test"), source.tests, seed=source.seed)
    inputs |= {"test_sha256": train.fingerprint(test.images), "weights": weights}
    tests, others = (_features(backbone, images, device) for images in (test.images, validation.images))
    return Features(backbone, phi, labels, test, tests, others, validation.labels.to(device), inputs), inputs


def load(source: TwoClasses, split: str) -> ImageDataset:
    """Load the `"train"`, `"test"` or `"validation"` images, of two classes labelled 0 and 1."""
    if source.classes is None:
        return datasets.flowers(split, size=source.size)
    # Digits have no third part: every other test image validates.
    whole = datasets.digits("train" if split == "train" else "test", size=source.size)
    kept = (whole.labels.unsqueeze(1) == torch.tensor(source.classes)).any(1).nonzero().flatten()
    if split != "train":
        kept = kept[int(split == "validation") :: 2]
    return replace(
        whole,
        images=whole.images[kept],
        labels=(whole.labels[kept] == source.classes[1]).long(),
        class_names=tuple(whole.class_names[digit] for digit in source.classes),
        files=tuple(whole.files[row] for row in kept),
    )


def _features(backbone: nn.Module, images: Tensor, device: str) -> Tensor:
    with torch.no_grad():
        return torch.cat([backbone(batch.to(device)) for batch in torch.split(images, 8)])
