"""Write docs/results.md, its figures and docs/results/main.json from the records of the experiments.

cosup experiment recipes/experiments/main.yaml --records docs/results/records          (and each of the analyses)
python benchmarks/results_page.py --records docs/results/records

What stands below the line `<!-- notes -->` of the page is kept as it is. The main table and its figure go into the
README too, between `<!-- results -->` and `<!-- /results -->`.

A record is found by the contents of the data and models, so that those have to be at hand. docs/results/steps.json
notes which record is of which step: with `--as-noted` the page is made from the repository alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cosup.data.writing import write_json
from cosup.evaluation.report_text import markdown_table, with_interval
from cosup.experimenting import axis_of, main_json, spaces_by_name
from cosup.experiments import figures
from cosup.experiments.plan import Experiment, load_experiment
from cosup.experiments.run import read_records, record_of, steps_of
from cosup.experiments.table import (
    COLUMNS,
    Differences,
    SystemScores,
    cell_of,
    collect,
    difference_lines,
    differences,
    group_names,
    markdown,
)

MAIN = Path("recipes/experiments/main.yaml")
ANALYSES = Path("recipes/experiments/analyses")
ORDER = (
    "writing",
    "tuning",
    "search",
    "lambda",
    "embedder",
    "passages",
    "negatives",
    "similarity",
    "masking",
    "start",
    "geometry",
)
NOTES = "<!-- notes -->"
START, END = "<!-- results -->", "<!-- /results -->"
APPENDIX = "answer_passage_precision"
NOTED = "steps.json"
Noted = dict[str, dict[str, str]]  # addresses of records, by experiment and by system and seed


@dataclass(frozen=True)
class Measured:
    """An experiment with what has been measured of it."""

    experiment: Experiment
    records: list[dict[str, Any]]
    addresses: dict[str, str]  # of the records, by system and seed

    @property
    def systems(self) -> list[SystemScores]:
        """Its systems' scores."""
        return collect(self.records)

    @property
    def command(self) -> str:
        """The command that measures it."""
        scale = self.experiment.scale
        return f"cosup experiment {self.experiment.path}" + ("" if scale is None else f" --scale {scale}")


