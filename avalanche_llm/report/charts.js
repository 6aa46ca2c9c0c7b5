// The interactive charts: chosen model, definition and rate in, drawings out. Numbers come from the page's own JSON.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("chart-data").textContent);
  const at = (id) => document.getElementById(id);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const coarse = window.matchMedia("(pointer: coarse)");
  const LARGEST = 6;
  const chosen = { model: 0, definition: "", rate: "", gain: 0, token: null };

  const model = () => data.models[chosen.model];
  const cell = () => model().cells[`${chosen.definition}|${chosen.rate}`];
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const faded = (hex, alpha) => hex + Math.round(alpha * 255).toString(16).padStart(2, "0");
  // Plotly reads a few tags in texts: a token must not become one.
  const plain = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  const short = (value) => (value === null ? "n/a" : Math.abs(value) >= 999.5 ? value.toFixed(0) : value.toPrecision(3));
  const words = (status) => status.replaceAll("_", " ");
  const unpack = ({ bytes: width, data: packed }) => {
    const bytes = Uint8Array.from(atob(packed), (sign) => sign.charCodeAt(0));
    return Array.from({ length: bytes.length / width }, (_, i) => bytes.subarray(i * width, (i + 1) * width).reduceRight((sum, byte) => 256 * sum + byte, 0));
  };

  const config = { displaylogo: false, responsive: true, modeBarButtons: [["zoomIn2d", "zoomOut2d", "resetScale2d"]], scrollZoom: false };
  const axis = (title, more) => ({
    title: { text: title, standoff: 8 }, gridcolor: colour("grid"), linecolor: colour("line"), zeroline: false,
    ticks: "outside", tickcolor: colour("line"), automargin: true, ...more,
  });
  const layout = (more) => ({
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: colour("fg") },
    margin: { l: 56, r: 36, t: 8, b: 46 }, dragmode: coarse.matches ? false : "zoom",
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 12 }, traceorder: "normal" },
    hoverlabel: { bgcolor: colour("panel"), bordercolor: colour("soft"), font: { family: getComputedStyle(document.body).fontFamily, color: colour("fg") }, align: "left" },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("soft"), activecolor: colour("accent"), orientation: "v" },
    ...more,
  });

  // Neighbouring gains that have an interval, as lists of places: one fill over all would bridge the gains that have none.
  const runsOf = (ends) => ends.reduce((runs, end, i) => {
    if (end === null) return runs;
    if (i && ends[i - 1] !== null) runs.at(-1).push(i);
    else runs.push([i]);
    return runs;
  }, []);
  const band = (g, curve, hex) => runsOf(curve.low).map((run) => {
    const back = [...run].reverse();
    return {
      x: [...run, ...back].map((i) => g[i]), y: [...run.map((i) => curve.low[i]), ...back.map((i) => curve.high[i])],
      mode: "lines", line: { width: run.length > 1 ? 0 : 1.5, color: hex }, fill: "toself", fillcolor: faded(hex, 0.2), hoverinfo: "skip", showlegend: false,
    };
  });
  const curveOf = (name, key, hex, symbol, dash = "solid") => {
    const { g, curves } = cell();
    const curve = curves[key];
    const interval = curve.low && curve.value.map((_, i) => [short(curve.low[i]), short(curve.high[i])]);
    return [
      ...(curve.low ? band(g, curve, hex) : []),
      {
        x: g, y: curve.value, name, mode: "lines+markers", customdata: interval, line: { color: hex, width: 2, dash }, marker: { symbol, size: 7 },
        hovertemplate: interval ? "%{y:.3f} [%{customdata[0]}, %{customdata[1]}]" : "%{y:.3f}",
      },
    ];
  };
  const plainCurve = (name, key, dash) => ({
    x: cell().g, y: cell().curves[key].value, name, mode: "lines", line: { color: colour("soft"), dash, width: 1.6 }, hovertemplate: "%{y:.3f}",
  });
  const horizontal = (y) => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: y, y1: y, line: { color: colour("soft"), width: 1 }, layer: "below" });
  const gstarMarks = () => {
    const { gstar, ci_low: low, ci_high: high } = cell().gstar;
    const hex = colour("c5");
    const interval = { type: "rect", yref: "paper", y0: 0, y1: 1, x0: low, x1: high, fillcolor: faded(hex, 0.12), line: { width: 0 }, layer: "below" };
    const mark = { type: "line", yref: "paper", y0: 0, y1: 1, x0: gstar, x1: gstar, line: { color: hex, width: 2 }, layer: "below" };
    return low === null ? [mark] : [interval, mark];
  };
  const gstarLabel = () => {
    const { gstar, status } = cell().gstar;
    const gains = cell().g;
    const left = gstar > (gains[0] + gains[gains.length - 1]) / 2;
    return {
      x: gstar, y: 0.02, yref: "paper", yanchor: "bottom", xanchor: left ? "right" : "left", showarrow: false,
      text: `g* = ${gstar}, ${words(status)}`, font: { size: 12 }, bgcolor: faded(colour("panel"), 0.8),
    };
  };
  const rangeOf = (key) => {
    const found = cell().curves[key].value.filter((value) => value !== null);
    return found.length ? `${short(Math.min(...found))} to ${short(Math.max(...found))}` : "n/a";
  };

  const drawBranching = () => {
    const traces = [
      ...curveOf("b_tot", "b_tot", colour("fg"), "circle"),
      ...curveOf("b_depth", "b_depth", colour("c2"), "square"),
      ...curveOf("b_time", "b_time", colour("c1"), "triangle-up"),
      plainCurve("b_tot, permuted", "b_tot_perm", "dash"),
      plainCurve("2p", "twice_occupancy", "dot"),
    ];
    const marks = { shapes: [horizontal(1), ...gstarMarks()], annotations: [gstarLabel()] };
    const axes = { xaxis: axis("gain g"), yaxis: axis("pairs per site", { rangemode: "tozero" }), hovermode: "x unified" };
    at("chart-branching").setAttribute("aria-label", `Branching over gain: b_tot ${rangeOf("b_tot")}, of which permuted rasters give ${rangeOf("b_tot_perm")}.`);
    Plotly.react("chart-branching", traces, layout({ ...axes, ...marks }), config);
  };

  const drawExcess = () => {
    const traces = [
      ...curveOf("total", "delta_b_tot", colour("fg"), "circle"),
      ...curveOf("along layers", "delta_b_depth", colour("c2"), "square"),
      ...curveOf("along tokens", "delta_b_time", colour("c1"), "triangle-up"),
      ...curveOf("depth, over shift", "opt_delta_b_depth_shift", colour("c3"), "diamond-open", "dash"),
    ];
    const marks = { shapes: [horizontal(0), ...gstarMarks()], annotations: [gstarLabel()] };
    const axes = { xaxis: axis("gain g"), yaxis: axis("delta_b, pairs per site", { rangemode: "tozero" }), hovermode: "x unified" };
    at("chart-excess").setAttribute("aria-label", `Excess over gain: delta_b_tot ${rangeOf("delta_b_tot")} over permutation, ${rangeOf("opt_delta_b_depth_shift")} over shift.`);
    Plotly.react("chart-excess", traces, layout({ ...axes, ...marks }), config);
  };

  // Labels and counts as [layer][token], sites and events of each component, and the colour that each one has.
  const readRaster = (raster) => {
    const { n_layers: nLayers, n_tokens: nTokens } = model().sequence;
    const counts = unpack(raster.counts);
    const occupied = unpack(raster.labels).values();
    const labels = counts.map((count) => (count ? occupied.next().value : 0));
    const sites = new Map();
    const events = new Map();
    labels.forEach((label, i) => {
      if (!label) return;
      sites.set(label, (sites.get(label) ?? 0) + 1);
      events.set(label, (events.get(label) ?? 0) + counts[i]);
    });
    const bySize = [...sites.keys()].sort((a, b) => sites.get(b) - sites.get(a) || a - b);
    const place = new Map(bySize.slice(0, LARGEST).map((label, i) => [label, i + 2]));
    const rows = (make) => Array.from({ length: nLayers }, (_, layer) => Array.from({ length: nTokens }, (_, token) => make(layer * nTokens + token)));
    const active = Array.from({ length: nTokens }, (_, token) => {
      const column = Array.from({ length: nLayers }, (_, layer) => layer * nTokens + token);
      return { layers: column.filter((i) => labels[i]).length, events: column.reduce((sum, i) => sum + counts[i], 0) };
    });
    return {
      g: raster.g, is: raster.is, active, n: bySize.length,
      z: rows((i) => (labels[i] ? place.get(labels[i]) ?? 1 : null)),
      text: rows((i) => (labels[i] ? `${counts[i]} events; component of ${sites.get(labels[i])} sites, ${events.get(labels[i])} events` : "")),
    };
  };

  let rasters = [];
  const nameOf = (raster) => (raster.is === "g1" ? `g = ${raster.g}` : `g* = ${raster.g}`);
  const tokenName = (token) => `token ${token + model().sequence.first}`;
  const PANELS = [[0.55, 0.97], [0, 0.42]];
  const tokenMarks = () => PANELS.map(([y0, y1]) => ({
    type: "line", xref: "x", yref: "paper", x0: chosen.token, x1: chosen.token, y0, y1, line: { color: colour("fg"), width: 1.5 },
  }));

  const drawRaster = () => {
    const { n_layers: nLayers, n_tokens: nTokens, tokens } = model().sequence;
    const colours = ["other", "c1", "c2", "c3", "c4", "c5", "c6"].map(colour);
    const colorscale = colours.flatMap((hex, i) => [[i / colours.length, hex], [(i + 1) / colours.length, hex]]);
    rasters = cell().rasters.map(readRaster);
    chosen.token ??= busiest();
    const labels = tokens.map((text, token) => `${tokenName(token)} “${plain(text)}”`);
    const traces = rasters.map((raster, i) => ({
      type: "heatmap", z: raster.z, text: raster.text, customdata: raster.z.map(() => labels), zmin: 0.5, zmax: LARGEST + 1.5, colorscale, showscale: false,
      hoverongaps: false, xaxis: "x", yaxis: i ? "y2" : "y", name: nameOf(raster),
      hovertemplate: "%{customdata}<br>layer %{y}<br>%{text}<extra></extra>",
    }));
    const y = { range: [-0.5, nLayers - 0.5], zeroline: false, dtick: nLayers > 12 ? 5 : 1, showgrid: false };
    const title = (raster, height) => ({
      text: `${nameOf(raster)}: ${raster.n} components`, x: 0, xref: "paper", xanchor: "left", y: height, yref: "paper", yanchor: "bottom", showarrow: false,
    });
    const panels = {
      xaxis: axis("token position", { range: [-0.5, nTokens - 0.5], anchor: "y2", showgrid: false }),
      yaxis: axis("layer", { ...y, domain: PANELS[0] }),
      yaxis2: axis("layer", { ...y, domain: PANELS[1] }),
      annotations: rasters.map((raster, i) => title(raster, PANELS[i][1])), shapes: tokenMarks(), uirevision: "raster", hovermode: "closest", margin: { l: 56, r: 36, t: 14, b: 46 },
    };
    const described = rasters.map((raster) => `${nameOf(raster)} has ${raster.n} components`).join("; ");
    at("chart-raster").setAttribute("aria-label", `Rasters of one sequence, ${nLayers} layers by ${nTokens} tokens: ${described}.`);
    Plotly.react("chart-raster", traces, layout(panels), config);
    drawPassage();
    sayToken();
  };

  // Until a reader picks a token, the one with most layers active at g*.
  const busiest = () => {
    const { active } = rasters[rasters.length - 1];
    return active.reduce((best, { layers }, token) => (layers > active[best].layers ? token : best), 0);
  };

  const drawPassage = () => {
    const { tokens, n_layers: nLayers, id } = model().sequence;
    const shown = rasters[rasters.length - 1];
    at("passage").replaceChildren(...tokens.map((text, token) => {
      const word = document.createElement("span");
      word.textContent = text;
      word.dataset.token = token;
      word.title = `${tokenName(token)}: ${shown.active[token].layers} of ${nLayers} layers active`;
      word.style.setProperty("--share", shown.active[token].layers / nLayers);
      return word;
    }));
    at("passage-note").textContent = `Sequence ${id} of the held-out windows. The stronger the shade, the more layers are active at the token, at ${nameOf(shown)}; choose one to mark it.`;
  };

  const sayToken = () => {
    const { tokens, n_layers: nLayers } = model().sequence;
    const parts = rasters.map((raster) => `at ${nameOf(raster)} ${raster.active[chosen.token].layers} of ${nLayers} layers, ${raster.active[chosen.token].events} events`);
    at("token-said").textContent = `${tokenName(chosen.token)} “${tokens[chosen.token]}”: ${parts.join("; ")}`;
    at("token").value = chosen.token;
    at("token").setAttribute("aria-valuetext", at("token-said").textContent);
    at("passage").querySelector(".here")?.classList.remove("here");
    at("passage").children[chosen.token].classList.add("here");
  };
  const markToken = (token) => {
    chosen.token = token;
    sayToken();
    Plotly.relayout("chart-raster", { shapes: tokenMarks() });
  };

  const drawSizes = () => {
    const curves = cell().sizes;
    const focus = curves[chosen.gain];
    const shares = (curve) => curve.at_least.map((count) => count / curve.n);
    const others = curves.filter((curve) => curve !== focus).map((curve, i) => ({
      x: curve.size, y: shares(curve), name: "other gains", legendgroup: "others", showlegend: i === 0, mode: "lines",
      line: { color: colour("other"), width: 1 }, hovertemplate: `g = ${curve.g}: %{y:.3g} have %{x} events or more<extra></extra>`,
    }));
    const observed = {
      x: focus.size, y: shares(focus), name: `g = ${focus.g}`, mode: "markers", marker: { color: colour("fg"), size: 6, symbol: "circle-open" },
      hovertemplate: "%{y:.3g} of the components have %{x} events or more<extra></extra>",
    };
    const looks = { "power law": ["c2", "solid"], "log-normal": ["c1", "dash"], exponential: ["c3", "dot"] };
    const laws = Object.entries(looks).filter(([law]) => focus.laws[law]).map(([law, [hex, dash]]) => ({
      x: focus.laws[law][0], y: focus.laws[law][1], name: law, mode: "lines", line: { color: colour(hex), dash, width: 2.2 }, hovertemplate: `${law}: %{y:.3g}<extra></extra>`,
    }));
    const log = { type: "log", exponentformat: "power", dtick: 1 };
    at("sizes-said").textContent = focus.reason ? `No law was fitted: ${focus.reason}.` : "";
    const axes = { xaxis: axis("size (events)", log), yaxis: axis("share at least as large", log), hovermode: "closest" };
    at("chart-sizes").setAttribute("aria-label", `Share of components at least as large, ${curves.length} gains on logarithmic axes; at g = ${focus.g} ${focus.n} components, the largest of ${focus.size.at(-1) ?? 0} events.`);
    Plotly.react("chart-sizes", [...others, ...laws, observed], layout(axes), config);
  };

  const draw = () => {
    const { gstar, status } = cell().gstar;
    const definition = model().definitions.find(({ id }) => id === chosen.definition).name;
    const rate = model().rates.find(({ id }) => id === chosen.rate).name;
    at("said").textContent = `${definition}, ${rate} events per unit and token: b_tot ${rangeOf("b_tot")}, delta_b_tot ${rangeOf("delta_b_tot")}; g* = ${gstar}, ${words(status)}.`;
    drawBranching();
    drawExcess();
    drawRaster();
    drawSizes();
  };

  const option = (value, text) => new Option(text, value);
  const fillGains = () => {
    const { g, gstar } = cell();
    chosen.gain = Math.max(0, g.indexOf(gstar.gstar));
    at("pick-gain").replaceChildren(...g.map((gain, i) => option(i, gain === gstar.gstar ? `${gain} (g*)` : `${gain}`)));
    at("pick-gain").value = chosen.gain;
  };
  const fillModel = () => {
    const { definitions, rates, first, sequence } = model();
    Object.assign(chosen, { definition: first.definition, rate: first.rate, token: null });
    at("pick-definition").replaceChildren(...definitions.map(({ id, name }) => {
      const label = document.createElement("label");
      const input = Object.assign(document.createElement("input"), { type: "radio", name: "definition", value: id, checked: id === first.definition });
      label.append(input, ` ${name}`);
      return label;
    }));
    at("pick-rate").replaceChildren(...rates.map(({ id, name }) => option(id, name)));
    at("pick-rate").value = first.rate;
    at("token").max = sequence.n_tokens - 1;
  };
  const show = () => {
    fillGains();
    draw();
  };

  at("controls").hidden = false;
  at("charts").hidden = false;
  at("controls").addEventListener("submit", (event) => event.preventDefault());
  at("pick-model")?.addEventListener("change", (event) => {
    chosen.model = Number(event.target.value);
    fillModel();
    show();
  });
  at("pick-definition").addEventListener("change", (event) => {
    chosen.definition = event.target.value;
    show();
  });
  at("pick-rate").addEventListener("change", (event) => {
    chosen.rate = event.target.value;
    show();
  });
  at("pick-gain").addEventListener("change", (event) => {
    chosen.gain = Number(event.target.value);
    drawSizes();
  });
  at("token").addEventListener("input", (event) => markToken(Number(event.target.value)));
  at("passage").addEventListener("click", (event) => {
    if (event.target.dataset.token !== undefined) markToken(Number(event.target.dataset.token));
  });
  fillModel();
  show();
  at("chart-raster").on("plotly_click", ({ points }) => markToken(points[0].x));
  dark.addEventListener("change", draw);
  window.addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((box) => { box.open = true; }));
})();
