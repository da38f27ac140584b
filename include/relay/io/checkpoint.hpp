// Checkpoints: a model, or a model and its optimiser, as one safetensors file.
//
//   loop.block.layers.0.attention.qkv.weight       a parameter under its path: [outputs, inputs], or [n] for a single
//                                                  row, as in PyTorch
//   optimizer.first.PATH, optimizer.second.PATH    Adam's moments
//   __metadata__: "step", and the caller's words   the steps taken
//
// Random numbers are counter-based: the random state of a run, and its place in the data, are its seed and its step.
// So a checkpoint, loaded into a model and an optimiser of the same configuration, goes on with the same bits.
// Loading reads and checks everything before it changes anything.
#pragma once

#include <charconv>
#include <set>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

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

template <class Model>
void add_parameters(Safetensors& file, std::string_view prefix, const Model& model) {
  for_each_parameter(
      [&](std::string_view path, const auto& tensor) {
        const auto values = Model::Backend::download(tensor);
        file.add(message(prefix, path), shape_of(tensor), std::span(values));
      },
      model);
}

/// Reads models out of one file: take() checks and collects, finish() checks the rest, and only then put() changes one.
template <class Model>
class CheckpointReader {
  using Backend = typename Model::Backend;

 public:
  using Values = std::vector<std::vector<typename Backend::Scalar>>;  // of a model's parameters, in their order

  explicit CheckpointReader(const std::string& path) : path_(path), file_(Safetensors::read(path)) {}

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

/// The model, the optimiser's moments, and under "step" its steps. The optimiser is AdamW or looks like it: `first` and
/// `second`, which are Models, and an int `steps`.
template <class Model, class Optimiser>
void save_checkpoint(const std::string& path, const Model& model, const Optimiser& optimiser, Metadata metadata = {}) {
  Safetensors file;
  file.metadata = std::move(metadata);
  file.metadata["step"] = message(optimiser.steps);
  detail::add_parameters(file, "", model);
  detail::add_parameters(file, detail::first_prefix, optimiser.first);
  detail::add_parameters(file, detail::second_prefix, optimiser.second);
  file.write(path);
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
