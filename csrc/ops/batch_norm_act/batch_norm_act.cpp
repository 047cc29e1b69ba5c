// batch_norm_act: batch normalisation by the batch's own statistics and leaky ReLU, and the adjoint.
//
//   forward    x (N,C,H,W), weight, bias (C) -> (N,C,H,W), mean, rstd (C)                     reads 2, writes 1 map
//   backward   grad, x (N,C,H,W), weight, bias, mean, rstd (C) -> grad_x, grad_weight, grad_bias     reads 4, writes 1
//
//   d = x - mean,   z = weight rstd d + bias,   out = z > 0 ? z : slope z
//   g = grad where z > 0, else slope grad;   S = sum of g,   P = sum of g d,   M = N H W
//   grad_x = weight rstd (g - S / M - d rstd^2 P / M),   grad_weight = rstd P,   grad_bias = S
//
// Each takes two passes, the first with sums: forward of d' = x - shift and its square, backward S and P. The shift is the
// mean of a few pixels of the channel; it keeps the variance from being the difference of two large numbers. The sums are
// exact, as in PyTorch's own kernels: signs alternate, so a result may be far smaller than the terms whose roundings it
// bears.
#include <cmath>

#include "core/arguments.h"
#include "core/scratch.h"
#include "passes/channelwise/pass.h"

namespace fastiqa {
namespace {

// ---- kernels ----

constexpr int64_t kPixels = 32;  // for the shift: of a row, of a column, or one of every sample

/// The mean of a few of a channel's pixels, to half its digits. Then most x - shift are exact; otherwise all x of one
/// binade share one rounding error. 0 where the mean is no number, which the sums then tell.
template <class T, class A>
struct Shift {
  const T* x;
  int64_t of_channel, step, count;
  A* shift;

  FASTIQA_HD void operator()(int64_t c) const {
    A sum = 0;
    for (int64_t p = 0; p < count; ++p) sum += widen(x[c * of_channel + p * step]);
    const A mean = sum / static_cast<A>(count), scaled = mean * (sizeof(A) == 8 ? 134217729 : 4097);
    const A half = scaled - (scaled - mean);
    shift[c] = half - half == 0 ? half : A{0};
  }
};

struct Moments {
  static constexpr bool kExact = true;

  template <class A>
  FASTIQA_HD void operator()(const A (&x)[1], const A (&shift)[1], A (&)[1], A (&term)[2]) const {
    term[0] = x[0] - shift[0];
    term[1] = term[0] * term[0];
  }
};

/// The two sums of a channel over the samples, from (2, N, C).
template <class A>
struct Sums {
  const exact_t<A>* data;
  int64_t n, channels;

  FASTIQA_HD double operator()(int64_t which, int64_t c) const {
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(data[(which * n + i) * channels + c]);
    return sum;
  }
};

template <class A>
struct Statistics {
  Sums<A> sums;
  const A* shift;
  double count, eps;
  Column<A> mean, rstd;

  FASTIQA_HD void operator()(int64_t c) const {
    const double first = sums(0, c) / count, variance = sums(1, c) / count - first * first;
    mean[c] = static_cast<A>(static_cast<double>(shift[c]) + first);
    rstd[c] = static_cast<A>(1 / std::sqrt((variance < 0 ? 0 : variance) + eps));  // NaN stays NaN
  }
};

/// Values: mean, rstd, weight, bias; prepared: mean, weight rstd, -, bias.
template <class A>
struct Forward {
  A slope;

  FASTIQA_HD void prepare(A (&v)[4]) const { v[1] *= v[2]; }
  FASTIQA_HD void operator()(const A (&x)[1], const A (&v)[4], A (&y)[1]) const {
    const A z = (x[0] - v[0]) * v[1] + v[3];
    y[0] = z > 0 ? z : z * slope;
  }
};

/// The terms of S and P; values as in Forward.
template <class A>
struct GradientSums {
  static constexpr bool kExact = true;
  A slope;

  FASTIQA_HD void prepare(A (&v)[4]) const { v[1] *= v[2]; }
  FASTIQA_HD void operator()(const A (&x)[2], const A (&v)[4], A (&)[1], A (&term)[2]) const {
    const A d = x[1] - v[0];
    term[0] = d * v[1] + v[3] > 0 ? x[0] : x[0] * slope;
    term[1] = term[0] * d;
  }
};

/// means: (2, C), the terms to subtract from g, constant and per unit of d.
template <class A>
struct GradientMeans {
  Sums<A> sums;
  double count;
  A* means;
  Column<const A> rstd;
  Column<A> grad_weight, grad_bias;

  FASTIQA_HD void operator()(int64_t c) const {
    const double s = sums(0, c), p = sums(1, c), r = static_cast<double>(rstd[c]);
    grad_bias[c] = static_cast<A>(s);
    grad_weight[c] = static_cast<A>(p * r);
    means[c] = static_cast<A>(s / count);
    means[sums.channels + c] = static_cast<A>(p * r * r / count);
  }
};

/// Values: mean, rstd, weight, bias, and the two means; prepared as in Forward.
template <class A>
struct Backward {
  A slope;

