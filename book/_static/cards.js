// A card beside a link to a glossary term, a claim or a cited work: on hover, on focus, on a finger's tap. The links stay
// plain links for everyone else; Escape closes the card.
const CARDS = document.currentScript.src.replace("cards.js", "cards-data.js");
const LINKS = '.bd-article a:is([href*="glossary.html#"], [href*="claims.html#"], [href*="bibliography.html#"])';

const known = () =>
  window.cards
    ? Promise.resolve(window.cards)
    : new Promise((resolve) => {
        const script = document.createElement("script");
        script.src = CARDS;
        script.onload = () => resolve(window.cards);
        script.onerror = () => resolve({});
        document.head.append(script);
      });

const card = document.createElement("div");
card.className = "term-card";
card.setAttribute("role", "tooltip");
card.hidden = true;
let shown = null; // the link whose card it is
let wait = 0;

const hide = () => {
  clearTimeout(wait);
  card.hidden = true;
  shown = null;
};
const leave = () => {
  clearTimeout(wait);
  wait = setTimeout(hide, 250); // time enough to reach the card itself
};
const place = (link) => {
  const room = document.documentElement;
  const { left, top, bottom } = link.getClientRects()[0];
  const { width, height } = card.getBoundingClientRect();
  const below = bottom + height + 12 < room.clientHeight;
  card.style.left = `${Math.max(8, Math.min(left, room.clientWidth - width - 8))}px`;
  card.style.top = `${below ? bottom + 6 : Math.max(8, top - height - 6)}px`;
};
const show = async (link, touched = false) => {
  clearTimeout(wait);
  if (shown === link) return;
  shown = link;
  const entry = (await known())[link.pathname.split("/").pop() + link.hash];
  if (!entry || shown !== link) return;
  const [title, text] = entry;
  card.innerHTML = `${title ? `<strong>${title}</strong> ` : ""}<span>${text}</span>`;
  if (touched) {
    const open = document.createElement("a");
    open.href = link.href;
    open.textContent = "Open the page";
    card.append(" ", open);
  }
  card.hidden = false;
  place(link);
};

for (const link of document.querySelectorAll(LINKS)) {
  let finger = false;
  link.addEventListener("pointerenter", (event) => {
    if (event.pointerType !== "mouse") return;
    clearTimeout(wait);
    wait = setTimeout(() => show(link), 200);
  });
  link.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && leave());
  link.addEventListener("focus", () => link.matches(":focus-visible") && !finger && show(link));
  link.addEventListener("blur", (event) => card.contains(event.relatedTarget) || leave());
  link.addEventListener("pointerdown", (event) => (finger = event.pointerType === "touch"));
  link.addEventListener("click", (event) => {
    if (!finger) return;
    event.preventDefault(); // the card has the link
    show(link, true);
    finger = false;
  });
}
for (const stay of ["pointerenter", "pointerdown", "focusin"]) card.addEventListener(stay, () => clearTimeout(wait));
card.addEventListener("focusout", leave);
card.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && leave());
addEventListener("keydown", (event) => event.key === "Escape" && hide());
addEventListener("pointerdown", (event) => !card.contains(event.target) && !event.target.closest?.(LINKS) && hide());
addEventListener(
  "scroll",
  () => {
    if (card.hidden) return;
    const { top, bottom } = shown.getBoundingClientRect();
    bottom < 0 || top > document.documentElement.clientHeight ? hide() : place(shown);
  },
  { passive: true },
);
document.querySelector(".bd-article")?.append(card);
