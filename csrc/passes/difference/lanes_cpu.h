// The inner loops of cpu.h: products with differences that are made in registers, as they are used.
//
// `k` counts pairs of rows of differences, one row a side, `l` the vectors' elements: channels and pixels, or pixels and
// channels. Sums stay in registers for blocks of rows of a weight or a map; each further block computes the differences
// again. Two threads, 3x256x112x112 float32, nine rows: 0.7 to 1.0 ms; with differences stored first 1.2 to 1.4 ms.
#pragma once

#include "core/simd.h"
#include "core/stream.h"

namespace fastiqa {

/// Whether vectors of T become vectors of the accumulation type for next to nothing.
template <class T>
constexpr bool kWidensLanes = std::is_same_v<T, accumulator_t<T>> || std::is_same_v<T, bfloat16>;

template <class T, class A = accumulator_t<T>>
FASTIQA_HD Vec<A> widened_lanes(const T* from) {
  Vec<A> x;
  if constexpr (std::is_same_v<T, A>) {
    std::memcpy(&x, from, sizeof x);
  } else {
    static_assert(std::is_same_v<T, bfloat16>);
    typedef uint16_t Bits __attribute__((vector_size(kVectorBytes / 2)));
    typedef uint32_t Wide __attribute__((vector_size(kVectorBytes)));
    Bits bits;
    std::memcpy(&bits, from, sizeof bits);
    const Wide wide = __builtin_convertvector(bits, Wide) << 16;
    std::memcpy(&x, &wide, sizeof x);
  }
  return x;
}

/// Differences of ref, a and b, whose elements are side by side in whole vectors.
template <class T>
struct MapRows {
  using A = accumulator_t<T>;
  const T* map[3];
  int64_t step[3];  // from row to row
  int64_t ahead;    // rows: that far on will be read soon, which the hardware does not foresee where rows are short

  FASTIQA_HD void load(int64_t k, int64_t l, Vec<A>& a, Vec<A>& b) const {
    Vec<A> x[3];
#pragma GCC unroll 3
    for (int m = 0; m < 3; ++m) {
      const T* from = map[m] + k * step[m] + l;
      x[m] = widened_lanes(from);
      __builtin_prefetch(from + ahead * step[m], 0, 3);
    }
    a = x[0] - x[1];
    b = x[0] - x[2];
  }
};

/// Differences made before: row 2k of side a, row 2k + 1 of side b.
template <class A>
struct MadeRows {
  const A* rows;
  int64_t pitch;

  FASTIQA_HD void load(int64_t k, int64_t l, Vec<A>& a, Vec<A>& b) const {
    std::memcpy(&a, rows + 2 * k * pitch + l, sizeof a);
    std::memcpy(&b, rows + (2 * k + 1) * pitch + l, sizeof b);
  }
};

/// f(first, count) for blocks of rows, count a constant.
template <class F>
FASTIQA_HD void row_blocks(int64_t rows, F f) {
  int64_t r = 0;
  for (; r + 9 <= rows; r += 9) f(r, std::integral_constant<int, 9>());
  for (; r + 4 <= rows; r += 4) f(r, std::integral_constant<int, 4>());
  for (; r < rows; ++r) f(r, std::integral_constant<int, 1>());
}

template <class A>
FASTIQA_HD Vec<A> lanes_at(const A* from) {
  Vec<A> x;
  std::memcpy(&x, from, sizeof x);
  return x;
}

template <class A>
FASTIQA_HD void put_lanes(A* to, Vec<A> x, bool add) {
  if (add) x += lanes_at(to);
  std::memcpy(to, &x, sizeof x);
}

/// c[r][l] (+)= sum over k and sides of w[k][side][r] d[k][side][l]
template <int kRows, int kVectors, class A, class S>
FASTIQA_HD void weighted_tile(const S& d, int64_t depth, int64_t l, const A* w, int64_t w_row, A* c, int64_t c_row,
                              bool add) {
  Vec<A> sum[kRows][kVectors] = {};
  for (int64_t k = 0; k < depth; ++k) {
    Vec<A> a[kVectors], b[kVectors];
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) d.load(k, l + v * kLanes<A>, a[v], b[v]);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const A for_a = w[2 * k * w_row + r], for_b = w[(2 * k + 1) * w_row + r];
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) sum[r][v] += for_a * a[v] + for_b * b[v];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) put_lanes(c + r * c_row + l + v * kLanes<A>, sum[r][v], add);
}

