"""The model of an audit: yours from a file or a module, torchvision's with a file of weights, or the built-in one."""

import importlib
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType

import torch
import torchvision
from torch import Tensor, nn

from fragility import network
from fragility._alone import check_alone
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


def load_model(spec: str = BUILT_IN, weights: Path | None = None, *, log_odds: bool = False) -> nn.Module:
    """Load the model that a command line names.

    Args:
        spec: `"squeezenet"`, the paper's network, which comes with the package; `"torchvision:NAME"`, behind ImageNet's
            normalisation; or `"FILE.py:FUNCTION"` or `"MODULE:FUNCTION"`, your own code, which is run: the function
            returns the model, or the model and a transform of images (B, C, H, W) in [0, 1] that goes before it.
        weights: for a model of torchvision a file with its state_dict, of which only tensors are read.
        log_odds: whether log-odds are explained in place of logits, see `fragility.network.LogOdds`.

    Returns:
        The model, in the mode in which your function returned it.

    Raises:
        TypeError: if your function returns something else.
        ValueError: if there is no such model, the weights do not fit, or your function fails.
    """
    model = _load(spec, weights)
    return network.LogOdds(model) if log_odds else model


def _load(spec: str, weights: Path | None) -> nn.Module:
    """The model itself."""
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
    """Import a module by its name, from the current folder too, or a file by its path."""
    path = Path(place).expanduser()
    if place.endswith(".py") and not path.is_file():
        raise ValueError(f"model: expected a file of Python code, got {place}, which is not there")
    try:
        if not place.endswith(".py"):
            sys.path.insert(0, str(Path.cwd()))
            return importlib.import_module(place)
        loader = SourceFileLoader(path.stem, str(path))
        module = module_from_spec(ModuleSpec(path.stem, loader))
        module.__file__ = str(path.resolve())
        sys.modules.setdefault(path.stem, module)  # where pickled classes and dataclasses look for it
        loader.exec_module(module)
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


def check(model: nn.Module, images: Tensor) -> None:
    """Refuse a model that is not a function of one image at a time.

    Args:
        model: images in [0, 1] to logits (B, K), in evaluation mode.
        images: (B, C, H, W) in [0, 1], the first two of which it is shown.

    Raises:
        TypeError: if an argument has the wrong type, or the model does not return a tensor.
        ValueError: if a value is out of range, or the model is in training mode, mixes its images, or fails.
    """
    check_model(model)
    check_images(images)
    try:
        check_alone(model, images[:2], copies=2)
    except (TypeError, ValueError):
        raise
    except Exception as error:
        raise ValueError(
            f"model: failed on images of shape {tuple(images[:2].shape)} with {type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]}; are size and number of channels those that it takes?"
        ) from error


def kinks(model: nn.Module) -> str:
    """Name the activations with kinks among the parts of a model, with their numbers."""
    names = [type(part).__name__ for part in model.modules()]
    counts = [f"{names.count(name)} {name}" for name in KINKED if name in names]
    return ", ".join(counts) or "none as a part of its own (functions that the model calls are replaced as well)"
