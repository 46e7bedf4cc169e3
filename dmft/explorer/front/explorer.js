// The page: controls on the left, curves, diagram and equations on the right.
//
// A backend has `form` ("server", "widget", "static"), `ask(question)` -> a promise of an answer, and
// `simulates`. Of each kind of question one is on its way and at most one waits: the newest.

import { SLIDER_STEPS, shareOf, shown, stepsOf, valueAt } from "./numbers.js";
import { COLOURS, Curves, Diagram, standing, symbol } from "./plots.js";
import { documentOf, download, filled, formula, fragmentOf, png, readFragment, typeset } from "./texts.js";

const GROUPS = { parameters: "Parameters", student: "Student", start: "Start", time: "Time" };
const STATUS = {
    ok: "reached the final time", event: "ended by an event", diverged: "diverged",
    nonfinite: "exceeded the range of floating-point numbers", left_domain: "left the domain of the equations",
    tolerance_not_met: "missed its tolerance", max_steps: "ran out of steps", timeout: "ran out of time",
    interrupted: "was interrupted", not_converged: "did not converge",
};
// Grids of a diagram, each holding the one before.
const GRIDS = [9, 17, 33];
const RESTED = 350;

function make(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
        if (key in made && key !== "list" && key !== "role") made[key] = value;
        else made.setAttribute(key, value);
    }
    made.append(...children);
    return made;
}

// One question on its way, the newest waiting.
export function lane(ask, show) {
    let busy = false, waiting = null;
    async function send(move) {
        busy = true;
        let answer;
        try {
            answer = await ask(move.question);
        } catch (error) {
            answer = { error: String(error?.message ?? error) };
        }
        try {
            show(answer, move);
        } finally {
            busy = false;
            const next = waiting;
            waiting = null;
            if (next) send(next);
        }
    }
    return (move) => {
        if (busy) waiting = move;
        else send(move);
    };
}

let pages = 0;

export class Explorer {
    constructor(root, description, backend, katex) {
        Object.assign(this, { root, description, backend, katex, number: ++pages });
        this.controls = Object.fromEntries(description.controls.map((c) => [c.name, c]));
        this.values = Object.fromEntries(description.controls.map((c) => [c.name, c.value]));
        this.formulas = { ...description.formulas };
        this.python = { ...description.python_formulas };
        this.off = [];
        const spans = description.controls.filter((c) => c.axis).map((c) => c.name);
        const rate = description.controls.find((c) => c.axis && c.words === "learning rate");
        this.axes = [rate ? rate.name : spans[0]];
        this.axes.push(spans.find((name) => name !== this.axes[0]));
        this.measure = Object.keys(description.measures)[0];
        this.hidden = new Set();
        this.moves = 0;
        root.explorer = this;
        const linked = this.link();
        this.build();
        this.solve = lane((q) => backend.ask(q), (answer, move) => this.showRun(answer, move));
        this.printing = lane((q) => backend.ask(q), (answer) => this.showEquations(answer));
        if (linked.length) this.say(`The link contains settings that this page does not have: ${linked.join("; ")}.`, "warning");
        this.structure();
        this.moved();
    }

    link() {
        if (this.backend.form === "widget") return [];
        const found = readFragment(location.hash, this);
        Object.assign(this.values, found.values);
        Object.assign(this.formulas, found.formulas);
        if (found.off) this.off = found.off;
        const axes = [found.axes[0] ?? this.axes[0], found.axes[1] ?? this.axes[1]];
        if (axes[0] !== axes[1]) this.axes = axes;
        this.measure = found.measure ?? this.measure;
        return found.refused;
    }

    // Layout ---------------------------------------------------------------------------------

    build() {
        const { description } = this;
        this.status = make("p", { className: "status", role: "status" });
        this.note = make("p", { className: "note", role: "alert", hidden: true });
        this.root.classList.add("dmft-explorer");
        // JupyterLab takes arrow keys for its cells otherwise.
        this.root.dataset.lmSuppressShortcuts = "true";
        if (this.backend.form === "widget") this.root.addEventListener("keydown", (event) => event.stopPropagation());
        this.root.replaceChildren(
            make("header", {}, make("h1", {}, description.title), this.actions(), this.status, this.note),
            make("div", { className: "columns" },
                make("form", { className: "controls", "aria-label": "controls", onsubmit: () => false },
                    ...this.groups(), this.networks(), this.terms()),
                make("div", { className: "results" }, this.curvePanels(), this.diagramPanel(),
                    this.equationPanel())),
            this.sheet(),
        );
    }

