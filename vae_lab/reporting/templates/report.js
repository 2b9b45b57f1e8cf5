"use strict";
// Draws the plots from embedded JSON, sorts tables, and highlights lines selected by boxes on parallel coordinates.
const settings = { responsive: true, displaylogo: false, showSendToCloud: false, modeBarButtonsToRemove: ["lasso2d"] };

for (const source of document.querySelectorAll("script.figure")) {
  const figure = JSON.parse(source.textContent);
  const place = source.previousElementSibling;
  Plotly.newPlot(place, figure.data, figure.layout, settings);
  if (place.id === "parallel") {
    place.on("plotly_selected", (event) => highlight(place, event));
    place.on("plotly_deselect", () => highlight(place, null));
  }
}

// Dim each line that does not pass through the box of every axis with a box.
function highlight(place, event) {
  const axes = new Map();
  for (const point of event ? event.points : []) {
    if (!axes.has(point.x)) axes.set(point.x, new Set());
    axes.get(point.x).add(point.curveNumber);
  }
  const opacities = place.data.map((_, i) => ([...axes.values()].every((curves) => curves.has(i)) ? 1 : 0.07));
  Plotly.restyle(place, { opacity: opacities });
}

for (const button of document.querySelectorAll("table.sortable th button")) {
  button.addEventListener("click", () => sort(button.parentElement));
}

const isBlank = (text) => text === "" || text === "–";

function sort(header) {
  const rows = header.closest("table").tBodies[0];
  const rising = header.getAttribute("aria-sort") !== "ascending";
  for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", rising ? "ascending" : "descending");
  const column = header.cellIndex;
  const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
  const order = (a, b) => {
    const [x, y] = [value(a), value(b)];
    if (isBlank(x) || isBlank(y)) return isBlank(x) - isBlank(y); // rows without a value stay at the bottom
    const sign = rising ? 1 : -1;
    return sign * (isNaN(x) || isNaN(y) ? x.localeCompare(y, "en", { numeric: true }) : x - y);
  };
  rows.append(...[...rows.rows].sort(order));
}
