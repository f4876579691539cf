// Draw a digit, attack its explanation. The network answers and attacks here, in the page: see network.js.
"use strict";

// Bring strokes to where MNIST's digits are: 20 x 20 pixels at most, the centre of mass in the middle of 28 x 28.
// A stroke is a list of points [x, y] in shares of the pad.
const PEN = 2.6;
const rasterised = (strokes) => {
  const points = strokes.flat();
  const [xs, ys] = [0, 1].map((axis) => points.map((point) => point[axis]));
  const [left, top] = [Math.min(...xs), Math.min(...ys)];
  const scale = (20 - PEN) / Math.max(Math.max(...xs) - left, Math.max(...ys) - top, 0.2);
  const context = Object.assign(document.createElement("canvas"), { width: SIDE, height: SIDE }).getContext("2d", {
    willReadFrequently: true,
  });
  Object.assign(context, { lineWidth: PEN, lineCap: "round", lineJoin: "round", strokeStyle: "#fff" });
  const drawn = (right, down) => {
    context.clearRect(0, 0, SIDE, SIDE);
    for (const stroke of strokes) {
      context.beginPath();
      for (const [x, y] of [stroke[0], ...stroke]) context.lineTo((x - left) * scale + right, (y - top) * scale + down);
      context.stroke();
    }
    const { data } = context.getImageData(0, 0, SIDE, SIDE);
    return Float64Array.from({ length: SIDE * SIDE }, (_, i) => data[4 * i + 3] / 255);
  };
  const [row, column] = centre(importance(drawn(4, 4)));
  return drawn(4 + SIDE / 2 - column - 0.5, 4 + SIDE / 2 - row - 0.5);
};

const EDGES = [0, 9, 19, 28];
const NINTHS = ["top left", "top", "top right", "left", "middle", "right", "bottom left", "bottom", "bottom right"];
// A ninth of the map as a mask of ones, the `n`th in reading order.
const ninth = (n) =>
  Float64Array.from({ length: SIDE * SIDE }, (_, i) => {
    const inside = (place, third) => place >= EDGES[third] && place < EDGES[third + 1];
    return inside(Math.floor(i / SIDE), Math.floor(n / 3)) && inside(i % SIDE, n % 3) ? 1 : 0;
  });
const EPSILONS = [1, 2, 4, 8, 16, 24, 32, 48, 64];
const STEPS = [5, 10, 20, 40, 80, 160];
const WAYS = ["the attack, on softplus", "the attack, on ReLU alone", "random noise"];
const BETA = 24; // of the softplus: of those tried, the one with which most of the ten digits can be attacked

