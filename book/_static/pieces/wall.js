// The wall: the gradient of a small network of two pixels, as coloured tiles and an arrow. Eight neurons at most,
// score S(x) = sum of a f(w.x + b) with f ReLU or softplus (network.js); everything is computed here.
"use strict";

// Of each neuron the direction of w in degrees, b, and a.
const NEURONS = [
  [25, 0.35, 1.0],
  [115, 0.1, 0.9],
  [250, 0.3, 0.8],
  [335, -0.25, 0.7],
  [70, -0.4, 0.8],
  [190, -0.1, 0.9],
  [150, 0.5, -0.5],
  [290, -0.45, 0.9],
].map(([degrees, b, a]) => ({ w: [Math.cos((degrees * Math.PI) / 180), Math.sin((degrees * Math.PI) / 180)], b, a }));
const BETAS = ["1", "2", "4", "8", "16", "32", "ReLU"];
const FINE = 150; // tiles are computed on so many points a side

pieces.add("wall", ["pieces/network.js"], (figure) => {
  const { canvas, make, panel } = pieces;
  const plane = canvas(2, 2, { className: "piece-plane", tabIndex: 0, role: "application", ariaLabel: "The image's two pixels as a point: arrow keys move it" });
  const tiles = make("canvas", { width: FINE, height: FINE });
  const shares = [1, 2].map((pixel) => ({ bar: make("span"), text: make("span"), pixel }));
  const bars = make("div", { className: "piece-bars" });
  for (const { bar, text, pixel } of shares) bars.append(make("div", {}, `pixel ${pixel}: `, text, make("div", {}, bar)));
  const bend = make("p", { className: "piece-note" });
  const changed = () => {
    now.trail = [];
    paint();
  };
  const neurons = pieces.slider("Neurons:", ["1", "2", "3", "4", "5", "6", "7", "8"], Number(figure.dataset.neurons ?? 8) - 1, changed);
  const beta = pieces.slider("Sharpness beta:", BETAS, BETAS.indexOf(figure.dataset.beta ?? "ReLU"), changed);
  const said = pieces.said();
  const now = pieces.state({ x: [-0.1, 0.1], trail: [] }, () => show());

  const relu = () => beta.position() === BETAS.length - 1;

  // The gradient of S at x and the size of its second derivative (the Frobenius norm of the Hessian).
  const look = (x) => {
    const act = activation(relu() ? Infinity : Number(BETAS[beta.position()]));
    const gradient = [0, 0];
    const hessian = [0, 0, 0, 0];
    for (const { w, b, a } of NEURONS.slice(0, neurons.position() + 1)) {
      const z = w[0] * x[0] + w[1] * x[1] + b;
      for (const i of [0, 1]) gradient[i] += a * act.slope(z) * w[i];
      for (const i of [0, 1, 2, 3]) hessian[i] += a * act.bend(z) * w[i >> 1] * w[i % 2];
    }
    return { gradient, bend: Math.hypot(...hessian) };
  };
  const angle = ([across, up]) => Math.atan2(up, across);

  // The colour of a gradient: hue for its direction, stronger as it is longer.
  const colour = (gradient) => {
    const strength = Math.min(1, Math.hypot(...gradient) / 1.5);
    return [0, 1, 2].map((i) => {
      const wave = 0.5 + 0.5 * Math.cos(angle(gradient) - (i * 2 * Math.PI) / 3);
      return 255 * (0.86 * (1 - strength) + strength * (0.3 + 0.65 * wave));
    });
  };
  const paint = () => {
    const context = tiles.getContext("2d");
    const image = context.createImageData(FINE, FINE);
    for (let i = 0; i < FINE * FINE; i++) {
      const x = [(2 * ((i % FINE) + 0.5)) / FINE - 1, 1 - (2 * (Math.floor(i / FINE) + 0.5)) / FINE];
      image.data.set([...colour(look(x).gradient), 255], 4 * i);
    }
    context.putImageData(image, 0, 0);
    now.x = now.x;
  };

  const arrow = (context, [across, up], gradient, style, width) => {
    const length = 0.22;
    const [x, y] = [1 + across, 1 - up];
    const [toX, toY] = [x + length * gradient[0], y - length * gradient[1]];
    const turn = Math.atan2(toY - y, toX - x);
    const head = Math.min(0.1, 0.5 * Math.hypot(toX - x, toY - y)) * (width / 0.03);
    Object.assign(context, { strokeStyle: style, lineWidth: width, lineCap: "round" });
    context.beginPath();
    context.moveTo(x, y);
    context.lineTo(toX, toY);
    for (const side of [-0.5, 0.5]) {
      context.moveTo(toX, toY);
      context.lineTo(toX - head * Math.cos(turn + side), toY - head * Math.sin(turn + side));
    }
    context.stroke();
  };

  const show = () => {
    const { context } = plane;
    context.drawImage(tiles, 0, 0, 2, 2);
    if (relu()) {
      Object.assign(context, { strokeStyle: "#0006", lineWidth: 0.008 });
      context.beginPath();
      for (const { w, b } of NEURONS.slice(0, neurons.position() + 1)) {
        const [x, y] = [1 - b * w[0], 1 + b * w[1]];
        context.moveTo(x - 4 * w[1], y - 4 * w[0]);
        context.lineTo(x + 4 * w[1], y + 4 * w[0]);
      }
      context.stroke();
    }
    for (const x of now.trail) arrow(context, x, look(x).gradient, "#0005", 0.012);
    const { gradient, bend: size } = look(now.x);
    arrow(context, now.x, gradient, "#000", 0.03);
    context.beginPath();
    context.arc(1 + now.x[0], 1 - now.x[1], 0.035, 0, 7);
    Object.assign(context, { fillStyle: "#fff", strokeStyle: "#000", lineWidth: 0.02 });
    context.fill();
    context.stroke();

    const whole = Math.abs(gradient[0]) + Math.abs(gradient[1]);
    shares.forEach(({ bar, text }, i) => {
      const share = whole > 1e-9 ? Math.abs(gradient[i]) / whole : 0;
      text.textContent = whole > 1e-9 ? pieces.per(share) : "none";
      bar.style.width = `${100 * share}%`;
    });
    bend.textContent = `second derivative: ${size < 1e-6 ? "0" : size.toFixed(2)}`;
    const lone = neurons.position() === 0;
    const degrees = Math.round((angle(gradient) * 180) / Math.PI);
    const where = whole > 1e-9 ? `The arrow has length ${Math.hypot(...gradient).toFixed(2)} and points to ${degrees} degrees.` : "No neuron is active: no arrow, no explanation.";
    const why = lone
      ? "One neuron: wherever you go the arrow keeps its direction, so the explanation cannot be moved."
      : relu()
        ? "Inside a tile nothing changes, and the second derivative is zero: an attack gets no direction. At an edge the arrow jumps."
        : "The edges are soft: the arrow turns as you go, and the second derivative says which way to go.";
    said.textContent = `${where} ${why}`;
  };

  // Go to a point, and leave an arrow behind where the last one is some way off.
  const go = (x) => {
    const last = now.trail.at(-1);
    if (!last || Math.hypot(last[0] - now.x[0], last[1] - now.x[1]) > 0.15) now.trail = [...now.trail, now.x].slice(-40);
    now.x = x.map((part) => Math.min(1, Math.max(-1, part)));
  };
  pieces.drag(plane.element, (right, down) => go([2 * right - 1, 1 - 2 * down]));
  pieces.arrows(plane.element, (right, down) => go([now.x[0] + 0.04 * right, now.x[1] - 0.04 * down]));
  pieces.stage(
    figure,
    make(
      "div",
      { className: "piece-panels piece-wall" },
      panel("the image: drag the point", plane.element),
      panel("its explanation", bars, bend),
    ),
    make("div", { className: "piece-options" }, neurons.element, beta.element),
    said,
  );
  paint();
});
