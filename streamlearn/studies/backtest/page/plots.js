"use strict";
// Draws what the data block describes, by figure: x and its label, series with their colours, and of a comparison
// the band between two of them and the range of y. See _plots in report.py.
(() => {
  const plots = JSON.parse(document.getElementById("data").textContent);
  const figures = [...document.querySelectorAll("figure[data-plot]")];
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
  const whole = new Intl.NumberFormat("en");
  const number = (value) => value == null ? "–"
    : Math.abs(value) >= 1000 ? whole.format(Math.round(value)) : String(Number(value.toPrecision(4)));
  const font = "12px system-ui, -apple-system, 'Segoe UI', Roboto, Arial, sans-serif";
  let drawn = [];

  // The axis is as wide as its longest number.
  const size = (plot, texts, axis, cycle) => {
    if (cycle > 1) return plot.axes[axis]._size;
    const longest = (texts || [""]).reduce((a, b) => a.length > b.length ? a : b, "");
    plot.ctx.font = plot.axes[axis].font[0];
    return Math.ceil(plot.ctx.measureText(longest).width / devicePixelRatio) + 18;
  };

  function options(spec, width) {
    const ink = css("--soft"), grid = { stroke: css("--grid"), width: 1 };
    const axis = { stroke: ink, grid, ticks: grid, font, labelFont: font, labelSize: 22 };
    // With the pointer elsewhere the legend shows where each line ends.
    const legend = (format) => (plot, v, n, at) => {
      const value = at == null ? plot.data[n].at(-1) : v;
      return value == null ? "–" : format(value);
    };
    const value = legend((v) => number(v) + (spec.unit ? " " + spec.unit : ""));
    const series = spec.series.map((one) => ({
      label: one.label, stroke: css(one.color), width: one.fill ? 0.75 : one.dash ? 1.5 : 2,
      dash: one.dash || [], points: { show: spec.x.length < 3, size: 6 }, value,
    }));
    const bands = spec.band ? [{ series: spec.band, fill: css(spec.series[spec.band[0] - 1].color) + "2e" }] : [];
    const range = (_, low, high) => {
      if (spec.y) [low, high] = spec.y;
      if (low == null) return [0, 1];
      const [from, to] = spec.zero || spec.from_zero ? [Math.min(low, 0), Math.max(high, 0)] : [low, high];
      const room = (to - from || Math.abs(to) || 1) * 0.06;
      return [spec.from_zero ? from : from - room, to + room];
    };
    return {
      width, height: Math.max(220, Math.min(320, Math.round(width * 0.5))), padding: [10, 14, 0, 0],
      scales: { x: { time: false }, y: { range } },
      axes: [
        { ...axis, label: spec.x_label, space: 70, size: 30, values: (_, ticks) => ticks.map((v) => short.format(v)) },
        { ...axis, label: spec.y_label, size, values: (_, ticks) => ticks.map(number) },
      ],
      series: [{ label: spec.x_name, value: legend((v) => whole.format(v)) }, ...series],
      legend: { markers: { fill: (plot, n) => css(spec.series[n - 1].color) } },
      bands, cursor: { drag: { x: true, y: false }, points: { size: 7 } },
      hooks: { draw: spec.zero ? [line] : [] },
    };
  }

  // The line where neither is better.
  function line(plot) {
    const y = Math.round(plot.valToPos(0, "y", true));
    const { ctx, bbox } = plot;
    if (y < bbox.top || y > bbox.top + bbox.height) return;
    ctx.save();
    ctx.strokeStyle = css("--soft");
    ctx.lineWidth = devicePixelRatio;
    ctx.setLineDash([2 * devicePixelRatio, 3 * devicePixelRatio]);
    ctx.beginPath();
    ctx.moveTo(bbox.left, y);
    ctx.lineTo(bbox.left + bbox.width, y);
    ctx.stroke();
    ctx.restore();
  }

  function room(figure) {
    const style = getComputedStyle(figure);
    return Math.floor(figure.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight));
  }

  function draw() {
    for (const plot of drawn) plot.destroy();
    drawn = figures.map((figure) => {
      const spec = plots[figure.dataset.plot];
      const plot = new uPlot(options(spec, room(figure)), [spec.x, ...spec.series.map((one) => one.values)], figure);
      plot.ctx.canvas.setAttribute("role", "img");
      plot.ctx.canvas.setAttribute("aria-label", `${spec.y_label} by ${spec.x_label}`);
      return plot;
    });
  }

  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; draw(); } });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  draw();
})();
