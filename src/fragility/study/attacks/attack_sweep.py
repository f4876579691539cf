"""How far attacks and noise move importance maps: methods x attacks x epsilon x images [Ghorbani2019, Fig. 2 and 3].

The class explained is the prediction; all images are classified correctly by the network under test. An image that no
iterate leaves with its label counts as unchanged (1, 1, 0 pixels): the means are intention-to-treat.
"""

from collections.abc import Iterator, Mapping

from fragility.iterate import Iterate
from fragility.study.attacks.setup import Subject
from fragility.study.attacks.sweep import (
    SweepProfile,
    Trial,
    conditions,
    cost,
    declared_sweeps,
    metrics,
    prepare_sweeps,
)
from fragility.study.piece import Piece, Row, declared


def pieces(profile: SweepProfile, subjects: Mapping[str, Subject]) -> Iterator[Piece]:
    """Name every condition, without later additions that are not set, so older pieces keep their names."""
    unset = {"by_metric": False, "rounded": False, "jpeg_quality": None}
    for sweep, piece in conditions(profile, subjects):
        own = {"adaptive": sweep.schedule == "adaptive", "by_metric": sweep.by_metric, "rounded": sweep.rounded}
        yield {name: value for name, value in (piece | own).items() if name not in unset or value != unset[name]}


def rows(piece: Piece, subjects: Mapping[str, Subject]) -> list[Row]:
    """Attack the images of a piece and compare their maps before and after."""
    trial, first = Trial(piece, subjects), []

    def visit(iterate: Iterate) -> None:
        if iterate.number == 1:
            first.append(iterate.images)

    found = trial.run(visit)
    before, after, after_first = (trial.maps(images) for images in (trial.images, found.images, first[0]))
    target_before, target_after = trial.aim(before, before), trial.aim(after, before)
    return trial.rows(
        found,
        **metrics(before, after, piece["k"]),
        **{f"first_{name}": column for name, column in metrics(before, after_first, piece["k"]).items()},
        iteration=found.iteration,
        objective=found.objective,
        gain=target_after - target_before,
        target_before=target_before,
        target_after=target_after,
        pooling=piece["network_options"].get("pooling"),
    )


STUDY = declared(__file__, prepare_sweeps, pieces, rows, profile=declared_sweeps, cost=cost)
