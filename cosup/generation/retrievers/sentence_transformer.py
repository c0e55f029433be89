"""Retrieval by any model of sentence-transformers (extra `retrievers`), over an exact index of its own vectors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cosup.errors import UsageError, needs_extra
from cosup.generation.retrieval import TextRetriever
from cosup.index.build import build_index
from cosup.index.corpus import Corpus
from cosup.index.embed import EmbedOptions
from cosup.index.faiss_index import FaissIndex
from cosup.index.progress import Progress
from cosup.index.structures import IndexSettings
from cosup.model_folder import weights_digest

SIMILARITIES = {"cosine": "cosine", "dot": "inner_product"}


class SentenceTransformerEmbedder:
    """A model of sentence-transformers as what makes an index (`PassageEmbedder`) and asks it (`TextEmbedder`).

    The library takes texts and the index takes token ids, so a text's "ids" are its bytes, four an id, after their
    number: about as many as a tokenizer would give, and every kind of model can read them again.

    Args:
        source: hub id or folder.
        query_prompt: put before a query; None takes the model's own.
        passage_prompt: put before a passage; None takes the model's own.
        device: None chooses the GPU where there is one.

    Raises:
        UsageError: the library is not installed, nothing usable is there, or it compares otherwise than by cosine or
            inner product.
    """

    def __init__(
        self,
        source: str,
        query_prompt: str | None = None,
        passage_prompt: str | None = None,
        device: str | None = None,
    ) -> None:
        self.source = source
        self.query_prompt = query_prompt
        self.passage_prompt = passage_prompt
        self.model: Any = _load(source, device)
        name = str(self.model.similarity_fn_name or "cosine")
        if name not in SIMILARITIES:
            raise UsageError(
                f"'{source}' compares by {name}; expected a model that does by {' or '.join(SIMILARITIES)}"
            )
        self.similarity = SIMILARITIES[name]
        self.fingerprint: str | None = self._fingerprint()
        self.dimension = int(self.embed_queries(["a"]).shape[1])

    def encode_passages(self, texts: Sequence[str]) -> list[list[int]]:
        """Return each text's bytes as ids."""
        return [_as_ids(text.encode("utf-8")) for text in texts]

    def embed_ids(self, batch: list[list[int]]) -> torch.Tensor:
        """Embed passages that `encode_passages` gave: [len(batch), D] float32, on the CPU."""
        texts = [np.array(words, "<u4").tobytes()[:size].decode("utf-8") for size, *words in batch]
        return self._encode(self.model.encode_document, texts, self.passage_prompt)

    def embed_queries(self, texts: Sequence[str]) -> torch.Tensor:
        """Embed queries: [len(texts), D] float32, on the CPU. The model cuts what is longer than it reads."""
        return self._encode(self.model.encode_query, list(texts), self.query_prompt)

    def _encode(self, encode: Any, texts: list[str], prompt: str | None) -> torch.Tensor:
        vectors = encode(
            texts, prompt=prompt, show_progress_bar=False, convert_to_numpy=True,
            normalize_embeddings=self.similarity == "cosine",
        )  # fmt: skip
        return torch.from_numpy(np.asarray(vectors, dtype=np.float32))

    def _fingerprint(self) -> str:
        model = self.model
        own = [str(model), model.max_seq_length, model.prompts, model.default_prompt_name, self.passage_prompt]
        digest = hashlib.sha256(json.dumps([*own, self.similarity, weights_digest(model)], default=str).encode())
        return digest.hexdigest()


class SentenceTransformerRetriever(TextRetriever):
    """Searches an index that a model of sentence-transformers made, with what it makes of the text so far.

    Args:
        embedder: the model.
        index: made by it, see `build`.
        query: what of a request is asked: `text`, `question` or `last_sentence`.
    """

    @classmethod
    def build(
        cls,
        embedder: SentenceTransformerEmbedder,
        passages: Corpus,
        folder: str | Path,
        query: str = "text",
        progress: Progress | None = None,
        options: EmbedOptions | None = None,
    ) -> SentenceTransformerRetriever:
        """Embed passages into an exact index; the same call goes on after an interruption.

        Args:
            embedder: the model.
            passages: the corpus, in memory or in a store.
            folder: index folder to write.
            query: as above.
            progress: called after each batch.
            options: how to embed.

        Raises:
            InputError: no passages, or two with one id.
            UsageError: `folder` cannot be used.
        """
        exact = IndexSettings("flat")
        index = build_index(embedder, passages, folder, progress, exact, options)
        return cls(embedder, index, query)

    @classmethod
    def load(
        cls, embedder: SentenceTransformerEmbedder, folder: str | Path, query: str = "text"
    ) -> SentenceTransformerRetriever:
        """Open what `build` wrote.

        Raises:
            InputError: the index is missing, damaged, or was made by another model.
        """
        return cls(embedder, FaissIndex.load(folder, embedder.fingerprint), query)


def _load(source: str, device: str | None) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise UsageError(needs_extra(f"'{source}'", "retrievers", "sentence-transformers")) from None
    if source.startswith((".", "/", "~")) and not Path(source).expanduser().is_dir():
        raise UsageError(f"no folder '{source}'; expected a sentence-transformers model")
    try:
        return SentenceTransformer(str(Path(source).expanduser()) if Path(source).is_dir() else source, device=device)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(f"cannot load a sentence-transformers model from '{source}': {reason}") from error


def _as_ids(data: bytes) -> list[int]:
    return [len(data), *np.frombuffer(data + bytes(-len(data) % 4), "<u4").tolist()]
