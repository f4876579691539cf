"""The model of an audit: yours from a file or a module, torchvision's with a file of weights, or the built-in one."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
import torchvision
from torch import Tensor, nn

from fragility import network
from fragility._alone import check_alone
from fragility._call import logits_of
from fragility._checks import check_images, check_model

BUILT_IN = "squeezenet"
KINKED = ("ReLU", "ReLU6", "LeakyReLU", "PReLU", "RReLU", "Hardtanh", "Hardswish", "Hardsigmoid", "ELU", "SELU", "CELU")


class Prepared(nn.Module):
    """A model behind its transform, a function of images in [0, 1] such as torchvision's Normalize."""

    def __init__(self, model: nn.Module, transform: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.transform = model, transform

    def forward(self, images: Tensor) -> Tensor:
        """Return `model(transform(images))`."""
        output: Tensor = self.model(self.transform(images))
        return output


def load_model(spec: str = BUILT_IN, weights: Path | None = None) -> nn.Module:
    """Load the model that a command line names.

    Args:
        spec: `"squeezenet"`, the paper's network, which comes with the package; `"torchvision:NAME"`, behind ImageNet's
            normalisation; or `"FILE.py:FUNCTION"` or `"MODULE:FUNCTION"`, your own code, which is run: the function
            returns the model, or the model and a transform of images (B, C, H, W) in [0, 1] that goes before it.
        weights: for a model of torchvision a file with its state_dict, of which only tensors are read.

    Returns:
        The model, in the mode in which your function returned it.

    Raises:
        TypeError: if your function returns something else.
        ValueError: if there is no such model, the weights do not fit, or your function fails.
    """
    place, _, name = spec.rpartition(":")
    if weights is not None and place != "torchvision":
        raise ValueError(f"weights: expected none for the model {spec!r}, got {weights}; load them in your function")
    if spec == BUILT_IN:
        return network.squeezenet()
    if not place or not name:
        raise ValueError(
            f"model: expected {BUILT_IN}, torchvision:NAME, FILE.py:FUNCTION or MODULE:FUNCTION, got {spec!r}"
        )
    if place == "torchvision":
        return _of_torchvision(name, weights)
    build = getattr(_module(place), name, None)
    if not callable(build):
        raise ValueError(f"model: expected a function {name} in {place}, got {type(build).__name__}")
    try:
        built = build()
    except Exception as error:
        raise ValueError(f"model: {spec} failed with {type(error).__name__}: {error}") from error
    model, transform = built if isinstance(built, tuple) and len(built) == 2 else (built, None)
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected {spec} to return an nn.Module, got {type(model).__name__}")
    return model if transform is None else Prepared(model, transform).train(model.training)


def _module(place: str) -> ModuleType:
    """Import a module by its name, or a file by its path, from the current folder too."""
    try:
        if not place.endswith(".py"):
            if str(Path.cwd()) not in sys.path:
                sys.path.insert(0, str(Path.cwd()))
            return importlib.import_module(place)
        path = Path(place).expanduser()
        found = importlib.util.spec_from_file_location(path.stem, path)
        if found is None or found.loader is None or not path.is_file():
            raise ValueError(f"model: expected a file of Python code, got {place}, which is not there")
        module = importlib.util.module_from_spec(found)
        sys.modules.setdefault(path.stem, module)  # where pickled classes and dataclasses look for it
        found.loader.exec_module(module)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"model: {place} cannot be imported: {type(error).__name__}: {error}") from error
    return module


def _of_torchvision(name: str, weights: Path | None) -> nn.Module:
    if weights is None:
        raise ValueError(f"weights: expected a file for torchvision:{name}, got none; pass --weights FILE")
    try:
        model: nn.Module = torchvision.models.get_model(name, weights=None)
        model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    except Exception as error:  # of pickle, zip files, keys and shapes
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"weights: {weights} cannot be loaded into torchvision:{name}: {reason}") from error
    return network.Normalize(model, network.IMAGENET_MEAN, network.IMAGENET_STD).eval()


def check(model: nn.Module, images: Tensor) -> Tensor:
    """Refuse a model that an audit cannot explain: not a function of one image, or not to two logits or more.

    Args:
        model: images in [0, 1] to logits (B, K), in evaluation mode.
        images: (B, C, H, W) in [0, 1], the first two of which it is shown.

    Returns:
        Their logits, (2, K) or (1, K).

    Raises:
        TypeError: if an argument has the wrong type, or the model does not return a tensor.
        ValueError: if a value is out of range, the model is in training mode, mixes its images, fails, or returns a
            single logit.
    """
    check_model(model)
    check_images(images)
    try:
        with torch.no_grad():
            logits = logits_of(model, images[:2])
    except (TypeError, ValueError):
        raise
    except Exception as error:
        raise ValueError(
            f"model: failed on images of shape {tuple(images[:2].shape)} with {type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]}; are size and number of channels those that it takes?"
        ) from error
    if logits.shape[1] < 2:
        raise ValueError(
            "model: expected two logits or more, got one; return torch.cat([-z, z], 1) / 2, whose softmax is the "
            "sigmoid of z"
        )
    check_alone(model, images[:2])
    return logits


def kinks(model: nn.Module) -> str:
    """Name the activations with kinks among the parts of a model, with their numbers."""
    names = [type(part).__name__ for part in model.modules()]
    counts = [f"{names.count(name)} {name}" for name in KINKED if name in names]
    return ", ".join(counts) or "none as a part of its own (functions that the model calls are replaced as well)"
