"""Folders that others may have made: indexes, model folders, plain checkpoints, embedders, runs.

Of an index every file is damaged in turn and the manifest signed anew, as one who means harm would: a checksum that
does not fit is the smallest part of what must be refused.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import gguf
import numpy as np
from hypothesis import strategies as st

from cosup.checkpoints import load_generator, load_tokenizer
from cosup.index.faiss_index import FaissIndex
from cosup.index.filters import Filter
from cosup.index.manifest import FileRecord, IndexManifest
from cosup.index.milvus_state import MilvusState
from cosup.info.describe import describe
from cosup.model_folder import load_projection, read_model_record
from cosup.modeling import CoSupervisedModel
from cosup.pooling import Dense
from cosup.records import Passage
from cosup.sentence_folder import dense_layers, read_sentence_folder
from cosup.training.shapes import read_shape
from tests.fuzz.damage import as_json, cases, damaged_bytes, damaged_value
from tests.fuzz.readers import write
from tests.fuzz.running import Run, Target
from tests.pairs import pair

D = 4
ROWS = tuple(Passage(f"p{i}", f"Title {i}", f"Text {i}.", {"lang": "en", "n": i}) for i in range(5))
VECTORS = np.random.default_rng(0).normal(size=(5, D)).astype(np.float32)
QUERY = np.ones((1, D), dtype=np.float32)


# -- indexes -----------------------------------------------------------------------------------------------------------


def _index(folder: Path) -> Path:
    """Write an index of two segments, one with a deleted passage, and return its folder."""
    place = folder / "index"
    index = FaissIndex.build(place, ROWS[:4], VECTORS[:4], "fingerprint", "inner_product")
    index.delete(["p1"])
    index.add(ROWS[4:], VECTORS[4:])
    return _renamed(place)


def _renamed(place: Path) -> Path:
    """Give the files of an index names that are the same each time."""
    manifest, text = IndexManifest.read(place), (place / "index.json").read_text()
    for number, segment in enumerate(manifest.segments):
        name, deleted = f"segment-0000000{number}", f"deleted-0000000{number}.bin"
        text = text.replace(segment.name, name).replace(str(segment.deleted_file), deleted)
        (place / segment.name).rename(place / name)
        if segment.deleted_file:
            (place / name / segment.deleted_file).rename(place / name / deleted)
    write(place / "index.json", _signed(text.encode()))
    IndexManifest.read(place)
    return place


def _used(place: Path) -> None:
    """Open an index and do with it what answering does."""
    index = FaissIndex.load(place, None)
    known = list(index)
    assert all(isinstance(passage, Passage) for passage in known)
    query = np.ones((1, index.dimension), dtype=np.float32)
    for where in (None, Filter.parse({"lang": "en"}), Filter.parse({"n": {"gt": 2}})):
        for hit in index.search(query, 3, filter=where)[0]:
            index.passage(hit.passage_id)
    for passage in known:
        index.search(query, 1, [[passage.id]])
    describe(place)


def _manifest(folder: Path) -> Run:
    place = _index(folder)
    path = place / "index.json"

    def run(data: bytes) -> None:
        write(path, _signed(data))
        _used(place)

    return run


def _signed(data: bytes) -> bytes:
    """Put the right checksum into a manifest, where it can be read as one."""
    try:
        return IndexManifest._from_record(json.loads(data)).text().encode()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return data


def _file_of_index(name: str) -> Callable[[Path], Run]:
    def prepare(folder: Path) -> Run:
        place = _index(folder)
        manifest = IndexManifest.read(place)
        path = _damaged_file(place, name)
        segment = next(s for s in manifest.segments if s.name == path.parent.name)

        def run(data: bytes) -> None:
            write(path, data)
            files = {**segment.files, path.name: FileRecord.of(path)}
            segments = tuple(replace(s, files=files) if s is segment else s for s in manifest.segments)
            write(place / "index.json", replace(manifest, segments=segments).text().encode())
            _used(place)

        return run

    return prepare


def _damaged_file(place: Path, name: str) -> Path:
    """Return the file of this name in the segment that has a deleted passage."""
    return (
        next(file.parent for file in place.glob("segment-*/deleted-*.bin")).joinpath(name)
        if "*" not in name
        else next(place.glob(f"segment-*/{name}"))
    )


INDEX_FILES = (
    *("store.json", "offsets.bin", "hashes.bin", "rows.bin", "passages.jsonl"),
    *("vectors.bin", "metadata.json", "metadata.bin", "deleted-*.bin"),
)


def _milvus_state(_: Path) -> Run:
    def run(data: bytes) -> None:
        state = MilvusState.parse(data.decode("utf-8", "replace"), "here")
        assert isinstance(state.dimension, int)

    return run


# -- models ------------------------------------------------------------------------------------------------------------


def _model(folder: Path) -> Path:
    """Write a tiny pair with a projection, and return its folder."""
    place = folder / "model"
    pair("llama", embedder_width=16, layers=1).save_pretrained(place)
    return place


def _file_of_model(name: str, use: Callable[[Path], object]) -> Callable[[Path], Run]:
    def prepare(folder: Path) -> Run:
        place = _model(folder)

        def run(data: bytes) -> None:
            (place / name).unlink()  # weights may be mapped
            write(place / name, data)
            use(place)

        return run

    return prepare


def _record(place: Path) -> None:
    record = read_model_record(place)
    assert isinstance(record["embedder_fingerprint"], str)
    describe(place)


def _sentence_folder(place: Path) -> None:
    embedder = place / "embedder"
    read_sentence_folder(embedder)
    assert all(isinstance(layer, Dense) for layer in dense_layers(embedder))


def _shape(place: Path) -> None:
    describe(place)
    read_shape(str(place / "generator"))


def _gguf(use: Callable[[str], object]) -> Callable[[Path], Run]:
    def prepare(folder: Path) -> Run:
        path = folder / "m.gguf"

        def run(data: bytes) -> None:
            path.unlink(missing_ok=True)
            write(path, data)
            use(str(path))

        return run

    return prepare


def tiny_gguf(folder: Path) -> bytes:
    """Return a .gguf file of a Llama of one layer."""
    path = folder / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(8)
    writer.add_block_count(1)
    writer.add_feed_forward_length(16)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(6)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<pad>", "</s>", "a", "b", "ab", "c"])
    writer.add_token_types([3, 3, 1, 1, 1, 1])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(0)
    names = {"token_embd": (6, 8), "output_norm": (8,), "output": (6, 8)}
    layer = {"attn_q": (8, 8), "attn_k": (8, 8), "attn_v": (8, 8), "attn_output": (8, 8), "attn_norm": (8,)}
    layer |= {"ffn_gate": (16, 8), "ffn_up": (16, 8), "ffn_down": (8, 16), "ffn_norm": (8,)}
    names |= {f"blk.0.{name}": shape for name, shape in layer.items()}
    for name, shape in names.items():
        writer.add_tensor(f"{name}.weight", np.full(shape, 0.1, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


# -- all of them -------------------------------------------------------------------------------------------------------


@cache
def _contents() -> dict[str, bytes]:
    """Return the files of a whole index, of a whole model folder, and a whole .gguf file, by name."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        place, model = _index(folder), _model(folder)
        found = {file: _damaged_file(place, file).read_bytes() for file in INDEX_FILES}
        found["index.json"] = (place / "index.json").read_bytes()
        found |= {f"model/{p.relative_to(model).as_posix()}": p.read_bytes() for p in model.rglob("*") if p.is_file()}
        return {**found, "m.gguf": tiny_gguf(folder)}


