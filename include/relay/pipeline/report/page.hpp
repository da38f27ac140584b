// The page around a report: its style, light and dark, and the pieces that sections share. Nothing is loaded, no script runs.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include <relay/pipeline/report/text.hpp>

namespace relay::report {

// The colours of series are Okabe and Ito's, darker on light paper where they would be too pale: --l of lines, --t of text.
inline constexpr std::string_view style_sheet = R"css(
:root{color-scheme:light dark;--paper:#fff;--ink:#1a1d20;--muted:#596068;--rule:#d9dde1;--grid:#e6e9ec;--soft:#f4f6f7;--trained:#f1f3f0;
--good:#00704f;--bad:#b34700;--bar:#dbe9f4;--mark:#fff3ea;
--l0:#0072b2;--t0:#0067a1;--l1:#7d848b;--t1:#62686e;--l2:#d55e00;--t2:#b34f00;--l3:#009e73;--t3:#00785a;
--l4:#b8538f;--t4:#a3447b;--l5:#bf8500;--t5:#8a6000;--l6:#2b2f33;--t6:#2b2f33;--l7:#3d8fc6;--t7:#2a6f9e;
--h0:#edf0f3;--h1:#fbe2cd;--h2:#f5c7a2;--h3:#eca06d;--h4:#da7237;--h5:#b0471a;--h6:#6b1d08}
@media(prefers-color-scheme:dark){:root{--paper:#14171a;--ink:#e4e7ea;--muted:#9ba4ad;--rule:#343b42;--grid:#272d33;--soft:#1c2125;
--trained:#1f2524;--good:#3fcb9c;--bad:#ff9a57;--bar:#1d3a4f;--mark:#33241a;
--l0:#56b4e9;--t0:#6fc0ee;--l1:#8d959d;--t1:#a3abb3;--l2:#f07f33;--t2:#ff9650;--l3:#1cbf92;--t3:#35d0a5;
--l4:#d98ab8;--t4:#e49fc7;--l5:#e0a526;--t5:#ecb640;--l6:#d5d9dd;--t6:#d5d9dd;--l7:#8ecbf0;--t7:#8ecbf0;
--h0:#262c32;--h1:#45342b;--h2:#6a4029;--h3:#975125;--h4:#c66d2d;--h5:#ee9d58;--h6:#ffdcb4}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
header,main,footer{max-width:1136px;margin:0 auto;padding:0 16px}
header{padding-top:40px}
h1{font-size:30px;line-height:1.2;font-weight:650;letter-spacing:-.01em;margin:0 0 6px;text-wrap:balance}
@media(max-width:560px){header{padding-top:24px}h1{font-size:24px}}
h2{font-size:21px;line-height:1.3;font-weight:650;margin:0 0 4px}
h3{font-size:16px;font-weight:650;margin:28px 0 8px}
.tabs h3{font-size:14px;margin:18px 0 6px;color:var(--muted)}
p{margin:0 0 14px;max-width:76ch}
.lead,.note,figcaption,caption,footer{color:var(--muted);font-size:14px}
.lead{font-size:16px;max-width:none}.kind{margin:0;color:var(--muted);font-size:14px;letter-spacing:.02em}
section{border-top:1px solid var(--rule);margin-top:40px;padding-top:20px}
nav{margin-top:18px;font-size:14px;display:flex;flex-wrap:wrap;gap:2px 18px}
a{color:var(--t0)}nav a{text-decoration:none}nav a:hover{text-decoration:underline}
code,pre,.chain,.mono{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono","Liberation Mono",monospace;font-size:.92em}
.scroll{overflow-x:auto;max-width:100%}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:14px}
caption{text-align:left;padding-bottom:6px}
th,td{padding:4px 10px;text-align:right;white-space:nowrap;border-bottom:1px solid var(--grid)}
th{font-weight:600}
thead th{border-bottom-color:var(--rule);vertical-align:bottom}
thead th small{display:block;font-weight:400;color:var(--muted);font-size:12px}
tbody th,th.first{text-align:left;position:sticky;left:0;background:var(--paper);z-index:1}
tbody tr:last-child>*{border-bottom-color:var(--rule)}
.text td,.text th{text-align:left}.text td.n,.text th.n{text-align:right}
.summary td{min-width:78px;background:linear-gradient(90deg,var(--bar) var(--v),transparent var(--v)) 4px 50%/calc(100% - 8px) 70% no-repeat}
.summary td.none,.summary td.plain{background:none}
.summary .group{border-left:1px solid var(--rule)}
.full{width:100%}
thead .group[colspan]{text-align:center}
.best{font-weight:700}
.limit-left{border-left:2px solid var(--muted)}
svg.key{display:inline-block;max-width:none;vertical-align:-2px;margin-right:6px}
svg{display:block;max-width:100%;height:auto;overflow:visible}
svg text{font:11px system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;fill:var(--muted);font-variant-numeric:tabular-nums}
svg .small{font-size:8.5px}svg .faint{fill:var(--muted);opacity:.8;font-style:italic}
svg .label{fill:var(--t);font-weight:600}
svg path{fill:none}
.trained{fill:var(--trained)}.grid{stroke:var(--grid)}.tick{stroke:var(--muted)}.limit{stroke:var(--ink);stroke-width:1.2}
.diagonal{stroke:var(--muted);stroke-dasharray:2 3}
.ln{stroke:var(--l);stroke-width:1.7;stroke-linejoin:round;stroke-linecap:round}
svg .band{fill:var(--l);opacity:.13}
.leader{stroke:var(--l);stroke-width:.7;opacity:.55}
svg .mk{fill:var(--l);stroke:var(--paper);stroke-width:.7}
svg .mk.open{stroke:var(--l);stroke-width:1.5;fill:none}svg .mk.hollow{fill:var(--paper);stroke:var(--l);stroke-width:1.4}
svg .bar{fill:var(--l)}
.s0{--l:var(--l0);--t:var(--t0)}.s1{--l:var(--l1);--t:var(--t1)}.s2{--l:var(--l2);--t:var(--t2)}.s3{--l:var(--l3);--t:var(--t3)}
.s4{--l:var(--l4);--t:var(--t4)}.s5{--l:var(--l5);--t:var(--t5)}.s6{--l:var(--l6);--t:var(--t6)}.s7{--l:var(--l7);--t:var(--t7)}
.s0 .ln{stroke-width:2.4}.s1 .ln{stroke-dasharray:1 4}.s2 .ln{stroke-dasharray:7 4}.s4 .ln{stroke-dasharray:8 3 1.5 3}.s5 .ln{stroke-dasharray:3 3}
.s6 .ln{stroke-dasharray:12 3}.s7 .ln{stroke-dasharray:2 2}
.solid .ln{stroke-dasharray:none;stroke-width:1.6}
.cells{shape-rendering:crispEdges}
svg .h0{fill:var(--h0)}svg .h1{fill:var(--h1)}svg .h2{fill:var(--h2)}svg .h3{fill:var(--h3)}
svg .h4{fill:var(--h4)}svg .h5{fill:var(--h5)}svg .h6{fill:var(--h6)}
.scale{max-width:none;display:flex;flex-wrap:wrap;align-items:center;gap:2px 12px;font-size:12px;color:var(--muted);margin:0 0 12px}
.scale i{display:inline-block;width:16px;height:12px;margin-right:4px;vertical-align:-1px}
svg .in .ln,svg .out .ln{stroke-width:1.2;stroke-dasharray:none;opacity:.7}
svg .in circle{fill:var(--paper);stroke:var(--l);stroke-width:1.3}svg .in .bar{fill:var(--paper);stroke:var(--l);stroke-width:.8}
svg .out circle{fill:var(--l);stroke:var(--paper);stroke-width:.6}
figure{margin:0;min-width:0}
figcaption{margin:0 0 6px;line-height:1.35}figcaption b{color:var(--ink);font-weight:650}
.charts{display:grid;gap:24px;grid-template-columns:repeat(auto-fill,minmax(min(100%,352px),1fr))}
.charts figure{max-width:540px}
.wide{display:none}
@media(min-width:1000px){.wide{display:block}.narrow{display:none}
.charts.two{grid-template-columns:repeat(2,minmax(0,540px))}.charts.one{grid-template-columns:minmax(0,1104px)}.charts.one figure{max-width:none}}
.models{margin:0;display:grid;gap:5px 20px;align-content:start;grid-column:1/-1;font-size:14px;grid-template-columns:max-content minmax(0,1fr)}
.models dt{font-weight:600;color:var(--t);white-space:nowrap}.models dd{margin:0;color:var(--muted)}
@media(min-width:1000px){.models.beside{grid-column:auto;padding-top:52px}}
@media(max-width:560px){.models{grid-template-columns:minmax(0,1fr);gap:0}.models dd{margin:0 0 8px 24px}}
.panels{display:grid;gap:0 16px;grid-template-columns:repeat(auto-fill,minmax(165px,1fr));align-items:start}
.panels figure{max-width:208px;display:grid;grid-template-rows:subgrid;grid-row:span 2;margin-bottom:18px}
@media(min-width:1000px){.panels{grid-template-columns:repeat(var(--n),minmax(0,1fr))}}
.panels figcaption{font-size:12.5px}.panels figcaption span{display:block}
.name{color:var(--t);font-weight:650}
.tabs>input{position:absolute;opacity:0;pointer-events:none}
.tabs>label{display:inline-block;padding:4px 12px;margin:0 4px 16px 0;border:1px solid var(--rule);border-radius:999px;
font-size:14px;cursor:pointer;color:var(--muted)}
.tabs>input:checked+label{background:var(--ink);border-color:var(--ink);color:var(--paper)}
.tabs>input:focus-visible+label{outline:2px solid var(--l0);outline-offset:2px}
.tabs>div{display:none}.tabs>div>:first-child{margin-top:0}
.claims{list-style:none;margin:0;padding:0;display:grid;gap:20px 32px;grid-template-columns:repeat(auto-fill,minmax(min(100%,420px),1fr))}
.claims>li{min-width:0}
.claims .what{font-weight:600;margin:0 0 6px}.claims .what span{color:var(--muted);font-weight:400;margin-right:8px}
.claims ul{list-style:none;margin:0;padding:0;font-size:14px}
.claims ul li{display:grid;grid-template-columns:minmax(0,1fr) auto;gap:0 12px;padding:5px 0;border-top:1px solid var(--grid)}
.claims ul b{font-weight:500}.claims ul li>div{grid-column:1/-1;color:var(--muted);overflow-wrap:anywhere}
.holds,.fails,.open{font-weight:600;white-space:nowrap}.holds{color:var(--good)}.fails{color:var(--bad)}.open{color:var(--muted)}
.gallery{columns:2;column-gap:24px}
@media(max-width:860px){.gallery{columns:1}}
article{break-inside:avoid;border:1px solid var(--rule);border-radius:6px;padding:10px 14px 12px;margin:0 0 20px;font-size:14px}
.tabs article h3,article h3{font-size:14px;margin:0 0 6px;color:var(--ink);display:flex;flex-wrap:wrap;gap:0 12px;justify-content:space-between}
.chain{list-style:none;margin:0;padding:0;font-size:12.5px;line-height:1.45;overflow-wrap:anywhere}
.chain li{padding:2px 6px 2px 48px;position:relative;border-left:3px solid transparent}
.chain .at{position:absolute;left:4px;width:38px;color:var(--muted);font-variant-numeric:tabular-nums}
.chain .first{background:var(--mark);border-left-color:var(--bad)}
.chain .why{display:block;font-family:system-ui,sans-serif;color:var(--bad)}
.chain .after{color:var(--muted)}
summary{cursor:pointer;color:var(--t0);font-size:14px;padding:2px 0}
article summary{padding-left:6px;font:13px system-ui,sans-serif}
details[open]>summary{margin-bottom:8px}.charts+details{margin-top:14px}details .scroll+.scroll{margin-top:20px}
.settings{columns:3;column-gap:32px}@media(max-width:860px){.settings{columns:1}}
.settings table{width:100%;break-inside:avoid;margin-bottom:14px;font-size:13px}
.settings caption{color:var(--ink);font-weight:600;padding:0 0 2px}
.settings th{font-weight:400;padding-left:0}.settings td{text-align:right;white-space:normal;overflow-wrap:anywhere;padding:4px 0}
.pair{display:grid;gap:8px 48px;grid-template-columns:repeat(auto-fit,minmax(min(100%,380px),1fr))}
.facts td{white-space:normal}
footer{border-top:1px solid var(--rule);margin-top:48px;padding:16px 16px 48px}
footer p{max-width:none}
@media print{nav,.tabs>label,.tabs>input{display:none}.tabs>div{display:block!important}}
)css";

/// Panels of which one shows at a time, chosen by name; a single one just shows.
struct Tab {
  std::string name, content;
};

/// `id` names the group and is unique on the page.
inline std::string tabs(std::string_view id, const std::vector<Tab>& panels) {
  if (panels.size() == 1) return panels[0].content;
  std::string out = "<div class=\"tabs\">";
  for (std::size_t i = 0; i < panels.size(); ++i) {
    out += join({"<input type=\"radio\" name=\"", id, "\" id=\"", id, "-", i, "\"", i == 0 ? " checked" : "", "><label for=\"", id, "-",
                   i, "\">", escape(panels[i].name), "</label>"});
  }
  for (const Tab& panel : panels) out += join({"<div>", panel.content, "</div>"});
  return out += "</div>";
}

/// The page; shows panel i of tabs when its button, the i-th, is chosen, for up to `most_tabs` of them.
inline std::string page(std::string_view title, std::string_view header, std::string_view main, std::string_view footer,
                        std::size_t most_tabs) {
  std::string rules;
  for (std::size_t i = 1; i <= most_tabs; ++i)
    rules += join({i > 1 ? "," : "", ".tabs>input:nth-of-type(", i, "):checked~div:nth-of-type(", i, ")"});
  rules += "{display:block}\n";
  return join({"<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
                 "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<link rel=\"icon\" href=\"data:,\">\n<title>",
                 escape(title), "</title>\n<style>", style_sheet, rules, "</style>\n</head>\n<body>\n<header>\n", header,
                 "</header>\n<main>\n", main, "</main>\n<footer>\n", footer, "</footer>\n</body>\n</html>\n"});
}

}  // namespace relay::report
