"""`fragility audit`: what it stores is what its files show, a run goes on where it ended, and wrong requests."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fragility.audit import audit
from fragility.cli import main
from fragility.network import mnist_cnn


def small_audit(folder: Path, minutes: float):
    images = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    return audit(
        mnist_cnn(), images, methods=["simple_gradient"], epsilons=[8 / 255], minutes=minutes, folder=folder,
        progress=False,
    )  # fmt: skip


def test_the_files_show_the_stored_label_and_metric(tmp_path):
    found = small_audit(tmp_path, 0.4)
    model = mnist_cnn()

    def read(path):
        return torch.from_numpy(np.array(Image.open(path)))[None, None].float() / 255

    def top(x, label):
        x = x.requires_grad_()
        (slope,) = torch.autograd.grad(model(x)[0, label], x)
        return set(slope.abs().flatten().topk(15).indices.tolist())

    rows = found.rows[(found.rows.method == "simple_gradient") & (found.rows.file != "")]
    assert len(rows) >= 2
    for row in rows.itertuples():
        place = int(row.image.removeprefix("image "))
        before, after = (read(tmp_path / name) for name in (f"images/{place:04d}-original.png", row.file))
        label = int(model(before).argmax())
        assert int(model(after).argmax()) == row.prediction
        assert row.label_kept == (row.prediction == label)
        assert (after - before).abs().max() <= 8 / 255 + 1e-6
        shared = len(top(before, label) & top(after, label)) / 15
        assert row.top_k_intersection == pytest.approx(shared, abs=1 / 15 + 1e-6)  # a tie within rounding


MODELS = """import torch
from torch import nn

class Two(nn.Module):
    def forward(self, x):
        return {"logits": x.flatten(1)[:, :2]}

def a_dict():
    return Two().eval()

def training():
    return nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(192, 2))

def single():
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 1)).eval()
"""


@pytest.mark.parametrize(
    ("name", "message"),
    [("a_dict", "dict"), ("training", "training mode"), ("single", "two logits"), ("absent", "expected a function")],
)
def test_a_wrong_model_gets_one_sentence_and_status_2(tmp_path, monkeypatch, capfd, name, message):
    monkeypatch.chdir(tmp_path)
    Path("models_of_mine.py").write_text(MODELS)
    Path("photos").mkdir()
    Image.new("RGB", (9, 9), (20, 90, 200)).save("photos/a.png")
    options = ["--model", f"models_of_mine.py:{name}", "--images", "photos", "--size", "8", "--out", "out"]
    status = main(["audit", *options])
    shown = capfd.readouterr().err
    assert (status, shown.count("\n")) == (2, 1)
    assert message in shown


def test_an_empty_folder_and_pixels_up_to_255(tmp_path, capfd):
    (tmp_path / "empty").mkdir()
    status = main(["audit", "--images", str(tmp_path / "empty"), "--out", str(tmp_path / "out")])
    assert (status, "images: expected images" in capfd.readouterr().err) == (2, True)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2)).eval()
    with pytest.raises(ValueError, match=r"images: expected pixels in \[0, 1\]"):
        audit(model, 255 * torch.ones(1, 3, 8, 8), folder=tmp_path, progress=False)
