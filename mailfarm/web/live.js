// One WebSocket for the whole page: which mailboxes there are, and every change of the mailbox that is shown.
//
// The page lists first and subscribes from the list's cursor, so nothing falls between. After a break it subscribes
// from the last change it has seen; what happened meanwhile comes then. "resync" means that is no longer kept.

const FIRST_WAIT = 400, LONGEST_WAIT = 10_000, PONG_WITHIN = 10_000;

export class Live {
  /** tell(event) hears each frame, "up" when a connection begins and "down" {wait} when it ended. */
  constructor(tell) {
    this.tell = tell;
    this.wanted = null;
    this.tries = 0;
    this.asked = 0;
    this.timers = {};
    addEventListener("online", () => this.now());
    document.addEventListener("visibilitychange", () => { if (!document.hidden) this.now(); });
    this.connect();
  }

  connect() {
    clearTimeout(this.timers.retry);
    this.timers.retry = null;
    const socket = this.socket = new WebSocket(`${location.origin.replace(/^http/, "ws")}/v1/events`);
    this.ready = this.up = false;
    socket.onmessage = (frame) => { if (socket === this.socket) this.hear(JSON.parse(frame.data)); };
    socket.onclose = () => { if (socket === this.socket) this.lost(); };
  }

  /** Give up a connection that is silent, without waiting for its end: that may take minutes. */
  drop() {
    const { socket } = this;
    this.socket = null;
    socket.close();
    this.lost();
  }

  /** Try again at once, if the next try is still ahead. */
  now() {
    if (this.timers.retry) this.connect();
  }

  /** No connection any more. */
  end() {
    const { socket } = this;
    for (const timer of Object.values(this.timers)) clearTimeout(timer);
    this.timers = {};
    this.socket = this.wanted = null;
    this.ready = false;
    if (socket?.readyState === WebSocket.CONNECTING) socket.onopen = () => socket.close(); // or the browser complains
    else socket?.close();
  }

  lost() {
    clearInterval(this.timers.beat);
    clearTimeout(this.timers.pong);
    const wait = Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** this.tries++) * (0.75 + Math.random() / 2);
    this.ready = false;
    this.timers.retry = setTimeout(() => this.connect(), wait);
    this.tell({ type: "down", wait });
  }

  hear(frame) {
    clearTimeout(this.timers.pong);
    if (frame.type === "hello") {
      this.ready = true;
      this.tries = 0;
      this.asked = 0;
      const beat = Math.max(5, frame.heartbeat || 25) * 1000;
      clearInterval(this.timers.beat);
      this.timers.beat = setInterval(() => {
        this.send({ op: "ping" });
        clearTimeout(this.timers.pong);
        this.timers.pong = setTimeout(() => this.drop(), PONG_WITHIN);
      }, beat);
      this.send({ op: "watch" });
      if (this.wanted) this.ask();
      return;
    }
    // Not before the server listens: who lists the mailboxes earlier may miss one that goes in between.
    // Said once more later on, it means that hints may have been lost: list them again.
    if (frame.type === "watching" || (!this.up && frame.op === "watch")) {
      this.up = true;
      this.tell({ type: "up" });
    }
    if (/^(pong|watching|unsubscribed)$/.test(frame.type)) return;
    const answers = frame.type === "subscribed" || frame.type === "resync" || (frame.type === "problem" && frame.op === "subscribe");
    if (answers && this.asked) this.asked--;
    // What was under way for an earlier filter, before this subscription was confirmed.
    if (frame.seq !== undefined && (this.asked > 0 || frame.mailbox !== this.wanted?.mailbox)) return;
    if (this.wanted && this.wanted.mailbox === frame.mailbox && frame.seq > this.wanted.after) this.wanted.after = frame.seq;
    this.tell(frame);
  }

  send(frame) {
    if (this.ready && this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(frame));
  }

  ask() {
    const { mailbox, after, filter } = this.wanted;
    if (!this.ready) return;
    this.asked++;
    this.send({ op: "subscribe", mailbox, after, ...(Object.keys(filter).length ? { filter } : {}) });
  }

  /** Follow one mailbox after a change number, in place of the one followed before. */
  follow(mailbox, after, filter) {
    this.leave();
    this.wanted = { mailbox, after, filter };
    this.ask();
  }

  leave() {
    if (this.wanted) this.send({ op: "unsubscribe", mailbox: this.wanted.mailbox });
    this.wanted = null;
  }
}
