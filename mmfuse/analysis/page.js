"use strict";
// Shows where the model looked for the word that is pointed at, or that has the keyboard's focus.

const all = JSON.parse(document.getElementById("looks").textContent);
const NOUNS = { image: "picture", audio: "sound" };

const percent = (share) => `${Math.round(100 * share)} %`;

// A veil over the picture that is the thinner, the more a patch was looked at.
function draw(canvas, map) {
  const [rows, columns] = map.grid;
  const bytes = atob(map.heat);
  canvas.height = rows;
  canvas.width = columns;
  const context = canvas.getContext("2d");
  const veil = context.createImageData(columns, rows);
  for (let i = 0; i < rows * columns; i++) {
    veil.data.set([8, 8, 20, 215 - (215 * bytes.charCodeAt(i)) / 255], 4 * i);
  }
  context.putImageData(veil, 0, 0);
  return bytes;
}

// "left, top": where the brightest patch stands, for those who do not see it.
function brightest(bytes, [rows, columns]) {
  let best = 0;
  for (let i = 1; i < bytes.length; i++) if (bytes.charCodeAt(i) > bytes.charCodeAt(best)) best = i;
  const third = (at, of, names) => names[Math.min(2, Math.floor((3 * (at + 0.5)) / of))];
  const vertical = third(Math.floor(best / columns), rows, ["top", "middle", "bottom"]);
  return `${vertical} ${third(best % columns, columns, ["left", "center", "right"])}`;
}

function outline(svg, boxes) {
  const rects = boxes.map(([x0, y0, x1, y1]) => {
    const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    for (const [name, value] of Object.entries({ x: x0, y: y0, width: x1 - x0, height: y1 - y0 })) {
      rect.setAttribute(name, value);
    }
    return rect;
  });
  svg.replaceChildren(...rects);
}

function show(word) {
  const card = word.closest(".card");
  const look = all[word.dataset.look];
  for (const other of card.querySelectorAll(".word[aria-current]")) other.removeAttribute("aria-current");
  word.setAttribute("aria-current", "true");
  for (const canvas of card.querySelectorAll("canvas")) {
    const map = look.looks[canvas.dataset.memory][canvas.dataset.map];
    const place = brightest(draw(canvas, map), map.grid);
    const figure = canvas.closest("figure");
    figure.querySelector(".share").textContent = percent(map.share);
    const noun = NOUNS[canvas.dataset.memory] ?? canvas.dataset.memory;
    const layer = figure.querySelector("figcaption").firstChild.textContent;
    canvas.setAttribute("aria-label", `${layer}, ${noun}, for “${look.text}”: ${percent(map.share)}, most at the ${place}`);
  }
  for (const svg of card.querySelectorAll(".boxes")) outline(svg, look.boxes);
  const shares = Object.entries(look.looks).map(
    ([name, maps]) => `${NOUNS[name] ?? name} ${maps.slice(0, -1).map((map) => percent(map.share)).join(", ")}`,
  );
  card.querySelector(".told").textContent =
    `“${look.text}”, probability ${look.probability.toFixed(2)}. Looked at, layer by layer: ${shares.join("; ")}.`;
}

for (const word of document.querySelectorAll(".word")) {
  for (const event of ["pointerenter", "focus", "click"]) word.addEventListener(event, () => show(word));
}
for (const card of document.querySelectorAll(".card")) {
  const first = card.querySelector(".word");
  if (first) show(first);
}
