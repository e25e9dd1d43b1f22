"use strict";
// Draws the report from the values in #data. Names come from users: text nodes only, no markup.
const data = JSON.parse(document.getElementById("data").textContent);
const points = new Map(data.points.map((point) => [point.number, point]));
const SVG = "http://www.w3.org/2000/svg";
const SLOWEST = 15, MOST_ROWS = 20, LIMIT = "largest drop allowed";
let shown = data.chosen ?? data.points[0]?.number ?? null;
let quality = 0;

const byId = (id) => document.getElementById(id);
const short = (value) => (Math.abs(value) >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(3))));
const schemeAt = (point, site) => point.plan.charCodeAt(site) - 65;
const sum = (values) => values.reduce((total, value) => total + value, 0);

function make(tag, attributes, children, space) {
  const node = space ? document.createElementNS(space, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "onclick") node.addEventListener("click", value);
    else if (name === "style") node.style.cssText = value;
    else if (value !== null && value !== false) node.setAttribute(name, value);
  }
  node.append(...(children || []));
  return node;
}
const el = (tag, attributes, ...children) => make(tag, attributes, children);
const svg = (tag, attributes, ...children) => make(tag, attributes, children, SVG);
const table = (heads, rows, id) => el("div", { class: "scroll" }, el("table", { id: id || null },
  el("thead", {}, el("tr", {}, ...heads.map(([title, kind]) => el("th", { class: kind || null }, title)))),
  el("tbody", {}, ...rows)));
const swatch = (scheme) => el("span", { class: "swatch", style: "background:" + scheme.colour });

function ticks(low, high, count) {
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= raw);
  const found = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high; tick += step) found.push(Number(tick.toFixed(10)));
  return found;
}

const LETTER = 6.6;
const textBox = (text, x, y) => [x, y - 11, x + text.length * LETTER, y + 3];

// A text in lines of so many pixels, broken between words.
function linesOf(text, wide) {
  const found = [""];
  for (const word of text.split(" ")) {
    const longer = found.at(-1) ? `${found.at(-1)} ${word}` : word;
    if (longer.length * LETTER <= wide || !found.at(-1)) found[found.length - 1] = longer;
    else found.push(word);
  }
  return found;
}

// A frame with axes; gives the drawing and functions from values to places.
function frame(host, size, x, y, label) {
  const width = Math.max(300, host.clientWidth), height = size(width);
  const left = 56, right = width - 14, top = 14, title = linesOf(x.title, right - left);
  const bottom = height - 32 - 14 * title.length;
  const px = (value) => left + ((x.reversed ? x.high - value : value - x.low) / (x.high - x.low)) * (right - left);
  const py = (value) => bottom - ((value - y.low) / (y.high - y.low)) * (bottom - top);
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": label });
  for (const tick of ticks(x.low, x.high, width / 90)) {
    root.append(svg("line", { class: "grid", x1: px(tick), x2: px(tick), y1: top, y2: bottom }),
      svg("text", { x: px(tick), y: bottom + 16, "text-anchor": "middle" }, short(tick)));
  }
  for (const tick of ticks(y.low, y.high, height / 60)) {
    root.append(svg("line", { class: "grid", x1: left, x2: right, y1: py(tick), y2: py(tick) }),
      svg("text", { x: left - 6, y: py(tick) + 4, "text-anchor": "end" }, short(tick)));
  }
  title.forEach((line, place) => root.append(
    svg("text", { x: (left + right) / 2, y: bottom + 36 + 14 * place, "text-anchor": "middle" }, line)));
  host.replaceChildren(root);
  return { root, px, py, left, right, top, bottom, width };
}

