// Rows of maps as vectors of channels, on the CPU.
//
// Maps are worked on in blocks of as many channels as a vector of 64 bytes holds, one vector a pixel, so that every
// memory format, 16-bit type and odd width runs the same arithmetic: `gather_row` brings a row of a block's channels into
// that form (NCHW through 16x16 transposes, some 10 % of the time), `scatter_row` takes it back. A weight is a vector too,
// one value a channel; sums for weight gradients need no reduction across lanes.
#pragma once

#include <cstring>

#include "elementwise_cpu.h"

namespace fastiqa {

constexpr int kVectorBytes = 64;

template <class A>
struct vector_of {
  typedef A type __attribute__((vector_size(kVectorBytes)));
};
template <class A>
using Vec = typename vector_of<A>::type;
template <class A>
constexpr int kLanes = kVectorBytes / sizeof(A);

/// f(0), f(1), ... f(kCount - 1) as constants, so that arrays indexed by them live in registers.
template <int kCount, class F>
FASTIQA_HD void unrolled(F f) {
  [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
    (f(std::integral_constant<int, I>()), ...);
  }(std::make_integer_sequence<int, kCount>());
}

// ---- from and to memory ----

/// One step of a transpose: swaps the off-diagonal quarters of squares of 2 kStep rows and lanes.
template <int kStep, class A, int... I>
FASTIQA_HD void exchange(Vec<A>& a, Vec<A>& b, std::integer_sequence<int, I...>) {
  constexpr int n = sizeof...(I);
  const Vec<A> low = __builtin_shufflevector(a, b, ((I & kStep) != 0 ? n + I - kStep : I)...);
  b = __builtin_shufflevector(a, b, ((I & kStep) != 0 ? n + I : I + kStep)...);
  a = low;
}

template <int kStep, class A>
FASTIQA_HD void transpose(Vec<A> (&v)[kLanes<A>]) {
  if constexpr (kStep > 0) {
    unrolled<kLanes<A>>([&](auto i) __attribute__((always_inline)) {
      if constexpr ((i & kStep) == 0) exchange<kStep, A>(v[i], v[i + kStep], std::make_integer_sequence<int, kLanes<A>>());
    });
    transpose<kStep / 2, A>(v);
  }
}

/// Up to a vector's number of neighbours, in pieces of constant size: a copy of variable size is a call.
template <class T>
FASTIQA_HD void copy_some(T* to, const T* from, int count) {
  constexpr int n = kLanes<accumulator_t<T>>;
  if (count == n) {
    std::memcpy(to, from, n * sizeof(T));
    return;
  }
  const auto piece = [&]<int kPiece>() __attribute__((always_inline)) {
    if ((count & kPiece) != 0) {
      std::memcpy(to, from, kPiece * sizeof(T));
      to += kPiece;
      from += kPiece;
    }
  };
  piece.template operator()<8>();
  piece.template operator()<4>();
  piece.template operator()<2>();
  piece.template operator()<1>();
}

template <class T>
FASTIQA_HD void widen_vector(const T* from, Vec<accumulator_t<T>>& to) {
  accumulator_t<T> x[kLanes<accumulator_t<T>>];
  for (int l = 0; l < kLanes<accumulator_t<T>>; ++l) x[l] = widen(from[l]);
  std::memcpy(&to, x, sizeof to);
}

template <class T>
FASTIQA_HD void narrow_vector(const Vec<accumulator_t<T>>& from, T* to) {
  accumulator_t<T> x[kLanes<accumulator_t<T>>];
  std::memcpy(x, &from, sizeof from);
  for (int l = 0; l < kLanes<accumulator_t<T>>; ++l) to[l] = narrow<T>(x[l]);
}

/// A row of a block of channels in a map.
template <class T>
struct Row {
  T* data;
  int64_t channel, column;  // strides
  int channels;             // at most a vector's lanes; lanes without a channel hold zeros
  int64_t count;            // columns
  int64_t next;             // to the row that will be moved after this one, which is fetched into the cache meanwhile
  const T* end;             // of the tensor: what is not needed may be read up to here
};

template <class T>
FASTIQA_CLONES void gather_row(const Row<T>& row, Vec<accumulator_t<T>>* to) {
  using A = accumulator_t<T>;
  constexpr int n = kLanes<A>;
  if (row.channel == 1 && row.channels == n) {
    for (int64_t x = 0; x < row.count; ++x) {
      __builtin_prefetch(row.data + x * row.column + row.next);
      widen_vector(row.data + x * row.column, to[x]);
    }
  } else if (row.column == 1) {
    for (int64_t x = 0; x < row.count; x += n) {
      const int columns = static_cast<int>(std::min<int64_t>(n, row.count - x));
      const T* from = row.data + x;
      Vec<A> v[n];
      if (row.channels == n && row.end - from >= (n - 1) * row.channel + n) {
        unrolled<n>([&](auto l) __attribute__((always_inline)) {
          __builtin_prefetch(from + l * row.channel + row.next);
          widen_vector(from + l * row.channel, v[l]);
        });
      } else {
        for (int l = 0; l < n; ++l) {
          T some[n] = {};
          if (l < row.channels) copy_some(some, from + l * row.channel, columns);
          widen_vector(some, v[l]);
        }
      }
      transpose<n / 2, A>(v);
      unrolled<n>([&](auto k) __attribute__((always_inline)) {
        if (k < columns) to[x + k] = v[k];
      });
    }
  } else {
    for (int64_t x = 0; x < row.count; ++x) {
      A lanes[n] = {};
      for (int l = 0; l < row.channels; ++l) lanes[l] = widen(row.data[x * row.column + l * row.channel]);
      std::memcpy(&to[x], lanes, sizeof lanes);
    }
  }
}

template <class T>
FASTIQA_CLONES void scatter_row(const Vec<accumulator_t<T>>* from, const Row<T>& row) {
  using A = accumulator_t<T>;
  constexpr int n = kLanes<A>;
  if (row.channel == 1 && row.channels == n) {
    for (int64_t x = 0; x < row.count; ++x) {
      __builtin_prefetch(row.data + x * row.column + row.next, 1);
      narrow_vector(from[x], row.data + x * row.column);
    }
  } else if (row.column == 1) {
    for (int64_t x = 0; x < row.count; x += n) {
      const int columns = static_cast<int>(std::min<int64_t>(n, row.count - x));
      Vec<A> v[n];  // of a row with room for n vectors more: those after its end are of no account
      unrolled<n>([&](auto k) __attribute__((always_inline)) { v[k] = from[x + k]; });
      transpose<n / 2, A>(v);
      unrolled<n>([&](auto l) __attribute__((always_inline)) {
        if (l >= row.channels) return;
        T* to = row.data + l * row.channel + x;
        __builtin_prefetch(to + row.next, 1);
        T some[n];
        narrow_vector(v[l], some);
        copy_some(to, some, columns);
      });
    }
  } else {
    for (int64_t x = 0; x < row.count; ++x) {
      A lanes[n];
      std::memcpy(lanes, &from[x], sizeof lanes);
      for (int l = 0; l < row.channels; ++l) row.data[x * row.column + l * row.channel] = narrow<T>(lanes[l]);
    }
  }
}

}  // namespace fastiqa
