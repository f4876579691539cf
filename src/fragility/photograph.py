"""Attack the importance map of one photograph, and leave pictures and a report in a folder."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fragility import network
from fragility._checks import check_count
from fragility.attack import annealed, iterative
from fragility.attribution import ATTRIBUTIONS, WITH_BASELINE, WITHOUT_SURROGATE, importance
from fragility.data.datasets import imagenet_classes
from fragility.data.png import read_pixels, write_png
from fragility.objective import mass_center, opposite_quadrant, targeted, top_k
from fragility.similarity import center_shift, kendall, spearman, top_k_intersection
from fragility.surrogate import suggest_beta

# The size a network takes, and the channel-wise mean that is the reference of its attributions.
MODELS = {"inception_v3": (299, (0.5, 0.5, 0.5)), "squeezenet": (227, network.CAFFE_MEAN)}


def attack_photograph(
    image: Path,
    out: Path,
    *,
    model: str,
    method: str,
    objective: str,
    log_odds: bool = False,
    label: int | None = None,
    k: int = 1000,
    path_steps: int = 25,
    surrogate_beta: float | None = None,
    epsilon: float,
    step_size: float | None = None,
    iterations: int,
    schedule: str = "annealed",
) -> dict[str, Any]:
    """Attack a photograph, squashed to the network's size, and write what came of it.

    The files in `out`: `original.png` and `perturbed.png` (8 bits per channel: the levels nearest to the result inside
    the ball), `map_original.png` and `map_perturbed.png` (grey, white from the 99th percentile of the original's map
    on; the second is that of the written file) and `report.json`.

    Args:
        image: a file of any format that Pillow reads.
        out: the folder; made if it is not there.
        model: a key of `MODELS`.
        method: a key of `fragility.attribution.ATTRIBUTIONS`.
        objective: `"top_k"`, `"mass_center"`, or `"targeted"` at the quadrant away from the centre of mass.
        log_odds: whether log-odds are explained in place of logits, see `fragility.network.LogOdds`.
        label: the class explained; None for the prediction.
        k: how many pixels count as most important.
        path_steps: points on the path of integrated gradients.
        surrogate_beta: sharpness of the softplus surrogate; None for a suggestion, or for LRP, which needs none.
        epsilon: radius of the L-inf ball, in units of the pixel range (8 / 255).
        step_size: alpha, the first step, in the same unit; None for that of `annealed`, and for 1 / 255 else.
        iterations: P, the number of steps.
        schedule: `"annealed"`, see `fragility.attack.annealed`, or a schedule of `fragility.attack.iterative`.

    Returns:
        The report.

    Raises:
        ValueError: if an argument is out of range, or a surrogate is asked for where there is none.
    """
    size, mean = MODELS[model]
    check_count("k", k, size**2)
    original = read_pixels(image, 3, size).unsqueeze(0)
    out.mkdir(parents=True, exist_ok=True)
    plain = network.PRETRAINED[model]()
    net = network.LogOdds(plain) if log_odds else plain
    labels = net(original).argmax(1) if label is None else torch.tensor([label])
    options: dict[str, Any] = {"baseline": torch.tensor(mean).view(3, 1, 1)} if method in WITH_BASELINE else {}
    if method == "integrated_gradients":
        options["steps"] = path_steps
    attribution = partial(ATTRIBUTIONS[method], **options)
    before = importance(attribution(net, original, labels))
    smooth = method not in WITHOUT_SURROGATE
    if surrogate_beta is not None and not smooth:
        raise ValueError(f"surrogate_beta: expected none for {method}, which is attacked on the network itself")
    beta = surrogate_beta or (suggest_beta(net, original, labels) if smooth else 1.0)
    objectives = {"mass_center": mass_center(), "top_k": top_k(k), "targeted": targeted(opposite_quadrant)}
    budget: dict[str, Any] = {**annealed(epsilon, beta, iterations)}
    if schedule != "annealed":
        budget |= {"step_size": 1 / 255, "schedule": schedule, "surrogate_beta": (beta, beta)}
    if not smooth:
        budget["surrogate_beta"] = None
    if step_size is not None:
        budget["step_size"] = step_size
    goal: dict[str, Any] = {"attribution": attribution, "objective": objectives[objective], "epsilon": epsilon}
    found = iterative(net, original, labels, **goal, **budget, progress=True)
    level, reach = (255 * original).round(), int(255 * epsilon + 1e-6)
    written = (255 * found.images).round().clamp(level - reach, level + reach) / 255

    def describe(x: Tensor, maps: Tensor) -> dict[str, Any]:
        probabilities = plain(x).softmax(1)[0]
        best = int(probabilities.argmax())
        return {
            "prediction": best,
            "class": imagenet_classes()[best],
            "confidence": probabilities[best].item(),
            "largest_change": (x - original).abs().max().item(),
            f"top_{k}_intersection": top_k_intersection(maps, before, k).item(),
            "spearman": spearman(maps, before).item(),
            "kendall": kendall(maps, before).item(),
            "center_shift": center_shift(maps, before).item(),
        }

    kept, after = bool(found.labels_kept), importance(attribution(net, written, labels))
    report = {
        "image": str(image),
        "model": model,
        "explained_class": int(labels),
        "method": method,
        **({"path_steps": path_steps} if "steps" in options else {}),
        "objective": objective,
        **({"score": "log-odds"} if log_odds else {}),
        "epsilon": epsilon,
        **budget,
        "label_kept": kept,
        "best_iteration": int(found.iteration),
        "best_objective": found.objective.item() if kept else None,
        "original": describe(original, before),
        "perturbed": describe(found.images, importance(attribution(net, found.images, labels))),
        "perturbed_png": describe(written, after),
    }
    white = before.flatten().quantile(0.99).clamp(min=torch.finfo(before.dtype).tiny)
    pictures = {"original": original[0], "perturbed": written[0]}
    for name, picture in {**pictures, "map_original": before / white, "map_perturbed": after / white}.items():
        write_png(out / f"{name}.png", picture)
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    return report
