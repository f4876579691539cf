// A prediction: press an option, and what the page found unfolds with one's own guess marked. Nothing is counted or kept.
const gate = (list) => {
  const parts = [...document.querySelectorAll(".bd-article :is(details.hide:not(.above-input), details[data-option])")];
  const after = parts.filter((part) => list.compareDocumentPosition(part) & Node.DOCUMENT_POSITION_FOLLOWING);
  const shut = after.slice(0, after.findIndex((part) => part.dataset.option) + 1); // folded outputs up to the answer
  const answer = shut.at(-1);
  if (!answer) return;
  const options = [...list.children];
  const right = Number(answer.dataset.option) - 1;
  const said = document.createElement("p");
  said.setAttribute("role", "status");
  said.className = "guessed";
  list.setAttribute("role", "group");
  list.setAttribute("aria-label", "Your guess");

  const badge = (option, words, name) => {
    const mark = document.createElement("span");
    mark.className = "badge-guess";
    mark.textContent = words;
    option.firstElementChild.append(" ", mark);
    option.classList.add(name);
  };
  const pick = (index) => {
    if (list.classList.contains("picked")) return; // the first guess counts
    list.classList.add("picked");
    options.forEach((option, i) => {
      option.firstElementChild.setAttribute("aria-pressed", i === index);
      option.firstElementChild.setAttribute("aria-disabled", "true");
    });
    badge(options[index], "your guess", "mine");
    badge(options[right], "what this page found", "right");
    said.textContent = index === right ? "As you guessed. The answer is unfolded below." : "It came out otherwise: see below.";
    for (const part of shut) part.open = true;
  };

  options.forEach((option, index) => {
    const button = document.createElement("button");
    const inner = option.children.length === 1 && option.firstElementChild.matches("p") ? option.firstElementChild : option;
    button.type = "button";
    button.append(...inner.childNodes);
    for (const link of button.querySelectorAll("a")) link.replaceWith(...link.childNodes); // no link inside a button
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => pick(index));
    option.setAttribute("role", "presentation");
    option.replaceChildren(button);
  });
  list.classList.add("live");
  list.after(said);
};

document.querySelectorAll(".bd-article ul.options").forEach(gate);
