// Two pictures in one place: hold the button, or a finger on the picture, to see the other; a short press swaps them.
"use strict";

pieces.add("blink", [], (figure) => {
  const sides = [...figure.querySelectorAll(".blink-side")];
  const titles = sides.map((side) => side.firstElementChild.textContent);
  const stage = figure.querySelector(".blink-sides");
  const button = pieces.make("button", { type: "button" }, `Hold to see: ${titles[1]}`);
  const said = pieces.make("output");
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
  show(0);
});
