// The bodies of the CUDA kernels as a plain C library: what the .cu files launch, run by a loop over tasks and a loop
// over threads. `tests/ops/test_cuda_bodies.py` builds it with the machine's C++ compiler and calls it by ctypes.
#include <memory>
#include <vector>

#include "assign.h"
#include "balls.h"
#include "chamfer.h"
#include "knn.h"
#include "nearest.h"
#include "sampling.h"
#include "transport.h"
#include "voxels.h"

using namespace pcdiff::gpu;

namespace {

// How a body is run: with how many threads, and whether the last thread goes first.
struct Run {
  int threads;
  int backwards;
};

// Calls `body(block)` with a block of the size asked for; false if there is no such size here.
template <class Body>
int with_block(Run run, const Body& body) {
  const bool backwards = run.backwards != 0;
  if (run.threads == 32) {
    body(Block<32>{backwards});
  } else if (run.threads == 128) {
    body(Block<128>{backwards});
  } else if (run.threads == 256) {
    body(Block<256>{backwards});
  } else {
    return 0;
  }
  return 1;
}

template <class T>
int nearest(Run run, int queries, const NearestArgs<T>& a) {
  return with_block(run, [&](const auto& block) {
    const auto shared = std::make_unique<NearestShared<T>>();
    const int64_t chunks = chunks_of(a.n, int64_t{block.kSize} * (queries > 0 ? queries : 1));
    for (int64_t task = 0; task < a.batch * chunks; ++task) {
      if (queries == 4) {
        nearest_body<T, 4>(block, *shared, a, task);
      } else if (queries == 1) {
        nearest_body<T, 1>(block, *shared, a, task);
      } else {
        nearest_general_body(block, a, task);
      }
    }
  });
}

template <class T>
int knn(Run run, int slots, const KnnArgs<T>& a) {
  return with_block(run, [&](const auto& block) {
    const auto shared = std::make_unique<NearestShared<T>>();
    for (int64_t task = 0; task < a.batch * chunks_of(a.n, block.kSize); ++task) {
      if (a.dim > kPackedDims) {
        knn_body<T, RowList<T>, false>(block, *shared, a, task);
      } else if (slots) {
        knn_body<T, SlotList<T>, true>(block, *shared, a, task);
      } else {
        knn_body<T, RowList<T>, true>(block, *shared, a, task);
      }
    }
  });
}

template <class T>
int balls(Run run, const BallArgs<T>& a) {
  return with_block(run, [&](const auto& block) {
    const auto shared = std::make_unique<NearestShared<T>>();
    for (int64_t task = 0; task < a.batch * chunks_of(a.n, block.kSize); ++task) {
      if (a.dim > kPackedDims) {
        ball_body<T, false>(block, *shared, a, task);
      } else {
        ball_body<T, true>(block, *shared, a, task);
      }
    }
  });
}

template <class T>
int voxels(Run run, const VoxelArgs<T>& a) {
  return with_block(run, [&](const auto& block) {
    const int64_t tasks = chunks_of(a.batch * a.n, block.kSize);
    for (int64_t task = 0; task < tasks; ++task) place_body(block, a, task);
    for (int64_t task = 0; task < tasks; ++task) count_body(block, a, task);
  });
}

template <class T>
int chamfer(Run run, int queries, const ChamferArgs<T>& a) {
  if (a.dim > kPackedDims || a.m > most_columns<T>()) return 0;
  return with_block(run, [&](const auto& block) {
    const auto shared = std::make_unique<ChamferShared<T, std::decay_t<decltype(block)>::kSize>>();
    for (int64_t task = 0; task < a.rows * a.columns; ++task) {
      if (queries == 8) {
        chamfer_body<T, 8>(block, *shared, a, task);
      } else if (queries == 4) {
        chamfer_body<T, 4>(block, *shared, a, task);
      } else if (queries == 2) {
        chamfer_body<T, 2>(block, *shared, a, task);
      } else {
        chamfer_body<T, 1>(block, *shared, a, task);
      }
    }
  });
}

template <class T>
int means(Run run, const MeansArgs<T>& a) {
  return with_block(run, [&](const auto& block) {
    const auto shared = std::make_unique<MeansShared<std::decay_t<decltype(block)>::kSize>>();
    for (int64_t task = 0; task < a.pairs; ++task) means_body(block, *shared, a, task);
  });
}

template <class T>
int farthest(Run run, int legacy, const FarthestArgs<T>& a) {
  return with_block(run, [&](const auto& block) {
    const auto shared = std::make_unique<FarthestShared<T, std::decay_t<decltype(block)>::kSize>>();
    for (int64_t b = 0; b < a.batch; ++b) {
      if (legacy) {
        farthest_body<T, true>(block, *shared, a, b);
      } else {
        farthest_body<T, false>(block, *shared, a, b);
      }
    }
  });
}

template <class T>
int softmin(Run run, const SoftminArgs<T>& a) {
  return with_block(run, [&](const auto& block) {
    const auto shared = std::make_unique<TransportShared<T, std::decay_t<decltype(block)>::kSize>>();
    for (int64_t task = 0; task < a.batch * chunks_of(a.n, block.kSize); ++task) {
      if (a.dim > kPackedDims) {
        softmin_body<T, false>(block, *shared, a, task);
      } else {
        softmin_body<T, true>(block, *shared, a, task);
      }
    }
  });
}

template <class T, MatchStep kStep, class B>
void match_step(const B& block, TransportShared<T, B::kSize>& shared, const MatchArgs<T>& a, int step) {
  const int64_t rows = kStep == MatchStep::kAccept ? a.m : a.n;
  for (int64_t task = 0; task < a.batch * chunks_of(rows, B::kSize); ++task) {
    if (a.dim > kPackedDims) {
      match_body<T, false, kStep>(block, shared, a, step, task);
    } else {
      match_body<T, true, kStep>(block, shared, a, step, task);
    }
  }
}

template <class T>
int match(Run run, const MatchArgs<T>& a) {
  return with_block(run, [&](const auto& block) {
    const auto shared = std::make_unique<TransportShared<T, std::decay_t<decltype(block)>::kSize>>();
    for (int64_t b = 0; b < a.batch; ++b) match_start_body(block, a, b);
    for (int step = 0; step < a.levels; ++step) {
      match_step<T, MatchStep::kOffer>(block, *shared, a, step);
      match_step<T, MatchStep::kAccept>(block, *shared, a, step);
      match_step<T, MatchStep::kBook>(block, *shared, a, step);
    }
    for (int64_t b = 0; b < a.batch; ++b) match_cost_body(block, *shared, a, b);
  });
}

template <class T, class C, class B>
void assign_in(const B& block, const AssignArgs<T>& a, int64_t* bids) {
  const auto shared = std::make_unique<AuctionShared<C, B::kSize>>();
  std::vector<Packed<double>> memory(static_cast<size_t>(auction_bytes<C>(a.n, a.dim)) / sizeof(Packed<double>) + 1);
  auto* const bytes = reinterpret_cast<unsigned char*>(memory.data());
  for (int64_t task = 0; task < a.tasks; ++task) {
    shared->bids = 0;
    if (a.dim > kPackedDims) {
      assign_body<T, C, false>(block, *shared, bytes, a, task);
    } else {
      assign_body<T, C, true>(block, *shared, bytes, a, task);
    }
    bids[task] += shared->bids;
  }
}

template <class T>
int assign(Run run, AssignArgs<T> a, int64_t* bids) {
  return with_block(run, [&](const auto& block) {
    a.first_try = true;
    assign_in<T, T>(block, a, bids);
    a.first_try = false;
    assign_in<T, double>(block, a, bids);
  });
}

}  // namespace

