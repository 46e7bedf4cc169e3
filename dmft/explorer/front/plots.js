// Pictures in SVG: curves over time, and a diagram with a cross-hair.

import { axisTicks, shareOf, shown, valueAt } from "./numbers.js";

const SPACE = "http://www.w3.org/2000/svg";
const MARGIN = { left: 62, right: 14, top: 12, bottom: 42 };
export const COLOURS = 8;

export function element(name, attributes = {}, ...children) {
    const made = document.createElementNS(SPACE, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
}

// "M_12" as text with a subscript.
export function symbol(name, attributes = {}) {
    const [letter, index] = name.split("_");
    const made = element("text", attributes, letter);
    if (index !== undefined) made.append(element("tspan", { "font-size": "75%", dy: "3" }, index));
    return made;
}

function tickText(tick, attributes) {
    if (tick.text !== undefined) return element("text", attributes, tick.text);
    if (tick.power === 0) return element("text", attributes, "1");
    const made = element("text", attributes, "10");
    made.append(element("tspan", { dy: "-5", "font-size": "75%" }, String(tick.power).replace("-", "−")));
    return made;
}

class Frame {
    constructor(holder, label, height) {
        this.holder = holder;
        this.height = height;
        this.svg = element("svg", { role: "img", "aria-label": label, class: "plot" });
        holder.append(this.svg);
        this.label = label;
        this.redraw = () => {};
        new ResizeObserver(() => {
            if (Math.abs(holder.clientWidth - (this.width ?? 0)) > 1) this.redraw();
        }).observe(holder);
    }

    open(x, y) {
        this.width = Math.max(240, this.holder.clientWidth);
        const { width } = this, right = MARGIN.right + (this.extra ?? 0);
        const height = width < 380 && !this.extra ? Math.min(this.height, 200) : this.height;
        this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
        this.svg.setAttribute("width", width);
        this.svg.setAttribute("height", height);
        this.box = {
            left: MARGIN.left, top: MARGIN.top,
            width: width - MARGIN.left - right, height: height - MARGIN.top - MARGIN.bottom,
        };
        this.x = scale(x, this.box.left, this.box.width);
        this.y = scale(y, this.box.top + this.box.height, -this.box.height);
        const parts = [];
        const { left, top, width: w, height: h } = this.box;
        for (const tick of axisTicks(x, width < 420 ? 4 : 7)) {
            const at = this.x(tick.at).toFixed(1);
            if (!tick.minor) {
                parts.push(element("line", { x1: at, x2: at, y1: top, y2: top + h, class: "grid" }));
                parts.push(tickText(tick, { x: at, y: top + h + 17, class: "tick middle" }));
            }
            parts.push(element("line", {
                x1: at, x2: at, y1: top + h, y2: top + h - (tick.minor ? 3 : 6), class: "axis",
            }));
        }
        for (const tick of axisTicks(y, 6)) {
            const at = this.y(tick.at).toFixed(1);
            if (!tick.minor) {
                parts.push(element("line", { x1: left, x2: left + w, y1: at, y2: at, class: "grid" }));
                parts.push(tickText(tick, { x: left - 7, y: Number(at) + 4, class: "tick end" }));
            }
            parts.push(element("line", {
                x1: left, x2: left + (tick.minor ? 3 : 6), y1: at, y2: at, class: "axis",
            }));
        }
        parts.push(element("rect", { x: left, y: top, width: w, height: h, class: "frame" }));
        parts.push(element("text", { x: left + w / 2, y: top + h + 36, class: "name middle" }, x.label));
        const turn = `rotate(-90 14 ${top + h / 2})`;
        parts.push(element("text", { x: 14, y: top + h / 2, transform: turn, class: "name middle" }, y.label));
        return parts;
    }
}

function scale({ low, high, log, cubic }, from, length) {
    if (cubic) return (value) => from + length * Math.cbrt((value - low) / (high - low));
    if (log) {
        const first = Math.log(low), all = Math.log(high) - first;
        return (value) => from + (length * (Math.log(value) - first)) / all;
    }
    return (value) => from + (length * (value - low)) / (high - low);
}

export class Curves {
    // What is drawn: lines { x, y, name, colour, dash }, points { x, y, error, colour }.
    constructor(holder, { label, yLabel, xLabel, log, height = 270 }) {
        this.frame = new Frame(holder, label, height);
        this.options = { yLabel, xLabel, log };
        this.lines = [];
        this.points = [];
        this.frame.redraw = () => this.draw();
    }

    set(lines, points = []) {
        this.lines = lines;
        this.points = points;
        this.draw();
    }

    limits() {
        const { log } = this.options;
        let low = Infinity, high = -Infinity, first = Infinity, last = -Infinity;
        for (const { x, y } of [...this.lines, ...this.points]) {
            for (let n = 0; n < x.length; n++) {
                if (!(x[n] > 0)) continue;
                first = Math.min(first, x[n]);
                last = Math.max(last, x[n]);
                if (y[n] === null || !Number.isFinite(y[n]) || (log && !(y[n] > 0))) continue;
                low = Math.min(low, y[n]);
                high = Math.max(high, y[n]);
            }
        }
        if (!(last > first)) [first, last] = [0.1, 1];
        if (!(high >= low)) [low, high] = log ? [0.1, 1] : [0, 1];
        if (log) {
            high *= 1.3;
            low = Math.max(low / 1.3, high * 1e-12);
            if (high / low < 10) low = high / 10;
        } else {
            [low, high] = [Math.min(low, 0), Math.max(high, 0.1)];
            const rim = 0.06 * (high - low);
            [low, high] = [low < 0 ? low - rim : low, high + rim];
        }
        return [{ low: first, high: last, log: true, label: this.options.xLabel },
            { low, high, log, label: this.options.yLabel }];
    }

    draw() {
        if (!this.lines.length) return;
        const { frame } = this, parts = frame.open(...this.limits());
        const log = this.options.log;
        for (const line of this.lines) {
            let path = "", up = true;
            for (let n = 0; n < line.x.length; n++) {
                const y = line.y[n];
                if (!(line.x[n] > 0) || y === null || !Number.isFinite(y) || (log && !(y > 0))) {
                    up = up || line.x[n] > 0;
                    continue;
                }
                path += `${up ? "M" : "L"}${frame.x(line.x[n]).toFixed(1)} ${frame.y(y).toFixed(1)}`;
                up = false;
            }
            parts.push(element("path", {
                d: path || "M0 0", class: `curve c${line.colour % COLOURS}${line.dash ? " dash" : ""}`,
                "data-name": line.name,
            }));
        }
        for (const { x, y, error, colour } of this.points) {
            for (let n = 0; n < x.length; n++) {
                if (!(x[n] > 0) || !Number.isFinite(y[n]) || (log && !(y[n] > 0))) continue;
                const at = frame.x(x[n]).toFixed(1), where = frame.y(y[n]).toFixed(1);
                if (error && (!log || y[n] > error[n])) {
                    parts.push(element("line", {
                        x1: at, x2: at, y1: frame.y(y[n] + error[n]).toFixed(1),
                        y2: frame.y(y[n] - error[n]).toFixed(1), class: `bar c${colour % COLOURS}`,
                    }));
                }
                parts.push(element("circle", { cx: at, cy: where, r: 3, class: `point c${colour % COLOURS}` }));
            }
        }
        frame.svg.replaceChildren(...parts);
    }
}

// Colours of a diagram, from low to high, as those of dmft.plot (viridis): low is dark.
const MAP = [
    [68, 1, 84], [71, 45, 123], [59, 82, 139], [44, 114, 142], [33, 144, 140], [39, 173, 129],
    [94, 201, 98], [170, 220, 50], [253, 231, 37],
];
const FAILED = [150, 150, 150];

export function colourAt(u) {
    const place = Math.min(1, Math.max(0, u)) * (MAP.length - 1), n = Math.min(MAP.length - 2, Math.floor(place));
    return MAP[n].map((c, i) => Math.round(c + (place - n) * (MAP[n + 1][i] - c)));
}

export class Diagram {
    constructor(holder, moved) {
        this.frame = new Frame(holder, "phase diagram", 380);
        this.frame.extra = 84;
        this.frame.svg.setAttribute("role", "group");
        this.moved = moved;
        this.frame.redraw = () => this.draw();
        this.follow();
    }

    // axes: two controls; grid: { xs, ys, values, status }; at: [x, y].
    set(axes, grid, at, label) {
        Object.assign(this, { axes, grid, at, label });
        this.draw();
    }

    place(at) {
        const same = this.at && at.every((value, n) => value === this.at[n]);
        this.at = at;
        if (this.cross && !same) this.drawCross();
    }

    range() {
        const all = this.grid.values.flat().filter((v) => v !== null && Number.isFinite(v));
        let low = Math.min(...all), high = Math.max(...all);
        if (!all.length) [low, high] = [0, 1];
        const log = low > 0 && high / low > 30;
        if (log) low = Math.max(low, high * 1e-7);
        return { low, high: high > low ? high : low + 1, log: log && high > low };
    }

    draw() {
        if (!this.axes) return;
        const { frame, grid } = this, [x, y] = this.axes;
        const axis = ({ low, high, scale, words }) =>
            ({ low, high, log: scale === "log", cubic: scale === "cubic", label: words });
        const parts = frame.open(axis(x), axis(y));
        if (grid) {
            this.image(parts, frame.box);
            this.bar(parts, frame.box);
        }
        this.cross = element("g", {
            class: grid ? "cross" : "cross bare", tabindex: 0, role: "slider", "aria-label": `cross-hair: ${x.words} and ${y.words}`,
            "aria-valuemin": 0, "aria-valuemax": 1000,
        });
        frame.svg.replaceChildren(...parts, this.cross);
        this.drawCross();
    }

    image(parts, { left, top, width, height }) {
        const { xs, ys, values } = this.grid, { low, high, log } = this.range();
        const canvas = document.createElement("canvas");
        [canvas.width, canvas.height] = [xs.length, ys.length];
        const brush = canvas.getContext("2d"), pixels = brush.createImageData(xs.length, ys.length);
        for (let j = 0; j < ys.length; j++) {
            for (let i = 0; i < xs.length; i++) {
                const v = values[j][i];
                if (v === undefined) continue;
                let colour = FAILED;
                if (v !== null && Number.isFinite(v)) {
                    colour = colourAt(log ? Math.log(Math.max(v, low) / low) / Math.log(high / low) : (v - low) / (high - low));
                }
                pixels.data.set([...colour, 255], 4 * ((ys.length - 1 - j) * xs.length + i));
            }
        }
        brush.putImageData(pixels, 0, 0);
        // Points of the grid stand in the middle of their cells.
        const w = width / (xs.length - 1), h = height / (ys.length - 1);
        const inner = element("svg", { x: left, y: top, width, height });
        inner.append(element("image", {
            href: canvas.toDataURL(), x: -w / 2, y: -h / 2, width: width + w, height: height + h,
            preserveAspectRatio: "none", class: "pixels",
        }));
        parts.push(inner);
    }

    bar(parts, { left, top, width, height }) {
        const { low, high, log } = this.range(), at = left + width + 12, count = 32;
        for (let n = 0; n < count; n++) {
            const fill = `rgb(${colourAt((n + 0.5) / count)})`;
            parts.push(element("rect", {
                x: at, y: top + height * (1 - (n + 1) / count), width: 12, height: height / count + 0.5, fill,
            }));
        }
        const place = scale({ low, high, log }, top + height, -height);
        for (const tick of axisTicks({ low, high, log }, 6).filter((t) => !t.minor)) {
            const y = place(tick.at);
            parts.push(element("line", { x1: at + 12, x2: at + 16, y1: y, y2: y, class: "axis" }));
            parts.push(tickText(tick, { x: at + 19, y: y + 4, class: "tick" }));
        }
        const x = at + 68, y = top + height / 2;
        parts.push(element("text", { x, y, transform: `rotate(-90 ${x} ${y})`, class: "name middle label" }, this.label));
    }

    drawCross() {
        const { frame } = this, { left, top, width, height } = frame.box;
        const [x, y] = this.axes.map((c, n) => shareOf(c, this.at[n]));
        const cx = (left + width * x).toFixed(1), cy = (top + height * (1 - y)).toFixed(1);
        this.cross.replaceChildren(
            // A light line on a dark one is seen on every colour.
            ...["under", "over"].flatMap((layer) => [
                element("line", { x1: left, x2: left + width, y1: cy, y2: cy, class: layer }),
                element("line", { x1: cx, x2: cx, y1: top, y2: top + height, class: layer }),
                element("circle", { cx, cy, r: 8, class: layer }),
            ]),
        );
        this.cross.setAttribute("aria-valuenow", Math.round(1000 * x));
        this.cross.setAttribute("aria-valuetext",
            this.axes.map((c, n) => `${c.words} ${shown(this.at[n])}`).join(", "));
    }

    follow() {
        const { svg } = this.frame;
        const go = (event) => {
            const { left, top, width, height } = this.frame.box, rim = svg.getBoundingClientRect();
            const zoom = rim.width / this.frame.width;
            const x = ((event.clientX - rim.left) / zoom - left) / width;
            const y = 1 - ((event.clientY - rim.top) / zoom - top) / height;
            const inside = (u) => Math.min(1, Math.max(0, u));
            this.move([inside(x), inside(y)]);
        };
        svg.addEventListener("pointerdown", (event) => {
            const { left, top, width, height } = this.frame.box, rim = svg.getBoundingClientRect();
            const x = event.clientX - rim.left - left, y = event.clientY - rim.top - top;
            if (x < -9 || y < -9 || x > width + 9 || y > height + 9) return;
            event.preventDefault();
            svg.setPointerCapture(event.pointerId);
            this.cross.focus({ preventScroll: true });
            this.held = true;
            go(event);
        });
        svg.addEventListener("pointermove", (event) => this.held && go(event));
        for (const end of ["pointerup", "pointercancel"]) {
            svg.addEventListener(end, () => { this.held = false; });
        }
        svg.addEventListener("keydown", (event) => {
            const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
            if (!by) return;
            event.preventDefault();
            const step = event.shiftKey ? 0.1 : 0.02;
            this.move(this.axes.map((c, n) =>
                Math.min(1, Math.max(0, shareOf(c, this.at[n]) + step * by[n]))));
        });
    }

    move(shares) {
        this.place(this.axes.map((c, n) => valueAt(c, shares[n])));
        this.moved(this.at);
    }
}

const STYLES = [
    "stroke", "fill", "stroke-width", "stroke-dasharray", "stroke-opacity", "fill-opacity", "font-family",
    "font-size", "text-anchor", "image-rendering",
];

// An SVG that stands alone: styles as attributes, a background, the legend below.
export function standing(svg, legend) {
    const copy = svg.cloneNode(true), from = svg.querySelectorAll("*"), to = copy.querySelectorAll("*");
    from.forEach((one, n) => {
        const style = getComputedStyle(one);
        for (const name of STYLES) to[n].setAttribute(name, style.getPropertyValue(name));
        for (const name of ["class", "tabindex", "role"]) to[n].removeAttribute(name);
    });
    const width = Number(svg.getAttribute("width")), height = Number(svg.getAttribute("height"));
    const back = getComputedStyle(svg.closest(".panel")).backgroundColor;
    const ink = getComputedStyle(svg).color, family = getComputedStyle(svg).fontFamily;
    const added = legend.length ? 24 * Math.ceil(legend.length / Math.max(1, Math.floor((width - 40) / 74))) : 0;
    copy.setAttribute("xmlns", SPACE);
    copy.setAttribute("height", height + added);
    copy.setAttribute("viewBox", `0 0 ${width} ${height + added}`);
    copy.removeAttribute("class");
    copy.insertBefore(element("rect", { width, height: height + added, fill: back }), copy.firstChild);
    const each = Math.max(1, Math.floor((width - 40) / 74));
    legend.forEach(({ name, colour, dash }, n) => {
        const x = 40 + 74 * (n % each), y = height + 12 + 24 * Math.floor(n / each);
        copy.append(element("line", {
            x1: x, x2: x + 22, y1: y, y2: y, stroke: colour, "stroke-width": 2,
            ...(dash ? { "stroke-dasharray": "5 4" } : {}),
        }));
        copy.append(symbol(name, { x: x + 28, y: y + 4, fill: ink, "font-family": family, "font-size": 13 }));
    });
    return { text: new XMLSerializer().serializeToString(copy), width, height: height + added };
}