    actions() {
        const button = (text, act, title = "") => make("button", { type: "button", onclick: act, title }, text);
        const row = make("div", { className: "actions", role: "toolbar", "aria-label": "share and export" });
        if (this.backend.form !== "widget") row.append(button("Share link", () => this.share()));
        row.append(
            button("Copy as Python", () => this.copy("python", "a script that repeats these curves")),
            button("Copy as TOML", () => this.copy("toml", "a file for the command dmft")),
            button("Figure SVG", () => this.figures("svg")),
            button("Figure PNG", () => this.figures("png")),
            button("LaTeX", () => this.latex === undefined
                || download("equations.tex", documentOf(this.latex, this.description.title), "text/x-tex")),
            button("Equations", () => this.text === undefined
                || download("equations.txt", this.text, "text/plain")),
        );
        return row;
    }

    groups() {
        const found = [];
        for (const [group, words] of Object.entries(GROUPS)) {
            const inside = this.description.controls.filter((c) => c.group === group);
            if (!inside.length) continue;
            found.push(make("fieldset", {}, make("legend", {}, words), ...inside.map((c) => this.control(c))));
        }
        return found;
    }

    control(c) {
        const id = `dmft-${this.number}-${c.name}`;
        const letter = make("span", { className: "letter" });
        if (c.latex) formula(letter, c.latex, this.katex, false);
        const typed = make("input", {
            type: "text", inputMode: "decimal", className: "value", "aria-label": `value of ${c.words}`,
            autocomplete: "off",
        });
        const slider = make("input", { type: "range", id, min: 0, max: stepsOf(c), step: 1, name: c.name });
        slider.addEventListener("input", (event) => {
            this.change(c, valueAt(c, Number(slider.value) / stepsOf(c)), event.timeStamp);
        });
        typed.addEventListener("change", (event) => {
            const number = Number(typed.value.trim().replace("−", "-"));
            const inside = typed.value.trim() && number >= c.low && number <= c.high;
            if (!inside || (c.whole && !Number.isInteger(number)) || (c.choices.length && !c.choices.includes(number))) {
                const which = c.choices.length ? `one of ${c.choices.join(", ")}`
                    : `${c.whole ? "a whole number" : "a number"} from ${shown(c.low)} to ${shown(c.high)}`;
                this.say(`${c.words} must be ${which}; “${typed.value.slice(0, 40)}” is not.`, "warning");
                this.place(c);
                return;
            }
            this.change(c, number, event.timeStamp);
        });
        c.place = () => {
            const value = this.values[c.name];
            slider.value = Math.round(shareOf(c, value) * stepsOf(c));
            slider.setAttribute("aria-valuetext", shown(value));
            typed.value = shown(value, 6);
        };
        c.place();
        return make("div", { className: "control" },
            make("label", { htmlFor: id }, ...(c.words === c.name && c.latex ? [] : [`${c.words} `]), letter),
            typed, slider);
    }

    place(c) {
        c.place();
    }

    networks() {
        const parts = Object.keys(this.formulas);
        if (!parts.length || this.backend.form === "static") return "";
        return make("fieldset", {}, make("legend", {}, "Activations, formulas in z"), ...parts.map((part) => {
            const id = `dmft-${this.number}-formula-${part}`;
            const typed = make("input", {
                type: "text", id, className: "formula", value: this.formulas[part], maxLength: 300,
                spellcheck: false, autocomplete: "off", name: `formula-${part}`,
            });
            typed.addEventListener("change", (event) => {
                // A derivation that nobody waits for is ended.
                if (this.backend.form === "server") this.backend.ask(this.question("cancel")).catch(() => {});
                this.formulas = { ...this.formulas, [part]: typed.value.trim() };
                this.structure();
                this.moved(event.timeStamp);
            });
            return make("div", { className: "control" }, make("label", { htmlFor: id }, part), typed);
        }));
    }

    terms() {
        const box = make("fieldset", { className: "terms" }, make("legend", {}, "Terms of the equations"));
        for (const [name, blocks] of Object.entries(this.description.terms)) {
            const check = make("input", { type: "checkbox", checked: !this.off.includes(name), name: `term-${name}` });
            check.addEventListener("change", (event) => {
                this.off = this.off.filter((term) => term !== name);
                if (!check.checked) this.off.push(name);
                this.structure();
                this.moved(event.timeStamp);
            });
            box.append(make("label", { className: "term" }, check, ` ${name.replaceAll("_", " ")}`,
                make("span", { className: "blocks" }, ` in ${blocks.map((b) => `d${b}`).join(", ")}`)));
        }
        return box;
    }

