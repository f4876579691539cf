// Which is the original? Five pairs of a photograph and what an attack on its map made of it; book/play_original.py
// computed them. The answers come after the fifth.
"use strict";

pieces.add("original", ["play/original-data.js"], (figure) => {
  const { make, panel } = pieces;
  const rounds = originalData;
  const shuffled = () => rounds.map(() => (Math.random() < 0.5 ? 0 : 1)); // where the original stands: left or right
  const now = pieces.state({ sides: shuffled(), guesses: [] }, () => show());

  const pair = pieces.sheet("original-pairs.webp", rounds.length, 2);
  const frames = ["the left photograph", "the right one"].map(pieces.frame);
  const titles = ["left", "right"].map((side, i) => panel(side, frames[i]));
  const buttons = ["The left one", "The right one"].map((text, side) =>
    pieces.button(text, () => (now.guesses = [...now.guesses, side])),
  );
  const again = pieces.button("Once more", () => Object.assign(now, { sides: shuffled(), guesses: [] }));
  const said = pieces.said();
  const list = make("ol", { className: "piece-log" });

  const show = () => {
    const round = Math.min(now.guesses.length, rounds.length - 1);
    const over = now.guesses.length === rounds.length;
    frames.forEach((frame, side) => pair(frame, round + (side === now.sides[round] ? 0 : rounds.length)));
    buttons.forEach((button) => (button.hidden = over));
    again.hidden = !over;
    list.replaceChildren();
    if (!over) {
      said.textContent = `Pair ${round + 1} of ${rounds.length}: one is as it was taken, the other attacked. Which is the original?`;
      return;
    }
    const right = now.guesses.filter((guess, i) => guess === now.sides[i]).length;
    said.textContent = `You found ${right} of ${rounds.length}; a coin finds half. To the network they are worlds apart:`;
    rounds.forEach(({ epsilon, name, shift, left }, i) => {
      const verdict = now.guesses[i] === now.sides[i] ? "found" : "missed";
      const text = `${name}, \u03b5 = ${epsilon} of 255: the original was the ${["left", "right"][now.sides[i]]} one (${verdict}). Of the 1000 most important pixels ${pieces.per(left)} stayed; the centre moved ${shift} px. The answer is the same.`;
      list.append(make("li", {}, text));
    });
  };

  pieces.stage(figure, make("div", { className: "piece-panels piece-pair" }, ...titles), ...buttons, again, said, list);
  show();
});
