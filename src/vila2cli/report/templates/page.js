"use strict";
const root = document.documentElement;
const theme = document.getElementById("theme");
const isDark = () =>
  root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
const nameTheme = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
theme.hidden = false;
theme.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; nameTheme(); });
nameTheme();

// A box that scrolls can be reached with the keyboard, and shows on which sides it goes on.
const boxes = document.querySelectorAll(".scroll, .strip, .columns, .caption p:not(.meta), pre");
const look = (box) => {
  const wide = box.scrollWidth - box.clientWidth, high = box.scrollHeight - box.clientHeight;
  box.classList.toggle("goes-right", wide - box.scrollLeft > 1);
  box.classList.toggle("goes-below", high - box.scrollTop > 1);
  if (wide > 1 || high > 1) box.tabIndex = 0;
  else box.removeAttribute("tabindex");
  const hint = box.nextElementSibling;
  if (hint && hint.classList.contains("hint")) hint.hidden = wide <= 1;
};
const sizes = new ResizeObserver((entries) => { for (const entry of entries) look(entry.target); });
for (const box of boxes) { look(box); sizes.observe(box); }
document.addEventListener("scroll", (event) => { if (event.target !== document) look(event.target); }, true);

// What a link leads to is open.
const arrive = () => {
  const there = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (there) for (const folded of there.querySelectorAll(":scope > details")) folded.open = true;
};
addEventListener("hashchange", arrive);
arrive();

const cards = document.getElementById("cards");
if (cards) {
  document.getElementById("controls").hidden = false;
  for (const kind of ["facts", "changes"]) {
    const box = document.getElementById("show-" + kind);
    const apply = () => cards.classList.toggle(kind + "-on", box.checked);
    box.addEventListener("change", apply);
    apply();
  }
  const filter = document.getElementById("filter");
  const wanted = (card) => filter.value === "all" || card.dataset.trend === filter.value
    || (filter.value === "differ" && card.dataset.differ === "yes");
  const apply = () => {
    let shown = 0;
    for (const card of cards.children) {
      card.hidden = !wanted(card);
      if (!card.hidden) shown += 1;
    }
    document.getElementById("shown").textContent = shown + " shown";
  };
  filter.addEventListener("change", apply);
  apply();
}

const listed = document.getElementById("all-data");
if (listed) {
  const PAGE = 25, MAX_CELLS = 250000;
  const rows = JSON.parse(listed.textContent);
  const texts = rows.map(([key, captions, why]) => [key, ...captions, why].join("\n").toLowerCase());
  const [search, choice, body, shown, back, on] = ["search", "filter", "rows", "shown", "back", "on"]
    .map((name) => document.getElementById("all-" + name));
  let found = [], first = 0, timer = 0;

  const differs = (captions) => new Set(captions.slice(1).filter(Boolean)).size > 1;
  // Which words of a caption the one before does not have, by the longest run of words common to both.
  const fresh = (before, now) => {
    const width = now.length + 1;
    if (!before.length || before.length * now.length > MAX_CELLS) return now.map(() => false);
    const lengths = new Uint16Array((before.length + 1) * width);
    for (let i = before.length - 1; i >= 0; i--) {
      for (let j = now.length - 1; j >= 0; j--) {
        lengths[i * width + j] = before[i] === now[j] ? lengths[(i + 1) * width + j + 1] + 1
          : Math.max(lengths[(i + 1) * width + j], lengths[i * width + j + 1]);
      }
    }
    const isNew = now.map(() => true);
    for (let i = 0, j = 0; i < before.length && j < now.length;) {
      if (before[i] === now[j]) { isNew[j] = false; i++; j++; }
      else if (lengths[(i + 1) * width + j] >= lengths[i * width + j + 1]) i++;
      else j++;
    }
    return isNew;
  };
  const element = (name, text) => {
    const made = document.createElement(name);
    made.textContent = text;
    return made;
  };
  const words = (text) => text.split(/\s+/).filter(Boolean);
  const draw = () => {
    body.replaceChildren();
    for (const index of found.slice(first, first + PAGE)) {
      const [key, captions, why] = rows[index];
      const line = document.createElement("tr");
      const head = element("th", key);
      if (why) head.append(element("small", why));
      line.append(head);
      let before = [];
      captions.forEach((caption, column) => {
        const cell = document.createElement("td"), now = words(caption);
        cell.dir = "auto";
        const isNew = column > 1 ? fresh(before, now) : now.map(() => false);
        now.forEach((word, at) => {
          if (isNew[at]) {
            const mark = element("span", word);
            mark.className = "new";
            cell.append(mark, " ");
          } else cell.append(word + " ");
        });
        if (!now.length) cell.append(element("em", "none"));
        else before = now;
        line.append(cell);
      });
      body.append(line);
    }
    look(body.closest(".scroll"));
    const last = Math.min(first + PAGE, found.length);
    shown.textContent = found.length ? `${first + 1} to ${last} of ${found.length}` : "none found";
    back.disabled = first === 0;
    on.disabled = last >= found.length;
  };
  const apply = () => {
    const wanted = words(search.value.toLowerCase());
    found = [];
    rows.forEach(([, captions, why], index) => {
      if (choice.value === "differ" && !differs(captions)) return;
      if (choice.value === "rejected" && !why) return;
      if (wanted.every((word) => texts[index].includes(word))) found.push(index);
    });
    first = 0;
    draw();
  };
  search.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(apply, 120); });
  choice.addEventListener("change", apply);
  back.addEventListener("click", () => { first = Math.max(0, first - PAGE); draw(); });
  on.addEventListener("click", () => { first += PAGE; draw(); });
  apply();
}
