"""Pairs made elsewhere: a generator and an embedder that others trained become a model folder.

Two forms. A pair trained for one another (the authors' released one: `LlamaForCausalLM` and `LlamaModel`, with control
tokens in the vocabulary of both) asks by its state at `[Ret]`. The state of a generator that never met its embedder,
such as one of sentence-transformers, means nothing to it: that pair asks by the text so far.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cosup.checkpoints import load_embedder, load_generator, load_tokenizer, place_of
from cosup.data.encoding import prompt_of
from cosup.errors import InputError, UsageError, did_you_mean
from cosup.model_folder import PairSettings, read_model_record, settings_of
from cosup.modeling import CoSupervisedModel
from cosup.pooling import POOLINGS, Head
from cosup.sentence_folder import SentenceFolder, dense_layers, is_sentence_folder, read_sentence_folder
from cosup.tokens import CE, CONTROL_TOKENS, CS, RET, add_control_tokens, added_tokens, rename_tokens
from cosup.trials import takes_positions

_LONGEST = 4096  # tokens of a sequence, where the generator could read more and nothing is asked for
_UNLIMITED = 10**9  # a tokenizer that knows no limit says 10^30
_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class JoinSettings:
    """What is to be said of the two models; None takes what their folders say, or what their form suggests.

    Attributes:
        pooling: `last_token`, `mean` or `cls`.
        query: `state` or `text`.
        similarity: `inner_product` or `cosine`.
        prompt: `paper`, `cosup`, or a format with `{question}`.
        ret_token: how the generator's tokenizer spells `[Ret]`.
        cs_token: how it spells `[Cs]`.
        ce_token: how it spells `[Ce]`.
        max_length: tokens of a whole sequence.
        max_passage_length: tokens of a passage.
        query_prompt: put before a query that is text.
        passage_prompt: put before a passage.
    """

    pooling: str | None = None
    query: str | None = None
    similarity: str | None = None
    prompt: str | None = None
    ret_token: str | None = None
    cs_token: str | None = None
    ce_token: str | None = None
    max_length: int | None = None
    max_passage_length: int | None = None
    query_prompt: str | None = None
    passage_prompt: str | None = None

    @property
    def spellings(self) -> dict[str, str]:
        """How the control tokens are spelled, by their names in cosup."""
        given = {RET: self.ret_token, CS: self.cs_token, CE: self.ce_token}
        return {name: spelled or name for name, spelled in given.items()}


@dataclass(frozen=True)
class Joined:
    """A pair that was put together.

    Attributes:
        folder: of the model.
        rows: what was found and decided, as pairs of a name and a value.
    """

    folder: Path
    rows: tuple[tuple[str, str], ...]


def join(generator: str, embedder: str | Path, output: str | Path, settings: JoinSettings | None = None) -> Joined:
    """Write a model folder of two models that others trained; it appears whole or not at all.

    Args:
        generator: hub id, folder or `.gguf` file of a causal language model.
        embedder: a folder of transformers (a body, with or without a head) or of sentence-transformers.
        output: folder to write; must not exist, or be empty.
        settings: what is to be said of the two.

    Raises:
        UsageError: a control token is missing, a vocabulary is larger than its table of embeddings, the widths differ
            without a projection, or a setting cannot be used.
        InputError: a folder is damaged, or contradicts a setting.
    """
    settings = settings or JoinSettings()
    output, place = Path(output), Path(embedder)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"{output} is there already; choose a new folder for the pair")
    if not (place / "config.json").is_file():
        raise UsageError(f"no model folder '{embedder}': it has no config.json; download the embedder into a folder")
    said = read_sentence_folder(place) if is_sentence_folder(place) else None
    pooling = _pooling(settings.pooling, said, place)
    model, words, added = _generator(generator, settings)
    query = _query(settings, said, added)
    body, own_words = _embedder(place, said)
    limit = _limit(body, own_words, said)
    head = Head(layers) if (layers := dense_layers(place)) else None
    chosen = _pair_settings(settings, said, (generator, model, limit), pooling, query)
    _check_widths(model, body, head, query)
    pair = CoSupervisedModel(model, body, words, own_words, chosen, head).eval()
    _save(pair, output)
    return Joined(output, tuple(_rows(pair, said, added)))


# -- the generator -------------------------------------------------------------------------------------------------


def _generator(source: str, settings: JoinSettings) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, bool]:
    """Load the generator; return it, its tokenizer, and whether the control tokens had to be added."""
    words = load_tokenizer(source)
    spellings = settings.spellings
    known = words.get_vocab()
    missing = [spelled for spelled in spellings.values() if spelled not in known]
    named = spellings != {name: name for name in CONTROL_TOKENS}
    if missing and (named or settings.query == "state" or len(missing) < len(CONTROL_TOKENS)):
        hint = did_you_mean(missing[0], added_tokens(words))
        raise UsageError(f"the tokenizer of '{source}' has no token {', '.join(missing)}{hint}; name its own")
    if len(set(spellings.values())) < len(spellings):
        raise UsageError(f"two control tokens are spelled alike: {', '.join(spellings.values())}")
    if named:
        words = rename_tokens(words, {old: new for new, old in spellings.items() if new != old})
    model = load_generator(source, _type_of(source))
    _check_vocabulary(model, words, source)
    if missing:
        add_control_tokens(words, model)
    return model, words, bool(missing)


def _check_vocabulary(model: PreTrainedModel, words: PreTrainedTokenizerBase, source: str | Path) -> None:
    """Make sure that every token has its row in the table of embeddings, and in that of the output."""
    largest = max(words.get_vocab().values())
    for table in (model.get_input_embeddings(), model.get_output_embeddings()):
        rows = None if table is None else int(table.weight.shape[0])  # type: ignore[index]
        if rows is not None and rows <= largest:
            raise UsageError(
                f"the tokenizer of '{source}' has ids up to {largest}, its model {rows} embeddings; they don't belong "
                "together"
            )


def _type_of(source: str | Path) -> torch.dtype:
    """Return the type in which a checkpoint keeps its weights, float32 where it doesn't say."""
    path = Path(place_of(str(source))) / "config.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return _TYPES.get(str(record.get("dtype") or record.get("torch_dtype")), torch.float32)


