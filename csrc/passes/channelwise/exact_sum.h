// Sums on a GPU: plain ones, and ones whose rounding errors do not add up, without float64.
//
// A sum of two floats loses what TwoSum (Knuth) computes exactly; the losses are added up beside the sum and come back in
// at the end. Six additions a term, where a pass waits for memory anyway. Where a sum is infinite the losses are NaN.
#pragma once

#include "core/dtype.h"

namespace fastiqa {

template <class A>
struct Plain {
  A sum = 0;

  __device__ Plain& operator+=(A term) {
    sum += term;
    return *this;
  }
  __device__ Plain& operator+=(const Plain& other) { return *this += other.sum; }
  __device__ Plain from_lane(int mask) const { return {__shfl_xor_sync(0xffffffffu, sum, mask)}; }

  FASTIQA_HD explicit operator double() const { return static_cast<double>(sum); }
};

struct ExactSum {
  float sum = 0, lost = 0;

  __device__ ExactSum& operator+=(float term) {
    const float next = sum + term, added = next - sum;
    lost += (sum - (next - added)) + (term - added);
    sum = next;
    return *this;
  }
  __device__ ExactSum& operator+=(const ExactSum& other) {
    *this += other.sum;
    lost += other.lost;
    return *this;
  }
  __device__ ExactSum from_lane(int mask) const {
    return {__shfl_xor_sync(0xffffffffu, sum, mask), __shfl_xor_sync(0xffffffffu, lost, mask)};
  }

  FASTIQA_HD explicit operator double() const {
    const double whole = sum;
    return lost - lost == 0 ? whole + lost : whole;
  }
};

template <class A>
using exact_t = std::conditional_t<sizeof(A) == 8, Plain<A>, ExactSum>;

}  // namespace fastiqa
