// The mailboxes on the left: the oldest one (where everything without a mailbox of its own goes), then the newest first.

import * as api from "./api.js";
import { byId, confirm, copyButton, dialog, h, iconButton, many, number, plain, words } from "./dom.js";

const MOST_SHOWN = 300, FIND_FROM = 10, MOST_PAGES = 20;

export class Boxes {
  constructor({ fail, gone }) {
    Object.assign(this, { fail, gone });
    this.all = new Map();
    this.items = new Map();
    this.current = null;
    this.default = "inbox@mailfarm.test"; // until the server says
    this.list = byId("boxes");
    this.find = byId("find");
    this.find.addEventListener("input", () => this.draw());
    byId("create").addEventListener("click", () => this.create());
  }

  async load() {
    const all = new Map();
    let next = "", pages = 0;
    do {
      const page = await api.mailboxes(next);
      for (const mailbox of page.mailboxes) all.set(mailbox.id, mailbox);
      next = page.next;
    } while (next && ++pages < MOST_PAGES);
    this.all = all;
    this.draw();
  }

  put(mailbox) {
    this.all.set(mailbox.id, mailbox);
    this.soon();
  }

  remove(id) {
    if (!this.all.delete(id)) return;
    this.soon();
    this.gone(id);
  }

  sorted() {
    const [oldest, ...others] = [...this.all.values()].sort((a, b) => (a.id < b.id ? -1 : 1));
    return oldest ? [oldest, ...others.reverse()] : [];
  }

  soon() {
    this.timer ??= setTimeout(() => { this.timer = null; this.draw(); }, 50);
  }

  draw() {
    byId("find-bar").hidden = this.all.size < FIND_FROM;
    const wanted = byId("find-bar").hidden ? "" : this.find.value.trim().toLowerCase();
    const found = this.sorted().filter((mailbox) => mailbox.address.toLowerCase().includes(wanted));
    const items = found.slice(0, MOST_SHOWN).map((mailbox) => this.item(mailbox));
    // Elements stay while they can: one that is replaced between press and release would not be clicked.
    const shown = this.list.children;
    if (items.length !== shown.length || items.some((item, at) => item !== shown[at])) this.list.replaceChildren(...items);
    this.items = new Map(items.map((item) => [item.dataset.id, item]));
    const more = found.length - items.length;
    byId("more-boxes").textContent = more ? `and ${number(more)} more: find one by its address` : !found.length && wanted ? "No address has that in it." : "";
    const unseen = this.all.get(this.current)?.unseen;
    document.title = unseen ? `(${number(unseen)}) mailfarm` : "mailfarm";
  }

  item(mailbox) {
    const made = this.items.get(mailbox.id) ?? this.make(mailbox);
    const [link, count] = [made.firstChild, made.querySelector(".count")];
    const current = mailbox.id === this.current;
    made.classList.toggle("current", current);
    if (current) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
    link.setAttribute("aria-label", `${plain(mailbox.address)}, ${many(mailbox.unseen, "unread message")}`);
    count.textContent = number(mailbox.unseen);
    count.hidden = !mailbox.unseen;
    made.querySelector(".tools").lastChild.hidden = mailbox.address === this.default;
    return made;
  }

  make(mailbox) {
    const [local, domain] = split(mailbox.address);
    return h("li.box", { "data-id": mailbox.id },
      h("a", { href: `#/mailboxes/${mailbox.id}`, "data-id": mailbox.id, title: plain(mailbox.address) },
        h("span.address", words(local, "b"), words(domain, "span", { class: "soft" })), h("span.count")),
      h("span.tools",
        copyButton(mailbox.address, "Copy address"),
        iconButton("trash", `Delete mailbox ${plain(mailbox.address)}`, () => this.delete(this.all.get(mailbox.id) ?? mailbox))));
  }

  async delete(mailbox) {
    if (!await confirm("Delete this mailbox?", `${plain(mailbox.address)} and ${many(mailbox.messages, "message")} in it go for good.`, "Delete mailbox")) return;
    try {
      await api.deleteMailbox(mailbox.id);
      this.remove(mailbox.id);
    } catch (error) { this.fail(error); }
  }

  create() {
    const address = h("input", { type: "text", placeholder: "leave empty for a new one", autocomplete: "off", spellcheck: "false", autofocus: true });
    const life = h("select", h("option", { value: "" }, "until deleted"), h("option", { value: "3600" }, "1 hour"), h("option", { value: "86400" }, "1 day"), h("option", { value: "604800" }, "1 week"));
    const wrong = h("p.wrong", { role: "alert" });
    const make = h("button.primary", { type: "submit" }, "Create");
    const form = h("form",
      h("label", "Address", address), h("label", "Keep it", life), wrong,
      h("div.actions", h("button", { onclick: () => box.close() }, "Cancel"), make));
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      make.disabled = true;
      try {
        const wanted = address.value.trim();
        const made = await api.createMailbox({ ...(wanted && { address: wanted }), ...(life.value && { lifetime: Number(life.value) }) });
        const { smtp, ...mailbox } = made;
        this.put(mailbox);
        box.close();
        location.hash = `#/mailboxes/${mailbox.id}`;
        if (smtp) this.welcome(mailbox, smtp);
      } catch (error) {
        wrong.textContent = error.title ? [error.title, error.detail].filter(Boolean).map(plain).join(": ") : "The server is away.";
        make.disabled = false;
      }
    });
    const box = dialog("New mailbox", [form]);
  }

  welcome(mailbox, smtp) {
    const line = (name, value) => [h("dt", name), h("dd", h("code", plain(value)), copyButton(value, `Copy ${name.toLowerCase()}`))];
    dialog("Your new mailbox", [
      h("dl.facts", line("Address", mailbox.address), line("SMTP user", smtp.user), line("SMTP password", smtp.password)),
      h("p.soft", "The password is shown this once. Mail sent with it goes to this mailbox, whoever it is addressed to."),
    ], [[".primary", "Done"]]);
  }
}

const split = (address) => {
  const at = address.lastIndexOf("@");
  return at < 0 ? [address, ""] : [address.slice(0, at), address.slice(at)];
};
