r"""Self-RAG training data: outputs with reflection tokens become outputs with citations.

Format (AkariAsai/self-rag): `{"instruction", "input", "output", "id", "dataset_name", "topic"}`, as JSON lines or one
JSON list. An output is text among reflection tokens; a paragraph is a title, a line end and a text:

    Sure![Retrieval]<paragraph>Llama\nThe llama ..</paragraph>[Relevant]Claim.[Fully supported][Utility:5]

What becomes of it:

- `[Retrieval]<paragraph>..</paragraph>[Relevant] text` up to the next token is a claim that cites the paragraph, with
  `[Fully supported]`, `[Partially supported]` or no verdict after it.
- `[No support / Contradictory]` after it: the paragraph does not say so, hence the text stays without a citation.
- `[Irrelevant]` instead of `[Relevant]`: the text stays without a citation, and the paragraph is a hard negative of the
  example, unless the example cites it elsewhere.
- `[Continue to Use Evidence] text` goes on with the claim before it. With other text in between it is a claim of its
  own that cites the same paragraph; with no cited paragraph before it, it is text.
- `[No Retrieval] text`, text after a verdict, and text of a `[Retrieval]` that brought no paragraph, is text.
- `[Utility:1]` .. `[Utility:5]` are taken out.
- The part of an instruction before `## Input:` is the instruction of the example and the rest its prompt. With an
  `input`, the instruction is the instruction and the input the prompt.

Only examples that cite at least one paragraph are kept: the paper trains on those of this set that retrieve. An
example is malformed, and skipped, where a paragraph does not end, is empty, or is neither called relevant nor
irrelevant and its claim has no verdict. No reflection token remains in any text; those taken out are counted by kind.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, count
from pathlib import Path
from typing import Any

from cosup.data.formats.base import Converted, PassagePool, Place, get, iter_records
from cosup.records import Example, RetrievalSegment, Segment, TextSegment

_NO_RETRIEVAL = "examples that do not retrieve"
_NO_CITATION = "examples that retrieve, of which no citation remains"
_MALFORMED = "malformed examples (a paragraph without its end, its text or its verdict)"
_EMPTY = "examples without an instruction or an output"
_NOT_RELEVANT = "citations of paragraphs marked as irrelevant (the text stays, the paragraph is a hard negative)"
_UNSUPPORTED = "citations of paragraphs that do not support their claim (the text stays)"
_NO_CLAIM = "retrievals without a claim"
_NO_EVIDENCE = "continued citations without a cited paragraph before them (the text stays)"
_ID_AGAIN = "ids that stand there before (numbered instead)"

_RETRIEVAL, _CONTINUE, _RELEVANT, _IRRELEVANT = (
    "[retrieval]",
    "[continue to use evidence]",
    "[relevant]",
    "[irrelevant]",
)
_NO_SUPPORT = "[no support / contradictory]"
_VERDICTS = ("[fully supported]", "[partially supported]", _NO_SUPPORT)
_OPENERS = (_RETRIEVAL, "[no retrieval]", _CONTINUE)
_TOKEN = re.compile(
    r"\[(?:no retrieval|retrieval|continue to use evidence|relevant|irrelevant|fully supported|partially supported"
    r"|no support ?/ ?contradictory|utility: ?[1-5])\]|</?paragraph>",
    re.IGNORECASE,
)
_PIECE = re.compile(
    rf"<paragraph>(?P<paragraph>(?:(?!</?paragraph>).)*)</paragraph>|{_TOKEN.pattern}", re.I | re.DOTALL
)
_INPUT = re.compile(r"\s*#{2,3} Input:\s*")


class _MalformedError(Exception):
    """An output that breaks the grammar."""


@dataclass
class _Stretch:
    """Text from one token that opens it to the next.

    Attributes:
        opener: that token, empty at the beginning and after a verdict.
        paragraph: what was retrieved.
        relevant: whether the paragraph was said to be relevant; None where nothing was said.
        verdict: what was said of the text's support.
    """

    opener: str = ""
    paragraph: str | None = None
    relevant: bool | None = None
    verdict: str = ""
    text: str = ""


@dataclass
class _Draft:
    """The output of an example so far; `evidence` is the passage cited last."""

    segments: list[Segment] = field(default_factory=list)
    negatives: list[str] = field(default_factory=list)
    evidence: str | None = None

    def cite(self, passage_id: str, claim: str) -> None:
        """Add a claim."""
        self.segments.append(RetrievalSegment(passage_id, claim))
        self.evidence = passage_id

    def go_on(self, passage_id: str, claim: str) -> None:
        """Add to the claim that was just made of this passage, or claim again."""
        last = self.segments[-1]
        if isinstance(last, RetrievalSegment) and last.passage_id == passage_id:
            self.segments[-1] = RetrievalSegment(passage_id, f"{last.claim} {claim}")
        else:
            self.cite(passage_id, claim)

    def write(self, text: str) -> None:
        """Add text, to the text before it where there is any."""
        last = self.segments[-1] if self.segments else None
        if isinstance(last, TextSegment):
            self.segments[-1] = TextSegment(f"{last.text} {text}")
        else:
            self.segments.append(TextSegment(text))


def read_selfrag(source: Path) -> Converted:
    """Read passages and training examples; the module says what becomes of each reflection token.

    Raises:
        InputError: a record is wrong; names file and line, or the place inside the JSON.
    """
    pool, skipped = PassagePool(), Counter[str]()
    examples: dict[str, Example] = {}
    for number, (record, place) in enumerate(iter_records(source), start=1):
        notes = Counter[str]()
        outcome = _example(record, place, pool, notes)
        if isinstance(outcome, str):
            skipped[outcome] += 1
        else:
            skipped.update(notes)
            name = _id(record, place) or f"selfrag-{number}"
            skipped.update([_ID_AGAIN] if name in examples else [])
            name = _fresh(name, examples)
            examples[name] = replace(outcome, id=name)
    used = {passage_id for e in examples.values() for passage_id in (*e.passage_ids, *e.negatives)}
    passages = [passage for passage in pool.passages.values() if passage.id in used]
    return Converted({"passages.jsonl": passages, "examples.jsonl": list(examples.values())}, skipped)


def _id(record: dict[str, Any], place: Place) -> str:
    value = record.get("id") if isinstance(record.get("id"), int) else get(record, "id", str, place, default="")
    return str(value).strip()


def _fresh(name: str, taken: Mapping[str, Example]) -> str:
    return next(n for n in chain([name], (f"{name}#{i}" for i in count(2))) if n not in taken)


def _example(record: dict[str, Any], place: Place, pool: PassagePool, skipped: Counter[str]) -> Example | str:
    """Return the example, whose id is yet to be set, or the reason to skip it."""
    instruction, prompt = _prompt(record, place, skipped)
    output = get(record, "output", str, place)
    if not prompt or not output.strip():
        return _EMPTY
    tokens = [_spelled(token) for token in _TOKEN.findall(output)]
    if not {_RETRIEVAL, "<paragraph>"} & set(tokens):
        return _NO_RETRIEVAL
    skipped.update(f"reflection tokens {token}" for token in tokens)
    try:
        draft = _draft(_stretches(output), pool, skipped)
    except _MalformedError:
        return _MALFORMED
    segments = _cleaned(draft.segments, skipped)
    cited = {s.passage_id for s in segments if isinstance(s, RetrievalSegment)}
    if not cited:
        return _NO_CITATION
    negatives = tuple(dict.fromkeys(n for n in draft.negatives if n not in cited))
    return Example("", prompt, segments, negatives, instruction)


def _prompt(record: dict[str, Any], place: Place, skipped: Counter[str]) -> tuple[str | None, str]:
    """Return instruction and prompt."""
    whole = _clean(get(record, "instruction", str, place), skipped)
    given = _clean(get(record, "input", str, place, default=""), skipped)
    parts = _INPUT.split(whole, maxsplit=1)
    if len(parts) == 2 and parts[1]:
        prompt = parts[1] if not given or given in parts[1] else f"{parts[1]}\n\n{given}"
        return parts[0] or None, prompt
    return (whole or None, given) if given else (None, whole)


def _spelled(token: str) -> str:
    return re.sub(r" ?/ ?", " / ", token.lower()) if "contradictory" in token.lower() else token.lower()


def _stretches(output: str) -> list[_Stretch]:
    """Cut an output into stretches. Raises `_MalformedError`."""
    stretches, end = [_Stretch()], 0
    for piece in _PIECE.finditer(output):
        stretches[-1].text += output[end : piece.start()]
        end = piece.end()
        if piece["paragraph"] is not None:
            if stretches[-1].opener != _RETRIEVAL or stretches[-1].paragraph is not None or stretches[-1].text.strip():
                stretches.append(_Stretch(_RETRIEVAL))
            stretches[-1].paragraph = piece["paragraph"]
        else:
            _take(_spelled(piece[0]), stretches)
    stretches[-1].text += output[end:]
    return stretches


def _take(token: str, stretches: list[_Stretch]) -> None:
    """Note what a token says of the last stretch, or open another."""
    last = stretches[-1]
    if token in ("<paragraph>", "</paragraph>"):
        raise _MalformedError
    if token in _OPENERS:
        stretches.append(_Stretch(token))
    elif token in (_RELEVANT, _IRRELEVANT):
        last.relevant = token == _RELEVANT
    elif token in _VERDICTS:
        last.verdict = token
        stretches.append(_Stretch())


def _draft(stretches: list[_Stretch], pool: PassagePool, skipped: Counter[str]) -> _Draft:
    """Turn stretches into segments. Raises `_MalformedError`."""
    draft = _Draft()
    for stretch in stretches:
        text = stretch.text.strip()
        if stretch.paragraph is not None:
            _add_retrieval(draft, stretch, text, pool, skipped)
        elif not text:
            continue
        elif stretch.opener == _CONTINUE and draft.evidence is not None:
            draft.go_on(draft.evidence, text)
        else:
            skipped.update([_NO_EVIDENCE] if stretch.opener == _CONTINUE else [])
            draft.write(text)
    return draft


def _add_retrieval(draft: _Draft, stretch: _Stretch, text: str, pool: PassagePool, skipped: Counter[str]) -> None:
    """Add what was written of a paragraph: a claim, or text where the paragraph does not speak of it."""
    passage_id = _passage(stretch.paragraph or "", pool, skipped)
    if stretch.relevant is None and not stretch.verdict:
        raise _MalformedError
    reason = _NOT_RELEVANT if stretch.relevant is False else _UNSUPPORTED if stretch.verdict == _NO_SUPPORT else None
    draft.evidence = None
    if stretch.relevant is False:
        draft.negatives.append(passage_id)
    skipped.update([reason] if reason else [] if text else [_NO_CLAIM])
    if text and reason is None:
        draft.cite(passage_id, text)
    elif text:
        draft.write(text)


def _passage(paragraph: str, pool: PassagePool, skipped: Counter[str]) -> str:
    """Keep a paragraph and return its id; a paragraph of one line has no title. Raises `_MalformedError`."""
    title, _, text = paragraph.strip().partition("\n")
    title, text = _clean(title, skipped), _clean(text, skipped)
    if not (title or text):
        raise _MalformedError
    return pool.add(title if text else "", text or title)


def _cleaned(segments: list[Segment], skipped: Counter[str]) -> tuple[Segment, ...]:
    """Return the segments without reflection tokens, also those that came about where others were taken out."""
    kept: list[Segment] = []
    for segment in segments:
        if isinstance(segment, TextSegment):
            text = _clean(segment.text, skipped)
            kept += [TextSegment(text)] if text else []
        else:
            claim = _clean(segment.claim, skipped)
            kept += [RetrievalSegment(segment.passage_id, claim)] if claim else []
    return tuple(kept)


def _clean(text: str, skipped: Counter[str]) -> str:
    """Take reflection tokens out of a text until none is left."""
    while found := _TOKEN.findall(text):
        skipped.update(f"reflection tokens {_spelled(token)}" for token in found)
        text = _TOKEN.sub("", text)
    return text.strip()
