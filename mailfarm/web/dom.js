// Building blocks. Everything a mail says becomes a text node or an attribute value: nothing is ever parsed as HTML.

const SVG = "http://www.w3.org/2000/svg";
const PATHS = {
  attach: "M20 11.5l-8.2 8.2a5.3 5.3 0 0 1-7.5-7.5L12.7 4a3.5 3.5 0 0 1 5 5l-8.2 8.2a1.8 1.8 0 0 1-2.5-2.5L14.5 7",
  back: "M15 5l-7 7 7 7",
  check: "M4 12.5l5 5L20 6.5",
  copy: "M9 9h10v11H9zM5 15V4h10",
  download: "M12 4v11m-5-4.5l5 5 5-5M5 20h14",
  link: "M10 14l4-4M8.5 11l-3 3a3.5 3.5 0 0 0 5 5l3-3M15.5 13l3-3a3.5 3.5 0 0 0-5-5l-3 3",
  mail: "M3.5 6h17v12.5h-17zM4 7l8 6.5L20 7",
  open: "M3.5 10v9.5h17V10L12 4zM4 10.5l8 5 8-5",
  theme: "M12 4a8 8 0 1 0 0 16zM12 4a8 8 0 0 1 0 16",
  trash: "M5 7h14M10 7V4.5h4V7M7 7l1 13h8l1-13M10.5 11v5.5M13.5 11v5.5",
  warn: "M12 4l9 16H3zM12 10v4.5M12 17v.5",
};

/** An element: h("button.primary", {onclick}, "Text", otherElement); properties may be left out, those of null or false
 *  and such children are. */
export function h(tag, props, ...children) {
  const [name, ...classes] = tag.split(".");
  const made = document.createElement(name);
  if (name === "button") made.type = "button";
  if (props?.constructor !== Object) { children.unshift(props); props = {}; }
  if (classes.length) made.className = classes.join(" ");
  for (const [key, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key === "class") made.classList.add(...value.split(" ").filter(Boolean));
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat(9).filter((child) => child || child === 0));
  return made;
}

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

export const byId = (id) => document.getElementById(id);

export function iconButton(name, label, onclick, props) {
  return h("button.icon", { title: label, "aria-label": label, onclick, ...props }, icon(name));
}

/** A button that copies and says so. */
export function copyButton(text, label = "Copy", props = {}) {
  const button = iconButton("copy", label, async () => {
    const done = await copy(text);
    button.replaceChildren(done ? icon("check") : "\u00d7");
    button.classList.toggle("done", done);
    say(done ? "Copied" : "The browser does not let this page copy");
    setTimeout(() => { button.replaceChildren(icon("copy")); button.classList.remove("done"); }, 1400);
  }, props);
  return button;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch { // not over HTTPS and not on loopback
    const area = h("textarea.unseen", { readonly: true }, text);
    (document.querySelector("dialog") ?? document.body).append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

/** Tell a screen reader. */
export const say = (text) => { byId("say").textContent = text; };

/** Text by a stranger: characters that turn or hide text are shown by their number. */
export const plain = (text) =>
  String(text ?? "").replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]/g,
    (char) => `\u27e8U+${char.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}\u27e9`);

/** The same as an element that keeps its own direction. */
export const words = (text, tag = "bdi", props = null) => h(tag, { dir: "auto", ...props }, plain(text));

export const number = (value) => value.toLocaleString("en-GB");
export const many = (count, one, more = `${one}s`) => `${number(count)} ${count === 1 ? one : more}`;

export function size(octets) {
  if (octets === null || octets === undefined) return "size unknown";
  if (octets < 1000) return `${octets} B`;
  if (octets < 1e6) return `${(octets / 1e3).toFixed(octets < 1e4 ? 1 : 0)} KB`;
  return `${(octets / 1e6).toFixed(1)} MB`;
}

const TIME = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const YEAR = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric" });
const FULL = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });

/** 14:05 today, 3 Mar this year, 3 Mar 2024 otherwise. */
export function shortTime(text) {
  const when = new Date(text), now = new Date();
  if (when.toDateString() === now.toDateString()) return TIME.format(when);
  return (when.getFullYear() === now.getFullYear() ? DAY : YEAR).format(when);
}
export const fullTime = (text) => FULL.format(new Date(text));

/** The name to call a person by: the display name, else the address. */
export const called = (person, otherwise = "") => person?.name || person?.address || otherwise || "(no sender)";

/** The first letter of a name on a colour of its own, always the same for the same address. */
export function face(name, address, more = "") {
  const made = h(`span.avatar${more}`, { "aria-hidden": "true" }, [...plain(name)][0]?.toUpperCase() ?? "?");
  let sum = 7;
  for (const char of address) sum = (sum * 31 + char.codePointAt(0)) % 4093;
  made.style.setProperty("--hue", HUES[sum % HUES.length]);
  return made;
}
const HUES = [150, 200, 255, 300, 345, 20, 45, 95];

/** A modal dialog, shown at once and gone when it closes; buttons: [class, label, value it closes with]. */
export function dialog(title, content, buttons) {
  const close = ([kind, label, value]) => h(`button${kind}`, { autofocus: kind !== "", onclick: () => box.close(value) }, label);
  const box = h("dialog", { "aria-label": title }, h("h2", title), content, buttons && h("div.actions", buttons.map(close)));
  box.addEventListener("close", () => box.remove());
  box.addEventListener("click", (event) => { if (event.target === box) box.close(); });
  document.body.append(box);
  box.showModal();
  return box;
}

/** Ask before something that cannot be undone. True if the reader says so. */
export function confirm(title, detail, action = "Delete") {
  const box = dialog(title, h("p", detail), [["", "Cancel", ""], [".danger", action, "yes"]]);
  return new Promise((resolve) => box.addEventListener("close", () => resolve(box.returnValue === "yes")));
}

/** Say what went wrong, with a problem document's own words. */
export function toast(problem) {
  const card = h("div.toast", h("div", h("strong", plain(problem.title ?? "Something went wrong")),
    problem.detail && h("p", plain(problem.detail))), h("button.icon", { "aria-label": "Dismiss", onclick: () => card.remove() }, "\u00d7"));
  const all = byId("toasts");
  all.append(card);
  while (all.children.length > 3) all.firstChild.remove();
  setTimeout(() => card.remove(), 10_000);
}
