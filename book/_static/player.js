// Interactive pieces (book/play.py): a control moves the picture's background to the frame of its position.
document.addEventListener("DOMContentLoaded", () => {
  for (const player of document.querySelectorAll("figure.player")) {
    const frame = player.querySelector(".player-frame");
    const caption = player.querySelector("figcaption");
    const inputs = [...player.querySelectorAll("input")];
    const { columns, rows } = player.dataset;
    const readouts = JSON.parse(player.dataset.readouts);
    const share = (index, count) => `${(100 * index) / Math.max(1, count - 1)}%`;
    const show = () => {
      let index = 0;
      for (const input of inputs) {
        const positions = JSON.parse(input.dataset.positions);
        index = index * positions.length + Number(input.value);
        input.parentElement.querySelector("output").textContent = positions[input.value];
        input.setAttribute("aria-valuetext", positions[input.value]);
      }
      frame.style.backgroundPosition = `${share(index % columns, columns)} ${share(Math.floor(index / columns), rows)}`;
      caption.textContent = readouts[index];
    };
    inputs.forEach((input) => input.addEventListener("input", show));
    player.querySelector(".player-controls").hidden = false;
    show();
  }
});
