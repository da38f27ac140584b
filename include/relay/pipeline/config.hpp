// Everything a run of the pipeline depends on, by name: what --set changes, what config.json and results.json hold.
//
// `each` names every key once, in the order a person reads them. The number of threads is not among them: it changes nothing.
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <relay/core/json.hpp>
#include <relay/core/spelling.hpp>
#include <relay/layer/looped.hpp>
#include <relay/layer/transformer_block.hpp>
#include <relay/task/arithmetic.hpp>
#include <relay/train/adamw.hpp>
#include <relay/train/data.hpp>
#include <relay/train/supervision.hpp>

namespace relay {

/// One training: how many steps at what peak learning rate.
struct StageConfig {
  int steps = 1000;
  double rate = 1e-3;
};

/// What the products of linear layers are computed in; everything else is float32 (backend/cpu.hpp).
enum class Precision { float32, bf16 };

/// The defaults are the demo: five numbers, chains of up to six steps, minutes on two cores.
struct PipelineConfig {
  std::int64_t seed = 1;
  int modulus = 5;
  Lengths lengths{.shortest = 1, .longest = 6, .power = 2};  // trained
  int test_longest = 0;                                        // 0: four more than trained
  int extra_columns = 8;  // a looped model's rows in training are up to so many columns wider than their problems
  int split_from = 3;  // lengths below have too few problems to keep any for testing alone
  TransformerConfig model{.width = 64,
                          .layers = 3,
                          .heads = 4,
                          .rotary_base = 100,
                          .directional_heads = 2,  // of the looped models; a causal one has none
                          .distance_bias = 4,
                          .positions = 1024};
  LoopConfig loop{.normalise = true};
  bool recompute = false;
  AlignmentLoss loss{.lambda = 1, .answer_weight = 0.1, .over_round = Normalisation::sum};
  AdamWConfig adamw{.decay = 0.3};
  double warm_up = 0.03, final = 0.02;
  int batch = 32, lanes = 4;
  StageConfig aligned{10000, 4e-3}, vanilla{1000, 4e-3}, ar{2500, 3e-3}, tuned{1400, 1.5e-3};
  int chains = 2500;        // written for each longer length
  double share = 0.6;       // of them in a batch of the fine-tuning; the rest is the trained range
  int samples = 500;        // test problems of each length
  int checkpoint_every = 500;
  int memory_limit = 0;     // of one training, in MiB; 0: none
  Precision precision = Precision::float32;

  static void each(auto&& visit, auto& c) {
    visit("seed", c.seed);
    visit("task.modulus", c.modulus);
    visit("lengths.shortest", c.lengths.shortest);
    visit("lengths.longest", c.lengths.longest);
    visit("lengths.power", c.lengths.power);
    visit("lengths.test_longest", c.test_longest);
    visit("lengths.split_from", c.split_from);
    visit("lengths.extra_columns", c.extra_columns);
    visit("model.width", c.model.width);
    visit("model.layers", c.model.layers);
    visit("model.heads", c.model.heads);
    visit("model.hidden", c.model.hidden);
    visit("model.dropout", c.model.dropout);
    visit("model.rotary_base", c.model.rotary_base);
    visit("model.heads_without_rotary", c.model.heads_without_rotary);
    visit("model.directional_heads", c.model.directional_heads);
    visit("model.query_key_bias", c.model.query_key_bias);
    visit("model.distance_bias", c.model.distance_bias);
    visit("model.positions", c.model.positions);
    visit("loop.inject", c.loop.inject);
    visit("loop.signal", c.loop.signal);
    visit("loop.normalise", c.loop.normalise);
    visit("loop.window", c.loop.window);
    visit("loop.recompute", c.recompute);
    visit("loss.lambda", c.loss.lambda);
    visit("loss.answer_weight", c.loss.answer_weight);
    visit("loss.over_round", c.loss.over_round);
    visit("adamw.beta1", c.adamw.beta1);
    visit("adamw.beta2", c.adamw.beta2);
    visit("adamw.decay", c.adamw.decay);
    visit("adamw.clip", c.adamw.clip);
    visit("schedule.warm_up", c.warm_up);
    visit("schedule.final", c.final);
    visit("batch", c.batch);
    visit("lanes", c.lanes);
    visit("looped_aligned.steps", c.aligned.steps);
    visit("looped_aligned.rate", c.aligned.rate);
    visit("looped_vanilla.steps", c.vanilla.steps);
    visit("looped_vanilla.rate", c.vanilla.rate);
    visit("ar.steps", c.ar.steps);
    visit("ar.rate", c.ar.rate);
    visit("ar_relay.steps", c.tuned.steps);
    visit("ar_relay.rate", c.tuned.rate);
    visit("ar_relay.chains", c.chains);
    visit("ar_relay.share", c.share);
    visit("evaluate.samples", c.samples);
    visit("checkpoint_every", c.checkpoint_every);
    visit("memory_limit", c.memory_limit);
    visit("precision", c.precision);
  }

