
// Writing into the page. Whatever comes from the proxy goes in as text, and nothing else does.

const byId = (id) => document.getElementById(id);

// Characters that could move others about, or that nobody sees, are shown by their number.
const UNSEEN = /[\p{Cc}\p{Cf}\p{Co}\p{Cs}\u2028\u2029]/gu;

function plain(value) {
  const text = String(value ?? "");
  const cut = text.length > 2000 ? text.slice(0, 2000) + "…" : text;
  return cut.replace(UNSEEN, (c) => "\\u{" + c.codePointAt(0).toString(16) + "}");
}

function write(node, value) {
  const text = plain(value);
  if (node.textContent !== text) node.textContent = text;
}

const put = (id, value) => write(byId(id), value);

function make(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  for (const child of children) {
    node.append(child instanceof Node ? child : plain(child));
  }
  return node;
}

const pill = (kind, text) => make("span", "pill " + kind, text);

// A path of SMTP as people write addresses; the null sender stays what it is.
const bare = (path) => path.replace(/^<(.+)>$/, "$1");

// Rows of a table, each kept as long as its key is there: what is focused or selected stays so.
// A column says its text, or makes and updates a node of its own.
function fill(id, items, key, columns) {
  const body = byId(id);
  const titles = [...body.parentElement.tHead.rows[0].cells].map((title) => title.textContent);
  const known = body.rowsByKey || (body.rowsByKey = new Map());
  const wanted = new Set();
  let before = null;
  for (const item of items) {
    const name = key(item);
    if (wanted.has(name)) continue;
    wanted.add(name);
    let row = known.get(name);
    if (!row) {
      // On a phone rows are cards: each cell bears its title, and roles say what it was drawn as no more.
      row = document.createElement("tr");
      row.setAttribute("role", "row");
      columns.forEach((column, at) => {
        const node = make("td", column.className || "");
        node.setAttribute("role", "cell");
        node.dataset.title = titles[at];
        row.append(node);
      });
      known.set(name, row);
    }
    columns.forEach((column, at) => cell(row.children[at], column, item));
    const place = before ? before.nextSibling : body.firstChild;
    if (row !== place) body.insertBefore(row, place);
    before = row;
  }
  for (const [name, row] of known) {
    if (!wanted.has(name)) {
      row.remove();
      known.delete(name);
    }
  }
  const empty = body.closest(".card").querySelector(".empty");
  if (empty) empty.hidden = wanted.size > 0;
}

function cell(node, column, item) {
  if (column.text) return write(node, column.text(item));
  const shown = JSON.stringify(column.shows(item));
  if (node.shown === shown) return;
  node.shown = shown;
  node.replaceChildren(...[column.node(item)].flat());
}

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const some = new Intl.NumberFormat("en", { maximumFractionDigits: 1, minimumFractionDigits: 1 });

const count = (n) => (n === null || n === undefined ? "–" : whole.format(n));
const rate = (n) => (n === 0 ? "0" : n < 10 ? some.format(n) : whole.format(n));
const share = (part, all) => (all > 0 ? some.format((100 * part) / all) + " %" : "–");

function lasting(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return s + " s";
  if (s < 3600) return Math.floor(s / 60) + " min " + String(s % 60).padStart(2, "0") + " s";
  if (s > 3650 * 86400) return "over 10 years";
  if (s < 86400) return Math.floor(s / 3600) + " h " + String(Math.floor(s / 60) % 60).padStart(2, "0") + " min";
  return Math.floor(s / 86400) + " d " + String(Math.floor(s / 3600) % 24) + " h";
}

const latency = (seconds) =>
  seconds < 0.001 ? "< 1 ms" : seconds < 1 ? whole.format(1000 * seconds) + " ms" : some.format(seconds) + " s";
const clock = (seconds) => new Date(1000 * seconds).toLocaleTimeString("en-GB");
const day = (seconds) => (seconds === null ? "unknown" : new Date(1000 * seconds).toISOString().slice(0, 10));