    curvePanels() {
        const risk = make("div", { className: "holder" }), overlaps = make("div", { className: "holder" });
        this.legend = make("div", { className: "legend", role: "group", "aria-label": "curves shown" });
        const clock = this.description.clock.split(";")[0].replaceAll("*", "·")
            .replace(/learning_rate|gamma/g, "γ");
        this.riskPlot = new Curves(risk, { label: "risk over time", xLabel: clock, yLabel: "risk", log: true, height: 310 });
        this.overlapPlot = new Curves(overlaps,
            { label: "overlaps over time", xLabel: clock, yLabel: "overlaps", log: false });
        this.scaleButton = make("button", { type: "button", "aria-pressed": "false", onclick: () => this.rescale() },
            "log axis");
        const simulate = make("button", { type: "button", onclick: () => this.simulate() }, "Simulate");
        this.simulateButton = simulate;
        if (!this.backend.simulates) {
            simulate.disabled = true;
            simulate.title = this.backend.form === "static"
                ? "runs at finite dimension need Python: dmft explore" : "this algorithm has no steps to simulate";
        }
        return make("div", { className: "pair" },
            make("section", { className: "panel risk" },
                make("div", { className: "bar" }, make("h2", {}, "Population risk"), simulate), risk),
            make("section", { className: "panel overlaps" },
                make("div", { className: "bar" }, make("h2", {}, "Overlaps"), this.scaleButton), overlaps, this.legend));
    }

    diagramPanel() {
        const spans = this.description.controls.filter((c) => c.axis);
        if (spans.length < 2) return "";
        const pick = (label, options, value, act) => {
            const choice = make("select", { onchange: () => act(choice.value) },
                ...options.map(([name, words]) => make("option", { value: name, selected: name === value }, words)));
            choice.value = value;
            return make("label", {}, `${label} `, choice);
        };
        const names = spans.map((c) => [c.name, c.words]);
        const holder = make("div", { className: "holder" });
        this.diagram = new Diagram(holder, (at) => {
            this.values = { ...this.values, [this.axes[0]]: at[0], [this.axes[1]]: at[1] };
            this.axes.forEach((name) => this.controls[name].place());
            this.moved();
        });
        this.computeButton = make("button", { type: "button", onclick: () => this.compute(GRIDS) }, "Compute");
        this.diagramWords = make("p", { className: "words", role: "status" });
        const axis = (n) => (name) => {
            if (name === this.axes[1 - n]) this.axes[1 - n] = this.axes[n];
            this.axes[n] = name;
            choices.forEach((choice, m) => { choice.querySelector("select").value = this.axes[m]; });
            this.clearDiagram();
        };
        const choices = [pick("across", names, this.axes[0], axis(0)), pick("up", names, this.axes[1], axis(1))];
        const measure = pick("colour", Object.entries(this.description.measures), this.measure, (name) => {
            this.measure = name;
            this.clearDiagram();
        });
        queueMicrotask(() => this.clearDiagram());
        return make("section", { className: "panel diagram" },
            make("div", { className: "bar" }, make("h2", {}, "Phase diagram"), this.computeButton),
            make("div", { className: "picks" }, ...choices, measure), holder, this.diagramWords);
    }

    equationPanel() {
        this.equations = make("div", { className: "equations", tabindex: "0" });
        return make("section", { className: "panel" },
            make("div", { className: "bar" }, make("h2", {}, "Equations of motion")), this.equations);
    }

    sheet() {
        this.sheetWords = make("p");
        this.sheetText = make("textarea", { readOnly: true, rows: 16, spellcheck: false, "aria-label": "text to copy" });
        const close = make("button", { type: "button", onclick: () => this.dialog.close() }, "Close");
        this.dialog = make("dialog", { className: "sheet" }, this.sheetWords, this.sheetText, close);
        return this.dialog;
    }

    // Moves ----------------------------------------------------------------------------------

    change(control, value, since) {
        if (this.values[control.name] === value) return;
        this.values = { ...this.values, [control.name]: value };
        control.place();
        if (control.structure) this.structure();
        this.moved(since);
    }

