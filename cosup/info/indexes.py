"""What an index holds, in a folder or in Milvus, and how well it finds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cosup.info.base import Info, Rows

if TYPE_CHECKING:
    from cosup.index.manifest import IndexManifest, StructureRecord


_SAMPLE = 1000  # passages of an index in Milvus that are looked at


def index_info(folder: Path, verify: bool = False) -> Info:
    """Describe an index folder; compare its files with their checksums where they are small, or `verify` is set."""
    from cosup.index.manifest import VERIFIED_ON_LOAD, IndexManifest

    manifest = IndexManifest.read(folder)
    manifest.check_sizes(folder)
    if verify or manifest.size <= VERIFIED_ON_LOAD:
        checked = f"verified, {manifest.verify(folder)} files"
    else:
        checked = "of sizes alone; --verify compares every byte"
    rows = [
        *index_rows(manifest),
        ("dimension", f"{manifest.dimension:,}, {manifest.vector_dtype}"),
        ("similarity", manifest.similarity),
        ("size", f"{manifest.size / 1e6:,.1f} MB"),
        ("embedder fingerprint", manifest.embedder_fingerprint),
        ("checksums", checked),
        ("made by", f"cosup {manifest.cosup_version}"),
    ]
    return Info("index folder", tuple(rows))


def milvus_info(place: Path) -> Info:
    """Describe an index in Milvus; see `cosup.index.milvus_place` for what names one."""
    from cosup.index.milvus_index import MilvusIndex

    index = MilvusIndex.load(place, None)
    state, sample = index.state, index.some(_SAMPLE)
    parameters = ", ".join(f"{name} {value}" for name, value in state.search.build.items())
    fields = ", ".join(sorted({key for passage in sample for key in passage.metadata})) or "none"
    rows = (
        ("type", f"{state.search.type} ({parameters})" if parameters else state.search.type),
        ("passages", f"{len(index):,}"),
        ("dimension", f"{index.dimension:,}, float32"),
        ("similarity", state.similarity),
        ("metadata fields", f"{fields} (of {len(sample):,} passages looked at)"),
        ("embedder fingerprint", index.embedder_fingerprint),
        ("checksums", "Milvus keeps its own; --verify compares nothing here"),
        ("made by", f"cosup {state.cosup_version}"),
    )
    return Info("index in Milvus", rows)


def index_rows(manifest: IndexManifest) -> Rows:
    """Return what an index is and how well it finds."""
    rows: Rows = [("type", f"{manifest.type} ({manifest.reason})"), ("passages", f"{manifest.count:,}")]
    rows.append(("segments", f"{len(manifest.segments)}, {manifest.deleted:,} deleted passages in them"))
    return rows + [("recall@10", _recall(s.structure, s.count)) for s in manifest.segments if s.structure is not None]


def _recall(found: StructureRecord, count: int) -> str:
    effort = "efSearch" if found.type == "hnsw" else "nprobe"
    return (
        f"{found.recall:.3f} against exact ({found.queries} queries: {found.measured_on}); {effort} {found.effort}, "
        f"{found.refine}x compared again, {count:,} passages"
    )
