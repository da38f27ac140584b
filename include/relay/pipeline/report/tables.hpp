// The figures of a run as text for a terminal, at most 100 columns wide.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include <relay/pipeline/report/data.hpp>
#include <relay/pipeline/report/sections.hpp>
#include <relay/pipeline/report/text.hpp>

namespace relay {

namespace detail {

/// At most `most` of the lengths, evenly taken from both sides of the longest trained one; the ends of both sides stay.
inline std::vector<int> thinned(const std::vector<int>& lengths, int longest_trained, std::size_t most) {
  if (lengths.size() <= most) return lengths;
  const auto limit = std::upper_bound(lengths.begin(), lengths.end(), longest_trained);
  const std::vector<int> sides[] = {{lengths.begin(), limit}, {limit, lengths.end()}};
  std::size_t share = most * sides[0].size() / lengths.size();
  share = std::clamp<std::size_t>(share, std::min<std::size_t>(2, sides[0].size()), most - std::min<std::size_t>(2, sides[1].size()));
  std::vector<int> out;
  for (const auto& side : sides) {
    const std::size_t n = std::min(side.size(), &side == &sides[0] ? share : most - share);
    for (std::size_t i = 0; i < n; ++i) out.push_back(side[n > 1 ? i * (side.size() - 1) / (n - 1) : side.size() - 1]);
  }
  return out;
}

/// Words in lines of at most `width` characters; lines after the first begin with `indent` spaces.
inline std::string wrapped(std::string_view text, std::size_t begun, std::size_t indent, std::size_t width) {
  std::string out;
  std::size_t column = begun;
  const auto length = [](std::string_view word) {
    std::size_t n = 0;
    for (const char c : word) n += (static_cast<unsigned char>(c) & 0xC0u) != 0x80u ? 1 : 0;
    return n;
  };
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find(' ', begin), text.size());
    const std::string_view word = text.substr(begin, end - begin);
    begin = end + 1;
    if (word.empty()) continue;
    if (column > indent && column + 1 + length(word) > width)
      out += '\n', out += std::string(indent, ' '), column = indent;
    else if (column > indent)
      out += ' ', ++column;
    out += word, column += length(word);
  }
  return out;
}

}  // namespace detail

