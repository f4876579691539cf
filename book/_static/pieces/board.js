// The leave-one-out board: a test digit among the training digits that explain it. Those that are taken out are left out
// in truth: the last layer is trained again, here (influence.js), on features that book/play_board.py computed.
"use strict";

const SHOWN = 8; // training digits on each side of the board
const LEAST = 0.4; // of its place, what a digit without influence would fill

pieces.add("board", ["pieces/influence.js", "play/board-data.js"], (figure) => {
  const { make, panel } = pieces;
  const { names, labels, tests, states, columns, shown } = boardData;
  const width = boardData.width + 1; // the bias's feature
  const numbers = new Int16Array(pieces.bytes(boardData.features).buffer);
  const all = Array.from({ length: numbers.length / boardData.width }, (_, m) =>
    Float64Array.from({ length: width }, (_, i) => (i < boardData.width ? boardData.scale * numbers[m * boardData.width + i] : 1)),
  );
  const training = all.slice(0, labels.length);
  const layer = lastLayer(training, labels, boardData.l2);
  const asked = (test, way) => all[labels.length + test * states.length + way]; // the features of a test digit

  const showTraining = pieces.sheet("board-training.webp", columns, Math.ceil(shown.length / columns));
  const showTest = pieces.sheet("board-tests.webp", states.length, tests.length);

  const now = pieces.state({ test: 0, way: 0, out: [] }, () => show());
  const digit = make("div", { className: "piece-frame piece-digit", role: "img" });
  const rows = ["help most", "harm most"].map((words) => {
    const tiles = Array.from({ length: SHOWN }, () =>
      make("button", { type: "button", className: "piece-tile", onclick: (event) => turn(event.currentTarget.place) }, make("span", { className: "piece-digit" })),
    );
    const row = make("div", { className: "piece-row", role: "group", ariaLabel: `The training digits that ${words}` }, ...tiles);
    pieces.rove(row);
    return { row, tiles };
  });
  const bars = ["promised by influence", "corrected by the leverage", "trained again without"].map((name) => ({ name, text: make("span"), bar: make("span") }));
  const scale = make("div", { className: "piece-bars piece-balance" });
  for (const { name, text, bar } of bars) scale.append(make("div", {}, `${name}: `, text, make("div", {}, bar)));
  const said = pieces.said();
  const test = pieces.choice("Test digit", tests.map((_, t) => String(t + 1)), 0, (t) => Object.assign(now, { test: t, out: [] }), "piece-chips");
  const way = pieces.choice("What was done to it", states, 0, (w) => Object.assign(now, { way: w, out: [] }));
  const best = pieces.button(`Take out the ${SHOWN} that help most`, () => (now.out = ranked().slice(0, SHOWN)));
  const back = pieces.button("Put all back", () => (now.out = []));

  // Influences on the test digit as it is now; `label` is what the layer says of it.
  const look = (w = now.way) => {
    const row = asked(now.test, w);
    const label = tests[now.test];
    const values = layer.influence(row, label);
    const p = sigmoid(inner(layer.w, row));
    return { row, label, values, sure: label === 1 ? p : 1 - p };
  };
  const ranked = (values = look().values) => [...values.keys()].sort((a, b) => values[b] - values[a]);
  const milli = (value) => `${value < 0 ? "\u2212" : "+"}${Math.abs(1000 * value).toFixed(1)}`;

  const fill = (tiles, places, values, most) =>
    tiles.forEach((tile, i) => {
      const place = places[i];
      showTraining(tile.firstChild, shown.indexOf(place));
      tile.firstChild.style.width = `${100 * (LEAST + (1 - LEAST) * Math.sqrt(Math.abs(values[place]) / most))}%`;
      const words = `a ${names[labels[place]]}, influence ${milli(values[place])}`;
      Object.assign(tile, { place, title: words, ariaLabel: `Leave out ${words} thousandths`, ariaPressed: String(now.out.includes(place)) });
    });
  const turn = (place) => (now.out = now.out.includes(place) ? now.out.filter((one) => one !== place) : [...now.out, place]);

  const show = () => {
    const { row, label, values, sure } = look();
    const order = ranked(values);
    const most = Math.max(...values.map(Math.abs));
    showTest(digit, now.test * states.length + now.way);
    digit.ariaLabel = `The test digit, ${states[now.way]}: read as ${names[label]}`;
    fill(rows[0].tiles, order, values, most);
    fill(rows[1].tiles, [...order].reverse(), values, most);
    const promised = now.out.reduce((sum, place) => sum + values[place], 0);
    const corrected = now.out.reduce((sum, place) => sum + values[place] / (1 - layer.leverage(place)), 0);
    const again = layer.retrained(row, label, new Set(now.out));
    const changes = [promised, corrected, again.change];
    const longest = Math.max(most, ...changes.map(Math.abs));
    changes.forEach((change, i) => {
      bars[i].text.textContent = now.out.length ? milli(change) : "nothing is left out";
      bars[i].bar.style.width = `${(50 * Math.abs(change)) / longest}%`;
      bars[i].bar.style.marginLeft = `${50 - (change < 0 ? (50 * -change) / longest : 0)}%`;
    });
    back.disabled = !now.out.length;
    const read = `Read as a ${names[label]}, ${(100 * sure).toFixed(1)} %.`;
    const own = ranked(look(0).values).slice(0, SHOWN);
    const stay = own.filter((place) => order.slice(0, SHOWN).includes(place)).length;
    const moved = now.way ? ` Of the ${SHOWN} that helped most before, ${stay} still do.` : "";
    const without = label === 1 ? again.probability : 1 - again.probability;
    const count = now.out.length === 1 ? "it" : `these ${now.out.length}`;
    const truth = now.out.length
      ? ` Without ${count}: influence promised ${milli(promised)}, corrected ${milli(corrected)}, and training again gives ${milli(again.change)} thousandths of ` +
        `a nat. The layer would then read it as a ${names[label]} with ${(100 * without).toFixed(1)} %.`
      : " Tap a training digit to leave it out.";
    said.textContent = read + moved + truth;
  };

  pieces.stage(
    figure,
    make(
      "div",
      { className: "piece-panels piece-board" },
      panel("the test digit", digit),
      make("div", {}, panel("help: without one the loss rises", rows[0].row), panel("harm: without one the loss falls", rows[1].row)),
    ),
    said, // on a phone in view of the digits
    scale,
    best,
    back,
    test.element,
    way.element,
  );
  show();
});
