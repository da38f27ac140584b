// The jobs of bench/jobs.cpp (CPU) and bench/gpu_jobs.cpp: settings, problems, what they cost, and how they are run on a backend B.
//
// "samples", "tokens" (new ones) or "problems" a second; "flops": multiplications and additions of the linear layers'
// products and of attention's own, each as often as the model's definition has it: backward twice, nothing made again; without
// embeddings, heads, and products of positions that do not see each other. What relay leaves out (layer/needed_rows.hpp) or looks up
// (layer/lookup.hpp) counts, too: rates are those of the same work, whoever does it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "models.hpp"

namespace bench {

using namespace relay;

// A GPU goes on by itself: a job is done when all is done that was asked of it.
#ifdef __CUDACC__
inline constexpr bool on_gpu = true;
inline void finish() { cuda::synchronise("finish a job"); }
#else
inline constexpr bool on_gpu = false;
inline void finish() {}
#endif

/// A model, and what it is trained on.
struct Setting {
  std::string name;
  TransformerConfig model;
  LoopConfig loop;
  AlignmentLoss loss;
  Mixture tasks;
  std::vector<Lengths> lengths;    // of each task, drawn as P ~ length
  int looped_batch, causal_batch;  // of training
  int lanes;                       // of training: two where more of them would have too few rows to be worth it
  int slices = 1;                  // of training: so many that the traces of one stay in the cache, if they can
  int new_tokens;                  // written after each prompt in generation
  int lengths_of_mixture = 8;      // of each task

  int vocabulary() const { return tasks.vocabulary().size(); }
};

enum class Work { looped_training, causal_training, generation, looped_inference };

/// `equal`: the first task's longest problems, all of one number of columns: nothing is ragged, so another library need not pad.
/// `mixture`: tasks and lengths, and with them iterations, as in training.
enum class Draw { equal, mixture };

struct Job {
  const Setting* setting;
  std::string name;
  Work work;
  Draw draw;
  int batch;

