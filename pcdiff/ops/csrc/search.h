// The nearest-neighbor searches, in one table per instruction set.
//
// Every path adds the squared differences in the order of the coordinates, without fused multiply-add, so all paths
// return the same bits, and a tie goes to the smallest index.
#pragma once

#include <cstdint>

#include "blocked.h"
#include "dispatch.h"

namespace pcdiff {

template <class T>
struct SearchTable {
  // Nearest point of `data` for the query blocks [first, last) of `query`. Results go to the queries' original places.
  void (*search)(const BlockedCloud<T>& query, int64_t first, int64_t last, const BlockedCloud<T>& data,
                 T* squared_distance, int64_t* index);
  // Sum over all points of `query` of the squared distance to the nearest point of `data`.
  double (*search_sum)(const BlockedCloud<T>& query, const BlockedCloud<T>& data);
  // The k nearest points, sorted by distance and then index, for the query blocks [first, last); k results to a query.
  // Where `data` has fewer than k points, distance infinity and index -1. `distances` and `indices` are scratch of
  // 16 k values.
  void (*search_several)(const BlockedCloud<T>& query, int64_t first, int64_t last, const BlockedCloud<T>& data,
                         int64_t k, T* distances, Index<T>* indices, T* squared_distance, int64_t* index);
  // Any dimension, no pruning: the queries [16 first, min(16 last, n)) of row-major `query` (n, dim) against all of
  // `data` (m, dim). `block` is scratch of 16 max(dim, 3) values.
  void (*scan)(const T* query, int64_t n, int64_t first, int64_t last, const T* data, int64_t m, int64_t dim, T* block,
               T* squared_distance, int64_t* index);
  // The k nearest points likewise.
  void (*scan_several)(const T* query, int64_t n, int64_t first, int64_t last, const T* data, int64_t m, int64_t dim,
                       T* block, int64_t k, T* distances, Index<T>* indices, T* squared_distance, int64_t* index);
};

PCDIFF_FOR_EACH_CAPABILITY(extern const SearchTable<float> search_float;
                           extern const SearchTable<double> search_double;)

// The searches of the instruction set in use.
template <class T>
const SearchTable<T>& searches() {
  if constexpr (sizeof(T) == sizeof(float)) {
    return PCDIFF_PICK(search_float);
  } else {
    return PCDIFF_PICK(search_double);
  }
}

}  // namespace pcdiff
