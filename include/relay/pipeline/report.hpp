// The report of a run: its results as one page, report.html, that needs nothing else; and as tables in a terminal.
//
//   write_report("runs/demo");                                         // reads the files of the run, writes report.html
//   std::fputs(report_tables(read_report_data("runs/demo")).c_str(), stdout);
//
// The page has its style and figures in it, loads nothing, runs no script, and is made for wide and narrow screens, light and dark.
// Needs results.json; shows what config.json, diagnostics.json, metrics.jsonl and machine.json add where they are there.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>

#include <relay/core/file.hpp>
#include <relay/pipeline/report/data.hpp>
#include <relay/pipeline/report/page.hpp>
#include <relay/pipeline/report/sections.hpp>
#include <relay/pipeline/report/tables.hpp>
#include <relay/pipeline/report/text.hpp>

namespace relay {

/// The page, as HTML.
inline std::string report_html(const ReportData& data) {
  using namespace report;
  const View view(data);
  std::string names;
  for (std::size_t i = 0; i < view.tasks.size(); ++i)
    names += join({i == 0 ? "" : i + 1 < view.tasks.size() ? ", " : " and ", spoken(view.tasks[i])});

  std::string facts = join({counted(view.models.size(), "model"), " on ", counted(view.tasks.size(), "task")});
  if (const Json* seed = data.config.find("seed")) facts += join({" \u00B7 seed ", seed->is_string() ? seed->as_string() : seed->dump()});
  for (const std::string& task : view.tasks)
    if (const auto range = data.trained(task))
      facts += join({" \u00B7 ", view.tasks.size() > 1 ? spoken(task) + " " : "", "trained on lengths ", range->shortest, "\u2013", range->longest});
  for (const auto& [name, value] : data.machine.facts)
    if (name == "date") facts += join({" \u00B7 ", value});

  struct Part {
    std::string_view id, name;
    std::string html;
  };
  const Part parts[] = {{"summary", "Summary", summary_section(view)},
                        {"claims", "Claims", claims_section(view)},
                        {"accuracy", "Accuracy by length", view.tasks.empty() ? "" : accuracy_section(view)},
                        {"errors", "Errors", errors_section(view)},
                        {"agreement", "Agreement", agreement_section(view)},
                        {"first-wrong", "First wrong round", first_wrong_section(view)},
                        {"calibration", "Calibration", calibration_section(view)},
                        {"losses", "Training", losses_section(view)},
                        {"gallery", "Chains", gallery_section(view)},
                        {"origin", "Configuration and machine", origin_section(view)}};
  std::string links, sections;
  for (const Part& part : parts)
    if (!part.html.empty()) links += join({"<a href=\"#", part.id, "\">", part.name, "</a>\n"}), sections += part.html;

  std::string missing;
  for (const auto& [empty, file] : {std::pair(data.entries.empty() && data.gallery.empty() && data.claims.empty(), "diagnostics.json"),
                                    std::pair(data.stages.empty(), "metrics.jsonl"), std::pair(data.machine.facts.empty(), "machine.json")})
    if (empty) missing += join({missing.empty() ? "" : ", ", file});
  const std::string footer =
      join({"<p>Written by relay from the files of the run.",
              missing.empty() ? std::string() : join({" Not there, or empty, and so not shown: ", missing, "."}), "</p>\n"});
  return page(join({"relay: ", names}),
              join({"<p class=\"kind\">RELAY run</p>\n<h1>", escape(names.empty() ? "A run without results" : names), "</h1>\n<p class=\"lead\">",
                      escape(facts), "</p>\n<nav aria-label=\"Sections\">\n", links, "</nav>\n"}),
              sections, footer, std::max<std::size_t>(3, view.tasks.size()));
}

/// Reads the results of the run in `directory` and writes its report.html.
inline void write_report(const std::string& directory) {
  write_file_atomically(directory + "/report.html", report_html(read_report_data(directory)));
}

}  // namespace relay
