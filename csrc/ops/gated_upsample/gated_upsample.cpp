// gated_upsample: features times the interpolated sigmoid of a smaller map, and its adjoint.
//
//   forward    f (N,C,H,W), l (N,1|C,h,w) -> f * up(s), s = sigmoid(l)          reads f and l, writes one map
//   backward   g, f (N,C,H,W), l -> g * up(s), s (1 - s) upT(sum_c g * f)       reads g, f and l, writes one map and dl
//
// Gates are made a row at a time, from two rows of sigmoids. A gate of one channel becomes a map of N x H x W that every
// channel is multiplied by; its backward first writes the sums over channels, another such map, and then gathers them. A
// gate of C channels stays in the first-level cache and gathers within the one pass.
#include <memory>
#include <string>

#include "ops/gated_upsample/gates_cpu.h"

namespace fastiqa {
namespace {

constexpr int64_t kChannels = 64;  // channels of a gate row in channels-last maps: 64 x 112 float32 are 28 KiB
constexpr int64_t kSums = 4096;    // sums over channels made at once: 16 KiB of float32
constexpr int64_t kGroup = 16;     // channels summed before they join the rest of the sum
constexpr int64_t kTasks = 8;      // at least, of maps so small that one task could make all sums

// ---- kernels ----

/// The map of gates that all channels share.
template <class T>
FASTIQA_CLONES void gate_map(const GateCall<T>& call, const Blocks& blocks, int64_t begin, int64_t end,
                             accumulator_t<T>* memory, accumulator_t<T>* map) {
  for (int64_t task = begin; task < end; ++task) {
    const GateBlock block(blocks, task);
    Gates<T> gate(call, block.n, 0, 1, memory);
    for (int64_t y = block.begin; y < block.end; ++y)
      gate.row(y, map + (block.n * call.rows.out + y) * call.columns.out);
  }
}

/// A block of channels and rows times the gates that all channels share; with kSum also the sums over channels.
template <bool kSum, class T>
FASTIQA_CLONES void shared_gate(const GateCall<T>& call, const Blocks& blocks, int64_t begin, int64_t end,
                                const accumulator_t<T>* map, accumulator_t<T>* part, accumulator_t<T>* sums) {
  using A = accumulator_t<T>;
  const int64_t width = call.columns.out;
  const View &in = call.in, &features = call.features, &out = call.out;
  for (int64_t task = begin; task < end; ++task) {
    const GateBlock block(blocks, task);
    const A* gates = map + (block.n * call.rows.out + block.begin) * width;
    A* sum = kSum ? sums + (block.n * call.rows.out + block.begin) * width : nullptr;
    if (kSum) std::fill_n(sum, (block.end - block.begin) * width, A(0));
    const bool whole = !call.pixels && dense_rows(in) && dense_rows(out) && (!kSum || dense_rows(features));
    const int64_t height = whole ? block.end - block.begin : 1;
    const int outer = call.pixels ? 3 : 1, inner = call.pixels ? 1 : 3;
    // Sums in groups of channels first: added one by one, 64 channels lose twice what PyTorch's own sum loses.
    const int64_t group = kSum && !call.pixels ? kGroup : block.lanes;
    for (int64_t y = block.begin; y < block.end; y += height) {
      const int64_t skipped = (y - block.begin) * width, length = height * width;
      for (int64_t c = 0; c < block.lanes; c += group) {
        const int64_t channel = block.channel + c, count = std::min(group, block.lanes - c);
        if (kSum) std::fill_n(part, length, A(0));
        multiply<kSum>(Runs<T>{at<T>(in, block.n, channel, y), kSum ? at<T>(features, block.n, channel, y) : nullptr,
                               at<T>(out, block.n, channel, y), gates + skipped, part,
                               call.pixels ? count : length, call.pixels ? width : count,
                               {in.strides[inner], in.strides[outer]},
                               {features.strides[inner], features.strides[outer]},
                               {out.strides[inner], out.strides[outer]}, {!call.pixels, call.pixels}, call.streamed});
        for (int64_t k = 0; kSum && k < length; ++k) sum[skipped + k] += part[k];
      }
    }
  }
}

/// The walk over the channels of one row of a block whose gate is each channel's own.
template <class T>
FASTIQA_HD Runs<T> own_row(const GateCall<T>& call, const GateBlock& block, int64_t y, const accumulator_t<T>* gates) {
  const int outer = call.pixels ? 3 : 1, inner = call.pixels ? 1 : 3;
  return {at<T>(call.in, block.n, block.channel, y),
          nullptr,
          at<T>(call.out, block.n, block.channel, y),
          gates,
          nullptr,
          call.pixels ? block.lanes : call.columns.out,
          call.pixels ? call.columns.out : block.lanes,
          {call.in.strides[inner], call.in.strides[outer]},
          {call.features.strides[inner], call.features.strides[outer]},
          {call.out.strides[inner], call.out.strides[outer]},
          {1, block.lanes},
          call.streamed};
}

template <class T>
FASTIQA_CLONES void own_gate(const GateCall<T>& call, const Blocks& blocks, int64_t begin, int64_t end,
                             accumulator_t<T>* memory) {
  for (int64_t task = begin; task < end; ++task) {
    const GateBlock block(blocks, task);
    Gates<T> gate(call, block.n, block.channel, block.lanes, memory);
    auto* gates = memory + Gates<T>::memory(call, block.lanes);
    for (int64_t y = block.begin; y < block.end; ++y) {
      gate.row(y, gates);
      multiply<false>(own_row(call, block, y, gates));
    }
  }
}

/// The logits' gradients of a block of their rows: every row of products that reaches them, transposed along the columns
/// and then along the rows. The products are the sums that shared_gate wrote; or, without, are made here with the
/// gradient of the features, which is written for the rows whose first tap is in the block.
template <bool kShared, class T>
FASTIQA_CLONES void gather(const GateCall<T>& call, const View& to_logits, const Blocks& blocks, int64_t begin,
                           int64_t end, accumulator_t<T>* memory, const accumulator_t<T>* sums) {
  using A = accumulator_t<T>;
  const int64_t width = call.columns.out;
  for (int64_t task = begin; task < end; ++task) {
    const GateBlock block(blocks, task);
    const int64_t length = call.columns.in * block.lanes;
    Gates<T> gate(call, block.n, block.channel, block.lanes, memory);
    A* gates = memory + Gates<T>::memory(call, block.lanes);
    A* products = gates + width * block.lanes;
    A* unused = products + width * block.lanes;  // as many elements of T fit
    A* row = unused + width * block.lanes;
    A* total = row + length;
    std::fill_n(total, (block.end - block.begin) * length, A(0));
    const int64_t last = call.rows.end(block.end - 1);
    for (int64_t y = call.rows.first(block.begin); y < last; ++y) {
      const Taps<A> tap = call.rows.taps(y);
      const auto inside = [&](int64_t i) { return block.begin <= i && i < block.end; };
      if constexpr (!kShared) {
        gate.row(y, gates);
        std::fill_n(products, width * block.lanes, A(0));
        Runs<T> runs = own_row(call, block, y, gates);
        runs.features = at<T>(call.features, block.n, block.channel, y);
        runs.sum = products;
        if (!inside(tap.i0)) {
          runs.out = reinterpret_cast<T*>(unused), runs.out_stride[0] = 1, runs.out_stride[1] = block.lanes;
          runs.streamed = false;
        }
        multiply<true>(runs);
      }
      down(call, kShared ? sums + (block.n * call.rows.out + y) * width : products, row, block.lanes);
      const auto add = [&](int64_t i, A weight) {
        A* to = total + (i - block.begin) * length;
#pragma GCC ivdep
        for (int64_t k = 0; k < length; ++k) to[k] += weight * row[k];
      };
      if (inside(tap.i0)) add(tap.i0, tap.w0);
      if (inside(tap.i1) && !call.rows.nearest) add(tap.i1, tap.w1);
    }
    for (int64_t i = block.begin; i < block.end; ++i) {
      const A* s = gate.sigmoids(i);
      A* t = total + (i - block.begin) * length;
#pragma GCC ivdep
      for (int64_t k = 0; k < length; ++k) t[k] = t[k] * (A(1) - s[k]) * s[k];
      T* to = at<T>(to_logits, block.n, block.channel, i);
      for (int64_t x = 0; x < call.columns.in; ++x)
        for (int64_t v = 0; v < block.lanes; ++v)
          to[x * to_logits.strides[3] + v * to_logits.strides[1]] = narrow<T>(t[x * block.lanes + v]);
    }
  }
}

// ---- launchers ----

/// Rows of a task, so that it has about `elements` of them.
int64_t height(int64_t elements, int64_t row, int64_t least, int64_t rows) {
  return std::clamp(elements / row, std::min(least, rows), rows);
}

/// f(begin, end, memory) over the tasks, on all threads, each with memory of its own.
template <class A, class F>
void each(const Blocks& blocks, int64_t elements, int64_t memory, F f) {
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, elements / blocks.count()));
  parallel_for(0, blocks.count(), grain, [&](int64_t begin, int64_t end) {
    const auto own = std::make_unique_for_overwrite<A[]>(memory);
    f(begin, end, own.get());
    end_stream();
  });
}

