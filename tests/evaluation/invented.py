"""Invented predictions over the demo's made-up world, good and bad in every way that the report's page shows."""

from __future__ import annotations

from random import Random

from cosup.data.atlas import build_atlas, hop_of
from cosup.evaluation import Report, evaluate
from cosup.records import Answer, Citation, Hit, Passage, Question, Retrieval

SETTINGS = {
    "predictions": "runs/atlas/predictions.jsonl",
    "questions": "runs/atlas/questions.jsonl",
    "model": "runs/atlas/model",
    "seed": 7,
}


def invented_report(count: int, seed: int = 7) -> tuple[Report, dict[str, Passage]]:
    """Return a report over `count` questions of both kinds, and the passages by id."""
    random = Random(seed)
    atlas = build_atlas(seed=3, train_entities=400, test_entities=max(40, count))
    passages = {p.id: p for p in atlas.passages}
    singles = [q for q in atlas.test_questions if hop_of(q) == "single_hop"]
    doubles = [q for q in atlas.test_questions if hop_of(q) == "two_hop"]
    half = min(len(doubles), round(0.26 * count))
    questions = sorted(singles[: count - half] + doubles[:half], key=lambda q: q.id)
    answers = [a for q in questions if (a := _answer(q, passages, random)) is not None]
    extra = [Answer("unasked-1", "", "Nobody asked.", "Nobody asked."), answers[0]]
    return evaluate([*answers, *extra], questions, passages.values(), SETTINGS, task_of=hop_of), passages


def _answer(question: Question, passages: dict[str, Passage], random: Random) -> Answer | None:
    """Answer rightly in most cases; else with one thing wrong."""
    chance = random.random()
    if chance < 0.01:
        return None
    ids, retrievals, citations, text = list(passages), [], [], ""
    for hop, evidence in enumerate(question.evidence, start=1):
        wrong_passage = 0.01 <= chance < 0.12 and hop == len(question.evidence)
        others = [i for i in random.sample(ids, 9) if i != evidence.passage_id]
        found = others[0] if wrong_passage else evidence.passage_id
        hits = [found, *(i for i in others if i != found)]
        retrievals.append(Retrieval(len(text), tuple(Hit(i, 0.93 - 0.061 * n) for n, i in enumerate(hits))))
        claim = (evidence.sentence or "") if not wrong_passage else passages[found].text.split(". ")[0] + "."
        if 0.12 <= chance < 0.17:
            claim = claim.replace(question.answers[0], "somewhere else").replace("born", "seen")
        if 0.17 <= chance < 0.20:
            claim = "It is said to be well known in the region."
        start = len(text)
        text += claim.rstrip(".")
        citations.append(Citation(hop, found, claim, start, len(text), 0.93))
        text += f" [{hop}]. "
    final = "Unknown" if 0.07 <= chance < 0.17 else question.answers[0]
    return Answer(question.id, question.question, text + final, final, (), tuple(citations), tuple(retrievals))
