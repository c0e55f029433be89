"""Files are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cosup.data.writing import atomic_open, whole_file, write_json, write_jsonl, write_jsonl_files
from cosup.errors import InputError, UsageError
from cosup.records import Passage

GOOD = {"id": "1", "text": "é"}


def _failing() -> Iterator[dict[str, Any]]:
    yield GOOD
    raise KeyboardInterrupt


def test_records_and_dictionaries_become_utf8_lines(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "x.jsonl"
    assert write_jsonl(path, [GOOD, Passage("2", "T", "y")]) == 2
    assert path.read_bytes() == '{"id": "1", "text": "é"}\n{"id": "2", "title": "T", "text": "y"}\n'.encode()
    assert [p.name for p in path.parent.iterdir()] == ["x.jsonl"]


def test_a_new_file_has_the_rights_that_open_gives(tmp_path: Path) -> None:
    """Not those of a private temporary file."""
    write_jsonl(tmp_path / "x.jsonl", [GOOD])
    (tmp_path / "plain").touch()
    assert (tmp_path / "x.jsonl").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_an_interruption_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_jsonl(path, _failing())
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("x.jsonl", "old")]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800", {1, 2}, b"x"])
def test_what_json_cannot_hold_is_refused_and_nothing_written(value: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"x.jsonl: record 2 cannot be written as JSON"):
        write_jsonl(tmp_path / "x.jsonl", [GOOD, {"id": "2", "value": value}])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800", {1, 2}, b"x"])
def test_an_object_that_json_cannot_hold_is_refused_too(value: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"x.json: cannot be written as JSON"):
        write_json(tmp_path / "x.json", {"a": value})
    assert list(tmp_path.iterdir()) == []


def test_several_files_change_together_or_not_at_all(tmp_path: Path) -> None:
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    assert write_jsonl_files({a: [GOOD], b: [GOOD, GOOD]}) == {a: 1, b: 2}
    before = {path: path.read_text() for path in (a, b)}
    with pytest.raises(KeyboardInterrupt):
        write_jsonl_files({a: [], b: _failing()})
    assert {path: path.read_text() for path in tmp_path.iterdir()} == before


def test_a_text_is_a_line_of_its_own(tmp_path: Path) -> None:
    assert write_jsonl_files({tmp_path / "x.txt": iter(["a b", "é", GOOD])}) == {tmp_path / "x.txt": 3}
    assert (tmp_path / "x.txt").read_text(encoding="utf-8") == 'a b\né\n{"id": "1", "text": "é"}\n'


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "real.jsonl").write_text("old")
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "real.jsonl")
    write_jsonl(tmp_path / "link.jsonl", [GOOD])
    assert (tmp_path / "link.jsonl").is_symlink()
    assert "old" not in (tmp_path / "real.jsonl").read_text()


def test_a_folder_or_a_file_in_the_way_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for target in (tmp_path, tmp_path / "file" / "x.jsonl", Path(os.devnull)):
        with pytest.raises(UsageError, match="cannot write"), atomic_open(target):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(28, "No space left on device"), "no space left on device"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "no space left on device"),  # safetensors
        (PermissionError(13, "Permission denied"), "Permission denied"),
    ],
)
def test_a_failure_of_the_disk_is_told_and_leaves_nothing(error: Exception, told: str, tmp_path: Path) -> None:
    message = rf"cannot write .*x.jsonl: {told}; what was saved before is untouched"
    with pytest.raises(UsageError, match=message), atomic_open(tmp_path / "x.jsonl"):
        raise error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [InputError("2 values requested and 1 found"), RuntimeError("of another kind")])
def test_an_error_that_is_not_the_disks_stays_what_it_is(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(type(error), match=str(error)), atomic_open(tmp_path / "x.bin"):
        raise error
    assert list(tmp_path.iterdir()) == []


def test_file_and_folder_are_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss of power takes neither contents nor name: the file is synced before its renaming, the folder after."""
    synced: list[tuple[bool, bool]] = []
    real, place = os.fsync, tmp_path / "x.bin"

    def fsync(descriptor: int) -> None:
        synced.append((Path(f"/proc/self/fd/{descriptor}").is_dir(), place.exists()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with whole_file(place) as draft:
        draft.write_bytes(b"whole")
    assert synced == [(False, False), (True, True)]
