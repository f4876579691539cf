// The angle dial: the angle between two random directions, as the number of dimensions grows; then the angles that were
// measured, which book/play_stored.py reads off the stored results.
"use strict";

const DIMENSIONS = [2, 3, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 3072];
const WIDTH = 3; // of a bar, in degrees
const PAIRS = 500;
const ASKED = 1024;

// The share of pairs whose angle is below so many degrees, and the angle below which a share of them is: the density of the
// angle a is proportional to sin(a)^(d - 2).
// Summed here in steps of a hundredth of a degree.
const FINE_ANGLES = 9000;
const angleLaw = (dimension) => {
  const sums = [0];
  for (let i = 0; i < FINE_ANGLES; i++) {
    sums.push(sums[i] + Math.sin(((i + 0.5) * Math.PI) / 2 / FINE_ANGLES) ** (dimension - 2));
  }
  return {
    share: (degrees) => sums[Math.round((degrees * FINE_ANGLES) / 90)] / sums[FINE_ANGLES],
    angle: (share) => (90 * sums.findIndex((sum) => sum >= share * sums[FINE_ANGLES])) / FINE_ANGLES,
  };
};
// Angles of pairs of random directions, drawn: by symmetry the first may be an axis.
const drawnAngles = (dimension) =>
  Array.from({ length: PAIRS }, () => {
    const normal = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
    const first = normal();
    let squares = first * first;
    for (let i = 1; i < dimension; i++) squares += normal() ** 2;
    return (Math.acos(Math.abs(first) / Math.sqrt(squares)) * 180) / Math.PI;
  });

pieces.add("dial", ["play/dial-data.js"], (figure) => {
  const { make, panel } = pieces;
  const now = pieces.state({ at: 0, drawn: [], guess: null, measured: false }, () => show());
  const [WIDE, HIGH, LOW] = [300, 160, 22]; // the axis stands LOW above the bottom
  const plot = pieces.canvas(WIDE, HIGH, { role: "img" });
  const law = new Map(DIMENSIONS.map((dimension) => [dimension, angleLaw(dimension)]));
  const said = pieces.said();
  const turn = (at) => Object.assign(now, { at, drawn: drawnAngles(DIMENSIONS[at]) });
  const dial = pieces.slider("Dimensions:", DIMENSIONS.map(String), 0, turn);
  const degrees = Array.from({ length: 91 }, (_, i) => `${i} degrees`);
  const guess = pieces.slider(`Your guess for ${ASKED} dimensions:`, degrees, 45, () => {});
  const sure = pieces.button("That is my guess", () => {
    now.guess = guess.position();
    dial.set(DIMENSIONS.indexOf(ASKED));
    turn(DIMENSIONS.indexOf(ASKED));
  });
  const drop = pieces.button("Drop in what was measured", () => {
    now.measured = !now.measured;
    if (now.measured && !dialData[DIMENSIONS[now.at]]) {
      dial.set(DIMENSIONS.indexOf(ASKED));
      turn(DIMENSIONS.indexOf(ASKED));
    }
  });

  const show = () => {
    const dimension = DIMENSIONS[now.at];
    const { share, angle } = law.get(dimension);
    const { context } = plot;
    const ink = getComputedStyle(figure).color;
    const x = (a) => 6 + ((WIDE - 12) * a) / 90;
    const count = 90 / WIDTH;
    const found = dialData[dimension];
    const random = Array.from({ length: count }, (_, i) => share((i + 1) * WIDTH) - share(i * WIDTH));
    const pairs = random.map((_, i) => now.drawn.filter((a) => Math.min(count - 1, Math.floor(a / WIDTH)) === i).length / PAIRS);
    const total = found?.counts.reduce((sum, one) => sum + one, 0);
    const measured = now.measured && found ? found.counts.map((one) => one / total) : [];
    const tallest = Math.max(...random, ...pairs, ...measured);
    const height = (value) => ((HIGH - LOW - 16) * value) / tallest;
    const bars = (values, style) => {
      context.fillStyle = style;
      values.forEach((value, i) => context.fillRect(x(i * WIDTH), HIGH - LOW - height(value), x(WIDTH) - x(0) - 1, height(value)));
    };
    const steps = (values, style) => {
      Object.assign(context, { strokeStyle: style, lineWidth: 2 });
      context.beginPath();
      values.forEach((value, i) => {
        for (const end of [i, i + 1]) context.lineTo(x(end * WIDTH), HIGH - LOW - height(value));
      });
      context.stroke();
    };
    context.clearRect(0, 0, WIDE, HIGH);
    bars(pairs, "#2f81f7aa");
    steps(random, ink);
    if (measured.length) bars(measured, "#e0631bcc");
    Object.assign(context, { fillStyle: ink, strokeStyle: ink, lineWidth: 1, font: "11px sans-serif", textAlign: "center" });
    context.beginPath();
    context.moveTo(x(0), HIGH - LOW);
    context.lineTo(x(90), HIGH - LOW);
    context.stroke();
    for (const a of [0, 30, 60, 90]) context.fillText(`${a}\u00b0`, Math.min(x(a), WIDE - 12), HIGH - 6);
    if (now.guess !== null) {
      context.setLineDash([3, 3]);
      context.beginPath();
      context.moveTo(x(now.guess), 12);
      context.lineTo(x(now.guess), HIGH - LOW);
      context.stroke();
      context.setLineDash([]);
      context.fillText("your guess", Math.min(WIDE - 30, Math.max(30, x(now.guess))), 9);
    }
    drop.textContent = now.measured ? "Take the measured ones away" : "Drop in what was measured";
    drop.hidden = now.guess === null;
    const typical = angle(0.5);
    const law50 = `In ${dimension} dimensions half of all pairs make more than ${typical.toFixed(1)} degrees, and nineteen in twenty more than ${angle(0.05).toFixed(1)}.`;
    plot.element.ariaLabel = `Histogram of angles from 0 to 90 degrees, in ${dimension} dimensions`;
    const guessed = now.guess !== null && dimension === ASKED ? ` You guessed ${now.guess}.` : "";
    const real = now.measured
      ? found
        ? ` Measured on ${found.name}: half of the fragile directions make more than ${found.median.toFixed(1)} degrees with the score's gradient. So they are more aligned than chance makes them.`
        : ` Angles were measured in ${Object.keys(dialData).join(" and ")} dimensions.`
      : "";
    said.textContent = law50 + guessed + real;
  };

  pieces.stage(
    figure,
    make("div", { className: "piece-panels piece-single" }, panel("angle between two random directions", plot.element)),
    dial.element,
    guess.element,
    sure,
    drop,
    said,
  );
  turn(0);
});
