// relay, all of it, in reading order. For users: nothing in the library includes this file. One header is not here, since it is some
// 2000 lines that only a program that writes reports needs: <relay/pipeline/report.hpp>.
#pragma once

// What everything stands on.
#include <relay/core/require.hpp>
#include <relay/core/bf16.hpp>
#include <relay/core/random.hpp>
#include <relay/core/ragged.hpp>
#include <relay/core/concepts.hpp>
#include <relay/core/parameters.hpp>
#include <relay/core/threads.hpp>
#include <relay/core/file.hpp>
#include <relay/core/json.hpp>
#include <relay/core/json_parser.hpp>
#include <relay/core/spelling.hpp>

// What is to be learned. No tensor is known here.
#include <relay/task/vocabulary.hpp>
#include <relay/task/example.hpp>
#include <relay/task/placement.hpp>
#include <relay/task/typed_text.hpp>
#include <relay/task/expression.hpp>
#include <relay/task/expression_parser.hpp>
#include <relay/task/arithmetic.hpp>
#include <relay/task/edit_distance.hpp>
#include <relay/task/longest_increasing_subsequence.hpp>
#include <relay/task/split.hpp>
#include <relay/task/any_task.hpp>
#include <relay/task/mixture.hpp>
#include <relay/task/jsonl.hpp>
#include <relay/task/records.hpp>
#include <relay/task/recorded.hpp>

// Where the arithmetic happens.
#include <relay/backend/ops.hpp>
#include <relay/backend/backend.hpp>
#include <relay/backend/memory.hpp>
#include <relay/backend/keeping.hpp>
#ifdef __CUDACC__  // What nvcc compiles has the GPU's backend, everything else the CPU's; a program of both has a file for each.
#include <relay/backend/cuda.hpp>
#else
#include <relay/backend/cpu.hpp>
#endif
#include <relay/backend/shapes.hpp>

// Layers: forward, backward, trace.
#include <relay/layer/initialise.hpp>
#include <relay/layer/linear.hpp>
#include <relay/layer/embedding.hpp>
#include <relay/layer/layer_norm.hpp>
#include <relay/layer/needed_rows.hpp>
#include <relay/layer/lookup.hpp>
#include <relay/layer/rotary.hpp>
#include <relay/layer/attention.hpp>
#include <relay/layer/feed_forward.hpp>
#include <relay/layer/dropout.hpp>
#include <relay/layer/residual.hpp>
#include <relay/layer/chain.hpp>
#include <relay/layer/stack.hpp>
#include <relay/layer/transformer_block.hpp>
#include <relay/layer/looped.hpp>
#include <relay/testing/gradcheck.hpp>

// Models.
#include <relay/model/looped_transformer.hpp>
#include <relay/model/causal_transformer.hpp>
#include <relay/model/generate.hpp>

// Models on disk.
#include <relay/io/safetensors.hpp>
#include <relay/io/checkpoint.hpp>

// Training.
#include <relay/train/supervision.hpp>
#include <relay/train/loss.hpp>
#include <relay/train/asked_rows.hpp>
#include <relay/train/needed_rows.hpp>
#include <relay/train/unroll.hpp>
#include <relay/train/next_token.hpp>
#include <relay/train/adamw.hpp>
#include <relay/train/trainer.hpp>
#include <relay/train/memory_plan.hpp>
#include <relay/train/data.hpp>
#include <relay/train/metrics.hpp>
#include <relay/train/progress.hpp>

// The pipeline.
#include <relay/pipeline/solve.hpp>
#include <relay/pipeline/accuracy.hpp>
#include <relay/pipeline/config.hpp>
#include <relay/pipeline/settings.hpp>
#include <relay/pipeline/plan.hpp>
#include <relay/pipeline/run_directory.hpp>
#include <relay/pipeline/evaluate.hpp>
#include <relay/pipeline/claims.hpp>
#include <relay/pipeline/diagnosis.hpp>
#include <relay/pipeline/machine.hpp>
#include <relay/pipeline/pipeline.hpp>
