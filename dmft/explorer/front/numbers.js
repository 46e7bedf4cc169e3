// Numbers as text, and scales of sliders and axes.

export const SLIDER_STEPS = 1000;

export function shown(value, digits = 4) {
    if (value === null || value === undefined || Number.isNaN(value)) return "–";
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size >= 1e5 || size < 1e-3) {
        const [mantissa, power] = value.toExponential(digits - 2).split("e");
        return `${Number(mantissa)}e${Number(power)}`;
    }
    return String(Number(value.toPrecision(digits)));
}

// Value of a control at the share u of its way, and back.
export function valueAt(control, u) {
    const { low, high, scale, whole, choices } = control;
    if (choices.length) return choices[Math.round(u * (choices.length - 1))];
    let value;
    if (scale === "log") value = low * (high / low) ** u;
    else if (scale === "cubic") value = low + (high - low) * u ** 3;
    else value = low + (high - low) * u;
    if (whole) return Math.round(value);
    // Four digits, so that what is shown is what is solved.
    value = Number(value.toPrecision(4));
    return Math.min(high, Math.max(low, value));
}

export function shareOf(control, value) {
    const { low, high, scale, choices } = control;
    if (choices.length) {
        const gaps = choices.map((c) => Math.abs(Math.log((c || 1e-9) / (value || 1e-9))));
        return gaps.indexOf(Math.min(...gaps)) / Math.max(1, choices.length - 1);
    }
    let u;
    if (scale === "log") u = Math.log(value / low) / Math.log(high / low);
    else if (scale === "cubic") u = Math.cbrt((value - low) / (high - low));
    else u = (value - low) / (high - low);
    return Math.min(1, Math.max(0, u));
}

export function stepsOf(control) {
    if (control.choices.length) return control.choices.length - 1;
    if (control.whole && control.scale !== "log") return control.high - control.low;
    return SLIDER_STEPS;
}

// Ticks of an axis: { at, text, minor }.
export function axisTicks({ low, high, log, cubic }, most = 6) {
    if (cubic) {
        const parts = most < 6 ? [0, 0.01, 0.2, 1] : [0, 0.01, 0.05, 0.2, 0.5, 1];
        return parts.map((part) => {
            const at = low + part * (high - low);
            return { at, text: shown(at, 2), minor: false };
        });
    }
    return log ? logTicks(low, high, most) : linearTicks(low, high, most);
}

function logTicks(low, high, most) {
    const first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high));
    const every = Math.max(1, Math.ceil((last - first) / most));
    const found = [];
    for (let n = first; n <= last; n++) {
        const at = 10 ** n;
        if (at >= low * 0.999 && at <= high * 1.001) {
            found.push({ at, power: n, minor: (((n % every) + every) % every) !== 0 });
        }
        if (every === 1) {
            for (let digit = 2; digit < 10; digit++) {
                const inside = digit * at;
                if (inside > low && inside < high) found.push({ at: inside, minor: true });
            }
        }
    }
    if (found.filter((tick) => !tick.minor).length < 2) {
        for (const tick of found) {
            if (/^[25]/.test(tick.at.toExponential(0))) Object.assign(tick, { minor: false, text: shown(tick.at) });
        }
    }
    return found;
}

function linearTicks(low, high, most) {
    const rough = (high - low) / most, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((d) => d * power).find((s) => s >= rough);
    const found = [];
    for (let n = Math.ceil(low / step - 1e-9); n * step <= high + 1e-9 * step; n++) {
        found.push({ at: n * step, text: shown(Number((n * step).toPrecision(10))), minor: false });
    }
    return found;
}
