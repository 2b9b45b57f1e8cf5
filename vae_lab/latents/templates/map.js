"use strict";
// Draws the map from embedded JSON, and shows a card with the image of the point under the mouse.
const figure = JSON.parse(document.getElementById("figure").textContent);
const points = JSON.parse(document.getElementById("points").textContent);
const place = document.getElementById("map");
const card = document.getElementById("card");
const canvas = card.querySelector("canvas");
const tiles = new Image();
tiles.src = points.tiles;

const settings = { responsive: true, displaylogo: false, showSendToCloud: false, scrollZoom: true };
settings.modeBarButtonsToRemove = ["lasso2d", "select2d"];
Plotly.newPlot(place, figure.data, figure.layout, settings).then(() => {
  place.on("plotly_hover", (event) => show(event.points[0].customdata, event.event));
  place.on("plotly_unhover", () => (card.style.visibility = "hidden"));
});

// Draw the tile of an image, enlarged by a whole factor, and place the card beside the mouse, inside the window.
function show(row, mouse) {
  const side = points.side;
  const factor = Math.max(1, Math.floor(112 / side));
  canvas.width = canvas.height = side * factor;
  const brush = canvas.getContext("2d");
  brush.imageSmoothingEnabled = false;
  const left = (row % points.columns) * side;
  const top = Math.floor(row / points.columns) * side;
  brush.drawImage(tiles, left, top, side, side, 0, 0, canvas.width, canvas.height);
  card.querySelector("span").textContent = points.texts[row];
  const inside = (at, size, room) => Math.max(0, at + 16 + size > room ? at - 16 - size : at + 16);
  card.style.left = `${inside(mouse.clientX, card.offsetWidth, window.innerWidth)}px`;
  card.style.top = `${inside(mouse.clientY, card.offsetHeight, window.innerHeight)}px`;
  card.style.visibility = "visible";
}
