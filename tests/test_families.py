"""What works on the classification networks of torchvision: one small member of every family, and the book's table.

`python tests/test_families.py` writes the table anew.
"""

import copy
import csv
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.efficientnet import FusedMBConvConfig, MBConvConfig

from conftest import scores, total
from fragility.attack import iterative
from fragility.attribution import deeplift, integrated_gradients, simple_gradient
from fragility.objective import top_k

TABLE = Path(__file__).parents[1] / "book" / "families.csv"
METHODS = {
    "simple gradient": simple_gradient,
    "integrated gradients": partial(integrated_gradients, steps=2),
    "DeepLIFT": deeplift,
}
SIZE = {"AlexNet": 64, "InceptionV3": 80, "MaxVit": 64, "GoogLeNet": 64}


def narrow(build: Callable[..., nn.Module], **options) -> nn.Module:
    """A network whose classifier has 64 features instead of 4096: 100 million weights less."""
    network = build(**options)
    layers = [layer for layer in network.classifier if isinstance(layer, nn.Linear)]
    network.classifier = nn.Sequential(
        nn.Dropout(),
        nn.Linear(layers[0].in_features, 64),
        nn.ReLU(inplace=True),
        nn.Linear(64, layers[-1].out_features),
    )
    return network


# The smallest that torchvision builds by name; of those with a size among their arguments a smaller one.
FAMILIES: dict[str, Callable[..., nn.Module]] = {
    "AlexNet": partial(narrow, models.alexnet),
    "VGG": partial(narrow, models.vgg11_bn, init_weights=False),
    "SqueezeNet": models.squeezenet1_1,
    "GoogLeNet": partial(models.googlenet, aux_logits=False, init_weights=False),
    "InceptionV3": partial(models.inception_v3, aux_logits=False, init_weights=False),
    "ResNet": models.resnet18,
    "ResNeXt": partial(models.ResNet, models.resnet.Bottleneck, [1, 1, 1, 1], groups=32, width_per_group=4),
    "Wide ResNet": partial(models.ResNet, models.resnet.Bottleneck, [1, 1, 1, 1], width_per_group=128),
    "DenseNet": partial(models.DenseNet, 8, (2, 2, 2, 2), 16),
    "RegNet": models.regnet_y_400mf,
    "MNASNet": models.mnasnet0_5,
    "MobileNetV2": models.mobilenet_v2,
    "MobileNetV3": models.mobilenet_v3_small,
    "ShuffleNetV2": models.shufflenet_v2_x0_5,
    "EfficientNet": models.efficientnet_b0,
    # All of efficientnet_v2_s has, on images this small, gradients of 1e8 that float32 gets wrong by half.
    "EfficientNetV2": partial(
        models.EfficientNet,
        [FusedMBConvConfig(4, 3, 2, 8, 16, 2), MBConvConfig(4, 3, 2, 16, 24, 2), MBConvConfig(6, 3, 1, 24, 32, 2)],
        0.1,
        last_channel=64,
    ),
    "ConvNeXt": models.convnext_tiny,
    "ViT": partial(models.VisionTransformer, 32, 8, 2, 4, 64, 128),
    "Swin": partial(models.SwinTransformer, [4, 4], 16, [2, 2], [2, 4], [4, 4]),
    "SwinV2": partial(
        models.SwinTransformer,
        [4, 4],
        16,
        [2, 2],
        [2, 4],
        [4, 4],
        block=models.swin_transformer.SwinTransformerBlockV2,
        downsample_layer=models.swin_transformer.PatchMergingV2,
    ),
    "MaxVit": partial(models.MaxVit, (64, 64), 16, 2, [16, 32], [1, 1], 8, 0.1),
}


def ready(family: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A network with statistics of its own and a head that says something, two images, and what it takes them for."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of how long the weights take
        network = FAMILIES[family](num_classes=10)
    for parameter in list(network.parameters())[-2:]:  # the head
        nn.init.normal_(parameter, std=0.1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    size = SIZE.get(family, 32)
    images = torch.rand(8, 3, size, size)
    with torch.no_grad():
        network.train()(images)
    images = 0.1 + 0.8 * images[:2]
    return network.eval(), images, network(images).argmax(1)


def explain(family: str) -> dict[str, str]:
    """A row of the table."""
    network, images, labels = ready(family)
    row, reasons = {"family": family}, []
    for name, method in METHODS.items():
        row[name] = "no"
        try:
            check(name, network, images, labels, method(network, images, labels))
            row[name] = "explained"
            options = {"epsilon": 8 / 255, "step_size": 4 / 255, "iterations": 1, "surrogate_beta": 10.0}
            found = iterative(network, images, labels, attribution=method, objective=top_k(50), **options)
            assert found.attackable.all()
            row[name] = "attacked"
        except ValueError as error:
            reasons.append(str(error).removeprefix("model: ").partition(";")[0])
    return row | {"why not": ". ".join(reasons)}


def check(name: str, network: nn.Module, images: Tensor, labels: Tensor, attributions: Tensor) -> None:
    """Against differences of the score, along a direction or from the reference; the path against its points."""
    if name == "integrated gradients":
        points = (simple_gradient(network, share * images, labels) for share in (0.5, 1.0))
        torch.testing.assert_close(
            attributions, images * sum(points) / 2, rtol=1e-3, atol=1e-4 * attributions.abs().max()
        )
        return
    with torch.no_grad():
        direction = torch.randn(images.shape, generator=torch.Generator().manual_seed(1)).double()
        parts, ends = attributions.double(), (images.double(), 0 * images.double())
        if name == "simple gradient":
            parts, ends = parts * direction, tuple(images + h * direction for h in (5e-9, -5e-9))
        double = copy.deepcopy(network).double()
        ahead, behind = (scores(double, end, labels) for end in ends)
        gap = (ahead - behind) / (1e-8 if name == "simple gradient" else 1)
    miss = (total(parts) - gap).abs() / total(parts.abs())
    assert (miss < 5e-3).all(), miss  # a rounded pre-activation may lie on the other side of its kink


def stored() -> dict[str, dict[str, str]]:
    with TABLE.open(newline="") as file:
        return {row["family"]: row for row in csv.DictReader(file)}


def origin(build: Callable[..., nn.Module]) -> str:
    """The module of torchvision that a network comes from."""
    if not isinstance(build, partial):
        return build.__module__
    return origin(build.args[0] if build.func is narrow else build.func)


def test_every_family_has_a_row_and_the_modern_ones_are_attacked():
    names = models.list_models(module=models)
    assert {origin(build) for build in FAMILIES.values()} == {
        models.get_model_builder(name).__module__ for name in names
    }
    rows = stored()
    assert list(rows) == list(FAMILIES)
    for family in ("ViT", "Swin", "SwinV2", "ConvNeXt", "EfficientNet", "EfficientNetV2", "MobileNetV3"):
        assert rows[family]["simple gradient"] == rows[family]["integrated gradients"] == "attacked"


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family(family):
    assert explain(family) == stored()[family]


if __name__ == "__main__":
    rows = [explain(family) for family in FAMILIES]
    with TABLE.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
