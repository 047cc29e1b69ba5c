// The one file of each compiled library that is no operator: what it was built with, as JSON. fastiqa/runtime/native.py reads
// it without PyTorch, compares it with what is running, and `fastiqa info` prints it.
#if !defined(FASTIQA_BUILD_RECORD)
#error "csrc/build.py defines FASTIQA_BUILD_RECORD"
#endif

extern "C" __attribute__((visibility("default"))) const char* fastiqa_build_record() { return FASTIQA_BUILD_RECORD; }
