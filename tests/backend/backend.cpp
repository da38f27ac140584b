// The concept of a backend: Cpu is one, what lacks a function is none, and a type that offers what the concept lists, and
// nothing more, is enough for the whole library.
#include <relay/backend/backend.hpp>

#include <relay/backend/cpu.hpp>
#include <relay/layer/chain.hpp>
#include <relay/layer/dropout.hpp>
#include <relay/layer/residual.hpp>
#include <relay/pipeline/pipeline.hpp>
#include <relay/testing/gradcheck.hpp>

#include <doctest/doctest.h>

using namespace relay;

/// The interface and no arithmetic: what is here is in the concept. (Composed operations come with ComposedOps.)
template <class Self>
struct Declared : ComposedOps<Self> {
  using Scalar = double;
  struct Memory {
    long allocations() const { return 0; }
    std::size_t bytes() const { return 0; }
  };
  struct Device {
    Memory* memory = nullptr;
    Threads* threads = nullptr;
  };
  struct Indices {};
  class Tensor {
   public:
    Tensor() = default;
    Tensor(int rows, int cols, Device = {}) : rows_(rows), cols_(cols) {}
    int rows() const { return rows_; }
    int cols() const { return cols_; }
    long size() const { return long{rows_} * cols_; }
    Device device() const { return {}; }
    void resize(int rows, int cols, Device) { rows_ = rows, cols_ = cols; }
    void resize_like(const Tensor&, int rows, int cols) { rows_ = rows, cols_ = cols; }

   private:
    int rows_ = 0, cols_ = 0;
  };
  using In = const Tensor&;
  using Out = Tensor&;
  using At = const Rows<Self>&;

  static Indices indices(std::span<const std::int32_t>, Device) { return {}; }
  static void upload(std::span<const Scalar>, Out) {}
  static std::vector<Scalar> download(In x) { return std::vector<Scalar>(static_cast<std::size_t>(x.size())); }
  static void product(In, In, Out) {}
  static void product_backward(In, In, Out) {}
  static void add_outer_product(In, In, Out) {}
  static void prepare(Out) {}
  static void fill(Out, double) {}
  static void copy(In, Out) {}
  static void copy_first(In, int, Out) {}
  static void add(In, Out) {}
  static void add_row(In, Out) {}
  static void add_column_sums(In, Out) {}
  static void clear_rows(Out, int, int) {}
  static void gather_rows(In, const Indices&, int, Out) {}
  static void scatter_rows(In, int, const Indices&, Out) {}
  static double sum_of_squares(In) { return 0; }
  static void layer_norm(In, In, In, double, Out, Out) {}
  static void layer_norm_backward(In, In, In, In, Out, Out, Out) {}
  static void gelu(In, Out) {}
  static void gelu_backward(In, In, Out, Out) {}
  static void rotate(Out, At, int, int, In, int) {}
  static void rotate(Out, At, int, int, In, int, const Indices&) {}
  static void attention(In, At, const Heads&, Out, Out) {}
  static void attention_backward(In, In, In, In, At, const Heads&, Out) {}
  static void attention_cached(In, At, const Indices&, const Indices&, int, Out, Out, Out) {}
  static void make_cache(int, int, int, int, Device, Out, Out) {}
  static void dropout(In, double, Key, Out) {}
  static void softmax_cross_entropy(Out, const Indices&, std::span<const double>, Out) {}
  static void argmax(In, std::vector<std::int32_t>&, std::vector<double>&) {}
  static void softmax(Out) {}
  static void softmax_backward(In, Out) {}
  static void adamw(Out, In, Out, Out, const AdamWStep&) {}
};

struct Whole : Declared<Whole> {};

// Everything compiles with it.
template class relay::Pipeline<Whole>;
using Body = Chain<Residual<FeedForward<Whole>>, Linear<Whole>, Dropout<Whole>>;
template class relay::Looped<Body, 3>;
template GradientReport relay::check_layer(Looped<Body, 3>&, Whole::Tensor&, const Rows<Whole>&, int, Key);

namespace {

// Each hides one member, and so is no backend.
struct NoGelu : Declared<NoGelu> {
  static void gelu() = delete;
};
struct NoStarts : Declared<NoStarts> {  // of the two forms of rotate, only that without
  using B = Declared<NoStarts>;
  static void rotate(B::Tensor&, const Rows<NoStarts>&, int, int, const B::Tensor&, int) {}
};
struct NoComposed : Declared<NoComposed> {
  static void linear_backward() = delete;
};
struct OtherDownload : Declared<OtherDownload> {
  static std::vector<float> download(const Tensor&) { return {}; }
};
struct OtherArgmax : Declared<OtherArgmax> {
  static void argmax(const Tensor&, std::vector<int>&, std::vector<float>&) {}
};
struct NoScalar : Declared<NoScalar> {
  using Scalar = void;
};
struct NoMemory : Declared<NoMemory> {
  struct Memory {};  // which does not count, and which Device does not take
};
struct NoBytes : Declared<NoBytes> {
  struct Memory {
    long allocations() const { return 0; }
  };
  struct Device {
    Memory* memory = nullptr;
    Threads* threads = nullptr;
  };
};
struct OtherTensor : Declared<OtherTensor> {
  struct Tensor {};
};
struct NoCopies : Declared<NoCopies> {
  struct Indices {
    Indices() = default;
    Indices(const Indices&) = delete;
  };
};

}  // namespace

TEST_CASE("Cpu is a backend, and so is whatever offers what the concept lists") {
  static_assert(ComputeBackend<Cpu<float>> && ComputeBackend<Cpu<double>>);
  static_assert(ComputeBackend<Whole>);
  CHECK(true);
}

TEST_CASE("what lacks a function, or has it with other types, is none") {
  static_assert(!ComputeBackend<int>);
  static_assert(!ComputeBackend<NoGelu>);
  static_assert(!ComputeBackend<NoStarts>);
  static_assert(!ComputeBackend<NoComposed>);
  static_assert(!ComputeBackend<OtherDownload>);
  static_assert(!ComputeBackend<OtherArgmax>);
  static_assert(!ComputeBackend<NoScalar>);
  static_assert(!ComputeBackend<NoMemory>);
  static_assert(!ComputeBackend<NoBytes>);
  static_assert(!ComputeBackend<OtherTensor>);
  static_assert(!ComputeBackend<NoCopies>);
  CHECK(true);
}
