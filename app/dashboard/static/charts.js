/* Draws every <figure class="chart"> from the table inside it, with Chart.js. The page names chartjs/chart.umd.min.js
   before this file (start.js). Without scripts the table is the chart.

   <figure class="chart" data-chart="bars" data-x-title="LDS" data-y-title="" data-mark-x="0.92" data-mark-name="ceiling">
     <figcaption>What it shows</figcaption>
     <div class="canvas"></div>
     <details open><summary>As a table</summary><div class="table"><table>
       <thead><tr><th>Method</th><th>LDS</th><th data-low-of="LDS">from</th><th data-high-of="LDS">to</th></tr></thead>
       <tbody><tr data-control><th>bm25</th><td data-value="0.27">0.27</td><td>0.20</td><td>0.34</td></tr></tbody>
     </table></div></details>
   </figure>

   data-chart     bars (horizontal, one a row), points, lines. The first column is the label of bars and the x of the others
                  (lines take words as x too); every further column that holds numbers is a series.
   data-x-scale   log: of lines whose x are numbers above 0.
   data-diagonal  on the figure: the line y = x, where predictions would be right.
   data-mark-x, data-mark-y with data-mark-name: a dashed line at a value.
   data-low-of, data-high-of   on a header: the column bounds that series' interval, drawn as whiskers.
   data-skip      on a header: the column is for readers only.
   data-control   on a row: something to compare with, in another colour.
   data-group     on a row (points): rows of one group have one colour and one entry in the legend.
   data-label     on a row (points): what the tooltip calls it.
   data-value     on a cell: its exact number. Else its text counts (1,234  −0.5  75 %).
   The table is folded away once its chart is drawn. Charts that htmx swaps in are drawn too. */
