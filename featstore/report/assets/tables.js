"use strict";
// Tables that are sorted by their heads, a page of rows at a time.

const ROWS_A_PAGE = 20;
const ROWS_ON_PAPER = 200; // a table of no more is printed whole
const WRAPPED = 45; // characters of a text from which it may take several lines

// Return an element with some properties and children; texts become text, never markup.
function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) {
      made[name] = value;
    } else {
      made.setAttribute(name, value);
    }
  }
  made.append(...children);
  return made;
}

// Fill a box with a table as `studies/report/embedded.py` gives it; return what fills it anew.
function showTable(box, table, label, rowsAPage = ROWS_A_PAGE) {
  const state = { order: rowNumbers(table), sorted: null, rising: true, page: 0 };
  const heads = table.columns.map((column, place) => head(column, () => sortBy(place)));
  const body = element("tbody");
  const pager = new Pager((page) => { state.page = page; fill(); });
  const scroll = element("div", { className: "scroll", tabIndex: 0, role: "region" });
  scroll.setAttribute("aria-label", label);
  scroll.append(element("table", {}, element("thead", {}, element("tr", {}, ...heads)), body));
  box.replaceChildren(scroll, pager.element);
  fill();
  return fill;

  function sortBy(place) {
    const column = table.columns[place];
    // numbers are most often looked up from the top, names from the start
    state.rising = state.sorted === place ? !state.rising : column.kind === "text";
    state.sorted = place;
    state.page = 0;
    state.order = inOrder(table, place, state.rising);
    heads.forEach((each, other) => {
      const direction = state.rising ? "ascending" : "descending";
      each.setAttribute("aria-sort", other === place ? direction : "none");
    });
    fill();
  }

  function fill() {
    const all = matchMedia("print").matches && state.order.length <= ROWS_ON_PAPER;
    const start = all ? 0 : state.page * rowsAPage;
    const rows = state.order.slice(start, all ? undefined : start + rowsAPage);
    body.replaceChildren(...rows.map((row) => tableRow(table, row)));
    pager.show(state.page, start, rows.length, state.order.length);
  }
}

class Pager {
  constructor(turnTo) {
    this.back = element("button", { type: "button", className: "control" }, "Back");
    this.next = element("button", { type: "button", className: "control" }, "Next");
    this.where = element("output");
    this.element = element("div", { className: "pager" }, this.back, this.next, this.where);
    this.back.addEventListener("click", () => turnTo(this.page - 1));
    this.next.addEventListener("click", () => turnTo(this.page + 1));
  }

  show(page, start, shown, rows) {
    this.page = page;
    const end = start + shown;
    this.element.hidden = shown === rows;
    this.back.disabled = start === 0;
    this.next.disabled = end === rows;
    this.where.textContent = `rows ${grouped(start + 1)} to ${grouped(end)} of ${grouped(rows)}`;
  }
}

function head(column, sort) {
  const button = element("button", { type: "button" }, column.title);
  button.addEventListener("click", sort);
  const cell = element("th", { scope: "col", className: column.kind }, button);
  cell.setAttribute("aria-sort", "none");
  return cell;
}

function tableRow(table, row) {
  return element("tr", {}, ...table.columns.map((column) => tableCell(column, row)));
}

function tableCell(column, row) {
  if (column.kind === "text") {
    const text = column.levels[column.codes[row]];
    return element("td", { className: text.length > WRAPPED ? "text long" : "text" }, text);
  }
  const cell = element("td", { className: column.kind });
  if (column.low) {
    cell.append(interval(column.kind, column.low[row], column.high[row]));
    return cell;
  }
  const value = written(column.kind, column.values[row]);
  const spread = column.spread ? column.spread[row] : null;
  if (spread === null) {
    cell.append(value);
    return cell;
  }
  const { after } = KINDS[column.kind];
  const plain = value.slice(0, value.length - after.length);
  cell.append(plain, element("span", { className: "spread" }, ` ± ${KINDS[column.kind].value(spread)}`), after);
  return cell;
}

function rowNumbers(table) {
  const { codes, values } = table.columns[0];
  return Array.from((codes ?? values).keys());
}

// Return row numbers in the order of a column: numbers as numbers, texts as a person sorts them,
// equals as they stood, and what is not known last either way.
function inOrder(table, place, rising) {
  const column = table.columns[place];
  const keys = column.kind === "text" ? textRanks(column) : column.low ?? column.values;
  const sign = rising ? 1 : -1;
  return rowNumbers(table).sort((a, b) => {
    if (keys[a] === null || keys[b] === null) {
      return (keys[a] === null) - (keys[b] === null) || a - b;
    }
    return sign * (keys[a] - keys[b]) || a - b;
  });
}

function textRanks(column) {
  const collator = new Intl.Collator("en", { numeric: true });
  const order = [...column.levels.keys()];
  order.sort((a, b) => collator.compare(column.levels[a], column.levels[b]));
  const ranks = new Array(order.length);
  order.forEach((level, rank) => { ranks[level] = rank; });
  return column.codes.map((code) => ranks[code]);
}
