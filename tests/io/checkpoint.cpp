#include <relay/io/checkpoint.hpp>

#include <csignal>
#include <cstring>
#include <map>
#include <span>
#include <string>
#include <vector>

#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <relay/backend/cpu.hpp>
#include <relay/layer/linear.hpp>
#include <relay/model/causal_transformer.hpp>
#include <relay/model/looped_transformer.hpp>
#include <relay/task/arithmetic.hpp>
#include <relay/train/next_token.hpp>
#include <relay/train/trainer.hpp>
#include <relay/train/unroll.hpp>

#include "scratch.hpp"

using namespace relay;

namespace {

using Backend = Cpu<float>;
using Model = LoopedTransformer<Backend>;

const Arithmetic task{.modulus = 3};

TransformerConfig config(int width = 8) {
  return {.width = width, .layers = 2, .heads = 2, .dropout = 0.1, .positions = 64};
}

Model looped(std::uint64_t seed, int width = 8) {
  return Model(config(width), LoopConfig{.inject = true}, task.vocabulary().size(), Seed{seed});
}

CausalTransformer<Backend> causal(std::uint64_t seed) {
  return CausalTransformer<Backend>(config(), task.vocabulary().size(), Seed{seed});
}

/// The examples of a step, a pure function of it.
std::vector<Example> examples(int step) {
  std::vector<Example> out;
  Random random(Key(Seed{5}).fold(static_cast<std::uint64_t>(step)));
  for (int i = 0; i < 6; ++i) out.push_back(task.generate(1 + random.below(3), random));
  return out;
}

/// Every bit of a model's parameters.
template <class M>
std::string bits(const M& model) {
  std::string out;
  for_each_parameter(
      [&](std::string_view, const auto& tensor) {
        const auto values = M::Backend::download(tensor);
        out.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof values[0]);
      },
      model);
  return out;
}

/// A training, and how to take its next steps.
template <class M, class Objective>
struct Training {
  M model;
  Objective objective;
  Threads threads;
  Trainer<M, Objective> trainer;

  Training(M start, Objective what, int thread_count)
      : model(std::move(start)),
        objective(std::move(what)),
        threads(thread_count),
        trainer(model, objective, AdamWConfig{.rate = 1e-2}, LinearSchedule{.steps = 8}, Seed{3}, threads, 3) {}

  void run_to(int step) {
    while (trainer.optimiser.steps < step) trainer.step(examples(trainer.optimiser.steps));
  }
  std::string state() const { return bits(model) + bits(trainer.optimiser.first) + bits(trainer.optimiser.second); }
};

const Unroll<Model> aligned(Aligned{}, {.answer_weight = 0.1});

const std::string other_model =
    ": the checkpoint is of another model or configuration: make the model as it was when it was saved";

/// The files of a folder, by name.
std::map<std::string, std::string> contents(const Folder& folder) {
  std::map<std::string, std::string> files;
  for (const std::string& name : files_in(folder.path)) files[name] = read_file(folder / name);
  return files;
}
void restore(const Folder& folder, const std::map<std::string, std::string>& files) {
  for (const std::string& name : files_in(folder.path)) remove_file(folder / name);
  for (const auto& [name, bytes] : files) put_file(folder / name, bytes);
}

/// Runs f() in a process of its own, which is killed at its `last`-th call of the system, before or after it: odd numbers are before.
/// Returns whether f() came to its end instead; nothing where processes cannot be watched here.
std::optional<bool> killed_at(int last, auto&& f) {
  const pid_t child = ::fork();
  if (child == 0) {
    if (::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) ::_exit(3);
    ::raise(SIGSTOP);
    f();
    ::_exit(0);
  }
  int status = 0, stops = 0;
  while (::waitpid(child, &status, 0) == child && WIFSTOPPED(status)) {
    if (stops++ == last) {
      ::kill(child, SIGKILL);
      continue;
    }
    ::ptrace(PTRACE_SYSCALL, child, nullptr, nullptr);
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 3) return std::nullopt;
  return WIFEXITED(status);
}

/// A model of a user's own.
struct Own {
  using Backend = Cpu<double>;
  Linear<Backend> inner;
  Backend::Tensor scale;  // [2, 1]

  explicit Own(std::uint64_t seed) : inner(3, 2, Key(seed)), scale(2, 1) {
    Backend::fill(scale, static_cast<double>(seed));
  }
  static void each(auto&& visit, auto&... own) {
    visit("inner", own.inner...);
    visit("scale", own.scale...);
  }
};

}  // namespace

