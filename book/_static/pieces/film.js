// The attack as a film: Algorithm 1 line by line, on iterates that book/play_film.py computed.
"use strict";

const LINES = [
  "g \u2190 gradient of D at x, through the softplus",
  "x \u2190 x + \u03b1 sign(g)",
  "x \u2190 clip x to the ball and to [0, 1]",
  "judge: answer kept, and D the largest so far? Then remember x",
];

pieces.add("film", ["play/film-data.js"], (figure) => {
  const { make, panel, per } = pieces;
  const { steps, values, sure, kept, centres } = filmData;
  // Line 0 is the beginning; of step p, line l is `4 (p - 1) + l + 1`.
  const now = pieces.state({ line: 0, playing: false }, () => show());
  let stop = () => {};

  const names = ["photograph", "change", "map"];
  const sheets = names.map((name) => pieces.sheet(`film-${name}.webp`, steps + 1));
  const frames = names.map(pieces.frame);
  const marks = pieces.marks(2);
  frames[2].append(...marks);
  const code = make("ol", { className: "piece-code" }, ...LINES.map((line) => make("li", {}, line)));
  const curve = pieces.canvas(200, 100, { role: "img", ariaLabel: "D against the step" });
  const slider = pieces.slider("Step:", Array.from({ length: steps + 1 }, (_, p) => `${p} of ${steps}`), 0, (p) => {
    pause();
    now.line = 4 * p;
  });
  const play = pieces.button("Play", () => (now.playing ? pause() : start()));
  const next = pieces.button("Next line", () => {
    pause();
    now.line = Math.min(4 * steps, now.line + 1);
  });
  const said = pieces.said();

  const pause = () => {
    stop();
    now.playing = false;
  };
  const start = () => {
    if (now.line === 4 * steps) now.line = 0;
    now.playing = true;
    stop = pieces.run(
      () => {
        now.line += 1;
        return now.line < 4 * steps;
      },
      () => {},
      pause,
      220,
    );
  };

  const best = (p) => {
    const counted = values.slice(0, p + 1).map((value, i) => (i && kept[i] ? value : -1));
    return counted.indexOf(Math.max(...counted));
  };
  const drawCurve = (p) => {
    const { context } = curve;
    const style = getComputedStyle(figure);
    const most = Math.max(...values);
    const [x, y] = [(i) => 14 + (i * 178) / steps, (value) => 88 - (76 * value) / most];
    context.clearRect(0, 0, 200, 100);
    Object.assign(context, { strokeStyle: style.color, fillStyle: style.color, lineWidth: 1, font: "9px sans-serif" });
    context.strokeRect(14, 8, 180, 80);
    context.fillText("D", 3, 16);
    context.fillText("step", 172, 98);
    context.beginPath();
    for (let i = 0; i <= p; i++) context.lineTo(x(i), y(values[i]));
    Object.assign(context, { strokeStyle: "#e0631b", lineWidth: 2 });
    context.stroke();
    context.beginPath();
    context.arc(x(p), y(values[p]), 3.5, 0, 7);
    context.fill();
  };

  const show = () => {
    const line = now.line ? (now.line - 1) % 4 : -1;
    const judged = Math.floor(now.line / 4); // the last step that was judged
    const moved = now.line ? Math.floor((now.line - 1) / 4) + (line >= 2 ? 1 : 0) : 0; // the last that was clipped
    [moved, moved, judged].forEach((p, i) => sheets[i](frames[i], p));
    [0, judged].forEach((p, i) => {
      [marks[i].style.top, marks[i].style.left] = centres[p].map((share) => `${share}%`);
    });
    [...code.children].forEach((item, i) => {
      item.classList.toggle("running", i === line);
      item.ariaCurrent = i === line ? "step" : null;
    });
    drawCurve(judged);
    slider.set(Math.ceil(now.line / 4));
    play.textContent = now.playing ? "Pause" : "Play";
    next.disabled = now.line === 4 * steps;
    if (now.playing) return;
    said.textContent = judged
      ? `After step ${judged}: D = ${values[judged].toFixed(1)} pixels, Egyptian cat, ${per(sure[judged])}, ` +
        `${kept[judged] ? "answer kept" : "answer lost: not counted"}. Best so far: step ${best(judged)}.`
      : `The photograph as it is: Egyptian cat, ${per(sure[0])}. The ring marks the centre of its map.`;
  };

  pieces.stage(
    figure,
    make(
      "div",
      { className: "piece-panels" },
      panel("the photograph x", frames[0]),
      panel("its change, magnified", frames[1]),
      panel("its importance map", frames[2]),
    ),
    make("div", { className: "piece-options" }, code, curve.element),
    slider.element,
    play,
    next,
    said,
  );
  show();
});