function drawTrade() {
  const y = data.y[quality], host = byId("trade");
  const all = data.points.filter((point) => point.x && point.y[quality]);
  byId("trade-axes").replaceChildren(...data.y.map((axis, place) => el("button", {
    type: "button", "aria-pressed": String(place === quality),
    onclick: () => { quality = place; drawTrade(); byId("trade-axes").children[place].focus(); },
  }, axis.title)));
  if (!all.length) { host.replaceChildren(el("p", {}, "No candidate has both an accuracy and a cost.")); return; }
  const places = all.map((point) => point.x[0]), isSpeed = data.x.name === "speedup";
  const low = Math.min(...places, isSpeed ? 1 : Infinity), high = Math.max(...places);
  const margin = 0.07 * (high - low) || 1;
  const x = { ...data.x, low: low - margin, high: high + margin };
  const plot = frame(host, (width) => Math.max(280, Math.min(430, width * 0.5)), x, y, "trade between quality and cost");
  const { root, px, py } = plot;
  if (y.limit !== null) root.append(
    svg("line", { class: "limit", x1: plot.left, x2: plot.right, y1: py(y.limit), y2: py(y.limit) }),
    svg("text", { class: "limit-text", x: plot.left + 6, y: py(y.limit) - 5 }, LIMIT));
  const inside = all.filter((point) => point.y[quality][0] <= y.high && point.y[quality][0] >= y.low);
  const members = inside.filter((point) => point.member).sort((a, b) => a.x[0] - b.x[0]);
  root.append(svg("polyline", { class: "line", points: members.map((point) => [px(point.x[0]), py(point.y[quality][0])].join()).join(" ") }));
  const rank = (point) => (point.number === shown ? 3 : point.member ? 2 : point.label ? 1 : 0);
  for (const point of [...inside].sort((a, b) => rank(a) - rank(b) || a.x[0] - b.x[0])) root.append(mark(point, plot));
  nameMarks(inside, plot);
  const outside = all.length - inside.length;
  if (outside) root.append(svg("text", { x: plot.right - 4, y: plot.bottom - 6, "text-anchor": "end" }, `${outside} outside this range`));
}

function mark(point, { px, py, left, right, top, bottom }) {
  const [x, dx] = point.x, [y, dy] = point.y[quality];
  const cx = px(x), cy = py(y), radius = point.member ? 6 : point.label ? 5 : 4;
  const clip = (place) => Math.min(bottom, Math.max(top, place));
  const clipX = (place) => Math.min(right, Math.max(left, place));
  const kinds = ["point", point.member && "member", point.label && "named", point.busy && "busy"];
  const shapes = {
    emulated: `M${cx},${cy - radius - 1}l${radius + 1},${radius + 1}l${-radius - 1},${radius + 1}l${-radius - 1},${-radius - 1}z`,
    estimated: `M${cx - radius},${cy - radius}h${2 * radius}v${2 * radius}h${-2 * radius}z`,
  };
  const says = `candidate ${point.number}, ${point.origin}: ` + point.facts.map((fact) => fact.join(" ")).join("; ");
  const node = svg("g", {
    class: kinds.filter(Boolean).join(" "), role: "button", "aria-pressed": String(point.number === shown),
    tabindex: point.member || point.label ? 0 : -1, "aria-label": says, "data-point": point.number,
    onclick: () => show(point.number),
  },
  svg("title", {}, says),
  svg("path", { class: "error", d: `M${clipX(px(x - dx))},${cy}H${clipX(px(x + dx))}M${cx},${clip(py(y - dy))}V${clip(py(y + dy))}` }),
  svg("circle", { class: "ring", cx, cy, r: radius + 5 }),
  point.kind in shapes ? svg("path", { class: "mark", d: shapes[point.kind] }) : svg("circle", { class: "mark", cx, cy, r: radius }));
  node.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    show(point.number);
    byId("trade").querySelector(`[data-point="${point.number}"]`)?.focus();
  });
  return node;
}

