"use strict";
// Text of the data is only ever set as textContent; nothing of it becomes markup.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
function make(tag, text, name) {
  const found = document.createElement(tag);
  if (text !== undefined && text !== null) found.textContent = text;
  if (name) found.className = name;
  return found;
}
const number = (value) => Number(value).toLocaleString("en-US");

// ---- tabs
const tabs = [...document.querySelectorAll("nav button")];
function open(name) {
  for (const tab of tabs) tab.setAttribute("aria-selected", String(tab.dataset.tab === name));
  for (const section of document.querySelectorAll("main > section")) section.classList.toggle("shown", section.id === name);
}
for (const tab of tabs) tab.addEventListener("click", () => open(tab.dataset.tab));

// ---- rows
const rows = data.rows;
let shown = [], current = -1;
function choices(select, label, values) {
  select.append(new Option(label, ""));
  for (const value of [...new Set(values)].sort()) select.append(new Option(value, value));
}
choices($("dataset"), "all data sets", rows.map((row) => row.dataset));
choices($("kind"), "all kinds", rows.map((row) => row.kind));
choices($("why"), "why shown: any", rows.flatMap((row) => row.why));
function haystack(row) {
  if (row.hay === undefined) {
    const said = (row.runs || []).map((run) => run.text).join("") + (row.messages || []).map((each) => each.text).join(" ");
    row.hay = (row.id + " " + row.kept + " " + row.media.map((each) => each.name).join(" ") + " " + said).toLowerCase();
  }
  return row.hay;
}
const PAGE = 200;
let drawn = 0;
function filter() {
  const words = $("search").value.toLowerCase(), least = Number($("least").value || 0), most = Number($("most").value || Infinity);
  shown = rows.filter((row) =>
    (!$("dataset").value || row.dataset === $("dataset").value) &&
    (!$("kind").value || row.kind === $("kind").value) &&
    (!$("why").value || row.why.includes($("why").value)) &&
    (row.tokens === undefined || (row.tokens >= least && row.tokens <= most)) &&
    (!words || haystack(row).includes(words)));
  const order = $("order").value;
  if (order === "longest first") shown.sort((a, b) => b.tokens - a.tokens);
  if (order === "shortest first") shown.sort((a, b) => a.tokens - b.tokens);
  $("found").textContent = `${number(shown.length)} of ${number(rows.length)} ${rows.some((row) => row.pack !== undefined) ? `documents shown here, ${number(data.total)} packs` : `rows shown here, ${number(data.total)}`} in the store`;
  $("list").replaceChildren();
  drawn = 0;
  more();
  show(shown.length ? 0 : -1);
}
function more() {
  const end = Math.min(shown.length, drawn + PAGE);
  for (; drawn < end; drawn++) {
    const row = shown[drawn], at = drawn, item = make("button");
    item.append(make("b", row.id));
    const tokens = row.tokens === undefined ? "" : `${number(row.tokens)} tokens, ${number(row.trained)} trained, `;
    item.append(make("small", `${tokens}${row.kind} · ${row.why.join(", ")}`));
    item.addEventListener("click", () => show(at));
    $("list").append(item);
  }
}
$("list").addEventListener("scroll", () => {
  const list = $("list");
  if (drawn < shown.length && list.scrollTop + list.clientHeight > list.scrollHeight - 200) more();
});
function show(at) {
  current = at;
  while (at >= drawn && drawn < shown.length) more();
  [...$("list").children].forEach((item, place) => item.setAttribute("aria-current", String(place === at)));
  const box = $("row");
  box.replaceChildren();
  if (at < 0) { box.append(make("p", "No row fits these filters.", "dim")); return; }
  const row = shown[at];
  box.append(make("h2", row.id), make("p", `${row.dataset ? row.dataset + " · " : ""}row ${number(row.row)}${row.pack === undefined ? "" : " · pack " + row.pack}`, "dim"));
  if (row.kept) box.append(make("p", row.kept, "dim"));
  if (row.rescue) box.append(make("p", row.rescue, "rescue"));
  if (row.parts) box.append(parts(row));
  if (row.media.length) {
    const media = make("div", null, "media");
    row.media.forEach((each, place) => media.append(figure(each, place)));
    box.append(media);
  }
  if (row.runs) box.append(runs(row));
  for (const message of row.messages || []) {
    box.append(make("div", message.role, "role"), make("pre", message.text));
  }
  box.scrollTop = 0;
}
function parts(row) {
  const box = make("div"), bar = make("div", null, "parts");
  for (const [name, count] of Object.entries(row.parts)) {
    const part = make("i", null, "part-" + name);
    part.style.width = (100 * count / Math.max(1, row.tokens)) + "%";
    part.title = `${name}: ${number(count)}`;
    bar.append(part);
  }
  box.append(bar, make("small", `${number(row.tokens)} tokens: ${Object.entries(row.parts).map(([name, count]) => `${number(count)} ${name}`).join(", ")}`, "dim"));
  return box;
}
function runs(row) {
  const text = make("pre");
  for (const run of row.runs) {
    if (run.times !== undefined) {
      const named = run.media === undefined ? run.text : row.media[run.media].name.split("/").pop();
      text.append(make("span", `${named} × ${number(run.times)}`, "media-run"));
    } else {
      text.append(make("span", run.text, run.on ? "on" : ""));
      if (run.weight !== undefined) text.append(make("sub", "×" + run.weight));
    }
  }
  return text;
}
function image(source, about) {
  const found = make("img");
  found.src = source; found.alt = about; found.loading = "lazy";
  return found;
}
function boxed(picture, shapes) {
  const box = make("div", null, "boxed");
  box.append(picture);
  shapes.forEach(({ at: [left, top, right, bottom], name }, at) => {
    const shape = make("i", null, right === undefined ? "point" : "box");
    shape.style.left = 100 * left + "%"; shape.style.top = 100 * top + "%";
    if (right !== undefined) { shape.style.width = 100 * (right - left) + "%"; shape.style.height = 100 * (bottom - top) + "%"; }
    shape.style.borderColor = `hsl(${(47 * at + 130) % 360} 90% 45%)`;
    shape.title = `${right === undefined ? "point" : "box"} ${at + 1}${name ? ": " + name : ""}`;
    if (name) {
      const said = make("b", name, left > 0.6 ? "to-left" : "");
      said.style.background = `hsl(${(47 * at + 130) % 360} 90% 25%)`;
      shape.append(said);
    }
    box.append(shape);
  });
  return box;
}
function figure(media, place) {
  const box = make("figure");
  if (media.picture) box.append(boxed(image(media.picture, media.name), media.boxes || []));
  if (media.frames) {
    const strip = make("div", null, "strip");
    media.frames.forEach((frame, at) => {
      const one = make("span");
      one.append(image(frame, media.times[at]), make("span", media.times[at]));
      strip.append(one);
    });
    box.append(strip);
  }
  if (media.audio) {
    const wave = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    wave.setAttribute("viewBox", `0 0 ${media.peaks.length} 48`); wave.setAttribute("class", "wave"); wave.setAttribute("preserveAspectRatio", "none");
    media.peaks.forEach((peak, at) => {
      const bar = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      bar.setAttribute("x", at); bar.setAttribute("width", 0.8); bar.setAttribute("height", Math.max(1, 46 * peak)); bar.setAttribute("y", 24 - Math.max(1, 46 * peak) / 2);
      wave.append(bar);
    });
    const player = make("audio");
    player.controls = true; player.preload = "none"; player.src = media.audio;
    box.append(wave, player);
  }
  const size = media.size ? ` · ${media.size[0]} × ${media.size[1]}` : "";
  const length = media.seconds === undefined ? "" : ` · ${media.seconds} s${media.played < media.seconds ? `, the first ${media.played} play` : ""}`;
  const taken = media.taken === undefined ? "" : ` · ${media.taken} of ${media.of} frames taken`;
  box.append(make("figcaption", `${place + 1}. ${media.kind} ${media.name}${size}${length}${taken}${media.note ? " · " + media.note : ""}`));
  return box;
}
for (const id of ["search", "least", "most"]) $(id).addEventListener("input", filter);
for (const id of ["dataset", "kind", "why", "order"]) $(id).addEventListener("change", filter);
document.addEventListener("keydown", (event) => {
  if (event.target.matches("input, select")) return;
  if (event.key === "j" && current + 1 < shown.length) show(current + 1);
  if (event.key === "k" && current > 0) show(current - 1);
});

