// Every page of the dashboard: asks for what has changed, shows how long ago things were, and adds what needs a script.
// No module imports another: their names would not survive a storage that puts hashes into the names of static files.

const AGO = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
const SLOWEST = 30;
// Between a change and the look at it: what changes often is looked at a few times a second.
const SOONEST = 250;

function ago(seconds) {
  const [size, unit] = AGO.find(([size]) => Math.abs(seconds) >= size) ?? [1, "s"];
  const number = Math.floor(Math.abs(seconds) / size);
  return seconds < 0 ? `in ${number} ${unit}` : `${number} ${unit} ago`;
}

function showAges() {
  for (const element of document.querySelectorAll("time[data-ago]")) {
    const at = new Date(element.dateTime);
    const text = ago((Date.now() - at) / 1000);
    element.title ||= at.toLocaleString();
    if (element.textContent !== text) element.textContent = text;
  }
}

// What the user has done to the page stays: ticked boxes, opened details, focus, what is being typed.
const KEPT = new Set(["checked", "open", "title"]);
function replace(region, html) {
  Idiomorph.morph(region, html, {
    morphStyle: "innerHTML",
    ignoreActiveValue: true,
    callbacks: { beforeAttributeUpdated: (name) => !KEPT.has(name) },
  });
}

class Live {
  constructor(controls) {
    this.select = controls.querySelector("[data-live-interval]");
    this.state = controls.querySelector("[data-live-state]");
    // Where the server can tell of changes; it answers when there is one, or after a while.
    this.changes = controls.dataset.liveChanges;
    this.etag = "";
    this.failures = 0;
    const stored = localStorage.getItem("container-manager-refresh");
    if ([...this.select.options].some((option) => option.value === stored)) this.select.value = stored;
    this.select.addEventListener("change", () => {
      localStorage.setItem("container-manager-refresh", this.select.value);
      this.wake();
    });
    document.addEventListener("visibilitychange", () => this.wake());
    controls.hidden = false;
    this.wake();
  }

  say(state) {
    if (this.state.dataset.now === state) return;
    this.state.dataset.now = state;
    this.state.textContent = this.state.dataset[state];
  }

  wake() {
    clearTimeout(this.timer);
    this.waiting?.abort();
    const seconds = Number(this.select.value);
    if (!seconds) this.say("off");
    else if (document.hidden) this.say("paused");
    else this.look();
  }

  async look() {
    clearTimeout(this.timer);
    if (this.busy) return;
    this.busy = true;
    try {
      const answer = await this.ask();
      if (answer.status === 403 || answer.status === 404 || answer.type === "opaqueredirect") {
        this.say("refused");
        return;
      }
      if (answer.status !== 304 && !answer.ok) throw new Error(`status ${answer.status}`);
      if (answer.status !== 304) {
        const { regions } = await answer.json();
        for (const [name, html] of Object.entries(regions)) {
          const region = document.querySelector(`[data-region="${name}"]`);
          if (region) replace(region, html);
        }
        showAges();
        document.dispatchEvent(new CustomEvent("regions-changed"));
      }
      this.etag = answer.headers.get("ETag") ?? "";
      this.failures = 0;
      this.say("live");
      this.wait();
    } catch {
      this.failures += 1;
      this.say("lost");
    } finally {
      this.busy = false;
    }
    const seconds = Number(this.select.value);
    if (seconds && !document.hidden) {
      this.timer = setTimeout(() => this.look(), 1000 * Math.min(SLOWEST, seconds * 2 ** Math.min(this.failures, 5)));
    }
  }

  async wait() {
    if (!this.changes || this.waiting || document.hidden) return;
    this.waiting = new AbortController();
    try {
      const { signal } = this.waiting;
      const { status } = await fetch(this.changes, { signal, redirect: "manual", cache: "no-store" });
      if (status === 200) await new Promise((resolve) => setTimeout(resolve, SOONEST));
      // Anything else than a change or none is for the next look to find out.
      this.waiting = null;
      if (status === 200) this.look();
      else if (status === 204) this.wait();
    } catch {
      this.waiting = null;
    }
  }

  ask() {
    const headers = this.etag ? { "If-None-Match": this.etag } : {};
    // A form that drives what the page shows: work that goes on with each look.
    const drive = document.querySelector("form[data-drive]");
    if (drive && document.querySelector("[data-goes-on]")) {
      const body = new FormData(drive);
      body.set("live", "1");
      return fetch(drive.action, { method: "POST", body, headers, redirect: "manual", cache: "no-store" });
    }
    const url = new URL(location.href);
    url.searchParams.set("live", "1");
    return fetch(url, { headers, redirect: "manual", cache: "no-store" });
  }
}

// Boxes that tick others, and how many are ticked.
function selection() {
  const all = document.querySelector("[data-select-all]");
  const count = document.querySelector("[data-selected]");
  if (!all || !count) return;
  const boxes = () => [...document.querySelectorAll("input[data-select]")];
  const show = () => {
    const ticked = boxes().filter((box) => box.checked).length;
    const box = document.querySelector("[data-select-all]");
    box.checked = ticked > 0 && ticked === boxes().length;
    box.indeterminate = ticked > 0 && !box.checked;
    count.textContent = count.dataset.text.replace("#", ticked);
  };
  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-select-all]")) {
      for (const box of boxes()) box.checked = event.target.checked;
    }
    if (event.target.matches("[data-select-all], [data-select]")) show();
  });
  document.addEventListener("regions-changed", show);
  show();
}

function copying() {
  for (const button of document.querySelectorAll("button[data-copy]")) {
    button.hidden = !navigator.clipboard;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
      button.textContent = button.dataset.done;
    });
  }
}

document.documentElement.classList.add("cd-scripted");
showAges();
setInterval(showAges, 1000);
selection();
copying();
const controls = document.querySelector("[data-live-controls]");
if (controls) new Live(controls);
