
// The last quarter of an hour: what is kept, and how it is drawn.

const KEPT = 900;
const SERIES = ["accepted", "undetermined", "refused", "would_refuse"];
const COLOURS = { accepted: "accepted", undetermined: "undetermined", refused: "refused", would_refuse: "would" };
const SVG = "http://www.w3.org/2000/svg";

// One object for each second, the oldest first.
let history = [];

function remember(columns) {
  const names = Object.keys(columns).filter((name) => Array.isArray(columns[name]));
  history = columns.time.map((_, at) => Object.fromEntries(names.map((name) => [name, columns[name][at]])));
}

function addSecond(rates) {
  const last = history[history.length - 1];
  if (last && rates.time < last.time) return;
  history.push(rates);
  if (history.length > KEPT) history.splice(0, history.length - KEPT);
}

// The mean of the last seconds.
function recent(name, seconds) {
  const part = history.slice(-seconds);
  return part.length ? part.reduce((sum, one) => sum + one[name], 0) / part.length : 0;
}

const total = (name, seconds) => history.slice(-seconds).reduce((sum, one) => sum + one[name], 0);

function svg(tag, attributes) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

// Columns of so many seconds that end now; what was before the start is empty.
function columns(step) {
  const all = Math.floor(KEPT / step);
  const now = history.length ? history[history.length - 1].time : 0;
  const end = Math.ceil((now + 1) / step) * step;
  const sums = Array.from({ length: all }, () => ({ accepted: 0, undetermined: 0, refused: 0, would_refuse: 0, seconds: 0 }));
  for (const one of history) {
    const at = all - 1 - Math.floor((end - 1 - one.time) / step);
    if (at < 0 || at >= all) continue;
    SERIES.forEach((name) => (sums[at][name] += one[name]));
    sums[at].seconds += 1;
  }
  return sums.map((sum, at) => {
    const mean = { time: end - (all - at) * step, seconds: sum.seconds };
    SERIES.forEach((name) => (mean[name] = sum.seconds ? sum[name] / sum.seconds : 0));
    return mean;
  });
}

// A round number not below n.
function roundUp(n) {
  if (n <= 1) return 1;
  const power = 10 ** Math.floor(Math.log10(n));
  return [1, 1.2, 1.6, 2, 3, 4, 5, 6, 8, 10].map((f) => f * power).find((f) => f >= n);
}

function drawChart() {
  const box = byId("chart");
  const width = box.clientWidth, height = box.clientHeight;
  if (!width) return;
  const left = 46, bottom = 20, top = 8;
  const drawn = columns(width > 700 ? 5 : 15);
  const most = roundUp(Math.max(0, ...drawn.map((c) => SERIES.reduce((sum, name) => sum + c[name], 0))));
  const y = (n) => height - bottom - (n / most) * (height - bottom - top);
  const step = (width - left) / drawn.length;
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  for (const n of [0, most / 2, most]) {
    picture.append(svg("line", { x1: left, x2: width, y1: y(n), y2: y(n) }));
    const label = svg("text", { x: left - 8, y: y(n) + 4, "text-anchor": "end" });
    label.textContent = Number.isInteger(n) ? whole.format(n) : some.format(n);
    picture.append(label);
  }
  for (const minutes of [15, 10, 5, 0]) {
    const at = left + (width - left) * (1 - minutes / 15);
    const label = svg("text", { x: at, y: height - 4, "text-anchor": minutes === 15 ? "start" : minutes === 0 ? "end" : "middle" });
    const unit = width > 500 ? " min ago" : " min";
    label.textContent = minutes ? minutes + unit : "now";
    picture.append(label);
  }
  const heights = drawn.map(() => 0);
  for (const name of SERIES) {
    let path = "";
    drawn.forEach((c, at) => {
      if (!c[name]) return;
      const from = y(heights[at]), to = y((heights[at] += c[name]));
      path += `M${(left + at * step).toFixed(2)} ${from.toFixed(2)}h${Math.max(step - 1, 1).toFixed(2)}V${to.toFixed(2)}h${(-Math.max(step - 1, 1)).toFixed(2)}z`;
    });
    if (path) picture.append(svg("path", { class: "fill " + COLOURS[name], d: path }));
  }
  const tip = box.querySelector(".tip") || make("div", "tip");
  tip.hidden = !box.pointed;
  box.replaceChildren(picture, tip);
  box.drawn = { columns: drawn, left, step, width };
  if (box.pointed) point(box, box.pointed);
  const told = SERIES.map((name) => `${name.replace("_", " ")} ${rate(recent(name, 60))}`).join(", ");
  box.setAttribute("aria-label", `Recipients per second; mean of the last minute: ${told}`);
}

// What a column holds, beside the pointer.
function point(box, x) {
  const { columns: drawn, left, step, width } = box.drawn;
  const at = Math.floor((x - left) / step);
  const tip = box.querySelector(".tip");
  if (at < 0 || at >= drawn.length || !drawn[at].seconds) {
    tip.hidden = true;
    return;
  }
  const list = make("dl", "");
  SERIES.forEach((name) => list.append(make("dt", "", name.replace("_", " ")), make("dd", "", rate(drawn[at][name]))));
  tip.replaceChildren(make("strong", "", clock(drawn[at].time)), list);
  tip.hidden = false;
  tip.style.left = Math.min(Math.max(x + 12, 0), width - 170) + "px";
}

function watchPointer() {
  const box = byId("chart");
  box.addEventListener("pointermove", (event) => {
    box.pointed = event.clientX - box.getBoundingClientRect().left;
    if (box.drawn) point(box, box.pointed);
  });
  box.addEventListener("pointerleave", () => {
    box.pointed = 0;
    const tip = box.querySelector(".tip");
    if (tip) tip.hidden = true;
  });
  new ResizeObserver(drawChart).observe(box);
}

// A line of what `value` makes of each 15 seconds; gaps where there is nothing to tell.
function drawLine(id, value, ceiling) {
  const points = [];
  for (let from = 0; from < KEPT; from += 15) {
    const part = history.slice(Math.max(0, history.length - KEPT + from), Math.max(0, history.length - KEPT + from + 15));
    points.push(part.length ? value(part) : null);
  }
  const most = ceiling || Math.max(...points.map((p) => p || 0)) || 1;
  let path = "", drawing = false;
  points.forEach((p, at) => {
    if (p === null) return (drawing = false);
    path += `${drawing ? "L" : "M"}${at} ${(30 - (p / most) * 28).toFixed(2)}`;
    drawing = true;
  });
  const picture = svg("svg", { viewBox: `0 0 ${points.length - 1} 32`, preserveAspectRatio: "none" });
  picture.append(svg("path", { d: path }));
  byId(id).replaceChildren(picture);
}

const sumOf = (part, name) => part.reduce((sum, one) => sum + one[name], 0);
