// Controls that choose among pictures computed beforehand. The last control changes fastest.
"use strict";

pieces.add("player", [], (figure) => {
  const { readouts, marks, panels } = JSON.parse(figure.querySelector("script").textContent);
  const controls = [...figure.querySelectorAll(".player-control")].map((part) => [...part.querySelectorAll("input")]);
  const said = figure.querySelector(".player-said");
  const slider = (inputs) => inputs[0].type === "range";
  const size = (inputs) => (slider(inputs) ? Number(inputs[0].max) + 1 : inputs.length);
  const value = (inputs) => (slider(inputs) ? Number(inputs[0].value) : inputs.findIndex((input) => input.checked));

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
      pieces.sheet(sheets[sheet].file, sheets[sheet].count)(frame, column);
    });
    figure.querySelectorAll(".player-mark").forEach((mark, i) => {
      [mark.style.left, mark.style.top] = marks[index][i].map((share) => `${share}%`);
    });
    said.textContent = readouts[index];
  };
  const fetchSheets = () => {
    for (const { sheets } of panels) for (const { file } of sheets) new Image().src = `${pieces.home}play/${file}`;
  };

  for (const input of controls.flat()) input.addEventListener("input", show);
  for (const start of ["pointerenter", "focusin"]) figure.addEventListener(start, fetchSheets, { once: true });
  show();
});