  FASTIQA_HD void prepare(A (&v)[6]) const { v[1] *= v[2]; }
  FASTIQA_HD void operator()(const A (&x)[2], const A (&v)[6], A (&y)[1]) const {
    const A d = x[1] - v[0];
    const A g = d * v[1] + v[3] > 0 ? x[0] : x[0] * slope;
    y[0] = (g - v[4] - d * v[5]) * v[1];
  }
};

// ---- launchers ----

/// Two sums of every channel of every sample.
template <class E>
Views<E, 2> pair_of(const Scratch<E>& sums, int64_t n, int64_t c) {
  return of<E>(View{sums.data(), {n, c, 1, 1}, {c, 1, 1, 1}}, View{sums.data() + n * c, {n, c, 1, 1}, {c, 1, 1, 1}});
}

void batch_norm_act(Tensor x, Tensor weight, Tensor bias, double slope, double eps, Tensor out, Tensor mean,
                    Tensor rstd) {
  const Arguments call("batch_norm_act", "x", x);
  const auto [n, c, h, w] = call.sizes<4>("x", x);
  call.check_wide({c}, "weight", weight, "bias", bias, "mean", mean, "rstd", rstd);
  call.check({n, c, h, w}, "out", out);
  visit_dtype(x, [&, n = n, c = c, h = h, w = w]<class T>() {
    using A = accumulator_t<T>;
    const View map = view(x);
    const auto count = static_cast<double>(n * h * w);
    const Scratch<A> shift(x, c);
    const Scratch<exact_t<A>> sums(x, 2 * n * c);
    const auto each = [&](const auto& column) { return column.for_samples(n, c); };
    const Column<A> of_mean(mean), of_rstd(rstd);

    const int along = w >= h && w >= n ? 3 : h >= n ? 2 : 0;
    const int64_t pixels = std::min(map.sizes[along], kPixels);
    each_channel(c, Shift<T, A>{static_cast<const T*>(map.data), map.strides[1], map.strides[along], pixels, shift.data()},
                 x);
    channelwise_sum<1>(of<T>(map), of<A>(each(Column<A>(shift.data()))), pair_of(sums, n, c), Moments{}, x);
    each_channel(c, Statistics<A>{{sums.data(), n, c}, shift.data(), count, eps, of_mean, of_rstd}, x);
    channelwise<1>(of<T>(map, written(out)),
                   of<A>(each(of_mean), each(of_rstd), each(Column<const A>(weight)), each(Column<const A>(bias))),
                   Forward<A>{static_cast<A>(slope)}, x);
  });
}

void batch_norm_act_backward(Tensor grad, Tensor x, Tensor weight, Tensor bias, Tensor mean, Tensor rstd, double slope,
                             Tensor grad_x, Tensor grad_weight, Tensor grad_bias) {
  const Arguments call("batch_norm_act_backward", "grad", grad);
  const auto [n, c, h, w] = call.sizes<4>("grad", grad);
  call.check({n, c, h, w}, "x", x, "grad_x", grad_x);
  call.check_wide({c}, "weight", weight, "bias", bias, "mean", mean, "rstd", rstd, "grad_weight", grad_weight,
                  "grad_bias", grad_bias);
  visit_dtype(x, [&, n = n, c = c, h = h, w = w]<class T>() {
    using A = accumulator_t<T>;
    const View map = view(x);
    const auto count = static_cast<double>(n * h * w);
    const Scratch<exact_t<A>> sums(x, 2 * n * c);
    const Scratch<A> means(x, 2 * c);
    const auto each = [&](const auto& column) { return column.for_samples(n, c); };
    const Column<const A> of_rstd(rstd);
    const View values[] = {each(Column<const A>(mean)), each(of_rstd), each(Column<const A>(weight)),
                           each(Column<const A>(bias))};

    channelwise_sum<2>(of<T>(view(grad), map), of<A>(values[0], values[1], values[2], values[3]), pair_of(sums, n, c),
                       GradientSums<A>{static_cast<A>(slope)}, x);
    each_channel(c,
                 GradientMeans<A>{{sums.data(), n, c}, count, means.data(), of_rstd, Column<A>(grad_weight),
                                  Column<A>(grad_bias)},
                 x);
    channelwise<2>(of<T>(view(grad), map, written(grad_x)),
                   of<A>(values[0], values[1], values[2], values[3], each(Column<A>(means.data())),
                         each(Column<A>(means.data() + c))),
                   Backward<A>{static_cast<A>(slope)}, x);
  });
}

}  // namespace

FASTIQA_REGISTER(batch_norm_act,
                 "batch_norm_act(Tensor x, Tensor weight, Tensor bias, float negative_slope, float eps, "
                 "Tensor(a!) out, Tensor(b!) mean, Tensor(c!) rstd) -> ()")
FASTIQA_REGISTER(batch_norm_act_backward,
                 "batch_norm_act_backward(Tensor grad, Tensor x, Tensor weight, Tensor bias, Tensor mean, Tensor rstd, "
                 "float negative_slope, Tensor(a!) grad_x, Tensor(b!) grad_weight, Tensor(c!) grad_bias) -> ()")

}  // namespace fastiqa
