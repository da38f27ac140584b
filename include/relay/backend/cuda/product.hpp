// Products of the CUDA backend: cuBLASLt, with a workspace of our own, so that a product gives the same bits whenever it is repeated.
//
// Float32 is computed as float32, without tf32; bf16 by tensor cores, summed in float32. cuBLASLt's GELU is the tanh approximation, which
// is not ours (backend.hpp 7), so that only the bias goes along with a product.
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

/// c [n, m] = op(b) op(a) + beta c + bias, by rows; as cuBLAS sees it, by columns: c [m, n] = op(a) [m, k] op(b) [k, n] + bias [m].
struct Product {
  bool transpose_a = false, transpose_b = false;
  int m = 0, n = 0, k = 0;
  Type type = Type::float32, result = Type::float32;  // of a and b; of c
  bool adds = false;                                  // to c
  bool bias = false;

  auto operator<=>(const Product&) const = default;
};

/// cuBLASLt and what it decided for the products so far.
class Products {
 public:
  static Products& instance() {
    static Products* const one = new Products;  // never destroyed: the driver may be gone before
    return *one;
  }

  /// bias: float32.
  void operator()(const Product& product, const void* a, const void* b, const float* bias, void* c) {
    if (product.m == 0 || product.n == 0) return;
    const std::lock_guard lock(mutex_);
    if (multiply(planned(alike(product)), product, a, b, bias, c) != CUBLAS_STATUS_SUCCESS)  // what is good for the largest is not for all
      check(multiply(planned(product), product, a, b, bias, c), "multiply");
  }

  /// Whether cuBLASLt adds a bias of float32 to such a product: for bf16 that depends on its version.
  bool adds_bias(Product product) {
    product.bias = true;
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

  cublasStatus_t multiply(const Plan& plan, const Product& p, const void* a, const void* b, const float* bias, void* c) {
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
    if (p.bias) check(cublasLtMatmulDescSetAttribute(plan.product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias), "set a bias");
    const float one = 1, beta = p.adds ? 1.0f : 0.0f;
    return cublasLtMatmul(handle_, plan.product, &one, a, plan.a, b, plan.b, &beta, c, plan.c, c, plan.c, &plan.algorithm, workspace_, room, stream());
  }

  Plan& planned(const Product& p) {
    if (const auto found = plans_.find(p); found != plans_.end()) return found->second;
    Plan plan{};
    const cudaDataType_t type = data_type(p.type), result = data_type(p.result);
    check(cublasLtMatmulDescCreate(&plan.product, CUBLAS_COMPUTE_32F, CUDA_R_32F), "describe a product");
    const auto set = [&](cublasLtMatmulDescAttributes_t attribute, auto value) {
      check(cublasLtMatmulDescSetAttribute(plan.product, attribute, &value, sizeof value), "describe a product");
    };
    set(CUBLASLT_MATMUL_DESC_TRANSA, p.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(CUBLASLT_MATMUL_DESC_TRANSB, p.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
    if (p.bias) {
      set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
      set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, CUDA_R_32F);
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
    cublasLtMatmulHeuristicResult_t choice{};
    int found = 0;
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(handle_, plan.product, plan.a, plan.b, plan.c, plan.c, preference, 1, &choice, &found);
    check(cublasLtMatmulPreferenceDestroy(preference), "describe a workspace");
    plan.possible = status == CUBLAS_STATUS_SUCCESS && found > 0;
    require(plan.possible || p.bias, "cuBLAS has no way to multiply [", p.m, ", ", p.k, "] by [", p.k, ", ", p.n, "] here: ",
            cublasLtGetStatusString(status));
    plan.algorithm = choice.algo;
    return plans_.emplace(p, plan).first->second;
  }

  std::mutex mutex_;
  cublasLtHandle_t handle_ = nullptr;
  void* workspace_ = nullptr;
  std::map<Product, Plan> plans_;
};

}  // namespace relay::cuda
