// The web inbox: routes, keys, and what the server says, brought together.
//
//   #/mailboxes/<id>   a mailbox          #/messages/<id>   a message, and the mailbox it is in

import * as api from "./api.js";
import { Boxes } from "./boxes.js";
import { byId, confirm, copyButton, fullTime, h, icon, iconButton, many, number, plain, say, toast, words } from "./dom.js";
import { emptyFilter, hostAndPort, howToSend, keys } from "./help.js";
import { criteria, List } from "./list.js";
import { Live } from "./live.js";
import { Reader } from "./reader.js";
import { offerSignOut, signIn } from "./signin.js";

let server = { host: location.hostname, port: 1025 };
let opened = null, started = false;

const live = new Live(hear);
const boxes = new Boxes({ fail, gone: (id) => { if (list.mailbox?.id === id) leave(); } });
const list = new List({ live, fail, open: (id) => go(`#/messages/${id}`), changed: listChanged });
const reader = new Reader({ fail, act: { back, remove, unread } });

function fail(error) {
  if (error.status === 401) locked();
  else if (error instanceof api.Away) { offline(true); live.now(); }
  else if (error.name !== "AbortError") { if (!(error instanceof api.Problem)) console.error(error); toast(error); }
}

function go(hash) {
  if (location.hash === hash) route();
  else location.hash = hash;
}

// What the server says

function hear(frame) {
  switch (frame.type) {
    case "up": state(true); offline(false); begin(); return undefined;
    case "down": state(false); if (started || frame.wait > 700) offline(true); return undefined;
    case "mailbox": return boxHint(frame.mailbox);
    case "mailbox-opened": return boxes.all.has(frame.mailbox) || boxes.put({ id: frame.mailbox, address: frame.address, messages: 0, unseen: 0 });
    case "mailbox-closed": return boxes.remove(frame.mailbox);
    case "resync": return list.mailbox?.id === frame.mailbox ? list.show(list.mailbox, list.filter, list.active) : undefined;
    case "problem": return frame.op === "subscribe" && frame.status === 404 ? leave() : frame.status < 500 && toast(frame);
    case "filed": case "seen": case "deleted": case "expired": return list.hear(frame);
    default: return undefined;
  }
}

function boxHint(mailbox) {
  boxes.put(mailbox);
  if (list.mailbox?.id === mailbox.id) { list.mailbox = mailbox; top(); }
}

/** At the start and after each connection: what was missed while there was none. One after another. */
let begun = Promise.resolve();
function begin() {
  begun = begun.then(async () => {
    try {
      await boxes.load();
      const { mailbox } = list;
      if (!started) { started = true; await route(); }
      else if (!mailbox) await route();
      else if (!boxes.all.has(mailbox.id)) leave();
      else {
        list.mailbox = boxes.all.get(mailbox.id);
        if (!list.loaded && !list.busy) list.show(list.mailbox, list.filter, list.active);
        top();
      }
    } catch (error) { fail(error); }
  });
}

function offline(away) {
  const banner = byId("offline");
  if (away && banner.hidden) {
    banner.replaceChildren(icon("warn"), h("span", "No connection to the server. What is shown may be old; trying again."),
      h("button", { onclick: () => live.now() }, "Try now"));
  }
  banner.hidden = !away;
}

/** The server wants to know who this is. What is shown goes; once signed in, the page begins anew. */
function locked() {
  if (document.body.dataset.pane === "locked") return;
  live.end();
  state(false);
  byId("toasts").replaceChildren();
  for (const part of document.querySelectorAll("main, #offline, #skip, dialog")) { part.hidden = true; part.close?.(); }
  signIn(() => location.reload());
  pane("locked");
}

function state(up) {
  byId("state").classList.toggle("up", up);
  byId("state").setAttribute("aria-label", up ? "Live" : "Not connected");
  byId("state").title = up ? "Live: new mail appears by itself" : "Not connected";
}

// Where we are

