"""The processes of a run, by the name that they had: see `cosup.processes`."""

from __future__ import annotations

from cosup.processes import barrier, gather_objects, leave, max_over, rank, sum_over, world_size

__all__ = ["barrier", "gather_objects", "leave", "max_over", "rank", "sum_over", "world_size"]
