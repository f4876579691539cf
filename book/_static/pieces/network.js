// A small ReLU network by hand: its scores, the gradient of a score, the Hessian times a vector, and the attack on the
// gradient's map (Algorithm 1 of the paper). What the book's chapters leave to PyTorch, in plain loops over numbers;
// tests/test_play.py holds these against the package. Images and maps are Float64Arrays, row by row.
"use strict";

// ReLU (beta = Infinity), or softplus of sharpness beta: log(1 + exp(beta z)) / beta, its slope and its bend, the first
// and the second derivative. The bend of ReLU is zero.
const activation = (beta) => {
  if (beta === Infinity) return { value: (z) => Math.max(0, z), slope: (z) => (z > 0 ? 1 : 0), bend: () => 0 };
  const slope = (z) => 1 / (1 + Math.exp(-beta * z));
  return {
    value: (z) => Math.max(0, z) + Math.log1p(Math.exp(-beta * Math.abs(z))) / beta,
    slope,
    bend: (z) => beta * slope(z) * (1 - slope(z)),
  };
};

// The matrix product A B, of m x k and k x n numbers. Four rows of B at a time: most of an attack's time is spent here.
const product = (A, B, m, k, n) => {
  const C = new Float64Array(m * n);
  for (let i = 0; i < m; i++) {
    let p = 0;
    for (; p + 3 < k; p += 4) {
      const a = i * k + p;
      const [a0, a1, a2, a3] = [A[a], A[a + 1], A[a + 2], A[a + 3]];
      let b = p * n;
      for (let c = i * n, end = c + n; c < end; c++, b++) {
        C[c] += a0 * B[b] + a1 * B[b + n] + a2 * B[b + 2 * n] + a3 * B[b + 3 * n];
      }
    }
    for (; p < k; p++) for (let j = 0; j < n; j++) C[i * n + j] += A[i * k + p] * B[p * n + j];
  }
  return C;
};

const transpose = (A, rows, columns) => {
  const B = new Float64Array(A.length);
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) B[j * rows + i] = A[i * columns + j];
  return B;
};

// A linear layer y = W x + b: `forward` computes W x, and adds b if asked to; `transposed` computes W' g.
const dense = (W, b) => {
  const [rows, columns] = [b.length, W.length / b.length];
  const Wt = transpose(W, rows, columns);
  return {
    forward: (x, withBias) => product(W, x, rows, columns, 1).map((y, i) => (withBias ? y + b[i] : y)),
    transposed: (g) => product(Wt, g, columns, rows, 1),
  };
};

// A convolution is a matrix product too, once the pixels under the kernel stand in a column for each of its places.
// Images have a border of one pixel of zeros; `side` is that of the images that come in.
const convolution = (W, b, [channels, filters, kernel, stride], side) => {
  const size = Math.floor((side + 2 - kernel) / stride) + 1;
  const [rows, columns] = [channels * kernel * kernel, size * size];
  const Wt = transpose(W, filters, rows);
  const pixel = new Int32Array(rows * columns); // under a weight (row) at a place (column); -1 is the border
  for (let i = 0; i < pixel.length; i++) {
    const [row, column] = [Math.floor(i / columns), i % columns];
    const y = Math.floor(column / size) * stride + (Math.floor(row / kernel) % kernel) - 1;
    const x = (column % size) * stride + (row % kernel) - 1;
    const inside = Math.min(x, y) >= 0 && Math.max(x, y) < side;
    pixel[i] = inside ? (Math.floor(row / kernel ** 2) * side + y) * side + x : -1;
  }
  return {
    side: size,
    forward(x, withBias) {
      const unfolded = new Float64Array(pixel.length);
      for (let i = 0; i < pixel.length; i++) if (pixel[i] >= 0) unfolded[i] = x[pixel[i]];
      const y = product(W, unfolded, filters, rows, columns);
      if (withBias) for (let i = 0; i < y.length; i++) y[i] += b[Math.floor(i / columns)];
      return y;
    },
    transposed(g) {
      const unfolded = product(Wt, g, rows, filters, columns);
      const x = new Float64Array(channels * side * side);
      for (let i = 0; i < pixel.length; i++) if (pixel[i] >= 0) x[pixel[i]] += unfolded[i];
      return x;
    },
  };
};

// Build the network from what book/play_digit.py wrote: linear layers, with an activation between one and the next.
const network = (data) => {
  const bytes = Uint8Array.from(atob(data.weights), (letter) => letter.charCodeAt(0));
  const integers = new Int16Array(bytes.buffer);
  let start = 0;
  let tensor = 0;
  const read = (count) => {
    const scale = data.scales[tensor++];
    return Float64Array.from(integers.subarray(start, (start += count)), (integer) => scale * integer);
  };
  const layers = [];
  let side = 28;
  for (const shape of data.convolutions) {
    const [channels, filters, kernel] = shape;
    const layer = convolution(read(channels * filters * kernel * kernel), read(filters), shape, side);
    side = layer.side;
    layers.push(layer);
  }
  for (let i = 1; i < data.linear.length; i++) {
    layers.push(dense(read(data.linear[i - 1] * data.linear[i]), read(data.linear[i])));
  }
  return layers;
};

// Forward: the scores, and every layer's output before its activation.
const forward = (layers, image, act) => {
  const outputs = [layers[0].forward(image, true)];
  for (const layer of layers.slice(1)) outputs.push(layer.forward(outputs.at(-1).map(act.value), true));
  return { outputs, scores: outputs.at(-1) };
};

