// Answers of a page without a server: the exported right-hand side, integrated here.

import { integrate } from "./integrator.js";

const TIMES = 160, FIRST = 1e-5;

export function staticBackend(system, description, stored) {
    const backend = {
        form: "static",
        simulates: false,
        async ask(question) {
            await new Promise((done) => {
                // Let what was moved be painted before a rectangle of a diagram is computed.
                if (question.kind === "diagram") setTimeout(done);
                else done();
            });
            return answers[question.kind](question);
        },
    };
    const names = Object.keys(system.PARAMETERS);
    const parametersOf = ({ values, off }) => names.map((name) => {
        if (name.startsWith(stored.switch)) return off.includes(name.slice(stored.switch.length)) ? 0 : 1;
        return values[name] ?? system.PARAMETERS[name];
    });
    function prepared(question) {
        const start = startOf(question.values, stored), shape = shapeOf(start);
        const parameters = parametersOf(question);
        const { p, k } = shape, fixed = shape.sequence ? [] : [
            Float64Array.from(start.P.flat()), readout(stored.readout, p), readout(stored.teacher_readout, k)];
        const widths = shape.sequence ? [] : [p, k];
        const constants = shape.sequence ? [] : stored.trained ? [fixed[0], fixed[2]] : fixed;
        return {
            start, shape,
            rates: (y, out) => system.rates(...widths, y, ...constants, parameters, out),
            observe: (y, out) => system.observe(...widths, y, ...constants, parameters, out),
        };
    }
    function solve(question) {
        const { start, shape, rates, observe } = prepared(question), last = question.values.t_max;
        const times = [0];
        for (let n = 0; n < TIMES; n++) times.push(n === TIMES - 1 ? last : FIRST * last * FIRST ** (-n / (TIMES - 1)));
        const { rows, status, message } = integrate(rates, shape.packed, times);
        const seen = new Float64Array(stored.observed);
        const risk = rows.map((y) => {
            observe(y, seen);
            return seen[0];
        });
        return { t: times.slice(0, rows.length), risk, curves: curvesOf(shape, rows), status, message, start };
    }
    function measured(question) {
        const run = solve(question), last = run.risk.length - 1;
        if (question.measure === "escape_time") {
            const level = run.risk[0] / 2, n = run.risk.findIndex((r) => r <= level);
            if (n < 1) return { value: null, status: run.status };
            const share = Math.log(level / run.risk[n - 1]) / Math.log(run.risk[n] / run.risk[n - 1]);
            const from = run.t[n - 1] || run.t[n] / 2;
            return { value: from * (run.t[n] / from) ** share, status: "ok" };
        }
        if (run.status !== "ok") return { value: null, status: run.status };
        if (question.measure === "final_risk") return { value: run.risk[last], status: "ok" };
        return { value: cosine(run, last), status: "ok" };
    }
    const answers = {
        solve,
        equations({ off }) {
            const key = [...off].sort().join();
            const found = stored.equations[key];
            return found ?? { error: "this page has no text of the equations without these terms; the curves are computed without them" };
        },
        diagram(question) {
            const { x, y } = question;
            const cells = y.values.map((b) => x.values.map((a) =>
                measured({ ...question, values: { ...question.values, [x.name]: a, [y.name]: b } })));
            return { values: cells.map((row) => row.map((c) => c.value)), status: cells.map((row) => row.map((c) => c.status)) };
        },
        simulate: () => ({ error: "runs at finite dimension need Python: dmft explore" }),
    };
    return backend;
}

const readout = (values, size) => Float64Array.from(values ?? Array(size).fill(1));

function cosine(run, last) {
    let best = 0;
    for (const c of run.curves) {
        if (c.block === "m") best = Math.max(best, Math.abs(c.values[last]));
        if (c.block !== "M") continue;
        const own = run.curves.find((o) => o.block === "Q" && o.place[0] === c.place[0] && o.place[1] === c.place[0]);
        const length = Math.sqrt(own.values[last] * run.start.P[c.place[1]][c.place[1]]);
        best = Math.max(best, Math.abs(c.values[last]) / length);
    }
    return best;
}

// The start: one that was drawn when the page was made, or given; tilted and rescaled as in Python.
export function startOf(values, stored) {
    if (stored.start === "alignment") {
        const found = {};
        for (const name of ["e", "m"]) {
            const size = stored.sizes[name];
            if (size) found[name] = size === 1 ? values[name] : Array.from({ length: size }, (_, n) => values[`${name}_${n + 1}`]);
        }
        const squares = [found.e ?? 0].flat().concat([found.m ?? 0].flat()).reduce((sum, x) => sum + x * x, 0);
        if (squares > 1 + 1e-9) throw new Error("no student has these alignments: e² + m² must not exceed 1");
        return found;
    }
    const key = stored.start === "random" ? `${values.width ?? stored.width}/${values.dim}/${values.seed}` : "given";
    const base = stored.starts[key];
    if (!base) throw new Error(`this page contains no start with width, dimension and seed ${key}`);
    const { size = 1, overlap = 0 } = values;
    return size === 1 && overlap === 0 ? base : tilted(base, overlap, size);
}

function tilted({ Q, M, P }, overlap, size) {
    const p = M.length, k = M[0].length, rest = Math.sqrt(1 - overlap ** 2);
    const length = Q.map((row, j) => Math.sqrt(row[j]));
    const own = length.map((l) => rest / l);
    const to = length.map((_, j) => overlap / Math.sqrt(P[j % k][j % k]));
    const turnedM = M.map((row, j) => row.map((m, r) => own[j] * m + to[j] * P[j % k][r]));
    const turnedQ = Q.map((row, j) => row.map((q, l) =>
        own[j] * q * own[l] + own[j] * M[j][l % k] * to[l] + to[j] * M[l][j % k] * own[l] + to[j] * P[j % k][l % k] * to[l]));
    const scale = turnedQ.map((row, j) => (size * length[j]) / Math.sqrt(row[j]));
    return {
        Q: turnedQ.map((row, j) => row.map((q, l) => (j === l ? (size * length[j]) ** 2 : q * scale[j] * scale[l]))),
        M: turnedM.map((row, j) => row.map((m) => m * scale[j])),
        P,
    };
}

function shapeOf(start) {
    if (!start.M) {
        const names = Object.keys(start), sizes = names.map((name) => [start[name]].flat().length);
        return { sequence: true, names, sizes, packed: names.flatMap((name) => [start[name]].flat()) };
    }
    return { p: start.M.length, k: start.M[0].length, packed: [...start.Q.flat(), ...start.M.flat()] };
}

function curvesOf(shape, rows) {
    const found = [], column = (n) => rows.map((y) => y[n]);
    if (shape.sequence) {
        let at = 0;
        shape.names.forEach((name, i) => {
            for (let n = 0; n < shape.sizes[i]; n++) {
                found.push({ block: name, name: shape.sizes[i] === 1 ? name : `${name}_${n + 1}`, place: [n], values: column(at++) });
            }
        });
        return found;
    }
    const { p, k } = shape;
    for (let j = 0; j < p; j++) {
        for (let r = 0; r < k; r++) found.push({ block: "M", name: `M_${j + 1}${r + 1}`, place: [j, r], values: column(p * p + j * k + r) });
    }
    for (let j = 0; j < p; j++) {
        for (let l = j; l < p; l++) found.push({ block: "Q", name: `Q_${j + 1}${l + 1}`, place: [j, l], values: column(j * p + l) });
    }
    return found;
}