TEST_CASE("a model comes back bit for bit, with what was said about it") {
  Folder folder;
  const auto check = [&](const auto& saved, auto fresh) {
    REQUIRE(bits(saved) != bits(fresh));
    save_model(folder / "f", saved, {{"task", "arithmetic"}});
    CHECK(load_model(folder / "f", fresh) == Metadata{{"task", "arithmetic"}});
    CHECK(bits(saved) == bits(fresh));
  };
  check(looped(1), looped(2));
  check(causal(1), causal(2));
  check(Own(1), Own(2));
}

TEST_CASE("parameters stand under their paths, in PyTorch's shapes") {
  Folder folder;
  const Model model = looped(1);
  save_model(folder / "f", model);
  const Safetensors file = Safetensors::read(folder / "f");
  const auto shape = [&](std::string_view name) {
    const auto* found = file.find(name);
    return found ? found->shape : Shape{-1};
  };
  const std::int64_t vocabulary = task.vocabulary().size();
  CHECK(shape("embedding.weight") == Shape{vocabulary, 8});
  CHECK(shape("loop.block.layers.0.attention.qkv.weight") == Shape{24, 8});
  CHECK(shape("loop.block.layers.1.attention.qkv.bias") == Shape{24});
  CHECK(shape("loop.norm.weight") == Shape{8});
  CHECK(shape("answer_head.bias") == Shape{vocabulary});
  std::size_t count = 0;
  for_each_parameter([&](std::string_view, const auto&) { ++count; }, model);
  CHECK(file.tensors().size() == count);
  CHECK(file.values<float>("chain_head.weight") == Backend::download(model.chain_head.weight));
  CHECK(file.metadata.empty());
}

TEST_CASE("a stopped training goes on with the same bits") {
  Folder folder;
  const auto check = [&](const auto& start, const auto& other, const auto& objective) {
    using T = Training<std::decay_t<decltype(start)>, std::decay_t<decltype(objective)>>;
    T whole(start, objective, 1);
    whole.run_to(8);
    T part(start, objective, 2);
    for (const int stop : {0, 1, 4, 7}) {
      part.run_to(stop);
      save_checkpoint(folder / "f", part.model, part.trainer.optimiser, {{"seed", "3"}, {"step", "overwritten"}});
      T resumed(other, objective, 2);
      resumed.run_to(2);  // whose moments and steps must not matter
      CHECK(load_checkpoint(folder / "f", resumed.model, resumed.trainer.optimiser) ==
            Metadata{{"seed", "3"}, {"step", std::to_string(stop)}});
      CHECK(resumed.trainer.optimiser.steps == stop);
      CHECK(resumed.state() == part.state());
      resumed.run_to(8);
      CHECK(resumed.state() == whole.state());
    }
  };
  check(looped(1), looped(2), aligned);
  check(causal(1), causal(2), NextToken<CausalTransformer<Backend>, Arithmetic>(task));
}

TEST_CASE("a checkpoint of a training is a model too") {
  Folder folder;
  Training<Model, Unroll<Model>> training(looped(1), aligned, 1);
  training.run_to(2);
  save_checkpoint(folder / "f", training.model, training.trainer.optimiser);
  Model model = looped(2);
  CHECK(load_model(folder / "f", model) == Metadata{{"step", "2"}});
  CHECK(bits(model) == bits(training.model));
}

TEST_CASE("float and double models read each other's files") {
  Folder folder;
  const Model model = looped(1);
  save_model(folder / "f", model);
  LoopedTransformer<Cpu<double>> wide(config(), LoopConfig{}, task.vocabulary().size(), Seed{2});
  load_model(folder / "f", wide);
  save_model(folder / "d", wide);
  CHECK(Safetensors::read(folder / "d").find("embedding.weight")->dtype == Dtype::f64);
  Model back = looped(3);
  load_model(folder / "d", back);
  CHECK(bits(back) == bits(model));
}

TEST_CASE("a single row may come with both sizes") {
  Folder folder;
  save_model(folder / "f", Own(1));
  Safetensors file;  // the same, its bias [1, 2]
  const Safetensors saved = Safetensors::read(folder / "f");
  for (const auto& [name, tensor] : saved.tensors())
    file.add(name, name == "inner.bias" ? Shape{1, 2} : tensor.shape, saved.values<double>(name));
  file.write(folder / "f");
  Own own(2);
  load_model(folder / "f", own);
  CHECK(bits(own) == bits(Own(1)));
}

