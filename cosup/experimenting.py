"""What `cosup experiment` does: show the plan of an experiment, or run what is not done and print the tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosup.shell import Shell

if TYPE_CHECKING:
    from cosup.experiments.plan import Experiment
    from cosup.modeling import CoSupervisedModel


def show_plan(shell: Shell, path: Path, scale: str | None) -> None:
    """Print a line for each system and seed: what is done and where; nothing is loaded or written.

    Raises:
        UsageError, InputError: the experiment cannot be run as it is.
    """
    from cosup.experiments.plan import load_experiment
    from cosup.experiments.run import folder_of, is_trained, steps_of

    steps = steps_of(load_experiment(path, scale))
    for step in steps:
        trained = ", ".join(f"{folder_of(r)} {'trained' if is_trained(r) else 'to train'}" for r in step.trainings)
        state = "done" if step.done else "to do"
        shell.result(f"{step.system.key}  seed {step.seed}  {state}  {trained}  {step.record.parent}")
    shell.note(f"{sum(step.done for step in steps)} of {len(steps)} done")


def run(shell: Shell, path: Path, scale: str | None, load: Callable[[Path], CoSupervisedModel]) -> None:
    """Run an experiment and write `main.json` and `main.md` into its folder after every measurement.

    Args:
        shell: where the tables go.
        path: its file.
        scale: one of its scales, or None.
        load: checks a model folder and loads it.

    Raises:
        UsageError, InputError: something cannot be used.
    """
    from cosup.experiments.plan import load_experiment
    from cosup.experiments.run import run_experiment

    experiment = load_experiment(path, scale)
    run_experiment(experiment, load, shell.progress, lambda records: write_tables(experiment, records))
    shell.result((experiment.output / "main.md").read_text(encoding="utf-8").rstrip())
    shell.note(f"written: {experiment.output / 'main.json'}, main.md")


def write_tables(experiment: Experiment, records: Sequence[Mapping[str, Any]]) -> None:
    """Write the tables of what has been measured so far."""
    from cosup.data.writing import atomic_open
    from cosup.experiments.table import collect, differences, main_record, markdown

    systems = collect(records)
    found = differences(systems, experiment.comparisons)
    settings = {
        "experiment": str(experiment.path),
        "scale": experiment.scale,
        "limit": {task.name: task.limit for task in experiment.suite.tasks},
        "runs": [
            {key: record[key] for key in ("system", "seed", "commit", "versions", "hardware", "seconds")}
            for record in records
        ],
    }
    main = main_record(systems, found, settings)
    texts = {"main.json": json.dumps(main, ensure_ascii=False, indent=2) + "\n"}
    texts["main.md"] = markdown(systems, found)
    for name, text in texts.items():
        with atomic_open(experiment.output / name) as stream:
            stream.write(text)
