// Which instruction set runs: the best the machine has, or the one PCDIFF_CPU_CAPABILITY names.
#pragma once

#include "kernels.h"

namespace pcdiff {

enum class Capability { kBaseline = 0, kAvx2 = 1, kAvx512 = 2 };

// The best instruction set that this machine has and this binary was built with.
Capability machine_capability();

// The one in use. Throws std::invalid_argument if the variable holds an unknown name or asks for more than there is.
Capability chosen_capability();

template <class T>
const Kernels<T>& kernels();

}  // namespace pcdiff