async function route() {
  const [, kind, id] = location.hash.match(/^#\/(mailboxes|messages)\/([0-9a-z]+)$/) ?? [];
  if (!started) return;
  if (kind === "messages") return read(id);
  opened = null;
  reader.rest();
  const mailbox = kind ? await known(id) : boxes.sorted()[0];
  if (kind && !mailbox) { toast({ title: "There is no such mailbox", detail: "It was deleted, or its time was over." }); return go("#/"); }
  pane(kind ? "list" : "boxes");
  if (mailbox) enter(mailbox);
  return undefined;
}

/** A mailbox by its id, also one made a moment ago. */
async function known(id) {
  if (!boxes.all.has(id)) await boxes.load().catch(fail);
  return boxes.all.get(id);
}

function enter(mailbox, active = null) {
  boxes.current = mailbox.id;
  boxes.draw();
  if (list.mailbox?.id === mailbox.id && list.loaded) { top(); return; }
  byId("filter").value = "";
  list.show(mailbox, {}, active);
  top();
}

function leave() {
  list.live.leave();
  list.reset(null, {});
  list.draw();
  top();
  go("#/");
}

async function read(id) {
  opened = id;
  pane("reader");
  try {
    const message = await reader.show(id);
    if (!message || opened !== id) return;
    const mailbox = await known(message.mailbox);
    if (opened !== id) return;
    if (mailbox) enter(mailbox, id);
    if (list.active !== id) list.choose(id, false);
    if (!message.seen) { list.seen(id, true); await api.mark(id, true); }
  } catch (error) {
    if (error.status !== 404) fail(error);
    if (!list.mailbox) { const [first] = boxes.sorted(); if (first) enter(first); }
  }
}

function pane(name) { if (document.body.dataset.pane !== "locked") document.body.dataset.pane = name; }

function back() {
  const inList = document.body.dataset.pane === "list";
  if (list.mailbox && !inList) go(`#/mailboxes/${list.mailbox.id}`);
  else if (!wide()) go("#/");
  byId("list").focus();
}

// The list's surroundings

function top() {
  const { mailbox } = list, place = byId("list-top");
  if (place.dataset.id !== mailbox?.id) {
    // Built once, so that a click or the focus is not lost while mail pours in.
    place.dataset.id = mailbox?.id ?? "";
    place.replaceChildren(...(mailbox ? [
      iconButton("back", "Back to the mailboxes", () => go("#/"), { class: "back" }),
      h("div.grow", h("h2", { title: plain(mailbox.address) }, words(mailbox.address)), h("p.soft.small", { id: "counts" })),
      copyButton(mailbox.address, "Copy address", { id: "copy-address" }),
      iconButton("check", "Mark all read", () => api.markAll(mailbox.id).catch(fail), { id: "read-all" }),
      iconButton("trash", "Delete all messages", clear, { id: "clear" }),
    ] : []));
  }
  if (!mailbox) return;
  byId("counts").textContent = [many(mailbox.messages, "message"), mailbox.unseen > 0 && `${number(mailbox.unseen)} unread`,
    mailbox.ends_at && `until ${fullTime(mailbox.ends_at)}`].filter(Boolean).join(", ");
  byId("read-all").disabled = !mailbox.unseen;
  byId("clear").disabled = !mailbox.messages;
}

function listChanged(gone) {
  const empty = byId("empty"), shows = list.loaded && !list.rows.length && list.next === null;
  if (shows && empty.hidden) empty.replaceChildren(...(list.filtered ? emptyFilter() : howToSend(list.mailbox.address, server)));
  empty.hidden = !shows;
  if (gone?.has(opened)) { opened = null; reader.gone(); }
}

async function remove(id) {
  const subject = list.known.get(id)?.subject || reader.message?.subject || "no subject";
  if (!await confirm("Delete this message?", `\u201c${plain(subject)}\u201d goes for good.`)) return;
  const following = list.step(1) === id ? list.step(-1) : list.step(1);
  try {
    await api.deleteMessage(id);
    say("Message deleted");
    if (opened !== id) return;
    opened = null;
    if (following && following !== id && document.body.dataset.pane === "reader" && wide()) go(`#/messages/${following}`);
    else back();
  } catch (error) { fail(error); }
}

async function clear() {
  const { mailbox } = list;
  if (!await confirm("Delete all messages?", `${many(mailbox.messages, "message")} of ${plain(mailbox.address)} go for good${list.filtered ? ", also those the filter hides" : ""}; the mailbox stays.`, "Delete all")) return;
  try {
    await api.deleteAll(mailbox.id);
    if (opened) go(`#/mailboxes/${mailbox.id}`);
  } catch (error) { fail(error); }
}

async function unread(id) {
  try {
    list.seen(id, false);
    await api.mark(id, false);
    say("Marked unread");
  } catch (error) { fail(error); }
}

const wide = () => matchMedia("(min-width: 900px)").matches;

let typing = null;
byId("filter").addEventListener("input", (event) => {
  clearTimeout(typing);
  typing = setTimeout(() => {
    if (list.mailbox) list.show(list.mailbox, criteria(event.target.value), opened);
  }, 180);
});

// Keys

function move(by) {
  const id = list.step(by);
  if (id) list.choose(id, opened !== null && wide());
}

addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open], .locked")) return;
  const field = event.target.closest("input, select, textarea");
  if (field) {
    if (event.key === "Escape") { if (field.value) { field.value = ""; field.dispatchEvent(new Event("input")); } else byId("list").focus(); }
    else if (event.key === "Enter" && field.id === "filter") byId("list").focus();
    else return;
    event.preventDefault();
    return;
  }
  const inList = event.target === byId("list") || event.target === document.body;
  const chosen = list.active;
  const acts = {
    j: () => move(1), k: () => move(-1),
    ArrowDown: inList && (() => move(1)), ArrowUp: inList && (() => move(-1)),
    Home: inList && (() => move(-Infinity)), End: inList && (() => move(Infinity)),
    Enter: inList && chosen && (() => list.choose(chosen, true)), o: chosen && (() => list.choose(chosen, true)),
    Delete: chosen && (() => remove(chosen)), "#": chosen && (() => remove(chosen)),
    u: opened && (() => unread(opened)), n: () => boxes.create(),
    "/": () => byId("filter").focus(), "?": keys, Escape: () => back(),
  };
  const act = acts[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

byId("skip").addEventListener("click", (event) => { event.preventDefault(); byId("list").focus(); });
byId("help").addEventListener("click", keys);
byId("theme").append(icon("theme"));
byId("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  root.dataset.theme = dark ? "light" : "dark";
  try { localStorage.setItem("mailfarm.theme", root.dataset.theme); } catch { /* private window */ }
});
addEventListener("hashchange", route);
api.version().then((version) => {
  byId("about").textContent = `mailfarm ${version.version ?? ""}`;
  server = hostAndPort(version) ?? server;
  if (version.inbox) { boxes.default = version.inbox; boxes.draw(); }
  return offerSignOut(() => location.reload());
}).catch(fail);
begin();
