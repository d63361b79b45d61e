// The part of CUDA 13's runtime that objects made by nvcc call. Runs their kernels' PTX on the host.
#include <cstdlib>
#include <cstring>
#include <map>

#include "csrc/tests/cuda_on_host/machine.h"
#include "csrc/tests/cuda_ptx/entries.h"

namespace {

// Kernels by the host's function of the same name. Filled before main, so never destroyed.
std::map<const void*, const Entry*>& kernels() {
  static auto* const known = new std::map<const void*, const Entry*>;
  return *known;
}

struct Call {
  const Entry* entry;
  const uint8_t* parameters;
};

}  // namespace

extern "C" {

void** __cudaRegisterFatBinary(void*) {
  static void* handle;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}

void __cudaRegisterFunction(void**, const char* host, char*, const char* name, int, void*, void*, void*,
                            void*, int*) {
  for (const Entry& entry : entries) {
    if (std::strcmp(entry.name, name) == 0) kernels()[host] = &entry;
  }
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* host, void** arguments) {
  const Entry& entry = *kernels().at(host);
  // As aligned as the driver has them, and ending where they end.
  auto* const parameters = static_cast<uint8_t*>(std::aligned_alloc(16, (entry.bytes + 15) / 16 * 16));
  for (size_t i = 0; i < entry.parameters.size(); ++i) {
    std::memcpy(parameters + entry.parameters[i].at, arguments[i], entry.parameters[i].bytes);
  }
  Call call{&entry, parameters};
  const auto thread = [](void* context) {
    const Call& made = *static_cast<Call*>(context);
    made.entry->thread(made.parameters);
  };
  const cudaError_t error = cuda_on_host::run(*config, entry.bytes, thread, &call);
  std::free(parameters);
  return error;
}

// Called for kernel<<<...>>>(...) only.
unsigned __cudaPopCallConfiguration(void*, void*, void*, void*) { std::abort(); }
int __cudaGetKernel(void*, const void*) { std::abort(); }
int __cudaLaunchKernel(void*, dim3, dim3, void**, size_t, void*) { std::abort(); }
}
