
// The parts of the page, each drawn from an answer of the API.

function drawRates() {
  put("now-accepted", rate(recent("accepted", 5)));
  put("now-undetermined", rate(recent("undetermined", 5)));
  put("now-refused", rate(recent("refused", 5)));
  put("now-would", rate(recent("would_refuse", 5)));
  drawChart();
  put("hit-ratio", share(total("cached", 60), total("verified", 60)));
  drawLine("hit-line", (part) => (sumOf(part, "verified") ? sumOf(part, "cached") / sumOf(part, "verified") : null), 1);
  put("probe-rate", rate(recent("probes", 5)));
  drawLine("probe-line", (part) => sumOf(part, "probes") / part.length);
  const probes = total("probes", 60);
  put("probe-latency", probes ? latency(total("probe_seconds", 60) / probes) : "–");
  put("session-rate", rate(recent("sessions", 5)));
}

const STATES = { serving: "good", starting: "warn", draining: "warn" };

function drawStatus(status) {
  document.title = status.hostname + " – Backstop";
  put("hostname", status.hostname);
  put("version", status.version);
  put("uptime", lasting(status.uptime_seconds));
  const state = byId("state");
  write(state, status.state);
  state.className = "pill " + (STATES[status.state] || "quiet");
  const { cache, connections, clients, routes } = status;
  put("cache-good", count(cache.good));
  put("cache-bad", count(cache.bad));
  put("cache-deferred", count(cache.deferred));
  put("cache-room", count(cache.max_entries));
  put("cache-evictions", count(cache.evictions));
  const kept = cache.store ? (cache.store.fault ? "memory (store fails)" : "the store") : "memory";
  put("cache-store", kept + (cache.shared ? (cache.shared.up ? ", shared" : ", alone") : ""));
  put("open", count(connections.open));
  put("open-max", count(connections.max));
  byId("open-line").firstElementChild.style.width = Math.min(100, (100 * connections.open) / connections.max) + "%";
  put("in-transaction", count(Object.values(status.sessions).reduce((sum, s) => sum + s.transaction + s.data, 0)));
  put("clients-known", count(clients.known));
  put("clients-room", count(clients.max_clients));
  const probes = routes.map((route) => route.probes).filter(Boolean);
  const all = (value) => count(probes.reduce((sum, p) => sum + value(p), 0));
  put("probe-sessions", all((p) => p.sessions));
  put("probe-waiting", all((p) => p.waiting));
  put("probe-good", all((p) => p.asked.deliverable));
  put("probe-bad", all((p) => p.asked.undeliverable));
  put("probe-none", all((p) => p.asked.unknown));
  drawBackends(routes);
  drawDomains(routes);
  drawCertificates(status.certificates);
  drawProblems(status);
}

const REACH = { up: "good", down: "bad", untried: "quiet" };

// Each destination of a route once; one that takes mail and is asked too says both.
function destinationsOf(route) {
  const all = new Map();
  const add = (backend, use) => {
    const known = all.get(backend.address) || { ...backend, route: route.name, uses: [] };
    known.uses.push(use);
    all.set(backend.address, known);
  };
  route.backends.forEach((backend) => add(backend, "mail"));
  route.asked.forEach((backend) => add(backend, "questions"));
  return [...all.values()];
}

// Each address that a destination leads to; one that leads nowhere stands for itself.
function backendsOf(route) {
  const learnt = (address) => route.probes && route.probes.learnt.find((l) => l.address === address);
  return destinationsOf(route).flatMap((d) => {
    const { route: name, uses } = d;
    const nowhere = { ...d, latency_seconds: 0, name: d.address, learnt: learnt(d.address) };
    if (!d.members.length) return [nowhere];
    return d.members.map((m) => ({ ...m, route: name, uses, name: d.address, learnt: learnt(m.address) || learnt(d.address) }));
  });
}

function drawBackends(routes) {
  const used = (b) => (b.connections ? b.connections.in_use.probe + b.connections.in_use.delivery : 0);
  fill("backends", routes.flatMap(backendsOf), (b) => [b.route, b.name, b.address].join("\0"), [
    { text: (b) => b.route },
    { className: "code", text: (b) => (b.name === b.address ? b.address : `${b.address} (${b.name})`) },
    { text: (b) => b.uses.join(", ") },
    {
      shows: (b) => [b.state, b.resting_seconds],
      node: (b) => (b.resting_seconds ? pill("warn", `rests ${lasting(b.resting_seconds)}`) : pill(REACH[b.state] || "quiet", b.state)),
    },
    { className: "n", text: (b) => (b.latency_seconds > 0 ? latency(b.latency_seconds) : "–") },
    { className: "n", text: (b) => (b.learnt && b.learnt.seconds_per_answer > 0 ? latency(b.learnt.seconds_per_answer) : "–") },
    {
      shows: (b) => [used(b), b.connections],
      node: (b) => {
        if (!b.connections) return make("span", "muted", "–");
        const { limit, configured, refusals, pressure } = b.connections;
        const fillUp = make("span", "");
        fillUp.style.width = Math.min(100, (100 * used(b)) / Math.max(1, limit)) + "%";
        const less = limit < configured ? ` (of ${count(configured)} configured)` : "";
        const said = refusals ? `, said too many ${count(refusals)}×` : "";
        return [make("span", "use", fillUp), `${count(used(b))} of ${count(limit)}${less}${said}${pressure ? ", under pressure" : ""}`];
      },
    },
    { className: "n", text: (b) => (b.connections ? count(b.connections.waiting.probe + b.connections.waiting.delivery) : "–") },
    { className: "n", text: (b) => (b.learnt ? `${count(b.learnt.refusals_per_session)} refusals, ${count(b.learnt.recipients_per_transaction)} rcpt` : "–") },
    { text: (b) => b.tls || "none" },
    { className: "wide", text: (b) => b.last_fault || "–" },
  ]);
}

