// Pictures that book/play.py computed beforehand, and the controls that choose among them; the last one changes fastest.
// A page says which: <figure class="piece" data-piece="player" data-pictures="NAME">.
"use strict";

pieces.add("player", [], async (figure) => {
  const { make, panel, sheet } = pieces;
  const name = figure.dataset.pictures;
  await pieces.load(`play/${name}-data.js`);
  const { controls, panels, readouts, marks } = globalThis[`${name}Data`];

  const made = controls.map(({ name, positions, kind, start }) =>
    kind === "range" ? pieces.slider(`${name}:`, positions, start, () => show()) : pieces.choice(name, positions, start, () => show(), `piece-${kind}`),
  );
  const frames = panels.map(({ title }) => pieces.frame(title));
  const dots = pieces.marks(marks[0]?.length ?? 0);
  const said = pieces.said();

  const show = () => {
    const index = made.reduce((sum, control, i) => sum * controls[i].positions.length + control.position(), 0);
    panels.forEach(({ sheets, frames: places }, i) => {
      const [number, column] = places[index];
      sheet(...sheets[number])(frames[i], column);
    });
    dots.forEach((dot, i) => ([dot.style.left, dot.style.top] = marks[index][i].map((share) => `${share}%`)));
    said.textContent = readouts[index];
  };
  const fetchSheets = () => {
    for (const [file] of panels.flatMap(({ sheets }) => sheets)) new Image().src = `${pieces.home}play/${file}`;
  };
  for (const start of ["pointerenter", "focusin"]) figure.addEventListener(start, fetchSheets, { once: true });

  // The points lie on the last picture, and so do the first nine buttons of a control that is a place.
  const place = made.find((_, i) => controls[i].kind === "place");
  const over = make("div", { className: "piece-over" }, frames.pop(), ...dots, ...(place?.labels.slice(0, 9) ?? []));
  place?.element.append(over, ...place.labels.slice(9));
  const shown = [...frames, place?.element ?? over].map((picture, i) => panel(panels[i].title, picture));
  const below = made.filter((control) => control !== place).map(({ element }) => element);
  pieces.stage(figure, make("div", { className: "piece-panels" }, ...shown), ...below, said);
  frames.push(over.firstChild);
  show();
});
