// The page: asks, shows the answer as it is written, and what it rests on.

import * as api from "/web/api.js";
import * as store from "/web/store.js";
import { Turn, make, marked } from "/web/view.js";

const newId = () => (crypto.randomUUID ? crypto.randomUUID() : String(Date.now())); // plain HTTP has no randomUUID
const newTurn = (asked) => new Turn(asked, { onClaim, onHit: (id) => openPassage(id) });
const at = (id) => document.getElementById(id);
const question = at("question");
const pop = at("pop");
let model = "";
let turns = [];
let conversation = newId();
let running = null;
let wantsKey = false; // whether a question waits for an API key
let shown = null; // the claim whose passage is on show
let returned = null; // the claim that focus comes back to when its dialog closes

// -- theme ------------------------------------------------------------------------------------------------------------

function useTheme(name) {
  document.documentElement.dataset.theme = name;
  at("theme").textContent = name === "dark" ? "Light" : "Dark";
}
useTheme(store.theme() ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
at("theme").addEventListener("click", () => {
  const name = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  useTheme(name);
  store.keepTheme(name);
});

// -- passages ---------------------------------------------------------------------------------------------------------

async function onClaim(node, citations, how) {
  if (how === "open") {
    shown = null;
    returned = node;
    hidePop();
    await openPassage(citations[0].passage_id, citations[0].marks, `Cited as [${citations[0].n}], score ${citations[0].score.toFixed(3)}`);
    return;
  }
  if (how === "show" && (returned === node || document.querySelector("dialog[open]"))) {
    returned = null;
    return;
  }
  shown = how === "show" ? node : shown === node ? null : shown;
  if (how !== "show") { setTimeout(() => { if (!shown && !pop.matches(":hover")) hidePop(); }, 120); return; }
  const parts = await Promise.all(citations.map(async (citation) => {
    try {
      const passage = await api.passage(citation.passage_id, store.key());
      return make("div", {}, make("h2", { textContent: `[${citation.n}] ${passage.title || passage.id}` }),
        make("div", { className: "passage" }, marked(passage.text, citation.marks)));
    } catch (error) {
      return make("p", { textContent: error.message });
    }
  }));
  if (shown !== node) return;
  pop.replaceChildren(...parts);
  pop.hidden = false;
  node.setAttribute("aria-describedby", "pop");
  const box = node.getClientRects()[0];
  const size = pop.getBoundingClientRect();
  pop.style.left = `${Math.max(16, Math.min(box.left, innerWidth - size.width - 16))}px`;
  pop.style.top = box.top > size.height + 16 ? `${box.top - size.height - 8}px` : `${Math.min(box.bottom + 8, innerHeight - size.height - 8)}px`;
  pop.querySelector("mark")?.scrollIntoView({ block: "nearest" });
}

function hidePop() {
  pop.hidden = true;
  for (const node of document.querySelectorAll("[aria-describedby=pop]")) node.removeAttribute("aria-describedby");
}
pop.addEventListener("mouseleave", () => { if (!shown) hidePop(); });
document.addEventListener("keydown", (event) => { if (event.key === "Escape") { shown = null; hidePop(); } });
document.addEventListener("scroll", hidePop, { passive: true });

async function openPassage(id, marks = [], about = "") {
  try {
    const passage = await api.passage(id, store.key());
    at("passage-title").textContent = passage.title || passage.id;
    at("passage-about").textContent = [passage.id, about].filter(Boolean).join(" \u00b7 ");
    at("passage-text").replaceChildren(marked(passage.text, marks));
    at("passage").showModal();
    at("passage-text").querySelector("mark")?.scrollIntoView({ block: "center" });
  } catch (error) {
    notice(error);
  }
}

// -- asking -----------------------------------------------------------------------------------------------------------

function notice(error) {
  at("notice").textContent = error.message;
  at("notice").hidden = false;
  if (error.needsKey && !at("settings").open) at("settings").showModal();
  wantsKey = Boolean(error.needsKey);
  at("empty").hidden = document.querySelector(".turn") !== null;
}

function say(words) { at("status").textContent = words; }

function requestFor(text) {
  const earlier = !at("follow").checked ? [] : turns.flatMap((turn) => [
    { role: "user", content: turn.question }, { role: "assistant", content: turn.text },
  ]);
  const number = (id) => (at(id).value === "" ? undefined : Number(at(id).value));
  const decoding = at("decoding").value;
  const temperature = decoding === "greedy" ? 0 : decoding === "sampled" ? number("temperature") ?? 0.7 : undefined;
  // What is undefined is left out: then it is as the server was started.
  return {
    model,
    messages: [...earlier, { role: "user", content: text }],
    max_tokens: number("tokens"),
    temperature,
    cosup: { hits: true, top_k: number("top-k"), min_score: number("min-score"), ret_first: at("ret-first").checked || undefined },
  };
}

function asking(is) {
  at("send").disabled = is;
  at("stop").hidden = !is;
}

async function ask(text) {
  if (running) return;
  if (!text.trim()) { say("Type a question first."); return; }
  if (!at("ask").reportValidity()) return;
  at("notice").hidden = true;
  at("empty").hidden = true;
  const request = requestFor(text);
  question.value = "";
  const turn = newTurn(text);
  at("conversation").append(turn.node);
  running = new AbortController();
  asking(true);
  say("Asked; waiting for the first words.");
  scrollTo({ top: document.documentElement.scrollHeight });
  try {
    if (!model) request.model = model = await api.modelName(store.key());
    await api.answer(request, store.key(), running.signal, (chunk) => take(turn, chunk));
    turns.push(turn);
    conclude(turn);
  } catch (error) {
    turn.end("broken");
    if (error.name === "AbortError") { turn.remark("Stopped."); say("Stopped."); }
    else { if (!turn.text) turn.node.remove(); question.value ||= text; notice(error); say(""); if (turn.text) turn.remark("This answer is not whole."); }
  } finally {
    running = null;
    asking(false);
    if (document.activeElement === document.body) question.focus({ preventScroll: true });
  }
}

function take(turn, chunk) {
  const delta = chunk.choices[0]?.delta ?? {};
  const all = document.documentElement;
  const atEnd = all.scrollHeight - scrollY - innerHeight < 120; // then the end stays in sight as it grows
  if (delta.content) turn.write(delta.content);
  if (delta.annotations?.length) turn.cite(delta.annotations);
  if (chunk.cosup?.retrieval) {
    turn.search(chunk.cosup.retrieval);
    const { hits, read } = chunk.cosup.retrieval;
    say(read ? `Reading ${hits.slice(0, read).map((hit) => hit.title || hit.passage_id).join(", ")}.` : "Found nothing near enough.");
  }
  if (chunk.cosup?.finish_reason) turn.end(chunk.cosup.finish_reason);
  if (atEnd && all.scrollHeight - scrollY - innerHeight > 0) scrollTo({ top: all.scrollHeight });
}

const REASONS = {
  length: "The answer was cut: it reached its longest length.",
  context: "The answer was cut: the model can read no more.",
  timeout: "The answer was cut: it took too long.",
};

function conclude(turn) {
  const cited = new Set(turn.citations.map((citation) => citation.n)).size;
  if (REASONS[turn.outcome]) turn.remark(REASONS[turn.outcome]);
  else if (!cited && turn.searches.length) turn.remark("No passage was near enough to be cited; nothing of this answer rests on one.");
  else if (!cited) turn.remark("The model answered without a search; nothing of this answer rests on a passage.");
  if (turn.node.getBoundingClientRect().top < 0) turn.node.scrollIntoView({ block: "start" });
  say(`Done: ${turn.searches.length} ${turn.searches.length === 1 ? "search" : "searches"}, ${cited} ${cited === 1 ? "passage" : "passages"} cited.`);
  store.keep({ id: conversation, when: Date.now(), turns: turns.map((kept) => kept.toRecord()) });
}

at("ask").addEventListener("submit", (event) => { event.preventDefault(); ask(question.value); });
question.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); ask(question.value); }
});
at("stop").addEventListener("click", () => running?.abort());

