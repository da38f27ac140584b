// Rows of which many are the same, as those of tokens are before anything mixes them: what a layer does with each row by itself it does once for
// each that there is, and looks the results up. Exact: the gradient of what was looked up is a sum over those that looked.
#pragma once

#include <relay/core/ragged.hpp>

namespace relay {

/// x's row i is row which[i] of `table`.
template <class B>
struct Lookup {
  using Tensor = typename B::Tensor;

  const Tensor* table = nullptr;
  const typename B::Indices* which = nullptr;

  /// y's row i = row which[i] of `of`, which has a row for each of the table's.
  void find(const Tensor& of, int rows, Tensor& y) const {
    B::make_room(of, rows, y);
    B::gather_rows(of, *which, 0, y);
  }
  /// The gradient of `of`, given that of y.
  Tensor sum(const Tensor& dy) const {
    Tensor dof;
    dof.resize_like(dy, table->rows(), dy.cols());
    B::fill(dof, 0);
    B::scatter_rows(dy, 0, *which, dof);
    return dof;
  }
};

}  // namespace relay