TEST_CASE("the file of another model is refused, and nothing changes") {
  Folder folder;
  const std::string path = folder / "f";
  Model model = looped(1);
  AdamW<Model> optimiser(model, {});
  optimiser.steps = 9;
  const std::string before = bits(model), moments = bits(optimiser.first) + bits(optimiser.second);
  const std::string vocabulary = std::to_string(task.vocabulary().size());
  const auto refuses = [&](const std::string& expected) {
    CHECK(error([&] { load_model(path, model); }) == path + expected);
    CHECK(error([&] { load_checkpoint(path, model, optimiser); }) == path + expected);
    CHECK(bits(model) == before);
    CHECK(bits(optimiser.first) + bits(optimiser.second) == moments);
    CHECK(optimiser.steps == 9);
  };

  const Model wide = looped(1, 16);
  save_checkpoint(path, wide, AdamW<Model>(wide, {}));
  refuses(": tensor \"embedding.weight\" has shape [" + vocabulary + ", 16], but the model's has shape [" + vocabulary +
          ", 8]" + other_model);

  const auto other = causal(1);
  save_checkpoint(path, other, AdamW<CausalTransformer<Backend>>(other, {}));
  refuses(": there is no tensor \"loop.block.layers.0.norm1.weight\", which the model has with shape [8]" +
          other_model);

  TransformerConfig deeper = config();
  deeper.layers = 3;
  const Model deep(deeper, {}, task.vocabulary().size(), Seed{1});
  save_checkpoint(path, deep, AdamW<Model>(deep, {}));
  CHECK(contains(error([&] { load_model(path, model); }),
                 "tensor \"loop.block.layers.2.attention.out.bias\" of shape [8] is not in the model" + other_model));
  CHECK(bits(model) == before);
}

TEST_CASE("a training does not go on from half a checkpoint") {
  Folder folder;
  const std::string path = folder / "f";
  Own own(1);
  AdamW<Own> optimiser(own, {});
  optimiser.steps = 9;
  const auto refused = [&](const std::string& expected) {
    Own into(2);
    AdamW<Own> moments(own, {});
    moments.steps = 5;
    CHECK(contains(error([&] { load_checkpoint(path, into, moments); }), path + expected));
    CHECK(bits(into) == bits(Own(2)));
    CHECK(moments.steps == 5);
  };
  save_model(path, own, {{"step", "9"}});
  refused(" holds a model without its optimiser, so training cannot go on from it: give a checkpoint of a training");

  save_checkpoint(path, own, optimiser);
  const Safetensors saved = Safetensors::read(path);
  const auto rewrite = [&](const std::string& without, const Metadata& metadata) {
    Safetensors file;
    file.metadata = metadata;
    for (const auto& [name, tensor] : saved.tensors())
      if (name != without) file.add(name, tensor.shape, saved.values<double>(name));
    file.write(path);
  };
  rewrite("optimizer.second.scale", saved.metadata);
  refused(": there is no tensor \"optimizer.second.scale\", which the model has with shape [2, 1]");
  rewrite("", {});
  refused(": the metadata has no \"step\": give a checkpoint of a training");
  for (const char* bad : {"", "-1", "9 ", "nine", "99999999999", "1.5"}) {
    rewrite("", {{"step", bad}});
    refused(": the metadata's \"step\" is \"" + std::string(bad) + "\", but must be a whole number from 0 on");
  }
}

TEST_CASE("a damaged or absent checkpoint harms no model") {
  Folder folder;
  const std::string path = folder / "f";
  Own own(1);
  AdamW<Own> optimiser(own, {});
  CHECK(contains(error([&] { load_model(path, own); }), "cannot read " + path + ": No such file or directory"));
  save_checkpoint(path, own, optimiser);
  const std::string bytes = read_file(path), before = bits(own);
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    put_file(path, bytes.substr(0, length));
    REQUIRE(contains(error([&] { load_checkpoint(path, own, optimiser); }), path + ": "));
    REQUIRE(bits(own) == before);
  }
}

