// Vector code on the CPU: clones of a function for several instruction sets, and vectors of 64 bytes, which GCC splits
// where registers are shorter.
//
// FASTIQA_CLONES compiles a function three times (AVX-512, AVX2, baseline). The loader takes the best that the machine
// has, so no instruction set leaks into generic code.
#pragma once

#include <cstring>
#include <memory>
#include <new>
#include <utility>

#include "core/dtype.h"

// The tests' own programs have no clones: a sanitizer would run in the resolver that chooses one, before it is ready.
#if defined(FASTIQA_PLAIN)
#define FASTIQA_CLONES
#elif defined(FASTIQA_X86) && __GNUC__ >= 12
#define FASTIQA_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#define FASTIQA_CLONE_NAMES "x86-64-v4 x86-64-v3"
#elif defined(FASTIQA_X86)  // GCC 11 knows no levels here, and AVX2 without fused products
#define FASTIQA_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#define FASTIQA_CLONE_NAMES "avx512f avx2"
#else  // clang makes no clones of templates
#define FASTIQA_CLONES
#define FASTIQA_CLONE_NAMES ""
#endif

// A function, not inlined, whose operands have any strides, at least one of them other than one. GCC would add a version
// of each loop for the case that all strides are one: it never runs, and compiling it took an eighth of the time of
// attentional_blend.cpp.
#if defined(FASTIQA_X86)
#define FASTIQA_STRIDED __attribute__((noinline, optimize("no-version-loops-for-strides")))
#else
#define FASTIQA_STRIDED
#endif

// Elements of two vectors by constant places: a[i], or b[i - n].
#if defined(__clang__) || __GNUC__ >= 12
#define FASTIQA_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define FASTIQA_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, decltype((a) < (b)){__VA_ARGS__})
#endif

namespace fastiqa {

constexpr int kVectorBytes = 64;

/// A vector, its halves and its quarters.
template <class A>
struct VectorOf {
  typedef A full __attribute__((vector_size(kVectorBytes)));
  typedef A half __attribute__((vector_size(kVectorBytes / 2)));
  typedef A quarter __attribute__((vector_size(kVectorBytes / 4)));
};
template <class A>
using Vec = typename VectorOf<A>::full;
template <class A>
constexpr int kLanes = kVectorBytes / sizeof(A);

/// Vectors, zero at first. Generic code must align them itself: it assumes 16 bytes, clones assume the whole vector.
template <class A>
class Vectors {
 public:
  explicit Vectors(int64_t count)
      : count_(count), data_(static_cast<Vec<A>*>(::operator new(count * kVectorBytes, kAlign))) {
    clear();
  }
  void clear() { std::memset(static_cast<void*>(data_.get()), 0, count_ * kVectorBytes); }
  Vec<A>* data() const { return data_.get(); }

 private:
  static constexpr std::align_val_t kAlign{kVectorBytes};
  struct Free {
    void operator()(void* p) const { ::operator delete(p, kAlign); }
  };

  int64_t count_;
  std::unique_ptr<Vec<A>[], Free> data_;
};

/// f(0), f(1), ... f(kCount - 1) as constants, so that arrays indexed by them live in registers.
template <int kCount, class F>
FASTIQA_HD void unrolled(F f) {
  [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
    (f(std::integral_constant<int, I>()), ...);
  }(std::make_integer_sequence<int, kCount>());
}

/// The sum of a vector's lanes, halves first.
template <class A>
FASTIQA_HD A across(const Vec<A>& x) {
  typename VectorOf<A>::half half[2];
  std::memcpy(half, &x, sizeof half);
  half[0] += half[1];
  typename VectorOf<A>::quarter quarter[2];
  std::memcpy(quarter, half, sizeof quarter);
  quarter[0] += quarter[1];
  if constexpr (sizeof(A) == 4)
    return (quarter[0][0] + quarter[0][2]) + (quarter[0][1] + quarter[0][3]);
  else
    return quarter[0][0] + quarter[0][1];
}

// ---- from and to memory ----

/// One step of a transpose: swaps the off-diagonal quarters of squares of 2 kStep rows and lanes.
template <int kStep, class A, int... I>
FASTIQA_HD void exchange(Vec<A>& a, Vec<A>& b, std::integer_sequence<int, I...>) {
  constexpr int n = sizeof...(I);
  const Vec<A> low = FASTIQA_SHUFFLE(a, b, ((I & kStep) != 0 ? n + I - kStep : I)...);
  b = FASTIQA_SHUFFLE(a, b, ((I & kStep) != 0 ? n + I : I + kStep)...);
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

// Loops of as many steps as a vector has lanes are kept from being unrolled, after which GCC finds no vector code for
// selects: large_kernel_conv of 1x64x56x56 bfloat16, channels-last, on one thread 0.22 instead of 0.30 ms.
template <class T>
FASTIQA_HD void widen_vector(const T* from, Vec<accumulator_t<T>>& to) {
  accumulator_t<T> x[kLanes<accumulator_t<T>>];
#pragma GCC unroll 1
  for (int l = 0; l < kLanes<accumulator_t<T>>; ++l) x[l] = widen(from[l]);
  std::memcpy(&to, x, sizeof to);
}

template <class T>
FASTIQA_HD void narrow_vector(const Vec<accumulator_t<T>>& from, T* to) {
  accumulator_t<T> x[kLanes<accumulator_t<T>>];
  std::memcpy(x, &from, sizeof from);
#pragma GCC unroll 1
  for (int l = 0; l < kLanes<accumulator_t<T>>; ++l) to[l] = narrow<T>(x[l]);
}

}  // namespace fastiqa
