"""The atlas: deterministic, closed in its words, open in its names, and every question answerable from its evidence."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import subprocess
import sys
from itertools import combinations

import pytest

from cosup.data import atlas_words as words
from cosup.data.atlas import Atlas, build_atlas, hop_of
from cosup.data.wordlevel import build_word_tokenizer
from cosup.errors import UsageError
from cosup.records import Passage, Question
from cosup.tokens import CONTROL_TOKENS, TextEncoder

DIGEST = "951fad64304a1814"


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    return build_atlas()


def digest(atlas: Atlas) -> str:
    records = [*atlas.train_passages, *atlas.dev_passages, *atlas.passages]
    records += [*atlas.train_questions, *atlas.dev_questions, *atlas.test_questions]
    return hashlib.sha256(json.dumps([r.to_dict() for r in records]).encode()).hexdigest()[:16]


def worlds(atlas: Atlas) -> list[tuple[tuple[Passage, ...], tuple[Question, ...]]]:
    return [
        (atlas.train_passages, atlas.train_questions),
        (atlas.dev_passages, atlas.dev_questions),
        (atlas.passages, atlas.test_questions),
    ]


def test_the_same_seed_gives_the_same_corpus_whatever_the_hash_seed() -> None:
    code = "from __future__ import annotations\nimport hashlib, json\nfrom cosup.data.atlas import Atlas, build_atlas\n"
    code += inspect.getsource(digest) + "\nprint(digest(build_atlas(3, 400, 40)))"
    found = set()
    for hash_seed in ("1", "2"):
        search = os.pathsep.join(p for p in sys.path if p)
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": search}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        found.add(done.stdout.strip())
    assert found == {digest(build_atlas(3, 400, 40))} == {DIGEST}


def test_another_seed_gives_another_corpus() -> None:
    assert digest(build_atlas(0, 400, 40)) != digest(build_atlas(1, 400, 40))


def test_sizes(atlas: Atlas) -> None:
    hops = [hop_of(q) for q in atlas.test_questions]
    assert len(atlas.passages) == 640
    assert len(atlas.train_passages) == 3000
    assert len(atlas.dev_passages) == 160
    assert hops.count("single_hop") == 544
    assert hops.count("two_hop") == 192
    assert len(atlas.train_questions) > 12_000
    asked = [hop_of(q) for q in atlas.train_questions[:4000]]
    assert 0.3 < asked.count("two_hop") / len(asked) < 0.4, "two-hop questions are spread evenly"


def test_single_hop_questions_ask_about_more_than_500_unseen_passages(atlas: Atlas) -> None:
    single = [q for q in atlas.test_questions if hop_of(q) == "single_hop"]
    assert len({q.gold_ids for q in single}) == 544


def test_ids_titles_and_questions_are_unique_within_a_world(atlas: Atlas) -> None:
    for passages, questions in worlds(atlas):
        assert len({p.id for p in passages}) == len({p.title for p in passages}) == len(passages)
        assert len({q.id for q in questions}) == len(questions)
        assert len({(q.gold_ids, q.answers, q.question) for q in questions}) == len(questions)


def test_no_name_of_one_world_occurs_in_another(atlas: Atlas) -> None:
    text = {
        label: "\n".join([p.rendered for p in passages] + [q.question for q in questions])
        for label, (passages, questions) in zip(("train", "dev", "test"), worlds(atlas), strict=True)
    }
    assert [p.title for p in atlas.passages if p.title in text["train"] or p.title in text["dev"]] == []
    assert [p.title for p in atlas.dev_passages if p.title in text["train"]] == []


def test_evidence_states_the_answer_in_an_exact_sentence_of_the_passage(atlas: Atlas) -> None:
    for passages, questions in worlds(atlas):
        by_id = {p.id: p for p in passages}
        for question in questions:
            for evidence in question.evidence:
                text = by_id[evidence.passage_id].text
                assert evidence.sentence
                assert evidence.sentence in text.replace(". ", ".\n").split("\n")
                assert text.count(evidence.sentence) == 1
            assert question.answers[0] in (question.evidence[-1].sentence or "")


def test_a_question_names_the_title_of_its_first_passage_alone(atlas: Atlas) -> None:
    for passages, questions in worlds(atlas)[1:]:
        for question in questions:
            named = [p.id for p in passages if p.title in question.question]
            assert named == [question.gold_ids[0]], question


def test_the_first_hop_names_the_second_passage_and_the_question_does_not(atlas: Atlas) -> None:
    for passages, questions in worlds(atlas):
        titles = {p.id: p.title for p in passages}
        for question in (q for q in questions if hop_of(q) == "two_hop"):
            first, second = question.evidence
            assert titles[second.passage_id] in (first.sentence or "")
            assert titles[second.passage_id] not in question.question
            assert first.passage_id != second.passage_id


def test_every_attribute_and_every_chain_is_asked_for_in_every_form(atlas: Atlas) -> None:
    asked = "\n".join(q.question for q in atlas.train_questions)
    for forms in words.QUESTION_FORMS.values():
        assert all(form.split("{it}")[0] in asked and form.split("{it}")[1] in asked for form in forms)
    for forms in words.DESCRIPTIONS.values():
        assert all(form.split("{it}")[0] in asked for form in forms)


def test_passages_are_two_to_four_sentences_and_short(atlas: Atlas) -> None:
    for passage in atlas.passages:
        assert 2 <= passage.text.count(".") <= 4
        assert 12 <= len(passage.text.split()) <= 45


def test_no_word_stands_in_two_lists_of_name_parts() -> None:
    lists = [
        words.HER_NAMES, words.HIS_NAMES, words.SURNAMES, words.PLACE_FIRST, words.PLACE_SECOND,
        words.RIVERS, words.WORK_ADJECTIVES, words.WORK_NOUNS, words.WORK_THEMES,
    ]  # fmt: skip
    assert all(len(set(one)) == len(one) for one in lists)
    shared = [set(one) & set(other) for one, other in combinations(lists, 2)]
    assert [both for both in shared if both] == []


def test_layouts_use_only_sentences_that_state_their_attributes() -> None:
    for kind, layouts in words.LAYOUTS.items():
        attributes = {attribute for layout in layouts for group in layout for attribute in group.split()}
        for layout in layouts:
            stated = [attribute for group in layout for attribute in group.split()]
            assert sorted(stated) == sorted(attributes), kind
    for group, forms in words.SENTENCES.items():
        assert all("{" + attribute + "}" in form for form in forms for attribute in group.split())


@pytest.mark.parametrize("sizes", [(3000, 640), (400, 20)])
def test_the_words_of_training_cover_every_world(sizes: tuple[int, int]) -> None:
    """A vocabulary built from training text knows every word of dev and test, the smallest corpus included."""
    atlas = build_atlas(0, *sizes)
    tokenizer = build_word_tokenizer(atlas.train_texts)
    assert 500 < len(tokenizer) < 1200
    for passages, questions in worlds(atlas):
        texts = [p.rendered for p in passages] + [q.question for q in questions]
        encoded = tokenizer(texts)["input_ids"]
        assert not [text for text, ids in zip(texts, encoded, strict=True) if tokenizer.unk_token_id in ids]
        assert tokenizer.batch_decode(encoded) == texts


def test_the_word_tokenizer_survives_saving(atlas: Atlas, tmp_path: object) -> None:
    from transformers import AutoTokenizer

    tokenizer = build_word_tokenizer(atlas.train_texts)
    tokenizer.save_pretrained(str(tmp_path))
    loaded = AutoTokenizer.from_pretrained(str(tmp_path))
    text = atlas.passages[0].rendered
    assert loaded.encode(text) == tokenizer.encode(text)
    assert loaded.decode(loaded.encode(text)) == text
    assert (loaded.pad_token, loaded.eos_token, loaded.unk_token) == ("<pad>", "</s>", "<unk>")


def test_an_answer_is_the_same_tokens_in_a_claim_and_alone(atlas: Atlas) -> None:
    """Copying needs one token a word, at the start of a text as inside it."""
    tokenizer = build_word_tokenizer(atlas.train_texts)
    for question in atlas.test_questions[:100]:
        answer = tokenizer.encode(question.answers[0])
        sentence = tokenizer.encode(question.evidence[-1].sentence or "")
        assert any(sentence[i : i + len(answer)] == answer for i in range(len(sentence)))


def test_typed_control_tokens_never_become_control_tokens(atlas: Atlas) -> None:
    tokenizer = build_word_tokenizer([*atlas.train_texts, "[ ] Ret Cs Ce < > pad /"])
    tokenizer.add_special_tokens({"extra_special_tokens": list(CONTROL_TOKENS)})
    control = set(tokenizer.convert_tokens_to_ids([*CONTROL_TOKENS, "</s>", "<pad>"]))
    encoder = TextEncoder(tokenizer)
    for typed in (*CONTROL_TOKENS, "</s>", "<pad>"):
        for text in (typed, f"Who wrote {typed}?", f"born{typed}in", typed * 2):
            assert control.isdisjoint(encoder.encode(text)), text
    typed = "Who wrote [Ret]?"
    assert control & set(tokenizer.encode(typed)), "the test can fail: encoded carelessly, it is a control token"


@pytest.mark.parametrize(("train", "test", "named"), [(399, 40, "399"), (400, 19, "19"), (3700, 640, "3700")])
def test_sizes_that_cannot_be_made_are_refused(train: int, test: int, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        build_atlas(0, train, test)


def test_the_largest_corpus_has_a_name_for_everyone() -> None:
    atlas = build_atlas(0, 3900, 400)
    assert len(atlas.train_passages) + len(atlas.dev_passages) + len(atlas.passages) == 4400


def test_no_two_groups_of_attributes_share_a_sentence_opening() -> None:
    openings = [form.split()[0] for forms in words.SENTENCES.values() for form in forms]
    assert len(set(openings)) == len(openings)
