"""Control tokens: the only place that spells them.

`[Ret]` asks for a passage, `[Cs]` and `[Ce]` wrap what the passage supports (paper, section 3).
They live in the generator's tokenizer alone. Text of users and passages goes through `TextEncoder`,
which can never produce a control token or any other special token of the tokenizer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from cosup.errors import UsageError

RET, CS, CE = "[Ret]", "[Cs]", "[Ce]"
CONTROL_TOKENS = (RET, CS, CE)

# What a fresh control token's embedding starts from: the mean of the rows of these words. Rows drawn around
# the mean of the whole vocabulary would start almost equal to one another.
_INITIAL_WORDS = {RET: "search for the passage", CS: "quote: begin", CE: "end of quote."}


@dataclass(frozen=True)
class ControlTokenIds:
    """Ids of the control tokens and of the end of sequence in one generator's vocabulary."""

    ret: int
    cs: int
    ce: int
    eos: int

    def to_dict(self) -> dict[str, int]:
        """Return the ids as a plain dictionary, as `cosup.json` keeps them."""
        return asdict(self)


def control_token_ids(tokenizer: PreTrainedTokenizerBase) -> ControlTokenIds:
    """Look the control tokens up in a tokenizer that has them.

    Raises:
        UsageError: a control token or the end-of-sequence token is missing.
    """
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in CONTROL_TOKENS if token not in vocabulary]
    if missing or tokenizer.eos_token_id is None:
        missing += ["an end-of-sequence token"] if tokenizer.eos_token_id is None else []
        raise UsageError(f"the generator's tokenizer lacks {', '.join(missing)}")
    ret, cs, ce = (int(vocabulary[token]) for token in CONTROL_TOKENS)
    return ControlTokenIds(ret, cs, ce, int(tokenizer.eos_token_id))


def add_control_tokens(tokenizer: PreTrainedTokenizerBase, generator: PreTrainedModel) -> ControlTokenIds:
    """Add the control tokens to `tokenizer` and their rows to `generator`, in place.

    New rows start from the mean of the rows of a few words that describe the token, scaled to the vocabulary's
    mean norm, so that the three differ from the first step; from a random direction where the tokenizer knows none of
    the words. Nothing changes where the tokens are there already.
    """
    known = tokenizer.get_vocab()
    fresh = [token for token in CONTROL_TOKENS if token not in known]
    encoder = TextEncoder(tokenizer)
    starts = {t: [i for i in encoder.encode(_INITIAL_WORDS[t]) if i != tokenizer.unk_token_id] for t in fresh}
    tokenizer.add_special_tokens({"extra_special_tokens": fresh}, replace_extra_special_tokens=False)
    ids = control_token_ids(tokenizer)
    inputs: Any = generator.get_input_embeddings()
    rows = inputs.weight.shape[0]
    if len(tokenizer) > rows:
        generator.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    for token in fresh:
        _initialise_row(generator, tokenizer.get_vocab()[token], starts[token])
    return ids


def added_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the tokens that were added to a tokenizer's own vocabulary."""
    return [str(token) for token in tokenizer.added_tokens_decoder.values()]


