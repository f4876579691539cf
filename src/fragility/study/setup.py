"""A profile's setup made ready: the network with its weights, and the images that it gets right."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.io import decode_jpeg, encode_jpeg

from fragility import network, train
from fragility.attribution import ATTRIBUTIONS
from fragility.data.datasets import ImageDataset, load, sample
from fragility.study import cifar
from fragility.study.profile import Setup
from fragility.surrogate import suggest_beta

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "digits_cnn": network.digits_cnn,
    "squeezenet": network.squeezenet,
}
RECIPES: dict[str, Callable[[ImageDataset], nn.Module]] = {"cifar_cnn": cifar.trained}
CALIBRATION = 16  # training images by which a surrogate is chosen


@dataclass(frozen=True, eq=False)
class Ready:
    """A setup with its network and images at hand.

    Attributes:
        setup: what it was made from.
        model: on the device.
        data: the images used, in the order of the draw, in main memory.
        weights: checksum of the network.
        device: where the network is.
        baseline: the reference x0, (C, 1, 1) or (C, H, W), on the device.
        surrogate_beta: of the attacks' softplus.
        measured: what the setup leaves to be found on the training images, as plain data.
    """

    setup: Setup
    model: nn.Module
    data: ImageDataset
    weights: str
    device: torch.device
    baseline: Tensor
    surrogate_beta: float
    measured: dict[str, Any] = field(default_factory=dict)

    @property
    def inputs(self) -> dict[str, str]:
        """What it was made from, with checksums, for the provenance."""
        images = train.fingerprint(self.data.images)
        return {"data": self.data.source, "images_sha256": images, "weights": self.weights}

    def attribution(self, method: str, steps: int) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
        """Return an attribution with this setup's baseline.

        Args:
            method: a key of `ATTRIBUTIONS`.
            steps: M of integrated gradients; the others have none.

        Returns:
            A function (model, images, labels) -> (B, C, H, W).
        """
        options: dict[str, Any] = {} if method == "simple_gradient" else {"baseline": self.baseline}
        if method == "integrated_gradients":
            options["steps"] = steps
        return partial(ATTRIBUTIONS[method], **options)


def prepare(setup: Setup, count: int, seed: int, device: str) -> Ready:
    """Load, or train, a network and draw the first images that it classifies correctly.

    Args:
        setup: of a profile.
        count: how many images.
        seed: of the draw.
        device: where to compute.

    Returns:
        The setup made ready; more images begin with the same.

    Raises:
        ValueError: if too few of the candidates are classified correctly.
    """

    @cache
    def training() -> ImageDataset:
        return load(setup.data, **{**setup.data_options, "split": "train"})

    if setup.network in RECIPES:
        model = RECIPES[setup.network](training())
    else:
        model = NETWORKS[setup.network](**setup.network_options)
    if setup.training_epochs is not None:
        known = training()
        train.fit_cached(model, known.images, known.labels, epochs=setup.training_epochs, progress=False)
    weights = train.fingerprint(model)  # before it moves: the same on every device
    model = model.to(device)
    if device == "cpu":
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a third faster there
    measured: dict[str, Any] = {}
    if setup.baseline is None:
        baseline = training().images.sum(0, dtype=torch.float64).div(len(training())).float()
        measured["baseline"] = train.fingerprint(baseline)
    else:
        baseline = torch.tensor(setup.baseline).view(-1, 1, 1)
    beta = setup.surrogate_beta
    if beta is None:
        few = sample(training(), CALIBRATION, seed=seed)
        beta = measured["surrogate_beta"] = suggest_beta(model, few.images.to(device), few.labels.to(device))
    data = _right(setup, model, count, seed, device)
    return Ready(setup, model, data, weights, torch.device(device), baseline.to(device), beta, measured)


def _right(setup: Setup, model: nn.Module, count: int, seed: int, device: str) -> ImageDataset:
    """The first images of the draw that the network gets right."""
    drawn = load(setup.data, **setup.data_options, limit=setup.candidates, seed=seed)
    if setup.jpeg_quality is not None:
        drawn = _recompress(drawn, setup.jpeg_quality)
    with torch.no_grad():
        predicted = torch.cat([model(batch.to(device)).argmax(1).cpu() for batch in torch.split(drawn.images, 8)])
    rows = (predicted == drawn.labels).nonzero().flatten()[:count]
    if len(rows) < count:
        raise ValueError(
            f"candidates: expected {count} correctly classified images among {len(drawn)}, got {len(rows)}"
        )
    files = tuple(drawn.files[row] for row in rows)
    return replace(drawn, images=drawn.images[rows], labels=drawn.labels[rows], files=files)


def _recompress(data: ImageDataset, quality: int) -> ImageDataset:
    """Write the images to JPEG files in memory, and read them."""
    pixels = data.images.mul(255).round().byte()
    read = torch.stack([decode_jpeg(encode_jpeg(image, quality)) for image in pixels])
    images = read.to(data.images.dtype).div(255)
    return replace(data, images=images, source=f"{data.source}; JPEG of quality {quality}")
