// Pictures to touch. Their markup comes from fragility.page and book/play.py; without this script they are plain
// pictures. Every control is a native one, so the keyboard, a finger and a screen reader work as they do elsewhere.

// Two pictures in one place: hold the button, or a finger on the picture, to see the other; a short press swaps them.
const blink = (figure) => {
  const sides = [...figure.querySelectorAll(".blink-side")];
  const titles = sides.map((side) => side.firstElementChild.textContent);
  const stage = figure.querySelector(".blink-sides");
  const button = document.createElement("button");
  const said = document.createElement("output");
  let shown = 0;
  let since = 0; // when the press began; 0 while nothing is pressed
  let by = ""; // what it began with
  let pressed = false; // the click that follows a press is not one more

  const show = (index) => {
    shown = index;
    sides.forEach((side, i) => side.classList.toggle("blink-hidden", i !== index));
    button.setAttribute("aria-pressed", index === 1);
    said.textContent = `Shown: ${titles[index]}`;
  };
  const down = (event) => {
    if (event.type === "pointerdown" ? event.button !== 0 : ![" ", "Enter"].includes(event.key)) return;
    if (event.type === "keydown") event.preventDefault();
    if (since) return;
    since = event.timeStamp;
    by = event.type;
    pressed = event.currentTarget === button;
    show(1 - shown);
  };
  const up = (event) => {
    const lost = event.type === "pointercancel" || event.type === "blur";
    if (!since || (event.type === "blur" && by !== "keydown")) return;
    if (lost || event.timeStamp - since > 300) show(1 - shown);
    since = 0;
  };

  button.type = "button";
  button.textContent = `Hold to see: ${titles[1]}`;
  for (const part of [button, stage]) {
    part.addEventListener("pointerdown", down);
    for (const end of ["pointerup", "pointercancel", "pointerleave"]) part.addEventListener(end, up);
    part.addEventListener("contextmenu", (event) => since && event.preventDefault()); // of a long press
  }
  button.addEventListener("keydown", down);
  button.addEventListener("keyup", up);
  button.addEventListener("blur", up);
  button.addEventListener("click", () => {
    if (!pressed) show(1 - shown); // a screen reader's
    pressed = false;
  });
  stage.after(button, said);
  figure.classList.add("live");
  show(0);
};

// Controls that choose among pictures computed beforehand. The last control changes fastest.
const player = (figure) => {
  const { readouts, marks, panels } = JSON.parse(figure.querySelector("script").textContent);
  const controls = [...figure.querySelectorAll(".player-control")].map((part) => [...part.querySelectorAll("input")]);
  const said = figure.querySelector(".player-said");
  const slider = (inputs) => inputs[0].type === "range";
  const size = (inputs) => (slider(inputs) ? Number(inputs[0].max) + 1 : inputs.length);
  const value = (inputs) => (slider(inputs) ? Number(inputs[0].value) : inputs.findIndex((input) => input.checked));
  const folder = figure.dataset.folder;

  const show = () => {
    const index = controls.reduce((sum, inputs) => sum * size(inputs) + value(inputs), 0);
    for (const inputs of controls.filter(slider)) {
      const position = JSON.parse(inputs[0].dataset.positions)[value(inputs)];
      inputs[0].setAttribute("aria-valuetext", position);
      inputs[0].parentElement.querySelector("output").textContent = position;
    }
    figure.querySelectorAll(".player-frame").forEach((frame, i) => {
      const { sheets, frames } = panels[i];
      const [sheet, column] = frames[index];
      const { file, count } = sheets[sheet];
      frame.style.backgroundImage = `url(${folder}${file})`;
      frame.style.backgroundSize = `${100 * count}% 100%`;
      frame.style.backgroundPosition = `${(100 * column) / Math.max(1, count - 1)}% 0`;
    });
    figure.querySelectorAll(".player-mark").forEach((mark, i) => {
      [mark.style.left, mark.style.top] = marks[index][i].map((share) => `${share}%`);
    });
    said.textContent = readouts[index];
  };
  const fetchSheets = () => {
    for (const { sheets } of panels) for (const { file } of sheets) new Image().src = folder + file;
  };

  for (const input of controls.flat()) input.addEventListener("input", show);
  for (const start of ["pointerenter", "focusin"]) figure.addEventListener(start, fetchSheets, { once: true });
  figure.classList.add("live");
  show();
};

// A table, a listing, a formula or a figure wider than the page scrolls in its own box. Only then does the keyboard have
// to reach it, and only then does its edge fade, to say that it goes on.
const BOXES = ".bd-article :is(.pst-scrollable-table-container, .output, pre, .math, a:has(> picture))";
const reach = () => {
  for (const formula of document.querySelectorAll(".bd-article span.math")) {
    const room = formula.closest("p, li, dd, td, th, h1, h2, h3, h4, figcaption, div").clientWidth;
    formula.classList.toggle("wide", formula.firstElementChild?.offsetWidth > room);
  }
  for (const box of document.querySelectorAll(BOXES)) {
    const more = box.scrollWidth > box.clientWidth + 1;
    if (!box.matches("a")) more ? (box.tabIndex = 0) : box.removeAttribute("tabindex");
    box.classList.toggle("goes-on", more && box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
  }
};

document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll("figure.blink").forEach(blink);
  document.querySelectorAll("figure.player").forEach(player);
});
addEventListener("resize", reach);
addEventListener("scroll", reach, { capture: true, passive: true }); // of any box; scrolling does not bubble
addEventListener("load", () => {
  reach();
  window.MathJax?.startup?.promise?.then(reach);
});
