// Looped<Block>: one block applied again and again, a different number of times to each sequence of a batch.
//
//   u_t = s_{t-1} + [inject, t > 1] h_0 + [signal] tau(t)      s_0 = h_0
//   e_t = block(u_t)        y_t = norm(e_t)        s_t = [normalise] y_t, [a feedback] feed(y_t), else e_t
//
// y_t is the state that heads read and that is open to the caller at every iteration. Dehghani et al. 2019 (Universal
// Transformer) is the source of the loop and of the signal tau, a fixed sinusoid of t. Sequences are sorted by count, longest
// first: those still looping at t are the first rows, so nothing is masked and nothing is computed for those that are done.
//
// Of sequences that are done after iteration t, the caller may need some rows of y_t only: `needing`.
//
// Backward walks the traces last to first. The gradient of s_t is what came back through u_{t+1}; of y_t, what the caller
// gives; with a `window` w it is cut where a whole number of windows is left, so each sequence trains its last w iterations
// from a frozen state, the w before from an earlier one, and so on.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include <relay/layer/layer_norm.hpp>

namespace relay {

inline constexpr int dynamic_iterations = -1;

struct LoopConfig {
  bool inject = false;     // add h_0 to the state before every iteration but the first
  bool signal = false;     // add a sinusoid of the iteration's number
  bool normalise = false;  // feed the normalised state back instead of the raw one
  bool reembed = false;    // feed back what is read: the expected embedding of the chain head's tokens (model/looped_transformer.hpp)
  int window = 0;          // iterations a gradient flows back through; 0: all
};

/// What becomes of y_t before it is fed back, where the model wants it so: feed(y_t), row by row. Promises: `forward(y, rows, s)` writes
/// the first `rows` rows of s = feed(y); `backward(y, ds, dy)` adds the gradient to as many rows of dy as ds has, and to that of its own
/// parameters. Where `active()` is false it is not asked.
struct NoFeedback {
  static constexpr bool active() { return false; }
  static void forward(const auto&, int, auto&) {}
  static void backward(const auto&, const auto&, auto&) {}
};

/// needing(t, rows): the same rows, of which those of sequences that go on after iteration t, the first, must all be needed; of the others, any.
/// Then y_t has those rows alone. The same in forward and backward. Only for blocks that can (GivesNeededRows).
struct NeedingAll {
  auto operator()(int, const auto& rows) const { return rows; }
};

/// What a forward pass through the loop keeps: what backward needs, only each iteration's input (backward applies the block
/// again: the same bits for about a third more time; on a GPU the same but for the order of some sums), or nothing (inference). What is not
/// kept is computed forward only.
enum class Keep { everything, inputs, nothing };

template <class BlockT, int Iterations = dynamic_iterations>
class Looped {
  static_assert(Block<BlockT>, "relay: only a Block can be looped: a Layer whose Output is the same type as its Input");
  static_assert(Iterations == dynamic_iterations || Iterations > 0, "relay: a loop runs at least once");

 public:
  using Backend = typename BlockT::Backend;
  using Tensor = typename Backend::Tensor;
  using Input = typename BlockT::Input;
  using Output = Input;
  static constexpr bool gives_needed_rows_at_end = GivesNeededRows<BlockT>;

  struct Application {  // of one iteration
    typename BlockT::Trace block;
    typename LayerNorm<Backend>::Trace norm;
  };
  struct Trace {
    Keep keep = Keep::everything;
    std::vector<int> counts;                // iterations of each sequence, longest first
    std::vector<Tensor> inputs;             // u_1 .. u_T, or the last one only
    std::vector<Application> applications;  // of 1 .. T, or the last one only
    Tensor tau;                             // [1, width]: the signal of one iteration, where the loop has one
    std::vector<typename Backend::Scalar> sines;  // the same on the host
    mutable typename Backend::Applications together;  // the applications of the block, where all are kept (backend/ops.hpp)

    int iterations() const { return counts.empty() ? 0 : counts.front(); }
    /// The sequences that are still looping at iteration t.
    int live(int t) const {
      return static_cast<int>(std::partition_point(counts.begin(), counts.end(), [t](int n) { return n >= t; }) - counts.begin());
    }
    Tensor& input(int t) { return at(inputs, t, keep != Keep::nothing); }
    const Tensor& input(int t) const { return at(inputs, t, keep != Keep::nothing); }
    Application& application(int t) { return at(applications, t, keep == Keep::everything); }
    const Application& application(int t) const { return at(applications, t, keep == Keep::everything); }
    /// y_t [rows of live(t), or those needed, width]; open for every t when everything was kept, else only for the last iteration.
    const Tensor& state(int t) const { return application(t).norm.y; }

   private:
    template <class List>
    static auto& at(List& list, int t, bool one_each) {
      return list[one_each ? static_cast<std::size_t>(t - 1) : 0];
    }
  };

  BlockT block;
  LayerNorm<Backend> norm;