// -- links, history, settings -----------------------------------------------------------------------------------------

at("share").addEventListener("click", async () => {
  const text = question.value.trim() || turns.at(-1)?.question || "";
  if (!text) { say("Type a question first; the link will hold it."); return; }
  const link = `${location.origin}${location.pathname}#q=${encodeURIComponent(text)}`;
  try {
    await navigator.clipboard.writeText(link);
    say("The link is in the clipboard.");
  } catch {
    location.hash = `q=${encodeURIComponent(text)}`;
    say("The link is in the address bar.");
  }
});

function takeLink() {
  const linked = new URLSearchParams(location.hash.slice(1)).get("q");
  if (linked) { question.value = linked; question.focus(); say("Press Enter to ask."); }
}
addEventListener("hashchange", takeLink);

function begin(record = null) {
  running?.abort();
  conversation = record?.id ?? newId();
  turns = (record?.turns ?? []).map((kept) => newTurn(kept.question).restore(kept));
  at("conversation").replaceChildren(...turns.map((turn) => turn.node));
  at("empty").hidden = turns.length > 0;
  at("notice").hidden = true;
  say("");
}
at("new").addEventListener("click", () => { begin(); question.value = ""; question.focus(); });

at("open-history").addEventListener("click", () => {
  const rows = store.history().map((record) => {
    const button = make("button", { type: "button", textContent: record.turns[0]?.question ?? "" });
    button.addEventListener("click", () => { at("history").close(); begin(record); });
    return make("li", {}, button, make("span", { className: "quiet", textContent: ` ${new Date(record.when).toLocaleString()}` }));
  });
  at("past").replaceChildren(...(rows.length ? rows : [make("li", { textContent: "Nothing yet." })]));
  at("history").showModal();
});
at("forget").addEventListener("click", () => { store.forget(); at("history").close(); });

at("open-settings").addEventListener("click", () => { at("key").value = store.key(); at("settings").showModal(); });
at("settings").addEventListener("close", async () => {
  store.keepKey(at("key").value.trim());
  await greet();
  if (model && wantsKey && question.value.trim()) { wantsKey = false; ask(question.value); }
});

async function greet() {
  try {
    model = await api.modelName(store.key());
    at("model").textContent = model;
    at("notice").hidden = true;
  } catch (error) {
    at("notice").textContent = error.message;
    at("notice").hidden = false;
  }
}

// On a narrow screen the options are behind their name; on a wide one they always show.
const wide = matchMedia("(min-width: 52.01rem)");
const fold = () => { at("options").open = wide.matches; };
wide.addEventListener("change", fold);
fold();
at("follow").checked = store.followsUp();
at("follow").addEventListener("change", () => store.keepFollowsUp(at("follow").checked));

takeLink();
greet();