// Names the uniform plans and the choice where there is room: a name that meets another is left out.
function nameMarks(inside, plot) {
  const limit = data.y[quality].limit;
  const taken = limit === null ? [] : [textBox(LIMIT, plot.left + 6, plot.py(limit) - 5)];
  const named = inside.filter((point) => point.label || point.number === data.chosen || point.number === shown);
  const first = (point) => (point.number === shown ? 0 : point.number === data.chosen ? 1 : 2);
  const wanted = named.sort((a, b) => first(a) - first(b))
    .map((point) => [point.label || `#${point.number}`, plot.px(point.x[0]), plot.py(point.y[quality][0])]);
  if (data.x.name === "speedup" && quality === 0) {
    const x = plot.px(1), y = plot.py(0);
    plot.root.append(svg("path", { class: "label", fill: "currentColor", d: `M${x},${y - 7}L${x + 7},${y}L${x},${y + 7}L${x - 7},${y}z` }));
    wanted.unshift(["fp32 as given", x, y]);
  }
  for (const [text, x, y] of wanted) {
    const wide = text.length * LETTER;
    for (const [dx, dy] of [[9, -8], [-9 - wide, -8], [9, 17], [-9 - wide, 17]]) {
      const box = textBox(text, x + dx, y + dy);
      const isFree = box[0] > plot.left && box[2] < plot.right && box[1] > plot.top && box[3] < plot.bottom
        && taken.every((other) => box[0] > other[2] || box[2] < other[0] || box[1] > other[3] || box[3] < other[1]);
      if (!isFree) continue;
      taken.push(box);
      plot.root.append(svg("text", { class: "label", x: x + dx, y: y + dy }, text));
      break;
    }
  }
}

// What each op takes in a plan: its own cost, and those of the boundaries that it reads.
function timesOf(point) {
  if (!data.costs || !point.plan) return null;
  const times = data.costs.ops.map((row, site) => row[schemeAt(point, site)] ?? 0);
  for (const [writer, reader, before, after, cost] of data.costs.edges) {
    if (schemeAt(point, writer) === before && schemeAt(point, reader) === after) times[reader] += cost;
  }
  return times;
}

function copyable(text) {
  const button = el("button", { type: "button" }, "Copy"), pre = el("pre", {}, text);
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      getSelection().selectAllChildren(pre);
      document.execCommand("copy");
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  return el("div", { class: "copy" }, pre, button);
}

function drawDetail() {
  const point = points.get(shown), host = byId("detail");
  if (!point) return;
  host.replaceChildren(
    el("h2", {}, `#${point.number}`, " ", el("span", { class: "lead" }, point.label || point.origin)),
    el("p", {}, point.ops),
    el("dl", {}, ...point.facts.flatMap(([label, text]) => [el("dt", {}, label), el("dd", {}, text)])),
    el("h3", {}, "Take it"),
    copyable(`autoquant export ${data.folder} --number ${point.number} --output model`),
    copyable(`import autoquant as aq\n\nresult = aq.load_result("${data.folder}")\n`
      + `quantized = result.candidates[${point.number}].quantize(model)`),
    ...(point.plan ? [...planParts(point), ...differenceParts(point), ...timeParts(point)]
      : [el("p", { class: "caption" }, "Its plan is in history.jsonl: this page has no room for all of them.")]));
}

function planParts(point) {
  const cells = data.sites.map((site, place) => {
    const scheme = data.schemes[schemeAt(point, place)];
    return scheme ? el("i", {
      style: `background:${scheme.colour};color:${scheme.light ? "#1f2933" : "#fff"}`,
      title: `${site.name} (${site.kind}): ${scheme.title}`,
    }, scheme.code) : "";
  });
  return [el("h3", {}, "Its plan along the network"), legend(),
    el("div", { class: "strip", role: "img", "aria-label": "precision of each op from input to output: " + point.ops }, ...cells)];
}

const legend = () => el("div", { class: "legend" }, ...data.schemes.map((scheme) =>
  el("span", {}, swatch(scheme), `${scheme.code} = ${scheme.title}`)));