const TRUTH = { truthful: "good", blind: "bad" };

function drawDomains(routes) {
  const all = routes.flatMap((route) => route.domains_known.map((domain) => ({ ...domain, route })));
  const truth = (name) => ({ shows: (d) => d[name], node: (d) => pill(TRUTH[d[name]] || "quiet", d[name]) });
  fill("domains", all, (d) => d.route.name + "\0" + d.name, [
    { text: (d) => d.name },
    { text: (d) => d.route.name },
    { text: (d) => d.route.mode },
    truth("rcpt"),
    truth("data"),
    truth("delivery"),
    { shows: (d) => d.believed, node: (d) => (d.believed ? pill("good", "believed") : pill("bad", "not believed")) },
    { className: "n", text: (d) => count(d.good) },
  ]);
}

const left = (certificate) => certificate.not_after - Date.now() / 1000;

function drawCertificates(certificates) {
  fill("certificates", certificates, (c) => c.chain, [
    { className: "code", text: (c) => c.chain },
    { text: (c) => day(c.not_before) },
    { text: (c) => day(c.not_after) },
    {
      shows: (c) => [c.fault, c.not_after && lasting(left(c))],
      node: (c) => {
        if (c.fault) return pill("bad", c.fault.startsWith("has expired") ? "expired" : "not yet valid");
        if (c.not_after === null) return pill("quiet", "unknown");
        return pill(left(c) < 14 * 86400 ? "warn" : "good", lasting(left(c)));
      },
    },
  ]);
}

// What an operator should look at, the worst first.
function problemsOf(status) {
  const all = [];
  // What goes on counting is apart, as `age`: the rest stays as it was drawn, so that it can be selected.
  const say = (kind, name, text, more, age) => all.push({ kind, name, text, more: more || "", age: age || "" });
  for (const route of status.routes) {
    const destinations = destinationsOf(route);
    destinations.filter((d) => d.dns && d.dns.fault).forEach((d) =>
      say("warn", "dns", `${d.address} (${route.name}) cannot be looked up${d.members.length ? "; what was known last is used" : ""}.`, d.dns.fault));
    const backends = backendsOf(route);
    const down = backends.filter((b) => b.state === "down");
    const without = (use) => {
      const used = backends.filter((b) => b.uses.includes(use));
      return used.length > 0 && used.every((b) => b.state === "down");
    };
    if (without("mail")) say("bad", "down", `No backend of ${route.name} can be reached; its mail is answered 451.`, down[0].last_fault);
    else if (without("questions")) say("bad", "down", `Nobody who knows the recipients of ${route.name} can be reached; those that are not remembered are answered 451.`, down[0].last_fault);
    else down.forEach((b) => say("warn", "down", `${b.address} (${route.name}) cannot be reached.`, b.last_fault));
    route.alarms.forEach((a) => say(a.kind === "relay-untested" ? "warn" : "bad", a.kind, `${route.name} ${a.about}: ${a.advice}`, a.detail, `for ${lasting(a.seconds)}: `));
    route.one_recipient.forEach((m) => say("warn", "one by one", `Recipients of ${m.domain} are asked to come alone: the server refuses whole messages for one of them.`, "", `for ${lasting(m.remaining_seconds)} more`));
  }
  for (const c of status.certificates) {
    if (c.fault) say("bad", "certificate", `${c.chain} ${c.fault}`);
    else if (c.not_after !== null && left(c) < 14 * 86400) say("warn", "certificate", `${c.chain} expires in ${lasting(left(c))}.`);
  }
  if (status.cache.store && status.cache.store.fault) say("bad", "store", "The store cannot be written; a restart will be cold.", status.cache.store.fault);
  const { shared } = status.cache;
  if (shared && shared.fault) say("warn", "shared", "This instance shares nothing now: it remembers, asks and counts for itself.", `${shared.address}, ${shared.fault}`, `for ${lasting(shared.seconds)}: `);
  if (status.connections.open >= 0.9 * status.connections.max) say("warn", "connections", `${count(status.connections.open)} of ${count(status.connections.max)} connections are open.`);
  return all.sort((a, b) => (a.kind === b.kind ? 0 : a.kind === "bad" ? -1 : 1));
}

