// What a report shows, read from the files of a run, and the few statistics it needs.
//
// Only results.json must be there; what else is missing is left empty. A file that is there but is not what it should be is
// an error that names the file and the place in it. Knows JSON and files, no model and no task.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <iterator>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <relay/core/file.hpp>
#include <relay/core/json.hpp>
#include <relay/core/json_parser.hpp>
#include <relay/core/require.hpp>

namespace relay {

namespace report {

/// Accuracies of one model on one task at one length (results.json).
struct Row {
  std::string model, task;
  int length = 0;
  double samples = 0, answer = 0, chain = 0, token = 0;
};

/// So many of so many.
struct Tally {
  double part = 0, count = 0;
  double share() const { return count > 0 ? part / count : 0; }
};

/// A bin of the confidences of chains.
struct Bin {
  double confidence = 0, right = 0, count = 0;  // the sum of the confidences; how many chains were right, of how many
};

/// What was counted over the chains of one model on one task at one length (diagnostics.json).
struct Entry {
  std::string model, task;
  int length = 0;
  double samples = 0;
  std::vector<Tally> rounds;               // right, by round
  std::vector<std::vector<Tally>> errors;  // wrong, by round and column of the round
  std::vector<double> first_wrong;         // chains whose first wrong round it is, by round
  std::vector<Bin> calibration;
};

struct Step {
  std::string text, why;
  bool right = false;
};

/// A chain of the gallery.
struct Written {
  std::string model, task;
  int length = 0;
  std::string problem, answer, truth;
  bool answer_right = false;
  std::vector<Step> rounds;
  bool right() const {
    return answer_right && std::all_of(rounds.begin(), rounds.end(), [](const Step& step) { return step.right; });
  }
};

struct Claim {
  int number = 0;
  std::string task, text, detail;
  std::optional<bool> holds;  // nothing: it was not tested
};

struct DataSet {
  std::string task, options, seed, part, hash, samples;
};

/// The losses that metrics.jsonl may have, in the order of LossPoint::values.
inline constexpr std::string_view loss_names[] = {"loss", "value", "structure", "answer"};

struct LossPoint {
  double step = 0, values[4];  // NaN: this stage has no such loss
};

/// The training of one model, as metrics.jsonl tells it.
struct Stage {
  std::string name;
  std::vector<LossPoint> points;
  double accuracy = std::numeric_limits<double>::quiet_NaN();  // of the last line
};

struct Machine {
  std::vector<std::pair<std::string, std::string>> facts;
  std::vector<std::pair<std::string, double>> seconds;  // by stage
};

/// The lengths a model was trained on.
struct Range {
  int shortest = 0, longest = 0;
};

struct Interval {
  double low = 0, high = 0;
};

/// 95 % interval of Wilson for the share `p` among n samples.
inline Interval wilson(double p, double n) {
  if (n <= 0) return {0, 1};
  const double z = 1.959964, z2 = z * z, centre = (p + z2 / (2 * n)) / (1 + z2 / n);
  const double half = z / (1 + z2 / n) * std::sqrt(p * (1 - p) / n + z2 / (4 * n * n));
  return {std::max(0.0, centre - half), std::min(1.0, centre + half)};
}

/// The calibrations of several entries, added up.
inline void add(std::vector<Bin>& sum, const std::vector<Bin>& bins) {
  if (sum.size() < bins.size()) sum.resize(bins.size());
  for (std::size_t i = 0; i < bins.size(); ++i) {
    sum[i].confidence += bins[i].confidence;
    sum[i].right += bins[i].right;
    sum[i].count += bins[i].count;
  }
}

inline double count_of(const std::vector<Bin>& bins) {
  double count = 0;
  for (const Bin& bin : bins) count += bin.count;
  return count;
}

/// The expected calibration error: |confidence - share right|, mean over the chains.
inline double calibration_error(const std::vector<Bin>& bins) {
  double sum = 0;
  for (const Bin& bin : bins) sum += std::abs(bin.confidence - bin.right);
  const double count = count_of(bins);
  return count > 0 ? sum / count : 0;
}

/// The models every run may have, in the order in which they are shown; others follow.
inline constexpr std::string_view known_models[] = {"looped_aligned", "looped_vanilla", "ar", "ar_relay", "ar_self_loop", "ar_self_truth"};

/// Taught the answer alone: what it prints on the way is no chain.
inline bool has_chain(std::string_view model) { return model != "looped_vanilla"; }

}  // namespace report

/// A run's results, whole.
struct ReportData {
  Json config = Json::object();
  std::vector<report::Row> rows;
  std::vector<report::Entry> entries;
  std::vector<report::Written> gallery;
  std::vector<report::Claim> claims;
  std::vector<report::DataSet> data;
  std::vector<report::Stage> stages;
  report::Machine machine;

