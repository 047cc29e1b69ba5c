// large_kernel_conv: depthwise 5x5, then depthwise 7x7 of dilation 3, each padded to size; and its gradients.
//
//   forward           x, w5, b5, w7, b7 -> y                                     25 + 49 multiply-adds an element
//   input_backward    grad, w5, w7 -> grad_x                                     49 + 25
//   backward          x, w5, b5, w7, grad -> grad_x and those of the weights     173: t and its gradient once for both
//
// A task walks down a band of a block of channels. What lies between the convolutions, and the inputs, exist as rings of
// the rows needed at a time, which stay in the second-level cache: 19 rows of t, 170 KB at a width of 112.
#include "depthwise_cpu.h"

namespace fastiqa {
namespace {

// ---- kernels ----

/// A block of channels' kernel, K x K and D apart, or the sums of its gradient.
template <class A, int K, int D>
struct Kernel {
  static constexpr int kHalf = D * (K / 2);

  Vec<A> weight[K * K] = {};
  Vec<A> bias = {};
  int64_t height, width;
  int tile;

  Kernel(int64_t height, int64_t width) : height(height), width(width), tile(tile_for<D>(width)) {}

  /// Rows that this kernel reads: it needs 2 kHalf + 1 at a time, and what its last tile reads beyond a row exists.
  Ring<A> ring(int64_t depth = 2 * kHalf + 1) const { return {kHalf, width + D * (tile + K), depth}; }

  /// Row y of the convolution.
  void convolve(const Ring<A>& in, int64_t y, Vec<A>* out) {
    const Taps<A> taps = meet(in, y);
    visit_tile<D>(tile, [&]<int T>() { convolve_row<A, K, D, T>(taps, bias, width, out); });
  }

  /// Adds to the sums what row y of the convolution's gradient contributes.
  void correlate(const Ring<A>& in, const Ring<A>& grad, int64_t y) {
    const Taps<A> taps = meet(in, y);
    visit_tile<D>(tile, [&]<int T>() { correlate_row<A, K, D, T>(taps, grad.row(y), width); });
    add_row<A>(grad.row(y), width, bias);
  }

 private:
  Taps<A> meet(const Ring<A>& in, int64_t y) {
    Taps<A> taps;
    taps.rows = 0;
    for (int k = 0; k < K; ++k) {
      const int64_t row = y + D * (k - K / 2);
      if (row < 0 || row >= height) continue;
      taps.input[taps.rows] = in.row(row) - kHalf;
      taps.weight[taps.rows++] = weight + k * K;
    }
    return taps;
  }
};

template <class A>
using Near = Kernel<A, 5, 1>;
template <class A>
using Far = Kernel<A, 7, 3>;

enum class Turn { none, half };  // turned by half, a kernel is that of the adjoint

// ---- walk ----

constexpr int64_t kLeastBand = 28;  // rows; a band computes up to 18 rows of the map between over again

/// A band of rows of a block of channels.
struct Task {
  int64_t n, first, begin, end;
  int channels;
};

struct Plan {
  int64_t channels, height, width, lanes, blocks, bands, tasks;

  Plan(const View& x, int64_t lanes, int64_t least_tasks)
      : channels(x.sizes[1]), height(x.sizes[2]), width(x.sizes[3]), lanes(lanes), blocks((channels + lanes - 1) / lanes) {
    const int64_t planes = x.sizes[0] * blocks;
    bands = std::clamp<int64_t>((least_tasks + planes - 1) / planes, 1, std::max<int64_t>(1, height / kLeastBand));
    tasks = planes * bands;
  }