/// The same for l < length and any number of rows.
template <class A, class S>
FASTIQA_CLONES void weighted_differences(S d, int64_t depth, int64_t length, const A* w, int64_t rows, A* c,
                                         int64_t c_row, bool add) {
  row_blocks(rows, [&](int64_t r, auto count) __attribute__((always_inline)) {
    constexpr int kRows = count, kVectors = kRows == 9 ? 2 : 4;
    int64_t l = 0;
    for (; l + kVectors * kLanes<A> <= length; l += kVectors * kLanes<A>)
      weighted_tile<kRows, kVectors>(d, depth, l, w + r, rows, c + r * c_row, c_row, add);
    for (; l < length; l += kLanes<A>)
      weighted_tile<kRows, 1>(d, depth, l, w + r, rows, c + r * c_row, c_row, add);
  });
}

/// c[r][side][l] (+)= sum over k of m[r][k] d[k][side][l]
template <class A, class S>
FASTIQA_CLONES void mapped_differences(S d, int64_t depth, int64_t length, const A* m, int64_t m_row, int64_t rows,
                                       A* c, int64_t c_row, int64_t c_side, bool add) {
  row_blocks(rows, [&](int64_t r, auto count) __attribute__((always_inline)) {
    constexpr int kRows = count;
    for (int64_t l = 0; l < length; l += kLanes<A>) {
      Vec<A> sum_a[kRows] = {}, sum_b[kRows] = {};
      for (int64_t k = 0; k < depth; ++k) {
        Vec<A> a, b;
        d.load(k, l, a, b);
#pragma GCC unroll 16
        for (int i = 0; i < kRows; ++i) {
          const A factor = m[(r + i) * m_row + k];
          sum_a[i] += factor * a;
          sum_b[i] += factor * b;
        }
      }
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
        put_lanes(c + (r + i) * c_row + l, sum_a[i], add);
        put_lanes(c + (r + i) * c_row + c_side + l, sum_b[i], add);
      }
    }
  });
}

/// c[r][k][side] (+)= sum over l of m[r][l] d[k][side][l]
template <class A, class S>
FASTIQA_CLONES void differences_along_maps(S d, int64_t depth, int64_t length, const A* m, int64_t m_row, int64_t rows,
                                           A* c, int64_t c_row, bool add) {
  row_blocks(rows, [&](int64_t r, auto count) __attribute__((always_inline)) {
    constexpr int kRows = count;
    for (int64_t k = 0; k < depth; ++k) {
      Vec<A> sum_a[kRows] = {}, sum_b[kRows] = {};
      for (int64_t l = 0; l < length; l += kLanes<A>) {
        Vec<A> a, b;
        d.load(k, l, a, b);
#pragma GCC unroll 16
        for (int i = 0; i < kRows; ++i) {
          const Vec<A> x = lanes_at(m + (r + i) * m_row + l);
          sum_a[i] += x * a;
          sum_b[i] += x * b;
        }
      }
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
        A* to = c + (r + i) * c_row + 2 * k;
        to[0] = across<A>(sum_a[i]) + (add ? to[0] : A{0});
        to[1] = across<A>(sum_b[i]) + (add ? to[1] : A{0});
      }
    }
  });
}