// ---- rejects
choices($("reason"), "all reasons", data.rejects.map((reject) => reject.reason));
function rejects() {
  const reason = $("reason").value, words = $("reject-search").value.toLowerCase(), body = $("reject-rows");
  body.replaceChildren();
  const found = data.rejects.filter((each) => (!reason || each.reason === reason) &&
    (!words || `${each.sample_id} ${each.source} ${each.message} ${each.kept || ""}`.toLowerCase().includes(words)));
  if ($("reject-order").value) found.sort((a, b) => (a.over ?? Infinity) - (b.over ?? Infinity));
  $("reject-count").textContent = `${number(found.length)} of ${number(data.rejected)} rejected rows`;
  for (const each of found.slice(0, 2000)) {
    const line = make("tr");
    const said = each.kept ? `${each.message} ${each.kept}` : each.message;
    const over = each.over === undefined ? "" : ` (${number(each.over)} too many)`;
    for (const value of [each.sample_id, `${each.stage} ${each.reason}${over}`, `${each.source}:${each.line}`, said]) line.append(make("td", value));
    const media = make("div", null, "thumbs");
    for (const one of each.media || []) media.append(one.picture ? image(one.picture, one.name) : make("small", one.note, "dim"));
    line.lastChild.append(media);
    body.append(line);
  }
}
for (const id of ["reason", "reject-order"]) $(id).addEventListener("change", rejects);
$("reject-search").addEventListener("input", rejects);
rejects();
filter();
open(tabs[0].dataset.tab);
