"""Examples as tokens: what each token is, where `[Ret]` stands, and that answering sees what training saw."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosup.data.encoding import PAPER_PROMPT, PROMPT, EncodedExample, ExampleEncoder, Kind, check_prompt, render_prompt
from cosup.errors import UsageError
from cosup.generation.rows import Row, Stage
from cosup.generation.settings import GenerationSettings
from cosup.records import Example, Hit, Passage, Question, RetrievalSegment, TextSegment
from cosup.tokens import control_token_ids
from tests.kinds import KINDS, kind, texts

PASSAGES = {"1": Passage("1", "the fox", "quick brown"), "2": Passage("2", "", "of Saltmere")}
EXAMPLE = Example(
    "e",
    "passage of the fox",
    (RetrievalSegment("1", "brown fox"), RetrievalSegment("2", "Saltmere"), TextSegment("the end")),
)


def encoder(name: str = "words", saved: bool = False, **more: Any) -> ExampleEncoder:
    tokenizer = kind(name, saved)
    return ExampleEncoder(tokenizer, control_token_ids(tokenizer), **more)


def spelled(made: ExampleEncoder, encoded: EncodedExample) -> list[str]:
    """Return the tokens as text, control tokens by name."""
    return [str(token) for token in made.text.tokenizer.convert_ids_to_tokens(encoded.input_ids)]


def test_every_token_has_its_kind() -> None:
    """`[Cs]` is forced, passages are passages, and what the model must write is written; literal."""
    made = encoder(prompt="{question} Output:")
    encoded = made.example(EXAMPLE, PASSAGES)
    rows = zip(spelled(made, encoded), (k.name for k in encoded.kinds), strict=True)
    assert [(token.replace("\u2581", ""), name) for token, name in rows] == [
        *[(t, "PROMPT") for t in ("passage", "of", "the", "fox", "Output", ":")],
        ("[Ret]", "WRITTEN"),
        *[(t, "PASSAGE") for t in ("the", "fox", "::", "quick", "brown")],
        ("[Cs]", "FORCED"),
        *[(t, "WRITTEN") for t in ("brown", "fox", "[Ce]", "[Ret]")],
        *[(t, "PASSAGE") for t in ("of", "Saltmere")],
        ("[Cs]", "FORCED"),
        *[(t, "WRITTEN") for t in ("Saltmere", "[Ce]", "the", "end", "</s>")],
    ]
    assert encoded.ret_positions == [6, 16]
    assert encoded.passage_ids == ["1", "2"]


@pytest.mark.parametrize("saved", [False, True], ids=["made", "loaded"])
@pytest.mark.parametrize("name", KINDS)
@given(question=texts(), lead=texts(2), title=texts(3), body=texts(3), claim=texts(3), final=texts(3))
@settings(max_examples=20, deadline=None)
def test_control_tokens_are_what_the_structure_says(
    name: str, saved: bool, question: str, lead: str, title: str, body: str, claim: str, final: str
) -> None:
    """Proof 7 through whole examples: question, instruction, title, passage, claim and text may spell anything."""
    made = encoder(name, saved)
    own = made.control
    passages = {"1": Passage("1", title, body), "2": Passage("2", body, claim)}
    output = (TextSegment(final), RetrievalSegment("1", claim), RetrievalSegment("2", final), TextSegment(body))
    encoded = made.example(Example("e", question, output, instruction=lead), passages)
    found = Counter(encoded.input_ids)
    ends = (made.text.prefix).count(own.eos)
    assert (found[own.ret], found[own.cs], found[own.ce], found[own.eos]) == (2, 2, 2, 1 + ends)
    assert encoded.input_ids[-1] == own.eos
    assert [i for i, token in enumerate(encoded.input_ids) if token == own.ret] == encoded.ret_positions
    forced = [token for token, kind_ in zip(encoded.input_ids, encoded.kinds, strict=True) if kind_ is Kind.FORCED]
    assert forced == [own.cs, own.cs]


@pytest.mark.parametrize("name", KINDS)
def test_the_beginning_of_sequence_stands_once_and_first(name: str) -> None:
    """Parts after the prompt have none of their own; the end of sequence is cosup's, also where a tokenizer adds it."""
    made = encoder(name)
    encoded = made.example(EXAMPLE, PASSAGES)
    prefix = made.text.prefix
    assert encoded.input_ids[: len(prefix)] == prefix
    assert set(prefix).isdisjoint(encoded.input_ids[len(prefix) : -1])
    assert len(prefix) == (1 if name == "llama" else 0)


