"use strict";
// Tables are sorted by a click on a column, tables and galleries filtered by choices and texts.

function compare(a, b) {
  const x = Number(a), y = Number(b);
  return !Number.isNaN(x) && !Number.isNaN(y) ? x - y : a.localeCompare(b, undefined, {numeric: true});
}

function sortBy(table, column) {
  const head = table.tHead.rows[0].cells[column], body = table.tBodies[0];
  const falls = head.getAttribute("aria-sort") === "ascending";
  const value = row => row.cells[column].dataset.value;
  const rows = [...body.rows].sort((a, b) => {
    const empty = (value(a) === "") - (value(b) === "");  // empty cells stay at the end
    return empty || (falls ? -1 : 1) * compare(value(a), value(b));
  });
  for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", falls ? "descending" : "ascending");
  body.append(...rows);
}

function addChoice(place, name, values, onChange) {
  const label = document.createElement("label"), select = document.createElement("select");
  select.append(new Option("all", ""), ...values.map(value => new Option(value, value)));
  select.dataset.name = name;
  select.addEventListener("change", onChange);
  label.append(name + " ", select);
  place.append(label);
  return select;
}

// Shows the items whose tags have the chosen values and whose text holds what was typed.
function addFilters(place, items, names, tagsOf, withText) {
  const apply = () => {
    const text = input ? input.value.trim().toLowerCase() : "";
    for (const item of items) {
      const tags = tagsOf(item);
      const isChosen = selects.every(s => s.value === "" || tags[s.dataset.name] === s.value);
      item.hidden = !(isChosen && item.textContent.toLowerCase().includes(text));
    }
  };
  const selects = [];
  for (const name of names) {
    const values = [...new Set(items.map(item => tagsOf(item)[name]))].filter(value => value);  // "" is "all"
    if (values.length > 1) selects.push(addChoice(place, name, values, apply));
  }
  let input = null;
  if (withText) {
    input = document.createElement("input");
    input.type = "search";
    input.placeholder = "filter";
    input.setAttribute("aria-label", "filter by text");
    input.addEventListener("input", apply);
    place.append(input);
  }
}

for (const table of document.querySelectorAll("table")) {
  [...table.tHead.rows[0].cells].forEach((cell, column) => {
    cell.firstElementChild.addEventListener("click", () => sortBy(table, column));
  });
  const columns = [...table.tHead.rows[0].cells].map(cell => cell.textContent);
  const tags = row => Object.fromEntries(columns.map((name, k) => [name, row.cells[k].textContent]));
  const rows = [...table.tBodies[0].rows];
  const names = table.dataset.choices ? table.dataset.choices.split("|") : [];
  addFilters(table.closest("figure").querySelector(".filters"), rows, names, tags, rows.length > 8);
}

for (const gallery of document.querySelectorAll(".gallery")) {
  const items = [...gallery.querySelectorAll(".picture")];
  const tags = item => JSON.parse(item.dataset.tags);
  const names = [...new Set(items.flatMap(item => Object.keys(tags(item))))];
  addFilters(gallery.querySelector(".filters"), items, names, tags, false);
}
