"""How the page of a report looks: on a telephone and a wide screen, by day and by night, and on paper."""

# Blue and vermilion are told apart by everybody who sees colours, however they see them, and grey from both by how
# light it is; by night they are lighter. What is pending is hardly there.
STYLE = """
:root {
  color-scheme: light dark;
  --back: #ffffff; --card: #f6f8fa; --line: #dde3ea; --ink: #1b2430; --soft: #566274; --link: #0b5cad;
  --fetched: #0072b2; --failed: #d55e00; --skipped: #8c96a3; --pending: #e2e8ee; --track: #e9eef3;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --back: #11161c; --card: #182029; --line: #2c3743; --ink: #e4eaf1; --soft: #9dabba; --link: #7cbcf5;
    --fetched: #4aa8e0; --failed: #f08a4b; --skipped: #7b8794; --pending: #2b3641; --track: #24303b;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 72rem; background: var(--back); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere;
}
h1 { margin: 0; font-size: 1.6rem; line-height: 1.25; letter-spacing: -0.01em; }
h2 { margin: 0 0 .25rem; font-size: 1.1rem; }
h3 { margin: 1rem 0 .25rem; font-size: 1rem; }
p { margin: .25rem 0; }
a { color: var(--link); }
.soft, .unit, figcaption { color: var(--soft); font-size: .875rem; }
.unit { margin: 0 0 .25rem; }
dl.figures {
  display: grid; gap: .75rem; margin: 1.25rem 0 1rem; padding: 0;
  grid-template-columns: repeat(auto-fit, minmax(min(14rem, 45%), 1fr));
}
dl.figures div { padding: .6rem .8rem; background: var(--card); border-radius: .5rem; }
dl.figures dt { color: var(--soft); font-size: .8125rem; }
dl.figures dd { margin: 0; font-size: 1.35rem; font-weight: 600; line-height: 1.3; }
.sections { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); }
section { min-width: 0; padding: 1rem; border: 1px solid var(--line); border-radius: .75rem; }
section.wide { grid-column: 1 / -1; }
.rankings { display: grid; gap: 0 2rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); }
.rankings > div { min-width: 0; }
.reasons { columns: 24rem; column-gap: 2rem; }
.reasons > div { padding-top: .75rem; break-inside: avoid; }
.reasons h3 { margin-top: 0; }
figure { margin: .5rem 0 0; }
ul.legend { display: flex; flex-wrap: wrap; gap: .125rem 1rem; margin: .375rem 0 .5rem; padding: 0; list-style: none;
  font-size: .875rem; }
ul.legend li::before {
  content: ""; display: inline-block; width: .75rem; height: .75rem; margin-right: .4rem; border-radius: .15rem;
  background: var(--swatch); vertical-align: -.05em; forced-color-adjust: none; print-color-adjust: exact;
}
li.fetched { --swatch: var(--fetched); } li.failed { --swatch: var(--failed); }
li.skipped { --swatch: var(--skipped); } li.pending { --swatch: var(--pending); }
svg { display: block; width: 100%; overflow: visible; forced-color-adjust: none; }
svg svg { overflow: hidden; }
svg.plot { margin-left: 3rem; width: calc(100% - 4.5rem); }
svg.strip { border-radius: .3rem; overflow: hidden; }
svg text { fill: var(--soft); font-size: 12px; }
svg .up { text-anchor: end; } svg .across { text-anchor: middle; }
svg .name { fill: var(--ink); font-size: 13px; } svg .value { text-anchor: end; font-size: 13px; }
svg .grid { stroke: var(--line); } svg .base, svg .mark { stroke: var(--soft); }
svg .all { stroke: var(--ink); stroke-dasharray: 5 4; }
svg .fetched { fill: var(--fetched); } svg .failed { fill: var(--failed); }
svg .skipped { fill: var(--skipped); } svg .pending { fill: var(--pending); } svg .track { fill: var(--track); }
svg.ranking .pending { fill: var(--soft); }
svg g g rect { stroke: var(--back); stroke-width: 1px; }
details { margin-top: .5rem; }
summary { padding: .25rem 0; color: var(--soft); font-size: .875rem; cursor: pointer; }
div.table { overflow-x: auto; }
table { width: 100%; margin-top: .5rem; border-collapse: collapse; font-size: .875rem; }
caption { padding-bottom: .25rem; color: var(--soft); text-align: left; }
th, td { padding: .25rem .5rem .25rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th[scope="rowgroup"] { padding-bottom: 0; border-bottom: 0; }
th { font-weight: 600; } thead th { color: var(--soft); }
th.number, td.number { padding-right: 0; padding-left: .5rem; text-align: right; white-space: nowrap; }
ol.examples { margin: .25rem 0 0; padding-left: 1.25rem; font-size: .875rem; }
ol.examples li { margin-bottom: .4rem; }
ol.examples .error { display: block; }
@media (max-width: 30rem) {
  table { font-size: .8125rem; }
  th.number, td.number { padding-left: .3rem; white-space: normal; overflow-wrap: break-word; }
  thead th { font-size: .75rem; } thead th.number { overflow-wrap: normal; }
  svg .across { font-size: 11px; }
  dl.figures dd { font-size: 1.2rem; }
}
@media print {
  :root { color-scheme: light; }
  .sections { grid-template-columns: 1fr 1fr; } .reasons { columns: 2; }
  section, .rankings > div { break-inside: avoid; } section.wide { break-inside: auto; }
  h2, .unit { break-after: avoid; }
  summary { display: none; }
}
"""
