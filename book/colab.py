"""Execute every notebook as Colab would: its own packages only, and the notebook's own cell installs the rest.

    python book/colab.py build/colab

The environment holds what Colab ships of note and a `google.colab` module. Git is told that the repository's address is
this checkout, so that the install cell runs unchanged, on the last commit.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import venv
from pathlib import Path

import papermill
from address import ROOT, current
from pages import sources, transport

SHIPPED = ("torch", "torchvision", "numpy", "matplotlib", "seaborn", "ipykernel", "pip")


def environment(folder: Path) -> Path:
    """Make the environment anew.

    Args:
        folder: where; emptied first.

    Returns:
        Its Python.
    """
    venv.create(folder, clear=True, with_pip=True)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    pins = ROOT / "requirements.lock"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--constraint", pins, *SHIPPED], check=True)
    code = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    packages = Path(subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip())
    (packages / "google" / "colab").mkdir(parents=True)
    (packages / "google" / "colab" / "__init__.py").touch()
    (packages / "colab.pth").write_text("import google.colab\n", encoding="utf-8")
    return python


def redirected() -> dict[str, str]:
    """Return environment variables that make git take this checkout for the published repository."""
    return {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{ROOT.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": f"https://github.com/{current()}",
    }


def main(folder: Path) -> None:
    """Make the environment and execute all notebooks in it."""
    python = environment(folder / "environment").absolute()
    kernel = folder / "jupyter" / "kernels" / "colab"
    kernel.mkdir(parents=True, exist_ok=True)
    command = {"argv": [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]}
    (kernel / "kernel.json").write_text(json.dumps(command | {"display_name": "Colab", "language": "python"}))
    os.environ.update(redirected() | {"JUPYTER_PATH": str((folder / "jupyter").absolute())})
    for source in sources([]):
        started = time.monotonic()
        output = folder / f"{source.stem}.ipynb"
        papermill.execute_notebook(
            source.with_suffix(".ipynb"),
            output,
            kernel_name="colab",
            cwd=folder,
            progress_bar=False,
            config=transport(),
        )
        print(f"  {source.stem} executed in {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
