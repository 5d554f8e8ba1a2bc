// Bijections between clouds of equal size at the least mean Euclidean distance, with a proof of how good they are.
#pragma once

#include <cstdint>

#include "bidding.h"

namespace pcdiff {

struct Assignment {
  double cost;         // mean distance under the bijection
  double lower_bound;  // no bijection costs less: the value of a feasible dual solution
};

// The loops of the instruction set in use. Chosen by the calling thread: worker threads must not read the environment.
struct Bidding {
  const BiddingTable<float>& coarse = bidding<float>();
  const BiddingTable<double>& fine = bidding<double>();
};

// Assigns each of x's points (n, dim) one of y's and writes its index to `assignment`. Coordinates must be finite.
//
// With a positive tolerance, `cost - lower_bound <= tolerance * cost` holds on return; with 0 the bijection is optimal
// up to rounding and the lower bound equals the cost. At most 400 n bids of an auction are made and at most 2 n
// shortest paths are searched, each in O(n^2), so the time is O(n^3) whatever the clouds. Only where distances differ
// so much in size that float64 sums of them lose the small ones may the gap stay open; the bound holds even then.
//
// The search also ends, with an open gap, once it has proved a lower bound above `enough`; infinity never is. What it
// returns otherwise does not depend on `enough`.
template <class T>
Assignment assign(const Bidding& bidding, const T* x, const T* y, int64_t n, int64_t dim, double tolerance,
                  double enough, int64_t* assignment);

extern template Assignment assign(const Bidding&, const float*, const float*, int64_t, int64_t, double, double,
                                  int64_t*);
extern template Assignment assign(const Bidding&, const double*, const double*, int64_t, int64_t, double, double,
                                  int64_t*);

}  // namespace pcdiff
