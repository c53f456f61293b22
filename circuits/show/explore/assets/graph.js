/* The graph: what is shown, how it looks, where the eye goes. State lives here and in the address; numbers come from the run. */
(function () {
  "use strict";
  const EMOTIONS = ["anger", "disgust", "fear", "happiness", "sadness", "surprise"];
  const COLOURS = { anger: "#D55E00", disgust: "#009E73", fear: "#CC79A7", happiness: "#E69F00", sadness: "#0072B2", surprise: "#56B4E9" };
  const SUPPORTS = "#0072B2", OPPOSES = "#D55E00", INK = "#222222", GREY = "#8a8a8a";
  const SMALL = 13, LARGE = 44;
  const ME = (window.explorer = window.explorer || {});
  const known = new Map();          // id -> node or edge of the scene
  let view = null;                  // the last filters
  let scene = null;
  ME.work = { hidden: [], pinned: [], moved: {}, labels: {}, groups: [] };
  ME.picked = null;                 // the node whose panel is open
  ME.COLOURS = COLOURS;

  ME.cy = function () {
    const root = document.getElementById("graph");
    if (!root) return null;
    if (root._cyreg) return root._cyreg.cy;
    for (const part of root.querySelectorAll("div")) if (part._cyreg) return part._cyreg.cy;
    return null;
  };

  /* ---- styles: functions of the values that `draw` puts on each element ---- */
  /* Large drawings are seen from farther away: what must be readable grows with them. */
  let unit = 1, many = false;
  function styles() {
    const pies = {};
    for (let i = 1; i <= 6; i++) {
      pies["pie-" + i + "-background-color"] = "data(c" + i + ")";
      pies["pie-" + i + "-background-size"] = "data(s" + i + ")";
      pies["pie-" + i + "-background-opacity"] = 1;
    }
    return [
      { selector: "node", style: { width: "data(size)", height: "data(size)", shape: "data(shape)", "background-color": "data(pale)",
        "background-opacity": "data(opacity)", "border-width": "data(rim)", "border-color": "data(colour)", "border-style": "data(line)",
        label: "data(label)", "font-size": 12 * unit, "font-family": "system-ui, sans-serif", color: INK, "text-valign": "top", "text-margin-y": -2 * unit,
        "text-background-color": "#ffffff", "text-background-opacity": 0.8, "text-background-padding": 1, "min-zoomed-font-size": 7,
        "pie-size": "data(core)", "z-index": 10, "overlay-padding": 4, "overlay-opacity": 0 } },
      { selector: "node[pies]", style: pies },
      { selector: "node.unlabelled", style: { label: "" } },
      { selector: "node.end", style: { shape: "round-rectangle", width: 74 * unit, height: 24 * unit, "text-valign": "center", "text-margin-y": 0,
        color: "#ffffff", "background-opacity": 1, "background-color": "data(colour)", "text-background-opacity": 0, "border-width": 0, label: "data(label)" } },
      { selector: "node.dark", style: { color: INK } },
      { selector: "node.row", style: { width: 1, height: 1, "background-opacity": 0, "border-width": 0, label: "data(label)", "text-halign": "left",
        "text-valign": "center", color: "#595959", "font-size": 13 * unit, events: "no", "text-background-opacity": 0, "text-margin-y": 0 } },
      { selector: "node.random", style: { width: 9 * unit, height: 9 * unit, "background-opacity": 0, "border-width": unit, "border-color": GREY, "border-style": "solid", label: "", "z-index": 1, opacity: 0.8 } },
      { selector: "node.group", style: { shape: "round-rectangle", "background-opacity": 0.25 } },
      { selector: "node.pinned", style: { "border-width": 3, "border-color": INK } },
      { selector: "edge", style: { width: "data(width)", "line-color": "data(colour)", "line-style": "data(line)", opacity: "data(opacity)",
        "curve-style": many ? "haystack" : "straight", "z-index": 2, "overlay-opacity": 0, events: "yes" } },
      { selector: ".faint", style: { opacity: 0.12 } },
      { selector: "edge.path", style: { opacity: 1, "z-index": 8 } },
      { selector: "node:selected", style: { "overlay-color": INK, "overlay-opacity": 0.15 } },
      { selector: "node.picked", style: { "overlay-color": INK, "overlay-opacity": 0.28 } },
      { selector: ".gone", style: { display: "none" } },
    ];
  }

  function pale(colour) { // two thirds of the way to white
    const n = parseInt(colour.slice(1), 16), mix = (v) => Math.round(v + (255 - v) * 0.62);
    return "#" + ((mix(n >> 16) << 16) | (mix((n >> 8) & 255) << 8) | mix(n & 255)).toString(16).padStart(6, "0");
  }

  /* ---- what is shown ---- */
  function members(node) { return view.emotions.filter((e) => node.by[e] && node.by[e][6]); }
  function strongest(values) { // the number of the emotion on which it is largest
    let best = null;
    for (const v of values) if (!best || Math.abs(v[0]) > Math.abs(best[0])) best = v;
    return best;
  }
  function scale() {
    let node = 0, edge = 0;
    for (const n of scene.nodes) for (const e of members(n)) node = Math.max(node, Math.abs(n.by[e][0]));
    for (const d of scene.edges) for (const e of view.emotions) if (d.by[e]) edge = Math.max(edge, Math.abs(d.by[e][0]));
    return { node: node || 1, edge: edge || 1 };
  }
  function nodeShown(n, top) {
    if (n.kind === "embed") return true;
    if (n.kind === "readout") return view.emotions.includes(n.id);
    const own = members(n);
    if (ME.work.hidden.includes(n.id)) return false;
    if (!own.length) return false;
    if (ME.work.pinned.includes(n.id)) return true;
    const v = strongest(own.map((e) => n.by[e]));
    return view.kinds.includes(n.kind) && n.layer >= view.layers[0] && n.layer <= view.layers[1]
      && Math.abs(v[0]) >= view.effect * top && (!view.verified || v[4] === 1) && (!view.shared || own.length > 1);
  }
  function edgeValue(d) { return strongest(view.emotions.filter((e) => d.by[e]).map((e) => d.by[e])); }

  function nodeData(n, top) {
    const own = members(n), v = strongest(own.map((e) => n.by[e]));
    const colour = view.colour === "sign" && own.length <= 1 ? (v[0] >= 0 ? SUPPORTS : OPPOSES) : COLOURS[own[0]];
    const grown = (1 + unit) / 2, span = (x) => grown * (SMALL + (LARGE - SMALL) * Math.min(1, Math.abs(x) / top));
    const sided = v[1] !== null && v[1] * v[2] > 0;
    const sure = v[1] === null ? 0 : sided ? Math.min(Math.abs(v[1]), Math.abs(v[2])) : 0;
    const most = v[1] === null ? Math.abs(v[0]) : Math.max(Math.abs(v[1]), Math.abs(v[2]));
    const size = Math.min(span(most), grown * LARGE * 1.25), exact = v[4] === 1;
    const data = { label: ME.work.labels[n.id] || n.id, size: size, shape: n.kind === "head" ? "ellipse" : "diamond", colour: colour,
      pale: pale(colour), rim: (exact ? 1.2 : 2) * grown, line: exact ? "solid" : "dashed", opacity: exact ? 1 : 0,
      core: exact && sided ? Math.round(100 * Math.min(1, span(sure) / size)) + "%" : "0%", effect: v[0], pies: 1 };
    for (let i = 1; i <= 6; i++) {
      const e = own[i - 1];
      data["c" + i] = e ? (own.length === 1 ? colour : COLOURS[e]) : "#ffffff";
      data["s" + i] = e ? 100 / own.length : 0;
    }
    return data;
  }
  const grownEdge = () => (1 + unit) / 2;
  function edgeData(d, top, v) {
    const own = view.emotions.filter((e) => d.by[e]);
    const colour = view.colour === "sign" && own.length === 1 ? (v[0] >= 0 ? SUPPORTS : OPPOSES) : own.length > 1 ? "#6b6b6b" : COLOURS[own[0]];
    const crosses = v[1] === null || v[1] * v[2] <= 0;
    return { width: unit * 0.6 + grownEdge() * 5 * Math.abs(v[0]) / top, colour: colour, line: v[3] === "gradient" ? "dashed" : crosses ? "dotted" : "solid",
      opacity: crosses ? 0.4 : 0.72, weight: v[0] };
  }

  /* ---- drawing: elements are kept, only what changed is touched ---- */
  function wanted() {
    const top = scale(), nodes = new Map(), edges = new Map();
    const inside = ME.groupOf ? ME.groupOf() : {};
    for (const n of scene.nodes) {
      if (nodeShown(n, top.node)) {
        if (inside[n.id]) continue;
        const end = n.kind === "embed" || n.kind === "readout";
        const data = end ? { label: n.kind === "embed" ? "tokens" : n.id, colour: n.kind === "embed" ? INK : COLOURS[n.id], size: 20, shape: "round-rectangle",
          pale: "#ffffff", rim: 0, line: "solid", opacity: 1, core: "0%" } : nodeData(n, top.node);
        const light = ["happiness", "surprise", "fear"].includes(n.id);
        nodes.set(n.id, { data: data, classes: end ? "end" + (light ? " dark" : "") : ME.work.pinned.includes(n.id) ? "pinned" : "", at: ME.work.moved[n.id] || [n.x, n.y], layer: n.layer });
      } else if (view.nulls !== null && n.null.some((x) => view.emotions.includes(x[0]) && x[1] === view.nulls)) {
        nodes.set(n.id, { data: { label: n.id, colour: GREY, size: 9, shape: n.kind === "head" ? "ellipse" : "diamond", pale: "#ffffff", rim: 1, line: "solid", opacity: 0, core: "0%" }, classes: "random", at: [n.x, n.y], layer: n.layer });
      }
    }
    const ends = (id) => inside[id] ? "group:" + inside[id] : id;
    if (ME.groupNodes) for (const [id, g] of ME.groupNodes(top.node, known, (n) => nodeShown(n, top.node), (n) => nodeData(n, top.node))) nodes.set(id, g);
    const sums = new Map();
    for (const d of scene.edges) {
      const v = edgeValue(d);
      if (!v || Math.abs(v[0]) < view.edge * top.edge) continue;
      const a = ends(d.source), b = ends(d.target);
      if (a === b || !nodes.has(a) || !nodes.has(b) || nodes.get(a).classes === "random" || nodes.get(b).classes === "random") continue;
      if (a === d.source && b === d.target) edges.set(d.id, { source: a, target: b, data: edgeData(d, top.edge, v) });
      else { // into or out of a group: weights add up, intervals do not
        const key = a + "→" + b, s = sums.get(key) || { source: a, target: b, w: 0, n: 0 };
        s.w += v[0]; s.n += 1; sums.set(key, s);
      }
    }
    for (const [key, s] of sums) edges.set(key, { source: s.source, target: s.target, data: { width: unit * 0.6 + grownEdge() * 5 * Math.min(1, Math.abs(s.w) / top.edge),
      colour: s.w >= 0 ? SUPPORTS : OPPOSES, line: "dashed", opacity: 0.7, weight: s.w, sum: s.n } });
    return { nodes: nodes, edges: edges, top: top };
  }

  function same(old, data) { for (const k in data) if (old[k] !== data[k]) return false; return true; }

  function draw() {
    const cy = ME.cy();
    if (!cy || !scene || !view) return null;
    const want = wanted();
    cy.batch(function () {
      cy.elements().forEach(function (el) {
        if (el.hasClass("row")) return;
        if (!(el.isNode() ? want.nodes : want.edges).has(el.id())) el.remove();
      });
      const fresh = [];
      for (const [id, n] of want.nodes) {
        const el = cy.getElementById(id);
        const random = n.classes === "random";
        if (el.length && el.isNode()) {
          if (!same(el.data(), n.data)) el.data(n.data); el.classes(n.classes + (el.hasClass("picked") ? " picked" : ""));
          if (el.position("x") !== n.at[0] || el.position("y") !== n.at[1]) el.position({ x: n.at[0], y: n.at[1] });
        } else fresh.push({ group: "nodes", data: Object.assign({ id: id }, n.data), position: { x: n.at[0], y: n.at[1] }, classes: n.classes, selectable: !random });
      }
      for (const [id, d] of want.edges) {
        const el = cy.getElementById(id);
        if (el.length) { if (!same(el.data(), d.data)) el.data(d.data); }
        else fresh.push({ group: "edges", data: Object.assign({ id: id, source: d.source, target: d.target }, d.data), selectable: false });
      }
      if (fresh.length) cy.add(fresh);
    });
    label(cy);
    mark(cy);
    const all = scene.nodes.filter((n) => members(n).length).length;
    const shown = [...want.nodes.values()].filter((n) => n.classes !== "end" && n.classes !== "end dark" && n.classes !== "random").length;
    const weighed = scene.edges.filter((d) => edgeValue(d)).length;
    return { nodes: shown, of: all, edges: want.edges.size, weighed: weighed, top: want.top };
  }

  /* Labels: the strongest keep theirs, one that would lie on another is hidden. */
  function label(cy) {
    const cell = new Map(), wide = 90 * unit, high = 30 * unit;
    const near = (b) => { const found = []; for (let i = Math.floor(b[0] / wide) - 1; i <= Math.floor(b[2] / wide) + 1; i++) for (let j = Math.floor(b[1] / high) - 1; j <= Math.floor(b[3] / high) + 1; j++) found.push(...(cell.get(i + "," + j) || [])); return found; };
    const keep = (b) => { const key = Math.floor(b[0] / wide) + "," + Math.floor(b[1] / high); if (!cell.has(key)) cell.set(key, []); cell.get(key).push(b); };
    const nodes = cy.nodes().filter((n) => !n.hasClass("row") && !n.hasClass("end") && !n.hasClass("random")).toArray();
    nodes.sort((a, b) => (b.hasClass("picked") - a.hasClass("picked")) || Math.abs(b.data("effect")) - Math.abs(a.data("effect")));
    for (const n of nodes) { const p = n.position(), r = n.data("size") / 2; n.scratch("box", [p.x - r, p.y - r, p.x + r, p.y + r]); }
    cy.batch(function () {
      for (const n of nodes) {
        const p = n.position(), w = String(n.data("label")).length * 7.7 * unit + 8 * unit, h = 15 * unit, r = n.data("size") / 2;
        const b = [p.x - w / 2, p.y - r - h, p.x + w / 2, p.y - r];
        const hit = near(b).some((o) => b[0] < o[2] && o[0] < b[2] && b[1] < o[3] && o[1] < b[3]);
        n.toggleClass("unlabelled", hit);
        if (!hit) keep(b);
      }
    });
  }

  function rows(cy, layout) {
    cy.remove(cy.nodes(".row"));
    cy.add(layout.rows.map(([name, y]) => ({ group: "nodes", data: { id: "row:" + name, label: name, size: 1, shape: "ellipse", colour: "#ffffff", pale: "#ffffff", rim: 0, line: "solid", opacity: 0, core: "0%" },
      position: { x: -layout.width / 2 - 44 * unit, y: y }, classes: "row", selectable: false, grabbable: false })));
  }

  /* On the whole drawing, shown or filtered away: what filters bring back must not lie outside. */
  let extent = null;
  ME.fit = function () {
    const cy = ME.cy();
    if (!cy || !extent) return;
    const w = extent.width + 190 * unit, h = extent.height + 70 * unit, zoom = Math.min(cy.width() / w, cy.height() / h, 1.6);
    cy.viewport({ zoom: zoom, pan: { x: cy.width() / 2 + 52 * unit * zoom, y: cy.height() / 2 + (extent.height / 2) * zoom } });
  };

  /* ---- the eye: picking a node, and the paths through it ---- */
  ME.pick = function (id, silent) {
    const cy = ME.cy();
    ME.picked = id;
    if (cy) mark(cy);
    if (!silent) dash_clientside.set_props("picked", { data: id });
    ME.address();
    ME.tell(id ? describe(id) : "nothing picked");
  };
  function number(x) { return x === null || x === undefined ? "–" : (x >= 0 ? "+" : "−") + Math.abs(x).toFixed(Math.abs(x) < 0.1 ? 3 : 2); }
  ME.number = number;
  function describe(id) {
    const n = known.get(id);
    if (!n || !n.by) return String(id);
    const own = view.emotions.filter((e) => n.by[e]);
    return id + ": " + own.map((e) => e + " " + number(n.by[e][0]) + " [" + number(n.by[e][1]) + ", " + number(n.by[e][2]) + "] logits, " + (n.by[e][4] ? "exact" : "estimated") + (n.by[e][6] ? "" : ", not in its circuit")).join("; ");
  }
  ME.describe = describe;

  ME.way = "none"; // none, up, down, both: which paths are lit
  function mark(cy) {
    cy.batch(function () {
      cy.elements(".faint").removeClass("faint");
      cy.elements(".path").removeClass("path");
      cy.nodes(".picked").removeClass("picked");
      const at = ME.picked === null ? cy.collection() : cy.getElementById(ME.picked);
      if (!at.length) return;
      at.addClass("picked");
      if (ME.way === "none") return;
      let lit = at;
      if (ME.way !== "down") lit = lit.union(at.successors());
      if (ME.way !== "up") lit = lit.union(at.predecessors());
      cy.elements().not(lit).not(".row").addClass("faint");
      lit.edges().addClass("path");
    });
  }
  ME.light = function (way) { ME.way = ME.way === way ? "none" : way; const cy = ME.cy(); if (cy) mark(cy); ME.address(); ME.tell(ME.way === "none" ? "all paths" : "paths " + ({ up: "to the read-outs", down: "back to the tokens", both: "through it" })[ME.way]); };

  ME.find = function (name) {
    const cy = ME.cy(), text = String(name || "").trim();
    if (!cy || !text) return;
    const at = cy.nodes().filter((n) => n.id().toLowerCase() === text.toLowerCase() || String(n.data("label")).toLowerCase() === text.toLowerCase());
    if (at.length) { const one = at[0]; ME.pick(one.id()); const p = one.renderedPosition(); if (p.x < 20 || p.y < 20 || p.x > cy.width() - 20 || p.y > cy.height() - 20) cy.animate({ center: { eles: one }, duration: matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : 200 }); return; }
    const proper = /^l(\d+)([hn])(\d+)$/i.exec(text);
    if (!proper) { ME.note("“" + text.slice(0, 40) + "” is no component; names look like L2H3 or L4N117"); return; }
    const id = "L" + proper[1] + proper[2].toUpperCase() + proper[3];
    ME.note(known.has(id) && known.get(id).by ? id + " is in a circuit but filtered away" : id + " is in none of the circuits shown; its numbers are in the panel if the run has them");
    ME.pick(id);
  };

  /* ---- words for those who do not see the drawing, and for what went wrong ---- */
  ME.tell = function (text) { const el = document.getElementById("told"); if (el) el.textContent = text; };
  ME.note = function (text) { const el = document.getElementById("note"); if (el) el.textContent = text || ""; };

  /* ---- the view has an address ---- */
  const asked = new URLSearchParams(location.search);
  let booted = false;
  ME.asked = asked;
  ME.address = function () {
    if (!booted || !view) return;
    const q = new URLSearchParams();
    q.set("emotions", view.emotions.join(","));
    if (ME.picked) q.set("node", ME.picked);
    if (ME.way !== "none") q.set("way", ME.way);
    if (view.colour !== "sign") q.set("colour", view.colour);
    if (view.kinds.length === 1) q.set("kinds", view.kinds[0]);
    if (view.layers[0] > 0 || view.layers[1] < ME.layers - 1) q.set("layers", view.layers.join("-"));
    if (view.effect > 0) q.set("effect", view.effect);
    q.set("edge", view.edge);
    if (view.verified) q.set("verified", "1");
    if (view.shared) q.set("shared", "1");
    if (view.nulls !== null) q.set("random", view.nulls);
    const tab = document.body.dataset.tab;
    if (tab && tab !== "graph") q.set("tab", tab);
    history.replaceState(null, "", "?" + q.toString());
  };

  ME.filters = function () { return view; };
  ME.known = known;
  ME.redraw = function () { const told = draw(); if (told) status(told); return told; };

  function status(told) {
    const el = document.getElementById("counts");
    if (el) el.textContent = told.of === 0 ? "No circuit was found for this emotion." : told.nodes + " of " + told.of + " components, " + told.edges + " of " + told.weighed + " edges; largest effect " + told.top.node.toFixed(2) + ", largest edge " + told.top.edge.toFixed(2) + " logits";
  }

  function ready(flag) { const el = document.getElementById("graph"); if (el) { el.dataset.ready = flag ? "1" : "0"; el.dataset.drawn = String(Number(el.dataset.drawn || 0) + (flag ? 1 : 0)); } }

  let waiting = null;
  ME.apply = function (data, filters, layout, layers) {
    if (!data) return "";
    ready(false);
    scene = data; view = filters; ME.layers = layers;
    known.clear();
    for (const n of scene.nodes) known.set(n.id, n);
    for (const d of scene.edges) known.set(d.id, d);
    const go = function () {
      const cy = ME.cy();
      if (!cy) { waiting = setTimeout(go, 30); return; }
      const first = !cy.scratch("ours");
      if (first) { cy.scratch("ours", true); extent = layout; many = scene.edges.length > 1500; unit = Math.min(4, Math.max(1, layout.height / 1000)); cy.style(styles()); rows(cy, layout); cy.boxSelectionEnabled(true); const r = cy.renderer(); r.hideEdgesOnViewport = many; r.textureOnViewport = many; /* panning thousands of edges would stutter */ listen(cy); }
      const told = draw();
      if (first) { ME.fit(); boot(); }
      if (told) status(told);
      ME.address();
      ME.chosen();
      requestAnimationFrame(() => requestAnimationFrame(() => ready(true)));
    };
    clearTimeout(waiting);
    go();
    return "";
  };

  /* What is judged live: the picked ones, or all that is shown. */
  let later = null;
  ME.chosen = function () {
    clearTimeout(later);
    later = setTimeout(function () {
      const cy = ME.cy();
      if (!cy || !view) return;
      let some = cy.nodes(":selected").filter((n) => !n.hasClass("row"));
      const all = some.length < 2;
      if (all) some = cy.nodes().filter((n) => !n.hasClass("row") && !n.hasClass("end") && !n.hasClass("random"));
      const names = [];
      some.forEach((n) => { if (n.id().startsWith("group:")) names.push(...ME.membersOf(n.id())); else if (known.get(n.id()) && known.get(n.id()).by && !n.hasClass("end")) names.push(n.id()); });
      const edges = cy.edges().map((d) => d.id());
      dash_clientside.set_props("selection", { data: { names: names, all: all, emotions: view.emotions, edges: edges.length > 6000 ? null : edges } });
    }, 250);
  };

  function listen(cy) {
    cy.on("tap", "node", function (event) { if (!event.target.hasClass("row")) { ME.pick(event.target.id()); document.getElementById("canvas").focus({ preventScroll: true }); } });
    cy.on("tap", "edge", function (event) {
      const d = event.target, one = known.get(d.id());
      ME.note(one && one.by ? d.id() + ": " + Object.entries(one.by).map(([e, v]) => e + " " + number(v[0]) + " [" + number(v[1]) + ", " + number(v[2]) + "] logits, " + v[3]).join("; ")
        : d.id() + ": sum of " + d.data("sum") + " weights " + number(d.data("weight")) + " logits; a sum of separate measurements has no interval here");
    });
    cy.on("tap", function (event) { if (event.target === cy) { ME.way = "none"; ME.pick(null); } });
    cy.on("select unselect", "node", ME.chosen);
    cy.on("dragfree", "node", function (event) { const p = event.target.position(); if (ME.moved) ME.moved(event.target.id(), [Math.round(p.x), Math.round(p.y)]); });
    let tip = document.getElementById("tip");
    cy.on("mouseover", "node, edge", function (event) {
      const el = event.target;
      if (el.hasClass("row") || !tip) return;
      const one = known.get(el.id());
      tip.textContent = el.isNode() ? (el.hasClass("random") ? el.id() + ": in a random circuit of the same shape" : el.hasClass("group") ? ME.membersOf(el.id()).join(", ") : describe(el.id()))
        : one && one.by ? el.id() + ": " + Object.entries(one.by).filter(([e]) => view.emotions.includes(e)).map(([e, v]) => e + " " + number(v[0]) + " [" + number(v[1]) + ", " + number(v[2]) + "], " + v[3]).join("; ") : "sum of " + el.data("sum") + " edges: " + number(el.data("weight"));
      tip.hidden = false;
      const at = event.renderedPosition || el.renderedPosition(), box = document.getElementById("canvas").getBoundingClientRect();
      tip.style.left = Math.min(Math.max(4, at.x + 14), Math.max(4, box.width - tip.offsetWidth - 6)) + "px";
      tip.style.top = Math.min(at.y + 14, Math.max(4, box.height - tip.offsetHeight - 6)) + "px";
    });
    cy.on("mouseout viewport", function () { if (tip) tip.hidden = true; });
    new ResizeObserver(function () { cy.resize(); }).observe(document.getElementById("graph"));
  }

  /* Once, when the first drawing stands: what the address asks for. */
  function boot() {
    booted = true;
    const set = (id, value) => dash_clientside.set_props(id, { value: value }), wrong = [];
    const among = (name, allowed) => { const found = (asked.get(name) || "").split(",").filter(Boolean); wrong.push(...found.filter((x) => !allowed.includes(x))); return found.filter((x) => allowed.includes(x)); };
    const emotions = among("emotions", EMOTIONS);
    if (emotions.length) set("emotions", emotions);
    if (among("colour", ["sign", "emotion"]).length) set("colour", asked.get("colour"));
    const kinds = among("kinds", ["head", "neuron"]);
    if (kinds.length) set("kinds", kinds);
    const layers = /^(\d+)-(\d+)$/.exec(asked.get("layers") || "");
    if (layers) { set("from", Math.min(Number(layers[1]), ME.layers - 1)); set("to", Math.min(Number(layers[2]), ME.layers - 1)); }
    for (const id of ["effect", "edge"]) { const share = Number(asked.get(id)); if (asked.get(id) && share >= 0 && share <= 1) set(id, share); }
    const only = ["verified", "shared"].filter((x) => asked.get(x) === "1");
    if (only.length) set("only", only);
    if (/^\d$/.test(asked.get("random") || "")) set("random", asked.get("random"));
    if (wrong.length) ME.note("The address asks for what is not here: " + wrong.join(", ").slice(0, 80));
    const way = asked.get("way");
    if (["up", "down", "both"].includes(way)) ME.way = way;
    // What the address names may be of an emotion that is only now being fetched.
    const node = asked.get("node");
    if (node) { const wait = emotions.length && emotions.join() !== view.emotions.join() ? 600 : 0; setTimeout(() => ME.find(node), wait); }
    const tab = asked.get("tab");
    if (tab && ME.tab) ME.tab(tab);
  }
})();
