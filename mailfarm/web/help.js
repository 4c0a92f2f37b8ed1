// What to show when there is nothing to show, and the keys.

import { copyButton, dialog, h, icon } from "./dom.js";

/** Where to send mail, if the server says: {"smtp": {"capture": "127.0.0.1:1025"}}. */
export function hostAndPort(version) {
  const found = /^(?:\[?([^\]]*?)\]?:)?(\d+)$/.exec(String(version.smtp?.capture ?? ""));
  return found && { host: found[1] && !/^(0\.0\.0\.0|::)$/.test(found[1]) ? found[1] : location.hostname, port: Number(found[2]) };
}

export function howToSend(address, { host, port }) {
  const way = (name, text) => h("div.way", h("b", name, copyButton(text, `Copy ${name}`)), h("pre", { tabindex: "0" }, text));
  return [
    icon("mail"), h("h3", "Nothing here yet"),
    h("p", "Send a mail to ", h("code", address), " and it appears by itself."),
    way("swaks", `swaks --server ${host}:${port} --to ${address}`),
    way("Python", `import smtplib\nwith smtplib.SMTP("${host}", ${port}) as smtp:\n    smtp.sendmail("app@example.org", "${address}", "Subject: Hello\\r\\n\\r\\nIt works.")`),
    way("Settings", `SMTP host ${host}, port ${port}, no TLS, no password`),
  ];
}

export const emptyFilter = () => [h("h3", "No message matches"), h("p.soft", "The filter looks in subject and text. from:, to: and subject: look there alone.")];

export function keys() {
  const line = (names, what) => [h("dt", names.map((name) => h("kbd", name))), h("dd", what)];
  dialog("Keys", h("dl.keys", line(["j", "k"], "next, previous message"), line(["Enter"], "open it"), line(["Delete"], "delete it"), line(["u"], "mark unread"),
    line(["/"], "filter"), line(["n"], "new mailbox"), line(["Esc"], "back"), line(["?"], "this list")), [[".primary", "Close"]]);
}
