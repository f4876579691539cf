"""What several test files share: small networks that use every form of activation, and the seed."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

torch.set_num_threads(1)  # small tensors: more threads only wait for one another


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
