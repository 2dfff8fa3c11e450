// SPDX-License-Identifier: Apache-2.0
// Lines and bars over the last minutes.

const WINDOW = 300;
const SHORTEST = 60;
const LEFT = 34;
const BOTTOM = 15;

const number = (value, digits = 0) => (value == null ? "–" : value.toFixed(digits));
const short = (value) => (value >= 1000 ? `${value / 1000}k` : String(Number(value.toFixed(1))));

const CHARTS = [
  {
    title: "Frames a second",
    digits: 1,
    least: 10,
    series: [
      { name: "in", color: "muted", pick: (s) => s.fps[0] },
      { name: "out", color: "accent", pick: (s) => s.fps[1] },
    ],
  },
  {
    title: "Latency, ms",
    digits: 0,
    least: 20,
    series: [
      { name: "p50", color: "accent", pick: (s) => s.latency[0] },
      { name: "p95", color: "warm", pick: (s) => s.latency[1] },
      { name: "p99", color: "pink", pick: (s) => s.latency[2] },
    ],
  },
  {
    title: "Dropped frames a second",
    digits: 1,
    least: 5,
    bars: true,
    series: [
      { name: "", color: "bad", pick: (s, b) => (b ? Math.max(0, s.drops - b.drops) / Math.max(0.5, s.t - b.t) : 0) },
    ],
  },
  {
    title: "Share of the picture, %",
    digits: 0,
    least: 100,
    series: [
      { name: "people", color: "pink", pick: (s) => s.shares[0] == null ? null : 100 * s.shares[0] },
      { name: "blur", color: "warm", pick: (s) => s.shares[1] == null ? null : 100 * s.shares[1] },
    ],
  },
];

// The next of 1, 2, 5, 10, 20, ... that is at least the value.
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 2, 5, 10].find((step) => step * power >= value - 1e-9);
}

class Chart {
  constructor(parent, description) {
    this.description = description;
    const box = document.createElement("section");
    box.className = "chart";
    const header = document.createElement("header");
    const title = document.createElement("h2");
    title.textContent = description.title;
    const legend = document.createElement("ul");
    legend.className = "legend";
    this.values = description.series.map((line) => {
      const item = document.createElement("li");
      const mark = document.createElement("i");
      const value = document.createElement("b");
      mark.className = `c-${line.color}`;
      item.append(mark, line.name, " ", value);
      legend.append(item);
      return value;
    });
    this.canvas = document.createElement("canvas");
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", `${description.title} over the last minutes`);
    header.append(title, legend);
    box.append(header, this.canvas);
    parent.append(box);
  }

  draw(samples) {
    const { series, least, digits, bars } = this.description;
    const lines = series.map(({ pick }) => samples.map((sample, i) => pick(sample, samples[i - 1])));
    lines.forEach((line, i) => (this.values[i].textContent = number(line.at(-1), digits)));

    const scale = devicePixelRatio || 1;
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!width) return;
    this.canvas.width = Math.round(width * scale);
    this.canvas.height = Math.round(height * scale);
    const context = this.canvas.getContext("2d");
    context.scale(scale, scale);
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(`--${name}`);

    const top = roundUp(Math.max(least, ...lines.flat().filter((v) => v != null)));
    const end = samples.at(-1)?.t ?? 0;
    const span = Math.min(WINDOW, Math.max(SHORTEST, end - (samples[0]?.t ?? end)));
    const x = (t) => LEFT + ((t - end + span) / span) * (width - LEFT - 2);
    const y = (value) => 5 + (1 - value / top) * (height - BOTTOM - 7);

    context.font = `11px ${style.fontFamily}`;
    context.fillStyle = color("muted");
    context.strokeStyle = color("line");
    context.lineWidth = 1;
    context.textBaseline = "middle";
    context.textAlign = "right";
    for (const value of [0, top / 2, top]) {
      context.fillText(short(value), LEFT - 7, y(value));
      context.beginPath();
      context.moveTo(LEFT, Math.round(y(value)) + 0.5);
      context.lineTo(width, Math.round(y(value)) + 0.5);
      context.stroke();
    }
    context.textBaseline = "bottom";
    context.fillText("now", width, height);
    context.textAlign = "left";
    context.fillText(span >= 120 ? `${Math.round(span / 60)} min ago` : `${Math.round(span)} s ago`, LEFT, height);

    lines.forEach((line, i) => {
      context.strokeStyle = context.fillStyle = color(series[i].color);
      if (bars) {
        const wide = Math.max(1.5, (width - LEFT) / span - 1);
        line.forEach((v, k) => v && context.fillRect(x(samples[k].t) - wide, y(v), wide, y(0) - y(v)));
        return;
      }
      context.lineWidth = 1.7;
      context.lineJoin = "round";
      context.beginPath();
      let drawing = false;
      line.forEach((v, k) => {
        if (v == null) drawing = false;
        else if (drawing) context.lineTo(x(samples[k].t), y(v));
        else {
          context.moveTo(x(samples[k].t), y(v));
          drawing = true;
        }
      });
      context.stroke();
    });
  }
}

export class Charts {
  constructor(parent) {
    this.samples = [];
    this.charts = CHARTS.map((description) => new Chart(parent, description));
    new ResizeObserver(() => this.draw()).observe(parent);
    matchMedia("(prefers-color-scheme: light)").addEventListener("change", () => this.draw());
  }

  // What the server remembers, oldest first.
  replace(samples) {
    this.samples = [];
    samples.forEach((sample) => this.append(sample));
    this.draw();
  }

  add(sample) {
    this.append(sample);
    this.draw();
  }

  // Keeps them in order of time: where it runs backwards, another session has begun.
  append(sample) {
    const last = this.samples.at(-1);
    if (last && sample.t === last.t) return;
    if (last && sample.t < last.t) this.samples = [];
    this.samples.push(sample);
    this.samples = this.samples.filter((old) => old.t >= sample.t - WINDOW);
  }

  draw() {
    for (const chart of this.charts) chart.draw(this.samples);
  }
}
