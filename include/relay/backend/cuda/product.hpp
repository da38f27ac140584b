// Products of the CUDA backend: cuBLASLt, with a workspace of our own, so that a product gives the same bits whenever it is repeated.
//
// Float32 is computed as float32, without tf32; bf16 by tensor cores, summed in float32. What follows a product, a bias, GELU, goes
// along with it where cuBLASLt can do that: then nothing is read and written a second time. (Not GELU's slope: with it cuBLASLt's products
// took more time on an H200 than one and a pass over what it wrote.)
//
// cuBLAS sees matrices by columns: ours, by rows, are their transposes to it, and y = x w^T is y^T = w x^T.
#pragma once

#include <algorithm>
#include <limits>
#include <map>
#include <mutex>

#include <relay/backend/cuda/tensor.hpp>

namespace relay::cuda {

inline cudaDataType_t data_type(Type type) { return type == Type::float32 ? CUDA_R_32F : CUDA_R_16BF; }

/// What goes along with a product p = op(a) op(b), as cuBLAS sees it, by columns.
enum class Epilogue {
  none,         // c = p, or c += p
  bias,         // c = p + vector [m]
  gelu,         // c = GELU(p + vector)
  gelu_beside   // the same, and beside [m, n] = p + vector
};

/// c [n, m] = op(b) op(a) + beta c, by rows; as cuBLAS sees it, by columns: c [m, n] = op(a) [m, k] op(b) [k, n].
struct Product {
  bool transpose_a = false, transpose_b = false;
  int m = 0, n = 0, k = 0;
  Type type = Type::float32, result = Type::float32;  // of a and b; of c and what lies beside it
  bool adds = false;                                  // to c
  Epilogue epilogue = Epilogue::none;
  Type vector_type = Type::float32;

  auto operator<=>(const Product&) const = default;
};

/// What a product reads and writes. `vector` and `beside`: what its epilogue has, else null.
struct Operands {
  const void *a, *b;
  void* c;
  const void* vector = nullptr;
  const void* beside = nullptr;
};

/// The same, element by element: what cuBLASLt has no way for.
template <class T, class R>
__global__ void product_kernel(Product p, const T* a, const T* b, R* c) {
  after_earlier_kernels();
  const long at = static_cast<long>(blockIdx.x) * blockDim.x + threadIdx.x, i = at % p.m, j = at / p.m;
  if (j >= p.n) return;
  float sum = p.adds ? number(c[at]) : 0.0f;
  for (long k = 0; k < p.k; ++k)
    sum += number(a[p.transpose_a ? k + i * p.k : i + k * p.m]) * number(b[p.transpose_b ? j + k * p.n : k + j * p.k]);
  c[at] = element<R>(sum);
}

/// cuBLASLt and what it decided for the products so far.
class Products {
 public:
  static Products& instance() {
    static Products* const one = new Products;  // never destroyed: the driver may be gone before
    return *one;
  }

  /// False where cuBLASLt has no such epilogue; nothing is computed then.
  bool operator()(const Product& product, const Operands& operands) {
    if (product.m == 0 || product.n == 0) return true;
    const std::lock_guard lock(mutex_);
    Plan& shared = planned(alike(product));
    if (product.epilogue != Epilogue::none && !shared.possible) return false;
    cublasStatus_t status = multiply(shared, product, operands);
    if (status != CUBLAS_STATUS_SUCCESS) status = multiply(planned(product), product, operands);  // what is good for the largest is not for all
    if (status == CUBLAS_STATUS_SUCCESS) return true;
    if (status != CUBLAS_STATUS_NOT_SUPPORTED && status != CUBLAS_STATUS_INVALID_VALUE) check(status, "multiply");
    if (product.epilogue != Epilogue::none)
      shared.possible = false;
    else
      multiply_slowly(product, operands);
    return product.epilogue == Epilogue::none;
  }

  /// Plans are made anew.
  void forget() {
    const std::lock_guard lock(mutex_);
    for (auto& [product, plan] : plans_) {
      (void)cublasLtMatmulDescDestroy(plan.product);
      for (cublasLtMatrixLayout_t layout : {plan.a, plan.b, plan.c}) (void)cublasLtMatrixLayoutDestroy(layout);
    }
    plans_.clear();
  }

  /// Whether cuBLASLt can do it, as far as is known: for an epilogue that depends on types and on the version.
  bool possible(const Product& product) {
    const std::lock_guard lock(mutex_);
    return planned(alike(product)).possible;
  }

 private:
  struct Plan {
    cublasLtMatmulDesc_t product;
    cublasLtMatrixLayout_t a, b, c;
    cublasLtMatmulAlgo_t algorithm;
    bool possible;
  };
  static constexpr std::size_t room = std::size_t{32} << 20;  // what NVIDIA advises for Hopper

  Products() {
    check(cublasLtCreate(&handle_), "start");
    check(cudaMalloc(&workspace_, room), "find memory for the workspace of products");
  }

  /// The largest product that shares its plan. Ragged batches have many numbers of rows, and to plan takes longer than to multiply: those
  /// share one that are of one size class, four to an octave. Rows are columns to cuBLAS, of which no stride depends.
  static Product alike(Product p) {
    int& rows = p.transpose_b ? p.k : p.n;
    rows = static_cast<int>(std::min<std::size_t>(Memory::size_class(static_cast<std::size_t>(rows)), std::numeric_limits<int>::max()));
    return p;
  }

