// A table, a listing, a formula or a figure wider than the page scrolls in its own box. Only then does the keyboard have
// to reach it, and only then does its edge fade, to say that it goes on.
const BOXES = ".bd-article :is(.pst-scrollable-table-container, .output, pre, .math, a:has(> picture))";
const reach = () => {
  for (const formula of document.querySelectorAll(".bd-article span.math")) {
    const room = formula.closest("p, li, dd, td, th, h1, h2, h3, h4, figcaption, div").clientWidth;
    formula.classList.toggle("wide", formula.firstElementChild?.offsetWidth > room);
  }
  for (const box of document.querySelectorAll(BOXES)) {
    const more = box.scrollWidth > box.clientWidth + 1;
    if (!box.matches("a")) more ? (box.tabIndex = 0) : box.removeAttribute("tabindex");
    box.classList.toggle("goes-on", more && box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
  }
};

addEventListener("resize", reach);
addEventListener("scroll", reach, { capture: true, passive: true }); // of any box; scrolling does not bubble
addEventListener("load", () => {
  reach();
  window.MathJax?.startup?.promise?.then(reach);
});
