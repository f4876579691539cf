// What all pieces share: pictures to touch, on the pages of this book. A piece is `<figure data-piece="NAME">` around a
// plain picture, which is what a page shows without JavaScript. Its own script, pieces/NAME.js, calls `pieces.add`.
// Controls are native ones, so the keyboard, a finger and a screen reader work as they do elsewhere.
"use strict";

const pieces = (() => {
  const home = new URL(".", document.currentScript.src).href; // also file:, where neither fetch nor modules work
  const scripts = {};
  const load = (file) =>
    (scripts[file] ??= new Promise((done, fail) => {
      const script = Object.assign(document.createElement("script"), { src: home + file, onload: done, onerror: fail });
      document.head.append(script);
    }));

  // Bring every piece of a name to life, once the scripts that it needs are there.
  const add = async (name, needs, build) => {
    for (const file of needs) await load(file);
    for (const figure of document.querySelectorAll(`figure[data-piece="${name}"], figure.${name}`)) {
      await build(figure);
      figure.classList.add("live");
    }
  };
  document.addEventListener("DOMContentLoaded", () => {
    const figures = [...document.querySelectorAll("figure:is([data-piece], .blink)")];
    for (const name of new Set(figures.map((figure) => figure.dataset.piece ?? figure.classList[0]))) {
      load(`pieces/${name}.js`);
    }
  });

  // An element with properties or attributes and children: make("button", { type: "button", "aria-pressed": true }, "Go").
  const make = (tag, properties = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [key, value] of Object.entries(properties)) {
      key in element ? (element[key] = value) : element.setAttribute(key, value);
    }
    element.append(...children);
    return element;
  };

  // Where a piece puts what it makes: before the caption, in the place of the picture.
  const stage = (figure, ...children) => {
    const place = make("div", { className: "piece-stage" }, ...children);
    figure.prepend(place);
    return place;
  };

  const panel = (title, ...children) => make("div", { className: "piece-panel" }, make("div", {}, title), ...children);

  // A square for a picture of a sheet, with a name, and the marks that lie on it: a ring, then a dot.
  const frame = (name) => make("div", { className: "piece-frame", role: "img", ariaLabel: name });
  const marks = (count) => Array.from({ length: count }, (_, i) => make("span", { className: `piece-mark piece-mark-${i}` }));

  const button = (text, onclick) => make("button", { type: "button", className: "piece-button", onclick }, text);

  let number = 0;
  // A slider over named positions: `position()` tells which, `set` moves it; `onInput` gets it.
  const slider = (name, positions, start, onInput) => {
    const id = `piece-${number++}`;
    const shown = make("output", { htmlFor: id });
    const input = make("input", { id, type: "range", min: 0, max: positions.length - 1, value: start });
    const show = () => {
      shown.textContent = positions[input.value];
      input.setAttribute("aria-valuetext", positions[input.value]);
    };
    input.addEventListener("input", () => {
      show();
      onInput(Number(input.value));
    });
    show();
    const element = make("div", { className: "piece-slider" }, make("label", { htmlFor: id }, name), " ", shown, input);
    const set = (position) => {
      input.value = position;
      show();
    };
    return { element, set, position: () => Number(input.value) };
  };

  // A row of radio buttons. `start` is -1 where none is chosen.
  const choice = (name, options, start, onInput, className = "piece-choice") => {
    const key = `piece-${number++}`;
    const inputs = options.map((_, i) => make("input", { type: "radio", name: key, checked: i === start }));
    const labels = inputs.map((input, i) => make("label", {}, input, make("span", {}, options[i])));
    inputs.forEach((input, i) => input.addEventListener("input", () => onInput(i)));
    const element = make("fieldset", { className }, make("legend", {}, name), ...labels);
    const set = (position) => inputs.forEach((input, i) => (input.checked = i === position));
    return { element, labels, set, position: () => inputs.findIndex((input) => input.checked) };
  };

  // A canvas as sharp as the screen; its context's unit is one of `width` parts of its width.
  const canvas = (width, height, properties = {}) => {
    const dense = Math.min(2, window.devicePixelRatio || 1) * Math.max(1, Math.ceil(600 / width));
    const element = make("canvas", { width: width * dense, height: height * dense, ...properties });
    const context = element.getContext("2d");
    context.scale(dense, dense);
    return { element, context };
  };

  // A grey picture or a map, one pixel of a canvas for each number; `colour` gives three of 0 to 255.
  const picture = (side, properties = {}) => {
    const element = make("canvas", { width: side, height: side, className: "piece-picture", ...properties });
    const context = element.getContext("2d");
    const draw = (numbers, colour) => {
      const image = context.createImageData(side, side);
      numbers.forEach((value, i) => image.data.set([...colour(value), 255], 4 * i));
      context.putImageData(image, 0, 0);
    };
    return { element, draw };
  };
  // What the scripts in play/ hold: bytes, written as letters.
  const bytes = (letters) => Uint8Array.from(atob(letters), (letter) => letter.charCodeAt(0));
  const per = (share) => `${Math.round(100 * share)} %`;

  const grey = (value) => Array(3).fill(255 * Math.min(1, Math.max(0, value)));
  // The colours of the book's maps (matplotlib's magma), a dozen of them and what lies between.
  const HEAT = "000004 120d31 331067 59157e 7e2482 a3307e c83e73 e95462 fa7d5e fea973 fed395 fcfdbf"
    .split(" ")
    .map((hex) => [0, 2, 4].map((at) => Number.parseInt(hex.slice(at, at + 2), 16)));
  const heat = (value) => {
    const place = Math.min(1, Math.max(0, value)) * (HEAT.length - 1);
    const below = Math.min(HEAT.length - 2, Math.floor(place));
    return HEAT[below].map((part, i) => part + (place - below) * (HEAT[below + 1][i] - part));
  };

  // A sheet of pictures, so many columns and rows: what shows the `place`th of them, in reading order, in an element.
  const sheet = (file, columns, rows = 1) => (element, place) => {
    const part = (i, count) => `${(100 * i) / Math.max(1, count - 1)}%`;
    Object.assign(element.style, {
      backgroundImage: `url(${new URL(`play/${file}`, home)})`,
      backgroundSize: `${100 * columns}% ${100 * rows}%`,
      backgroundPosition: `${part(place % columns, columns)} ${part(Math.floor(place / columns), rows)}`,
    });
  };

  // Follow a finger, a pen or the mouse over an element: `move` gets shares of its width and height.
  const drag = (element, move, start = () => {}, end = () => {}) => {
    let down = false;
    const place = (event) => {
      const box = element.getBoundingClientRect();
      return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    };
    element.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      down = true;
      element.setPointerCapture(event.pointerId);
      start();
      move(...place(event));
    });
    element.addEventListener("pointermove", (event) => {
      if (down) for (const step of event.getCoalescedEvents?.() ?? [event]) move(...place(step));
    });
    for (const name of ["pointerup", "pointercancel"]) {
      element.addEventListener(name, () => {
        if (down) end();
        down = false;
      });
    }
  };

  // The same by arrow keys, for an element that has the focus: `move` gets steps to the right and down.
  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const arrows = (element, move) =>
    element.addEventListener("keydown", (event) => {
      if (!(event.key in ARROWS) || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      move(...ARROWS[event.key]);
    });

  // A row of buttons is one stop of the tab key; the arrow keys lead along it.
  const rove = (row) => {
    const stops = [...row.children];
    const take = (place) => stops.forEach((stop, i) => (stop.tabIndex = i === place ? 0 : -1));
    row.addEventListener("focusin", (event) => take(stops.indexOf(event.target)));
    arrows(row, (right, down) => stops[stops.indexOf(document.activeElement) + right + down]?.focus());
    take(0);
  };

  // Values whose change redraws a piece, once however many change at a time; so does a change of the colour scheme.
  const state = (values, draw) => {
    let waiting = false;
    const later = () => {
      if (waiting) return;
      waiting = true;
      queueMicrotask(() => {
        waiting = false;
        draw();
      });
    };
    new MutationObserver(later).observe(document.documentElement, { attributeFilter: ["data-theme"] });
    return new Proxy(values, { set: (target, key, value) => ((target[key] = value), later(), true) });
  };

  // Call `step` frame by frame until it returns false; who prefers reduced motion sees the end alone. Returns what stops it.
  const run = (step, show, done, pause = 0) => {
    let stopped = false;
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const frame = () => {
      if (stopped) return;
      const goesOn = step();
      if (!still) show();
      if (goesOn) return still ? setTimeout(frame) : setTimeout(() => requestAnimationFrame(frame), pause);
      show();
      done();
    };
    setTimeout(frame);
    return () => (stopped = true);
  };

  // A line below the piece that a screen reader reads out when it changes.
  const said = () => make("output", { className: "piece-said" });

  return {
    home, load, add, make, stage, panel, frame, marks, button, slider, choice, canvas, picture, sheet, bytes, per, grey, heat,
    drag, arrows, rove, state, run, said,
  };
})();
