"""What an index holds, in a folder or in Milvus, and how well it finds."""

from __future__ import annotations

from pathlib import Path

from cosup.info.base import Info

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
        *manifest.rows(),
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
    from cosup.index.base import metadata_keys
    from cosup.index.milvus_index import MilvusIndex

    index = MilvusIndex.load(place, None)
    state, sample = index.state, index.some(_SAMPLE)
    parameters = ", ".join(f"{name} {value}" for name, value in state.search.build.items())
    fields = ", ".join(metadata_keys(sample)) or "none"
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
