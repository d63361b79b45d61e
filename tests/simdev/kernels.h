// The codec's own kernels on the simulated device.
#pragma once

namespace simdev {

// With them the codec copies and compares by launches, as on CUDA; without them by torch's operations.
void set_kernels(bool on);

}  // namespace simdev
