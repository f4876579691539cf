// You draw it: of the leading pixels of a map, how many still lead after an attack? The reader draws the curve against
// epsilon, then noise and attack draw theirs; book/play_stored.py reads both off the stored results.
"use strict";

pieces.add("draw", ["play/draw-data.js"], (figure) => {
  const { make, panel, per } = pieces;
  const { sizes, k } = drawData;
  const places = [0, ...sizes]; // at 0 nothing is changed
  const most = places.at(-1);
  const now = pieces.state({ guess: places.map((_, i) => (i ? null : 1)), at: 1, drawn: 0 }, () => show());
  let stop = () => {};

  const [WIDE, HIGH, LEFT, TOP, RIGHT, BOTTOM] = [256, 180, 38, 10, 8, 34];
  const x = (size) => LEFT + ((WIDE - LEFT - RIGHT) * size) / most;
  const y = (share) => TOP + (HIGH - TOP - BOTTOM) * (1 - share);
  const plane = pieces.canvas(WIDE, HIGH, {
    className: "piece-sketch",
    tabIndex: 0,
    role: "application",
    ariaLabel: `Of ${k} leading pixels, how many still lead, against epsilon: arrow keys left and right choose epsilon, up and down your guess`,
  });
  const said = pieces.said();
  const whole = () => now.guess.every((share) => share !== null);
  const reveal = pieces.button("Show what was measured", () => {
    stop();
    let reached = 0; // 1: noise has drawn its curve; 2: so has the attack
    stop = pieces.run(
      () => {
        reached = Math.min(2, reached + 0.05);
        return reached < 2;
      },
      () => (now.drawn = reached),
      () => {},
    );
  });
  const again = pieces.button("Draw again", () => {
    stop();
    Object.assign(now, { guess: places.map((_, i) => (i ? null : 1)), at: 1, drawn: 0 });
  });

  const set = (i, share) => {
    if (now.drawn) return;
    now.at = i;
    now.guess = now.guess.map((old, j) => (j === i ? Math.min(1, Math.max(0, share)) : old));
  };
  let last = null; // where the finger was: every epsilon between there and here gets its guess
  pieces.drag(
    plane.element,
    (right, down) => {
      const [size, share] = [((right * WIDE - LEFT) / (WIDE - LEFT - RIGHT)) * most, 1 - (down * HIGH - TOP) / (HIGH - TOP - BOTTOM)];
      const from = last ?? [size, share];
      places.forEach((place, i) => {
        if (!i) return;
        const near = Math.abs(place - size) <= 0.35;
        const passed = (place - from[0]) * (place - size) < 0;
        if (near) set(i, share);
        else if (passed) set(i, from[1] + ((share - from[1]) * (place - from[0])) / (size - from[0]));
      });
      last = [size, share];
    },
    () => (last = null),
  );
  pieces.arrows(plane.element, (right, down) => {
    if (right) now.at = Math.min(places.length - 1, Math.max(1, now.at + right));
    else set(now.at, (now.guess[now.at] ?? now.guess.slice(0, now.at).findLast((share) => share !== null)) - 0.05 * down);
  });

  const curve = (shares, upTo, style, dash = []) => {
    const { context } = plane;
    Object.assign(context, { strokeStyle: style, fillStyle: style, lineWidth: 2 });
    context.setLineDash(dash);
    context.beginPath();
    shares.forEach((share, i) => share !== null && places[i] <= upTo && context.lineTo(x(places[i]), y(share)));
    context.stroke();
    context.setLineDash([]);
    shares.forEach((share, i) => {
      if (share === null || places[i] > upTo) return;
      context.beginPath();
      context.arc(x(places[i]), y(share), 3, 0, 7);
      context.fill();
    });
  };
  const bars = ({ ends }, upTo) => {
    const { context } = plane;
    context.lineWidth = 1;
    ends.forEach(([low, high], i) => {
      if (sizes[i] > upTo) return;
      context.beginPath();
      context.moveTo(x(sizes[i]), y(low));
      context.lineTo(x(sizes[i]), y(high));
      context.stroke();
    });
  };

  const show = () => {
    const { context } = plane;
    const style = getComputedStyle(figure);
    const ink = style.color;
    context.clearRect(0, 0, WIDE, HIGH);
    Object.assign(context, { strokeStyle: ink, fillStyle: ink, lineWidth: 1, font: "11.5px sans-serif", textAlign: "center" });
    context.strokeRect(LEFT, TOP, WIDE - LEFT - RIGHT, HIGH - TOP - BOTTOM);
    for (const size of places) context.fillText(size, x(size), HIGH - 18);
    context.fillText("\u03b5, levels of 255", (LEFT + WIDE - RIGHT) / 2, HIGH - 4);
    context.textAlign = "right";
    for (const share of [0, 0.5, 1]) context.fillText(per(share), LEFT - 3, y(share) + 3);
    const [noise, attack] = [drawData.random, drawData.top_k];
    curve(now.guess, most, ink, [4, 3]);
    context.textAlign = "left";
    for (const [{ mean, ends }, name, colour, turn] of [[noise, "noise", "#2f81f7", 0], [attack, "attack", "#e0631b", 1]]) {
      const upTo = most * Math.min(1, now.drawn - turn);
      if (upTo <= 0) continue;
      curve([1, ...mean], upTo, colour);
      bars({ ends }, upTo);
      const [right, down] = [x(sizes[0]) + 6, y(mean[0]) - 5];
      Object.assign(context, { lineWidth: 4, strokeStyle: getComputedStyle(document.body).backgroundColor });
      context.strokeText(name, right, down); // keeps the curves off the name
      context.fillText(name, right, down);
    }
    if (!now.drawn && document.activeElement === plane.element) {
      Object.assign(context, { strokeStyle: ink, lineWidth: 1 });
      context.setLineDash([2, 3]);
      context.strokeRect(x(places[now.at]) - 7, TOP + 1, 14, HIGH - TOP - BOTTOM - 2);
      context.setLineDash([]);
    }
    reveal.hidden = now.drawn > 0;
    reveal.disabled = !whole();
    again.hidden = now.drawn === 0;
    if (now.drawn >= 2) {
      const off = now.guess.slice(1).reduce((sum, share, i) => sum + share - attack.mean[i], 0) / sizes.length;
      const how = Math.abs(off) < 0.03 ? "Your curve is the attack's" : `Your curve is ${Math.round(Math.abs(100 * off))} points ${off > 0 ? "above" : "below"} the attack's`;
      said.textContent =
        `${how}, on average. At ${most} of 255 you said ${per(now.guess.at(-1))}; noise leaves ${per(noise.mean.at(-1))}, the attack ${per(attack.mean.at(-1))}. ` +
        `Already at ${sizes[0]}, which nobody sees, the attack leaves ${per(attack.mean[0])}, noise ${per(noise.mean[0])}.`;
    } else if (!now.drawn) {
      const here = now.guess[now.at];
      const missing = now.guess.filter((share) => share === null).length;
      said.textContent =
        document.activeElement === plane.element || !missing
          ? `At \u03b5 = ${places[now.at]}: ${here === null ? "no guess yet" : per(here)}.${missing ? ` ${missing} of ${sizes.length} guesses are missing.` : " That is a whole curve."}`
          : "Draw, from left to right, how many pixels you expect to stay.";
    }
  };
  for (const name of ["focus", "blur"]) plane.element.addEventListener(name, () => show());

  pieces.stage(
    figure,
    make("div", { className: "piece-panels piece-single" }, panel(`of the ${k} leading pixels, how many still lead?`, plane.element)),
    reveal,
    again,
    said,
  );
  show();
});
