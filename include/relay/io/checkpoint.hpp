// Checkpoints: a model, or a model and its optimiser, as a safetensors file.
//
//   loop.block.layers.0.attention.qkv.weight       a parameter under its path: [outputs, inputs], or [n] for a single
//                                                  row, as in PyTorch
//   optimizer.first.PATH, optimizer.second.PATH    Adam's moments
//   __metadata__: "step", and the caller's words   the steps taken
//
// A large checkpoint is several files, so that each can be kept where files may not be large: the main file, NAME.safetensors, names
// the others, NAME.part_HASH.safetensors, by a hash of their bytes. The parts are written first, the main file last: until it is
// there, in one rename, the old checkpoint is whole; from then on the new one is, and the parts that it does not name are removed. A
// part's name says what is in it, so no part is ever written over by another, or taken for another.
//
// Random numbers are counter-based: the random state of a run, and its place in the data, are its seed and its step.
// So a checkpoint, loaded into a model and an optimiser of the same configuration, goes on with the same bits.
// Loading reads and checks everything before it changes anything.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <set>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <relay/core/file.hpp>
#include <relay/core/parameters.hpp>
#include <relay/core/require.hpp>
#include <relay/io/safetensors.hpp>

namespace relay {

namespace detail {

inline constexpr std::string_view optimiser_prefix = "optimizer.";
inline constexpr std::string_view first_prefix = "optimizer.first.", second_prefix = "optimizer.second.";
inline constexpr const char* other_model =
    ": the checkpoint is of another model or configuration: make the model as it was when it was saved";

/// A parameter's shape, as PyTorch has it.
inline Shape shape_of(const auto& tensor) {
  if (tensor.rows() == 1) return {tensor.cols()};
  return {tensor.rows(), tensor.cols()};
}

inline constexpr std::string_view extension = ".safetensors";
inline constexpr const char* parts_word = "relay.parts";  // of the main file's metadata: the hashes of the parts, in order

/// What the names of a checkpoint's parts begin with.
inline std::string parts_prefix(std::string_view path) {
  if (path.ends_with(extension)) path.remove_suffix(extension.size());
  return message(path, ".part_");
}
inline std::string part_file(std::string_view path, std::string_view hash) { return message(parts_prefix(path), hash, extension); }

/// The parts that a main file names.
inline std::vector<std::string> part_files(const Metadata& metadata, const std::string& path) {
  std::vector<std::string> files;
  const auto found = metadata.find(parts_word);
  if (found == metadata.end()) return files;
  for (std::string_view rest = found->second;; rest.remove_prefix(17)) {
    const bool hash = rest.size() >= 16 && rest.substr(0, 16).find_first_not_of("0123456789abcdef") == rest.npos;
    require(hash && (rest.size() == 16 || rest[16] == ','), path, ": the metadata's \"", parts_word, "\" is ", in_quotes(found->second),
            ", but must be hashes of 16 digits with commas between them: the file is damaged: replace it with an intact copy");
    files.push_back(part_file(path, rest.substr(0, 16)));
    if (rest.size() == 16) return files;
  }
}

/// Removes the parts of the checkpoint, whole and half-written, but for those in `but`.
inline void remove_parts(const std::string& path, const std::vector<std::string>& but) {
  const std::size_t slash = path.rfind('/');
  const std::string folder = slash == path.npos ? "" : path.substr(0, slash + 1);
  for (const std::string& name : files_in(folder.empty() ? "." : folder)) {
    const std::string file = folder + name;
    if (file.starts_with(parts_prefix(path)) && std::find(but.begin(), but.end(), file) == but.end()) remove_file(file);
  }
}

/// A checkpoint, whose parts must be those that it was written with.
inline Safetensors read_with_parts(const std::string& path) {
  Safetensors whole = Safetensors::read(path);
  for (const std::string& part : part_files(whole.metadata, path)) {
    const char* const advice = ": put the right file back, or remove the checkpoint and train anew";
    require(exists(part), path, " is a checkpoint of several files, of which ", part, " is missing", advice);
    const std::string bytes = read_file(part);
    const std::string hash = in_digits(fingerprint(bytes));
    require(part == part_file(path, hash), part, " is damaged, or another file: it does not hold what ", path, " was written with", advice);
    whole.take(Safetensors::parse(bytes, part));
  }
  whole.metadata.erase(parts_word);
  return whole;
}

/// Tensors dealt, in their order, to files that hold at most `limit` bytes of them; a larger one has a file of its own.
class Parts {
 public:
  explicit Parts(std::size_t limit) : limit_(limit) {}

