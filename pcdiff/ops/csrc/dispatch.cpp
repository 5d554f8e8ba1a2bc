#include "dispatch.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace pcdiff {

Capability machine_capability() {
#ifdef PCDIFF_X86
  static const Capability best = [] {
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl")) {
      return Capability::kAvx512;
    }
    return __builtin_cpu_supports("avx2") ? Capability::kAvx2 : Capability::kBaseline;
  }();
  return best;
#else
  return Capability::kBaseline;
#endif
}

Capability chosen_capability() {
  const char* const names[] = {"baseline", "avx2", "avx512"};
  const Capability best = machine_capability();
  const char* const wanted = std::getenv("PCDIFF_CPU_CAPABILITY");
  if (wanted == nullptr || *wanted == '\0') return best;
  std::string known;
  for (int level = 0; level <= static_cast<int>(best); ++level) {
    if (std::string(wanted) == names[level]) return static_cast<Capability>(level);
    known += (level ? ", " : "") + std::string(names[level]);
  }
  throw std::invalid_argument("PCDIFF_CPU_CAPABILITY must be one of " + known + " on this machine, got " + wanted);
}

}  // namespace pcdiff