def _of(name: str, file: str, prepare: Callable[[Path], Run], slow: bool = False) -> Target:
    """Return a target whose input is a file of `_contents`."""
    return Target(name, prepare, st.deferred(lambda: _damages(file)), lambda: (_contents()[file],), slow)


def _damages(file: str) -> st.SearchStrategy[bytes]:
    data = _contents()[file]
    head = _damaged_head(data) if file.endswith((".safetensors", ".gguf")) else None
    found = cases([data], json.loads(data) if file.endswith(".json") else None)
    return found if head is None else st.one_of(head, found)


@st.composite
def _damaged_head(draw: st.DrawFn, data: bytes) -> bytes:
    """Draw a binary file that is damaged in its first part, where what is said of the rest stands."""
    return draw(damaged_bytes([data[:1500]])) + data[1500:]


@st.composite
def _safetensors(draw: st.DrawFn, file: str) -> bytes:
    """Draw a safetensors file whose head is other JSON, of the right length."""
    data = _contents()[file]
    length = int.from_bytes(data[:8], "little")
    head = as_json(draw(damaged_value(json.loads(data[8 : 8 + length]))))
    return len(head).to_bytes(8, "little") + head + data[8 + length :]


def _weights(name: str, file: str, use: Callable[[Path], object], slow: bool = False) -> Target:
    strategy = st.one_of(
        st.deferred(lambda: _safetensors(f"model/{file}")), st.deferred(lambda: _damages(f"model/{file}"))
    )
    return Target(name, _file_of_model(file, use), strategy, lambda: (_contents()[f"model/{file}"],), slow)


