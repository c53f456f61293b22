"use strict";
(() => {
  const PRINTED = 690; // pixels that fit between the margins of an A4 or letter page
  const [LOW, SHRUNK] = [450, 0.75]; // high figures are lower on paper, so that two share a page
  let printing = false;
  const heights = new Map();
  const coarse = matchMedia("(pointer: coarse)").matches;
  const waiting = [...document.querySelectorAll("script[data-figure]")];
  const drawn = [];

  // A finger that scrolls over a figure must scroll the page: there nothing is dragged or zoomed.
  function still(layout) {
    layout.dragmode = false;
    for (const name of Object.keys(layout)) if (/^[xy]axis\d*$/.test(name)) layout[name].fixedrange = true;
  }

  function draw(block) {
    const place = document.getElementById(block.dataset.figure);
    const { data, layout } = JSON.parse(block.textContent);
    if (coarse) still(layout);
    place.textContent = "";
    drawn.push(place);
    heights.set(place, layout.height);
    return Plotly.newPlot(place, data, layout, {
      displaylogo: false, responsive: true, displayModeBar: coarse ? false : "hover", showTips: false,
      modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
    });
  }

  // One by one, so that the page answers while it draws.
  async function drawAll() {
    while (waiting.length) {
      try {
        await draw(waiting.shift());
      } catch (error) {
        console.error(error);
      }
      await new Promise((next) => setTimeout(next));
    }
    document.documentElement.dataset.drawn = drawn.length;
    reachable();
  }

  // What scrolls must be reached by keyboard; what does not is no stop on the way.
  function reachable() {
    for (const box of document.querySelectorAll(".wide, pre")) {
      if (box.scrollWidth > box.clientWidth + 1 || box.scrollHeight > box.clientHeight + 1) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  }

  // plotly forgets the height it was given when the window is resized.
  function sized(place, share, layout) {
    const height = Math.round(heights.get(place) * share);
    place.style.height = `${height}px`;
    Plotly.relayout(place, { ...layout, height });
  }

  // Cells that hold several lines keep their height.
  function shrinks(place) {
    return heights.get(place) > LOW && !place.data.some((trace) => trace.type === "heatmap");
  }

  // Twice in a row (print media and the event) it must not shrink twice.
  function print() {
    if (printing) return;
    printing = true;
    while (waiting.length) draw(waiting.shift());
    for (const place of drawn) sized(place, shrinks(place) ? SHRUNK : 1, { autosize: false, width: PRINTED });
  }

  function unprint() {
    printing = false;
    for (const place of drawn) sized(place, 1, { autosize: true, width: null });
  }

  // Numbers by number, other text by alphabet; what is missing comes last either way.
  function compared(a, b, sign) {
    const [x, y] = [a, b].map((cell) => cell.dataset.value ?? cell.textContent.trim());
    if (x === "" || y === "") return (x === "") - (y === "");
    const [u, v] = [Number(x), Number(y)];
    const order = Number.isNaN(u) || Number.isNaN(v) ? x.localeCompare(y, "en", { numeric: true }) : u - v;
    return sign * order;
  }

  function sort(head) {
    const table = head.closest("table");
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const body = table.tBodies[0];
    const rows = [...body.rows].sort((a, b) => compared(a.cells[head.cellIndex], b.cells[head.cellIndex], up ? 1 : -1));
    body.append(...rows);
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("th button");
    if (button) sort(button.parentElement);
  });
  addEventListener("resize", reachable);
  addEventListener("beforeprint", print);
  addEventListener("afterprint", unprint);
  drawAll();
})();
