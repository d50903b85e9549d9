"use strict";
// Draws the figures of the report: curves through uPlot, heat maps on a canvas of our own. Reads only the data that
// stand in the page; a page that refreshes itself also asks data.json beside it. Text gets in through textContent alone.
(() => {
  const root = document.documentElement;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const RAMPS = {
    light: ["#eef3fa", "#b4d2ec", "#5f9fd4", "#2a68b0", "#2b2f7e", "#26083f"],
    dark: ["#1d2836", "#24507c", "#2c85ad", "#58bda0", "#b9e07a", "#fdf6b5"],
  };
  let plots = JSON.parse(document.getElementById("plots").textContent);
  const drawn = new Map(); // name of a figure -> {spec, redraw, drop}

  const style = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const make = (name, parent, text) => {
    const node = document.createElement(name);
    if (text !== undefined) node.textContent = text;
    if (parent) parent.appendChild(node);
    return node;
  };
  const figure = (value) => {
    if (value === null || value === undefined) return "–";
    if (value === 0 || Number.isInteger(value)) return value.toLocaleString("en-US");
    const size = Math.abs(value);
    return size < 1e-3 || size >= 1e5 ? value.toExponential(2) : String(+value.toPrecision(4));
  };
  const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

  // ---------------------------------------------------------------- curves
  function curve(spec, place, name) {
    const colors = ["--one", "--two", "--three", "--four", "--one", "--two", "--three", "--four"].map(style);
    const soft = style("--soft"), line = style("--line"), band = +style("--band");
    const font = "11px system-ui, sans-serif";
    const data = [spec.x], series = [{ label: "step", value: (u, value) => figure(value) }], bands = [];
    spec.series.forEach((one, at) => {
      const color = colors[at % colors.length];
      const points = { show: spec.x.length < 40, size: 5, fill: color };
      if (one.low) {
        data.push(one.high, one.low);
        const side = { label: "", stroke: "transparent", width: 0, points: { show: false } };
        bands.push({ series: [series.length, series.length + 1], fill: translucent(color, band) });
        series.push({ ...side, label: one.label + " highest", value: (u, v) => figure(v), class: "edge" },
          { ...side, label: one.label + " lowest", value: (u, v) => figure(v), class: "edge" });
      }
      data.push(one.mean);
      series.push({ label: one.label, stroke: color, width: 1.75, points, spanGaps: false, value: (u, v) => figure(v) });
    });
    const axis = { stroke: soft, font, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1, size: 4 } };
    const width = () => Math.max(200, Math.floor(place.clientWidth));
    const chart = new uPlot({
      width: width(), height: 190, series, bands, cursor: { sync: { key: "step" }, drag: { x: true, y: false } },
      legend: { live: true }, scales: { x: { time: false } }, padding: [8, 22, 0, 0],
      axes: [
        { ...axis, size: 30, space: 60, values: (u, ticks) => ticks.map((tick) => (Number.isInteger(tick) ? figure(tick) : "")) },
        { ...axis, size: axisSize, values: (u, ticks) => ticks.map(figure) },
      ],
    }, data, place);
    const rest = () => requestAnimationFrame(() => { // the last value, while nobody points at one
      if (drawn.get(name)?.chart === chart && chart.cursor.idx == null) chart.setLegend({ idx: spec.x.length - 1 });
    });
    place.onpointerleave = rest;
    rest();
    return { chart, redraw: () => { chart.setSize({ width: width(), height: 190 }); rest(); }, drop: () => chart.destroy() };
  }
  function axisSize(u, values) {
    return 16 + 6.4 * Math.max(3, ...(values || []).map((value) => value.length));
  }
  function translucent(hex, share) {
    return `rgba(${rgb(hex).join(",")},${share})`;
  }

  // ---------------------------------------------------------------- heat maps
  function heat(spec, place) {
    const rows = spec.rows.length, columns = spec.x.count;
    const grids = spec.measures.map((measure) => {
      const bytes = Uint8Array.from(atob(measure.data), (letter) => letter.charCodeAt(0));
      return new Float32Array(bytes.buffer);
    });
    let chosen = 0, at = null;
    const tools = make("div", place);
    tools.className = "tools";
    if (grids.length > 1) {
      const group = make("span", tools);
      group.className = "switch";
      spec.measures.forEach((measure, number) => {
        const button = make("button", group, measure.label);
        button.type = "button";
        button.addEventListener("click", () => { chosen = number; draw(); });
      });
    }
    const scale = make("span", tools);
    scale.className = "scale";
    const lowest = make("span", scale), bar = make("canvas", scale), highest = make("span", scale);
    const canvas = make("canvas", place);
    canvas.className = "heat";
    canvas.setAttribute("role", "img");
    const readout = make("div", place);
    readout.className = "readout";
    const shape = {};

    function extent() {
      let low = Infinity, high = -Infinity;
      for (const value of grids[chosen]) {
        if (Number.isFinite(value) && value > 0) { if (value < low) low = value; if (value > high) high = value; }
      }
      return low <= high ? [low, high] : [1, 1];
    }
    function palette() {
      const stops = (dark.matches ? RAMPS.dark : RAMPS.light).map(rgb);
      return (share) => {
        const along = Math.min(0.99999, Math.max(0, share)) * (stops.length - 1), first = Math.floor(along);
        return stops[first].map((part, which) => Math.round(part + (along - first) * (stops[first + 1][which] - part)));
      };
    }
    function draw() {
      tools.querySelectorAll("button").forEach((button, number) => button.setAttribute("aria-pressed", String(number === chosen)));
      const width = Math.max(200, Math.floor(place.clientWidth)), ratio = window.devicePixelRatio || 1;
      const cell = Math.max(3, Math.min(20, Math.floor(Math.max(320, Math.min(560, rows * 14)) / rows)));
      const pen = canvas.getContext("2d");
      pen.font = "11px system-ui, sans-serif";
      const room = Math.min(Math.ceil(Math.max(...spec.rows.map((name) => pen.measureText(name).width))) + 10, Math.floor(width * 0.34));
      const height = cell * rows;
      Object.assign(shape, { left: room, cell, width: width - room - 2, height });
      canvas.style.height = height + 24 + "px";
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round((height + 24) * ratio);
      pen.setTransform(ratio, 0, 0, ratio, 0, 0);
      const [low, high] = extent(), color = palette(), span = Math.log(high / low) || 1;
      const share = (value) => (high > low ? Math.log(value / low) / span : 0.5);
      const image = new ImageData(columns, rows), grid = grids[chosen], bad = rgb(dark.matches ? "#ff4d5e" : "#d3142a");
      for (let cellAt = 0; cellAt < grid.length; cellAt++) {
        const value = grid[cellAt];
        if (Number.isNaN(value)) continue;
        const paint = value === Infinity ? bad : color(value > 0 ? share(value) : 0);
        image.data.set([...paint, 255], 4 * cellAt);
      }
      const small = document.createElement("canvas");
      small.width = columns;
      small.height = rows;
      small.getContext("2d").putImageData(image, 0, 0);
      pen.imageSmoothingEnabled = false;
      pen.fillStyle = style("--ground");
      pen.fillRect(shape.left, 0, shape.width, height);
      pen.drawImage(small, shape.left, 0, shape.width, height);
      pen.font = "11px system-ui, sans-serif";
      pen.fillStyle = style("--soft");
      pen.textBaseline = "middle";
      pen.textAlign = "right";
      const every = Math.max(1, Math.ceil(13 / cell));
      for (let row = 0; row < rows; row += every) pen.fillText(fitted(pen, spec.rows[row], shape.left - 8), shape.left - 6, (row + 0.5) * cell);
      pen.textBaseline = "top";
      const marks = Math.max(2, Math.min(8, Math.floor(shape.width / 110)));
      for (let mark = 0; mark < marks; mark++) {
        const part = mark / (marks - 1), column = Math.min(columns - 1, Math.round(part * (columns - 1)));
        if (columns === 1 && mark) break;
        pen.textAlign = columns === 1 || mark === 0 ? "left" : mark === marks - 1 ? "right" : "center";
        pen.fillText(label(column, true), shape.left + part * shape.width, height + 7);
      }
      lowest.textContent = figure(low);
      highest.textContent = high > low ? figure(high) : "";
      bar.hidden = !(high > low);
      ramp(color);
      canvas.setAttribute("aria-label", `${spec.measures[chosen].label} by ${spec.row}, ${rows} rows, ${columns} columns, from ${figure(low)} to ${figure(high)}`);
      tell();
    }
    function ramp(color) {
      bar.width = 120;
      bar.height = 8;
      const pen = bar.getContext("2d");
      for (let part = 0; part < 120; part++) {
        pen.fillStyle = `rgb(${color(part / 119).join(",")})`;
        pen.fillRect(part, 0, 1, 8);
      }
    }
    function label(column, isShort) {
      const first = spec.x.first + column * spec.x.width, last = Math.min(first + spec.x.width - 1, spec.x.last);
      if (isShort && spec.x.kind === "step" && column === columns - 1) return figure(last);
      if (spec.x.kind === "step") return isShort || first === last ? figure(first) : `${figure(first)} to ${figure(last)}`;
      const text = (us) => new Date(us / 1000).toISOString().slice(0, 19).replace("T", " ");
      const whole = spec.x.last - spec.x.first;
      if (isShort) return whole > 4 * 864e8 ? text(first).slice(0, 10) : whole > 36e8 ? text(first).slice(5, 16) : text(first).slice(11);
      return `from ${text(first)} UTC`;
    }
    function tell() {
      if (!at) { readout.textContent = "Point at a cell, or tap it."; return; }
      const value = grids[chosen][at.row * columns + at.column];
      const said = Number.isNaN(value) ? "nothing recorded" : value === Infinity ? "not finite" : figure(value);
      const where = spec.x.kind === "step" ? `step ${label(at.column, false)}` : label(at.column, false);
      readout.textContent = `${spec.rows[at.row]}, ${where}: ${spec.measures[chosen].label} ${said}`;
    }
    canvas.addEventListener("pointermove", point);
    canvas.addEventListener("pointerdown", point);
    function point(event) {
      const box = canvas.getBoundingClientRect();
      const column = Math.floor(((event.clientX - box.left - shape.left) / shape.width) * columns);
      const row = Math.floor((event.clientY - box.top) / shape.cell);
      if (column < 0 || column >= columns || row < 0 || row >= rows) return;
      at = { row, column };
      tell();
    }
    draw();
    return { redraw: draw, drop: () => place.replaceChildren() };
  }
  function fitted(pen, text, width) {
    if (pen.measureText(text).width <= width) return text;
    let kept = text.length - 1;
    while (kept > 2 && pen.measureText("…" + text.slice(-kept)).width > width) kept--;
    return "…" + text.slice(-kept);
  }

  // ---------------------------------------------------------------- the page
  function show(everything) {
    document.querySelectorAll("figure[data-plot]").forEach((node) => {
      const name = node.dataset.plot, spec = plots[name], place = node.querySelector(".canvas"), before = drawn.get(name);
      if (!spec) return;
      const said = JSON.stringify(spec);
      if (before && before.place === place && before.said === said && !everything) return;
      if (before) before.drop();
      place.replaceChildren();
      drawn.set(name, { said, place, ...(spec.kind === "heat" ? heat : curve)(spec, place, name) });
    });
  }
  let width = window.innerWidth, waiting = 0;
  window.addEventListener("resize", () => {
    if (window.innerWidth === width) return; // a phone's address bar moves the height only
    width = window.innerWidth;
    clearTimeout(waiting);
    waiting = setTimeout(() => drawn.forEach((one) => one.redraw()), 100);
  });
  dark.addEventListener("change", () => show(true));
  show(false);

  const refreshMs = +(root.dataset.refreshMs || 0);
  async function refresh() {
    try {
      const answer = await fetch("data.json", { cache: "no-store" });
      if (!answer.ok) throw new Error(String(answer.status));
      const found = await answer.json();
      document.title = found.title + " - audit report";
      replace(document.getElementById("head"), found.head);
      for (const [id, body] of Object.entries(found.sections)) {
        const section = document.getElementById(id);
        if (section) replace(section.querySelector(".body"), body);
      }
      plots = found.plots;
      show(false);
      root.classList.remove("stale");
    } catch (error) {
      root.classList.add("stale");
    }
    setTimeout(refresh, refreshMs);
  }
  const held = new WeakMap();
  function replace(node, markup) {
    if (held.get(node) === markup) return;
    held.set(node, markup);
    const open = new Set([...node.querySelectorAll("details[open]")].map((one) => one.dataset.key));
    const places = new Map([...node.querySelectorAll("figure[data-plot]")].map((one) => [one.dataset.plot, one]));
    const fresh = new DOMParser().parseFromString(markup, "text/html").body;
    fresh.querySelectorAll("details").forEach((one) => { one.open = open.has(one.dataset.key); });
    fresh.querySelectorAll("figure[data-plot]").forEach((one) => {
      const old = places.get(one.dataset.plot);
      if (old) one.replaceWith(old); // a figure stays as it is until its own data change
    });
    node.replaceChildren(...fresh.childNodes);
  }
  if (refreshMs) setTimeout(refresh, refreshMs);
})();