// Backward: the gradient of one score by the image, and the gradients by every layer's output on the way.
const backward = (layers, outputs, label, act) => {
  const top = layers.length - 1;
  const byOutput = [];
  byOutput[top] = new Float64Array(outputs[top].length);
  byOutput[top][label] = 1;
  const byActivation = [];
  for (let l = top; l > 0; l--) {
    byActivation[l - 1] = layers[l].transposed(byOutput[l]);
    byOutput[l - 1] = byActivation[l - 1].map((g, i) => g * act.slope(outputs[l - 1][i]));
  }
  return { gradient: layers[0].transposed(byOutput[0]), byActivation };
};

// The Hessian of the score times a direction: the derivative of the gradient when the image moves that way. Each of the
// two passes is differentiated by the product rule; `d` marks such derivatives.
const hessianProduct = (layers, outputs, byActivation, direction, act) => {
  const top = layers.length - 1;
  const dOutputs = [layers[0].forward(direction, false)];
  for (let l = 1; l < top; l++) {
    dOutputs.push(layers[l].forward(dOutputs[l - 1].map((d, i) => d * act.slope(outputs[l - 1][i])), false));
  }
  let dByOutput = new Float64Array(outputs[top].length); // the score is linear in the last outputs
  for (let l = top; l > 0; l--) {
    const [z, dz, g, dg] = [outputs[l - 1], dOutputs[l - 1], byActivation[l - 1], layers[l].transposed(dByOutput)];
    dByOutput = z.map((value, i) => act.bend(value) * dz[i] * g[i] + act.slope(value) * dg[i]);
  }
  return layers[0].transposed(dByOutput);
};

const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);
const dot = (a, b) => a.reduce((total, number, i) => total + number * b[i], 0);

// The importance map: the gradient's size in every pixel, as a share of the whole.
const importance = (gradient) => {
  const sizes = gradient.map(Math.abs);
  const whole = sum(sizes);
  return sizes.map((size) => (whole > 0 ? size / whole : 1 / sizes.length));
};

const SIDE = 28;
const centre = (map) => [
  map.reduce((total, share, i) => total + share * Math.floor(i / SIDE), 0),
  map.reduce((total, share, i) => total + share * (i % SIDE), 0),
];

// What an attack maximises: D of a map, and by how much D grows with each pixel's share.
const targeted = (region) => (map) => ({ value: dot(map, region), weights: region });
const massCentre = (reference) => {
  const start = centre(reference);
  return (map) => {
    const offset = centre(map).map((place, axis) => place - start[axis]);
    const value = Math.hypot(...offset);
    const away = start.map((place) => (place < (SIDE - 1) / 2 ? Math.SQRT1_2 : -Math.SQRT1_2));
    const unit = value > 1e-12 ? offset.map((part) => part / value) : away; // there any way leads off: to the roomier side
    return { value, weights: map.map((_, i) => unit[0] * Math.floor(i / SIDE) + unit[1] * (i % SIDE)) };
  };
};

// What the network itself says of an image: its answer, how sure it is, and the map that explains a label.
const judge = (layers, image, label) => {
  const relu = activation(Infinity);
  const { outputs, scores } = forward(layers, image, relu);
  const answer = scores.indexOf(Math.max(...scores));
  const odds = scores.map((score) => Math.exp(score - scores[answer]));
  const { gradient } = backward(layers, outputs, label ?? answer, relu);
  return { answer, scores, probabilities: odds.map((odd) => odd / sum(odds)), gradient, map: importance(gradient) };
};

// The direction in which D grows: the Hessian times dD/d(gradient).
const slope = (layers, image, label, objective, act) => {
  const { outputs } = forward(layers, image, act);
  const { gradient, byActivation } = backward(layers, outputs, label, act);
  const map = importance(gradient);
  const { weights } = objective(map);
  const mean = dot(map, weights);
  const whole = sum(gradient.map(Math.abs));
  const byGradient = gradient.map((g, i) => (Math.sign(g) * (weights[i] - mean)) / whole);
  return hessianProduct(layers, outputs, byActivation, byGradient, act);
};

// Algorithm 1: a step along the sign of that direction, clipped to the ball; the network itself judges, and the best
// image that keeps the answer is remembered. `step` returns false where there is no direction.
const attack = (layers, original, { objective, epsilon, alpha, beta }) => {
  const act = activation(beta);
  const before = judge(layers, original);
  const D = objective(before.map);
  const least = original.map((pixel) => Math.max(0, pixel - epsilon));
  const most = original.map((pixel) => Math.min(1, pixel + epsilon));
  const state = { image: original, number: 0, before, direction: null, best: null };
  state.step = () => {
    state.direction = slope(layers, state.image, before.answer, D, act);
    if (!state.direction.some((d) => d !== 0)) return false;
    state.image = state.image.map((pixel, i) =>
      Math.min(Math.max(pixel + alpha * Math.sign(state.direction[i]), least[i]), most[i]),
    );
    state.number += 1;
    const now = judge(layers, state.image, before.answer);
    const value = D(now.map).value;
    const kept = now.answer === before.answer;
    if (kept && !(value <= state.best?.value)) state.best = { ...now, value, image: state.image, number: state.number };
    state.now = { ...now, value, kept };
    return true;
  };
  return state;
};
