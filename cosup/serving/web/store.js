// What this browser keeps: conversations and the theme for good, the API key until the tab is closed.

const HISTORY = "cosup.history";
const MOST = 50;

function read(storage, name, otherwise) {
  try {
    return JSON.parse(storage.getItem(name)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

function write(storage, name, value) {
  try {
    storage.setItem(name, JSON.stringify(value));
  } catch {
    // full or forbidden: the page works without
  }
}

export const history = () => read(localStorage, HISTORY, []);

export function keep(conversation) {
  const others = history().filter((other) => other.id !== conversation.id);
  write(localStorage, HISTORY, [conversation, ...others].slice(0, MOST));
}

export const forget = () => write(localStorage, HISTORY, []);
export const theme = () => read(localStorage, "cosup.theme", null);
export const keepTheme = (name) => write(localStorage, "cosup.theme", name);
export const followsUp = () => read(localStorage, "cosup.follow", false);
export const keepFollowsUp = (value) => write(localStorage, "cosup.follow", value);
export const key = () => read(sessionStorage, "cosup.key", "");
export const keepKey = (value) => write(sessionStorage, "cosup.key", value);
