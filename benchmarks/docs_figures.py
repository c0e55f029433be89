"""Draw the figures of the documentation: docs/images/*.svg.

    python benchmarks/docs_figures.py

Drawings of how things work; nothing in them is measured. A test compares the files with what this script draws.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from html import escape
from pathlib import Path

INK, SOFT, PAPER = "#1f2933", "#52606d", "#ffffff"
GENERATOR, EMBEDDER, TEXT, CONTROL, PASSAGE = "#dbeafe", "#dcfce7", "#f5f5f4", "#fde68a", "#fce7f3"


class Drawing:
    """An SVG of boxes, words and arrows, on a ground of its own.

    Args:
        width: in pixels.
        height: in pixels.
        title: what it shows, for those who cannot see it.
    """

    def __init__(self, width: int, height: int, title: str) -> None:
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'role="img" font-family="system-ui, Helvetica, Arial, sans-serif" font-size="14" fill="{INK}">',
            f"<title>{escape(title)}</title>",
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            f'orient="auto-start-reverse"><path d="M0 0 L8 4 L0 8 z" fill="{SOFT}"/></marker></defs>',
            f'<rect width="{width}" height="{height}" fill="{PAPER}"/>',
        ]

    def words(self, x: float, y: float, text: str, size: int = 14, colour: str = INK, at: str = "middle") -> None:
        """Write a line of text at (x, y), its middle, its start or its end there."""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{colour}" text-anchor="{at}">{escape(text)}</text>'
        )

    def box(self, x: float, y: float, w: float, h: float, text: str, fill: str = TEXT) -> None:
        """Draw a box with its lines of text in the middle."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="5" fill="{fill}" stroke="{SOFT}"/>'
        )
        lines = text.split("\n")
        for number, line in enumerate(lines):
            self.words(x + w / 2, y + h / 2 + 5 + 18 * (number - (len(lines) - 1) / 2), line)

    def arrow(self, *points: tuple[float, float], dashed: bool = False, both: bool = False) -> None:
        """Draw an arrow along points."""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        more = (' stroke-dasharray="5 4"' if dashed else "") + (' marker-start="url(#head)"' if both else "")
        self.parts.append(
            f'<polyline points="{path}" fill="none" stroke="{SOFT}" stroke-width="1.6" marker-end="url(#head)"{more}/>'
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, colour: str = SOFT) -> None:
        """Draw a line without a head."""
        self.parts.append(f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{colour}" stroke-width="2"/>')

    def row(self, x: float, y: float, cells: list[tuple[str, float, str]], h: float = 34) -> list[float]:
        """Draw boxes side by side, each with its text, width and fill; return their middles."""
        middles = []
        for text, width, fill in cells:
            self.box(x, y, width, h, text, fill)
            middles.append(x + width / 2)
            x += width
        return middles

    def __str__(self) -> str:
        return "\n".join([*self.parts, "</svg>"]) + "\n"


def loop() -> Drawing:
    """How an answer is written."""
    d = Drawing(860, 350, "The generator writes; at [Ret] its state asks the index for a passage, which it reads.")
    d.box(20, 130, 130, 50, "question", TEXT)
    d.box(210, 120, 170, 70, "generator\nwrites token by token", GENERATOR)
    d.box(620, 120, 200, 70, "index\none vector a passage", EMBEDDER)
    d.box(620, 20, 90, 44, "corpus", TEXT)
    d.box(730, 20, 90, 44, "embedder", EMBEDDER)
    d.arrow((150, 155), (206, 155))
    d.arrow((710, 42), (726, 42))
    d.arrow((775, 64), (775, 116))
    d.arrow((380, 140), (616, 140))
    d.words(498, 112, "[Ret]: its hidden state", 14)
    d.words(498, 130, "is the query", 14)
    d.arrow((616, 172), (384, 172))
    d.words(498, 192, "the nearest passage,", 14)
    d.words(498, 210, "read as text", 14)
    d.arrow((295, 190), (295, 254))
    d.words(305, 228, "[Cs] claim [Ce], until the answer ends", 13, SOFT, "start")
    d.box(120, 258, 640, 66, "", TEXT)
    d.words(440, 284, "It was written by Ada Vale [1]. Ada Vale was born in Northport [2]. Northport")
    d.words(440, 308, "[1] Red Tide    [2] Ada Vale", 13, SOFT)
    return d


def objective() -> Drawing:
    """Both losses of a training step."""
    d = Drawing(900, 400, "Next-token loss at the supervised tokens; next-sequence loss between [Ret] and passages.")
    cells = [
        ("prompt", 110, TEXT), ("[Ret]", 56, CONTROL), ("passage", 130, PASSAGE), ("[Cs]", 50, CONTROL),
        ("claim", 120, GENERATOR), ("[Ce]", 50, CONTROL), ("answer", 90, GENERATOR), ("EOS", 54, CONTROL),
    ]  # fmt: skip
    middles = d.row(20, 340, cells)
    d.box(20, 262, 660, 46, "generator", GENERATOR)
    for x in middles:
        d.arrow((x, 340), (x, 311))
    d.box(440, 150, 240, 64, "L_NTP: the next token,\na softmax over the vocabulary", GENERATOR)
    d.arrow((middles[4], 262), (middles[4], 218))
    d.arrow((middles[6], 262), (middles[6], 218))
    d.words((middles[4] + middles[6]) / 2, 244, "states", 13, SOFT)
    d.box(90, 150, 300, 64, "L_NSP: the right passage among\nall passages of the step (InfoNCE)", EMBEDDER)
    d.arrow((middles[1], 262), (middles[1], 218))
    d.words(middles[1] + 8, 244, "state at [Ret]", 13, SOFT, "start")
    d.box(720, 150, 150, 64, "embedder\nlast token's state", EMBEDDER)
    d.box(720, 262, 150, 46, "passages", PASSAGE)
    d.arrow((795, 262), (795, 218))
    d.arrow((795, 150), (795, 126), (240, 126), (240, 146))
    d.words(520, 118, "one vector a passage", 13, SOFT)
    d.box(300, 20, 320, 56, "L = L_NTP + λ L_NSP", CONTROL)
    d.arrow((180, 150), (180, 48), (296, 48))
    d.arrow((650, 150), (650, 48), (624, 48))
    d.words(450, 96, "both models learn from one step", 13, SOFT)
    return d


def sequence() -> Drawing:
    """Which tokens of a training sequence are supervised."""
    d = Drawing(900, 190, "Supervised: [Ret], claims, [Ce], the answer and EOS; never the prompt and [Cs].")
    cells = [
        ("prompt", 100), ("[Ret]", 56), ("title :: text", 130), ("[Cs]", 50), ("claim", 110), ("[Ce]", 50),
        ("[Ret]", 56), ("..", 40), ("[Ce]", 50), ("answer", 120), ("EOS", 56),
    ]  # fmt: skip
    names = ["never", "ntp", "option", "never", "ntp", "ntp", "ntp", "", "ntp", "ntp", "ntp"]
    fills = {"never": TEXT, "ntp": GENERATOR, "option": PASSAGE, "": PAPER}
    middles = d.row(40, 60, [(text, w, fills[kind]) for (text, w), kind in zip(cells, names, strict=True)], 44)
    for number in (1, 6):
        d.words(middles[number], 40, "query", 13, SOFT)
        d.line(middles[number], 46, middles[number], 58)
    d.words(middles[3], 40, "forced", 13, SOFT)
    for x, kind, text in (
        (40, "ntp", "learnt by NTP"),
        (250, "option", "learnt only with supervise_passages"),
        (590, "never", "never learnt"),
    ):
        d.box(x, 140, 22, 22, "", fills[kind])
        d.words(x + 30, 156, text, 13, INK, "start")
    return d


def supervisions() -> Drawing:
    """The forms of a pair, and what each is trained by."""
    d = Drawing(900, 430, "Pairs: separate weights, shared weights, adapters on one base; NTP, NSP or both.")
    for number, panel in enumerate(PANELS):
        panel(d, 20 + 290 * (number % 3), 20 + 205 * (number // 3))
    return d


def _panel(d: Drawing, x: float, y: float, head: str, note: str) -> None:
    d.words(x, y + 14, head, 14, INK, "start")
    d.words(x, y + 172, note, 12, SOFT, "start")


def _both(d: Drawing, x: float, y: float) -> None:
    _panel(d, x, y, "ntp+nsp, separate weights", "two models learn together")
    d.box(x, y + 90, 115, 50, "generator", GENERATOR)
    d.box(x + 145, y + 90, 115, 50, "embedder", EMBEDDER)
    d.words(x + 36, y + 52, "NTP")
    d.arrow((x + 36, y + 60), (x + 36, y + 86))
    d.arrow((x + 85, y + 86), (x + 85, y + 64), (x + 202, y + 64), (x + 202, y + 86), both=True)
    d.words(x + 144, y + 54, "NSP")


def _shared(d: Drawing, x: float, y: float) -> None:
    _panel(d, x, y, "ntp+nsp, embedder: shared", "one set of weights writes and embeds")
    d.box(x, y + 90, 260, 50, "generator = embedder", GENERATOR)
    d.words(x + 36, y + 52, "NTP")
    d.arrow((x + 36, y + 60), (x + 36, y + 86))
    d.arrow((x + 85, y + 86), (x + 85, y + 64), (x + 202, y + 64), (x + 202, y + 86), both=True)
    d.words(x + 144, y + 54, "NSP")


def _adapters(d: Drawing, x: float, y: float) -> None:
    _panel(d, x, y, "ntp+nsp, adapters: lora", "one frozen base in memory, an adapter for each")
    d.box(x, y + 114, 260, 36, "frozen base", TEXT)
    d.box(x, y + 78, 115, 36, "adapter: Gen", GENERATOR)
    d.box(x + 145, y + 78, 115, 36, "adapter: Emb", EMBEDDER)
    d.words(x + 36, y + 44, "NTP")
    d.arrow((x + 36, y + 50), (x + 36, y + 74))
    d.arrow((x + 85, y + 74), (x + 85, y + 56), (x + 202, y + 56), (x + 202, y + 74), both=True)
    d.words(x + 144, y + 48, "NSP")


def _writing(d: Drawing, x: float, y: float) -> None:
    _panel(d, x, y, "ntp", "the embedder stays untrained; others retrieve")
    d.box(x, y + 90, 115, 50, "generator", GENERATOR)
    d.words(x + 57, y + 52, "NTP")
    d.arrow((x + 57, y + 60), (x + 57, y + 86))
    d.box(x + 145, y + 90, 115, 50, "--retriever\nbm25, ..", TEXT)
    d.arrow((x + 145, y + 115), (x + 119, y + 115), dashed=True)


def _retrieving(d: Drawing, x: float, y: float) -> None:
    _panel(d, x, y, "nsp", "learns where passages lie, not what to write")
    d.box(x, y + 90, 115, 50, "generator", GENERATOR)
    d.box(x + 145, y + 90, 115, 50, "embedder", EMBEDDER)
    d.arrow((x + 57, y + 86), (x + 57, y + 64), (x + 202, y + 64), (x + 202, y + 86), both=True)
    d.words(x + 130, y + 54, "NSP")


def _apart(d: Drawing, x: float, y: float) -> None:
    _panel(d, x, y, "separate supervision", "one trained by ntp writes, one by nsp retrieves")
    d.box(x, y + 90, 75, 50, "ntp", GENERATOR)
    d.box(x + 110, y + 90, 150, 50, "pair trained\nby nsp", EMBEDDER)
    d.words(x + 37, y + 52, "NTP")
    d.arrow((x + 37, y + 60), (x + 37, y + 86))
    d.words(x + 185, y + 52, "NSP")
    d.arrow((x + 185, y + 60), (x + 185, y + 86))
    d.arrow((x + 110, y + 115), (x + 79, y + 115), dashed=True)


PANELS = (_both, _shared, _adapters, _writing, _retrieving, _apart)


def citations() -> Drawing:
    """From tokens to text with marks and spans."""
    d = Drawing(900, 250, "The claim between [Cs] and [Ce] becomes text with a mark; its span is the citation.")
    cells = [
        ("[Ret]", 56, CONTROL), ("Red Tide :: Red Tide is a book. ..", 250, PASSAGE), ("[Cs]", 50, CONTROL),
        ("It was written by Ada Vale.", 230, GENERATOR), ("[Ce]", 50, CONTROL), ("..", 40, PAPER),
    ]  # fmt: skip
    d.words(20, 30, "what the generator reads and writes", 13, SOFT, "start")
    middles = d.row(20, 44, cells)
    d.words(20, 132, "text", 13, SOFT, "start")
    d.box(20, 142, 676, 40, "", TEXT)
    d.words(320, 167, "It was written by Ada Vale [1].   Ada Vale was born in Northport [2].   Northport")
    d.arrow((middles[3], 78), (middles[3], 108), (160, 108), (160, 138))
    d.line(52, 192, 226, 192, "#2563eb")
    d.words(30, 216, "citations[0]: n = 1, passage_id, start and end of this stretch, score", 13, INK, "start")
    d.arrow((middles[1], 78), (middles[1], 96), (780, 96), (780, 138))
    d.box(710, 142, 170, 40, "[1] the passage", PASSAGE)
    d.words(30, 238, "answer: the text after the last [Ce], here Northport", 13, INK, "start")
    return d


FIGURES: dict[str, Callable[[], Drawing]] = {
    "loop": loop,
    "objective": objective,
    "sequence": sequence,
    "supervisions": supervisions,
    "citations": citations,
}


def main() -> None:
    """Draw all of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("docs/images"), help="folder to write into")
    found = parser.parse_args()
    for name, draw in FIGURES.items():
        (found.output / f"{name}.svg").write_text(str(draw()), encoding="utf-8")


if __name__ == "__main__":
    main()