  template <class S>
  void add(const std::string& name, Shape shape, std::span<const S> values) {
    if (used_ > 0 && used_ + values.size_bytes() > limit_) {
      files.emplace_back();
      used_ = 0;
    }
    used_ += values.size_bytes();
    files.back().add(name, std::move(shape), values);
  }

  std::vector<Safetensors> files = std::vector<Safetensors>(1);  // the first is the main one

  void write(const std::string& path) {
    std::string hashes;
    std::vector<std::string> names;
    try {
      for (std::size_t i = 1; i < files.size(); ++i) {
        const std::string bytes = files[i].bytes(path);
        const std::string hash = in_digits(fingerprint(bytes));
        hashes += (hashes.empty() ? "" : ",") + hash;
        names.push_back(part_file(path, hash));
        write_file_atomically(names.back(), bytes);
      }
      files.front().metadata.erase(parts_word);
      if (!hashes.empty()) files.front().metadata[parts_word] = hashes;
      files.front().write(path);
    } catch (...) {
      try {  // those that nothing names
        remove_parts(path, exists(path) ? part_files(Safetensors::read(path).metadata, path) : std::vector<std::string>());
      } catch (const Error&) {  // what went wrong first is what to say
      }
      throw;
    }
    remove_parts(path, names);
  }

 private:
  std::size_t limit_, used_ = 0;
};

template <class Model>
void add_parameters(auto& file, std::string_view prefix, const Model& model) {
  for_each_parameter(
      [&](std::string_view path, const auto& tensor) {
        const auto values = Model::Backend::download(tensor);
        file.add(message(prefix, path), shape_of(tensor), std::span(values));
      },
      model);
}

/// Reads models out of one checkpoint: take() checks and collects, finish() checks the rest, and only then put() changes one.
template <class Model>
class CheckpointReader {
  using Backend = typename Model::Backend;

 public:
  using Values = std::vector<std::vector<typename Backend::Scalar>>;  // of a model's parameters, in their order

  explicit CheckpointReader(const std::string& path) : path_(path), file_(read_with_parts(path)) {}

  Safetensors& file() { return file_; }

  bool has_optimiser() const {
    const auto at = file_.tensors().lower_bound(optimiser_prefix);
    return at != file_.tensors().end() && at->first.starts_with(optimiser_prefix);
  }

  Values take(std::string_view prefix, const Model& model) {
    Values values;
    for_each_parameter(
        [&](std::string_view parameter, const auto& tensor) {
          const std::string name = message(prefix, parameter);
          const Shape wanted = shape_of(tensor);
          const Safetensors::Tensor* found = file_.find(name);
          require(found != nullptr, path_, ": there is no tensor ", in_quotes(name),
                  ", which the model has with shape ", show_shape(wanted), other_model);
          const bool row = tensor.rows() == 1 && found->shape == Shape{1, tensor.cols()};
          require(found->shape == wanted || row, path_, ": tensor ", in_quotes(name), " has shape ",
                  show_shape(found->shape), ", but the model's has shape ", show_shape(wanted), other_model);
          values.push_back(file_.values<typename Backend::Scalar>(name));
          taken_.insert(name);
        },
        model);
    return values;
  }

