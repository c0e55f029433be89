"""Self-RAG's reflection tokens become citations; what is left out is counted, and no token remains."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from cosup.data.convert import Conversion, convert
from cosup.data.reading import check_references, read_examples, read_passages
from cosup.data.writing import write_jsonl
from cosup.errors import InputError
from cosup.records import Example, Passage, RetrievalSegment, TextSegment

ELM = "<paragraph>Elm\nElm is small.\nIt lies low.</paragraph>"
ASH = "<paragraph>Ash\nAsh is big.</paragraph>"


def _record(name: str, output: str, **more: Any) -> dict[str, Any]:
    return {
        "instruction": "Where?",
        "input": "",
        "output": output,
        "id": name,
        "dataset_name": "nq",
        "topic": "",
    } | more


def _convert(folder: Path, *records: dict[str, Any]) -> tuple[list[Example], list[Passage], Conversion]:
    write_jsonl(folder / "in.jsonl", records)
    done = convert("selfrag", folder / "in.jsonl", folder / "out")
    return read_examples(folder / "out/examples.jsonl"), read_passages(folder / "out"), done


def _one(folder: Path, output: str) -> tuple[Example, dict[str, int]]:
    """Convert an output beside one that has a citation, so that there is always something to write."""
    examples, passages, done = _convert(folder, _record("x", output))
    check_references(examples, passages, "x")
    return examples[0], dict(done.skipped)


def test_a_paragraph_with_a_claim_is_a_citation(tmp_path: Path) -> None:
    output = f"Sure![Retrieval]{ELM}[Relevant]Elm is small.[Fully supported][Utility:5]"
    examples, passages, done = _convert(tmp_path, _record("x", output))
    cited = RetrievalSegment("Elm", "Elm is small.")
    assert examples == [Example("x", "Where?", (TextSegment("Sure!"), cited))]
    assert passages == [Passage("Elm", "Elm", "Elm is small.\nIt lies low.")]
    assert done.skipped == {
        "reflection tokens [retrieval]": 1,
        "reflection tokens <paragraph>": 1,
        "reflection tokens </paragraph>": 1,
        "reflection tokens [relevant]": 1,
        "reflection tokens [fully supported]": 1,
        "reflection tokens [utility:5]": 1,
    }


@pytest.mark.parametrize(
    ("output", "segments"),
    [
        (f"[Retrieval]{ELM}[Relevant]A.[Partially supported] B. [Utility:2]", [("Elm", "A."), "B."]),
        (f"[Retrieval]{ELM}[Relevant]A.[Utility:4]", [("Elm", "A.")]),
        (f"[Retrieval]{ELM}A.[Fully supported]", [("Elm", "A.")]),
        (f"{ELM}[Relevant]A.[Fully supported]", [("Elm", "A.")]),
        # The claim goes on, also where the verdict stands in between; past other text it is made again.
        (f"[Retrieval]{ELM}[Relevant]A.[Fully supported][Continue to Use Evidence]B.", [("Elm", "A. B.")]),
        (
            f"[Retrieval]{ELM}[Relevant]A.[Fully supported]Oh.[Continue to Use Evidence]B.",
            [("Elm", "A."), "Oh.", ("Elm", "B.")],
        ),
        (
            f"[Retrieval]{ELM}[Relevant]A.[Fully supported][No Retrieval]N.[Continue to Use Evidence]B.",
            [("Elm", "A."), "N.", ("Elm", "B.")],
        ),
        (f"[No Retrieval]N.[Retrieval]{ASH}[Relevant]A.", ["N.", ("Ash", "A.")]),
        # Two paragraphs, one after another: the first has no claim.
        (f"[Retrieval]{ASH}[Relevant][Retrieval]{ELM}[Relevant]A.", [("Elm", "A.")]),
        # Without a paragraph it is text.
        (f"[Retrieval]T.[Retrieval]{ELM}[Relevant]A.", ["T.", ("Elm", "A.")]),
        # Spelling and spaces vary.
        (
            f"[retrieval]{ELM}[RELEVANT] A. [no support/contradictory][Retrieval]{ASH}[Relevant]B.",
            ["A.", ("Ash", "B.")],
        ),
    ],
)
def test_outputs_become_segments(output: str, segments: list[Any], tmp_path: Path) -> None:
    example, _ = _one(tmp_path, output)
    expected = tuple(TextSegment(s) if isinstance(s, str) else RetrievalSegment(*s) for s in segments)
    assert example.output == expected


def test_irrelevant_paragraphs_are_hard_negatives(tmp_path: Path) -> None:
    """Their text stands without a citation, also what goes on with it; a paragraph that is cited is no negative."""
    output = f"[Retrieval]{ASH}[Irrelevant]A.[Continue to Use Evidence]B.[Retrieval]{ELM}[Relevant]C."
    example, skipped = _one(tmp_path, output)
    assert example.output == (TextSegment("A. B."), RetrievalSegment("Elm", "C."))
    assert example.negatives == ("Ash",)
    irrelevant = "citations of paragraphs marked as irrelevant (the text stays, the paragraph is a hard negative)"
    assert skipped[irrelevant] == 1
    assert skipped["continued citations without a cited paragraph before them (the text stays)"] == 1
    example, _ = _one(tmp_path, f"[Retrieval]{ELM}[Irrelevant]A.[Retrieval]{ELM}[Relevant]C.")
    assert example.negatives == ()


def test_an_unsupported_claim_is_no_citation(tmp_path: Path) -> None:
    output = f"[Retrieval]{ASH}[Relevant]A.[No support / Contradictory][Retrieval]{ELM}[Relevant]B.[Fully supported]"
    example, skipped = _one(tmp_path, output)
    assert example.output == (TextSegment("A."), RetrievalSegment("Elm", "B."))
    assert example.negatives == ()
    assert skipped["citations of paragraphs that do not support their claim (the text stays)"] == 1


def test_what_is_dropped_is_counted(tmp_path: Path) -> None:
    good = f"[Retrieval]{ELM}[Relevant]A."
    examples, passages, done = _convert(
        tmp_path,
        _record("a", good),
        _record("b", "[No Retrieval]N.[Utility:5]"),
        _record("c", "N."),
        _record("d", f"[Retrieval]{ASH}[Irrelevant]A."),
        _record("e", "[Retrieval]<paragraph>Ash\nAsh is big.[Relevant]A."),
        _record("f", f"[Retrieval]<paragraph>{ASH}[Relevant]A."),
        _record("g", "[Retrieval]<paragraph> \n</paragraph>[Relevant]A."),
        _record("h", f"[Retrieval]{ASH}A."),
        _record("i", " "),
        _record("j", good, instruction=" "),
        _record("a", good),
        _record("a", good, id=None),
    )
    assert [e.id for e in examples] == ["a", "a#2", "selfrag-12"]
    assert [p.id for p in passages] == ["Elm"], "paragraphs of examples that were dropped go with them"
    counts = {reason: n for reason, n in done.skipped.items() if not reason.startswith("reflection tokens")}
    assert counts == {
        "examples that do not retrieve": 2,
        "examples that retrieve, of which no citation remains": 1,
        "malformed examples (a paragraph without its end, its text or its verdict)": 4,
        "examples without an instruction or an output": 2,
        "ids that stand there before (numbered instead)": 1,
    }
    assert done.skipped["reflection tokens [relevant]"] == 3, "tokens of examples that were kept"


@pytest.mark.parametrize(
    ("more", "instruction", "prompt"),
    [
        ({}, None, "Where?"),
        ({"instruction": "Answer. ## Input:\n\nWhere is it?"}, "Answer.", "Where is it?"),
        ({"instruction": "Answer.## Input:\n\nWhere?", "input": "Where?"}, "Answer.", "Where?"),
        ({"instruction": "Translate.", "input": "Ulme"}, "Translate.", "Ulme"),
        ({"instruction": "## Input:\n\nWhere?"}, None, "Where?"),
        ({"instruction": "[Relevant]Where?"}, None, "Where?"),
    ],
)
def test_instruction_and_prompt(more: dict[str, Any], instruction: str | None, prompt: str, tmp_path: Path) -> None:
    [example], _, _ = _convert(tmp_path, _record("x", f"[Retrieval]{ELM}[Relevant]A.", **more))
    assert (example.instruction, example.prompt) == (instruction, prompt)


def test_no_reflection_token_remains(tmp_path: Path) -> None:
    """Nor one that comes about where another was taken out, or where two texts are joined."""
    tricky = "<paragraph>El[Relevant]m\nSmall [Utility:1].</paragraph>"
    claim = "A [No[Fully supported][Continue to Use Evidence]Retrieval] B."
    output = f"x[Rele[Utility:3]vant]y[Retrieval]{tricky}[Relevant]{claim}"
    [example], [passage], _ = _convert(tmp_path, _record("x", output, input="[Utility:1]?"))
    assert passage == Passage("Elm", "Elm", "Small .")
    assert example.output == (TextSegment("xy"), RetrievalSegment("Elm", "A  B."))
    written = (tmp_path / "out/examples.jsonl").read_text() + (tmp_path / "out/passages.jsonl").read_text()
    assert not re.search(r"\[(relevant|utility|no retrieval|retrieval)|paragraph>", written, re.IGNORECASE)


def test_a_json_list_reads_as_lines_do(tmp_path: Path) -> None:
    records = [_record(name, f"[Retrieval]{ELM}[Relevant]{name}.") for name in "ab"]
    _convert(tmp_path, *records)
    (tmp_path / "in.json").write_text(json.dumps(records))
    convert("selfrag", tmp_path / "in.json", tmp_path / "two")
    for name in ("passages.jsonl", "examples.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_wrong_record_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"in.jsonl:2: output: found NoneType None; expected text"):
        _convert(tmp_path, _record("a", "x"), _record("b", "x") | {"output": None})
    with pytest.raises(
        InputError, match=r"nothing there for passages.jsonl, examples.jsonl \(skipped 1 examples that do"
    ):
        _convert(tmp_path, _record("a", "x"))
