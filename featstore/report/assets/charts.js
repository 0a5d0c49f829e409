"use strict";
// Lines with bands, drawn by plotly.js; their legend and switches, of buttons.

// Okabe and Ito (2008), "Color Universal Design": told apart by every kind of colour vision. After
// seven lines the colours return with another dash.
const PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"];
const ON_DARK = { "#000000": "#F2F2F2", "#0072B2": "#3D94D6" };
const MARKERS = ["circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x"];
const DASHES = ["solid", "dash", "dot", "dashdot"];
const MARKED = 40; // a line of more points has no markers

const ON_TOUCH = matchMedia("(pointer: coarse)").matches;
const CONFIG = {
  displaylogo: false,
  displayModeBar: ON_TOUCH ? false : "hover",
  responsive: true,
  // these alone: nothing that would send the figure anywhere
  modeBarButtons: [["toImage"], ["zoom2d", "pan2d", "resetScale2d"]],
  toImageButtonOptions: { format: "svg", filename: "featstore" },
};

const isDark = () => document.documentElement.dataset.theme === "dark";
const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function styleOf(place) {
  const colour = PALETTE[place % PALETTE.length];
  return {
    colour: isDark() ? ON_DARK[colour] ?? colour : colour,
    marker: MARKERS[place % MARKERS.length],
    dash: DASHES[Math.floor(place / PALETTE.length) % DASHES.length],
  };
}

function faint(colour, opacity) {
  const parts = [1, 3, 5].map((start) => parseInt(colour.slice(start, start + 2), 16));
  return `rgba(${parts.join(",")},${opacity})`;
}

// Return a line's traces: its band, if low and high are known anywhere, and itself.
function lineTraces({ x, y, low, high, texts, style, width = 2 }) {
  const marked = y.filter((value) => value !== null).length <= MARKED;
  const line = {
    type: "scatter", x, y, mode: marked ? "lines+markers" : "lines", hoverinfo: "text",
    hovertext: texts, showlegend: false, connectgaps: true,
    line: { color: style.colour, dash: style.dash, width, simplify: true },
    marker: { symbol: style.marker, size: 6.5 },
    hoverlabel: { bordercolor: style.colour },
  };
  const inside = low ? [...x.keys()].filter((at) => low[at] !== null && high[at] !== null) : [];
  if (!inside.some((at) => high[at] > low[at])) {
    return [line];
  }
  const back = [...inside].reverse();
  const band = {
    type: "scatter", mode: "lines", hoverinfo: "skip", showlegend: false,
    x: [...inside, ...back].map((at) => x[at]),
    y: [...inside.map((at) => low[at]), ...back.map((at) => high[at])],
    fill: "toself", fillcolor: faint(style.colour, 0.16), line: { width: 0 },
  };
  return [band, line];
}

// Return a thin dashed line across the plot.
function ruleTrace(ends, y, colour) {
  return {
    type: "scatter", mode: "lines", x: ends, y: [y, y], hoverinfo: "skip", showlegend: false,
    line: { color: colour, dash: "6px,4px", width: 1 },
  };
}

const AXIS = () => ({
  gridcolor: ink("--grid"), linecolor: ink("--line"), tickcolor: ink("--line"), zeroline: false,
  ticks: "outside", ticklen: 4, automargin: true,
});
const axisTitle = ({ title }) => ({ text: title, standoff: 10, font: { size: 13 } });

function layoutOf(x, y) {
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 48, r: 12, t: 12, b: 44 }, hovermode: "closest",
    // a finger that scrolls the page must not draw a box
    dragmode: ON_TOUCH ? false : "zoom",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: ink("--soft") },
    hoverlabel: {
      bgcolor: ink("--page"), align: "left", namelength: -1,
      font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: ink("--ink") },
    },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: ink("--line"), activecolor: ink("--accent") },
    xaxis: { ...AXIS(), showgrid: false, showline: true, ...x, title: axisTitle(x) },
    yaxis: { ...AXIS(), ...y, title: axisTitle(y) },
  };
}

