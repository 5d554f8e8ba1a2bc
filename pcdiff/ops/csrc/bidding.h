// The two inner loops of the assignment solver, in one table per instruction set.
//
// Objects stand in blocks of sixteen with their prices. Every path computes the same sums in the same order and skips
// only blocks that cannot matter, so all paths return the same bits.
#pragma once

#include <cstdint>

#include "blocked.h"
#include "dispatch.h"

namespace pcdiff {

template <class T>
struct Objects {
  int64_t blocks;
  int64_t dim;           // coordinates as stored
  const T* points;       // blocks x dim x 16
  const T* boxes;        // of the blocks, in groups as in BlockedCloud; null where there are none: all are looked at
  const T* price;        // blocks x 16; kNever in the slots that fill up the last block
  const T* least_price;  // of each block; kNever in the places that fill up the last group of boxes
};

// A price at which nothing is bought. Far above all sums of distances and prices, far below overflow.
template <class T>
constexpr T kNever = T(1e30);

template <class T>
struct Offer {
  T best;        // the least distance + price
  T second;      // the least of all other objects'
  int64_t slot;  // where the best is
};

// The tree of shortest paths from one person to the objects, as far as it has grown. Arrays of blocks x 16.
template <class T>
struct Paths {
  T* length;   // to an open object; -infinity where the object is closed (its length is final) or no object
  int64_t* person; // the last person on the path
  T* shortest; // blocks; the least open length in a block, infinity where none is open
};

template <class T>
struct BiddingTable {
  // Compares all objects for the person at `query`, the block `hint` first: a good guess rules out most of the others.
  Offer<T> (*best_two)(const Objects<T>& objects, const T* query, int64_t hint);
  // Offers every open object the path over `person`, who stands at `query`, if its length `base` + distance + price is
  // shorter than the object's so far and shorter than `limit`.
  void (*relax)(const Objects<T>& objects, const T* query, T base, T limit, int64_t person, const Paths<T>& paths);
};

PCDIFF_FOR_EACH_CAPABILITY(extern const BiddingTable<float> bidding_float;
                           extern const BiddingTable<double> bidding_double;)

// The loops of the instruction set in use.
template <class T>
const BiddingTable<T>& bidding() {
  if constexpr (sizeof(T) == sizeof(float)) {
    return PCDIFF_PICK(bidding_float);
  } else {
    return PCDIFF_PICK(bidding_double);
  }
}

}  // namespace pcdiff
