"""What was measured: a report, an experiment, a suite."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cosup.errors import InputError
from cosup.info.base import Info, Rows, json_object, shown


def results_info(folder: Path) -> Info:
    """Describe a folder with a report."""
    parts = [(name, "there") for name in ("model", "index") if (folder / name).is_dir()]
    return Info("results folder", (*parts, *report_rows(folder / "report.json")))


def experiment_info(folder: Path) -> Info:
    """Describe the output folder of an experiment: what it compares, and each system's averages so far."""
    record = json_object(folder / "main.json")
    settings, systems = _part(record, "settings", folder / "main.json"), _part(record, "systems", folder / "main.json")
    names = ("experiment", "scale")
    rows = [(name, shown(settings[name])) for name in names if settings.get(name) is not None]
    rows.append(("tasks", shown(list(settings.get("limit", {})))))
    rows.append(("runs", f"{len(settings.get('runs', []))} measured"))
    rows += [(f"system {key}", _system(own)) for key, own in systems.items()]
    return Info("experiment, averages over its tasks in percent", (*rows, ("tables", str(folder / "main.md"))))


def suite_info(folder: Path) -> Info:
    """Describe the output folder of a suite: its tasks and their averages."""
    record = json_object(folder / "suite.json")
    settings, tasks = _part(record, "settings", folder / "suite.json"), _part(record, "tasks", folder / "suite.json")
    rows = [(name, shown(value)) for name, value in settings.items()]
    rows.append(("tasks", shown([f"{name} ({task['count']:,})" for name, task in tasks.items()])))
    rows += [(name, _percents(sides)) for name, sides in _part(record, "averages", folder / "suite.json").items()]
    return Info("suite, averages over its tasks in percent", (*rows, ("table", str(folder / "suite.md"))))


def _part(record: Mapping[str, Any], name: str, path: Path) -> Mapping[str, Any]:
    found = record.get(name)
    if isinstance(found, Mapping):
        return found
    raise InputError(f"no '{name}'; expected what 'cosup experiment' or 'cosup evaluate --suite' writes", path)


def _system(own: Mapping[str, Any]) -> str:
    seeds = shown(own.get("seeds", []))
    return f"{own.get('name')} (seed{'s' if ',' in seeds else ''} {seeds}): {_percents(own.get('average', {}))}"


def _percents(figures: Mapping[str, float | None]) -> str:
    return ", ".join(f"{name} {'-' if value is None else format(value, '.1f')}" for name, value in figures.items())


def report_rows(path: Path) -> Rows:
    """Return the figures of a `report.json` and what it was measured with; it is checked."""
    report = _report(path)
    metrics, settings = report.get("metrics"), report.get("settings", {})
    if not isinstance(metrics, dict) or not isinstance(settings, dict) or "count" not in report:
        missing = "no 'metrics', 'count' and 'settings'; expected a report of 'cosup evaluate'"
        raise InputError(missing + _near_json(path, report), path)
    wrong = next((name for name, value in metrics.items() if not isinstance(value, int | float)), None)
    if wrong is not None:
        raise InputError(f"metrics.{wrong} is {metrics[wrong]!r}; expected a number", path)
    rows = [("questions", shown(report["count"]))]
    rows += [(name, f"{value:.1f}") for name, value in metrics.items()]
    return rows + [(f"settings.{name}", shown(value)) for name, value in settings.items()]


def _report(path: Path) -> dict[str, Any]:
    from cosup.data.jsonl import read_json

    record = read_json(path)
    if isinstance(record, dict):
        return record
    raise InputError("found no JSON object; expected a report of 'cosup evaluate'" + _near_json(path, record), path)


def _near_json(path: Path, record: Any) -> str:
    """Say what a JSON file that is no report is near to, and what to do with it."""
    parts = {
        "cosup.json": "a model folder",
        "index.json": "an index folder",
        "config.json": "a model folder",
        "tokenizer.json": "a model folder",
        "tokenizer_config.json": "a model folder",
        "trainer_state.json": "a checkpoint",
        "metrics.json": "a run folder",
        "main.json": "an experiment's folder",
        "suite.json": "a suite's folder",
    }
    if path.name in parts:
        return f"; this is a part of {parts[path.name]}: give {path.parent}"
    first = record[0] if isinstance(record, list) and record else record
    fields = set(first) if isinstance(first, dict) else set()
    if "data" in fields and isinstance(first["data"], list):
        return f"; it looks like SQuAD: cosup convert squad {path} OUT"
    if "supporting_facts" in fields:
        return f"; it looks like HotpotQA: cosup convert hotpotqa {path} OUT"
    if isinstance(record, list) and {"text", "question", "prompt"} & fields:
        return "; it looks like data in one list: cosup reads JSONL, one object a line"
    if "model_type" in fields:
        return "; it looks like a model's configuration: give the model's folder"
    return ""
