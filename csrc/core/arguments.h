// Checks the tensors of a call once, before any access to their memory. The layout rules of fastiqa.ops check the same
// earlier, but torch.ops.fastiqa_cpu.<op> may be called without them.
//
//   const Arguments call("op", "x", x);                 its dtype and its device are the call's
//   const auto [n, c, h, w] = call.sizes<4>("x", x);
//   call.check({n, c, 1, 1}, "gate", gate, "scale", scale);
//
// An error names operator and argument: "op: gate: got (2, 3) float32, want (2, 8, 1, 1) float32". A size of 0 is an
// error, because kernels divide by sizes.
#pragma once

#include <algorithm>
#include <array>
#include <initializer_list>
#include <string>

#include "core/tensor.h"

namespace fastiqa {

class Arguments {
 public:
  Arguments(const char* op, const char* name, const Tensor& first) : op_(op), name_(name) {
    for (const Dtype dtype : kDtypes)
      if (is_defined(first) && has_dtype(first, dtype)) {
        dtype_ = dtype;
        device_ = device_of(first);
        return;
      }
    want(false, name, "got ", words(first), ", want float64, float32, bfloat16 or float16");
  }

  /// The sizes of a tensor of so many dimensions, of the call's dtype.
  template <size_t kRank>
  std::array<int64_t, kRank> sizes(const char* name, const Tensor& x) const {
    if (!has_rank(x, kRank)) want(false, name, "got ", words(x), ", want ", kRank, " dimensions");
    std::array<int64_t, kRank> sizes;
    std::copy_n(x.sizes().data(), kRank, sizes.begin());
    check(name, x, sizes.data(), kRank, dtype_);
    return sizes;
  }

  /// Tensors, each after its name, of these sizes and of the call's dtype.
  template <class... Rest>
  void check(std::initializer_list<int64_t> sizes, const char* name, const Tensor& x, const Rest&... rest) const {
    check(name, x, sizes.begin(), sizes.size(), dtype_);
    if constexpr (sizeof...(rest) > 0) check(sizes, rest...);
  }

  /// The same, of the dtype that the call's is accumulated in.
  template <class... Rest>
  void check_wide(std::initializer_list<int64_t> sizes, const char* name, const Tensor& x, const Rest&... rest) const {
    check(name, x, sizes.begin(), sizes.size(), dtype_ == Dtype::float64 ? Dtype::float64 : Dtype::float32);
    if constexpr (sizeof...(rest) > 0) check_wide(sizes, rest...);
  }

  /// Any other condition.
  template <class... Parts>
  void want(bool holds, const char* name, const Parts&... message) const {
    if (!holds) [[unlikely]]
      fail(op_, ": ", name, ": ", message...);
  }

 private:
  void check(const char* name, const Tensor& x, const int64_t* sizes, size_t rank, Dtype dtype) const {
    if (!has_rank(x, rank) || !std::equal(sizes, sizes + rank, x.sizes().data()) || !has_dtype(x, dtype)) [[unlikely]]
      want(false, name, "got ", words(x), ", want ", words(sizes, rank), ' ', kDtypeNames[static_cast<int>(dtype)]);
    want(std::find(sizes, sizes + rank, 0) == sizes + rank, name, "got a size of 0");
    want(device_of(x) == device_, name, "on another device than ", name_);
    want(x.const_data_ptr() != nullptr, name, "its storage is empty");
  }

  static bool has_rank(const Tensor& x, size_t rank) { return is_defined(x) && x.dim() == static_cast<int64_t>(rank); }

  static std::string words(const int64_t* sizes, size_t rank) {
    std::string text = "(";
    for (size_t d = 0; d < rank; ++d) text += (d > 0 ? ", " : "") + std::to_string(sizes[d]);
    return text + ')';
  }

  static std::string words(const Tensor& x) {
    if (!is_defined(x)) return "no tensor";
    const std::string text = words(x.sizes().data(), x.sizes().size());
    for (const Dtype dtype : kDtypes)
      if (has_dtype(x, dtype)) return text + ' ' + kDtypeNames[static_cast<int>(dtype)];
    return text + " of another dtype";
  }

  const char *op_, *name_;
  Dtype dtype_{};
  int32_t device_ = -1;
};

}  // namespace fastiqa