  Task task(int64_t k) const {
    const int64_t band = k % bands, first = k / bands % blocks * lanes;
    return {k / bands / blocks, first, band * height / bands, (band + 1) * height / bands,
            static_cast<int>(std::min(lanes, channels - first))};
  }
};

template <class T>
const T* end_of(const View& v) {
  const T* last = static_cast<const T*>(v.data);
  for (int d = 0; d < kMaxRank; ++d) last += (v.sizes[d] - 1) * v.strides[d];
  return last + 1;
}

template <class T>
Row<T> row_of(const View& v, const Task& task, int64_t y) {
  const auto& stride = v.strides;
  auto* data = static_cast<T*>(v.data) + task.n * stride[0] + task.first * stride[1] + y * stride[2];
  return {data, stride[1], stride[3], task.channels, v.sizes[3], y + 1 < v.sizes[2] ? stride[2] : 0, end_of<T>(v)};
}

/// The task's channels of a weight (C, 1, K, K).
template <class T, class A, int K, int D>
void load_weight(Kernel<A, K, D>& kernel, const View& w, const Task& task, Turn turn) {
  const auto& stride = w.strides;
  auto* data = static_cast<T*>(w.data) + task.first * stride[0];
  const bool one_run = stride[2] == K * stride[3];
  for (int k = 0; k < (one_run ? 1 : K); ++k)
    gather_row<T>({data + k * stride[2], stride[0], stride[3], task.channels, one_run ? K * K : K, 0, end_of<T>(w)},
                  kernel.weight + k * K);
  if (turn == Turn::half) std::reverse(kernel.weight, kernel.weight + K * K);
}

/// The task's channels of a bias (C).
template <class T>
void load_bias(Vec<accumulator_t<T>>& bias, const Tensor& b, const Task& task) {
  const int64_t stride = b.strides()[0];
  gather_row<T>({static_cast<T*>(b.data_ptr()) + task.first * stride, stride, 0, task.channels, 1, 0, nullptr}, &bias);
}

/// Rows [from, to] of a map of `height` rows, those not yet made: make(y) for each.
template <class Make>
void advance(int64_t& next, int64_t to, int64_t height, Make make) {
  for (; next <= std::min(height - 1, to); ++next) make(next);
}

// ---- launchers ----

/// out = second(first(in)) with kernels that load(first, second, task) fetches.
template <class T, class First, class Second, class Load>
void two_convolutions(const View& in, const View& out, Load load) {
  using A = accumulator_t<T>;
  const Plan plan(in, kLanes<A>, torch::stable::get_num_threads());  // no result depends on the bands
  const int64_t height = plan.height, width = plan.width;
  torch::stable::parallel_for(0, plan.tasks, 1, [&](int64_t begin, int64_t end) {
    First first(height, width);
    Second second(height, width);
    const Ring<A> inputs = first.ring(), between = second.ring(), result(0, width + kLanes<A>, 1);
    for (int64_t k = begin; k < end; ++k) {
      const Task task = plan.task(k);
      load(first, second, task);
      int64_t made = std::max<int64_t>(0, task.begin - Second::kHalf), read = std::max<int64_t>(0, made - First::kHalf);
      for (int64_t y = task.begin; y < task.end; ++y) {
        advance(made, y + Second::kHalf, height, [&](int64_t m) {
          advance(read, m + First::kHalf, height, [&](int64_t r) { gather_row(row_of<T>(in, task, r), inputs.row(r)); });
          first.convolve(inputs, m, between.row(m));
        });
        second.convolve(between, y, result.row(0));
        scatter_row(result.row(0), row_of<T>(out, task, y));
      }
    }
  });
}

void large_kernel_conv(Tensor x, Tensor w5, Tensor b5, Tensor w7, Tensor b7, Tensor out) {
  visit_dtype(x, [&]<class T>() {
    using A = accumulator_t<T>;
    two_convolutions<T, Near<A>, Far<A>>(view(x), view(out), [&](Near<A>& near, Far<A>& far, const Task& task) {
      load_weight<T>(near, view(w5), task, Turn::none);
      load_weight<T>(far, view(w7), task, Turn::none);
      load_bias<T>(near.bias, b5, task);
      load_bias<T>(far.bias, b7, task);
    });
  });
}

void large_kernel_conv_input_backward(Tensor grad, Tensor w5, Tensor w7, Tensor grad_x) {
  visit_dtype(grad, [&]<class T>() {
    using A = accumulator_t<T>;
    two_convolutions<T, Far<A>, Near<A>>(view(grad), view(grad_x), [&](Far<A>& far, Near<A>& near, const Task& task) {
      load_weight<T>(near, view(w5), task, Turn::half);
      load_weight<T>(far, view(w7), task, Turn::half);
    });
  });
}

// ---- gradients of weights ----

constexpr int64_t kBackwardTasks = 16;  // fixed, as the order of sums must not depend on the number of threads
constexpr int kSums = 25 + 49 + 2;      // of a channel: w5, w7, b5, b7
constexpr int64_t kTerms = 256;         // in a sum of the accumulation type, before it goes into a float64

/// Moves a kernel's sums to float64 totals of kLanes each: those of the weights, then that of the bias.
template <class A, int K, int D>
FASTIQA_CLONES void flush(Kernel<A, K, D>& sums, double* totals) {
  constexpr int n = kLanes<A>;
  for (int k = 0; k <= K * K; ++k) {
    Vec<A>& sum = k < K * K ? sums.weight[k] : sums.bias;
    A lanes[n];
    std::memcpy(lanes, &sum, sizeof lanes);
    for (int l = 0; l < n; ++l) totals[k * n + l] += lanes[l];
    sum = Vec<A>{};
  }
}

/// What a thread holds to compute gradients in: kernels, sums and rings.
template <class T>
struct Backward {
  using A = accumulator_t<T>;

  const View &x, &grad, &grad_x;
  int64_t height, width;
  Near<A> near{height, width}, near_adjoint{height, width}, near_sums{height, width};
  Far<A> far_adjoint{height, width}, far_sums{height, width};
  // Each as deep as from the last row that its slowest reader needs to the one that its fastest reader needs first.
  Ring<A> xs = near.ring(14), ts = far_sums.ring(), grads = far_adjoint.ring(), grads_t = near_adjoint.ring();
  Ring<A> result{0, width + kLanes<A>, 1};

