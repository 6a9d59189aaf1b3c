// What a page can do beyond its HTML: keep itself fresh, tell values, answer to keys, save a chart as a picture.
"use strict";
const EVERY_MS = 2000;
const byId = (id) => document.getElementById(id);
const all = (query, within = document) => [...within.querySelectorAll(query)];

// -- times in the reader's own words ---------------------------------------------------------------------------------
const SPANS = [[60, "second", 1], [3600, "minute", 60], [86400, "hour", 3600], [2592000, "day", 86400]];
const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
const absolute = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "short" });
function tellTimes() {
  for (const element of all("time")) {
    const at = new Date(element.dateTime), passed = (at - Date.now()) / 1000;
    const span = SPANS.find(([below]) => Math.abs(passed) < below);
    const words = span ? relative.format(Math.round(passed / span[2]), span[1]) : absolute.format(at);
    if (element.textContent !== words) element.textContent = words;
    element.title = absolute.format(at);
  }
}

// -- a filter that outlives a refresh ---------------------------------------------------------------------------------
function filterRows() {
  const input = byId("filter");
  if (!input) return;
  const wanted = input.value.trim().toLowerCase();
  const rows = all("[data-row]");
  let shown = 0;
  for (const row of rows) {
    row.hidden = wanted !== "" && !row.textContent.toLowerCase().includes(wanted);
    if (!row.hidden) shown += 1;
  }
  const nothing = byId("nothing");
  if (nothing) nothing.hidden = shown > 0 || rows.length === 0;
}

// -- values of charts ------------------------------------------------------------------------------------------------
const tip = byId("tip");
let told = null;
function hide() {
  if (told) told.classList.remove("at");
  told = null;
  tip.hidden = true;
}
function tell(hit) {
  if (hit === told) return;
  hide();
  told = hit;
  hit.classList.add("at");
  tip.textContent = hit.dataset.tip;
  tip.hidden = false;
  const at = hit.getBoundingClientRect(), own = tip.getBoundingClientRect();
  const middle = at.left + at.width / 2;
  const right = middle + 14 + own.width < document.documentElement.clientWidth;
  const left = right ? middle + 14 : Math.max(8, middle - 14 - own.width);
  tip.style.left = `${left + scrollX}px`;
  tip.style.top = `${Math.max(8, at.top + 6) + scrollY}px`;
}
const hitsOf = (plot) => all(".hit", plot).filter((hit) => hit.getClientRects().length > 0);
function step(plot, by) {
  const hits = hitsOf(plot);
  if (!hits.length) return;
  const now = hits.indexOf(told);
  tell(hits[Math.min(hits.length - 1, Math.max(0, now < 0 ? (by > 0 ? 0 : hits.length - 1) : now + by))]);
}
document.addEventListener("pointermove", (event) => {
  const hit = event.target.closest?.(".hit");
  if (hit) tell(hit);
  else if (told && !document.activeElement?.classList.contains("plot")) hide();
});
document.addEventListener("pointerdown", (event) => {
  const hit = event.target.closest?.(".hit");
  if (hit) tell(hit); else hide();
});
document.addEventListener("focusout", hide);

// -- a chart as a picture --------------------------------------------------------------------------------------------
const PAINT = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "stroke-linejoin", "stroke-linecap",
  "font-size", "font-family", "font-weight", "text-anchor"];
