"""The report of an audit: one HTML file that needs nothing else, and report.json."""

import json
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import jinja2
import pandas as pd

from fragility.attribution import importance
from fragility.audit.measure import ATTACKS, Clock, Setting
from fragility.audit.summary import by_image, sentences
from fragility.data.png import read_pixels
from fragility.page import embedded

CARDS = 12  # images in the gallery
BARS = {"noise": "random noise, one try", "draws": "random noise, worst of {}", "worst": "worst found"}
FILES = ["image", "method", "measure", "epsilon", "budget", "label_kept", "confidence_before", "confidence_after",
         "distance", "top_k_intersection", "spearman", "center_shift", "file"]  # fmt: skip


def write(setting: Setting, rows: pd.DataFrame, summary: dict[str, Any], clock: Clock) -> None:
    """Write report.html and report.json into the folder of an audit.

    Args:
        setting: what was audited.
        rows: of the audit.
        summary: of `fragility.audit.summary.summarise`, with `title` and `class_names`; `sentences` are added.
        clock: when it is up the gallery ends.
    """
    summary["sentences"] = sentences(summary)
    plain = json.loads(json.dumps(summary), parse_constant=lambda name: None)  # JSON has no NaN
    (setting.folder / "report.json").write_text(f"{json.dumps(plain, indent=1)}\n", encoding="utf-8")
    content: dict[str, Any] = {"first": None, "cards": [], "frame": ()}
    if summary["cells"]:
        cell = content["first"] = summary["cells"][0]
        frame = by_image(rows[(rows.method == cell["method"]) & (rows.epsilon == cell["epsilon"])])
        frame = content["frame"] = frame.sort_values("worst_top_k_intersection")
        counted = frame[frame.correct != "no"]
        example = content["example"] = str(counted.index[len(counted) // 2])
        content["pictures"] = _pictures(setting, example, cell["method"], counted.file.loc[example])
        content["bars"] = [
            (kind, title.format(cell["draws"]), 1 - cell[column]["mean"], [1 - value for value in counted[column]])
            for kind, title in BARS.items() if cell.get(column := f"{kind}_top_k_intersection")
        ]  # fmt: skip
        content["cards"] = list(_cards(setting, summary, cell["method"], frame.head(CARDS), clock))
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {"percent": "{:.0%}".format, "interval": _interval}
    source = files("fragility.audit").joinpath("report.html").read_text(encoding="utf-8")
    content["files"] = rows[rows.measure.isin(ATTACKS)].head(200)[FILES]
    text = environment.from_string(source).render(summary | content)
    (setting.folder / "report.html").write_text(text, encoding="utf-8")


def _pictures(setting: Setting, name: str, method: str, file: Any) -> dict[str, str]:
    """Two images and their maps, and the change, as addresses that hold them."""
    place = setting.images.names.index(name)
    before, label = setting.images.pixels[place], setting.predicted([place])
    after = read_pixels(setting.folder / file, len(before)).to(before) if isinstance(file, str) else before
    explain = setting.methods[method].judge
    maps = [importance(explain(setting.model, x.unsqueeze(0), label).detach())[0] for x in (before, after)]
    largest = (after - before).abs().max().clamp_min(1e-9)
    pictures = {"before": before, "after": after, "change": ((after - before) / (2 * largest) + 0.5).clamp(0, 1)}
    return {key: embedded(x) for key, x in {**pictures, "map": maps[0], "map_after": maps[1]}.items()}


def _cards(
    setting: Setting, summary: dict[str, Any], method: str, frame: pd.DataFrame, clock: Clock
) -> Iterator[dict[str, Any]]:
    """What the gallery shows of each image, as long as there is time: a tenth more than was given."""
    until = max(clock.now(), clock.limit) + clock.limit / 10
    for name, line in frame.iterrows():
        if clock.now() > until:
            return
        label = int(setting.predicted([setting.images.names.index(str(name))]))
        answer = summary["class_names"][label] if summary["class_names"] else f"class {label}"
        lost = f"{1 - line.worst_top_k_intersection:.0%} replaced"
        note = lost if isinstance(line.file, str) else "no attack kept the answer here"
        note += "; the label says another class: not counted above" if line.correct == "no" else ""
        yield {"title": f"{name}: {answer}", "note": note} | _pictures(setting, str(name), method, line.file)


def _interval(found: dict[str, float] | float | None, digits: int = 2) -> str:
    """A mean with its interval, or a factor."""
    if not isinstance(found, dict):
        return "-" if found is None else f"{found:.1f} x"
    ends = f" [{found['low']:.{digits}f}, {found['high']:.{digits}f}]" if "low" in found else ""
    return f"{found['mean']:.{digits}f}{ends}"
