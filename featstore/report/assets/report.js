"use strict";
// Puts the page together: figures, tables, and the theme that both follow.

performance.mark("script");
const data = JSON.parse(document.getElementById("data").textContent);
const figures = [];
const fills = [];
const boxOf = (name) => document.getElementById(name);

function addFigure(name, make) {
  const box = boxOf(name);
  if (box) {
    figures.push(make(box));
  }
}

function addTable(name, label, rowsAPage) {
  const box = boxOf(`table-${name}`);
  if (box && data.tables[name]) {
    fills.push(showTable(box, data.tables[name], label, rowsAPage));
  }
}

let fillLosses = () => {};

function showLosses(table, fraction) {
  const box = boxOf("table-losses");
  if (!table) {
    box.replaceChildren(element("p", { className: "empty" }, "What classes lose needs probes of the full layer and of a part of it."));
    return;
  }
  const label = `what each class loses at ${written("share", fraction)} of the features`;
  fillLosses = showTable(box, table, label);
  box.prepend(element("p", { className: "note" }, `Accuracy on each class with all features and with ${written("share", fraction)} of them.`));
}

function showAll() {
  addFigure("accuracy", (box) => accuracyFigure(box, data));
  addFigure("redundancy", (box) => redundancyFigure(box, data));
  addFigure("cka", (box) => ckaFigure(box, data));
  addFigure("classes", (box) => classesFigure(box, data, showLosses));
  addTable("summary", "accuracy of each curve at each fraction");
  addTable("layers", "accuracy of each layer");
  addTable("redundancy", "diffused redundancy of each curve");
  addTable("inequality", "inequality over classes");
  data.features.forEach((name) => addTable(name, document.getElementById(`heading-${name}`).textContent));
  addTable("probes", "every probe", 50);
  const same = Object.entries(data.tables.probes.same);
  if (same.length) {
    const text = same.map(([name, value]) => `${name} ${value}`).join(", ");
    boxOf("table-probes").prepend(element("p", { className: "note" }, `Of all probes: ${text}.`));
  }
}

// --- theme: the system's until the button is pressed, and light on paper --------------------

const system = matchMedia("(prefers-color-scheme: dark)");
const paper = matchMedia("print");
const button = boxOf("theme");
let chosen = null;

function applyTheme() {
  const wanted = chosen ?? (system.matches ? "dark" : "light");
  document.documentElement.dataset.theme = paper.matches ? "light" : wanted;
  button.textContent = wanted === "dark" ? "Light" : "Dark";
  button.setAttribute("aria-label", `change to ${button.textContent.toLowerCase()} colours`);
}

function restyle() {
  applyTheme();
  return Promise.all(figures.map((figure) => figure.draw()));
}

button.addEventListener("click", () => {
  chosen = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  restyle();
});
system.addEventListener("change", restyle);
paper.addEventListener("change", () => {
  [fillLosses, ...fills].forEach((fill) => fill());
  restyle();
});

applyTheme();
showAll();
performance.mark("shown");
restyle().then(() => {
  performance.mark("drawn");
  document.documentElement.dataset.drawn = "yes";
});