def main() -> None:
    """Read the records and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--records", type=Path, default=Path("docs/results/records"), help="folder of records")
    parser.add_argument("--scale", help="scale that they were made at")
    parser.add_argument("--page", type=Path, default=Path("docs/results.md"), help="page to write")
    parser.add_argument("--readme", type=Path, default=Path("README.md"), help="file whose main table is renewed")
    parser.add_argument("--as-noted", action="store_true", help="take the records that steps.json names")
    found = parser.parse_args()
    folder = found.page.with_suffix("")
    notes_file = found.records.parent / NOTED
    noted = json.loads(notes_file.read_text(encoding="utf-8")) if found.as_noted else None
    paths = [MAIN, *(path for name in ORDER if (path := ANALYSES / f"{name}.yaml").is_file())]
    whole, *parts = [_measured(path, found.scale, found.records, noted) for path in paths]
    if not whole.records:
        parser.error(f"no record of {MAIN} in {found.records}")
    lines = _main(whole, folder)
    for own in parts:
        if len(own.records) > 1 or any("geometry" in record for record in own.records):
            lines += _analysis(own, own.experiment.path.stem, folder)
    if noted is None:
        write_json(notes_file, {str(own.experiment.path): own.addresses for own in (whole, *parts) if own.addresses})
    if found.readme.is_file():
        found.readme.write_text(
            _with_table(found.readme.read_text(encoding="utf-8"), whole, found.page), encoding="utf-8"
        )
    notes = found.page.read_text(encoding="utf-8").partition(NOTES)[2] if found.page.is_file() else "\n"
    found.page.write_text("\n".join([*lines, NOTES]) + notes, encoding="utf-8")


def _with_table(text: str, whole: Measured, page: Path) -> str:
    """Return the README with the main table as it is now."""
    before, begin, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not end:
        return text
    rows = [["average of the tasks, percent", "in figures", *COLUMNS]]
    rows += [[own.name, own.key, *(_value(own, column) for column in COLUMNS)] for own in whole.systems]
    found = differences(whole.systems, whole.experiment.comparisons)
    picture = f"![Averages of every system with 95% intervals]({page.with_suffix('').as_posix()}/systems.png)"
    lines = [
        "",
        *markdown_table(rows),
        "",
        *([f"Points, question by question with 95% intervals: {_told(found)}.", ""] if found else []),
        *_conditions(whole),
        f"More, and how to make it again: [{page}]({page}).",
        "",
        picture,
    ]
    return "\n".join([before + begin, *lines, end + after])


def _told(found: Differences, most: int = 2) -> str:
    """Return the first comparisons of all tasks in a sentence."""
    parts = []
    for (one, other), columns in list(found.items())[:most]:
        cells = [f"{c.column} {c.value:+.1f} [{c.low:+.1f}, {c.high:+.1f}]" for c in columns if c.group is None]
        parts.append(f"{one} minus {other}: {', '.join(cells)}")
    return "; ".join(parts)


def _value(own: SystemScores, column: str) -> str:
    value, _ = cell_of(own, column)
    return "" if value is None else f"{value:.1f}"


def _measured(path: Path, scale: str | None, records: Path, noted: Noted | None) -> Measured:
    """Read the records of an experiment: those of the inputs' addresses, or those that are noted."""
    experiment = load_experiment(path, scale)
    steps = {f"{step.system.key}, seed {step.seed}": step for step in steps_of(experiment)}
    if noted is not None:
        addresses = noted.get(str(path), {})
        if gone := ", ".join(name for name in addresses if name not in steps):
            raise SystemExit(f"error: {NOTED} notes records of {path} that are none of its steps: {gone}")
        steps = {n: replace(s, record=records / f"{addresses[n]}.json") for n, s in steps.items() if n in addresses}
    else:
        addresses = {name: step.address for name, step in steps.items() if record_of(step, records) is not None}
    return Measured(experiment, read_records(list(steps.values()), records), addresses)


def _main(whole: Measured, folder: Path) -> list[str]:
    systems, experiment = whole.systems, whole.experiment
    found = differences(systems, experiment.comparisons)
    folder.mkdir(parents=True, exist_ok=True)
    record = main_json(experiment, whole.records, systems, found)
    write_json(folder / "main.json", record)
    figures.draw_systems(systems, folder / "systems.png")
    figures.draw_groups(systems, folder / "groups.png")
    figures.draw_if_retrieved(systems, folder / "if_retrieved.png")
    return [
        "# Does co-supervision beat each supervision alone?",
        "",
        "Written by `benchmarks/results_page.py` from recorded runs, but for the notes at the end.",
        "",
        *_conditions(whole),
        "",
        markdown(systems, found).rstrip(),
        "",
        f"![Averages of every system with 95% intervals]({folder.name}/systems.png)",
        "",
        "### In domain and out of domain",
        "",
        f"![Averages within both groups of tasks]({folder.name}/groups.png)",
        "",
        "### Answers that rest on what was retrieved",
        "",
        "`correctness if retrieved` counts an answer only where a right passage was retrieved (the paper's Figure 3);",
        "the rest is what the generator knew, or guessed, by itself.",
        "",
        f"![Correctness, and the part of it with the right passage]({folder.name}/if_retrieved.png)",
        "",
        *_columns(systems, ("correctness", "correctness_if_retrieved")),
        "",
        "### Appendix: the paper's retrieval precision",
        "",
        "The share of the retrieved passages that hold an answer, right passage or not; of tasks with short answers.",
        "",
        *_columns(systems, (APPENDIX,)),
        "",
    ]


