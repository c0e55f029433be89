"""What cosup draws in the terminal: answers with their citations, tables, and progress.

Text of users, passages and models is shown as text: rich markup in it is never read, and control characters (ANSI
escapes, bidirectional overrides) are replaced, one character for one, so that offsets hold.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.measure import Measurement
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task
from rich.table import Table
from rich.text import Text

from cosup.data.sentences import sentence_spans
from cosup.evaluation.answers import token_f1
from cosup.evaluation.attribution import F1_THRESHOLD
from cosup.records import Answer, Citation, Passage

CITATION_COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "red")
LONGEST_SHOWN = 700  # characters of a passage
SECONDS_BETWEEN_LINES = 10.0
_ANY_WIDTH = 10_000  # columns of a terminal that nothing is too wide for

_UNSEEN = "\ufffd"
_CONTROLS = {code: 0x2400 + code for code in range(0x20)} | {ord(space): " " for space in "\t\n\v\f\r"}
_CONTROLS |= {0x7F: 0x2421} | dict.fromkeys([*range(0x80, 0xA0), 0x61C, 0x200E, 0x200F, 0x2028, 0x2029], _UNSEEN)
_CONTROLS |= dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A), *range(0xD800, 0xE000)], _UNSEEN)


def safe_text(text: str) -> str:
    """Return `text` with every character that could steer a terminal replaced by a visible one; the length stays."""
    return text.translate(_CONTROLS)


def cited_text(answer: Answer) -> Text:
    """Return an answer's text with each claim underlined in its citation's colour and the final answer in bold."""
    shown = Text(safe_text(answer.text))
    for citation in answer.citations:
        colour = _colour(citation.n)
        shown.stylize(f"underline {colour}", citation.start, citation.end)
        mark = re.compile(rf"\s?\[{citation.n}\]").match(answer.text, citation.end)
        if mark:
            shown.stylize(f"bold {colour}", *mark.span())
    last = max((c.end for c in answer.citations), default=0)
    begin = answer.text.rfind(answer.answer, last) if answer.answer else -1
    if begin >= 0:
        shown.stylize("bold", begin, begin + len(answer.answer))
    return shown


def draw_answer(console: Console, answer: Answer, passages: Mapping[str, Passage]) -> None:
    """Draw a question, its answer and, numbered as in the text, each cited passage with what supports the claims.

    Args:
        console: where to.
        answer: what the model wrote.
        passages: passages by id; a cited one that is missing is named as such.
    """
    console.print(Text(safe_text(answer.question), style="bold"))
    console.print(Padding(cited_text(answer), (0, 0, 0, 2)))
    draw_citations(console, answer, passages)
    console.print()


def draw_citations(console: Console, answer: Answer, passages: Mapping[str, Passage]) -> None:
    """Draw, numbered as in an answer's text, each cited passage with what supports the claims; see `draw_answer`."""
    by_number: dict[int, list[Citation]] = {}
    for citation in answer.citations:
        by_number.setdefault(citation.n, []).append(citation)
    for number, citations in sorted(by_number.items()):
        passage_id = citations[0].passage_id
        console.print(Padding(_heading(number, citations[0], passages.get(passage_id)), (0, 0, 0, 2)))
        if passage_id in passages:
            body = supported_text(passages[passage_id], [c.claim for c in citations], _colour(number))
            console.print(Padding(body, (0, 0, 0, 6)))


def supported_text(passage: Passage, claims: Sequence[str], colour: str) -> Text:
    """Return a passage's text, dimmed, with the sentences that support the claims set off.

    A claim is supported where it stands in the text, white space aside, or else by the sentence with which its token
    F1 is highest and at least 0.5. Long passages are cut around the first support.
    """
    spans = [span for span in (_support(passage.text, claim) for claim in claims) if span]
    shown = Text(safe_text(passage.text), style="dim")
    for start, end in spans:
        shown.stylize(f"not dim {colour}", start, end)
    if len(shown) <= LONGEST_SHOWN:
        return shown
    begin = max(0, min(spans[0][0] - 100, len(shown) - LONGEST_SHOWN)) if spans else 0
    end = min(len(shown), begin + LONGEST_SHOWN)
    return Text("…" if begin else "").append_text(shown[begin:end]).append("…" if end < len(shown) else "")


def draw_table(console: Console, rows: Sequence[Sequence[str]], title: str | None = None) -> None:
    """Draw a table whose first row is its head and whose first column is its labels; the rest is right-aligned.

    Where the terminal is too narrow for it, each row is its label and below it a line for each figure.
    """
    table = Table(title=None if title is None else Text(safe_text(title)), title_justify="left")
    for index, name in enumerate(rows[0]):
        table.add_column(Text(safe_text(name)), justify="right" if index else "left", no_wrap=index > 0)
    for row in rows[1:]:
        table.add_row(*(Text(safe_text(cell)) for cell in row))
    if Measurement.get(console, console.options.update(max_width=_ANY_WIDTH), table).maximum <= console.width:
        console.print(table)
        return
    for line in [*filter(None, [title]), *_listed(rows)]:
        console.print(Text(safe_text(line)), soft_wrap=True)