  static cublasLtEpilogue_t code(Epilogue epilogue) {
    switch (epilogue) {
      case Epilogue::bias: return CUBLASLT_EPILOGUE_BIAS;
      case Epilogue::gelu: return CUBLASLT_EPILOGUE_GELU_BIAS;
      case Epilogue::gelu_beside: return CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
      case Epilogue::none: break;
    }
    return CUBLASLT_EPILOGUE_DEFAULT;
  }
  static bool has_vector(Epilogue e) { return e != Epilogue::none; }
  static bool has_beside(Epilogue e) { return e == Epilogue::gelu_beside; }

  static void set(cublasLtMatmulDesc_t product, cublasLtMatmulDescAttributes_t attribute, auto value) {
    check(cublasLtMatmulDescSetAttribute(product, attribute, &value, sizeof value), "describe a product");
  }

  cublasStatus_t multiply(const Plan& plan, const Product& p, const Operands& o) {
    if (!plan.possible) return CUBLAS_STATUS_NOT_SUPPORTED;
    const auto columns = [](cublasLtMatrixLayout_t layout, int count) {
      const auto cols = static_cast<std::uint64_t>(count);
      check(cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_COLS, &cols, sizeof cols), "describe a matrix");
    };
    if (p.transpose_b) {
      columns(plan.a, p.k);
      columns(plan.b, p.k);
    } else {
      columns(plan.b, p.n);
      columns(plan.c, p.n);
    }
    if (has_vector(p.epilogue)) set(plan.product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, o.vector);
    if (has_beside(p.epilogue)) set(plan.product, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, o.beside);
    const float one = 1, beta = p.adds ? 1.0f : 0.0f;
    return cublasLtMatmul(handle_, plan.product, &one, o.a, plan.a, o.b, plan.b, &beta, o.c, plan.c, o.c, plan.c, &plan.algorithm, workspace_, room,
                          stream());
  }

  static void multiply_slowly(const Product& p, const Operands& o) {
    const auto run = [&]<class T, class R>(const T* from, R* to) {
      constexpr int threads = 256;
      const long blocks = (static_cast<long>(p.m) * p.n + threads - 1) / threads;
      launch(product_kernel<T, R>, dim3(static_cast<unsigned>(blocks)), threads, 0, p, from, static_cast<const T*>(o.b), to);
    };
    if (p.type == Type::float32)
      run(static_cast<const float*>(o.a), static_cast<float*>(o.c));
    else if (p.result == Type::float32)
      run(static_cast<const bf16*>(o.a), static_cast<float*>(o.c));
    else
      run(static_cast<const bf16*>(o.a), static_cast<bf16*>(o.c));
  }

  Plan& planned(const Product& p) {
    if (const auto found = plans_.find(p); found != plans_.end()) return found->second;
    Plan plan{};
    const cudaDataType_t type = data_type(p.type), result = data_type(p.result);
    check(cublasLtMatmulDescCreate(&plan.product, CUBLAS_COMPUTE_32F, CUDA_R_32F), "describe a product");
    set(plan.product, CUBLASLT_MATMUL_DESC_TRANSA, p.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(plan.product, CUBLASLT_MATMUL_DESC_TRANSB, p.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(plan.product, CUBLASLT_MATMUL_DESC_EPILOGUE, code(p.epilogue));
    const void* const like_any = workspace_;  // aligned like any: a choice may depend on that
    if (has_vector(p.epilogue)) {
      set(plan.product, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, data_type(p.vector_type));
      set(plan.product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, like_any);
    }
    if (has_beside(p.epilogue)) {
      set(plan.product, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, static_cast<std::int64_t>(p.m));  // a multiple of 8, or it is refused
      set(plan.product, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, like_any);
    }
    const auto layout = [](cublasLtMatrixLayout_t& to, cudaDataType_t of, int rows, int cols) {
      check(cublasLtMatrixLayoutCreate(&to, of, static_cast<std::uint64_t>(rows), static_cast<std::uint64_t>(cols), std::max(rows, 1)),
            "describe a matrix");
    };
    layout(plan.a, type, p.transpose_a ? p.k : p.m, p.transpose_a ? p.m : p.k);
    layout(plan.b, type, p.transpose_b ? p.n : p.k, p.transpose_b ? p.k : p.n);
    layout(plan.c, result, p.m, p.n);
    cublasLtMatmulPreference_t preference;
    check(cublasLtMatmulPreferenceCreate(&preference), "describe a workspace");
    const std::size_t bytes = room;
    check(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof bytes),
          "describe a workspace");
    const std::uint32_t sums = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;  // parts of a product are added in float32, too
    check(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &sums, sizeof sums), "describe a product");
    cublasLtMatmulHeuristicResult_t choice{};
    int found = 0;
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(handle_, plan.product, plan.a, plan.b, plan.c, plan.c, preference, 1, &choice, &found);
    check(cublasLtMatmulPreferenceDestroy(preference), "describe a workspace");
    plan.possible = status == CUBLAS_STATUS_SUCCESS && found > 0;
    plan.algorithm = choice.algo;
    return plans_.emplace(p, plan).first->second;
  }

  std::mutex mutex_;
  cublasLtHandle_t handle_ = nullptr;
  void* workspace_ = nullptr;
  std::map<Product, Plan> plans_;
};

}  // namespace relay::cuda
