"""What a recorded result carries beside its figures: commit, versions, hardware; and the address of its inputs."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cosup.data.paths import looked_up
from cosup.index.base import file_checksum
from cosup.version import __version__

ADDRESS = 16  # hexadecimal digits


def address_of(record: Mapping[str, Any], files: Iterable[str | Path]) -> str:
    """Return the address of what is made from settings and files: the same inputs give the same one, anywhere.

    Args:
        record: as JSON; what JSON cannot hold counts by its text.
        files: files and folders, by content; what is neither (a hub id) counts by its name.
    """
    contents = {str(i): _content(Path(file)) for i, file in enumerate(files)}
    text = json.dumps({"record": record, "files": contents}, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:ADDRESS]


def provenance() -> dict[str, Any]:
    """Return commit, versions and hardware of this process."""
    packages = ("torch", "transformers", "accelerate", "peft", "faiss-cpu")
    return {
        "commit": commit(),
        "versions": {"cosup": __version__, "python": platform.python_version(), **{p: version(p) for p in packages}},
        "hardware": hardware(),
    }


def commit() -> str | None:
    """Return the commit of the sources, with `+` where they were changed since, or None outside of a repository."""
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def hardware() -> str:
    """Return the names of the GPUs, else of the processor."""
    import torch  # not at the top: what measures memory without it asks for the processor alone

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return processor()


def processor() -> str:
    """Return the processor's name and the number of cores that this process may use."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{names[0] if names else platform.processor()}, {cores} cores"


def _content(path: Path) -> Any:
    if looked_up(path).is_file():
        return _checksum(path, (path.stat().st_mtime_ns, path.stat().st_size))
    if path.is_dir():
        return {str(p.relative_to(path)): _content(p) for p in sorted(path.rglob("*")) if p.is_file()}
    return str(path)


@lru_cache(maxsize=1024)
def _checksum(path: Path, _state: tuple[int, int]) -> str:
    """Return a file's checksum, once as long as its time and size stay the same."""
    return file_checksum(path)