template <int kRows, int kPixels, class A, class S>
FASTIQA_HD void along_weights_tile(const S& d, int64_t k, int64_t length, const A* w, int64_t w_row, int64_t w_side,
                                   A* c, int64_t c_row, bool add) {
  Vec<A> sum[kRows][kPixels] = {};
  for (int64_t l = 0; l < length; l += kLanes<A>) {
    Vec<A> a[kPixels], b[kPixels];
#pragma GCC unroll 16
    for (int p = 0; p < kPixels; ++p) d.load(k + p, l, a[p], b[p]);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Vec<A> for_a = lanes_at(w + r * w_row + l), for_b = lanes_at(w + r * w_row + w_side + l);
#pragma GCC unroll 16
      for (int p = 0; p < kPixels; ++p) sum[r][p] += for_a * a[p] + for_b * b[p];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 16
    for (int p = 0; p < kPixels; ++p) {
      A* to = c + r * c_row + k + p;
      *to = across<A>(sum[r][p]) + (add ? *to : A{0});
    }
}

/// c[r][k] (+)= sum over l and sides of w[r][side][l] d[k][side][l]
template <class A, class S>
FASTIQA_CLONES void differences_along_weights(S d, int64_t depth, int64_t length, const A* w, int64_t w_row,
                                              int64_t w_side, int64_t rows, A* c, int64_t c_row, bool add) {
  row_blocks(rows, [&](int64_t r, auto count) __attribute__((always_inline)) {
    constexpr int kRows = count, kPixels = kRows == 9 ? 2 : 4;
    int64_t k = 0;
    for (; k + kPixels <= depth; k += kPixels)
      along_weights_tile<kRows, kPixels>(d, k, length, w + r * w_row, w_row, w_side, c + r * c_row, c_row, add);
    for (; k < depth; ++k)
      along_weights_tile<kRows, 1>(d, k, length, w + r * w_row, w_row, w_side, c + r * c_row, c_row, add);
  });
}

// ---- rows in memory ----

/// Elements [0, count) of both sides' rows, then zeros up to `width`. What lies `ahead` elements further on will be read
/// next: rows are short and far from each other, so the hardware does not foresee it.
template <class T, class A>
FASTIQA_CLONES void difference_rows(const T* ref, const T* a, const T* b, int64_t count, int64_t width, int64_t ahead,
                                    A* to_a, A* to_b) {
  constexpr int kStep = 64, kElements = kLine / sizeof(T);  // shorter loops are unrolled before they could become vectors
  const auto difference = [&](int64_t i) __attribute__((always_inline)) {
    const A x = widen(ref[i]);
    to_a[i] = x - widen(a[i]);
    to_b[i] = x - widen(b[i]);
  };
  int64_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    if (ahead != 0)
      for (int k = 0; k < kStep; k += kElements)
        for (const T* map : {ref, a, b}) __builtin_prefetch(map + i + k + ahead, 0, 3);
#pragma GCC ivdep
    for (int k = 0; k < kStep; ++k) difference(i + k);
  }
  for (; i < count; ++i) difference(i);
  for (; i < width; ++i) to_a[i] = to_b[i] = 0;
}

/// The gradients of ref, a and b from those of both sides' rows.
template <class T, class A>
FASTIQA_CLONES void gradient_rows(const A* ga, const A* gb, int64_t count, T* ref, T* a, T* b) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) ref[i] = narrow<T>(ga[i] + gb[i]);
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) a[i] = narrow<T>(-ga[i]);
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) b[i] = narrow<T>(-gb[i]);
}

/// The same past the caches, by way of `staged`, three times `count` elements.
template <class T, class A>
void stream_gradient_rows(const A* ga, const A* gb, int64_t count, T* staged, T* ref, T* a, T* b) {
  gradient_rows(ga, gb, count, staged, staged + count, staged + 2 * count);
  stream(ref, staged, count);
  stream(a, staged + count, count);
  stream(b, staged + 2 * count, count);
}

}  // namespace fastiqa
