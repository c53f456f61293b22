/* Work on the graph: pin, hide, label, group, undo and redo; tabs, keys, pictures. */
(function () {
  "use strict";
  const ME = (window.explorer = window.explorer || {});
  const past = [], future = [];
  const copy = (x) => JSON.parse(JSON.stringify(x));

  function change(what, edit) {
    past.push(copy(ME.work));
    if (past.length > 200) past.shift();
    future.length = 0;
    edit(ME.work);
    after(what);
  }
  function after(what) {
    ME.redraw(); ME.chosen(); buttons();
    dash_clientside.set_props("work", { data: copy(ME.work) });
    ME.tell(what);
  }
  function buttons() {
    const set = (id, off) => { const el = document.getElementById(id); if (el) el.disabled = off; };
    set("undo", !past.length); set("redo", !future.length);
  }
  function picked() { // what a command is about: several selected nodes, or the one whose panel is open
    const cy = ME.cy();
    const some = cy ? cy.nodes(":selected").filter((n) => !n.hasClass("row") && !n.hasClass("end")).map((n) => n.id()) : [];
    if (some.length > 1) return some;
    const one = ME.picked;
    if (one && cy && cy.getElementById(one).length && !cy.getElementById(one).hasClass("end")) return [one];
    ME.note("Pick a component first: click it, or shift and drag for several.");
    return [];
  }

  ME.pin = function () { const ids = picked(); if (ids.length) change("pinned", (w) => { for (const id of ids) w.pinned = w.pinned.includes(id) ? w.pinned.filter((x) => x !== id) : w.pinned.concat(id); }); };
  ME.hide = function () { const ids = picked(); if (ids.length) { change("hidden", (w) => { for (const id of ids) { const inner = id.startsWith("group:") ? ME.membersOf(id) : [id]; w.hidden = [...new Set(w.hidden.concat(inner))]; } }); ME.pick(null); } };
  ME.showAll = function () { if (ME.work.hidden.length) change("all shown", (w) => { w.hidden = []; }); };
  ME.name = function (text) { const ids = picked(); if (ids.length === 1) change("labelled", (w) => { const id = ids[0]; if (id.startsWith("group:")) { const g = w.groups.find((x) => "group:" + x.id === id); if (g && text) g.name = text; } else if (text) w.labels[id] = text; else delete w.labels[id]; }); };
  ME.group = function (text) {
    const ids = picked().filter((id) => !id.startsWith("group:"));
    if (ids.length < 2) { ME.note("Select at least two components to group: shift and drag over them."); return; }
    change("grouped", (w) => {
      w.groups = w.groups.map((g) => Object.assign({}, g, { members: g.members.filter((m) => !ids.includes(m)) })).filter((g) => g.members.length > 1);
      const id = 1 + Math.max(0, ...w.groups.map((g) => g.id));
      w.groups.push({ id: id, name: text || "group " + id, members: ids });
    });
  };
  ME.ungroup = function () { const ids = picked(); if (ids.length) change("ungrouped", (w) => { w.groups = w.groups.filter((g) => !ids.includes("group:" + g.id)); }); };
  ME.moved = function (id, at) { change("moved", (w) => { w.moved[id] = at; }); };
  ME.undo = function () { if (past.length) { future.push(copy(ME.work)); ME.work = past.pop(); after("undone"); } };
  ME.redo = function () { if (future.length) { past.push(copy(ME.work)); ME.work = future.pop(); after("done again"); } };

  ME.groupOf = function () { const at = {}; for (const g of ME.work.groups) for (const m of g.members) at[m] = g.id; return at; };
  ME.membersOf = function (id) { const g = ME.work.groups.find((x) => "group:" + x.id === id); return g ? g.members.slice() : []; };
  ME.groupNodes = function (top, known, shown, data) {
    const found = [];
    for (const g of ME.work.groups) {
      const inner = g.members.map((m) => known.get(m)).filter((n) => n && n.by && shown(n));
      if (!inner.length) continue;
      const id = "group:" + g.id, mean = (i) => inner.reduce((s, n) => s + (ME.work.moved[n.id] || [n.x, n.y])[i], 0) / inner.length;
      const strongest = inner.map(data).sort((a, b) => Math.abs(b.effect) - Math.abs(a.effect))[0];
      found.push([id, { data: Object.assign({}, strongest, { label: g.name + " (" + inner.length + ")", shape: "round-rectangle", size: 34, core: "0%", line: "solid", rim: 2 }), classes: "group", at: ME.work.moved[id] || [Math.round(mean(0)), Math.round(mean(1))] }]);
    }
    return found;
  };

  /* A saved view comes back: filters through the controls, work here. */
  ME.restore = function (state) {
    if (!state || typeof state !== "object") return;
    const w = state.work || {};
    past.push(copy(ME.work)); future.length = 0;
    ME.work = { hidden: list(w.hidden), pinned: list(w.pinned), moved: w.moved || {}, labels: w.labels || {}, groups: Array.isArray(w.groups) ? w.groups.filter((g) => g && Array.isArray(g.members)) : [] };
    const f = state.filters || {};
    const set = (id, value) => { if (value !== undefined && value !== null) dash_clientside.set_props(id, { value: value }); };
    set("emotions", f.emotions); set("colour", f.colour); set("kinds", f.kinds); set("effect", f.effect); set("edge", f.edge);
    if (Array.isArray(f.layers)) { set("from", f.layers[0]); set("to", f.layers[1]); }
    if (f.only) set("only", f.only);
    set("random", f.random);
    after("view loaded");
    if (state.picked) ME.pick(String(state.picked));
  };
  const list = (x) => (Array.isArray(x) ? x.filter((v) => typeof v === "string") : []);

  /* ---- tabs ---- */
  const TABS = ["graph", "vector", "whatif", "judge", "compare", "export"];
  ME.tab = function (name) {
    if (!TABS.includes(name)) return;
    document.body.dataset.tab = name;
    for (const t of TABS) {
      const tab = document.getElementById("tab-" + t), panel = document.getElementById("panel-" + t);
      if (!tab || !panel) continue;
      tab.setAttribute("aria-selected", String(t === name));
      tab.tabIndex = t === name ? 0 : -1;
      panel.hidden = t !== name;
    }
    dash_clientside.set_props("tab", { data: name });
    ME.address();
    const cy = ME.cy();
    if (name === "graph" && cy) cy.resize();
    window.dispatchEvent(new Event("resize"));
  };

  /* ---- keys ---- */
  function step(dx, dy) { // to the nearest node in a direction, along an edge where there is one
    const cy = ME.cy();
    if (!cy) return;
    const at = ME.picked ? cy.getElementById(ME.picked) : cy.collection();
    if (!at.length) { const all = cy.nodes().filter((n) => !n.hasClass("row") && !n.hasClass("random") && !n.hasClass("end")); if (all.length) ME.pick(all.max((n) => Math.abs(n.data("effect") || 0)).ele.id()); return; }
    const from = at.position();
    let pool = dy < 0 ? at.outgoers("node") : dy > 0 ? at.incomers("node") : cy.collection(), best = null, least = Infinity;
    if (pool.length) { // along the heaviest edge
      const edges = dy < 0 ? at.outgoers("edge") : at.incomers("edge");
      const heavy = edges.max((d) => Math.abs(d.data("weight") || 0)).ele;
      ME.pick((dy < 0 ? heavy.target() : heavy.source()).id());
      return;
    }
    cy.nodes().filter((n) => !n.hasClass("row") && !n.hasClass("random") && n.id() !== at.id()).forEach(function (n) {
      const p = n.position(), x = p.x - from.x, y = p.y - from.y, along = x * dx + y * dy, aside = Math.abs(x * dy) + Math.abs(y * dx);
      if (along > 0 && along + 3 * aside < least) { least = along + 3 * aside; best = n; }
    });
    if (best) ME.pick(best.id());
  }
  const KEYS = { p: () => ME.pin(), h: () => ME.hide(), f: () => ME.fit(), u: () => ME.light("up"), d: () => ME.light("down"), b: () => ME.light("both"), z: () => ME.undo(), y: () => ME.redo(), a: () => ME.showAll(),
    ArrowUp: () => step(0, -1), ArrowDown: () => step(0, 1), ArrowLeft: () => step(-1, 0), ArrowRight: () => step(1, 0),
    Escape: () => { ME.way = "none"; ME.pick(null); }, "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8),
    Enter: () => { const p = document.getElementById("node-panel"); if (p) p.focus(); } };
  function zoom(by) { const cy = ME.cy(); if (cy) cy.zoom({ level: cy.zoom() * by, renderedPosition: { x: cy.width() / 2, y: cy.height() / 2 } }); }

  document.addEventListener("keydown", function (event) {
    const on = event.target;
    if (on.getAttribute && on.getAttribute("role") === "tab" && ["ArrowLeft", "ArrowRight"].includes(event.key)) {
      const at = TABS.indexOf(on.id.slice(4)), next = TABS[(at + (event.key === "ArrowRight" ? 1 : TABS.length - 1)) % TABS.length];
      ME.tab(next); document.getElementById("tab-" + next).focus(); event.preventDefault(); return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/" && !/INPUT|TEXTAREA|SELECT/.test(on.tagName)) { const s = document.getElementById("search"); if (s) { s.focus(); event.preventDefault(); } return; }
    if (on.closest && on.closest("#canvas") && KEYS[event.key]) { KEYS[event.key](); event.preventDefault(); }
  });
  const CLICKS = { fit: () => ME.fit(), up: () => ME.light("up"), down: () => ME.light("down"), both: () => ME.light("both"), pin: () => ME.pin(), hide: () => ME.hide(), "show-all": () => ME.showAll(),
    undo: () => ME.undo(), redo: () => ME.redo(), label: () => ME.name(value("name")), group: () => ME.group(value("name")), ungroup: () => ME.ungroup(), png: () => png(), svg: () => svg() };
  const value = (id) => { const el = document.getElementById(id); return el ? el.value.trim().slice(0, 60) : ""; };
  document.addEventListener("click", function (event) {
    const button = event.target.closest && event.target.closest("button");
    if (!button) return;
    if (button.id.startsWith("tab-")) ME.tab(button.id.slice(4));
    else if (CLICKS[button.id]) CLICKS[button.id]();
    else if (button.dataset.node) { ME.find(button.dataset.node); }
  });
  document.addEventListener("keydown", function (event) { if (event.target.id === "search" && event.key === "Enter") ME.find(event.target.value); });
  document.addEventListener("change", function (event) { if (event.target.id === "search" && event.target.value) ME.find(event.target.value); });

  /* ---- pictures of what is seen ---- */
  function give(name, blob) { const a = document.createElement("a"); a.href = URL.createObjectURL(blob); a.download = name; document.body.append(a); a.click(); a.remove(); setTimeout(() => URL.revokeObjectURL(a.href), 5000); }
  function png() { const cy = ME.cy(); if (cy) give("circuit.png", cy.png({ output: "blob", full: true, scale: 2, bg: "#ffffff" })); }
  ME.svgText = function () {
    const cy = ME.cy(), ns = "http://www.w3.org/2000/svg", box = cy.elements().boundingBox();
    const make = (tag, attrs, text) => { const el = document.createElementNS(ns, tag); for (const k in attrs) el.setAttribute(k, attrs[k]); if (text !== undefined) el.textContent = text; return el; };
    const root = make("svg", { xmlns: ns, viewBox: [box.x1 - 20, box.y1 - 20, box.w + 40, box.h + 40].join(" "), "font-family": "system-ui, sans-serif", "font-size": 12 });
    const dash = { solid: "none", dashed: "6 4", dotted: "1.5 3" };
    root.append(make("rect", { x: box.x1 - 20, y: box.y1 - 20, width: box.w + 40, height: box.h + 40, fill: "#ffffff" }));
    cy.edges().forEach((d) => { const a = d.source().position(), b = d.target().position(); root.append(make("line", { x1: a.x, y1: a.y, x2: b.x, y2: b.y, stroke: d.data("colour"), "stroke-width": d.data("width"), "stroke-opacity": d.data("opacity"), "stroke-dasharray": dash[d.data("line")] })); });
    cy.nodes().forEach((n) => {
      const p = n.position(), r = n.data("size") / 2, d = n.data();
      if (n.hasClass("row")) { root.append(make("text", { x: p.x, y: p.y + 4, "text-anchor": "end", fill: "#595959" }, d.label)); return; }
      if (n.hasClass("end")) { root.append(make("rect", { x: p.x - 37, y: p.y - 12, width: 74, height: 24, rx: 5, fill: d.colour })); root.append(make("text", { x: p.x, y: p.y + 4, "text-anchor": "middle", fill: n.hasClass("dark") ? "#222222" : "#ffffff" }, d.label)); return; }
      const shape = (k, fill, stroke) => d.shape === "diamond" ? make("path", { d: "M" + p.x + " " + (p.y - k) + "L" + (p.x + k) + " " + p.y + "L" + p.x + " " + (p.y + k) + "L" + (p.x - k) + " " + p.y + "Z", fill: fill, stroke: stroke, "stroke-dasharray": dash[d.line] }) : make("circle", { cx: p.x, cy: p.y, r: k, fill: fill, stroke: stroke, "stroke-dasharray": dash[d.line] });
      root.append(shape(r, d.opacity ? d.pale : "none", d.colour));
      const k = r * parseFloat(d.core) / 100;
      if (k > 0) { // slices by emotion
        let turn = -Math.PI / 2;
        for (let i = 1; i <= 6; i++) { const share = d["s" + i] / 100; if (!share) continue;
          if (share >= 0.999) { root.append(make("circle", { cx: p.x, cy: p.y, r: Math.min(k, d.shape === "diamond" ? r * 0.7 : r), fill: d["c" + i] })); break; }
          const end = turn + 2 * Math.PI * share, kk = Math.min(k, d.shape === "diamond" ? r * 0.7 : r), at = (a) => (p.x + kk * Math.cos(a)) + " " + (p.y + kk * Math.sin(a));
          root.append(make("path", { d: "M" + p.x + " " + p.y + "L" + at(turn) + "A" + kk + " " + kk + " 0 " + (share > 0.5 ? 1 : 0) + " 1 " + at(end) + "Z", fill: d["c" + i] })); turn = end; }
      }
      if (!n.hasClass("unlabelled") && !n.hasClass("random")) root.append(make("text", { x: p.x, y: p.y - r - 4, "text-anchor": "middle", fill: "#222222" }, d.label));
    });
    return new XMLSerializer().serializeToString(root);
  };
  function svg() { if (ME.cy()) give("circuit.svg", new Blob([ME.svgText()], { type: "image/svg+xml" })); }

  /* Dash calls its lists of tick boxes list boxes, and puts inputs into their options, which screen readers cannot tell: they are
     groups of labelled inputs, named by the legend around them. */
  function groups() {
    for (const list of document.querySelectorAll(".dash-options-list[role=listbox]")) {
      list.setAttribute("role", "group");
      const set = list.closest("fieldset"), legend = set && set.querySelector("legend");
      list.setAttribute("aria-label", legend ? legend.textContent : "choices");
    }
    for (const option of document.querySelectorAll(".dash-options-list-option[role=option], .dash-options-list-option[aria-selected]")) { option.removeAttribute("role"); option.removeAttribute("aria-selected"); }
  }
  new MutationObserver(groups).observe(document.documentElement, { childList: true, subtree: true, attributes: true, attributeFilter: ["role", "aria-selected"] });

  /* ---- what Dash calls ---- */
  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    explorer: {
      apply: function (scene, emotions, colour, kinds, from, to, effect, edge, only, random, fixed) {
        const filters = { emotions: emotions || [], colour: colour, kinds: kinds || [], layers: [Number(from) || 0, to === null || to === "" ? fixed.layers - 1 : Number(to)], effect: Number(effect) || 0, edge: Number(edge) || 0,
          verified: (only || []).includes("verified"), shared: (only || []).includes("shared"), nulls: random === "none" || random === null ? null : Number(random) };
        if (scene && scene.emotions) filters.emotions = filters.emotions.filter((e) => scene.emotions.includes(e));
        return ME.apply(scene, filters, fixed.layout, fixed.layers);
      },
      follow: function (id) { if (id !== ME.picked) { ME.pick(id, true); } return null; },
      restore: function (state) { if (state) ME.restore(state); return ""; },
      state: function (n, work) { const f = ME.filters(); return { work: ME.work, picked: ME.picked, filters: f && { emotions: f.emotions, colour: f.colour, kinds: f.kinds, layers: f.layers, effect: f.effect, edge: f.edge, only: [f.verified && "verified", f.shared && "shared"].filter(Boolean), random: f.nulls === null ? "none" : String(f.nulls) } }; },
    },
  });
})();