template <bool kSum, class T>
void shared_gates(const GateCall<T>& call, accumulator_t<T>* sums) {
  using A = accumulator_t<T>;
  const auto [n, c, h, w] = call.in.sizes;
  const auto map = std::make_unique_for_overwrite<A[]>(n * h * w);
  const Blocks whole{n, 1, 1, h, height(kGrain, w, 1, h)};
  each<A>(whole, n * h * w, Gates<T>::memory(call, 1),
          [&](int64_t begin, int64_t end, A* memory) { gate_map(call, whole, begin, end, memory, map.get()); });
  // With sums all channels are one task's, so that its rows must be fewer.
  const int64_t share = (n * h * w + kTasks - 1) / kTasks;
  const int64_t rows = height(call.pixels ? kGrain / c : kSum ? std::min(kSums, share) : kGrain, w, 1, h);
  const int64_t channels = call.pixels || kSum ? c : std::clamp(kGrain / (rows * w), int64_t{1}, c);
  const Blocks blocks{n, c, channels, h, rows};
  each<A>(blocks, n * c * h * w, rows * w,
          [&](int64_t begin, int64_t end, A* part) { shared_gate<kSum>(call, blocks, begin, end, map.get(), part, sums); });
}

template <bool kShared, class T>
void gathers(const GateCall<T>& call, const View& to_logits, const accumulator_t<T>* sums) {
  using A = accumulator_t<T>;
  const auto [n, c, h, w] = to_logits.sizes;
  const int64_t wide = call.columns.out, lanes = call.pixels && !kShared ? std::min(c, kChannels) : 1;
  const int64_t rows = height(kGrain, std::max(w, wide * call.rows.out / h) * lanes, 8, h);
  each<A>({n, c, lanes, h, rows}, n * c * call.rows.out * wide, Gates<T>::memory(call, lanes) + (3 * wide + (1 + rows) * w) * lanes,
          [&](int64_t begin, int64_t end, A* memory) {
            gather<kShared>(call, to_logits, {n, c, lanes, h, rows}, begin, end, memory, sums);
          });
}

