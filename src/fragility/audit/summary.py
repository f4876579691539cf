"""What an audit's rows amount to: per method and epsilon, with intervals over the images, and in three sentences."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from fragility.audit.measure import ATTACKS, SETTLED, STUDY, Setting
from fragility.interval import mean_interval
from fragility.study.piece import Piece

KINDS = {"noise": "noise", "draws": "draws", "sampling": "sampled", "climb": "climbed", "top_k": "worst",
         "mass_center": "worst"}  # fmt: skip
UNCHANGED = {"top_k_intersection": 1.0, "recall": 1.0, "spearman": 1.0, "center_shift": 0.0, "relative_change": 0.0,
             "lipschitz": 0.0}  # fmt: skip


def by_image(rows: pd.DataFrame) -> pd.DataFrame:
    """Sum up the rows of one method and epsilon, a line per image: noise, the best draw, the worst found, samples.

    An image whose label nothing kept counts as unchanged: an attack that has found nothing has found nothing.

    Args:
        rows: of an audit.

    Returns:
        Columns such as `worst_top_k_intersection`, for the images that were attacked and have all that was reached.
    """
    kept = rows.label_kept.astype(bool)
    still = rows.assign(**{name: rows[name].where(kept, value) for name, value in UNCHANGED.items()})
    how = {name: "min" if value else "max" for name, value in UNCHANGED.items()}
    frame = still.groupby(["image", still.measure.map(KINDS).rename("kind")], sort=False).agg(how).unstack()
    frame.columns = pd.Index([f"{kind}_{name}" for name, kind in frame.columns])
    found = rows[kept & rows.measure.isin(ATTACKS)].sort_values("top_k_intersection").groupby("image")
    frame = frame.join(found.file.first()).join(rows.groupby("image").agg({"correct": "first", "fidelity": "mean"}))
    reached = [name for kind in ("noise", "draws", "worst") if (name := f"{kind}_top_k_intersection") in frame]
    return frame.dropna(subset=reached).reindex(pd.unique(rows.image)).dropna(subset=reached)


def _mean(values: pd.Series, bounded: bool) -> dict[str, float | int] | None:
    """A mean with its interval, or nothing."""
    values = values.dropna()
    if values.empty:
        return None
    found: dict[str, float | int] = {"mean": float(values.mean()), "n": len(values)}
    if len(values) > 1:
        _, low, high = map(float, mean_interval(values.to_numpy()))
        found |= {"low": max(0.0, low) if bounded else low, "high": min(1.0, high) if bounded else high}
    return found


def _steps(rows: pd.DataFrame, column: str, scale: float) -> dict[str, Any]:
    """The most steps, and by how much the last doubling moved the mean of the same images."""
    wide = rows.pivot_table(index="image", columns="budget", values=column)
    most = int(wide.columns.max())
    found: dict[str, Any] = {"steps": most, "moved": None, "settled": False}
    if most // 2 in wide:
        pairs = wide[[most // 2, most]].dropna()
        moved = abs(float((pairs[most] - pairs[most // 2]).mean())) / scale
        found |= {"moved": moved, "settled": moved < SETTLED}
    return found


def _cell(rows: pd.DataFrame, setting: Setting) -> dict[str, Any]:
    """One method at one epsilon; nothing where no attack was reached."""
    method, frame = setting.methods[rows.method.iloc[0]], by_image(rows)
    if not len(frame) or "worst_top_k_intersection" not in frame:
        return {}
    cell: dict[str, Any] = {"method": method.name, "title": method.title, "helps": method.helps}
    cell |= {"epsilon": float(rows.epsilon.iloc[0]), "n": len(frame)}
    numbers = frame.select_dtypes(float)
    cell |= {name: _mean(numbers[name], name.endswith(("intersection", "recall"))) for name in numbers}
    for name in ("relative_change", "lipschitz"):
        if f"sampled_{name}" in frame:
            most = frame.filter(regex=f"^(worst|climbed)_{name}$").max(axis=1)
            ratio = (most / frame[f"sampled_{name}"]).replace([np.inf, -np.inf], np.nan).dropna()
            cell[f"understated_{name}"] = float(ratio.median()) if len(ratio) else None
    diagonal = float(np.hypot(*setting.images.pixels.shape[2:]))
    columns = {"top_k": ("top_k_intersection", 1.0), "mass_center": ("center_shift", diagonal)}
    attacked = {name: rows[rows.measure == name] for name in ATTACKS}
    cell["attacks"] = {name: _steps(some, *columns[name]) for name, some in attacked.items() if len(some)}
    draws = rows[rows.measure == "draws"]
    cell["climbed"] = "climb" in set(rows.measure)
    return cell | {"draws": int(draws.groupby("image").budget.sum().max()) if len(draws) else 0}


def summarise(
    setting: Setting, rows: pd.DataFrame, checks: Sequence[str], missing: Sequence[Piece], minutes: float | None,
    record: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Sum an audit up as plain data, the content of report.json.

    Args:
        setting: what was audited.
        rows: all of them.
        checks: sentences.
        missing: pieces that were not reached.
        minutes: the limit.
        record: how the rows came about.

    Returns:
        The summary; `cells` begins with the method and epsilon of the first screen.
    """
    groups = rows[rows.correct != "no"].groupby(["method", "epsilon"], sort=False)
    cells = [cell for _, group in groups if (cell := _cell(group, setting))]
    late: dict[str, dict[str, None]] = {}
    for piece in missing:
        listed = late.setdefault(f"{setting.methods[piece['method']].title} at {piece['epsilon']:g}/255", {})
        listed[f"{piece['measure'].replace('_', '-')} of {piece['budget']}"] = None
    sessions = [
        {**session, "seconds": round(sum(session["seconds"].values()), 1)}
        for session in record["sessions"] if session["seconds"]
    ]  # fmt: skip
    return {
        "schema": "fragility-audit/1",
        "images": len(setting.images.names),
        "measured": int(rows.image.nunique()),
        "misclassified": int(rows[rows.correct == "no"].image.nunique()),
        "size": list(setting.images.pixels.shape[2:]),
        "source": setting.images.source,
        "left_out": list(setting.images.left_out),
        "minutes": minutes,
        "beta": setting.beta,
        "checks": list(checks),
        "cells": cells,
        "not_reached": {key: list(listed) for key, listed in late.items()},
        "columns": {name: meaning for name, (_, meaning) in STUDY.columns.items()},
        "provenance": {**{key: record[key] for key in ("parameters", "inputs")}, "sessions": sessions},
    }


