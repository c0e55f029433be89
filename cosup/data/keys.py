"""Keys by which passages, answers and examples are known to be the same, in every process and on every machine."""

from __future__ import annotations

import hashlib
import re
import string

NO_ANSWER = 0

_ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = re.compile(f"[{re.escape(string.punctuation)}]+")
# Answers that many questions share without being about the same thing: verdicts.
_VERDICTS = {"", "yes", "no", "true", "false", "supports", "refutes"}


def stable_key(*parts: str) -> int:
    """Hash texts to a signed 64-bit integer that is never 0; the same in every process.

    >>> stable_key("q1") == stable_key("q1"), stable_key("a", "b") == stable_key("ab")
    (True, False)
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return int.from_bytes(digest.digest(), "little", signed=True) or 1


def answer_key(answer: str | None) -> int:
    """Return the key of a final answer after SQuAD's normalisation; `NO_ANSWER` for none and for mere verdicts.

    >>> answer_key("The Hague.") == answer_key("hague"), answer_key("Yes.")
    (True, 0)
    """
    plain = normalised(answer or "")
    return NO_ANSWER if plain in _VERDICTS else stable_key(plain)


def normalised(text: str) -> str:
    """Return `text` in SQuAD's normal form: lower case, no ASCII punctuation, no articles, single spaces.

    >>> normalised("The  Cat's whiskers!")
    'cats whiskers'
    """
    return " ".join(_ARTICLES.sub(" ", PUNCTUATION.sub("", text.lower())).split())
