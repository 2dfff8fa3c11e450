// SPDX-License-Identifier: Apache-2.0
// The connection to the server: pictures and statuses come, acknowledgements and changes go.

const LONGEST_WAIT = 8000;

export class Link {
  // on: {hello, status, picture, state}; picture may return a promise, and the next one waits for it.
  constructor(on) {
    this.on = on;
    this.paused = false;
    this.wait = 500;
    this.newest = null;
    this.busy = false;
    document.addEventListener("visibilitychange", () => (document.hidden ? this.close() : this.open()));
    this.open();
  }

  open() {
    clearTimeout(this.timer);
    if (this.socket || document.hidden) return;
    const socket = new WebSocket(location.origin.replace(/^http/, "ws") + "/ws");
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      this.wait = 500;
      this.newest = null;
      this.pause(this.paused);
      this.on.state("open");
    };
    socket.onmessage = (event) => this.receive(event.data);
    socket.onclose = () => {
      if (this.socket !== socket) return;
      this.socket = null;
      this.lost(socket);
    };
    this.socket = this.latest = socket;
  }

  close() {
    const socket = this.socket;
    this.socket = null;
    clearTimeout(this.timer);
    socket?.close();
  }

  async lost(socket) {
    let denied = false;
    let reason = "";
    try {
      const answer = await fetch("/status");
      denied = answer.status === 401;
      if (!answer.ok) reason = (await answer.json()).error;
    } catch {
      // no server: the state says so
    }
    if (this.latest !== socket) return; // the page was looked at meanwhile, and another connection tried
    // Asking again would count as another wrong token.
    if (denied) return this.on.state("denied");
    this.on.state("lost", reason);
    this.timer = setTimeout(() => this.open(), this.wait * (0.75 + Math.random() / 2));
    this.wait = Math.min(2 * this.wait, LONGEST_WAIT);
  }

  receive(data) {
    if (typeof data === "string") {
      const told = JSON.parse(data);
      if (told.hello) this.on.hello(told.hello, told.history ?? []);
      if (told.status) this.on.status(told.status, told.sample, told.viewer_latency_ms);
      return;
    }
    this.newest = data;
    this.show();
  }

  // One picture at a time; of those that come meanwhile, the newest.
  async show() {
    if (this.busy) return;
    this.busy = true;
    while (this.newest) {
      const data = this.newest;
      this.newest = null;
      try {
        const number = await this.on.picture(data);
        this.send({ drawn: number });
      } catch (error) {
        console.error(error);
      }
    }
    this.busy = false;
  }

  pause(paused) {
    this.paused = paused;
    this.send({ paused });
  }

  send(message) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }
}

// Change something on the server. Throws an Error with one line for people.
export async function change(wanted) {
  let answer;
  try {
    answer = await fetch("/control", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(wanted),
    });
  } catch {
    throw new Error("The server does not answer.");
  }
  if (answer.ok) return;
  const { error, hint } = await answer.json().catch(() => ({ error: `The server answers ${answer.status}.` }));
  throw new Error(hint ? `${error}: ${hint}` : error);
}
