// The one file of each compiled library that is no operator: its build record as JSON. fastiqa/runtime/native.py reads it
// without PyTorch and compares it with the running versions; `fastiqa info` prints it.
#if !defined(FASTIQA_BUILD_RECORD)
#error "csrc/build.py defines FASTIQA_BUILD_RECORD"
#endif

extern "C" __attribute__((visibility("default"))) const char* fastiqa_build_record() { return FASTIQA_BUILD_RECORD; }
