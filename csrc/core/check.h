// Errors on the host: FASTIQA_CHECK(condition, parts of a message...) throws, and PyTorch raises a RuntimeError. The
// message names no source file.
#pragma once

#include <sstream>
#include <stdexcept>

namespace fastiqa {

template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

}  // namespace fastiqa

#define FASTIQA_CHECK(condition, ...) \
  if (!(condition)) ::fastiqa::fail(__VA_ARGS__)
