// What a backend keeps in a training, beyond the shapes of tensors: what a plan of its memory has to know (backend/shapes.hpp).
#pragma once

#include <cstddef>

namespace relay {

struct Keeping {
  std::size_t between = 0;   // bytes of an element of what lies between products; parameters and the residual stream are Scalars
  std::size_t laid_out = 0;  // bytes that products have beside a weight, for each of its elements
  bool activated = false;    // GELU's results, from forward to backward (ComposedOps::keeps_activated)

  // Gradients of what linear layers give, and what is not kept otherwise of what they read, of all iterations of a loop
  // (ComposedOps::Applications): of layers whose rows are multiples of so many bytes. 0: no such.
  std::size_t aligned = 0;
  int parts = 0;  // of sums over rows, which are also of all iterations then
};

/// As the CPU does: everything is Scalars, and weights are laid out in two forms (with AMX in more, which is known when a program runs:
/// backend/shapes.hpp).
template <class Scalar>
inline constexpr Keeping keeping_on_cpu{.between = sizeof(Scalar), .laid_out = 2 * sizeof(Scalar)};

/// As the CUDA backend does: A lies between products. (Here, and not in backend/cuda/, so that memory can be planned without a GPU.)
template <class A>
inline constexpr Keeping keeping_on_gpu{.between = sizeof(A),
                                        .laid_out = sizeof(A) < sizeof(float) ? sizeof(A) : 0,
                                        .activated = sizeof(A) < sizeof(float),
                                        .aligned = 256,
                                        .parts = 264};

/// As B does: as the CPU, unless it says so.
template <class B>
constexpr Keeping keeping_of() {
  if constexpr (requires { B::keeping; })
    return B::keeping;
  else
    return keeping_on_cpu<typename B::Scalar>;
}

}  // namespace relay