const drawnProblems = new Map();

function drawProblems(status) {
  const problems = new Map(problemsOf(status).map((p) => [[p.kind, p.name, p.text, p.more].join("\0"), p]));
  byId("attention").hidden = problems.size === 0;
  for (const [key, { item }] of drawnProblems) {
    if (problems.has(key)) continue;
    item.remove();
    drawnProblems.delete(key);
  }
  let place = byId("problems").firstChild;
  for (const [key, p] of problems) {
    if (!drawnProblems.has(key)) {
      const age = make("span");
      const item = make("li", "", pill(p.kind, p.name), make("span", "", p.text));
      if (p.more || p.age) item.append(make("small", "", age, make("span", "", p.more)));
      drawnProblems.set(key, { item, age });
    }
    const { item, age } = drawnProblems.get(key);
    write(age, p.age);
    if (item === place) place = place.nextSibling;
    else byId("problems").insertBefore(item, place);
  }
}

function drawSessions(list) {
  put("sessions-more", list.open > list.sessions.length ? `${count(list.sessions.length)} of ${count(list.open)}, the oldest` : "");
  const refused = (r) => r.unknown + r.undetermined + r.relay_denied + r.limited + r.refused;
  fill("sessions", list.sessions, (s) => s.session, [
    { className: "code", text: (s) => s.client },
    { className: "text", text: (s) => s.helo || "–" },
    { text: (s) => s.state },
    { className: "n", text: (s) => lasting(s.seconds) },
    { className: "text", text: (s) => (s.from ? bare(s.from) : "–") },
    { className: "n", text: (s) => count(s.recipients.accepted) },
    { className: "n", text: (s) => count(refused(s.recipients)) },
    { className: "n", text: (s) => count(s.messages) },
    { className: "code", text: (s) => s.backend || "–" },
    { text: (s) => s.tls || "none" },
    { className: "code", text: (s) => s.session },
  ]);
}

let refusals = [];
let held = false;

function addRefusals(some) {
  refusals = some.concat(refusals).slice(0, 100);
  if (!held) drawRefusals();
}

function drawRefusals() {
  fill("refusals", refusals, (r) => r.session + "\0" + r.time + "\0" + r.recipient, [
    { text: (r) => clock(r.time) },
    { className: "code", text: (r) => r.client },
    {
      className: "text",
      shows: (r) => [r.recipient, r.redacted],
      node: (r) => {
        // Nothing is remembered under what stands in its place.
        if (r.redacted) {
          const hidden = make("span", "", bare(r.recipient));
          hidden.title = "Not told, as log.redact says: type the address above to look it up";
          return hidden;
        }
        const button = make("button", "link", bare(r.recipient));
        button.type = "button";
        button.title = "Why this address?";
        return button;
      },
    },
    { shows: (r) => [r.cause, r.shadow], node: (r) => (r.shadow ? [pill("quiet", "shadow"), " " + plain(r.cause)] : plain(r.cause)) },
    { text: (r) => r.source },
    { className: "wide", text: (r) => r.reply },
    { text: (r) => r.route || "none" },
    { className: "code", text: (r) => r.session },
  ]);
}

function drawClients(list, pardon) {
  put("bans", count(list.bans));
  const all = new Map();
  list.banned.concat(list.clients).forEach((c) => all.has(c.client) || all.set(c.client, c));
  const guessing = [...all.values()].filter((c) => c.unknown > 0 || c.ban);
  fill("clients", guessing, (c) => c.client, [
    { className: "code", text: (c) => c.client },
    { className: "n", text: (c) => count(c.unknown) },
    { className: "n", text: (c) => count(c.asked) },
    { text: (c) => (c.ban ? `${lasting(c.ban.remaining_seconds)} (${count(c.ban.unknown)} of ${count(c.ban.asked)} were unknown)` : "–") },
    {
      className: "n",
      shows: (c) => Boolean(c.ban),
      node: (c) => {
        if (!c.ban) return "";
        const button = make("button", "plain small", "Lift ban");
        button.setAttribute("aria-label", "Lift the ban of " + plain(c.client));
        button.addEventListener("click", () => pardon(c.client, button));
        return button;
      },
    },
  ]);
}

let settings = [];

function drawSettings() {
  const wanted = byId("filter").value.toLowerCase(), written = byId("written").checked;
  const fits = (s) => (!written || s.origin) && (s.key + " " + s.value).toLowerCase().includes(wanted);
  fill("settings", settings.filter(fits), (s) => s.key, [
    { className: "code", text: (s) => s.key },
    { className: "code text", text: (s) => s.value },
    { text: (s) => s.origin || "default" },
  ]);
}
