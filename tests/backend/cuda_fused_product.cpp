// Products of warpgroups with GELU or its slope behind them, run on the host (cuda_on_host.hpp), whose device has four multiprocessors.
#include "fused_product.hpp"

using namespace fused_product;
using cuda_on_host::Order;

namespace {

/// One tile of 64 rows that is whole, and not; blocks of which the pairs of warpgroups have as many tiles, and others where the first has one more;
/// one block for all rows. Of each depth.
constexpr Size sizes[] = {{64, 64, 256},        {50, 256, 512},  {64 * 17 + 7, 64, 512}, {64 * 5, 256, 1024},
                          {64 * 7 - 3, 128, 1024}, {64 * 9, 256, 256}, {300, 128, 1280}};

/// The other order of a block's threads.
void backwards(auto&& f) {
  cuda_on_host::thread_order = Order::backwards;
  f();
  cuda_on_host::thread_order = Order::forwards;
}

}  // namespace

TEST_CASE("An up projection with GELU") {
  for (const Size& s : sizes) {
    CAPTURE(s.rows);
    CAPTURE(s.columns);
    check_gelu(s, [](auto&& f) { backwards(f); });
  }
}

TEST_CASE("The way back through a down projection with GELU's slope, and its sums") {
  for (const Size& s : sizes) {
    CAPTURE(s.rows);
    CAPTURE(s.columns);
    check_slope(s, [](auto&& f) { backwards(f); });
  }
}

TEST_CASE("A projection with the residual and the norm behind it") {
  for (const auto& [rows, depth] : {std::pair{64, 64}, {50, 256}, {64 * 17 + 7, 64}, {64 * 5, 256}, {64 * 7 - 3, 128}, {64 * 9, 256}}) {
    CAPTURE(rows);
    CAPTURE(depth);
    check_residual_norm(rows, depth, [](auto&& f) { backwards(f); });
  }
}

TEST_CASE("Blocks share the rows, and no more than a device has at once") {
  const auto blocks = [](int rows, int columns) { return cuda::FusedProduct<cuda::WithGelu>(rows, 64, columns).blocks(); };
  CHECK(blocks(64, 256) == 1);
  CHECK(blocks(64 * 3 + 1, 256) == 4);
  CHECK(blocks(64 * 100, 256) == 4);
  CHECK(blocks(64 * 100, 512) == 2);
  CHECK(blocks(64 * 100, 256 * 7) == 1);
}

TEST_CASE("Other shapes, and few rows, have no such product") {
  using Product = cuda::FusedProduct<cuda::WithGelu>;
  CHECK(Product(cuda::WithGelu::least_rows, 64, 256));
  CHECK_FALSE(Product(cuda::WithGelu::least_rows - 1, 64, 256));
  CHECK_FALSE(Product(1000, 96, 256));
  CHECK_FALSE(Product(1000, 64, 128));
  CHECK_FALSE(Product(1000, 64, 0));
  CHECK(cuda::FusedProduct<cuda::WithResidualNorm>(1000, 64, 256));
  CHECK_FALSE(cuda::FusedProduct<cuda::WithResidualNorm>(1000, 64, 512));  // no block has whole rows
}
