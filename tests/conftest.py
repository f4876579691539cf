"""What several test files share: small networks that use every form of activation, and the seed."""

import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from torch import Tensor, nn
from torch.nn import functional

from fragility import network
from fragility.data import datasets
from fragility.data.datasets import ImageDataset
from fragility.study.attacks import setup
from fragility.surrogate import softplus

# How long an example takes says nothing on a busy machine.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
# One thread for small tensors: more only wait for one another. `make check-machines` asks for two.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


class EveryRelu(nn.Module):
    """Stacked convolutions with biases: functional, in-place, reused and method ReLUs, overlapping max-pools."""

    def __init__(self, channels: int = 3, classes: int = 4) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 6, 3, padding=1)
        self.third = nn.Conv2d(6, 8, 3)
        self.norm = nn.BatchNorm2d(6)
        self.activation = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.head = nn.Linear(8, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.activation(self.first(images))
        x = self.activation(self.norm(self.second(x))) + x
        x = functional.max_pool2d(x, 3, stride=1, padding=1)
        x = functional.relu(self.third(self.pool(x)))
        x = x.mean((2, 3)).relu()
        return self.head(torch.flatten(x, 1))


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter and statistic a random value: zero biases hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        scale = 0.3 if parameter.ndim == 1 else (2 / parameter[0].numel()) ** 0.5
        parameter.data.copy_(scale * torch.randn(parameter.shape, generator=generator))
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(0.3 * torch.randn(buffer.shape, generator=generator))
        elif name.endswith("running_var"):
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return model.double().eval()


def scores(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return model(images).gather(1, labels[:, None]).flatten()


def total(tensor: Tensor) -> Tensor:
    return tensor.sum((1, 2, 3))


def second_derivative_error(
    method, model: nn.Module, images: Tensor, labels: Tensor, beta: float | None, **options
) -> float:
    """Largest relative gap between autograd's derivative of the attributions and central differences."""
    generator = torch.Generator().manual_seed(2)
    weights, direction = torch.randn(2, *images.shape, generator=generator, dtype=torch.float64)

    def projected(x: Tensor) -> Tensor:
        with softplus(beta) if beta else nullcontext():
            return total(method(model, x, labels, **options) * weights)

    x = images.clone().requires_grad_()
    slope = total(torch.autograd.grad(projected(x).sum(), x)[0] * direction)
    h = 1e-5
    numeric = (
        8 * (projected(images + h * direction) - projected(images - h * direction))
        - (projected(images + 2 * h * direction) - projected(images - 2 * h * direction))
    ) / (12 * h)
    return float(((slope - numeric).abs() / numeric.abs()).max())


def rows_of(dataset: ImageDataset) -> list[int]:
    """Where images stand in their source."""
    return [int(file.removeprefix("row ")) for file in dataset.files]


@pytest.fixture(autouse=True)
def denormal_numbers() -> None:
    """Pages let them count as zero, for speed; a test that follows one in the same process expects them."""
    torch.set_flush_denormal(False)


@pytest.fixture
def every_relu() -> nn.Module:
    return randomise(EveryRelu())


@pytest.fixture
def stacked() -> Callable[[nn.Module], nn.Module]:
    """Build a stack with biases around any elementwise activation."""

    def build(activation: nn.Module) -> nn.Module:
        layers = [nn.Conv2d(3, 6, 3), activation, nn.Conv2d(6, 6, 3), activation, nn.MaxPool2d(2, 1)]
        return randomise(nn.Sequential(*layers, nn.Flatten(), nn.Linear(6 * 9, 4)))

    return build


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * 0.8 + 0.1


@pytest.fixture
def labels() -> Tensor:
    return torch.tensor([1, 3])


@pytest.fixture
def baseline() -> Tensor:
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(6), dtype=torch.float64)


@pytest.fixture
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """The place of a data folder that is not there yet; only tests marked slow see the real data."""
    if request.node.get_closest_marker("slow") is None:
        monkeypatch.setenv("FRAGILITY_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def double_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The digits and their network in double precision, also for the studies, and no two pixels alike.

    Rows are compared with the same numbers computed another way. In single precision the two differ by rounding that
    depends on the processor, and the sign of a small gradient makes it large. So does a tie in a max-pool, wherever
    pixels are equal: the images keep away from 0 and 1, where an attack would clip them to equal values.
    """
    load, build = datasets.digits, network.digits_cnn

    def digits(split: str = "train", *, limit: int | None = None, seed: int = 0, **options: Any) -> ImageDataset:
        whole = load(split, **options)
        noise = torch.rand(whole.images.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        whole = replace(whole, images=0.25 + 0.49 * whole.images + 0.01 * noise)
        return whole if limit is None else datasets.sample(whole, limit, seed=seed)

    def digits_cnn(**options: Any) -> nn.Module:
        return build(**options).double()

    monkeypatch.setattr(datasets, "digits", digits)
    monkeypatch.setattr(network, "digits_cnn", digits_cnn)
    monkeypatch.setitem(datasets.LOADERS, "digits", digits)
    monkeypatch.setitem(setup.NETWORKS, "digits_cnn", digits_cnn)