def rename_tokens(tokenizer: PreTrainedTokenizerBase, names: Mapping[str, str]) -> PreTrainedTokenizerBase:
    """Return a tokenizer in which added tokens are spelled otherwise; every id stays.

    Ordinary pieces of the vocabulary can't be renamed: they are what other texts are made of.

    Args:
        tokenizer: with a `tokenizer.json`.
        names: from a spelling to the new one.

    Raises:
        UsageError: a token was not added, a new spelling is taken, or ids would change.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UsageError("the tokenizer has no tokenizer.json; its tokens cannot be renamed")
    known, added = tokenizer.get_vocab(), added_tokens(tokenizer)
    for old, new in names.items():
        if old not in added:
            raise UsageError(f"'{old}' is a word of the tokenizer, not a token that was added to it")
        if new in known and new not in names:
            raise UsageError(f"the tokenizer has '{new}' beside '{old}'; expected one of them")
    record = json.loads(tokenizer.backend_tokenizer.to_str())
    for token in record["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    if isinstance(record["model"].get("vocab"), dict):
        record["model"]["vocab"] = {names.get(word, word): i for word, i in record["model"]["vocab"].items()}
    own = {name: getattr(tokenizer, name) for name in ("bos_token", "eos_token", "unk_token", "pad_token")}
    fresh = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(record)), clean_up_tokenization_spaces=False, **own
    )
    if fresh.get_vocab() != {names.get(word, word): i for word, i in known.items()}:
        raise UsageError("the tokens cannot be renamed: the tokenizer would number them anew")
    return fresh


def _initialise_row(generator: PreTrainedModel, row: int, word_ids: list[int]) -> None:
    both: list[Any] = [generator.get_input_embeddings(), generator.get_output_embeddings()]
    matrices = {id(m.weight): m for m in both if m is not None}
    with torch.no_grad():
        for matrix in matrices.values():
            weight: Any = matrix.weight
            anywhere = torch.randn(weight.shape[1], generator=torch.Generator().manual_seed(row)).to(weight.device)
            start = weight[word_ids].float().mean(dim=0) if word_ids else anywhere
            norm = weight.float().norm(dim=1).mean()
            weight[row] = (start / start.norm().clamp_min(1e-6) * norm).to(weight.dtype)
            bias = getattr(matrix, "bias", None)
            if isinstance(bias, nn.Parameter):
                bias[row] = (bias[word_ids] if word_ids else bias).mean()


class TextEncoder:
    """Encodes untrusted text: whatever it spells, no special token of the tokenizer comes out.

    The tokenizer is asked to split special tokens at every call (that setting does not survive saving). Where one
    comes out all the same, the text is encoded in pieces that cut each spelling after its first character, and where
    the tokenizer makes a spelling of another text (it may fold case, width or accents), in halves of these.

    Args:
        tokenizer: any tokenizer, fast or slow.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.forbidden = _forbidden_ids(tokenizer)
        spelled = sorted((t for t in tokenizer.all_special_tokens if len(t) > 1), key=len, reverse=True)
        spelled += [t for t in CONTROL_TOKENS if t not in spelled]
        cuts = "|".join(f"(?<={re.escape(t[0])})(?={re.escape(t[1:])})" for t in spelled)
        self._cuts = re.compile(cuts)
        self.prefix, self.suffix = self._template()

    def encode(self, text: str, max_tokens: int | None = None) -> list[int]:
        """Return the ids of `text` alone, at most `max_tokens` of them, no special token among them."""
        ids = self._split(text)
        if not self.forbidden.isdisjoint(ids):
            ids = [i for piece in self._cuts.split(text) for i in self._in_halves(piece)]
        return ids if max_tokens is None else ids[:max_tokens]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return what `encode` gives for each text; a fast tokenizer reads them on all cores."""
        if not texts:
            return []
        rows = self.tokenizer(
            list(texts), add_special_tokens=False, split_special_tokens=True,
            return_attention_mask=False, return_token_type_ids=False, verbose=False,
        )["input_ids"]  # fmt: skip
        return [
            list(ids) if self.forbidden.isdisjoint(ids) else self.encode(text)
            for ids, text in zip(rows, texts, strict=True)
        ]

    def encode_with_template(self, text: str, max_tokens: int | None = None) -> list[int]:
        """Return the ids of `text` inside the tokenizer's own template (a BOS where it adds one)."""
        return self.prefix + self.encode(text, self._room(max_tokens)) + self.suffix

    def encode_end_with_template(self, prompt: str, text: str, max_tokens: int | None = None) -> list[int]:
        """Return the ids of `prompt + text` inside the template; of too many, the text's first are left out.

        The prompt stays as it stands before the whole text, unless there is no room for any text beside it.
        """
        ids, room = self.encode(prompt + text), self._room(max_tokens)
        if room is not None and len(ids) > room:
            kept = self._shared(prompt, ids)
            kept = kept if kept < room else 0
            ids = ids[:kept] + ids[kept - room :]
        return self.prefix + ids + self.suffix

    def encode_batch_with_template(self, texts: Sequence[str], max_tokens: int | None = None) -> list[list[int]]:
        """Return what `encode_with_template` gives for each text."""
        room = self._room(max_tokens)
        return [self.prefix + ids[:room] + self.suffix for ids in self.encode_batch(texts)]

    def _shared(self, prompt: str, ids: Sequence[int]) -> int:
        """Return how many of the first ids are a prompt's alone: its last token may be one with the text's first."""
        alone = self.encode(prompt) if prompt else []
        return next((i for i, (own, found) in enumerate(zip(alone, ids, strict=False)) if own != found), len(alone))

    def _room(self, max_tokens: int | None) -> int | None:
        return None if max_tokens is None else max(1, max_tokens - len(self.prefix) - len(self.suffix))

    def _split(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))

    def _in_halves(self, text: str) -> list[int]:
        """Encode a text, halved for as long as a special token comes out; a single character's is left out."""
        ids = self._split(text)
        if self.forbidden.isdisjoint(ids):
            return ids
        if len(text) < 2 or self.forbidden.intersection(ids) == {self.tokenizer.unk_token_id}:
            return [i for i in ids if i not in self.forbidden]
        return self._in_halves(text[: len(text) // 2]) + self._in_halves(text[len(text) // 2 :])

    def _template(self) -> tuple[list[int], list[int]]:
        """Return what the tokenizer puts before and after a text."""
        bare = list(self.tokenizer.encode("a", add_special_tokens=False))
        full = list(self.tokenizer.encode("a", add_special_tokens=True))
        for start in range(len(full) - len(bare) + 1):
            if bare and full[start : start + len(bare)] == bare:
                return full[:start], full[start + len(bare) :]
        return [], []


def _forbidden_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids that text may never turn into: every special token, except an unknown-word token of its own.

    Control tokens are among them however the tokenizer holds them: as words, or as added tokens that aren't special.
    """
    vocabulary = tokenizer.get_vocab()
    special = set(tokenizer.all_special_ids) | {vocabulary[t] for t in CONTROL_TOKENS if t in vocabulary}
    special |= {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    meaningful = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id not in meaningful:
        special.discard(tokenizer.unk_token_id)
    return frozenset(int(i) for i in special)