function differenceParts(point) {
  const other = points.get(data.reference);
  if (!other?.plan || other === point) return [];
  const mine = timesOf(point), theirs = timesOf(other);
  const all = data.noise.length ? data.noise : data.sites.map((site, place) => ({ knob: site.name, sites: [place], noise: {} }));
  const found = all.map((group) => {
    const site = group.sites.find((place) => schemeAt(point, place) !== schemeAt(other, place));
    if (site === undefined) return null;
    const from = schemeAt(other, site), total = sum(all.map((item) => item.noise[from]?.[0] ?? 0));
    return {
      group, from: data.schemes[from], to: data.schemes[schemeAt(point, site)],
      share: from in group.noise && total ? group.noise[from][0] / total : null,
      cost: mine && sum(group.sites.map((place) => mine[place] - theirs[place])),
    };
  }).filter(Boolean).sort((a, b) => (b.share ?? 0) - (a.share ?? 0));
  const title = el("h3", {}, `What differs from ${other.label} (#${other.number}), and why`);
  if (!found.length) return [title, el("p", {}, "Nothing.")];
  const unit = data.costs?.unit, shares = sum(found.map((item) => item.share ?? 0));
  const total = mine && sum(mine) - sum(theirs);
  const words = [`${found.length} of ${all.length} groups of ops differ.`];
  if (shares) words.push(`In ${other.label} they make ${(100 * shares).toFixed(0)}% of the noise that the ops alone add to the output.`);
  if (mine) words.push(`Changing them ${total < 0 ? "saves" : "costs"} ${short(Math.abs(total))} ${unit} (${data.costs.kind}, op by op).`);
  const rows = found.map(({ group, from, to, share, cost }) => el("tr", {},
    el("td", { class: "name" }, group.knob + (group.sites.length > 1 ? ` and ${group.sites.length - 1} more` : "")),
    el("td", { class: "short" }, swatch(from), from.title), el("td", { class: "short" }, swatch(to), to.title),
    el("td", { class: "number" }, share === null ? "-" : `${(100 * share).toFixed(1)}%`),
    ...(mine ? [el("td", { class: "number" }, (cost > 0 ? "+" : "") + short(cost))] : [])));
  const heads = [["ops"], ["there"], ["here"], ["noise it made", "number"], ...(mine ? [[`cost of the change, ${unit}`, "number"]] : [])];
  return [title, el("p", { class: "caption" }, words.join(" ")), ...folded(heads, rows, "differences")];
}

function timeParts(point) {
  const times = timesOf(point), most = times && Math.max(...times, 1e-9);
  const order = data.sites.map((_, place) => place);
  if (times) order.sort((a, b) => times[b] - times[a]);
  const differing = Object.values(point.ran).filter(([, differs]) => differs);
  const rows = order.map((place) => {
    const site = data.sites[place], scheme = data.schemes[schemeAt(point, place)];
    const [ran, differs] = point.ran[place] ?? [point.read && scheme ? `${scheme.name} native` : "not read back"];
    return el("tr", { class: differs ? "differs" : null },
      el("td", { class: "name" }, site.name), el("td", {}, site.kind),
      el("td", { class: "short" }, scheme ? swatch(scheme) : "", scheme ? scheme.title : "-"), el("td", { class: "short" }, ran),
      ...(times ? [el("td", { class: "number" }, short(times[place])),
        el("td", { class: "bars" }, el("span", { class: "bar", style: `width:${(100 * Math.max(0, times[place])) / most}%` }))] : []),
      el("td", { class: "number" }, site.shape), el("td", { class: "number" }, site.macs ? site.macs.toLocaleString("en") : ""),
      el("td", { class: "number" }, site.parameters ? site.parameters.toLocaleString("en") : ""));
  });
  const heads = [["op"], ["kind"], ["plan"], ["ran as"],
    ...(times ? [[`time, ${data.costs.unit}`, "number"], [""]] : []),
    ["output shape", "number"], ["MACs a sample", "number"], ["parameters", "number"]];
  const words = [times ? `Slowest first (${data.costs.kind}); conversions between precisions are part of the op that reads them.` : "In the order of the network.",
    !point.read ? "" : differing.length ? `${differing.length} of ${data.sites.length} ops did not run in the precision that the plan asked for; they are coloured.`
      : "Every op ran in the precision that the plan asked for, as read back from the built model."];
  return [el("h3", {}, times ? "Time by op" : "What ran"), el("p", { class: "caption" }, words.join(" ")), ...folded(heads, rows, "ops")];
}

// The first rows at once, the others behind a fold.
function folded(heads, rows, id) {
  const first = table(heads, rows.slice(0, SLOWEST), id);
  if (rows.length <= SLOWEST) return [first];
  const rest = el("details", {}, el("summary", {}, `${rows.length - SLOWEST} more`), table(heads, rows.slice(SLOWEST)));
  return [first, rest];
}

