// The loop written out from the equations of layer/looped.hpp, forward only: what its backward is checked against, alone
// (tests/layer/looped.cpp) and inside a whole model (tests/train/unroll.cpp).
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include <relay/layer/looped.hpp>

#include "check.hpp"

namespace check {

/// With a window, every sequence starts again from its frozen state wherever a whole number of windows is left to it. The
/// states are frozen as they are in the first call; so a later call, with other weights, gives the function whose gradient
/// the truncated one is.
class WrittenOut {
 public:
  WrittenOut(relay::LoopConfig config, std::vector<int> counts) : config_(config), counts_(std::move(counts)) {}

  /// Calls read(t, y_t) after every iteration.
  template <class Loop>
  void operator()(const Loop& loop, const Tensor& h0, const Rows<B>& rows, auto&& read) {
    const bool freezes = frozen_.empty();
    Tensor state = h0;
    for (int t = 1; t <= counts_.front(); ++t) {
      int live = 0;
      while (live < static_cast<int>(counts_.size()) && counts_[static_cast<std::size_t>(live)] >= t) ++live;
      const Rows<B> at = rows.first(live).fold(static_cast<std::uint64_t>(t));
      Tensor u = slice(state, 0, at.count());
      for (int s = 0; s < live; ++s)
        if (!freezes && t > 1 && config_.window > 0 &&
            (counts_[static_cast<std::size_t>(s)] - (t - 1)) % config_.window == 0)
          std::copy(frozen_[static_cast<std::size_t>(t - 2)].row(at.begin(s)),
                    frozen_[static_cast<std::size_t>(t - 2)].row(at.end(s)), u.row(at.begin(s)));
      const int width = u.cols(), half = width / 2;
      for (int r = 0; r < u.rows(); ++r)
        for (int c = 0; c < width; ++c) {
          if (config_.inject && t > 1) u.row(r)[c] += h0.row(r)[c];
          const double angle = t * std::pow(10000.0, -static_cast<double>(c % half) / half);
          if (config_.signal) u.row(r)[c] += c < half ? std::sin(angle) : std::cos(angle);
        }
      typename Loop::Application trace;
      const Tensor e = loop.block.forward(u, at, trace.block), y = loop.norm.forward(e, at, trace.norm);
      read(t, y);
      state = config_.normalise ? y : e;
      if (freezes) frozen_.push_back(state);
    }
  }

 private:
  relay::LoopConfig config_;
  std::vector<int> counts_;
  std::vector<Tensor> frozen_;  // s_1 .. s_T as they were when first called
};

}  // namespace check