  /// The tasks that have results: those of the configuration in its order, then others as they come.
  std::vector<std::string> tasks() const {
    std::vector<std::string> found, out;
    for (const report::Row& row : rows) remember(found, row.task);
    if (const Json* listed = config.find("tasks"); listed && listed->is_array())
      for (const Json& task : listed->as_array())
        if (task.is_string() && std::find(found.begin(), found.end(), task.as_string()) != found.end())
          remember(out, task.as_string());
    for (const std::string& task : found) remember(out, task);
    return out;
  }

  std::vector<std::string> models() const {
    std::vector<std::string> found, out;
    for (const report::Row& row : rows) remember(found, row.model);
    for (const std::string_view model : report::known_models)
      if (std::find(found.begin(), found.end(), model) != found.end()) out.emplace_back(model);
    for (const std::string& model : found) remember(out, model);
    return out;
  }

  /// The tested lengths of a task, ascending.
  std::vector<int> lengths(std::string_view task) const {
    std::vector<int> out;
    for (const report::Row& row : rows)
      if (row.task == task) remember(out, row.length);
    std::sort(out.begin(), out.end());
    return out;
  }

  /// The trained lengths of a task; nothing where the configuration does not say.
  std::optional<report::Range> trained(std::string_view task) const {
    const auto number = [&](const std::string& key) -> std::optional<int> {
      const Json* value = config.find(key);
      if (!value || !value->is_number()) return {};
      return static_cast<int>(value->as_number());
    };
    for (const std::string& prefix : {std::string(task), std::string("lengths")})
      if (const auto longest = number(prefix + ".longest"))
        return report::Range{number(prefix + ".shortest").value_or(1), *longest};
    return {};
  }

  const report::Row* row(std::string_view model, std::string_view task, int length) const {
    for (const report::Row& row : rows)
      if (row.length == length && row.model == model && row.task == task) return &row;
    return nullptr;
  }

  const report::Entry* entry(std::string_view model, std::string_view task, int length) const {
    for (const report::Entry& entry : entries)
      if (entry.length == length && entry.model == model && entry.task == task) return &entry;
    return nullptr;
  }

 private:
  template <class T>
  static void remember(std::vector<T>& list, const T& item) {
    if (std::find(list.begin(), list.end(), item) == list.end()) list.push_back(item);
  }
};

namespace detail {

/// A part of a JSON file and its place there; every error names both.
class ReportField {
 public:
  ReportField(const Json& json, std::string where) : json_(&json), where_(std::move(where)) {}

  const Json& json() const { return *json_; }
  const std::string& where() const { return where_; }
  const Json* find(std::string_view key) const { return json_->find(key, where_); }

  ReportField operator[](std::string_view key) const { return {json_->at(key, where_), message(where_, ": ", key)}; }
  std::string text(std::string_view key) const {
    const ReportField field = (*this)[key];
    return field.json_->as_string(field.where_);
  }
  bool truth(std::string_view key) const {
    const ReportField field = (*this)[key];
    return field.json_->as_bool(field.where_);
  }
  double number(std::string_view key) const {
    const ReportField field = (*this)[key];
    return field.json_->as_number(field.where_);
  }
  int integer(std::string_view key) const {
    const ReportField field = (*this)[key];
    const std::int64_t value = field.json_->as_integer(field.where_);
    require(value >= 0 && value <= 1000000, field.where_, " is ", value, ", but must be 0 .. 1000000");
    return static_cast<int>(value);
  }
  double share(std::string_view key) const {
    const double value = number(key);
    require(value >= 0 && value <= 1, where_, ": ", key, " is ", value, ", but must be 0 .. 1");
    return value;
  }
  /// Text as it is, anything else as JSON; empty where there is nothing.
  std::string shown(std::string_view key) const {
    const Json* value = find(key);
    if (!value || value->is_null()) return "";
    return value->is_string() ? value->as_string() : value->dump();
  }

  /// each(field of the item) for every item of the array; an array that is not there has none.
  void each(std::string_view key, auto&& each) const {
    const Json* list = find(key);
    if (!list || list->is_null()) return;
    ReportField(*list, message(where_, ": ", key)).each(each);
  }
  void each(auto&& each) const {
    std::size_t i = 0;
    for (const Json& item : json_->as_array(where_)) each(ReportField(item, message(where_, "[", i++, "]")));
  }

  /// An array of exactly this many numbers, none negative.
  template <std::size_t n>
  void counts(double (&out)[n]) const {
    const Json::Array& items = json_->as_array(where_);
    require(items.size() == n, where_, " has ", items.size(), " numbers, but must have ", n);
    for (std::size_t i = 0; i < n; ++i) out[i] = count(items[i]);
  }
  double count() const { return count(*json_); }
  report::Tally tally() const {
    double pair[2];
    counts(pair);
    require(pair[0] <= pair[1], where_, " counts ", pair[0], " of ", pair[1]);
    return {pair[0], pair[1]};
  }

 private:
  double count(const Json& item) const {
    const double value = item.as_number(where_);
    require(value >= 0, where_, " has the count ", value, ": it must not be negative");
    return value;
  }