def _listed(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Say a table in lines."""
    for label, *cells in rows[1:]:
        yield label
        yield from (f"  {name}: {cell}" for name, cell in zip(rows[0][1:], cells, strict=True))


@dataclass
class Meter:
    """How far a piece of long work has come; `show` is called at every change.

    Attributes:
        unit: what is counted, in the plural.
        first: what was done before this run began (a resumed one); it does not count towards the rate.
    """

    description: str
    total: int
    unit: str
    show: Callable[[Meter], None]
    clock: Callable[[], float] = time.monotonic
    first: int = 0
    done: int = 0
    note: str = ""
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.done = max(self.done, self.first)
        self.started = self.clock()

    def update(self, done: int, note: str | None = None) -> None:
        """Say that `done` of `total` are done, with a note to show beside it (the old one stays without)."""
        self.done = done
        self.note = self.note if note is None else note
        self.show(self)

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """Say that `count` more are done."""
        self.update(self.done + count, note)

    @property
    def rate(self) -> float:
        """Units a second in this run; 0 before the first."""
        return (self.done - self.first) / max(self.clock() - self.started, 1e-9)

    @property
    def speed(self) -> str:
        """Rate and time left in words; empty before the first unit is done."""
        if self.rate <= 0:
            return ""
        rate = f"{self.rate:.1f} {self.unit}/s" if self.rate >= 1 else f"{1 / self.rate:.1f} s each"
        return f"{rate}, {duration((self.total - self.done) / self.rate)} left"

    @property
    def line(self) -> str:
        """All of it in one line of plain text."""
        parts = [f"{self.description}: {self.done}/{self.total} {self.unit}", self.speed, self.note]
        return safe_text(", ".join(part for part in parts if part))


@contextlib.contextmanager
def progress(
    description: str,
    total: int,
    unit: str = "steps",
    first: int = 0,
    console: Console | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Meter]:
    """Show the progress of long work on standard error while the block runs.

    In a terminal, a bar with rate and time left; elsewhere a line now and then, at most one every ten seconds, and one
    at the end.

    Args:
        description: what is being done.
        total: how many units there are.
        unit: what is counted, in the plural.
        first: units done before.
        console: where to instead.
        clock: seconds, for tests.
    """
    console = console or Console(stderr=True)
    if console.is_terminal:
        with _bar(console) as bar:
            row = bar.add_task("", total=total, completed=first)
            meter = Meter(description, total, unit, lambda m: bar.update(row, completed=m.done, meter=m), clock, first)
            bar.update(row, meter=meter)
            yield meter
        return
    lines = _Lines(console, clock)
    meter = Meter(description, total, unit, lines.show, clock, first)
    yield meter
    lines.write(meter)


def duration(seconds: float) -> str:
    """Return a time as `m:ss` or `h:mm:ss`."""
    whole = max(0, round(seconds))
    minutes, second = divmod(whole, 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02d}:{second:02d}" if hour else f"{minute}:{second:02d}"


class _Lines:
    """Progress where there is no terminal: a line now and then."""

    def __init__(self, console: Console, clock: Callable[[], float]) -> None:
        self._console, self._clock, self._last = console, clock, clock()

    def show(self, meter: Meter) -> None:
        if self._clock() - self._last >= SECONDS_BETWEEN_LINES:
            self.write(meter)

    def write(self, meter: Meter) -> None:
        self._last = self._clock()
        self._console.print(Text(meter.line), soft_wrap=True)


class _MeterColumn(ProgressColumn):
    """Draws one property of the meter that a task carries."""

    def __init__(self, draw: Callable[[Meter], str]) -> None:
        super().__init__()
        self._draw = draw

    def render(self, task: Task) -> Text:
        meter = task.fields.get("meter")
        return Text(safe_text(self._draw(meter)) if isinstance(meter, Meter) else "")


def _bar(console: Console) -> Progress:
    return Progress(
        _MeterColumn(lambda m: m.description),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        _MeterColumn(lambda m: m.speed),
        _MeterColumn(lambda m: m.note),
        console=console,
    )


def _heading(number: int, citation: Citation, passage: Passage | None) -> Text:
    heading = Text(f"[{number}] ", style=f"bold {_colour(number)}")
    title = "(this passage is not at hand)" if passage is None else passage.title
    heading.append(safe_text(title), style="bold")
    heading.append(f"  {safe_text(citation.passage_id)}  {citation.score:.3f}", style="not bold dim")
    return heading


def _support(text: str, claim: str) -> tuple[int, int] | None:
    words = claim.split()
    if not words:
        return None
    found = re.search(r"\s+".join(map(re.escape, words)), text)
    if found:
        return found.span()
    best = max(sentence_spans(text), key=lambda span: token_f1(claim, text[slice(*span)]), default=None)
    return best if best and token_f1(claim, text[slice(*best)]) >= F1_THRESHOLD else None


def _colour(number: int) -> str:
    return CITATION_COLOURS[(number - 1) % len(CITATION_COLOURS)]
