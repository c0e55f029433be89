"""QAMPARI as ALCE scores it: an answer is a list with commas, compared with the aliases of every wanted answer.

Source: Gao et al. 2023, section 4.1, and `compute_qampari_f1` of the official scorer (princeton-nlp/ALCE).
"""

from __future__ import annotations

from collections.abc import Sequence

from cosup.evaluation.alce_records import list_items
from cosup.evaluation.answers import normalise

TOP = 5


def qampari_scores(output: str, answers: Sequence[Sequence[str]], cot: bool = False) -> dict[str, float]:
    """Score one list of answers: the number of items and five measures in 0..1.

    `qampari_prec`: the share of the items that are an alias of some wanted answer, repeats counted; `qampari_rec`:
    the share of the wanted answers with an alias among the items; `qampari_rec_top5`: the same up to five of them;
    and the harmonic mean of the precision with each. Items and aliases are normalised; empty items do not count.

    Args:
        output: without citations.
        answers: the aliases of each wanted answer; at least one answer.
        cot: take what follows the first colon (reasoning stands before it); nothing where there is none.
    """
    listed = output.partition(":")[2] if cot else output
    items = [item for item in map(normalise, list_items(listed)) if item]
    wanted = [{normalise(alias) for alias in aliases} for aliases in answers]
    known, given = set().union(*wanted), set(items)
    found = sum(not aliases.isdisjoint(given) for aliases in wanted)
    precision = sum(item in known for item in items) / len(items) if items else 0.0
    recall, top = found / len(wanted), min(TOP, found) / min(TOP, len(wanted))
    return {
        "num_preds": float(len(items)),
        "qampari_prec": precision,
        "qampari_rec": recall,
        "qampari_rec_top5": top,
        "qampari_f1": _harmonic(precision, recall),
        "qampari_f1_top5": _harmonic(precision, top),
    }


def _harmonic(a: float, b: float) -> float:
    return 2 * a * b / (a + b) if a + b else 0.0
