// Draws turns: the answer with its claims, the searches beside it. Every word goes in as text.

export function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("aria-") || name === "role") node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children);
  return node;
}

// A passage's text with spans marked; offsets are in code points.
export function marked(text, spans) {
  const points = Array.from(text);
  const part = (start, end) => points.slice(start, end).join("");
  const fragment = document.createDocumentFragment();
  let at = 0;
  for (const [start, end] of spans) {
    fragment.append(part(at, start), make("mark", { textContent: part(start, end) }));
    at = end;
  }
  fragment.append(part(at));
  return fragment;
}

export class Turn {
  // `onClaim(node, citations, how)` is called when a claim is hovered, focused, left or opened; `onHit(id)` for hits.
  constructor(question, { onClaim, onHit }) {
    this.question = question;
    this.text = "";
    this.citations = [];
    this.searches = [];
    this.outcome = null;
    this.onClaim = onClaim;
    this.onHit = onHit;
    this.closed = 0; // code points that stand in their final form
    this.answer = make("p", { className: "answer writing", lang: "" });
    this.tail = document.createTextNode("");
    this.answer.append(this.tail);
    this.timeline = make("ol");
    this.remarkNode = make("p", { className: "remark quiet", hidden: true });
    this.aside = make("aside", { className: "searches", hidden: true, "aria-label": `Searches for: ${question}` },
      make("h2", { textContent: "Searches" }), this.timeline);
    this.node = make("article", { className: "turn" },
      make("p", { className: "asked", textContent: question }), this.answer, this.aside, this.remarkNode);
  }

  write(text) {
    this.text += text;
    this.redraw();
  }

  cite(annotations) {
    const found = annotations.map((annotation) => annotation.url_citation);
    this.citations.push(...found);
    const { start_index: start, end_index: end } = found[0];
    if (start < this.closed) return;
    const points = Array.from(this.text);
    const claim = make("a", { className: "claim", href: "#passage", textContent: points.slice(start, end).join("") });
    claim.setAttribute("aria-label", `${claim.textContent}, rests on ${found.map((c) => c.title || c.passage_id).join(", ")}`);
    const on = (event, how) => claim.addEventListener(event, (e) => { if (how === "open") e.preventDefault(); this.onClaim(claim, found, how); });
    on("mouseenter", "show"); on("focus", "show"); on("mouseleave", "hide"); on("blur", "hide"); on("click", "open");
    this.tail.before(points.slice(this.closed, start).join(""), claim);
    this.closed = end;
    this.redraw();
  }

  redraw() {
    const points = Array.from(this.text).slice(this.closed);
    let rest = points.join("");
    const mark = this.closed ? rest.match(/^ ?(?:\[\d+\])+/) : null;
    if (mark) {
      const [space, words] = mark[0].startsWith(" ") ? [" ", mark[0].slice(1)] : ["", mark[0]];
      this.tail.before(space, make("span", { className: "cite", textContent: words }));
      this.closed += Array.from(mark[0]).length;
      rest = rest.slice(mark[0].length);
    }
    this.tail.data = rest;
  }

  search({ hits, read }) {
    this.searches.push({ hits, read });
    const scores = hits.map((hit) => hit.score);
    const low = Math.min(0, ...scores);
    const high = Math.max(...scores, low + 1e-9);
    const rows = hits.map((hit, number) => {
      const bar = make("i");
      bar.style.setProperty("--share", `${Math.max(2, (100 * (hit.score - low)) / (high - low))}%`);
      const button = make("button", { type: "button", title: hit.title || hit.passage_id },
        make("span", { className: "title", textContent: hit.title || hit.passage_id }),
        make("span", { className: "score", textContent: hit.score.toFixed(3) }),
        make("span", { className: "bar", "aria-hidden": "true" }, bar));
      button.addEventListener("click", () => this.onHit(hit.passage_id));
      return make("li", { className: number < read ? "read" : "" }, button);
    });
    const about = read ? `Search ${this.searches.length}: reads ${read === 1 ? "the best" : `the best ${read}`}`
      : hits.length ? `Search ${this.searches.length}: reads none, all are below the threshold` : `Search ${this.searches.length}: found nothing`;
    this.timeline.append(make("li", { className: read ? "" : "nothing" }, about, make("ol", { className: "hits" }, ...rows)));
    this.aside.hidden = false;
  }

  end(outcome) {
    this.outcome = outcome;
    this.answer.classList.remove("writing");
  }

  remark(words) {
    this.remarkNode.textContent = words;
    this.remarkNode.hidden = false;
  }

  toRecord() {
    const { question, text, citations, searches, outcome } = this;
    return { question, text, citations, searches, outcome, remark: this.remarkNode.textContent };
  }

  // Draws a turn that was kept.
  restore(record) {
    this.text = record.text;
    const spans = new Map();
    for (const citation of record.citations) {
      const key = `${citation.start_index}-${citation.end_index}`;
      spans.set(key, [...(spans.get(key) ?? []), { url_citation: citation }]);
    }
    for (const annotations of spans.values()) this.cite(annotations);
    for (const search of record.searches) this.search(search);
    this.redraw();
    this.end(record.outcome);
    if (record.remark) this.remark(record.remark);
    return this;
  }
}
