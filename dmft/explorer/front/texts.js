// Texts that leave the page: formulas on it, scripts, files, figures.

import { shown } from "./numbers.js";

// A fragment of LaTeX: displays between lines of words with formulas in dollars.
export function typeset(holder, fragment, katex) {
    const parts = fragment.split(/(\\begin\{align\*\}[\s\S]*?\\end\{align\*\})/);
    holder.replaceChildren();
    for (const part of parts) {
        const text = part.split("\n").filter((line) => !line.startsWith("%")).join("\n").trim();
        if (!text) continue;
        const block = document.createElement(text.startsWith("\\begin") ? "div" : "p");
        if (text.startsWith("\\begin")) {
            block.className = "display";
            formula(block, text, katex, true);
        } else {
            text.split(/\$([^$]*)\$/).forEach((piece, n) => {
                const span = document.createElement("span");
                if (n % 2) formula(span, piece, katex, false);
                else span.textContent = piece.replace(/\\([&%_#$])/g, "$1").replace(/~/g, " ");
                block.append(span);
            });
        }
        holder.append(block);
    }
}

export function formula(holder, text, katex, displayMode) {
    try {
        katex.render(text, holder, { displayMode, throwOnError: true, strict: "ignore", trust: false });
    } catch (error) {
        holder.textContent = text;
        holder.title = String(error.message ?? error);
        holder.dataset.refused = "true";
    }
}

const row = (numbers) => `[${numbers.map((x) => (Array.isArray(x) ? row(x) : String(x))).join(", ")}]`;

// Fill the places of a script or a file.
export function filled(template, page, language) {
    const { description, values, off, start, formulas } = page, python = language === "python";
    const places = {
        start: startText(page, python),
        without: off.length ? `.without(${off.map((name) => JSON.stringify(name)).join(", ")})` : "",
        remark: remark(page),
    };
    for (const [part, text] of Object.entries(formulas)) {
        places[`formula:${part}`] = python ? page.python[part] : JSON.stringify(text);
    }
    for (const [name, value] of Object.entries(values)) places[name] = String(value);
    const given = description.controls.filter((c) =>
        c.group === "parameters" && !c.structure && !template.includes(`{{${c.name}}}`));
    places.given = given.map((c) => `, ${c.name}=${values[c.name]}`).join("");
    return template.replace(/\{\{([^{}]+)\}\}/g, (all, name) => places[name] ?? all);
}

function remark({ off }) {
    if (!off.length) return "";
    return `# Terms switched off on the page; a file cannot contain this (dmft: equations.without): ${off.join(", ")}\n`;
}

function startText({ description, values, start }, python) {
    const { size = 1, overlap = 0, dim, seed } = values;
    if (description.start === "random" && size === 1 && overlap === 0) {
        if (!python) {
            const sphere = description.normalised ? "\nnormalised = true" : "";
            return `kind = "random"\ndim = ${dim}\nseed = ${seed}${sphere}`;
        }
        const sphere = description.normalised ? ", normalised=True" : "";
        return `dmft.random_overlaps(model, dim=${dim}, seed=${seed}${sphere})`;
    }
    const blocks = Object.entries(start ?? {});
    const text = (x) => (Array.isArray(x) ? row(x) : String(x));
    if (!python) {
        const kind = description.start === "alignment" ? "alignment" : "overlaps";
        return [`kind = "${kind}"`, ...blocks.map(([name, x]) => `${name} = ${text(x)}`)].join("\n");
    }
    const call = description.start === "alignment" ? "Alignment" : "Overlaps";
    return `dmft.${call}(${blocks.map(([name, x]) => `${name}=${text(x)}`).join(", ")})`;
}

export function documentOf(fragment, title) {
    return "\\documentclass{article}\n\\usepackage{amsmath,amssymb}\n\\begin{document}\n"
        + `\\section*{${title.replace(/[\\{}#$%&_^~]/g, " ")}}\n${fragment.trim()}\n\\end{document}\n`;
}

export function download(name, data, type) {
    const link = document.createElement("a");
    const address = URL.createObjectURL(data instanceof Blob ? data : new Blob([data], { type }));
    Object.assign(link, { href: address, download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(address), 10000);
}

// An SVG as PNG, at twice its size.
export async function png({ text, width, height }) {
    const image = new Image();
    image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
    await image.decode();
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [2 * width, 2 * height];
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    return new Promise((done) => canvas.toBlob(done, "image/png"));
}

// The state of the page behind the # of its address, and back.
export function fragmentOf({ description, values, off, formulas, axes, measure }) {
    const entries = [];
    for (const c of description.controls) {
        if (values[c.name] !== c.value) entries.push([c.name, String(values[c.name])]);
    }
    if (off.length) entries.push(["off", off.join(",")]);
    for (const [part, text] of Object.entries(formulas)) {
        if (text !== description.formulas[part]) entries.push([`formula:${part}`, text]);
    }
    entries.push(["x", axes[0]], ["y", axes[1]], ["measure", measure]);
    return new URLSearchParams(entries).toString();
}

export function readFragment(text, { description }) {
    const found = { values: {}, off: null, formulas: {}, axes: [], measure: null, refused: [] };
    const controls = Object.fromEntries(description.controls.map((c) => [c.name, c]));
    for (const [name, value] of new URLSearchParams(text.replace(/^#/, ""))) {
        const part = name.startsWith("formula:") ? name.slice(8) : null;
        if (name in controls) {
            const { low, high, words } = controls[name], number = Number(value);
            if (value.trim() && Number.isFinite(number) && number >= low && number <= high) found.values[name] = number;
            else found.refused.push(`${words} = ${value.slice(0, 40)} lies outside ${shown(low)} … ${shown(high)}`);
        } else if (name === "off") {
            const names = value.split(",").filter((term) => term);
            found.off = names.filter((term) => term in description.terms);
            for (const term of names) if (!(term in description.terms)) found.refused.push(`no term ${term.slice(0, 40)}`);
        } else if (part !== null && part in description.formulas) {
            found.formulas[part] = value.slice(0, 300);
        } else if (name === "x" || name === "y") {
            if (controls[value]?.axis) found.axes[name === "x" ? 0 : 1] = value;
        } else if (name === "measure" && value in description.measures) {
            found.measure = value;
        } else {
            found.refused.push(`${name.slice(0, 40)} is unknown`);
        }
    }
    return found;
}
