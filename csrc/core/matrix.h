// Products of small matrices that lie in the first caches, in the accumulation type, on the CPU.
//
//   rows_times<A>:     C[i][l] (+)= sum_k a[i][k] b[k][l]     rows of b and C lie side by side; a has any strides
//   rows_by_rows<A>:   C[i][j] (+)= sum_l a[i][l] b[j][l]     rows of a and b lie side by side; C has any strides
//
// Lengths l are multiples of kLanes. Every sum starts at zero in registers and is then added to C, so that long sums are
// sums of partial sums.
#pragma once

#include <cstring>
#include <memory>
#include <new>

#include "core/simd.h"

namespace fastiqa {

template <class A>
struct Matrix {
  A* data;
  int64_t row, column;  // strides

  A* at(int64_t i, int64_t j) const { return data + i * row + j * column; }
};

/// Memory for n elements, not set, aligned to a vector.
template <class A>
struct Buffer {
  explicit Buffer(int64_t n) : memory(static_cast<A*>(::operator new(static_cast<size_t>(n) * sizeof(A), kAlign))) {}
  A* get() const { return memory.get(); }

 private:
  static constexpr std::align_val_t kAlign{64};
  struct Free {
    void operator()(A* p) const { ::operator delete(p, kAlign); }
  };
  std::unique_ptr<A, Free> memory;
};

/// kRows x kVectors vectors of C in registers. Vectors are copied one by one: an array of them copied at once would lie
/// in memory, and be written there in every step.
template <int kRows, int kVectors, class A>
FASTIQA_HD void tile_times(A* c, int64_t c_row, bool add, const A* a, int64_t a_row, int64_t a_column, const A* b,
                           int64_t b_row, int64_t depth) {
  Vec<A> sum[kRows][kVectors] = {};
  for (int64_t k = 0; k < depth; ++k) {
    Vec<A> x[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) std::memcpy(&x[v], b + k * b_row + v * kLanes<A>, sizeof x[v]);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const A factor = a[i * a_row + k * a_column];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sum[i][v] += factor * x[v];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      A* to = c + i * c_row + v * kLanes<A>;
      if (add) {
        Vec<A> before;
        std::memcpy(&before, to, sizeof before);
        sum[i][v] += before;
      }
      std::memcpy(to, &sum[i][v], sizeof sum[i][v]);
    }
}

template <int kVectors, class A>
FASTIQA_HD void tiles_times(int rows, A* c, int64_t c_row, bool add, const A* a, int64_t a_row, int64_t a_column,
                            const A* b, int64_t b_row, int64_t depth) {
  switch (rows) {
    case 1: return tile_times<1, kVectors>(c, c_row, add, a, a_row, a_column, b, b_row, depth);
    case 2: return tile_times<2, kVectors>(c, c_row, add, a, a_row, a_column, b, b_row, depth);
    case 3: return tile_times<3, kVectors>(c, c_row, add, a, a_row, a_column, b, b_row, depth);
    case 4: return tile_times<4, kVectors>(c, c_row, add, a, a_row, a_column, b, b_row, depth);
    case 5: return tile_times<5, kVectors>(c, c_row, add, a, a_row, a_column, b, b_row, depth);
    default: return tile_times<6, kVectors>(c, c_row, add, a, a_row, a_column, b, b_row, depth);
  }
}

/// c: rows x length, a: rows x depth, b: depth x length.
template <class A>
FASTIQA_CLONES void rows_times(const Matrix<A>& c, bool add, int64_t rows, int64_t length, const Matrix<const A>& a,
                               const Matrix<const A>& b, int64_t depth) {
  constexpr int kVectors = 4, kMost = 6;  // 24 sums, 4 rows of b and a factor: 29 of 32 registers
  const int64_t blocks = (rows + kMost - 1) / kMost;
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t first = rows * block / blocks;
    const int count = static_cast<int>(rows * (block + 1) / blocks - first);
    const A* factors = a.data + first * a.row;
    int64_t l = 0;
    for (; l + kVectors * kLanes<A> <= length; l += kVectors * kLanes<A>)
      tiles_times<kVectors>(count, c.data + first * c.row + l, c.row, add, factors, a.row, a.column, b.data + l, b.row,
                            depth);
    for (; l < length; l += kLanes<A>)
      tiles_times<1>(count, c.data + first * c.row + l, c.row, add, factors, a.row, a.column, b.data + l, b.row, depth);
  }
}

template <int kRows, int kColumns, class A>
FASTIQA_HD void tile_by_rows(const Matrix<A>& c, bool add, int64_t i0, int64_t j0, const A* a, int64_t a_row, const A* b,
                             int64_t b_row, int64_t length) {
  Vec<A> sum[kRows][kColumns] = {};
  for (int64_t l = 0; l < length; l += kLanes<A>) {
    Vec<A> x[kColumns];
#pragma GCC unroll 8
    for (int j = 0; j < kColumns; ++j) std::memcpy(&x[j], b + j * b_row + l, sizeof x[j]);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      Vec<A> y;
      std::memcpy(&y, a + i * a_row + l, sizeof y);
#pragma GCC unroll 8
      for (int j = 0; j < kColumns; ++j) sum[i][j] += y * x[j];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < kColumns; ++j) {
      A* to = c.data + (i0 + i) * c.row + (j0 + j) * c.column;
      *to = across<A>(sum[i][j]) + (add ? *to : A{0});
    }
}

template <int kColumns, class A>
FASTIQA_HD void tiles_by_rows(int rows, const Matrix<A>& c, bool add, int64_t i0, int64_t j0, const A* a, int64_t a_row,
                              const A* b, int64_t b_row, int64_t length) {
  switch (rows) {
    case 1: return tile_by_rows<1, kColumns>(c, add, i0, j0, a, a_row, b, b_row, length);
    case 2: return tile_by_rows<2, kColumns>(c, add, i0, j0, a, a_row, b, b_row, length);
    case 3: return tile_by_rows<3, kColumns>(c, add, i0, j0, a, a_row, b, b_row, length);
    case 4: return tile_by_rows<4, kColumns>(c, add, i0, j0, a, a_row, b, b_row, length);
    default: return tile_by_rows<5, kColumns>(c, add, i0, j0, a, a_row, b, b_row, length);
  }
}

/// c: rows x columns, a: rows x length, b: columns x length.
template <class A>
FASTIQA_CLONES void rows_by_rows(const Matrix<A>& c, bool add, int64_t rows, int64_t columns, int64_t length, const A* a,
                                 int64_t a_row, const A* b, int64_t b_row) {
  constexpr int kColumns = 4, kMost = 5;  // 20 sums, 4 rows of b and one of a: 25 of 32 registers
  const int64_t blocks = (rows + kMost - 1) / kMost;
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t i = rows * block / blocks;
    const int count = static_cast<int>(rows * (block + 1) / blocks - i);
    int64_t j = 0;
    for (; j + kColumns <= columns; j += kColumns)
      tiles_by_rows<kColumns>(count, c, add, i, j, a + i * a_row, a_row, b + j * b_row, b_row, length);
    for (; j < columns; ++j)
      tiles_by_rows<1>(count, c, add, i, j, a + i * a_row, a_row, b + j * b_row, b_row, length);
  }
}

}  // namespace fastiqa