@pytest.mark.parametrize("name", KINDS)
def test_answering_sees_the_tokens_of_training(name: str) -> None:
    """The engine's row, fed the very tokens an example has, ends with the example's sequence."""
    made = encoder(name, max_length=400)
    encoded = made.example(EXAMPLE, PASSAGES)
    question = Question("e", EXAMPLE.prompt)
    row = Row(question, made.prompt(question.question), made.control, GenerationSettings(), 400)
    hits = {i: (Hit(i, 1.0),) for i in PASSAGES}
    wanted = iter(encoded.passage_ids)
    while row.stage is not Stage.DONE:
        row.take(1000)
        assert row.context == encoded.input_ids[: len(row.context)]
        if row.context[-1] == made.control.ret:
            row.stage = Stage.RETRIEVING
            passage_id = next(wanted)
            row.read(hits[passage_id], [made.passage(PASSAGES[passage_id])])
        else:
            row._write(encoded.input_ids[len(row.context)])
    assert [*row.context, made.control.eos] == encoded.input_ids
    assert [p.hits[0].passage_id for p in row.pieces if p.hits] == ["1", "2"]


def test_a_passage_is_cut_to_its_length() -> None:
    made = encoder(max_passage_length=3)
    assert made.passage(PASSAGES["1"]) == encoder().passage(PASSAGES["1"])[:3]
    assert Counter(made.example(EXAMPLE, PASSAGES).kinds)[Kind.PASSAGE] == 3 + 2


# Cutting


@pytest.mark.parametrize("length", range(1, 40))
def test_a_cut_example_is_the_beginning_of_the_whole_one(length: int) -> None:
    """Retrievals that fall off take their passages with them."""
    whole = encoder(prompt="{question} Output:").example(EXAMPLE, PASSAGES)
    cut = encoder(prompt="{question} Output:", max_length=length).example(EXAMPLE, PASSAGES)
    assert cut.input_ids == whole.input_ids[:length]
    assert cut.kinds == whole.kinds[:length]
    assert cut.ret_positions == [p for p in whole.ret_positions if p < length]
    assert cut.passage_ids == whole.passage_ids[: len(cut.ret_positions)]


def test_cutting_is_told_once_and_only_where_it_happens(caplog: pytest.LogCaptureFixture) -> None:
    made = encoder(prompt="{question} Output:", max_length=25)
    with caplog.at_level(logging.WARNING):
        assert len(made.example(EXAMPLE, PASSAGES).input_ids) == 25
    assert caplog.messages == []
    made.max_length = 20
    with caplog.at_level(logging.WARNING):
        made.example(EXAMPLE, PASSAGES)
        made.example(EXAMPLE, PASSAGES)
    assert caplog.messages == ["example 'e' has 25 tokens and is cut to max_length=20; further cuts are not told"]


def test_negatives_go_along() -> None:
    example = Example("e", "the fox", (TextSegment("end"),), negatives=("2",))
    assert encoder().example(example, PASSAGES).negatives == ("2",)


# Prompts


def test_the_prompts_are_these() -> None:
    assert render_prompt(PROMPT, "Who?") == "## Input:\n\nWho?\n\n## Output:\n\n"
    assert render_prompt(PAPER_PROMPT, "Who?") == "## Input:\n\nWho?## Output:\n\n"
    assert render_prompt(PROMPT, "Who?", "Answer.") == "Answer.\n## Input:\n\nWho?\n\n## Output:\n\n"


@pytest.mark.parametrize("instruction", ["Answer.", "Answer.\n", "Answer.\n\n"])
def test_an_instruction_ends_with_one_newline(instruction: str) -> None:
    assert render_prompt("{instruction}{question}", "Who?", instruction) == "Answer.\nWho?"


@pytest.mark.parametrize("instruction", [None, ""])
def test_no_instruction_leaves_nothing(instruction: str | None) -> None:
    assert render_prompt("{instruction}{question}", "Who?", instruction) == "Who?"


@given(st.text() | st.sampled_from(["{question}", "{instruction}", "{", "}", "{0}", "{a!r}", "\\1", "{{x}}"]))
def test_what_a_question_spells_stays(question: str) -> None:
    """Braces, placeholders and backslashes too; nor does the instruction fill anything in."""
    assert render_prompt("<{instruction}|{question}>", question, question + "x") == f"<{question}x\n|{question}>"


@pytest.mark.parametrize("prompt", ["", "Answer:", "{Question}", "{question} {context}", "{question} {instructions}"])
def test_a_prompt_that_cannot_be_filled_is_refused(prompt: str) -> None:
    with pytest.raises(UsageError, match=r"prompt is .*; expected \{question\} in it and no placeholder but"):
        ExampleEncoder(kind("words"), control_token_ids(kind("words")), prompt)


@pytest.mark.parametrize("prompt", [PROMPT, PAPER_PROMPT, "{question}", "{} {question} { x }"])
def test_a_prompt_that_can_be_filled_passes(prompt: str) -> None:
    check_prompt(prompt)
