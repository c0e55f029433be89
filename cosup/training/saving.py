"""Checkpoints that are there whole or not at all, and the choice of the one to go on from.

A checkpoint is written beside its place, listed in `files.json` (names and sizes) and renamed into place as its last
step: a run that is killed, or meets a full disk, leaves older checkpoints as they were.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cosup.data.writing import sync_folder, untouched
from cosup.mishaps import disk_trouble

logger = logging.getLogger(__name__)

FILES = "files.json"
STATE = "trainer_state.json"


@contextmanager
def whole_folder(folder: Path, writes: bool = True, listed: bool = True) -> Iterator[Path]:
    """Give a draft folder to write into; at the end it takes the place of `folder`.

    Args:
        folder: where the result is to stand; an older folder there is replaced.
        writes: whether this process makes and places the folder (the others only write into it).
        listed: whether names and sizes of its files are written down in it.

    Raises:
        UsageError: the disk is full or cannot be written; the draft is removed, and `folder` is as it was.
    """
    draft = draft_of(folder)
    if writes:
        shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True, exist_ok=True)
        yield draft
        if writes:
            _to_disk(draft, listed)
            _place(draft, folder)
    except BaseException as error:
        if writes:
            shutil.rmtree(draft, ignore_errors=True)
        if (reason := disk_trouble(error)) is not None:
            raise untouched(folder, reason) from error
        raise


def draft_of(folder: Path) -> Path:
    """Return where `folder` is written before it is placed."""
    return folder.with_name(f".{folder.name}.draft")


def last_complete_checkpoint(folder: str | Path) -> Path | None:
    """Return the newest `checkpoint-N` of a run folder that is whole, or None; damaged ones are named in a warning."""
    numbered = [(int(p.name[11:]), p) for p in Path(folder).glob("checkpoint-*") if p.name[11:].isdigit()]
    for _, path in sorted(numbered, reverse=True):
        damage = damage_of(path)
        if damage is None:
            return path
        logger.warning("%s is damaged (%s); looking for an older checkpoint", path, damage)
    return None


def damage_of(checkpoint: Path) -> str | None:
    """Say what a checkpoint lacks: a file that is not there, one of another size, an unreadable state. None: whole."""
    try:
        json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return f"{STATE} is missing or unreadable"
    try:
        sizes = json.loads((checkpoint / FILES).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"{FILES} is missing"
    except ValueError:
        return f"{FILES} is unreadable"
    for name, size in sizes.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes, not {size}"
    return None


def remove_drafts(folder: Path) -> None:
    """Remove what a killed run has left half-written in a run folder; put back what it was about to replace."""
    for path in folder.glob(".*.older"):
        place = folder / path.name[1 : -len(".older")]
        if place.exists():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.rename(place)
    for path in folder.glob(".*.draft"):
        shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def _to_disk(folder: Path, listed: bool) -> None:
    """Bring every file to the disk and, if asked, write down its size."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    if not listed:
        return
    sizes = {p.relative_to(folder).as_posix(): p.stat().st_size for p in files}
    with (folder / FILES).open("w", encoding="utf-8") as file:
        json.dump(sizes, file, indent=2)
        file.flush()
        os.fsync(file.fileno())


def _place(draft: Path, folder: Path) -> None:
    older = folder.with_name(f".{folder.name}.older")
    if folder.exists():
        shutil.rmtree(older, ignore_errors=True)
        folder.rename(older)
    draft.rename(folder)
    shutil.rmtree(older, ignore_errors=True)
    sync_folder(folder.parent)
