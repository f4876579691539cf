"""The machine that computes: repeatable numbers, memory that is kept, and a description for the record."""

import ctypes
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch

from fragility.study.store import checkout

# Of malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4


@contextmanager
def repeatable() -> Iterator[None]:
    """Compute in full single precision and the same every time; denormal numbers count as zero, memory is kept."""
    torch.set_flush_denormal(True)
    keep_memory()
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_flush_denormal(False)


@contextmanager
def exact_zeros() -> Iterator[None]:
    """Let a gradient that is zero be zero: on a GPU, cuDNN's fastest convolutions leave rounding in its place."""
    with torch.backends.cudnn.flags(enabled=False):
        yield


def keep_memory() -> None:
    """Let glibc keep freed memory: fetching the pages of large tensors anew costs a third of an attack's time."""
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        for parameter, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 2**27)):
            mallopt(parameter, value)


def check_device(device: str) -> None:
    """Raise a ValueError if PyTorch cannot use the device here."""
    try:
        torch.empty(1, device=device)
    except (AssertionError, RuntimeError) as error:  # PyTorch's ways of refusing
        raise ValueError(f"device: expected one that PyTorch can use here, got {device!r} ({error})") from error


def describe(device: str) -> dict[str, Any]:
    """Describe time, code and machine as plain data."""
    name = f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores"
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else f"{device} ({name})",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "system": sys.platform,
        "packages": {name: version(name) for name in ("fragility", "torch", "torchvision", "numpy", "pillow")},
    }


def _commit() -> str | None:
    """Return the checkout's commit, with "+changes" if the package differs from it; None without a checkout."""
    root, git = checkout(), shutil.which("git")
    if root is None or git is None:
        return None

    def ask(*arguments: str) -> str | None:
        done = subprocess.run([git, *arguments], cwd=root, capture_output=True, text=True, check=False)  # noqa: S603
        return done.stdout.strip() if done.returncode == 0 else None

    commit = ask("rev-parse", "HEAD")
    return f"{commit}+changes" if commit and ask("status", "--porcelain", "--", "src") else commit
