"""The rule of the claim Z6, whether memorising makes maps fragile.

It was written before the study's first run. For each seed, images of the network with a share p of permuted labels are
matched with images of the network with none on log(margin / |grad margin|), within .1 standard deviations; the
differences of the top-k intersection are fitted by p, through the origin. The mean slope over seeds decides: reproduced
at -.1 or below with a 95 % interval below 0, refuted at .1 or above with an interval above 0, not reproduced otherwise.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from fragility.interval import chance_of, mean_interval
from fragility.study.memorisation.matching import LEAST, against_true, differences, slope
from fragility.study.verdict import Finding, Measure, Tables, present

IMAGES, SIZE = 200, 0.1  # of a seed; the slope that matters
MEDIATORS = ("bend", "radius")
VALUES = ("top_k_intersection", "free_intersection", *MEDIATORS)


def fragile_maps(tables: Tables) -> Finding:
    """Z6: matched slope of the top-k intersection by p: -.1 or below, off 0; refuted at .1 or above; else undecided."""
    whole = [logs(part) for _, part in tables["memorised_maps"].groupby("seed") if _complete(part)]
    compared = [against_true(part, VALUES) for part in whole]
    found = {
        "the slope": _slopes(compared, "top_k_intersection"),
        "whatever is then predicted": _slopes(compared, "free_intersection"),
        "beside log |H| / |g|": _slopes(compared, "top_k_intersection", ["bend"]),
        "beside the log of the ReLU radius": _slopes(compared, "top_k_intersection", ["radius"]),
        "beside both": _slopes(compared, "top_k_intersection", MEDIATORS),
        "without matching": np.array([_unmatched(part) for part in whole]),
    }
    slopes = present(found["the slope"], 2)
    mean, low, high = map(float, mean_interval(slopes))
    holds, opposite = mean <= -SIZE and high < 0, mean >= SIZE
    chance = chance_of(-slopes, 0.0) if opposite else 1.0
    name = "slope of the top-k intersection per unit of permuted labels, matched"
    measure = Measure(name, mean, low, high, len(slopes), f"<= {-SIZE:g}", -SIZE, -1, mean <= -SIZE, holds, chance)
    notes = [f"{title}: {_written(values)}" for title, values in found.items() if len(values) > 1]
    notes.append(f"pairs within the caliper: {_counts(compared)} of {IMAGES} by the share, on average")
    if apart := _apart(whole):
        notes.append(
            f"two seeds of one share differ by {np.mean(apart):.3f} in size, on average, {max(apart):.3f} at most"
        )
    if inside := _inside(whole):
        notes.append(f"in one network, images with a moved label less those with their own: {_written(inside)}")
    rest = np.mean([part[part.share == 0].top_k_intersection.mean() for part in whole])
    notes.append(f"the maps of networks with their own labels keep {rest:.3f} of their top k")
    facts = {"size": abs(mean), "less": "less" if mean < 0 else "more", "low": low, "high": high}
    return Finding([measure], notes=notes, facts=facts, setting={"seeds": len(slopes), "images": IMAGES})


def logs(rows: pd.DataFrame) -> pd.DataFrame:
    """Take the logarithms of what may mediate."""
    return rows.assign(**{name: np.log(rows[name]) for name in MEDIATORS})


def _complete(rows: pd.DataFrame) -> bool:
    """Whether a seed has all its images under every share, none of them among the shares."""
    counts = rows.groupby("share").image.nunique()
    return 0 in counts.index and len(counts) > 1 and int(counts.min()) >= IMAGES


def _slopes(compared: Sequence[pd.DataFrame], value: str, beside: Sequence[str] = ()) -> np.ndarray:
    found = np.array([slope(pairs, value, beside) for pairs in compared])
    return np.asarray(found[np.isfinite(found)])


def _unmatched(rows: pd.DataFrame) -> float:
    """The slope of the means over all images."""
    means = rows.groupby("share").top_k_intersection.mean()
    gaps = means - means[0]
    return float((gaps.index.to_numpy() * gaps).sum() / np.square(gaps.index.to_numpy()).sum())


def _counts(compared: Sequence[pd.DataFrame]) -> str:
    counts = pd.concat(compared).groupby("share").size() / len(compared)
    return ", ".join(f"{share:g}: {count:.0f}" for share, count in counts.items())


def _apart(whole: Sequence[pd.DataFrame]) -> list[float]:
    """The floor: how much the same comparison finds between two seeds of one share."""
    return [
        abs(float(pairs.top_k_intersection.mean()))
        for one, other in pairwise(whole)
        for share, part in one.groupby("share")
        if len(pairs := differences(part, other[other.share == share], ["top_k_intersection"])) >= LEAST
    ]


def _inside(whole: Sequence[pd.DataFrame]) -> list[float]:
    """The difference between images whose label was moved and the others of the same network, by seed."""
    found = []
    for rows in whole:
        gaps = [
            differences(part[part.moved], part[~part.moved], ["top_k_intersection"])
            for _, part in rows[rows.share.between(0.01, 0.8)].groupby("share")
            if min(part.moved.sum(), (~part.moved).sum()) > 1
        ]
        if gaps and len(joined := pd.concat(gaps)) >= LEAST:
            found.append(float(joined.top_k_intersection.mean()))
    return found if len(found) > 1 else []


def _written(values: Sequence[float] | np.ndarray) -> str:
    mean, low, high = map(float, mean_interval(np.asarray(values)))
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"
