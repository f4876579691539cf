"""What `fragility audit` does with its options."""

from collections.abc import Sequence
from pathlib import Path

from fragility.audit.images import read_folder, shipped
from fragility.audit.methods import METHODS
from fragility.audit.models import BUILT_IN, load_model
from fragility.audit.run import Audit, audit
from fragility.data.datasets import imagenet_classes
from fragility.network import LogOdds

EPSILONS = (2 / 255, 4 / 255, 8 / 255)


def audit_command(
    out: Path,
    *,
    model: str = BUILT_IN,
    weights: Path | None = None,
    log_odds: bool = False,
    images: Path | None = None,
    size: int = 227,
    channels: int = 3,
    limit_images: int | None = None,
    methods: Sequence[str] = (),
    epsilons: Sequence[float] = (),
    minutes: float = 5.0,
    doublings: int = 4,
    device: str = "cpu",
) -> Audit:
    """Load a model and images, and audit them.

    Args:
        out: the folder for the report.
        model: as for `fragility.audit.models.load_model`.
        weights: as there.
        log_odds: whether log-odds are explained in place of logits, see `fragility.network.LogOdds`.
        images: as for `fragility.audit.images.read_folder`; None for four photographs.
        size: as there.
        channels: as there.
        limit_images: as there.
        methods: keys of `fragility.attribution.ATTRIBUTIONS`; empty for the paper's three.
        epsilons: in units of the pixel range; empty for `EPSILONS`.
        minutes: the limit of time; 0 for none.
        doublings: as for `fragility.audit.audit`.
        device: of PyTorch.

    Returns:
        The audit.

    Raises:
        ValueError: if a request is wrong; the message names the argument.
    """
    if minutes < 0:
        raise ValueError(f"minutes: expected a number >= 0, got {minutes}")
    given = shipped(size) if images is None else read_folder(images, size=size, channels=channels, limit=limit_images)
    known = model == BUILT_IN or model.startswith("torchvision:")
    loaded = load_model(model, weights)
    return audit(
        LogOdds(loaded) if log_odds else loaded, given, methods=methods or METHODS,
        epsilons=epsilons or EPSILONS, minutes=minutes or None,
        doublings=doublings, folder=out, device=device,
        title="SqueezeNet" if model == BUILT_IN else model.removeprefix("torchvision:"),
        class_names=imagenet_classes() if known else (),
    )  # fmt: skip
