// A table wider than the page scrolls inside its own box; then, and only then, the keyboard has to reach it.
const reach = () => {
  for (const table of document.querySelectorAll(".bd-article table")) {
    if (table.scrollWidth > table.clientWidth) table.tabIndex = 0;
    else table.removeAttribute("tabindex");
  }
};
addEventListener("resize", reach);
addEventListener("load", () => {
  reach();
  window.MathJax?.startup?.promise?.then(reach);
});
