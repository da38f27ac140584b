// Rotary positions (Su et al. 2021, RoFormer): the pair (x_i, x_{i + size/2}) of a head is turned by position * base^(-2i/size).
//
// A query at p and a key at q then meet at the angle of p - q: only distances matter, so a row laid flush right needs no
// padded input. Backward turns the other way. The table is a constant, not a parameter.
#pragma once

#include <cmath>

#include <relay/core/concepts.hpp>
#include <relay/layer/initialise.hpp>

namespace relay {

template <class B>
class Rotary {
 public:
  /// `size`: of a head, even. `positions`: the longest sequence.
  Rotary(int size, int positions, double base, typename B::Device device = {}) : table_(positions, size, device) {
    require(size % 2 == 0, "rotary positions turn pairs, so the size of a head must be even, not ", size,
            ": choose width / heads even");
    require(base > 1, "the base of rotary positions must be above 1, not ", base);
    int index = 0;
    initialise<B>(table_, [&] {
      const int position = index / size, i = index % size, pair = i % (size / 2);
      ++index;
      const double angle = position * std::pow(base, -2.0 * pair / size);
      return i < size / 2 ? std::cos(angle) : std::sin(angle);
    });
  }

  int positions() const { return table_.rows(); }
  const typename B::Tensor& table() const { return table_; }  // [positions, size]: cosines, then sines

 private:
  typename B::Tensor table_;
};

}  // namespace relay
