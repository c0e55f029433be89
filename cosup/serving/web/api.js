// What the page asks of the server, and errors in plain words.

export class Told extends Error {
  constructor(words, needsKey = false) {
    super(words);
    this.needsKey = needsKey;
  }
}

const GONE = "The server cannot be reached. It may have been stopped; try again in a moment.";

function headers(key) {
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

async function told(response) {
  let message = "";
  let code = "";
  try {
    ({ message = "", code = "" } = (await response.json()).error ?? {});
  } catch {
    // no JSON: the status alone speaks
  }
  if (response.status === 429) return new Told("The server is busy: its queue is full. Try again in a few seconds.");
  if (response.status === 401) return new Told("This server needs an API key: put it in under Settings.", true);
  if (code === "no_such_passage") return new Told("This passage is no longer in the corpus.");
  if (code === "stopping") return new Told("The server is about to stop and takes no more questions.");
  if (response.status === 503) return new Told(`The server cannot do this now. ${message}`);
  if (response.status >= 500) return new Told(`Something went wrong on the server. ${message}`);
  return new Told(message ? `The question was not taken: ${message}` : `The question was not taken (${response.status}).`);
}

async function fetched(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Told(GONE);
  }
  if (!response.ok) throw await told(response);
  return response;
}

export async function modelName(key) {
  const response = await fetched("/v1/models", { headers: headers(key) });
  return (await response.json()).data[0].id;
}

export async function passage(id, key) {
  const response = await fetched(`/v1/passages/${encodeURIComponent(id)}`, { headers: headers(key) });
  return response.json();
}

// Calls `on` with each chunk of an answer; resolves when it is whole.
export async function answer(request, key, signal, on) {
  const response = await fetched("/v1/chat/completions", {
    method: "POST", headers: headers(key), body: JSON.stringify({ ...request, stream: true }), signal,
  });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let ended = false;
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data: ")) continue;
        if (line === "data: [DONE]") { ended = true; continue; }
        const chunk = JSON.parse(line.slice(6));
        if (chunk.error) throw new Told(`The answer broke off: ${chunk.error.message}`);
        on(chunk);
      }
    }
  } catch (error) {
    if (error instanceof Told || error.name === "AbortError") throw error;
    throw new Told("The connection to the server broke off before the answer was whole.");
  }
  if (!ended) throw new Told("The server went away before the answer was whole.");
}