  Looped(BlockT body, int width, LoopConfig config = {}, typename Backend::Device device = {})
      : block(std::move(body)), norm(width, device), config_(config) {
    require(config.window >= 0, "a window of ", config.window, " iterations: give a positive number, or 0 for all");
  }

  static const Output& output(const Trace& trace) { return trace.state(trace.iterations()); }
  static void each(auto&& visit, auto&... loop) {
    visit("block", loop.block...);
    visit("norm", loop.norm...);
  }
  const LoopConfig& config() const { return config_; }

  /// Runs counts[s] iterations of sequence s, calling read(t, rows, y_t) after each. The counts must not increase; with a
  /// static number of iterations each must be that number.
  template <std::invocable<int, const Rows<Backend>&, const Tensor&> Read, class Feedback = NoFeedback, class Needing = NeedingAll>
  void forward(const Input& h0, const Rows<Backend>& rows, std::span<const int> counts, Trace& trace, Read&& read,
               Feedback feedback = {}, const Needing& needing = {}) const {
    start(rows, counts, trace);
    const bool kept = trace.keep == Keep::everything;  // else nobody asks for more of a trace than its output
    int first = 0;  // of an iteration's rows among those of all
    if (kept) {
      for (int t = 1; t <= trace.iterations(); ++t) first += rows.first(trace.live(t)).count();
      Backend::begin_applications(trace.together, std::exchange(first, 0), rows.batch().device());
    }
    for (int t = 1; t <= trace.iterations(); ++t) {
      const auto live = needing(t, rows.first(trace.live(t)).fold(static_cast<std::uint64_t>(t)));
      if constexpr (!gives_needed_rows_at_end) require(live.needed() == nullptr, "the block of this loop gives all rows: say of none that it is needed");
      prepare(t, h0, live, trace, feedback);
      const typename Backend::Applied applied(kept ? &trace.together : nullptr, first, live.count());
      first += live.count();
      read(t, live, apply(trace.input(t), kept ? live : live.forward_only(), trace.application(t)));
    }
  }

  /// Calls give(t, rows, dy_t), which adds the caller's gradient of y_t to dy_t, from the last iteration to the first;
  /// returns dh_0.
  template <std::invocable<int, const Rows<Backend>&, Tensor&> Give>
  Input backward(const Input& h0, const Rows<Backend>& rows, const Trace& trace, Give&& give, Looped& grad) const {
    Application again;
    return backward(h0, rows, trace, give, grad, again);
  }
  /// With a place for the iteration that is applied again, where it was not kept. That may be the one of the trace that forward
  /// left the last iteration in, trace.applications.front(), if nobody reads that any more.
  template <std::invocable<int, const Rows<Backend>&, Tensor&> Give, class Feedback = NoFeedback, class Needing = NeedingAll>
  Input backward(const Input& h0, const Rows<Backend>& rows, const Trace& trace, Give&& give, Looped& grad, Application& again,
                 Feedback feedback = {}, const Needing& needing = {}) const {
    require(trace.keep != Keep::nothing, "this trace of a loop kept nothing: run forward with Keep::everything or Keep::inputs");
    Tensor dh0, carried;  // gradients of h_0 and, going down, of s_t
    const Tensor none;
    dh0.resize_like(h0, h0.rows(), h0.cols());
    Backend::fill(dh0, 0);
    const bool kept = trace.keep == Keep::everything;
    if (kept) Backend::begin_gradients(trace.together);
    int first = 0;
    for (int t = 1; kept && t <= trace.iterations(); ++t) first += rows.first(trace.live(t)).count();
    for (int t = trace.iterations(); t >= 1; --t) {
      const auto live = needing(t, rows.first(trace.live(t)).fold(static_cast<std::uint64_t>(t)));
      const Tensor& u = trace.input(t);
      first -= live.count();
      const typename Backend::Applied applied(kept ? &trace.together : nullptr, first, live.count());
      if (trace.keep == Keep::inputs) apply(u, live, again);
      const Application& application = trace.keep == Keep::inputs ? again : trace.application(t);
      require(application.norm.y.rows() == live.outputs(), "iteration ", t, " of the loop gave ", application.norm.y.rows(), " rows, but backward is told that ",
              live.outputs(), " were needed: give it what forward was given");
      cut(t, rows, trace, carried);

      Tensor dy;
      dy.resize_like(h0, live.outputs(), h0.cols());
      Backend::fill(dy, 0);
      give(t, live, dy);
      if (feedback.active())
        feedback.backward(application.norm.y, carried, dy);
      else if (config_.normalise)
        Backend::add(carried, dy);
      const Tensor& e = BlockT::output(application.block);
      const bool raw = !config_.normalise && !feedback.active();  // s_t is e_t
      const Tensor d = norm.backward_first(e, application.norm, dy, raw ? carried : none, grad.norm, dropping(live));
      carried = block.backward(u, live, application.block, d, grad.block);
      if (config_.inject && t > 1) Backend::add(carried, dh0);
    }
    if (kept) Backend::add_gradients(trace.together);
    Backend::add(carried, dh0);
    return dh0;
  }