/// Per task the accuracies by length, lengths beyond the trained ones behind a bar; the claims; how often iteration t of the aligned
/// model prints round t; of the chains of the longest length the worst place of each round, and the first wrong round; calibration;
/// and how each training ended. Where there are more lengths or rounds than a line holds, some are left out.
inline std::string report_tables(const ReportData& data) {
  using namespace report;
  const View view(data);
  constexpr std::size_t name_width = 15, most = 14;  // 15 + 14 * 6 + 1 = 100
  std::string out;
  const auto padded = [](std::string_view text, std::size_t width) {
    std::string cell(text.substr(0, width - 1));
    return cell + std::string(width - cell.size(), ' ');
  };
  const auto cell = [](std::string_view text) { return std::string(text.size() < 6 ? 6 - text.size() : 0, ' ') + std::string(text); };
  const auto line = [&](std::string text) {
    while (!text.empty() && text.back() == ' ') text.pop_back();
    out += text + "\n";
  };

  for (const std::string& task : view.tasks) {
    const auto range = data.trained(task);
    const int limit = range ? range->longest : 1000000;
    const std::vector<int> all = data.lengths(task), lengths = detail::thinned(all, limit, most);
    const auto row = [&](std::string_view name, auto&& value) {
      std::string text = padded(name, name_width);
      for (std::size_t i = 0; i < lengths.size(); ++i) {
        if (lengths[i] > limit && (i == 0 || lengths[i - 1] <= limit)) text += lengths.size() < most ? " |" : "|";
        text += cell(value(lengths[i]));
      }
      line(text);
    };
    line(join({spoken(task), range ? join({", trained on lengths ", range->shortest, " to ", range->longest}) : std::string(),
                 lengths.size() < all.size() ? join({"; ", lengths.size(), " of ", all.size(), " lengths"}) : std::string()}));
    row("length", [](int length) { return std::to_string(length); });
    for (const Metric& metric : metrics) {
      line(join({"  ", metric.name}));
      for (const std::string& model : view.models) {
        if (metric.of_chain && !has_chain(model)) continue;
        row(model, [&](int length) {
          const Row* found = data.row(model, task, length);
          return found ? fixed(found->*metric.value, 3) : std::string();
        });
      }
    }
    out += "\n";
  }
  if (!data.claims.empty()) out += "claims\n";
  const std::string* last = nullptr;
  for (const Claim& claim : data.claims) {
    if (!last || *last != claim.text) line(join({claim.number < 10 ? " " : "", claim.number, "  ", detail::wrapped(claim.text, 4, 4, 100)}));
    last = &claim.text;
    const std::string text = join({"    ", !claim.holds ? "not tested     " : *claim.holds ? "holds          " : "does NOT hold  "});
    line(text + detail::wrapped(join({claim.task.empty() ? "" : join({spoken(claim.task), ": "}), claim.detail}), text.size(), text.size(), 100));
  }
  if (!data.claims.empty()) out += "\n";

  constexpr std::string_view aligned = known_models[0];
  for (const std::string& task : view.tasks) {
    std::vector<const Entry*> entries;
    std::size_t rounds = 0;
    for (const int length : view.selected(task, data.lengths(task)))
      if (const Entry* entry = data.entry(aligned, task, length); entry && !entry->rounds.empty())
        entries.push_back(entry), rounds = std::max(rounds, entry->rounds.size());
    if (entries.empty()) continue;
    std::vector<int> all, shown;
    for (std::size_t t = 1; t <= rounds; ++t) all.push_back(static_cast<int>(t));
    shown = detail::thinned(all, static_cast<int>(rounds), most);
    line(join({spoken(task), ", ", aligned, ": how often iteration t prints round t"}));
    std::string text = padded("t", name_width);
    for (const int t : shown) text += cell(std::to_string(t));
    line(text);
    for (const Entry* entry : entries) {
      text = padded(join({"  length ", entry->length}), name_width);
      for (const int t : shown) {
        const std::size_t i = static_cast<std::size_t>(t) - 1;
        text += cell(i < entry->rounds.size() && entry->rounds[i].count > 0 ? fixed(entry->rounds[i].share(), 3) : std::string());
      }
      line(text);
    }
    out += "\n";
  }

  // By round, of the longest length: a row for each model that writes chains; value(entry, i) is of round i + 1.
  const auto by_round = [&](const std::string& task, std::string_view title, auto&& value) {
    const std::vector<int> tested = data.lengths(task);
    if (tested.empty()) return;
    std::size_t rounds = 0;
    std::vector<const Entry*> entries;
    for (const std::string& model : view.models)
      if (const Entry* entry = data.entry(model, task, tested.back()); entry && has_chain(model))
        entries.push_back(entry), rounds = std::max({rounds, entry->errors.size(), entry->first_wrong.size()});
    if (rounds == 0) return;
    std::vector<int> all;
    for (std::size_t t = 1; t <= rounds; ++t) all.push_back(static_cast<int>(t));
    const std::vector<int> shown = detail::thinned(all, static_cast<int>(rounds), most);
    line(join({spoken(task), ", length ", tested.back(), ": ", title}));
    std::string text = padded("t", name_width);
    for (const int t : shown) text += cell(std::to_string(t));
    line(text);
    for (const Entry* entry : entries) {
      text = padded(entry->model, name_width);
      for (const int t : shown) text += cell(value(*entry, static_cast<std::size_t>(t) - 1));
      line(text);
    }
    out += "\n";
  };
  for (const std::string& task : view.tasks) {
    by_round(task, "the worst place of each round, how often right", [](const Entry& entry, std::size_t i) {
      double least = 2;
      if (i < entry.errors.size())
        for (const Tally& column : entry.errors[i])
          if (column.count > 0) least = std::min(least, 1 - column.share());
      return least > 1 ? std::string() : fixed(least, 3);
    });
    by_round(task, "the share of chains that are first wrong in round t", [](const Entry& entry, std::size_t i) {
      return i < entry.first_wrong.size() && entry.samples > 0 ? fixed(entry.first_wrong[i] / entry.samples, 3) : std::string();
    });
  }

  std::string calibration;
  for (const std::string& task : view.tasks)
    for (const std::string& model : view.models) {
      std::vector<Bin> sides[2];  // of trained lengths, and beyond
      for (const Entry& entry : data.entries)
        if (entry.model == model && entry.task == task && has_chain(model)) add(sides[view.beyond(task, entry.length) ? 1 : 0], entry.calibration);
      if (count_of(sides[0]) + count_of(sides[1]) <= 0) continue;
      std::string text = padded(model, name_width);
      for (const auto& bins : sides) text += cell(count_of(bins) > 0 ? fixed(calibration_error(bins), 3) : "") + "   ";
      calibration += text + " " + spoken(task) + "\n";
    }
  if (!calibration.empty()) out += "calibration: expected error of the confidence in a chain, on trained lengths and beyond\n" + calibration + "\n";

  if (!data.stages.empty()) line(padded("training", name_width + 4) + "   steps    loss accuracy seconds");
  for (const Stage& stage : data.stages) {
    if (stage.points.empty()) continue;
    const auto seconds = std::find_if(data.machine.seconds.begin(), data.machine.seconds.end(), [&](const auto& s) { return s.first == stage.name; });
    const auto right = [](const std::string& text, std::size_t width) { return std::string(text.size() < width ? width - text.size() : 0, ' ') + text; };
    const LossPoint& end = stage.points.back();
    line(padded(stage.name, name_width + 4) + right(fixed(end.step, 0), 8) + right(std::isnan(end.values[0]) ? "" : fixed(end.values[0], 4), 8) +
         right(std::isnan(stage.accuracy) ? "" : fixed(stage.accuracy, 3), 9) +
         right(seconds == data.machine.seconds.end() ? "" : fixed(seconds->second, 0), 8));
  }
  if (!data.stages.empty()) out += "\n";

  if (!out.empty()) out.pop_back();
  return out;
}

}  // namespace relay
