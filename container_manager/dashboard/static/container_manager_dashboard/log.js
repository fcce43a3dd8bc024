// The output on a job's page: follows it, shows one stream, finds text. All of it is shown as text, never as HTML.

const FAST = 700;
const SLOW = 5000;
const pre = document.querySelector("[data-log]");
const tool = (name) => document.querySelector(`[data-log-${name}]`);
const state = { attempt: Number(tool("attempt").value), shown: 0, last: -1, following: true, timer: 0, turn: 0 };

function show(part) {
  const span = document.createElement("span");
  span.className = `cd-${part.stream}`;
  span.textContent = part.text;
  pre.append(span);
  const empty = tool("empty");
  if (empty) empty.hidden = true;
}

function note(text) {
  show({ stream: "system", text: `${text}\n` });
}

function take(parts) {
  let previous = state.last < 0 ? "system" : "";
  for (const part of parts) {
    if (part.sequence > state.last + 1 && previous !== "system" && part.stream !== "system") note(pre.dataset.gap);
    state.last = part.sequence;
    previous = part.stream;
    show(part);
  }
}

async function ask(turn) {
  const url = new URL(pre.dataset.log, location.href);
  url.searchParams.set("attempt", state.shown || state.attempt);
  url.searchParams.set("after", state.last);
  const response = await fetch(url, { cache: "no-store", redirect: "error" });
  if (!response.ok) throw new Error(`status ${response.status}`);
  const answer = await response.json();
  // Paused meanwhile, or asked for something else: it is asked for again.
  if (turn !== state.turn || !state.following) return FAST;
  if (answer.attempt) {
    state.shown = answer.attempt;
    const link = tool("download");
    link.href = pre.dataset.file.replace(/0\/$/, `${answer.attempt}/`);
    link.hidden = false;
    take(answer.parts);
    if (answer.parts.length) {
      if (state.following) pre.scrollTop = pre.scrollHeight;
      find();
    }
  }
  if (answer.more) return 1;
  if (answer.over && state.attempt === 0 && answer.newest > answer.attempt) {
    // The last attempt is asked for, and there is a newer one.
    state.shown = answer.attempt + 1;
    state.last = -1;
    note(pre.dataset.next.replace("#", state.shown));
    return FAST;
  }
  return answer.over ? SLOW : FAST;
}

async function look() {
  clearTimeout(state.timer);
  const turn = state.turn;
  let pause = SLOW;
  try {
    if (!document.hidden && state.following) pause = await ask(turn);
  } catch {
    pause = SLOW;
  }
  if (turn === state.turn) state.timer = setTimeout(look, pause || FAST);
}

function restart() {
  state.turn += 1;
  Object.assign(state, { shown: 0, last: -1 });
  pre.replaceChildren();
  const cut = tool("cut");
  if (cut) cut.hidden = true;
  look();
}

function follow(following) {
  state.following = following;
  tool("follow").setAttribute("aria-pressed", String(following));
  if (following) {
    pre.scrollTop = pre.scrollHeight;
    look();
  }
}

// Marks what was found without changing the page, where the browser can.
function find() {
  const words = tool("find").value.toLowerCase();
  const ranges = [];
  if (words) {
    const walker = document.createTreeWalker(pre, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node && ranges.length < 1000; node = walker.nextNode()) {
      const text = node.data.toLowerCase();
      for (let at = text.indexOf(words); at >= 0; at = text.indexOf(words, at + words.length)) {
        const range = new Range();
        range.setStart(node, at);
        range.setEnd(node, Math.min(at + words.length, node.length));
        ranges.push(range);
      }
    }
  }
  if (window.Highlight) CSS.highlights.set("cd-found", new Highlight(...ranges));
  tool("found").textContent = words ? `${ranges.length}` : "";
  return ranges;
}

tool("find").addEventListener("input", () => {
  const [first] = find();
  if (first) {
    follow(false);
    first.startContainer.parentElement.scrollIntoView({ block: "nearest" });
  }
});
tool("stream").addEventListener("change", (event) => {
  pre.dataset.only = event.target.value;
});
tool("attempt").addEventListener("change", (event) => {
  state.attempt = Number(event.target.value);
  follow(true);
  restart();
});
tool("all").addEventListener("click", () => {
  follow(true);
  restart();
});
tool("follow").addEventListener("click", () => follow(!state.following));
// Whoever scrolls up reads; at the end again, new lines are followed.
pre.addEventListener("wheel", (event) => {
  if (event.deltaY < 0) follow(false);
});
pre.addEventListener("keydown", (event) => {
  if (["PageUp", "ArrowUp", "Home"].includes(event.key)) follow(false);
  if (event.key === "End") follow(true);
});
document.addEventListener("visibilitychange", look);

if (pre.dataset.last) {
  state.last = Number(pre.dataset.last);
  state.shown = Number(pre.dataset.shown);
}
tool("tools").hidden = false;
pre.scrollTop = pre.scrollHeight;
look();