  // With a static number of iterations a loop is itself a block: every sequence runs `Iterations` times.
  const Output& forward(const Input& h0, const Rows<Backend>& rows, Trace& trace) const
    requires(Iterations != dynamic_iterations)
  {
    const std::vector<int> counts(static_cast<std::size_t>(rows.sequences()), Iterations);
    forward(h0, rows, counts, trace, [](int, const auto&, const Tensor&) {});
    return output(trace);
  }
  Input backward(const Input& h0, const Rows<Backend>& rows, const Trace& trace, const Output& dy, Looped& grad) const
    requires(Iterations != dynamic_iterations)
  {
    const auto give = [&](int t, const auto&, Tensor& d) {
      if (t == Iterations) Backend::add(dy, d);
    };
    return backward(h0, rows, trace, give, grad);
  }

 private:
  void start(const Rows<Backend>& rows, std::span<const int> counts, Trace& trace) const {
    require(static_cast<int>(counts.size()) == rows.sequences(), "the loop was given ", counts.size(),
            " iteration counts for ", rows.sequences(), " sequences: give one each");
    require(std::is_sorted(counts.rbegin(), counts.rend()),
            "sequences must come sorted by their number of iterations, the longest first");
    require(counts.empty() || counts.back() >= 1, "every sequence needs at least one iteration, not ",
            counts.empty() ? 0 : counts.back());
    if constexpr (Iterations != dynamic_iterations)
      for (const int n : counts)
        require(n == Iterations, "this loop runs ", Iterations, " iterations, which is part of its type, but a sequence was given ", n,
                ": give ", Iterations, " to each, or leave the number out of the type");
    trace.counts.assign(counts.begin(), counts.end());
    const auto most = static_cast<std::size_t>(trace.iterations());
    const auto grow = [](auto& list, std::size_t n) {
      if (list.size() < n) list.resize(n);
    };
    grow(trace.inputs, trace.keep == Keep::nothing ? 1 : most);
    grow(trace.applications, trace.keep == Keep::everything ? std::max<std::size_t>(most, 1) : 1);
  }

  /// Writes u_t.
  void prepare(int t, const Input& h0, const Rows<Backend>& live, Trace& trace, auto& feedback) const {
    Tensor& u = trace.input(t);
    if (t == 1) {
      Backend::copy(h0, u);
    } else {
      const Application& before = trace.application(t - 1);
      if (feedback.active())
        feedback.forward(before.norm.y, live.count(), u);
      else if (trace.keep == Keep::everything && !config_.inject && !config_.signal)  // it stays, and is what u is
        Backend::view_first(config_.normalise ? before.norm.y : BlockT::output(before.block), live.count(), u);
      else
        Backend::copy_first(config_.normalise ? before.norm.y : BlockT::output(before.block), live.count(), u);
      if (config_.inject) Backend::add(h0, u);
    }
    if (config_.signal) Backend::add_row(signal(t, u, trace), u);
  }

  const Tensor& apply(const Tensor& u, const Rows<Backend>& live, Application& application) const {
    if constexpr (requires { block.forward(u, live, application.block, NextNorm<Backend>{}); }) {
      block.forward(u, live, application.block, NextNorm<Backend>{&norm, &application.norm});
      return application.norm.y;
    } else {
      return norm.forward(block.forward(u, live, application.block), live, application.norm);
    }
  }

  /// Drops the gradient of s_t for sequences that have a whole number of windows still to run.
  void cut(int t, const Rows<Backend>& rows, const Trace& trace, Tensor& carried) const {
    if (config_.window == 0) return;
    for (int s = 0; s < trace.live(t + 1); ++s)
      if ((trace.counts[static_cast<std::size_t>(s)] - t) % config_.window == 0)
        Backend::clear_rows(carried, rows.begin(s), rows.end(s));
  }

  /// What the block does first with the gradient of its output, if it says so.
  std::optional<Dropping> dropping(const Rows<Backend>& live) const {
    if constexpr (requires { block.dropping(live); })
      return block.dropping(live);
    else
      return {};
  }

  /// tau(t) [1, width]: sines of t at falling frequencies, then cosines.
  static const Tensor& signal(int t, const Tensor& like, Trace& trace) {
    trace.tau.resize_like(like, 1, like.cols());
    trace.sines.resize(static_cast<std::size_t>(like.cols()));
    const int half = std::max(like.cols() / 2, 1);
    for (int i = 0; i < like.cols(); ++i) {
      const double angle = t * std::pow(10000.0, -static_cast<double>(i % half) / half);
      trace.sines[static_cast<std::size_t>(i)] = static_cast<typename Backend::Scalar>(i < half ? std::sin(angle) : std::cos(angle));
    }
    Backend::upload(trace.sines, trace.tau);
    return trace.tau;
  }

  LoopConfig config_;
};

}  // namespace relay