    question(kind, more = {}) {
        return { kind, values: this.values, off: this.off, formulas: this.formulas, ...more };
    }

    moved(since = performance.now()) {
        this.root.dataset.asked = ++this.moves;
        this.points = null;
        clearTimeout(this.slow);
        this.slow = setTimeout(() => this.say("Solving… new equations are compiled once, which takes seconds."), 400);
        this.solve({ question: this.question("solve"), number: this.moves, since });
        if (this.diagram) this.diagram.place(this.axes.map((name) => this.values[name]));
        this.stale();
        clearTimeout(this.rest);
        this.rest = setTimeout(() => this.rested(), RESTED);
    }

    async rested() {
        if (this.backend.form !== "widget") history.replaceState(null, "", `#${fragmentOf(this)}`);
        // What costs more than the run itself is asked once the slider rests.
        const number = this.moves;
        if (Number(this.root.dataset.shown) !== number) {
            this.rest = setTimeout(() => this.rested(), RESTED);
            return;
        }
        if (this.backend.form === "static" || this.refused) return;
        const answer = await this.backend.ask(this.question("solve", { judge: true }));
        if (number === this.moves && answer.message) this.message(answer);
    }

    structure() {
        this.printing({ question: this.question("equations") });
    }

    showRun(answer, move) {
        clearTimeout(this.slow);
        const newest = move.number === this.moves;
        if (answer.error) {
            this.refused = true;
            if (newest) this.say(answer.error, "error");
            this.root.dataset.shown = move.number;
            return;
        }
        this.refused = false;
        this.run = answer;
        this.runValues = move.question.values;
        this.draw();
        const since = move.since;
        requestAnimationFrame(() => {
            const channel = new MessageChannel();
            channel.port1.onmessage = () => {
                this.root.dataset.latency = (performance.now() - since).toFixed(1);
                this.root.dataset.shown = move.number;
            };
            channel.port2.postMessage(null);
        });
        if (newest) this.message(answer);
        this.started();
    }

    message({ status, message, risk, t }) {
        const last = risk.length - 1, words = STATUS[status] ?? status;
        const end = last >= 0 ? `, risk ${shown(risk[last])} at t = ${shown(t[last])}` : "";
        const more = message && !/^reached t\b[^;]*$/.test(message) ? ` (${message})` : "";
        this.say(`The run ${words}${end}${more}.`, status === "ok" || status === "event" ? "" : "warning");
    }

    say(words, kind = "") {
        const alarm = kind === "error" || kind === "warning";
        this.status.textContent = alarm ? "" : words;
        this.note.textContent = alarm ? words : "";
        this.note.hidden = !alarm;
        this.note.className = `note ${kind}`;
    }

    draw() {
        const { run, points } = this;
        this.riskPlot.set([{ x: run.t, y: run.risk, name: "risk", colour: 0 }],
            points ? [{ x: points.t, y: points.risk, error: points.stderr, colour: 1 }] : []);
        const all = coloured(run.curves), seen = (c) => !this.hidden.has(c.family);
        const log = this.overlapPlot.options.log, size = (y) => (log ? y.map((v) => Math.abs(v)) : y);
        this.overlapPlot.set(
            all.filter(seen).map((c) => ({ x: run.t, y: size(c.values), name: c.name, colour: c.colour, dash: c.dash })),
            points ? coloured(points.curves).filter(seen)
                .map((c) => ({ x: points.t, y: size(c.values), colour: c.colour })) : [],
        );
        const names = all.map((c) => c.family).join();
        if (names !== this.legendNames) this.writeLegend(all, names);
    }

    writeLegend(curves, names) {
        this.legendNames = names;
        const families = new Map(curves.map((c) => [c.family, c]));
        this.legend.replaceChildren(...Array.from(families.values(), ({ family: name, colour, dash }) => {
            const [letter, index] = name.split("_");
            const chip = make("button", {
                type: "button", className: `chip c${colour % COLOURS}${dash ? " dash" : ""}`,
                "aria-pressed": String(!this.hidden.has(name)),
                title: this.description.symbols.find((s) => s.name === letter)?.words ?? "",
            }, make("i"), make("span", {}, letter, ...(index ? [make("sub", {}, index)] : [])));
            chip.dataset.name = name;
            chip.addEventListener("click", () => {
                if (!this.hidden.delete(name)) this.hidden.add(name);
                chip.setAttribute("aria-pressed", String(!this.hidden.has(name)));
                this.draw();
            });
            return chip;
        }));
    }

