"use strict";
// One question on the page: its answer, the passages beside it, scores and searches.
// Every text is inserted as a text node: nothing here parses HTML.

const OUTCOME_SIGNS = { missing: "–", answer: "✗", retrieval: "✗", citation: "✗", undecided: "?", good: "✓" };

// Returns an element; children that are strings become text.
function make(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(key, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

const button = (attributes, ...children) => make("button", { type: "button", ...attributes }, ...children);
const shortened = (text, most) => (text.length > most ? text.slice(0, most - 1).trimEnd() + "…" : text);
const nameOf = (passage) => passage.title || passage.id;
const whole = (number) => number.toLocaleString("en");

// Returns what shows a question, and what points from a claim to its passage, both within `detail`.
function questionView(data, detail) {
  const { passages, measures } = data;
  const outcomes = new Map(data.outcomes.map((outcome) => [outcome.name, outcome]));
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const SIGNS = { right: "✓", wrong: "✗", undecided: "?", unjudged: "" };
  const WORDS = { right: "Right", wrong: "Wrong", undecided: "Undecided", unjudged: "Not judged" };
  const WORST = ["wrong", "undecided", "right", "unjudged"];
  const MARKED = {
    gold: "gold sentence",
    claim: "the claim, word for word",
    near: "the sentence nearest to the claim",
  };

  function describe(q) {
    const outcome = outcomes.get(q.outcome);
    const bar = make(
      "nav",
      { class: "steps", "aria-label": "Questions" },
      button({ class: "back" }, "← All questions"),
      button({ class: "previous", "aria-label": "Previous question" }, "‹"),
      make("span", { class: "place" }),
      button({ class: "next", "aria-label": "Next question" }, "›"),
    );
    const ended = { length: "stopped at its length", context: "context was full", cancelled: "cancelled" };
    const under = [q.id, q.task, ended[q.finish] || (q.finish && q.finish !== "eos" ? q.finish : null)];
    const head = make(
      "header",
      {},
      make("p", { class: "badge ink-" + q.outcome }, OUTCOME_SIGNS[q.outcome] + " " + outcome.label),
      make("h3", { tabindex: "-1" }, q.question),
      make("p", { class: "soft under" }, under.filter(Boolean).join(" · ")),
      q.instruction ? make("p", { class: "soft" }, q.instruction) : null,
    );
    const columns = make("div", { class: "columns" }, written(q), sources(q));
    return [bar, head, facts(q), columns, ...judged(q), figures(q), searches(q)];
  }

  function facts(q) {
    const pairs = [];
    const add = (name, ...content) => pairs.push(make("div", {}, make("dt", {}, name), make("dd", {}, ...content)));
    if (q.answers.length) {
      add(q.answers.length > 1 ? "Gold answers" : "Gold answer", q.answers.map((a) => make("span", { class: "gold-answer" }, a)));
    }
    if (q.sets) add("Answers that are all wanted", q.sets.map((aliases) => make("span", { class: "gold-answer wanted" }, aliases.join(" or "))));
    if (q.claims && !q.judged_claims) add("Claims that a good answer supports", q.claims.map((claim) => make("span", { class: "gold-claim" }, claim)));
    if (q.label) add("Label", q.label);
    if (q.final) add("Final answer", q.final);
    if (q.long) add("Long answer", q.long);
    return make("dl", { class: "facts" }, pairs);
  }

  // ---------------------------------------------------------------- the answer

  function written(q) {
    const parts = [make("h4", {}, "What it wrote")];
    if (!q.text) parts.push(make("p", { class: "soft" }, "There is no prediction for this question."));
    else if (!q.text.length) parts.push(make("p", { class: "soft" }, "The prediction is empty."));
    else parts.push(make("p", { class: "prose" }, stretches(q)));
    if (q.citations.length) parts.push(make("ul", { class: "verdicts" }, q.citations.map((c, place) => verdict(c, place))));
    else if (q.text) parts.push(make("p", { class: "soft" }, "It cites nothing."));
    return make("section", { class: "written" }, parts);
  }

  // The runs of the text; a mark takes along the full stop behind it, so that no line begins with one.
  function stretches(q) {
    const nodes = [];
    const turns = new Map();
    let held = null;
    for (const [text, cited = [], mark = null] of q.text) {
      const stop = held && mark === null && !cited.length ? text.match(/^[.,;:!?…)\]。！？]*/)[0] : "";
      if (stop) held.append(stop);
      const node = stretch([text.slice(stop.length), cited, mark], q, turns);
      if (mark !== null && held) held.append(node);
      else if (mark !== null) nodes.push((held = make("span", { class: "together" }, node)));
      else {
        held = null;
        nodes.push(node);
      }
    }
    return nodes;
  }

  function stretch([text, cited, mark], q, turns) {
    if (mark !== null) {
      const places = q.citations.flatMap((c, place) => (c.n === mark ? [place] : []));
      const own = places.filter((place) => cited.includes(place));
      return markButton(text, q, own.length ? own : nextOf(places, mark, turns));
    }
    if (!cited.length) return text;
    const kind = WORST.find((word) => cited.some((place) => q.citations[place].verdict === word));
    return make("span", { class: "cited is-" + kind, "data-citations": cited.join(" ") }, text);
  }

  // The marks [1] .. [1] of one passage belong to its citations in their order.
  function nextOf(places, mark, turns) {
    const turn = turns.get(mark) || 0;
    turns.set(mark, turn + 1);
    return [places[Math.min(turn, places.length - 1)]];
  }

  function markButton(text, q, places) {
    const c = q.citations[places[0]];
    const label = `Citation ${c.n}: ${shortened(nameOf(passages[c.passage]), 80)}, ${WORDS[c.verdict].toLowerCase()}`;
    return button(
      { class: "mark is-" + c.verdict, "data-citations": places.join(" "), "aria-label": label },
      text,
      make("span", { class: "sign", "aria-hidden": "true" }, SIGNS[c.verdict]),
    );
  }

  function verdict(c, place) {
    return make(
      "li",
      { "data-citations": place },
      button(
        { class: "verdict", "data-citations": place },
        make("span", { class: "word is-" + c.verdict }, `[${c.n}] ${SIGNS[c.verdict]} ${WORDS[c.verdict]}`),
        c.reason ? make("span", { class: "reason" }, c.reason) : null,
        c.claim.trim() ? make("q", { class: "said" }, c.claim) : make("span", { class: "soft" }, "The claim is empty."),
      ),
    );
  }

  // ---------------------------------------------------------------- its passages

  function sources(q) {
    const cited = new Map();
    for (const c of q.citations) cited.set(c.passage, (cited.get(c.passage) || new Set()).add(c.n));
    const missed = q.gold.filter((place) => !cited.has(place));
    const parts = [];
    if (cited.size) {
      parts.push(make("h4", {}, cited.size > 1 ? "Cited passages" : "Cited passage"));
      for (const [place, numbers] of cited) parts.push(card(q, place, [...numbers]));
    }
    if (missed.length) {
      parts.push(make("h4", {}, missed.length > 1 ? "Gold passages it does not cite" : "Gold passage it does not cite"));
      for (const place of missed) parts.push(card(q, place, []));
    }
    return parts.length ? make("section", { class: "sources" }, parts) : null;
  }

  function card(q, place, numbers) {
    const passage = passages[place];
    const gold = q.gold.includes(place);
    const marks = q.marks[place] || [];
    const kinds = ["gold", "claim", "near"].filter((kind) => marks.some((mark) => mark[2] === kind));
    return make(
      "section",
      { class: "passage", "data-passage": place, tabindex: "-1", "aria-label": "Passage " + shortened(nameOf(passage), 80) },
      make(
        "h5",
        {},
        numbers.length ? make("span", { class: "number" }, numbers.map((n) => `[${n}]`).join(" ")) : null,
        make("span", { class: "title" }, nameOf(passage)),
        gold ? make("span", { class: "chip" }, "gold") : null,
      ),
      passage.title ? make("p", { class: "soft under" }, passage.id) : null,
      passageText(passage, marks),
      kinds.length
        ? make("p", { class: "legend-line" }, kinds.map((kind) => make("mark", { class: kind }, MARKED[kind])))
        : null,
    );
  }

  function passageText(passage, marks) {
    if (passage.text === undefined) return make("p", { class: "soft" }, "Its text is not kept on this page.");
    const pieces = [];
    let at = 0;
    for (const [start, end, kind] of marks) {
      pieces.push(passage.text.slice(at, start), make("mark", { class: kind }, passage.text.slice(start, end)));
      at = end;
    }
    return make("p", { class: "prose" }, pieces, passage.text.slice(at));
  }

  // Shows which passage a claim is cited to: both are set off, and the passage is brought into sight.
  function point(q, places) {
    const wantedPlaces = places.split(" ");
    const cards = new Set(wantedPlaces.map((place) => String(q.citations[Number(place)].passage)));
    for (const element of detail.querySelectorAll("[data-citations]")) {
      const own = element.dataset.citations.split(" ");
      element.classList.toggle("chosen", own.some((place) => wantedPlaces.includes(place)));
    }
    let first = null;
    for (const element of detail.querySelectorAll("[data-passage]")) {
      const chosen = cards.has(element.dataset.passage);
      element.classList.toggle("chosen", chosen);
      if (chosen && !first) first = element;
    }
    if (first) first.scrollIntoView({ block: "nearest", behavior: still.matches ? "auto" : "smooth" });
  }

  // ---------------------------------------------------------------- what a judge said

  function judged(q) {
    const sentences = (q.sentences || []).map((sentence) => judgement(sentence, "Supported", "Not supported"));
    const claims = (q.judged_claims || []).map((claim) => judgement(claim, "Entailed by the output", "Not entailed"));
    const block = (title, items) => (items.length ? make("section", {}, make("h4", {}, title), make("ul", { class: "judged" }, items)) : null);
    return [block("The judge on each sentence", sentences), block("The judge on the claims of a good answer", claims)];
  }

  function judgement({ text, verdict, reason, citations = [] }, right, wrong) {
    const word = (own, yes, no) => `${SIGNS[own]} ${own === "undecided" ? WORDS[own] : own === "right" ? yes : no}`;
    const each = citations.map(([n, own, why]) =>
      make("li", {}, make("span", { class: "word is-" + own }, `[${n}] ${word(own, "Needed", "Not needed")}`), make("span", { class: "reason" }, why)),
    );
    return make(
      "li",
      {},
      make("span", { class: "word is-" + verdict }, word(verdict, right, wrong)),
      make("span", { class: "reason" }, reason),
      make("q", { class: "said" }, text),
      each.length ? make("ul", { class: "each" }, each) : null,
    );
  }

  // ---------------------------------------------------------------- its scores and searches

  function figures(q) {
    const pairs = measures.flatMap((name, place) => {
      const score = q.scores[place];
      if (score === null) return [];
      const shownScore = Number.isInteger(score) ? String(score) : score.toFixed(3);
      return [make("div", { class: score <= 0 ? "zero" : null }, make("dt", {}, name), make("dd", {}, shownScore))];
    });
    if (!pairs.length) return null;
    return make("section", {}, make("h4", {}, "Scores, 0 to 1"), make("dl", { class: "scores" }, pairs));
  }

  function searches(q) {
    if (!q.searches.length) return null;
    const parts = q.searches.map((search, turn) => {
      const read = `${search.read || "none"} read`;
      const kept = search.hits.length < search.count ? `, first ${search.hits.length} shown` : "";
      const title = `Search ${turn + 1}, at character ${whole(search.at)}: ${whole(search.count)} hits, ${read}${kept}`;
      const block = make("details", {}, make("summary", {}, title));
      block.addEventListener("toggle", () => {
        if (block.childElementCount === 1) block.append(make("ol", { class: "hits" }, search.hits.map((hit, rank) => hitRow(q, hit, rank < search.read))));
      });
      return block;
    });
    return make("section", { class: "searches" }, make("h4", {}, "Searches"), parts);
  }

  function hitRow(q, [place, score], read) {
    const passage = passages[place];
    const chips = [q.gold.includes(place) ? "gold" : null, read ? "read" : null].filter(Boolean);
    const head = [
      make("span", { class: "hit-score" }, score === null ? "–" : score.toFixed(3)),
      make("span", { class: "title" }, nameOf(passage)),
      ...chips.map((chip) => make("span", { class: "chip" }, chip)),
    ];
    if (passage.text === undefined) return make("li", {}, make("div", { class: "hit" }, head));
    const block = make("details", {}, make("summary", { class: "hit" }, head));
    block.addEventListener("toggle", () => {
      if (block.childElementCount === 1) block.append(passageText(passage, q.marks[place] || []));
    });
    return make("li", {}, block);
  }

  return { describe, point };
}
