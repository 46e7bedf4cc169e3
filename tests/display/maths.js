// Reads formulas (a JSON list of [display, text]) and renders each with KaTeX, and MathJax if it
// is installed; prints the errors as a JSON list.
const fs = require('fs');
const formulas = JSON.parse(fs.readFileSync(process.argv[2], 'utf8'));
const found = [];
const katex = require('katex');
for (const [display, text] of formulas) {
  try {
    katex.renderToString(text, { displayMode: display, throwOnError: true, strict: 'ignore' });
  } catch (error) {
    found.push(['katex', text.slice(0, 300), String(error.message)]);
  }
}
let mathjax = true;
try {
  require.resolve('mathjax-full/js/mathjax.js');
} catch (error) {
  mathjax = false;
}
if (mathjax) {
  const { mathjax } = require('mathjax-full/js/mathjax.js');
  const { TeX } = require('mathjax-full/js/input/tex.js');
  const { SVG } = require('mathjax-full/js/output/svg.js');
  const { liteAdaptor } = require('mathjax-full/js/adaptors/liteAdaptor.js');
  const { RegisterHTMLHandler } = require('mathjax-full/js/handlers/html.js');
  require('mathjax-full/js/input/tex/AllPackages.js');
  const adaptor = liteAdaptor();
  RegisterHTMLHandler(adaptor);
  const input = new TeX({ packages: ['base', 'ams', 'newcommand'] });
  const page = mathjax.document('', { InputJax: input, OutputJax: new SVG({ fontCache: 'none' }) });
  for (const [display, text] of formulas) {
    const shown = adaptor.innerHTML(page.convert(text, { display }));
    const error = /data-mjx-error="([^"]*)"/.exec(shown);
    if (error) found.push(['mathjax', text.slice(0, 300), error[1]]);
  }
}
console.log(JSON.stringify({ formulas: formulas.length, mathjax, found }));
