"""What `cosup experiment` does: show the plan of an experiment, or run what is not done and print the tables."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosup.errors import needs_extra
from cosup.shell import Shell

if TYPE_CHECKING:
    from cosup.experiments.plan import Experiment
    from cosup.experiments.run import Step
    from cosup.experiments.table import Differences, SystemScores
    from cosup.modeling import CoSupervisedModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Chosen:
    """What of which experiment is meant.

    Attributes:
        path: its file.
        scale: one of its scales, or None.
        overrides: keys of the recipe and their values as on a command line, for every system that does not set them.
        kept: folder of records that are taken and given; see `run_experiment`.
        precision: type of the weights in answering, where one was asked for.
    """

    path: Path
    scale: str | None = None
    overrides: Sequence[tuple[str, str]] = ()
    kept: Path | None = None
    precision: str | None = None

    def load(self) -> Experiment:
        """Read the experiment.

        Raises:
            UsageError, InputError: it cannot be used.
        """
        from cosup.data.yaml_files import parse_value
        from cosup.experiments.plan import load_experiment

        changes = {key: parse_value(key, text) for key, text in self.overrides}
        return load_experiment(self.path, self.scale, changes, self.precision)


def show_plan(shell: Shell, chosen: Chosen) -> None:
    """Print a line for each system and seed: what is done and where; nothing is loaded or written.

    Raises:
        UsageError, InputError: the experiment cannot be run as it is.
    """
    from cosup.experiments.run import record_of, steps_of

    steps = steps_of(chosen.load())
    found = [record_of(step, chosen.kept) for step in steps]
    records = [_step_record(step, record) for step, record in zip(steps, found, strict=True)]
    shell.tell({"steps": records}, map(_step_line, records))
    shell.note(f"{sum(record is not None for record in found)} of {len(steps)} done")


def _step_record(step: Step, found: Path | None) -> dict[str, Any]:
    """Return whether a step is done, where, and by which trainings."""
    from cosup.experiments.addresses import folder_of
    from cosup.experiments.run import is_trained

    return {
        "system": step.system.key,
        "seed": step.seed,
        "done": found is not None,
        "record": str(found or step.record),
        "trainings": [{"folder": str(folder_of(r)), "done": is_trained(r)} for r in step.trainings],
    }


def _step_line(step: Mapping[str, Any]) -> str:
    trained = ", ".join(f"{t['folder']} {'trained' if t['done'] else 'to train'}" for t in step["trainings"])
    return f"{step['system']}  seed {step['seed']}  {'done' if step['done'] else 'to do'}  {trained}  {step['record']}"


def run(shell: Shell, chosen: Chosen, load: Callable[[Path], CoSupervisedModel]) -> None:
    """Run an experiment and write `main.json` and `main.md` into its folder after every measurement.

    Args:
        shell: where the tables go.
        chosen: what to run.
        load: checks a model folder and loads it.

    Raises:
        UsageError, InputError: something cannot be used.
    """
    from cosup.experiments.run import run_experiment

    experiment = chosen.load()
    run_experiment(experiment, load, shell.progress, lambda records: write_tables(experiment, records), chosen.kept)
    tables = experiment.output / "main.md"
    if shell.as_json:
        shell.record(json.loads(tables.with_suffix(".json").read_text(encoding="utf-8")))
    else:
        shell.result(tables.read_text(encoding="utf-8").rstrip())
    pictures = [path.name for path in sorted(experiment.output.glob("*.png"))]
    shell.note(f"written: {', '.join([str(experiment.output / 'main.json'), 'main.md', *pictures])}")


def write_tables(experiment: Experiment, records: Sequence[Mapping[str, Any]]) -> None:
    """Write the tables and figures of what has been measured so far."""
    from cosup.data.writing import write_json, write_text
    from cosup.experiments.table import collect, differences, markdown

    systems = collect(records)
    found = differences(systems, experiment.comparisons)
    write_json(experiment.output / "main.json", main_json(experiment, records, systems, found))
    write_text(experiment.output / "main.md", markdown(systems, found))
    _draw(experiment, systems, records)


def main_json(
    experiment: Experiment,
    records: Sequence[Mapping[str, Any]],
    systems: Sequence[SystemScores],
    found: Differences,
) -> dict[str, Any]:
    """Return what `main.json` holds: the tables, and of each run its commit, versions, hardware and seconds."""
    from cosup.experiments.table import main_record

    settings = {
        "experiment": str(experiment.path),
        "scale": experiment.scale,
        "limit": {task.name: task.limit for task in experiment.suite.tasks},
        "pool": {task.name: task.pool for task in experiment.suite.tasks},
        "runs": [
            {key: record[key] for key in ("system", "seed", "axes", "commit", "versions", "hardware", "seconds")}
            for record in records
        ],
    }
    return main_record(systems, found, settings)


def axis_of(experiment: Experiment, systems: Sequence[SystemScores]) -> tuple[list[Any], str] | None:
    """Return the values and the name of the one axis that the experiment lies along, or None where it is not so.

    It is so if its systems, measured or not, have one axis and each a value of its own.
    """
    points = {system.key: system.axes for system in experiment.systems}
    known = {json.dumps(list(point.values())) for point in points.values() if len(point) == 1}
    if len(known) < len(points):
        return None
    return [next(iter(points[own.key].values())) for own in systems], next(iter(points[systems[0].key]))


def spaces_by_name(names: Mapping[str, str], records: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return the geometry of each record that has it, by the name of its system (and seed, where there are several)."""
    several = len({record["seed"] for record in records}) > 1
    return {
        names[record["system"]] + (f", seed {record['seed']}" if several else ""): record["geometry"]
        for record in records
        if record.get("geometry")
    }


def _draw(experiment: Experiment, systems: Sequence[SystemScores], records: Sequence[Mapping[str, Any]]) -> None:
    from cosup.experiments import figures

    if not figures.has_matplotlib():
        logger.warning(needs_extra("no figures: drawing", "plots", "matplotlib"))
        return
    folder, names = experiment.output, {own.key: own.name for own in experiment.systems}
    figures.draw_systems(systems, folder / "systems.png")
    figures.draw_groups(systems, folder / "groups.png")
    figures.draw_if_retrieved(systems, folder / "if_retrieved.png")
    if axis := axis_of(experiment, systems):
        figures.draw_axis(systems, *axis, folder / "axis.png")
    if spaces := spaces_by_name(names, records):
        figures.draw_geometry(spaces, folder / "geometry.png")
        figures.draw_projection(spaces, folder / "projection.png")
