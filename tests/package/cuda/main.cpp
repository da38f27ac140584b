#include <relay/backend/cuda.hpp>

#include <cstdio>

using Backend = relay::Cuda<float>;

int main() {
  if (const std::string why = relay::cuda::no_device(); !why.empty()) {  // it is built, and that is what is tested
    std::printf("%s\n", why.c_str());
    return 0;
  }
  Backend::Tensor x(2, 3);
  Backend::fill(x, 2);
  return Backend::sum_of_squares(x) == 24 ? 0 : 1;
}
