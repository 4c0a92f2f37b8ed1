// The REST API, as small as the inbox needs it. What goes wrong is thrown as a Problem: title and detail to show.

export class Problem extends Error {
  constructor(status, form) {
    super(form.title ?? `The server answered ${status}`);
    this.status = status;
    this.title = form.title ?? `The server answered ${status}`;
    this.detail = form.detail ?? "";
  }
}

/** The server did not answer at all. */
export class Away extends Error {}

async function ask(method, path, body, signal) {
  let answer;
  try {
    answer = await fetch(path, {
      method, signal,
      headers: body === undefined ? {} : { "Content-Type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Away();
  }
  if (!answer.ok) throw new Problem(answer.status, await answer.json().catch(() => ({})));
  return answer;
}

async function json(method, path, body, signal) {
  const answer = await ask(method, path, body, signal);
  try {
    return answer.status === 204 ? null : await answer.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Away();
  }
}

const at = encodeURIComponent;
const query = (values) => {
  const given = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) if (value !== undefined && value !== null && value !== "") given.set(name, value);
  return given.size ? `?${given}` : "";
};

export const session = () => json("GET", "/v1/session");
export const signIn = (token) => json("POST", "/v1/session", { token });
export const signOut = () => json("DELETE", "/v1/session");
export const version = () => json("GET", "/v1/version");
export const createMailbox = (wanted) => json("POST", "/v1/mailboxes", wanted);
export const deleteMailbox = (id) => json("DELETE", `/v1/mailboxes/${at(id)}`);
export const mailboxes = (after) => json("GET", `/v1/mailboxes${query({ after, limit: 1000 })}`);
export const messages = (mailbox, filter, before, signal) =>
  json("GET", `/v1/mailboxes/${at(mailbox)}/messages${query({ ...filter, before, order: "desc", limit: 100 })}`, undefined, signal);
export const markAll = (mailbox) => json("PATCH", `/v1/mailboxes/${at(mailbox)}/messages`, { all: true, seen: true });
export const deleteAll = (mailbox) => json("DELETE", `/v1/mailboxes/${at(mailbox)}/messages`, { all: true });
export const message = (id, signal) => json("GET", `/v1/messages/${at(id)}`, undefined, signal);
export const mark = (id, seen) => json("PATCH", `/v1/messages/${at(id)}`, { seen });
export const deleteMessage = (id) => json("DELETE", `/v1/messages/${at(id)}`);
export const headers = (id, signal) => json("GET", `/v1/messages/${at(id)}/headers`, undefined, signal);

export const htmlPath = (id, remote) => `/v1/messages/${at(id)}/html${remote ? "?remote=true" : ""}`;
export const textPath = (id) => `/v1/messages/${at(id)}/text`;
export const rawPath = (id) => `/v1/messages/${at(id)}/raw`;
export const partPath = (id, n) => `/v1/messages/${at(id)}/parts/${n}`;

/** The beginning of a message's raw content as text, and whether that is all of it. */
export async function rawStart(id, most, signal) {
  const answer = await ask("GET", rawPath(id), undefined, signal);
  const reader = answer.body.getReader();
  const decoder = new TextDecoder();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return { text: text + decoder.decode(), whole: true };
    text += decoder.decode(value, { stream: true });
    if (text.length >= most) {
      reader.cancel().catch(() => {});
      return { text: text.slice(0, most), whole: false };
    }
  }
}
