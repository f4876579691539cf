"""A profile's setup made ready: the network with its weights, and the images that it gets right."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fragility import network, train
from fragility.dataset import ImageDataset, load
from fragility.study.profile import Setup

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "digits_cnn": network.digits_cnn,
    "squeezenet": network.squeezenet,
}


@dataclass(frozen=True, eq=False)
class Ready:
    """A setup with its network and images at hand.

    Attributes:
        setup: what it was made from.
        model: on the device.
        data: the images used, in the order of the draw, in main memory.
        weights: checksum of the network.
        device: where the network is.
    """

    setup: Setup
    model: nn.Module
    data: ImageDataset
    weights: str
    device: torch.device

    @property
    def baseline(self) -> Tensor:
        """The reference x0, (C, 1, 1), on the device."""
        return torch.tensor(self.setup.baseline, device=self.device).view(-1, 1, 1)


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
    model = NETWORKS[setup.network](**setup.network_options)
    if setup.training_epochs is not None:
        training = load(setup.data, **{**setup.data_options, "split": "train"})
        train.fit_cached(model, training.images, training.labels, epochs=setup.training_epochs, progress=False)
    weights = train.fingerprint(model)  # before it moves: the same on every device
    model = model.to(device)
    drawn = load(setup.data, **setup.data_options, limit=setup.candidates, seed=seed)
    with torch.no_grad():
        predicted = torch.cat([model(batch.to(device)).argmax(1).cpu() for batch in torch.split(drawn.images, 8)])
    rows = (predicted == drawn.labels).nonzero().flatten()[:count]
    if len(rows) < count:
        raise ValueError(
            f"candidates: expected {count} correctly classified images among {len(drawn)}, got {len(rows)}"
        )
    files = tuple(drawn.files[row] for row in rows)
    data = replace(drawn, images=drawn.images[rows], labels=drawn.labels[rows], files=files)
    return Ready(setup, model, data, weights, torch.device(device))