(() => {
  "use strict";
  const drawn = new Map();
  const SHAPES = ["circle", "triangle", "rectRot", "rect"];
  const DASHES = [[], [6, 3], [2, 3], [8, 3, 2, 3]];

  function colours() {
    const style = getComputedStyle(document.documentElement);
    const of = (name) => style.getPropertyValue(name).trim();
    return {
      ink: of("--ink"), soft: of("--soft"), line: of("--line"), panel: of("--panel"), control: of("--chart-control"),
      series: [1, 2, 3, 4].map((number) => of(`--chart-${number}`)),
    };
  }

  function number(cell) {
    if (!cell) return null;
    const text = cell.dataset.value ?? cell.textContent.replace("−", "-").replace(/[\s,%]/g, "");
    const value = text === "" ? NaN : Number(text);
    return Number.isFinite(value) ? value : null;
  }

  /* → {rows: [{label, x, control, group, title}], series: [{name, values, lows, highs}]} */
  function read(table) {
    const heads = [...table.tHead.rows[0].cells];
    const lines = [...table.tBodies].flatMap((body) => [...body.rows]);
    const column = (place) => lines.map((line) => number(line.cells[place]));
    const bound = (kind, name) => {
      const place = heads.findIndex((head) => head.dataset[kind] === name);
      return place < 0 ? null : column(place);
    };
    const series = [];
    heads.forEach((head, place) => {
      const { lowOf, highOf, skip } = head.dataset;
      const values = column(place), name = head.textContent.trim();
      if (place === 0 || lowOf !== undefined || highOf !== undefined || skip !== undefined) return;
      if (values.some((value) => value !== null)) series.push({ name, values, lows: bound("lowOf", name), highs: bound("highOf", name) });
    });
    const rows = lines.map((line) => ({
      label: line.cells[0].textContent.trim(), x: number(line.cells[0]), control: "control" in line.dataset,
      group: line.dataset.group, title: line.dataset.label,
    }));
    return { rows, series };
  }

  /* --- what Chart.js lacks: intervals and lines at a value --- */
  const whiskers = {
    id: "whiskers",
    afterDatasetsDraw(chart) {
      const context = chart.ctx, across = chart.options.indexAxis === "y";
      chart.data.datasets.forEach((dataset, place) => {
        const meta = chart.getDatasetMeta(place);
        if (!dataset.lows || !dataset.highs || meta.hidden) return;
        const scale = across ? chart.scales.x : chart.scales.y;
        context.save();
        context.lineWidth = across ? 2 : 1;
        context.strokeStyle = dataset.whiskerColour;
        context.beginPath();
        meta.data.forEach((element, row) => {
          const low = dataset.lows[row], high = dataset.highs[row];
          if (low === null || high === null) return;
          const [from, to, cap] = [scale.getPixelForValue(low), scale.getPixelForValue(high), across ? 5 : 3];
          const line = (x0, y0, x1, y1) => { context.moveTo(x0, y0); context.lineTo(x1, y1); };
          if (across) {
            line(from, element.y, to, element.y);
            [from, to].forEach((x) => line(x, element.y - cap, x, element.y + cap));
          } else {
            line(element.x, from, element.x, to);
            [from, to].forEach((y) => line(element.x - cap, y, element.x + cap, y));
          }
        });
        context.stroke();
        context.restore();
      });
    },
  };

  const marks = {
    id: "marks",
    beforeDatasetsDraw(chart, _arguments, options) {
      const { ctx: context, chartArea: area, scales } = chart;
      context.save();
      context.setLineDash([5, 4]);
      context.strokeStyle = context.fillStyle = options.colour;
      const stroke = (x0, y0, x1, y1) => {
        context.beginPath();
        context.moveTo(x0, y0);
        context.lineTo(x1, y1);
        context.stroke();
      };
      context.font = `12px ${Chart.defaults.font.family}`;
      const { x, y, name } = options;
      if (x !== null) {
        const at = scales.x.getPixelForValue(x), left = at > (area.left + area.right) / 2;
        stroke(at, area.top, at, area.bottom);
        context.textAlign = left ? "right" : "left";
        context.fillText(name, at + (left ? 4 : -4), area.top - 5);  // above the plot: no bar covers it
      }
      if (y !== null) {
        const at = scales.y.getPixelForValue(y);
        stroke(area.left, at, area.right, at);
        context.textAlign = "right";
        context.fillText(name, area.right - 4, at - 5);
      }
      if (options.diagonal) {
        const low = Math.max(scales.x.min, scales.y.min), high = Math.min(scales.x.max, scales.y.max);
        const [px, py] = [(v) => scales.x.getPixelForValue(v), (v) => scales.y.getPixelForValue(v)];
        if (high > low) stroke(px(low), py(low), px(high), py(high));
      }
      context.restore();
    },
  };

  /* --- the three kinds --- */
  function bars({ rows, series }, colour) {
    const datasets = series.map((one, place) => ({
      label: one.name, data: one.values, lows: one.lows, highs: one.highs, whiskerColour: colour.ink,
      backgroundColor: rows.map((row) => (row.control ? colour.control : colour.series[place % 4])), maxBarThickness: 18,
    }));
    return { type: "bar", labels: rows.map((row) => row.label), datasets };
  }

  function points({ rows, series }, colour) {
    const groups = [...new Set(rows.map((row) => row.group ?? (row.control ? "controls" : undefined)))];
    const datasets = [];
    for (const one of series) {
      for (const group of groups) {
        const kept = rows.flatMap((row, place) => {
          const mine = (row.group ?? (row.control ? "controls" : undefined)) === group;
          return mine && row.x !== null && one.values[place] !== null ? [place] : [];
        });
        const place = datasets.length, control = kept.length > 0 && kept.every((index) => rows[index].control);
        const paint = control ? colour.control : colour.series[place % 4];
        datasets.push({
          label: group === undefined ? one.name : series.length > 1 ? `${one.name}: ${group}` : group,
          data: kept.map((index) => ({ x: rows[index].x, y: one.values[index], title: rows[index].title })),
          lows: one.lows && kept.map((index) => one.lows[index]), highs: one.highs && kept.map((index) => one.highs[index]),
          backgroundColor: paint, borderColor: paint, whiskerColour: paint, pointStyle: SHAPES[place % 4], pointRadius: 4, pointHoverRadius: 6,
        });
      }
    }
    return { type: "scatter", datasets };
  }

  function lines({ rows, series }, colour) {
    const numeric = rows.every((row) => row.x !== null);
    const datasets = series.map((one, place) => ({
      label: one.name, lows: one.lows, highs: one.highs, data: numeric ? rows.map((row, at) => ({ x: row.x, y: one.values[at] })) : one.values,
      borderColor: colour.series[place % 4], backgroundColor: colour.series[place % 4], whiskerColour: colour.series[place % 4],
      borderDash: DASHES[place % 4], pointStyle: SHAPES[place % 4], borderWidth: 2, pointRadius: rows.length > 40 ? 0 : 4, spanGaps: true,
    }));
    return { type: "line", labels: numeric ? undefined : rows.map((row) => row.label), numeric, datasets };
  }
  const KINDS = { bars, points, lines };

  /* --- drawing --- */
  function limits(datasets, extra) {
    const bounds = datasets.flatMap((dataset) => [...(dataset.lows ?? []), ...(dataset.highs ?? [])]).concat(extra).filter((value) => value !== null);
    return bounds.length ? { suggestedMin: Math.min(...bounds), suggestedMax: Math.max(...bounds) } : {};
  }

  function axis(title, colour, more) {
    return {
      title: { display: Boolean(title), text: title, color: colour.soft },
      ticks: { color: colour.ink, ...(more.ticks ?? {}) }, grid: { color: colour.line }, border: { color: colour.soft },
      ...Object.fromEntries(Object.entries(more).filter(([name]) => name !== "ticks")),
    };
  }

  function scalesOf(figure, kind, plan, colour, mark) {
    const { xTitle, yTitle } = figure.dataset;
    if (kind === "bars") {
      const wrap = (label) => (label.length > 30 ? `${label.slice(0, 29)}…` : label);
      const ticks = { autoSkip: false, callback(value) { return wrap(this.getLabelForValue(value)); } };
      return { x: axis(xTitle, colour, limits(plan.datasets, [mark.x])), y: axis(yTitle, colour, { ticks, grid: { display: false } }) };
    }
    if (figure.dataset.xScale === "log" && plan.numeric) {
      const ticks = { maxRotation: 0, callback(value) { return Number.isInteger(Math.log10(value)) ? value.toLocaleString("en") : ""; } };
      return { x: axis(xTitle, colour, { type: "logarithmic", ticks }), y: axis(yTitle, colour, limits(plan.datasets, [mark.y])) };
    }
    const whole = plan.numeric && plan.datasets.every((dataset) => dataset.data.every((point) => Number.isInteger(point.x)));
    const across = kind === "points" || plan.numeric ? { type: "linear", grace: kind === "points" ? "4%" : 0, ticks: whole ? { precision: 0 } : {}, ...(mark.x === null ? {} : limits([], [mark.x])) } : {};
    return { x: axis(xTitle, colour, across), y: axis(yTitle, colour, limits(plan.datasets, [mark.y])) };
  }

  function told(item) {
    const short = (value) => (value === null ? "–" : Number(value.toPrecision(4)).toLocaleString("en"));
    const dataset = item.dataset, place = item.dataIndex, across = item.chart.options.indexAxis === "y";
    const interval = dataset.lows?.[place] != null && dataset.highs?.[place] != null ? ` (${short(dataset.lows[place])} to ${short(dataset.highs[place])})` : "";
    const at = item.chart.config.type === "scatter" ? `${short(item.parsed.x)}, ${short(item.parsed.y)}` : short(across ? item.parsed.x : item.parsed.y);
    return `${dataset.label}: ${at}${interval}`;
  }

  function draw(figure) {
    const table = figure.querySelector("table"), box = figure.querySelector(".canvas"), kind = figure.dataset.chart;
    if (!table?.tHead || !box || !KINDS[kind]) return;
    const data = read(table);
    if (!data.rows.length || !data.series.length) return;
    const colour = colours(), plan = KINDS[kind](data, colour), set = figure.dataset;
    const value = (text) => (text === undefined || text === "" ? null : Number(text));
    const mark = { x: value(set.markX), y: value(set.markY), name: set.markName ?? "" };
    const canvas = document.createElement("canvas");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${figure.querySelector("figcaption")?.textContent.trim() ?? "Chart"}. The figures are in the table below.`);
    box.replaceChildren(canvas);
    if (kind === "bars") box.style.height = `${Math.max(7, 4.5 + 1.8 * data.rows.length * data.series.length)}rem`;
    Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
    const chart = new Chart(canvas, {
      type: plan.type,
      data: { labels: plan.labels, datasets: plan.datasets },
      plugins: [marks, whiskers],
      options: {
        indexAxis: kind === "bars" ? "y" : "x", layout: { padding: { top: mark.x === null ? 0 : 18 } }, animation: false, responsive: true, maintainAspectRatio: false,
        scales: scalesOf(figure, kind, plan, colour, mark),
        plugins: {
          legend: { display: plan.datasets.length > 1, labels: { color: colour.ink, usePointStyle: kind !== "bars", boxHeight: 7, boxWidth: kind === "bars" ? 12 : 7 } },
          tooltip: { callbacks: { label: told, title: (items) => items[0]?.raw?.title ?? items[0]?.label ?? "" } },
          marks: { ...mark, diagonal: "diagonal" in set, colour: colour.soft },
        },
      },
    });
    if (!drawn.has(figure)) figure.querySelector("details")?.removeAttribute("open");
    drawn.set(figure, chart);
  }

  function drawNew() {
    for (const [figure, chart] of drawn) {
      if (figure.isConnected && chart.canvas?.isConnected) continue;
      chart.destroy();
      drawn.delete(figure);
    }
    document.querySelectorAll("figure.chart[data-chart]").forEach((figure) => drawn.has(figure) || draw(figure));
  }

  function redraw() {
    for (const [figure, chart] of drawn) {
      chart.destroy();
      draw(figure);
    }
  }

  drawNew();
  document.addEventListener("htmx:after:process", drawNew);
  document.addEventListener("htmx:after:settle", drawNew);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
})();
