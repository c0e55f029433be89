"""What every record carries: command, commit, hardware and the versions of the libraries."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from cosup.experiments.provenance import commit, processor


def about(words: Sequence[str], device: str = "cpu", known_commit: str | None = None) -> dict[str, Any]:
    """Return what every record carries: command, commit, hardware and the versions of the libraries.

    Args:
        words: the command's, the script first.
        device: what was trained on.
        known_commit: commit where git cannot be asked.
    """
    command = shlex.join(["python", *words])
    versions = {name: version(name) for name in ("torch", "transformers")}
    return {"command": command, "commit": known_commit or commit(), "hardware": machine(device), "versions": versions}


def machine(device: str = "cpu") -> str:
    """Return the name of the machine, with its GPU where that is used."""
    if device != "cuda":
        return processor()
    import torch

    return f"{torch.cuda.get_device_name()}; {processor()}"