  int longest_test() const { return test_longest > 0 ? test_longest : lengths.longest + 4; }
  LinearSchedule schedule(const StageConfig& stage) const {
    return {.steps = stage.steps, .warm_up = warm_up, .final = final};
  }
  /// Of one training, in bytes.
  std::optional<std::size_t> limit() const {
    return memory_limit > 0 ? std::optional(static_cast<std::size_t>(memory_limit) << 20) : std::nullopt;
  }
  AdamWConfig optimiser(const StageConfig& stage) const {
    AdamWConfig config = adamw;
    config.rate = stage.rate;
    return config;
  }

  /// Throws, naming the key, where a value makes no sense.
  void check() const;
};

namespace detail {

template <class T>
void read_value(std::string_view key, std::string_view text, T& value) {
  if constexpr (std::same_as<T, bool>) {
    require(text == "true" || text == "false", key, " must be true or false, not '", text, "'");
    value = text == "true";
  } else if constexpr (std::same_as<T, Normalisation>) {
    require(text == "mean" || text == "sum", key, " must be mean or sum, not '", text, "'");
    value = text == "mean" ? Normalisation::mean : Normalisation::sum;
  } else if constexpr (std::same_as<T, Precision>) {
    require(text == "float32" || text == "bf16", key, " must be float32 or bf16, not '", text, "'");
    value = text == "float32" ? Precision::float32 : Precision::bf16;
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
  if constexpr (std::same_as<T, Normalisation>)
    return Json(value == Normalisation::mean ? "mean" : "sum");
  else if constexpr (std::same_as<T, Precision>)
    return Json(value == Precision::float32 ? "float32" : "bf16");
  else
    return Json(value);
}

}  // namespace detail

/// Sets one key; an unknown one throws, suggesting the nearest.
inline void set(PipelineConfig& config, std::string_view key, std::string_view value) {
  bool found = false;
  int nearest = 1 << 20;
  std::string suggestion;
  PipelineConfig::each(
      [&](std::string_view name, auto& field) {
        if (name == key) {
          detail::read_value(key, value, field);
          found = true;
        }
        const int distance = detail::edit_distance(name, key);
        if (distance < nearest) nearest = distance, suggestion = name;
      },
      config);
  require(found, "unknown key '", key, "': did you mean '", suggestion, "'?");
}

/// "key=value".
inline void set(PipelineConfig& config, std::string_view assignment) {
  const std::size_t equals = assignment.find('=');
  require(equals != assignment.npos, "'", assignment, "' is not a setting: write key=value");
  set(config, assignment.substr(0, equals), assignment.substr(equals + 1));
}

inline Json to_json(const PipelineConfig& config) {
  Json json = Json::object();
  PipelineConfig::each([&](std::string_view name, const auto& field) { json.set(name, detail::to_json(field)); }, config);
  return json;
}

/// From config.json; every key must be there, and no other.
inline PipelineConfig config_from_json(const Json& json, std::string_view where) {
  PipelineConfig config;
  for (const auto& member : json.as_object(where)) {
    const std::string text = member.value.is_string() ? member.value.as_string() : member.value.dump();
    try {
      set(config, member.key, text);
    } catch (const Error& error) {
      fail(where, ": ", error.what());
    }
  }
  PipelineConfig::each(
      [&](std::string_view name, auto&) {
        require(json.find(name) != nullptr, where, ": there is no \"", name,
                "\": the file is damaged, or of another version of relay, which this one cannot go on from: make a new run");
      },
      config);
  return config;
}

inline void PipelineConfig::check() const {
  Arithmetic{.modulus = modulus}.check();
  const auto show = [](double v) {  // whole numbers in full
    return v == std::floor(v) && std::abs(v) < 1e15 ? message(static_cast<std::int64_t>(v)) : message(v);
  };
  const auto in = [&](std::string_view key, double value, double low, double high) {
    require(value >= low && value <= high, key, " is ", show(value), ", but must be ", show(low), " .. ", show(high));
  };
  constexpr std::int64_t most = std::int64_t{1} << 53;  // beyond it config.json could not tell two seeds apart
  require(-most < seed && seed < most, "seed is ", seed, ", but must be ", 1 - most, " .. ", most - 1);
  in("lengths.longest", lengths.longest, 1, 200);
  in("lengths.shortest", lengths.shortest, 1, lengths.longest);
  in("lengths.power", lengths.power, -10, 10);
  if (test_longest != 0) in("lengths.test_longest", test_longest, lengths.longest, 200);
  in("lengths.split_from", split_from, 1, 1000);
  in("lengths.extra_columns", extra_columns, 0, 1000);
  in("model.width", model.width, 2, 16384);
  in("model.layers", model.layers, 1, 1000);
  in("model.heads", model.heads, 1, model.width);
  require(model.width % (2 * model.heads) == 0, "model.width is ", model.width, ", but must be a multiple of twice model.heads (",
          model.heads, "): rotary positions turn pairs");
  in("model.hidden", model.hidden, 0, 1 << 17);
  in("model.dropout", model.dropout, 0, 0.99);
  in("model.rotary_base", model.rotary_base, 1.001, 1e9);
  in("model.heads_without_rotary", model.heads_without_rotary, 0, model.heads);
  in("model.directional_heads", model.directional_heads, 0, model.heads - model.heads_without_rotary);
  in("model.query_key_bias", model.query_key_bias, 0, 100);
  in("model.distance_bias", model.distance_bias, 0, 100);
  in("model.positions", model.positions, 8, 1 << 20);
  const int longest = longest_test(), tokens = 2 * longest * (longest + 1) + 1;
  require(tokens <= model.positions, "model.positions is ", model.positions, ", but a chain of ", longest,
          " operators may have ", tokens, " tokens: set model.positions=", tokens, " or more, or shorter lengths");
  const int row = 4 * lengths.longest + extra_columns;
  require(row <= model.positions, "model.positions is ", model.positions, ", but rows of the looped model may have ", row,
          " columns in training: set model.positions=", row, " or more, or a smaller lengths.extra_columns");
  in("loop.window", loop.window, 0, 1000);
  in("loss.lambda", loss.lambda, 0, 1e6);
  in("loss.answer_weight", loss.answer_weight, 0, 1e6);
  in("adamw.beta1", adamw.beta1, 0, 0.99999);
  in("adamw.beta2", adamw.beta2, 0, 0.99999);
  in("adamw.decay", adamw.decay, 0, 10);
  in("adamw.clip", adamw.clip, 0, 1e6);
  in("schedule.warm_up", warm_up, 0, 1);
  in("schedule.final", final, 0, 1);
  in("batch", batch, 1, 1 << 20);
  in("lanes", lanes, 1, 1024);
  const auto stage = [&](const std::string& name, const StageConfig& s) {
    in(name + ".steps", s.steps, 1, 1e9);
    in(name + ".rate", s.rate, 1e-12, 10);
  };
  stage("looped_aligned", aligned);
  stage("looped_vanilla", vanilla);
  stage("ar", ar);
  stage("ar_relay", tuned);
  in("ar_relay.chains", chains, 1, 1e7);
  in("ar_relay.share", share, 0, 1);
  in("evaluate.samples", samples, 1, 1e7);
  in("checkpoint_every", checkpoint_every, 1, 1e9);
  in("memory_limit", memory_limit, 0, 1e9);
}

/// The configuration of a preset.
inline PipelineConfig preset(std::string_view name) {
  require(name == "demo", "unknown preset '", name, "': there is 'demo'");
  return {};
}

}  // namespace relay
