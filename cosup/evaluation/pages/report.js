// The list of questions: searching, filtering, opening one. Reads the page's data and needs question.js before it.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { questions, passages, measures } = data;
  const outcomes = new Map(data.outcomes.map((outcome) => [outcome.name, outcome]));
  const wide = matchMedia("(min-width: 900px)");
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const byId = (id) => document.getElementById(id);
  const list = byId("list");
  const detail = byId("detail");

  const view = questionView(data, detail);

  // ---------------------------------------------------------------- choosing

  let shown = []; // positions of the questions in the list
  let current = -1; // position of the opened question
  const rows = new Map();
  const haystacks = new Map();

  function haystack(place) {
    if (!haystacks.has(place)) {
      const q = questions[place];
      const titles = q.citations.map((c) => passages[c.passage].title);
      const written = (q.text || []).map((run) => run[0]).join("");
      const parts = [q.id, q.question, ...q.answers, q.label, q.long, written, q.final, ...titles];
      haystacks.set(place, parts.filter(Boolean).join("\n").toLowerCase().replace(/\s+/g, " "));
    }
    return haystacks.get(place);
  }

  const SCORES = {
    one: ["right (1)", (s) => s !== null && s >= 1],
    between: ["in part", (s) => s !== null && s > 0 && s < 1],
    zero: ["wrong (0)", (s) => s !== null && s <= 0],
    none: ["not judged", (s) => s === null],
  };

  function wanted() {
    const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const outcome = byId("outcome").value;
    const task = byId("task").value;
    const measure = byId("measure").value;
    const score = SCORES[byId("score").value];
    return (q, place) => {
      if (outcome === "failed" ? !outcomes.get(q.outcome).failed : outcome && q.outcome !== outcome) return false;
      if (task && "=" + (q.task ?? "") !== task) return false;
      if (measure && score && !score[1](q.scores[Number(measure)])) return false;
      return words.every((word) => haystack(place).includes(word));
    };
  }

  function row(place) {
    if (!rows.has(place)) {
      const q = questions[place];
      const label = outcomes.get(q.outcome).label;
      const under = [q.id, q.task, label].filter(Boolean).join(" · ");
      const item = make(
        "li",
        { role: "option", id: "row-" + place, tabindex: "-1", "aria-selected": "false", "data-place": place },
        make("span", { class: "sign ink-" + q.outcome, "aria-hidden": "true" }, OUTCOME_SIGNS[q.outcome]),
        make(
          "span",
          { class: "row-text" },
          make("span", { class: "row-question" }, shortened(q.question, 240)),
          make("span", { class: "row-under" }, under),
        ),
      );
      rows.set(place, item);
    }
    return rows.get(place);
  }

  function refresh() {
    const fits = wanted();
    shown = [];
    questions.forEach((q, place) => {
      if (fits(q, place)) shown.push(place);
    });
    const items = shown.map(row);
    list.replaceChildren(...(items.length ? items : [make("li", { role: "presentation", class: "none" }, "No question fits.")]));
    byId("count").textContent =
      shown.length === questions.length
        ? `${whole(shown.length)} questions`
        : `${whole(shown.length)} of ${whole(questions.length)} questions`;
    list.scrollTop = 0;
    byId("score-label").hidden = !byId("measure").value;
    reachable();
    if (wide.matches && shown.length && !shown.includes(current)) open(shown[0], { remember: false });
    else steps();
  }

  // One row of the list takes part in the order of the Tab key: the opened one, or the first.
  function reachable() {
    for (const item of list.querySelectorAll("[tabindex='0']")) item.tabIndex = -1;
    const place = shown.includes(current) ? current : shown[0];
    if (place !== undefined) row(place).tabIndex = 0;
  }

  // ---------------------------------------------------------------- one question

  function open(place, { focus = false, remember = true } = {}) {
    const before = rows.get(current);
    if (before) before.setAttribute("aria-selected", "false");
    current = place;
    row(place).setAttribute("aria-selected", "true");
    reachable();
    detail.replaceChildren(...view.describe(questions[place]).filter(Boolean));
    steps();
    inSight(row(place));
    const wasReading = document.body.classList.contains("reading");
    document.body.classList.add("reading");
    if (remember) remembered(place, wasReading);
    if (!wide.matches) window.scrollTo(0, 0);
    else if (detail.getBoundingClientRect().top < 0) detail.scrollIntoView({ block: "start" });
    if (focus) detail.querySelector("h3").focus({ preventScroll: wide.matches });
  }

  // Scrolls the list, and the list alone, until the row is in sight; once more when rows near it got their heights.
  function inSight(item) {
    reveal(item);
    requestAnimationFrame(() => requestAnimationFrame(() => item.isConnected && reveal(item)));
  }

  function reveal(item) {
    const outer = list.getBoundingClientRect();
    const inner = item.getBoundingClientRect();
    if (inner.top < outer.top) list.scrollTop += inner.top - outer.top;
    else if (inner.bottom > outer.bottom) list.scrollTop += inner.bottom - outer.bottom;
  }

  // The address names the opened question; on narrow screens opening one is a step that Back takes back.
  function remembered(place, wasReading) {
    const mark = "#q=" + encodeURIComponent(questions[place].id);
    if (location.hash === mark) return;
    if (wide.matches || wasReading) history.replaceState(history.state, "", mark);
    else history.pushState({ opened: true }, "", mark);
  }

  function close() {
    if (!document.body.classList.contains("reading")) return;
    document.body.classList.remove("reading");
    const item = rows.get(current);
    if (item && item.isConnected) {
      item.scrollIntoView({ block: "center" });
      item.focus({ preventScroll: true });
    }
  }

  function back() {
    if (history.state && history.state.opened) history.back();
    else {
      history.replaceState(null, "", "#questions");
      close();
    }
  }

  function fromAddress() {
    const id = location.hash.startsWith("#q=") ? decoded(location.hash.slice(3)) : null;
    const place = id === null ? -1 : questions.findIndex((q) => q.id === id);
    if (place >= 0) open(place, { remember: false });
    else if (!wide.matches) close();
  }

  function decoded(text) {
    try {
      return decodeURIComponent(text);
    } catch {
      return text;
    }
  }

  function step(by) {
    const at = shown.indexOf(current);
    const next = shown[at < 0 ? 0 : at + by];
    if (next !== undefined) open(next, { focus: true });
  }

  // Brings the buttons before and after the question up to date.
  function steps() {
    const at = shown.indexOf(current);
    const place = detail.querySelector(".place");
    if (!place) return;
    place.textContent = at < 0 ? "not among those shown" : `${whole(at + 1)} of ${whole(shown.length)}`;
    detail.querySelector(".previous").disabled = at <= 0;
    detail.querySelector(".next").disabled = !shown.length || at === shown.length - 1;
  }

  // ---------------------------------------------------------------- what is done when

  function moved(event) {
    const item = event.target.closest("[role=option]");
    if (!item) return;
    const at = shown.indexOf(Number(item.dataset.place));
    const page = Math.max(1, Math.floor(list.clientHeight / Math.max(1, item.offsetHeight)) - 1);
    const steps = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + page, PageUp: at - page, Home: 0, End: shown.length - 1 };
    if (event.key === "Enter" || event.key === " ") open(shown[at], { focus: true });
    else if (event.key in steps) {
      const place = shown[Math.min(shown.length - 1, Math.max(0, steps[event.key]))];
      item.tabIndex = -1;
      row(place).tabIndex = 0;
      row(place).focus({ preventScroll: wide.matches });
      if (wide.matches) {
        inSight(row(place));
        open(place);
      }
    } else return;
    event.preventDefault();
  }

  function options(select, pairs) {
    select.replaceChildren(...pairs.map(([value, text]) => make("option", { value }, text)));
  }

  function prepare() {
    const count = (fits) => ` (${whole(questions.filter(fits).length)})`;
    options(byId("outcome"), [
      ["", "All" + count(() => true)],
      ["failed", "Failures" + count((q) => outcomes.get(q.outcome).failed)],
      ...data.outcomes.map((o) => [o.name, o.label + count((q) => q.outcome === o.name)]),
    ]);
    const tasks = [...new Set(questions.map((q) => q.task ?? ""))].sort();
    options(byId("task"), [["", "All tasks"], ...tasks.map((task) => ["=" + task, task || "without a task"])]);
    byId("task-label").hidden = tasks.length < 2;
    options(byId("measure"), [["", "Any"], ...measures.map((name, place) => [String(place), name])]);
    options(byId("score"), [["", "Any"], ...Object.entries(SCORES).map(([value, [text]]) => [value, text])]);
  }

  function clear() {
    byId("filters").reset();
    refresh();
  }

  prepare();
  byId("filters").addEventListener("input", refresh);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("clear").addEventListener("click", clear);
  list.addEventListener("keydown", moved);
  list.addEventListener("click", (event) => {
    const item = event.target.closest("[role=option]");
    if (item) {
      item.focus({ preventScroll: true });
      open(Number(item.dataset.place), { focus: !wide.matches });
    }
  });
  detail.addEventListener("click", (event) => {
    const target = event.target.closest("button, .cited");
    if (!target) return;
    if (target.matches(".back")) back();
    else if (target.matches(".previous")) step(-1);
    else if (target.matches(".next")) step(1);
    else if (target.dataset.citations) view.point(questions[current], target.dataset.citations);
  });
  for (const entry of document.querySelectorAll("button[data-outcome]")) {
    entry.addEventListener("click", () => {
      byId("filters").reset();
      byId("outcome").value = entry.dataset.outcome;
      refresh();
      byId("questions").scrollIntoView({ behavior: still.matches ? "auto" : "smooth" });
    });
  }
  window.addEventListener("popstate", fromAddress);
  wide.addEventListener("change", () => refresh());
  refresh();
  fromAddress();
})();
