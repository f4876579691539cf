"""`fragility attack`: wrong requests in one line, and what it leaves in its folder."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from fragility import network
from fragility.attribution import deeplift, importance
from fragility.cli import main
from fragility.similarity import center_shift, spearman


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    """Save chelsea the cat (scikit-image, CC0)."""
    Image.fromarray(skimage.data.chelsea()).save(tmp_path / "cat.png")
    return tmp_path / "cat.png"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image", "missing.png"], "missing.png: expected a readable image"),
        (["--image", "text.png"], "text.png: expected a readable image"),
        (["--epsilon", "0"], r"'--epsilon': expected a part of the pixel range, in \(0, 1\], got '0'"),
        (["--epsilon=-8/255"], "'--epsilon': expected a part of the pixel range"),
        (["--epsilon", "8/0"], "'--epsilon': expected a number such as 8/255"),
        (["--step-size", "nan"], "'--step-size': expected a number such as 8/255"),
        (["--method", "gradcam"], "'--method': 'gradcam' is not one of"),
        (["--method", "lrp", "--surrogate-beta", "1"], "surrogate_beta: expected none for lrp"),
        (["--k", "51530"], "k: expected an integer from 1 to 51529, got 51530"),
        (["--out", "text.png"], "File exists"),
    ],
)
def test_a_wrong_request_gets_one_line_and_status_2(photograph, monkeypatch, capfd, arguments, message):
    monkeypatch.chdir(photograph.parent)
    Path("text.png").write_text("no picture")
    status = main(["attack", "--image", "cat.png", "--out", "out", *arguments])
    shown = capfd.readouterr()
    assert (status, shown.out, shown.err.count("\n")) == (2, "", 1)
    assert re.search(message, shown.err)


NO_SOCKETS = """import socket

def refuse(*arguments, **options):
    raise OSError("there is no network")

socket.socket.connect = socket.getaddrinfo = refuse
"""


def sealed(folder: Path) -> tuple[list[str], dict[str, str]]:
    """How a command begins, and what its environment holds more, for it to reach nothing outside of this machine."""
    namespace = [shutil.which("unshare") or "unshare", "-rn"]
    if (
        shutil.which("unshare")
        and subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode == 0
    ):
        return namespace, {}
    (folder / "sitecustomize.py").write_text(NO_SOCKETS)
    return [], {"PYTHONPATH": str(folder)}


@pytest.mark.slow
class TestOnSqueezeNet:
    def test_it_needs_no_network(self, photograph, tmp_path):
        seal, extra = sealed(tmp_path)
        environment = os.environ | extra | {"FRAGILITY_DATA": str(tmp_path / "empty"), "HOME": str(tmp_path)}

        def run(*command):
            asked = [*seal, sys.executable, *command]
            return subprocess.run(asked, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

        assert "OSError" in run("-c", "import socket; socket.create_connection(('192.0.2.1', 80), 1)").stderr
        done = run("-m", "fragility", "attack", "--image", photograph.name, "--out", "out")
        assert done.returncode == 0, done.stderr
        assert "Egyptian cat" in done.stdout
        names = {"original.png", "perturbed.png", "map_original.png", "map_perturbed.png", "report.json"}
        assert {path.name for path in (tmp_path / "out").iterdir()} == names
        assert not (tmp_path / "empty").exists()

    def test_what_it_writes(self, photograph, capfd):
        out = photograph.parent / "deep" / "out"
        options = ["--method", "deeplift", "--objective", "mass_center", "--epsilon", "8/255", "--step-size", "1/255"]
        assert main(["attack", "--image", str(photograph), "--out", str(out), "--iterations", "8", *options]) == 0
        shown = capfd.readouterr()
        assert "Egyptian cat" in shown.out
        assert "8/8" in shown.err

        report = json.loads((out / "report.json").read_text())
        pixels = {path.stem: np.array(Image.open(path)).astype(int) for path in out.glob("*.png")}
        assert {name: array.shape for name, array in pixels.items()} == {
            "original": (227, 227, 3),
            "perturbed": (227, 227, 3),
            "map_original": (227, 227),
            "map_perturbed": (227, 227),
        }
        change = np.abs(pixels["perturbed"] - pixels["original"])
        assert 0 < change.max() <= 8

        # The numbers of the report, from the files alone.
        net, mean = network.squeezenet(), torch.tensor(network.CAFFE_MEAN).view(3, 1, 1)
        x, x_after = (
            torch.from_numpy(pixels[name]).permute(2, 0, 1)[None].float() / 255 for name in ("original", "perturbed")
        )
        label = net(x).argmax(1)
        before, after = (importance(deeplift(net, image, label, baseline=mean)) for image in (x, x_after))
        written = report["perturbed_png"]
        assert written["center_shift"] == pytest.approx(center_shift(before, after).item(), rel=1e-4)
        assert written["spearman"] == pytest.approx(spearman(before, after).item(), rel=1e-4)
        assert written["confidence"] == pytest.approx(net(x_after).softmax(1).max().item(), rel=1e-4)
        assert written["center_shift"] > 3
        assert report["label_kept"]
        assert report["perturbed"]["prediction"] == report["original"]["prediction"] == label.item()
        assert report["perturbed"]["largest_change"] <= 8 / 255
        grey = (255 * (before[0] / before.flatten().quantile(0.99)).clamp(max=1)).round().numpy()
        assert np.abs(grey - pixels["map_original"]).max() <= 1

    def test_wrong_label(self, photograph, capfd):
        request = ["attack", "--image", str(photograph), "--out", str(photograph.parent / "out"), "--label", "1000"]
        assert main(request) == 2
        assert capfd.readouterr().err == (
            "fragility: labels: expected classes in [0, 1000), got values from 1000 to 1000\n"
        )
