// Explicit Runge-Kutta 5(4) of Dormand and Prince with dense output, for a right-hand side f(y, out).

const A = [
    [],
    [1 / 5],
    [3 / 40, 9 / 40],
    [44 / 45, -56 / 15, 32 / 9],
    [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729],
    [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656],
    [35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84],
];
const ERROR = [71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40];
// Dense output of order four (Shampine): weights of the stages are polynomials of the share of the step.
const DENSE = [
    [1, -8048581381 / 2820520608, 8663915743 / 2820520608, -12715105075 / 11282082432],
    [0, 0, 0, 0],
    [0, 131558114200 / 32700410799, -68118460800 / 10900136933, 87487479700 / 32700410799],
    [0, -1754552775 / 470086768, 14199869525 / 1410260304, -10690763975 / 1880347072],
    [0, 127303824393 / 49829197408, -318862633887 / 49829197408, 701980252875 / 199316789632],
    [0, -282668133 / 205662961, 2019193451 / 616988883, -1453857185 / 822651844],
    [0, 40617522 / 29380423, -110615467 / 29380423, 69997945 / 29380423],
];
const STAGES = 7, HUGE = 1e12;

// Values at the times, which start at 0 and grow.
export function integrate(f, start, times, { rtol = 1e-8, atol = 1e-10, maxSteps = 60000, budget = 20000 } = {}) {
    const size = start.length, y = Float64Array.from(start), next = new Float64Array(size);
    const k = Array.from({ length: STAGES }, () => new Float64Array(size));
    const rows = [Float64Array.from(y)], end = times[times.length - 1], began = performance.now();
    let t = 0, saved = 1, steps = 0;
    const stop = (status, message) => ({ rows, status, message, steps });
    f(y, k[0]);
    if (!k[0].every(Number.isFinite)) return stop("nonfinite", "the rates at the start are not finite");
    let h = firstStep(y, k[0], end, rtol, atol);
    while (saved < times.length) {
        if (++steps > maxSteps) return stop("max_steps", `${maxSteps} steps did not reach the final time`);
        if (steps % 256 === 0 && performance.now() - began > budget) return stop("timeout", `${budget / 1000} s were not enough`);
        h = Math.min(h, end - t);
        if (!(t + h > t)) return stop("tolerance_not_met", `steps became too small at t = ${t}`);
        for (let s = 1; s < STAGES; s++) {
            for (let n = 0; n < size; n++) {
                let sum = 0;
                for (let m = 0; m < s; m++) sum += A[s][m] * k[m][n];
                next[n] = y[n] + h * sum;
            }
            f(next, k[s]);
        }
        let error = 0;
        for (let n = 0; n < size; n++) {
            let gap = 0;
            for (let s = 0; s < STAGES; s++) gap += ERROR[s] * k[s][n];
            const scale = atol + rtol * Math.max(Math.abs(y[n]), Math.abs(next[n]));
            error += ((h * gap) / scale) ** 2;
        }
        error = Math.sqrt(error / size);
        if (!(error <= 1)) {
            h *= Number.isFinite(error) ? Math.max(0.2, 0.9 * error ** -0.2) : 0.2;
            continue;
        }
        const last = Math.abs(end - t - h) < 1e-12 * end;
        while (saved < times.length && (times[saved] <= t + h || last)) {
            rows.push(last && saved === times.length - 1 ? Float64Array.from(next) : between(y, k, h, (times[saved] - t) / h));
            saved++;
        }
        t += h;
        y.set(next);
        k[0].set(k[6]);
        if (y.some((value) => Math.abs(value) > HUGE)) return stop("diverged", `an overlap passed 1e12 at t = ${t.toPrecision(4)}`);
        h *= Math.min(5, Math.max(0.2, 0.9 * (error || 1e-10) ** -0.2));
    }
    return stop("ok", "");
}

function between(y, k, h, u) {
    const found = Float64Array.from(y);
    for (let s = 0; s < STAGES; s++) {
        const [a, b, c, d] = DENSE[s], weight = h * u * (a + u * (b + u * (c + u * d)));
        if (weight !== 0) for (let n = 0; n < found.length; n++) found[n] += weight * k[s][n];
    }
    return found;
}

function firstStep(y, rate, end, rtol, atol) {
    let size = 0, speed = 0;
    for (let n = 0; n < y.length; n++) {
        const scale = atol + rtol * Math.abs(y[n]);
        size += (y[n] / scale) ** 2;
        speed += (rate[n] / scale) ** 2;
    }
    const step = size > 0 && speed > 0 ? 0.01 * Math.sqrt(size / speed) : 1e-6 * end;
    return Math.min(step, 1e-2 * end);
}