  /// Nothing may be left, but perhaps the optimiser's.
  void finish(std::string_view allowed) const {
    for (const auto& [name, tensor] : file_.tensors())
      require(taken_.contains(name) || (!allowed.empty() && name.starts_with(allowed)), path_, ": tensor ",
              in_quotes(name), " of shape ", show_shape(tensor.shape), " is not in the model", other_model);
  }

  static void put(const Values& values, Model& model) {
    auto next = values.begin();
    for_each_parameter([&](std::string_view, auto& tensor) { Backend::upload(*next++, tensor); }, model);
  }

 private:
  const std::string& path_;
  Safetensors file_;
  std::set<std::string, std::less<>> taken_;
};

}  // namespace detail

/// The model's parameters alone.
template <class Model>
void save_model(const std::string& path, const Model& model, Metadata metadata = {}) {
  Safetensors file;
  file.metadata = std::move(metadata);
  detail::add_parameters(file, "", model);
  file.write(path);
}

/// Fills the model, which must be of the configuration that was saved, from either kind of file; returns the metadata.
/// When it throws the model is as it was.
template <class Model>
Metadata load_model(const std::string& path, Model& model) {
  detail::CheckpointReader<Model> reader(path);
  const auto weights = reader.take("", model);
  reader.finish(detail::optimiser_prefix);
  reader.put(weights, model);
  return std::move(reader.file().metadata);
}

/// Of tensors in one file of a checkpoint: with its header it is below 16 MB.
inline constexpr std::size_t checkpoint_part = 15'500'000;

/// The model, the optimiser's moments, and under "step" its steps. The optimiser is AdamW or looks like it: `first` and
/// `second`, which are Models, and an int `steps`. Where it all is more than `part` bytes it becomes several files.
template <class Model, class Optimiser>
void save_checkpoint(const std::string& path, const Model& model, const Optimiser& optimiser, Metadata metadata = {},
                     std::size_t part = checkpoint_part) {
  detail::Parts parts(part);
  detail::add_parameters(parts, "", model);
  detail::add_parameters(parts, detail::first_prefix, optimiser.first);
  detail::add_parameters(parts, detail::second_prefix, optimiser.second);
  metadata["step"] = message(optimiser.steps);
  parts.files.front().metadata = std::move(metadata);
  parts.write(path);
}

/// Removes all files of a checkpoint, and what a crash has left of another under its name. It need not be there.
inline void remove_checkpoint(const std::string& path) {
  remove_file(path);  // first: without it the parts are nobody's
  remove_file(path + ".tmp");
  detail::remove_parts(path, {});
}

/// Fills the model and the optimiser; returns the metadata. When it throws both are as they were.
template <class Model, class Optimiser>
Metadata load_checkpoint(const std::string& path, Model& model, Optimiser& optimiser) {
  detail::CheckpointReader<Model> reader(path);
  const auto weights = reader.take("", model);
  require(reader.has_optimiser(), path,
          " holds a model without its optimiser, so training cannot go on from it: "
          "give a checkpoint of a training, or train anew from load_model");
  const auto first = reader.take(detail::first_prefix, optimiser.first);
  const auto second = reader.take(detail::second_prefix, optimiser.second);
  reader.finish("");

  const Metadata& metadata = reader.file().metadata;
  const auto step = metadata.find("step");
  require(step != metadata.end(), path, ": the metadata has no \"step\": give a checkpoint of a training");
  const std::string& text = step->second;
  int steps = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), steps);
  require(error == std::errc{} && end == text.data() + text.size() && steps >= 0, path, ": the metadata's \"step\" is ",
          detail::in_quotes(text), ", but must be a whole number from 0 on: give a checkpoint of a training");

  reader.put(weights, model);
  reader.put(first, optimiser.first);
  reader.put(second, optimiser.second);
  optimiser.steps = steps;
  return std::move(reader.file().metadata);
}

}  // namespace relay