TEST_CASE("when saving fails the old file is as it was") {
  Folder folder;
  const std::string path = folder / "f";
  const Model model = looped(1), better = looped(2);
  const AdamW<Model> optimiser(model, {});
  save_checkpoint(path, model, optimiser);
  const std::string bytes = read_file(path);
  REQUIRE(bytes.size() > 8192);

  rlimit before;
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit small = before;
  small.rlim_cur = 4096;  // stands for a full disk: the write stops short, then fails
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &small) == 0);
  const std::string what = error([&] { save_checkpoint(path, better, optimiser); });
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  CHECK(contains(what, "cannot write " + path + ": "));
  CHECK(read_file(path) == bytes);
  CHECK(!exists(path + ".tmp"));

  CHECK(contains(error([&] { save_model(folder / "none/f", model); }), "check the path, and that its folder exists"));
  CHECK(!exists(folder / "none"));
  CHECK(contains(error([&] { save_model(path + "/f", model); }), "a part of the path is a file, not a folder"));
  CHECK(contains(error([&] { save_model(folder.path, model); }), "give the path of a file, not of a folder"));
  CHECK(contains(error([&] { save_model(path, model, {{"note", "\xFF"}}); }), "cannot write " + path + ": byte 1"));
  CHECK(read_file(path) == bytes);
}

TEST_CASE("a large checkpoint is several files, none larger than asked, and the same to who reads it") {
  Folder folder;
  const std::string path = folder / "c.safetensors";
  Training<Model, Unroll<Model>> training(looped(1), aligned, 1);
  training.run_to(2);
  save_checkpoint(path, training.model, training.trainer.optimiser, {{"seed", "3"}});
  const std::string whole = read_file(path);
  CHECK(contents(folder).size() == 1);

  for (const std::size_t limit : {whole.size() / 2, whole.size() / 3, whole.size() / 10, std::size_t{1}}) {
    save_checkpoint(path, training.model, training.trainer.optimiser, {{"seed", "3"}}, limit);
    const auto files = contents(folder);
    CHECK(files.size() >= 2);
    std::size_t tensors = 0;
    for (const auto& [name, bytes] : files) {
      const Safetensors file = Safetensors::read(folder / name);
      std::size_t size = 0;
      for (const auto& [tensor, held] : file.tensors()) size += held.bytes.size();
      CHECK((size <= limit || file.tensors().size() == 1));
      CHECK(file.metadata.empty() == (name != "c.safetensors"));
      tensors += file.tensors().size();
    }
    CHECK(tensors == Safetensors::parse(whole, "whole").tensors().size());
    Training<Model, Unroll<Model>> resumed(looped(2), aligned, 1);
    CHECK(load_checkpoint(path, resumed.model, resumed.trainer.optimiser) == Metadata{{"seed", "3"}, {"step", "2"}});
    CHECK(resumed.state() == training.state());
    Model model = looped(2);
    CHECK(load_model(path, model) == Metadata{{"seed", "3"}, {"step", "2"}});
    CHECK(bits(model) == bits(training.model));
    save_checkpoint(path, training.model, training.trainer.optimiser, {{"seed", "3"}}, limit);  // once more, the same
    CHECK(contents(folder) == files);
  }

  put_file(folder / "c2.part_0.safetensors", "another's");
  save_checkpoint(path, training.model, training.trainer.optimiser, {{"seed", "3"}});  // one file again: no part is left
  CHECK(contents(folder) == std::map<std::string, std::string>{{"c.safetensors", whole}, {"c2.part_0.safetensors", "another's"}});
  save_checkpoint(path, training.model, training.trainer.optimiser, {}, 1000);
  remove_checkpoint(path);
  CHECK(files_in(folder.path) == std::vector<std::string>{"c2.part_0.safetensors"});
  remove_checkpoint(path);  // it need not be there
  CHECK(files_in(folder / "none").empty());
}

