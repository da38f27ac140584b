// From all rows of a batch to those that are needed, and back: where nobody reads the other rows of a last layer, what comes after its
// attention's mixing, row by row, need not be done for them. Exact: their gradient is zero.
#pragma once

#include <utility>

#include <relay/core/ragged.hpp>

namespace relay {

/// x's rows that are needed: x itself where all are. `room`: for those that are, else.
template <class B>
const typename B::Tensor& needed_rows(const typename B::Tensor& x, const Rows<B>& rows, typename B::Tensor& room) {
  if (rows.needed() == nullptr) return x;
  B::make_room(x, rows.outputs(), room);
  B::gather_rows(x, *rows.needed(), 0, room);
  return room;
}

/// The gradient of all rows of x, given that of needed_rows(x).
template <class B>
typename B::Tensor of_all_rows(typename B::Tensor dneeded, const Rows<B>& rows) {
  if (rows.needed() == nullptr) return dneeded;
  typename B::Tensor dx;
  B::spread_rows(dneeded, 0, *rows.needed(), rows.count(), dx);
  return dx;
}

}  // namespace relay
