// Progress a person can read: on a terminal one line that redraws itself, elsewhere a plain line now and then.
//
//   looped_aligned  [#########-----------]  1840/4000  loss 0.283  accuracy 0.96  1950 samples/s  0:35 left
#pragma once

#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <string>

#include <relay/train/metrics.hpp>

namespace relay {

/// Seconds of a clock that never goes back.
inline double seconds_now() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

class Progress {
 public:
  /// `first`: the steps already taken before (a resumed training).
  /// `out`: null to be silent.
  Progress(std::string name, int first, int steps, std::FILE* out = stderr)
      : name_(std::move(name)), first_(first), steps_(steps), out_(out), terminal_(out && isatty(fileno(out)) == 1),
        started_(seconds_now()), shown_(started_) {}

  void operator()(const StepReport& report) {
    if (!out_) return;
    recent_.add(report);
    samples_ += report.samples;
    const double now = seconds_now();
    const bool end = report.step == steps_;
    if (!end && now - shown_ < (terminal_ ? 0.2 : 10.0)) return;
    shown_ = now;
    const double elapsed = std::max(now - started_, 1e-9);
    const int taken = report.step - first_;
    const int left = static_cast<int>(elapsed / taken * (steps_ - report.step) + 0.5);
    char text[200];
    std::snprintf(text, sizeof text, "%6d/%d  loss %-7.4g accuracy %.3f  %5.0f samples/s  %d:%02d %s", report.step, steps_,
                  recent_.objective(), recent_.accuracy(), static_cast<double>(samples_) / elapsed,
                  end ? static_cast<int>(elapsed) / 60 : left / 60, end ? static_cast<int>(elapsed) % 60 : left % 60,
                  end ? "in all" : "left");
    if (terminal_) {
      const int filled = static_cast<int>(20L * report.step / steps_);
      const std::string bar = std::string(static_cast<std::size_t>(filled), '#') + std::string(static_cast<std::size_t>(20 - filled), '-');
      std::fprintf(out_, "\r%-15s [%s] %s  %s", name_.c_str(), bar.c_str(), text, end ? "\n" : "");
    } else {
      std::fprintf(out_, "%-15s %s\n", name_.c_str(), text);
    }
    std::fflush(out_);
    if (!terminal_ || recent_.steps >= 100) recent_ = {};  // on a terminal: means over the last 100 steps at most
  }

 private:
  std::string name_;
  int first_, steps_;
  std::FILE* out_;
  bool terminal_;
  double started_, shown_;
  long samples_ = 0;
  Meter recent_;
};

}  // namespace relay