function picture(name) {
  const source = all(`svg[data-name="${CSS.escape(name)}"]`).find((svg) => svg.getClientRects().length > 0);
  if (!source) return;
  const copy = source.cloneNode(true);
  const from = [source, ...all("*", source)], to = [copy, ...all("*", copy)];
  from.forEach((element, i) => {
    const style = getComputedStyle(element);
    for (const key of PAINT) to[i].setAttribute(key, style.getPropertyValue(key));
  });
  all(".hit", copy).forEach((hit) => hit.remove());
  const { width, height } = source.viewBox.baseVal;
  copy.setAttribute("width", width);
  copy.setAttribute("height", height);
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  const image = new Image();
  image.onload = () => {
    const canvas = document.createElement("canvas"), scale = 2, pad = 12;
    canvas.width = (width + 2 * pad) * scale;
    canvas.height = (height + 2 * pad) * scale;
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    pen.fillStyle = getComputedStyle(source.closest(".card")).backgroundColor;
    pen.fillRect(0, 0, width + 2 * pad, height + 2 * pad);
    pen.drawImage(image, pad, pad, width, height);
    canvas.toBlob((blob) => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(blob);
      link.download = `motet-${name}.png`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    }, "image/png");
  };
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(new XMLSerializer().serializeToString(copy))}`;
}

// -- fresh pages -----------------------------------------------------------------------------------------------------
let tag = null, known = new Map(), looking = false;
const live = byId("live");
function say(words, isAway) {
  if (!live) return;
  live.hidden = false;
  live.classList.toggle("away", isAway);
  if (live.textContent !== words) live.textContent = words;
}
function take(text) {
  const fresh = new DOMParser().parseFromString(text, "text/html");
  const old = all("[data-live]"), next = all("[data-live]", fresh);
  if (old.map((e) => e.id).join() !== next.map((e) => e.id).join()) {
    if (document.activeElement === document.body || document.activeElement === null) swap(byId("main"), byId0(fresh, "main"));
    else location.reload();
    return;
  }
  next.forEach((element, i) => {
    const html = element.innerHTML;
    if (known.get(element.id) !== html) swap(old[i], element);
    known.set(element.id, html);
  });
}
const byId0 = (page, id) => page.getElementById(id);
function swap(old, next) {
  const focused = old.contains(document.activeElement) ? all("a,button,summary,input,[tabindex]", old).indexOf(document.activeElement) : -1;
  const open = new Set(all("details[open]", old).map((d) => d.id));
  const tipOf = told && old.contains(told) ? hitsOf(old).indexOf(told) : -1;
  if (tipOf >= 0) hide();
  old.replaceChildren(...next.childNodes);
  all("details", old).forEach((d) => { d.open = open.has(d.id); });
  awaken(old);
  if (focused >= 0) all("a,button,summary,input,[tabindex]", old)[focused]?.focus({ preventScroll: true });
  if (tipOf >= 0 && hitsOf(old)[tipOf]) tell(hitsOf(old)[tipOf]);
}
async function look() {
  if (looking || document.hidden) return;
  looking = true;
  try {
    const headers = { "motet-live": "1" };
    if (tag) headers["if-none-match"] = tag;
    const answer = await fetch(location.href, { headers, cache: "no-store", credentials: "same-origin" });
    if (answer.status === 401) return say("Signed out", true);
    if (answer.status === 200) {
      tag = answer.headers.get("etag");
      take(await answer.text());
    }
    if (answer.status === 200 || answer.status === 304) say("Live", false);
    else say("Does not answer", true);
  } catch {
    say("Away", true);
  } finally {
    looking = false;
  }
  tellTimes();
}

// -- keys ------------------------------------------------------------------------------------------------------------
const PLACES = { r: "nav-runs", c: "nav-clients", p: "nav-privacy", l: "nav-ledger" };
let after = "";
document.addEventListener("keydown", (event) => {
  const plot = event.target.closest?.(".plot");
  if (plot && (event.key === "ArrowRight" || event.key === "ArrowLeft")) {
    step(plot, event.key === "ArrowRight" ? 1 : -1);
    event.preventDefault();
    return;
  }
  if (event.key === "Escape") {
    hide();
    if (event.target.id === "filter") { event.target.value = ""; filterRows(); event.target.blur(); }
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.("input,textarea,select,dialog[open]")) return;
  if (after === "g" && PLACES[event.key]) byId(PLACES[event.key])?.click();
  else if (event.key === "/" && byId("filter")) { byId("filter").focus(); event.preventDefault(); }
  else if (event.key === "?") byId("help").showModal();
  else if (event.key === "t") turn();
  after = event.key === "g" ? "g" : "";
});

// -- dark and light --------------------------------------------------------------------------------------------------
function turn() {
  const root = document.documentElement;
  const isDark = (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  root.dataset.theme = isDark ? "light" : "dark";
  localStorage.setItem("motet-theme", root.dataset.theme);
}

function awaken(within) {
  all("[data-png]", within).forEach((button) => { button.hidden = false; });
  tellTimes();
  filterRows();
}
document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button?.dataset.png) picture(button.dataset.png);
  else if (button?.id === "theme") turn();
  else if (button?.id === "help-open") byId("help").showModal();
});
document.addEventListener("input", (event) => { if (event.target.id === "filter") filterRows(); });
for (const id of ["theme", "help-open"]) if (byId(id)) byId(id).hidden = false;
for (const element of all("[data-live]")) known.set(element.id, element.innerHTML);  // as it was sent
awaken(document);
setInterval(look, EVERY_MS);
document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
look();
