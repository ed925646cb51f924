
"use strict";
// Asking the proxy. Paths are relative, so that the page works behind a prefix too.

const TOKEN = "backstop-token";

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

function token() {
  return sessionStorage.getItem(TOKEN) || "";
}

function headers() {
  return token() ? { Authorization: "Bearer " + token() } : {};
}

async function ask(method, path) {
  const answer = await fetch(path, {
    method, headers: headers(), cache: "no-store", credentials: "omit", signal: AbortSignal.timeout(65000),
  });
  const text = await answer.text();
  let value = {};
  try {
    value = JSON.parse(text);
  } catch {
    throw new Refused(answer.status, "an answer that is no JSON (" + answer.status + ")");
  }
  if (!answer.ok) {
    throw new Refused(answer.status, String(value.error || answer.status));
  }
  return value;
}

const recipientPath = (address) => "api/v1/recipients/" + encodeURIComponent(address);

// Server-sent events by fetch, since EventSource can send no token. Ends when the stream does.
async function follow(path, opened, heard) {
  const gone = new AbortController();
  // The server says something every second; a connection that is silently dead is left.
  let watchdog = setTimeout(() => gone.abort(), 10000);
  try {
    const answer = await fetch(path, { headers: headers(), cache: "no-store", credentials: "omit", signal: gone.signal });
    if (!answer.ok || !answer.body) {
      throw new Refused(answer.status, "no events (" + answer.status + ")");
    }
    opened();
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      clearTimeout(watchdog);
      watchdog = setTimeout(() => gone.abort(), 10000);
      rest += value;
      const blocks = rest.split("\n\n");
      rest = blocks.pop();
      blocks.forEach((block) => dispatch(block, heard));
    }
  } finally {
    clearTimeout(watchdog);
    gone.abort();
  }
}

function dispatch(block, heard) {
  let name = "message", data = "";
  for (const line of block.split("\n")) {
    if (line.startsWith("event: ")) name = line.slice(7);
    if (line.startsWith("data: ")) data += line.slice(6);
  }
  if (data) heard(name, JSON.parse(data));
}