    rescale() {
        const { options } = this.overlapPlot;
        options.log = !options.log;
        options.yLabel = options.log ? "|overlaps|" : "overlaps";
        this.scaleButton.setAttribute("aria-pressed", String(options.log));
        this.draw();
    }

    // The first diagram is computed with the page, on its coarser grids, after run and equations.
    started() {
        if (this.hasStarted || !this.diagram || !this.run || this.root.dataset.printed === undefined) return;
        this.hasStarted = true;
        this.compute(GRIDS.slice(0, -1));
    }

    showEquations(answer) {
        if (answer.error) {
            this.equations.replaceChildren(make("p", { className: "refusal" }, answer.error));
            return;
        }
        this.latex = answer.latex;
        this.text = answer.text;
        this.python = answer.python ?? this.python;
        typeset(this.equations, answer.latex, this.katex);
        this.equations.append(this.symbols());
        this.root.dataset.printed = this.off.join();
        this.started();
    }

    // Every letter of the page in words.
    symbols() {
        const rows = this.description.symbols.flatMap(({ latex, words }) => {
            const letter = make("dt", {});
            formula(letter, latex, this.katex, false);
            return [letter, make("dd", {}, words)];
        });
        return make("dl", { className: "symbols" }, ...rows);
    }

    async simulate() {
        const number = this.moves;
        this.simulateButton.disabled = true;
        clearTimeout(this.rest);
        this.say("Simulating runs at finite dimension…");
        const answer = await this.backend.ask(this.question("simulate")).catch((error) => ({ error: String(error) }));
        this.simulateButton.disabled = false;
        if (answer.error) return this.say(answer.error, "error");
        if (number !== this.moves) return this.say("The settings changed: these points were computed for other values.");
        this.points = answer;
        this.draw();
        this.say(`Points: mean of ${answer.runs} runs in ${answer.dim} dimensions, bars one standard error.`);
        this.root.dataset.points = answer.t.length;
    }

    // Diagram --------------------------------------------------------------------------------

    clearDiagram() {
        this.diagramRun = null;
        this.grid = null;
        this.computeButton.textContent = "Compute";
        this.diagramWords.textContent = "Compute the diagram; drag the cross-hair, or move it with the arrow keys.";
        this.diagram.set(this.axes.map((n) => this.controls[n]), null, this.axes.map((n) => this.values[n]));
    }

    others() {
        const { [this.axes[0]]: x, [this.axes[1]]: y, ...rest } = this.values;
        return JSON.stringify([rest, this.off, this.formulas]);
    }

    stale() {
        if (!this.grid || this.diagramRun) return;
        const old = this.grid.others !== this.others();
        this.root.querySelector(".diagram").classList.toggle("stale", old);
        if (old) this.diagramWords.textContent = "The diagram was computed for other settings; compute it again.";
        else this.diagramWords.textContent = this.grid.words;
    }

    async compute(grids) {
        if (this.diagramRun) {
            this.diagramRun.stopped = true;
            this.diagramRun = null;
            this.computeButton.textContent = "Compute";
            this.diagramWords.textContent = "Stopped.";
            return;
        }
        const job = { stopped: false };
        this.diagramRun = job;
        this.computeButton.textContent = "Stop";
        this.root.querySelector(".diagram").classList.remove("stale");
        const axes = this.axes.map((n) => this.controls[n]), others = this.others();
        const question = this.question("diagram", { measure: this.measure });
        let before = null;
        for (const size of grids) {
            const [xs, ys] = axes.map((c) => Array.from({ length: size }, (_, n) => valueAt(c, n / (size - 1))));
            const grid = { xs, ys, values: empty(size), status: empty(size), others };
            const todo = rectangles(size, before, grid);
            for (const { i, j } of todo) {
                const answer = await this.backend.ask({
                    ...question,
                    x: { name: axes[0].name, values: i.map((n) => xs[n]) },
                    y: { name: axes[1].name, values: j.map((n) => ys[n]) },
                }).catch((error) => ({ error: String(error) }));
                if (job.stopped || this.diagramRun !== job) return;
                if (answer.error) {
                    this.diagramRun = null;
                    this.computeButton.textContent = "Compute";
                    this.diagramWords.textContent = answer.error;
                    return;
                }
                j.forEach((row, b) => i.forEach((column, a) => {
                    grid.values[row][column] = answer.values[b][a];
                    grid.status[row][column] = answer.status[b][a];
                }));
                this.diagramWords.textContent = `Computing ${size} × ${size} points…`;
            }
            before = grid;
            this.grid = grid;
            this.diagram.set(axes, grid, this.axes.map((n) => this.values[n]), this.description.measures[question.measure]);
            this.root.dataset.diagram = size;
        }
        this.diagramRun = null;
        this.computeButton.textContent = "Compute";
        this.grid.words = this.counted(this.grid);
        this.stale();
    }