# -- the embedder --------------------------------------------------------------------------------------------------


def _embedder(folder: Path, said: SentenceFolder | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    body, words = load_embedder(str(folder), _type_of(folder)), load_tokenizer(str(folder))
    _check_vocabulary(body, words, folder)
    if getattr(body.config, "is_encoder_decoder", False):
        raise UsageError(f"'{folder}' ({type(body).__name__}) is an encoder with a decoder; cosup cannot embed with it")
    if said is not None and said.lowers_case and words.tokenize("ABC") != words.tokenize("abc"):
        raise InputError("it lower-cases texts before its tokenizer, which cosup doesn't", folder)
    return body, words


def _limit(body: PreTrainedModel, words: PreTrainedTokenizerBase, said: SentenceFolder | None) -> int | None:
    """Return the tokens that the embedder reads of a text at most, None where nothing says it."""
    limits = _positions(body)
    if limits and not takes_positions(body):  # they count from the padding id on
        limits = [limits[0] - int(words.pad_token_id) - 1]
    if said is not None:
        limits += [said.max_tokens] if said.max_tokens else []
        limits += [words.model_max_length] if words.model_max_length < _UNLIMITED else []
    return min(limits, default=None)


def _pooling(given: str | None, said: SentenceFolder | None, folder: Path) -> str:
    """Return the pooling that was given, which the folder must not contradict, or the folder's own."""
    if given is not None and given not in POOLINGS:
        hint = did_you_mean(given, POOLINGS)
        raise UsageError(f"pooling is '{given}'{hint}; expected one of {', '.join(POOLINGS)}")
    if said is None:
        if given is None and _reads_both_ways(folder):
            raise InputError("an encoder that does not say how it pools; say --pooling mean or --pooling cls", folder)
        return given or "last_token"
    wanted = said.pooling if given is None else given
    if wanted != said.pooling:
        raise InputError(f"--pooling is {given}, but the folder pools by {said.pooling}: leave it out", folder)
    return wanted


def _reads_both_ways(folder: Path) -> bool:
    """Whether a folder's model has a token for masked words, as encoders have and decoders have not."""
    return load_tokenizer(str(folder)).mask_token_id is not None


def _query(settings: JoinSettings, said: SentenceFolder | None, added: bool) -> str:
    """Return how the pair asks: by state only where its generator can have learnt to."""
    return settings.query or ("state" if said is None and not added else "text")


def _check_widths(model: PreTrainedModel, body: PreTrainedModel, head: Head | None, query: str) -> None:
    wide = int(model.config.hidden_size)
    narrow = int(body.config.hidden_size) if head is None else head.width
    if query == "state" and wide != narrow:
        raise UsageError(
            f"the generator's states have the width {wide}, the embedder's vectors {narrow}, and nothing projects one "
            "to the other; say --query text to ask by text"
        )


# -- both ----------------------------------------------------------------------------------------------------------


def _pair_settings(
    settings: JoinSettings,
    said: SentenceFolder | None,
    found: tuple[str, PreTrainedModel, int | None],
    pooling: str,
    query: str,
) -> PairSettings:
    """Put together what was given, what the folders say, and what is usual, in this order."""
    source, model, limit = found
    known = _known_settings(source)
    longest, passage = _lengths(settings, known, model, limit, said is not None)
    prompt = settings.prompt or (known.prompt if known else "paper")
    given = {"query_prompt": settings.query_prompt, "passage_prompt": settings.passage_prompt}
    prompts = {
        name: value if value is not None else getattr(said, name) if said else "" for name, value in given.items()
    }
    return replace(
        known or PairSettings(),
        similarity=settings.similarity or (said.similarity if said else "inner_product"),
        temperature=1.0,
        prompt=prompt_of(prompt),
        max_length=longest,
        max_passage_length=passage,
        pooling=pooling,
        query=query,
        **prompts,
    )


def _known_settings(generator: str) -> PairSettings | None:
    """Return how a generator was trained to be used, where its folder is part of a model folder."""
    folder = Path(generator).absolute().parent
    return settings_of(read_model_record(folder)) if (folder / "cosup.json").is_file() else None


def _lengths(
    settings: JoinSettings, known: PairSettings | None, model: PreTrainedModel, limit: int | None, limit_is_own: bool
) -> tuple[int, int]:
    """Return the longest sequence and the longest passage in tokens."""
    room = _positions(model)
    longest = settings.max_length or (known.max_length if known else min([_LONGEST, *room]))
    if room and longest > room[0]:
        raise UsageError(f"max_length is {longest}; the generator has {room[0]} positions")
    usual = known.max_passage_length if known else min(PairSettings().max_passage_length, longest // 2)
    own = limit if limit is not None and limit_is_own else min(usual, limit or usual)
    passage = settings.max_passage_length or own
    if limit and passage > limit:
        raise UsageError(f"max_passage_length is {passage}; the embedder reads {limit} tokens")
    return longest, min(passage, longest - 1)


def _positions(model: PreTrainedModel) -> list[int]:
    limit = getattr(model.config, "max_position_embeddings", None)
    return [int(limit)] if limit else []


def _save(pair: CoSupervisedModel, output: Path) -> None:
    draft = output.absolute().with_name(f".{output.absolute().name}.{secrets.token_hex(4)}.tmp")
    try:
        draft.mkdir(parents=True)
        pair.save_pretrained(draft)
        if output.exists():
            output.rmdir()
        draft.rename(output)
    except OSError as error:
        raise UsageError(f"cannot write a model to {output}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _rows(pair: CoSupervisedModel, said: SentenceFolder | None, added: bool) -> Iterator[tuple[str, str]]:
    """Say what was found and decided."""
    control, own = pair.control, pair.settings
    for name, model in (("generator", pair.generator), ("embedder", pair.embedder)):
        yield name, f"{type(model).__name__}, width {model.config.hidden_size}"
    yield "vectors", f"width {pair.dimension}, compared by {own.similarity}"
    ids = f"{RET} {control.ret}, {CS} {control.cs}, {CE} {control.ce}, end {control.eos}"
    yield "token ids", f"{ids}{' (added: never learnt; --ret-first makes it retrieve)' if added else ''}"
    encoder = pair.embedder_text
    before, after = (_spelled(pair.embedder_tokenizer, around) for around in (encoder.prefix, encoder.suffix))
    yield "embedder reads", " ".join(part for part in (before, "text", after) if part)
    if held := [token for token in CONTROL_TOKENS if token in pair.embedder_tokenizer.get_vocab()]:
        yield "embedder's tokenizer", f"holds {', '.join(held)} too; no text becomes one"
    yield "pooling", f"{own.pooling} ({'given or by default' if said is None else 'as the folder says'})"
    reason = "the generator's state at [Ret]" if own.query == "state" else "the embedder reads the text so far"
    yield "queries by", f"{own.query}: {reason}"
    yield "prompt", json.dumps(own.prompt, ensure_ascii=False)
    prompts = (own.query_prompt, own.passage_prompt)
    if any(prompts):
        yield "embedder's prompts", f"query {prompts[0]!r}, passage {prompts[1]!r}"
    yield "lengths", f"{own.max_length} tokens a sequence, {own.max_passage_length} a passage"
    yield "embedder fingerprint", str(pair.fingerprint)


def _spelled(words: PreTrainedTokenizerBase, ids: list[int]) -> str:
    tokens: Any = words.convert_ids_to_tokens(ids)
    return " ".join(map(str, tokens))