SENTENCE_FILES = ("modules.json", "1_Pooling/config.json", "2_Dense/config.json", "config_sentence_transformers.json")
LOADED_FILES = (
    "cosup.json",
    *(f"generator/{name}.json" for name in ("config", "tokenizer", "tokenizer_config", "generation_config")),
)
STATE = {
    "embedder_fingerprint": "x",
    "similarity": "cosine",
    "dimension": 4,
    "search": {"type": "FLAT", "build": {}},
    "next_number": 3,
    "version": "v",
    "change": {"token": "t", "count": 2},
    "cosup_version": "0.1.0",
    "format": 1,
}

INDEXES = (
    _of("index-manifest", "index.json", _manifest),
    *(_of(f"index-{file.replace('-*', '').replace('.', '-')}", file, _file_of_index(file)) for file in INDEX_FILES),
    Target("milvus-state", _milvus_state, cases([as_json(STATE)], STATE), (as_json(STATE),)),
)
MODELS = (
    _of("model-record", "model/cosup.json", _file_of_model("cosup.json", _record)),
    *(
        _of(
            f"embedder-{file.partition('.')[0].replace('/', '-')}",
            f"model/embedder/{file}",
            _file_of_model(f"embedder/{file}", _sentence_folder),
        )
        for file in SENTENCE_FILES
    ),
    _of("model-config", "model/generator/config.json", _file_of_model("generator/config.json", _shape)),
    _of("model-tokenizer", "model/generator/tokenizer.json", _file_of_model("generator/tokenizer.json", _shape)),
    _weights("weights-projection", "embedder/2_Dense/model.safetensors", load_projection),
    _weights("weights-dense", "embedder/2_Dense/model.safetensors", _sentence_folder),
    _weights("weights-info", "generator/model.safetensors", describe),
    _weights("load-weights", "generator/model.safetensors", CoSupervisedModel.from_pretrained, slow=True),
    *(
        _of(
            f"load-{Path(file).stem.replace('_', '-')}",
            f"model/{file}",
            _file_of_model(file, CoSupervisedModel.from_pretrained),
            slow=True,
        )
        for file in LOADED_FILES
    ),
    _of("gguf-shape", "m.gguf", _gguf(read_shape)),
    _of("load-gguf-tokenizer", "m.gguf", _gguf(load_tokenizer), slow=True),
    _of("load-gguf", "m.gguf", _gguf(load_generator), slow=True),
)
