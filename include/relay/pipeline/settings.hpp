// A configuration as text: the settings of --set and of presets, and config.json.
//
//   --set model.width=32 ar.weights=1,5,4          key=value, a list's values with commas between them
//   presets/small.preset                           lines of `key = value`, # begins a comment
//   config.json, results.json                      {"model.width":32,"ar.weights":[1,5,4], ...}
//
// The keys are those that PipelineConfig::each names. An unknown one is an error that suggests the nearest; so is a key of a task that is not
// trained.
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <concepts>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <relay/core/json.hpp>
#include <relay/core/spelling.hpp>
#include <relay/pipeline/config.hpp>

namespace relay {

namespace detail {

inline std::string_view trimmed(std::string_view text) {
  const std::size_t first = text.find_first_not_of(" \t\r"), last = text.find_last_not_of(" \t\r");
  return first == text.npos ? std::string_view() : text.substr(first, last - first + 1);
}

/// How the values of an enumeration are spelled, in their order.
template <class E>
constexpr std::vector<std::string_view> spellings() {
  if constexpr (std::same_as<E, Normalisation>)
    return {"mean", "sum"};
  else if constexpr (std::same_as<E, Precision>)
    return {"float32", "bf16"};
  else if constexpr (std::same_as<E, AnswerFrom>)
    return {"head", "rounds"};
  else if constexpr (std::same_as<E, Splitting>)
    return {"whitespace", "characters"};
  else if constexpr (std::same_as<E, EditDistance::Rows>)
    return {"values", "differences"};
  else
    return {"flush_right", "in_place"};
}

template <class T>
inline constexpr bool is_list_of_values = false;
template <class T>
inline constexpr bool is_list_of_values<std::vector<T>> = true;

template <class T>
void read_value(std::string_view key, std::string_view text, T& value) {
  if constexpr (is_list_of_values<T>) {
    T list;
    for (std::string_view rest = text; !rest.empty();) {
      const std::size_t comma = rest.find(',');
      list.emplace_back();
      read_value(key, trimmed(rest.substr(0, comma)), list.back());
      rest = comma == rest.npos ? "" : rest.substr(comma + 1);
      require(comma == rest.npos || !rest.empty(), key, " ends in a comma: '", text, "'");
    }
    value = std::move(list);
  } else if constexpr (std::same_as<T, std::string>) {
    value = text;
  } else if constexpr (std::same_as<T, bool>) {
    require(text == "true" || text == "false", key, " must be true or false, not '", text, "'");
    value = text == "true";
  } else if constexpr (std::is_enum_v<T>) {
    const auto names = spellings<T>();
    const auto found = std::find(names.begin(), names.end(), text);
    std::string all;
    for (const std::string_view name : names) all += (all.empty() ? "" : " or ") + std::string(name);
    require(found != names.end(), key, " must be ", all, ", not '", text, "'");
    value = static_cast<T>(found - names.begin());
  } else {
    T parsed{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), parsed);
    require(error == std::errc() && end == text.data() + text.size(), key, " must be ",
            std::integral<T> ? "a whole number" : "a number", " in range, not '", text, "'");
    if constexpr (std::floating_point<T>) require(std::isfinite(parsed), key, " must be a finite number, not '", text, "'");
    value = parsed;
  }
}

template <class T>
Json to_json(const T& value) {
  if constexpr (std::is_enum_v<T>)
    return Json(spellings<T>()[static_cast<std::size_t>(value)]);
  else if constexpr (is_list_of_values<T>)
    return Json::array(value);
  else
    return Json(value);
}

/// "lengths.longest" and "task.modulus", where there is one task, are its own.
inline std::string full_key(const PipelineConfig& config, std::string_view key) {
  const std::size_t dot = key.find('.');
  const bool its_own = (key.starts_with("lengths.") && key != "lengths.extra_columns") || key.starts_with("task.");
  return its_own && config.tasks.size() == 1 ? message(config.tasks.front(), key.substr(dot)) : std::string(key);
}

/// Does the key belong to a task that is not among the configuration's?
inline bool of_another_task(const PipelineConfig& config, std::string_view key) {
  for (const std::string_view name : {Arithmetic::name, EditDistance::name, LongestIncreasingSubsequence::name, OwnDataConfig::name})
    if (key.starts_with(message(name, ".")))
      return std::find(config.tasks.begin(), config.tasks.end(), name) == config.tasks.end();
  return false;
}

/// How far a name is from an unknown key, of which `wanted` is the full one: all of it, or what is behind the dot. Of names equally near,
/// those of other tasks come last.
inline int distance(const PipelineConfig& config, std::string_view name, std::string_view key, std::string_view wanted) {
  const auto behind_dot = [](std::string_view k) { return k.substr(k.find('.') + 1); };
  const int behind = name.find('.') == name.npos ? 1 << 20 : 1 + edit_distance(behind_dot(name), behind_dot(key));
  return 2 * std::min({edit_distance(name, key), edit_distance(name, wanted), behind}) + (of_another_task(config, name) ? 1 : 0);
}

}  // namespace detail

