// Which instruction set runs: the best the machine has, or the one PCDIFF_CPU_CAPABILITY names.
//
// Kernels come in tables of function pointers, the same table once in each of the namespaces below. A header declares
// a table with PCDIFF_FOR_EACH_CAPABILITY, an .inc file defines it, capability_*.cpp include that file, and
// PCDIFF_PICK(table) is the one in use.
#pragma once

namespace pcdiff {

enum class Capability { kBaseline = 0, kAvx2 = 1, kAvx512 = 2 };

// The best instruction set that this machine has and this binary was built with.
Capability machine_capability();

// The one in use. Throws std::invalid_argument if the variable holds an unknown name or asks for more than there is.
Capability chosen_capability();

template <class Table>
const Table& pick(const Table& baseline, const Table& avx2, const Table& avx512) {
  const Capability level = chosen_capability();
  return level == Capability::kAvx512 ? avx512 : level == Capability::kAvx2 ? avx2 : baseline;
}

}  // namespace pcdiff

#ifdef PCDIFF_X86
#define PCDIFF_FOR_EACH_CAPABILITY(...) \
  namespace baseline {                  \
  __VA_ARGS__                           \
  }                                     \
  namespace avx2 {                      \
  __VA_ARGS__                           \
  }                                     \
  namespace avx512 {                    \
  __VA_ARGS__                           \
  }
#define PCDIFF_PICK(table) ::pcdiff::pick(::pcdiff::baseline::table, ::pcdiff::avx2::table, ::pcdiff::avx512::table)
#else
#define PCDIFF_FOR_EACH_CAPABILITY(...) \
  namespace baseline {                  \
  __VA_ARGS__                           \
  }
#define PCDIFF_PICK(table) \
  ::pcdiff::pick(::pcdiff::baseline::table, ::pcdiff::baseline::table, ::pcdiff::baseline::table)
#endif
