"""From the name of a retriever to one that is ready: what it needs is built beside the index, once.

    index.retrievers/bm25/            words of the index's passages
    index.retrievers/all-MiniLM-L6-v2/    their vectors by that model, an index folder
    index.retrievers/all-MiniLM-L6-v2.json    which passages and which model these are of

It is built again when the index or the model has changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from cosup.data.store import PassageStore
from cosup.errors import InputError, UsageError
from cosup.generation.retrieval import Retriever, SeparateRetriever, TextRetriever, check_query_text
from cosup.generation.retrievers.bm25 import BM25Retriever, check_bm25, is_current
from cosup.generation.retrievers.sentence_transformer import SentenceTransformerEmbedder, SentenceTransformerRetriever
from cosup.index.base import VectorIndex
from cosup.index.build import work_folder
from cosup.index.milvus_place import is_milvus_place
from cosup.index.progress import Progress
from cosup.model_folder import PairSettings, fingerprint_of, read_model_record
from cosup.modeling import CoSupervisedModel
from cosup.records import Passage

BM25, SEPARATE = "bm25", "separate:"


@dataclass(frozen=True)
class RetrieverChoice:
    """Which retriever is asked, and what.

    Attributes:
        name: `bm25`, `separate:` and a model folder, or a hub id or folder of sentence-transformers.
        query_text: what a retriever that reads text is asked: `text`, `question` or `last_sentence`.
        query_prompt: put before a query by sentence-transformers; None takes the model's own.
        passage_prompt: put before a passage likewise.
    """

    name: str
    query_text: str = "text"
    query_prompt: str | None = None
    passage_prompt: str | None = None

    def __post_init__(self) -> None:
        check_query_text(self.query_text)
        if not self.name.removeprefix(SEPARATE):
            raise UsageError(f"--retriever is '{self.name}'; expected bm25, separate:MODEL_FOLDER or a model")
        prompts = self.query_prompt is not None or self.passage_prompt is not None
        if prompts and (self.name == BM25 or self.separate is not None):
            raise UsageError(f"--query-prompt and --passage-prompt are of no use to '{self.name}'")

    @property
    def is_words(self) -> bool:
        """Whether it is BM25, which has no model."""
        return self.name == BM25

    @property
    def separate(self) -> Path | None:
        """The model folder of a pair that retrieves for another, or None."""
        return Path(self.name.removeprefix(SEPARATE)) if self.name.startswith(SEPARATE) else None

    @property
    def index_fingerprint(self) -> str | None:
        """The embedder that must have made the index, or None where only its passages are used.

        Raises:
            InputError: the separate pair's folder is missing or damaged.
        """
        return None if self.separate is None else str(read_model_record(self.separate)["embedder_fingerprint"])


@dataclass(frozen=True)
class Texts:
    """Passages without vectors: all that a retriever needs which reads them itself.

    Attributes:
        passages: with distinct ids.
    """

    passages: Sequence[Passage]

    def __len__(self) -> int:
        return len(self.passages)

    def __iter__(self) -> Iterator[Passage]:
        return iter(self.passages)

    @cached_property
    def identity(self) -> str:
        """Names the passages: changes whenever one of them does."""
        digest = hashlib.sha256()
        for passage in self.passages:
            digest.update(json.dumps(passage.to_dict(), ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
        return digest.hexdigest()


@dataclass(frozen=True)
class Opened:
    """A retriever that is ready.

    Attributes:
        retriever: to give to the engine.
        identity: what decides its answers, as JSON: see `generation.predict`.
        built: the folder that was made for it just now, or None.
    """

    retriever: Retriever
    identity: Mapping[str, Any] = field(default_factory=dict)
    built: Path | None = None


def open_retriever(
    choice: RetrieverChoice,
    writer: CoSupervisedModel,
    index: VectorIndex | Texts,
    place: str,
    progress: Progress | None = None,
    pair: CoSupervisedModel | None = None,
) -> Opened:
    """Make a retriever ready.

    Args:
        choice: which.
        writer: the pair that writes.
        index: gives the passages, and to a separate pair, which `Texts` will not do for, the vectors.
        place: of the index; what is built goes into `NAME.retrievers` beside it.
        progress: called while passages are embedded.
        pair: the separate pair on the writer's device, where it is loaded already.

    Raises:
        UsageError: a library is missing, the model cannot be loaded, or nothing can be written beside the index.
        InputError: the separate pair's folder is damaged.
    """
    if choice.separate is not None:
        assert not isinstance(index, Texts)
        return _separate(choice, choice.separate, writer, index, pair)
    folder = work_folder(place) if is_milvus_place(place) else Path(place)
    beside = folder.absolute().with_name(f"{folder.absolute().name}.retrievers")
    if choice.name == BM25:
        return _bm25(choice, index, beside / BM25)
    return _sentence_transformer(choice, index, beside, progress)


def check_retriever(choice: RetrieverChoice) -> None:
    """Find out early whether a retriever can be opened.

    Raises:
        UsageError: a library is missing, or the model cannot be loaded.
        InputError: the separate pair's folder is missing or damaged.
    """
    if choice.is_words:
        check_bm25()
    elif choice.separate is not None:
        read_model_record(choice.separate)
    else:
        SentenceTransformerEmbedder(choice.name, choice.query_prompt, choice.passage_prompt)


def _bm25(choice: RetrieverChoice, index: VectorIndex | Texts, place: Path) -> Opened:
    source, identity = index.identity, _identity(choice)
    if is_current(place, source):
        return Opened(BM25Retriever(place, choice.query_text), identity)
    return Opened(BM25Retriever.build(index, place, source, choice.query_text), identity, place)


def _sentence_transformer(
    choice: RetrieverChoice, index: VectorIndex | Texts, beside: Path, progress: Progress | None
) -> Opened:
    embedder = SentenceTransformerEmbedder(choice.name, choice.query_prompt, choice.passage_prompt)
    name = choice.name.strip("/.~").replace("/", "--") if not Path(choice.name).is_dir() else Path(choice.name).name
    place, stamp = beside / name, beside / f"{name}.json"
    wanted = {"source": index.identity, "model": embedder.fingerprint}
    identity = _identity(choice) | {"retriever.model": embedder.fingerprint}
    if _read(stamp) == wanted:
        try:
            return Opened(SentenceTransformerRetriever.load(embedder, place, choice.query_text), identity)
        except InputError:
            stamp.unlink()
    stamp.unlink(missing_ok=True)
    built = SentenceTransformerRetriever.build(embedder, _on_disk(index, place), place, choice.query_text, progress)
    stamp.write_text(json.dumps(wanted) + "\n", encoding="utf-8")
    return Opened(built, identity, place)


def _on_disk(index: VectorIndex | Texts, place: Path) -> PassageStore:
    """Put an index's passages where the unfinished work for `place` lies: their texts may not fit into memory."""
    try:
        return PassageStore.write(index, work_folder(place) / "passages")
    except OSError as error:
        raise UsageError(f"cannot write to {place}: {error.strerror or error}") from error


def _separate(
    choice: RetrieverChoice, folder: Path, writer: CoSupervisedModel, index: VectorIndex, pair: CoSupervisedModel | None
) -> Opened:
    identity = _identity(choice) | {"retriever.model": fingerprint_of(folder / "generator", PairSettings())}
    if pair is None:
        pair = CoSupervisedModel.from_pretrained(folder, writer.generator.dtype)
        pair.to(writer.device)
    if pair.settings.query == "text":
        return Opened(TextRetriever(pair, index, choice.query_text), identity)
    if pair.generator_tokenizer.get_vocab() != writer.generator_tokenizer.get_vocab():
        raise UsageError(f"{folder} has another vocabulary than the model that writes, whose tokens it would read")
    return Opened(SeparateRetriever(pair, index), identity)


def _identity(choice: RetrieverChoice) -> dict[str, Any]:
    name = choice.name if choice.separate is None else f"{SEPARATE}{choice.separate.name}"
    return {"retriever": name, "retriever.query": choice.query_text, "retriever.query_prompt": choice.query_prompt}


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
