"""Splitting English prose into sentences: the only place that decides where one ends.

A regular expression and a list of abbreviations, not a trained splitter: nothing to download, and every sentence is
an exact substring of its text.
"""

from __future__ import annotations

import re

# A full stop (or several), what closes with it (quotes, brackets, footnote marks such as [12]), then white space;
# CJK full stops need no space; a blank line always ends a sentence.
_BOUNDARY = re.compile(
    r"(?P<stop>[.!?…]+(?:\s[.!?…]+)*)(?:[\"'”’)\]»]|\s''|\s[)\]]|\[\d{1,3}\])*(?=\s)"
    r"|(?P<cjk>[。！？]+[”’」』）]*)"
    r"|(?P<blank>\n[^\S\n]*\n)"
)
_WORD_BEFORE = re.compile(r"[\w.&-]+\Z")
_NEXT = re.compile(r"\s*[\"'“‘(\[«`¿¡]*(?:(?P<word>\w+)|(?P<goes_on>[,;:)\]”’%&]))?")
_REACH = 32  # characters looked at on either side of a full stop

# Words before a full stop that are always followed by more of the same sentence.
_NEVER_LAST = re.compile(
    r"mr|mrs|ms|messrs|mx|dr|prof|st|mt|gen|col|maj|capt|cpt|cmdr|lt|sgt|cpl|pvt|adm|rev|hon|gov|sen|rep|pres|supt"
    r"|e\.g|eg|i\.e|ie|viz|cf|vs|figs?|eqs?|sec|ch|vols?|pp|eds?|trans|approx|ca|nrs?|nos|op|(?-i:[cvp])",
    re.IGNORECASE,
)
# Words that may end a sentence; taken to do so before a word that often begins one.
_SELDOM_LAST = re.compile(
    r"jr|sr|ft|inc|ltd|co|corp|llc|plc|bros|dept|univ|assn|est|ave|blvd|rd|etc|al|ibid|ph\.?d|[bm]\.?sc"
    r"|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|mon|tues?|wed|thu|thurs?|fri|sat|sun"
    r"|[^\W\d_](?:\.[^\W\d_])+",  # letters with full stops: U.S, a.m
    re.IGNORECASE,
)
_FIRST_WORD = re.compile(
    "The|It|He|She|They|We|You|This|That|These|Those|There|Here|In|On|At|As|An|After|Before|When|While|Where"
    "|However|But|And|For|From|During|By|If|To|With|Under|Since|Although|Though|Because|Also|Both|Each|Some|Many|Most"
    "|Other|Another|His|Her|Its|Their|Our|My|Your|Today|Later|Then|Thus|Once|Until|What|Who|Which|How|Why"
)


def sentences(text: str) -> list[str]:
    """Split `text` into its sentences, in order.

    Each is an exact substring of `text` without surrounding white space; nothing but white space lies between them.
    Abbreviations ("Dr. Who"), initials ("J. R. R. Tolkien"), decimals and list numbers ("1. Install") do not split.

    >>> sentences("Dr. Ada B. Smith paid 3.50. She left!")
    ['Dr. Ada B. Smith paid 3.50.', 'She left!']
    """
    return [text[start:end] for start, end in sentence_spans(text)]


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Return the `(start, end)` character offsets of the sentences of `text`; see `sentences`."""
    spans: list[tuple[int, int]] = []
    start = 0
    for match in _BOUNDARY.finditer(text):
        if match["stop"] and not _ends_sentence(text, start, match):
            continue
        _add_stripped(spans, text, start, match.end())
        start = match.end()
    _add_stripped(spans, text, start, len(text))
    return spans


def _add_stripped(spans: list[tuple[int, int]], text: str, start: int, end: int) -> None:
    piece = text[start:end]
    start += len(piece) - len(piece.lstrip())
    end -= len(piece) - len(piece.rstrip())
    if start < end:
        spans.append((start, end))


def _ends_sentence(text: str, start: int, match: re.Match[str]) -> bool:
    """Decide from the words on either side whether this full stop ends the sentence that began at `start`."""
    following = _NEXT.match(text, match.end(), match.end() + _REACH)
    word = following["word"] if following else None
    if following and following["goes_on"]:
        return False
    if not word:
        return True
    if word[0].islower():
        return False
    if match["stop"] != ".":
        return True
    before = _WORD_BEFORE.search(text, max(start, match.start() - _REACH), match.start())
    return before is None or _may_be_last(before[0], word, opens_line=_opens_line(text, start, before.start()))


def _opens_line(text: str, start: int, position: int) -> bool:
    """Whether only white space lies between a sentence's start, or the last line break, and `position`."""
    return text[max(start, text.rfind("\n", start, position)) : position].isspace() or position == start


def _may_be_last(before: str, following: str, opens_line: bool) -> bool:
    """Whether a sentence may end in `before` and its full stop, given the word that follows."""
    if _NEVER_LAST.fullmatch(before):
        return False
    if before.isdecimal():
        return not (opens_line and len(before) <= 3)
    if before.lower() == "no" or (len(before) == 1 and before.islower()):
        return not following[0].isdecimal()  # "No. 5", "d. 1567"
    is_initial = len(before) == 1 and before.isupper()
    return not (is_initial or _SELDOM_LAST.fullmatch(before)) or _FIRST_WORD.fullmatch(following) is not None
