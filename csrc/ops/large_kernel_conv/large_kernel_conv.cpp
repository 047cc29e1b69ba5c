// large_kernel_conv: depthwise 5x5, then depthwise 7x7 of dilation 3, each padded to size; and its gradients.
//
//   forward           x, w5, b5, w7, b7 -> y                                     25 + 49 multiply-adds an element
//   input_backward    grad, w5, w7 -> grad_x                                     49 + 25
//   backward          x, w5, b5, w7, grad -> grad_x and those of the weights     173: t and its gradient once for both
//
// A task walks down a band of a block of channels. It keeps inputs and the map t between the convolutions as rings of the
// rows in use, which stay in the second-level cache: 19 rows of t, 170 KB at a width of 112.
#include "ops/large_kernel_conv/api.h"
#include "ops/large_kernel_conv/depthwise_cpu.h"

namespace fastiqa {
namespace {

template <class A>
using Near = Kernel<A, 5, 1>;
template <class A>
using Far = Kernel<A, 7, 3>;

// ---- input gradient and forward ----

/// out = second(first(in)) with kernels that load(first, second, task) fetches.
template <class T, class First, class Second, class Load>
void two_convolutions(const View& in, const View& out, Load load) {
  using A = accumulator_t<T>;
  const DepthwisePlan plan(in, kLanes<A>, get_num_threads());  // no result depends on the bands
  const int64_t height = plan.height, width = plan.width;
  parallel_for(0, plan.tasks, 1, [&](int64_t begin, int64_t end) {
    First first(height, width);
    Second second(height, width);
    const Ring<A> inputs = first.ring(), between = second.ring(), result(0, width + kLanes<A>, 1);
    for (int64_t k = begin; k < end; ++k) {
      const DepthwiseTask task = plan.task(k);
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
  check_large_kernel_conv(x, w5, b5, w7, b7, out);
  const View weight5 = view(w5), weight7 = view(w7), to = written(out);
  const Bias bias5 = bias_of(b5), bias7 = bias_of(b7);
  visit_dtype(x, [&]<class T>() {
    using A = accumulator_t<T>;
    two_convolutions<T, Near<A>, Far<A>>(view(x), to, [&](Near<A>& near, Far<A>& far, const DepthwiseTask& task) {
      load_weight<T>(near, weight5, task, Turn::none);
      load_weight<T>(far, weight7, task, Turn::none);
      gather_row(row_of<T>(bias5, task), &near.bias);
      gather_row(row_of<T>(bias7, task), &far.bias);
    });
  });
}

void large_kernel_conv_input_backward(Tensor grad, Tensor w5, Tensor w7, Tensor grad_x) {
  check_large_kernel_conv_input_backward(grad, w5, w7, grad_x);
  const View weight5 = view(w5), weight7 = view(w7), to = written(grad_x);
  visit_dtype(grad, [&]<class T>() {
    using A = accumulator_t<T>;
    two_convolutions<T, Far<A>, Near<A>>(view(grad), to, [&](Far<A>& far, Near<A>& near, const DepthwiseTask& task) {
      load_weight<T>(near, weight5, task, Turn::half);
      load_weight<T>(far, weight7, task, Turn::half);
    });
  });
}

// ---- gradients of weights ----

constexpr int64_t kBackwardTasks = 16;  // fixed, as the order of sums must not depend on the number of threads
constexpr int kNearSums = 25 + 1;       // of a channel: w5, b5
constexpr int kSums = kNearSums + 49 + 1;
constexpr int64_t kTerms = 64;          // in a sum of the accumulation type, before it goes into a float64

/// Moves a kernel's sums to float64 totals of kLanes each: those of the weights, then that of the bias.
template <class A, int K, int D>
FASTIQA_CLONES void flush(Kernel<A, K, D>& sums, double* totals) {
  constexpr int n = kLanes<A>;
  typedef double Doubles __attribute__((vector_size(n * sizeof(double))));
  for (int k = 0; k <= K * K; ++k) {
    Vec<A>& sum = k < K * K ? sums.weight[k] : sums.bias;
    Doubles total;
    std::memcpy(&total, totals + k * n, sizeof total);
    total += __builtin_convertvector(sum, Doubles);
    std::memcpy(totals + k * n, &total, sizeof total);
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

  void run(const DepthwiseTask& task, double* totals) {
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
        flush(far_sums, totals + kNearSums * kLanes<A>);
        terms = 0;
      }
    }
  }
};

/// Adds a kernel's totals over the tasks of a block of channels, in their order, and writes the gradients.
template <class T, int K>
void write_sums(const double* totals, int64_t tasks, const DepthwiseTask& block, const View& weight, const Bias& bias) {
  using A = accumulator_t<T>;
  constexpr int n = kLanes<A>;
  Vec<A> sums[K * K + n + 1];  // with room for what scatter_row reads beyond a row
  for (int k = 0; k <= K * K; ++k) {
    A lanes[n];
    for (int l = 0; l < n; ++l) {
      double sum = 0;
      for (int64_t t = 0; t < tasks; ++t) sum += totals[(t * kSums + k) * n + l];
      lanes[l] = static_cast<A>(sum);
    }
    std::memcpy(&sums[k], lanes, sizeof lanes);
  }
  scatter_row(&sums[K * K], row_of<T>(bias, block));
  visit_weight<T, K>(weight, block, [&](const Row<T>& row, int tap) { scatter_row(&sums[tap], row); });
}

void large_kernel_conv_backward(Tensor x, Tensor w5, Tensor b5, Tensor w7, Tensor grad, Tensor grad_x, Tensor grad_w5,
                                Tensor grad_b5, Tensor grad_w7, Tensor grad_b7) {
  check_large_kernel_conv_backward(x, w5, b5, w7, grad, grad_x, grad_w5, grad_b5, grad_w7, grad_b7);
  const View maps[] = {view(x), view(grad), written(grad_x)};
  const View weight5 = view(w5), weight7 = view(w7), to_w5 = written(grad_w5), to_w7 = written(grad_w7);
  const Bias bias5 = bias_of(b5), to_b5 = bias_written(grad_b5), to_b7 = bias_written(grad_b7);
  visit_dtype(x, [&]<class T>() {
    constexpr int n = kLanes<accumulator_t<T>>;
    const DepthwisePlan plan(maps[0], n, kBackwardTasks);
    std::vector<double> totals(plan.tasks * kSums * n);
    parallel_for(0, plan.tasks, 1, [&](int64_t begin, int64_t end) {
      Backward<T> backward{maps[0], maps[1], maps[2], plan.height, plan.width};
      for (int64_t k = begin; k < end; ++k) {
        const DepthwiseTask task = plan.task(k);
        load_weight<T>(backward.near, weight5, task, Turn::none);
        gather_row(row_of<T>(bias5, task), &backward.near.bias);
        load_weight<T>(backward.near_adjoint, weight5, task, Turn::half);
        load_weight<T>(backward.far_adjoint, weight7, task, Turn::half);
        backward.run(task, &totals[k * kSums * n]);
      }
    });
    const int64_t tasks = plan.tasks / plan.blocks;
    parallel_for(0, plan.blocks, 4, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) {
        const double* of_block = &totals[block * tasks * kSums * n];
        write_sums<T, 5>(of_block, tasks, plan.task(block * tasks), to_w5, to_b5);
        write_sums<T, 7>(of_block + kNearSums * n, tasks, plan.task(block * tasks), to_w7, to_b7);
      }
    });
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
