
// What runs: a stream of events, and questions every few seconds. Where there is no stream, questions alone.

const EVERY = 2000;
let streaming = false;
let seen = 0;

// The token was wanted for a change: that one may read without it says nothing then.
let wanted = false;

function demandToken(why, forChange) {
  wanted = Boolean(forChange);
  byId("gate").hidden = false;
  put("gate-why", why);
  if (forChange) byId("token").focus();
}

function linked(kind, text) {
  const link = byId("link");
  write(link, text);
  link.className = "pill " + kind;
}

// A fault of the connection, or a refusal of ours to be let in.
function failed(fault) {
  if (fault.status === 401) {
    linked("warn", "token needed");
    demandToken(token() ? "That token is not the right one." : "");
  } else if (fault.status === 403) {
    linked("bad", "not allowed");
    demandToken(fault.message);
  } else {
    linked("bad", seen ? "no answer since " + clock(seen) : "no answer");
  }
  document.body.classList.add("stale");
  byId("stale").hidden = !seen;
  put("stale", `Nothing new came since ${clock(seen)}: what is below is from then.`);
}

async function refresh() {
  const [status, sessions, clients] = await Promise.all([
    ask("GET", "api/v1/status"), ask("GET", "api/v1/sessions"), ask("GET", "api/v1/clients"),
  ]);
  seen = Date.now() / 1000;
  document.body.classList.remove("stale");
  byId("stale").hidden = true;
  if (!wanted) byId("gate").hidden = true;
  drawStatus(status);
  drawSessions(sessions);
  drawClients(clients, pardon);
  if (!streaming) await catchUp();
  linked(streaming ? "good" : "warn", streaming ? "live" : "every 2 s");
}

// What a stream would have told.
async function catchUp() {
  const [columns, told] = await Promise.all([ask("GET", "api/v1/history"), ask("GET", "api/v1/refusals")]);
  remember(columns);
  refusals = told.latest;
  if (!held) drawRefusals();
  drawRates();
}

async function pardon(client, button) {
  button.disabled = true;
  try {
    await ask("DELETE", "api/v1/clients/" + encodeURIComponent(client.split("/")[0]));
    drawClients(await ask("GET", "api/v1/clients"), pardon);
  } catch (fault) {
    button.disabled = false;
    if (fault.status === 401) demandToken("Lifting a ban needs the token.", true);
  }
}

// A link cannot send the token, and would show a refusal in place of the page.
async function saveDescription(event) {
  event.preventDefault();
  try {
    const text = JSON.stringify(await ask("GET", "api/v1/openapi.json"), null, 2);
    const link = make("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.download = "backstop-openapi.json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), EVERY);
  } catch (fault) {
    failed(fault);
  }
}

async function keepAsking() {
  for (;;) {
    try {
      await refresh();
    } catch (fault) {
      failed(fault);
    }
    await pause(document.hidden ? 5 * EVERY : EVERY);
  }
}

async function keepListening() {
  for (let wait = 1000; ; wait = Math.min(2 * wait, 30000)) {
    try {
      await catchUp();
      let fresh = [];
      await follow("api/v1/events?rates", () => {
        streaming = true;
        wait = 1000;
        linked("good", "live");
      }, (name, data) => {
        if (name === "refusal") fresh.unshift(data);
        if (name !== "rates") return;
        addSecond(data);
        if (fresh.length) addRefusals(fresh.splice(0));
        if (!document.hidden) drawRates();
      });
    } catch {
      // keepAsking says what is wrong, and goes on without a stream.
    }
    streaming = false;
    await pause(wait);
  }
}

// Who pauses: each leaves when its time is over, so that this never grows with the hours the page is open.
const wakers = new Set();
const pause = (time) => new Promise((over) => {
  const wake = () => {
    clearTimeout(timer);
    wakers.delete(wake);
    over();
  };
  const timer = setTimeout(wake, time);
  wakers.add(wake);
});

function now() {
  for (const wake of [...wakers]) wake();
}

function start() {
  startTester();
  watchPointer();
  drawRates();
  byId("gate").addEventListener("submit", (event) => {
    event.preventDefault();
    sessionStorage.setItem(TOKEN, byId("token").value.trim());
    byId("token").value = "";
    wanted = false;
    now();
  });
  byId("hold").addEventListener("click", () => {
    held = !held;
    byId("hold").setAttribute("aria-pressed", String(held));
    put("hold", held ? "Go on" : "Hold still");
    if (!held) drawRefusals();
  });
  byId("configuration").addEventListener("toggle", async () => {
    if (!byId("configuration").open) return;
    try {
      settings = (await ask("GET", "api/v1/configuration")).settings;
      drawSettings();
    } catch (fault) {
      failed(fault);
    }
  });
  byId("description").addEventListener("click", saveDescription);
  byId("filter").addEventListener("input", drawSettings);
  byId("written").addEventListener("change", drawSettings);
  document.addEventListener("visibilitychange", () => document.hidden || now());
  keepAsking();
  keepListening();
}

start();
