// The sections of a report, each a function from the data to HTML; empty where the data have nothing for it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <relay/pipeline/report/data.hpp>
#include <relay/pipeline/report/figure.hpp>
#include <relay/pipeline/report/page.hpp>
#include <relay/pipeline/report/text.hpp>

namespace relay::report {

inline std::string code(std::string_view text) { return join({"<code>", escape(text), "</code>"}); }

/// A number of Row, by name.
struct Metric {
  std::string_view name, what;
  double Row::*value;
  bool of_chain;  // says nothing about a model that has no chain
};
inline constexpr Metric metrics[] = {
    {"answer", "The share of problems whose answer is right.", &Row::answer, false},
    {"chain", "The share of problems of which every round and the answer are right.", &Row::chain, true},
    {"token", "The share of tokens of the true rounds that stand where they should.", &Row::token, true}};

/// The data with what every section asks for again and again.
class View {
 public:
  explicit View(const ReportData& run) : data(run), tasks(run.tasks()), models(run.models()) {}

  const ReportData& data;
  std::vector<std::string> tasks, models;

  /// The class of a model's colour, dash and marker: its own for those known, the rest share.
  int style(std::string_view model) const {
    constexpr std::size_t known = std::size(known_models);
    const auto at = std::find(std::begin(known_models), std::end(known_models), model);
    if (at != std::end(known_models)) return static_cast<int>(at - std::begin(known_models));
    int others = 0;
    for (const std::string& name : models) {
      if (name == model) break;
      if (std::find(std::begin(known_models), std::end(known_models), name) == std::end(known_models)) ++others;
    }
    return static_cast<int>(known) + others % 2;
  }

  bool beyond(std::string_view task, int length) const {
    const auto range = data.trained(task);
    return range && length > range->longest;
  }

  /// The mean over the tested lengths on one side of the longest trained.
  std::optional<double> mean(std::string_view model, std::string_view task, bool beyond_it, double Row::*value = &Row::answer) const {
    double sum = 0, n = 0;
    for (const Row& row : data.rows)
      if (row.model == model && row.task == task && beyond(task, row.length) == beyond_it) sum += row.*value, n += 1;
    if (n == 0) return {};
    return sum / n;
  }

  /// The lengths that `holds` for an entry of this task, ascending.
  std::vector<int> diagnosed(std::string_view task, auto&& holds) const {
    std::vector<int> out;
    for (const Entry& entry : data.entries)
      if (entry.task == task && has_chain(entry.model) && holds(entry) && std::find(out.begin(), out.end(), entry.length) == out.end())
        out.push_back(entry.length);
    std::sort(out.begin(), out.end());
    return out;
  }

  /// Of these lengths the longest trained, the first beyond and the longest.
  std::vector<int> selected(std::string_view task, const std::vector<int>& lengths) const {
    if (lengths.size() <= 3) return lengths;
    const auto range = data.trained(task);
    if (!range) return {lengths.front(), lengths[lengths.size() / 2], lengths.back()};
    std::vector<int> out;
    const auto first = std::upper_bound(lengths.begin(), lengths.end(), range->longest);
    if (first != lengths.begin()) out.push_back(*std::prev(first));
    if (first != lengths.end()) out.push_back(*first);
    if (first != lengths.end() && std::next(first) != lengths.end()) out.push_back(lengths.back());
    return out;
  }

