// Element by element, shared among threads.
#ifndef RELAY_CPU_LEVEL
#include <relay/backend/cpu/kernels.hpp>
#else

namespace relay::cpu::RELAY_CPU_LEVEL {

/// Calls f(i, n) for every vector of the elements of x, rows shared among its device's threads (over_rows).
template <class S>
void over_elements(const Tensor<S>& x, auto&& f) {
  over_rows(x.device(), x.rows(), [&](int first, int last) {
    const long begin = static_cast<long>(first) * x.cols(), end = static_cast<long>(last) * x.cols();
    by_vector<S>(end - begin, [&](long i, auto n) { f(begin + i, n); });
  });
}

}  // namespace relay::cpu::RELAY_CPU_LEVEL

#endif