void gated_upsample(Tensor features, Tensor logits, std::string mode, Tensor out) {
  check_gated_upsample(features, logits, mode, out);
  visit_dtype(features, [&]<class T>() {
    using A = accumulator_t<T>;
    const GateCall<T> call(view(features), view(features), written(out), view(logits), mode == "nearest");
    if (call.shared) return shared_gates<false>(call, static_cast<A*>(nullptr));
    const auto [n, c, h, w] = call.in.sizes;
    const int64_t lanes = call.pixels ? std::min(c, kChannels) : 1;
    const Blocks blocks{n, c, lanes, h, height(kGrain, w * lanes, 8, h)};
    each<A>(blocks, n * c * h * w, Gates<T>::memory(call, lanes) + w * lanes,
            [&](int64_t begin, int64_t end, A* memory) { own_gate(call, blocks, begin, end, memory); });
  });
}

void gated_upsample_backward(Tensor grad, Tensor features, Tensor logits, std::string mode, Tensor to_features,
                             Tensor to_logits) {
  check_gated_upsample_backward(grad, features, logits, mode, to_features, to_logits);
  visit_dtype(grad, [&]<class T>() {
    using A = accumulator_t<T>;
    const GateCall<T> call(view(grad), view(features), written(to_features), view(logits), mode == "nearest");
    const View low = written(to_logits);
    if (!call.shared) return gathers<false>(call, low, static_cast<const A*>(nullptr));
    const auto sums = std::make_unique_for_overwrite<A[]>(call.in.sizes[0] * call.rows.out * call.columns.out);
    shared_gates<true>(call, sums.get());
    gathers<true>(call, low, static_cast<const A*>(sums.get()));
  });
}

}  // namespace

FASTIQA_REGISTER(gated_upsample, "gated_upsample(Tensor features, Tensor logits, str mode, Tensor(a!) out) -> ()")
FASTIQA_REGISTER(gated_upsample_backward,
                 "gated_upsample_backward(Tensor grad, Tensor features, Tensor logits, str mode, "
                 "Tensor(a!) to_features, Tensor(b!) to_logits) -> ()")

}  // namespace fastiqa