  /// A mixture is a cycle of batches, and one repetition of the job is the whole cycle: every repetition is the same work.
  int batches() const { return draw == Draw::mixture ? setting->tasks.size() * setting->lengths_of_mixture : 1; }
  bool looped() const { return work == Work::looped_training || work == Work::looped_inference; }
};

/// How a job is run.
struct How {
  int threads = 1, slices = 1;
  int steps = 0;  // of training: no more than so many of a repetition; 0: all
};

/// Problems of the greatest length with the number of columns that is the median among them.
inline std::vector<Example> equal_problems(const Setting& s, int count) {
  const auto draw_one = [&](int i) {
    Random random(Key(7).fold(static_cast<std::uint64_t>(i)));
    return s.tasks.generate(0, s.lengths.front().longest, random);
  };
  constexpr int looked_at = 1001;
  std::vector<int> columns;
  for (int i = 0; i < looked_at; ++i) columns.push_back(draw_one(i).columns());
  std::nth_element(columns.begin(), columns.begin() + looked_at / 2, columns.end());
  const int median = columns[looked_at / 2];
  std::vector<Example> problems;
  for (int i = 0; static_cast<int>(problems.size()) < count; ++i)
    if (Example e = draw_one(i); e.columns() == median) problems.push_back(std::move(e));
  return problems;
}

/// As many pairs of task and length as batches, the lengths at the quantiles of P ~ length, and of each as many problems as a batch has.
/// The batches are dealt from all of them, so each has every pair; a library that needs one length in a batch can deal them so.
inline std::vector<Example> mixture(const Setting& s, int batch) {
  std::vector<Example> problems;
  std::uint64_t key = 0;
  for (int task = 0; task < s.tasks.size(); ++task) {
    const auto [shortest, longest, power, known] = s.lengths[static_cast<std::size_t>(task)];
    const auto up_to = [shortest = shortest](int length) { return (length * (length + 1) - shortest * (shortest - 1)) / 2; };
    for (int i = 0; i < s.lengths_of_mixture; ++i) {
      int length = shortest;
      while (up_to(length) < up_to(longest) * (i + 0.5) / s.lengths_of_mixture) ++length;
      for (Example& e : s.tasks.examples(task, length, batch, Key(7).fold(key), Split::train)) problems.push_back(std::move(e));
      ++key;
    }
  }
  return problems;
}

/// All problems of one repetition.
inline std::vector<Example> problems_of(const Job& job) {
  return job.draw == Draw::equal ? equal_problems(*job.setting, job.batch) : mixture(*job.setting, job.batch);
}

/// What one repetition computes.
struct Cost {
  double units = 0;   // samples, new tokens or problems
  double tokens = 0;  // that went through all layers: an iteration's columns, a causal model's positions
  double flops = 0;
};

inline const char* unit(const Job& job) {
  return job.work == Work::generation ? "tokens" : job.work == Work::looped_inference ? "problems" : "samples";
}

/// One forward pass of `tokens` tokens of one sequence.
inline double forward_flops(const TransformerConfig& c, Mask mask, double tokens) {
  const double hidden = c.hidden > 0 ? c.hidden : 4 * c.width;
  const double linear = tokens * (4.0 * c.width * c.width + 2 * c.width * hidden);
  double pairs = 0;  // of positions that see each other, over all heads
  const Heads heads{c.heads, mask, c.directional_heads};
  for (int h = 0; h < heads.count; ++h) pairs += heads(h) == Mask::none ? tokens * tokens : tokens * (tokens + 1) / 2;
  return 2 * c.layers * (linear + 2 * pairs * c.width / c.heads);
}

inline Cost cost_of(const Job& job, const std::vector<Example>& problems) {
  Cost cost;
  const Setting& s = *job.setting;
  for (const Example& e : problems) {
    const auto columns = static_cast<double>(e.columns());
    switch (job.work) {
      case Work::looped_training:
      case Work::looped_inference:
        cost.units += 1;
        cost.tokens += e.iterations * columns;
        cost.flops += e.iterations * forward_flops(s.model, Mask::none, columns);
        break;
      case Work::causal_training: {
        const double tokens = columns + static_cast<double>(s.tasks.text_size(e)) - 1;  // <eos> is not read
        cost.units += 1;
        cost.tokens += tokens;
        cost.flops += forward_flops(s.model, Mask::causal, tokens);
        break;
      }
      case Work::generation: {
        const double tokens = columns + s.new_tokens - 1;  // nor is the last token
        cost.units += s.new_tokens;
        cost.tokens += tokens;
        cost.flops += forward_flops(s.model, Mask::causal, tokens);
      }
    }
  }
  if (job.work == Work::looped_training || job.work == Work::causal_training) cost.flops *= 3;
  return cost;
}

template <class B>
LoopedTransformer<B> looped_model(const Setting& s) {
  return {s.model, s.loop, s.vocabulary(), Seed{1}};
}
template <class B>
CausalTransformer<B> causal_model(const Setting& s) {
  return {s.model, s.vocabulary(), Seed{1}};
}

// Each of these makes all that the job needs, calls use(once), where once() is one repetition, and is done when that returns.

template <class Model>
void train(Model model, const auto& objective, const Job& job, const std::vector<Example>& problems, Threads& threads, const How& how,
           auto&& use) {
  std::vector<std::vector<Example>> batches(static_cast<std::size_t>(job.batches()));
  for (std::size_t i = 0; i < problems.size(); ++i) batches[i % batches.size()].push_back(problems[i]);
  if (how.steps > 0 && how.steps < job.batches()) batches.resize(static_cast<std::size_t>(how.steps));
  Trainer trainer(model, objective, {.rate = 1e-4}, {.steps = 1 << 30}, Seed{1}, threads, job.setting->lanes, how.slices);
  const auto once = [&] {
    for (std::size_t i = 0; i < batches.size(); ++i)  // as Trainer::fit: the next batch is made ready meanwhile
      trainer.step(batches[i], [&] { return std::span<const Example>(batches[(i + 1) % batches.size()]); });
    finish();
  };
  if (on_gpu)
    once();  // every shape has been there: products are planned, memory is there
  else
    trainer.step(batches.back());
  use(once);
}

/// The prompts are cut over the threads; a single prompt has all threads to itself.
template <class B>
void write(const Job& job, const std::vector<Example>& problems, Threads& threads, auto&& use) {
  auto model = causal_model<B>(*job.setting);
  prepare(model);
  std::vector<Tokens> prompts;
  for (const Example& e : problems) prompts.push_back(e.problem);
  const int parts = std::min(job.batch, threads.count());
  std::vector<typename B::Memory> memory(static_cast<std::size_t>(parts));
  const int new_tokens = job.setting->new_tokens;
  const auto part_of = [&](auto&& f) {  // f(its prompts, its device) on each thread
    threads.run(parts, [&](int part) {
      const auto begin = static_cast<std::size_t>(job.batch * part / parts), end = static_cast<std::size_t>(job.batch * (part + 1) / parts);
      f(std::span<const Tokens>(prompts).subspan(begin, end - begin),
        typename B::Device{&memory[static_cast<std::size_t>(part)], parts == 1 ? &threads : nullptr});
    });
  };
  const auto once = [&] {
    part_of([&](auto own, auto device) {
      benchmark::DoNotOptimize(generate(model, own, {.new_tokens = new_tokens, .stop = -1}, device));
    });
    finish();
  };
  if (on_gpu)
    once();
  else
    part_of([&](auto own, auto device) {  // the cache's memory is asked for once, and not in the time measured
      KvCache<B>(model, static_cast<int>(own.size()), static_cast<int>(own.front().size()) + new_tokens, device);
    });
  use(once);
}

template <class B>
void solve(const Job& job, const std::vector<Example>& problems, Threads& threads, auto&& use) {
  auto model = looped_model<B>(*job.setting);
  prepare(model);
  const Mixture::Placement placement = job.setting->tasks.placement();
  const auto once = [&] {
    benchmark::DoNotOptimize(solve_looped(model, std::span<const Example>(problems), threads, placement));
    finish();
  };
  once();
  use(once);
}

template <class B>
void with(const Job& job, const std::vector<Example>& problems, const How& how, auto&& use) {
  const Setting& s = *job.setting;
  Threads threads(how.threads);
  switch (job.work) {
    case Work::looped_training: {
      const auto model = looped_model<B>(s);
      const auto objective = loop_objective(model, Aligned{}, s.loss, s.tasks.placement());
      return train(model, objective, job, problems, threads, how, use);
    }
    case Work::causal_training:
      return train(causal_model<B>(s), NextToken<CausalTransformer<B>, Mixture>(s.tasks), job, problems, threads, how, use);
    case Work::generation:
      return write<B>(job, problems, threads, use);
    case Work::looped_inference:
      return solve<B>(job, problems, threads, use);
  }
}

template <class B>
void run(benchmark::State& state, const Job& job, const How& how) {
  const std::vector<Example> problems = problems_of(job);
  with<B>(job, problems, how, [&](auto&& once) {
    for (auto _ : state) once();
  });
  const Cost cost = cost_of(job, problems);
  rate(state, unit(job), cost.units);
  rate(state, "flops", cost.flops);
}

// --- jobs --describe ---

inline constexpr const char* work_names[] = {"looped_training", "causal_training", "generation", "looped_inference"};

inline Json description(const TransformerConfig& c, int vocabulary) {
  return Json::object()
      .set("width", c.width)
      .set("layers", c.layers)
      .set("heads", c.heads)
      .set("hidden", c.hidden > 0 ? c.hidden : 4 * c.width)
      .set("dropout", c.dropout)
      .set("rotary_base", c.rotary_base)
      .set("directional_heads", c.directional_heads)
      .set("positions", c.positions)
      .set("vocabulary", vocabulary);
}

/// What it takes to do the same work elsewhere: the models, and each job's problems.
inline Json description(const Job& job) {
  const Setting& s = *job.setting;
  const std::vector<Example> problems = problems_of(job);
  const Cost cost = cost_of(job, problems);
  Json examples = Json::array();
  for (const Example& e : problems) {
    Json round_list = Json::array();
    for (const Tokens& round : e.rounds) round_list.push(Json::array(round));
    Json example = Json::object().set("problem", Json::array(e.problem)).set("rounds", round_list).set("answer", e.answer);
    if (job.work == Work::causal_training) example.set("text", Json::array(s.tasks.text(e)));
    examples.push(example);
  }
  using Nowhere = Shapes<float>;  // sizes of a model, on any machine
  return Json::object()
      .set("name", job.name)
      .set("work", work_names[static_cast<int>(job.work)])
      .set("unit", unit(job))
      .set("batch", job.batch)
      .set("batches", job.batches())
      .set("lanes", s.lanes)
      .set("slices", s.slices)
      .set("new_tokens", job.work == Work::generation ? s.new_tokens : 0)
      .set("model", description(s.model, s.vocabulary()))
      .set("normalise", s.loop.normalise)
      .set("answer_weight", s.loss.answer_weight)
      .set("over_round", s.loss.over_round == Normalisation::sum ? "sum" : "mean")
      .set("parameters", job.looped() ? count_parameters(looped_model<Nowhere>(s)) : count_parameters(causal_model<Nowhere>(s)))
      .set("units", cost.units)
      .set("tokens", cost.tokens)
      .set("flops", cost.flops)
      .set("problems", examples);
}

inline Json descriptions(const std::vector<Job>& jobs) {
  Json described = Json::array();
  for (const Job& job : jobs) described.push(description(job));
  return described;
}

}  // namespace bench
