// Influence of training images, and the truth by training again, for a last layer of two classes on frozen features:
// what fragility.influence.LastLayerInfluence computes. The layer minimises (1/n) sum of cross entropies + l2/2 |theta|^2;
// the two rows of theta sum to zero, so that their difference w says all: a logistic regression with penalty l2/4 |w|^2.
"use strict";

const sigmoid = (z) => 1 / (1 + Math.exp(-z));
const inner = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
const crossEntropy = (w, row, label) => Math.log1p(Math.exp((1 - 2 * label) * inner(w, row)));

// x with A x = b, for a symmetric positive definite A: A = L L^T (Cholesky), then forwards and backwards.
const solved = (matrix, right) => {
  const size = right.length;
  const lower = matrix.map((row) => row.slice());
  for (let j = 0; j < size; j++) {
    for (let k = 0; k < j; k++) for (let i = j; i < size; i++) lower[i][j] -= lower[i][k] * lower[j][k];
    const root = Math.sqrt(lower[j][j]);
    for (let i = j; i < size; i++) lower[i][j] /= root;
  }
  const x = right.slice();
  for (let i = 0; i < size; i++) {
    for (let k = 0; k < i; k++) x[i] -= lower[i][k] * x[k];
    x[i] /= lower[i][i];
  }
  for (let i = size - 1; i >= 0; i--) {
    for (let k = i + 1; k < size; k++) x[i] -= lower[k][i] * x[k];
    x[i] /= lower[i][i];
  }
  return x;
};

// `rows` are features with a 1 at their end, `labels` 0 or 1.
const lastLayer = (rows, labels, l2) => {
  const [n, size] = [rows.length, rows[0].length];

  // Gradient and Hessian of the loss at w, without the images of `out`; the others keep their weight 1/n.
  const look = (w, out) => {
    const gradient = w.map((value) => (l2 / 2) * value);
    const hessian = Array.from(w, (_, i) => Float64Array.from({ length: size }, (_, j) => (i === j ? l2 / 2 : 0)));
    rows.forEach((row, m) => {
      if (out.has(m)) return;
      const p = sigmoid(inner(w, row));
      const [slope, bend] = [(p - labels[m]) / n, (p * (1 - p)) / n];
      for (let i = 0; i < size; i++) {
        gradient[i] += slope * row[i];
        for (let j = 0; j <= i; j++) hessian[i][j] += bend * row[i] * row[j];
      }
    });
    return { gradient, hessian };
  };
  // Newton's method, to the last digits.
  const fit = (out = new Set(), start = new Float64Array(size)) => {
    let w = start;
    for (let round = 0; round < 40; round++) {
      const { gradient, hessian } = look(w, out);
      const step = solved(hessian, gradient);
      w = w.map((value, i) => value - step[i]);
      if (Math.max(...step.map(Math.abs)) < 1e-12) break;
    }
    return w;
  };

  const w = fit();
  const { hessian } = look(w, new Set());
  // How much the loss at a test image would rise without each training image: g_t^T H^-1 g_i / n.
  const influence = (row, label) => {
    const p = sigmoid(inner(w, row));
    const toward = solved(hessian, row.map((value) => (p - label) * value));
    return rows.map((other, i) => ((sigmoid(inner(w, other)) - labels[i]) * inner(toward, other)) / n);
  };
  const leverage = (place) => {
    const p = sigmoid(inner(w, rows[place]));
    return (p * (1 - p) * inner(rows[place], solved(hessian, rows[place]))) / n;
  };
  // How much it rises, by training again without a set of images.
  const retrained = (row, label, out) => {
    const without = fit(out, w);
    return { change: crossEntropy(without, row, label) - crossEntropy(w, row, label), probability: sigmoid(inner(without, row)) };
  };
  return { w, influence, leverage, retrained };
};