  const Json* json_;
  std::string where_;
};

inline void read_diagnostics(ReportData& data, const ReportField& file) {
  file.each("entries", [&](const ReportField& field) {
    report::Entry entry{field.text("model"), field.text("task"), field.integer("length"), field.number("samples"), {}, {}, {}, {}};
    field.each("rounds", [&](const ReportField& round) { entry.rounds.push_back(round.tally()); });
    field.each("errors", [&](const ReportField& round) {
      auto& columns = entry.errors.emplace_back();
      round.each([&](const ReportField& column) { columns.push_back(column.tally()); });
    });
    field.each("first_wrong", [&](const ReportField& n) { entry.first_wrong.push_back(n.count()); });
    field.each("calibration", [&](const ReportField& bin) {
      double numbers[3];
      bin.counts(numbers);
      require(numbers[1] <= numbers[2], bin.where(), " counts ", numbers[1], " right of ", numbers[2]);
      entry.calibration.push_back({numbers[0], numbers[1], numbers[2]});
    });
    data.entries.push_back(std::move(entry));
  });
  file.each("gallery", [&](const ReportField& field) {
    report::Written chain{field.text("model"), field.text("task"), field.integer("length"), field.text("problem"),
                          field.text("answer"), field.text("truth"), field.truth("answer_right"), {}};
    field.each("rounds", [&](const ReportField& round) {
      chain.rounds.push_back({round.text("text"), round.shown("why"), round.truth("right")});
    });
    data.gallery.push_back(std::move(chain));
  });
  file.each("claims", [&](const ReportField& field) {
    report::Claim claim{field.integer("claim"), field.shown("task"), field.text("text"), field.shown("detail"), {}};
    if (const Json* holds = field.find("holds"); holds && !holds->is_null()) claim.holds = field.truth("holds");
    data.claims.push_back(std::move(claim));
  });
  file.each("data", [&](const ReportField& field) {
    data.data.push_back({field.shown("task"), field.shown("options"), field.shown("seed"), field.shown("part"),
                         field.shown("hash"), field.shown("samples")});
  });
}

/// The lines that are whole; one without its end of line is still being written.
inline void read_metrics(ReportData& data, std::string_view text, const std::string& path) {
  int number = 0;
  for (std::size_t begin = 0, end; (end = text.find('\n', begin)) != text.npos; begin = end + 1) {
    ++number;
    if (text.substr(begin, end - begin).find_first_not_of(" \t\r") == text.npos) continue;
    const Json line = parse_json(text.substr(begin, end - begin), message(path, ":", number));
    const ReportField field(line, message(path, ":", number));
    const std::string name = field.text("stage");
    auto stage = std::find_if(data.stages.begin(), data.stages.end(), [&](const auto& known) { return known.name == name; });
    if (stage == data.stages.end()) {
      data.stages.push_back({name, {}});
      stage = std::prev(data.stages.end());
    }
    const auto optional = [&](std::string_view key) {
      const Json* value = field.find(key);
      return value && !value->is_null() ? field.number(key) : std::numeric_limits<double>::quiet_NaN();
    };
    stage->points.push_back({field.number("step"),
                             {optional("loss"), optional("value_loss"), optional("structure_loss"), optional("answer_loss")}});
    stage->accuracy = optional("accuracy");
  }
}

}  // namespace detail

/// Reads the results of the run in `directory`.
inline ReportData read_report_data(const std::string& directory) {
  ReportData data;
  const auto path = [&](std::string_view name) { return message(directory, "/", name); };
  const auto with = [&](std::string_view name, auto&& read) {
    if (!exists(path(name))) return;
    const Json json = parse_json(read_file(path(name)), path(name));
    read(detail::ReportField(json, path(name)));
  };

  require(exists(path("results.json")), directory, " holds no results: there is no results.json; finish the run, or give another folder");
  with("results.json", [&](const detail::ReportField& file) {
    if (const Json* config = file.find("config"); config && config->is_object()) data.config = *config;
    require(file["rows"].json().is_array(), file.where(), ": rows must be an array");
    file.each("rows", [&](const detail::ReportField& row) {
      data.rows.push_back({row.text("model"), row.text("task"), row.integer("length"), row.number("samples"),
                           row.share("answer_accuracy"), row.share("chain_accuracy"), row.share("token_accuracy")});
    });
  });
  with("config.json", [&](const detail::ReportField& file) {
    file.json().as_object(file.where());
    data.config = file.json();
  });
  with("diagnostics.json", [&](const detail::ReportField& file) { detail::read_diagnostics(data, file); });
  if (exists(path("metrics.jsonl"))) detail::read_metrics(data, read_file(path("metrics.jsonl")), path("metrics.jsonl"));
  with("machine.json", [&](const detail::ReportField& file) {
    for (const auto& [key, value] : file.json().as_object(file.where())) {
      if (key != "seconds") {
        data.machine.facts.emplace_back(key, file.shown(key));
        continue;
      }
      const detail::ReportField seconds = file[key];
      for (const auto& stage : value.as_object(seconds.where()))
        data.machine.seconds.emplace_back(stage.key, seconds.number(stage.key));
    }
  });
  return data;
}

}  // namespace relay