/// Sets one key; an unknown one throws, suggesting the nearest.
inline void set(PipelineConfig& config, std::string_view key, std::string_view value) {
  const std::string wanted = detail::full_key(config, key);
  bool found = false;
  PipelineConfig::each(
      [&](std::string_view name, auto& field) {
        if (name != wanted) return;
        detail::read_value(key, value, field);
        found = true;
      },
      config);
  if (found) return;
  int nearest = 1 << 20;
  std::string suggestion;
  PipelineConfig::each(
      [&](std::string_view name, auto&) {
        const int distance = detail::distance(config, name, key, wanted);
        if (distance < nearest) nearest = distance, suggestion = name;
      },
      config);
  fail("unknown key '", key, "': did you mean '", suggestion, "'?");
}

/// "key=value".
inline void set(PipelineConfig& config, std::string_view assignment) {
  const std::size_t equals = assignment.find('=');
  require(equals != assignment.npos, "'", assignment, "' is not a setting: write key=value");
  set(config, assignment.substr(0, equals), assignment.substr(equals + 1));
}

/// A setting, and where it stands, which begins every error about it; may be empty.
struct Setting {
  std::string where, key, value;
};

/// Sets them in their order, but `tasks` first: it decides whose keys the others are. A key of a task that is not among them is an error.
inline void set_all(PipelineConfig& config, const std::vector<Setting>& settings) {
  const auto each_setting = [&](auto&& f) {
    for (const Setting& s : settings) {
      try {
        f(s);
      } catch (const Error& error) {
        fail(s.where, s.where.empty() ? "" : ": ", error.what());
      }
    }
  };
  each_setting([&](const Setting& s) {
    if (s.key == "tasks") set(config, s.key, s.value);
  });
  each_setting([&](const Setting& s) {
    if (s.key == "tasks") return;
    set(config, s.key, s.value);
    if (!detail::of_another_task(config, detail::full_key(config, s.key))) return;
    std::string names;
    for (const std::string& name : config.tasks) names += (names.empty() ? "" : ",") + name;
    fail(s.key, " is of a task that is not trained, tasks=", names, ": leave it out, or add the task");
  });
}

/// "key=value" each.
inline void set_all(PipelineConfig& config, const std::vector<std::string>& assignments) {
  std::vector<Setting> settings;
  for (const std::string& assignment : assignments) {
    const std::size_t equals = assignment.find('=');
    require(equals != assignment.npos, "'", assignment, "' is not a setting: write key=value");
    settings.push_back({"", assignment.substr(0, equals), assignment.substr(equals + 1)});
  }
  set_all(config, settings);
}

/// A preset: lines of `key = value`, applied to the defaults; `#` begins a comment. `where`, a file's name, begins every error.
inline PipelineConfig read_preset(std::string_view text, std::string_view where) {
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);  // a byte order mark, as some editors write
  std::vector<Setting> settings;
  int number = 0;
  for (std::string_view rest = text; !rest.empty();) {
    const std::size_t end = rest.find('\n');
    std::string_view line = rest.substr(0, end);
    rest = end == rest.npos ? "" : rest.substr(end + 1);
    ++number;
    line = detail::trimmed(line.substr(0, line.find('#')));
    if (line.empty()) continue;
    const std::size_t equals = line.find('=');
    require(equals != line.npos, where, ":", number, ": '", line, "' is not a setting: write key = value");
    settings.push_back({message(where, ":", number), std::string(detail::trimmed(line.substr(0, equals))),
                        std::string(detail::trimmed(line.substr(equals + 1)))});
  }
  PipelineConfig config;
  set_all(config, settings);
  std::vector<std::string> seen;
  for (const Setting& s : settings) {
    const std::string full = detail::full_key(config, s.key);
    require(std::find(seen.begin(), seen.end(), full) == seen.end(), s.where, ": ", s.key, " is set twice: remove one of them");
    seen.push_back(full);
  }
  return config;
}

/// What the run depends on: the keys of other tasks are left out.
inline Json to_json(const PipelineConfig& config) {
  Json json = Json::object();
  PipelineConfig::each(
      [&](std::string_view name, const auto& field) {
        if (!detail::of_another_task(config, name)) json.set(name, detail::to_json(field));
      },
      config);
  return json;
}

/// From config.json; every key must be there, and no other.
inline PipelineConfig config_from_json(const Json& json, std::string_view where) {
  PipelineConfig config;
  for (const auto& member : json.as_object(where)) {
    std::string text = member.value.is_string() ? member.value.as_string() : member.value.dump();
    bool list = false;
    PipelineConfig::each(
        [&](std::string_view name, auto& field) {
          list = list || (name == member.key && detail::is_list_of_values<std::remove_reference_t<decltype(field)>>);
        },
        config);
    if (list && member.value.is_array()) {
      text.clear();
      for (const Json& item : member.value.as_array())
        text += (text.empty() ? "" : ",") + (item.is_string() ? item.as_string() : item.dump());
    }
    try {
      set(config, member.key, text);
    } catch (const Error& error) {
      fail(where, ": ", error.what());
    }
  }
  PipelineConfig::each(
      [&](std::string_view name, auto&) {
        require(detail::of_another_task(config, name) || json.find(name) != nullptr, where, ": there is no \"", name,
                "\": the file is damaged, or of another version of relay, which this one cannot go on from: make a new run");
      },
      config);
  return config;
}

}  // namespace relay