// A figure: switches above, a plot, a legend below and a note.
class Figure {
  // describe(figure) returns {traces, layout, legend: [{key, label, style}], note, summary}
  constructor(box, describe) {
    this.box = box;
    this.describe = describe;
    this.hidden = new Set();
    this.bar = element("div", { className: "bar" });
    this.plot = element("div", { className: "plot", role: "img" });
    this.legend = element("div", { className: "legend", role: "group" });
    this.legend.setAttribute("aria-label", "lines; press one to hide or show it");
    this.note = element("p", { className: "note" });
    box.replaceChildren(this.bar, this.plot, this.legend, this.note);
  }

  draw() {
    const { traces, layout, legend, note, summary } = this.describe(this);
    this.plot.setAttribute("aria-label", summary);
    this.note.textContent = note;
    this.bar.hidden = !this.bar.childElementCount;
    this.plot.style.height = layout.height ? `${layout.height}px` : "";
    layout.height ??= this.plot.clientHeight; // else plotly keeps that of before
    this.showLegend(legend);
    return Plotly.react(this.plot, traces, layout, CONFIG);
  }

  showLegend(entries) {
    const focused = [...this.legend.children].indexOf(document.activeElement);
    const buttons = entries.map(({ key, label, style }) => {
      const button = element("button", { type: "button" }, swatch(style), label);
      button.setAttribute("aria-pressed", String(!this.hidden.has(key)));
      button.addEventListener("click", () => {
        this.hidden.has(key) ? this.hidden.delete(key) : this.hidden.add(key);
        this.draw();
      });
      return button;
    });
    this.legend.replaceChildren(...buttons);
    this.legend.hidden = buttons.length < 2;
    buttons[focused]?.focus();
  }
}

// A row of buttons of which one is pressed: choose(value) is called with what it stands for.
function choice(label, options, value, choose) {
  const group = element("div", { className: "choice", role: "group" });
  group.setAttribute("aria-label", label);
  for (const [option, text] of options) {
    const button = element("button", { type: "button" }, text);
    button.dataset.value = option;
    button.setAttribute("aria-pressed", String(option === value));
    button.addEventListener("click", () => {
      for (const each of group.children) {
        each.setAttribute("aria-pressed", String(each === button));
      }
      choose(option);
    });
    group.append(button);
  }
  return group;
}

function selection(label, options, value, choose) {
  const select = element("select");
  select.append(...options.map(([option, text]) => element("option", { value: option }, text)));
  select.value = value;
  select.addEventListener("change", () => choose(select.value));
  return element("label", {}, `${label} `, select);
}

const SWATCH_DASHES = { solid: "", dash: "7 3", dot: "2 2", dashdot: "7 2 2 2" };
const SWATCH_MARKERS = {
  "circle": "M9 6a3 3 0 1 0 6 0a3 3 0 1 0 -6 0z",
  "square": "M9 3h6v6h-6z",
  "triangle-up": "M12 2.5l4 7h-8z",
  "diamond": "M12 2l4 4l-4 4l-4 -4z",
  "triangle-down": "M12 9.5l4 -7h-8z",
  "cross": "M10.7 2h2.6v2.7h2.7v2.6h-2.7v2.7h-2.6v-2.7h-2.7v-2.6h2.7z",
  "x": "M10 2l2 2l2 -2l2 2l-2 2l2 2l-2 2l-2 -2l-2 2l-2 -2l2 -2l-2 -2z",
  "none": "",
};

function swatch(style) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const shapes = [
    ["path", { d: "M0 6H24", stroke: style.colour, "stroke-width": 2, "stroke-dasharray": SWATCH_DASHES[style.dash] }],
    ["path", { d: SWATCH_MARKERS[style.marker], fill: style.colour }],
  ];
  for (const [name, value] of [["width", 24], ["height", 12], ["aria-hidden", "true"]]) {
    svg.setAttribute(name, value);
  }
  for (const [tag, attributes] of shapes) {
    const shape = document.createElementNS("http://www.w3.org/2000/svg", tag);
    Object.entries(attributes).forEach(([name, value]) => shape.setAttribute(name, value));
    svg.append(shape);
  }
  return svg;
}
