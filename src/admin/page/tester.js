
// Why was this address refused, what is remembered of it, what does the store say now.

const ACTIONS = { forward: "good", refuse: "bad", ask: "quiet" };
const VERDICTS = { deliverable: "good", unknown: "bad", undetermined: "warn" };
const MEANINGS = {
  forward: "It would be given to the delivery port, whose word counts.",
  refuse: "It would be refused.",
  ask: "The mail store would be asked first.",
};

function facts(pairs) {
  const list = make("dl", "facts-list");
  for (const [name, value] of pairs) {
    if (value !== null && value !== undefined && value !== "") list.append(make("dt", "", name), make("dd", "", value));
  }
  return list;
}

function talk(lines) {
  const box = make("pre", "talk");
  box.tabIndex = 0;
  box.setAttribute("aria-label", "The last conversation with the mail store");
  lines.forEach((line) => {
    const kind = line.startsWith(">") ? "ours" : line.startsWith("<") ? "" : "note";
    box.append(make("span", kind, line), "\n");
  });
  return box;
}

function explained(value) {
  const { answer, cache, domain, last_probe: last } = value;
  const verdict = make("p", "verdict");
  if (value.verdict) verdict.append(pill(VERDICTS[value.verdict] || "quiet", value.verdict), make("span", "muted", "the store said just now"));
  else verdict.append(pill(ACTIONS[answer.action] || "quiet", answer.action), make("span", "", MEANINGS[answer.action] || ""));
  const remembered = cache
    ? `${cache.verdict}${cache.cause ? " (" + cache.cause + ")" : ""}, ${lasting(cache.age_seconds)} old, ` +
      (cache.remaining_seconds ? `for ${lasting(cache.remaining_seconds)} more` : "past its lifetime")
    : "nothing";
  const known = domain
    ? `${domain.name}: at RCPT ${domain.rcpt}, at DATA ${domain.data}, delivery port ${domain.delivery}, refusals ${domain.believed ? "believed" : "not believed"}`
    : "";
  const list = facts([
    ["Address", value.address],
    ["Route", `${value.route} (${value.mode})`],
    ["A client would hear", answer.reply || (answer.action === "forward" ? "what the delivery port says" : "what the store says")],
    ["Decided by", answer.source],
    ["Note", answer.note],
    ["Cause", value.cause],
    ["On a list", value.listed],
    ["Remembered", remembered],
    ["In its words", (cache && cache.reply) || value.reply],
    ["Domain", known],
    ["Last asked", last ? `${lasting(last.age_seconds)} ago` : "not since the start"],
  ]);
  const parts = [verdict, list];
  const said = value.conversation && value.conversation.length ? value.conversation : last && last.conversation;
  if (said && said.length) parts.push(talk(said));
  return parts;
}

// Only the last request that was made may answer.
let asked = 0;

async function test(method, path, draw) {
  const mine = ++asked;
  const buttons = document.querySelectorAll("#ask button");
  buttons.forEach((button) => (button.disabled = true));
  byId("answer").replaceChildren(make("p", "muted", "asking…"));
  try {
    const value = await ask(method, path);
    if (mine === asked) byId("answer").replaceChildren(...draw(value));
  } catch (fault) {
    if (fault.status === 401) demandToken(fault.message, method !== "GET");
    if (mine === asked) byId("answer").replaceChildren(make("p", "notice bad", fault.message));
  } finally {
    if (mine === asked) buttons.forEach((button) => (button.disabled = false));
  }
}

function startTester() {
  const address = () => byId("address").value.trim().replace(/^<(.*)>$/, "$1");
  const lookUp = () => test("GET", recipientPath(address()), explained);
  const given = (act) => () => (byId("ask").reportValidity() ? act() : undefined);
  byId("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    lookUp();
  });
  byId("probe").addEventListener("click", given(() => test("POST", recipientPath(address()) + "/probe", explained)));
  byId("forget").addEventListener("click", given(() =>
    test("DELETE", recipientPath(address()), (value) => [make("p", "verdict", pill("good", "forgotten"), make("strong", "", value.forgotten))])));
  // From a refused recipient to why.
  byId("refusals").addEventListener("click", (event) => {
    const recipient = event.target.closest("button.link");
    if (!recipient) return;
    byId("address").value = recipient.textContent;
    byId("tester").focus();
    byId("tester").scrollIntoView();
    lookUp();
  });
}
