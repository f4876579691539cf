"""Two changes of a network that no prediction shows: a function added to all logits, and pixels in another code."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor, nn

from fragility import network, train
from fragility.attribution import importance, simple_gradient
from fragility.data.datasets import ImageDataset, load
from fragility.similarity import spearman
from fragility.study.piece import Piece, Row, batches, declared, positions, row_per_image


class Added(nn.Module):
    """A model whose logits all have one linear function added, strength <drawing, x - 1/2>."""

    def __init__(self, model: nn.Module, drawing: Tensor, strength: float) -> None:
        super().__init__()
        self.model, self.drawing, self.strength = model, drawing, strength
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        extra = (self.drawing * (images - 0.5)).flatten(1).sum(1, keepdim=True)
        logits: Tensor = self.model(images) + self.strength * extra
        return logits


class Encoded(nn.Module):
    """The same function of images that are stored as (x + 3 drawing) / 4."""

    def __init__(self, model: nn.Module, drawing: Tensor) -> None:
        super().__init__()
        self.model, self.drawing = model, drawing
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.model(4 * images - 3 * self.drawing)
        return logits


class Ready(NamedTuple):
    """SqueezeNet in double precision, and photographs."""

    model: nn.Module
    data: ImageDataset


def prepare(profile: dict[str, Any], device: str) -> tuple[Ready, dict[str, Any]]:
    """Load the photographs."""
    data, model = load(profile["data"], **profile["data_options"]), network.squeezenet()
    inputs = {"data": data.source, "images_sha256": train.fingerprint(data.images), "weights": train.fingerprint(model)}
    return Ready(model.double(), data), inputs


def pieces(profile: dict[str, Any], ready: Ready) -> Iterator[Piece]:
    """A piece is four photographs."""
    for piece in batches(ready.data, 4):
        yield {**profile, **piece}


def rows(piece: Piece, ready: Ready) -> list[Row]:
    """Draw every photograph's map as the next one of the piece, in grey and equalised."""
    model, x = ready.model, ready.data.images[positions(ready.data, piece)].double()
    grey, labels = x.roll(-1, 0).mean(1, keepdim=True), model(x).argmax(1)
    # All greys equally often: the order of pixels in a flat area would be left to the network.
    ranks = grey.flatten(1).argsort(dim=1, stable=True).argsort(dim=1)
    drawing = (ranks / ranks.shape[1]).to(x.dtype).view_as(grey)
    stencil = (drawing > 0.5).to(x.dtype)
    # Pixels have 24 bits, so nothing is rounded on the way there and back.
    added, code, z = Added(model, drawing, piece["strength"]), Encoded(model, stencil), (x + 3 * stencil) / 4
    g, moved, coded = (simple_gradient(one, at, labels) for one, at in ((model, x), (added, x), (code, z)))
    odds, odds_moved = (importance(simple_gradient(network.LogOdds(one).eval(), x, labels)) for one in (model, added))
    own, recoded = importance(g), importance(coded)
    return row_per_image(
        piece,
        label=labels,
        before=spearman(own, importance(drawing)),
        spearman=spearman(importance(moved), importance(drawing)),
        probability_change=(added(x).softmax(1) - model(x).softmax(1)).abs().amax(1),
        log_odds_change=(odds_moved - odds).abs().flatten(1).amax(1) / odds.flatten(1).amax(1),
        log_odds_spearman=spearman(odds, own),
        recoded_change=(recoded - own).abs().flatten(1).amax(1) / own.flatten(1).amax(1),
        recoded_input=spearman(importance(z * coded), importance(x * g)),
    )


STUDY = declared(__file__, prepare, pieces, rows)