pieces.add("digit", ["pieces/network.js", "play/digit-data.js"], (figure) => {
  const { per } = pieces;
  const layers = network(digitData);
  const regions = NINTHS.map((_, n) => ninth(n));
  const stored = pieces.bytes(digitData.digits);
  let strokes = [];
  // `before` and `after` are what the network says of the original and of the image as it is now; `climb` is the attack
  // that runs, if one does; `tries` what came of those that were run.
  const now = pieces.state({ original: null, before: null, image: null, after: null, climb: null, words: "", tries: [] }, () => show());
  let stop = () => {};

  const pad = pieces.canvas(100, 100, { className: "piece-pad", role: "img", ariaLabel: "A pad to draw a digit on" });
  const seen = pieces.picture(SIDE, { role: "img", ariaLabel: "The image as the network gets it" });
  const map = pieces.picture(SIDE, { role: "img", ariaLabel: "Its importance map" });
  const [answer, share, log] = ["piece-note", "piece-note", "piece-log"].map((className) => pieces.make("div", { className }));
  const marks = pieces.marks(2);
  const clear = pieces.button("Clear", () => draw([]));
  const examples = pieces.choice("Take one of MNIST's digits:", [..."0123456789"], 4, (label) => take(label), "piece-chips");
  const place = pieces.choice("Where the importance should go", [...NINTHS, "anywhere else"], 6, () => reset([]), "piece-place");
  const epsilon = pieces.slider("Largest change of a pixel, of 255 steps:", EPSILONS, 6, () => reset());
  const steps = pieces.slider("Steps of the attack:", STEPS, 3, () => reset());
  const way = pieces.choice("What changes the image", WAYS, 0, () => reset());
  const go = pieces.button("Attack", () => (now.climb ? finish() : start()));
  const said = pieces.said();
  place.element.append(pieces.make("div", { className: "piece-over" }, map.element, ...marks, ...place.labels.slice(0, 9)), place.labels[9]);
  const panels = [
    pieces.panel("draw a digit", pad.element, clear),
    pieces.panel("what the network sees", seen.element, answer),
    pieces.panel("its explanation: tap a goal", place.element, share),
  ];
  pieces.stage(
    figure,
    pieces.make("div", { className: "piece-panels" }, ...panels),
    go,
    said,
    log,
    pieces.make("div", { className: "piece-options" }, epsilon.element, steps.element),
    way.element,
    examples.element,
  );

  const change = (image, after = judge(layers, image, now.before.answer)) => Object.assign(now, { image, after });
  // Begin with another digit, with what is known of it; null is none.
  const begin = (original) => {
    const before = original && judge(layers, original);
    Object.assign(now, { original, before });
    reset([]);
  };
  const draw = (drawn) => {
    strokes = drawn;
    examples.set(-1);
    begin(drawn.length ? rasterised(drawn) : null);
  };
  const take = (label) => {
    strokes = [];
    begin(Float64Array.from(stored.subarray(label * SIDE * SIDE, (label + 1) * SIDE * SIDE), (byte) => byte / 255));
  };
  // Other settings begin with the original image; another goal also with an empty list of tries.
  const reset = (tries = now.tries) => {
    stop();
    Object.assign(now, { image: now.original, after: now.before, climb: null, words: "", tries });
  };

  // How far the map has come: in words, as a number, and whether it is there.
  const reached = () => {
    const goal = place.position();
    if (goal === 9) {
      const far = Math.hypot(...centre(now.after.map).map((at, axis) => at - centre(now.before.map)[axis]));
      const number = `${far.toFixed(1)} px`;
      return { words: `The centre of the map lies ${number} from where it was`, number, there: far >= 5 };
    }
    const shares = regions.map((region) => dot(now.after.map, region));
    const there = shares[goal] === Math.max(...shares);
    const was = per(dot(now.before.map, regions[goal]));
    const rank = there ? "more than any other ninth" : "not yet more than any other ninth";
    const words = `The ninth at the ${NINTHS[goal]} holds ${per(shares[goal])} of the importance, ${was} before, ${rank}`;
    return { words, number: per(shares[goal]), there };
  };

  const report = (number) => {
    const size = EPSILONS[epsilon.position()];
    const { answer: label, probabilities } = now.after;
    const kept = label === now.before.answer;
    const far = reached();
    const sure = `${kept ? "Still" : "Now"} a ${label}, ${per(probabilities[label])}`;
    now.words = `${sure}${kept ? "" : ": the answer is lost, so this does not count"}. ${far.words}. No pixel changed by more than ${size} of 255${number}.`;
    const tried = `${["softplus", "ReLU", "noise"][way.position()]} at ${size}`;
    const came = kept ? `${far.number}${far.there ? " \u2713" : ""}` : "answer lost";
    now.tries = [...now.tries.filter((one) => !one.startsWith(`${tried}:`)), `${tried}: ${came}`];
  };

  const start = () => {
    reset();
    const radius = EPSILONS[epsilon.position()] / 255;
    if (way.position() === 2) {
      change(now.original.map((pixel) => Math.min(1, Math.max(0, pixel + (Math.random() < 0.5 ? -radius : radius)))));
      return report("");
    }
    const goal = place.position();
    const objective = (reference) => (goal < 9 ? targeted(regions[goal]) : massCentre(reference));
    const beta = way.position() === 0 ? BETA : Infinity;
    now.climb = attack(layers, now.original, { objective, epsilon: radius, alpha: radius / 10, beta });
    stop = pieces.run(
      () => now.climb.step() && now.climb.number < STEPS[steps.position()],
      () => now.climb.number && change(now.climb.image, now.climb.now),
      () => finish(),
    );
  };
  const finish = () => {
    const { best, number, direction } = now.climb;
    stop();
    now.climb = null;
    if (best) {
      change(best.image, best);
      return report(`; best of ${number} steps: number ${best.number}`);
    }
    change(now.original, now.before);
    now.words = direction.every((d) => d === 0)
      ? "No direction: the attack stands still. Between its kinks a ReLU network is linear, so the second derivative of " +
        `its score is zero, and so is the direction, in ${direction.filter((d) => d === 0).length} of ${SIDE * SIDE} pixels. ` +
        "The map moves in jumps, which no derivative sees. Take softplus, which is curved everywhere."
      : "None of the steps kept the answer.";
  };

  const drawPad = () => {
    const { context } = pad;
    context.fillStyle = "#000";
    context.fillRect(0, 0, 100, 100);
    Object.assign(context, { lineWidth: 8, lineCap: "round", lineJoin: "round", strokeStyle: "#fff" });
    for (const stroke of strokes) {
      context.beginPath();
      for (const [x, y] of [stroke[0], ...stroke]) context.lineTo(100 * x, 100 * y);
      context.stroke();
    }
    Object.assign(context, { fillStyle: "#bbb", font: "10px sans-serif", textAlign: "center" });
    if (!strokes.length) context.fillText("draw here", 50, 53);
  };

  const show = () => {
    drawPad();
    go.disabled = !now.original;
    go.textContent = now.climb ? "Stop" : way.position() === 2 ? "Add noise" : "Attack";
    marks.forEach((mark) => (mark.hidden = !now.original));
    log.textContent = now.tries.length ? `Tried so far (\u2713: it is there): ${now.tries.join("; ")}.` : "";
    if (!now.original) {
      for (const panel of [seen, map]) panel.draw(new Float64Array(SIDE * SIDE), pieces.grey);
      answer.textContent = share.textContent = "";
      said.textContent = "Nothing is drawn yet.";
      return;
    }
    const { before, after } = now;
    const brightest = [...after.map].sort((a, b) => b - a)[7]; // all but a hundredth of the pixels are darker
    seen.draw(now.image, pieces.grey);
    map.draw(after.map, (value) => pieces.heat(value / brightest));
    [before, after].forEach((one, i) => {
      const [row, column] = centre(one.map);
      marks[i].style.left = `${(100 * (column + 0.5)) / SIDE}%`;
      marks[i].style.top = `${(100 * (row + 0.5)) / SIDE}%`;
    });
    answer.textContent = `answer: ${after.answer}, ${per(after.probabilities[after.answer])}`;
    share.textContent = `${place.position() < 9 ? "in the marked ninth" : "centre moved"}: ${reached().number}`;
    const ready = `The network reads a ${before.answer}. Tap where its importance should go, and press the button.`;
    if (!now.climb) said.textContent = now.words || ready; // while it runs, a screen reader hears nothing
  };

  pieces.drag(
    pad.element,
    (x, y) => {
      strokes.at(-1).push([x, y]);
      draw(strokes);
    },
    () => strokes.push([]),
  );
  take(4);
});