def _analysis(own: Measured, name: str, folder: Path) -> list[str]:
    systems, experiment = own.systems, own.experiment
    question = experiment.path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
    picture = folder / f"{name}.png"
    if axis := axis_of(experiment, systems):
        figures.draw_axis(systems, *axis, picture)
    else:
        figures.draw_systems(systems, picture)
    lines = [f"## {name.capitalize()}", "", question, "", *_conditions(own), ""]
    lines += [*_columns(systems, COLUMNS, groups=True), "", f"![{question}]({folder.name}/{name}.png)", ""]
    lines += [*difference_lines(differences(systems, experiment.comparisons)), ""] if experiment.comparisons else []
    names = {system.key: system.name for system in experiment.systems}
    if spaces := spaces_by_name(names, own.records):
        figures.draw_geometry(spaces, folder / "geometry-steps.png")
        figures.draw_projection(spaces, folder / "geometry-projection.png")
        lines += [*_geometry(spaces), ""]
        lines += [f"![Measures of both spaces over training]({folder.name}/geometry-steps.png)", ""]
        lines += [f"![Both spaces in two dimensions]({folder.name}/geometry-projection.png)", ""]
    return lines


def _conditions(own: Measured) -> list[str]:
    """Return what was run, where, and at what size."""
    experiment, first = own.experiment, own.records[0]
    training, tasks = first["trainings"][0]["recipe"]["training"], experiment.suite.tasks
    per_step = training["per_device_train_batch_size"]
    size = f"{training['max_steps']} steps" if training.get("max_steps") else f"{training['num_train_epochs']} epochs"
    questions = sum(len(first["scores"][task.name]) for task in tasks)
    pools = [task.pool for task in tasks if task.pool is not None]
    pool = f"at most {max(pools)} passages a task" if pools else "whole corpora"
    seeds = ", ".join(map(str, sorted({record["seed"] for record in own.records})))
    trained = ", ".join(sorted({str(t.get("commit")) for record in own.records for t in record["trainings"]}))
    scored = ", ".join(sorted({str(record["commit"]) for record in own.records}))
    machines = "; ".join(sorted({record["hardware"] for record in own.records}))
    counted = f"{len(own.records)} of {sum(1 for _ in experiment.runs())} runs (seeds {seeds})"
    return [
        f"`{own.command}`: {counted}, {size} of {per_step} questions each, {questions} questions of {len(tasks)} tasks,"
        f" {pool}. {machines}; trained at commit {trained}, scored at {scored}; {_hours(own.records):.1f} hours.",
    ]


def _hours(records: Sequence[Mapping[str, Any]]) -> float:
    """Return how long training, once for what several systems share, and measuring took."""
    trained = {own["folder"]: _seconds(own) for record in records for own in record["trainings"]}
    return (sum(trained.values()) + sum(float(record["seconds"]) for record in records)) / 3600


def _seconds(training: Mapping[str, Any]) -> float:
    return float(training.get("seconds", training["metrics"].get("train_runtime", 0)))


def _columns(systems: Sequence[SystemScores], columns: Sequence[str], groups: bool = False) -> list[str]:
    rows = [["system", *(column.replace("_", " ") for column in columns)]]
    rows += [[own.name, *(_cell(own, column) for column in columns)] for own in systems]
    lines = markdown_table(rows)
    for group in group_names(systems[0]) if groups else ():
        rows = [[group, *columns], *([own.name, *(_cell(own, c, group) for c in columns)] for own in systems)]
        lines += ["", *markdown_table(rows)]
    return lines


def _cell(own: SystemScores, column: str, group: str | None = None) -> str:
    value, ends = cell_of(own, column, group)
    return "" if value is None else with_interval(value, ends)


def _geometry(spaces: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    names = ("alignment", "uniformity_states", "uniformity_passages", "rank_states", "rank_passages", "gap", "recall@1")
    rows = [["system", "step", *names]]
    for label, found in spaces.items():
        rows += [[label, str(r["step"]), *(f"{r[name]:.2f}" for name in names)] for r in found]
    return markdown_table(rows)


if __name__ == "__main__":
    main()
