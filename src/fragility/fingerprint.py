"""Names for values by their content, under which weights and rows are stored."""

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from types import FunctionType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Function = TypeVar("Function", bound=Callable[..., Any])


def recipe(name: str) -> Callable[[Function], Function]:
    """Declare the name that stands for a function in a fingerprint: `@recipe("adversarial/1")`.

    Its source, its module and the functions it calls do not count: it can be moved and reworded, and networks trained
    with it are still found. Raise the number whenever it computes something else, also by a changed default.

    Args:
        name: What the function computes, different from every other function's name, and a number.

    Returns:
        A decorator that leaves the function as it is.

    Raises:
        ValueError: The function is a closure: no name can stand for the values it holds.
    """

    def declare(function: Function) -> Function:
        if getattr(function, "__closure__", None):
            raise ValueError(
                f"function: expected one that takes all it needs as arguments, got {function!r} with values from "
                "around its definition; make them options, and set them with functools.partial"
            )
        function.recipe = name  # type: ignore[attr-defined]
        return function

    return declare


def is_named(value: object) -> bool:
    """Return whether a value has a fingerprint."""
    try:
        fingerprint(value)
    except TypeError:
        return False
    return True


def fingerprint(*values: object) -> str:
    """Return a checksum of tensors, plain values, functions with a recipe and containers of these.

    A function counts by its `recipe`, a partial also by its options, a network by its structure and its parameters.

    Args:
        values: Tensors, numbers, strings, None, networks, functions, classes, partials, mappings, lists and
            tuples.

    Returns:
        A sha256 in hexadecimal.

    Raises:
        TypeError: A value is of another kind, or a function without a recipe.
    """
    digest = hashlib.sha256()

    def feed(value: object) -> None:
        if isinstance(value, Tensor):
            digest.update(f"tensor {value.dtype} {tuple(value.shape)};".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        elif isinstance(value, Mapping):
            feed([list(pair) for pair in value.items()])
        elif isinstance(value, (list, tuple)):
            digest.update(f"sequence {len(value)};".encode())
            for item in value:
                feed(item)
        elif isinstance(value, partial):
            feed(["partial", value.func, value.args, sorted(value.keywords.items())])
        elif isinstance(value, FunctionType) and "recipe" in vars(value) and "__wrapped__" not in vars(value):
            # functools.wraps copies a recipe to a wrapper, which may compute something else.
            feed(["recipe", vars(value)["recipe"]])
        elif isinstance(value, nn.Module):
            feed(["module", repr(value), value.state_dict()])
        elif isinstance(value, type):
            feed(["class", value.__module__, value.__qualname__])
        elif isinstance(value, (str, bool, int, float, type(None))):
            digest.update(f"{type(value).__name__} {value!r};".encode())
        else:
            hint = "; declare a function with fragility.fingerprint.recipe" if callable(value) else ""
            raise TypeError(f"values: expected what can be named by its content, got {value!r}{hint}")

    feed(values)
    return digest.hexdigest()
