// The messages of one mailbox, newest first. However many there are, only the rows near the window are elements.

import * as api from "./api.js";
import { byId, called, face, fullTime, h, icon, many, number, plain, say, shortTime, words } from "./dom.js";

const ROW = 84, AROUND = 8, AHEAD = 40, MOST = 20_000;

/** "from:ada subject:"password reset" hello" as the criteria the server knows. */
export function criteria(text) {
  const filter = {}, rest = [];
  for (const [, name, quoted, bare, word] of text.matchAll(/(?:^|\s)(?:(from|to|subject|contains):(?:"([^"]*)"?|(\S+))|(\S+))/gi)) {
    if (name) filter[name.toLowerCase()] = quoted ?? bare;
    else rest.push(word);
  }
  if (rest.length) filter.contains = [filter.contains, ...rest].filter(Boolean).join(" ");
  return filter;
}

export class List {
  /** live: where to follow; open(id): a message was chosen; fail(error): show what went wrong. */
  constructor({ live, open, fail, changed }) {
    Object.assign(this, { live, open, fail, changed });
    this.view = byId("list");
    this.space = byId("rows");
    this.fresh = byId("fresh");
    this.drawn = new Map();
    this.queue = [];
    this.reset(null, {});
    this.view.addEventListener("scroll", () => this.soon(), { passive: true });
    this.view.addEventListener("click", (event) => {
      const row = event.target.closest(".row");
      if (row) this.choose(row.dataset.id, true);
    });
    this.fresh.addEventListener("click", () => { this.view.scrollTop = 0; this.view.focus(); });
    new ResizeObserver(() => this.soon()).observe(this.view);
  }

  reset(mailbox, filter) {
    this.abort?.abort();
    this.abort = new AbortController();
    Object.assign(this, { mailbox, filter, rows: [], known: new Map(), next: null, loaded: false, busy: false, unread: 0, active: null });
    this.queue.length = 0;
    this.view.scrollTop = 0;
  }

  get filtered() { return Object.keys(this.filter).length > 0; }

  /** Show another mailbox, or the same one through another filter, or again from the start. */
  async show(mailbox, filter, keep = null) {
    this.live.leave();
    this.reset(mailbox, filter);
    this.active = keep;
    this.draw();
    this.changed();
    const page = await this.page(null);
    if (!page) return;
    this.loaded = true;
    this.live.follow(mailbox.id, page.cursor, filter);
    this.draw();
    this.changed();
  }

  async page(before) {
    const signal = this.abort.signal;
    this.busy = true;
    try {
      const page = await api.messages(this.mailbox.id, this.filter, before, signal);
      if (signal.aborted) return null;
      for (const summary of page.messages) {
        if (this.known.has(summary.id)) continue;
        this.known.set(summary.id, summary);
        this.rows.push(summary);
      }
      this.next = page.next;
      return page;
    } catch (error) {
      if (error.name !== "AbortError" && !signal.aborted) this.fail(error);
      return null;
    } finally {
      if (!signal.aborted) this.busy = false;
    }
  }

  /** A frame about this mailbox; many at once are drawn once. */
  hear(frame) {
    this.queue.push(frame);
    this.timer ??= setTimeout(() => { this.timer = null; this.flush(); }, 16);
  }

  flush() {
    if (!this.loaded || this.busy) return; // what a page on its way still shows may be gone by now: it comes first
    const arrived = [], gone = new Set();
    for (const frame of this.queue.splice(0)) {
      if (frame.mailbox !== this.mailbox?.id) continue;
      if (frame.type === "filed") {
        if (!frame.message || frame.gone || this.known.has(frame.message.id)) continue; // it came and went while we were away
        this.known.set(frame.message.id, frame.message);
        arrived.push(frame.message);
      } else if (frame.type === "seen") {
        for (const id of frame.messages) {
          const summary = this.known.get(id);
          if (summary) { summary.seen = frame.seen; this.forget(id); }
        }
      } else if (frame.type === "deleted" || frame.type === "expired") {
        for (const id of frame.messages) if (this.known.delete(id)) gone.add(id);
      }
    }
    if (gone.size) this.remove(gone);
    const staying = arrived.filter((summary) => this.known.has(summary.id)).reverse();
    if (staying.length) this.insert(staying);
    this.draw();
    this.changed(gone);
  }

  insert(summaries) {
    const away = this.view.scrollTop > ROW / 2;
    this.rows = summaries.concat(this.rows);
    if (!away && this.rows.length > MOST) { // days of mail: what is far below is fetched again when it is scrolled to
      for (const { id } of this.rows.splice(MOST / 2)) { this.known.delete(id); this.forget(id); }
      this.next = this.rows.at(-1).seq;
    }
    if (away) {
      this.size();
      this.view.scrollTop += summaries.length * ROW;
      this.unread += summaries.length;
    }
    const [first] = summaries;
    say(summaries.length === 1 ? `New message from ${called(first.from, first.sender)}: ${first.subject || "no subject"}`
      : `${summaries.length} new messages`);
  }

  remove(gone) {
    const at = this.rows.findIndex((summary) => summary.id === this.active);
    this.rows = this.rows.filter((summary) => !gone.has(summary.id));
    for (const id of gone) this.forget(id);
    if (gone.has(this.active)) this.active = this.rows[Math.min(at, this.rows.length - 1)]?.id ?? null;
  }

  seen(id, seen) {
    const summary = this.known.get(id);
    if (summary && summary.seen !== seen) { summary.seen = seen; this.forget(id); this.soon(); }
  }

  forget(id) {
    this.drawn.get(id)?.remove();
    this.drawn.delete(id);
  }

  soon() {
    this.frame ??= requestAnimationFrame(() => { this.frame = null; this.draw(); });
  }

  size() { this.space.style.height = `${this.rows.length * ROW}px`; }

  draw() {
    this.size();
    const { scrollTop, clientHeight } = this.view;
    const first = Math.max(0, Math.floor(scrollTop / ROW) - AROUND);
    const last = Math.min(this.rows.length, Math.ceil((scrollTop + clientHeight) / ROW) + AROUND);
    const wanted = new Set();
    for (let at = first; at < last; at++) {
      const summary = this.rows[at];
      wanted.add(summary.id);
      let row = this.drawn.get(summary.id);
      if (!row) {
        row = this.row(summary);
        this.drawn.set(summary.id, row);
        this.space.append(row);
      }
      const chosen = summary.id === this.active;
      row.style.transform = `translateY(${at * ROW}px)`;
      row.setAttribute("aria-posinset", at + 1);
      row.setAttribute("aria-setsize", this.next === null ? this.rows.length : -1);
      if (row.getAttribute("aria-selected") !== String(chosen)) row.setAttribute("aria-selected", chosen);
    }
    for (const id of this.drawn.keys()) if (!wanted.has(id)) this.forget(id);
    if (this.active && wanted.has(this.active)) this.view.setAttribute("aria-activedescendant", `m-${this.active}`);
    else this.view.removeAttribute("aria-activedescendant");
    if (scrollTop < ROW / 2) this.unread = 0;
    this.fresh.hidden = !this.unread;
    if (this.unread) this.fresh.textContent = `${number(this.unread)} new \u2191`;
    if (this.next !== null && !this.busy && last > this.rows.length - AHEAD) this.more();
  }

  async more() {
    // With a filter the server may look through a whole stretch and find nothing: an empty page with a next one.
    if (await this.page(this.next)) this.draw();
    if (!this.busy && this.queue.length) this.flush();
    this.changed();
  }

  row(summary) {
    const from = called(summary.from, summary.sender);
    const other = summary.recipients.filter((address) => address.toLowerCase() !== this.mailbox.address.toLowerCase());
    return h(`div.row${summary.seen ? "" : ".new"}`, { role: "option", id: `m-${summary.id}`, "data-id": summary.id, "aria-selected": "false" },
      face(from, summary.from?.address || summary.sender),
      h("span.line.who", words(from), !summary.seen && h("span.unseen", ", not read"),
        h("time.soft", { datetime: summary.received_at, title: fullTime(summary.received_at) }, shortTime(summary.received_at))),
      h("span.line.what", summary.subject ? words(summary.subject) : h("i.soft", "no subject"),
        summary.attachments > 0 && h("span.clip.soft", { title: many(summary.attachments, "attachment") }, icon("attach"), h("span.unseen", many(summary.attachments, "attachment")))),
      h("span.line.snippet.soft", other.length > 0 && h("span.to", words(`to ${other[0]}${other.length > 1 ? ` +${other.length - 1}` : ""}`)), words(summary.snippet)));
  }

  /** Make a message the active one, bring it into view, and open it if asked. */
  choose(id, open) {
    const at = this.rows.findIndex((summary) => summary.id === id);
    this.active = id;
    if (at >= 0) {
      const top = at * ROW, { scrollTop, clientHeight } = this.view;
      if (top < scrollTop) this.view.scrollTop = top;
      else if (top + ROW > scrollTop + clientHeight) this.view.scrollTop = top + ROW - clientHeight;
    }
    this.draw();
    if (open) this.open(id);
  }

  /** The message so many rows on from the active one. */
  step(by) {
    const at = this.rows.findIndex((summary) => summary.id === this.active);
    return this.rows[at < 0 ? 0 : Math.max(0, Math.min(this.rows.length - 1, at + by))]?.id ?? null;
  }
}
