// machine.json: where a run was made, and the seconds that each of its stages took, added up over all the times it was gone on with.
//
// {"cpu", "cores", "compiler", "date", ["gpu",] "threads", "seconds": {"looped_aligned": 63.1, ...}}. It is no result: no bit of one depends on it.
#pragma once

#include <cstdio>
#include <ctime>
#include <string>
#include <string_view>
#include <thread>

#include <relay/core/file.hpp>
#include <relay/core/json.hpp>
#include <relay/core/json_parser.hpp>

namespace relay {

/// This machine, and the day.
inline Json this_machine() {
  std::string cpu = "unknown";
  if (std::FILE* info = std::fopen("/proc/cpuinfo", "r")) {
    char line[1024];
    while (std::fgets(line, sizeof line, info)) {
      const std::string_view text(line);
      if (!text.starts_with("model name")) continue;
      const std::size_t first = text.find(": "), last = text.find('\n');
      if (first != text.npos) cpu = text.substr(first + 2, last == text.npos ? last : last - first - 2);
      break;
    }
    std::fclose(info);
  }
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char date[32];
  std::strftime(date, sizeof date, "%Y-%m-%d", &utc);
  return Json::object()
      .set("cpu", cpu)
      .set("cores", static_cast<long>(std::thread::hardware_concurrency()))
      .set("compiler", __VERSION__)
      .set("date", date)
      .set("seconds", Json::object());
}

/// Adds to what a stage took, by so many threads this time, on a GPU if it has a name; a file that is not there, or damaged, begins anew.
inline void add_seconds(const std::string& path, std::string_view stage, double seconds, int threads, const std::string& gpu = {}) {
  Json machine = this_machine(), spent = Json::object();
  if (exists(path)) {
    try {
      machine = parse_json(read_file(path), path);
      spent = machine.at("seconds", path);
      spent.as_object(path);
    } catch (const Error&) {
      machine = this_machine();
      spent = Json::object();
    }
  }
  const Json* before = spent.find(stage);
  spent.set(stage, seconds + (before && before->is_number() ? before->as_number() : 0));
  if (!gpu.empty()) machine.set("gpu", gpu);
  machine.set("threads", threads);
  machine.set("seconds", spent);
  write_file_atomically(path, machine.dump() + "\n");
}

}  // namespace relay