  void run(const Task& task, double* totals) {
    const auto first = [&](int64_t halo) { return std::max<int64_t>(0, task.begin - halo); };
    int64_t x_row = first(11), t_row = first(9), grad_row = first(11), grad_t_row = first(2);
    int64_t terms = 0;
    for (int64_t y = task.begin; y < task.end; ++y) {
      advance(t_row, y + 9, height, [&](int64_t t) {
        advance(x_row, t + 2, height, [&](int64_t r) { gather_row(row_of<T>(x, task, r), xs.row(r)); });
        near.convolve(xs, t, ts.row(t));
      });
      advance(grad_t_row, y + 2, height, [&](int64_t t) {
        advance(grad_row, t + 9, height, [&](int64_t r) { gather_row(row_of<T>(grad, task, r), grads.row(r)); });
        far_adjoint.convolve(grads, t, grads_t.row(t));
      });
      near_adjoint.convolve(grads_t, y, result.row(0));
      scatter_row(result.row(0), row_of<T>(grad_x, task, y));
      far_sums.correlate(ts, grads, y);
      near_sums.correlate(xs, grads_t, y);
      terms += width;
      if (terms >= kTerms || y + 1 == task.end) {
        flush(near_sums, totals);
        flush(far_sums, totals + 26 * kLanes<A>);
        terms = 0;
      }
    }
  }
};

/// Adds the totals of a block of channels over samples and bands, in that order, and writes `count` sums from `begin`.
template <class T>
void write_sums(const Plan& plan, const std::vector<double>& totals, int begin, int count, const Tensor& to) {
  const int64_t lanes = plan.lanes, samples = plan.tasks / plan.blocks / plan.bands;
  const auto& stride = to.strides();
  for (int64_t c = 0; c < plan.channels; ++c)
    for (int k = 0; k < count; ++k) {
      double sum = 0;
      for (int64_t n = 0; n < samples; ++n)
        for (int64_t band = 0; band < plan.bands; ++band) {
          const int64_t task = (n * plan.blocks + c / lanes) * plan.bands + band;
          sum += totals[(task * kSums + begin + k) * lanes + c % lanes];
        }
      const int size = count == 49 ? 7 : 5;
      const int64_t at = c * stride[0] + (count == 1 ? 0 : k / size * stride[2] + k % size * stride[3]);
      static_cast<T*>(to.data_ptr())[at] = narrow<T>(static_cast<accumulator_t<T>>(sum));
    }
}

void large_kernel_conv_backward(Tensor x, Tensor w5, Tensor b5, Tensor w7, Tensor grad, Tensor grad_x, Tensor grad_w5,
                                Tensor grad_b5, Tensor grad_w7, Tensor grad_b7) {
  visit_dtype(x, [&]<class T>() {
    constexpr int n = kLanes<accumulator_t<T>>;
    const View maps[] = {view(x), view(grad), view(grad_x)};
    const Plan plan(maps[0], n, kBackwardTasks);
    std::vector<double> totals(plan.tasks * kSums * n);
    torch::stable::parallel_for(0, plan.tasks, 1, [&](int64_t begin, int64_t end) {
      Backward<T> backward{maps[0], maps[1], maps[2], plan.height, plan.width};
      for (int64_t k = begin; k < end; ++k) {
        const Task task = plan.task(k);
        load_weight<T>(backward.near, view(w5), task, Turn::none);
        load_bias<T>(backward.near.bias, b5, task);
        load_weight<T>(backward.near_adjoint, view(w5), task, Turn::half);
        load_weight<T>(backward.far_adjoint, view(w7), task, Turn::half);
        backward.run(task, &totals[k * kSums * n]);
      }
    });
    write_sums<T>(plan, totals, 0, 25, grad_w5);
    write_sums<T>(plan, totals, 25, 1, grad_b5);
    write_sums<T>(plan, totals, 26, 49, grad_w7);
    write_sums<T>(plan, totals, 75, 1, grad_b7);
  });
}

}  // namespace

FASTIQA_REGISTER(large_kernel_conv,
                 "large_kernel_conv(Tensor x, Tensor w5, Tensor b5, Tensor w7, Tensor b7, Tensor(a!) out) -> ()")
FASTIQA_REGISTER(large_kernel_conv_input_backward,
                 "large_kernel_conv_input_backward(Tensor grad, Tensor w5, Tensor w7, Tensor(a!) grad_x) -> ()")
FASTIQA_REGISTER(large_kernel_conv_backward,
                 "large_kernel_conv_backward(Tensor x, Tensor w5, Tensor b5, Tensor w7, Tensor grad, Tensor(a!) grad_x, "
                 "Tensor(b!) grad_w5, Tensor(c!) grad_b5, Tensor(d!) grad_w7, Tensor(e!) grad_b7) -> ()")

}  // namespace fastiqa