#define PCDIFF_FOR(T, suffix)                                                                                         \
  extern "C" int nearest_##suffix(Run run, int queries, const NearestArgs<T>* a) { return nearest(run, queries, *a); } \
  extern "C" int knn_##suffix(Run run, int slots, const KnnArgs<T>* a) { return knn(run, slots, *a); }                 \
  extern "C" int chamfer_##suffix(Run run, int queries, const ChamferArgs<T>* a) { return chamfer(run, queries, *a); } \
  extern "C" int balls_##suffix(Run run, const BallArgs<T>* a) { return balls(run, *a); }                              \
  extern "C" int voxels_##suffix(Run run, const VoxelArgs<T>* a) { return voxels(run, *a); }                           \
  extern "C" int means_##suffix(Run run, const MeansArgs<T>* a) { return means(run, *a); }                             \
  extern "C" int farthest_##suffix(Run run, int legacy, const FarthestArgs<T>* a) {                                    \
    return farthest(run, legacy, *a);                                                                                  \
  }                                                                                                                    \
  extern "C" int softmin_##suffix(Run run, const SoftminArgs<T>* a) { return softmin(run, *a); }                       \
  extern "C" int match_##suffix(Run run, const MatchArgs<T>* a) { return match(run, *a); }                             \
  extern "C" int assign_##suffix(Run run, const AssignArgs<T>* a, int64_t* bids) { return assign(run, *a, bids); }
PCDIFF_FOR(float, float32)
PCDIFF_FOR(double, float64)
