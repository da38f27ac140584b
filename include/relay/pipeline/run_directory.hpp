// The directory of a run: everything the pipeline writes, by name, and the promise that a run goes on with the configuration it
// was begun with.
//
//   config.json                     the full configuration
//   metrics.jsonl                   one line per 50 steps of every training, or as log_every says
//   checkpoints/NAME.safetensors    a training under way: weights, moments, step; with NAME.part_*.safetensors where it is large
//   models/NAME.safetensors         a finished model
//   chains/MODEL/TASK_08.jsonl      a model's chains for longer problems
//   evaluation/NAME.json            what a finished model was found to do; NAME.begun.json: so far
//   results.json                    accuracy by model, task and length
//   diagnostics.json                the errors of each model, and some of its chains
//   machine.json                    where the run was made, and how long it took
//   report.html                     all of it, to look at
//   lock                            held while a pipeline is at work here
#pragma once

#include <string>

#include <relay/core/file.hpp>
#include <relay/core/json_parser.hpp>
#include <relay/pipeline/config.hpp>
#include <relay/pipeline/settings.hpp>

namespace relay {

class RunDirectory {
 public:
  /// A directory that a run is, or will be, in.
  explicit RunDirectory(std::string path) : path_(std::move(path)) {}

  const std::string& path() const { return path_; }
  std::string config_file() const { return path_ + "/config.json"; }
  std::string metrics_file() const { return path_ + "/metrics.jsonl"; }
  std::string results_file() const { return path_ + "/results.json"; }
  std::string model_file(std::string_view name) const { return message(path_, "/models/", name, ".safetensors"); }
  std::string checkpoint_file(std::string_view name) const { return message(path_, "/checkpoints/", name, ".safetensors"); }
  std::string chains_file(std::string_view model, std::string_view task, int length) const {
    return message(path_, "/chains/", model, "/", task, length < 10 ? "_0" : "_", length, ".jsonl");
  }
  std::string evaluation_file(std::string_view name) const { return message(path_, "/evaluation/", name, ".json"); }
  std::string begun_evaluation_file(std::string_view name) const { return message(path_, "/evaluation/", name, ".begun.json"); }
  std::string diagnostics_file() const { return path_ + "/diagnostics.json"; }
  std::string report_file() const { return path_ + "/report.html"; }
  std::string machine_file() const { return path_ + "/machine.json"; }

  bool begun() const { return exists(config_file()); }

  /// The configuration the run was begun with.
  PipelineConfig config() const {
    require(begun(), path_, " holds no run: there is no config.json; `relay pipeline --out ", path_, "` makes one");
    PipelineConfig config = config_from_json(parse_json(read_file(config_file()), config_file()), config_file());
    config.check_values();
    return config;
  }

  /// Begins a run, or makes sure that the one that is here has this configuration.
  void begin(const PipelineConfig& wanted) const {
    begun() ? wanted.check_values() : wanted.check();
    if (begun()) {
      const Json ours = to_json(wanted), theirs = to_json(config());
      for (const auto& member : theirs.as_object()) {
        const Json* found = ours.find(member.key);
        const Json value = found ? *found : Json("unset");
        require(value == member.value, path_, " was begun with ", member.key, "=", member.value.dump(), ", not ", value.dump(),
                ": use the same settings to go on, or another --out");
      }
    }
    for (const char* folder : {"/models", "/checkpoints", "/chains", "/evaluation"}) make_directories(path_ + folder);
    if (!begun()) write_file_atomically(config_file(), to_json(wanted).dump() + "\n");
  }

 private:
  std::string path_;
};

}  // namespace relay