def sentences(summary: dict[str, Any]) -> list[str]:
    """Say in three sentences with numbers what was found, for someone outside of the field.

    Args:
        summary: of `summarise`.

    Returns:
        Sentences: what can be done to the explanation, what noise shows of it, and what to expect.
    """
    if not summary["cells"]:
        return [
            "No explanation of an image that the model gets right was attacked in the time given: allow more minutes; "
            "below stands what was checked, and what was not reached."
        ]
    cell = summary["cells"][0]
    kept, n = cell["worst_top_k_intersection"]["mean"], cell["n"]
    images = "one image was" if n == 1 else f"{n} images were"
    first = (
        f"{images[0].upper()}{images[1:]} changed by at most {cell['epsilon']:g} of 255 levels a pixel, and the "
        f"model's answer stayed the same; but {1 - kept:.0%} of the pixels that its explanation had called most "
        "important no longer were."
    )
    noise, draws = cell.get("noise_top_k_intersection"), cell.get("draws_top_k_intersection")
    second = "How much random noise of the same size changes was not reached in the time given."
    if noise:
        second = f"Random noise of the same size replaced {1 - noise['mean']:.0%} of them"
        if draws:
            second += f", and the worst of {cell['draws']} random tries {1 - draws['mean']:.0%}"
        if factor := cell.get("understated_relative_change"):
            how = "a search for just that" if cell["climbed"] else "the images found here"
            second += f"; the usual sampling test saw the map move {1 / factor:.0%} as far as {how} did"
        second += "."
    left = f"{kept:.0%}" if kept >= 0.005 else "nothing"
    third = (
        f"So where somebody may have touched the image, count on {left} of what this explanation points at"
        + (f", and on {noise['mean']:.0%} where only chance has" if noise else "")
        + "; a longer search may leave less."
    )
    return [first, second, third]