TEST_CASE("parts that are missing, damaged or another checkpoint's are refused by name, and harm no model") {
  Folder folder;
  const std::string path = folder / "c.safetensors";
  const Own own(1), other(3);
  AdamW<Own> optimiser(own, {});
  const auto refused = [&](const std::string& expected) {
    Own into(2);
    AdamW<Own> moments(own, {});
    CHECK(error([&] { load_checkpoint(path, into, moments); }) == expected);
    CHECK(error([&] { load_model(path, into); }) == expected);
    CHECK(bits(into) == bits(Own(2)));
  };
  save_checkpoint(path, other, optimiser, {}, 40);
  const auto others = contents(folder);
  save_checkpoint(path, own, optimiser, {}, 40);
  const auto files = contents(folder);
  REQUIRE(files.size() >= 4);
  const std::string advice = ": put the right file back, or remove the checkpoint and train anew";
  for (const auto& [name, bytes] : files) {
    if (name == "c.safetensors") continue;
    const std::string part = folder / name;
    remove_file(part);
    refused(path + " is a checkpoint of several files, of which " + part + " is missing" + advice);
    for (const std::string& damaged : {std::string(), bytes.substr(0, bytes.size() - 1), bytes + " ", others.at("c.safetensors")}) {
      put_file(part, damaged);
      refused(part + " is damaged, or another file: it does not hold what " + path + " was written with" + advice);
    }
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      std::string damaged = bytes;
      damaged[i] = static_cast<char>(damaged[i] ^ 4);
      put_file(part, damaged);
      Own into(2);
      REQUIRE(contains(error([&] { load_model(path, into); }), part + " is damaged"));
    }
    put_file(part, bytes);
  }
  // A main file without its parts, among those of another.
  std::map<std::string, std::string> mixed = others;
  mixed["c.safetensors"] = files.at("c.safetensors");
  restore(folder, mixed);
  Own into(2);
  CHECK(contains(error([&] { load_model(path, into); }), " is missing" + advice));

  for (const char* bad : {"", "0", "0123456789abcde/", "0123456789ABCDEF", "../../../../etc.", "0123456789abcdef,", "0123456789abcdef 0123456789abcdef"}) {
    Safetensors main = Safetensors::parse(files.at("c.safetensors"), "c");
    main.metadata["relay.parts"] = bad;
    main.write(path);
    refused(path + ": the metadata's \"relay.parts\" is \"" + bad + "\", but must be hashes of 16 digits with commas between them: " +
            "the file is damaged: replace it with an intact copy");
  }
}

TEST_CASE("killed between any two calls of the system, saving leaves the old checkpoint or the new one, and the next save no rest of it") {
  Folder folder;
  const std::string path = folder / "c.safetensors";
  const Own before(1), after(2);
  AdamW<Own> old_moments(before, {}), new_moments(after, {});
  old_moments.steps = 1, new_moments.steps = 2;
  const auto save_new = [&](std::size_t limit) { save_checkpoint(path, after, new_moments, {}, limit); };
  for (const auto& limits : {std::pair<std::size_t, std::size_t>{60, 60}, {1000, 60}, {60, 1000}}) {
    const std::size_t old_limit = limits.first, new_limit = limits.second;
    save_checkpoint(path, before, old_moments, {}, old_limit);
    const auto start = contents(folder);
    save_new(new_limit);
    const auto end = contents(folder);
    bool done = false;
    int kept = 0, replaced = 0;
    for (int last = 1; !done; ++last) {
      restore(folder, start);
      const auto result = killed_at(last, [&] { save_new(new_limit); });
      if (!result) {
        MESSAGE("processes cannot be watched here: nothing was killed");
        return;
      }
      done = *result;
      Own model(3);
      AdamW<Own> moments(model, {});
      load_checkpoint(path, model, moments);
      (moments.steps == 1 ? kept : replaced) += 1;
      REQUIRE(bits(model) == bits(moments.steps == 1 ? before : after));
      REQUIRE((moments.steps == 1 || moments.steps == 2));
      REQUIRE((done ? moments.steps == 2 && contents(folder) == end : true));
      save_new(new_limit);
      auto left = contents(folder);
      REQUIRE(left == end);
    }
    CHECK(kept >= 10);
    CHECK(replaced >= 3);
  }
}

TEST_CASE("when a part cannot be written the old checkpoint is as it was, and alone") {
  Folder folder;
  const std::string path = folder / "c.safetensors";
  const Model model = looped(1), better = looped(2);
  const AdamW<Model> optimiser(model, {});
  save_checkpoint(path, model, optimiser, {}, 8000);
  const auto files = contents(folder);
  rlimit before;
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  std::string what;
  for (const rlim_t most : {1000, 6000, 9000, 12000}) {  // the first part, or a later one, or the main file is too large
    rlimit small = before;
    small.rlim_cur = most;
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &small) == 0);
    what = error([&] { save_checkpoint(path, better, optimiser, {}, 8000); });
    ::setrlimit(RLIMIT_FSIZE, &before);
    if (what == "no error") break;
    CHECK(contains(what, "cannot write " + folder.path));
    CHECK(contents(folder) == files);
  }
  std::signal(SIGXFSZ, handler);
  save_checkpoint(path, better, optimiser, {}, 8000);
  Model into = looped(3);
  load_model(path, into);
  CHECK(bits(into) == bits(better));
}
