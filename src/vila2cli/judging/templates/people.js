
"use strict";
// Everything that came with the page is text: it is only ever put into textContent and img.src.
const page = JSON.parse(document.getElementById("pairs").textContent);
const pairs = new Map(page.pairs.map((pair) => [pair.id, pair]));
const place = "vila2-judge:" + page.digest;
const choices = new Set(["left", "right", "tie", "both-bad"]);
const $ = (id) => document.getElementById(id);

// `log` is every answer and skip in the order given; undo takes the last one off.
let state = { judge: "", log: [] };
let shown = null;
let shownAt = 0;

function isState(value) {
  return value && typeof value.judge === "string" && Array.isArray(value.log)
    && value.log.every((one) => one && pairs.has(one.pair) && (choices.has(one.choice) || one.choice === "skip"));
}

function load() {
  try {
    const stored = JSON.parse(localStorage.getItem(place));
    if (isState(stored)) state = stored;
  } catch (error) {
    warn();
  }
}

function save() {
  try {
    localStorage.setItem(place, JSON.stringify(state));
  } catch (error) {
    warn();
  }
}

function warn() {
  $("warning").textContent = "This browser does not save your progress. Export your answers before you close the page.";
  $("warning").hidden = false;
}

function answers() {
  const found = new Map();
  for (const one of state.log) if (one.choice !== "skip") found.set(one.pair, one);
  return found;
}

// The next pair without an answer: those never skipped first, then the one skipped longest ago.
function next() {
  const answered = answers();
  const skipped = new Map();
  state.log.forEach((one, index) => { if (one.choice === "skip") skipped.set(one.pair, index + 1); });
  const open = page.pairs.filter((pair) => !answered.has(pair.id));
  open.sort((a, b) => (skipped.get(a.id) || 0) - (skipped.get(b.id) || 0));
  return open[0] || null;
}

function show() {
  const answered = answers();
  const total = page.pairs.length;
  const open = state.judge !== "";
  shown = open ? next() : null;
  shownAt = performance.now();
  $("begin").hidden = open;
  $("work").hidden = shown === null;
  $("end").hidden = !open || shown !== null;
  $("count").textContent = open ? `${answered.size} of ${total} judged` : `${total} pairs`;
  $("progress").style.width = `${(100 * answered.size) / Math.max(1, total)}%`;
  $("progress").setAttribute("aria-valuenow", String(answered.size));
  $("export").disabled = answered.size === 0;
  $("undo").disabled = state.log.length === 0;
  if (shown !== null) {
    $("image").src = shown.image;
    for (const side of sides) {
      $(side).querySelector("p").textContent = shown[side];
      text(side).scrollTop = 0;
      tellMore(side);
    }
    scrollTo(0, 0);
  } else if (!open) {
    $("name").focus();
  } else {
    const counts = { left: 0, right: 0, tie: 0, "both-bad": 0 };
    for (const one of answered.values()) counts[one.choice] += 1;
    $("tally").textContent = `${counts.left} left, ${counts.right} right, ${counts.tie} equally good, ${counts["both-bad"]} both bad.`;
  }
}

function note(choice) {
  if (shown === null) return;
  const seconds = Math.round((performance.now() - shownAt) / 100) / 10;
  state.log.push({ pair: shown.id, choice, seconds });
  save();
  const button = document.querySelector(`[data-choice="${choice}"]`);
  if (button) {
    button.classList.add("chosen");
    setTimeout(() => button.classList.remove("chosen"), 160);
  }
  show();
}

function undo() {
  if (state.log.pop() === undefined) return;
  save();
  show();
}

function exportAnswers() {
  const answered = [...answers().values()];
  if (answered.length === 0) return;
  const value = {
    format: page.format,
    page: page.digest,
    judge: state.judge,
    exported: new Date().toISOString(),
    answers: answered.map((one) => ({ pair: one.pair, choice: one.choice, seconds: one.seconds })),
    skipped: page.pairs.map((pair) => pair.id).filter((id) => !answers().has(id)),
  };
  const link = document.createElement("a");
  const name = state.judge.replace(/[^A-Za-z0-9]+/g, "-").replace(/^-+|-+$/g, "").toLowerCase() || "judge";
  link.href = URL.createObjectURL(new Blob([JSON.stringify(value, null, 1)], { type: "application/json" }));
  link.download = `answers-${name}-${page.digest.slice(0, 8)}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function zoom() {
  const dialog = $("zoom");
  if (dialog.open) return dialog.close();
  if (shown === null) return;
  const picture = $("image"), wide = picture.naturalWidth / Math.max(1, picture.naturalHeight);
  dialog.firstElementChild.classList.toggle("strip", wide > 3 || wide < 1 / 3);
  dialog.firstElementChild.src = shown.image;
  dialog.showModal();
}

const sides = ["left", "right"];
const text = (side) => $(side).querySelector(".text");

// Whether a caption goes on below what is seen of it.
function tellMore(side) {
  const box = text(side);
  const isLong = box.scrollHeight - box.clientHeight > 1;
  const button = $(side).querySelector(".more");
  button.hidden = box.scrollHeight - box.clientHeight - box.scrollTop <= 1;
  if (isLong) box.tabIndex = 0;
  else box.removeAttribute("tabindex");
}

// Both captions go on together, and back to the top from the end.
function readOn() {
  const captions = sides.map(text);
  const left = Math.max(...captions.map((one) => one.scrollHeight - one.clientHeight - one.scrollTop));
  for (const one of captions) one.scrollTop = left > 1 ? one.scrollTop + 0.8 * one.clientHeight : 0;
}

const keys = {
  arrowleft: () => note("left"), arrowright: () => note("right"),
  arrowup: () => note("tie"), t: () => note("tie"),
  arrowdown: () => note("both-bad"), b: () => note("both-bad"),
  s: () => note("skip"), u: undo, backspace: undo, e: exportAnswers, z: zoom, " ": readOn,
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.target.tagName === "INPUT") return;
  if (event.key === " " && event.target.closest("button")) return;
  const action = keys[event.key.toLowerCase()];
  if (!action || state.judge === "" || ($("zoom").open && action !== zoom)) return;
  event.preventDefault();
  action();
});
document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if ($("zoom").open) return zoom();
  if (!button || button.disabled) return;
  if (button.dataset.choice) note(button.dataset.choice);
  else if (button.dataset.key) keys[button.dataset.key]();
  if (button.closest("#work")) button.blur();
});
$("who").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = $("name").value.trim();
  if (name === "") return;
  state.judge = name;
  $("name").blur(); // a hidden input would keep the next keys to itself
  save();
  show();
});

$("other").addEventListener("click", () => {
  if (!confirm("Start over? Export the answers first: they are removed from this browser.")) return;
  state = { judge: "", log: [] };
  save();
  show();
});

const sizes = new ResizeObserver(() => sides.forEach(tellMore));
for (const side of sides) {
  sizes.observe(text(side));
  text(side).addEventListener("scroll", () => tellMore(side));
}
history.scrollRestoration = "manual"; // a page that comes back shows its pair from the top

load();
show();