function drawPlans() {
  const members = data.points.filter((point) => point.member && point.plan);
  const better = data.x.reversed ? 1 : -1;
  members.sort((a, b) => better * ((a.x?.[0] ?? 0) - (b.x?.[0] ?? 0)));
  const rows = members.map((point) => {
    const stops = [], step = 100 / data.sites.length;
    for (let place = 0, from = 0; place <= data.sites.length; place++) {
      if (place < data.sites.length && point.plan[place] === point.plan[from]) continue;
      const colour = data.schemes[schemeAt(point, from)]?.colour ?? "transparent";
      stops.push(`${colour} ${from * step}% ${place * step}%`);
      from = place;
    }
    return el("tr", {}, el("td", {}, pick(point.number)), el("td", { style: "width:92%" },
      el("div", { class: "band", role: "img", "aria-label": point.ops, style: `background:linear-gradient(90deg,${stops.join()})` })));
  });
  byId("plans").replaceChildren(el("caption", { style: "text-align:left" }, legend()), el("tbody", {}, ...rows));
}

const pick = (number) => el("button", { type: "button", "data-candidate": number }, String(number));

function drawSensitivity(chosen) {
  const host = byId("sensitivity");
  const totals = data.schemes.map((_, scheme) => sum(data.noise.map((row) => row.noise[scheme]?.[0] ?? 0)));
  const known = totals.map((_, scheme) => scheme).filter((scheme) => totals[scheme] > 0).sort((a, b) => totals[b] - totals[a]);
  if (!known.length) { host.replaceChildren(el("p", {}, "No sensitivity was measured.")); return; }
  const scheme = chosen ?? known[0];
  const ranked = data.noise.filter((row) => scheme in row.noise).sort((a, b) => b.noise[scheme][0] - a.noise[scheme][0]);
  const most = Math.max(...ranked.slice(0, MOST_ROWS).flatMap((row) => row.noise[scheme].map((value) => value ?? 0)));
  const bar = (value, kind, title) => value === null ? "" : el("span", { class: "bar" + kind, title, style: `width:${(100 * value) / most}%` });
  const choose = el("select", {}, ...known.map((place) => el("option", { value: place }, data.schemes[place].title)));
  choose.value = scheme;
  choose.addEventListener("change", () => { drawSensitivity(Number(choose.value)); host.querySelector("select").focus(); });
  host.replaceChildren(el("label", { class: "tabs" }, "Scheme ", choose),
    el("p", { class: "caption" }, "Upper bar: by weights only; lower bar: by activations only; noise in % of the signal's power."),
    table([["ops"], ["noise, %", "number"], [""]], ranked.slice(0, MOST_ROWS).map((row) => {
      const [both, weight, activation] = row.noise[scheme];
      return el("tr", {}, el("td", { class: "name" }, row.knob), el("td", { class: "number" }, short(100 * both)),
        el("td", { class: "bars" }, bar(weight, "", "weights"), bar(activation ?? (weight === null ? both : null), " second", "activations")));
    })));
}

function drawProgress() {
  const host = byId("progress"), known = data.progress;
  if (known.length < 2) { host.replaceChildren(el("p", {}, "Too few candidates to show progress.")); return; }
  const x = { title: "candidate", low: known[0][0], high: known.at(-1)[0] }, y = { low: 0, high: 104 };
  const { root, px, py } = frame(host, () => 220, x, y, "hypervolume in % of the final one, by candidate");
  const path = known.map(([number, share], place) => (place ? `H${px(number)}V` : `M${px(number)},`) + py(100 * share)).join("");
  root.append(svg("path", { class: "line", d: path }));
}

function show(number) {
  shown = number;
  drawTrade();
  drawDetail();
  for (const button of document.querySelectorAll("[data-candidate]")) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.candidate) === number));
  }
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-candidate]");
  if (!button) return;
  show(Number(button.dataset.candidate));
  byId("trade-title").scrollIntoView({ block: "start" });
});
for (const details of document.querySelectorAll("details")) details.addEventListener("toggle", drawProgress);
let width = 0;
addEventListener("resize", () => {
  if (width !== innerWidth) { width = innerWidth; drawTrade(); drawProgress(); }
});
drawPlans();
drawSensitivity();
drawProgress();
show(shown);
