// Signing in and out. A token is typed once, exchanged for a cookie that no script can read, and not kept here.

import * as api from "./api.js";
import { byId, h, plain, say } from "./dom.js";

/** Ask for a token in place of everything else. signedIn() is called when the server has taken one. */
export function signIn(signedIn) {
  const field = h("input", { type: "password", id: "token", name: "token", autocomplete: "current-password", required: true, spellcheck: "false", maxlength: 200 });
  const wrong = h("p.bad", { role: "alert" });
  const send = h("button.primary", { type: "submit" }, "Sign in");
  const form = h("form.sign-in", h("label", { for: "token" }, "Token"), field, send, wrong);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    send.disabled = true;
    wrong.textContent = "";
    try {
      await api.signIn(field.value.trim());
      field.value = "";
      say("Signed in");
      signedIn();
    } catch (error) {
      if (error.status === 401) field.value = "";
      wrong.textContent = error.status === 401 ? "That token is unknown or has ended." : plain(error.title ?? "The server did not answer. Try again.");
      field.focus();
    }
    send.disabled = false;
  });
  document.body.append(h("main.rest.locked", h("img", { src: "icon.svg", alt: "", width: 48, height: 48 }),
    h("h1", "Sign in to mailfarm"), h("p.soft", "The token stays out of this browser: it is exchanged for a cookie that lasts seven days."), form));
  field.focus();
}

/** A way out, where there is a session. */
export async function offerSignOut(signedOut) {
  const session = await api.session();
  if (!session.signed_in || byId("sign-out")) return;
  byId("about").append(h("button.link", { id: "sign-out", title: session.name ? `Signed in with the token \u201c${plain(session.name)}\u201d` : "",
    onclick: async () => { try { await api.signOut(); } finally { signedOut(); } } }, "Sign out"));
}
