"use strict";
const root = document.documentElement;
const theme = document.getElementById("theme");
const isDark = () =>
  root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
const nameTheme = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
theme.hidden = false;
theme.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; nameTheme(); });
nameTheme();

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
