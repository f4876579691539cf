"""What an audit's rows amount to: per method and epsilon, with intervals over the images, and in three sentences."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from fragility.audit.measure import COLUMNS, SETTLED, Setting, most_important
from fragility.interval import mean_interval
from fragility.study.piece import Piece

SCHEMA = "fragility-audit/1"
ATTACKS = ("top_k", "mass_center")
UNCHANGED = {"top_k_intersection": 1.0, "recall": 1.0, "spearman": 1.0, "center_shift": 0.0, "relative_change": 0.0}


def by_image(rows: pd.DataFrame) -> pd.DataFrame:
    """Sum up the rows of one method and epsilon, a line per image: noise, the best draw, the worst found, samples.

    An image whose label no attack kept counts as unchanged: an attack that has found nothing has found nothing.

    Args:
        rows: of an audit.

    Returns:
        Columns such as `worst_top_k_intersection`; NaN where a measure was not reached.
    """
    lines = {}
    for image, group in rows.groupby("image", sort=False):
        kept = group[group.label_kept.astype(bool)]
        line: dict[str, Any] = {"correct": group.correct.iloc[0]}
        for name, measures in {"noise": ("noise",), "draws": ("draws",), "worst": ATTACKS}.items():
            there, found = group[group.measure.isin(measures)], kept[kept.measure.isin(measures)]
            if there.empty:
                continue
            for column, unchanged in UNCHANGED.items():
                lowest = "min" if unchanged else "max"
                line[f"{name}_{column}"] = getattr(found[column], lowest)() if len(found) else unchanged
            line[f"{name}_lipschitz"] = found.lipschitz.max() if len(found) else 0.0
        if len(sampled := group[group.measure == "sampling"]):
            line |= {f"sampled_{name}": sampled[name].max() for name in ("relative_change", "lipschitz")}
        attacked = kept[kept.measure.isin(ATTACKS)].sort_values("top_k_intersection")
        line["file"] = attacked.file.iloc[0] if len(attacked) else ""
        line["fidelity"] = group.fidelity.mean()
        lines[image] = line
    return pd.DataFrame.from_dict(lines, orient="index")


def _mean(values: pd.Series) -> dict[str, float | int] | None:
    """A mean with its interval, or nothing."""
    values = values.dropna()
    if values.empty:
        return None
    found: dict[str, float | int] = {"mean": float(values.mean()), "n": len(values)}
    if len(values) > 1:
        _, low, high = mean_interval(values.to_numpy())
        bounded = values.between(0, 1).all()
        found |= {"low": max(0.0, float(low)) if bounded else float(low)}
        found |= {"high": min(1.0, float(high)) if bounded else float(high)}
    return found


def _cell(rows: pd.DataFrame, setting: Setting) -> dict[str, Any]:
    """One method at one epsilon."""
    name, epsilon = rows.method.iloc[0], rows.epsilon.iloc[0]
    method = setting.methods[name]
    frame = by_image(rows[rows.correct != "no"])
    cell: dict[str, Any] = {"method": name, "title": method.title, "helps": method.helps, "epsilon": float(epsilon)}
    names = [c for c in frame.columns if c.split("_", 1)[0] in ("noise", "draws", "worst", "sampled")]
    cell |= {column: _mean(frame[column]) for column in (*names, "fidelity")}
    for column in ("relative_change", "lipschitz"):
        if f"sampled_{column}" in frame and f"worst_{column}" in frame:
            ratio = (frame[f"worst_{column}"] / frame[f"sampled_{column}"]).replace([np.inf, -np.inf], np.nan).dropna()
            cell[f"understated_{column}"] = float(ratio.median()) if len(ratio) else None
    steps = {}
    for measure in ATTACKS:
        column = "top_k_intersection" if measure == "top_k" else "center_shift"
        group = rows[rows.measure == measure]
        means = group.groupby("budget")[column].mean()
        if len(means) == 0:
            continue
        scale = 1.0 if measure == "top_k" else float(np.hypot(*setting.images.pixels.shape[2:]))
        moved = float(abs(means.iloc[-1] - means.iloc[-2])) / scale if len(means) > 1 else None
        steps[measure] = {
            "steps": int(means.index[-1]),
            "moved": moved,
            "settled": moved is not None and moved < SETTLED,
        }
    draws = rows[rows.measure == "draws"].budget
    return cell | {"attacks": steps, "draws": int(draws.max()) if len(draws) else 0}


def summarise(
    setting: Setting,
    rows: pd.DataFrame,
    checks: Sequence[str],
    missing: Sequence[Piece],
    minutes: float | None,
    record: dict[str, Any],
) -> dict[str, Any]:
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
    wrong = rows[rows.correct == "no"].image.nunique()
    cells = [_cell(group, setting) for _, group in rows.groupby(["method", "epsilon"], sort=False) if _usable(group)]
    order = list(setting.methods)
    cells.sort(key=lambda cell: (order.index(cell["method"]), -cell["epsilon"]))
    reached: dict[str, list[str]] = {}
    for piece in missing:
        key = f"{setting.methods[piece['method']].title} at {piece['epsilon']:g}/255"
        text = f"{piece['measure']} with {piece['budget']}"
        reached.setdefault(key, [])
        if text not in reached[key]:
            reached[key].append(text)
    side = setting.images.pixels.shape[2:]
    return {
        "schema": SCHEMA,
        "images": len(setting.images.names),
        "measured": int(rows.image.nunique()),
        "misclassified": int(wrong),
        "size": list(side),
        "k": most_important(setting.images.pixels[:, 0]),
        "source": setting.images.source,
        "left_out": list(setting.images.left_out),
        "minutes": minutes,
        "beta": setting.beta,
        "checks": list(checks),
        "cells": cells,
        "not_reached": reached,
        "columns": {name: meaning for name, (_, meaning) in COLUMNS.items()},
        "provenance": {**{key: record[key] for key in ("parameters", "inputs")}, "sessions": [
            {key: value for key, value in session.items() if key != "seconds"}
            | {"seconds": round(sum(session["seconds"].values()), 1)}
            for session in record["sessions"] if session["seconds"]
        ]},
    }  # fmt: skip


def _usable(rows: pd.DataFrame) -> bool:
    return bool((rows.correct != "no").any() and rows.measure.isin(ATTACKS).any())


def sentences(summary: dict[str, Any]) -> list[str]:
    """Say in three sentences what was found, for someone outside of the field.

    Args:
        summary: of `summarise`, with a title.

    Returns:
        Sentences: what can be done to the explanation, what noise would have shown, and what follows.
    """
    if not summary["cells"]:
        return ["The model was wrong about every image that was measured, so there was no explanation to audit."]
    cell = summary["cells"][0]
    worst, epsilon = cell["worst_top_k_intersection"], cell["epsilon"]
    lost, n = 1 - worst["mean"], worst["n"]
    images = "one image" if n == 1 else f"{n} images"
    first = (
        f"We changed {images}, each pixel by at most {epsilon:g} of 255 levels, "
        f"and the model's answer stayed the same; yet {lost:.0%} of the pixels that its explanation had called most "
        "important were no longer among them."
    )
    noise, draws = cell.get("noise_top_k_intersection"), cell.get("draws_top_k_intersection")
    second = "How much random noise of the same size changes was not reached in the time given."
    if noise:
        parts = [f"Random noise of the same size replaced {1 - noise['mean']:.0%}"]
        if draws:
            parts.append(f"and the worst of {cell['draws']} random tries {1 - draws['mean']:.0%}")
        second = ", ".join(parts)
        factor = cell.get("understated_relative_change")
        second += (
            f": the usual test with random samples understates how far the explanation can move, here by a factor of "
            f"{factor:.1f}." if factor and factor > 1 else "."
        )  # fmt: skip
    third = {
        "high": "So do not rest a decision about a single image on where this explanation points: a change as "
        "small as this can point it elsewhere.",
        "middle": "So this explanation is only partly steady: trust its rough outline, not its details.",
        "low": "So against what was tried this explanation is steady; that is evidence, not a proof, for a stronger "
        "attack may exist.",
    }["high" if lost > 0.5 else "middle" if lost > 0.2 else "low"]
    return [first, second, third]
