// One message: who, what and when, and behind tabs everything that is known of it.

import * as api from "./api.js";
import { byId, called, copyButton, face, fullTime, h, icon, iconButton, many, plain, size, words } from "./dom.js";

const RAW_SHOWN = 400_000, MOST = 500;
const REMOTE = /\s(?:src|background)\s*=[\s"']*(?:https?:)?\/\/|url\([\s"']*(?:https?:)?\/\//i;
let preferred = null, narrow = false;

export class Reader {
  /** act: back, remove(id), unread(id); fail(error). */
  constructor({ act, fail }) {
    Object.assign(this, { act, fail });
    this.place = byId("reader");
    this.message = null;
    this.rest();
  }

  rest() {
    this.abort?.abort();
    this.message = null;
    this.place.replaceChildren(h("div.rest.soft", icon("open"), h("p", "Choose a message to read it here.")));
  }

  gone() {
    this.rest();
    this.place.replaceChildren(h("div.rest.soft", icon("trash"), h("p", "This message is not there any more.")));
  }

  async show(id) {
    this.abort?.abort();
    const { signal } = this.abort = new AbortController();
    const slow = setTimeout(() => this.place.replaceChildren(h("div.rest.soft", h("p", "Loading"))), 300);
    try {
      const message = await api.message(id, signal);
      if (signal.aborted) return null;
      this.draw(message);
      return message;
    } catch (error) {
      if (error.name === "AbortError" || signal.aborted) return null;
      if (error.status === 404) this.gone();
      else this.rest();
      throw error;
    } finally { clearTimeout(slow); }
  }

  draw(message) {
    this.message = message;
    const links = message.links.length + message.codes.length;
    const files = message.parts.filter((part) => part.attachment);
    this.tabs = [
      message.html && ["html", "HTML", () => this.html(message)],
      ["text", "Text", () => this.text(message)],
      ["links", "Links & codes", () => this.links(message), links],
      ["files", "Attachments", () => this.files(message, files), files.length],
      ["headers", "Headers", () => this.headers(message)],
      ["raw", "Raw", () => this.raw(message)],
    ].filter(Boolean);
    this.panel = h("div.panel", { role: "tabpanel", id: "panel", tabindex: "0" });
    const bar = h("div.tabs", { role: "tablist", "aria-label": "Views of this message" }, this.tabs.map(([name, label, , count]) =>
      h("button", { role: "tab", id: `tab-${name}`, "aria-controls": "panel", onclick: () => { preferred = name; this.view(name); } },
        label, count > 0 && h("span.count", String(count)))));
    bar.addEventListener("keydown", (event) => this.turn(event));
    this.place.replaceChildren(this.head(message), bar, this.panel);
    this.place.scrollTop = 0;
    // The view chosen last, unless there is nothing in it.
    this.view((this.tabs.find(([name, , , count]) => name === preferred && count !== 0) ?? this.tabs[0])[0]);
  }

  head(message) {
    const from = message.from ?? { name: "", address: message.sender };
    const people = (label, list) => list.length > 0 && h("div.people", h("span.soft", label), list.slice(0, 20).map((person) => words(person.name ? `${person.name} <${person.address}>` : person.address)), list.length > 20 && h("span.soft", `+${list.length - 20}`));
    return h("header.head",
      h("div.tools",
        iconButton("back", "Back to the list", () => this.act.back(), { class: "back" }),
        h("span.grow"),
        iconButton("mail", "Mark unread (u)", () => this.act.unread(message.id)),
        h("a.icon", { href: api.rawPath(message.id), download: `${message.id}.eml`, title: "Download as .eml", "aria-label": "Download as .eml" }, icon("download")),
        iconButton("trash", "Delete message (Del)", () => this.act.remove(message.id), { id: "remove" })),
      h("h2.subject", { dir: "auto" }, message.subject ? plain(message.subject) : h("i.soft", "no subject")),
      h("div.from",
        face(called(from), from.address, ".big"),
        h("div.grow",
          h("div.people", words(called(from), "b"), from.name && words(`<${from.address}>`, "span", { class: "soft" })),
          people("to", message.to), people("cc", message.cc), people("reply to", message.reply_to ?? [])),
        h("div.when.soft", h("time", { datetime: message.received_at }, fullTime(message.received_at)), h("span", size(message.size)))),
      message.codes.length > 0 && h("div.code", h("span.soft", "Code"), h("code", plain(message.codes[0])), copyButton(message.codes[0], "Copy code", { id: "copy-code" })),
      message.duplicate_of && h("p.warn", icon("warn"), h("span", "A copy of a message that is here already.")),
      message.findings.length > 0 && h("details.warn", h("summary", icon("warn"), many(message.findings.length, "oddity", "oddities"), " in how this message is built"), h("ul", message.findings.map((text) => h("li", plain(text))))));
  }

  /** Arrow keys between tabs, as WAI-ARIA has it. */
  turn(event) {
    const by = { ArrowRight: 1, ArrowLeft: -1, Home: -99, End: 99 }[event.key];
    if (!by) return;
    event.preventDefault();
    const at = this.tabs.findIndex(([name]) => name === this.current);
    const last = this.tabs.length - 1;
    const to = Math.abs(by) === 1 ? (at + by + last + 1) % (last + 1) : by < 0 ? 0 : last;
    preferred = this.tabs[to][0];
    this.view(preferred);
    byId(`tab-${preferred}`).focus();
  }

  view(name) {
    this.current = name;
    for (const [other] of this.tabs) {
      const tab = byId(`tab-${other}`);
      tab.setAttribute("aria-selected", other === name);
      tab.tabIndex = other === name ? 0 : -1;
    }
    this.panel.setAttribute("aria-labelledby", `tab-${name}`);
    this.panel.className = `panel view-${name}`;
    this.panel.replaceChildren(...[this.tabs.find(([other]) => other === name)[2]()].flat(9).filter(Boolean));
  }

  html(message) {
    let remote = false;
    const frame = () => h("iframe", { sandbox: "", referrerpolicy: "no-referrer", title: "The message as HTML", src: api.htmlPath(message.id, remote) });
    const stage = h("div.stage", { class: narrow ? "narrow" : "" }, frame());
    const width = (label, value) => h("button", { "aria-pressed": String(narrow === value), onclick: ({ target }) => {
      narrow = value;
      stage.classList.toggle("narrow", value);
      for (const button of target.parentNode.children) button.setAttribute("aria-pressed", button === target);
    } }, label);
    const load = REMOTE.test(message.html) && h("span.soft", "Remote images are not loaded. ", h("button.link", { id: "load-images", onclick: () => {
      remote = true;
      stage.replaceChildren(frame());
      load.remove();
    } }, "Load them"));
    return [
      h("div.toolbar", load, h("span.grow"), message.html_truncated && h("span.soft", "cut short"),
        h("span.switch", { role: "group", "aria-label": "Width" }, width("Desktop", false), width("Phone", true))),
      stage,
    ];
  }

  text(message) {
    if (!message.text) return h("p.soft", message.html ? "There is no text part; see HTML." : "This message has no text.");
    return [
      h("pre.text", { dir: "auto" }, plain(message.text)),
      message.text_truncated && h("p.soft", "Cut short. ", h("a", { href: api.textPath(message.id), target: "_blank", rel: "noopener" }, "The whole text")),
    ];
  }

  links(message) {
    if (!message.links.length && !message.codes.length) return h("p.soft", "No links and no one-time codes were found.");
    return [
      message.codes.length > 0 && [h("h3", "One-time codes"), h("ul.codes", message.codes.slice(0, MOST).map((code) => h("li", h("code", plain(code)), copyButton(code, `Copy code ${plain(code)}`))))],
      message.links.length > 0 && [h("h3", "Links"), h("ul.links", message.links.slice(0, MOST).map((link) => h("li", icon("link"),
        h("div.grow", link.text && link.text !== link.url && words(link.text, "b"), this.anchor(link.url)), copyButton(link.url, "Copy link"))))],
    ].flat(2);
  }

  /** A link that opens, if it is one a browser should open from here. */
  anchor(url) {
    const safe = /^https?:\/\//i.test(url);
    return h(safe ? "a" : "span", safe ? { href: url, target: "_blank", rel: "noopener noreferrer nofollow", dir: "ltr" } : { dir: "ltr" }, plain(url));
  }

  files(message, files) {
    const depth = new Map();
    const tree = message.parts.slice(0, MOST).map((part) => {
      depth.set(part.n, Math.min(12, (depth.get(part.parent) ?? -1) + 1));
      return "  ".repeat(depth.get(part.n)) + [part.n, part.content_type, part.charset, part.encoding, part.disposition, part.filename, part.size !== null && size(part.size)].filter(Boolean).map(plain).join("  ");
    });
    return [
      files.length === 0 ? h("p.soft", "Nothing is attached.") : h("ul.links", files.slice(0, MOST).map((part) => h("li", icon("attach"),
        h("div.grow", words(part.filename || `part ${part.n}`, "b"), h("span.soft", `${plain(part.content_type)}, ${size(part.size)}`)),
        h("a.button", { href: api.partPath(message.id, part.n), download: part.filename || `part-${part.n}` }, icon("download"), "Download")))),
      h("details.parts", h("summary", `Structure: ${many(message.parts.length, "part")}`),
        h("pre", tree.join("\n"))),
    ];
  }

  headers(message) {
    const place = h("div", h("p.soft", "Loading"));
    this.later(api.headers(message.id, this.abort.signal), place, ({ headers }) =>
      h("dl.table", headers.map(([name, value]) => [h("dt", plain(name)), h("dd", { dir: "auto" }, plain(value))])));
    const { envelope, origin } = message;
    const fact = (name, value) => value && [h("dt", name), h("dd", { dir: "auto" }, plain(value))];
    return [
      h("h3", "Envelope"),
      h("dl.table",
        fact("MAIL FROM", `<${envelope.sender}>`), envelope.recipients.slice(0, MOST).map((one) => fact("RCPT TO", `<${one.address}>`)),
        fact("From host", [origin.client, origin.port].filter(Boolean).join(" port ")), fact("Said it was", origin.helo),
        fact("Came by", [origin.service, origin.protocol].filter(Boolean).join(", ")), fact("TLS", origin.tls), fact("Message-ID", message.message_id)),
      h("h3", "Headers"), place,
    ];
  }

  raw(message) {
    const place = h("div", h("p.soft", "Loading"));
    this.later(api.rawStart(message.id, RAW_SHOWN, this.abort.signal), place, ({ text, whole }) => [
      h("pre", { dir: "ltr" }, plain(text.replaceAll("\r\n", "\n"))),
      !whole && h("p.soft", `The first ${size(RAW_SHOWN)} of ${size(message.size)}. `, h("a", { href: api.rawPath(message.id), download: `${message.id}.eml` }, "Download all of it")),
    ]);
    return place;
  }

  async later(promise, place, make) {
    try {
      place.replaceChildren(...[make(await promise)].flat().filter(Boolean));
    } catch (error) {
      if (error.name === "AbortError") return;
      place.replaceChildren(h("p.wrong", "This could not be loaded."));
      this.fail(error);
    }
  }
}