    counted({ status, values }) {
        const failed = {};
        values.flat().forEach((v, n) => {
            if (v === null || !Number.isFinite(v)) {
                const word = status.flat()[n];
                const words = word === "ok" ? "no value until the final time" : STATUS[word] ?? word;
                failed[words] = (failed[words] ?? 0) + 1;
            }
        });
        const grey = Object.entries(failed).map(([word, n]) => `${word} (${n} points)`).join(", ");
        return `Colour: ${this.description.measures[this.measure]}.${grey ? ` Grey: ${grey}.` : ""}`;
    }

    // What leaves the page --------------------------------------------------------------------

    async open(words, text) {
        this.sheetText.value = text;
        this.dialog.showModal();
        this.sheetText.select();
        this.sheetText.scrollTop = 0;
        let copied = true;
        try {
            await navigator.clipboard.writeText(text);
        } catch {
            copied = false;
        }
        this.sheetWords.textContent = `${words}${copied ? ", copied." : ": copy it from here."}`;
    }

    share() {
        history.replaceState(null, "", `#${fragmentOf(this)}`);
        this.open("A link to this page with its settings", location.href);
    }

    copy(language, words) {
        const template = this.description[language];
        if (!template) {
            this.say(`This declaration cannot be written as ${language === "python" ? "Python" : "TOML"} here: `
                + "it contains parts that cannot be written as text; use the original script or file.", "warning");
            return;
        }
        const page = { ...this, start: this.run?.start };
        this.open(words[0].toUpperCase() + words.slice(1), filled(template, page, language));
    }

    async figures(kind) {
        const legend = [...this.legend.querySelectorAll(".chip[aria-pressed=true]")].map((chip) => ({
            name: chip.dataset.name,
            colour: getComputedStyle(chip.querySelector("i")).borderTopColor, dash: chip.classList.contains("dash"),
        }));
        const plots = { risk: [this.riskPlot, []], overlaps: [this.overlapPlot, legend] };
        if (this.grid) plots.diagram = [this.diagram, []];
        for (const [name, [plot, names]] of Object.entries(plots)) {
            const figure = standing(plot.frame.svg, names);
            if (kind === "svg") download(`${name}.svg`, figure.text, "image/svg+xml");
            else download(`${name}.png`, await png(figure), "image/png");
        }
    }
}

// A hue for each teacher unit, and for lengths and overlaps of student units, which are dashed.
function coloured(curves) {
    const several = curves.some((c) => c.block === "Q" && c.place[0] > 0), hues = new Map();
    return curves.map((c) => {
        let family = c.name;
        if (several && c.block === "M") family = `M_j${c.place[1] + 1}`;
        if (several && c.block === "Q") family = c.place[0] === c.place[1] ? "Q_jj" : "Q_jl";
        if (!hues.has(family)) hues.set(family, hues.size % COLOURS);
        return { ...c, family, colour: hues.get(family), dash: c.block === "Q" };
    });
}

const empty = (size) => Array.from({ length: size }, () => Array(size).fill(undefined));

// What a grid lacks that holds every second point already, as rectangles of few points.
function rectangles(size, before, grid) {
    const all = Array.from({ length: size }, (_, n) => n), odd = all.filter((n) => n % 2), even = all.filter((n) => n % 2 === 0);
    const found = [];
    const rows = (i, j) => {
        const each = Math.max(1, Math.floor(64 / i.length));
        for (let n = 0; n < j.length; n += each) found.push({ i, j: j.slice(n, n + each) });
    };
    if (!before) {
        rows(all, all);
        return found;
    }
    for (const row of even) {
        for (const column of even) {
            grid.values[row][column] = before.values[row / 2][column / 2];
            grid.status[row][column] = before.status[row / 2][column / 2];
        }
    }
    rows(odd, even);
    rows(all, odd);
    return found;
}
