// What memory a training needs, known before it runs, and what a loop keeps under a limit.
//
// A plan runs the objective once, on the largest share of a batch that a lane is dealt, with a model of the backend Shapes
// (backend/shapes.hpp): shapes are made as in a training, nothing is computed, and what the memory counted is the plan. It holds for any
// model, layer or objective, and is what Trainer::reserve then takes, within some hundred KiB a lane: what an operation of the CPU
// packs for itself is an estimate, of products with AVX-512, or AMX, where this machine has it; products of bf16 pack up to 512 bytes a row besides. Lists of the host are not in it.
//
// Shapes<Scalar> is the CPU; Shapes<Scalar, keeping_of<Backend>()> is any backend, with what a GPU keeps besides: GELU's results, and of each
// linear layer of a loop the gradients of all iterations (backend/keeping.hpp). There some MiB a lane are not in it (tens, where a lane has 100,000 rows), of sums over rows and
// of lists, nor what is common to all: cuBLASLt's room, and the context.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>
#include <vector>

#include <relay/backend/shapes.hpp>
#include <relay/core/parameters.hpp>
#include <relay/layer/looped.hpp>
#include <relay/task/example.hpp>
#include <relay/train/trainer.hpp>

namespace relay {

/// Bytes.
struct MemoryPlan {
  std::size_t parameters = 0;   // of the model, and its constants (rotary tables)
  std::size_t laid_out = 0;     // its weights again, as products read them
  std::size_t gradients = 0;    // one of every lane
  std::size_t moments = 0;      // two, of the optimiser
  std::size_t activations = 0;  // of all lanes: traces, and what lies between them

  std::size_t total() const { return parameters + laid_out + gradients + moments + activations; }
};

/// Of a training with batches of `batch` examples in `lanes` lanes and `slices` slices, none of them larger than `largest` (columns, iterations, text).
/// make(device) gives the model, and the objective is one for it, both with Shapes as their backend.
template <class Objective>
MemoryPlan plan_memory(auto&& make, const Objective& objective, const Example& largest, int batch, int lanes, int slices = 1) {
  using Backend = typename Objective::Backend;
  static_assert(requires { typename Backend::NoElements; },
                "relay: memory is planned with a model and an objective whose backend is Shapes");
  const int copies = largest_share(batch, lanes, slices);
  require(copies * objective.cost(largest) <= 1 << 26, "a lane may be dealt ", copies, " examples of ", objective.cost(largest),
          " tokens, more than can be planned, or trained: lower the batch, or have more lanes or slices");
  typename Backend::Memory weights, activations;
  auto model = make(typename Backend::Device{&weights});
  MemoryPlan plan;
  plan.parameters = weights.used();
  plan.gradients = static_cast<std::size_t>(lanes) * plan.parameters;
  plan.moments = 2 * plan.parameters;
  auto gradient = model;
  const std::size_t alone = weights.used();
  prepare(model);
  plan.laid_out = weights.used() - alone;
  typename Objective::Workspace workspace{typename Backend::Device{&activations}};
  const std::vector<const Example*> share(static_cast<std::size_t>(copies), &largest);
  if constexpr (detail::StagesAllRows<Objective>) {
    objective.stage_all_rows(share, workspace.staged);
    objective(model, workspace.staged, 1, Key(), workspace, gradient);
  } else {
    objective(model, share, 1, Key(), workspace, gradient);
  }
  plan.activations = static_cast<std::size_t>(lanes) * activations.bytes();
  return plan;
}

/// Bytes in MiB, rounded up, as limits are given.
inline long mebibytes(std::size_t bytes) { return static_cast<long>((bytes + (std::size_t{1} << 20) - 1) >> 20); }

/// Throws where a plan does not fit into `limit` bytes, none where there is no limit. `what`: what is planned, for the message.
inline void require_fits(std::string_view what, const MemoryPlan& plan, std::optional<std::size_t> limit) {
  require(!limit || plan.total() <= *limit, what, " needs ", mebibytes(plan.total()), " MiB (parameters ",
          mebibytes(plan.parameters + plan.laid_out), ", gradients ", mebibytes(plan.gradients), ", moments ", mebibytes(plan.moments),
          ", activations ", mebibytes(plan.activations), "), but the limit is ", limit.value_or(0) >> 20,
          " MiB: lower the batch, or the lanes, or the model's size, or have more slices, or raise the limit");
}

/// What a loop keeps under `limit` bytes: everything if that fits, else the inputs of its iterations, if that fits; throws where
/// neither does. The bits of the result are the same (on a GPU but for the order of some sums).
inline Keep choose_keep(std::string_view what, const MemoryPlan& everything, const MemoryPlan& inputs,
                        std::optional<std::size_t> limit) {
  if (!limit || everything.total() <= *limit) return Keep::everything;
  require_fits(message(what, ", recomputing what it does not store,"), inputs, limit);
  return Keep::inputs;
}

}  // namespace relay