  std::string name(std::string_view model) const {
    return join({"<span class=\"name s", style(model), "\">", escape(model), "</span>"});
  }
  std::string key(std::string_view model) const {
    const int s = style(model);
    return join({"<svg class=\"key s", s, "\" width=\"30\" height=\"12\" viewBox=\"0 0 30 12\" aria-hidden=\"true\">",
                   "<path class=\"ln\" d=\"M1 6H29\"/>", svg_marker(s, 15, 6, 3.4), "</svg>"});
  }
  std::string at_length(std::string_view task, int length) const {
    const auto range = data.trained(task);
    if (!range) return join({"length ", length});
    if (length > range->longest) return join({"length ", length, ", ", length - range->longest, " beyond the trained lengths"});
    return join({"length ", length, length == range->longest ? ", the longest trained" : ", trained"});
  }
};

/// A section with its heading; nothing when there is nothing in it.
inline std::string section(std::string_view id, std::string_view title, std::string_view lead, const std::string& content) {
  if (content.empty()) return "";
  return join({"<section id=\"", id, "\">\n<h2>", escape(title), "</h2>\n", lead.empty() ? "" : "<p class=\"note\">", lead,
                 lead.empty() ? "" : "</p>\n", content, "\n</section>\n"});
}

/// One panel of content per task, chosen by name.
inline std::string by_task(const View& view, std::string_view id, auto&& content) {
  std::vector<Tab> panels;
  for (const std::string& task : view.tasks)
    if (std::string text = content(task); !text.empty()) panels.push_back({spoken(task), std::move(text)});
  if (panels.empty()) return "";
  if (panels.size() == 1 && view.tasks.size() > 1) return join({"<h3>", escape(panels[0].name), "</h3>", panels[0].content});
  return tabs(id, panels);
}

inline std::string range_text(std::vector<int> lengths) {
  if (lengths.empty()) return "none";
  return lengths.size() == 1 ? join({lengths[0]}) : join({lengths.front(), "\u2013", lengths.back()});
}

/// Mean accuracy of each model on each task, on both sides of the longest trained length.
inline std::string summary_section(const View& view) {
  if (view.tasks.empty()) return section("summary", "Summary", "", "<p>There is no result: results.json has no rows.</p>");
  std::string head = "<tr><th class=\"first\" rowspan=\"2\" scope=\"col\">model</th>", second = "<tr>";
  struct Column {
    std::string task;
    bool beyond;
    double best;
  };
  std::vector<Column> columns;
  for (const std::string& task : view.tasks) {
    std::vector<int> sides[2];
    for (const int length : view.data.lengths(task)) sides[view.beyond(task, length)].push_back(length);
    head += join({"<th class=\"group\" colspan=\"2\" scope=\"colgroup\">", escape(spoken(task)), "</th>"});
    const bool known = view.data.trained(task).has_value();
    for (const bool beyond : {false, true}) {
      second += join({"<th scope=\"col\"", beyond ? "" : " class=\"group\"", ">", beyond ? "beyond" : known ? "in range" : "tested",
                        "<small>", range_text(sides[beyond]), "</small></th>"});
      double best = -1;
      for (const std::string& model : view.models) best = std::max(best, view.mean(model, task, beyond).value_or(-1));
      columns.push_back({task, beyond, best});
    }
  }
  std::string body;
  for (const std::string& model : view.models) {
    body += join({"<tr><th scope=\"row\">", view.key(model), view.name(model), "</th>"});
    for (const Column& column : columns) {
      const auto mean = view.mean(model, column.task, column.beyond);
      const std::string group = column.beyond ? "" : "group ";
      if (!mean) {
        body += join({"<td class=\"", group, "none\">\u2013</td>"});
        continue;
      }
      const bool best = column.beyond && fixed(*mean, 3) == fixed(column.best, 3);
      body += join({"<td class=\"", group, best ? "best" : "", "\" style=\"--v:", brief(*mean * 100), "%\">", fixed(*mean, 3), "</td>"});
    }
    body += "</tr>\n";
  }
  return section("summary", "Summary",
                 "Accuracy of the answer, mean over the tested lengths within the trained range and beyond it. Bold: the best beyond it.",
                 join({"<div class=\"scroll\" tabindex=\"0\"><table class=\"summary full\" aria-label=\"Accuracy of the answer\"><thead>",
                         head, "</tr>\n", second, "</tr></thead><tbody>\n", body, "</tbody></table></div>"}));
}

inline std::string verdict(const std::optional<bool>& holds) {
  if (!holds) return "<span class=\"open\">? not tested</span>";
  return *holds ? "<span class=\"holds\">\u2713 holds</span>" : "<span class=\"fails\">\u2717 does not hold</span>";
}

/// What the method promises, and whether it is so here, task by task.
inline std::string claims_section(const View& view) {
  std::vector<int> numbers;
  for (const Claim& claim : view.data.claims)
    if (std::find(numbers.begin(), numbers.end(), claim.number) == numbers.end()) numbers.push_back(claim.number);
  if (numbers.empty()) return "";
  std::string list;
  std::size_t held = 0, tested = 0;
  for (const int number : numbers) {
    std::string text, items;
    for (const Claim& claim : view.data.claims) {
      if (claim.number != number) continue;
      if (text.empty()) text = claim.text;
      if (claim.holds) ++tested, held += *claim.holds ? 1 : 0;
      items += join({"<li><b>", claim.task.empty() ? "all tasks" : escape(spoken(claim.task)), "</b>", verdict(claim.holds), "<div>",
                       claim.text == text ? "" : join({escape(claim.text), ": "}), escape(claim.detail), "</div></li>"});
    }
    list += join({"<li><p class=\"what\"><span>", number, "</span>", escape(text), "</p><ul>", items, "</ul></li>\n"});
  }
  return section("claims", "Claims", join({"What RELAY claims, tested on this run: ", held, " of ", tested, " hold."}),
                 join({"<ol class=\"claims\">\n", list, "</ol>"}));
}

/// What the models are, for those that are known.
inline std::string_view model_text(std::string_view model) {
  constexpr std::string_view texts[] = {"looped; iteration t prints round t of the chain",
                                        "looped; taught the answer alone, so it has no chain",
                                        "auto-regressive; writes the chain token by token",
                                        "ar, fine-tuned on longer chains by looped_aligned",
                                        "ar, fine-tuned on longer chains of its own, again and again",
                                        "the same, keeping the chains whose answer is right"};
  const auto at = std::find(std::begin(known_models), std::end(known_models), model);
  return at == std::end(known_models) ? "" : texts[at - std::begin(known_models)];
}

inline std::string accuracy_chart(const View& view, const std::string& task, const Metric& metric, double lowest, double width, double height, bool tips) {
  LineChart chart{.x_name = "length", .y_name = join({metric.name, " accuracy"}), .width = width, .height = height, .y0 = lowest, .tips = tips};
  const std::vector<int> lengths = view.data.lengths(task);
  const double margin = std::max(0.5, 0.02 * (lengths.back() - lengths.front()));
  chart.x0 = lengths.front() - margin, chart.x1 = lengths.back() + margin;
  chart.trained = view.data.trained(task);
  chart.title = join({spoken(task), ": ", metric.name, " accuracy by length"});
  std::size_t longest = 0;
  for (const std::string& model : view.models) {
    if (metric.of_chain && !has_chain(model)) continue;
    Curve curve{model, view.style(model), {}};
    for (const int length : lengths)
      if (const Row* row = view.data.row(model, task, length)) {
        const double value = row->*metric.value;
        const Interval interval = wilson(value, row->samples);
        curve.points.push_back({static_cast<double>(length), value, interval.low, interval.high,
                                join({model, ", length ", length, ": ", fixed(value, 3), " (", fixed(interval.low, 3), "\u2013",
                                        fixed(interval.high, 3), ", ", brief(row->samples, 0), " problems)"})});
      }
    if (curve.points.empty()) continue;
    longest = std::max(longest, model.size());
    chart.description += join({chart.description.empty() ? "" : "; ", model, " ", fixed(curve.points.front().y, 3), " at length ",
                                 lengths.front(), ", ", fixed(curve.points.back().y, 3), " at ", lengths.back()});
    chart.curves.push_back(std::move(curve));
  }
  chart.label_width = std::min(160.0, 24 + 6.9 * static_cast<double>(longest));
  return line_chart(chart);
}

/// The figures of a chart, as a table.
inline std::string accuracy_table(const View& view, const std::string& task, const Metric& metric) {
  const std::vector<int> lengths = view.data.lengths(task);
  const auto range = view.data.trained(task);
  const auto limit = [&](std::size_t i) {
    return range && i > 0 && lengths[i] > range->longest && lengths[i - 1] <= range->longest ? " class=\"limit-left\"" : "";
  };
  std::string out = join({"<div class=\"scroll\" tabindex=\"0\"><table><caption>", escape(spoken(task)), ": ", metric.name,
                            " accuracy by length</caption><thead><tr><th class=\"first\" scope=\"col\">model</th>"});
  for (std::size_t i = 0; i < lengths.size(); ++i) out += join({"<th scope=\"col\"", limit(i), ">", lengths[i], "</th>"});
  out += "</tr></thead><tbody>\n";
  for (const std::string& model : view.models) {
    if (metric.of_chain && !has_chain(model)) continue;
    out += join({"<tr><th scope=\"row\">", view.name(model), "</th>"});
    for (std::size_t i = 0; i < lengths.size(); ++i) {
      const Row* row = view.data.row(model, task, lengths[i]);
      out += join({"<td", limit(i), ">", row ? fixed(row->*metric.value, 3) : "", "</td>"});
    }
    out += "</tr>\n";
  }
  return out += "</tbody></table></div>";
}

/// Accuracy by length: a chart per task, for each kind of accuracy.
inline std::string accuracy_section(const View& view) {
  std::string legend = join({"<dl class=\"models", view.tasks.size() % 2 == 1 && view.tasks.size() > 1 ? " beside" : "", "\">"});
  for (const std::string& model : view.models)
    legend += join({"<dt class=\"s", view.style(model), "\">", view.key(model), escape(model), "</dt><dd>", model_text(model), "</dd>"});
  legend += "</dl>";

  std::vector<Tab> panels;
  for (const Metric& metric : metrics) {
    const std::size_t n = view.tasks.size();
    std::string charts, tables;
    double lowest = 1;
    for (const Row& row : view.data.rows)
      if (!metric.of_chain || has_chain(row.model)) lowest = std::min(lowest, wilson(row.*metric.value, row.samples).low);
    lowest = lowest < 0.5 ? 0 : 0.5;  // of all tasks, so that their charts compare
    for (const std::string& task : view.tasks) {
      const double wide = n == 1 ? 1104 : 540;
      charts += join({"<figure><figcaption><b>", escape(spoken(task)), "</b></figcaption><div class=\"wide\">",
                        accuracy_chart(view, task, metric, lowest, wide, n == 1 ? 380 : 320, true), "</div><div class=\"narrow\">",
                        accuracy_chart(view, task, metric, lowest, 352, 290, false), "</div></figure>\n"});
      tables += accuracy_table(view, task, metric);
    }
    panels.push_back({std::string(metric.name),
                      join({"<p class=\"note\">", metric.what, "</p><div class=\"charts ", n == 1 ? "one" : "two", "\">\n",
                              charts, legend, "</div>\n<details><summary>The numbers</summary>", tables, "</details>"})});
  }
  return section("accuracy", "Accuracy by length",
                 "The grey ground is the range of lengths trained on. Bands are 95\u00A0% Wilson intervals of the number of problems; tokens "
                 "of one chain are not independent, so theirs count problems, too.",
                 tabs("accuracy-of", panels));
}

/// What the shades of a heat map mean.
inline std::string heat_scale() {
  constexpr std::string_view names[] = {"none", "to 1\u00A0%", "to 3\u00A0%", "to 10\u00A0%", "to 30\u00A0%", "to 60\u00A0%", "more"};
  std::string out = "<p class=\"scale\"><span>Share wrong:</span>";
  for (int level = 0; level < 7; ++level)
    out += join({"<span><i style=\"background:var(--h", level, ")\"></i>", names[level], "</span>"});
  return out += "</p>";
}

/// Panels of one kind, one per model.
inline std::string panel_row(const View& view, std::string_view panels) {
  const auto chains = std::count_if(view.models.begin(), view.models.end(), has_chain);
  return join({"<div class=\"panels\" style=\"--n:", std::clamp<std::ptrdiff_t>(chains, 5, 6), "\">\n", panels, "</div>\n"});
}

inline std::string panel(std::string_view head, std::string_view detail, const std::string& figure) {
  return join({"<figure><figcaption>", head, "<span>", escape(detail), "</span></figcaption>", figure, "</figure>\n"});
}

/// Which token of which round is wrong, how often.
inline std::string errors_section(const View& view) {
  const auto has = [](const Entry& entry) { return !entry.errors.empty(); };
  const std::string content = by_task(view, "errors-of", [&](const std::string& task) {
    std::string out;
    for (const int length : view.selected(task, view.diagnosed(task, has))) {
      std::string maps;
      for (const std::string& model : view.models) {
        const Entry* entry = view.data.entry(model, task, length);
        if (!entry || !has(*entry) || !has_chain(model)) continue;
        Tally all;
        double worst = 0;
        std::size_t round = 0, column = 0;
        for (std::size_t y = 0; y < entry->errors.size(); ++y)
          for (std::size_t x = 0; x < entry->errors[y].size(); ++x) {
            const Tally& cell = entry->errors[y][x];
            all.part += cell.part, all.count += cell.count;
            if (cell.share() > worst) worst = cell.share(), round = y + 1, column = entry->errors[y].size() - x;
          }
        const std::string detail = worst == 0 ? std::string("no error")
                                              : join({percent(all.share()), ", worst ", percent(worst), " at ", round, ",\u202F", column});
        maps += panel(view.name(model), detail,
                      heat_map({.title = join({model, ", ", spoken(task), ", length ", length, ": share of wrong tokens by round and column"}),
                                .description = worst == 0 ? "no token is wrong"
                                                          : join({"worst: round ", round, ", column ", column, ", ", percent(worst), " wrong"}),
                                .x_name = "column from the right", .y_name = "round", .rows = entry->errors, .from_right = true}));
      }
      out += join({"<h3>", view.at_length(task, length), "</h3>", panel_row(view, maps)});
    }
    return out;
  });
  return section("errors", "Where errors are",
                 "The share of wrong tokens, by round of the chain (down) and column of the round from its right (across). "
                 "The hit matrix is one minus it. Above each map: the share of all tokens, and the worst place as round, column from the right.",
                 content.empty() ? content : heat_scale() + content);
}

/// Whether iteration t prints round t, at every length.
inline std::string agreement_section(const View& view) {
  const auto has = [](const Entry& entry) { return !entry.rounds.empty(); };
  const std::string content = by_task(view, "agreement-of", [&](const std::string& task) {
    const std::vector<int> lengths = view.diagnosed(task, has);
    if (lengths.empty()) return std::string();
    std::string maps;
    for (const std::string& model : view.models) {
      if (!has_chain(model)) continue;
      HeatMap map{.title = join({model, ", ", spoken(task), ": share of rounds that differ from the true one, by length and round"}),
                  .x_name = "round", .y_name = "length", .tallest = std::clamp(9.0 * static_cast<double>(lengths.size()), 150.0, 270.0)};
      double lowest = 1;
      int length_of = 0, round_of = 0;
      for (const int length : lengths) {
        const Entry* entry = view.data.entry(model, task, length);
        if (!entry || !has(*entry)) continue;
        auto& row = map.rows.emplace_back();
        map.row_names.push_back(std::to_string(length));
        if (!view.beyond(task, length)) map.line_below = static_cast<int>(map.rows.size());
        for (const Tally& round : entry->rounds) {
          row.push_back({round.count - round.part, round.count});
          if (round.count > 0 && round.share() < lowest) lowest = round.share(), length_of = length, round_of = static_cast<int>(row.size());
        }
      }
      if (map.rows.empty()) continue;
      const std::string detail = lowest == 1 ? std::string("always")
                                             : join({"lowest ", fixed(lowest, 3), " at ", length_of, ",\u202F", round_of});
      map.description = join({"agreement: ", detail});
      maps += panel(view.name(model), detail, heat_map(map));
    }
    return panel_row(view, maps);
  });
  return section("agreement", "Agreement of iteration and round",
                 "How often iteration t of the loop prints round t whole, and without a fault; for the auto-regressive models, the t-th round they "
                 "write. Below the line: lengths beyond the trained ones. Above each map: the worst place as length, round.",
                 content.empty() ? content : heat_scale() + content);
}

/// At which round chains first go wrong.
inline std::string first_wrong_section(const View& view) {
  const auto has = [](const Entry& entry) { return !entry.first_wrong.empty() && entry.samples > 0; };
  const std::string content = by_task(view, "first-of", [&](const std::string& task) {
    std::string out;
    std::vector<int> lengths = view.selected(task, view.diagnosed(task, has));
    if (lengths.size() > 2) lengths.erase(lengths.begin());  // within the trained range there is little to see
    for (const int length : lengths) {
      double highest = 0;
      for (const std::string& model : view.models)
        if (const Entry* entry = view.data.entry(model, task, length); entry && has(*entry) && has_chain(model))
          for (const double n : entry->first_wrong) highest = std::max(highest, n / entry->samples);
      for (const double nice : {0.02, 0.04, 0.06, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0})
        if (highest <= nice) {
          highest = nice;
          break;
        }
      std::string panels;
      for (const std::string& model : view.models) {
        const Entry* entry = view.data.entry(model, task, length);
        if (!entry || !has(*entry) || !has_chain(model)) continue;
        Histogram chart{.title = join({model, ", ", spoken(task), ", length ", length, ": the first wrong round"}),
                        .x_name = "first wrong round", .y_name = "share of chains", .highest = highest, .style = view.style(model)};
        double wrong = 0;
        for (const double n : entry->first_wrong) wrong += n, chart.shares.push_back(n / entry->samples);
        const std::string detail = join({percent(std::max(0.0, 1 - wrong / entry->samples)), " never wrong"});
        chart.description = detail;
        panels += panel(view.name(model), detail, histogram(chart));
      }
      out += join({"<h3>", view.at_length(task, length), "</h3>", panel_row(view, panels)});
    }
    return out;
  });
  return section("first-wrong", "The first wrong round",
                 "At which round chains first leave the true one: an even spread is a constant risk per round, a peak at the end is a model that "
                 "does not know how to go on.",
                 content);
}

/// Whether a model's confidence in its chain is how often it is right.
inline std::string calibration_section(const View& view) {
  const std::string content = by_task(view, "calibration-of", [&](const std::string& task) {
    std::string panels;
    for (const std::string& model : view.models) {
      Reliability chart{.title = join({model, ", ", spoken(task), ": share of right chains by confidence"}), .style = view.style(model)};
      for (const Entry& entry : view.data.entries)
        if (entry.model == model && entry.task == task && has_chain(model))
          add(view.beyond(task, entry.length) ? chart.beyond : chart.trained, entry.calibration);
      if (count_of(chart.trained) + count_of(chart.beyond) <= 0) continue;
      const auto error = [](const std::vector<Bin>& bins) { return count_of(bins) > 0 ? fixed(calibration_error(bins), 3) : "\u2013"; };
      const std::string detail = join({"ECE ", error(chart.trained), ", beyond ", error(chart.beyond)});
      chart.description = detail;
      panels += panel(view.name(model), detail, reliability(chart));
    }
    return panels.empty() ? panels : panel_row(view, panels);
  });
  return section("calibration", "Calibration",
                 "How often chains are right, by the model's confidence in them; on the diagonal it knows what it knows. Hollow: trained lengths, "
                 "filled: beyond. Bars: chains per bin, with the number of the highest. ECE: expected calibration error, the mean distance from the diagonal.",
                 content);
}

/// Fewer points: means of neighbours, with the smallest and largest of them.
inline std::vector<CurvePoint> smoothed(const std::vector<LossPoint>& points, std::size_t value, std::size_t most) {
  std::vector<CurvePoint> all, out;
  for (const LossPoint& point : points)
    if (const double v = point.values[value]; v > 0) all.push_back({point.step, v, v, v, ""});
  if (all.size() <= most) return all;
  for (std::size_t i = 0; i < most; ++i) {
    const std::size_t begin = i * all.size() / most, end = (i + 1) * all.size() / most;
    CurvePoint mean{0, 0, all[begin].y, all[begin].y, ""};
    for (std::size_t k = begin; k < end; ++k) {
      mean.x += all[k].x, mean.y += all[k].y;
      mean.low = std::min(mean.low, all[k].y), mean.high = std::max(mean.high, all[k].y);
    }
    mean.x /= static_cast<double>(end - begin), mean.y /= static_cast<double>(end - begin);
    out.push_back(mean);
  }
  return out;
}

/// The losses of every training.
inline std::string losses_section(const View& view) {
  constexpr int styles[] = {6, 0, 5, 3};  // in the order of loss_names
  double low = 1e300, high = 0;
  std::vector<LineChart> charts;
  for (const Stage& stage : view.data.stages) {
    LineChart chart{.title = join({"Training of ", stage.name, ": losses by step"}), .x_name = "step", .y_name = "loss", .width = 352, .height = 200,
                    .label_width = 76, .x0 = 0, .x1 = 1, .log_y = true, .markers = false};
    for (std::size_t k = 0; k < std::size(loss_names); ++k) {
      Curve curve{std::string(loss_names[k]), styles[k], smoothed(stage.points, k, 120)};
      if (curve.points.empty()) continue;
      for (const CurvePoint& p : curve.points) low = std::min(low, p.y), high = std::max(high, p.y);
      chart.description += join({chart.description.empty() ? "" : ", ", curve.label, " ", significant(curve.points.back().y), " at the end"});
      chart.curves.push_back(std::move(curve));
    }
    for (const LossPoint& point : stage.points) chart.x1 = std::max(chart.x1, point.step);
    charts.push_back(std::move(chart));
  }
  if (high <= 0) return "";
  std::string out = "<div class=\"charts\">\n";
  for (std::size_t i = 0; i < charts.size(); ++i) {
    const Stage& stage = view.data.stages[i];
    charts[i].y0 = std::pow(10.0, std::floor(std::log10(std::max(low, high * 1e-9)))), charts[i].y1 = std::pow(10.0, std::ceil(std::log10(high)));
    if (charts[i].y0 >= charts[i].y1) charts[i].y0 = charts[i].y1 / 10;
    std::string detail = grouped(stage.points.back().step) + " steps";
    for (const auto& [name, seconds] : view.data.machine.seconds)
      if (name == stage.name) detail += ", " + duration(seconds);
    if (!std::isnan(stage.accuracy)) detail += ", last accuracy " + fixed(stage.accuracy, 3);
    out += join({"<figure><figcaption><b>", escape(stage.name), "</b><br>", escape(detail), "</figcaption><div class=\"solid\">",
                   line_chart(charts[i]), "</div></figure>\n"});
  }
  return section("losses", "Training",
                 "Losses by step, all on one logarithmic scale; of long trainings means of neighbouring reports, and in the band all of them. Value and "
                 "structure are the losses of these tokens of the chain, answer that of the answer head.",
                 out + "</div>");
}

/// One chain, with its first wrong step marked. Steps that are right and far from it are folded away.
inline std::string written_chain(const View& view, const Written& chain) {
  const auto wrong = std::find_if(chain.rounds.begin(), chain.rounds.end(), [](const Step& step) { return !step.right; });
  const std::size_t n = chain.rounds.size(), first = static_cast<std::size_t>(wrong - chain.rounds.begin());
  const auto step = [&](std::size_t i) {
    const Step& round = chain.rounds[i];
    return join({"<li class=\"", i == first ? "first" : i > first ? "after" : "", "\"><span class=\"at\">", i + 1, " ",
                   round.right ? "<span class=\"holds\">\u2713</span>" : "<span class=\"fails\">\u2717</span>", "</span>",
                   round.text.empty() ? "\u2013" : escape(round.text),
                   i == first && !round.why.empty() ? join({" <span class=\"why\">", escape(round.why), "</span>"}) : std::string(), "</li>"});
  };
  const auto steps = [&](std::size_t begin, std::size_t end, std::string_view what) {
    if (begin >= end) return std::string();
    std::string list = join({"<ol class=\"chain\" start=\"", begin + 1, "\">"});
    for (std::size_t i = begin; i < end; ++i) list += step(i);
    list += "</ol>";
    if (what.empty()) return list;
    return join({"<details><summary>rounds ", begin + 1, "\u2013", end, what, "</summary>", list, "</details>"});
  };
  std::string body;
  if (n <= 10) {
    body = steps(0, n, "");
  } else if (first == n) {
    body = steps(0, 2, "") + steps(2, n - 2, ", all right") + steps(n - 2, n, "");
  } else {
    const std::size_t begin = first > 3 ? first - 2 : 0, end = n - first > 5 ? first + 3 : n;
    body = steps(0, begin, ", all right") + steps(begin, end, "") + steps(end, n, "");
    if (end < n) body = steps(0, begin, ", all right") + steps(begin, end, "") + steps(end, n, ", after the first wrong one");
  }
  std::string end = join({"answer ", "<code>", chain.answer.empty() ? "\u2013" : escape(chain.answer), "</code> ",
                            chain.answer_right ? "<span class=\"holds\">\u2713</span>" : "<span class=\"fails\">\u2717</span>"});
  if (!chain.answer_right) end += join({", the truth is ", code(chain.truth)});
  const std::string head = first < n ? join({"<span class=\"fails\">\u2717 wrong from round ", first + 1, "</span>"})
                           : chain.answer_right ? std::string("<span class=\"holds\">\u2713 right</span>")
                                                : std::string("<span class=\"fails\">\u2717 wrong answer</span>");
  return join({"<article><h3><span>", view.name(chain.model), ", length ", chain.length, "</span>", head,
                 "</h3>\n<div class=\"chain\"><ol class=\"chain\"><li><span class=\"at\"></span>", escape(chain.problem), "</li></ol>", body,
                 "<ol class=\"chain\"><li><span class=\"at\"></span>", end, "</li></ol></div></article>\n"});
}

inline std::string gallery_section(const View& view) {
  return section("gallery", "Chains", "Chains right and wrong, as the models wrote them. The first wrong round is marked, with what is wrong in it.",
                 by_task(view, "chains-of", [&](const std::string& task) {
                   std::string chains;
                   for (const Written& chain : view.data.gallery)
                     if (chain.task == task) chains += written_chain(view, chain);
                   return chains.empty() ? chains : join({"<div class=\"gallery\">\n", chains, "</div>"});
                 }));
}

/// The configuration as tables by the part of the key before its point.
inline std::string settings(const Json& config) {
  if (!config.is_object() || config.as_object().empty()) return "";
  std::vector<std::string> groups;
  const auto group_of = [](const std::string& key) { return key.find('.') == key.npos ? std::string() : key.substr(0, key.find('.')); };
  for (const auto& member : config.as_object())
    if (std::find(groups.begin(), groups.end(), group_of(member.key)) == groups.end()) groups.push_back(group_of(member.key));
  std::string out;
  for (const std::string& group : groups) {
    out += join({"<table class=\"text\"><caption>", group.empty() ? "run" : escape(group),
                   "</caption><thead hidden><tr><th scope=\"col\">key</th><th scope=\"col\">value</th></tr></thead><tbody>"});
    for (const auto& [key, value] : config.as_object()) {
      if (group_of(key) != group) continue;
      std::string text;
      if (value.is_string())
        text = value.as_string();
      else if (value.is_array())
        for (const Json& item : value.as_array()) text += join({text.empty() ? "" : ", ", item.is_string() ? item.as_string() : item.dump()});
      else
        text = value.dump();
      out += join({"<tr><th scope=\"row\">", escape(group.empty() ? key : key.substr(group.size() + 1)), "</th><td>", escape(text), "</td></tr>"});
    }
    out += "</tbody></table>\n";
  }
  return join({"<div class=\"settings\">", out, "</div>"});
}

/// What made the run: its settings, its data, its machine.
inline std::string origin_section(const View& view) {
  std::string out;
  if (const std::string all = settings(view.data.config); !all.empty())
    out += join({"<details><summary>Configuration, ", counted(view.data.config.as_object().size(), "key"), "</summary>", all, "</details>\n"});
  if (!view.data.data.empty()) {
    out += "<h3>Data</h3><div class=\"scroll\" tabindex=\"0\"><table class=\"text\"><thead><tr><th scope=\"col\">task</th><th scope=\"col\">options</th>"
           "<th scope=\"col\">part</th><th class=\"n\" scope=\"col\">seed</th><th class=\"n\" scope=\"col\">samples</th><th scope=\"col\">hash"
           "</th></tr></thead><tbody>\n";
    for (const DataSet& set : view.data.data)
      out += join({"<tr><td>", escape(spoken(set.task)), "</td><td>", escape(set.options), "</td><td>", escape(set.part), "</td><td class=\"n\">",
                     escape(set.seed), "</td><td class=\"n\">", escape(set.samples), "</td><td>", code(set.hash), "</td></tr>\n"});
    out += "</tbody></table></div>\n";
  }
  std::string machine, times;
  for (const auto& [name, value] : view.data.machine.facts)
    machine += join({"<tr><th scope=\"row\">", escape(name), "</th><td>", escape(value), "</td></tr>\n"});
  double total = 0, most = 0;
  for (const auto& stage : view.data.machine.seconds) total += stage.second, most = std::max(most, stage.second);
  for (const auto& [name, seconds] : view.data.machine.seconds)
    times += join({"<tr><th scope=\"row\">", escape(name), "</th><td style=\"--v:", brief(most > 0 ? seconds / most * 100 : 0), "%\">",
                     duration(seconds), "</td></tr>\n"});
  if (!times.empty()) times += join({"<tr><th scope=\"row\">together</th><td class=\"plain best\">", duration(total), "</td></tr>\n"});
  const auto table = [](std::string_view title, std::string_view classes, std::string_view first, std::string_view second, const std::string& rows) {
    if (rows.empty()) return std::string();
    return join({"<div><h3>", title, "</h3><div class=\"scroll\" tabindex=\"0\"><table class=\"", classes,
                   "\"><thead><tr><th class=\"first\" scope=\"col\">", first, "</th><th scope=\"col\">", second, "</th></tr></thead><tbody>\n",
                   rows, "</tbody></table></div></div>\n"});
  };
  if (!machine.empty() || !times.empty())
    out += join({"<div class=\"pair\">", table("Machine", "text facts", "what", "value", machine), table("Times", "summary", "stage", "time", times),
                   "</div>"});
  return section("origin", "Configuration, data and machine", "", out);
}

}  // namespace relay::report
